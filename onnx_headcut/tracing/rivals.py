"""Where classes compete: nodes at which fewer classes change what kept ones get.

A cut is right when it equals the original with its dropped classes masked. Against the original as
it is, detections of kept classes can still be gained, for three reasons, which are told beforehand
in the plan's notes: slots of a cap over all classes become free, boxes of dropped classes suppress
no more, and a box whose best class was dropped takes the best one that is left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnx_headcut.labels import Labels, Rows

if TYPE_CHECKING:
    from onnx_headcut.tracing.view import View

_FAR = 1 << 30  # an end of a Slice that means "to the end"


def rivalry(view: View) -> str | None:
    """Say how classes compete at a node; None where they do not, or none is dropped."""
    if len(set(view.trace.selection.order)) == view.trace.selection.count:
        return None
    found = _COMPETING.get(view.op)
    text = found(view) if found is not None else None
    return text and f"{view.op} {view.node.name or view.node.output[0]!r} {text}"


def _cap(view: View) -> str | None:
    mark, most = view.marks[0], view.attrs.get("k")
    axis = view.attrs.get("axis", -1)
    over_classes = isinstance(mark, Labels) and axis % view.rank(0) == mark.axis and _several(mark)
    if not (over_classes or isinstance(mark, Rows)):
        return None
    if most is None and view.old[1].value is not None and view.old[1].value.size == 1:
        most = view.old[1].value.item()
    return _freed("best", most)


def _first(view: View) -> str | None:
    maker = view.scope.index.node_of(view.node.input[0])
    if not isinstance(view.marks[0], Rows) or len(view.old) < 3:
        return None
    if maker is not None and maker.op_type == "Shape":  # extents, no detections
        return None
    starts, ends = view.old[1].value, view.old[2].value
    if starts is None or ends is None or starts.size != 1 or starts.item() or ends.size != 1:
        return None
    axis = view.old[3].value if len(view.old) > 3 else np.zeros(1, np.int64)
    leading = axis is not None and axis.size == 1 and axis.item() in {0, 1}
    return _freed("first", ends.item()) if leading and 0 < ends.item() < _FAR else None


def _freed(which: str, most: int | None) -> str:
    return (
        f"takes the {which} {'ones' if most is None else most} over all classes: slots that dropped"
        " classes had go to more detections of kept ones"
    )


def _agnostic(view: View) -> str | None:
    boxes, scores = view.marks[0], view.marks[1]
    if not isinstance(scores, Rows) or boxes is not None:
        return None  # boxes that were picked by their scores may have been moved apart by class
    return (
        "suppresses boxes whatever their classes: without those of dropped classes, fewer boxes of"
        " kept ones are suppressed"
    )


def _best(view: View) -> str | None:
    mark = view.marks[0]
    if not isinstance(mark, Labels) or not _several(mark):
        return None
    if view.attrs.get("axis", 0) % view.rank(0) != mark.axis:
        return None
    return "gives a box its best class: one whose best class is dropped gets the best that is left"


def _several(labels: Labels) -> bool:
    return len(np.unique(labels.ids[labels.ids >= 0])) > 1


_COMPETING = {"TopK": _cap, "Slice": _first, "NonMaxSuppression": _agnostic, "ArgMax": _best}
