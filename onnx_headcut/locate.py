"""Find the class axis and the heads, by data flow from candidate heads to where scores end.

The result is a list of sites (tensors in which classes are defined, before their activation) and
the labels of each head's channels. Evidence for a group of columns to be the classes, strongest
first: a softmax over exactly these columns; a sigmoid; plain scores beside boxes. What stays
ambiguous is refused with the choices, never guessed.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from onnx_headcut.errors import GraphRefused, UsageError
from onnx_headcut.labels import NONE, Labels, Site
from onnx_headcut.model import captures
from onnx_headcut.provenance import MOVING, NOTHING, Flow
from onnx_headcut.pull import Pulled, pull

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx_headcut.analysis import Analysis
    from onnx_headcut.labels import Activation
    from onnx_headcut.layout import Layout


ARITHMETIC = frozenset({"Exp", "Sub", "Div", "Tanh", "Pow"})
"""Ops of box decoding, which scores do not go through."""


@dataclass(frozen=True)
class Group:
    """Columns ``start``..``stop`` of ``axis`` of a tensor that came the same way from heads.

    ``channels`` are the heads' channels in them, as `Flow.channels` numbers them; ``expected`` says
    that the columns are summed up behind, as a distribution is for its expected value.
    """

    value: str
    axis: int
    start: int
    stop: int
    shape: tuple[int, ...]
    leaves: frozenset[int]
    channels: frozenset[int]
    history: tuple[str, ...]
    expected: bool

    @property
    def size(self) -> int:
        """Number of columns."""
        return self.stop - self.start

    @property
    def extent(self) -> int:
        """Number of positions of the axis."""
        return self.shape[self.axis]

    @property
    def labels(self) -> Labels:
        """The columns numbered as classes, the rest of the axis as none."""
        ids = np.full(self.extent, NONE)
        ids[self.start : self.stop] = np.arange(self.size)
        return Labels(self.axis, ids)

    @property
    def kind(self) -> str:
        """The evidence: softmax over this axis, sigmoid, raw, or other (box arithmetic)."""
        steps = [s.rstrip("*") for s in self.history]
        if any(s.startswith(("Softmax:", "LogSoftmax:")) for s in steps):
            return "other" if self.expected else "softmax"
        if ARITHMETIC & set(steps):
            return "other"
        first = next((k for k, s in enumerate(steps) if s in {"Sigmoid", "HardSigmoid"}), None)
        if first is not None:
            moved = any(s.endswith("*") for s in self.history[first:])
            return "other" if moved and self.size <= 4 else "sigmoid"
        return "other" if any(s.endswith("*") for s in self.history) else "raw"


@dataclass(frozen=True)
class Located:
    """Where the classes are: sites, labels of heads' channels by node number, and the evidence.

    ``values`` names each head's output, by node number; ``fronts`` are the sites behind their
    activations.
    """

    count: int
    sites: tuple[Site, ...]
    heads: dict[int, Labels]
    activation: Activation
    evidence: str
    values: dict[int, str]
    fronts: tuple[Site, ...] = ()


def locate(
    analysis: Analysis,
    *,
    count: int | None = None,
    heads: Sequence[str] = (),
    layout: Layout | None = None,
) -> Located:
    """Find sites and heads.

    ``count``: number of names, where known (columns may be one more: a background); ``heads``:
    names of nodes (or their outputs) that the user says are the heads; ``layout``: how anchors and
    classes share an axis.
    """
    flow = Flow(analysis.main, analysis.interpreter)
    flow.run()
    if not flow.leaves:
        raise GraphRefused(
            "no head was found: no Conv, Gemm or MatMul with stored weights leads to scores",
            advice="if the model is a detector, name its class layers with --head NODE",
        )
    groups = _widest(_on_sure_axes([g for value in _ends(flow) for g in groups_of(flow, value)]))
    choice = _Choice(analysis, flow, groups, count, heads, layout)
    chosen = choice.made()
    chosen += _selecting(flow, groups, chosen)  # behind the others: the first say the activation
    return _pull_all(choice, chosen)


def _ends(flow: Flow) -> list[str]:
    """Values with a class-like axis behind which no value with one comes, and outputs with one."""
    graph, index = flow.scope.graph, flow.scope.index
    ends: list[str] = []
    before: set[str] = set()  # values that are ends or have one behind them
    alive: set[str] = set(index.outputs)
    for node in reversed(graph.node):
        if alive.isdisjoint(node.output):
            continue
        alive.update(node.input, captures(node))
        for value in node.output:
            if value not in flow.origins:
                continue
            readers = [graph.node[i] for i in index.consumers.get(value, ())]
            sizes_only = readers and all(r.op_type == "Shape" for r in readers)
            if sizes_only and value not in index.outputs:
                continue
            further = any(o in before for reader in readers for o in reader.output)
            if (not further or value in index.outputs) and class_axes(flow, value):
                ends.append(value)
                further = True
            if further:
                before.add(value)
    return ends[::-1]


def class_axes(flow: Flow, value: str) -> list[int]:
    """Axes along which only the channel changes, never the place in the picture."""
    numbers = flow.origins[value].numbers
    if numbers.ndim < 2 or numbers.size == 0:
        return []
    return [a for a in range(numbers.ndim) if flow.is_channel_axis(numbers, a)]


def groups_of(flow: Flow, value: str) -> list[Group]:
    """Find runs of columns with the same leaves and histories on the class axis of ``value``.

    Where anchors have an axis of their own, it looks like one of classes: a softmax tells them
    apart, else the runs of both are given.
    """
    axes = class_axes(flow, value)
    if len(axes) > 1:
        axes = [a for a in axes if flow.is_softmax_axis(value, a)] or axes
    return [g for a in axes for g in _runs(flow, value, a)]


def _runs(flow: Flow, value: str, axis: int) -> list[Group]:
    origin = flow.origins[value]
    known, kinds = flow.channels(origin.numbers), len(flow.histories)
    key = (known >> flow.bits) * kinds + origin.history
    key[known < 0] = NOTHING
    columns = np.moveaxis(key, axis, 0).reshape(key.shape[axis], -1)
    channels = np.moveaxis(known, axis, 0).reshape(columns.shape)
    cuts = np.flatnonzero((columns[1:] != columns[:-1]).any(axis=1)) + 1
    expected = flow.is_summed(value)
    groups: list[Group] = []
    for start, stop in pairwise([0, *cuts.tolist(), len(columns)]):
        keys = {k for k in set(columns[start].tolist()) if k != NOTHING}
        if not keys:
            continue
        inside = channels[start:stop]
        present = np.flatnonzero(np.bincount(inside[inside >= 0]))
        groups.append(
            Group(
                value, axis, start, stop, origin.numbers.shape,
                frozenset(k // kinds for k in keys), frozenset(present.tolist()),
                max((flow.histories[k % kinds] for k in keys), key=len), expected,
            )
        )  # fmt: skip
    return groups


class _Choice:
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

    def made(self) -> list[Group]:
        """One group or, where levels stay apart, one for each level."""
        candidates = [
            g for g in self.groups
            if g.kind == "softmax" or (
                g.size > 1
                and (self.layout is not None or not _loses_its_columns(self.flow, g.value))
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
        raise GraphRefused(
            f"no class scores were found; columns seen behind candidate heads: {listing}",
            advice="name the class layers with --head NODE, or give names with --labels",
        )

    def _are_boxes_of_others(self, group: Group) -> bool:
        """Whether it is a box through a sigmoid (DETR), beside more columns for the same places."""
        return group.kind == "sigmoid" and self.full(group) == 4 and any(
            g.kind == "raw" and g.size > 4 and g.shape[:-1] == group.shape[:-1]
            and not g.leaves & group.leaves for g in self.groups
        )  # fmt: skip

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
            names = [_name(self.flow, k) for k in sorted(missing)]
            raise GraphRefused(
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
                _refuse_anchors(self.flow, max(groups, key=lambda g: g.size), groups)
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
        if forgotten:
            self._refuse([*chosen, *forgotten])
        if kind == "softmax":
            return chosen
        # without boxes beside them nothing shows that the columns are not boxes themselves
        like_boxes = size == 4 and not self.heads and all(g.kind == kind for g in beside)
        if like_boxes or not (beside or named):
            self._refuse(chosen)
        if named:
            return [self._without_objectness(kind, g, rest) for g in chosen]
        activated = [g for g in rest if g.kind in {"softmax", "sigmoid"}
                     or _loses_its_columns(self.flow, g.value)]  # fmt: skip
        if kind == "raw" and not all(self._are_boxes_of_others(g) for g in activated):
            self._refuse([*chosen, *rest])
        for group in chosen:
            if self._may_hold_objectness(group, rest):
                self._refuse([group, *beside])
            if self.layout is None:
                _refuse_anchors(self.flow, group, beside)
        return chosen

    def _may_be_a_level(self, kind: str, group: Group, size: int) -> bool:
        """Whether classes of a level may be among these columns, so that they cannot be left."""
        if group.kind != kind or (self.layout is not None and self._is_part_of_boxes(group)):
            return False
        return group.size > 4 or kind == "softmax" or (self.full(group) == size != 4)

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
            advice="say which with --head NODE (each layer that makes class scores), or give the "
            "class names with --labels",
        )


def _loses_its_columns(flow: Flow, value: str) -> bool:
    """Whether all of it goes on to where columns have no axis: they are anchors of one class."""
    index, origins = flow.scope.index, flow.origins
    todo = [] if value in index.outputs else [value]
    while todo:
        name = todo.pop()
        for i in index.consumers.get(name, ()):
            node = flow.scope.graph.node[i]
            if node.op_type == "NonMaxSuppression" and name != value:
                return True
            for out in node.output:
                moved = origins[out].numbers if out in origins else np.empty(0)
                if moved.size < origins[value].numbers.size:
                    continue
                if out in index.outputs or (moved.ndim > 2 and 1 in moved.shape[1:]):
                    return True
                todo.append(out)
    return False


def _refuse_anchors(flow: Flow, group: Group, beside: list[Group]) -> None:
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


def _selecting(flow: Flow, groups: list[Group], chosen: list[Group]) -> list[Group]:
    """Further heads over the same classes whose maximum picks queries (RT-DETR, deformable DETR)."""
    known = frozenset().union(*(g.leaves for g in chosen))
    found = []
    for group in groups:
        if group.size != chosen[0].size or group.extent != group.size or group.leaves & known:
            continue
        for i in flow.scope.index.consumers.get(group.value, ()):
            if flow.scope.graph.node[i].op_type in {"ReduceMax", "TopK", "ArgMax"}:
                found.append(group)
                break
    return found


def _on_sure_axes(groups: list[Group]) -> list[Group]:
    """Without runs along anchors, where the other levels show what a run of classes looks like."""
    axes: dict[str, set[int]] = defaultdict(set)
    for group in groups:
        axes[group.value].add(group.axis)
    sure = {(g.kind, g.size) for g in groups if len(axes[g.value]) == 1}
    unlike = {(g.value, g.axis) for g in groups if (g.kind, g.size) not in sure}
    one = {v for v, along in axes.items() if len([a for a in along if (v, a) not in unlike]) == 1}
    return [g for g in groups if len(axes[g.value]) == 1 or g.value not in one
            or (g.value, g.axis) not in unlike]  # fmt: skip


def _widest(groups: list[Group]) -> list[Group]:
    """Where two values show the same columns of a kind, the one with more of them, or the last."""
    return [
        g for k, g in enumerate(groups)
        if not any(g.kind == other.kind and g.value != other.value and (
            g.channels < other.channels or (g.channels == other.channels and k < n)
        ) for n, other in enumerate(groups))
    ]  # fmt: skip


def _is_activated_later(flow: Flow, value: str) -> bool:
    """Whether scores pass a sigmoid only after the best of them were chosen."""
    todo, seen = [value], set()
    while todo:
        for i in flow.scope.index.consumers.get(todo.pop(), ()):
            node = flow.scope.graph.node[i]
            if i in seen:
                continue
            seen.add(i)
            if node.op_type == "Sigmoid":
                return True
            if node.op_type in MOVING | {"TopK", "ReduceMax", "GatherElements", "GatherND"}:
                todo.append(node.output[0])
    return False


def _named(flow: Flow, heads: Sequence[str]) -> frozenset[int]:
    wanted = set()
    for name in heads:
        hits = [k for k, leaf in enumerate(flow.leaves)
                if name in (flow.scope.graph.node[leaf.node].name, leaf.value)]  # fmt: skip
        if not hits:
            names = [_name(flow, k) for k in range(len(flow.leaves))]
            raise UsageError(
                f"--head {name}: no such layer leads to outputs",
                advice=f"candidates are {', '.join(names)}",
            )
        wanted.update(hits)
    return frozenset(wanted)


def _name(flow: Flow, k: int) -> str:
    node = flow.scope.graph.node[flow.leaves[k].node]
    return str(node.name or node.output[0])


def describe(flow: Flow, group: Group) -> str:
    """One phrase for a person."""
    names = [_name(flow, k) for k in sorted(group.leaves)]
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return (
        f"{group.size} columns {group.start}-{group.stop - 1} of axis {group.axis} of "
        f"{group.value!r} ({group.kind}, from {names[0]}{more})"
    )


def _pull_all(choice: _Choice, groups: list[Group]) -> Located:
    """Label the columns of each group and pull the labels back to sites and heads."""
    heads: dict[int, Labels] = {}
    sites: list[Site] = []
    fronts: list[Site] = []
    count = groups[0].size
    analysis = choice.analysis
    pulled = [choice.pulled(g) for g in groups]
    wider = [w for p in pulled for w in p.wider]
    if wider and len({w[2] for w in wider}) == 1 and all(p.wider for p in pulled):
        # ids are the head's own columns, with the one that the graph drops behind the head
        count = wider[0][2]
        pulled = [pull(analysis, value, Labels(axis, np.arange(count))) for value, axis, _ in wider]
    if choice.layout is not None:
        count //= choice.layout.anchors
        pulled = [pull(analysis, g.value, Labels(g.axis, choice.layout.ids(g.size)))
                  for g in groups]  # fmt: skip
    for result in pulled:
        for node, labels in result.heads.items():
            known = heads.setdefault(node, labels)
            if not known.same(labels):
                bad = analysis.main.graph.node[node]
                raise GraphRefused(
                    "its channels would be different classes for different outputs",
                    node=bad.name, op=bad.op_type,
                    advice="the model shares one head for two purposes, which cannot be cut",
                )  # fmt: skip
        sites += [s for s in result.sites if s not in sites]
        fronts += [s for s in result.fronts if s not in fronts]
    activation = sites[0].activation
    if activation == "none" and _is_activated_later(choice.flow, sites[0].value):
        activation = "sigmoid"
    evidence = f"{groups[0].kind} columns: " + describe(choice.flow, groups[0])
    values = {i: analysis.main.graph.node[i].output[0] for i in heads}
    return Located(count, tuple(sites), heads, activation, evidence, values, tuple(fronts))
