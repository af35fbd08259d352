"""CUDA's libraries as stubs, for onnxruntime's own CUDA provider: all of it is real but the numbers.

What the provider takes for CUDA keeps memory in memory, and its kernels compute nothing. Options,
placement, copies between devices and profiles are onnxruntime's own, and so are its errors.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")


def missing() -> str:
    """What keeps stubs from being built, or used, here; "" where nothing does."""
    if importlib.util.find_spec("nvidia"):
        return "libraries of pip packages would be taken before stubs"
    path = provider()
    if path is None:
        return "onnxruntime has no CUDA provider for Linux"
    if "cuda_version = '13" not in (path.parent / "build_and_package_info.py").read_text():
        return "stubs are of CUDA 13"
    return "" if shutil.which("cc") and shutil.which("objdump") else "no C compiler and binutils"


def provider() -> Path | None:
    """The library of onnxruntime's CUDA provider."""
    spec = importlib.util.find_spec("onnxruntime")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "capi" / "libonnxruntime_providers_cuda.so"
    return path if path.is_file() else None


def build(folder: Path) -> None:
    """Write libcuda, libcudart, cuBLAS, cuRAND and cuDNN into a folder."""
    path = provider()
    assert path is not None
    listed = subprocess.run(["objdump", "-pT", path], capture_output=True, check=True).stdout.decode()
    needed: dict[str, list[str]] = {
        name: [] for name in re.findall(r"NEEDED +(lib(?:cu|nvrtc)\S+)", listed)
    }
    for library, name in re.findall(r"\*UND\*.*\((lib\S+)\) (\w+)$", listed, re.MULTILINE):
        if library in needed:
            needed[library].append(name)
    needed["libcuda.so.1"] = re.findall(r"\*UND\*.* (cu[A-Z]\w*)$", listed, re.MULTILINE)
    # since onnxruntime 1.30 or so, cuDNN is loaded by name while a model runs
    named = re.findall(rb"\0(cudnn[A-Z]\w+)(?=\0)", path.read_bytes())
    needed["libcudnn.so.9"] = sorted({name.decode() for name in named})
    for library, names in needed.items():
        _build_one(folder, library, names)


def _build_one(folder: Path, library: str, names: list[str]) -> None:
    part = library.partition(".")[0].upper()
    written = re.findall(r"(\w+)\([^;]*?\) \{", SOURCE.read_text(encoding="utf-8"))
    lines = [f"#define {part}", SOURCE.read_text(encoding="utf-8")]
    for name in names:
        if name in written:
            continue
        if re.search(r"Create(_v2|Generator)?$|^cudnnCreate|DescCreate", name):
            lines.append(f"int {name}(void **it) {{ *it = calloc(1, 256); return 0; }}")
        else:
            lines.append(f"int {name}(void) {{ return 0; }}")
    source, versions = folder / f"{part}.c", folder / f"{part}.map"
    source.write_text("\n".join(lines))
    versions.write_text(f"{library} {{ global: *; }};")
    named = [] if part == "LIBCUDA" else [f"-Wl,--version-script,{versions}"]
    subprocess.run(
        ["cc", "-w", "-shared", "-fPIC", f"-Wl,-soname,{library}", *named,
         "-o", folder / library, source],
        check=True,
    )  # fmt: skip
