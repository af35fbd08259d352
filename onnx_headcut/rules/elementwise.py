"""Ops that work element by element: labels merge, constants with the class extent are sliced."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnx_headcut.graph.ops import BROADCASTING, UNARY
from onnx_headcut.labels import NONE, Labels, Rows, Whole
from onnx_headcut.rules import beside
from onnx_headcut.tracing.view import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from onnx_headcut.editing import edits as ed
    from onnx_headcut.labels import Ints, Mark
    from onnx_headcut.tracing.view import View


def unary(view: View) -> Outcome:
    """The first input's labels; the others (Clip's bounds, Dropout's ratio) are scalars."""
    labels = view.labels(0)
    if any(m is not None for m in view.marks[1:]):
        view.refuse(f"a bound or parameter of {view.op} depends on classes")
    return Outcome([labels] * len(view.node.output))


def broadcasting(view: View) -> Outcome:
    """Merge the labels of all inputs; none yields to a class, two classes at one place refuse."""
    if "broadcast" in view.attrs:
        view.refuse("it broadcasts as before opset 7", "convert the model to a newer opset first")
    rank = max(view.rank(i) for i, n in enumerate(view.node.input) if n)
    axis: int | None = None
    ids: Ints | None = None
    for i in view.labelled():
        mark = view.labels(i)
        here = mark.axis + rank - view.rank(i)
        if len(mark.ids) == 1:
            continue
        if axis is not None and here != axis:
            view.refuse(f"classes lie on axis {axis} of one input and on axis {here} of another")
        axis = here
        ids = mark.ids if ids is None else merge(view, ids, mark.ids)
    if axis is None or ids is None:
        view.refuse("all its labelled inputs have one position only on their class axis")
    edits: list[ed.Edit] = []
    for i, name in enumerate(view.node.input):
        if not name or isinstance(view.marks[i], Labels):
            continue
        own = axis - (rank - view.rank(i))
        other = view.marks[i]
        if other is not None:
            stretched = own < 0 or (view.old[i].shape or ())[own] == 1
            if not stretched or not same_for_all(view, name, other):
                view.refuse(f"its input {name!r} depends on classes in another way than the others")
            continue
        edits += shorten(view, i, own, ids)
    return Outcome([Labels(axis, ids)], edits)


def same_for_all(view: View, name: str, mark: Mark) -> bool:
    """Whether what is stretched over all classes of a box is what it was for those that stay.

    A quality score or a mask, found for the box as a whole; or one class's own score, as that of the
    background in ``scores * (1 - background)``.
    """
    if isinstance(mark, Whole) and mark.cls not in view.sel.column:
        view.refuse(f"its input {name!r} belongs to class {mark.cls}, which goes, and the scores of "
                    "all others are reckoned with it", f"keep class {mark.cls}, too")  # fmt: skip
    return isinstance(mark, Whole) or (isinstance(mark, Rows) and not mark.numbered)


def shorten(view: View, i: int, axis: int, ids: Ints) -> list[ed.Edit]:
    """Edits for an unlabelled operand that has the class extent on ``axis``, if it has."""
    extent, take = len(ids), view.take(ids)
    if axis < 0 or (len(take) == extent and np.array_equal(take, np.arange(extent))):
        return []
    shape = view.old[i].shape
    if shape is None:
        view.shape(i)
    elif shape[axis] is None:
        view.refuse(f"whether its input {view.node.input[i]!r} has the class count is not known",
                    "give the model's input shape with --input-shape NAME=1x3x320x320")  # fmt: skip
    elif shape[axis] == extent and extent != 1:
        new = view.new[i]
        if new is not view.old[i]:
            old, now = view.old[i].value, new.value
            if old is None or now is None or not np.array_equal(old.take(take, axis), now):
                view.refuse(f"its input {view.node.input[i]!r} changes with the class count, "
                            "and what it holds then is not known")  # fmt: skip
            return []
        return beside.select(view, i, axis, ids)
    return []


def merge(view: View, a: Ints, b: Ints) -> Ints:
    """Position by position: none yields to a class, equal classes stay, others refuse."""
    if len(a) != len(b):
        view.refuse(f"class axes of {len(a)} and {len(b)} positions meet")
    clash = (a != b) & (a != NONE) & (b != NONE)
    if clash.any():
        at = int(np.flatnonzero(clash)[0])
        view.refuse(f"classes {a[at]} and {b[at]} meet at position {at} of the class axis")
    merged: Ints = np.where(a == NONE, b, a)
    return merged


def quantize(view: View) -> Outcome:
    """QuantizeLinear and DequantizeLinear: per-channel scales and zero points are sliced."""
    labels = view.labels(0)
    axis = view.attrs.get("axis", 1) % view.rank(0)
    edits: list[ed.Edit] = []
    scale = view.old[1].shape or ()
    block = view.attrs.get("block_size", 0)
    if block and axis == labels.axis:
        view.refuse("blocks of quantized values cross the class axis")
    for i in range(1, len(view.node.input)):
        if not view.node.input[i]:
            continue
        if block:
            edits += view.select(i, labels.axis, view.take(labels.ids))
        elif len(scale) == 1 and scale[0] != 1 and axis == labels.axis:
            edits += view.select(i, 0, view.take(labels.ids))
    return Outcome([labels], edits)


def batch_normalization(view: View) -> Outcome:
    """BatchNormalization: scale, bias, mean and variance are sliced with axis 1."""
    labels = view.labels(0)
    edits: list[ed.Edit] = []
    if labels.axis == 1:
        for i in range(1, 5):
            edits += view.select(i, 0, view.take(labels.ids))
    return Outcome([labels, *[None] * (len(view.node.output) - 1)], edits)


RULES: dict[str, Callable[[View], Outcome]] = {
    **dict.fromkeys(UNARY, unary),
    **dict.fromkeys(BROADCASTING, broadcasting),
    "QuantizeLinear": quantize,
    "DequantizeLinear": quantize,
    "BatchNormalization": batch_normalization,
}
