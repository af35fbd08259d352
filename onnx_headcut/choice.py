"""Which groups of columns are the classes; what stays ambiguous is refused with the choices.

Evidence, strongest first: a softmax over exactly these columns; a sigmoid; plain scores beside
boxes. Names of classes and of heads, where they are given, decide between what looks alike.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations, product
from typing import TYPE_CHECKING, NoReturn

from onnx_headcut.errors import GraphRefused, NoHead, UsageError
from onnx_headcut.groups import boxes_among, describe, loses_its_columns, name_of
from onnx_headcut.pull import pull

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx_headcut.analysis import Analysis
    from onnx_headcut.groups import Group
    from onnx_headcut.layout import Layout
    from onnx_headcut.provenance import Flow
    from onnx_headcut.pull import Pulled


class Choice:
    """Which groups are the classes, and why; what stays ambiguous is refused."""

    def __init__(
        self,
        analysis: Analysis,
        flow: Flow,
        groups: list[Group],
        count: int | None,
        heads: Sequence[str],
        layout: Layout | None = None,
    ) -> None:
        self.layout = layout
        self.analysis, self.flow, self.groups = analysis, flow, groups
        self.count, self.heads = count, heads
        self.known: dict[Group, Pulled | None] = {}
        self.boxes: list[Group] = []
        """Maps with a box for each class, to be cut as the scores are."""

    def made(self) -> list[Group]:
        """One group or, where levels stay apart, one for each level."""
        if self.layout is not None and self.layout.is_shared:
            return self._laid_out(self.layout)
        if self.layout is not None and self.layout.class_boxes:
            return self._with_boxes()
        candidates = [
            g for g in self.groups
            if g.kind == "softmax" or (
                g.size > 1
                and (self.layout is not None or not loses_its_columns(self.flow, g.value))
            )
        ]  # fmt: skip
        if self.heads:
            candidates = self._named(candidates)
        for kind in ("softmax", "sigmoid", "raw"):
            found = [g for g in candidates if g.kind == kind]
            if all(self._are_boxes_of_others(g) for g in found):
                continue
            named = [g for g in found if self.is_named(g)]
            if named or (found and (self.count is None or kind == "softmax")):
                return self._checked(kind, self._one_size(kind, named or found), named=bool(named))
        listing = "; ".join(describe(self.flow, g) for g in self.groups) or "none"
        what = "no class scores were found"
        advice = "name the class layers with --head NODE, or give names with --labels"
        if self.count is not None and self.groups:
            what = f"no columns go with {self.count} class names, nor with these and a background"
            advice = "give names that fit with --labels, or --labels none to go by ids"
        refused = GraphRefused if self.groups else NoHead
        raise refused(
            f"{what}; columns seen behind candidate heads: {listing}",
            advice=self._shared_advice() or advice,
        )

    def _laid_out(self, layout: Layout) -> list[Group]:
        """Whole axes that hold boxes and classes of every anchor, as the person says."""
        whole = {(g.value, g.axis): replace(g, start=0, stop=g.extent) for g in self.groups}
        found = [g for g in whole.values() if layout.classes(g.extent)]
        if self.heads:
            found = self._named(found)
        sizes = {g.size for g in found}
        if len(sizes) > 1 and self.count is not None:
            counts = {self.count, self.count + 1}
            found = [g for g in found if layout.classes(g.size) in counts]
            sizes = {g.size for g in found}
        if not found:
            raise GraphRefused(
                "no axis of channels holds as many columns as --layout says; seen behind candidate "
                "heads: " + ("; ".join(describe(self.flow, g) for g in whole.values()) or "none"),
                advice="an anchor's columns are those before its classes, its classes, and those "
                "after; their number times the anchors is the axis' extent",
            )
        if len(sizes) > 1 or any(self._alike(a, b) for a, b in combinations(found, 2)):
            self._refuse(found)
        columns = found[0].size // layout.anchors
        forgotten = [g for g in whole.values() if g not in found and g.extent % columns == 0]
        if forgotten and not self.heads:  # a level with another number of anchors
            self._refuse([*found, *forgotten])
        return found

    def _with_boxes(self) -> list[Group]:
        """Groups of scores beside which there are four columns for each, as the person says."""
        pairs = [(g, b) for g, b in product(self.groups, self.groups) if self._has_boxes(g, b)]
        wanted = self._named([g for g, _ in pairs]) if self.heads else [g for g, _ in pairs]
        pairs = [(g, b) for g, b in pairs if g in wanted]
        groups = [g for p in pairs for g in p]
        if not pairs:
            raise GraphRefused(
                "no maps of scores with four columns for each beside them were found, as --layout "
                "says; seen: " + ("; ".join(describe(self.flow, g) for g in self.groups) or "none"),
            )
        forgotten = [g for g in self.groups if g not in groups and g.size == groups[0].size]
        if forgotten or len({g.size for g in wanted}) > 1 or len(set(groups)) < len(groups):
            self._refuse([*groups, *forgotten])
        self.boxes = [b for _, b in pairs]
        return wanted

    def _has_boxes(self, group: Group, boxes: Group) -> bool:
        """Whether ``boxes`` are maps of four columns for each column of ``group``."""
        whole = group.size == group.extent and boxes.size == boxes.extent == 4 * self.full(group)
        return len(group.shape) > 3 and whole and group.size > 1 and self._alike(group, boxes)

    def _shared_advice(self) -> str:
        """How to say what a YOLO's raw maps hold, where names of classes say how many they are."""
        extents = {g.extent for g in self.groups}
        for anchors in range(1, 10) if self.count is not None and len(extents) == 1 else ():
            columns, rest = divmod(next(iter(extents)), anchors)
            before = columns - (self.count or 0)
            if rest == 0 and before in {4, 5}:
                return (
                    f"if each of {anchors} anchors has its box and more before its classes, as in a "
                    f"YOLO's maps, say --layout anchors={anchors},before={before}; else name the class "
                    "layers with --head"
                )
        return ""

    def _are_boxes_of_others(self, group: Group) -> bool:
        """Whether it is a box through a sigmoid (DETR), beside plain scores for the same places."""
        if group.kind != "sigmoid" or self.full(group) != 4:
            return False
        beside = [g for g in self.groups if g.shape[:-1] == group.shape[-len(g.shape) : -1]
                  and not g.leaves & group.leaves and g.value not in self.flow.deep]  # fmt: skip
        return not boxes_among(beside) and any(g.kind == "raw" and g.size > 1 for g in beside)

    def full(self, group: Group) -> int:
        """Its number of columns in the head, with one that the graph drops behind."""
        if group not in self.known:
            try:
                self.known[group] = self.pulled(group)
            except GraphRefused:
                self.known[group] = None
        found = self.known[group]
        widths = {w[2] for w in found.wider} if found is not None else set()
        return widths.pop() if len(widths) == 1 else group.size

    def pulled(self, group: Group) -> Pulled:
        """What its columns lead back to."""
        return self.known.get(group) or pull(self.analysis, group.value, group.labels)

    def is_named(self, group: Group) -> bool:
        """Whether it has as many columns as there are names, or one more."""
        return self.count is not None and self.full(group) in {self.count, self.count + 1}

    def _named(self, candidates: list[Group]) -> list[Group]:
        """Those that come from the layers that the person named."""
        wanted = _named(self.flow, self.heads)
        chosen = [g for g in candidates if g.leaves & wanted]
        missing = wanted - frozenset().union(*(g.leaves for g in chosen))
        if missing:
            names = [name_of(self.flow, k) for k in sorted(missing)]
            raise NoHead(
                f"no class axis was found behind {', '.join(names)}",
                advice="name the layers whose outputs are the class scores",
            )
        return chosen

    def _one_size(self, kind: str, groups: list[Group]) -> list[Group]:
        """Levels of one detector have one size; four columns more are boxes."""
        if kind != "softmax" and len({self.full(g) for g in groups}) > 1:
            groups = [g for g in groups if not self._is_part_of_boxes(g)] or groups
        if len({self.full(g) for g in groups}) > 1:
            if kind == "raw":
                refuse_anchors(self.flow, max(groups, key=lambda g: g.size), groups)
            self._refuse(groups)
        return groups

    def _checked(self, kind: str, chosen: list[Group], *, named: bool) -> list[Group]:
        """Refuse where these columns could as well be something else."""
        if len({self.full(g) for g in chosen}) > 1 or any(
            self._alike(a, b) for a, b in combinations(chosen, 2)
        ):
            self._refuse(chosen)
        size = self.full(chosen[0])
        rest = [g for g in self.groups if g not in chosen]
        self._refuse_unclear_axes(kind, chosen, rest)
        beside = [g for g in rest if not any(g.channels & c.channels for c in chosen)]
        places = {self._places(c) for c in chosen if self.heads}
        forgotten = [g for g in beside if self._may_be_a_level(kind, g, size)
                     and self._places(g) not in places]  # fmt: skip
        forgotten += [g for g in beside if self._is_another_form(g, chosen)]
        if forgotten:
            self._refuse([*chosen, *forgotten])
        if not self.heads:
            self._refuse_unexplained(kind, chosen, beside, named=named)
        if kind == "softmax":
            return chosen
        # without boxes beside them nothing shows that the columns are not boxes themselves
        like_boxes = size == 4 and not self.heads and all(g.kind == kind for g in beside)
        if like_boxes or not (beside or named):
            self._refuse(chosen)
        if named:
            return [self._without_objectness(kind, g, rest) for g in chosen]
        activated = [g for g in rest if g.kind in {"softmax", "sigmoid"}
                     or loses_its_columns(self.flow, g.value)]  # fmt: skip
        # the centre and the size of a box meet where corners are made of them
        corners = [g for b in boxes_among(beside) if len(b) > 1
                   and all(g.kind == "other" for g in b) for g in b]  # fmt: skip
        rivals = [g for g in activated if g not in corners and not self._are_boxes_of_others(g)]
        if kind == "raw" and rivals and not self.heads:
            self._refuse([*chosen, *rest])
        for group in chosen:
            if self._may_hold_objectness(group, rest):
                self._refuse([group, *beside])
            if self.layout is None:
                refuse_anchors(self.flow, group, beside)
        return chosen

    def _refuse_unexplained(
        self, kind: str, chosen: list[Group], beside: list[Group], *, named: bool
    ) -> None:
        """Refuse where columns beside are no boxes, and so may be the scores in a form of their own.

        Plain columns are the weakest evidence, and four of them are rather boxes: beside those
        there must be boxes that anchors decode, column pair by column pair.
        """
        box = 4 if self.layout is None else 4 * self.layout.anchors
        beside = [g for g in beside if g.value not in self.flow.deep]
        boxes = boxes_among(beside, box)
        four = kind != "softmax" and self.full(chosen[0]) == 4
        decoded = [b for b in boxes if len(b) > 1 and all(g.kind == "other" for g in b)]
        plain = [b for b in boxes if b[0].kind == "raw"
                 or (b[0].is_placed and (len(b) > 1 or "Sigmoid" not in b[0].steps))]  # fmt: skip
        if four and not (decoded if kind == "raw" else plain):
            self._refuse([*chosen, *beside])
        if four and not decoded and any(self._is_of_queries(g) for b in boxes for g in b):
            self._refuse([*chosen, *beside])  # a DETR's boxes come through a sigmoid
        weak = kind == "raw" and not named
        odd = [g for g in beside if g.kind == "other" and self._may_be_scores(g, weak=weak)]
        if named:
            odd = [g for g in odd if self.is_named(g)]
        known = {b[0].leaves for b in boxes}
        self._refuse_boxes_of_each(chosen, beside)
        if weak and len(chosen[0].shape) > 3 and chosen[0].size in {8, 16}:
            odd += [b[0] for b in boxes if len(b) == 1]  # or boxes of 2 or 4 anchors, and 4 scores
        if weak:
            odd += [g for g in beside if 1 < g.size < box and self._width(g) != box]
            odd += [b[0] for b in boxes if len(b) == 1
                    and any(self._alike(b[0], o[0]) for o in boxes)]  # fmt: skip
        elif not named:
            near = [g for g in beside if self._places(g) == self._places(chosen[0])]
            alone = len(boxes_among(near, box)) < 2
            odd += [g for g in near if g.size > 1 and "Sigmoid" in g.steps
                    and (g.kind == "sigmoid" or not g.is_placed)
                    and not (alone and g.leaves in known)]  # fmt: skip
        if odd:
            self._refuse([*chosen, *odd])
        if (weak or (four and kind == "raw")) and self.flow.unread:
            node = self.flow.scope.graph.node[self.flow.unread[0]]
            raise GraphRefused(
                "what comes from it is mixed and then given out, and may be the class scores; "
                f"else they would be {describe(self.flow, chosen[0])}",
                node=node.name or node.output[0], op=node.op_type,
                advice="say which layers make class scores with --head NODE",
            )  # fmt: skip

    def _refuse_boxes_of_each(self, chosen: list[Group], beside: list[Group]) -> None:
        """Refuse maps in which every class has a box of its own (DetectNet): nothing says whose."""
        for group, boxes in product(chosen, beside):
            if self._has_boxes(group, boxes):
                size = self.full(group)
                node = self.flow.scope.graph.node[min(self.flow.leaves[k].node for k in boxes.leaves)]
                raise GraphRefused(
                    f"it makes {boxes.size} columns beside {size} of scores, which may be a box for "
                    "each class, and nothing in the graph says which are whose",
                    node=node.name or node.output[0], op=node.op_type,
                    advice="say --layout anchors=1,class-boxes where the four columns of a class stand "
                    "side by side; to cut the scores alone and leave the boxes of all classes as they "
                    f"are, say --head {name_of(self.flow, min(group.leaves))} --layout anchors=1",
                )  # fmt: skip

    def _is_of_queries(self, group: Group) -> bool:
        """Whether it comes from a layer over rows, as a transformer's do, not over a picture."""
        nodes = self.flow.scope.graph.node
        return any("Conv" not in nodes[self.flow.leaves[k].node].op_type for k in group.leaves)

    def _width(self, group: Group) -> int:
        """Number of columns that its heads give for each of its places: four, if it is half a box."""
        places = math.prod(group.shape) // group.extent
        return sum(math.prod(self.flow.leaves[k].shape) for k in group.leaves) // places

    @staticmethod
    def _may_be_scores(group: Group, *, weak: bool) -> bool:
        """Whether it is no distribution, no box, nor (beside scores that are sure) landmarks."""
        if group.expected or group.size <= 4 or "Tanh" in group.steps:
            return False
        return weak or "Sigmoid" in group.steps or not group.is_placed

    def _may_be_a_level(self, kind: str, group: Group, size: int) -> bool:
        """Whether classes of a level may be among these columns, so that they cannot be left."""
        if group.kind != kind or (self.layout is not None and self._is_part_of_boxes(group)):
            return False
        return group.size > 4 or kind == "softmax" or (self.full(group) == size != 4)

    def _is_another_form(self, group: Group, chosen: list[Group]) -> bool:
        """Whether it is a level of as many columns whose scores are activated elsewhere."""
        return (
            {group.kind, chosen[0].kind} == {"sigmoid", "raw"}
            and self.full(group) == self.full(chosen[0]) > 4
            and group.value not in self.flow.deep
            and all((len(c.shape), c.axis) == (len(group.shape), group.axis) for c in chosen)
            and not any(self._alike(group, c) for c in chosen)
        )  # boxes or masks of each class have an axis more

    def _refuse_unclear_axes(self, kind: str, chosen: list[Group], rest: list[Group]) -> None:
        """Where anchors and classes have an axis each, only one of them may fit."""
        for group in chosen if kind != "softmax" else []:
            others = [g for g in [*chosen, *rest] if g.value == group.value and g.axis != group.axis]
            if any(self.full(g) in {4, self.full(group)} for g in others):
                self._refuse([group, *others])

    def _alike(self, a: Group, b: Group) -> bool:
        """Whether they stand for the same places: two purposes, not two levels."""
        return self._places(a) == self._places(b) and not a.channels & b.channels

    def _places(self, group: Group) -> tuple[object, ...]:
        """What its columns stand for: the other axes, there and in the heads."""
        leaves = (self.flow.leaves[k] for k in group.leaves)
        grids = frozenset((*x.shape[: x.axis], *x.shape[x.axis + 1 :]) for x in leaves)
        return *group.shape[: group.axis], *group.shape[group.axis + 1 :], grids

    @staticmethod
    def _may_hold_objectness(group: Group, rest: list[Group]) -> bool:
        """Whether these columns follow those of a box in a layer, where YOLO has its objectness."""
        boxes = {c for g in rest if g.size <= 4 for c in g.channels}
        first = [c for c in group.channels if c - 1 in boxes]
        return "Mul" not in group.history and len(first) * group.size >= len(group.channels)

    def _is_part_of_boxes(self, group: Group) -> bool:
        """Whether it is four columns, or two of them beside the other two that were decoded."""
        box = 4 if self.layout is None else 4 * self.layout.anchors
        return self.full(group) == box or (group.size == 2 and any(
            g.value == group.value and g.kind == "other" and g.size == 2
            and g.leaves == group.leaves for g in self.groups
        ))  # fmt: skip

    def _without_objectness(self, kind: str, group: Group, rest: list[Group]) -> Group:
        """YOLO's columns as they are named: without the objectness before them."""
        extra = group.size - (self.count or 0)
        if kind == "sigmoid" and extra == 1 and self._may_hold_objectness(group, rest):
            return replace(group, start=group.start + 1)
        return group

    def _refuse(self, groups: list[Group]) -> NoReturn:
        listing = "; ".join(describe(self.flow, g) for g in groups)
        raise GraphRefused(
            f"several groups of columns could be the classes: {listing}"
            if len(groups) > 1
            else f"nothing shows which of these columns are classes: {listing}",
            advice=self._shared_advice()
            or "say which with --head NODE (each layer that makes class scores), or give the class "
            "names with --labels; where boxes and classes of all anchors lie on one axis, say "
            "--layout anchors=A,before=5",
        )


def _named(flow: Flow, heads: Sequence[str]) -> frozenset[int]:
    wanted = set()
    for name in heads:
        hits = [k for k, leaf in enumerate(flow.leaves)
                if name in (flow.scope.graph.node[leaf.node].name, leaf.value)]  # fmt: skip
        if not hits:
            names = [name_of(flow, k) for k in range(len(flow.leaves))]
            raise UsageError(
                f"--head {name}: no such layer leads to outputs",
                advice=f"candidates are {', '.join(names)}",
            )
        wanted.update(hits)
    return frozenset(wanted)


def refuse_anchors(flow: Flow, group: Group, beside: list[Group]) -> None:
    """Refuse where anchors lie on one axis with the classes, as in a head's output as it is."""
    for g in beside:
        if g is group:
            continue
        anchors = g.size // 4
        alike = len(group.shape) > 3 and len(g.shape) == len(group.shape)
        if alike and g.size > 4 and g.size % 4 == 0 and group.size % anchors == 0:
            raise GraphRefused(
                "anchors and classes lie on one axis that the graph never splits: "
                + describe(flow, group),
                advice=f"say how: --layout anchors={anchors} where the {group.size // anchors} "
                f"columns of an anchor stand side by side (a·C + k), as {describe(flow, g)} "
                f"suggests, or --layout anchors={anchors},class-major (k·A + a)",
            )
