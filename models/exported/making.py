"""What the ``make_*.py`` share: scrub an exported pair, strip it, check what is left, list it."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime as ort
import skeleton
from google.protobuf.message import Message
from onnx import ModelProto
from skeleton import HERE, Array, Pair, Scores

if TYPE_CHECKING:
    from collections.abc import Iterator

ORIGIN = [3, 8, 1, 2, 10, 4, 6]
"""Columns with the background at 0: car, truck, person, bicycle, traffic light, motorcycle, bus."""
KEEP_81 = [*ORIGIN, 12]
"""Of COCO's 80 names behind a background; 12 is the stop sign."""
KEEP_91 = [*ORIGIN, 13]
"""Of COCO's list of ids with gaps; 13 is the stop sign."""
KEEP_80 = [column - 1 for column in KEEP_81]
"""Of COCO's 80 names alone."""

BIG = 150_000
TOLERANCE = 1e-4
LIST = HERE / "pairs.json"
PLACE = re.compile(rb"/(root|tmp|work|home|usr|opt)/|site-packages|dist-packages")


def add(pair: Pair, many: ModelProto, native: ModelProto) -> None:
    """Strip, save, check and list a pair."""
    for kind, model in (("many", many), ("native", native)):
        scrub(model)
        if place := PLACE.search(model.SerializeToString()):
            raise ValueError(f"{pair['name']}.{kind} still tells a place: {place[0]!r}")
    for tensor in skeleton.strip(many, native):
        print(f"   whole: {tensor}")
    for kind, graph in (("many", many), ("native", native)):
        path = HERE / f"{pair['name']}.{kind}.onnx.gz"
        skeleton.save(graph, path)
        size = path.stat().st_size
        print(f"   {kind}: {len(graph.graph.node)} nodes, {size / 1000:.0f} kB", "BIG" * (size > BIG))
    check(pair)
    listed = [p for p in skeleton.pairs() if p["name"] != pair["name"]] if LIST.exists() else []
    listed = sorted([*listed, pair], key=lambda p: p["name"])
    LIST.write_text(json.dumps(listed, indent=1) + "\n")


def check(pair: Pair) -> None:
    """Run both graphs: say what is found, and hold dense scores against the selection."""
    many, native = (run(model, pair) for model in skeleton.load_pair(pair["name"]))
    for array in native:
        assert array.size, "an empty output"
        assert np.isfinite(array).all(), "an output with infinities"
    for scores in pair["scores"]:
        got = native[scores["output"]]
        want = select(many[scores["output"]], pair, scores)
        assert got.shape == want.shape, f"{got.shape}, not {want.shape}"
        error = float(np.abs(got - want).max())
        assert error < TOLERANCE, f"off by {error}"
        print(f"   scores {list(got.shape)} are the selection up to {error:.2g}")
    if pair["labels"] is None:
        assert pair["scores"]
        return
    for kind, outputs in (("many", many), ("native", native)):
        labels = outputs[pair["labels"]["output"]]
        if (column := pair["labels"]["column"]) is not None:
            labels = labels[..., column]
        found, count = np.unique(labels, return_counts=True)
        print(f"   {kind}: {count.sum()} rows of {len(found)} classes, at most {count.max()} of one")
        assert len(found) > 1, "only one class is found"


def select(array: Array, pair: Pair, scores: Scores) -> Array:
    """Take the part of a dense output that the native graph gives."""
    axis, first, anchors = scores["axis"], scores["first"], scores["anchors"] or 1
    columns = list(pair["keep"])
    if pair["background"] is not None:
        columns[0 if pair["background"] == 0 else len(columns) : 0] = [pair["background"]]
    step = first + pair["classes"]
    one = [*range(first), *(first + column for column in columns)]
    places = [a * step + place for a in range(anchors) for place in one]
    end = array.shape[axis] if not scores["anchors"] else anchors * step
    places += range(anchors * step, end)
    wanted = array.take(places, axis)
    if pair["activation"] == "softmax":
        part = [slice(None)] * wanted.ndim
        part[axis] = slice(first, first + len(columns))
        view = wanted[tuple(part)]
        view /= view.sum(axis, keepdims=True)
    return wanted


def run(model: ModelProto, pair: Pair, seed: int = 1) -> list[Array]:
    """All outputs on noise in [0, 1]."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    rng = np.random.default_rng(seed)
    feeds = {}
    for i in pair["inputs"]:
        x = rng.random(i["shape"], dtype=np.float32)
        feeds[i["name"]] = (x * 255 if i["dtype"] == "uint8" else x).astype(i["dtype"])
    outputs: list[Array] = session.run(None, feeds)
    return outputs


def scrub(model: ModelProto) -> None:
    """Forget where it was made: stack traces and remarks, in whatever message they hide."""
    for message in _messages(model):
        if isinstance(message, onnx.TensorProto):
            continue
        if isinstance(message, onnx.NodeProto):
            message.ClearField("doc_string")
        if hasattr(message, "metadata_props"):
            stay = [p for p in message.metadata_props if not PLACE.search(p.value.encode())]
            stay = [p for p in stay if "stack_trace" not in p.key]
            kept = [(p.key, p.value) for p in stay]
            message.ClearField("metadata_props")
            for key, value in kept:
                message.metadata_props.add(key=key, value=value)


def _messages(message: Message) -> Iterator[Any]:
    yield message
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for each in [value] if isinstance(value, Message) else list(value):
            yield from _messages(each)


if __name__ == "__main__":
    for each in skeleton.pairs():
        print(each["name"], flush=True)
        check(each)
