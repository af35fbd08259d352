"""Why CUDA does not work here: what of build, packages, driver and libraries is missing."""

from __future__ import annotations

import ctypes
import functools
import sys
from dataclasses import dataclass, replace
from typing import Any, Literal

from onnx_headcut.validation.providers import (
    FULL_NAMES,
    INSTALL_CUDA,
    how_to_get,
    import_runtime,
    installed,
    preload,
    probe,
    quiet,
    tensorrt_major,
)

Level = Literal["ok", "note", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """One line of a diagnosis: how bad, about what, what was found, and the line that mends it."""

    level: Level
    subject: str
    what: str
    advice: str = ""


@functools.cache
def findings() -> tuple[Finding, ...]:
    """Say what keeps CUDA from running; empty where a tiny model ran on it."""
    ort = import_runtime()
    if FULL_NAMES["cuda"] not in ort.get_available_providers():
        what = f"this build of onnxruntime ({ort.__version__}) is without CUDA"
        # Where packages overwrote each other, the line that clears that away brings CUDA, too.
        why = [what, *(finding.what for finding in package_findings())]
        return (Finding("error", "cuda", "; ".join(why), how_to_get("cuda")),)
    problem = probe("cuda")
    if not problem:
        return ()
    parts = [*_driver_findings(ort), *_library_findings(ort)]
    return tuple(part for part in parts if part.level == "error") or (
        Finding("error", "cuda", problem, "See what 'onnx-headcut doctor' finds."),
    )


@functools.cache
def tensorrt_findings() -> tuple[Finding, ...]:
    """Name the libraries of TensorRT that are missing."""
    ort = import_runtime()
    if FULL_NAMES["tensorrt"] not in ort.get_available_providers():
        what = f"this build of onnxruntime ({ort.__version__}) is without TensorRT"
        return (Finding("error", "tensorrt", what, how_to_get("tensorrt")),)
    with quiet(ort):
        preload(ort, "tensorrt")
    major = tensorrt_major()
    named = ("nvinfer_{}.dll", "nvonnxparser_{}.dll")
    if sys.platform != "win32":
        named = ("libnvinfer.so.{}", "libnvonnxparser.so.{}")
    missing = [name.format(major) for name in named if not _loads(name.format(major))]
    if not missing:
        return ()
    what = f"{', '.join(missing)} missing (TensorRT {major} is needed)"
    return (Finding("error", "tensorrt", what, how_to_get("tensorrt")),)


def report(ort: Any) -> list[Finding]:
    """List driver and libraries one by one; what does not keep CUDA from running is a note."""
    broken = bool(findings())
    level: Level = "warning" if broken else "note"
    parts = [*_driver_findings(ort), *_library_findings(ort)]
    if broken and all(part.level == "ok" for part in parts):
        parts += findings()
    return [
        *(part if part.level == "ok" else replace(part, level=level) for part in parts),
        Finding(level, "cuda", "not usable") if broken else Finding("ok", "cuda", "runs a test model"),
    ]


def package_findings() -> list[Finding]:
    """Look for packages that overwrite each other: they all install the folder onnxruntime."""
    found = installed()
    if len(found) < 2:
        return []
    names = " ".join(found)
    return [
        Finding(
            "warning",
            "packages",
            f"{' and '.join(f'{name} {version}' for name, version in found.items())} are installed"
            " in one environment, and overwrite each other",
            f"Run: pip uninstall -y {names} && {INSTALL_CUDA}",
        )
    ]


def built_for(ort: Any) -> str:
    """Return the CUDA version that this onnxruntime was built for, such as "13.0", or ""."""
    return str(getattr(ort, "cuda_version", "") or "")


def used_on_device(ort: Any) -> int | None:
    """Bytes in use on the first CUDA device, by whatever program; None where that cannot be asked."""
    major = built_for(ort).split(".")[0] or "12"
    name = f"cudart64_{major}.dll" if sys.platform == "win32" else f"libcudart.so.{major}"
    free, total = ctypes.c_size_t(0), ctypes.c_size_t(0)
    try:
        if ctypes.CDLL(name).cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total)):
            return None
    except (OSError, AttributeError):
        return None
    return total.value - free.value


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
    needs = built_for(ort)
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
    major = built_for(ort).split(".")[0] or "12"
    with quiet(ort):
        preload(ort, "cuda")
    loaded = {name: _loads(name) for name in _library_names(major)}
    found = [Finding("ok", "library", name) for name, there in loaded.items() if there]
    missing = [name for name, there in loaded.items() if not there]
    if missing:
        other = next((old for old in ("11", "12", "13") if old != major and _has_cublas(old)), "")
        beside = f"; those of CUDA {other} do not help" if other else ""
        what = f"{', '.join(missing)} missing (CUDA {major} and cuDNN 9 are needed{beside})"
        found.append(Finding("error", "library", what, f"Run: {INSTALL_CUDA}"))
    return found


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
