"""Loop and Scan, over pictures or anchors, and over classes.

Over anything else the body is traced once, over classes for every iteration at once. A Loop is over
classes where its iterations pick a class each out of the scores around it, a Scan also where it
reads the scores along their class axis. Then iteration ``q`` of the cut is the one that was
``take[q]``, and whatever leaves the body says which class it is of by its place: what is stacked
carries classes along its new axis, what is carried to the end has seen them all.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from onnx_headcut import edits as ed
from onnx_headcut.demand import is_fixed, is_stored
from onnx_headcut.facts import Fact, attributes
from onnx_headcut.iterations import scanned
from onnx_headcut.labels import (
    NONE,
    Columns,
    IteratedOption,
    Labels,
    Lookup,
    Mark,
    Option,
    PerIteration,
    Rows,
    Whole,
)
from onnx_headcut.rules.elementwise import UNARY, shorten
from onnx_headcut.rules.iterated import (
    all_classes,
    classes_of,
    decide_condition,
    freed,
    lookup_of,
    table_choices,
)
from onnx_headcut.rules.movement import RULES as MOVING
from onnx_headcut.rules.movement import PicksByIteration
from onnx_headcut.rules.stacked import joined
from onnx_headcut.rules.values import NO_SLOT, commit, filled, possible
from onnx_headcut.trace import View

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx

    from onnx_headcut.facts import Array
    from onnx_headcut.labels import Ints

GATHERING = frozenset(
    {*MOVING, *UNARY, "ScatterND", "ScatterElements", "Scatter", "Where", "Max", "And", "Or",
     "TopK", "GatherND", "GatherElements", "Compress", "NonMaxSuppression", "Shape", "Size",
     "Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual", "If"}
)  # fmt: skip
"""Ops that put a class's findings beside those of others; what they give is the same without the
classes that find nothing."""

WEIGHING = frozenset({"Mul", "Div", "Pow", "Mean", "MatMul", "Gemm", "Mod", "Min"})
"""Ops on a carried value to which every iteration contributes, whatever it finds."""


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


def iterate(view: View) -> list[Mark | None]:
    """Marks of the outputs of a Loop or a Scan; its facts go to ``trace.bodies``."""
    if view.op == "Scan" and view.opset < 9:
        view.refuse("classes reach a Scan of opset 8", "convert the model to a newer opset first")
    body = Body(view)
    if body.is_loop:
        control_by(view, 0, "how often it runs")
        control_by(view, 1, "whether it runs")
    known = body.scope.iterations
    body.scope.tables = {} if known is None else known.tables
    ids = classes_read(view, body)
    clean = view.trace.mark_now()
    try:
        if ids is not None:
            marks = over_classes(view, body, ids)
        else:
            try:
                marks = plainly(view, body)
            except Picked as picked:
                view.trace.go_back(clean)
                marks = over_classes(view, body, ids := picked.ids)
    finally:
        body.scope.tables = {}
    extent = known.count if known is not None and known.sure else None
    note_facts(view, body, extent if ids is None else len(view.take(ids)))
    return marks


def control_by(view: View, slot: int, what: str) -> None:
    """A trip count or condition that classes entered."""
    mark = view.marks[slot]
    if isinstance(mark, PerIteration):
        if not freed(view, mark):
            view.refuse(f"{what} depends on the class of the iteration around it")
    elif isinstance(mark, Whole) and view.op == "If":
        return
    elif mark is not None and not (isinstance(mark, Rows) and not mark.places and not mark.apart):
        view.refuse(f"{what} depends on single classes")


def note_facts(view: View, body: Body, extent: int | None) -> None:
    """Facts after the cut of the node's outputs."""
    facts = [body.scope.new(s.result) for s in body.states]
    for name, axis in body.stacks:
        fact = body.scope.new(name)
        shape = fact.shape
        if shape is not None:
            if not body.is_loop:
                extent = next((e for r in body.reads for e in [_extent(view, r)] if e), extent)
            shape = (*shape[:axis], extent, *shape[axis:])
        facts.append(Fact(shape, fact.elem_type))
    for j, fact in enumerate(facts):
        view.trace.bodies[view.place, j] = Fact(fact.shape, fact.elem_type)


def _extent(view: View, read: Read) -> int | None:
    shape = view.new[read.slot].shape
    return None if shape is None or view.marks[read.slot] is None else shape[read.axis]


# ---------------------------------------------------------------- over pictures, anchors, boxes


def plainly(view: View, body: Body) -> list[Mark | None]:
    """Marks where no iteration stands for a class."""
    given = {r.inner: sliced(view, r) for r in body.reads}
    ends, stacks = traced(view, body, given)
    for mark in stacks:
        if isinstance(mark, PerIteration):
            view.refuse("what it stacks depends on a class in a way that no rule covers")
    return [*ends, *(shifted(m, axis) for m, (_, axis) in zip(stacks, body.stacks, strict=True))]


def sliced(view: View, read: Read) -> Mark | None:
    """The mark of one slice of what a Scan reads along an axis without classes."""
    mark = view.marks[read.slot]
    if isinstance(mark, PerIteration):
        view.refuse("it reads values of each class slice by slice")
    if isinstance(mark, Columns | Labels):
        if mark.axis == read.axis:
            view.refuse("it reads columns of several kinds one by one")
        return replace(mark, axis=mark.axis - (mark.axis > read.axis))
    return replace(mark, direct=False) if isinstance(mark, Lookup) else mark


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
        and all(np.array_equal(p.new, q.new) and p.edits == q.edits
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
        take = view.take(mark.ids)
        for edit in shorten(view, state.slot, mark.axis, len(mark.ids), take):
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
                raise AssertionError from None  # pragma: no cover
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


# ----------------------------------------------------------------------------------- over classes


def classes_read(view: View, body: Body) -> Ints | None:
    """The class of each iteration of a Scan that reads scores along their class axis."""
    found = [m for r in body.reads for m in [view.marks[r.slot]]
             if isinstance(m, Labels) and m.axis == r.axis]  # fmt: skip
    if not found:
        return None
    if any(not np.array_equal(m.ids, found[0].ids) for m in found):
        view.refuse("it reads scores whose classes lie differently side by side")
    return found[0].ids


def over_classes(view: View, body: Body, ids: Ints) -> list[Mark | None]:
    """Trace the body with the class of each iteration known, and shorten the loop."""
    take, known = view.take(ids), body.scope.iterations
    if body.backwards:
        view.refuse("it goes over classes backwards")
    given: dict[str, Mark | None] = {}
    tables = dict(body.scope.tables)
    body.scope.tables = {}
    for name in [i.name for i in body.scope.graph.input]:
        read = next((r for r in body.reads if r.inner == name), None)
        if read is not None:
            given[name] = read_of(view, read, ids, take)
        elif name in tables:
            old = tuple(tables[name])
            # the first iterations stay, and work on the kept classes
            new = numbered(view, old, len(take))
            given[name] = PerIteration(ids, take, old, (IteratedOption(new),))
    ends, stacks = traced(view, body, given)
    for mark in stacks:
        if isinstance(mark, Labels):
            view.refuse("classes would lie on two axes of what it stacks")
    count_on(view, body, given)
    if body.is_loop and known is not None and known.limited:
        value = view.old[0].value
        assert value is not None  # noqa: S101  it is stored
        edit = ed.Replace(view.place, 0, np.full(value.shape, len(take), value.dtype))
        view.trace.add(edit, view)
    sure = known is None or known.sure
    marks = [ended(view, body, s, m) for s, m in zip(body.states, ends, strict=True)]
    says = any(isinstance(m, Lookup | Columns | PerIteration) for m in stacks)
    if says and len({axis for _, axis in body.stacks}) > 1:
        view.refuse("it stacks rows and their class numbers on different axes")
    for (name, axis), mark in zip(body.stacks, stacks, strict=True):
        marks.append(stack(body.scope.old(name), mark, axis, ids, plain=sure and not says))
    return marks


def stack(fact: Fact, mark: Mark | None, axis: int, ids: Ints, *, plain: bool) -> Mark | None:
    """The mark of what the iterations give side by side.

    Where the body says itself which class its rows are of, they are detections, picked out of one
    another by their places alone; else the place on the new axis is what says the class.
    """
    if isinstance(mark, PerIteration):
        return lookup_of(mark, f"stacked {id(mark)}")
    if isinstance(mark, Lookup):
        return replace(mark, direct=False)
    if isinstance(mark, Columns):
        return shifted(mark, axis)
    if plain and fact.shape is not None and not (isinstance(mark, Rows) and mark.apart):
        return Labels(axis, ids)
    return joined([mark, Rows(stacked=True)])


def ended(view: View, body: Body, state: State, mark: Mark | None) -> Mark | None:
    """The mark of a carried value after the last iteration."""
    if isinstance(mark, PerIteration):
        return last_of(body, state)
    if isinstance(mark, Labels | Lookup | Columns) or body.origin(state.result) == state.inner:
        return mark
    ops = body.between(state)
    if (mark is None and ops - GATHERING) or ops & WEIGHING:
        view.refuse(f"what it carries to its end, {state.inner!r}, is computed from every class, "
                    "and would change with their number")  # fmt: skip
    return joined([mark, Rows(stacked=True)])


def last_of(body: Body, state: State) -> Mark | None:
    """A count of iterations: another number after the cut, which nobody may use as it is."""
    mark = body.scope.mark(state.result)
    assert isinstance(mark, PerIteration)  # noqa: S101  `count_on` has looked
    old = mark.old[-1]
    options = tuple(Option(o.new[-1].reshape(-1), o.edits, o.left) for o in mark.options)
    if all(np.array_equal(o.new, old.reshape(-1)) for o in options):
        return None
    none = np.full(old.size, NONE)
    return Lookup(none, np.arange(old.size), old.reshape(-1), options, f"end of {state.inner}")


def count_on(view: View, body: Body, given: dict[str, Mark | None]) -> None:
    """Numbers that grow must come, after each iteration, to what the next one was given."""
    for state in body.states:
        before, after = given.get(state.inner), body.scope.mark(state.result)
        if not isinstance(before, PerIteration):
            continue
        new = before.options[0].new
        options = after.options if isinstance(after, PerIteration) else ()
        right = [o for o in options if _alike(o.new[:-1], new[1:])]
        choice = next((o for o in right if possible(view, o)), None)
        if choice is None:
            view.refuse("its iterations could not be numbered after the cut")
            raise AssertionError  # pragma: no cover  refuse() does not return
        commit(view, choice)


def numbered(view: View, old: tuple[Array, ...], count: int) -> tuple[Array, ...]:
    """A number of the first ``count`` iterations; it goes on as it runs where there were fewer."""
    if count <= len(old):
        return old[:count]
    step = old[1] - old[0]
    if any(not np.array_equal(b - a, step) for a, b in pairwise(old)):
        view.refuse("with more classes than it has, its iterations could not be numbered")
    return tuple((old[0] + step * k).astype(old[0].dtype) for k in range(count))


def _alike(a: Sequence[Array], b: Sequence[Array]) -> bool:
    return len(a) == len(b) and all(map(np.array_equal, a, b))


def read_of(view: View, read: Read, ids: Ints, take: Ints) -> Mark | None:
    """What a Scan over classes reads beside the scores: scores, stored values, or boxes."""
    mark, value = view.marks[read.slot], view.old[read.slot].value
    name = view.node.input[read.slot]
    if isinstance(mark, Labels) and mark.axis == read.axis:
        return Rows()
    if mark is not None:
        view.refuse(f"beside classes it reads {name!r}, which knows them in another way")
    shape = view.old[read.slot].shape
    if shape is None or shape[read.axis] != len(ids):
        view.refuse(f"how many slices of {name!r} it reads is not known")
    if not is_fixed(view.scope, name) and (
        view.new[read.slot] is not view.old[read.slot] or _made_of_counts(view, name)
    ):
        return _following(view, read, ids, take)
    if value is None or not is_fixed(view.scope, name):
        view.demand(read.slot, read.axis, ids)
        for edit in view.select(read.slot, read.axis, take):
            view.trace.add(edit, view)
        return Rows()
    old = tuple(np.moveaxis(value, read.axis, 0))
    return PerIteration(ids, take, old, tuple(_ways(view, read, value, ids, take)))


def _made_of_counts(view: View, name: str) -> bool:
    """Whether a computed value is the same for every picture."""
    value, other = view.scope.old(name).value, view.scope.twin.old(name).value
    return value is not None and other is not None and np.array_equal(value, other)


def _following(view: View, read: Read, ids: Ints, take: Ints) -> PerIteration:
    """A table made from the class count follows by itself; what it holds must be known."""
    value, now = view.old[read.slot].value, view.new[read.slot].value
    if value is None or now is None or now.shape[read.axis] != len(take):
        view.refuse(f"{view.node.input[read.slot]!r} changes with the class count, and what it holds "
                    "then is not known")  # fmt: skip
        raise AssertionError  # pragma: no cover  refuse() does not return
    old, new = (tuple(np.moveaxis(v, read.axis, 0)) for v in (value, now))
    ways = [IteratedOption(new)]
    if now.shape == value.shape:
        moved = value.take(take, read.axis)
        edit = ed.GatherInput(view.place, read.slot, read.axis, take)
        ways.append(IteratedOption(tuple(np.moveaxis(moved, read.axis, 0)), (edit,)))
    return PerIteration(ids, take, old, tuple(ways))


def _ways(view: View, read: Read, value: Array, ids: Ints, take: Ints) -> list[IteratedOption]:
    """How a stored table may follow: its slices do, or the first stay, or its ids are new."""
    slot, axis, name = read.slot, read.axis, view.node.input[read.slot]
    follow = value.take(take, axis)
    ways: list[tuple[Array, ed.Edit]] = []
    if is_stored(view.scope, name):
        ways.append((follow, ed.Select(view.place, slot, axis, take)))
    else:
        ways.append((follow, ed.Replace(view.place, slot, follow)))
    if len(take) <= len(ids):
        first = value.take(np.arange(len(take)), axis)
        ways.append((first, ed.Replace(view.place, slot, first)))
    if value.ndim == 1:
        ways += [(new, ed.Replace(view.place, slot, new))
                 for new in table_choices(view, ids, take, value)]  # fmt: skip
    options: list[IteratedOption] = []
    for new, edit in ways:
        slices = tuple(np.moveaxis(new, axis, 0))
        if not any(_alike(o.new, slices) for o in options):
            options.append(IteratedOption(slices, (edit,)))
    return options
