"""Variants of a detector as deployment makes them: other number formats, other runtimes' graphs."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Callable, MutableSequence

SHAPES = Path(__file__).parents[1] / "models" / "shapes"
KEEP = (5, 1, 9)
COLUMNS = ("background", *(f"shape {k}" for k in range(1, 15)))
ORDER = (0, *KEEP)
"""Columns that a cut of the shapes detector to `KEEP` has: the background, then the classes."""


@cache
def _shipped(name: str) -> bytes:
    return (SHAPES / f"ssd_shapes_{name}.onnx").read_bytes()


def shapes(activation: str = "softmax") -> onnx.ModelProto:
    """The trained detector of shapes, with softmax, sigmoid or raw scores; no class names."""
    model = onnx.load_model_from_string(_shipped("ts_raw" if activation == "raw" else "ts_softmax"))
    if activation == "sigmoid":
        node = next(n for n in model.graph.node if n.op_type == "Softmax")
        node.op_type = "Sigmoid"
        del node.attribute[:]
    del model.metadata_props[:]
    return model


def picture(seed: int = 0, dtype: type = np.float32) -> dict[str, np.ndarray]:
    return {"images": np.random.default_rng(seed).random((1, 3, 128, 128)).astype(dtype)}


def run(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    """All outputs; graph optimisations off, so that what is compared is what is written."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return list(session.run(None, feed))


def optimised(model: onnx.ModelProto, level: str, folder: Path) -> onnx.ModelProto:
    """What onnxruntime itself saves at an optimisation level: BASIC, EXTENDED or ALL."""
    path = folder / f"{level}.onnx"
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
    options.optimized_model_filepath = str(path)
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(path)


def retyped(model: onnx.ModelProto, elem_type: int) -> onnx.ModelProto:
    """Every float tensor of a model, stored, declared or cast to, in another float type.

    In bodies and functions, too. What NonMaxSuppression reads, which it takes in float32 alone, is
    cast for it.
    """
    _retype_graph(model.graph, elem_type)
    for function in model.functions:
        _retype_nodes(function.node, elem_type)
    return model


def between_casts(model: onnx.ModelProto, elem_type: int) -> onnx.ModelProto:
    """The same, with inputs and outputs in float as they were: converters' keep_io_types."""
    graph = model.graph
    stored = {tensor.name for tensor in graph.initializer}
    ends = [[v for v in values if v.type.tensor_type.elem_type == TensorProto.FLOAT
             and v.name not in stored] for values in (graph.input, graph.output)]  # fmt: skip
    retyped(model, elem_type)
    for value in (value for some in ends for value in some):
        _rename(graph, value.name, f"{value.name} inside")
        value.type.tensor_type.elem_type = TensorProto.FLOAT
    for value in ends[0]:
        cast = helper.make_node("Cast", [value.name], [f"{value.name} inside"], to=elem_type)
        graph.node.insert(0, cast)
    for value in ends[1]:
        cast = helper.make_node("Cast", [f"{value.name} inside"], [value.name], to=TensorProto.FLOAT)
        graph.node.append(cast)
    return model


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        for names in (node.input, node.output):
            for at, name in enumerate(names):
                names[at] = new if name == old else name
        for body in (a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH):
            if all(old not in inner.output for inner in body.node):  # else it is another value
                _rename(body, old, new)


def _retype_graph(graph: onnx.GraphProto, elem_type: int) -> None:
    for tensor in graph.initializer:
        _retype(tensor, elem_type)
    _retype_nodes(graph.node, elem_type)
    for value in [*graph.input, *graph.output, *graph.value_info]:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = elem_type


def _retype_nodes(nodes: MutableSequence[onnx.NodeProto], elem_type: int) -> None:
    for at in reversed(range(len(nodes))):
        node = nodes[at]
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                _retype(attribute.t, elem_type)
            elif attribute.type == onnx.AttributeProto.GRAPH:
                _retype_graph(attribute.g, elem_type)
            elif node.op_type == "Cast" and attribute.i == TensorProto.FLOAT:
                attribute.i = elem_type
        if node.op_type == "ConstantOfShape" and not node.attribute:
            zero = numpy_helper.from_array(np.zeros(1, helper.tensor_dtype_to_np_dtype(elem_type)))
            node.attribute.append(helper.make_attribute("value", zero))
        casts = []
        for slot in (0, 1, 3, 4) if node.op_type == "NonMaxSuppression" else ():
            if node.input[slot:] and node.input[slot]:
                name = f"{node.output[0]} reads {slot}"
                casts.append(helper.make_node("Cast", [node.input[slot]], [name], to=1))
                node.input[slot] = name
        for cast in casts:
            nodes.insert(at, cast)


def _retype(tensor: TensorProto, elem_type: int) -> None:
    if tensor.data_type == TensorProto.FLOAT:
        value = numpy_helper.to_array(tensor).astype(helper.tensor_dtype_to_np_dtype(elem_type))
        tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))


def weights_behind(
    model: onnx.ModelProto, store: Callable[[str, np.ndarray], list[object]]
) -> onnx.ModelProto:
    """Every weight of a convolution behind nodes that compute it from what ``store`` gives.

    ``store(name, value)`` returns tensors to store and nodes, the last of which makes ``name``.
    """
    graph = model.graph
    names = {n.input[1] for n in graph.node if n.op_type == "Conv"}
    nodes, tensors = [], []
    for tensor in [t for t in graph.initializer if t.name in names]:
        for part in store(tensor.name, numpy_helper.to_array(tensor)):
            (nodes if isinstance(part, onnx.NodeProto) else tensors).append(part)
        graph.initializer.remove(tensor)
    graph.initializer.extend(tensors)
    for node in reversed(nodes):
        graph.node.insert(0, node)
    return model
