"""Models without their large weights: those stay in the file, and are copied from there.

A cut needs the graph and its heads, not the backbone. The file is walked field by field; a large
initializer of the main graph is replaced by a note where its bytes lie, in the form of external
data (so that whoever knows external data passes it by) with a key of our own. On saving, the notes
become the same bytes again, copied by the operating system. The result is byte for byte what
protobuf would have written with everything in memory.

A file whose layout surprises (several graphs, groups, a field of weights in two parts) is parsed
whole: that is slower, and never wrong.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import IO, TYPE_CHECKING

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from onnx_headcut.errors import InputError
from onnx_headcut.storage import wire
from onnx_headcut.storage.atomic import Chunk, FileRange, Stamp

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY = f"onnx-headcut-{os.urandom(8).hex()}"
"""Marks a note. Another one in each process: no file can hold a note that would be believed."""

LARGE = 1 << 16
"""Elements above which weights stay in the file. Nothing computes with values of this size."""

GRAPH, INITIALIZER = 7, 5  # field numbers of ModelProto.graph and GraphProto.initializer
RAW, FLOATS, DOUBLES = 9, 4, 10  # of TensorProto: its data as plain little-endian bytes
_EXTERNAL = onnx.TensorProto.EXTERNAL
_FILE_LIMIT = (1 << 31) - 1


def read(path: Path, stamp: Stamp) -> bytes:
    """Give the file's bytes with notes in place of large weights; raises OSError."""
    with path.open("rb", buffering=1 << 16) as file:
        try:
            return b"".join(_Reader(file, path, stamp).parts())
        except (wire.Malformed, DecodeError):
            file.seek(0)
            return file.read()


class _Reader:
    """Walks one file."""

    def __init__(self, file: IO[bytes], path: Path, stamp: Stamp) -> None:
        self.file, self.path, self.stamp = file, path.absolute(), stamp

    def peek(self, at: int) -> bytes:
        self.file.seek(at)
        return self.file.read(2 * wire.LONGEST_VARINT)

    def take(self, start: int, end: int) -> bytes:
        self.file.seek(start)
        return self.file.read(end - start)

    def parts(self) -> Iterator[bytes]:
        top = list(wire.fields(self.peek, 0, self.stamp.size))
        graphs = [f for f in top if f.number == GRAPH and f.wire == wire.LEN]
        if len(graphs) != 1:
            raise wire.Malformed("not one graph")
        graph = graphs[0]
        inside = list(self._graph(graph))
        yield self.take(0, graph.start)
        yield wire.header(GRAPH, sum(map(len, inside)))
        yield from inside
        yield self.take(graph.end, self.stamp.size)

    def _graph(self, graph: wire.Field) -> Iterator[bytes]:
        done = graph.payload
        for field in wire.fields(self.peek, graph.payload, graph.end):
            if field.number != INITIALIZER or field.end - field.payload <= LARGE:
                continue
            note = self._note(field)
            if note is not None:
                yield self.take(done, field.start)
                yield wire.header(INITIALIZER, len(note)) + note
                done = field.end
        yield self.take(done, graph.end)

    def _note(self, tensor: wire.Field) -> bytes | None:
        """Give the tensor without its data, or None where it is not of the kind to leave there."""
        rest, data = [], []
        for field in wire.fields(self.peek, tensor.payload, tensor.end):
            if field.number in {RAW, FLOATS, DOUBLES}:
                data.append(field)
            elif field.end - field.start <= LARGE:
                rest.append(self.take(field.start, field.end))
            else:
                return None
        if len(data) != 1 or data[0].wire != wire.LEN:
            return None
        proto = onnx.TensorProto.FromString(b"".join(rest))
        where = FileRange(self.path, data[0].payload, data[0].end - data[0].payload, self.stamp)
        plain = {FLOATS: onnx.TensorProto.FLOAT, DOUBLES: onnx.TensorProto.DOUBLE}
        if plain.get(data[0].number, proto.data_type) != proto.data_type:
            return None
        if math.prod(proto.dims) <= LARGE or proto.external_data or proto.data_location:
            return None
        put_note(proto, where, data[0].number)
        return bytes(proto.SerializeToString())


def put_note(tensor: onnx.TensorProto, where: FileRange, field: int = RAW) -> None:
    """Say where the bytes of ``tensor`` lie, and as which of its fields they are to be written."""
    stamp = where.stamp or Stamp.of(where.path)
    del tensor.external_data[:]
    tensor.data_location = _EXTERNAL
    entries = {
        "location": os.fsencode(where.path).hex(),  # a path need not be text
        "offset": where.offset,
        "length": where.length,
        KEY: f"{field} {stamp.size} {stamp.changed}",
    }
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))


def note_of(tensor: onnx.TensorProto) -> tuple[FileRange, int] | None:
    """Where the bytes of ``tensor`` lie and as which field, or None where it has no note."""
    if tensor.data_location != _EXTERNAL:
        return None
    entries = {e.key: e.value for e in tensor.external_data}
    if KEY not in entries:
        return None
    field, size, changed = map(int, entries[KEY].split())
    path = Path(os.fsdecode(bytes.fromhex(entries["location"])))
    offset, length = int(entries["offset"]), int(entries["length"])
    return FileRange(path, offset, length, Stamp(size, changed)), field


def fill(tensor: onnx.TensorProto) -> onnx.TensorProto:
    """Return the tensor with its data where it has a note (a copy), else itself."""
    note = note_of(tensor)
    if note is None:
        return tensor
    full = without_note(tensor)
    where, field = note
    if field == RAW:
        full.raw_data = where.read()
    else:
        full.MergeFromString(wire.header(field, where.length) + where.read())
    return full


def without_note(tensor: onnx.TensorProto) -> onnx.TensorProto:
    """Copy a tensor without its note and without data."""
    bare = onnx.TensorProto()
    bare.CopyFrom(tensor)
    bare.ClearField("external_data")
    bare.ClearField("data_location")
    return bare


def fill_all(proto: onnx.ModelProto) -> None:
    """Read everything that notes stand for, in place."""
    for tensor in proto.graph.initializer:
        if note_of(tensor) is not None:
            tensor.CopyFrom(fill(tensor))


def size(proto: onnx.ModelProto) -> int:
    """Bytes of the serialized model, with what notes stand for (within a few bytes)."""
    notes = [(note, t) for t in proto.graph.initializer if (note := note_of(t)) is not None]
    if not notes:
        return int(proto.ByteSize())
    return sum(map(len, chunks(proto)))


def chunks(proto: onnx.ModelProto) -> list[Chunk]:
    """Serialize the model, with ranges of files where it has notes.

    Raises InputError where it would exceed 2 GiB, the limit of a protobuf.
    """
    try:
        data = proto.SerializeToString()
    except Exception as error:  # protobuf's error is of another class in each version
        raise too_large() from error
    if KEY.encode() not in data:
        return [data]
    peek = wire.in_memory(data)
    top = list(wire.fields(peek, 0, len(data)))
    graph = next(f for f in top if f.number == GRAPH)
    inside = _with_ranges(data, graph)
    length = sum(map(len, inside))
    head = data[: graph.start] + wire.header(GRAPH, length)
    result: list[Chunk] = [head, *inside, data[graph.end :]]
    if sum(map(len, result)) > _FILE_LIMIT:
        raise too_large()
    return result


def too_large() -> InputError:
    """Make the error of a model that does not fit into one file."""
    return InputError(
        "the model would exceed 2 GiB, the limit of a protobuf",
        advice="keep its weights in files beside it: --external-data copy",
    )


def _with_ranges(data: bytes, graph: wire.Field) -> list[Chunk]:
    result: list[Chunk] = []
    done = graph.payload
    for field in wire.fields(wire.in_memory(data), graph.payload, graph.end):
        if field.number != INITIALIZER or data.find(KEY.encode(), field.payload, field.end) < 0:
            continue
        tensor = onnx.TensorProto.FromString(data[field.payload : field.end])
        note = note_of(tensor)
        if note is None:
            continue
        before, after = _split(without_note(tensor).SerializeToString(), note[1])
        head = wire.header(note[1], note[0].length)
        length = len(before) + len(head) + note[0].length + len(after)
        result.append(data[done : field.start] + wire.header(INITIALIZER, length) + before + head)
        result += [note[0], after]
        done = field.end
    return [*result, data[done : graph.end]]


def _split(tensor: bytes, number: int) -> tuple[bytes, bytes]:
    """Split where a field belongs: fields are written by their number, unknown ones last."""
    for field in wire.fields(wire.in_memory(tensor), 0, len(tensor)):
        if field.number > number:
            return tensor[: field.start], tensor[field.start :]
    return tensor, b""
