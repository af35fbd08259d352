"""Loading, the index over the protobuf, and saving.

The protobuf is edited in place: what a cut does not concern keeps every byte. Weights are read one
by one where a cut changes them, and else left in their files; see the package `storage`.
"""

from __future__ import annotations

import hashlib
import os
import threading
import warnings
from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from onnx_headcut.errors import InputError, UsageError
from onnx_headcut.graph import sanity
from onnx_headcut.storage import atomic, external, lean
from onnx_headcut.storage.tensors import all_tensors, subgraphs_of, to_array

if TYPE_CHECKING:
    from collections.abc import Callable

    from onnx_headcut.storage.external import External

__all__ = [
    "Index", "Source", "all_tensors", "captures", "copied", "load", "metadata_of", "prepare_output",
    "save", "subgraphs_of", "to_array", "write_atomically",
]  # fmt: skip


class _Digest:
    """The sha256 of a file, computed beside other work."""

    def __init__(self, path: Path) -> None:
        self._path, self._error, self._hex = path, "", ""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            with self._path.open("rb") as file:
                self._hex = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            self._error = error.strerror or str(error)

    def result(self) -> str:
        """Wait for it; raises InputError where the file could not be read."""
        self._thread.join()
        if self._error:
            raise InputError(f"{self._path} cannot be read: {self._error}")
        return self._hex


@dataclass
class Source:
    """A model and where it came from; ``path`` is None for a model given as a protobuf.

    ``stamp`` tells whether the file is still the one that was read; ``links`` whether external
    data may be links.
    """

    proto: onnx.ModelProto
    path: Path | None = None
    stamp: atomic.Stamp | None = None
    links: bool = False
    _digest: _Digest | None = None
    _sha256: str = ""
    _size: int = 0

    @property
    def folder(self) -> Path | None:
        """Where external data is looked for."""
        return self.path.parent if self.path else None

    def start_hashing(self) -> None:
        """Begin with `sha256`, which takes a while for a large file."""
        if self.path is not None and self._digest is None:
            self._digest = _Digest(self.path)

    @property
    def sha256(self) -> str:
        """Of the file, or of the deterministic serialization of a protobuf."""
        if self.path is None and not self._sha256:
            self._serialize()
        if self._sha256:
            return self._sha256
        self.start_hashing()
        return self._digest.result() if self._digest else ""

    @property
    def size(self) -> int:
        """Bytes of the file, or of a protobuf's serialization; without data beside it."""
        if self.path is None and not self._sha256:
            self._serialize()
        return self._size or lean.size(self.proto)

    def _serialize(self) -> None:
        """Once for what is asked of a protobuf's bytes: weights make them many."""
        data = self.proto.SerializeToString(deterministic=True)
        self._sha256, self._size = hashlib.sha256(data).hexdigest(), len(data)

    def rewritten(self, proto: onnx.ModelProto) -> Source:
        """The same model in other words: it still goes by the file's name and sum."""
        if self.path is not None:
            self.start_hashing()
            return replace(self, proto=proto, _size=0)
        return replace(self, proto=proto, _sha256=self.sha256, _size=0)

    def whole(self) -> atomic.FileRange:
        """All of the file, for copying."""
        path = self.path or Path()
        stamp = self.stamp or atomic.Stamp.of(path)
        return atomic.FileRange(path, 0, stamp.size, stamp)


def load(
    model: onnx.ModelProto | str | os.PathLike[str], *, links: bool = False, small: bool = False
) -> Source:
    """Read a model without its external data; raises InputError for anything that is not one.

    ``links``: external data may be symbolic or hard links. ``small``: large weights stay in the
    file (see `storage.lean`), for work that runs nothing.
    """
    if isinstance(model, onnx.ModelProto):
        source = Source(model, links=links)
    else:
        path = Path(model)
        data, stamp = _read(path, small=small)
        source = Source(_parse(path, data), path, stamp, links, _size=stamp.size)
    graph = source.proto.graph
    if not graph.node and not graph.output:
        raise InputError(
            f"{_name(source)} holds no graph",
            advice="it is empty, truncated, or not an ONNX model: export it again",
        )
    external.check(all_tensors(source.proto), source.folder, links=links)
    try:
        sanity.check(source.proto)
    except sanity.Unsorted:
        from onnx_headcut.graph.sorting import sort  # noqa: PLC0415  (few files need it)

        if source.path is None:
            source.proto = copied(source.proto)  # the caller's stays what it is
        sort(source.proto.graph)
        sanity.check(source.proto)
    return source


def _read(path: Path, *, small: bool) -> tuple[bytes, atomic.Stamp]:
    if path.is_dir():
        raise InputError(f"{path} is a directory", advice="name the .onnx file in it")
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is not a regular file")
    try:
        stamp = atomic.Stamp.of(path)
        data = lean.read(path, stamp) if small else path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    if not data:
        raise InputError(f"{path} is empty", advice="export it again")
    return data, stamp


_OTHERS = (
    (b"version https://git-lfs", "it is a pointer of Git LFS: fetch the file itself with git lfs pull"),
    (b"\x1f\x8b", "it is compressed by gzip: unpack it first"),
    (b"PK\x03\x04", "it is a zip archive (PyTorch's .pt is one): unpack it, or export to ONNX first"),
    (b"\x89HDF", "it is HDF5, as Keras saves: convert it to ONNX first, by tf2onnx for example"),
    (b"<", "it is a text such as a web page: was the download refused?"),
)
"""How files begin that are taken for models, and what helps."""


def _way_out(data: bytes) -> str:
    """What to do about a file that is no model, by how it begins."""
    if data[4:8] == b"TFL3":
        return "it is a TFLite model: convert it to ONNX first, by tf2onnx for example"
    told = (advice for begin, advice in _OTHERS if data.lstrip().startswith(begin))
    return next(told, "the tool reads binary .onnx files; convert other formats first")


def _parse(path: Path, data: bytes) -> onnx.ModelProto:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return onnx.load_model_from_string(data)
    except (DecodeError, ValueError, RuntimeError):
        what = f"{path} is not an ONNX model, or is truncated"
        raise InputError(what, advice=_way_out(data)) from None


def _name(source: Source) -> str:
    return str(source.path) if source.path else "the model"


@dataclass
class Index:
    """Who makes and who reads each value of one graph; captures of subgraphs count as reads."""

    graph: onnx.GraphProto
    initializers: dict[str, onnx.TensorProto] = field(default_factory=dict)
    producer: dict[str, int] = field(default_factory=dict)
    consumers: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    reads: list[list[str]] = field(default_factory=list)
    """Of each node: what it and its bodies read."""

    def __post_init__(self) -> None:
        self.initializers = {t.name: t for t in self.graph.initializer}
        for i, node in enumerate(self.graph.node):
            for name in node.output:
                if name:
                    self.producer[name] = i
            read = list(dict.fromkeys([*node.input, *captures(node)]))
            self.reads.append(read)
            for name in read:
                if name:
                    self.consumers[name].append(i)
        self.outputs = {o.name for o in self.graph.output}

    def node_of(self, value: str) -> onnx.NodeProto | None:
        """The node that makes ``value``, or None for inputs and initializers."""
        i = self.producer.get(value)
        return None if i is None else self.graph.node[i]


def has_bodies(node: onnx.NodeProto) -> bool:
    """Whether it is an If, a Loop, a Scan or the like: a graph with something in it is an attribute."""
    return any(a.HasField("g") and (a.g.node or a.g.output) for a in node.attribute)


def captures(node: onnx.NodeProto) -> list[str]:
    """Names that the subgraphs of ``node`` read from outside themselves."""
    names: list[str] = []
    for attribute in node.attribute:
        for graph in subgraphs_of(attribute):
            inside = {i.name for i in graph.input} | {t.name for t in graph.initializer}
            inside |= {o for n in graph.node for o in n.output}
            read = [name for n in graph.node for name in [*n.input, *captures(n)]]
            read += [o.name for o in graph.output]
            names += [name for name in read if name and name not in inside]
    return names


def metadata_of(proto: onnx.ModelProto) -> dict[str, str]:
    """A model's metadata_props by key."""
    return {p.key: p.value for p in proto.metadata_props}


def copied(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a model that edits leave alone."""
    new = onnx.ModelProto()
    new.CopyFrom(proto)
    return new


def prepare_output(output: Path, source: Path | None, *, force: bool) -> None:
    """Raise UsageError before any work where ``output`` cannot or may not be written."""
    if output.is_dir():
        raise UsageError(f"{output} is a directory", advice="name a file to write")
    if not output.parent.is_dir():
        raise UsageError(f"the folder {output.parent} does not exist", advice="create it first")
    if not os.access(output.parent, os.W_OK):
        raise UsageError(f"the folder {output.parent} is not writable")
    if source is not None and output.exists() and output.samefile(source) and not force:
        raise UsageError(
            f"{output} is the input itself", advice="choose another output, or say --force"
        )
    if output.exists() and not force:
        raise UsageError(f"{output} exists", advice="choose another output, or say --force")


def write_atomically(output: Path, data: bytes) -> None:
    """Write a file whole or not at all; raises UsageError where it cannot be written."""
    atomic.write(output, [data])


def save(
    proto: onnx.ModelProto,
    output: Path,
    source: Source,
    choice: External | None = None,
    told: Callable[[str], None] = lambda step: None,  # noqa: ARG005
) -> None:
    """Write a model that came from ``source``, and its data file where it gets one. All or nothing.

    ``choice`` says where external data go (see `external.place`); ``told`` is called with what is
    being done. Raises UsageError where nothing can be written, InputError above 2 GiB.
    """
    folder = source.folder
    placed = external.Placed(proto)
    if folder is not None and external.outside(all_tensors(proto)):
        copy = copied(proto)
        placed = external.place(copy, list(all_tensors(copy)), (folder, output), choice)
    chunks = lean.chunks(placed.proto)
    if placed.data is None:
        atomic.write(output, chunks)
        return
    size = placed.size
    with atomic.Pending(placed.data) as data, atomic.Pending(output) as model:
        data.write(placed.chunks, lambda done: told(f"copying {done >> 20} of {size >> 20} MiB"))
        model.write(chunks, lambda done: None)  # noqa: ARG005
        atomic.place(data, model)
