"""A head as what it is: at every place, one row of weights per channel over the same features.

Conv over k x k places reads a patch: https://onnx.ai/onnx/operators/onnx__Conv.html (pads, strides,
dilations, auto_pad); Gemm and MatMul read a row.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from onnx_headcut.classes import Given
from onnx_headcut.editing.apply import stored_tensor
from onnx_headcut.errors import GraphRefused
from onnx_headcut.graph.facts import attributes
from onnx_headcut.graph.model import to_array

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import onnx

    from onnx_headcut.labels import Ints, Labels

Array = np.ndarray[Any, np.dtype[Any]]
Floats = np.ndarray[Any, np.dtype[np.float64]]

MOST_FEATURES = 1152
"""Features of a place (3 x 3 x 128) up to which a row is fitted over them one by one."""

WAY_OUT = "leave --fit-background away, or keep all scores as they are with --scores exact"


@dataclass(frozen=True)
class Head:
    """One head: where its features and scores are, and how its weights lie.

    ``grid``: int64 [anchors, classes], the channel of each; ``rows``: float64 [channels, *rest],
    the weight with its channels in front; ``biases``: float64 [channels], all that is added to a
    channel on its way to the scores, of which ``offsets`` behind the node. ``features`` is the value
    that the node reads, None where rows are combined instead of features weighed.
    """

    value: str
    features: str | None
    axis: int
    grid: Ints
    rows: Floats = field(repr=False)
    biases: Floats = field(repr=False)
    offsets: Floats = field(repr=False)
    node: onnx.NodeProto = field(repr=False)

    @property
    def anchors(self) -> int:
        """How often each class occurs among the channels."""
        return len(self.grid)

    @property
    def size(self) -> int:
        """Number of unknowns of an anchor, but for its bias."""
        return len(self.rows) if self.features is None else self.rows[0].size

    def places(self, values: Mapping[str, Array]) -> tuple[Array, Floats]:
        """Give features [places, size] and scores, float64 [places, anchors, classes], of a run."""
        out = np.moveaxis(values[self.value], self.axis, -1)
        flat = out.reshape(-1, out.shape[-1])
        scores = flat.astype(np.float64) + self.offsets
        if self.features is None:
            return scores, scores[:, self.grid]
        return unfold(self.node, values[self.features], self.rows.shape[2:]), scores[:, self.grid]

    def given(self, background: int, change: Floats) -> Given:
        """The background's rows with ``change`` [anchors, size + 1] (bias last) added to them."""
        own = self.grid[:, background]
        slopes, bias = change[:, :-1], change[:, -1] + self.biases[own]
        if self.features is None:
            flat = self.rows.reshape(len(self.rows), -1)
            bias = bias + slopes @ self.biases
            slopes = slopes @ flat
        return Given(self.rows[own] + slopes.reshape(-1, *self.rows.shape[1:]), bias)


def heads_of(
    proto: onnx.ModelProto,
    heads: Mapping[int, Labels],
    count: int,
    folder: Path | None = None,
    offsets: Mapping[int, Array] | None = None,
) -> list[Head]:
    """Describe ``heads`` (labels of their outputs by node number) of a model with ``count`` classes.

    ``offsets``: what is added to a head's channels behind its node. Raises GraphRefused for a head
    whose weights are not stored as floats.
    """
    return [_head(proto.graph, at, labels, count, folder, (offsets or {}).get(at))
            for at, labels in heads.items()]  # fmt: skip


def _head(
    graph: onnx.GraphProto,
    at: int,
    labels: Labels,
    count: int,
    folder: Path | None,
    offsets: Array | None,
) -> Head:
    node = graph.node[at]
    places = [np.flatnonzero(labels.ids == c) for c in range(count)]
    if not places[0].size or len({len(p) for p in places}) != 1:
        _refuse(node, "its channels are no grid of anchors and classes")
    weight = _stored(graph, node, 1, folder)
    data = 0
    if weight is None and node.op_type == "MatMul":
        weight, data = _stored(graph, node, 0, folder), 1
    if node.domain not in {"", "ai.onnx"} or weight is None or weight.dtype.kind not in "fV":
        _refuse(node, "its weights are not stored as floats")
    attrs = attributes(node)
    rows = np.moveaxis(weight.astype(np.float64), _channels(node, attrs, weight.ndim, data), 0)
    added = np.zeros(len(rows)) if offsets is None else np.asarray(offsets, np.float64)
    bias = _stored(graph, node, 2, folder) if node.op_type != "MatMul" else None
    biases = added + (0 if bias is None else attrs.get("beta", 1.0) * bias.astype(np.float64))
    matrix = node.op_type == "MatMul" and rows.ndim == 2 and not data
    known = node.op_type in {"Conv", "Gemm"} or matrix
    fits = known and rows[0].size <= MOST_FEATURES
    return Head(
        node.output[0],
        node.input[data] if fits else None,
        labels.axis,
        np.stack(places, axis=1),
        rows,
        np.broadcast_to(biases, len(rows)).astype(np.float64),
        added,
        node,
    )


def _stored(graph: onnx.GraphProto, node: onnx.NodeProto, k: int, folder: Path | None) -> Array | None:
    if len(node.input) <= k or not node.input[k]:
        return None
    tensor = stored_tensor([graph], node.input[k])
    if tensor is None and k == 2:
        _refuse(node, "its bias is computed")
    return None if tensor is None else to_array(tensor, folder)


def _channels(node: onnx.NodeProto, attrs: Mapping[str, Any], rank: int, data: int) -> int:
    """The axis of the weight that carries the output's channels."""
    match node.op_type:
        case "Conv":
            return 0
        case "ConvTranspose":
            return 1
        case "Gemm":
            return 0 if attrs.get("transB", 0) else 1
    return rank - 2 if data else rank - 1


def unfold(node: onnx.NodeProto, value: Array, kernel: Sequence[int] = ()) -> Array:
    """What each channel of a head reads: [places, features], features as a row of weights lies."""
    attrs = attributes(node)
    if node.op_type == "Conv":
        patched = patches(
            value,
            kernel,
            attrs.get("strides") or [1] * len(kernel),
            attrs.get("dilations") or [1] * len(kernel),
            _pads(attrs, value.shape[2:], kernel),
        )
        return patched.reshape(-1, int(np.prod((value.shape[1], *kernel))))
    if node.op_type == "Gemm":
        rows = value.T if attrs.get("transA", 0) else value
        alpha = attrs.get("alpha", 1.0)
        return rows if alpha == 1 else rows * np.asarray(alpha, rows.dtype)
    return value.reshape(-1, value.shape[-1])


def patches(
    value: Array,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int],
) -> Array:
    """Patches of ``value`` [N, C, *size] that a convolution reads: [N, *places, C, *kernel].

    ``pads``: beginnings of all axes, then ends, as ONNX has them.
    """
    n = len(kernel)
    around = [(0, 0), (0, 0), *zip(pads[:n], pads[n:], strict=True)]
    windows = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    view = sliding_window_view(np.pad(value, around), windows, tuple(range(2, 2 + n)))
    steps = (slice(None, None, s) for s in (1, 1, *strides, *dilations))
    return np.moveaxis(view[tuple(steps)], 1, n + 1)


def _pads(attrs: Mapping[str, Any], size: Sequence[int], kernel: Sequence[int]) -> list[int]:
    """Pads as they are given, or as ``auto_pad`` makes them of the picture's size."""
    auto = attrs.get("auto_pad", b"NOTSET")
    auto = auto.decode() if isinstance(auto, bytes) else auto
    if auto not in {"SAME_UPPER", "SAME_LOWER"}:
        return list(attrs.get("pads") or [0] * (2 * len(kernel)))
    strides = attrs.get("strides") or [1] * len(kernel)
    dilations = attrs.get("dilations") or [1] * len(kernel)
    short, long = [], []
    for extent, k, s, d in zip(size, kernel, strides, dilations, strict=True):
        total = max((-(-extent // s) - 1) * s + (k - 1) * d + 1 - extent, 0)
        short.append(total // 2)
        long.append(total - total // 2)
    return short + long if auto == "SAME_UPPER" else long + short


def _refuse(node: onnx.NodeProto, what: str) -> NoReturn:
    raise GraphRefused(
        f"a background cannot be fitted to this head: {what}",
        node=node.name or node.output[0],
        op=node.op_type,
        advice=WAY_OUT,
    )
