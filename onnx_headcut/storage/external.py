"""External data: tensors that a model keeps in files beside it.

https://onnx.ai/onnx/repo-docs/ExternalData.html. A location is relative to the model's folder and
never leads out of it; the model is a stranger's, so that is checked once, on loading. A link could
lead anywhere: it needs the user's word. Data are never read whole; what stays is referenced where
it lies, or copied by the operating system.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Literal

from onnx.external_data_helper import uses_external_data

from onnx_headcut.errors import InputError, UsageError
from onnx_headcut.storage import lean, leftovers
from onnx_headcut.storage.atomic import Chunk, FileRange, Stamp

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import onnx

External = Literal["reference", "copy", "inline"]
CHOICES: tuple[External, ...] = ("reference", "copy", "inline")

ALIGNMENT = 4096
"""Bytes: tensors in data files start at pages, so that runtimes can map them."""


def outside(tensors: Iterable[onnx.TensorProto]) -> list[onnx.TensorProto]:
    """Those tensors that really lie beside the model (not those that a lean model leaves there)."""
    return [t for t in tensors if uses_external_data(t) and lean.note_of(t) is None]


def check(tensors: Iterable[onnx.TensorProto], folder: Path | None, *, links: bool) -> None:
    """Raise InputError where a tensor's data are not all there, or lie where they may not.

    ``links`` says that symbolic and hard links may be followed.
    """
    seen: dict[str, Path] = {}
    for tensor in outside(tensors):
        location = _entries(tensor).get("location", "")
        if folder is None:
            raise InputError(
                f"tensor {tensor.name!r} is stored in {location!r}, outside the protobuf",
                advice="give the path of the model's file instead of the ModelProto",
            )
        said = [text for e in tensor.external_data for text in (e.key, e.value)]
        if not all(isinstance(text, str) for text in said):  # protobuf gives bytes for no UTF-8
            raise InputError(f"where tensor {tensor.name!r} is stored is not text: {said}")
        if location not in seen:
            seen[location] = _resolve(tensor.name, location, folder, links=links)
        part = range_of(tensor, folder)
        if part.offset + part.length > seen[location].stat().st_size:
            raise InputError(
                f"external data file {location!r} is too short for tensor {tensor.name!r}",
                advice="the file is truncated: fetch or export it again",
            )


def _resolve(name: str, location: str, folder: Path, *, links: bool) -> Path:
    # absolute first: taken as words, "../x" lies below "."
    inside = Path(os.path.normpath(folder.absolute()))
    path = Path(os.path.normpath(inside / location))
    absolute = Path(location).is_absolute() or PureWindowsPath(location).drive
    if absolute or not location or not path.is_relative_to(inside):
        raise InputError(
            f"tensor {name!r} points to external data outside the model's folder: {location!r}",
            advice="move the data beside the model, or export it again",
        )
    if not _is_file(path):
        raise InputError(
            f"external data file {location!r} of tensor {name!r} is missing",
            advice=f"put it into {folder}",
        )
    linked = path.resolve() != folder.resolve() / path.relative_to(inside)
    if not links and (linked or path.stat().st_nlink > 1):
        kind = "a symbolic link" if linked else "a file with several hard links"
        raise InputError(
            f"external data file {location!r} of tensor {name!r} is {kind}, which a stranger's "
            "model could use to read any file",
            advice="if you trust it (a Hugging Face cache is full of links): --follow-links",
        )
    return path


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long, or with a zero byte
        return False


def _entries(tensor: onnx.TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def range_of(tensor: onnx.TensorProto, folder: Path | None) -> FileRange:
    """Where a tensor's external data lie; raises InputError for entries that make no sense."""
    from onnx_headcut.storage.tensors import needed_bytes  # noqa: PLC0415  (it reads data by this)

    entries = _entries(tensor)
    path = (folder or Path()) / entries.get("location", "")
    try:
        offset = int(entries.get("offset") or 0)
        length = int(entries["length"]) if entries.get("length") else needed_bytes(tensor)
    except ValueError:
        offset, length = -1, 0
    if length is None or offset < 0 or length < 0:
        raise InputError(
            f"tensor {tensor.name!r} has no usable place in its external data file: offset "
            f"{entries.get('offset', '')[:40]!r}, length {entries.get('length', '')[:40]!r}"
        )
    return FileRange(path, offset, length)


@dataclass(frozen=True)
class Placed:
    """A model as it is to be written, and the data file that goes with it, if any."""

    proto: onnx.ModelProto
    data: Path | None = None
    chunks: tuple[Chunk, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of the data file."""
        return sum(map(len, self.chunks))


def place(
    proto: onnx.ModelProto,
    tensors: Sequence[onnx.TensorProto],
    folders: tuple[Path, Path],
    choice: External | None,
) -> Placed:
    """Decide where external data go when ``proto`` moves from folder to output file.

    ``tensors`` are all of ``proto``, which is changed in place; ``folders`` are the folder of the
    source and the path of the output. Without a choice data are referenced where the output's
    folder holds them, else copied. Raises UsageError where they cannot be referenced.
    """
    found = outside(tensors)
    source, output = folders
    if not found:
        return Placed(proto)
    if choice == "inline":
        inside = {id(t) for t in proto.graph.initializer}
        for tensor in found:
            _take_in(tensor, range_of(tensor, source), large=id(tensor) in inside)
        return Placed(proto)
    locations = {_entries(t)["location"] for t in found}
    moved = {name: _relative(name, source, output.parent) for name in locations}
    held = all(m is not None for m in moved.values())
    if choice == "reference" and not held:
        raise UsageError(
            f"the model's data lie in {source}, and {output.parent} does not hold that folder",
            advice="write beside the original, or say --external-data copy",
        )
    if choice == "copy" or not held:
        return _copied(proto, found, source, output)
    for tensor in found:
        location = moved[_entries(tensor)["location"]]
        if location is not None:
            _set(tensor, {"location": location})
    return Placed(proto)


def _take_in(tensor: onnx.TensorProto, where: FileRange, *, large: bool) -> None:
    if large and where.length > lean.LARGE:
        lean.put_note(tensor, where)
    else:
        data = where.read()
        tensor.CopyFrom(lean.without_note(tensor))
        tensor.raw_data = data


def take_in(tensors: Iterable[onnx.TensorProto], folder: Path, limit: int) -> None:
    """Read those of at most ``limit`` bytes into the protobuf, in place."""
    for tensor in outside(tensors):
        where = range_of(tensor, folder)
        if where.length <= limit:
            _take_in(tensor, where, large=False)


def _relative(location: str, source: Path, target: Path) -> str | None:
    """``location`` as seen from another folder, or None where it does not lie in there."""
    if source.resolve() == target.resolve():
        return location
    try:
        path = (source.resolve() / location).relative_to(target.resolve())
    except ValueError:
        return None
    return path.as_posix()


def _copied(
    proto: onnx.ModelProto, found: Sequence[onnx.TensorProto], source: Path, output: Path
) -> Placed:
    """Put the data of all tensors into one file of the output's own."""
    chunks: list[Chunk] = []
    offsets: dict[FileRange, int] = {}
    at = 0
    for tensor in found:
        part = range_of(tensor, source)
        if part not in offsets:
            gap = -at % ALIGNMENT
            chunks += [bytes(gap)] if gap else []
            stamp = Stamp.of(part.path)
            chunks.append(FileRange(part.path, part.offset, part.length, stamp))
            offsets[part] = at + gap
            at += gap + part.length
        _set(tensor, {"offset": str(offsets[part]), "length": str(part.length)})
    # A name of its own for each content: an older model beside it keeps the data it was made for.
    data = leftovers.name_of_data(output, _digest(chunks))
    for tensor in found:
        _set(tensor, {"location": data.name})
    return Placed(proto, data, tuple(chunks))


def _digest(chunks: Iterable[Chunk]) -> str:
    """The sha256 of what ``chunks`` hold, in hexadecimal."""
    digest = hashlib.sha256()
    for chunk in chunks:
        for block in chunk.blocks() if isinstance(chunk, FileRange) else [chunk]:
            digest.update(block)
    return digest.hexdigest()


def _set(tensor: onnx.TensorProto, entries: dict[str, str]) -> None:
    kept = {**_entries(tensor), **entries}
    kept.pop("basepath", None)
    del tensor.external_data[:]
    for key, value in kept.items():
        tensor.external_data.add(key=key, value=value)


def without_links(tensors: Iterable[onnx.TensorProto], folder: Path) -> Path:
    """Let external data point to the files behind links, in place; returns their common folder.

    For runtimes, which refuse links whatever the user says.
    """
    found = outside(tensors)
    real = {t: (folder / t).resolve() for t in {_entries(t)["location"] for t in found}}
    if not real:
        return folder
    common = Path(os.path.commonpath([path.parent for path in real.values()]))
    for tensor in found:
        path = real[_entries(tensor)["location"]]
        _set(tensor, {"location": path.relative_to(common).as_posix()})
    return common
