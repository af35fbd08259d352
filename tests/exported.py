"""The pairs of models/exported: how each is cut, and ways to hold two graphs against each other."""

from __future__ import annotations

import hashlib
import math
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
import onnx
import onnxruntime as ort
from conftest import LONG
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "models" / "exported"))

import skeleton  # noqa: E402  (found by the line above)
from skeleton import Noise, Pair, pairs, tensors  # noqa: E402

Array = np.ndarray[Any, np.dtype[Any]]

PAIRS: dict[str, Pair] = {pair["name"]: pair for pair in pairs()}

REFUSED: dict[str, tuple[str, str]] = {}
"""Pairs that are refused: the op, and a part of the reason. The table in the docs says so, too."""

OTHERWISE: dict[str, str] = {
    "efficientdet_topk_ts13": "boxes are read by an index that needs no Expand over one column",
    "keras_ssd300_loops_op13": "the inner loop says its limit in another way",
}
"""Pairs whose cut computes some output in another way than native: equal by its numbers alone."""

SMALL = 40_000_000
"""Pairs with fewer bytes of weights are run, too."""

PERIOD = 65_521
"""Elements after which the noise in pairs that are not run repeats itself: a prime number, so that no
two channels are the same."""

_drawn: dict[object, Array] = {}
"""Noise of the last pair; the next is often of the same architecture."""


@cache
def is_run(name: str) -> bool:
    """Whether a pair's graphs are run, rather than compared alone."""
    native = skeleton.read(skeleton.HERE / f"{name}.native.onnx.gz")
    return stored(native) < SMALL or name in OTHERWISE or LONG


def load_pair(name: str) -> tuple[ModelProto, ModelProto]:
    """Both graphs with weights; noise that they share, or the pair before had, is drawn once."""
    known, drawn, draw, whole = _drawn.copy(), _drawn, Noise.make, is_run(name)
    drawn.clear()

    def make(noise: Noise, dtype: np.typing.DTypeLike) -> Array:
        if whole or math.prod(noise.shape) <= PERIOD:
            return draw(noise, dtype)
        return np.resize(draw(replace(noise, shape=[PERIOD], centred=False), dtype), noise.shape)

    def once(noise: Noise, dtype: np.typing.DTypeLike) -> Array:
        key = noise.seed, tuple(noise.shape), str(dtype), whole
        if key not in drawn:
            drawn[key] = known[key] if key in known else make(noise, dtype)
        return drawn[key]

    with patch.object(Noise, "make", once):
        return skeleton.load_pair(name)


def arguments(pair: Pair) -> dict[str, Any]:
    """What the command line is told for a pair, as keyword arguments of `onnx_headcut.cut`."""
    words = iter(pair["args"])
    told = {word.removeprefix("--").replace("-", "_"): next(words) for word in words}
    # raw scores without an activation do not show whether one of the columns is a background
    plain = pair["activation"] == "none" and pair["background"] is None
    return {"background": "none", **told} if plain else told


def run(model: ModelProto, feeds: Mapping[str, Array]) -> list[Array]:
    """All outputs, from one thread: tests run side by side."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    outputs: list[Array] = session.run(None, dict(feeds))
    return outputs


def pictures(pair: Pair) -> dict[str, Array]:
    """Noise in [0, 1], on which every pair finds several classes."""
    rng = np.random.default_rng(1)
    return {i["name"]: rng.random(i["shape"], np.float32).astype(i["dtype"])
            for i in pair["inputs"]}  # fmt: skip


def nodes(model: ModelProto) -> int:
    """Number of nodes, with those in bodies."""
    return sum(1 for _ in each_node(model.graph))


def each_node(graph: GraphProto) -> Iterator[onnx.NodeProto]:
    """All nodes, with those in bodies."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            yield from each_node(attribute.g)


def stored(model: ModelProto) -> int:
    """Bytes of all constants."""
    return sum(math.prod(t.dims) * _itemsize(t) for t in tensors(model))


def _itemsize(tensor: TensorProto) -> int:
    return helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize


def declared(model: ModelProto) -> list[list[int | str]]:
    """Shapes that the outputs are declared with."""
    shapes = [value.type.tensor_type.shape for value in model.graph.output]
    return [[d.dim_value or d.dim_param for d in shape.dim] for shape in shapes]


# ------------------------------------------------------------------------- the same computation


def computation(model: ModelProto) -> list[bytes]:
    """One digest for each output: of all that is computed for it, whatever the names are.

    Equal digests mean the same ops with the same attributes on the same constants to the last bit.
    Identity and the place where a constant is stored make no difference, dead nodes neither.
    """
    return _results(model.graph, {})


def _results(graph: GraphProto, outside: Mapping[str, bytes]) -> list[bytes]:
    known = dict(outside)
    known |= {v.name: _digest("input", len(outside), i) for i, v in enumerate(graph.input)}
    known |= {t.name: _constant(t) for t in graph.initializer}
    for node in graph.node:
        if node.op_type == "Identity":
            known[node.output[0]] = known[node.input[0]]
        elif node.op_type == "Constant" and node.attribute[0].name == "value":
            known[node.output[0]] = _constant(node.attribute[0].t)
        else:
            inputs = [known[name] if name else b"" for name in node.input]
            attributes = [_attribute(a, known) for a in sorted(node.attribute, key=_name)]
            whole = _digest(node.domain, node.op_type, *inputs, *attributes)
            known |= {name: _digest(whole, j) for j, name in enumerate(node.output)}
    return [known[v.name] for v in graph.output]


def _name(attribute: AttributeProto) -> str:
    return attribute.name


def _attribute(attribute: AttributeProto, known: Mapping[str, bytes]) -> bytes:
    if attribute.type == AttributeProto.GRAPH:
        return _digest(attribute.name, *_results(attribute.g, known))
    if attribute.type == AttributeProto.TENSOR:
        return _digest(attribute.name, _constant(attribute.t))
    return _digest(attribute.name, repr(helper.get_attribute_value(attribute)))


def _constant(tensor: TensorProto) -> bytes:
    data = tensor.raw_data or numpy_helper.to_array(tensor).tobytes()
    return _digest("constant", tensor.data_type, list(tensor.dims), data)


def _digest(*parts: object) -> bytes:
    found = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode()
        found.update(len(data).to_bytes(8, "little"))
        found.update(data)
    return found.digest()


# ---------------------------------------------------------------------------- detections as sets


def rows_of(outputs: Sequence[Array], image: int | None) -> Array:
    """Detections as one table: everything that is said of each of them, side by side.

    ``image``: the number of the picture where the first axis counts pictures.
    """
    parts = [o if image is None else o[image] for o in outputs]
    parts = [p for p in parts if p.ndim]  # a number of detections is compared as it is
    return np.concatenate([p.reshape(len(p), -1).astype(np.float64) for p in parts], axis=1)


def unmatched(one: Array, other: Array, tolerance: float = 1e-4) -> int:
    """How many rows of ``one`` have no partner of their own in ``other``."""
    free = np.ones(len(other), bool)
    missing = 0
    for row in one:
        near = np.isclose(other, row, rtol=tolerance, atol=tolerance).all(axis=1) & free
        if near.any():
            free[near.argmax()] = False
        else:
            missing += 1
    return missing


__all__ = ["Pair"]
