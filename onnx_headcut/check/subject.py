"""The model under test: everything that rules ask for, worked out once and only when asked."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from onnx_headcut.classes import Names, find_names, read_cut_metadata
from onnx_headcut.errors import HeadcutError, InputError, UsageError
from onnx_headcut.graph import model as files
from onnx_headcut.graph.facts import attributes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from onnx_headcut.check.policy import Policy
    from onnx_headcut.classes.record import CutRecord
    from onnx_headcut.understanding import Understood

Array = np.ndarray[Any, np.dtype[Any]]

_PASSING = frozenset({"Identity", "Cast", "Transpose", "DequantizeLinear", "Reshape", "Unsqueeze",
                      "Squeeze", "Flatten"})  # fmt: skip
"""Ops that may stand between stored weights and the layer that uses them."""


class NotTested(Exception):
    """A rule cannot be tested on this model; the message says why."""


@dataclass(frozen=True)
class HeadRows:
    """A head's weights by channel: ``rows`` float64 ``[channels, n]``, and each channel's class."""

    node: str
    rows: Array
    ids: Array


class Subject:
    """One model file, and what a policy says of how it is read."""

    def __init__(self, path: Path, policy: Policy, plugins: Sequence[str] = ()) -> None:
        self.path, self.policy, self.plugins = path, policy, tuple(plugins)
        self.proto = read(path)
        self.metadata = files.metadata_of(self.proto)

    @cached_property
    def source(self) -> files.Source:
        """The model with its external data looked at; raises InputError where they are amiss."""
        return files.load(self.path)

    def look_outside(self) -> None:
        """Raise InputError where external data are amiss."""
        self.source  # noqa: B018  (reading it is the look)

    @cached_property
    def size(self) -> int:
        """Bytes of the file and of the external data it names."""
        outside = {
            self.path.parent / ExternalDataInfo(t).location
            for t in files.all_tensors(self.proto)
            if uses_external_data(t)
        }
        return sum(p.stat().st_size for p in [self.path, *outside] if p.is_file())

    @cached_property
    def _understood(self) -> Understood | HeadcutError:
        try:
            return self._understand(self.policy.model.get("labels"))
        except HeadcutError as error:
            return error

    def _understand(self, labels: str | None, background: str | None = None) -> Understood:
        from onnx_headcut.understanding import Options, understand  # noqa: PLC0415  (the engine)

        model = self.policy.model
        background = model.get("background", background)
        heads = tuple(model.get("heads", ()))
        try:
            source = self.source
        except InputError as error:
            raise NotTested(error.what) from None
        shapes, layout = model.get("input_shapes", {}), model.get("layout")
        return understand(source, Options(labels, background, heads, shapes, layout, self.plugins))

    @cached_property
    def known(self) -> Understood:
        """Heads and classes, or the heads alone where names do not fit; raises NotTested."""
        found = self._understood
        if isinstance(found, UsageError):  # names or background: the head is there all the same
            with suppress(HeadcutError):
                return self._understand("none", "none")
        if isinstance(found, HeadcutError):
            raise NotTested(f"the head was not found: {found.what}")
        return found

    @property
    def complaint(self) -> HeadcutError | None:
        """What was amiss with head or names."""
        found = self._understood
        return found if isinstance(found, HeadcutError) else None

    @cached_property
    def names(self) -> Names | None:
        """Class names, from the policy's labels or the metadata; raises HeadcutError."""
        return find_names(self.policy.model.get("labels"), self.metadata)

    @cached_property
    def record(self) -> CutRecord | None:
        """The record of a cut; raises InputError for one that cannot be read."""
        return read_cut_metadata(self.metadata)

    @cached_property
    def heads(self) -> list[HeadRows]:
        """The weights of all heads by channel; heads with computed weights are left out."""
        found = []
        for i, labels in sorted(self.known.located.heads.items()):
            node = self.known.analysis.main.graph.node[i]
            with suppress(LookupError):
                rows = self._rows(node, len(labels.ids))
                found.append(HeadRows(node.name or node.output[0], rows, labels.ids))
        return found

    def _rows(self, node: onnx.NodeProto, channels: int) -> Array:
        parts = []
        for name in node.input:
            with suppress(LookupError):
                parts.append(_by_channel(node, self._stored(name), channels))
        if not parts or parts[0].shape[1] < 1:
            raise LookupError
        return np.concatenate(parts, axis=1)

    def _stored(self, name: str) -> Array:
        """Read a stored tensor, also behind a few passing nodes; raises LookupError for others."""
        scope = self.known.analysis.main
        if name in scope.index.initializers:
            return files.to_array(scope.index.initializers[name], self.path.parent)
        node = scope.index.node_of(name)
        if node is None:
            raise LookupError(name)
        if node.op_type == "Constant":
            return files.to_array(attributes(node)["value"], self.path.parent)
        if node.op_type not in _PASSING:
            raise LookupError(name)
        values = [self._stored(n) if n else None for n in node.input]
        if node.op_type == "DequantizeLinear":
            return _dequantized(node, values)
        try:
            return self.known.analysis.interpreter.run(node, values)[0]
        except Exception:  # noqa: BLE001  (what the reference cannot run is not read)
            raise LookupError(name) from None


def _dequantized(node: onnx.NodeProto, values: list[Array | None]) -> Array:
    """Compute ``(x - zero point) * scale``, which the reference has for a few opsets only."""
    data, scale = (np.asarray(value, np.float64) for value in values[:2])
    shape = [1] * data.ndim
    if scale.ndim == 1 and scale.size > 1:
        shape[attributes(node).get("axis", 1)] = -1
    elif scale.size > 1:
        raise LookupError
    zero = np.zeros(1) if len(values) < 3 else np.asarray(values[2], np.float64)
    zero = zero.reshape(shape) if zero.size > 1 else zero.reshape([1] * data.ndim)
    return np.asarray((data - zero) * scale.reshape(shape))


def _by_channel(node: onnx.NodeProto, value: Array, channels: int) -> Array:
    """Weights or bias with the channels in front: ``[channels, n]``."""
    axes = [a for a in range(value.ndim) if value.shape[a] == channels]
    if not axes:
        raise LookupError
    # Conv and Gemm with transB have channels first; MatMul, Gemm and biases have them last.
    first = node.op_type == "Conv" or attributes(node).get("transB", 0)
    axis = axes[0] if first else axes[-1]
    return np.moveaxis(value, axis, 0).reshape(channels, -1).astype(np.float64)


def read(path: Path) -> onnx.ModelProto:
    """Read a model without its external data, wherever these lie; raises InputError."""
    try:
        proto = onnx.load(path, load_external_data=False)
    except Exception:  # noqa: BLE001  (of another class in each version: load says what it is)
        proto = onnx.ModelProto()
    if not (proto.graph.node or proto.graph.output):
        files.load(path)  # raises, with words
        raise InputError(f"{path} holds no graph")
    return proto


def title(node: onnx.NodeProto) -> str:
    """How a node is called in results."""
    return node.name or (node.output[0] if node.output else node.op_type)


Finding = tuple[str, str]
"""What breaks a rule, and the node or tensor where; "" for the model as a whole."""
