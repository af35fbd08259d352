"""Values that know the classes: ids, flat (box, class) indices, and what is computed from them.

A `Lookup` says which values a tensor can hold, as a table over the positions of a labelled axis,
in the original and in the cut graph. Elementwise ops are run on the two tables. Where a constant
equals the class count (or its reciprocal, or the whole extent), it may have to change with it or
may only look like it: both ways stay open as options until a use decides. A use demands that the
new values mean what the old ones meant (`meaning`), else the cut is refused.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from onnx_headcut import edits as ed
from onnx_headcut.facts import of_array
from onnx_headcut.labels import NONE, Columns, Labels, Lookup, Mark, Option, Rows, Whole
from onnx_headcut.rules.elementwise import BROADCASTING, UNARY
from onnx_headcut.trace import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from onnx_headcut.facts import Array
    from onnx_headcut.labels import Ints, IteratedOption, Selection
    from onnx_headcut.trace import View

MOST_OPTIONS = 16

NO_SLOT = 1 << 16
"""Number of an input that no node has: a filler that cannot be changed where it stands."""

FLOATS = frozenset({1, 10, 11, 16})
"""Element types float, float16, double, bfloat16."""

SHAPING = frozenset(
    {"Identity", "Squeeze", "Unsqueeze", "Reshape", "Flatten", "Transpose", "Expand", "Tile"}
)
"""Ops behind which elements still stand in the order in which they were."""

PICKING = frozenset(
    {"Gather", "GatherND", "GatherElements", "Slice", "Split", "Compress", "Pad", "TopK",
     "ReduceMax", "ReduceMin", "MaxPool", "Shape", "Size", "NonZero", "ScatterND", "ScatterElements",
     "Concat", "Where", "ConstantOfShape"}
)  # fmt: skip


def positions(view: View, labels: Labels, origin: str) -> Lookup:
    """Indices along the labelled axis: TopK, ArgMax, NonMaxSuppression, NonZero."""
    take = view.take(labels.ids)
    new = Option(np.arange(len(take)))
    return Lookup(labels.ids, take, np.arange(len(labels.ids)), (new,), origin)


def values(view: View) -> Outcome:
    """An op that `Lookup` or `Columns` reach, and no `Labels`."""
    from onnx_headcut.rules import columns, indexing  # noqa: PLC0415  they build on this module

    if any(isinstance(m, Columns) for m in view.marks):
        return columns.columns(view)
    index = view.marks[1] if len(view.marks) > 1 else None
    if view.op in {"Gather", "GatherElements", "GatherND"} and isinstance(index, Lookup):
        return indexing.gather(view)
    if view.op in UNARY or view.op in BROADCASTING:
        return elementwise(view)
    if view.op in {"Shape", "Size"}:
        return Outcome([Rows()])
    if view.op == "Concat":
        return concat(view)
    first = view.marks[0]
    if view.op in SHAPING and isinstance(first, Lookup):
        return Outcome([first])
    if view.op in {"Gather", "GatherND", "GatherElements", "Slice", "Split", "Compress"} and (
        isinstance(first, Lookup)
    ):
        return Outcome([picked(view, first)] * len(view.node.output))
    if view.op == "Pad" and isinstance(first, Lookup):
        fill = view.old[2].value if len(view.old) > 2 else None
        value = view.attrs.get("value", 0.0) if fill is None else fill.item()
        return Outcome([filled(view, picked(view, first), value, 2)])
    if view.op in {"ScatterND", "ScatterElements", "Scatter"}:
        return scatter(view)
    if view.op in {"TopK", "NonZero", "Sort", "ReduceMax", "ReduceMin"} and isinstance(first, Lookup):
        decided = decide(view, first, {"free"})
        del decided
        return Outcome([Rows()] * len(view.node.output))
    if view.op == "NonMaxSuppression":
        view.refuse("class numbers reach it as boxes or scores")
    view.refuse(f"class numbers computed in the graph reach {view.op}, and no rule says what it "
                "does with them")  # fmt: skip
    raise AssertionError  # pragma: no cover  refuse() does not return


def picked(view: View, lookup: Lookup) -> Lookup:
    """The same values in another order: no longer aligned with what they were read from."""
    trail = ",".join(view.node.input[1:])
    return replace(lookup, origin=f"{lookup.origin}[{view.op}:{trail}]", direct=False)


# -------------------------------------------------------------------------------- elementwise


def elementwise(view: View) -> Outcome:
    """Run the op on both tables, for each open option and each way its constants may change."""
    lookups = [(i, m) for i, m in enumerate(view.marks) if isinstance(m, Lookup)]
    others = [i for i, m in enumerate(view.marks) if not isinstance(m, Lookup) and view.node.input[i]]
    first = lookups[0][1]
    if view.op == "Where" and isinstance(view.marks[0], Rows | None):
        return where(view, [i for i, _ in lookups])
    if any(view.marks[i] is not None or not _scalar(view, i) for i in others) or any(
        not aligned(first, m) for _, m in lookups[1:]
    ):
        return mixed(view)
    old = compute(view, {i: m.old for i, m in lookups}, {i: view.old[i].value for i in others})
    options: list[Option] = []
    for combination in _products([m.options for _, m in lookups]):
        changes = dict(zip([i for i, _ in lookups], combination, strict=True))
        for constants, edits, left in constant_choices(view, first, others):
            merged = merge_options([*combination, Option(old, edits, left)])
            if merged is None:
                continue
            new = compute(view, {i: o.new for i, o in changes.items()}, constants)
            options.append(Option(new, merged.edits, merged.left))
    options = prune(options)
    if not options:
        view.refuse("class numbers are combined here in contradicting ways")
    return Outcome([replace(first, old=old, options=tuple(options))])


def _scalar(view: View, i: int) -> bool:
    value = view.old[i].value
    return value is not None and value.size == 1 and view.new[i].value is not None


def aligned(a: Lookup, b: Lookup) -> bool:
    """Whether elements at one place of two tensors are of one position."""
    return a.origin == b.origin and np.array_equal(a.ids, b.ids) and len(a.old) == len(b.old)


def compute(view: View, tables: dict[int, Array], constants: dict[int, Array | None]) -> Array:
    """The op on tables and scalar constants, by the reference implementation."""
    inputs: list[Array | None] = []
    for i, name in enumerate(view.node.input):
        if i in tables:
            inputs.append(tables[i].astype(_dtype(view, i)))
        else:
            value = constants.get(i)
            inputs.append(None if not name or value is None else value.reshape(()))
    return np.asarray(view.trace.interpreter.run(view.node, inputs)[0])


def _dtype(view: View, i: int) -> np.dtype[Any]:
    import onnx  # noqa: PLC0415  only for this table of types

    elem = view.old[i].elem_type
    return onnx.helper.tensor_dtype_to_np_dtype(elem) if elem else np.dtype(np.int64)


def constant_choices(
    view: View, lookup: Lookup, others: Sequence[int]
) -> Iterator[tuple[dict[int, Array | None], tuple[ed.Edit, ...], frozenset[object]]]:
    """The constants as they stand, then with those changed that look like the class count."""
    now = {i: view.new[i].value for i in others}
    keys = [(view.place, "input", i) for i in others]
    yield (
        now,
        (),
        frozenset(k for k, i in zip(keys, others, strict=True) if _counts(view, lookup, i)),
    )
    for i in others:
        if not np.array_equal(view.old[i].value, view.new[i].value):  # type: ignore[arg-type]
            continue  # follows the class count by itself
        for value in counted(lookup, view.old[i].value):
            edit = ed.Replace(view.place, i, value)
            yield {**now, i: value}, (edit,), frozenset()


def _counts(view: View, lookup: Lookup, i: int) -> bool:
    return any(True for _ in counted(lookup, view.old[i].value))


def counted(lookup: Lookup, value: Array | None) -> Iterator[Array]:
    """What a scalar that equals a class count (its negative, reciprocal, less one) would become."""
    if value is None:
        return
    n, m = len(lookup.ids), len(lookup.take)
    period = period_of(lookup.ids)
    pairs = [(period, m * period // n), (n, m)]
    if (lookup.ids == NONE).any():
        real = int((lookup.ids != NONE).sum())
        pairs.append((real, int((lookup.ids[lookup.take] != NONE).sum())))
    x = value.reshape(()).astype(np.float64)
    seen: set[float] = set()
    for before, after in pairs:
        forms: list[tuple[float, float]] = [(before, after), (-before, -after), (before - 1, after - 1)]
        if value.dtype.kind == "f":
            forms.append((1 / before, 1 / after))
            forms.append((-1 / before, -1 / after))
        for a, b in forms:
            if a not in {b, 0} and np.isclose(x, a, rtol=1e-6, atol=0) and b not in seen:
                seen.add(b)
                yield np.full(value.shape, b, value.dtype)


def period_of(ids: Ints) -> int:
    """The smallest number of positions after which ``ids`` repeat: the class count of a row."""
    n = len(ids)
    for p in range(1, n + 1):
        if n % p == 0 and np.array_equal(ids[: n - p], ids[p:]):
            return p
    return n


def prune(options: list[Option]) -> list[Option]:
    """Drop repetitions, and choices that make no difference; keep a bounded number."""
    kept: list[Option] = []
    for option in sorted(options, key=lambda o: len(o.edits)):
        if not any(_equal(o, option) for o in kept):
            kept.append(option)
    for key in sorted({k for o in kept for k in o.left}, key=str):
        kept = _without_difference(kept, key)
    return kept[:MOST_OPTIONS]


def _equal(a: Option, b: Option) -> bool:
    return np.array_equal(a.new, b.new) and a.edits == b.edits and a.left == b.left


def _without_difference(options: list[Option], key: object) -> list[Option]:
    """Where changing ``key`` and leaving it give the same values, leave it to others to decide."""
    changed = [o for o in options if any(e.key == key for e in o.edits)]
    result = []
    for option in options:
        if key in option.left:
            twins = [o for o in changed if _rest(o, key) == _rest(option, key)]
            if twins and all(np.array_equal(o.new, option.new) for o in twins):
                edits = tuple(e for e in option.edits if e.key != key)
                result.append(replace(option, edits=edits, left=option.left - {key}))
                changed = [o for o in changed if not any(o is t for t in twins)]
                continue
        result.append(option)
    merged = [o for o in result if key in o.left or not any(e.key == key for e in o.edits)]
    return merged + [o for o in result if any(o is c for c in changed)]


def _rest(option: Option, key: object) -> tuple[object, ...]:
    edits = tuple(sorted(str(e.key) for e in option.edits if e.key != key))
    return (edits, tuple(sorted(str(k) for k in option.left if k != key)))


def _products(lists: Sequence[Sequence[Option]]) -> Iterator[tuple[Option, ...]]:
    if not lists:
        yield ()
        return
    for first in lists[0]:
        for rest in _products(lists[1:]):
            yield (first, *rest)


def merge_options(options: Sequence[Option]) -> Option | None:
    """All edits together, or None where one option changes what another leaves."""
    edits: dict[object, ed.Edit] = {}
    left: frozenset[object] = frozenset().union(*(o.left for o in options))
    for option in options:
        for edit in option.edits:
            if not ed.same(edits.setdefault(edit.key, edit), edit):
                return None
    if left & set(edits):
        return None
    return Option(options[-1].new, tuple(edits.values()), left)


def mixed(view: View) -> Outcome:
    """Class numbers joined with what is found in the picture.

    Sums and products may be an index over classes and places (`indexing.flat_index` looks at it
    where it is used), or boxes moved apart by their class for one NonMaxSuppression over all.
    """
    lookups = [m for m in view.marks if isinstance(m, Lookup)]
    if all(any(is_free(m, o) and possible(view, o) for o in m.options) for m in lookups):
        for lookup in lookups:
            decide(view, lookup, {"free"})
        return Outcome([Rows(any(isinstance(m, Rows) and m.apart for m in view.marks))])
    if view.op not in {"Add", "Mul", "Sub"}:
        view.refuse("class numbers are combined here with values that are not known")
    if view.old[0].elem_type in FLOATS:
        for lookup in lookups:
            option = next((o for o in lookup.options if keeps_apart(view, lookup, o)), None)
            if option is None:
                view.refuse("numbers computed from the class count are added here to values that "
                            "are not known, and would no longer keep classes apart")  # fmt: skip
                raise AssertionError  # pragma: no cover  refuse() does not return
            commit(view, option)
    return Outcome([Rows(apart=True)])


def keeps_apart(view: View, lookup: Lookup, option: Option) -> bool:
    """Whether different classes still have different numbers."""
    new_ids = view.sel.columns_at(lookup.ids, lookup.take)
    pairs = {(int(c), float(v)) for c, v in zip(new_ids, option.new, strict=True)}
    return len({c for c, _ in pairs}) == len({v for _, v in pairs}) == len(pairs)


def where(view: View, at: list[int]) -> Outcome:
    """Where(found, labels, filler): the filler becomes a position of its own."""
    lookup = view.marks[at[0]]
    if at == [1, 2]:
        return Outcome([stacked(view, at)])
    if not isinstance(lookup, Lookup) or len(at) != 1:
        view.refuse("it chooses between two kinds of class numbers")
        raise AssertionError  # pragma: no cover
    other = 3 - at[0]
    value = view.old[other].value
    if value is None or value.size != 1 or view.marks[other] is not None:
        view.refuse("it fills class numbers up with values that are not known")
        raise AssertionError  # pragma: no cover
    return Outcome([filled(view, picked(view, lookup), value.item(), other)])


def filled(view: View, lookup: Lookup, value: float, slot: int) -> Lookup:
    """A table with one more position, without a class, that holds the filler ``value``."""
    dtype = lookup.old.dtype
    ids = np.append(lookup.ids, NONE)
    take = np.append(lookup.take, len(lookup.ids))
    old = np.append(lookup.old, np.asarray(value, dtype))
    options = []
    key = (view.place, "input", slot)
    for option in lookup.options:
        plain = Option(np.append(option.new, np.asarray(value, dtype)), option.edits, option.left)
        options.append(plain)
        stored = slot < len(view.old) and view.old[slot].value is not None
        for new in counted(lookup, np.asarray(value, dtype)) if stored else ():
            edit = ed.Replace(view.place, slot, new.reshape(view.old[slot].value.shape))  # type: ignore[union-attr]
            changed = Option(np.append(option.new, new), (*option.edits, edit), option.left)
            options[-1] = replace(plain, left=option.left | {key})
            options.append(changed)
    return Lookup(ids, take, old, tuple(options[:MOST_OPTIONS]), lookup.origin)


def concat(view: View) -> Outcome:
    """Concat of class numbers: columns of a detection table, or rows from several levels."""
    rank = view.rank(0)
    axis = view.attrs.get("axis", 0) % rank
    extents = [(f.shape or [None] * rank)[axis] for f in view.old]
    found = any(view.exact(i, axis) is None for i in range(len(extents)))
    if rank > 1 and axis == rank - 1 and all(e is not None for e in extents) and not found:
        marks: list[Mark | None] = []
        for extent, mark in zip(extents, view.marks, strict=True):
            marks += [mark] * (extent or 0)
        return Outcome([Columns(axis, tuple(marks))])
    return Outcome([stacked(view)])


def stacked(view: View, inputs: Sequence[int] | None = None) -> Lookup:
    """Class numbers from several levels, one behind the other: one table of all that occurs."""
    parts: list[tuple[Ints, Array, Array]] = []
    for i in range(len(view.marks)) if inputs is None else inputs:
        mark, value = view.marks[i], filler_of(view, i)
        if isinstance(mark, Lookup):
            option = decide(view, mark, {"ids", "free"})
            gone = np.flatnonzero(np.bincount(mark.take, minlength=len(mark.ids)) == 0)
            at = np.concatenate([mark.take, gone])
            new = np.concatenate([option.new.astype(np.float64), np.full(len(gone), np.inf)])
            parts.append((mark.ids[at], mark.old[at], new))
        elif value is not None:
            parts.append((np.full(len(value), NONE), value, value))
        else:
            view.refuse("class numbers are joined with values that are not known")
    table = np.stack([np.concatenate([np.asarray(p[k], np.float64) for p in parts])
                      for k in range(3)])  # fmt: skip
    table = distinct(table)
    new, take = table[2], np.flatnonzero(~np.isinf(table[2]))  # infinite: that value goes
    first = next(m for m in view.marks if isinstance(m, Lookup))
    if view.sel.repeated:  # copies of a class are one position before, and several after
        pairs, place = np.unique(table[:2], axis=1, return_inverse=True)
        dtype, at = first.old.dtype, place.reshape(-1)[take]
        option = Option(new[take].astype(dtype))
        return Lookup(pairs[0].astype(np.int64), at, pairs[1].astype(dtype), (option,),
                      view.node.output[0])  # fmt: skip
    ids, old = table[0].astype(np.int64), table[1]
    option = Option(new[take].astype(first.old.dtype))
    return Lookup(ids, take, old.astype(first.old.dtype), (option,), view.node.output[0])


def distinct(table: Array) -> Array:
    """Each column of a table once, in order: `numpy.unique` over an axis takes ten times as long."""
    table = table[:, np.lexsort(table[::-1])]
    first = np.ones(table.shape[1], bool)
    first[1:] = (table[:, 1:] != table[:, :-1]).any(axis=0)
    return table[:, first]


def filler_of(view: View, i: int) -> Array | None:
    """The one value that input ``i`` holds whatever is found, as ``[1]`` (or ``[0]`` if empty)."""
    if not isinstance(view.marks[i], Rows | None):
        return None
    other = view.scope.twin.old(view.node.input[i]).value
    known = [view.old[i].value, view.new[i].value, other]
    values = [np.unique(v) for v in known if v is not None]
    if len(values) < len(known) or any(len(v) > 1 or not np.array_equal(v, values[0]) for v in values):
        return None
    return values[0]


def scatter(view: View) -> Outcome:
    """Rows written into a padded tensor: the padding becomes a filler."""
    data, updates = view.marks[0], view.marks[2]
    value = view.old[0].value
    index = view.marks[1]
    if isinstance(index, Lookup):
        decide(view, index, {"free"})
    if isinstance(updates, Lookup) and data is None and value is not None:
        if len(np.unique(value)) == 1:
            return Outcome([filled(view, picked(view, updates), value.flat[0].item(), NO_SLOT)])
    elif isinstance(updates, Lookup) and isinstance(data, Lookup):
        return Outcome([written(view, data, updates)])
    elif not isinstance(updates, Lookup) and not isinstance(data, Lookup):
        return Outcome([Rows()])
    view.refuse("class numbers are written into a tensor whose other values are not known")
    raise AssertionError  # pragma: no cover


def written(view: View, data: Lookup, updates: Lookup) -> Lookup:
    """Class numbers written among others of the same table, such as those of another picture."""
    here, there = decide(view, data, {"ids", "free"}), decide(view, updates, {"ids", "free"})
    n, m = len(updates.ids), len(updates.take)
    same = (
        np.array_equal(updates.ids, data.ids[:n])
        and np.array_equal(updates.old, data.old[:n])
        and np.array_equal(updates.take, data.take[:m])
        and np.array_equal(there.new, here.new[:m])
    )
    if not same:
        view.refuse("class numbers of two conventions are written into one tensor")
    return replace(data, options=(here,))


# ----------------------------------------------------------------------------------- deciding


def is_free(lookup: Lookup, option: Option) -> bool:
    """New values equal the old ones of the same positions: no class in them."""
    old = lookup.old[lookup.take]
    if old.dtype.kind == "f":
        return bool(np.allclose(option.new, old, rtol=1e-5, atol=1e-6))
    return bool(np.array_equal(option.new, old))


def is_position(lookup: Lookup, option: Option) -> bool:
    """Values are places on the labelled axis, before and after."""
    return np.array_equal(lookup.old, np.arange(len(lookup.old))) and np.array_equal(
        option.new, np.arange(len(option.new))
    )


def offset_of(lookup: Lookup) -> float | None:
    """``o`` where every old value is its class's column + o; None where that is not so."""
    real = lookup.ids != NONE
    if not real.any():
        return None
    difference = lookup.old[real].astype(np.float64) - lookup.ids[real]
    first = float(difference[0])
    return first if np.allclose(difference, first, atol=1e-4) and first == round(first) else None


def is_ids(lookup: Lookup, option: Option, selection: Selection) -> bool:
    """Values are class ids with the same offset before and after (fillers may count classes)."""
    offset = offset_of(lookup)
    if offset is None:
        return False
    columns = selection.columns_at(lookup.ids, lookup.take)
    real, count = columns != NONE, float(len(selection.order))
    expected = columns[real] + offset
    if not np.allclose(option.new[real].astype(np.float64), expected, atol=1e-4):
        return False
    fillers = option.new[~real], lookup.old[lookup.take][~real]
    same = np.array_equal(*fillers)
    counts = all(float(v) - offset in {count, count - 1} or v == o
                 for v, o in zip(*fillers, strict=True))  # fmt: skip
    return same or counts


def decide(view: View, lookup: Lookup, kinds: set[str]) -> Option:
    """Commit the first option whose values are of one of ``kinds``; refuse if there is none."""
    tests = {
        "free": lambda o: is_free(lookup, o),
        "position": lambda o: is_position(lookup, o),
        "ids": lambda o: is_ids(lookup, o, view.sel),
    }
    for kind in ("position", "ids", "free"):
        if kind not in kinds:
            continue
        for option in lookup.options:
            if tests[kind](option) and possible(view, option):
                commit(view, option)
                return option
    view.refuse(
        "numbers computed from the class count arrive here, and no change of the class counts "
        f"found on the way gives them their meaning ({' or '.join(sorted(kinds))}) after the cut"
    )
    raise AssertionError  # pragma: no cover  refuse() does not return


def decide_output(view: View, name: str, mark: Mark | None) -> None:
    """What a graph output says: class ids in the model's own convention, or values that stay."""
    if isinstance(mark, Lookup):
        view.trace.said[name, None] = (mark, decide(view, mark, {"ids", "free"}))
    elif isinstance(mark, Columns):
        for k, column in enumerate(mark.marks):
            if isinstance(column, Lookup):
                view.trace.said[name, k] = (column, decide(view, column, {"ids", "free"}))
            else:
                decide_output(view, name, column)
    elif isinstance(mark, Rows) and mark.apart:
        view.refuse("a graph output holds values that class numbers were added to")
    elif isinstance(mark, Rows) and mark.places:
        view.refuse("a graph output says places among rows that a loop over classes stacked")
    elif isinstance(mark, Whole) and mark.cls not in view.sel.column:
        view.refuse(f"a graph output belongs to class {mark.cls} alone, which goes")


def possible(view: View, option: Option | IteratedOption) -> bool:
    """Whether an option agrees with what earlier uses decided."""
    trace = view.trace
    if any(e.key in trace.settled for e in option.edits):
        return False
    if any(key in trace.edits for key in option.left):
        return False
    return all(ed.same(trace.edits.get(e.key, e), e) for e in option.edits)


def commit(view: View, option: Option | IteratedOption) -> None:
    """Make an option's edits and remember what it leaves alone."""
    for edit in option.edits:
        view.trace.add(edit, view)
    view.trace.settled |= set(option.left)


def whole_or_rows(view: View) -> Mark:
    """The mark of a tensor made from class-dependent ones in no known pattern."""
    wholes = {m for m in view.marks if isinstance(m, Whole)}
    return wholes.pop() if len(wholes) == 1 else Rows()


__all__ = ["decide", "of_array", "positions", "values"]
