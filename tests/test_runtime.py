"""onnxruntime behind one door: what runs, where it truly runs, what is said when it does not."""

from __future__ import annotations

import gc
import importlib.metadata
import os
import subprocess
import sys
import tempfile
import types
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import parser

import onnx_headcut as hc
from onnx_headcut.errors import HeadcutError, InputError, ProviderError, UsageError
from onnx_headcut.validation import cuda, pair, providers, runtime
from onnx_headcut.validation.choosing import diagnose
from onnx_headcut.validation.providers import (
    PROVIDERS,
    SessionSettings,
    exactly,
    how_to_get,
    provider_list,
    reason,
)
from onnx_headcut.validation.runtime import RuntimeFailure, open_session, placement

if TYPE_CHECKING:
    from collections.abc import Callable

HEAD = '<ir_version: 8, opset_import: ["": 17]>'
RELU = parser.parse_model(f"{HEAD} g (float[1,3] x) => (float[1,3] y) {{ a = Neg(x) y = Relu(a) }}")
LOOP = parser.parse_model(
    f"""{HEAD} g (float[1,3] x) => (float[1,3] y) {{
      n = Constant <value = int64 {{5}}> ()
      on = Constant <value = bool {{1}}> ()
      y = Loop <body = b (int64 i, bool go, float[1,3] s) => (bool again, float[1,3] t)
                {{ again = Identity(go) t = Sin(s) }}> (n, on, x)
    }}"""
)
STOPPED = "Non-zero status code while running Reshape node. Name:'r' Status Message:"
FEED = {"x": np.array([[1, -2, 3]], np.float32)}


def cuda_works() -> bool:
    try:
        return open_session(RELU, provider="cuda").provider == "cuda"
    except ProviderError:
        return False


@pytest.mark.parametrize("as_what", ["proto", "bytes", "path"])
def test_a_model_runs_however_it_is_given(as_what: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(RELU, path)
    model = {"proto": RELU, "bytes": RELU.SerializeToString(), "path": path}[as_what]
    session = open_session(model, provider="cpu")
    assert (session.provider, session.providers) == ("cpu", ("cpu",))
    assert (session.input_names, session.output_names) == (("x",), ("y",))
    assert session.run(FEED)["y"].tolist() == [[0, 2, 0]]


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


def test_importing_does_not_load_onnxruntime() -> None:
    code = "import sys, onnx_headcut.validation.runtime; sys.exit('onnxruntime' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# ------------------------------------------------------------------ placement


def test_every_node_is_counted_once_and_nothing_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert placement(RELU, FEED, provider="cpu") == {"cpu": 2}
    plain = open_session(LOOP, provider="cpu", optimization="none")
    once = placement(plain, FEED)
    assert set(once) == {"cpu"}
    assert once["cpu"] in (3, 4, 5)  # Loop, Identity and Sin, not five of each; constants may run
    assert list(tmp_path.iterdir()) == []
    assert plain.run(FEED)  # the session itself goes on


def test_placement_proves_cuda_where_it_works() -> None:
    if not cuda_works():
        pytest.skip("CUDA cannot be used here")
    assert placement(RELU, FEED, provider="cuda") == {"cuda": 2}


def test_a_profile_is_left_where_it_is_asked_for(tmp_path: Path) -> None:
    session = open_session(RELU, provider="cpu", profile_to=tmp_path)
    session.run(FEED)
    assert session.end_profile().parent == tmp_path


# ------------------------------------------------------------------ weights in other files


@pytest.fixture
def with_external_data(tmp_path: Path) -> Path:
    model = parser.parse_model(f"{HEAD} g (float[1,512] x) => (float[1,512] y) {{ y = Add(x, w) }}")
    weights = np.arange(512, dtype=np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    path = tmp_path / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="m.data", size_threshold=0)
    return path


def test_external_data_is_found_by_path_and_by_folder(with_external_data: Path) -> None:
    path = with_external_data
    proto = onnx.load(path, load_external_data=False)
    feed = {"x": np.zeros((1, 512), np.float32)}
    for session in (
        open_session(path, provider="cpu"),
        open_session(proto, provider="cpu", external_data_dir=path.parent),
    ):
        assert session.run(feed)["y"][0, -1] == 511
        assert placement(session, feed) == {"cpu": 1}


def test_external_data_that_is_not_found_is_an_input_error(with_external_data: Path) -> None:
    path = with_external_data
    with pytest.raises(InputError, match="external_data_dir"):
        open_session(onnx.load(path, load_external_data=False), provider="cpu")
    (path.parent / "m.data").unlink()
    with pytest.raises(InputError, match="cannot load"):
        open_session(path, provider="cpu")


# ------------------------------------------------------------------ what onnxruntime refuses


def test_a_model_newer_than_the_runtime_is_told_the_way_out() -> None:
    model = onnx.ModelProto()
    model.CopyFrom(RELU)
    model.ir_version = 99
    with pytest.raises(InputError, match="IR version") as refused:
        open_session(model.SerializeToString(), provider="cpu")
    assert "--no-validate" in refused.value.advice


@pytest.mark.parametrize(
    ("model", "error"),
    [
        (b"", InputError),
        (b"no model", InputError),
        (RELU.SerializeToString()[:-30], InputError),
        (RELU.SerializeToString().replace(b"Relu", b"Rule"), InputError),
        (Path("nowhere.onnx"), InputError),
        (Path(), InputError),
    ],
)
def test_a_model_that_cannot_be_loaded(model: bytes | Path, error: type[HeadcutError]) -> None:
    with pytest.raises(error) as caught:
        open_session(model, provider="cpu")
    assert "[ONNXRuntimeError]" not in str(caught.value)


@pytest.mark.parametrize(
    "feed", [{}, {"z": FEED["x"]}, {"x": FEED["x"][:, :2]}, {"x": FEED["x"].astype(np.float64)}]
)
def test_a_feed_that_does_not_fit(feed: dict[str, np.ndarray]) -> None:
    with pytest.raises(RuntimeFailure) as caught:
        open_session(RELU, provider="cpu").run(feed)
    assert caught.value.exit_code == 1


@pytest.mark.parametrize(
    ("text", "useful"),
    [
        (
            f"[ONNXRuntimeError] : 6 : FAIL : {STOPPED} /s/shape.h:4 ort::A::A(const T&, b) sizes",
            f"{STOPPED} sizes",
        ),
        ("[ONNXRuntimeError] : 1 : FAIL : matmul_helper.h:59 Compute dims differ", "dims differ"),
        (
            "[ONNXRuntimeError] : 1 : FAIL : D:\\a\\_work\\x.cc:7 ort::F() bad\n\n stack",
            "bad stack",
        ),
        ("", "Exception"),
        (
            (
                "[ONNXRuntimeError] : 1 : FAIL : Exception during initialization: "
                "/o/ov/basic_backend.cc:136 ov::Backend::Backend(std::unique_ptr<P>&, T&) "
                "/o/ov/ov_interface.cc:28 auto ov::Boundary(Func&&, Args&& ...) "
                "[with bool typed = false; Args = {const s<char, t<char> >&}; F = b<char, c<char> >] "
                "[OpenVINO-EP] Exception while Loading Network: Exception from src/core.cpp:114:\n"
                "Check 'dims' failed at src/nms.cpp:116:\nNMS has unsupported input\n\n"
            ),
            (
                "Exception during initialization: [OpenVINO-EP] Exception while Loading Network: Check"
                " 'dims' failed at src/nms.cpp:116: NMS has unsupported input"
            ),
        ),
    ],
)
def test_the_useful_words_of_an_error(text: str, useful: str) -> None:
    assert reason(Exception(text)) == useful
    assert len(reason(Exception(text * 50))) <= 401


# ------------------------------------------------------------------ bfloat16


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=20))
def test_bfloat16_goes_in_rounded_to_nearest_and_comes_out_unchanged(numbers: list[float]) -> None:
    model = parser.parse_model(
        f"{HEAD} g (bfloat16[N] x) => (bfloat16[N] y, float[N] z)"
        "{ y = Identity(x) z = Cast <to = 1> (x) }"
    )
    given_values = np.array(numbers, np.float32)
    values = open_session(model, provider="cpu").run({"x": given_values})
    assert values["y"].tobytes() == values["z"].tobytes()
    with np.errstate(over="ignore"):
        want = onnx.numpy_helper.to_array(
            onnx.helper.make_tensor("t", onnx.TensorProto.BFLOAT16, [len(numbers)], given_values)
        )
    assert values["z"].tobytes() == want.astype(np.float32).tobytes()


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
    ort = types.SimpleNamespace(cuda_version=built, __version__="1.31.0")
    (found,) = cuda._driver_findings(ort)
    assert (found.level == "error") == bool(words)
    assert words in found.what
    assert ("'onnxruntime-gpu[cuda,cudnn]<1.27'" in found.advice) == bool(words)


def test_libraries_of_another_cuda_do_not_help(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "_loads", lambda name: name.endswith(".12") and "cufft" not in name)
    monkeypatch.setattr(cuda, "preload", lambda *_: None)
    ort = types.SimpleNamespace(
        cuda_version="13.0", __version__="1.31.0", set_default_logger_severity=lambda _: None
    )
    (found,) = cuda._library_findings(ort)
    assert "libcublas.so.13" in found.what
    assert "those of CUDA 12 do not help" in found.what


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


def test_sessions_go_with_the_validation_that_opened_them(
    model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without waiting for circles to be looked for: many cuts in one process keep their memory."""
    opened: list[weakref.ref[runtime.Session]] = []
    init = runtime.Session.__init__

    def seen(session: runtime.Session, *args: Any) -> None:
        init(session, *args)
        opened.append(weakref.ref(session))

    monkeypatch.setattr(runtime.Session, "__init__", seen)
    gc.collect()
    gc.disable()
    try:
        hc.cut(model_path, [1, 2], provider="cpu")
        assert len(opened) > 2
        assert [session() for session in opened] == [None] * len(opened)
    finally:
        gc.enable()


ABORTS = """<ir_version: 10, opset_import: ["": 21]>
g (float[1,8] x, bool c) => (float[1,4] y) <float s = {0.1}, int8 z = {0}> {
  q = QuantizeLinear (x, s, z)
  d = DequantizeLinear (q, s, z)
  zero = Constant <value = int64[1] {0}> ()
  four = Constant <value = int64[1] {4}> ()
  one = Constant <value = int64[1] {1}> ()
  part = Slice (d, zero, four, one)
  y = If (c) <then_branch = a () => (float[1,4] t) { t = Add (part, part) },
              else_branch = b () => (float[1,4] e) { e = Mul (part, part) }> }"""


def test_a_body_that_reads_what_was_dequantized_does_not_end_the_process() -> None:
    """onnxruntime 1.31 aborts on it, unless it is told to leave quantizers alone."""
    code = f"""
import numpy as np
from onnx import parser
from onnx_headcut.validation import runtime
session = runtime.open_session(parser.parse_model({ABORTS!r}), provider="cpu")
print(session.run({{"x": np.ones((1, 8), np.float32), "c": np.array(True)}})["y"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[[2. 2. 2. 2.]]\n"
