"""What a model is fed with: its declared inputs, and feeds by their names.

A *feed* maps the name of each graph input to an array of its declared dtype and shape. Initializers
that are listed as graph inputs too (IR version 3, some exporters still do it) are not inputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper

from onnx_headcut.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx

Array = npt.NDArray[Any]
Feed = dict[str, Array]


@dataclass(frozen=True)
class NamedFeed:
    """One feed and what to call it in reports (no folder names).

    ``may_fail``: dimensions that the model declares dynamic were moved away from the first feed's.
    Many exporters declare dimensions dynamic that the graph behind cannot take: an original that
    refuses such a feed is no fault of a cut, and the feed is to be skipped. ``assumed``: of a
    picture, the preprocessing that nobody said.
    """

    name: str
    feed: Feed
    may_fail: bool = False
    assumed: str = ""


@dataclass(frozen=True)
class InputSpec:
    """A graph input: ``dims`` holds an int per static axis, a dim_param or "" per dynamic one."""

    name: str
    elem_type: int
    dims: tuple[int | str, ...]

    @property
    def dtype(self) -> np.dtype[Any]:
        """The numpy dtype of its elements (bfloat16 is ml_dtypes' where onnx knows that)."""
        return np.dtype(helper.tensor_dtype_to_np_dtype(self.elem_type))

    @property
    def text(self) -> str:
        """Name, dtype and shape as messages give them, such as ``images uint8[N,300,300,3]``."""
        dims = ",".join(str(dim) if dim != "" else "?" for dim in self.dims)
        return f"{self.name} {self.dtype}[{dims}]"


def input_specs(model: onnx.ModelProto) -> list[InputSpec]:
    """List the graph inputs that a caller has to feed.

    Raises UsageError for an input of unknown rank, and for one that is no tensor of numbers.
    """
    initialized = {tensor.name for tensor in model.graph.initializer}
    initialized |= {tensor.values.name for tensor in model.graph.sparse_initializer}
    return [_spec(value) for value in model.graph.input if value.name not in initialized]


def _spec(value: onnx.ValueInfoProto) -> InputSpec:
    kind = value.type.WhichOneof("value")
    tensor = value.type.tensor_type
    if kind != "tensor_type" or tensor.elem_type in (TensorProto.UNDEFINED, TensorProto.STRING):
        raise UsageError(
            f"input {value.name!r} is not a tensor of numbers ({kind or 'no type'})",
            advice="Validation cannot feed such a model: export it with tensor inputs.",
        )
    if not tensor.HasField("shape"):
        raise UsageError(
            f"the model does not say how many dimensions input {value.name!r} has",
            advice="Pass arrays of your own with --input FILE.npz.",
        )
    return InputSpec(value.name, tensor.elem_type, tuple(_dim(dim) for dim in tensor.shape.dim))


def _dim(dim: onnx.TensorShapeProto.Dimension) -> int | str:
    # Some exporters write 0 or -1 for "any".
    return dim.dim_value if dim.dim_value > 0 else dim.dim_param


def with_shapes(specs: Sequence[InputSpec], shapes: Mapping[str, Sequence[int]]) -> list[InputSpec]:
    """Set the shapes that are given by name; raises UsageError where one contradicts the model."""
    known = {spec.name: spec for spec in specs}
    for name, shape in shapes.items():
        if name not in known:
            raise UsageError(f"a shape is given for {name!r}, which is no input", advice=offer(specs))
        dims = known[name].dims
        if len(shape) != len(dims) or any(
            given < 1 or (isinstance(dim, int) and dim != given)
            for given, dim in zip(shape, dims, strict=False)
        ):
            text = "x".join(map(str, shape))
            raise UsageError(f"shape {text} does not fit input {known[name].text}")
        known[name] = InputSpec(name, known[name].elem_type, tuple(int(dim) for dim in shape))
    return list(known.values())


def offer(specs: Sequence[InputSpec]) -> str:
    """Say which inputs there are, as advice."""
    return f"The model's inputs are {', '.join(spec.text for spec in specs) or 'none'}."
