"""What lies behind the scores, as if its quantizers had steps without end.

Eight bits make ties, and one more rounding error before them makes another step. Which of equal
scores a NonMaxSuppression or a top-k takes depends on their order, which a cut may change, and what
it takes decides what else is left: a right cut can find other boxes than its reference. So where
detections are picked behind quantizers, they are compared without the rounding: each QuantizeLinear
becomes the division and the sum that it rounds, and what reads its integers reads these numbers.
Half precision becomes float32. Everything else stays what it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnx_headcut.validation.half import widen
from onnx_headcut.validation.integers import quantizes

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

Array = npt.NDArray[Any]

_DOMAINS = frozenset({"", "ai.onnx", "com.microsoft"})
_INTEGERS_ONLY = ("QLinear", "QGemm", "MatMulInteger", "ConvInteger", "DynamicQuantize")

Steps = frozenset[tuple[float, float]]
"""Scale and zero point of the quantizers that were taken out; 0 and the type of half precision."""


def unrounded(
    model: onnx.ModelProto, own: Collection[str] = ()
) -> tuple[onnx.ModelProto, Steps] | None:
    """Copy a model without its rounding; None where it has none, or none that can be taken out.

    Taken out are quantizers with one constant scale for the whole tensor. What computes with the
    integers otherwise than by moving them, or gives them as an output, cannot do without; outputs
    that are validation's ``own`` may be numbers.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    steps = {(0.0, float(elem_type)) for elem_type in widen(copy)}
    known = _constants(graph)
    free: set[str] = set()  # values that were integers
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        told = _step(node, known)
        bound = free.intersection(node.input)
        if _is(node, "QuantizeLinear") and told is not None:
            steps.add((float(told[0]), float(told[1])))
            free.add(node.output[0])
            nodes += _arithmetic(graph, node, told, ("Div", "Add"))
        elif _is(node, "DequantizeLinear") and bound and told is not None:
            nodes += _arithmetic(graph, node, told, ("Sub", "Mul"))
        elif (bound and (node.op_type.startswith(_INTEGERS_ONLY) or quantizes([node]))) or (
            free.intersection(_inner(node))
        ):
            return None
        else:
            nodes.append(node)
            free.update(node.output if bound else ())
    if not steps or free.intersection(v.name for v in graph.output if v.name not in own):
        return None
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)
    return copy, frozenset(steps)


def _constants(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    found = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            found[node.output[0]] = node.attribute[0].t
    return found


def _is(node: onnx.NodeProto, op: str) -> bool:
    return node.op_type == op and node.domain in _DOMAINS


def _step(node: onnx.NodeProto, known: dict[str, onnx.TensorProto]) -> tuple[Array, Array] | None:
    """Scale and zero point, in the scale's type; None where they are not one number each."""
    tensors = [known.get(name) for name in node.input[1:3] if name]
    if not tensors or any(t is None or int(np.prod(t.dims)) != 1 for t in tensors):
        return None
    scale, *zero = (numpy_helper.to_array(t).reshape(()) for t in tensors if t is not None)
    return scale, zero[0].astype(scale.dtype) if zero else np.zeros((), scale.dtype)


def _arithmetic(
    graph: onnx.GraphProto,
    node: onnx.NodeProto,
    step: tuple[Array, Array],
    ops: tuple[str, str],
) -> list[onnx.NodeProto]:
    """``x / scale + zero`` or ``(x - zero) * scale``, under the name that the node gave.

    In float64: a class number comes out of steps of 16 bits as the number that it was.
    """
    result, quantizing = node.output[0], ops[0] == "Div"
    scale, zero = f"headcut/scale of {result}", f"headcut/zero of {result}"
    for name, value in ((scale, step[0]), (zero, step[1])):
        graph.initializer.append(numpy_helper.from_array(value.astype(np.float64), name))
    wide, between, last = (f"headcut/{word} {result}" for word in ("wide", "between", "exact"))
    operands = (scale, zero) if quantizing else (zero, scale)
    kind = helper.np_dtype_to_tensor_dtype(step[0].dtype)
    first, end = (wide, result) if quantizing else (node.input[0], last)
    nodes = [
        helper.make_node(ops[0], [first, operands[0]], [between]),
        helper.make_node(ops[1], [between, operands[1]], [end]),
    ]
    if quantizing:
        return [helper.make_node("Cast", [node.input[0]], [wide], to=TensorProto.DOUBLE), *nodes]
    return [*nodes, helper.make_node("Cast", [last], [result], to=kind)]


def _inner(node: onnx.NodeProto) -> Iterator[str]:
    """Yield what the node's bodies read."""
    for attribute in node.attribute:
        for body in (attribute.g, *attribute.graphs):
            for inner in body.node:
                yield from inner.input
                yield from _inner(inner)
            yield from (value.name for value in body.output)
