"""Numbers as people write them, in tables and on pages."""

from __future__ import annotations


def short(number: int) -> str:
    """Write a number in full up to six digits, then as 1.23 M."""
    for unit, size in (("T", 10**12), ("G", 10**9), ("M", 10**6)):
        if number >= size:
            return f"{number / size:.2f} {unit}"
    return f"{number:,}"


def in_bytes(number: int) -> str:
    """Write a size in bytes: 593.4 kB."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number} B"


def change(old: int, new: int) -> str:
    """Say by how much of the old one the new number differs; "" where it does not."""
    return "" if old == new or not old else f"{new / old - 1:+.1%}"


def many(number: int, what: str) -> str:
    """Write a number of things: 1 node, 2 nodes."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"
