"""Reading by index: Gather, GatherElements and GatherND, where data or indices know the classes."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from onnx_headcut.editing import edits as ed
from onnx_headcut.graph.scope import is_fixed
from onnx_headcut.labels import NONE, Columns, Labels, Lookup, Option, Rows, Whole, copies
from onnx_headcut.rules import beside, movement
from onnx_headcut.rules.deciding import (
    commit,
    decide,
    is_free,
    is_ids,
    is_position,
    offset_of,
    possible,
)
from onnx_headcut.rules.joining import picked
from onnx_headcut.rules.options import counted, merge_options, period_of
from onnx_headcut.tracing.operands import select
from onnx_headcut.tracing.view import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from onnx_headcut.graph.facts import Array
    from onnx_headcut.graph.scope import Scope
    from onnx_headcut.labels import Ints
    from onnx_headcut.tracing.view import View


def _notice_iteration(view: View) -> None:
    """Raise PicksByIteration where a Loop's number picks a class."""
    if isinstance(view.marks[0], Labels) and view.node.input[1] in view.scope.tables:
        raise movement.PicksByIteration


def labelled_gather(view: View) -> Outcome:
    """Gather and relatives where data or indices carry `Labels`."""
    data, index = view.marks[0], view.marks[1]
    _notice_iteration(view)
    axis = view.attrs.get("axis", 0) % view.rank(0)
    if isinstance(data, Labels) and index is None and is_fixed(view.scope, view.node.input[1]):
        return movement.movement(view)
    if isinstance(data, Labels) and isinstance(index, Labels):
        if view.op == "GatherElements" and data.same(index) and data.axis != axis:
            return Outcome([data])
        view.refuse("classes of its data and of its indices lie differently")
    if isinstance(index, Labels):
        return indices_by_class(view, index, axis)
    assert isinstance(data, Labels)  # noqa: S101  one of the two carries labels
    if view.op == "GatherND":
        return nd(view, data)
    if axis == data.axis:
        if isinstance(index, Lookup):
            take_position(view, index, data)
            return Outcome([Rows()])
        if isinstance(index, Rows) and view.op == "Gather":
            return flat_index(view, data)
        view.refuse("it picks classes by indices that are computed from the picture")
    if isinstance(index, Lookup):
        decide(view, index, {"free"})
    if view.op == "GatherElements":
        index_shape = view.old[1].shape
        if index_shape is not None and index_shape[data.axis] != len(data.ids):
            view.refuse("its indices do not cover the class axis")
        # every class reads the same rows: indices that were copied for each class
        return Outcome([data], view.select(1, data.axis, view.take(data.ids)))
    shift = view.rank(1) - 1 if axis < data.axis else 0
    return Outcome([Labels(data.axis + shift, data.ids)])


def indices_by_class(view: View, index: Labels, axis: int) -> Outcome:
    """Unlabelled data (boxes) read by indices that each class has of its own."""
    if view.op == "Gather":
        return Outcome([Labels(index.axis + axis, index.ids)])
    if view.op == "GatherElements":
        if index.axis == axis:
            return Outcome([index])
        if (view.old[0].shape or ())[index.axis] != 1:
            return Outcome([index], view.select(0, index.axis, view.take(index.ids)))
    view.refuse("its indices carry classes in a way that no rule covers")


def flat_index(view: View, data: Labels) -> Outcome:
    """An index put together as ``class * stride + place + batch * ...`` into flattened scores.

    The sum is read back to its terms; with their factors before and after the cut, every index
    that they can form must pick the element it picked before.
    """
    take = view.take(data.ids)
    found = [terms_of(view), terms_of(view, data.ids)]
    for option, (factors, lookup, others, edits) in product(found[0][1].options, found):
        ranks, own = copies(take), copies(lookup.take)
        old_rest, new_rest = places(others, _stride(data.ids), len(data.ids))
        old = (factors[0] * lookup.old[lookup.take])[:, None] + old_rest[None]
        new = (factors[1] * option.new)[:, None] + new_rest[None]
        old, new = old.astype(np.int64).ravel(), new.astype(np.int64).ravel()
        inside = (new >= 0).all() and (new < len(take)).all() and (old < len(data.ids)).all()
        copy = np.repeat(own, len(new) // max(1, len(own)))
        same = inside and np.array_equal(take[new], old) and np.array_equal(ranks[new], copy)
        whole = merge_options([option, Option(option.new, edits)])
        if same and whole is not None and possible(view, whole):
            commit(view, whole)
            return Outcome([Rows()])
    view.refuse("its index over classes and places would pick other elements after the cut")


def flat_demand(view: View) -> None:
    """Such an index into data without labels (masks): ask for labels on the flattened axis."""
    axis = view.attrs.get("axis", 0) % view.rank(0)
    extent = view.shape(0)[axis]
    factors, lookup, others, _ = terms_of(view)
    ids = np.full(extent, NONE)
    rest, _ = places(others, factors[0] or 1, extent)
    at = ((factors[0] * lookup.old)[:, None] + rest[None]).astype(np.int64)
    classes = np.broadcast_to(lookup.ids[:, None], at.shape)
    inside = (at >= 0) & (at < extent)
    ids[at[inside]] = classes[inside]
    view.demand(0, axis, ids)
    view.refuse("it reads the picture's features by an index that classes entered")


Factors = tuple[int, int]
"""Of a term of an index: before and after the cut."""


def terms_of(
    view: View, counted: Ints | None = None
) -> tuple[Factors, Lookup, list[Factors], tuple[ed.Edit, ...]]:
    """The class term of the index with its factors, and the factors of the others, largest first.

    Stored factors that are the class count of an axis with the ids ``counted`` become the new
    count, by the edits that are given then.
    """
    edits: list[ed.Edit] = []
    count = None
    if counted is not None:
        before = period_of(counted)
        count = before, len(view.take(counted)) * before // len(counted)
    terms = affine(view.scope, view.node.input[1], count, edits)
    found = [(t, m) for t in terms for m in [view.scope.mark(t)] if isinstance(m, Lookup)]
    if len(found) != 1:
        view.refuse("it picks classes by indices that are computed from the picture")
    name, lookup = found[0]
    others = sorted((f for t, f in terms.items() if t != name), reverse=True)
    return terms[name], lookup, others, tuple(edits)


def places(others: list[Factors], stride: int, extent: int) -> tuple[Ints, Ints]:
    """All sums of the other terms, before and after: each runs up to the next larger factor.

    Terms below ``stride`` (that of a class's run) count places inside the run, those above it
    count what lies around (pictures of a batch).
    """
    spans, top = [], extent
    for before, _ in others:
        limit = stride if before < stride else top
        spans.append(max(limit // max(before, 1), 1))
        top = before
    grids = np.meshgrid(*(np.arange(n) for n in spans), indexing="ij") if spans else []
    sums = [np.zeros(1, np.int64), np.zeros(1, np.int64)]
    for grid, factors in zip(grids, others, strict=True):
        sums = [s + grid.ravel() * f for s, f in zip(sums, factors, strict=True)]
    return sums[0], sums[1]


def _stride(ids: Ints) -> int:
    """Positions from the start of one class's run to its end."""
    change = np.flatnonzero(ids[1:] != ids[:-1])
    return int(change[0]) + 1 if change.size else len(ids)


def affine(scope: Scope, name: str, count: Factors | None, edits: list[ed.Edit]) -> dict[str, Factors]:
    """``name`` as a sum of tensors times factors, each factor before and after the cut.

    A stored factor that is ``count[0]`` becomes ``count[1]``, by an edit, where nothing else is made
    of the product.
    """
    node = scope.node_of(name)
    if name in scope.index.outputs or len(scope.index.consumers.get(name, ())) != 1:
        count = None
    if node is None or isinstance(scope.mark(name), Lookup):
        return {name: (1, 1)}
    if node.op_type in {"Cast", "Identity", "Squeeze", "Unsqueeze", "Reshape", "Flatten"}:
        return affine(scope, node.input[0], count, edits)
    if node.op_type in {"Add", "Sub"}:
        total = dict(affine(scope, node.input[0], count, edits))
        sign = 1 if node.op_type == "Add" else -1
        for term, (a, b) in affine(scope, node.input[1], count, edits).items():
            before = total.get(term, (0, 0))
            total[term] = (before[0] + sign * a, before[1] + sign * b)
        return total
    if node.op_type == "Mul":
        for k in (0, 1):
            old, new = scope.old(node.input[k]).value, scope.new(node.input[k]).value
            if old is not None and new is not None and old.size == new.size == 1:
                rest = affine(scope, node.input[1 - k], count, edits)
                a, b = int(old.item()), int(new.item())
                home = scope.home(node.output[0])
                if count is not None and (a, b) == (count[0], count[0]) and home is not None:
                    b = count[1]
                    place = (*home[0].place, home[1])
                    edits.append(ed.Replace(place, k, np.full(old.shape, b, old.dtype)))
                return {t: (f[0] * a, f[1] * b) for t, f in rest.items()}
    return {name: (1, 1)}


def take_position(view: View, index: Lookup, data: Labels) -> None:
    """Indices into a labelled axis must pick, after the cut, the element they picked before."""
    take = view.take(data.ids)
    for option in index.options:
        old, new = index.old[index.take].astype(np.int64), option.new.astype(np.int64)
        inside = (new < len(take)).all() and (new >= 0).all() and (old < len(data.ids)).all()
        same = inside and np.array_equal(take[new], old)
        same = same and np.array_equal(copies(take)[new], copies(index.take))
        if same and possible(view, option):
            commit(view, option)
            return
    view.refuse("its indices would pick other classes after the cut")


def nd(view: View, data: Labels) -> Outcome:
    """GatherND from a labelled tensor: the index column of the class axis must be a class column."""
    index = view.marks[1]
    batch = view.attrs.get("batch_dims", 0)
    width = (view.old[1].shape or (None,))[-1]
    if isinstance(index, Columns) and index.axis == view.rank(1) - 1:
        columns = index.marks
    elif width == 1:
        columns = (index,)
    else:
        columns = ()
    if not columns or data.axis < batch:
        view.refuse("which of its index columns picks the class is not known")
    for k, mark in enumerate(columns):
        if k + batch == data.axis:
            if not isinstance(mark, Lookup):
                view.refuse("it picks classes by indices that are computed from the picture")
            take_position(view, mark, data)
        elif isinstance(mark, Lookup):
            decide(view, mark, {"free"})
    if len(columns) + batch <= data.axis:
        # whole class vectors are read
        shift = view.rank(1) - 1 - len(columns)
        return Outcome([Labels(data.axis + shift, data.ids)])
    return Outcome([Rows()])


def gather(view: View) -> Outcome:
    """Gather from data without labels by indices that know the classes."""
    index = view.marks[1]
    assert isinstance(index, Lookup)  # noqa: S101  the caller looked
    axis = view.attrs.get("axis", 0) % view.rank(0) if view.op != "GatherND" else 0
    data = view.marks[0]
    if isinstance(data, Lookup):
        if data.direct and np.array_equal(data.ids, index.ids):
            return through_table(data, index)
        decide(view, index, {"free"})
        return Outcome([picked(view, data)])
    stored = view.old[0].value if is_fixed(view.scope, view.node.input[0]) else None
    numbers = stored is not None and _holds_ids(index, stored, axis)
    if not numbers and any(is_free(index, o) and possible(view, o) for o in index.options):
        decide(view, index, {"free"})
        return Outcome([Rows()])
    if stored is not None and (_is_line(stored, axis) or view.op == "Gather"):
        return table(view, index, axis)
    if view.old[0].value is not None and view.new[0].value is not None:
        return computed_table(view, index, axis)
    extent = (view.old[0].shape or ())[axis]
    if extent is not None:
        view.demand(0, axis, ids_along(index, extent))
    if any(is_position(index, o) for o in index.options):
        decide(view, index, {"position"})
        if extent is not None and extent != len(index.ids):
            view.refuse(f"it reads {extent} rows by an index over {len(index.ids)}")
        edits = select(view.trace, view.scope, view.place[-1], 0, axis, index.take)
        return Outcome([Rows()], edits)
    view.refuse("its indices are computed from the class count in a way that no rule covers")


def ids_along(index: Lookup, extent: int) -> Ints:
    """The class of each position that ``index`` can read, of an axis of ``extent``."""
    ids = np.full(extent, NONE)
    rows = index.old.astype(np.int64)
    inside = (rows >= 0) & (rows < extent)
    ids[rows[inside]] = index.ids[inside]
    return ids


def _holds_ids(index: Lookup, stored: Array, axis: int) -> bool:
    """Whether class numbers are read, or names: where nothing moves, no index says so by itself."""
    rows = index.old.astype(np.int64)
    if not _is_line(stored, axis) or rows.min(initial=0) < 0 or rows.max(initial=0) >= stored.size:
        return False
    if stored.dtype.hasobject:
        return True
    read = Lookup(index.ids, index.take, stored.reshape(-1)[rows], (), "")
    return offset_of(read) is not None


def _is_line(table: Array, axis: int) -> bool:
    """Whether all axes but one have one position."""
    return bool(table.size == table.shape[axis])


def computed_table(view: View, index: Lookup, axis: int) -> Outcome:
    """A table that the graph makes from the class count: known before and after the cut."""
    old, new = view.old[0].value, view.new[0].value
    assert old is not None and new is not None  # noqa: S101, PT018  the caller looked
    rows = index.old.astype(np.int64)
    if not _is_line(old, axis) or rows.min() < 0 or rows.max() >= old.size:
        view.refuse("a table made from the class count is read in a way that no rule covers")
    old, new = old.reshape(-1), new.reshape(-1)
    options = []
    for option in index.options:
        at = option.new.astype(np.int64)
        if at.min() >= 0 and at.max() < len(new):
            options.append(Option(new[at], option.edits, option.left))
    return Outcome([Lookup(index.ids, index.take, old[rows], tuple(options), index.origin)])


def through_table(data: Lookup, index: Lookup) -> Outcome:
    """Class numbers listed slot by slot, read by an index over the same slots."""
    rows = index.old.astype(np.int64)
    options = []
    for a in data.options:
        for b in index.options:
            both = merge_options([a, b])
            if both is not None and (b.new < len(a.new)).all() and (b.new >= 0).all():
                options.append(Option(a.new[b.new.astype(np.int64)], both.edits, both.left))
    return Outcome([Lookup(index.ids, index.take, data.old[rows], tuple(options), index.origin)])


def table(view: View, index: Lookup, axis: int) -> Outcome:
    """A stored table read by class or by flat index: its rows follow, label values are translated."""
    raw = view.old[0].value
    assert raw is not None  # noqa: S101  the caller looked
    stored = as_numbers(raw) if raw.dtype.hasobject else raw
    old_rows = index.old.astype(np.int64)
    if (old_rows >= stored.shape[axis]).any() or (old_rows < 0).any():
        view.refuse(f"its table has {stored.shape[axis]} rows, but class indices go further")
    options: list[Option] = []
    flat = stored.ndim == 1 or (view.op == "GatherElements" and _is_line(stored, axis))
    if not flat:
        read = np.moveaxis(stored.take(old_rows, axis), axis, -1)
        beside.refuse_values(view, 0, read, index.ids, index.take)
    for option in index.options:
        rows = rows_for(option.new.astype(np.int64), old_rows[index.take])
        if rows is None:
            continue
        sliced = stored.take(rows, axis)
        edit = _table_edit(view, raw, axis, rows, raw.take(rows, axis))
        if not flat:
            options.append(Option(option.new, (*option.edits, *edit), option.left))
            continue
        values = sliced.reshape(-1)[option.new.astype(np.int64)]
        options.append(Option(values, (*option.edits, *edit), option.left))
        renumbered = renumber(view, index, stored, sliced, option)
        if renumbered is not None:
            change = ed.Replace(view.place, 0, renumbered)
            options.insert(
                0,
                Option(
                    renumbered.reshape(-1)[option.new.astype(np.int64)],
                    (*option.edits, change),
                    option.left,
                ),
            )
    if not options:
        view.refuse("after the cut its index would read other rows of the table")
    if not flat:
        options.sort(key=lambda o: not is_ids(index, o, view.sel))  # one class fits many counts
        option = next((o for o in options if possible(view, o)), options[0])
        commit(view, option)
        return Outcome([Rows()])
    old = stored.reshape(-1)[old_rows]
    return Outcome([Lookup(index.ids, index.take, old, tuple(options), index.origin)])


_names: dict[str, float] = {}


def as_numbers(names: Array) -> Array:
    """Give each string a number of its own that no class id can be: they are told apart by it."""
    numbers = [_names.setdefault(str(n), len(_names) + 0.5) for n in names.ravel().tolist()]
    return np.array(numbers).reshape(names.shape)


def rows_for(new: Ints, old: Ints) -> Ints | None:
    """Old row for each new row ``0..max``; None where one new row would need two old ones."""
    if new.size == 0 or (new < 0).any():
        return None
    rows = np.full(int(new.max()) + 1, -1)
    rows[new] = old
    if not np.array_equal(rows[new], old):
        return None
    # a row that no class reads (below an offset) stays what it is
    return np.where(rows < 0, np.arange(len(rows)), rows)


def renumber(view: View, index: Lookup, stored: Array, sliced: Array, option: Option) -> Array | None:
    """The table with new class ids, where it holds class ids (column + offset) at all."""
    lookup = Lookup(index.ids, index.take, stored.reshape(-1)[index.old.astype(np.int64)], (), "")
    offset = offset_of(lookup)
    if offset is None:
        return None
    new = sliced.copy()
    kept = view.sel.columns_at(index.ids, index.take)
    for row, column in zip(option.new.astype(np.int64), kept, strict=True):
        if column != NONE:
            new.reshape(-1)[row] = column + offset
    return new


def _table_edit(view: View, stored: Array, axis: int, rows: Ints, sliced: Array) -> list[ed.Edit]:
    if np.array_equal(sliced, stored):
        return []
    if view.old[0].value is not None and sliced.size <= 1 << 16:
        return [ed.Replace(view.place, 0, sliced)]
    return view.select(0, axis, rows)


RULES: dict[str, Callable[[View], Outcome]] = dict.fromkeys(
    ["Gather", "GatherElements", "GatherND"], labelled_gather
)

__all__ = ["RULES", "Whole", "counted", "gather"]
