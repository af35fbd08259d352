"""Half precision: which types a model computes in, and what lies behind its scores without them.

Eleven bits of float16 (and eight of bfloat16) make equal scores, as the steps of a quantizer do,
and one more rounding error before them makes another number. Where detections are picked behind
them, both models are therefore compared in float32 (see `unrounded`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import AttributeProto, TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    import onnx

    from onnx_headcut.validation.compare import Array
    from onnx_headcut.validation.reference import Runner

HALVES = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16})

_TYPE_ATTRIBUTES = frozenset({"to", "dtype", "output_dtype", "precision", "softmax_precision"})


def halves(graph: onnx.GraphProto) -> set[np.dtype[Any]]:
    """Give the types of half precision that a graph computes in.

    They are its inputs', or what it casts to. A weight that is stored in half and cast is not
    among them. Scores that are float32 where they are masked may have been half before, and be
    half again behind: converters leave an activation in float32 between two casts.
    """
    stored = {tensor.name for tensor in graph.initializer}
    stored.update(node.output[0] for node in graph.node if node.op_type == "Constant")
    types = {v.type.tensor_type.elem_type for v in graph.input if v.name not in stored}
    for node in graph.node:
        if node.op_type == "Cast" and node.input[0] not in stored:
            types.update(a.i for a in node.attribute if a.name == "to")
    return {helper.tensor_dtype_to_np_dtype(t) for t in types & HALVES}


def widen(model: onnx.ModelProto, types: Collection[int] = HALVES) -> set[int]:
    """Turn all floating point of these ``types`` into float32, in place; those that were there.

    Of types that are wider than float32, finite values stay finite. Tensors in other files are not
    read: they are cast.
    """
    found = _widen_graph(model.graph, types)
    for function in model.functions:
        found |= _widen_nodes(function.node, types)
        for value in function.value_info:
            found |= _widen_type(value.type, types)
    return found


def stored_name(name: str) -> str:
    """Name the tensor in another file behind the value ``name`` of a widened model."""
    return f"headcut/stored {name}"


def _widen_graph(graph: onnx.GraphProto, types: Collection[int]) -> set[int]:
    found = _widen_nodes(graph.node, types)
    inside = [t for t in graph.initializer if t.data_location != TensorProto.EXTERNAL]
    outside = [t for t in graph.initializer if t.data_location == TensorProto.EXTERNAL]
    for tensor in [tensor for tensor in outside if tensor.data_type in types]:
        found.add(tensor.data_type)
        for value in [value for value in graph.input if value.name == tensor.name]:
            graph.input.remove(value)
        name, tensor.name = tensor.name, stored_name(tensor.name)
        graph.node.insert(0, helper.make_node("Cast", [tensor.name], [name], to=TensorProto.FLOAT))
    found |= _widen_tensors(inside, types)
    found |= _widen_tensors((sparse.values for sparse in graph.sparse_initializer), types)
    for value in (*graph.input, *graph.output, *graph.value_info):
        found |= _widen_type(value.type, types)
    return found


def _widen_type(declared: onnx.TypeProto, types: Collection[int]) -> set[int]:
    kind = declared.WhichOneof("value")
    if kind in {"sequence_type", "optional_type"}:
        return _widen_type(getattr(declared, kind).elem_type, types)
    tensor = declared.tensor_type
    if kind != "tensor_type" or tensor.elem_type not in types:
        return set()
    found, tensor.elem_type = {tensor.elem_type}, TensorProto.FLOAT
    return found


def _widen_nodes(nodes: Iterable[onnx.NodeProto], types: Collection[int]) -> set[int]:
    found = set[int]()
    for node in nodes:
        for attribute in node.attribute:
            if attribute.name in _TYPE_ATTRIBUTES and attribute.i in types:
                found.add(attribute.i)
                attribute.i = TensorProto.FLOAT
            for graph in _graphs(attribute):
                found |= _widen_graph(graph, types)
            if attribute.type == AttributeProto.TENSOR:
                found |= _widen_tensors([attribute.t], types)
    return found


def _graphs(attribute: onnx.AttributeProto) -> Iterator[onnx.GraphProto]:
    if attribute.type == AttributeProto.GRAPH:
        yield attribute.g
    yield from attribute.graphs


def _widen_tensors(tensors: Iterable[onnx.TensorProto], types: Collection[int]) -> set[int]:
    found = set[int]()
    most = np.finfo(np.float32).max
    for tensor in tensors:
        if tensor.data_type in types:
            found.add(tensor.data_type)
            value = numpy_helper.to_array(tensor)
            if value.dtype.itemsize > most.dtype.itemsize:
                value = np.where(np.isfinite(value), np.clip(value, -most, most), value)
            tensor.CopyFrom(numpy_helper.from_array(value.astype(np.float32), tensor.name))
    return found


class Wide:
    """Runs a widened model on values of the model as it was."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Return every graph output by name; half precision is fed as float32."""
        return self._runner.run(
            {n: v.astype(np.float32) if v.dtype == np.float16 else v for n, v in feed.items()}
        )
