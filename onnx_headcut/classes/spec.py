"""SPEC as text: its items and their parts, before anything is known of the classes.

::

    spec   = item {"," item}
    item   = which | name "=" made | "random" N
    which  = id | id "-" id | name | '"' name '"' | "@" file
    made   = which {"|" which}                      a rename, or the members of a merge
           | "new" [ "(" how ")" ]
    how    = "copy" which | "mean" which {"|" which} | "normal" [std] | "zeros"

Commas, ``=`` and ``|`` inside quotes belong to the name; a quote in it is doubled. Lines of a file
are items too, and ``#`` starts a comment there.
"""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, SupportsIndex

from onnx_headcut.classes.names import read_text
from onnx_headcut.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_QUOTED = r'"((?:[^"]|"")*)"'
# A quote opens a name only where one may begin and end; else it is a character like others.
_NAME_BEGINS = r"(?:\A|(?<=[,=|(]))\s*(?:(?:copy|mean)\s+)?"
_NAME_ENDS = r"(?=\s*(?:[,=|)]|\Z))"
_MARK = re.compile(rf"{_NAME_BEGINS}{_QUOTED}{_NAME_ENDS}|(?P<mark>[,=|])")
# Up to a '#' that starts the line or a word: the name C# keeps its own, quotes keep theirs.
_UNCOMMENTED = re.compile(r'(?:"[^"]*"|[^#]|(?<=\S)#)*')
_NEW = re.compile(r"new(?:\s*\((.*)\))?", re.DOTALL)
_HOW = re.compile(r"(?P<kind>copy|mean|normal|zeros)(?:\s+(?P<of>.*))?", re.DOTALL)

GRAMMAR = (
    "Write names and ids separated by commas, ranges such as 1-8, or @FILE with one or more a "
    "line; vehicle=car|truck merges, drone=new adds (see docs/classes.md)."
)


@dataclass(frozen=True)
class Item:
    """One thing to keep as it was written; ``kind`` bare is for the classes to tell."""

    text: str
    kind: Literal["bare", "name", "id"] = "bare"
    where: str = ""

    def __str__(self) -> str:
        return f"{self.text!r}{self.where}"


@dataclass(frozen=True)
class New:
    """How a class starts: ``kind``, the standard deviation of ``normal``, and what is copied."""

    kind: Literal["copy", "mean", "normal", "zeros"]
    std: float = 0.0
    of: tuple[Item, ...] = ()


@dataclass(frozen=True)
class Assigned:
    """``name=made``; ``members`` are one for a rename, several for a merge, none where it is new."""

    name: Item
    members: tuple[Item, ...]
    new: New | None = None


def items_of(spec: str | Sequence[int | str]) -> list[Item]:
    """Items of a SPEC, or of a sequence in which a string is one item; files are read.

    Raises UsageError for empty items and parts that are no classes, InputError for a file that
    cannot be read.
    """
    written = _split(spec) if isinstance(spec, str) else [_given(part) for part in spec]
    return list(_included(written))


def assigned(item: Item) -> Assigned | None:
    """Read an item as ``name=made``; None where it is none. Raises UsageError for an empty part."""
    parts = _parts(item.text, "=")
    if item.kind != "bare" or len(parts) == 1:
        return None
    name = _item(parts[0], item.where)
    made = item.text[len(parts[0]) + 1 :].strip()
    if not name.text:
        raise UsageError(f"{item} has no name before the '='", advice=GRAMMAR)
    if not made:
        raise UsageError(
            f"{item} is an empty merge: nothing stands behind the '='",
            advice="Name one or more classes: vehicle=car|truck.",
        )
    match = _NEW.fullmatch(made)
    if match:
        return Assigned(name, (), _new(item, match[1]))
    return Assigned(name, _members(item, made))


def _new(item: Item, how: str | None) -> New:
    if how is None:
        return New("normal", STD)
    match = _HOW.fullmatch(how.strip())
    if match is None:
        raise UsageError(
            f"{item}: a class starts as new, new(copy X), new(mean X|Y), new(normal 0.01) or "
            "new(zeros)", advice=GRAMMAR,
        )  # fmt: skip
    kind, of = match["kind"], (match["of"] or "").strip()
    if kind in {"copy", "mean"}:
        if not of:
            raise UsageError(
                f"{item} does not say of which class", advice=f"Name it: {item.text.split('=')[0]}"
                f"=new({kind} {'X' if kind == 'copy' else 'X|Y'}).",
            )  # fmt: skip
        members = _members(item, of)
        if kind == "copy" and len(members) > 1:
            raise UsageError(f"{item} copies several classes", advice="Say mean instead of copy.")
        return New("copy" if kind == "copy" else "mean", of=members)
    if kind == "zeros" and of:
        raise UsageError(f"{item}: zeros need no {of!r}", advice=GRAMMAR)
    return New("zeros") if kind == "zeros" else New("normal", _std(item, of))


STD = 0.01
"""Standard deviation of new weights where none is said, as in SSD's and RetinaNet's training."""


def _std(item: Item, text: str) -> float:
    try:
        std = float(text or STD)
    except ValueError:
        std = -1.0
    if not 0 < std < 1e6:
        raise UsageError(
            f"{item}: {text!r} is no standard deviation above 0",
            advice=f"It is in units of the head's weights, such as {STD}.",
        )
    return std


def _members(item: Item, text: str) -> tuple[Item, ...]:
    members = tuple(_item(part, item.where) for part in _parts(text, "|"))
    if not all(m.text for m in members):
        raise UsageError(f"{item}: a member of it is empty", advice="Name classes: vehicle=car|truck.")
    return members


def _parts(text: str, separator: str) -> list[str]:
    """Cut at a separator outside quotes."""
    parts, start = [], 0
    for match in _MARK.finditer(text):
        if match["mark"] == separator:
            parts.append(text[start : match.start()])
            start = match.end()
    return [*parts, text[start:]]


def _item(text: str, where: str) -> Item:
    quoted = re.fullmatch(rf"\s*{_QUOTED}\s*", text)
    if quoted is not None:
        return Item(quoted[1].replace('""', '"').strip(), "name", where)
    return Item(text.strip(), "bare", where)


def _split(text: str, where: str = "") -> list[Item]:
    """Return the items of a SPEC; none for a blank one, UsageError for an empty item."""
    items = [_item(part, where) for part in _parts(text, ",")] if text.strip() else []
    for number, item in enumerate(items, 1):
        if not item.text:
            raise UsageError(f"item {number} of {text!r}{where} is empty", advice=GRAMMAR)
    return items


def _given(part: int | str | SupportsIndex) -> Item:
    """Return the item of a sequence's part; numpy's integers are ids, too."""
    if isinstance(part, str):
        item = _item(part, "")
        if item.text:
            return item
    elif not isinstance(part, bool):
        try:
            return Item(str(operator.index(part)), "id")
        except TypeError:
            pass
    raise UsageError(f"{part!r} is no class to keep", advice="Give ids as int and names as str.")


def _included(items: Iterable[Item]) -> Iterator[Item]:
    """Return the items with those of files in place of ``@file``."""
    for item in items:
        if item.kind != "bare" or not item.text.startswith("@"):
            yield item
            continue
        name = item.text[1:].strip()
        if not name:
            raise UsageError("there is no file name behind the @", advice=GRAMMAR)
        text = read_text(Path(name), "file of classes to keep", advice=GRAMMAR)
        found = list(_of_file(text, name))
        if not found:
            raise UsageError(f"{name!r} names no class", advice=GRAMMAR)
        yield from found


def _of_file(text: str, name: str) -> Iterator[Item]:
    for number, line in enumerate(text.splitlines(), 1):
        where = f" ({name}, line {number})"
        match = _UNCOMMENTED.match(line)
        words = match[0].strip() if match else ""
        for item in _split(words.removesuffix(","), where):
            if item.kind == "bare" and item.text.startswith("@"):
                raise UsageError(
                    f"{item} would read a file from a file",
                    advice="Name its classes here, or put quotes around a name that starts with @.",
                )
            yield item
