"""What tests of exact scores share: the cut, what it is told, and equality of bits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from variants import COLUMNS

import onnx_headcut as hc

if TYPE_CHECKING:
    import onnx
    from patterns import Array


def exact(model: onnx.ModelProto, keep: Any, **options: Any) -> hc.Cut:
    return hc.cut(model, keep, scores="exact", provider="cpu", **options)


def told(model: onnx.ModelProto) -> dict[str, Any]:
    """Names for the detector of shapes: with a background where it has a softmax."""
    softmax = any(n.op_type == "Softmax" for n in model.graph.node)
    return {"labels": COLUMNS, "background": "first" if softmax else "none"}


def same_bits(one: Array, other: Array) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
