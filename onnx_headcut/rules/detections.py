"""Choosing detections: TopK, ArgMax, reductions, NonMaxSuppression, NonZero."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnx_headcut.errors import TooFew
from onnx_headcut.labels import Columns, Labels, Lookup, Mark, Rows
from onnx_headcut.rules import neutral
from onnx_headcut.rules.columns import scatter_rows
from onnx_headcut.rules.deciding import decide
from onnx_headcut.rules.values import positions
from onnx_headcut.tracing.view import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from onnx_headcut.editing import edits as ed
    from onnx_headcut.tracing.view import View


def top_k(view: View) -> Outcome:
    """TopK over classes gives indices that know them; ``k`` is limited by what is left."""
    labels = view.labels(0)
    axis = view.attrs.get("axis", -1) % view.rank(0)
    if axis != labels.axis:
        return Outcome([labels, labels])
    neutral.check(view, "largest" if view.attrs.get("largest", 1) else "smallest")
    left = len(view.take(labels.ids))
    if view.exact(0, axis) is None:
        # how many candidates there are depends on the picture's size: the graph sees to k itself
        check_enough(view, left)
        left = np.iinfo(np.int64).max
    edits: list[ed.Edit] = []
    if "k" in view.attrs:
        if view.attrs["k"] > left:
            edits.append(view.set("k", left))
    else:
        k = view.new[1].value
        if k is not None and k.item() > left:
            edits += view.patch(1, np.full(k.shape, left, k.dtype))
            view.trace.notes.append(
                f"TopK {view.node.name or view.node.output[0]!r}: only {left} candidates are left, "
                f"fewer than its {k.item()}; outputs behind it have as many rows"
            )
    index = positions(view, labels, view.node.output[1])
    return Outcome([Rows(), index], edits)


def check_enough(view: View, left: int) -> None:
    """Refuse where a picture of this size leaves fewer candidates than are taken."""
    value = view.new[1].value if len(view.new) > 1 else None
    k = view.attrs["k"] if "k" in view.attrs else None if value is None else value.item()
    if k is not None and k > left:
        view.refuse(f"of a picture of this size {left} candidates are left, fewer than its {k}",
                    "give the size that the model is used with: --input-shape NAME=1x3x640x640",
                    TooFew)  # fmt: skip


def arg(view: View) -> Outcome:
    """ArgMax and ArgMin over classes give class columns."""
    labels = view.labels(0)
    axis = view.attrs.get("axis", 0) % view.rank(0)
    if axis == labels.axis:
        neutral.check(view, view.op)
        return Outcome([positions(view, labels, view.node.output[0])])
    return Outcome([_reduced(view, labels, {axis})])


def reduce(view: View) -> Outcome:
    """Reductions: over the class axis the classes mix; over other axes labels stay."""
    labels = view.labels(0)
    rank = view.rank(0)
    axes = view.attrs.get("axes")
    if axes is None and len(view.old) > 1 and view.node.input[1]:
        if view.old[1].value is None:
            view.refuse("the axes it reduces are computed from the picture")
        else:
            axes = view.old[1].value.tolist()
    if not axes:
        axes = [] if view.attrs.get("noop_with_empty_axes", 0) else list(range(rank))
    over = {a % rank for a in axes}
    if labels.axis not in over:
        return Outcome([_reduced(view, labels, over)])
    neutral.check(view, view.op)
    return Outcome([Rows()])


def _reduced(view: View, labels: Labels, over: set[int]) -> Mark:
    if view.attrs.get("keepdims", 1):
        return labels
    return Labels(labels.axis - sum(1 for a in over if a < labels.axis), labels.ids)


def non_max_suppression(view: View) -> Outcome:
    """NonMaxSuppression: scores ``[batch, class, box]``, output rows ``[batch, class, box]``."""
    scores, boxes = view.marks[1], view.marks[0]
    if any(isinstance(m, Lookup | Columns | Labels) for m in view.marks[2:]):
        view.refuse("its limits depend on classes")
    columns: list[Mark | None] = [Rows(), Rows(), Rows()]
    name = view.node.output[0]
    if isinstance(scores, Labels):
        if scores.axis == 0:
            view.refuse("classes lie on its batch axis")
        columns[scores.axis] = positions(view, scores, name)
        if isinstance(boxes, Labels) and not (
            scores.axis == 2 and boxes.axis == 1 and np.array_equal(boxes.ids, scores.ids)
        ):
            view.refuse("its boxes carry classes in another way than its scores")
        if boxes is None and scores.axis == 2:
            return Outcome(
                [Columns(1, tuple(columns))],
                view.select(0, 1, view.take(scores.ids)) if _extent(view) else [],
            )
    elif isinstance(boxes, Labels):
        view.refuse("its boxes carry classes, its scores do not")
    return Outcome([Columns(1, tuple(columns))])


def _extent(view: View) -> bool:
    shape = view.old[0].shape
    return shape is not None and shape[1] is not None and shape[1] > 1


def non_zero(view: View) -> Outcome:
    """NonZero gives one row of indices per axis; that of the class axis knows the classes."""
    labels = view.labels(0)
    marks: list[Mark | None] = [Rows()] * view.rank(0)
    marks[labels.axis] = positions(view, labels, view.node.output[0])
    if len(marks) == 1:
        return Outcome([marks[0]])
    return Outcome([Columns(0, tuple(marks))])


REDUCTIONS = [
    "ReduceMax",
    "ReduceMin",
    "ReduceSum",
    "ReduceMean",
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceProd",
    "ReduceSumSquare",
]

RULES: dict[str, Callable[[View], Outcome]] = {
    "TopK": top_k,
    "ArgMax": arg,
    "ArgMin": arg,
    **dict.fromkeys(REDUCTIONS, reduce),
    "NonMaxSuppression": non_max_suppression,
    "NonZero": non_zero,
    "ScatterND": scatter_rows,
}

__all__ = ["RULES", "decide"]
