"""Groups of columns in their graph: their width in the head, their places, which go together."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from math import prod
from typing import TYPE_CHECKING, NoReturn

from onnx_headcut.errors import GraphRefused, NoHead, UsageError
from onnx_headcut.heads.groups import describe, is_activated_later, name_of
from onnx_headcut.heads.pull import pull

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onnx_headcut.graph.analysis import Analysis
    from onnx_headcut.heads.groups import Group
    from onnx_headcut.heads.layout import Layout
    from onnx_headcut.heads.provenance import Flow
    from onnx_headcut.heads.pull import Pulled


@dataclass
class Seen:
    """Every group that was found, with what a person said of them.

    ``count``: number of class names, where known; ``heads``: names of nodes (or their outputs) that
    make the class scores; ``layout``: how anchors and classes share an axis.
    """

    analysis: Analysis
    flow: Flow
    groups: list[Group]
    count: int | None = None
    heads: Sequence[str] = ()
    layout: Layout | None = None
    _pulled: dict[Group, Pulled | None] = field(default_factory=dict)

    @property
    def box(self) -> int:
        """Number of columns of the boxes of a place."""
        return 4 if self.layout is None else 4 * self.layout.anchors

    # ------------------------------------------------------------------------------- a group

    def pulled(self, group: Group) -> Pulled:
        """What its columns lead back to."""
        return self._pulled.get(group) or pull(self.analysis, group.value, group.labels)

    def full(self, group: Group) -> int:
        """Its number of columns in the head, with one that the graph drops behind."""
        if group not in self._pulled:
            try:
                self._pulled[group] = self.pulled(group)
            except GraphRefused:
                self._pulled[group] = None
        found = self._pulled[group]
        widths = {w[2] for w in found.wider} if found is not None else set()
        return widths.pop() if len(widths) == 1 else group.size

    def is_named(self, group: Group) -> bool:
        """Whether it has as many columns as there are names, or one more."""
        return self.count is not None and self.full(group) in {self.count, self.count + 1}

    def places(self, group: Group) -> tuple[object, ...]:
        """What its columns stand for: the other axes, there and in the heads."""
        grids = frozenset(self.flow.leaves[k].grid for k in group.leaves)
        return *group.shape[: group.axis], *group.shape[group.axis + 1 :], grids

    def width(self, group: Group) -> int:
        """Number of columns that its heads give for each of its places: four, if it is half a box.

        By channels, as not all places of a head need be read: a DETR's last layer alone, say.
        """
        leaves = (self.flow.leaves[k] for k in group.leaves)
        channels = sum(leaf.shape[leaf.axis] for leaf in leaves)
        return channels * group.size // len(group.channels)

    def is_of_queries(self, group: Group) -> bool:
        """Whether it comes from a layer over rows, as a transformer's do, not over a picture."""
        nodes = self.flow.scope.graph.node
        return any("Conv" not in nodes[self.flow.leaves[k].node].op_type for k in group.leaves)

    @property
    def single_scores(self) -> list[int]:
        """Layers that give one score for each place, through a sigmoid: a detector of one class."""
        known = frozenset().union(*(g.leaves for g in self.groups))
        return [k for k, leaf in enumerate(self.flow.leaves)
                if k not in known and is_activated_later(self.flow, leaf.value)]  # fmt: skip

    @property
    def is_of_pictures(self) -> bool:
        """Whether each head gives one row for a whole picture, as that of a classifier does."""
        return all(prod(leaf.grid[1:]) == 1 for leaf in self.flow.leaves)

    def own_boxes(self, heads: Mapping[int, object], count: int) -> tuple[int, ...]:
        """Layers over the rows of ``heads`` of four columns a class, with a background or without."""
        leaves, nodes = self.flow.leaves, self.flow.scope.graph.node
        grids = {leaf.grid for leaf in leaves if leaf.node in heads}
        bins = {k for g in self.groups for k in g.leaves
                if g.expected or any(s.startswith("Softmax") for s in g.steps)}  # fmt: skip
        return tuple(
            leaf.node for k, leaf in enumerate(leaves)
            if k not in bins and leaf.node not in heads and leaf.grid in grids
            and "Conv" not in nodes[leaf.node].op_type
            and leaf.shape[leaf.axis] in {4 * count, 4 * (count - 1)} - {4}
        )  # fmt: skip

    def is_inner(self, group: Group) -> bool:
        """Whether a further layer reads it and nobody else, as it does the values of attention."""
        return group.value in self.flow.deep and group.value not in self.flow.scope.index.outputs

    # ----------------------------------------------------------------------- several of them

    def alike(self, a: Group, b: Group) -> bool:
        """Whether they stand for the same places: two purposes, not two levels."""
        return self.places(a) == self.places(b) and not a.channels & b.channels

    def has_boxes(self, group: Group, boxes: Group) -> bool:
        """Whether ``boxes`` are maps of four columns for each column of ``group``."""
        whole = group.size == group.extent and boxes.size == boxes.extent == 4 * self.full(group)
        return len(group.shape) > 3 and whole and group.size > 1 and self.alike(group, boxes)

    def of_heads(self, candidates: list[Group]) -> list[Group]:
        """Those that come from the layers that the person named, where they named any."""
        if not self.heads:
            return candidates
        wanted = _leaves(self.flow, self.heads)
        chosen = [g for g in candidates if g.leaves & wanted]
        missing = wanted - frozenset().union(*(g.leaves for g in chosen))
        if missing:
            names = [name_of(self.flow, k) for k in sorted(missing)]
            raise NoHead(
                f"no class axis was found behind {', '.join(names)}",
                advice="name the layers whose outputs are the class scores",
            )
        return chosen

    # ------------------------------------------------------------------------------ refusals

    def listing(self, groups: Sequence[Group]) -> str:
        """They, one after the other, for a person."""
        return "; ".join(describe(self.flow, g) for g in groups) or "none"

    def refuse(self, groups: Sequence[Group]) -> NoReturn:
        """Say that each of them could be the classes, or that nothing shows that the one is."""
        raise GraphRefused(
            f"several groups of columns could be the classes: {self.listing(groups)}"
            if len(groups) > 1
            else f"nothing shows which of these columns are classes: {self.listing(groups)}",
            advice=self.layout_advice()
            or "say which with --head NODE (each layer that makes class scores), or give the class "
            "names with --labels; where boxes and classes of all anchors lie on one axis, say "
            "--layout anchors=A,before=5",
        )

    def layout_advice(self) -> str:
        """How to say what raw maps hold, where their numbers of columns show a detector's."""
        return self._advice_for_boxes_in_space() or self._advice_for_yolo()

    def _advice_for_boxes_in_space(self) -> str:
        """Maps of PointPillars and SECOND: scores beside boxes of 7 numbers, or 9, and 2 directions."""
        maps = [g for g in self.groups if g.kind == "raw" and g.size == g.extent and len(g.shape) > 3]
        for boxes, turns, numbers in product(maps, maps, (7, 9)):
            anchors, rest = divmod(boxes.size, numbers)
            others = [g for g in maps if g not in (boxes, turns) and self.alike(g, boxes)]
            fits = rest == 0 and turns.size == 2 * anchors and self.alike(boxes, turns)
            if fits and len(others) == 1 and others[0].size % anchors == 0:
                head = name_of(self.flow, min(others[0].leaves))
                return (
                    f"maps of {boxes.size} and {turns.size} columns beside these look like boxes of "
                    f"{numbers} numbers and 2 directions of {anchors} anchors (PointPillars, SECOND): "
                    f"say --head {head} --layout anchors={anchors}, and --background none where every "
                    "score goes through a sigmoid behind the graph"
                )
        return ""

    def _advice_for_yolo(self) -> str:
        """Maps of a YOLO, where names of classes say how many they are."""
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


def _leaves(flow: Flow, heads: Sequence[str]) -> frozenset[int]:
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
