"""Everything that onnxruntime does here, and the proof of which provider did it.

onnxruntime is imported only inside functions: reading and cutting models work without it.

Providers are proved, not assumed: a tiny model is run on the provider first, the session's real
providers are read back, and ``placement`` counts from a profile which provider ran each node.
"""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError, EncodeError  # type: ignore[import-untyped]
from onnx import TensorProto

from onnx_headcut.errors import HeadcutError, InputError, ProviderError
from onnx_headcut.storage import lean
from onnx_headcut.storage.atomic import Stamp
from onnx_headcut.validation.bfloat16 import BFLOAT16, from_bits, to_bits
from onnx_headcut.validation.choosing import choose
from onnx_headcut.validation.providers import (
    SessionSettings,
    exactly,
    hushed,
    import_runtime,
    provider_list,
    quiet,
    reason,
    session_options,
    short_name,
    what_helps,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnx_headcut.validation.inputs import Array, Feed
    from onnx_headcut.validation.providers import Optimization

Model = onnx.ModelProto | bytes | Path

_FINDING = frozenset({"Compress", "NonMaxSuppression", "NonZero", "Unique"})
"""Ops that may find nothing."""

# What a device says where no model is to blame: full memory, a broken or too old library.
_OF_DEVICE = re.compile(
    r"CUDA (failure|error)|CUDNN|CUBLAS|CUFFT|cudaError|allocate memory|out of memory|no kernel image",
    re.IGNORECASE,
)
# OpenVINO optimises what it compiles, and misses values of some graphs that onnxruntime has folded.
_OWN_OPTIMISERS = frozenset({"openvino"})
_ELSEWHERE = "Say 'onnx-headcut doctor' to see what there is, or use --provider cpu."


class RuntimeFailure(HeadcutError):
    """onnxruntime gave up: on loading an operator it does not have, or while running."""

    exit_code = 1


class Session:
    """An opened model.

    ``provider`` is the short name of the provider that takes nodes first, ``providers`` all of
    them in order, as onnxruntime itself reports them. ``note`` says why ``auto`` chose as it did.
    """

    def __init__(self, inner: Any, source: bytes | Path, settings: SessionSettings, note: str) -> None:
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

        Strings, such as names of classes, come as numbers, see `numbered`.

        Raises RuntimeFailure where onnxruntime refuses the feed or fails.
        """
        try:
            # engines for dynamic shapes are built only here
            with exactly(self._settings), hushed(import_runtime(), self.provider):
                if BFLOAT16 in (*self._input_types.values(), *self._output_types.values()):
                    values = self._run_with_bfloat16(feed)
                else:
                    values = self._inner.run(list(self.output_names), dict(feed))
        except Exception as error:  # onnxruntime's errors share no base class
            text = f"onnxruntime could not run the model: {reason(error)}"
            if self.provider != "cpu" and _OF_DEVICE.search(str(error)):
                raise ProviderError(text, advice=what_helps(error) or _ELSEWHERE) from error
            raise RuntimeFailure(text) from error
        for name, value in zip(self.output_names, values, strict=True):
            if not isinstance(value, np.ndarray):
                raise RuntimeFailure(f"output {name!r} is a {type(value).__name__}, not a tensor")
        values = [numbered(v) if v.dtype.kind in "OSU" else v for v in values]
        return dict(zip(self.output_names, values, strict=True))

    def end_profile(self) -> Path:
        """Close the profile of a session opened with ``profile_to``, and say where it is."""
        return Path(self._inner.end_profiling())

    def _run_with_bfloat16(self, feed: Mapping[str, Array]) -> list[Array]:
        """Go round numpy, which has no bfloat16: as raw bits in, and out by address."""
        import onnxruntime as ort  # noqa: PLC0415  (only where a model runs)

        bits = TensorProto.BFLOAT16
        wrapped = {
            name: ort.OrtValue.ortvalue_from_numpy_with_onnx_type(to_bits(value), bits)
            if self._input_types.get(name) == BFLOAT16
            else ort.OrtValue.ortvalue_from_numpy(value)
            for name, value in feed.items()
        }
        values = self._inner.run_with_ort_values(list(self.output_names), wrapped)
        return [
            from_bits(value) if value.data_type() == BFLOAT16 else value.numpy() for value in values
        ]


_numbers: dict[str, float] = {}
"""Of each string that a model gave, in the order in which they were met."""


def numbered(strings: Array) -> Array:
    """Give every string a number, the same in all models; different ones are far from each other."""
    for text in strings.ravel().tolist():
        _numbers.setdefault(str(text), float(round(100 * 1.05 ** len(_numbers))))
    found = [_numbers[str(text)] for text in strings.ravel().tolist()]
    return np.array(found, np.float64).reshape(strings.shape)


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
    implemented), UsageError (a provider that does not exist). What the CPU takes and the provider
    does not is a ProviderError, too.
    """
    ort = import_runtime()
    chosen, note = choose(ort, provider)
    settings = SessionSettings(chosen, external_data_dir, deterministic, optimization, threads)
    source = _source(model, external_data_dir)
    options = session_options(ort, settings, profile_to)
    if deterministic and fusing_crashes(source):  # seen in onnxruntime 1.31
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    if optimized_to is not None:
        options.optimized_model_filepath = str(optimized_to)
        # over 2 GiB it could not be written else
        options.add_session_config_entry(
            "session.optimized_model_external_initializers_file_name", f"{optimized_to.name}.data"
        )
    try:
        with quiet(ort), exactly(settings):
            inner = ort.InferenceSession(
                str(source) if isinstance(source, Path) else source,
                options,
                providers=provider_list(chosen, deterministic=deterministic),
                enable_fallback=0,  # it would go on elsewhere, and say so on stdout only
            )
    except Exception as error:  # onnxruntime's errors share no base class
        if chosen in _OWN_OPTIMISERS and deterministic and optimization != "none":
            return open_session(
                model, provider=chosen, external_data_dir=external_data_dir, profile_to=profile_to,
                optimization="none", threads=threads, optimized_to=optimized_to,
            )  # fmt: skip
        if chosen != "cpu" and _opens_on_the_cpu(ort, source, settings):
            raise ProviderError(
                f"{chosen} cannot take this model, or the part of it that is run: {reason(error)}",
                advice=what_helps(error) or "Use --provider cpu.",
            ) from error
        raise _load_error(error) from error
    session = Session(inner, source, settings, note)
    if session.provider != chosen:
        raise ProviderError(
            f"{chosen} was asked for and this model's session runs on {session.provider}",
            advice=_ELSEWHERE,
        )
    return session


def fusing_crashes(model: Model) -> bool:
    """Whether onnxruntime may crash where it fuses quantizers; False for what is no model.

    It does across the border of a body, and where a QLinearAdd or QLinearMul of a number has nothing
    to add it to: no detection was found.
    """
    try:
        if isinstance(model, onnx.ModelProto):
            data = model.SerializeToString()
        else:
            data = model if isinstance(model, bytes) else lean.read(model, Stamp.of(model))
        if b"DequantizeLinear" not in data:
            return False
        graph = onnx.load_model_from_string(data).graph
    except (OSError, ValueError, RuntimeError, DecodeError, EncodeError):
        return False
    behind = set[str]()
    for node in graph.node:
        if any(a.type == onnx.AttributeProto.GRAPH for a in node.attribute):
            return True
        reads = not behind.isdisjoint(node.input)
        if reads and node.op_type in {"Add", "Mul"}:
            return True
        if reads or node.op_type in _FINDING:
            behind.update(filter(None, node.output))
    return False


def _opens_on_the_cpu(ort: Any, source: bytes | Path, settings: SessionSettings) -> bool:
    """Whether a model that a provider does not take is one that onnxruntime takes."""
    on_cpu = replace(settings, provider="cpu")
    try:
        with quiet(ort):
            ort.InferenceSession(
                str(source) if isinstance(source, Path) else source,
                session_options(ort, on_cpu, None),
                providers=provider_list("cpu", deterministic=True),
                enable_fallback=0,
            )
    except Exception:  # noqa: BLE001  (onnxruntime's errors share no base class)
        return False
    return True


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


def read_profile(profile: Path) -> list[dict[str, Any]]:
    """Read the events of an onnxruntime profile.

    Of nodes there is one of category "Node" for each run, "<name>_kernel_time", with the provider in
    "args". Builds with CUPTI add those of CUDA's kernels ("Kernel"), which nothing here counts.
    """
    text = profile.read_text(encoding="utf-8", errors="replace")
    events: list[dict[str, Any]] = []
    try:
        events = json.loads(text)
    except ValueError:  # older versions write names as they are: an event a line, a quote in one name
        for line in text.splitlines():
            with contextlib.suppress(ValueError):
                events += [json.loads(line.rstrip(","))] if line.startswith("{") else []
    return events


def read_placement(profile: Path) -> dict[str, int]:
    """Count the nodes of an onnxruntime profile by short provider name, most first."""
    seen: dict[tuple[str, str], str] = {}
    for event in read_profile(profile):
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


_TOO_NEW = re.compile(r"max supported IR version|is under development")
_UPDATE = (
    "The model is newer than this onnxruntime: update it (pip install -U onnxruntime-gpu, or "
    "onnxruntime), or cut without proof by --no-validate."
)
_NO_KERNEL = re.compile(r"Could not find an implementation|'tensor\((bfloat16|double)\)'")
_IN_FLOAT = (
    "onnxruntime has no kernels for some type here: cut without proof by --no-validate, or cut and "
    "validate an export in float32."
)


def _load_error(error: Exception) -> HeadcutError:
    """Tell a model that is not valid from one that onnxruntime has no code for."""
    text = f"onnxruntime cannot load the model: {reason(error)}"
    if type(error).__name__ in ("NotImplemented", "RuntimeException", "EPFail", "EngineError"):
        return RuntimeFailure(text, advice=_IN_FLOAT if _NO_KERNEL.search(text) else "")
    advice = _UPDATE if _TOO_NEW.search(text) else _IN_FLOAT if _NO_KERNEL.search(text) else ""
    return InputError(text, advice=advice)
