"""Latency of original, cut and native models of the exported pairs, and of original + Gather."""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

import onnx_headcut as hc

if TYPE_CHECKING:
    from collections.abc import Callable

sys.path.insert(0, str(Path(__file__).parent.parent / "models" / "exported"))
import skeleton

LEAST = 2  # turns, however long one takes


def latencies(seconds: float) -> list[tuple[str, ...]]:
    """Time each pair for about ``seconds``; one row a pair, in ms, the best of runs in random turns."""
    rows = []
    for pair in skeleton.pairs():
        name = pair["name"]
        many, native = skeleton.load_pair(name)
        cut = hc.cut(many, pair["keep"], validation=False, **told(pair)).model
        models = {"original": many, "cut": cut, "native": native}
        if pair["kind"] == "raw":
            models["gather"] = gathered(many, pair)
        best = in_turns({k: session(m) for k, m in models.items()}, feed(pair), seconds)
        rows.append((
            name, *(f"{best[k]:.2f}" for k in ("original", "cut", "native")),
            f"{best['gather']:.2f}" if "gather" in best else "",
            f"{best['cut'] / best['original']:.3f}", f"{best['cut'] / best['native']:.3f}",
        ))  # fmt: skip
    return rows


def told(pair: skeleton.Pair) -> dict[str, Any]:
    """Give what the command line is told of a pair as keywords of `onnx_headcut.cut`."""
    words = iter(pair["args"])
    background = "none" if pair["background"] is None else pair["background"]
    return {"background": background, **{w.removeprefix("--"): next(words) for w in words}}


def session(model: onnx.ModelProto) -> Any:
    """Open a model with one thread that does not spin between runs."""
    import onnxruntime as ort  # noqa: PLC0415

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def feed(pair: skeleton.Pair) -> dict[str, np.ndarray[Any, Any]]:
    """Make a seeded picture."""
    rng = np.random.default_rng(0)
    return {i["name"]: rng.random(i["shape"]).astype(i["dtype"]) for i in pair["inputs"]}


def in_turns(sessions: dict[str, Any], inputs: dict[str, Any], seconds: float) -> dict[str, float]:
    """Run all in random order, twice at least; gives the least ms of each."""
    runs: dict[str, Callable[[], Any]] = {
        name: (lambda s=s: s.run(None, inputs)) for name, s in sessions.items()
    }
    best = dict.fromkeys(runs, float("inf"))
    for run in runs.values():
        run()
    chance = random.Random(0)  # noqa: S311
    end, turns = time.perf_counter() + seconds, 0
    while turns < LEAST or time.perf_counter() < end:
        turns += 1
        for name in chance.sample(sorted(runs), len(runs)):
            start = time.perf_counter()
            runs[name]()
            best[name] = min(best[name], (time.perf_counter() - start) * 1e3)
    return best


def gathered(model: onnx.ModelProto, pair: skeleton.Pair) -> onnx.ModelProto:
    """Give the original with a Gather of the kept classes behind its scores."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    keep = [*([] if pair["background"] is None else [pair["background"]]), *pair["keep"]]
    for scores in pair["scores"]:
        if scores["anchors"]:
            continue
        output = copy.graph.output[scores["output"]]
        name = output.name
        output.name = f"{name}_kept"
        output.type.tensor_type.ClearField("shape")
        index = np.array([scores["first"] + k for k in keep])
        copy.graph.initializer.append(numpy_helper.from_array(index, f"{name}_index"))
        copy.graph.node.append(
            helper.make_node("Gather", [name, f"{name}_index"], [output.name], axis=scores["axis"])
        )
    return copy
