"""Tables: tensors whose columns have marks of their own, such as index triples and detections."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnx_headcut.graph.scope import is_fixed
from onnx_headcut.labels import Columns, Labels, Lookup, Mark, Rows
from onnx_headcut.rules import beside, movement
from onnx_headcut.rules.deciding import decide, is_free
from onnx_headcut.rules.elementwise import shorten
from onnx_headcut.rules.indexing import ids_along
from onnx_headcut.rules.joining import NO_SLOT, filled, picked, written
from onnx_headcut.rules.moved import plainly
from onnx_headcut.rules.options import period_of
from onnx_headcut.tracing.view import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx_headcut.graph.facts import Array
    from onnx_headcut.labels import Ints
    from onnx_headcut.tracing.view import View


KEEPING = frozenset({"Gather", "Slice", "Cast", "Identity", "Shape", "Size", *movement.RULES})
"""Ops behind which columns are still columns."""


NEUTRAL = {"Add": 0, "Sub": 0, "Mul": 1, "Div": 1}
"""Arithmetic by columns, with the number that leaves a column of class numbers what it is."""


def numbered(mark: Mark | None) -> bool:
    """Whether class numbers are in a column, as they are or in what was computed."""
    return isinstance(mark, Lookup) or (isinstance(mark, Rows) and mark.numbered)


def says(mark: Mark | None) -> bool:
    """Whether a tensor holds class numbers as they are, in a column or everywhere."""
    return isinstance(mark, Lookup) or (
        isinstance(mark, Columns) and any(isinstance(m, Lookup) for m in mark.marks)
    )


def columns(view: View) -> Outcome:
    """Ops on a tensor whose columns have marks of their own."""
    if view.op == "Concat":
        return join_columns(view)
    if not (view.op in KEEPING or any(says(m) for m in view.marks)):
        return plainly(view)
    if view.op in {"Gather", "GatherND", "GatherElements"} and isinstance(view.marks[1], Columns):
        return by_columns(view)
    if view.op == "ScatterND":
        return scatter_rows(view)
    return scale_columns(view) if view.op in NEUTRAL else _of_one(view)


def _of_one(view: View) -> Outcome:
    """Ops whose first input alone is a table."""
    mark = view.marks[0]
    if not isinstance(mark, Columns) or any(isinstance(m, Columns) for m in view.marks[1:]):
        view.refuse("a table of indices with a class column is used in a way no rule covers")
    if view.op in {"Cast", "Identity"}:
        return Outcome([mark])
    if view.op in {"Shape", "Size"}:
        return Outcome([Rows()])
    axis = view.attrs.get("axis", 0) % view.rank(0)
    if view.op in {"Gather", "GatherND", "Slice"} and not is_fixed(view.scope, view.node.input[1]):
        if view.op == "Slice" or axis == mark.axis or view.op == "GatherND":
            return _rows_by_index(view, mark)
        shift = view.rank(1) - 1 if axis < mark.axis else 0
        moved = tuple(picked(view, m) if isinstance(m, Lookup) else m for m in mark.marks)
        return Outcome([Columns(mark.axis + shift, moved)])
    if view.op == "Pad":
        return pad_rows(view, mark)
    if view.op in movement.RULES:
        return move_columns(view, mark)
    view.refuse("a table of indices with a class column is used in a way no rule covers")


def scale_columns(view: View) -> Outcome:
    """Arithmetic with a stored number for each column, as boxes are scaled in a table of detections."""
    at = next(i for i, m in enumerate(view.marks) if isinstance(m, Columns))
    mark, other = view.marks[at], view.old[1 - at].value
    assert isinstance(mark, Columns)  # noqa: S101
    fixed = other is not None and is_fixed(view.scope, view.node.input[1 - at])
    if not fixed or (at and view.op in {"Sub", "Div"}):
        view.refuse("a table of indices with a class column meets others in a way no rule covers")
    assert other is not None  # noqa: S101
    behind = view.rank(at) - mark.axis  # axes count from the last, as those of the stored numbers do
    line = other[(None,) * max(behind - other.ndim, 0)]
    for k, column in enumerate(mark.marks):
        one = np.take(line, min(k, line.shape[-behind] - 1), axis=-behind)
        if numbered(column) and not (one == NEUTRAL[view.op]).all():
            view.refuse("it changes a column of class numbers in a table by a stored number")
    if line.shape[-behind] not in {1, len(mark.marks)}:
        view.refuse("a table of indices with a class column is repeated in a way no rule covers")
    return Outcome([Columns(max(view.rank(at), other.ndim) - behind, mark.marks)])


def _rows_by_index(view: View, mark: Columns) -> Outcome:
    if mark.axis == 0:
        view.refuse("columns of a table of indices are picked by computed indices")
    moved = tuple(picked(view, m) if isinstance(m, Lookup) else m for m in mark.marks)
    return Outcome([Columns(mark.axis, moved)])


def pad_rows(view: View, mark: Columns) -> Outcome:
    """Pad rows of a table: the padding becomes a filler of every column of class numbers.

    A table laid out flat may grow by whole rows, however many were found.
    """
    pads = view.attrs.get("pads") if "pads" in view.attrs else view.old[1].value
    if pads is None or len(view.old) > 3:
        view.refuse("whether it pads columns of class numbers is not known")
    rows = np.asarray(pads).reshape(2, -1)[:, mark.axis]
    if rows.any() and not _whole_rows(view, mark, rows):
        view.refuse("it pads a table that holds class numbers by less than whole rows")
    fill = view.old[2].value if len(view.old) > 2 and view.node.input[2] else None
    value = view.attrs.get("value", 0.0) if fill is None else fill.item()
    stored = len(view.old) > 2 and is_fixed(view.scope, view.node.input[2])
    several = len({id(m) for m in mark.marks if isinstance(m, Lookup)}) > 1
    slot = 2 if stored and not several else NO_SLOT
    marks = with_filler(view, mark.marks, value, slot)
    before, after = (int(n) // period_of_marks(marks) for n in rows)
    row = marks[: period_of_marks(marks)]
    return Outcome([Columns(mark.axis, row * before + marks + row * after)])


def _whole_rows(view: View, mark: Columns, rows: Ints) -> bool:
    """Whether a flat table is padded by whole rows, for this number of detections and another."""
    row = period_of_marks(mark.marks)
    other = rows
    if "pads" not in view.attrs and not is_fixed(view.scope, view.node.input[1]):
        value = view.scope.twin.old(view.node.input[1]).value
        if value is None:
            return False
        other = value.reshape(2, -1)[:, mark.axis]
    return bool((rows >= 0).all() and not (rows % row).any() and not (other % row).any())


def with_filler(
    view: View, marks: Sequence[Mark | None], value: float, slot: int
) -> tuple[Mark | None, ...]:
    """Marks of columns that hold one more value: ``value``, which belongs to no class."""
    known: dict[int, Mark] = {}
    for mark in marks:
        if isinstance(mark, Lookup) and id(mark) not in known:
            known[id(mark)] = filled(view, picked(view, mark), value, slot)
    return tuple(known.get(id(m), m) for m in marks)


def same_marks(marks: Sequence[Mark | None]) -> list[int]:
    """For each column the first one of the same mark; marks are told apart as objects."""
    first: dict[object, int] = {}
    keys = (m if m is None or isinstance(m, Rows) else id(m) for m in marks)
    return [first.setdefault(key, k) for k, key in enumerate(keys)]


def period_of_marks(marks: Sequence[Mark | None]) -> int:
    """The width of the table that ``marks`` lie flat of; all of them if they do not repeat."""
    return period_of(np.array(same_marks(marks)))


def move_columns(view: View, mark: Columns) -> Outcome:
    """A movement op: run on column numbers, with unknown extents taken as two."""
    shape = tuple(2 if d is None else d for d in view.old[0].shape or ())
    line = [1] * len(shape)
    line[mark.axis] = len(mark.marks)
    numbers = np.broadcast_to(np.array(same_marks(mark.marks)).reshape(line), shape)
    try:
        out = movement.run(view, view.node, [f.value for f in view.old], np.ascontiguousarray(numbers))
    except Exception:  # noqa: BLE001  the reference refuses what does not fit the example
        view.refuse("a table of indices with a class column is reshaped in a way no rule covers")
    return Outcome([_columns_of(view, o, mark) for o in out])


def _columns_of(view: View, numbers: Array, mark: Columns) -> Mark | None:
    axes = movement.varying(numbers)
    if not axes:
        first = mark.marks[int(numbers.flat[0])]
        return first if first is not None else Rows()
    if len(axes) > 1:
        view.refuse("columns of a table of indices would lie on two axes at once")
    along = np.moveaxis(numbers, axes[0], 0).reshape(numbers.shape[axes[0]], -1)[:, 0]
    marks = tuple(mark.marks[int(k)] for k in along)
    # without its column of class numbers a table is rows like any others
    return Columns(axes[0], marks) if any(map(numbered, marks)) else Rows()


def scatter_rows(view: View) -> Outcome:
    """ScatterND of a table's rows, or by a table of indices."""
    index, rows = view.marks[1:3]
    if isinstance(rows, Columns) and index is None:
        return write_rows(view, rows)
    if isinstance(index, Columns) and not (says(rows) or isinstance(rows, Labels)):
        return write_by_columns(view, index)
    view.refuse("values are written among those of classes in a way that no rule covers")


def write_rows(view: View, rows: Columns) -> Outcome:
    """ScatterND of a picture's table into one for all pictures: what was there stays a filler."""
    data, index = view.shape(0), view.shape(1)
    behind = len(view.old[2].shape or ()) - rows.axis
    if len(data) - behind < index[-1] or data[-behind] != len(rows.marks):
        view.refuse("a table is written into another by parts of its rows")
    axis, value, before = len(data) - behind, view.old[0].value, view.marks[0]
    if before is None and value is not None and len(np.unique(value)) == 1:
        return Outcome([Columns(axis, with_filler(view, rows.marks, value.flat[0].item(), NO_SLOT))])
    if not isinstance(before, Columns) or before.axis != axis:
        view.refuse("class numbers are written into a tensor whose other values are not known")
    pairs = zip(before.marks, rows.marks, strict=True)
    return Outcome([Columns(axis, tuple(either(view, a, b) for a, b in pairs))])


def write_by_columns(view: View, index: Columns) -> Outcome:
    """ScatterND by a table of indices (NonMaxSuppression's): its class column says the class axis."""
    found = [(k, m) for k, m in enumerate(index.marks) if numbered(m)]
    axis, mark = found[0]
    extent = view.shape(0)[axis]
    if len(found) != 1 or not isinstance(mark, Lookup) or extent is None:
        view.refuse("values are written by class numbers in a way that no rule covers")
    decide(view, mark, {"position"})
    data, labels = view.marks[0], Labels(axis, ids_along(mark, extent))
    if data is None:
        return Outcome([labels], shorten(view, 0, axis, labels.ids))
    if not labels.same(data):
        view.refuse("values are written by class numbers where classes lie differently")
    return Outcome([labels])


def either(view: View, a: Mark | None, b: Mark | None) -> Mark | None:
    """The mark of a column that holds values of both marks."""
    if isinstance(a, Lookup) and isinstance(b, Lookup):
        return written(view, a, b)
    if isinstance(a, Lookup) or isinstance(b, Lookup):
        view.refuse("class numbers and other values are written into one column")
    return a if a is not None else b


def join_columns(view: View) -> Outcome:
    """Concat of tables or single columns along the column axis, or of rows of one kind."""
    first = next(m for m in view.marks if isinstance(m, Columns))
    axis = view.attrs.get("axis", 0) % view.rank(0)
    if axis != first.axis:
        return Outcome([first])
    marks: list[Mark | None] = []
    for i, mark in enumerate(view.marks):
        extent = (view.old[i].shape or ())[axis]
        if isinstance(mark, Columns):
            marks += mark.marks
        elif extent is None:
            view.refuse("how many columns it joins is not known")
        else:
            marks += [mark] * extent
    return Outcome([Columns(axis, tuple(marks))])


def by_columns(view: View) -> Outcome:
    """GatherND from unlabelled data by a table of indices: its class column must not matter."""
    index = view.marks[1]
    assert isinstance(index, Columns)  # noqa: S101
    for k, mark in enumerate(index.marks):
        if not isinstance(mark, Lookup):
            continue
        if any(is_free(mark, o) for o in mark.options):
            decide(view, mark, {"free"})
            continue
        extent = (view.old[0].shape or ())[k]
        if extent is None:
            view.refuse("how many classes its data has is not known")
        view.demand(0, k, ids_along(mark, extent))
        decide(view, mark, {"position"})
        if extent != 1:
            beside.refuse_numbers(view, 0, k, ids_along(mark, extent), mark.take)
            return Outcome([Rows()], view.select(0, k, mark.take))
    return Outcome([Rows()])
