"""Models that are compiled for the sizes that they are fed with, where a provider needs to know them.

What lies behind the scores is run apart, and reads what the rest of the model gives: boxes, and sizes
that were computed. OpenVINO compiles a NonMaxSuppression only where it knows the sizes of its boxes,
and a Tile only where it knows how often. In the whole model it finds that out; here it is told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from onnx_headcut.validation.reference import Runner

WANTED = frozenset({"openvino"})
"""Providers that need to know."""

_FEW = 64  # integers that are sizes, axes or counts rather than data


class Fixed:
    """Opens a session for each set of sizes, and of small integers, that the model is fed with."""

    def __init__(self, model: onnx.ModelProto, opener: Callable[[onnx.ModelProto], Runner]) -> None:
        self._model, self._open = model, opener
        self._sessions: dict[tuple[Any, ...], Runner] = {}

    def run(self, feed: Mapping[str, Any]) -> dict[str, Any]:
        """Run a session for these sizes."""
        values = {name: np.asarray(value) for name, value in feed.items()}
        known = {name: value for name, value in values.items() if _says_a_size(value)}
        sizes = tuple((name, values[name].shape) for name in sorted(values))
        key = (sizes, tuple((name, known[name].tobytes()) for name in sorted(known)))
        if key not in self._sessions:
            self._sessions[key] = self._open(with_known(self._model, values, known))
        return self._sessions[key].run({n: v for n, v in feed.items() if n not in known})


def _says_a_size(value: np.ndarray[Any, Any]) -> bool:
    return value.dtype.kind == "i" and value.ndim <= 1 and value.size <= _FEW


def with_known(
    model: onnx.ModelProto, values: Mapping[str, Any], known: Mapping[str, Any]
) -> onnx.ModelProto:
    """A copy whose inputs have the sizes of ``values``; ``known`` ones are no inputs any more."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    inputs = [value for value in copy.graph.input if value.name not in known]
    for value in inputs:
        if value.name in values:
            elem_type = value.type.tensor_type.elem_type
            shape = values[value.name].shape
            value.CopyFrom(helper.make_tensor_value_info(value.name, elem_type, shape))
    kept = list(map(_copied, inputs))
    del copy.graph.input[:]
    copy.graph.input.extend(kept)
    copy.graph.initializer.extend(
        numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in known.items()
    )
    return copy


def _copied(value: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    new = onnx.ValueInfoProto()
    new.CopyFrom(value)
    return new
