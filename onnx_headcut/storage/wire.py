"""The wire format of protobuf, as far as walking the fields of a message needs it.

See https://protobuf.dev/programming-guides/encoding/. Only field boundaries are found here; what
lies in a field is parsed by protobuf itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Peek = Callable[[int], bytes]
    """The bytes at a position, at least 20 of them where there are as many."""

VARINT, I64, LEN, I32 = 0, 1, 2, 5
LONGEST_VARINT = 10
_FIXED = {I64: 8, I32: 4}


class Malformed(ValueError):
    """No message, or one with groups, which ONNX does not have."""


@dataclass(frozen=True)
class Field:
    """One field: its number and wire type, and where tag, payload and next field start (bytes)."""

    number: int
    wire: int
    start: int
    payload: int
    end: int


def fields(peek: Peek, start: int, end: int) -> Iterator[Field]:
    """Walk the message at ``start`` up to ``end``; raises Malformed where it is none."""
    at = start
    while at < end:
        head = peek(at)
        tag, used = varint(head, 0)
        number, wire = tag >> 3, tag & 7
        payload = at + used
        if wire == LEN:
            length, used = varint(head, used)
            payload = at + used
            stop = payload + length
        elif wire == VARINT:
            _, used = varint(head, used)
            stop = at + used
        elif wire in _FIXED:
            stop = payload + _FIXED[wire]
        else:
            raise Malformed(f"wire type {wire} at byte {at}")
        if stop > end or number == 0:
            raise Malformed(f"field {number} at byte {at} does not fit its message")
        yield Field(number, wire, at, payload, stop)
        at = stop


def varint(data: bytes, at: int) -> tuple[int, int]:
    """Read a varint: its value, and the position behind it."""
    value = 0
    for k in range(LONGEST_VARINT):
        if at + k >= len(data):
            break
        byte = data[at + k]
        value |= (byte & 0x7F) << (7 * k)
        if byte < 0x80:
            return value, at + k + 1
    raise Malformed("a varint without end")


def header(number: int, length: int) -> bytes:
    """Tag and length of a length-delimited field."""
    return _varint(number << 3 | LEN) + _varint(length)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def in_memory(data: bytes) -> Peek:
    """Peek into bytes."""
    return lambda at: data[at : at + 2 * LONGEST_VARINT]
