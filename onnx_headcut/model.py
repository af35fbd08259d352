"""Loading, the index over the protobuf, lossless and atomic saving.

The protobuf is edited in place: what a cut does not concern keeps every byte. External data is
never loaded here; tensors that a cut changes are resolved one by one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
from google.protobuf.message import DecodeError, EncodeError
from onnx import numpy_helper
from onnx.external_data_helper import (
    ExternalDataInfo,
    load_external_data_for_tensor,
    uses_external_data,
)

from onnx_headcut.errors import InputError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnx_headcut.facts import Array


@dataclass(frozen=True)
class Source:
    """A model and where it came from; ``path`` is None for a model given as a protobuf."""

    proto: onnx.ModelProto
    path: Path | None = None

    @property
    def folder(self) -> Path | None:
        """Where external data is looked for."""
        return self.path.parent if self.path else None

    @cached_property
    def sha256(self) -> str:
        """Of the file, or of the deterministic serialization of a protobuf."""
        if self.path is None:
            return hashlib.sha256(self.proto.SerializeToString(deterministic=True)).hexdigest()
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def load(model: onnx.ModelProto | str | os.PathLike[str]) -> Source:
    """Read a model without its external data; raises InputError for anything that is not one."""
    if isinstance(model, onnx.ModelProto):
        source = Source(model)
    else:
        source = Source(_parse(Path(model)), Path(model))
    graph = source.proto.graph
    if not graph.node and not graph.output:
        raise InputError(
            f"{_name(source)} holds no graph",
            advice="it is empty, truncated, or not an ONNX model: export it again",
        )
    _check_external_data(source)
    return source


def _parse(path: Path) -> onnx.ModelProto:
    if path.is_dir():
        raise InputError(f"{path} is a directory", advice="name the .onnx file in it")
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    if not data:
        raise InputError(f"{path} is empty", advice="export it again")
    try:
        return onnx.load_model_from_string(data)
    except (DecodeError, ValueError, RuntimeError):
        raise InputError(
            f"{path} is not an ONNX model, or is truncated",
            advice="the tool reads binary .onnx files; convert other formats first",
        ) from None


def _name(source: Source) -> str:
    return str(source.path) if source.path else "the model"


def _check_external_data(source: Source) -> None:
    """Every external tensor must lie inside the model's folder, in a file that holds it."""
    for tensor in all_tensors(source.proto):
        if not uses_external_data(tensor):
            continue
        info = ExternalDataInfo(tensor)
        if source.folder is None:
            raise InputError(
                f"tensor {tensor.name!r} is stored in {info.location!r}, outside the protobuf",
                advice="give the path of the model's file instead of the ModelProto",
            )
        # absolute: "../x" lies below "." as far as the words go
        folder = Path(os.path.normpath(source.folder.absolute()))
        where = Path(os.path.normpath(folder / info.location))
        inside = not Path(info.location).is_absolute() and where.is_relative_to(folder)
        if not inside:
            raise InputError(
                f"tensor {tensor.name!r} points to external data outside the model's folder: "
                f"{info.location!r}",
                advice="move the data beside the model, or export it again",
            )
        if not where.is_file():
            raise InputError(
                f"external data file {info.location!r} of tensor {tensor.name!r} is missing",
                advice=f"put it beside {_name(source)}",
            )
        if (info.offset or 0) + (info.length or 0) > where.stat().st_size:
            raise InputError(
                f"external data file {info.location!r} is too short for tensor {tensor.name!r}",
                advice="the file is truncated: fetch or export it again",
            )


def all_tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every stored tensor: initializers and attributes, subgraphs and functions included."""
    yield from _graph_tensors(proto.graph)
    for function in proto.functions:
        yield from _node_tensors(function.node)


def _graph_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    yield from _node_tensors(graph.node)


def _node_tensors(nodes: object) -> Iterator[onnx.TensorProto]:
    for node in nodes:  # type: ignore[attr-defined]  # a protobuf repeated field
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                yield attribute.t
            yield from attribute.tensors
            for graph in subgraphs_of(attribute):
                yield from _graph_tensors(graph)


def subgraphs_of(attribute: onnx.AttributeProto) -> list[onnx.GraphProto]:
    """The graphs that an attribute holds."""
    if attribute.type == onnx.AttributeProto.GRAPH:
        return [attribute.g]
    return list(attribute.graphs)


def to_array(tensor: onnx.TensorProto, folder: Path | None) -> Array:
    """A stored tensor's value, read from external data where it lies there."""
    if uses_external_data(tensor):
        copy = onnx.TensorProto()
        copy.CopyFrom(tensor)
        load_external_data_for_tensor(copy, str(folder))
        tensor = copy
    return numpy_helper.to_array(tensor)


@dataclass
class Index:
    """Who makes and who reads each value of one graph; captures of subgraphs count as reads."""

    graph: onnx.GraphProto
    initializers: dict[str, onnx.TensorProto] = field(default_factory=dict)
    producer: dict[str, int] = field(default_factory=dict)
    consumers: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        self.initializers = {t.name: t for t in self.graph.initializer}
        for i, node in enumerate(self.graph.node):
            for name in node.output:
                if name:
                    self.producer[name] = i
            for name in dict.fromkeys([*node.input, *captures(node)]):
                if name:
                    self.consumers[name].append(i)
        self.outputs = {o.name for o in self.graph.output}

    def node_of(self, value: str) -> onnx.NodeProto | None:
        """The node that makes ``value``, or None for inputs and initializers."""
        i = self.producer.get(value)
        return None if i is None else self.graph.node[i]


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


def save(proto: onnx.ModelProto, output: Path) -> int:
    """Write beside the destination, then rename; returns the size in bytes. Never half a file."""
    try:
        data = proto.SerializeToString()
    except (EncodeError, ValueError):
        raise InputError(
            f"{output} would exceed 2 GiB, the limit of a protobuf",
            advice="save the original with external data first (onnx.save, save_as_external_data)",
        ) from None
    write_atomically(output, data)
    return len(data)


def write_atomically(output: Path, data: bytes) -> None:
    """Write ``data`` to a temporary file in the same folder, sync it, rename it over ``output``."""
    handle, name = -1, ""
    try:
        handle, name = tempfile.mkstemp(prefix=f".{output.name}.", suffix=".part", dir=output.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        mode = output.stat().st_mode & 0o777 if output.exists() else 0o666 & ~_umask()
        os.chmod(name, mode)
        os.replace(name, output)
        name = ""
    except OSError as error:
        raise UsageError(f"{output} cannot be written: {error.strerror}") from None
    finally:
        if name:
            with contextlib.suppress(OSError):
                os.unlink(name)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
