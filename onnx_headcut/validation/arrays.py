"""The user's own arrays: an ``.npz`` or ``.npy``, read as feeds of a model."""

from __future__ import annotations

import difflib
import zipfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

from onnx_headcut.errors import InputError
from onnx_headcut.validation.inputs import NamedFeed, input_specs, offer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import onnx

    from onnx_headcut.validation.inputs import Array, InputSpec

_FLOAT8 = tuple(value for name, value in TensorProto.DataType.items() if name.startswith("FLOAT8"))


def from_npz(path: Path, model: onnx.ModelProto) -> list[NamedFeed]:
    """Read feeds from an ``.npz`` with arrays by input name (``.npy`` where there is one input).

    Several samples: keys ``name/0``, ``name/1`` …, or one axis more in front, or a first axis that
    is a multiple of the declared batch. An input that has one sample goes with all samples.
    Raises InputError for a file that is not numpy's, and for names, dtypes and shapes that are not
    the model's. Pickled objects are never loaded.
    """
    specs = input_specs(model)
    arrays = _load_arrays(path, specs)
    samples = {spec.name: _samples(path, spec, arrays) for spec in specs}
    _refuse_strangers(path, specs, arrays)
    count = max((len(found) for found in samples.values()), default=0)
    for name, found in samples.items():
        if len(found) not in (1, count):
            raise InputError(
                f"{path.name}: {len(found)} samples for input {name!r}, {count} for others",
                advice="Give each input one sample, or as many as the others have.",
            )
    return [
        NamedFeed(
            path.name if count == 1 else f"{path.name} {index}",
            {name: found[index if len(found) > 1 else 0] for name, found in samples.items()},
        )
        for index in range(count)
    ]


@dataclass
class _Arrays:
    """Arrays of a file by key, and which of them were taken."""

    found: dict[str, Array]
    taken: set[str] = field(default_factory=set)


def _load_arrays(path: Path, specs: Sequence[InputSpec]) -> _Arrays:
    try:
        # numpy leaves a file of its own open where the zip inside is broken
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                found = {"arr_0": loaded}
            else:
                found = {key: loaded[key] for key in loaded.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        reason = getattr(error, "strerror", None) or "not an .npz file of plain arrays"
        raise InputError(
            f"{path.name}: {reason}",
            advice=f"Write it with numpy.savez(FILE, name=array). {offer(specs)}",
        ) from error
    if len(specs) == 1 and list(found) == ["arr_0"]:
        found = {specs[0].name: found["arr_0"]}  # an unnamed array can only mean the one input
    return _Arrays(found)


def _samples(path: Path, spec: InputSpec, arrays: _Arrays) -> list[Array]:
    prefix = f"{spec.name}/"
    numbered = [key for key in arrays.found if key.startswith(prefix) and key[len(prefix) :].isdigit()]
    keys = sorted(numbered, key=lambda key: int(key[len(prefix) :]))
    if spec.name in arrays.found:
        keys = [spec.name]
    if not keys:
        raise InputError(
            f"{path.name}: nothing for input {spec.text}",
            advice=f"The file holds {', '.join(map(repr, arrays.found)) or 'no arrays'}.",
        )
    arrays.taken.update(keys)
    return [sample for key in keys for sample in _split(path, spec, arrays.found[key])]


def _split(path: Path, spec: InputSpec, array: Array) -> list[Array]:
    """Cut an array into samples of the declared shape, or refuse it."""
    widened = spec.elem_type in (TensorProto.BFLOAT16, *_FLOAT8) and array.dtype == np.float32
    if widened:
        array = array.astype(spec.dtype)  # numpy's files cannot hold these types
    if array.dtype != spec.dtype:
        raise InputError(
            f"{path.name}: {array.dtype} for input {spec.text}",
            advice=f"Convert it with array.astype({str(spec.dtype)!r}), if that is what it means.",
        )
    if _fits(array.shape, spec.dims):
        return [array]
    if _fits(array.shape[1:], spec.dims) and len(array):
        return list(array)
    batch = spec.dims[0] if spec.dims else ""
    rest = isinstance(batch, int) and _fits(array.shape[1:], spec.dims[1:]) and len(array) > 0
    if isinstance(batch, int) and rest and len(array) % batch == 0:
        return np.split(array, len(array) // batch)
    shape = "x".join(map(str, array.shape)) or "scalar"
    raise InputError(f"{path.name}: shape {shape} does not fit input {spec.text}")


def _fits(shape: Sequence[int], dims: Sequence[int | str]) -> bool:
    return len(shape) == len(dims) and all(
        given == dim if isinstance(dim, int) else given > 0
        for given, dim in zip(shape, dims, strict=True)
    )


def _refuse_strangers(path: Path, specs: Sequence[InputSpec], arrays: _Arrays) -> None:
    """Refuse keys that no input took: a misspelled name must not pass unnoticed."""
    for key in arrays.found.keys() - arrays.taken:
        near = difflib.get_close_matches(key.split("/")[0], [spec.name for spec in specs], 1)
        hint = f" (do you mean {near[0]!r}?)" if near else ""
        raise InputError(f"{path.name}: {key!r} is no input of the model{hint}", advice=offer(specs))
