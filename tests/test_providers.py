"""Providers: the one that is asked for runs, or the line that mends it is said."""

from __future__ import annotations

import importlib.metadata
import os
import sys
import types
from typing import TYPE_CHECKING, Any

import pytest
from running import FEED, RELU, cuda_works

from onnx_headcut.errors import HeadcutError, InputError, ProviderError, UsageError
from onnx_headcut.validation import cuda, pair, providers, runtime
from onnx_headcut.validation.choosing import diagnose
from onnx_headcut.validation.providers import (
    PROVIDERS,
    SessionSettings,
    exactly,
    how_to_get,
    provider_list,
)
from onnx_headcut.validation.runtime import RuntimeFailure, open_session

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_auto_takes_what_works_says_so_and_is_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    session = open_session(RELU)
    assert session.provider == ("cuda" if cuda_works() else "cpu")
    assert ("CUDA works" if cuda_works() else "CUDA is not usable") in session.note
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("provider", sorted(set(PROVIDERS) - {"auto", "cpu"}))
def test_a_provider_asked_for_is_the_one_that_runs_or_an_error(
    provider: str, capfd: pytest.CaptureFixture[str]
) -> None:
    try:
        session = open_session(RELU, provider=provider)
    except ProviderError as error:
        refusal = error
    else:
        assert session.provider == provider
        assert session.run(FEED)["y"].tolist() == [[0, 2, 0]]
        return
    assert refusal.exit_code == 4
    assert any(word in refusal.advice for word in ("pip install", "driver", "--provider cpu"))
    assert capfd.readouterr() == ("", "")


def test_missing_libraries_are_named_with_the_line_that_mends_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cuda, "probe", lambda _: "onnxruntime falls back to cpu")
    monkeypatch.setattr(cuda, "_loads", lambda _: False)
    monkeypatch.setattr(cuda, "_driver_findings", lambda _: [])
    monkeypatch.setattr(cuda, "findings", cuda.findings.__wrapped__)
    ort = pytest.importorskip("onnxruntime")
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    with pytest.raises(ProviderError, match=r"cudnn.*missing") as caught:
        open_session(RELU, provider="cuda")
    assert "pip install 'onnx-headcut[cuda]'" in caught.value.advice
    assert any("missing" in item.what and item.level == "warning" for item in diagnose())

    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(ProviderError, match="without CUDA"):
        open_session(RELU, provider="cuda")
    assert open_session(RELU).provider == "cpu"


def test_a_session_that_ends_up_elsewhere_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    on_cpu = [("CPUExecutionProvider", dict[str, str]())]
    monkeypatch.setattr(runtime, "choose", lambda *_: ("cuda", ""))
    monkeypatch.setattr(runtime, "provider_list", lambda *_, **__: on_cpu)
    with pytest.raises(ProviderError, match="runs on cpu"):
        open_session(RELU, provider="cuda")


def test_no_such_provider() -> None:
    with pytest.raises(UsageError, match="Providers: auto, cuda"):
        open_session(RELU, provider="gpu")


def test_without_onnxruntime_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ProviderError, match="pip install") as caught:
        open_session(RELU, provider="cpu")
    assert caught.value.exit_code == 4
    assert diagnose()[0].level == "error"


# ------------------------------------------------------------------ diagnosis


def test_the_diagnosis_names_versions_and_every_provider(
    capfd: pytest.CaptureFixture[str],
) -> None:
    findings = diagnose()
    assert {"onnxruntime", "providers in this build", "cuda", "cpu"} <= {f.subject for f in findings}
    assert [f.level for f in findings if f.subject == "cpu"] == ["ok"]
    cuda = [f.level for f in findings if f.subject == "cuda"]
    assert cuda == ["ok"] if cuda_works() else cuda[0] in ("warning", "note")
    assert all(f.advice for f in findings if f.level in ("warning", "error") and f.subject != "cuda")
    assert capfd.readouterr() == ("", "")


def test_two_packages_in_one_environment_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    both = {"onnxruntime": "1.30.0", "onnxruntime-gpu": "1.31.0"}

    def version(name: str) -> str:
        if name not in both:
            raise importlib.metadata.PackageNotFoundError(name)
        return both[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    (clash,) = [finding for finding in diagnose() if finding.subject == "packages"]
    assert "onnxruntime 1.30.0 and onnxruntime-gpu 1.31.0" in clash.what
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in clash.advice


# ------------------------------------------------------------------ machines that are not here


@pytest.fixture
def has(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Say which distributions are installed, and on what system."""

    def say(*names: str, system: str = "linux") -> None:
        monkeypatch.setattr(providers, "installed", lambda: dict.fromkeys(names, "1.31.0"))
        monkeypatch.setattr(cuda, "installed", lambda: dict.fromkeys(names, "1.31.0"))
        monkeypatch.setattr(sys, "platform", system)

    return say


@pytest.mark.parametrize(
    ("there", "provider", "line"),
    [
        (["onnxruntime-gpu"], "cuda", "Run: pip install 'onnx-headcut[cuda]'"),
        (["onnxruntime"], "cuda", "Run: pip uninstall -y onnxruntime && pip install"),
        (["onnxruntime", "onnxruntime-gpu"], "cuda", "uninstall -y onnxruntime onnxruntime-gpu && "),
        (["onnxruntime-openvino"], "cuda", "uninstall -y onnxruntime-openvino && "),
        (["onnxruntime-openvino"], "openvino", "Run: pip install onnxruntime-openvino"),
        (["onnxruntime-gpu"], "openvino", "onnxruntime-gpu && pip install onnxruntime-openvino"),
        (["onnxruntime-gpu"], "tensorrt", "'tensorrt-cu"),
        (["onnxruntime-gpu"], "dml", "DirectML is part of Windows"),
        (["onnxruntime-gpu"], "coreml", "CoreML is part of macOS"),
    ],
)
def test_the_line_that_mends_clears_away_what_would_be_overwritten(
    there: list[str], provider: str, line: str, has: Callable[..., None]
) -> None:
    has(*there)
    assert line in how_to_get(provider)


def test_macos_is_not_told_to_install_cuda(has: Callable[..., None]) -> None:
    has("onnxruntime", system="darwin")
    assert "pip" not in how_to_get("cuda")


def test_a_clash_without_cuda_has_one_line_of_advice(
    has: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    has("onnxruntime", "onnxruntime-gpu")
    ort = pytest.importorskip("onnxruntime")
    monkeypatch.setattr(cuda, "findings", cuda.findings.__wrapped__)
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(ProviderError, match="overwrite each other") as caught:
        open_session(RELU, provider="cuda")
    assert caught.value.advice.count("pip uninstall") == 1
    assert "onnxruntime onnxruntime-gpu &&" in caught.value.advice


def test_each_library_that_tensorrt_misses_is_named_with_one_line_that_brings_all(
    has: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    has("onnxruntime-gpu")
    ort = pytest.importorskip("onnxruntime")
    for name in ("findings", "tensorrt_findings"):
        monkeypatch.setattr(cuda, name, getattr(cuda, name).__wrapped__)
    monkeypatch.setattr(ort, "get_available_providers", lambda: list(providers.FULL_NAMES.values()))
    monkeypatch.setattr(cuda, "probe", lambda _: "does not run")
    monkeypatch.setattr(cuda, "_loads", lambda _: False)
    monkeypatch.setattr(cuda, "tensorrt_major", lambda: "10")
    with pytest.raises(ProviderError, match="TensorRT was asked for") as caught:
        open_session(RELU, provider="tensorrt")
    for library in ("libcudnn.so.9", "libnvinfer.so.10", "libnvonnxparser.so.10"):
        assert library in caught.value.what
    runs = [line for line in caught.value.advice.splitlines() if line.startswith("Run: ")]
    assert len(runs) == 1
    assert runs[0].startswith("Run: pip install 'onnx-headcut[cuda]' 'tensorrt-cu")


def test_what_is_left_of_a_removed_package_is_no_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", types.ModuleType("onnxruntime"))
    with pytest.raises(ProviderError, match="only parts of it") as caught:
        open_session(RELU, provider="cpu")
    assert "--force-reinstall" in caught.value.advice


def test_tensorrt_is_given_words_that_its_parser_takes() -> None:
    (name, options), *rest = provider_list("tensorrt", deterministic=True)
    assert name == "TensorrtExecutionProvider"
    assert set(options.values()) == {"False"}
    assert [name for name, _ in rest] == ["CUDAExecutionProvider", "CPUExecutionProvider"]
    assert rest[0][1]["use_tf32"] == "0"
    assert not any(options for _, options in provider_list("tensorrt", deterministic=False))


def test_tensorrt_is_kept_from_tf32_while_models_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    for provider, deterministic, seen in [
        ("tensorrt", True, "0"), ("tensorrt", False, None), ("cpu", True, None),
    ]:  # fmt: skip
        with exactly(SessionSettings(provider, None, deterministic, "all", 0)):
            assert os.environ.get("NVIDIA_TF32_OVERRIDE") == seen
        assert "NVIDIA_TF32_OVERRIDE" not in os.environ


@pytest.mark.parametrize(
    ("built", "driver", "words"),
    [("13.0", 12080, "CUDA 12.8, onnxruntime"), ("12.8", 13000, ""), ("13.0", 13010, "")],
)
def test_a_driver_older_than_the_build_is_told(
    built: str, driver: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Driver:
        @staticmethod
        def cuDriverGetVersion(into: Any) -> int:  # noqa: N802  (NVIDIA's name)
            into._obj.value = driver
            return 0

        @staticmethod
        def cuInit(_: int) -> int:  # noqa: N802
            return 0

        @staticmethod
        def cuDeviceGetCount(into: Any) -> int:  # noqa: N802
            into._obj.value = 1
            return 0

    monkeypatch.setattr(cuda.ctypes, "CDLL", lambda _: Driver)
    monkeypatch.setattr(cuda, "_device", lambda *_: ("a GPU", (9, 0)))
    ort = types.SimpleNamespace(cuda_version=built, __version__="1.31.0")
    (found,) = cuda._driver_findings(ort)
    assert (found.level == "error") == bool(words)
    assert words in found.what
    assert ("'onnxruntime-gpu[cuda,cudnn]<1.27'" in found.advice) == bool(words)


def test_libraries_of_another_cuda_do_not_help(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "_loads", lambda name: name.endswith((".12", "cudnn.so.8")))
    monkeypatch.setattr(cuda, "_linking", lambda _: "libcufft.so.11: cannot open shared object file")
    monkeypatch.setattr(cuda, "preload", lambda *_: None)
    ort = types.SimpleNamespace(
        cuda_version="13.0", __version__="1.31.0", set_default_logger_severity=lambda _: None
    )
    (found,) = cuda._library_findings(ort)
    assert "libcublas.so.13" in found.what
    assert "libcufft.so.11 missing" in found.what  # of what was not looked for, the loader tells
    assert "those of CUDA 12 and cuDNN 8 do not help" in found.what


def _on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have sessions say that they run on CUDA, and run on the CPU."""
    on_cpu = [("CPUExecutionProvider", dict[str, str]())]
    monkeypatch.setattr(runtime, "choose", lambda *_: ("cuda", ""))
    monkeypatch.setattr(runtime, "provider_list", lambda *_, **__: on_cpu)
    # of a session and of a profile alike: only the session's is changed
    counted = runtime.read_placement
    monkeypatch.setattr(pair, "read_placement", counted)
    real = pytest.importorskip("onnxruntime").InferenceSession

    class Session(real):  # type: ignore[misc,valid-type]
        def get_providers(self) -> list[str]:
            return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    monkeypatch.setattr("onnxruntime.InferenceSession", Session)


def test_a_provider_that_takes_no_node_was_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    _on_a_device(monkeypatch)
    watched = pair.Watched(RELU, "cuda", None)
    with pytest.raises(ProviderError, match="none of the model's nodes: 2 on cpu"):
        watched.run(FEED)
    monkeypatch.setattr(runtime, "choose", lambda *_: ("cuda", "auto: CUDA works"))
    watched = pair.Watched(RELU, "auto", None)
    watched.run(FEED)
    assert watched.where.note == "auto: CUDA works, but took none of the nodes"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("CUDNN failure 4: CUDNN_STATUS_INTERNAL_ERROR", ProviderError),
        ("Failed to allocate memory for requested buffer of size 8", ProviderError),
        ("Non-zero status code while running Reshape node", RuntimeFailure),
    ],
)
def test_what_a_device_says_is_no_mistake_of_the_cut(
    text: str, error: type[HeadcutError], monkeypatch: pytest.MonkeyPatch
) -> None:
    _on_a_device(monkeypatch)
    session = open_session(RELU, provider="cuda")

    def fail(*_: object) -> None:
        raise RuntimeError(text)

    monkeypatch.setattr(session._inner, "run", fail)
    with pytest.raises(error, match=text[:20]):
        session.run(FEED)


def test_a_model_that_only_the_provider_does_not_take(monkeypatch: pytest.MonkeyPatch) -> None:
    ort = pytest.importorskip("onnxruntime")
    real = ort.InferenceSession

    def picky(*args: object, providers: list[tuple[str, object]], **more: object) -> object:
        if providers[0][0] != "CPUExecutionProvider":
            raise RuntimeError("[OpenVINO-EP] Exception while Loading Network")
        return real(*args, providers=providers, **more)

    monkeypatch.setattr(runtime, "choose", lambda *_: ("openvino", ""))
    monkeypatch.setattr(ort, "InferenceSession", picky)
    with pytest.raises(ProviderError, match="openvino cannot take this model") as caught:
        open_session(RELU, provider="openvino")
    assert caught.value.exit_code == 4
    with pytest.raises(InputError):  # nothing takes this one
        open_session(b"no model", provider="openvino")


def test_a_driver_that_is_elsewhere_or_no_library_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = "libcuda.so.1: cannot open shared object file: No such file or directory"
    assert cuda._without_driver("libcuda.so.1", missing)[0] == "no NVIDIA driver (libcuda.so.1)"
    what, _ = cuda._without_driver("libcuda.so.1", "/usr/lib/libcuda.so.1: file too short")
    assert what.endswith("cannot be loaded: /usr/lib/libcuda.so.1: file too short")
    (tmp_path / "libcuda.so.1").touch()  # as WSL keeps it
    monkeypatch.setattr(cuda, "_FOLDERS", (str(tmp_path),))
    _, advice = cuda._without_driver("libcuda.so.1", missing)
    assert advice == f"Run: export LD_LIBRARY_PATH={tmp_path}:$LD_LIBRARY_PATH"


def test_a_jetson_is_told_where_its_onnxruntime_is(
    has: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    has("onnxruntime")
    monkeypatch.setattr(providers.platform, "machine", lambda: "aarch64")
    assert "Jetson" in how_to_get("cuda")
    assert "pip install onnxruntime-openvino" in how_to_get("openvino")
