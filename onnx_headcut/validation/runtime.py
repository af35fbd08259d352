"""Everything that onnxruntime does here, and the proof of which provider did it.

onnxruntime is imported only inside functions: reading and cutting models work without it.

Providers are proved, not assumed. ``get_available_providers()`` lists what a build was compiled
for, and a session whose CUDA libraries are missing falls back to the CPU with a log line only. So a
tiny model is run on the provider first, the session's real providers are read back, and
``placement`` counts from a profile which provider ran each node.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.metadata
import io
import json
import re
import sys
import tempfile
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper

from onnx_headcut.errors import HeadcutError, InputError, ProviderError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from onnx_headcut.validation.inputs import Array, Feed

Model = onnx.ModelProto | bytes | Path
Optimization = Literal["all", "extended", "basic", "none"]
Level = Literal["ok", "note", "warning", "error"]

PROVIDERS = ("auto", "cuda", "tensorrt", "openvino", "cpu", "dml", "coreml")
_FULL_NAMES = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "dml": "DmlExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
}
_SHORT_NAMES = {full: short for short, full in _FULL_NAMES.items()}

# TF32 alone moves results by about 1e-3; the default search for the fastest convolution may take
# another algorithm for the cut model than for the original. Both would drown what is looked for.
_EXACT_OPTIONS: dict[str, dict[str, str]] = {
    "cuda": {"use_tf32": "0", "cudnn_conv_algo_search": "DEFAULT"},
    "tensorrt": {"trt_fp16_enable": "0", "trt_int8_enable": "0"},
    "openvino": {"precision": "ACCURACY"},
}
_PACKAGES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino")
_INSTALL_CUDA = "pip install 'onnx-headcut[cuda]'"
_INSTALL = {
    "cpu": "pip install --force-reinstall onnxruntime",
    "cuda": f"pip uninstall -y onnxruntime && {_INSTALL_CUDA}",
    "tensorrt": f"{_INSTALL_CUDA} tensorrt  (and its folder on the library path)",
    "openvino": "pip uninstall -y onnxruntime-gpu && pip install onnxruntime-openvino",
    "dml": "pip uninstall -y onnxruntime-gpu && pip install onnxruntime-directml  (on Windows)",
    "coreml": "pip install onnxruntime  (on macOS)",
}


class RuntimeFailure(HeadcutError):
    """onnxruntime gave up: on loading an operator it does not have, or while running."""

    exit_code = 1


@dataclass(frozen=True)
class Finding:
    """One line of a diagnosis: how bad, about what, what was found, and the line that mends it."""

    level: Level
    subject: str
    what: str
    advice: str = ""


@dataclass(frozen=True)
class _Settings:
    """How a session is opened, so that it can be opened again with a profile."""

    provider: str
    external_data_dir: Path | None
    deterministic: bool
    optimization: Optimization
    threads: int


class Session:
    """An opened model.

    ``provider`` is the short name of the provider that takes nodes first, ``providers`` all of
    them in order, as onnxruntime itself reports them. ``note`` says why ``auto`` chose as it did.
    """

    def __init__(self, inner: Any, source: bytes | Path, settings: _Settings, note: str) -> None:
        self._inner, self._source, self._settings = inner, source, settings
        self.note = note
        self.providers = tuple(short_name(name) for name in inner.get_providers())
        self.provider = self.providers[0]
        self._input_types = {item.name: item.type for item in inner.get_inputs()}
        self._output_types = {item.name: item.type for item in inner.get_outputs()}
        self.input_names = tuple(self._input_types)
        self.output_names = tuple(self._output_types)

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Run once; outputs by name, of their own dtypes (bfloat16 as the same values in float32).

        Raises RuntimeFailure where onnxruntime refuses the feed or fails.
        """
        try:
            if _BFLOAT16 in (*self._input_types.values(), *self._output_types.values()):
                values = self._run_with_bfloat16(feed)
            else:
                values = self._inner.run(list(self.output_names), dict(feed))
        except Exception as error:  # onnxruntime's errors share no base class
            raise RuntimeFailure(f"onnxruntime could not run the model: {reason(error)}") from error
        for name, value in zip(self.output_names, values, strict=True):
            if not isinstance(value, np.ndarray):
                raise RuntimeFailure(f"output {name!r} is a {type(value).__name__}, not a tensor")
        return dict(zip(self.output_names, values, strict=True))

    def end_profile(self) -> Path:
        """Close the profile of a session opened with ``profile_to``, and say where it is."""
        return Path(self._inner.end_profiling())

    def _run_with_bfloat16(self, feed: Mapping[str, Array]) -> list[Array]:
        """Go round numpy, which has no bfloat16: as raw bits in, and out by address."""
        import onnxruntime as ort  # noqa: PLC0415  (only where a model runs)

        bits = TensorProto.BFLOAT16
        wrapped = {
            name: ort.OrtValue.ortvalue_from_numpy_with_onnx_type(_to_bits(value), bits)
            if self._input_types.get(name) == _BFLOAT16
            else ort.OrtValue.ortvalue_from_numpy(value)
            for name, value in feed.items()
        }
        values = self._inner.run_with_ort_values(list(self.output_names), wrapped)
        return [
            _from_bits(value) if value.data_type() == _BFLOAT16 else value.numpy()
            for value in values
        ]


def open_session(  # noqa: PLR0913  (each is one setting of a session)
    model: Model,
    *,
    provider: str = "auto",
    external_data_dir: Path | None = None,
    deterministic: bool = True,
    profile_to: Path | None = None,
    optimization: Optimization = "all",
    threads: int = 0,
    optimized_to: Path | None = None,
) -> Session:
    """Open a model on a provider that is proved to work.

    ``auto`` is CUDA where it truly runs, else the CPU. ``external_data_dir`` is the folder of a
    model's external data when the model itself is not a path. ``deterministic`` turns TF32 and the
    search for fast kernels off; without it, the model runs as deployed. ``profile_to`` is a folder
    for a profile, closed by ``Session.end_profile``. ``threads``: 0 leaves it to onnxruntime.
    ``optimized_to`` is a file for the graph as onnxruntime has optimised it.

    Raises ProviderError (the provider cannot be used: what is missing and what mends it),
    InputError (no such file, not a valid model), RuntimeFailure (an operator that is not
    implemented), UsageError (a provider that does not exist).
    """
    ort = _import()
    chosen, note = _choose(ort, provider)
    settings = _Settings(chosen, external_data_dir, deterministic, optimization, threads)
    source = _source(model, external_data_dir)
    options = _session_options(ort, settings, profile_to)
    if optimized_to is not None:
        options.optimized_model_filepath = str(optimized_to)
    try:
        with _quiet(ort):
            inner = ort.InferenceSession(
                str(source) if isinstance(source, Path) else source,
                options,
                providers=_provider_list(chosen, deterministic=deterministic),
                enable_fallback=0,  # it would go on elsewhere, and say so on stdout only
            )
    except Exception as error:  # onnxruntime's errors share no base class
        raise _load_error(error) from error
    session = Session(inner, source, settings, note)
    if session.provider != chosen:
        raise ProviderError(
            f"{chosen} was asked for and this model's session runs on {session.provider}",
            advice="Close other programs on the device, or use --provider cpu.",
        )
    return session


def placement(
    model: Model | Session,
    feed: Feed,
    *,
    provider: str = "auto",
    external_data_dir: Path | None = None,
) -> dict[str, int]:
    """Count how many nodes ran on which provider, most first, such as ``{"cuda": 210, "cpu": 9}``.

    Runs the model once with a profile in a temporary folder, of which nothing stays. A Session is
    opened anew with its own settings, and leaves its own state alone. Nodes are those left after
    onnxruntime's optimisation; copies between devices are not counted. Errors as ``open_session``
    and ``Session.run``.
    """
    with tempfile.TemporaryDirectory(prefix="onnx-headcut-") as folder:
        if isinstance(model, Session):
            settings = model._settings  # noqa: SLF001  (the same module)
            session = open_session(
                model._source,  # noqa: SLF001
                provider=settings.provider,
                external_data_dir=settings.external_data_dir,
                deterministic=settings.deterministic,
                profile_to=Path(folder),
                optimization=settings.optimization,
                threads=settings.threads,
            )
        else:
            session = open_session(
                model,
                provider=provider,
                external_data_dir=external_data_dir,
                profile_to=Path(folder),
            )
        session.run(feed)
        return read_placement(session.end_profile())


def read_placement(profile: Path) -> dict[str, int]:
    """Count the nodes of an onnxruntime profile by short provider name, most first."""
    seen: dict[tuple[str, str], str] = {}
    for event in json.loads(profile.read_text()):
        details = event.get("args", {})
        if event.get("cat") != "Node" or not details.get("provider"):
            continue
        if not str(details.get("op_name")).startswith("Memcpy"):
            # A node in a loop runs often and counts once.
            seen[event["name"], str(details.get("node_index"))] = details["provider"]
    counts: dict[str, int] = {}
    for full in seen.values():
        counts[short_name(full)] = counts.get(short_name(full), 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def usable(provider: str) -> str:
    """Name the provider that ``provider`` stands for here; raises ProviderError, UsageError."""
    return _choose(_import(), provider)[0]


def short_name(provider: str) -> str:
    """Turn onnxruntime's name of a provider into the command line's."""
    return _SHORT_NAMES.get(provider, provider.removesuffix("ExecutionProvider").lower())


def diagnose() -> list[Finding]:
    """Say what there is to run models on, and what keeps the rest from working.

    Levels: "error" where nothing can run, "warning" where an installed build cannot use CUDA,
    "note" for what is merely absent. Never raises for a broken installation: that is a finding.
    """
    try:
        ort = _import()
    except ProviderError as error:
        return [Finding("error", "onnxruntime", error.what, error.advice), *_package_findings()]
    built = f", built for CUDA {_cuda_build(ort)}" if _cuda_build(ort) else ""
    available = [short_name(name) for name in ort.get_available_providers()]
    findings = [
        Finding("ok", "onnxruntime", f"version {ort.__version__}{built}"),
        Finding("ok", "providers in this build", ", ".join(available)),
        *_package_findings(),
    ]
    for name in available:
        if name == "cuda":
            findings += _cuda_report(ort)
        elif name in _FULL_NAMES:
            problem = _probe(name)
            findings.append(
                Finding("note", name, f"not usable: {problem}", f"Run: {_INSTALL[name]}")
                if problem
                else Finding("ok", name, "runs a test model")
            )
    if "cuda" not in available:
        findings.append(Finding("note", "cuda", "not in this build", f"Run: {_INSTALL['cuda']}"))
    return findings


# ------------------------------------------------------------------ loading


def _import() -> Any:
    try:
        import onnxruntime  # noqa: PLC0415
    except (ImportError, OSError) as error:
        raise ProviderError(
            f"onnxruntime cannot be imported: {error}",
            advice="Run: pip install --force-reinstall onnxruntime-gpu  (onnxruntime where that has"
            " no wheel). Cutting without validation needs no runtime: --no-validate.",
        ) from error
    return onnxruntime


def _source(model: Model, external_data_dir: Path | None) -> bytes | Path:
    if isinstance(model, Path):
        if not model.is_file():
            kind = "a directory" if model.is_dir() else "no such file"
            raise InputError(f"{model.name}: {kind}")
        return model
    if isinstance(model, bytes):
        return model
    if external_data_dir is None and any(
        tensor.data_location == TensorProto.EXTERNAL for tensor in model.graph.initializer
    ):
        raise InputError(
            "the model keeps weights in files beside it, and their folder is not known",
            advice="Pass the model's path, or external_data_dir.",
        )
    try:
        return bytes(model.SerializeToString())
    except Exception as error:  # protobuf's error is of another class in each version
        raise InputError(
            f"the model cannot be serialized: {str(error)[:200]}",
            advice="Over 2 GiB it must be saved with external data and passed as a path.",
        ) from error


def _session_options(ort: Any, settings: _Settings, profile_to: Path | None) -> Any:
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


def _provider_list(name: str, *, deterministic: bool) -> list[tuple[str, dict[str, str]]]:
    """List the provider and those that take what it leaves, with their options."""
    chain = {"cpu": ("cpu",), "tensorrt": ("tensorrt", "cuda", "cpu")}.get(name, (name, "cpu"))
    return [
        (_FULL_NAMES[link], _EXACT_OPTIONS.get(link, {}) if deterministic else {}) for link in chain
    ]


def _load_error(error: Exception) -> HeadcutError:
    """Tell a model that is not valid from one that onnxruntime has no code for."""
    text = f"onnxruntime cannot load the model: {reason(error)}"
    if type(error).__name__ in ("NotImplemented", "RuntimeException", "EPFail", "EngineError"):
        return RuntimeFailure(text)
    return InputError(text)


_STATUS = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : ")
# ``/onnxruntime_src/…/file.cc:98 onnxruntime::Shape::Shape(const Tensor*, bool) ``, and shorter
# ``matmul_helper.h:59 Compute ``.
_PLACE = re.compile(
    r"(?:[A-Za-z]:)?[\\/\w.-]*\b\w+\.(?:cc|cpp|cu|cuh|h|hpp):\d+ "
    r"(?:[^()\n]*::[^()\n]*\([^()\n]*\) ?|\w+ )?"
)


def reason(error: BaseException) -> str:
    """Reduce an error of onnxruntime to its useful words: no status, no C++ file, one line."""
    text = _PLACE.sub("", _STATUS.sub("", str(error)))
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    # A first line that ends in "the following indices" says nothing without the next.
    line = lines[0] if len(lines[0]) > 120 else " ".join(lines[:2])
    return line if len(line) <= 400 else f"{line[:400]}…"


# ------------------------------------------------------------------ bfloat16

_BFLOAT16 = "tensor(bfloat16)"


def _to_bits(value: Array) -> Array:
    """Give the bits of bfloat16 values as uint16; float32 values are rounded to nearest even."""
    if value.dtype.itemsize == 2:
        return np.ascontiguousarray(value).view(np.uint16)
    wide = np.ascontiguousarray(value, np.float32).view(np.uint32)
    return ((wide + 0x7FFF + ((wide >> 16) & 1)) >> 16).astype(np.uint16)


def _from_bits(value: Any) -> Array:
    shape = tuple(value.shape())
    raw = ctypes.string_at(value.data_ptr(), 2 * int(np.prod(shape, dtype=int)))
    wide = np.frombuffer(raw, np.uint16).astype(np.uint32) << 16
    return wide.view(np.float32).reshape(shape)


# ------------------------------------------------------------------ which provider


@contextlib.contextmanager
def _quiet(ort: Any) -> Iterator[io.StringIO]:
    """Keep onnxruntime's prints, warnings and default log away; give what it printed."""
    said = io.StringIO()
    ort.set_default_logger_severity(4)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(said):
            warnings.simplefilter("ignore")
            yield said
    finally:
        ort.set_default_logger_severity(2)  # its documented default; there is no way to ask


def _choose(ort: Any, provider: str) -> tuple[str, str]:
    """Choose the provider: its short name, and for ``auto`` why."""
    if provider not in PROVIDERS:
        raise UsageError(
            f"there is no provider {provider!r}", advice=f"Providers: {', '.join(PROVIDERS)}."
        )
    if provider == "cpu":
        return "cpu", ""
    if provider == "auto":
        broken = _cuda_findings()
        if not broken:
            return "cuda", "auto: CUDA works"
        return "cpu", f"auto: the CPU, as CUDA is not usable ({broken[0].what})"
    if provider == "cuda":
        broken = _cuda_findings()
        if broken:
            raise ProviderError(
                f"CUDA was asked for and cannot be used: {_sentence(broken)}",
                advice="\n".join(dict.fromkeys(item.advice for item in broken if item.advice)),
            )
        return "cuda", ""
    if _FULL_NAMES[provider] not in ort.get_available_providers():
        raise ProviderError(
            f"{provider} was asked for, and this build of onnxruntime {ort.__version__} has"
            f" {', '.join(short_name(name) for name in ort.get_available_providers())} only",
            advice=f"Run: {_INSTALL[provider]}",
        )
    problem = _probe(provider)
    if problem:
        raise ProviderError(
            f"{provider} was asked for and cannot be used: {problem}",
            advice=f"Run: {_INSTALL[provider]}",
        )
    return provider, ""


def _sentence(findings: Sequence[Finding]) -> str:
    return "; ".join(finding.what for finding in findings)


@functools.cache
def _probe(name: str) -> str:
    """Run a tiny model on a provider; "" where it worked, else what went wrong.

    Convolution and matrix product on purpose: they need cuDNN and cuBLAS.
    """
    ort = _import()
    settings = _Settings(name, None, deterministic=True, optimization="all", threads=1)
    options = _session_options(ort, settings, None)
    try:
        with _quiet(ort):
            if name in ("cuda", "tensorrt"):
                _preload(ort)
            inner = ort.InferenceSession(
                _tiny_model(),
                options,
                providers=_provider_list(name, deterministic=True),
                enable_fallback=0,
            )
            if short_name(inner.get_providers()[0]) != name:
                return f"onnxruntime falls back to {short_name(inner.get_providers()[0])}"
            inner.run(None, {"x": np.ones((1, 3, 8, 8), np.float32)})
    except Exception as error:  # noqa: BLE001  (a probe: any failure is the answer)
        return reason(error)
    return ""


def _preload(ort: Any) -> None:
    """Load the CUDA libraries of pip packages, which no library path leads to."""
    preload = getattr(ort, "preload_dlls", None)  # since onnxruntime 1.21
    if preload is not None:
        preload()


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


# ------------------------------------------------------------------ why CUDA does not work


@functools.cache
def _cuda_findings() -> tuple[Finding, ...]:
    """Say what keeps CUDA from running; empty where a tiny model ran on it."""
    ort = _import()
    if _FULL_NAMES["cuda"] not in ort.get_available_providers():
        clash = [finding for finding in _package_findings() if finding.level == "warning"]
        what = f"this build of onnxruntime ({ort.__version__}) is without CUDA"
        return (*clash, Finding("error", "cuda", what, f"Run: {_INSTALL['cuda']}"))
    problem = _probe("cuda")
    if not problem:
        return ()
    parts = [*_driver_findings(ort), *_library_findings(ort)]
    return tuple(part for part in parts if part.level == "error") or (
        Finding("error", "cuda", problem, "See what 'onnx-headcut doctor' finds."),
    )


def _cuda_report(ort: Any) -> list[Finding]:
    """List driver and libraries one by one; what does not keep CUDA from running is a note."""
    broken = bool(_cuda_findings())
    level: Level = "warning" if broken else "note"
    parts = [*_driver_findings(ort), *_library_findings(ort)]
    if broken and all(part.level == "ok" for part in parts):
        parts += _cuda_findings()
    return [
        *(part if part.level == "ok" else replace(part, level=level) for part in parts),
        Finding(level, "cuda", "not usable")
        if broken
        else Finding("ok", "cuda", "runs a test model"),
    ]


def _package_findings() -> list[Finding]:
    """Look for packages that overwrite each other: they all install the folder onnxruntime."""
    found = {}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    if len(found) < 2:
        return []
    names = " ".join(found)
    return [
        Finding(
            "warning",
            "packages",
            f"{' and '.join(f'{name} {version}' for name, version in found.items())} are installed"
            " in one environment, and overwrite each other",
            f"Run: pip uninstall -y {names} && {_INSTALL_CUDA}",
        )
    ]


def _cuda_build(ort: Any) -> str:
    """Return the CUDA version that this onnxruntime was built for, such as "13.0", or ""."""
    return str(getattr(ort, "cuda_version", "") or "")


def _driver_findings(ort: Any) -> list[Finding]:
    """Ask NVIDIA's driver whether it is there, for which CUDA, and for its devices."""
    subject = "NVIDIA driver"
    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(library)
    except OSError:
        return [
            Finding(
                "error",
                subject,
                f"no NVIDIA driver ({library})",
                "Install NVIDIA's driver; a container needs --gpus all. Without a GPU, use"
                " --provider cpu.",
            )
        ]
    version, count = ctypes.c_int(0), ctypes.c_int(0)
    driver.cuDriverGetVersion(ctypes.byref(version))
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return [Finding("error", subject, "the NVIDIA driver sees no GPU", "Look at nvidia-smi.")]
    has = f"{version.value // 1000}.{version.value % 1000 // 10}"
    needs = _cuda_build(ort)
    if needs and int(needs.split(".")[0]) > version.value // 1000:
        return [
            Finding(
                "error",
                subject,
                f"the NVIDIA driver is for CUDA {has}, onnxruntime {ort.__version__} for {needs}",
                "Update the driver (CUDA 13 needs 580 or newer), or take the last onnxruntime for"
                " CUDA 12: pip install 'onnxruntime-gpu[cuda,cudnn]<1.27'",
            )
        ]
    return [Finding("ok", subject, f"for CUDA {has}, {count.value} GPU(s)")]


def _library_findings(ort: Any) -> list[Finding]:
    """Try to load each CUDA library that the provider needs."""
    major = _cuda_build(ort).split(".")[0] or "12"
    with _quiet(ort):
        _preload(ort)
    loaded = {name: _loads(name) for name in _library_names(major)}
    findings = [Finding("ok", "library", name) for name, there in loaded.items() if there]
    missing = [name for name, there in loaded.items() if not there]
    if missing:
        other = next((old for old in ("11", "12", "13") if old != major and _has_cublas(old)), "")
        beside = f"; those of CUDA {other} do not help" if other else ""
        what = f"{', '.join(missing)} missing (CUDA {major} and cuDNN 9 are needed{beside})"
        findings.append(Finding("error", "library", what, f"Run: {_INSTALL_CUDA}"))
    return findings


def _library_names(major: str) -> list[str]:
    if sys.platform == "win32":
        return [f"cublasLt64_{major}.dll", f"cublas64_{major}.dll", "cudnn64_9.dll"]
    return [
        f"libcublasLt.so.{major}",
        f"libcublas.so.{major}",
        f"libcudart.so.{major}",
        "libcurand.so.10",
        f"libcufft.so.{'12' if major == '13' else '11'}",
        "libcudnn.so.9",
    ]


def _has_cublas(major: str) -> bool:
    return any(_loads(name) for name in _library_names(major) if "blas" in name)


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
