"""Detections as they were found, and places among them.

Fewer rows need no edit, so any op may take them. Only what a loop over classes stacked knows the
classes by its places: a number that says such a place may pick rows out of what was stacked with
it, and nothing else, since arithmetic on it (``place // rows``) would give a class.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx_headcut.labels import Columns, Lookup, Rows

if TYPE_CHECKING:
    from collections.abc import Iterable

    from onnx_headcut.labels import Mark
    from onnx_headcut.tracing.view import View

PLACING = {"TopK": 1, "ArgMax": 0, "ArgMin": 0, "NonZero": 0, "NonMaxSuppression": 0, "Unique": 1}
"""Ops that give places of their input, from which output on."""

PICKING = frozenset({"Gather", "GatherND", "GatherElements"})

MOVING = frozenset(
    {"Identity", "Cast", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Split",
     "Concat", "Expand", "Tile", "Compress", *PICKING}
)  # fmt: skip


MIXING = frozenset(
    {"CumSum", "Softmax", "LogSoftmax", "ReduceMean", "ReduceProd", "ReduceL1", "ReduceL2",
     "ReduceLogSum", "ReduceLogSumExp"}
)  # fmt: skip
"""Ops whose result for a row depends on how many others there are, or in which order they stand."""


def joined(marks: Iterable[Mark | None]) -> Rows:
    """What is computed from several values, of which some are rows."""
    rows = [m for m in marks if isinstance(m, Rows)]
    return Rows(
        " ".join(sorted({m.apart for m in rows if m.apart})),
        stacked=any(m.stacked for m in rows),
        places=any(m.places for m in rows),
        paired=any(m.paired for m in rows),
    )


def check_places(view: View) -> None:
    """Refuse where stacked rows are reckoned over, or places among them are read as numbers."""
    if view.op in MIXING and any(isinstance(m, Rows) and m.stacked for m in view.marks):
        view.refuse("it may reckon over what a loop over classes stacked, and would change with "
                    "their number")  # fmt: skip
    at = [i for i, m in enumerate(view.marks) if isinstance(m, Rows) and m.places]
    if not at or view.op in {"Shape", "Size"}:
        return
    data = view.marks[0]
    stacked = isinstance(data, Lookup | Columns) or (isinstance(data, Rows) and data.stacked)
    if view.op in PICKING and at == [1] and stacked:
        return
    if view.op in MOVING and (at == [0] or view.op == "Concat"):
        return
    view.refuse(
        f"its input {view.node.input[at[0]]!r} says places among rows that a loop over classes "
        "stacked; as a number it would change with the classes"
    )


def outputs(view: View) -> list[Rows]:
    """Marks of an op on rows, but for class numbers that entered them (`moved`)."""
    found = joined(view.marks)
    if view.op in {"Shape", "Size"}:
        return [Rows()] * len(view.node.output)
    places = found.places and not (view.op in PICKING and not _says_places(view.marks[0]))
    mark = Rows(stacked=found.stacked, places=places)
    if not found.stacked or view.op not in PLACING:
        return [mark] * len(view.node.output)
    first = PLACING[view.op]
    return [Rows(stacked=True, places=k >= first) for k in range(len(view.node.output))]


def _says_places(mark: Mark | None) -> bool:
    return isinstance(mark, Rows) and mark.places
