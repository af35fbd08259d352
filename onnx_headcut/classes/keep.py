"""Which columns a person means, and what the new ones are made of: SPEC with the classes known.

Ids are the head's own columns. A number is an id and a name may be written bare, unless that
could mean two different columns (an age group called ``3-5``, a digit called ``7``): then it is
refused until it is put in quotes, which always make it a name; a range of one, ``7-7``, is always
an id. A name in quotes may hold commas, and a quote doubled. An item that is a class's name as a
whole is that class, whatever it holds (``a=b``, ``random 3``). The grammar is in `spec`.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field
from itertools import chain, count, repeat
from typing import TYPE_CHECKING

import numpy as np

from onnx_headcut.classes.mapping import ClassMap, Row, Start, row_of
from onnx_headcut.classes.names import PRESETS, is_background
from onnx_headcut.classes.spec import GRAMMAR, Assigned, Item, New, assigned, items_of
from onnx_headcut.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from onnx_headcut.classes.background import Classes

_IDS = re.compile(r"([0-9]+)(?:\s*-\s*([0-9]+))?")
_RANDOM = re.compile(r"random\s+([0-9]{1,6})")
_SHOWN = 10


def parse_keep(spec: str | Sequence[int | str], classes: Classes) -> tuple[int, ...]:
    """Columns of a SPEC that keeps classes as they are, in their new order, without the background.

    As `parse_map`, for those who can do with columns. Raises UsageError for other maps, too.
    """
    found = parse_map(spec, classes)
    if any(not row.plain for row in found.rows):
        raise UsageError("only classes as they are can be kept here, not merged or new ones")
    return tuple(c for c in found.order if c != classes.background)


def parse_map(spec: str | Sequence[int | str], classes: Classes, *, seed: int = 0) -> ClassMap:
    """The class map that a SPEC says, the background in it.

    ``spec`` is a SPEC (see `spec`), or a sequence in which an int is an id and a string is one
    item, commas and all. The background may be named: it stays whether or not it is. ``seed`` is
    for ``random N`` and for new weights. Raises UsageError for what is not there or contradicts
    itself, and where nothing is left to keep; InputError for a file that cannot be read.
    """
    items = items_of(spec)
    reader = _Reader(classes, seed)
    reader.listen(items)
    for item in items:
        reader.read(item)
    reader.check()
    if not (reader.entries or reader.draws):
        what = "only the background" if items else "no class"
        raise UsageError(f"what to keep names {what}", advice=GRAMMAR)
    return reader.map()


@dataclass(frozen=True)
class _Entry:
    """A row with how it was written; its template is None until the default is known."""

    row: Row
    item: Item
    alone: bool = True
    template: bool = True
    said: bool = False


@dataclass
class _Reader:
    """Reads items into rows, one by one, and then looks at them together."""

    classes: Classes
    seed: int
    entries: list[_Entry] = field(default_factory=list)
    draws: list[tuple[int, int, Item]] = field(default_factory=list)
    named: set[str] = field(default_factory=set)
    """Names that the SPEC itself gives."""

    def listen(self, items: Sequence[Item]) -> None:
        """Note the names that items give, so that none is made of another."""
        made = [assigned(i) for i in items if i.kind == "bare" and not _exact(i.text, self.classes)]
        self.named = {m.name.text for m in made
                      if m is not None and not self._named(m.name) and not _is_id(m.name)}  # fmt: skip

    def read(self, item: Item) -> None:
        """Read one item: columns, a draw, or something made."""
        if item.kind == "bare" and not _exact(item.text, self.classes):
            draw = _RANDOM.fullmatch(item.text)
            if draw is not None:
                self.draws.append((len(self.entries), int(draw[1]), item))
                return
            made = assigned(item)
            if made is not None:
                self._made(item, made)
                return
        columns = _columns(item, self.classes)
        for column in columns:
            if column != self.classes.background:
                self.entries.append(_Entry(row_of(column), item, alone=len(columns) == 1))

    def _made(self, item: Item, made: Assigned) -> None:
        if made.new is not None:
            self._new(item, made.name, made.new)
            return
        members = self._members(item, made.members)
        self._check_name(item, made.name, members)
        weight = 1 / len(members)
        itself = self._is(made.name, members[0]) or self._is_kept(made.name, members)
        name = None if itself else made.name.text
        row = Row(members[0], tuple((c, weight) for c in members), name=name,
                  merged=len(members) > 1)  # fmt: skip
        self.entries.append(_Entry(row, item, said=True))

    def _new(self, item: Item, name: Item, new: New) -> None:
        known = self._existing(name)
        if self.classes.background in known or _is_background(name, self.classes):
            raise UsageError(
                f"{item}: the background cannot start anew",
                advice="It stays by itself; --fit-background makes it stand for dropped classes.",
            )
        members = self._members(item, new.of, new=True) if new.of else ()
        start = None if members else Start("zeros" if new.kind == "zeros" else "normal", new.std)
        terms = tuple((c, 1 / len(members)) for c in members)
        for column in known or [members[0] if members else -1]:
            row = Row(column, terms, start, None if known else name.text, grown=bool(members))
            self.entries.append(_Entry(row, item, template=column >= 0, said=True))

    def _existing(self, name: Item) -> Sequence[int]:
        """Columns of classes that are to start anew; none for the name of a new class."""
        if _is_id(name):
            return _columns(name, self.classes)
        return self._named(name)

    def _named(self, name: Item) -> list[int]:
        folded = name.text.casefold()
        exact = _exact(name.text, self.classes)
        return exact or [i for i, n in enumerate(self.classes.names) if n and n.casefold() == folded]

    def _members(self, item: Item, members: Sequence[Item], *, new: bool = False) -> list[int]:
        circle = next((m for m in members if m.text in self.named and not self._named(m)), None)
        if circle is not None:
            raise UsageError(
                f"{item}: {circle.text!r} is a name that this SPEC gives, and no class of the model",
                advice="Name what it is made of: a map is made of the model's own classes.",
            )
        columns = [c for member in members for c in _columns(member, self.classes)]
        if self.classes.background in columns:
            raise UsageError(
                f"{item} copies the background" if new else f"{item} merges across the background",
                advice="The background stays by itself; name classes of objects only.",
            )
        if len(set(columns)) < len(columns):
            raise UsageError(f"{item} names a class twice", advice="Name each member once.")
        return columns

    def _is(self, name: Item, column: int) -> bool:
        return bool(self.classes.names) and self.classes.names[column] == name.text

    def _is_kept(self, name: Item, members: Sequence[int]) -> bool:
        """Whether it says ``3=3``: the class as it is, of a model without names."""
        alone = len(members) == 1 and name.text == str(members[0])
        return alone and _is_id(name) and not self._named(name)

    def _check_name(self, item: Item, name: Item, members: Sequence[int]) -> None:
        if _is_id(name) and not self._named(name) and not self._is_kept(name, members):
            raise UsageError(
                f"{item}: {name.text!r} reads as an id, not as a new name",
                advice=f'Put a name of digits in quotes: "{name.text}"=...',
            )
        if _is_background(name, self.classes):
            raise UsageError(f"{item}: no class can be called as the background is")
        others = [c for c in self._named(name) if c not in members]
        if others:
            raise UsageError(
                f"{item}: {name.text!r} is the name of another class already "
                f"(column {_listed(others)}), so that the names would run in a circle",
                advice="Choose a name that no class has, or name that class among the members.",
            )

    # -- all together

    def check(self) -> None:
        """Refuse what is written twice without having been said."""
        self._check_ranges()
        merged = {c: e for e in self.entries if e.row.merged for c in e.row.members}
        for entry in self.entries:
            column = entry.row.template
            if column in merged and not entry.said and entry.row.plain:
                name, said = self.classes.name(column), entry.item.text
                raise UsageError(
                    f"{name} (column {column}) is kept as {entry.item} and is also a member of "
                    f"{merged[column].item}",
                    advice=f"Say so, if it is meant: {said}={said} keeps it beside the merge."
                    if entry.alone
                    else "Say so, if it is meant: NAME=NAME keeps it beside the merge.",
                )
        self._check_names()

    def _check_names(self) -> None:
        """One name stands for one thing; the same class several times is one."""
        known: dict[str | int, _Entry] = {}
        for entry in [e for e in self.entries if e.row.name is not None or e.template]:
            row = entry.row
            other = known.setdefault(row.name or row.template, entry)
            same = row.plain and other.row.plain and row.template == other.row.template
            if other is not entry and not same:
                name = row.name or self.classes.name(row.template)
                raise UsageError(
                    f"the name {name!r} is given twice: in {other.item} and in {entry.item}",
                    advice="Give each a name of its own.",
                )

    def _check_ranges(self) -> None:
        """A class is repeated by naming it alone, and more than once; in a range it is a slip."""
        seen: dict[int, _Entry] = {}
        for entry in self.entries:
            column = entry.row.template
            if entry.said or not entry.row.plain:
                continue
            other = seen.setdefault(column, entry)
            if other is not entry and not (other.alone and entry.alone):
                raise UsageError(
                    f"{self.classes.name(column)} (column {column}) is to be kept twice: "
                    f"as {other.item} and as {entry.item}",
                    advice="A class is repeated by naming it twice by itself, not in a range.",
                )

    def map(self) -> ClassMap:
        """The rows, with draws made and the background put on its side."""
        entries = self._drawn()
        free, background = self._places(entries), self.classes.background
        rows = [e.row if e.template else Row(next(free), (), e.row.start, e.row.name)
                for e in entries]  # fmt: skip
        if background is not None:
            before = sum(row.template < background for row in rows)
            rows.insert(before, row_of(background))
        return ClassMap(tuple(rows), self.classes.count, background, self.seed)

    def _places(self, entries: Sequence[_Entry]) -> Iterator[int]:
        """Templates of new classes that name none: one dropped class each, then a kept one's.

        In a dropped class's place a new one has branches and label ids that no other class has.
        """
        taken = [e.row.template for e in entries if e.template]
        members = {c for e in entries for c in e.row.members}
        objects = [c for c in range(self.classes.count) if c != self.classes.background]
        dropped = [c for c in objects if c not in taken]
        yield from sorted(dropped, key=lambda c: c in members)
        yield from repeat([*taken, *objects][0])

    def _drawn(self) -> list[_Entry]:
        if not self.draws:
            return self.entries  # and numpy's random part, 0.02 s to import, is not needed
        entries = list(self.entries)
        named = {c for e in entries for c in (e.row.template, *e.row.members) if e.template}
        left = [c for c in range(self.classes.count)
                if c != self.classes.background and c not in named]  # fmt: skip
        rng = np.random.default_rng(self.seed)
        for at, number, item in reversed(self.draws):
            if not 0 < number <= len(left):
                raise UsageError(
                    f"{item}: there are {len(left)} classes to draw from"
                    if number
                    else f"{item} draws no class",
                    advice="The background and the classes named beside it are not drawn.",
                )
            drawn = sorted(rng.choice(len(left), number, replace=False).tolist())
            entries[at:at] = [_Entry(row_of(left[k]), item) for k in drawn]
            left = [c for k, c in enumerate(left) if k not in drawn]
        return entries


def _is_id(name: Item) -> bool:
    return name.kind == "bare" and _IDS.fullmatch(name.text) is not None


def _is_background(name: Item, classes: Classes) -> bool:
    return is_background(name.text) and (classes.background is not None or not classes.names)


def _columns(item: Item, classes: Classes) -> Sequence[int]:
    """Return the columns that an item means, one of them but for a range."""
    named = [] if item.kind == "id" else _exact(item.text, classes)
    ids = None if item.kind == "name" else _ids(item, classes, known=bool(named))
    if ids is None:
        return [_by_name(item, named, classes)]
    if named and named != list(ids):
        raise UsageError(
            f"{item} is a name (column {_listed(named)}) and also reads as ids",
            advice=f'Write the name in quotes, "{item.text}", or the {"ids" if len(ids) > 1 else "id"} '
            f"as {_never_a_name(ids, item, classes)}.",
        )
    return ids


def _never_a_name(ids: Sequence[int], item: Item, classes: Classes) -> str:
    """Write the ids as a range that is no class's name; zeros in front mean nothing."""
    padded = ("0" * zeros + item.text for zeros in count(1))
    return next(text for text in chain([f"{ids[0]}-{ids[-1]}"], padded)
                if text != item.text and not _exact(text, classes))  # fmt: skip


def _exact(text: str, classes: Classes) -> list[int]:
    return [column for column, name in enumerate(classes.names) if name == text]


def _ids(item: Item, classes: Classes, *, known: bool) -> range | None:
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


def _outside(item: Item, classes: Classes) -> UsageError:
    return UsageError(
        f"there is no class {item}: the head's ids are 0 to {classes.count - 1}",
        advice="`onnx-headcut inspect` lists them with their names.",
    )


def _by_name(item: Item, named: list[int], classes: Classes) -> int:
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


def _unknown(item: Item, classes: Classes) -> UsageError:
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
