"""Stored tensors: where a model keeps them, how many bytes they need, and their values."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import uses_external_data

from onnx_headcut.errors import InputError
from onnx_headcut.storage import lean
from onnx_headcut.storage.external import range_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from onnx_headcut.graph.facts import Array

RANK = 64
"""Axes that a tensor may have: as many as numpy takes."""

_PACKED = {
    bits: {getattr(TensorProto, n) for n in names if hasattr(TensorProto, n)}
    for bits, names in {4: ("INT4", "UINT4", "FLOAT4E2M1"), 2: ("INT2", "UINT2")}.items()
}
_AS_STORED = frozenset(
    {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.INT8, TensorProto.UINT8,
     TensorProto.INT32, TensorProto.INT64}
)  # fmt: skip
"""Types of which a file holds the bytes that numpy works with (on little-endian machines)."""
_TYPED = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")


def all_tensors(proto: onnx.ModelProto) -> Iterator[TensorProto]:
    """Every stored tensor: initializers and attributes, subgraphs and functions included."""
    yield from _of_graph(proto.graph)
    for function in proto.functions:
        yield from _of_nodes(function.node)


def _of_graph(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield sparse.values
        yield sparse.indices
    yield from _of_nodes(graph.node)


def _of_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                yield attribute.t
            if attribute.tensors:
                yield from attribute.tensors
            for graph in subgraphs_of(attribute):
                yield from _of_graph(graph)


def subgraphs_of(attribute: onnx.AttributeProto) -> list[onnx.GraphProto]:
    """List the graphs that an attribute holds."""
    if attribute.type == onnx.AttributeProto.GRAPH:
        return [attribute.g]
    return list(attribute.graphs) if attribute.graphs else []  # the end of a loop costs an exception


def to_array(tensor: TensorProto, folder: Path | None) -> Array:
    """Give a stored tensor's value, read from the file that holds it where it is not in memory."""
    note = lean.note_of(tensor)
    if note is None and not uses_external_data(tensor):
        return numpy_helper.to_array(tensor)
    where = range_of(tensor, folder) if note is None else note[0]
    if tensor.data_type in _AS_STORED and sys.byteorder == "little":
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        return np.frombuffer(where.read(), dtype).reshape(tuple(tensor.dims))
    full = lean.without_note(tensor)
    full.raw_data = where.read()  # of the typed fields, lean leaves those in _AS_STORED alone
    return numpy_helper.to_array(full)


def with_data_of(like: TensorProto, new: TensorProto) -> TensorProto:
    """Make ``new`` of the kind of ``like``: its type, documentation, metadata, unknown fields."""
    kept = lean.without_note(like)
    for name in ("raw_data", "dims", *_TYPED):
        kept.ClearField(name)
    data = TensorProto()
    data.CopyFrom(new)
    data.ClearField("data_type")
    kept.MergeFrom(data)
    return kept


def needed_bytes(tensor: TensorProto) -> int | None:
    """Bytes of the tensor's data as its type and shape say; None for strings and unknown types."""
    count: int = math.prod(tensor.dims)
    for bits, types in _PACKED.items():
        if tensor.data_type in types:
            return -(-count * bits // 8)
    try:
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    except (KeyError, ValueError, TypeError):
        return None
    return None if dtype.kind == "O" else int(count * dtype.itemsize)


def check_size(tensor: TensorProto) -> None:
    """Raise InputError where the stored data do not fit the declared type and shape."""
    name = tensor.name
    if len(tensor.dims) > RANK:
        raise InputError(f"tensor {name!r} has {len(tensor.dims)} axes, more than {RANK}")
    if any(d < 0 for d in tensor.dims):
        raise InputError(f"tensor {name!r} has a negative extent: {list(tensor.dims)}")
    if tensor.data_type not in TensorProto.DataType.values() or not tensor.data_type:
        raise InputError(f"tensor {name!r} has no known element type ({tensor.data_type})")
    needed = needed_bytes(tensor)
    stored = _stored_bytes(tensor, needed)
    if stored is not None and needed is not None and stored != needed:
        raise InputError(
            f"tensor {name!r} of shape {list(tensor.dims)} needs {needed} bytes, and {stored} are"
            " stored",
            advice="the file is damaged, or its weights were taken out: export it again",
        )
    if tensor.data_type == TensorProto.STRING and len(tensor.string_data) != math.prod(tensor.dims):
        raise InputError(f"tensor {name!r} does not hold as many strings as its shape says")


def _stored_bytes(tensor: TensorProto, needed: int | None) -> int | None:
    """Bytes that are stored, typed fields converted; None where this cannot be told."""
    note = lean.note_of(tensor)
    if note is not None:
        return note[0].length
    if uses_external_data(tensor):
        length = {e.key: e.value for e in tensor.external_data}.get("length")
        return int(length) if length else None  # numbers, by `external.range_of`
    if tensor.HasField("raw_data"):
        return len(tensor.raw_data)
    typed = next((len(getattr(tensor, f)) for f in _TYPED if len(getattr(tensor, f))), 0)
    packed = any(tensor.data_type in types for types in _PACKED.values())
    per = 1 if packed else (needed or 0) // max(math.prod(tensor.dims), 1)
    if tensor.data_type in {TensorProto.COMPLEX64, TensorProto.COMPLEX128}:
        typed //= 2
    return typed * per
