"""What the ``make_*.py`` share: scrub an exported pair, strip it, check what is left, list it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import skeleton
from google.protobuf.message import Message
from onnx import ModelProto
from skeleton import HERE, Array, Pair

ORIGIN = [3, 8, 1, 2, 10, 4, 6]
"""Columns with the background at 0: car, truck, person, bicycle, traffic light, motorcycle, bus."""
KEEP_81 = [*ORIGIN, 12]
"""Of COCO's 80 names behind a background; 12 is the stop sign."""
KEEP_91 = [*ORIGIN, 13]
"""Of COCO's list of ids with gaps; 13 is the stop sign."""
KEEP_80 = [column - 1 for column in KEEP_81]
"""Of COCO's 80 names alone."""

BIG = 150_000
PLACE = re.compile(rb"/(root|tmp|work|home|usr|opt)/|site-packages|dist-packages")


def add(
    pair: Pair, many: ModelProto | Path, native: ModelProto | Path, *, dense: Sequence[int] = ()
) -> None:
    """Strip, save, check and list a pair.

    ``dense`` gives the positions of outputs with scores first on the last axis, and perhaps boxes
    after them: the native ones must be a selection, renormalized after a softmax.
    """
    graphs = []
    for kind, model in (("many", many), ("native", native)):
        loaded = onnx.load(model) if isinstance(model, Path) else model
        scrub(loaded)
        if place := PLACE.search(loaded.SerializeToString()):
            message = f"{pair['name']}.{kind} still tells a place: {place[0]!r}"
            raise ValueError(message)
        graphs.append(loaded)
    for tensor in skeleton.strip(*graphs):
        print(f"   whole: {tensor}")
    for kind, graph in zip(("many", "native"), graphs, strict=True):
        path = HERE / f"{pair['name']}.{kind}.onnx.gz"
        skeleton.save(graph, path)
        size = path.stat().st_size
        print(f"   {kind}: {len(graph.graph.node)} nodes, {size / 1000:.0f} kB", "BIG" * (size > BIG))
    check(pair, dense)
    listed = [p for p in skeleton.pairs() if p["name"] != pair["name"]] if LIST.exists() else []
    listed.append(pair)
    LIST.write_text(json.dumps(listed, indent=1) + "\n")


LIST = HERE / "pairs.json"


def check(pair: Pair, dense: Sequence[int] = ()) -> None:
    """Run both graphs; say what comes out, and hold dense scores against the selection."""
    outputs = [run(model, pair) for model in skeleton.load_pair(pair["name"])]
    names = [o.name for o in skeleton.load(HERE / f"{pair['name']}.native.onnx.gz").graph.output]
    for kind, arrays in zip(("many", "native"), outputs, strict=True):
        told = []
        for name, array in zip(names, arrays, strict=True):
            few = np.unique(array)
            values = f" {few.tolist()}" if len(few) <= skeleton.WHOLE and array.dtype.kind == "i" else ""
            told.append(f"{name}{list(array.shape)}{values} ±{array.astype(float).std():.3g}")
        print(f"   {kind}:", *told)
    bad = [n for n, a in zip(names, outputs[1], strict=True) if not a.size or not np.any(a) or not np.isfinite(a).all()]
    if bad:
        print(f"   NOTHING in {bad}")
    columns = list(pair["keep"])
    if pair["background"] is not None:
        columns[0 if pair["background"] == 0 else len(columns) : 0] = [pair["background"]]
    for at in dense:
        scores, rest = np.split(outputs[0][at], [pair["classes"]], -1)
        scores = scores[..., columns]
        if pair["activation"] == "softmax":
            scores = scores / scores.sum(-1, keepdims=True)
        want = np.concatenate([scores, rest], -1)
        error = float(np.abs(want - outputs[1][at]).max())
        print(f"   {names[at]} is the selection up to {error:.2g}", "WRONG" * (error > 1e-3))


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
