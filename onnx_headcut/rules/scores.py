"""Ops that mean something for scores: normalising, reducing, asking for shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx_headcut.graph.facts import attributes
from onnx_headcut.labels import Rows
from onnx_headcut.tracing.view import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx

    from onnx_headcut.tracing.view import View


def softmax(view: View) -> Outcome:
    """Softmax and LogSoftmax keep positions; over the class axis the kept scores renormalise."""
    return Outcome([view.labels(0)])


FLAT_SOFTMAX = 13
"""The opset before which a Softmax is over its axis and all behind it."""


def shares_among(node: onnx.NodeProto, axis: int, rank: int, opset: int) -> bool:
    """Whether a Softmax is over the positions of ``axis``, so that what one has others have not."""
    flat = opset < FLAT_SOFTMAX
    over = attributes(node).get("axis", 1 if flat else -1) % max(rank, 1)
    return bool(over == axis or (flat and over < axis))


def shape(_: View) -> Outcome:
    """Shape and Size carry no classes; the class count in them follows by itself."""
    return Outcome([None])


def pool(view: View) -> Outcome:
    """Pooling over places: each channel by itself (peaks of a heat map).

    Channels are axis 1 (https://onnx.ai/onnx/operators/onnx__MaxPool.html). GlobalMaxPool is the
    best of all further axes: so tf2onnx writes the best class of scores ``[batch, box, class]``.
    """
    labels = view.labels(0)
    if view.op == "GlobalMaxPool" and labels.axis > 1:
        return Outcome([Rows()])
    if labels.axis != 1:
        view.refuse(f"it pools over axis {labels.axis}, on which classes lie")
    if any(view.node.output[1:]):
        view.refuse("its indices count through all channels, and so depend on the class count")
    return Outcome([labels])


POOLING = frozenset({"MaxPool", "AveragePool", "LpPool", "GlobalMaxPool", "GlobalAveragePool"})

RULES: dict[str, Callable[[View], Outcome]] = {
    "Softmax": softmax,
    "LogSoftmax": softmax,
    "Shape": shape,
    "Size": shape,
    **dict.fromkeys(POOLING, pool),
}
