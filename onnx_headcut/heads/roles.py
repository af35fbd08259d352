"""What lies beside the columns that are taken for the classes, and what each of it is for.

A detector gives boxes, an objectness, distributions, landmarks or masks beside its scores. Columns
that are none of these may be the class scores in a form of their own: while there are such, nothing
else is taken for the classes. The weaker the evidence for those that are taken, the more must be
known of the others: plain columns are the weakest, and four of them are rather a box.
"""

from __future__ import annotations

from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING

from onnx_headcut.errors import GraphRefused
from onnx_headcut.heads.groups import boxes_among, describe, loses_its_columns, name_of

if TYPE_CHECKING:
    from onnx_headcut.heads.groups import Group
    from onnx_headcut.heads.seen import Seen


class Beside:
    """The groups beside ``chosen``, which ``kind`` of evidence or names of classes show."""

    def __init__(self, seen: Seen, kind: str, chosen: list[Group], *, named: bool) -> None:
        self.seen, self.flow = seen, seen.flow
        self.kind, self.chosen, self.named = kind, chosen, named
        self.rest = [g for g in seen.groups if g not in chosen]
        self.groups = [g for g in self.rest if not any(g.channels & c.channels for c in chosen)]

    # -------------------------------------------------------------------------------- roles

    @cached_property
    def outer(self) -> list[Group]:
        """Those that no further layer reads, as attention does reference points."""
        return [g for g in self.groups if g.value not in self.flow.deep]

    @cached_property
    def boxes(self) -> list[list[Group]]:
        """Four columns each, in as many groups as they are decoded in."""
        return boxes_among(self.outer, self.seen.box)

    @cached_property
    def decoded(self) -> list[list[Group]]:
        """Boxes whose pairs of columns go different ways, with arithmetic that scores do not have.

        Three or four columns that go one way are rather scores, put beside a filler.
        """
        return [b for b in self.boxes
                if len(b) > 1 and all(g.kind == "other" and g.size <= 2 for g in b)]  # fmt: skip

    @property
    def shows_boxes(self) -> bool:
        """Whether boxes are there for sure, so that four other columns are none."""
        of_queries = any(self.seen.is_of_queries(g) for b in self.boxes for g in b)
        if self.decoded or self.kind == "raw" or of_queries:  # a DETR's come through a sigmoid
            return bool(self.decoded)
        return any(b[0].kind == "raw"
                   or (b[0].is_placed and (len(b) > 1 or "Sigmoid" not in b[0].steps))
                   for b in self.boxes)  # fmt: skip

    @cached_property
    def corners(self) -> list[Group]:
        """Columns in which the centre and the size of a box meet, as its corners are made."""
        found = [b for b in boxes_among(self.groups)
                 if len(b) > 1 and all(g.kind == "other" for g in b)]  # fmt: skip
        return [g for b in found for g in b]

    @property
    def is_alone(self) -> bool:
        """Whether nothing beside them shows that they are no boxes themselves.

        What is beside may be groups, or channels that were added to each other: sides of boxes.
        """
        own = frozenset().union(*(c.channels for c in self.chosen))
        return not self.groups and self.flow.met.keys() <= own

    # -------------------------------------------------------------- what must not be beside

    def levels(self) -> list[Group]:
        """Columns that may be the classes of a further level, and cannot be left behind."""
        places = {self.seen.places(c) for c in self.chosen if self.seen.heads}
        levels = [g for g in self.groups if self._may_be_a_level(g)
                  and self.seen.places(g) not in places]  # fmt: skip
        return levels + [g for g in self.groups if self._is_another_form(g)]

    def _may_be_a_level(self, group: Group) -> bool:
        seen = self.seen
        if group.kind != self.kind or (seen.layout is not None and is_part_of_boxes(seen, group)):
            return False
        if group.kind == "raw" and seen.is_inner(group) and not all(map(seen.is_inner, self.chosen)):
            return False
        size = seen.full(self.chosen[0])
        return group.size > 4 or self.kind == "softmax" or (seen.full(group) == size != 4)

    def _is_another_form(self, group: Group) -> bool:
        """Whether it is a level of as many columns whose scores are activated elsewhere."""
        chosen, seen = self.chosen, self.seen
        return (
            {group.kind, chosen[0].kind} == {"sigmoid", "raw"}
            and seen.full(group) == seen.full(chosen[0]) > 4
            and group.value not in self.flow.deep
            and all((len(c.shape), c.axis) == (len(group.shape), group.axis) for c in chosen)
            and not any(seen.alike(group, c) for c in chosen)
        )  # boxes or masks of each class have an axis more

    def unexplained(self) -> list[Group]:
        """Columns that may be the scores in a form of their own."""
        if self.named:
            return [g for g in self.outer if self._may_be_scores(g) and self.seen.is_named(g)]
        if self.kind == "raw":
            return [g for g in self.outer if self._may_be_scores(g) or self._is_part(g)] + [
                b[0] for b in self.boxes if len(b) == 1 and self._may_be_no_box(b[0])
            ]
        return [g for g in self.outer
                if self._may_be_scores(g) or self._is_activated(g) or self._is_boxed(g)]  # fmt: skip

    def _is_boxed(self, group: Group) -> bool:
        """Whether boxes lie beside plain or sigmoid columns, and none beside a softmax of pixels."""
        if self.kind != "softmax" or group.kind not in {"raw", "sigmoid"} or group.size <= 4:
            return False
        near = {self.seen.places(b[0]) for b in self.boxes}
        added = {k: v for k, v in self.flow.met.items() if k not in group.channels}
        grids = {self.flow.leaves[k >> self.flow.bits].grid for k in added}
        shapes = {shape for found in added.values() for shape in found}

        def holds(one: Group) -> bool:
            *around, _ = self.seen.places(one)
            lines = ((*s[:a], *s[a + 1 :]) for s in shapes for a in range(len(s)))
            return self.seen.places(one) in near or tuple(around) in {*shapes, *lines}

        has_boxes = holds(group) or self.seen.places(group)[-1] == grids
        return has_boxes and not any(map(holds, self.chosen))

    def _may_be_scores(self, group: Group) -> bool:
        """Whether it is no distribution, no box, nor (beside scores that are sure) landmarks."""
        if group.kind != "other" or group.expected or group.size <= 4 or "Tanh" in group.steps:
            return False
        weak = self.kind == "raw" and not self.named
        return weak or "Sigmoid" in group.steps or not group.is_placed

    def _is_part(self, group: Group) -> bool:
        """Whether it is less than a box, and not of a layer that gives whole ones."""
        return 1 < group.size < self.seen.box != self.seen.width(group)

    def _may_be_no_box(self, group: Group) -> bool:
        """Whether four plain columns may be scores, and others, here or among the chosen, the boxes."""
        first = self.chosen[0]
        anchors = len(first.shape) > 3 and first.size in {8, 16}  # boxes of 2 or 4 anchors
        return anchors or any(self.seen.alike(group, o[0]) for o in self.boxes)

    def _is_activated(self, group: Group) -> bool:
        """Whether it went through a sigmoid for the same places, and is not their only box."""
        near = [g for g in self.outer if self.seen.places(g) == self.seen.places(self.chosen[0])]
        if group not in near or group.size == 1 or "Sigmoid" not in group.steps:
            return False
        only = len(boxes_among(near, self.seen.box)) < 2
        is_box = only and any(group.leaves == b[0].leaves for b in self.boxes)
        return (group.kind == "sigmoid" or not group.is_placed) and not is_box

    def rivals(self) -> list[Group]:
        """Columns that went through an activation, beside plain ones."""
        activated = [g for g in self.rest if g.kind in {"softmax", "sigmoid"}
                     or loses_its_columns(self.flow, g.value)]  # fmt: skip
        return [g for g in activated
                if g not in self.corners and not is_box_of_queries(self.seen, g)]  # fmt: skip

    # ------------------------------------------------------------------------------ refusals

    def refuse_unclear_axes(self) -> None:
        """Where anchors and classes have an axis each, only one of them may fit."""
        for group in self.chosen if self.kind != "softmax" else []:
            others = [g for g in [*self.chosen, *self.rest]
                      if g.value == group.value and g.axis != group.axis]  # fmt: skip
            if any(self.seen.full(g) in {4, self.seen.full(group)} for g in others):
                self.seen.refuse([group, *others])

    def refuse_unexplained(self) -> None:
        """Refuse where columns beside, or layers that are not read, may be the scores."""
        seen, chosen = self.seen, self.chosen
        four = self.kind != "softmax" and seen.full(chosen[0]) == 4
        if four and not self.shows_boxes:
            seen.refuse([*chosen, *self.outer])
        self._refuse_boxes_of_each()
        self._refuse_landmarks()
        if odd := self.unexplained():
            seen.refuse([*chosen, *odd])
        if self.kind == "raw" and (four or not self.named) and self.flow.unread:
            node = self.flow.scope.graph.node[self.flow.unread[0]]
            raise GraphRefused(
                "what comes from it is mixed and then given out, and may be the class scores; "
                f"else they would be {describe(self.flow, chosen[0])}",
                node=node.name or node.output[0], op=node.op_type,
                advice="say which layers make class scores with --head NODE",
            )  # fmt: skip

    def _refuse_boxes_of_each(self) -> None:
        """Refuse maps in which every class has a box of its own (DetectNet): nothing says whose."""
        for group, boxes in product(self.chosen, self.outer):
            if self.seen.has_boxes(group, boxes):
                size = self.seen.full(group)
                node = self.flow.scope.graph.node[min(self.flow.leaves[k].node for k in boxes.leaves)]
                raise GraphRefused(
                    f"it makes {boxes.size} columns beside {size} of scores, which may be a box for "
                    "each class, and nothing in the graph says which are whose",
                    node=node.name or node.output[0], op=node.op_type,
                    advice="say --layout anchors=1,class-boxes where the four columns of a class stand "
                    "side by side; to cut the scores alone and leave the boxes of all classes as they "
                    f"are, say --head {name_of(self.flow, min(group.leaves))} --layout anchors=1",
                )  # fmt: skip

    def _refuse_landmarks(self) -> None:
        """Refuse plain columns beside single scores that went through a sigmoid (YuNet)."""
        if self.kind != "raw" or self.named:
            return
        grids = {self.flow.leaves[k].grid for g in self.chosen for k in g.leaves}
        for k in self.seen.single_scores:
            if self.flow.leaves[k].grid in grids:
                raise GraphRefused(
                    f"{name_of(self.flow, k)} gives one score for each place, through a sigmoid, as a "
                    "detector of one class does; landmarks of it may be "
                    f"{describe(self.flow, self.chosen[0])}",
                    advice="a detector of one class has none to cut; where these columns are the "
                    "classes, and that is an objectness, name their layers with --head NODE",
                )

    def refuse_objectness(self, group: Group) -> None:
        """Refuse columns that may begin with an objectness, as YOLO's do, and not with a class."""
        if may_hold_objectness(group, self.rest):
            self.seen.refuse([group, *self.groups])


# ------------------------------------------------------------------------ of one group


def is_part_of_boxes(seen: Seen, group: Group) -> bool:
    """Whether it is four columns, or two of them beside the other two that were decoded."""
    return seen.full(group) == seen.box or (group.size == 2 and any(
        g.value == group.value and g.kind == "other" and g.size == 2
        and g.leaves == group.leaves for g in seen.groups
    ))  # fmt: skip


def is_box_of_queries(seen: Seen, group: Group) -> bool:
    """Whether it is a box through a sigmoid (DETR), beside plain scores for the same places."""
    if group.kind != "sigmoid" or seen.full(group) != 4:
        return False
    beside = [g for g in seen.groups if g.shape[:-1] == group.shape[-len(g.shape) : -1]
              and not g.leaves & group.leaves and g.value not in seen.flow.deep]  # fmt: skip
    return not boxes_among(beside) and any(g.kind == "raw" and g.size > 1 for g in beside)


def may_hold_objectness(group: Group, rest: list[Group]) -> bool:
    """Whether these columns follow those of a box in a layer, where YOLO has its objectness."""
    boxes = {c for g in rest if g.size <= 4 for c in g.channels}
    first = [c for c in group.channels if c - 1 in boxes]
    return "Mul+" not in group.history and len(first) * group.size >= len(group.channels)
