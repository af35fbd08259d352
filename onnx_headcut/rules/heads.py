"""Heads: nodes with weights whose output channels are class scores.

Conv (https://onnx.ai/onnx/operators/onnx__Conv.html) keeps output channels on weight axis 0,
ConvTranspose on axis 1 (per group), Gemm on axis 0 or 1 of B by transB, MatMul on the last axis
of the right operand, or on the second to last of the left one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx_headcut.graph.plain import plain
from onnx_headcut.tracing.view import Outcome

if TYPE_CHECKING:
    import onnx

    from onnx_headcut.editing import edits as ed
    from onnx_headcut.labels import Labels
    from onnx_headcut.tracing.view import View

HEAD_OPS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


def channel_axis(node: onnx.NodeProto, rank: int, *, weight_first: bool = False) -> int:
    """The axis of a head's output, of ``rank`` axes, that carries its channels."""
    form = plain(node)
    op = node.op_type if form is None else form.node.op_type
    if form is not None and form.channels_last:
        return rank - 1
    if op in {"Conv", "ConvTranspose", "Gemm"}:
        return 1
    return rank - 2 if weight_first else rank - 1


def cut_head(view: View, labels: Labels, swapped: frozenset[int] = frozenset()) -> Outcome:
    """Slice the weights (and bias) of a head to the kept positions of its channel axis.

    ``swapped`` are the operands of a MatMul that it transposes itself.
    """
    take = view.take(labels.ids)
    edits: list[ed.Edit] = []
    if view.op in {"Conv", "ConvTranspose"}:
        if view.attrs.get("group", 1) != 1:
            view.refuse(
                "a grouped convolution makes the class scores, and its groups would be torn",
                "choose the layer before it as the head is not possible: export without it",
            )
        edits += view.select(1, 0 if view.op == "Conv" else 1, take)
    elif view.op == "Gemm":
        edits += view.select(1, 0 if view.attrs.get("transB", 0) else 1, take)
    else:
        rank = len(view.scope.old(view.node.output[0]).shape or ())
        right = int(labels.axis == rank - 1)
        last = bool(right) != (right in swapped)
        edits += view.select(right, view.rank(right) - (1 if last else 2), take)
    if len(view.node.input) > 2 and view.node.input[2]:
        shape = view.shape(2)
        if shape and shape[-1] != 1:
            edits += view.select(2, len(shape) - 1, take)
    return Outcome([labels], edits)
