"""CUDA where there is none: onnxruntime's own CUDA provider on stubs, and one whose GPU is the CPU.

On the stubs (see stub_cuda) options, placement, copies, profiles and errors are onnxruntime's own, but
kernels compute nothing. On the other the CPU computes, and rounds as TF32 does where that is on.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import stub_cuda
from conftest import Done, run_cli

from onnx_headcut import cut, workers
from onnx_headcut.errors import ProviderError
from onnx_headcut.validation import choosing, cuda, providers, runtime

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


# ------------------------------------------------------------------ onnxruntime's own, on stubs


@pytest.fixture(scope="module")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    why = stub_cuda.missing()
    if why:
        pytest.skip(why)
    folder = tmp_path_factory.mktemp("stubs")
    stub_cuda.build(folder)
    return folder


def run_on(stubs: Path, *arguments: str | Path, code: str = "", **settings: str) -> Done:
    env = {"LD_LIBRARY_PATH": str(stubs), "CUDA_VISIBLE_DEVICES": "0", **settings}
    return run_cli(*arguments, code=code, env=env)


def test_the_doctor_finds_the_gpu_and_nothing_wrong(stubs: Path) -> None:
    done = run_on(stubs, "doctor", "--provider", "cuda", "--json")
    assert done.code == 0, done.out
    found = {f["subject"]: f for f in json.loads(done.out)["findings"]}
    assert found["NVIDIA driver"]["what"] == "for CUDA 13.0, Stub GPU (8.0)"
    assert found["cuda"]["what"] == "runs a test model"
    assert found["--provider cuda"]["what"] == "runs on cuda"
    assert {f["level"] for name, f in found.items() if name != "tensorrt"} == {"ok"}


SHOW_OPTIONS = """
import sys, onnxruntime as ort
class Session(ort.InferenceSession):
    def __init__(self, source, options, **more):
        super().__init__(source, options, **more)
        of = self.get_provider_options().get("CUDAExecutionProvider")
        if of:
            print("OPTIONS", options.use_deterministic_compute, of["use_tf32"],
                  of["cudnn_conv_algo_search"], file=sys.__stdout__)
ort.InferenceSession = Session
"""


def test_cuda_takes_the_options_and_says_nothing_on_the_side(
    model_path: Path, cut_path: Path, stubs: Path
) -> None:
    done = run_on(stubs, "validate", model_path, cut_path, "--provider", "cuda", code=SHOW_OPTIONS)
    assert done.err == ""  # of each convolution onnxruntime has something to say
    options = [line for line in done.out.splitlines() if line.startswith("OPTIONS")]
    assert "19 nodes on cuda" in done.out
    assert options[-1] == "OPTIONS False 1 EXHAUSTIVE"  # as deployed
    assert {*options[:-1]} == {"OPTIONS True 0 HEURISTIC"}
    # kernels that compute nothing show nothing
    assert done.code == 1
    assert "inconclusive" in done.out


def test_a_bench_measures_the_device_and_each_stage(
    model_path: Path, cut_path: Path, stubs: Path
) -> None:
    done = run_on(stubs, "bench", model_path, cut_path, "--provider", "cuda", "--rounds", "5", "--json")
    assert done.code == 0, done.err
    assert done.err == ""
    document = json.loads(done.out)
    assert document["notes"] == []
    for model in (document["original"], document["cut"]):
        assert model["provider"] == "cuda"
        assert model["device_memory"] > 0
        assert sum(model["stages"].values()) == pytest.approx(model["median"])


@pytest.mark.parametrize(
    ("settings", "what", "advice"),
    [
        ({"STUB_INIT": "100"}, "sees no GPU, with CUDA_VISIBLE_DEVICES='0'", "unset CUDA_VISIBLE"),
        ({"STUB_INIT": "999"}, "does not start (error 999)", "nvidia-smi"),
        ({"STUB_DRIVER": "12080", "STUB_INIT": "0", "STUB_LAUNCH": "35"}, "driver is for CUDA 12.8",
         "pip install 'onnxruntime-gpu[cuda,cudnn]<1.27'"),
        ({"STUB_CAPABILITY": "61", "STUB_LAUNCH": "209"}, "Stub GPU has compute capability 6.1",
         "pip install 'onnxruntime-gpu[cuda,cudnn]<1.27'"),
        ({"STUB_LAUNCH": "209"}, "no kernel image is available", "no code for this GPU"),
    ],
)  # fmt: skip
def test_a_device_that_does_not_work_is_told_with_what_helps(
    settings: dict[str, str], what: str, advice: str, stubs: Path
) -> None:
    done = run_on(stubs, "doctor", "--provider", "cuda", "--json", **settings)
    assert done.code == 4
    last = json.loads(done.out)["findings"][-1]
    assert what in last["what"]
    assert advice in last["advice"]
    assert "pip install 'onnx-headcut" not in last["advice"]  # libraries are all there


@pytest.mark.parametrize("left_out", ["libcudnn.so.9", "libcublas.so.13", "libcuda.so.1"])
def test_a_library_that_is_missing_is_named(
    left_out: str, stubs: Path, tmp_path: Path, model_path: Path, cut_path: Path
) -> None:
    shutil.copytree(stubs, tmp_path / "stubs", ignore=shutil.ignore_patterns(left_out, "*.c", "*.map"))
    done = run_on(tmp_path / "stubs", "validate", model_path, cut_path, "--provider", "cuda")
    assert done.code == 4
    assert left_out in done.err
    mends = "NVIDIA's driver" if left_out == "libcuda.so.1" else "pip install 'onnx-headcut[cuda]'"
    assert mends in " ".join(done.err.split())


# ------------------------------------------------------------------ one that computes on the CPU


class OnTheCpu:
    """As much of a session as is used here; what CUDA would run, the CPU does.

    The profile is as onnxruntime writes it: a node of CUDA differs by its provider, copies between
    devices are nodes of CUDA, and builds with CUPTI add an event for each kernel.
    """

    real: Any = None

    def __init__(
        self, model: Any, options: Any, providers: list[tuple[str, Mapping[str, str]]], **_: object
    ) -> None:
        self._named = [name for name, _ in providers]
        on_cuda = dict(providers).get("CUDAExecutionProvider", {"use_tf32": "0"})
        self._rounds = on_cuda.get("use_tf32", "1") != "0"
        self._inner = self.real(model, options, providers=["CPUExecutionProvider"])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def get_providers(self) -> list[str]:
        return self._named

    def run(self, names: list[str], feed: Mapping[str, Any]) -> list[Any]:
        values = self._inner.run(names, feed)
        return [_tf32(value) if self._rounds and value.dtype == np.float32 else value
                for value in values]  # fmt: skip

    def end_profiling(self) -> str:
        path = Path(self._inner.end_profiling())
        events = []
        for event in json.loads(path.read_text()):
            of = event.get("args", {})
            if event["cat"] == "Node" and self._named[0] != "CPUExecutionProvider":
                if of["op_name"] == "Reshape":  # say that it stays on the CPU
                    copy = {"op_name": "MemcpyToHost", "provider": "CUDAExecutionProvider"}
                    events.append({**event, "name": "Memcpy_kernel_time", "args": {**of, **copy}})
                else:
                    of["provider"] = "CUDAExecutionProvider"
                    kernel = {"op_name": of["op_name"], "parent_name": event["name"], "stream": "13"}
                    events.append({**event, "cat": "Kernel", "name": "void f<float>()", "args": kernel})
            events.append(event)
        path.write_text(json.dumps(events))
        return str(path)


def _tf32(value: Any) -> Any:
    """Keep 10 bits of the fraction, as tensor cores do of what they multiply."""
    return ((value.view(np.uint32) + 0x1000) & 0xFFFFE000).view(np.float32)


@pytest.fixture
def with_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    ort = pytest.importorskip("onnxruntime")
    monkeypatch.setattr(OnTheCpu, "real", ort.InferenceSession)
    monkeypatch.setattr(ort, "InferenceSession", OnTheCpu)
    there = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(ort, "get_available_providers", lambda: there)
    for function in (cuda.findings, providers.probe):
        function.cache_clear()
    yield
    for function in (cuda.findings, providers.probe):
        function.cache_clear()


@pytest.mark.usefixtures("with_cuda")
@pytest.mark.parametrize("provider", ["cuda", "auto"])
def test_a_cut_is_proved_on_cuda_and_the_difference_as_deployed_is_told(
    provider: str,
    model_path: Path,
    tmp_path: Path,
    run_here: Callable[..., Done],
) -> None:
    page = tmp_path / "page.html"
    done = run_here(
        "cut", model_path, "--keep", "cat", "--output", tmp_path / "cut.onnx", "--json",
        "--provider", provider, "--report", page,
    )  # fmt: skip
    assert done.code == 0, done.err
    verdict = json.loads(done.out)["validation"]
    for model in (verdict["original"], verdict["cut"]):
        assert model["provider"] == "cuda"
        assert set(model["placement"]) == {"cuda", "cpu"}
        assert model["note"] == ("auto: CUDA works" if provider == "auto" else "")
    assert all(output["max_abs"] < 1e-5 for output in verdict["outputs"])
    assert 0 < verdict["deployed"]["max_rel"] < 1e-3
    text = page.read_text()
    assert "nodes on cuda" in text
    assert "as deployed" in text.lower()
    # processes of their own have no such CUDA; a report with all the rest is written nevertheless
    assert "runs of each in turn on" in text or "Not measured: CUDA was asked for" in text


@pytest.mark.usefixtures("with_cuda")
@pytest.mark.parametrize(("flag", "words"), [("--junit", "<failure"), ("--sarif", '"error"')])
def test_a_broken_cut_fails_on_cuda_in_every_format(
    flag: str, words: str, model_path: Path, tmp_path: Path, run_here: Callable[..., Done]
) -> None:
    proto = cut(model_path, "cat,dog", validation=False).model
    for tensor in proto.graph.initializer:
        if tensor.name.startswith("cls1_w"):
            value = onnx.numpy_helper.to_array(tensor)
            swapped = value.reshape(3, 3, -1)[:, [0, 2, 1]].reshape(value.shape)
            tensor.CopyFrom(onnx.numpy_helper.from_array(swapped, tensor.name))
    onnx.save(proto, tmp_path / "broken.onnx")
    done = run_here(
        "validate", model_path, tmp_path / "broken.onnx", "--keep", "cat,dog",
        "--provider", "cuda", flag, tmp_path / "out",
    )  # fmt: skip
    assert done.code == 1, done.err
    assert words in (tmp_path / "out").read_text()


@pytest.mark.usefixtures("with_cuda")
def test_the_doctor_says_that_cuda_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "_driver_findings", lambda _: [])
    levels = {f.subject: f.level for f in choosing.diagnose()}
    assert levels["cuda"] == "ok"
    assert levels["cpu"] == "ok"


def test_openvino_is_given_the_graph_unfolded_where_it_misses_folded_values(
    monkeypatch: pytest.MonkeyPatch, model_path: Path
) -> None:
    ort = pytest.importorskip("onnxruntime")
    real, levels = ort.InferenceSession, []

    class Misses:
        def __init__(self, model: Any, options: Any, **_: object) -> None:
            levels.append(options.graph_optimization_level)
            if levels[-1] != ort.GraphOptimizationLevel.ORT_DISABLE_ALL:
                raise RuntimeError("Exception while Reading network: node not found in graph cache")
            self._inner = real(model, options, providers=["CPUExecutionProvider"])

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

        def get_providers(self) -> list[str]:
            return ["OpenVINOExecutionProvider", "CPUExecutionProvider"]

    monkeypatch.setattr(ort, "InferenceSession", Misses)
    monkeypatch.setattr(runtime, "choose", lambda *_: ("openvino", ""))
    assert runtime.open_session(model_path, provider="openvino").provider == "openvino"
    assert len(levels) == 2
    monkeypatch.setattr(runtime, "_opens_on_the_cpu", lambda *_: True)
    with pytest.raises(ProviderError, match="cannot take this model"):  # as deployed, it is as it is
        runtime.open_session(model_path, provider="openvino", deterministic=False)


@pytest.mark.parametrize(
    ("provider", "driver", "at_once"),
    [("cuda", "", 4), ("auto", __file__, 4), ("auto", "", 9), ("cpu", __file__, 9)],
)
def test_few_cuts_are_made_at_once_on_a_gpu(
    provider: str, driver: str, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_GPUS", (driver,))
    tasks = [workers.Task("m.onnx", "1", f"{k}.onnx", {"provider": provider}) for k in range(9)]
    assert workers._at_once_there(tasks) == at_once
    unproved = [replace(task, arguments={**task.arguments, "validation": False}) for task in tasks]
    assert workers._at_once_there(unproved) == 9
