"""Groups of columns: which channels of heads come the same way to where scores end.

A group is what may be the classes: the columns' leaves and history are its evidence.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from onnx_headcut.graph.model import captures
from onnx_headcut.graph.ops import KEEPING, MOVING
from onnx_headcut.heads.provenance import NOTHING
from onnx_headcut.labels import NONE, Labels

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnx_headcut.graph.facts import Array
    from onnx_headcut.heads.provenance import Flow

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
    def steps(self) -> list[str]:
        """The ops of its history, be they joined with something or not.

        ``*`` behind one says with what differs from place to place, ``+`` with what a head gives.
        """
        return [s.rstrip("*+") for s in self.history]

    @property
    def is_placed(self) -> bool:
        """Whether it was joined with something that differs from place to place, as anchors do."""
        return any(s.endswith("*") for s in self.history)

    @property
    def is_weighed(self) -> bool:
        """Whether the softmax over its columns was multiplied behind, as by an objectness."""
        steps = self.steps
        at = next((k for k, s in enumerate(steps) if s.startswith("Softmax:")), len(steps))
        return "Mul" in steps[at:]

    @property
    def kind(self) -> str:
        """The evidence: softmax over this axis, sigmoid, raw, or other (box arithmetic)."""
        steps = self.steps
        if any(s.startswith(("Softmax:", "LogSoftmax:")) for s in steps):
            return "other" if self.expected else "softmax"
        first = next((k for k, s in enumerate(steps) if s in {"Sigmoid", "HardSigmoid"}), None)
        moved = any(s.endswith("*") for s in self.history[first or 0 :])
        if first is not None and self.size > 4 and not (moved and ARITHMETIC & set(steps)):
            return "sigmoid"  # a box has four columns
        decoding = ARITHMETIC & set(steps)
        if self.size > 4 and not moved:
            decoding -= {"Div", "Sub"}  # by one number, or one of each class: a temperature
        if decoding or moved:
            return "other"
        return "sigmoid" if first is not None else "raw"


def boxes_among(groups: list[Group], box: int = 4) -> list[list[Group]]:
    """Groups of ``box`` columns together, as few of them as come from the same heads: boxes."""
    parts: dict[frozenset[int], list[Group]] = defaultdict(list)
    for group in groups:
        if group.size <= box:
            parts[group.leaves].append(group)
    return [p for p in parts.values() if sum(g.size for g in p) >= box]


def describe(flow: Flow, group: Group) -> str:
    """One phrase for a person."""
    names = [name_of(flow, k) for k in sorted(group.leaves)]
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return (
        f"{group.size} columns {group.start}-{group.stop - 1} of axis {group.axis} of "
        f"{group.value!r} ({group.kind}, from {names[0]}{more})"
    )


def name_of(flow: Flow, k: int) -> str:
    """The node of a leaf by its name, or its output's."""
    node = flow.scope.graph.node[flow.leaves[k].node]
    return str(node.name or node.output[0])


def ends(flow: Flow) -> list[str]:
    """Values with a class-like axis behind which no value with one comes, and outputs with one."""
    graph, index = flow.scope.graph, flow.scope.index
    found: list[str] = []
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
                found.append(value)
                further = True
            if further:
                before.add(value)
    return found[::-1]


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
    shape, history = origin.numbers.shape, origin.history
    table = np.moveaxis(origin.numbers, axis, -1).reshape(-1, shape[axis])
    past = None if isinstance(history, int) else np.moveaxis(history, axis, -1).reshape(table.shape)
    turns = np.zeros(shape[axis] - 1, np.bool_)
    for rows in _parts(table):
        turns |= _turns(table[rows] >> flow.bits)  # along a class axis another place is another leaf
        if past is not None:
            turns |= _turns(np.where(table[rows] >= 0, past[rows], NOTHING))
    expected = flow.is_summed(value)
    groups: list[Group] = []
    for start, stop in pairwise([0, *(np.flatnonzero(turns) + 1).tolist(), shape[axis]]):
        there = table[:, start] >= 0
        if not there.any():
            continue
        leaves = set(flow.leaf(table[there, start]).tolist())
        steps = {history} if past is None else set(past[there, start].tolist())
        groups.append(
            Group(
                value, axis, start, stop, shape, frozenset(leaves),
                frozenset(_channels(flow, table, start, stop)),
                max((flow.histories[k] for k in sorted(steps)), key=len), expected,
            )
        )  # fmt: skip
    return groups


def _parts(table: Array) -> Iterator[slice]:
    """Rows of a table, as many at once as a processor's cache holds."""
    rows = max((1 << 16) // table.shape[1], 1)
    return (slice(k, k + rows) for k in range(0, len(table), rows))


def _turns(table: Array) -> Array:
    """Between which columns anything changes."""
    differs: Array = (table[:, 1:] != table[:, :-1]).any(axis=0)
    return differs


def _channels(flow: Flow, table: Array, start: int, stop: int) -> list[int]:
    """All channels in a run of columns, each row of which is of one leaf."""
    low = (1 << flow.bits) - 1
    found = np.zeros(len(flow.leaves) << flow.bits, np.bool_)
    for rows in _parts(table):
        part = table[rows, start:stop]
        part = part[part[:, 0] >= 0]
        first = flow.channels(part[:, :1]) & ~low
        found |= np.bincount((first | (part & low)).ravel(), minlength=len(found)) > 0
    channels: list[int] = np.flatnonzero(found).tolist()
    return channels


def on_sure_axes(groups: list[Group]) -> list[Group]:
    """Without runs along anchors, where the other levels show what a run of classes looks like."""
    axes: dict[str, set[int]] = defaultdict(set)
    for group in groups:
        axes[group.value].add(group.axis)
    sure = {(g.kind, g.size) for g in groups if len(axes[g.value]) == 1}
    unlike = {(g.value, g.axis) for g in groups if (g.kind, g.size) not in sure}
    one = {v for v, along in axes.items() if len([a for a in along if (v, a) not in unlike]) == 1}
    return [g for g in groups if len(axes[g.value]) == 1 or g.value not in one
            or (g.value, g.axis) not in unlike]  # fmt: skip


def widest(groups: list[Group]) -> list[Group]:
    """Where two values show the same columns of a kind, the one with more of them, or the last."""
    return [
        g for k, g in enumerate(groups)
        if not any(g.kind == other.kind and g.value != other.value and (
            g.channels < other.channels or (g.channels == other.channels and k < n)
        ) for n, other in enumerate(groups))
    ]  # fmt: skip


def read_whole(flow: Flow, groups: list[Group]) -> list[Group]:
    """Without those of which one column alone is read, where others of that size remain.

    Two-stage DETRs pick queries by the first column of a head of its own, as its objectness.
    """
    alone = [g for g in groups if g.kind == "raw" and g.size > 2 and _reads_one(flow, g)]
    rest = [g for g in groups if not any(g is a for a in alone)]
    sizes = {g.size for g in rest if g.kind != "other"}
    return [g for g in groups if g.size not in sizes or not any(g is a for a in alone)]


def _reads_one(flow: Flow, group: Group) -> bool:
    """Whether one stored index of its axis is all that is read of a value."""
    index, graph = flow.scope.index, flow.scope.graph
    places = set()
    for i in index.consumers.get(group.value, ()):
        node, at = graph.node[i], flow.scope.old(graph.node[i].input[-1]).value
        axis = next((a.i for a in node.attribute if a.name == "axis"), 0) % len(group.shape)
        if node.op_type == "Shape":
            continue
        if node.op_type != "Gather" or axis != group.axis or at is None or at.size != 1:
            return False
        places.add(int(at.item()))
    return len(places) == 1 and group.value not in index.outputs


def selecting(flow: Flow, groups: list[Group], chosen: list[Group]) -> list[Group]:
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


def loses_its_columns(flow: Flow, value: str) -> bool:
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


def is_activated_later(flow: Flow, value: str) -> bool:
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
            if node.op_type in MOVING | KEEPING | {"TopK", "ReduceMax", "GatherElements", "GatherND"}:
                todo.append(node.output[0])
    return False
