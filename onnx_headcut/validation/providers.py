"""Providers of onnxruntime: their names and options, and whether one truly runs a model.

``get_available_providers()`` lists what a build was compiled for, and a session whose CUDA
libraries are missing falls back to the CPU with a log line only. So a tiny model is run on the
provider, and the session's real providers are read back.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import io
import os
import platform
import re
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper

from onnx_headcut.errors import ProviderError

if TYPE_CHECKING:
    from collections.abc import Iterator

Optimization = Literal["all", "extended", "basic", "none"]

PROVIDERS = ("auto", "cuda", "tensorrt", "openvino", "cpu", "dml", "coreml")
FULL_NAMES = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "dml": "DmlExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
}
_SHORT_NAMES = {full: short for short, full in FULL_NAMES.items()}

# TF32 alone moves results by about 1e-3; a search for the fastest convolution may take another
# algorithm at each start. Both would drown what is looked for. HEURISTIC asks cuDNN, which answers
# alike each time (DEFAULT is onnxruntime's word for cuDNN's slow last resort).
_EXACT_OPTIONS: dict[str, dict[str, str]] = {
    "cuda": {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"},
    # True and False are written out: unlike CUDA's, its parser takes no 0.
    "tensorrt": {"trt_fp16_enable": "False", "trt_int8_enable": "False"},
    "openvino": {"precision": "ACCURACY"},  # it takes bfloat16 where the processor has it
}
PACKAGES = {
    "cpu": "onnxruntime",
    "cuda": "onnxruntime-gpu",
    "tensorrt": "onnxruntime-gpu",
    "openvino": "onnxruntime-openvino",
    "dml": "onnxruntime-directml",
    "coreml": "onnxruntime",
}
"""The distribution that brings a provider; all of them install the folder ``onnxruntime``."""
INSTALL_CUDA = "pip install 'onnx-headcut[cuda]'"
_SYSTEMS = {
    "dml": ("win32", "DirectML is part of Windows"),
    "coreml": ("darwin", "CoreML is part of macOS"),
}


@dataclass(frozen=True)
class SessionSettings:
    """How a session is opened, so that it can be opened again with a profile."""

    provider: str
    external_data_dir: Path | None
    deterministic: bool
    optimization: Optimization
    threads: int


def import_runtime() -> Any:
    """Import onnxruntime; raises ProviderError with the line that installs it."""
    try:
        import onnxruntime  # noqa: PLC0415
    except (ImportError, OSError) as error:
        problem: str = f"onnxruntime cannot be imported: {error}"
    else:
        if hasattr(onnxruntime, "InferenceSession"):
            return onnxruntime
        # One of two packages that shared the folder was removed, and took files of both with it.
        problem = "onnxruntime cannot be imported: only parts of it are left"
    package = next(reversed(installed()), "onnxruntime-gpu")
    raise ProviderError(
        problem,
        advice=f"Run: pip install --force-reinstall {package}"
        + ("  (onnxruntime where that has no wheel)" if package == "onnxruntime-gpu" else "")
        + ". Cutting without validation needs no runtime: --no-validate.",
    )


def installed() -> dict[str, str]:
    """Which distributions of onnxruntime are installed, with their versions."""
    found = {}
    for name in dict.fromkeys(PACKAGES.values()):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def how_to_get(provider: str) -> str:
    """Say what brings a provider here; the line clears away what would be overwritten."""
    system, only = _SYSTEMS.get(provider, (sys.platform, ""))
    if system != sys.platform:
        return f"{only}. Elsewhere, use --provider cpu."
    if PACKAGES[provider] == "onnxruntime-gpu" and sys.platform == "darwin":
        return "CUDA is not for macOS: use --provider coreml or cpu."
    if PACKAGES[provider] == "onnxruntime-gpu" and platform.machine() == "aarch64":
        return (
            "PyPI has no onnxruntime-gpu for aarch64. On a Jetson (here with JetPack 6), run:"
            " pip uninstall -y onnxruntime && pip install onnxruntime-gpu --index-url"
            " https://pypi.jetson-ai-lab.io/jp6/cu126"
        )
    others = [name for name in installed() if name != PACKAGES[provider]]
    # What two of them share is gone with either: the one that stays has to come anew.
    gone = " ".join(installed() if others else ())
    package = (
        INSTALL_CUDA if PACKAGES[provider] == "onnxruntime-gpu" else f"pip install {PACKAGES[provider]}"
    )
    if provider == "tensorrt":
        package += f" 'tensorrt-cu{_cuda_major()}<{int(tensorrt_major()) + 1}'"
    return f"Run: {f'pip uninstall -y {gone} && ' if gone else ''}{package}"


def tensorrt_major() -> str:
    """The major version of TensorRT that this onnxruntime was linked with; "10" if it says none."""
    with contextlib.suppress(ImportError, OSError):
        folder = Path(import_runtime().__file__).parent / "capi"
        for library in folder.glob("*onnxruntime_providers_tensorrt.*"):
            found = re.search(rb"libnvinfer\.so\.(\d+)|nvinfer_(\d+)\.dll", library.read_bytes())
            if found:
                return (found[1] or found[2]).decode()
    return "10"


def _cuda_major() -> str:
    with contextlib.suppress(ProviderError):
        return str(getattr(import_runtime(), "cuda_version", "") or "13").split(".")[0]
    return "13"


def short_name(provider: str) -> str:
    """Turn onnxruntime's name of a provider into the command line's."""
    return _SHORT_NAMES.get(provider, provider.removesuffix("ExecutionProvider").lower())


def session_options(ort: Any, settings: SessionSettings, profile_to: Path | None) -> Any:
    """Make onnxruntime's options of a session, quiet and with threads that do not spin."""
    options = ort.SessionOptions()
    options.log_severity_level = 4  # what matters comes as an exception
    options.use_deterministic_compute = settings.deterministic
    options.graph_optimization_level = getattr(
        ort.GraphOptimizationLevel,
        {"none": "ORT_DISABLE_ALL", "all": "ORT_ENABLE_ALL"}.get(
            settings.optimization, f"ORT_ENABLE_{settings.optimization.upper()}"
        ),
    )
    options.intra_op_num_threads = settings.threads
    # Threads that spin between runs slow down whatever else runs: the other model above all.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    if settings.external_data_dir is not None:
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path",
            str(settings.external_data_dir),
        )
    if settings.provider == "dml":
        options.enable_mem_pattern = False  # DirectML cannot do with it
    if profile_to is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile_to / "profile")
    return options


def provider_list(name: str, *, deterministic: bool) -> list[tuple[str, dict[str, str]]]:
    """List the provider and those that take what it leaves, with their options."""
    chain = {"cpu": ("cpu",), "tensorrt": ("tensorrt", "cuda", "cpu")}.get(name, (name, "cpu"))
    return [(FULL_NAMES[link], _EXACT_OPTIONS.get(link, {}) if deterministic else {}) for link in chain]


@contextlib.contextmanager
def quiet(ort: Any) -> Iterator[io.StringIO]:
    """Keep onnxruntime's prints, warnings and default log away; give what it printed."""
    said = io.StringIO()
    ort.set_default_logger_severity(4)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(said):
            warnings.simplefilter("ignore")
            yield said
    finally:
        ort.set_default_logger_severity(2)  # its documented default; there is no way to ask


@contextlib.contextmanager
def hushed(ort: Any, provider: str) -> Iterator[None]:
    """Keep away what a device says to the default log while it runs: a line for each convolution."""
    if provider == "cpu":
        yield
        return
    ort.set_default_logger_severity(4)
    try:
        yield
    finally:
        ort.set_default_logger_severity(2)


@functools.cache
def probe(name: str) -> str:
    """Run a tiny model on a provider; "" where it worked, else what went wrong.

    Convolution and matrix product on purpose: they need cuDNN and cuBLAS.
    """
    ort = import_runtime()
    settings = SessionSettings(name, None, deterministic=True, optimization="all", threads=1)
    options = session_options(ort, settings, None)
    try:
        with quiet(ort), exactly(settings):
            preload(ort, name)
            inner = ort.InferenceSession(
                _tiny_model(),
                options,
                providers=provider_list(name, deterministic=True),
                enable_fallback=0,
            )
            if short_name(inner.get_providers()[0]) != name:
                return f"onnxruntime falls back to {short_name(inner.get_providers()[0])}"
            inner.run(None, {"x": np.ones((1, 3, 8, 8), np.float32)})
    except Exception as error:  # noqa: BLE001  (a probe: any failure is the answer)
        return reason(error)
    return ""


def preload(ort: Any, provider: str) -> None:
    """Load the libraries of pip packages, which no library path leads to."""
    if provider not in ("cuda", "tensorrt"):
        return
    preload = getattr(ort, "preload_dlls", None)  # since onnxruntime 1.21
    if preload is not None:
        preload()
    if provider == "tensorrt":
        with contextlib.suppress(ImportError, OSError):
            importlib.import_module("tensorrt_libs")  # on import, it loads its libraries


@contextlib.contextmanager
def exactly(settings: SessionSettings) -> Iterator[None]:
    """Keep TensorRT from TF32, which none of onnxruntime's options does, where results count."""
    name = "NVIDIA_TF32_OVERRIDE"
    if settings.provider != "tensorrt" or not settings.deterministic or name in os.environ:
        yield
        return
    os.environ[name] = "0"
    try:
        yield
    finally:
        del os.environ[name]


def _tiny_model() -> bytes:
    def weight(name: str, shape: tuple[int, ...]) -> onnx.TensorProto:
        return onnx.numpy_helper.from_array(np.full(shape, 0.1, np.float32), name)

    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "kernel"], ["features"], pads=[1, 1, 1, 1]),
            helper.make_node("MatMul", ["features", "matrix"], ["y"]),
        ],
        "probe",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 8, 5])],
        [weight("kernel", (4, 3, 3, 3)), weight("matrix", (8, 5))],
    )
    opset = [helper.make_opsetid("", 13)]
    return bytes(helper.make_model(graph, ir_version=7, opset_imports=opset).SerializeToString())


# The first that fits what a device says tells what helps.
_HELP = (
    (r"out of memory|allocate memory|MemoryAllocation|ALLOC_FAILED",
     "Close other programs on the device, or use --provider cpu."),
    (r"cuDNN is (not |un)available|cuFFT", f"Run: {INSTALL_CUDA}"),
    (r"no kernel image",
     "This onnxruntime has no code for this GPU: use another version of it, or --provider cpu."),
)  # fmt: skip


def what_helps(error: object) -> str:
    """Say what to do about an error of a device; "" where that is not known."""
    fitting = (advice for words, advice in _HELP if re.search(words, str(error), re.IGNORECASE))
    return next(fitting, "")


_STATUS = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : ")
# ``auto ov::Boundary(Func&&, …) [with bool typed = …] ``, which names types and no cause.
_THROWN = re.compile(r"Exception from [\w/.-]+:\d+:\n")
_TEMPLATE = re.compile(r"auto [\w:]+\(.*?\) \[with .*?\] (?=\[)")
# ``/onnxruntime_src/…/file.cc:98 onnxruntime::Shape::Shape(const Tensor*, bool) ``, and shorter
# ``matmul_helper.h:59 Compute ``.
_PLACE = re.compile(
    r"(?:[A-Za-z]:)?[\\/\w.-]*\b\w+\.(?:cc|cpp|cu|cuh|h|hpp):\d+ "
    r"(?:[^()\n]*::[^()\n]*\([^()\n]*\) ?|\w+ )?"
)


def reason(error: BaseException) -> str:
    """Reduce an error of onnxruntime to its useful words: no status, no C++ file, one line."""
    text = _STATUS.sub("", str(error))
    for noise in (_TEMPLATE, _PLACE, _THROWN):
        text = noise.sub("", text)
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    if lines[0].endswith(":") and len(lines) > 1:  # the last of a chain is the cause
        lines = [f"{lines[0]} {lines[-1]}"]
    # A first line that ends in "the following indices" says nothing without the next.
    line = lines[0] if len(lines[0]) > 120 else " ".join(lines[:2])
    return line if len(line) <= 400 else f"{line[:400]}…"
