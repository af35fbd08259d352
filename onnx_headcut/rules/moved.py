"""Detections as they were found, and boxes moved apart by their class.

Fewer detections need no edit, so any op may take them. But where class numbers entered their values
(boxes moved by label x extent, so that boxes of different classes never overlap), values may only
be compared with one another: by NonMaxSuppression, or by what exporters write out in its place
(rotated boxes). There class numbers enter by their differences alone, which are none within a class
and wide between two, before the cut and after; a comparison with a threshold then says the same.
"""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING

from onnx_headcut.graph.ops import BROADCASTING, UNARY
from onnx_headcut.labels import Columns, Rows, Whole
from onnx_headcut.rules import indexing, movement, rounding, stacked
from onnx_headcut.rules.deciding import BEFORE_QUANTIZING
from onnx_headcut.tracing.view import GENERIC_ADVICE, Outcome

if TYPE_CHECKING:
    from onnx_headcut.labels import Mark
    from onnx_headcut.tracing.view import View

COMPARING = frozenset({"Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal"})

MOVING = frozenset({*movement.RULES, "GatherND", "GatherElements", "Identity", "Cast"}) - {"Pad"}
"""Ops that leave values what they are."""

CHOOSING = frozenset({"Max", "Min", "ReduceMax", "ReduceMin"})
"""Ops whose result moves as far as all that they choose from."""

APART = frozenset({*UNARY, *BROADCASTING, *MOVING, *CHOOSING, "Pad"})
"""Ops that boxes moved apart may pass on their way to where they are compared."""

PAIRED = APART | {"Trilu", "ReduceSum"}
"""Ops that what was computed of pairs of them may pass on its way to a threshold."""


def rows(view: View) -> Outcome:
    """Detections as they were found: any op may take them, and fewer of them need no edit."""
    for mark, name in zip(view.marks, view.node.input, strict=True):
        if isinstance(mark, Whole) and mark.cls not in view.sel.column:
            view.refuse(f"its input {name!r} belongs to class {mark.cls}, which goes, and is mixed "
                        "with others here in a way that cannot be undone")  # fmt: skip
    if view.op == "Gather" and isinstance(view.marks[1], Rows) and view.marks[1].apart:
        indexing.flat_demand(view)
    found = stacked.outputs(view)
    before = stacked.joined(view.marks)
    if not before.numbered or view.op in {"Shape", "Size"}:
        return Outcome(found)
    if view.op == "Concat" and (side := beside(view)) is not None:
        return Outcome([side])
    after = numbered(view, before)
    return Outcome([replace(m, apart=after.apart, paired=after.paired) for m in found])


def plainly(view: View) -> Outcome:
    """An op on a table of which no column holds class numbers as they are: all its columns alike."""
    plain = copy(view)
    plain.marks = [stacked.joined(m.marks) if isinstance(m, Columns) else m for m in view.marks]
    return rows(plain)


def numbered(view: View, before: Rows) -> Rows:
    """What class numbers are to the result of an op that values reach which they entered."""
    operands = [m for m in view.marks if isinstance(m, Rows) and m.numbered]
    first = view.marks[0]
    alike = len({m.apart for m in operands}) == 1 and not before.paired
    if before.paired and not before.apart:
        if view.op in COMPARING:
            return Rows()
        if view.op in PAIRED and not _picks(view):
            return Rows(paired=True)
    elif view.op == "NonMaxSuppression" and not before.paired and operands == [first]:
        return Rows()
    elif view.op in APART:
        if alike and len(operands) == 2 and view.op in COMPARING:
            return Rows()
        if alike and len(operands) == 2 and view.op == "Sub":
            return Rows(paired=True)
        moved = len(operands) == len(view.marks) and view.op in CHOOSING
        moved |= view.op in {"ReduceMax", "ReduceMin"} and operands == [first]
        moved |= view.op in MOVING and (operands == [first] or view.op == "Concat")
        moved |= len(operands) == 1 and (view.op == "Add" or (view.op == "Sub" and operands == [first]))
        return Rows(before.apart if moved and alike else view.node.output[0])
    view.refuse("values that class numbers were added to reach it; only NonMaxSuppression, or a "
                "threshold for what was computed of pairs, may use such values, since there they are "
                "compared with one another",
                BEFORE_QUANTIZING if view.op in rounding.OPS else GENERIC_ADVICE)  # fmt: skip


def _picks(view: View) -> bool:
    """Whether the values are places that something is read from."""
    index = view.marks[1] if len(view.marks) > 1 else None
    return "Gather" in view.op and isinstance(index, Rows) and index.numbered


def beside(view: View) -> Columns | None:
    """Columns that were moved beside others that were not: which are which stays known."""
    rank = view.rank(0)
    axis = view.attrs.get("axis", 0) % rank
    extents = [(f.shape or [None] * rank)[axis] for f in view.old]
    exact = all(view.exact(i, axis) is not None for i in range(len(extents)))
    if rank < 2 or axis != rank - 1 or not exact:
        return None
    marks: list[Mark | None] = []
    for extent, mark in zip(extents, view.marks, strict=True):
        marks += [mark if mark is not None else Rows()] * (extent or 0)
    return Columns(axis, tuple(marks)) if len(set(marks)) > 1 else None
