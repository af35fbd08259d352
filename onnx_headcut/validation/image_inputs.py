"""The input that takes pictures: its layout, and the values that the graph behind it expects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from onnx import TensorProto, numpy_helper

from onnx_headcut.validation.inputs import input_specs

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy.typing as npt
    import onnx

    from onnx_headcut.validation.inputs import Array, InputSpec

AxisName = Literal["batch", "height", "width", "channel"]

_MOVES = {"Concat", "Flatten", "Gather", "Reshape", "Slice", "Split", "Squeeze", "Unsqueeze"}
_KEEPS_VALUES = frozenset(_MOVES | {"Cast", "Identity", "Pad", "Resize", "Transpose", "Upsample"})

_RAW = (0.0, 255.0)
_UNIT = (0.0, 1.0)
_NORMALISED = (-2.1, 2.6)
"""Pictures less the mean and over the deviation of ImageNet's, done before the graph."""


@dataclass(frozen=True)
class ImageInput:
    """The graph input that takes pictures: its axes, channel count and range of values."""

    spec: InputSpec
    axes: tuple[AxisName, ...]
    channels: int
    low: float
    high: float
    told: bool = True
    """Whether the graph tells the range; else it is a guess."""

    @property
    def widest(self) -> tuple[float, float]:
        """The range of all values that may come: a guess of 0..1 may be pictures normalised before."""
        return (self.low, self.high) if self.told else _NORMALISED

    def size(self, axis: AxisName) -> int | None:
        """Return the static extent of an axis; None where it is dynamic or absent."""
        if axis not in self.axes:
            return None
        dim = self.spec.dims[self.axes.index(axis)]
        return dim if isinstance(dim, int) else None

    def from_nhwc(self, pictures: Array) -> Array:
        """Bring ``[N, H, W, C]`` into the input's own layout, without changing values or dtype.

        An input without a batch axis takes the first picture.
        """
        order: tuple[AxisName, ...] = ("batch", "height", "width", "channel")
        if "batch" not in self.axes:
            pictures, order = pictures[0], order[1:]
        return np.ascontiguousarray(pictures.transpose([order.index(axis) for axis in self.axes]))


def image_input(model: onnx.ModelProto) -> ImageInput | None:
    """Find the input that takes pictures, with its layout and the range that the graph expects.

    The layout comes from a static dimension of 3, 1 or 4, then from the first Conv or Transpose
    behind the input. None where no input has three or four dimensions.
    """
    specs = input_specs(model)
    consumers = _consumers(model)
    for rank in (4, 3):
        for spec in specs:
            if len(spec.dims) == rank and not _is_auxiliary(spec):
                axes, channels = _layout(model, spec, consumers)
                found = _value_range(model, spec, consumers)
                return ImageInput(spec, axes, channels, *(found or _UNIT), told=found is not None)
    return None


def _is_auxiliary(spec: InputSpec) -> bool:
    return spec.dtype in (np.bool_, np.int64) or "mask" in spec.name.lower()


def _layout(
    model: onnx.ModelProto, spec: InputSpec, consumers: Mapping[str, Sequence[onnx.NodeProto]]
) -> tuple[tuple[AxisName, ...], int]:
    first: tuple[AxisName, ...] = ("channel", "height", "width")
    last: tuple[AxisName, ...] = ("height", "width", "channel")
    batch: tuple[AxisName, ...] = ("batch",) if len(spec.dims) == 4 else ()
    front, back = spec.dims[len(batch)], spec.dims[-1]
    for channels in (3, 1, 4):
        for axes, dim in ((first, front), (last, back)):
            if dim == channels:
                return batch + axes, channels
    for node, _ in _behind(spec.name, consumers, _KEEPS_VALUES - {"Transpose"}):
        perm = [list(attr.ints) for attr in node.attribute if attr.name == "perm"]
        if node.op_type == "Transpose" and perm == [[0, 3, 1, 2]]:
            return batch + last, back if isinstance(back, int) else 3
        if node.op_type == "Conv":
            return batch + first, front if isinstance(front, int) else _conv_channels(model, node)
    if isinstance(back, int) and (not isinstance(front, int) or back < front):
        return batch + last, back
    if isinstance(front, int):
        return batch + first, front
    return batch + (last if spec.dtype == np.uint8 else first), 3


def _conv_channels(model: onnx.ModelProto, node: onnx.NodeProto) -> int:
    group = next((attr.i for attr in node.attribute if attr.name == "group"), 1)
    weights = [tensor for tensor in model.graph.initializer if tensor.name == node.input[1]]
    return int(weights[0].dims[1] * group) if weights else 3


def _value_range(
    model: onnx.ModelProto, spec: InputSpec, consumers: Mapping[str, Sequence[onnx.NodeProto]]
) -> tuple[float, float] | None:
    """Tell the values that an image input takes: by dtype, then by the arithmetic behind it."""
    if spec.dtype == np.int8:
        return -128.0, 127.0
    if np.issubdtype(spec.dtype, np.integer):
        return _RAW
    passing = _KEEPS_VALUES | {"Add", "Sub", "Mul", "Div"}
    for node, value in _behind(spec.name, consumers, passing):
        if node.op_type not in _KEEPS_VALUES:
            found = _evidence(model, node, value)
            if found is not None:
                return found
    return None


def _evidence(model: onnx.ModelProto, node: onnx.NodeProto, value: str) -> tuple[float, float] | None:
    """Say what range a node tells of; None where it tells nothing (a sum with 0, a Conv)."""
    if node.op_type == "QuantizeLinear":
        return _quantized_range(model, node)
    others = [name for name in node.input if name != value]
    if node.op_type == "BatchNormalization" and len(node.input) >= 5:
        others = [node.input[3]]
    operand = _constant(model, others[0]) if others else None
    if operand is None:
        return None
    size = float(np.abs(operand).max())
    match node.op_type:
        # Means of pixel values are about 100 in 0..255 and 0.5 in 0..1; deviations 58 and 0.2.
        case "Sub" | "Add" | "BatchNormalization" if size > 0:
            return _RAW if size > 2 else _UNIT
        case "Div" if size != 1:
            return _RAW if size >= 16 else _UNIT
        case "Mul" if size != 1:
            return _RAW if size <= 1 / 16 else _UNIT
    return None


def _quantized_range(model: onnx.ModelProto, node: onnx.NodeProto) -> tuple[float, float] | None:
    """Say what an 8-bit QuantizeLinear with one scale can hold: more would be clipped."""
    constants = [_constant(model, name) for name in node.input[1:]]
    if len(constants) != 2 or any(value is None or value.size != 1 for value in constants):
        return None
    scale, zero = (float(value.flat[0]) for value in constants if value is not None)
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    lowest = -128 if types.get(node.input[2]) == TensorProto.INT8 else 0
    return (lowest - zero) * scale, (lowest + 255 - zero) * scale


def _consumers(model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            found.setdefault(name, []).append(node)
    return found


def _behind(
    name: str, consumers: Mapping[str, Sequence[onnx.NodeProto]], passing: frozenset[str]
) -> Iterator[tuple[onnx.NodeProto, str]]:
    """Walk the nodes next behind a value, and through those that are in ``passing``."""
    queue, seen = [name], {name}
    while queue and len(seen) < 64:  # the stem of a network; no more is meant here
        value = queue.pop(0)
        for node in consumers.get(value, ()):
            yield node, value
            if node.op_type in passing:
                fresh = [out for out in node.output if out not in seen]
                queue += fresh
                seen.update(fresh)


def _constant(model: onnx.ModelProto, name: str) -> npt.NDArray[np.float64] | None:
    """Return a small constant of the main graph; None for anything else."""
    tensors = [tensor for tensor in model.graph.initializer if tensor.name == name]
    for node in model.graph.node:
        if node.op_type == "Constant" and name in node.output:
            tensors += [attr.t for attr in node.attribute if attr.name == "value"]
    if not tensors or tensors[0].data_location == TensorProto.EXTERNAL:
        return None
    value = numpy_helper.to_array(tensors[0]) if np.prod(tensors[0].dims) <= 64 else np.zeros(0)
    return value.astype(np.float64) if value.size else None
