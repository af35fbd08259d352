"""Find the class axis and the heads, by data flow from candidate heads to where scores end.

The result is a list of sites (tensors in which classes are defined, before their activation) and
the labels of each head's channels. Evidence for a group of columns to be the classes, strongest
first: a softmax over exactly these columns; a sigmoid; plain scores beside boxes. What stays
ambiguous is refused with the choices, never guessed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnx_headcut.errors import GraphRefused
from onnx_headcut.labels import NONE, Labels, Site
from onnx_headcut.provenance import Flow
from onnx_headcut.pull import pull

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx_headcut.analysis import Analysis
    from onnx_headcut.facts import Array
    from onnx_headcut.labels import Activation


@dataclass(frozen=True)
class Group:
    """Columns ``start``..``stop`` of ``axis`` of a tensor that came the same way from heads."""

    value: str
    axis: int
    start: int
    stop: int
    extent: int
    leaves: frozenset[int]
    history: tuple[str, ...]
    rank: int

    @property
    def size(self) -> int:
        """Number of columns."""
        return self.stop - self.start

    @property
    def kind(self) -> str:
        """The evidence: softmax over this axis, sigmoid, raw, or other (box arithmetic)."""
        steps = [s.rstrip("*") for s in self.history]
        if any(s in {f"Softmax:{self.axis - self.rank}", f"LogSoftmax:{self.axis - self.rank}"}
               for s in steps):  # fmt: skip
            return "softmax"
        if "Sigmoid" in steps or "HardSigmoid" in steps:
            arithmetic = [s for s in steps if s in {"Exp", "Sub", "Div", "Pow"}]
            after = self.history[self.history.index("Sigmoid") + 1 :] if "Sigmoid" in steps else ()
            scaled = any(s in {"Mul*", "Add*", "Mul", "Add", "Sub*"} for s in after)
            return "other" if arithmetic or (scaled and self.size <= 4) else "sigmoid"
        if any(s in {"Exp", "Sub", "Div", "Tanh", "Pow"} or s.endswith("*") for s in self.history):
            return "other"
        return "raw"


@dataclass(frozen=True)
class Located:
    """Where the classes are: sites, labels of heads' channels by node number, and the evidence.

    ``values`` names each head's output, by node number.
    """

    count: int
    sites: tuple[Site, ...]
    heads: dict[int, Labels]
    activation: Activation
    evidence: str
    values: dict[int, str]


def locate(
    analysis: Analysis, *, count: int | None = None, heads: Sequence[str] = ()
) -> Located:
    """Find sites and heads.

    ``count``: number of names, where known (columns may be one more: a background); ``heads``:
    names of nodes (or their outputs) that the user says are the heads.
    """
    flow = Flow(analysis.main, analysis.interpreter)
    flow.run()
    if not flow.leaves:
        raise GraphRefused(
            "no head was found: no Conv, Gemm or MatMul with stored weights leads to scores",
            advice="if the model is a detector, name its class layers with --head NODE",
        )
    groups = [g for value in _ends(flow) for g in groups_of(flow, value)]
    chosen = _choose(flow, groups, count, heads)
    chosen += _selecting(flow, groups, chosen)  # behind the others: the first say the activation
    return _pull_all(analysis, flow, chosen)


def _ends(flow: Flow) -> list[str]:
    """Values with a class-like axis behind which no value with one comes, and outputs with one."""
    graph, index = flow.scope.graph, flow.scope.index
    ends: list[str] = []
    before: set[str] = set()  # values that are ends or have one behind them
    for node in reversed(graph.node):
        for value in node.output:
            if value not in flow.origins:
                continue
            readers = (graph.node[i] for i in index.consumers.get(value, ()))
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
    """Runs of columns with the same leaves and histories, on the (one) class axis of ``value``."""
    axes = class_axes(flow, value)
    origin = flow.origins[value]
    leaf = flow.leaf(origin.numbers)
    groups: list[Group] = []
    softmaxed = {int(s.split(":")[1]) + origin.numbers.ndim
                 for h in origin.histories()
                 for s in flow.histories[h] if s.startswith(("Softmax", "LogSoftmax"))}  # fmt: skip
    usable = [a for a in axes if a in softmaxed] or axes[-1:]
    for axis in usable:
        key = leaf * len(flow.histories) + origin.history
        key = np.where(origin.numbers < 0, -1, key)
        columns = np.moveaxis(key, axis, 0).reshape(key.shape[axis], -1)
        cuts = np.flatnonzero((columns[1:] != columns[:-1]).any(axis=1)) + 1
        bounds = [0, *cuts.tolist(), len(columns)]
        for start, stop in zip(bounds, bounds[1:], strict=False):
            keys = np.unique(columns[start])
            leaves = frozenset(int(k) // len(flow.histories) for k in keys if k >= 0)
            if not leaves:
                continue
            histories = {flow.histories[int(k) % len(flow.histories)] for k in keys if k >= 0}
            history = max(histories, key=len)
            groups.append(
                Group(value, axis, start, stop, len(columns), leaves, history, columns_rank(key))
            )
    return groups


def columns_rank(key: Array) -> int:
    """Number of axes."""
    return key.ndim


def _choose(
    flow: Flow, groups: list[Group], count: int | None, heads: Sequence[str]
) -> list[Group]:
    """The groups that are the classes; refuses what stays ambiguous."""
    candidates = [g for g in groups if g.size > 1]
    if heads:
        wanted = _named(flow, heads)
        candidates = [g for g in candidates if g.leaves & wanted]
        missing = wanted - frozenset().union(*(g.leaves for g in candidates))
        if missing:
            names = [_name(flow, k) for k in sorted(missing)]
            raise GraphRefused(
                f"no class axis was found behind {', '.join(names)}",
                advice="name the layers whose outputs are the class scores",
            )
    by_name = [g for g in candidates if count is not None and g.size in {count, count + 1}]
    for kind in ("softmax", "sigmoid", "raw"):
        of_kind = [g for g in candidates if g.kind == kind]
        if by_name:
            of_kind = [g for g in of_kind if g in by_name]
        found = _agree(flow, of_kind, kind, certain=bool(heads or by_name))
        if found:
            return found
    listing = "; ".join(describe(flow, g) for g in groups) or "none"
    raise GraphRefused(
        f"no class scores were found; columns seen behind candidate heads: {listing}",
        advice="name the class layers with --head NODE, or give names with --labels",
    )


def _selecting(flow: Flow, groups: list[Group], chosen: list[Group]) -> list[Group]:
    """Further heads over the same classes whose maximum picks queries (RT-DETR, deformable DETR)."""
    known = frozenset().union(*(g.leaves for g in chosen))
    found = []
    for group in _widest(groups):
        if group.size != chosen[0].size or group.extent != group.size or group.leaves & known:
            continue
        for i in flow.scope.index.consumers.get(group.value, ()):
            if flow.scope.graph.node[i].op_type in {"ReduceMax", "TopK", "ArgMax"}:
                found.append(group)
                break
    return found


def _agree(flow: Flow, groups: list[Group], kind: str, *, certain: bool) -> list[Group]:
    """Groups of one size are levels of one detector; different sizes need a reason to choose."""
    if not groups:
        return []
    groups = _widest(groups)
    sizes = sorted({g.size for g in groups})
    if len(sizes) == 1 and (certain or kind == "softmax"):
        return _widest(groups)
    if len(sizes) > 1 and kind != "softmax" and not certain:
        boxes = [g for g in groups if g.size == 4]
        rest = [g for g in groups if g.size != 4]
        if boxes and len({g.size for g in rest}) == 1:
            return _widest(rest)
    elif len(sizes) == 1:
        values = {(g.axis, g.extent) for g in groups}
        heads = [g.leaves for g in groups]
        disjoint = sum(len(h) for h in heads) == len(frozenset().union(*heads))
        shapes = {flow.scope.old(g.value).static for g in groups}
        if len(groups) == 1 or (disjoint and len(values) == 1 and len(shapes) == len(groups)):
            return _widest(groups)
    listing = "; ".join(describe(flow, g) for g in groups)
    raise GraphRefused(
        f"several groups of columns could be the classes: {listing}",
        advice="say which with --head NODE (each layer that makes class scores), or give the "
        "class names with --labels",
    )


def _widest(groups: list[Group]) -> list[Group]:
    """One group for each set of heads: where two values show the same heads, the last one."""
    last: dict[frozenset[int], Group] = {}
    for group in groups:
        last[group.leaves] = group
    return list(last.values())


def _named(flow: Flow, heads: Sequence[str]) -> frozenset[int]:
    wanted = set()
    for name in heads:
        hits = [k for k, leaf in enumerate(flow.leaves)
                if name in (flow.scope.graph.node[leaf.node].name, leaf.value)]  # fmt: skip
        if not hits:
            names = [_name(flow, k) for k in range(len(flow.leaves))]
            raise GraphRefused(
                f"--head {name}: no such layer leads to outputs",
                advice=f"candidates are {', '.join(names)}",
            )
        wanted.update(hits)
    return frozenset(wanted)


def _name(flow: Flow, k: int) -> str:
    node = flow.scope.graph.node[flow.leaves[k].node]
    return node.name or node.output[0]


def describe(flow: Flow, group: Group) -> str:
    """One phrase for a person."""
    names = [_name(flow, k) for k in sorted(group.leaves)]
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return (
        f"{group.size} columns {group.start}-{group.stop - 1} of axis {group.axis} of "
        f"{group.value!r} ({group.kind}, from {names[0]}{more})"
    )


def _pull_all(analysis: Analysis, flow: Flow, groups: list[Group]) -> Located:
    """Label the columns of each group and pull the labels back to sites and heads."""
    heads: dict[int, Labels] = {}
    sites: list[Site] = []
    count = groups[0].size
    starts = []
    for group in groups:
        ids = np.full(group.extent, NONE)
        ids[group.start : group.stop] = np.arange(count)
        starts.append((group.value, Labels(group.axis, ids)))
    wider = [w for s in starts for w in pull(analysis, *s).wider]
    if wider and len({w[2] for w in wider}) == 1:
        # ids are the head's own columns, with the one that the graph drops behind the head
        count = wider[0][2]
        starts = [(value, Labels(axis, np.arange(count))) for value, axis, _ in wider]
    for value, start in starts:
        result = pull(analysis, value, start)
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
    activation = sites[0].activation
    evidence = f"{groups[0].kind} columns: " + describe(flow, groups[0])
    values = {i: analysis.main.graph.node[i].output[0] for i in heads}
    return Located(count, tuple(sites), heads, activation, evidence, values)
