"""Loops over classes: the body is traced for every iteration at once, and runs less often.

A Loop is over classes where its iterations pick a class each out of the scores around it, a Scan
also where it reads the scores along their class axis. Then iteration ``q`` of the cut is the one
that was ``take[q]``, and whatever leaves the body says which class it is of by its place: what is
stacked carries classes along its new axis, what is carried to the end has seen them all.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from onnx_headcut.editing import edits as ed
from onnx_headcut.graph.ops import UNARY
from onnx_headcut.graph.scope import is_fixed, is_stored
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
)
from onnx_headcut.rules.bodies import shifted, traced
from onnx_headcut.rules.deciding import commit, possible
from onnx_headcut.rules.iterated import lookup_of, table_choices
from onnx_headcut.rules.stacked import joined

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx_headcut.graph.facts import Array, Fact
    from onnx_headcut.labels import Ints
    from onnx_headcut.rules.bodies import Body, Read, State
    from onnx_headcut.tracing.view import View

JOINING = frozenset(
    {"Identity", "Cast", "Concat", "Max", "And", "Or", "Where", "Unsqueeze", "ScatterND",
     "ScatterElements", "Scatter"}
)  # fmt: skip
"""Ops that put what an iteration gives beside what was there, however many of them there are."""

LASTING = frozenset({"Identity", "Cast", "CastLike", "Clip", "Relu", "Abs", "Floor", "Ceil", "Round"})
"""Of the ops on one value those that change nothing when they are done again."""

WEIGHING = frozenset({"Mul", "Div", "Pow", "Mean", "MatMul", "Gemm", "Mod", "Min", *UNARY} - LASTING)
"""Ops on a carried value to which every iteration contributes, whatever it finds."""


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
        if isinstance(mark, PerIteration):
            same = next(k for k, m in enumerate(stacks) if m is mark)  # stacked twice, it is one table
            marks.append(lookup_of(mark, f"stacked {view.place} {same}"))
        else:
            marks.append(stack(body.scope.old(name), mark, axis, ids, plain=sure and not says))
    return marks


def stack(fact: Fact, mark: Mark | None, axis: int, ids: Ints, *, plain: bool) -> Mark | None:
    """The mark of what the iterations give side by side.

    Where the body says itself which class its rows are of, they are detections, picked out of one
    another by their places alone; else the place on the new axis is what says the class.
    """
    if isinstance(mark, Lookup):
        return replace(mark, direct=False)
    if isinstance(mark, Columns):
        return shifted(mark, axis)
    if plain and fact.shape is not None and not (isinstance(mark, Rows) and mark.numbered):
        return Labels(axis, ids)
    return joined([mark, Rows(stacked=True)])


def ended(view: View, body: Body, state: State, mark: Mark | None) -> Mark | None:
    """The mark of a carried value after the last iteration."""
    if isinstance(mark, PerIteration):
        return last_of(body, state)
    if isinstance(mark, Labels | Lookup | Columns) or body.origin(state.result) == state.inner:
        return mark
    ops = body.between(state)
    if (mark is None and ops - JOINING) or ops & WEIGHING:
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
