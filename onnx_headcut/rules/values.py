"""Values that know the classes: ids, flat (box, class) indices, and what is computed from them.

A `Lookup` says which values a tensor can hold, as a table over the positions of a labelled axis,
in the original and in the cut graph. Elementwise ops are run on the two tables. Where a constant
equals the class count (or its reciprocal, or the whole extent), it may have to change with it or
may only look like it: both ways stay open as `options` until a use decides (`deciding`).
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto

from onnx_headcut.graph.ops import BROADCASTING, UNARY
from onnx_headcut.labels import Columns, Labels, Lookup, Option, Rows
from onnx_headcut.rules.deciding import commit, decide, is_free, possible
from onnx_headcut.rules.joining import concat, filled, picked, scatter, where
from onnx_headcut.rules.options import bounded, constant_choices, merge_options, prune
from onnx_headcut.rules.stacked import joined
from onnx_headcut.tracing.view import Outcome

if TYPE_CHECKING:
    from onnx_headcut.graph.facts import Array
    from onnx_headcut.tracing.view import View

MOST_PAIRS = 1 << 24
"""Comparisons of one number with another that are looked at."""

FLOATS = frozenset({1, 10, 11, 16})
"""Element types float, float16, double, bfloat16."""

SHAPING = frozenset(
    {"Identity", "Squeeze", "Unsqueeze", "Reshape", "Flatten", "Transpose", "Expand", "Tile"}
)
"""Ops behind which elements still stand in the order in which they were."""


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
    if view.op in {"ScatterND", "ScatterElements", "Scatter"}:
        return scatter(view)
    first = view.marks[0]
    return picking(view, first) if isinstance(first, Lookup) else limited(view)


def picking(view: View, first: Lookup) -> Outcome:
    """Ops that move, pick, pad or compare class numbers."""
    if view.op in SHAPING:
        return Outcome([first])
    if view.op in {"Gather", "GatherND", "GatherElements", "Slice", "Split", "Compress"}:
        return Outcome([picked(view, first)] * len(view.node.output))
    if view.op == "Pad":
        fill = view.old[2].value if len(view.old) > 2 else None
        value = view.attrs.get("value", 0.0) if fill is None else fill.item()
        return Outcome([filled(view, picked(view, first), value, 2)])
    if view.op == "NonZero":
        return true_ones(view, first)
    if view.op in {"TopK", "Sort", "ReduceMax", "ReduceMin"}:
        decide(view, first, {"free"})
        return Outcome([Rows()] * len(view.node.output))
    return limited(view)


def true_ones(view: View, first: Lookup) -> Outcome:
    """Rows whose number is not 0: those of the background (Paddle's), or what a comparison says."""
    kept = first.old[first.take] != 0
    for option in first.options:
        if np.array_equal(option.new != 0, kept) and possible(view, option):
            commit(view, option)
            return Outcome([Rows()])
    view.refuse(
        "it leaves out rows whose class number is 0, and after the cut that is another class's",
        "keep that class, too, or say that it is the background with --background",
    )
    raise AssertionError  # pragma: no cover  refuse() does not return


LIMITS = {"TopK": (1,), "NonMaxSuppression": (2, 3, 4), "Clip": (1, 2)}
"""Inputs that say how many, or from which score on."""


def limited(view: View) -> Outcome:
    """A ``k`` or a threshold of each class, read from a table: it stays with its class."""
    at = [i for i, m in enumerate(view.marks) if isinstance(m, Lookup)]
    if at and set(at) <= set(LIMITS.get(view.op, ())):
        for i in at:
            mark = view.marks[i]
            assert isinstance(mark, Lookup)  # noqa: S101  they were looked for
            decide(view, mark, {"free"})
        return Outcome([Rows()] * len(view.node.output))
    if view.op == "NonMaxSuppression":
        view.refuse("class numbers reach it as boxes or scores")
    view.refuse(f"class numbers computed in the graph reach {view.op}, and no rule says what it "
                "does with them")  # fmt: skip


def elementwise(view: View) -> Outcome:
    """Run the op on both tables, for each open option and each way its constants may change."""
    lookups = [(i, m) for i, m in enumerate(view.marks) if isinstance(m, Lookup)]
    others = [i for i, m in enumerate(view.marks) if not isinstance(m, Lookup) and view.node.input[i]]
    first = lookups[0][1]
    if view.op == "Where" and isinstance(view.marks[0], Rows | None):
        return where(view, [i for i, _ in lookups])
    if any(view.old[i].elem_type == TensorProto.STRING for i, _ in lookups):
        view.refuse("names of classes reach it, and are known only as being different")
    if len(lookups) == 2 and (
        crossed(view) or (view.op == "Equal" and not aligned(first, lookups[1][1]))
    ):
        return pairs(view)
    if any(view.marks[i] is not None or not _scalar(view, i) for i in others) or any(
        not aligned(first, m) for _, m in lookups[1:]
    ):
        return mixed(view)
    old = compute(view, {i: m.old for i, m in lookups}, {i: view.old[i].value for i in others})
    options: list[Option] = []
    for combination in product(*(m.options for _, m in lookups)):
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
    return Outcome([replace(first, old=old, options=bounded(view, options))])


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


def mixed(view: View) -> Outcome:
    """Class numbers joined with what is found in the picture.

    Sums and products may be an index over classes and places (`indexing.flat_index` looks at it
    where it is used), or boxes moved apart by their class for one NonMaxSuppression over all.
    """
    lookups = [m for m in view.marks if isinstance(m, Lookup)]
    if all(any(is_free(m, o) and possible(view, o) for o in m.options) for m in lookups):
        for lookup in lookups:
            decide(view, lookup, {"free"})
        return Outcome([joined(view.marks)])
    if view.op not in {"Add", "Mul", "Sub"}:
        view.refuse("class numbers are combined here with values that are not known")
    if view.old[0].elem_type in FLOATS:
        for lookup in lookups:
            option = next((o for o in lookup.options if keeps_apart(view, lookup, o)), None)
            if option is None:
                view.refuse("numbers computed from the class count are added here to values that "
                            "are not known, and would no longer keep classes apart")  # fmt: skip
            commit(view, option)
    return Outcome([Rows(apart=view.node.output[0])])


def crossed(view: View) -> bool:
    """Whether two inputs are stretched over one another: each row meets every other."""
    a, b = (f.shape for f in view.old[:2])
    if a is None or b is None or len(view.old) > 2:
        return False
    met = list(zip(a[::-1], b[::-1], strict=False))
    return any(m == 1 != n for m, n in met) and any(n == 1 != m for m, n in met)


def pairs(view: View) -> Outcome:
    """Class numbers of every row against those of every other: alike or not, or how far apart."""
    lookups = [m for m in view.marks if isinstance(m, Lookup)]
    free = [[o for o in m.options if is_free(m, o) and possible(view, o)] for m in lookups]
    if all(free):
        for options in free:
            commit(view, options[0])
        return Outcome([Rows()])
    if view.op not in {"Equal", "Sub"}:
        view.refuse("class numbers of different rows are compared here by more than their being alike")
    if view.op == "Equal":
        alike(view, *lookups)
        return Outcome([Rows()])
    for lookup in lookups:
        option = next((o for o in lookup.options if keeps_apart(view, lookup, o)
                       and possible(view, o)), None)  # fmt: skip
        if option is None:
            view.refuse("class numbers are compared here in a way that would not keep classes apart")
        commit(view, option)
    return Outcome([Rows(paired=True)])


def alike(view: View, a: Lookup, b: Lookup) -> None:
    """Numbers that were alike have to be alike after the cut, and no others; copies are not alike."""
    for one, other in product(a.options, b.options):
        rows, columns = _numbers(view, a, one)[..., None], _numbers(view, b, other)[:, None]
        if rows.size * columns.size > MOST_PAIRS:
            view.refuse("too many numbers are compared with one another here")
        old, cls, column, new = (r == c for r, c in zip(rows, columns, strict=True))
        both = merge_options([one, other])
        if np.array_equal(new, old & (column | ~cls)) and both is not None and possible(view, both):
            commit(view, both)
            return
    view.refuse("class numbers are compared here in a way that would not keep classes apart")


def _numbers(view: View, lookup: Lookup, option: Option) -> Array:
    """Of each number that stays, once: itself, its class, the class's new column, the new number."""
    column = view.sel.columns_at(lookup.ids, lookup.take)
    known = [lookup.old[lookup.take], lookup.ids[lookup.take], column, option.new]
    return np.asarray(np.unique(np.stack(known).astype(np.float64), axis=1))


def keeps_apart(view: View, lookup: Lookup, option: Option) -> bool:
    """Whether different classes still have different numbers."""
    new_ids = view.sel.columns_at(lookup.ids, lookup.take)
    pairs = {(int(c), float(v)) for c, v in zip(new_ids, option.new, strict=True)}
    return len({c for c, _ in pairs}) == len({v for _, v in pairs}) == len(pairs)
