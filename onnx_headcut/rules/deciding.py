"""What a use decides of class numbers: that they are ids, places or no classes at all.

A use demands that the new values mean what the old ones meant, else the cut is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnx_headcut.editing import edits as ed
from onnx_headcut.labels import NONE, Columns, Lookup, Mark, Option, Rows, Whole

if TYPE_CHECKING:
    from onnx_headcut.labels import IteratedOption, Selection
    from onnx_headcut.tracing.view import View

BEFORE_QUANTIZING = (
    "cut the model before it is quantized, or leave what lies behind the scores out of quantization "
    "(onnxruntime: nodes_to_exclude)"
)


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
    meaning = f"gives them their meaning ({' or '.join(sorted(kinds))}) after the cut"
    if lookup.step:
        view.refuse(
            f"class numbers arrive here in steps of {lookup.step:g}, and nothing {meaning}",
            BEFORE_QUANTIZING,
        )
    view.refuse(
        "numbers computed from the class count arrive here, and no change of the class counts "
        f"found on the way {meaning}"
    )


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
    elif isinstance(mark, Rows) and mark.numbered:
        view.refuse("a graph output holds values that class numbers were added to")
    elif isinstance(mark, Rows) and mark.places:
        view.refuse("a graph output says places among rows that a loop over classes stacked")
    elif isinstance(mark, Whole) and mark.cls not in view.sel.column:
        view.refuse(
            f"the output {name!r} belongs to class {mark.cls} alone, which goes",
            f"take it off the model's outputs first, or keep class {mark.cls}, too",
        )


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


def is_ids(lookup: Lookup, option: Option, selection: Selection) -> bool:
    """Values are class ids with the same offset before and after (fillers may count classes)."""
    offset = offset_of(lookup)
    if offset is None:
        return False
    columns = selection.columns_at(lookup.ids, lookup.take)
    real, count = columns != NONE, float(len(selection.order))
    expected = columns[real] + offset
    if not np.allclose(option.new[real].astype(np.float64), expected, atol=_reach(lookup)):
        return False
    fillers = option.new[~real], lookup.old[lookup.take][~real]
    return np.array_equal(*fillers) or all(
        float(v) - offset in {count, count - 1} or v == o for v, o in zip(*fillers, strict=True)
    )


def offset_of(lookup: Lookup) -> float | None:
    """``o`` where every old value is its class's column + o; None where that is not so."""
    real = lookup.ids != NONE
    if not real.any():
        return None
    difference = lookup.old[real].astype(np.float64) - lookup.ids[real]
    first = float(np.rint(difference[0]) if lookup.step else difference[0])
    near = np.allclose(difference, first, atol=_reach(lookup))
    return first if near and first == round(first) else None


def _reach(lookup: Lookup) -> float:
    """How far from whole numbers quantizers may have moved class numbers: never half of one."""
    return 1e-4 + min(lookup.step / 2, 0.49)


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
