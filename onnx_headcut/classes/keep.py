"""SPEC: the words with which a person says which classes to keep, and in which order.

::

    spec  = item {"," item}
    item  = id | id "-" id | name | '"' name '"' | "@" file

Ids are the head's own columns. A number is an id and a name may be written bare, unless that
could mean two different columns (an age group called ``3-5``, a digit called ``7``): then it is
refused until it is put in quotes, which always make it a name; a range of one, ``7-7``, is always
an id. A name in quotes may hold commas, and a quote doubled.
"""

from __future__ import annotations

import difflib
import operator
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, SupportsIndex

from onnx_headcut.classes.names import PRESETS, is_background, read_text
from onnx_headcut.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from onnx_headcut.classes.background import Classes

_QUOTED = r'"((?:[^"]|"")*)"'
_ITEM = re.compile(rf"\s*(?:{_QUOTED}\s*(?=,|\Z)|([^,]*))(,|\Z)")
_IDS = re.compile(r"([0-9]+)(?:\s*-\s*([0-9]+))?")
# Up to a '#' that starts the line or a word: the name C# keeps its own, quotes keep theirs.
_UNCOMMENTED = re.compile(r'(?:"[^"]*"|[^#]|(?<=\S)#)*')
_SHOWN = 10

_GRAMMAR = (
    "Write names and ids separated by commas, ranges such as 1-8, or @FILE with one or more a line."
)


@dataclass(frozen=True)
class _Item:
    """One thing to keep as it was written; ``kind`` bare is for the classes to tell."""

    text: str
    kind: Literal["bare", "name", "id"] = "bare"
    where: str = ""

    def __str__(self) -> str:
        return f"{self.text!r}{self.where}"


def parse_keep(spec: str | Sequence[int | str], classes: Classes) -> tuple[int, ...]:
    """Return the columns to keep in their new order, without the background.

    ``spec`` is a SPEC (see the module), or a sequence in which an int is an id and a string is
    one item, commas and all. The background may be named: it stays whether or not it is. Raises
    UsageError for what is not there, for duplicates, and where nothing is left to keep; InputError
    for a file that cannot be read.
    """
    written = _split(spec) if isinstance(spec, str) else [_given(part) for part in spec]
    items = list(_included(written))
    kept: dict[int, _Item] = {}
    for item in items:
        for column in _columns(item, classes):
            if column == classes.background:
                continue
            if column in kept:
                raise UsageError(
                    f"{classes.name(column)} (column {column}) is to be kept twice: "
                    f"as {kept[column]} and as {item}",
                    advice="Name each class once.",
                )
            kept[column] = item
    if not kept:
        what = "only the background" if items else "no class"
        raise UsageError(f"what to keep names {what}", advice=_GRAMMAR)
    return tuple(kept)


def _split(text: str, where: str = "") -> list[_Item]:
    """Return the items of a SPEC; none for a blank one, UsageError for an empty item."""
    items: list[_Item] = []
    position, more = 0, bool(text.strip())
    while more:
        match = _ITEM.match(text, position)
        assert match is not None  # noqa: S101 - its second branch takes any text
        items.append(_matched(match, where))
        position, more = match.end(), bool(match[3])
    for number, item in enumerate(items, 1):
        if not item.text:
            raise UsageError(f"item {number} of {text!r}{where} is empty", advice=_GRAMMAR)
    return items


def _matched(match: re.Match[str], where: str) -> _Item:
    if match[1] is not None:
        return _Item(match[1].replace('""', '"').strip(), "name", where)
    return _Item(match[2].strip(), "bare", where)


def _given(part: int | str | SupportsIndex) -> _Item:
    """Return the item of a sequence's part; numpy's integers are ids, too."""
    if isinstance(part, str):
        quoted = re.fullmatch(rf"\s*{_QUOTED}\s*()", part)
        item = _matched(quoted, "") if quoted else _Item(part.strip())
        if item.text:
            return item
    elif not isinstance(part, bool):
        try:
            return _Item(str(operator.index(part)), "id")
        except TypeError:
            pass
    raise UsageError(f"{part!r} is no class to keep", advice="Give ids as int and names as str.")


def _included(items: Iterable[_Item]) -> Iterable[_Item]:
    """Return the items with those of files in place of ``@file``."""
    for item in items:
        if item.kind != "bare" or not item.text.startswith("@"):
            yield item
            continue
        name = item.text[1:].strip()
        if not name:
            raise UsageError("there is no file name behind the @", advice=_GRAMMAR)
        text = read_text(Path(name), "file of classes to keep", advice=_GRAMMAR)
        found = list(_of_file(text, name))
        if not found:
            raise UsageError(f"{name!r} names no class", advice=_GRAMMAR)
        yield from found


def _of_file(text: str, name: str) -> Iterable[_Item]:
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


def _columns(item: _Item, classes: Classes) -> Sequence[int]:
    """Return the columns that an item means, one of them but for a range."""
    named = [] if item.kind == "id" else _exact(item.text, classes)
    ids = None if item.kind == "name" else _ids(item, classes, known=bool(named))
    if ids is None:
        return [_by_name(item, named, classes)]
    if named and named != list(ids):
        raise UsageError(
            f"{item} is a name (column {_listed(named)}) and also reads as ids",
            advice=f'Write the name in quotes, "{item.text}", or the id {ids[0]} as the range '
            f"{ids[0]}-{ids[0]}.",
        )
    return ids


def _exact(text: str, classes: Classes) -> list[int]:
    return [column for column, name in enumerate(classes.names) if name == text]


def _ids(item: _Item, classes: Classes, *, known: bool) -> range | None:
    """Return an item's ids, or None if it is none; ``known`` names need not be valid ids."""
    match = _IDS.fullmatch(item.text)
    if match is None:
        if item.kind == "id" or re.fullmatch(r"-[0-9]+", item.text):
            raise _outside(item, classes)
        return None
    # Compared by length first: int() refuses numbers of many thousand digits.
    longest = len(str(classes.count))
    first, last = (digits.lstrip("0") or "0" for digits in (match[1], match[2] or match[1]))
    if max(len(first), len(last)) <= longest and int(first) <= int(last) < classes.count:
        return range(int(first), int(last) + 1)
    if known:
        return None
    if max(len(first), len(last)) <= longest and int(last) < int(first):
        raise UsageError(
            f"the range {item} runs backwards",
            advice=f"Write {last}-{first}, or list the ids in the order that they shall have.",
        )
    raise _outside(item, classes)


def _outside(item: _Item, classes: Classes) -> UsageError:
    return UsageError(
        f"there is no class {item}: the head's ids are 0 to {classes.count - 1}",
        advice="`onnx-headcut inspect` lists them with their names.",
    )


def _by_name(item: _Item, named: list[int], classes: Classes) -> int:
    if not named and classes.background is not None and is_background(item.text):
        return classes.background
    if not named:  # case matters only where it tells two names apart
        folded = item.text.casefold()
        named = [i for i, name in enumerate(classes.names) if name and name.casefold() == folded]
    if len(named) == 1:
        return named[0]
    if named:
        raise UsageError(
            f"{item} is the name of {len(named)} columns: {_listed(named)}",
            advice="Say which by its id.",
        )
    raise _unknown(item, classes)


def _listed(columns: Sequence[int]) -> str:
    shown = ", ".join(map(str, columns[:_SHOWN]))
    return f"{shown}, ..." if len(columns) > _SHOWN else shown


def _unknown(item: _Item, classes: Classes) -> UsageError:
    ids = f"ids 0 to {classes.count - 1}"
    if not classes.names:
        return UsageError(
            f"there is no class {item}: the model's class names are not known",
            advice=f"Use {ids}, or give the names by --labels (a file, or a preset: "
            f"{', '.join(PRESETS)}).",
        )
    names = {name.casefold(): name for name in classes.names if name}
    near = [names[key] for key in difflib.get_close_matches(item.text.casefold(), names)]
    if near:
        advice = f"The nearest names: {', '.join(near)}."
    else:
        shown = ", ".join(list(names.values())[:_SHOWN])
        advice = f"There are {ids}, named {shown}{', ...' if len(names) > _SHOWN else ''}."
    return UsageError(f"there is no class {item} in the names ({classes.names_why})", advice=advice)
