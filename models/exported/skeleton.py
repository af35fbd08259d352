"""Pairs of exported detectors without their weights, and the way back.

A pair is one architecture exported twice by the same framework: with many classes, and natively
with the few that are kept and *the same weights for those*. The second graph is the exact answer
to "cut the first to these classes".

    many, native = load_pair("tv_ssd300_raw_ts17")

A stripped tensor keeps its name, type and shape; its data is left out and its ``doc_string`` says
how to make it again, in one of two ways:

* ``Noise``: normal noise from a seed, with the mean, spread and range of what it stands for.
  A tensor of the native graph that was a selection of rows or channels of one in the other graph
  is made as that same selection of that same noise.
* ``Packed``: exactly what it was, compressed. Anchors, label tables and biases of zero are so
  regular that they need only a few bytes, and a detector with random anchors detects nothing.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import numpy.typing as npt
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Array = npt.NDArray[Any]

HERE = Path(__file__).parent
WHOLE = 64
"""Tensors with no more elements stay as they are."""
SAMPLE, SAMPLE_REGULAR = 1 << 16, 0.8
REGULAR = 0.2
"""Tensors that shrink to this part of their size are packed; other floats become noise."""


class Input(TypedDict):
    """One input of both graphs, with a shape to feed where the graph leaves it open."""

    name: str
    shape: list[int]
    dtype: str


class Scores(TypedDict):
    """Where a raw graph gives its scores."""

    output: int
    axis: int
    anchors: int
    """Positions a class takes, or 0: 0 for a class axis; A for channels of (anchor, class)."""
    first: int
    """Positions before the first class: 4 box coordinates, say."""


class Labels(TypedDict):
    """Where a pipeline gives class ids: a whole output, or a column of its last axis."""

    output: int
    column: int | None


class Pair(TypedDict):
    """What ``pairs.json`` says of a pair."""

    name: str
    architecture: str
    exporter: str
    opset: int
    kind: str
    """``raw`` (dense scores come out) or ``pipeline`` (detections come out)."""
    classes: int
    """Length of the class axis of the many, with the background where there is one."""
    native_classes: int
    background: int | None
    """The background's column in the many; it stays, at the same end, in the native graph."""
    activation: str
    """``softmax`` or ``sigmoid`` in the graph; ``none`` when the graph gives logits."""
    keep: list[int]
    """Source columns of the native graph's classes in its order, without the background."""
    inputs: list[Input]
    scores: list[Scores]
    """Of a raw pair: the native's are a selection of the many's, renormalized after a softmax."""
    labels: Labels | None
    """Of a pipeline."""
    args: list[str]
    """Command-line arguments for what the graph alone cannot tell."""
    note: str


@dataclass(frozen=True)
class Selection:
    """Positions taken along one axis."""

    axis: int
    positions: list[int]


@dataclass(frozen=True)
class Noise:
    """A tensor to make from a seed."""

    seed: int
    shape: list[int]
    mean: float
    std: float
    low: float
    high: float
    centred: bool = False
    """Every row sums to zero, as in filters that look for differences."""

    @classmethod
    def like(cls, array: Array) -> Noise:
        """Noise with the figures of ``array``; equal arrays get equal noise."""
        wide = array.astype(np.float64)
        mean, std, low, high = (
            float(f"{x:.6g}") for x in (wide.mean(), wide.std(), wide.min(), wide.max())
        )
        rows = wide.reshape(len(wide), -1)
        centred = bool(np.abs(rows.mean(1)).max() < 1e-6 * rows.std()) and array.ndim > 1
        seed = int(_digest(array)[:12], 16)
        return cls(seed, list(array.shape), mean, std, low, high, centred)

    def make(self, dtype: npt.DTypeLike) -> Array:
        """Draw it, the same on every machine."""
        noise = np.random.default_rng(self.seed).standard_normal(self.shape, dtype=np.float32)
        if self.centred:
            noise -= noise.mean(tuple(range(1, noise.ndim)), keepdims=True)
        noise *= np.float32(self.std)
        noise += np.float32(self.mean)
        return noise.clip(self.low, self.high, out=noise).astype(dtype, copy=False)


def pairs() -> list[Pair]:
    """All pairs, as ``pairs.json`` lists them."""
    found: list[Pair] = json.loads((HERE / "pairs.json").read_text())
    return found


def load_pair(name: str) -> tuple[ModelProto, ModelProto]:
    """Read both graphs of a pair, with weights: of many classes, and native."""
    return load(HERE / f"{name}.many.onnx.gz"), load(HERE / f"{name}.native.onnx.gz")


def load(path: Path) -> ModelProto:
    """One stripped graph, filled."""
    model = read(path)
    fill(model)
    return model


def read(path: Path) -> ModelProto:
    """One graph as it is stored: its tensors have their shapes, and notes in place of data."""
    return onnx.load_from_string(gzip.decompress(path.read_bytes()))


def save(model: ModelProto, path: Path) -> None:
    """Write a stripped graph, the same bytes each time."""
    path.write_bytes(gzip.compress(model.SerializeToString(deterministic=True), 9, mtime=0))


def strip(many: ModelProto, native: ModelProto) -> list[str]:
    """Empty the tensors of a pair in place; returns those of ``native`` that had to stay whole."""
    drawn: dict[str, Array] = {}
    kept: set[str] = set()
    for tensor in tensors(many):
        array = numpy_helper.to_array(tensor)
        if array.size <= WHOLE or _pack(tensor, array) or array.dtype.kind != "f":
            kept.add(_digest(array))
        else:
            drawn[_digest(array)] = array
            _blank(tensor, {"noise": asdict(Noise.like(array))})

    whole = []
    for tensor in tensors(native):
        array = numpy_helper.to_array(tensor)
        digest = _digest(array)
        if digest in drawn:
            _blank(tensor, {"noise": asdict(Noise.like(array))})
        elif digest not in kept and (source := _source(array, drawn)) is not None:
            original, selection = source
            note = {"noise": asdict(Noise.like(original)), "take": asdict(selection)}
            _blank(tensor, note)
        elif array.size > WHOLE and not _pack(tensor, array) and array.dtype.kind == "f":
            whole.append(f"{tensor.name} {list(array.shape)}")
    return whole


def fill(model: ModelProto) -> None:
    """Give every stripped tensor its data back, in place."""
    for tensor in tensors(model):
        if not tensor.doc_string.startswith('{"noise"') and tensor.doc_string != "packed":
            continue
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
        if tensor.doc_string == "packed":
            array = _unpack(tensor, dtype)
        else:
            note = json.loads(tensor.doc_string)
            array = Noise(**note["noise"]).make(dtype)
            if "take" in note:
                array = array.take(note["take"]["positions"], note["take"]["axis"])
        tensor.ClearField("doc_string")
        tensor.raw_data = np.ascontiguousarray(array).tobytes()


def tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Every constant of a model: initializers and attributes, in subgraphs and functions too."""
    yield from _graph_tensors(model.graph)
    for function in model.functions:
        for node in function.node:
            yield from _node_tensors(node)


def _graph_tensors(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        yield from _node_tensors(node)


def _node_tensors(node: NodeProto) -> Iterator[TensorProto]:
    for attribute in node.attribute:
        if attribute.type == AttributeProto.TENSOR:
            yield attribute.t
        elif attribute.type == AttributeProto.GRAPH:
            yield from _graph_tensors(attribute.g)
        for graph in attribute.graphs:
            yield from _graph_tensors(graph)


def _source(array: Array, drawn: dict[str, Array]) -> tuple[Array, Selection] | None:
    """Find the array in ``drawn`` of which ``array`` is a selection along one axis."""
    for original in drawn.values():
        if original.ndim != array.ndim or original.dtype != array.dtype:
            continue
        axes = [i for i in range(array.ndim) if original.shape[i] != array.shape[i]]
        if len(axes) != 1 or original.shape[axes[0]] < array.shape[axes[0]]:
            continue
        rows = {row: at for at, row in enumerate(_rows(original, axes[0]))}
        positions = [rows[row] for row in _rows(array, axes[0]) if row in rows]
        if len(positions) == array.shape[axes[0]]:
            return original, Selection(axes[0], positions)
    return None


def _rows(array: Array, axis: int) -> list[bytes]:
    return [row.tobytes() for row in np.moveaxis(array, axis, 0)]


def _blank(tensor: TensorProto, note: Mapping[str, object]) -> None:
    for field in ("raw_data", "float_data", "double_data", "int32_data", "int64_data"):
        tensor.ClearField(field)
    tensor.doc_string = json.dumps(note, separators=(",", ":"))


def _pack(tensor: TensorProto, array: Array) -> bool:
    """Compress a regular tensor: column by column, byte plane by byte plane."""
    columns = array.reshape(-1, array.shape[-1]).T if array.ndim > 1 else array
    planes = np.ascontiguousarray(columns).reshape(-1).view(np.uint8)
    if len(zlib.compress(planes[:SAMPLE].tobytes(), 1)) > min(SAMPLE, planes.size) * SAMPLE_REGULAR:
        return False  # a quick look spares the slow compression of millions of weights
    data = lzma.compress(planes.reshape(-1, array.itemsize).T.tobytes(), preset=9)
    if len(data) > REGULAR * array.nbytes:
        return False
    _blank(tensor, {})
    tensor.doc_string = "packed"
    tensor.raw_data = data
    return True


def _unpack(tensor: TensorProto, dtype: np.dtype[Any]) -> Array:
    shape = list(tensor.dims)
    planes = np.frombuffer(lzma.decompress(tensor.raw_data), np.uint8)
    flat = np.ascontiguousarray(planes.reshape(dtype.itemsize, -1).T).reshape(-1).view(dtype)
    if len(shape) < 2:
        return flat.reshape(shape)
    return flat.reshape(shape[-1], -1).T.reshape(shape)


def _digest(array: Array) -> str:
    head = f"{array.dtype}{array.shape}".encode()
    return hashlib.sha256(head + np.ascontiguousarray(array).tobytes()).hexdigest()
