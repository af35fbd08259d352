"""The body of a Loop or Scan: which names in it are which of the node's, and what it does to marks.

A body is traced until what it carries has the same mark at both ends of an iteration.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from onnx_headcut.graph.facts import Fact, attributes
from onnx_headcut.graph.iterations import scanned
from onnx_headcut.graph.scope import is_fixed
from onnx_headcut.labels import NONE, Columns, Labels, Lookup, Mark, Option, PerIteration, Rows
from onnx_headcut.rules.elementwise import shorten
from onnx_headcut.rules.iterated import all_classes, classes_of, decide_condition
from onnx_headcut.rules.joining import NO_SLOT, filled
from onnx_headcut.rules.movement import PicksByIteration
from onnx_headcut.rules.options import same_edits
from onnx_headcut.rules.stacked import joined
from onnx_headcut.tracing.view import View

if TYPE_CHECKING:
    import onnx

    from onnx_headcut.labels import Ints

MOST_ROUNDS = 6
"""How often a body is traced until what it carries has the same mark at both ends."""


@dataclass(frozen=True)
class State:
    """A carried value: the node's input, and its names at the body's two ends."""

    slot: int
    inner: str
    result: str


@dataclass(frozen=True)
class Read:
    """What a Scan reads slice by slice."""

    slot: int
    inner: str
    axis: int


class Body:
    """A body of a Loop or Scan, and which names in it belong to which of the node's."""

    def __init__(self, view: View) -> None:
        self.scope = view.scope.children[view.place[-1], 0]
        graph, node, attrs = self.scope.graph, view.node, attributes(view.node)
        self.is_loop = view.op == "Loop"
        self.reads: list[Read] = []
        first = 2 if self.is_loop else 0
        carried = len(node.input) - first - attrs.get("num_scan_inputs", 0)
        if not self.is_loop:
            last = len(node.input) - attrs["num_scan_inputs"]
            self.reads = [
                Read(last + k, inner, axis % view.rank(last + k))
                for k, (_, inner, axis) in enumerate(scanned(node, graph))
            ]
        results = [o.name for o in graph.output][1 if self.is_loop else 0 :]
        self.states = [
            State(first + k, graph.input[first + k].name, results[k]) for k in range(carried)
        ]
        axes = attrs.get("scan_output_axes") or [0] * (len(results) - carried)
        facts = [self.scope.old(name) for name in results[carried:]]
        self.stacks = [
            (name, axis % (len(fact.shape or ()) + 1))
            for name, axis, fact in zip(results[carried:], axes, facts, strict=True)
        ]
        self.backwards = any(attrs.get("scan_input_directions") or ()) or any(
            attrs.get("scan_output_directions") or ()
        )

    def origin(self, name: str) -> str:
        """What ``name`` is a plain copy of."""
        node = self.scope.index.node_of(name)
        return self.origin(node.input[0]) if node and node.op_type == "Identity" else name

    def between(self, state: State) -> set[str]:
        """Ops on the ways from a carried value to what it becomes."""
        reached, ops = {state.inner}, dict[str, set[str]]()
        for node in self.scope.graph.node:
            inputs = [n for n in node.input if n in reached]
            if inputs:
                reached |= set(node.output)
                here = {node.op_type}.union(*(ops.get(n, set()) for n in inputs))
                ops |= dict.fromkeys(node.output, here)
        return ops.get(state.result, set())


class Picked(Exception):
    """Iterations stand for the classes ``ids``, one each."""

    def __init__(self, ids: Ints) -> None:
        super().__init__()
        self.ids = ids


def shifted(mark: Mark | None, axis: int) -> Mark | None:
    """The iterations' values side by side on a new axis."""
    if isinstance(mark, Columns | Labels):
        return replace(mark, axis=mark.axis + (mark.axis >= axis))
    return replace(mark, direct=False) if isinstance(mark, Lookup) else mark


def traced(
    view: View, body: Body, given: dict[str, Mark | None]
) -> tuple[list[Mark | None], list[Mark | None]]:
    """Marks of carried values at the end, and of what is stacked, as the body gives them.

    What is carried must come out as it went in; where it starts without a mark, it may take one on.
    """
    scope = body.scope
    carried = {s.inner: view.marks[s.slot] for s in body.states}
    again, rounds, clean = True, 0, view.trace.mark_now()
    while again:
        view.trace.go_back(clean)
        again, rounds = False, rounds + 1
        if rounds > MOST_ROUNDS:
            view.refuse("what it carries from one iteration to the next never settles")
        scope.forget()
        for name, mark in {**carried, **given}.items():
            if mark is not None:
                scope.marks[name] = mark
        bind_new(view, body, carried)
        run(view, body)
        for state in body.states:
            if state.inner in given or body.origin(state.result) == state.inner:
                continue
            before, after = carried[state.inner], scope.mark(state.result)
            wider = widened(view, state, before, after)
            if wider is None and (before is not None or after is not None):
                view.refuse("what it carries from one iteration to the next changes its kind")
            if not same(wider, before):
                carried[state.inner], again = wider, True
    if body.is_loop:
        decide_condition(View(view.trace, view.scope, view.place[-1]),
                         scope.mark(scope.graph.output[0].name))  # fmt: skip
    for state in body.states:
        lengthened(view, state, carried[state.inner])
    ends = [given[s.inner] if s.inner in given else carried[s.inner] for s in body.states]
    return ends, [scope.mark(name) for name, _ in body.stacks]


def widened(view: View, state: State, before: Mark | None, after: Mark | None) -> Mark | None:
    """The mark of a carried value that is ``before`` at first and ``after`` an iteration."""
    if isinstance(after, Lookup | Columns):
        if before is None:
            start = view.old[state.slot].value
            if start is None or len(np.unique(start)) > 1:
                return None
            return padded(view, after, start.flat[0].item()) if start.size else after
        return after if type(before) is type(after) else None
    if isinstance(after, Rows) and isinstance(before, Rows | None):
        return joined([before, after])
    if before is None and isinstance(after, Labels):
        return after
    if isinstance(before, Labels) and before.same(after):
        return before
    return before if before is None and after is None else None


def same(a: Mark | None, b: Mark | None) -> bool:
    """Whether two marks say the same, tables included."""
    if isinstance(a, Lookup) and isinstance(b, Lookup):
        return same_table(a, b)
    if isinstance(a, Columns) and isinstance(b, Columns):
        pairs = zip(a.marks, b.marks, strict=False)
        return a.axis == b.axis and len(a.marks) == len(b.marks) and all(same(*p) for p in pairs)
    return a.same(b) if isinstance(a, Labels) else a == b


def same_table(a: Lookup, b: Lookup) -> bool:
    """Whether two tables hold the same before the cut, and may hold the same after it."""
    return (
        np.array_equal(a.old, b.old)
        and np.array_equal(a.ids, b.ids)
        and np.array_equal(a.take, b.take)
        and len(a.options) == len(b.options)
        and all(np.array_equal(p.new, q.new) and same_edits(p.edits, q.edits)
                for p, q in zip(a.options, b.options, strict=True))
    )  # fmt: skip


def padded(view: View, mark: Mark | None, value: float) -> Mark | None:
    """A mark of class numbers among which ``value`` may stand for no detection."""
    if isinstance(mark, Lookup):
        return filled(view, mark, value, NO_SLOT)
    if isinstance(mark, Columns):
        return Columns(mark.axis, tuple(padded(view, m, value) for m in mark.marks))
    return mark


def lengthened(view: View, state: State, mark: Mark | None) -> None:
    """A carried value that starts as a constant with a place for each class starts with fewer."""
    if isinstance(mark, Labels) and view.marks[state.slot] is None:
        for edit in shorten(view, state.slot, mark.axis, mark.ids):
            view.trace.add(edit, view)


def bind_new(view: View, body: Body, carried: dict[str, Mark | None]) -> None:
    """Facts after the cut of the body's inputs."""
    for state in body.states:
        now, mark = view.new[state.slot], carried[state.inner]
        shape = now.shape
        if isinstance(mark, Labels) and view.marks[state.slot] is None and shape is not None:
            at = mark.axis
            shape = (*shape[:at], len(view.take(mark.ids)), *shape[at + 1 :])
        old = body.scope.old(state.inner).shape
        if now is not view.old[state.slot] or shape != now.shape:
            if shape is not None and old is not None and len(old) == len(shape):
                shape = tuple(a if b is not None else None for a, b in zip(shape, old, strict=True))
            body.scope.after[state.inner] = Fact(shape, now.elem_type)
    for read in body.reads:
        now = view.new[read.slot]
        if now is not view.old[read.slot] and now.shape is not None:
            shape = (*now.shape[: read.axis], *now.shape[read.axis + 1 :])
            body.scope.after[read.inner] = Fact(shape, now.elem_type)


def run(view: View, body: Body) -> None:
    """Trace the body; raises Picked where an iteration turns out to stand for a class."""
    scope = body.scope
    for i, node in enumerate(scope.graph.node):
        fill_starts(view, body, node)
        try:
            view.trace.visit(scope, i, node)
        except PicksByIteration:
            inner = View(view.trace, scope, i)
            labels = all_classes(inner, inner.labels(0), scope.tables)
            if labels is not None:  # pictures or boxes are counted, each with all its classes
                scope.set_marks(node, [labels])
                scope.set_new(node, view.trace.infer_new(inner))
                continue
            ids = classes_of(inner, inner.labels(0), scope.tables)
            if ids is None or len(np.unique(ids)) != len(ids):
                inner.refuse("an iteration picks several classes, or two pick the same")
            raise Picked(ids) from None


def fill_starts(view: View, body: Body, node: onnx.NodeProto) -> None:
    """Where class numbers join a carried value, what it starts with is a filler among them."""
    numbers = [m for n in node.input if isinstance(m := body.scope.mark(n), Lookup | PerIteration)]
    if not numbers or node.op_type not in {"Concat", "Where"}:
        return
    for state in body.states:
        start = view.old[state.slot].value
        if state.inner not in node.input or body.scope.mark(state.inner) is not None:
            continue
        if start is not None and is_fixed(view.scope, view.node.input[state.slot]):
            table = np.unique(start)
            none = np.full(len(table), NONE)
            body.scope.marks[state.inner] = Lookup(
                none, np.arange(len(table)), table, (Option(table),), state.inner
            )
