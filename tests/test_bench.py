"""Measuring two models side by side, and saying what there is to run them on."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import onnx
import pytest
from conftest import Done, run_cli
from onnx import parser

from onnx_headcut.bench import measure, worker
from onnx_headcut.bench.stages import BACKBONE, BEHIND, BESIDE, HEADS, Stages
from onnx_headcut.bench.worker import peak_memory, read_durations
from onnx_headcut.validation import cuda, runtime
from onnx_headcut.validation.synthetic import synthetic

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_a_cut_is_timed_against_its_original(model_path: Path, cut_path: Path) -> None:
    options = ("--rounds", "5", "--provider", "cpu", "--json")
    done = run_cli("bench", model_path, cut_path, *options)
    assert done.code == 0, done.err
    document = json.loads(done.out)
    original, small = document["original"], document["cut"]
    assert (original["runs"], small["runs"], document["threads"]) == (5, 5, 1)
    assert 0 < small["best"] <= small["median"] <= small["high"]
    assert document["ratio_low"] <= document["ratio"] <= document["ratio_high"]
    assert set(original["stages"]) == {BACKBONE, HEADS, BESIDE, BEHIND}
    assert sum(original["stages"].values()) == pytest.approx(original["median"])
    assert original["model"] == "tiny.onnx"


def test_a_bench_says_what_went_wrong(
    model_path: Path, cut_path: Path, tmp_path: Path, run_here: Callable[..., Done]
) -> None:
    assert run_here("bench", model_path, tmp_path / "missing.onnx").code == 2
    done = run_here("bench", model_path, cut_path, "--provider", "tensorrt")
    assert done.code == 4
    assert "tensorrt was asked for" in done.err.lower()


def test_stages_follow_the_flow_of_data_through_fused_nodes(model_path: Path) -> None:
    stages = Stages(model_path)
    assert stages.of["level1"] == BACKBONE
    assert (stages.of["cls0"], stages.of["box0"], stages.of["scores"]) == (HEADS, BESIDE, BEHIND)
    fused = [
        ("Conv", ["level0"], ["images"], 4.0),
        ("Conv", ["blocked"], ["level0"], 2.0),
        ("ReorderOutput", ["cls0_last"], ["blocked"], 1.0),
        ("Softmax", ["scores"], ["logits"], 1.0),
    ]
    assert stages.shares(fused) == {BACKBONE: 0.5, HEADS: 0.25, BEHIND: 0.25}


def test_the_first_run_of_a_profile_is_left_out(tmp_path: Path) -> None:
    events = [
        {"cat": "Node", "name": f"{name}_kernel_time", "dur": dur}
        for name, dur in (("a", 900), ("a", 10), ("a", 30), ("inner", 5))
    ]
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(events))
    assert read_durations(path, 3) == {"a": pytest.approx(20e-6)}


def test_memory_of_a_device_is_what_it_grows_by_in_a_models_turns(
    model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = synthetic(onnx.load(model_path), count=1)[0].feed
    np.savez(tmp_path / "feed.npz", **dict(feed))
    order = {"model": model_path, "feed": tmp_path / "feed.npz", "provider": "cpu", "threads": 1}
    assert worker._Worker(order).device() is None
    used = iter([100, 150, 150, 170, 900, 890])  # another's 730 between two turns
    monkeypatch.setattr(worker, "usable", lambda _: "cuda")
    monkeypatch.setattr(worker, "used_on_device", lambda _: next(used))
    made = worker._Worker(order)
    made.run()
    made.run()
    assert made.device() == 70


def test_memory_of_a_device_is_asked_of_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    class Runtime:
        @staticmethod
        def cudaMemGetInfo(free: Any, total: Any) -> int:  # noqa: N802  (NVIDIA's name)
            free._obj.value, total._obj.value = 30, 100
            return 0

    ort = SimpleNamespace(cuda_version="13.0")
    monkeypatch.setattr(cuda.ctypes, "CDLL", lambda name: Runtime if name.endswith("13") else None)
    assert cuda.used_on_device(ort) == 70
    assert cuda.used_on_device(SimpleNamespace(cuda_version="12.8")) is None


def test_stages_on_cuda_are_those_of_a_process_that_waits_for_its_kernels(
    model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, str]] = []

    class Another(measure._Model):
        def __enter__(self) -> Self:
            return self

        def ask(self, order: object) -> Any:
            return order

    def start(*_: object, env: dict[str, str], **__: object) -> Any:
        seen.append(env)
        return SimpleNamespace(kill=int, wait=int, stdin=None, stdout=None)

    monkeypatch.setattr(measure, "_Model", Another)
    monkeypatch.setattr(measure.subprocess, "Popen", start)
    with Another(model_path, tmp_path, measure.Settings()) as model:
        model.provider = "cuda"
        assert model.nodes() == "stages"
        model.provider = "cpu"
        assert model.nodes() == "stages"
    assert ["CUDA_LAUNCH_BLOCKING" in env for env in seen] == [False, True]


def test_a_graph_that_a_provider_compiles_has_no_stages(model_path: Path) -> None:
    def fail() -> None:
        raise runtime.RuntimeFailure("cannot serialize: it contains compiled nodes.")

    notes: list[str] = []
    model = SimpleNamespace(path=model_path, provider="openvino", nodes=fail)
    assert measure._stages(model, notes) == {}
    assert notes[0].startswith("tiny.onnx: no times by stage: openvino compiles what it takes")


def test_no_difference_is_told_as_none() -> None:
    one = measure.Timing("m", "cpu", 5, 1.0, 1.0, 1.0, 1.0, 1.0, None)
    assert "no difference" in measure.Bench(one, one, 0.97, 0.9, 1.1, 1, 1).line
    assert "no difference" not in measure.Bench(one, one, 1.3, 1.2, 1.4, 1, 1).line


def test_memory_is_that_of_this_process() -> None:
    peak = peak_memory()
    assert peak is None or peak > 10**7


def test_the_optimised_graph_can_be_kept(tmp_path: Path) -> None:
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[1] x) => (float[1] y) { y = Relu(x) }'
    )
    runtime.open_session(model, provider="cpu", optimized_to=tmp_path / "o.onnx")
    assert (tmp_path / "o.onnx").is_file()


# ------------------------------------------------------------------------------------ doctor


def test_the_doctor_names_what_runs(run_here: Callable[..., Done]) -> None:
    done = run_here("doctor", "--provider", "cpu")
    assert done.code == 0
    assert "cpu: runs a test model" in done.out
    assert "onnxruntime: version" in done.out


def test_cuda_without_a_gpu_ends_with_4_and_the_way_out(
    monkeypatch: pytest.MonkeyPatch, run_here: Callable[..., Done]
) -> None:
    missing = cuda.Finding("error", "library", "libcudnn.so.9 missing", "Run: pip install it")
    monkeypatch.setattr(cuda, "findings", lambda: (missing,))
    done = run_here("doctor", "--provider", "cuda")
    assert done.code == 4
    assert "libcudnn.so.9 missing" in done.out
    assert "Run: pip install it" in done.out


def test_the_doctor_speaks_json_without_onnxruntime() -> None:
    hidden = "import sys; sys.modules['onnxruntime'] = None"
    done = run_cli("doctor", "--json", code=hidden)
    assert done.code == 4
    levels = {f["subject"]: f["level"] for f in json.loads(done.out)["findings"]}
    assert levels["onnxruntime"] == "error"
