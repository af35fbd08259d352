"""Values of bfloat16 in and out of numpy, which has no such dtype."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from onnx_headcut.validation.inputs import Array

BFLOAT16 = "tensor(bfloat16)"
"""The type as onnxruntime writes it."""


def to_bits(value: Array) -> Array:
    """Give the bits of bfloat16 values as uint16; float32 values are rounded to nearest even."""
    if value.dtype.itemsize == 2:
        return np.ascontiguousarray(value).view(np.uint16)
    wide = np.ascontiguousarray(value, np.float32).view(np.uint32)
    return ((wide + 0x7FFF + ((wide >> 16) & 1)) >> 16).astype(np.uint16)


def from_bits(value: Any) -> Array:
    """Give an OrtValue of bfloat16 as float32 of its shape, by the address of its bits."""
    shape = tuple(value.shape())
    raw = ctypes.string_at(value.data_ptr(), 2 * int(np.prod(shape, dtype=int)))
    wide = np.frombuffer(raw, np.uint16).astype(np.uint32) << 16
    return wide.view(np.float32).reshape(shape)
