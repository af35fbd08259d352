"""What is known of tensors before anything runs: shape, element type and, where small, the value.

Two worlds are compared by a cut: the original and the graph as it will be. The facts of both are
computed by the same functions, node by node: see `interpreter`. Nothing here knows about classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper

from onnx_headcut.storage.tensors import to_array

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

Shape = tuple[int | None, ...]
Array = np.ndarray[Any, np.dtype[Any]]

STORED_LIMIT = 1 << 16
"""Elements up to which stored tensors are read."""


@dataclass(frozen=True)
class Fact:
    """One tensor: ``shape`` (None: unknown rank; None inside: unknown extent), type, value."""

    shape: Shape | None
    elem_type: int
    value: Array | None = None

    @cached_property
    def static(self) -> tuple[int, ...] | None:
        """The shape where every extent is known, else None."""
        if self.shape is None or any(d is None for d in self.shape):
            return None
        return tuple(d for d in self.shape if d is not None)

    def taken(self, axis: int, positions: Array) -> Fact:
        """The fact of the tensor's ``positions`` along ``axis``."""
        if self.value is not None:
            return of_array(self.value.take(positions, axis))
        if self.shape is None:
            return self
        shape = list(self.shape)
        shape[axis] = len(positions)
        return Fact(tuple(shape), self.elem_type)


UNKNOWN = Fact(None, 0)


def of_array(value: Array) -> Fact:
    """The fact of a known value."""
    return Fact(tuple(value.shape), helper.np_dtype_to_tensor_dtype(value.dtype), value)


def of_tensor(tensor: onnx.TensorProto, folder: Path | None = None) -> Fact:
    """The fact of a stored tensor; its value only where it is small.

    ``folder``: where data beside the model lie; without it, they are left alone.
    """
    shape = tuple(tensor.dims)
    beside = tensor.data_location == onnx.TensorProto.EXTERNAL
    small = 0 <= math.prod(shape) <= STORED_LIMIT
    value = to_array(tensor, folder) if small and (folder is not None or not beside) else None
    return Fact(shape, tensor.data_type, value)


def of_type(proto: onnx.TypeProto) -> Fact:
    """The fact that a declared type states."""
    if not proto.HasField("tensor_type"):
        return UNKNOWN
    tensor = proto.tensor_type
    if not tensor.HasField("shape"):
        return Fact(None, tensor.elem_type)
    dims = (d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)
    return Fact(tuple(dims), tensor.elem_type)


def to_type(fact: Fact) -> onnx.TypeProto:
    """The inverse of `of_type`; not to be changed, as equal facts share it."""
    return _to_type(fact.elem_type, fact.shape)


@lru_cache(maxsize=4096)
def _to_type(elem_type: int, shape: Shape | None) -> onnx.TypeProto:
    return helper.make_tensor_type_proto(elem_type, shape)


def same_fact(a: Fact, b: Fact) -> bool:
    """Whether nothing that is known tells two facts apart."""
    if a is b:
        return True
    if a.shape != b.shape or a.elem_type != b.elem_type or (a.value is None) != (b.value is None):
        return False
    if a.value is None or b.value is None:
        # two unknown shapes say nothing of each other, but neither would an edit be based on them
        return True
    return bool((a.value == b.value).all()) if a.value.shape == b.value.shape else False


def merged(facts: Sequence[Fact]) -> Fact:
    """What is true of several bodies' outputs."""
    first = facts[0]
    if first.shape is None or any(f.shape is None or len(f.shape) != len(first.shape) for f in facts):
        return Fact(None, first.elem_type)
    dims = zip(*(f.shape or () for f in facts), strict=True)
    return Fact(tuple(d[0] if len(set(d)) == 1 else None for d in dims), first.elem_type)


def attributes(node: onnx.NodeProto) -> Mapping[str, Any]:
    """A node's attributes by name; strings as bytes, tensors and graphs as protobufs."""
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}
