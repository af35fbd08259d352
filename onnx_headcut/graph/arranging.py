"""Ops that put elements elsewhere and change none, as numpy has them.

They are most of what is computed to understand a model, and often all of it: onnx's reference
implementation, a tenth of the time of a whole cut to import, is for the rest, and for every form of
these ops that is not written out here. What both say is compared in the tests.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from onnx_headcut.graph.facts import Array, attributes
from onnx_headcut.storage.tensors import to_array

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import onnx

    Attributes = Mapping[str, Any]
    Inputs = Sequence[Array | None]


SMALL = 1 << 22
"""Elements up to which their numbers are written once and shown again: 16 MB."""


def numbers(shape: tuple[int, ...]) -> Array:
    """Number the elements of a tensor in their order (int32), to see where they go; read-only."""
    size = math.prod(shape)
    known = _counted(1 << (size - 1).bit_length()) if 0 < size <= SMALL else _counted.__wrapped__(size)
    return known[:size].reshape(shape)


@lru_cache(maxsize=2)
def _counted(size: int) -> Array:
    found = np.arange(size, dtype=np.int32)
    found.flags.writeable = False
    return found


def arranged(node: onnx.NodeProto, inputs: Inputs) -> Array | None:
    """The only output of a node of onnx's own domain; None where the reference has to say.

    It may share memory with an input. Raises what numpy raises for inputs that do not fit.
    """
    arrange = _OPS.get(node.op_type)
    if arrange is None or any(a.ref_attr_name for a in node.attribute):
        return None
    return arrange(attributes(node), inputs)


def _constant(given: Attributes, inputs: Inputs) -> Array | None:  # noqa: ARG001
    return to_array(given["value"], None) if set(given) == {"value"} else None


def _identity(given: Attributes, inputs: Inputs) -> Array | None:  # noqa: ARG001
    return inputs[0]


def _transpose(given: Attributes, inputs: Inputs) -> Array | None:
    (data,) = inputs
    return None if data is None else np.transpose(data, given.get("perm"))


def _reshape(given: Attributes, inputs: Inputs) -> Array | None:
    if len(inputs) != 2 or (data := inputs[0]) is None or (wanted := inputs[1]) is None:
        return None
    shape = wanted.tolist()
    if not given.get("allowzero"):
        shape = [data.shape[i] if size == 0 else size for i, size in enumerate(shape)]
    return data.reshape(shape)


def _concat(given: Attributes, inputs: Inputs) -> Array | None:
    parts = [part for part in inputs if part is not None]
    alike = len(parts) == len(inputs) and len({part.dtype for part in parts}) == 1
    return np.concatenate(parts, given["axis"]) if alike and "axis" in given else None


def _gather(given: Attributes, inputs: Inputs) -> Array | None:
    data, places = inputs
    if data is None or places is None or not data.size:
        return None
    return np.asarray(data.take(places, given.get("axis", 0)))


def _unsqueeze(given: Attributes, inputs: Inputs) -> Array | None:
    axes = _axes(given, inputs)
    return None if axes is None or inputs[0] is None else np.expand_dims(inputs[0], axes)


def _squeeze(given: Attributes, inputs: Inputs) -> Array | None:
    axes = _axes(given, inputs)
    return None if axes is None or inputs[0] is None else np.squeeze(inputs[0], axes)


def _axes(given: Attributes, inputs: Inputs) -> tuple[int, ...] | None:
    """The axes, an input since opset 13; None where all of them are meant."""
    if len(inputs) > 1 and inputs[1] is not None:
        return tuple(np.atleast_1d(inputs[1]).tolist())
    return tuple(given["axes"]) if "axes" in given else None


def _slice(given: Attributes, inputs: Inputs) -> Array | None:
    if given or len(inputs) < 3:
        return None  # with attributes, before opset 10
    data, starts, ends, axes, steps = (*inputs, None, None)[:5]
    if data is None or starts is None or ends is None:
        return None
    axes = np.arange(len(starts)) if axes is None else axes
    steps = np.ones_like(starts) if steps is None else steps
    taken = [slice(None)] * data.ndim
    for axis, *of_axis in zip(
        axes.tolist(), starts.tolist(), ends.tolist(), steps.tolist(), strict=True
    ):
        taken[axis] = slice(*of_axis)
    return data[tuple(taken)]


_OPS: Mapping[str, Callable[[Attributes, Inputs], Array | None]] = {
    "Concat": _concat,
    "Constant": _constant,
    "Gather": _gather,
    "Identity": _identity,
    "Reshape": _reshape,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
