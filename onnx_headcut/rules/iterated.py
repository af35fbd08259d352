"""Loops over classes: a branch with a variable for the class.

In such a body many tensors depend on nothing but the number of the iteration: the class it works
on, slice bounds, the loop's condition. Their values are known for every iteration, before the cut
and after it (`PerIteration`). Any op on them is simply run for each iteration; a constant that
equals the class count stays an option as for a `Lookup`. Where such a value picks a class out of
the scores, it must pick the one that the new iteration stands for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnx_headcut.editing import edits as ed
from onnx_headcut.graph.facts import Fact
from onnx_headcut.graph.scope import is_fixed
from onnx_headcut.labels import (
    IteratedOption,
    Labels,
    Lookup,
    Mark,
    Option,
    PerIteration,
    Rows,
    Whole,
    copies,
    told_apart,
)
from onnx_headcut.rules import movement
from onnx_headcut.rules.deciding import commit, offset_of, possible
from onnx_headcut.rules.options import bounded, counted, same_edits
from onnx_headcut.tracing.view import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from onnx_headcut.graph.facts import Array
    from onnx_headcut.labels import Ints
    from onnx_headcut.tracing.view import View


def iterated(view: View) -> Outcome:
    """An op that `PerIteration` values reach."""
    labelled = [m for m in view.marks if isinstance(m, Labels)]
    if labelled:
        if view.op not in movement.RULES:
            view.refuse("scores of all classes meet a number of the iteration's class")
        return pick(view)
    known = all(
        isinstance(m, PerIteration) or (m is None and f.value is not None) or not n
        for m, f, n in zip(view.marks, view.old, view.node.input, strict=True)
    )
    if known:
        return compute(view)
    return among_rows(view)


def compute(view: View) -> Outcome:
    """Run the op for each iteration, before and after, for every open choice."""
    first = next(m for m in view.marks if isinstance(m, PerIteration))
    before = [run(view, view.node, [_at(m, f.value, t) for m, f in _inputs(view)])
              for t in range(len(first.ids))]  # fmt: skip
    options: list[list[IteratedOption]] = [[] for _ in view.node.output]
    count = len(first.take)
    for chosen in _combinations(view):
        for proposal, left in _choices(view, first, chosen):
            merged = _merged(chosen, proposal, left)
            if merged is None:
                continue
            edits, kept = merged
            node, facts = ed.edited(view.node, view.new, proposal)
            try:
                pairs = list(zip(chosen, facts, strict=False))
                after = [run(view, node, [_new(o, f.value, q) for o, f in pairs])
                         for q in range(count)]  # fmt: skip
            except Exception:  # noqa: BLE001  an index outside its table: not this choice
                continue
            for k, found in enumerate(options):
                new = tuple(a[k] for a in after)
                if not any(_same(new, o.new) and same_edits(o.edits, edits) for o in found):
                    found.append(IteratedOption(new, edits, kept))
    if not options[0]:
        view.refuse("it cannot be computed for the kept classes alone")
    marks = [PerIteration(first.ids, first.take, tuple(b[k] for b in before),
                          bounded(view, sorted(found, key=lambda o: len(o.edits))))
             for k, found in enumerate(options)]  # fmt: skip
    return Outcome(marks)


def _inputs(view: View) -> Iterator[tuple[Mark | None, Fact]]:
    return zip(view.marks, view.old, strict=True)


def _at(mark: Mark | None, value: Array | None, t: int) -> Array | None:
    return mark.old[t] if isinstance(mark, PerIteration) else value


def _new(option: IteratedOption | None, value: Array | None, t: int) -> Array | None:
    return value if option is None else option.new[t]


def run(view: View, node: object, inputs: Sequence[Array | None]) -> list[Array]:
    """The op by the reference implementation."""
    return view.trace.interpreter.run(node, inputs)  # type: ignore[arg-type]


def _same(a: Sequence[Array], b: Sequence[Array]) -> bool:
    return len(a) == len(b) and all(
        x.shape == y.shape and np.array_equal(x, y) for x, y in zip(a, b, strict=True)
    )


def _combinations(view: View) -> Iterator[list[IteratedOption | None]]:
    def walk(k: int) -> Iterator[list[IteratedOption | None]]:
        if k == len(view.marks):
            yield []
            return
        mark = view.marks[k]
        heads = mark.options if isinstance(mark, PerIteration) else (None,)
        for head in heads:
            for rest in walk(k + 1):
                yield [head, *rest]

    return walk(0)


def _choices(
    view: View, first: PerIteration, chosen: Sequence[IteratedOption | None]
) -> Iterator[tuple[list[ed.Edit], frozenset[object]]]:
    """The constants as they are, and each with the class count put right or its rows moved."""
    counts = Lookup(first.ids, first.take, np.arange(len(first.ids)), ())
    numbers: list[tuple[int, Array]] = []
    for i, mark in enumerate(view.marks):
        value = view.old[i].value
        scalar = mark is None and view.node.input[i] and value is not None and value.size == 1
        if scalar and is_fixed(view.scope, view.node.input[i]):
            numbers += [(i, v) for v in counted(counts, value)]
    tables = [(0, v) for v in _tables_read(view, first, chosen)]
    if view.op == "Equal":
        tables += [(i, v) for i, v in _class_asked_for(view, first, chosen)]
    yield [], frozenset((view.place, "input", i) for i, _ in numbers + tables)
    for i, value in numbers + tables:
        yield [ed.Replace(view.place, i, value)], frozenset()


def _class_asked_for(
    view: View, first: PerIteration, chosen: Sequence[IteratedOption | None]
) -> Iterator[tuple[int, Array]]:
    """A stored number that the iteration's is compared with: the same class's new number."""
    for k in (0, 1):
        mark, option, value = view.marks[k], chosen[k], view.old[1 - k].value
        stored = value is not None and value.size == 1 and is_fixed(view.scope, view.node.input[1 - k])
        if not isinstance(mark, PerIteration) or option is None or value is None or not stored:
            continue
        if any(v.size != 1 for v in (*mark.old, *option.new)):
            continue
        new = [v.item() for v in option.new]
        asked = {n for p, n in zip(first.take, new, strict=True) if mark.old[p].item() == value.item()}
        if len(asked) < 2:  # of a class that goes, a number that no iteration has
            yield 1 - k, np.full(value.shape, asked.pop() if asked else max(new) + 1, value.dtype)


def _tables_read(
    view: View, first: PerIteration, chosen: Sequence[IteratedOption | None]
) -> Iterator[Array]:
    """A stored table read by the number of the iteration: its rows follow, or its ids are new."""
    stored = view.old[0].value
    reads = view.op in {"Gather", "Slice"} and view.marks[0] is None and stored is not None
    if not reads or stored is None or not is_fixed(view.scope, view.node.input[0]):
        return
    found = [(a, r) for a in range(stored.ndim) for r in [_places_read(view, first, chosen, stored, a)]]
    moving = [(a, r) for a, r in found if r is not None and any(_differ(r[0]))]
    if len(moving) != 1:
        return
    axis, (old, new) = moving[0]
    if any(n.shape != old[p].shape for n, p in zip(new, first.take, strict=True)):
        return
    # a row that no iteration reads stays what it is; where classes are more than there were, it is new
    rows = np.minimum(np.arange(max(int(n.max(initial=0)) for n in new) + 1), stored.shape[axis] - 1)
    for places, p in zip(new, first.take, strict=True):
        rows[places] = old[p]
    if any(not np.array_equal(rows[n], old[p]) for n, p in zip(new, first.take, strict=True)):
        return
    yield stored.take(rows, axis)
    if stored.ndim == 1 and all(n.size == 1 for n in (*old, *new)):
        offset = _offset(first.ids, stored[np.array([o.item() for o in old])])
        if offset is not None:
            ids = stored.take(rows)
            columns = view.sel.columns_at(first.ids, first.take)
            ids[np.array([n.item() for n in new])] = columns + offset
            yield ids


def _places_read(
    view: View,
    first: PerIteration,
    chosen: Sequence[IteratedOption | None],
    stored: Array,
    axis: int,
) -> tuple[list[Array], list[Array]] | None:
    """Which places of an axis each iteration reads, before and after; None where it reads none."""
    count, extent = len(first.take), stored.shape[axis]
    line = [-1 if a == axis else 1 for a in range(stored.ndim)]

    def read(size: int, rest: list[Array | None]) -> Array:
        shape = [size if a == axis else d for a, d in enumerate(stored.shape)]
        numbers = np.broadcast_to(np.arange(size).reshape(line), shape)
        return run(view, view.node, [np.ascontiguousarray(numbers), *rest])[0]

    pairs = list(zip(chosen[1:], view.new[1:], strict=True))
    try:
        old = [read(extent, _rest(view, t)) for t in range(len(first.ids))]
        # as many places as there may be: which of them are read is what is asked
        new = [read(extent + count, [_new(o, f.value, q) for o, f in pairs]) for q in range(count)]
    except Exception:  # noqa: BLE001  an index outside its table, or one that is not known
        return None
    return (old, new) if all(o.size for o in old) and all(n.size for n in new) else None


def _differ(values: Sequence[Array]) -> Iterator[bool]:
    return (not np.array_equal(values[0], v) for v in values[1:])


def table_choices(view: View, ids: Ints, take: Ints, values: Array) -> Iterator[Array]:
    """Values of iterations that are their class's column and a constant, with the new columns."""
    offset = _offset(ids, values)
    if offset is not None:
        yield (view.sel.columns_at(ids, take) + offset).astype(values.dtype)


def _offset(ids: Ints, values: Array) -> float | None:
    return None if values.dtype.kind not in "iuf" else offset_of(Lookup(ids, ids, values, ()))


def _merged(
    chosen: Sequence[IteratedOption | None], proposal: list[ed.Edit], left: frozenset[object]
) -> tuple[tuple[ed.Edit, ...], frozenset[object]] | None:
    edits: dict[object, ed.Edit] = {}
    kept = left
    for option in chosen:
        if option is not None:
            kept |= option.left
    for edit in [*(e for o in chosen if o is not None for e in o.edits), *proposal]:
        if not ed.same(edits.setdefault(edit.key, edit), edit):
            return None
    return None if kept & set(edits) else (tuple(edits.values()), kept)


# ------------------------------------------------------------------------------------- uses


def pick(view: View) -> Outcome:
    """Slice or Gather one class out of the scores, by the number of the iteration."""
    labels = view.labels(0)
    shape = view.shape(0)
    numbers = np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape)
    left = told_apart(numbers, view.take(labels.ids), labels.axis, numbers.size)
    first = next(m for m in view.marks if isinstance(m, PerIteration))
    before = [run(view, view.node, [numbers, *_rest(view, t)])[0] for t in range(len(first.ids))]
    for chosen in _combinations(view):
        merged = _merged(chosen, [], frozenset())
        if merged is None:
            continue
        option = IteratedOption((), *merged)
        try:
            after = [
                run(view, view.node, [left, *(_new(o, f.value, q) for o, f in
                                              zip(chosen[1:], view.new[1:], strict=True))])[0]
                for q in range(len(first.take))
            ]  # fmt: skip
        except Exception:  # noqa: BLE001  outside the shortened axis: not this choice
            continue
        wanted = [before[p] + numbers.size * k
                  for p, k in zip(first.take, copies(first.take), strict=True)]  # fmt: skip
        if _same(after, wanted) and possible(view, option):
            commit(view, option)
            # inference cannot see how much a computed bound leaves
            view.trace.bodies[view.place, 0] = Fact(after[0].shape, view.old[0].elem_type)
            return Outcome([Rows()])
    view.refuse("the iterations that stay would pick other classes")


def _rest(view: View, t: int) -> list[Array | None]:
    return [_at(m, f.value, t) for m, f in list(zip(view.marks, view.old, strict=True))[1:]]


def classes_of(view: View, labels: Labels, tables: dict[str, list[Array]]) -> Ints | None:
    """The class that each iteration picks out of labelled scores; None if it picks several."""
    shape = view.shape(0)
    numbers = np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape)
    count = len(next(iter(tables.values())))
    classes = []
    for t in range(count):
        inputs = [tables[n][t] if n in tables else f.value
                  for n, f in zip(view.node.input[1:], view.old[1:], strict=True)]  # fmt: skip
        picked = run(view, view.node, [numbers, *inputs])[0]
        mark = movement.mark_of(view, picked, labels, shape)
        if not isinstance(mark, Whole):
            return None
        classes.append(mark.cls)
    return np.array(classes)


def all_classes(view: View, labels: Labels, tables: dict[str, list[Array]]) -> Labels | None:
    """The labels of what an iteration reads, where that is all classes in each of them."""
    shape = view.shape(0)
    numbers = np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape)
    found: Labels | None = None
    for t in range(len(next(iter(tables.values())))):
        inputs = [tables[n][t] if n in tables else f.value
                  for n, f in zip(view.node.input[1:], view.old[1:], strict=True)]  # fmt: skip
        mark = movement.mark_of(view, run(view, view.node, [numbers, *inputs])[0], labels, shape)
        if not isinstance(mark, Labels) or not np.array_equal(mark.ids, labels.ids):
            return None
        if found is not None and not found.same(mark):
            return None
        found = mark
    return found


def among_rows(view: View) -> Outcome:
    """What is known of each iteration meets the picture: from here on it is a `Lookup`.

    In its iteration a class's value stands in every place alike, so tables of one iteration may be
    combined one by one.
    """
    from onnx_headcut.rules.values import values  # noqa: PLC0415  its rules see the new marks

    index = view.marks[1] if len(view.marks) > 1 else None
    if isinstance(index, PerIteration) and view.op.startswith("Gather"):
        if view.marks[0] is not None or not freed(view, index):
            view.refuse("it reads the picture by the number of the iteration")
        return Outcome([Rows()])
    if view.op in {"Shape", "Size"}:
        return Outcome([None])
    if view.op in {"Loop", "If", "Scan"}:
        view.refuse("its bodies see the number of the iteration")
    if view.op == "Expand" and isinstance(view.marks[1], PerIteration):
        view.refuse("how large it is depends on the class of the iteration")
    view.marks = [
        lookup_of(m, f"iteration of {view.scope.place}" if m.old[0].size == 1 else f"{n} in it")
        if isinstance(m, PerIteration) else m
        for m, n in zip(view.marks, view.node.input, strict=True)
    ]  # fmt: skip
    return values(view)


def lookup_of(mark: PerIteration, origin: str) -> Lookup:
    """The values that occur in the iterations, as a table over classes."""
    sizes = {v.size for v in [*mark.old, *(v for o in mark.options for v in o.new)]}
    if len(sizes) != 1:
        raise ValueError(f"{origin} is longer in some iterations than in others")
    size = sizes.pop()
    ids = np.repeat(mark.ids, size)
    take = (mark.take[:, None] * size + np.arange(size)).reshape(-1)
    options = tuple(Option(_flat(o.new), o.edits, o.left) for o in mark.options)
    return Lookup(ids, take, _flat(mark.old), options, origin)


def _flat(values: Sequence[Array]) -> Array:
    return np.concatenate([np.asarray(v).reshape(-1) for v in values])


def freed(view: View, mark: PerIteration) -> bool:
    """Commit to new values that are each class's old ones; whether that can be."""
    for option in mark.options:
        wanted = [mark.old[p] for p in mark.take]
        if _same(option.new, wanted) and possible(view, option):
            commit(view, option)
            return True
    return False


def decide_condition(view: View, mark: Mark | None) -> None:
    """The loop's condition: true until the last iteration, then as it was before."""
    if not isinstance(mark, PerIteration):
        return
    wanted = [bool(v) for v in mark.old]
    inner, last = all(wanted[:-1]), wanted[-1]
    for option in mark.options:
        new = [bool(v) for v in option.new]
        if inner and all(new[:-1]) and new[-1] == last and possible(view, option):
            commit(view, option)
            return
    view.refuse("its condition would end the loop too early or too late")


__all__ = ["all_classes", "classes_of", "decide_condition", "freed", "iterated", "lookup_of"]
