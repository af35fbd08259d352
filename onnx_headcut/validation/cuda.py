"""Why CUDA does not work here: what of build, packages, driver and libraries is missing."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
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
    what_helps,
)

Level = Literal["ok", "note", "warning", "error"]
_UPDATE = "Update onnxruntime-gpu and the driver, or use --provider cpu."


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
    with quiet(ort):
        preload(ort, "cuda")  # builds with CUDA as a plugin know of it only then
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
        *(replace(clash, level="error") for clash in package_findings()),
        Finding("error", "cuda", problem, what_helps(problem) or _UPDATE),
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
    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(library)
    except OSError as error:
        return [_driver(*_without_driver(library, str(error)))]
    version, count = ctypes.c_int(0), ctypes.c_int(0)
    driver.cuDriverGetVersion(ctypes.byref(version))
    failed = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if failed or not count.value:
        return [_driver(*_without_gpu(failed))]
    has = f"{version.value // 1000}.{version.value % 1000 // 10}"
    needs = built_for(ort)
    if needs and int(needs.split(".")[0]) > version.value // 1000:
        what = f"the NVIDIA driver is for CUDA {has}, onnxruntime {ort.__version__} for {needs}"
        update = "Update the driver (CUDA 13 needs 580 or newer), or take"
        return [_driver(what, f"{update} {_LAST_FOR_CUDA_12}")]
    devices = [_device(driver, i) for i in range(count.value)]
    name, capability = devices[0]  # the one that sessions run on
    if needs.startswith("13.") and capability < (7, 5):
        what = f"{name} has compute capability {capability[0]}.{capability[1]}, and CUDA 13 needs 7.5"
        return [_driver(what, f"Take {_LAST_FOR_CUDA_12}")]
    known = ", ".join(f"{name} ({major}.{minor})" for name, (major, minor) in devices)
    return [Finding("ok", _DRIVER, f"for CUDA {has}, {known}")]


_DRIVER = "NVIDIA driver"
_LAST_FOR_CUDA_12 = "the last onnxruntime for CUDA 12: pip install 'onnxruntime-gpu[cuda,cudnn]<1.27'"
# Where drivers of WSL and of Jetsons keep their library, and what a container's compat package adds.
_FOLDERS = ("/usr/lib/wsl/lib", "/usr/lib/aarch64-linux-gnu/nvidia", "/usr/lib/aarch64-linux-gnu/tegra")
# What cuInit answers, of NVIDIA's enum CUresult.
_NO_DEVICE = 100
_REFUSALS = {
    34: ("libcuda.so.1 is the stub of CUDA's toolkit, not the driver",
         "Take the toolkit's folder 'stubs' out of LD_LIBRARY_PATH."),
    802: ("the GPU's fabric is not ready", "Start nvidia-fabricmanager."),
    803: ("the NVIDIA driver's library and kernel module are of two versions", "Restart the machine."),
    804: ("the CUDA compatibility libraries do not work with this GPU or driver",
          "Take their folder 'compat' out of LD_LIBRARY_PATH, or update the driver."),
}  # fmt: skip


def _driver(what: str, advice: str) -> Finding:
    return Finding("error", _DRIVER, what, advice)


def _without_driver(library: str, error: str) -> tuple[str, str]:
    """Say why the driver's library does not load, and what helps."""
    for folder in _FOLDERS:
        if (Path(folder) / library).exists():
            what = f"{library} is in {folder}, where programs do not look"
            return what, f"Run: export LD_LIBRARY_PATH={folder}:$LD_LIBRARY_PATH"
    what = f"no NVIDIA driver ({library})"
    if sys.platform != "win32" and not error.startswith(f"{library}: cannot open"):
        what = f"the NVIDIA driver cannot be loaded: {error}"
    where = "Install NVIDIA's driver; a container needs --gpus all."
    if "microsoft" in platform.release().lower():  # WSL
        where = "Install NVIDIA's driver on Windows, none in WSL, and run: wsl --update."
    return what, f"{where} Without a GPU, use --provider cpu."


def _without_gpu(refusal: int) -> tuple[str, str]:
    """Say why a driver that loads has no GPU to offer, and what helps."""
    if refusal in _REFUSALS:
        return _REFUSALS[refusal]
    if refusal not in (0, _NO_DEVICE):
        return f"the NVIDIA driver does not start (error {refusal})", "Look at nvidia-smi and dmesg."
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None:
        what = f"the NVIDIA driver sees no GPU, with CUDA_VISIBLE_DEVICES={hidden!r}"
        return what, "Run: unset CUDA_VISIBLE_DEVICES, or name a GPU that nvidia-smi -L lists."
    return "the NVIDIA driver sees no GPU", "Look at nvidia-smi."


def _device(driver: Any, ordinal: int) -> tuple[str, tuple[int, int]]:
    """Ask for a device's name and compute capability."""
    device, name = ctypes.c_int(0), ctypes.create_string_buffer(256)
    major, minor = ctypes.c_int(0), ctypes.c_int(0)
    driver.cuDeviceGet(ctypes.byref(device), ordinal)
    driver.cuDeviceGetName(name, len(name), device)
    driver.cuDeviceGetAttribute(ctypes.byref(major), 75, device)
    driver.cuDeviceGetAttribute(ctypes.byref(minor), 76, device)
    return name.value.decode(errors="replace"), (major.value, minor.value)


def _library_findings(ort: Any) -> list[Finding]:
    """Try to load each CUDA library that the provider needs, and the provider itself."""
    major = built_for(ort).split(".")[0] or "12"
    with quiet(ort):
        preload(ort, "cuda")
    loaded = {name: _loads(name) for name in _library_names(major)}
    found = [Finding("ok", "library", name) for name, there in loaded.items() if there]
    missing = [name for name, there in loaded.items() if not there]
    said = _linking(ort)
    named = re.match(r"(\S+\.so[\w.]*): cannot open shared object", said)
    if named and named[1] not in (*missing, "libcuda.so.1"):  # of the driver more is known
        missing.append(named[1])
    if missing:
        olds = [f"CUDA {old}" for old in ("11", "12", "13") if old != major and _has_cublas(old)][:1]
        if "libcudnn.so.9" in missing and _loads("libcudnn.so.8"):
            olds.append("cuDNN 8")
        beside = f"; those of {' and '.join(olds)} do not help" if olds else ""
        what = f"{', '.join(missing)} missing (CUDA {major} and cuDNN 9 are needed{beside})"
        found.append(Finding("error", "library", what, f"Run: {INSTALL_CUDA}"))
    elif said and not named and not re.search("undefined symbol: cu[A-Z]", said):  # an old driver
        fitting = "Run: pip install --upgrade 'onnxruntime-gpu[cuda,cudnn]'"
        found.append(Finding("error", "library", f"the CUDA provider does not load: {said}", fitting))
    return found


def _linking(ort: Any) -> str:
    """What the system's loader says of the provider itself: the first thing that is missing, or ""."""
    if sys.platform == "win32":  # it names nothing there
        return ""
    folder = Path(ort.__file__).parent / "capi"
    try:
        ctypes.CDLL(str(folder / "libonnxruntime_providers_shared.so"), mode=ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(folder / "libonnxruntime_providers_cuda.so"))
    except OSError as error:
        return str(error).replace(f"{folder}{os.sep}", "")
    return ""


def _library_names(major: str) -> list[str]:
    """List what every onnxruntime for CUDA needs for a detector; `_linking` tells of what else."""
    if sys.platform == "win32":
        return [
            f"cublasLt64_{major}.dll",
            f"cublas64_{major}.dll",
            f"cudart64_{major}.dll",
            "cudnn64_9.dll",
        ]
    return [
        f"libcublasLt.so.{major}",
        f"libcublas.so.{major}",
        f"libcudart.so.{major}",
        "libcurand.so.10",
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
