"""Classes: which column is the background and what the others are called, from all evidence."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from onnx_headcut.classes.mapping import ClassMap
from onnx_headcut.classes.names import (
    BACKGROUND,
    PRESETS,
    Entries,
    Names,
    is_background,
    is_gap,
)
from onnx_headcut.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx_headcut.labels import Activation

_SAY_WHICH = (
    "Say --background first (SSD, torchvision), last (Detectron2, DETR), none (every column is a "
    "class), or the background's column."
)


@dataclass(frozen=True)
class Classes:
    """What the columns of the class axis mean.

    ``names`` has one entry a column: ``background`` at the background, None where a column has no
    name; it is ``()`` when no name is known. The ``_why`` fields are sentences for tables.
    """

    count: int
    background: int | None
    background_why: str
    background_assumed: bool
    names: tuple[str | None, ...] = ()
    names_why: str = "unknown"

    def name(self, column: int) -> str:
        """How messages call a column: by its name if it has one."""
        if column == self.background:
            return BACKGROUND
        return (self.names[column] if self.names else None) or f"class {column}"

    def columns(self, keep: Sequence[int]) -> tuple[int, ...]:
        """Return the source columns of the cut model in their order, the background included.

        The background keeps its side of the kept classes: first stays first, last stays last.
        """
        if self.background is None:
            return tuple(keep)
        before = sum(column < self.background for column in keep)
        return (*keep[:before], self.background, *keep[before:])

    def map_of(self, keep: Sequence[int]) -> ClassMap:
        """Return the class map that keeps ``keep``, given without the background."""
        return ClassMap.of_columns(self.columns(keep), self.count, self.background)

    def cut(self, keep: Sequence[int]) -> Classes:
        """Return what the columns mean after a cut to ``keep``, given without the background."""
        return self.mapped(self.map_of(keep))

    def mapped(self, class_map: ClassMap) -> Classes:
        """Return what the columns mean after a cut by ``class_map``."""
        old = self.names or (None,) * self.count
        names = tuple(old[row.template] if row.name is None else row.name for row in class_map.rows)
        known = bool(self.names) or any(names)
        if known and class_map.new_background is not None:
            at = class_map.new_background
            names = (*names[:at], BACKGROUND, *names[at + 1 :])
        return replace(
            self,
            count=len(class_map.rows),
            background=class_map.new_background,
            names=names if known else (),
        )


@dataclass(frozen=True)
class Evidence:
    """What the graph, or the record of a former cut, shows of the background.

    ``column`` is the background's, or None where there is shown to be none; ``why`` is a sentence
    such as "the graph drops column 0 by Slice node 'x'".
    """

    column: int | None
    why: str


@dataclass(frozen=True)
class _Claim:
    column: int | None
    why: str
    assumed: bool = False


UNKNOWN = "not known"
"""How the reason of a background begins that is left open."""


def resolve(
    count: int,
    *,
    names: Names | None = None,
    background: str | int | None = None,
    activation: Activation,
    evidence: Evidence | None = None,
    unsure: bool = False,
) -> Classes:
    """Say what ``count`` columns mean, from the strongest evidence down.

    ``background`` is what the person said: first, last, none or a column. Then come the names
    (one of them is the background, or they are one fewer than the columns), the graph's
    ``evidence``, and the activation; a softmax without more evidence has its background first, as
    SSD has, which is marked as assumed. Raises UsageError where evidence is missing or
    contradicts itself, and where names and columns differ by more than the background; with
    ``unsure``, missing evidence leaves the background open.
    """
    claim = None if background is None else _declared(background, count)
    if names is None:
        claim = claim or _shown(evidence, count) or _unlabelled(activation, unsure=unsure)
        return Classes(count, claim.column, claim.why, claim.assumed)
    _refuse_two_backgrounds(names)
    claim = claim or _labelled(names, count, activation, _shown(evidence, count))
    placed = _place(names, count, claim.column)
    if placed is None:
        raise _mismatch(names, count, claim)
    known = any(name for column, name in enumerate(placed) if column != claim.column)
    return Classes(
        count,
        claim.column,
        claim.why,
        claim.assumed,
        placed if known else (),
        names.source if known else "unknown",
    )


def _declared(background: str | int, count: int) -> _Claim:
    said = str(background).strip().casefold()
    why = f"declared by --background {said}"
    if said in {"first", "last", "none"}:
        return _Claim({"first": 0, "last": count - 1, "none": None}[said], why)
    if re.fullmatch("[0-9]{1,9}", said) and int(said) < count:
        return _Claim(int(said), why)
    raise UsageError(
        f"--background {background!s} is not one of the head's columns, 0 to {count - 1}",
        advice=_SAY_WHICH,
    )


def _shown(evidence: Evidence | None, count: int) -> _Claim | None:
    if evidence is None:
        return None
    if evidence.column is not None and not 0 <= evidence.column < count:
        raise UsageError(
            f"{evidence.why}: there is no column {evidence.column} among {count}",
            advice=_SAY_WHICH,
        )
    return _Claim(evidence.column, evidence.why)


def _unlabelled(activation: Activation, *, unsure: bool = False) -> _Claim:
    if activation == "softmax":
        return _Claim(0, "assumed: SSD convention", assumed=True)
    if activation == "sigmoid":
        return _Claim(None, "sigmoid scores")
    if unsure:
        return _Claim(None, f"{UNKNOWN}: the scores do not show it; a cut asks for --background")
    raise UsageError(
        "raw scores, a softmax times an objectness, and one over rows or for a whole picture do not "
        "show which column is the background",
        advice=f"{_SAY_WHICH} Class names by --labels can tell, too.",
    )


def _refuse_two_backgrounds(names: Names) -> None:
    ids = _backgrounds(names)
    if len(ids) > 1:
        called = ", ".join(f"{names.entries[i]!r} (id {i})" for i in ids)
        raise UsageError(
            f"{names.source} names more than one background: {called}",
            advice="Give corrected names by --labels, or --labels none to go by ids.",
        )


def _backgrounds(names: Names) -> list[int]:
    if names.recorded:
        return [i for i, name in enumerate(names.entries) if name == BACKGROUND]
    return [i for i, name in enumerate(names.entries) if is_background(name)]


def _labelled(names: Names, count: int, activation: Activation, shown: _Claim | None) -> _Claim:
    """Say what the names tell of the background, with the graph where they leave a choice."""
    named = _named(names, count, activation)
    if named is not None:
        if shown is not None and shown.column != named.column:
            raise UsageError(
                f"{_says(named.column)} by {names.source}, but {_says(shown.column)} by the graph "
                f"({shown.why})",
                advice=f"{_SAY_WHICH} Where the names are wrong, give others by --labels.",
            )
        return named
    fewer = count - len(names.entries)
    if shown is not None:
        said = f"one label fewer than columns; {shown.why}" if fewer == 1 else shown.why
        return _Claim(shown.column, said)
    if fewer == 1:
        return _one_fewer(names, count, activation)
    if fewer == 0 and is_gap(names.entries[0]):
        return _Claim(0, "labels leave column 0 to it", assumed=activation == "sigmoid")
    if _place(names, count, None) is None:
        raise _mismatch(names, count)
    return _Claim(None, "labels name every column", assumed=activation != "sigmoid")


def _named(names: Names, count: int, activation: Activation) -> _Claim | None:
    """Say what a name for the background, or the record of a former cut, tells beyond doubt."""
    ids, last = _backgrounds(names), len(names.entries) - 1
    if names.recorded:
        return _Claim(ids[0] if ids else None, names.source)
    if ids and last + 1 == count:
        return _Claim(ids[0], "labels name it")
    if ids and last == count and ids[0] in {0, last}:
        # All columns are taken by the other names: it was left out before the head.
        return _Claim(None, "labels' background has no column", assumed=activation != "sigmoid")
    return None


def _one_fewer(names: Names, count: int, activation: Activation) -> _Claim:
    if _backgrounds(names):
        raise _mismatch(names, count)
    if activation == "none" or is_gap(names.entries[0]):
        # The wrong end would shift every name by one, and no validation could notice.
        what = "the scores do not show which" if activation == "none" else "id 0 has no name either"
        raise UsageError(
            f"{len(names.entries)} ids in {names.source} for {count} columns: one column is the "
            f"background, but {what}",
            advice=_SAY_WHICH,
        )
    return _Claim(0, "one label fewer than columns; assumed first: SSD convention", assumed=True)


def _place(names: Names, count: int, background: int | None) -> Entries | None:
    """Return the names by columns, or None where they do not fit ``count`` and ``background``.

    Ids are columns, or are shifted by one where a background is missing from the names, or
    where the names count from 1 and the columns do not.
    """
    for option in _options(names, background):
        if len(option) == count and _agrees(names, option, background):
            return tuple(
                BACKGROUND if column == background else name for column, name in enumerate(option)
            )
    return None


def _options(names: Names, background: int | None) -> list[Entries]:
    entries = names.entries
    if names.recorded:
        return [entries]
    options = [entries]
    open_first, ids = is_gap(entries[0]), _backgrounds(names)
    if background is None and (open_first or ids == [0]):
        options.append(entries[1:])
    if background is None and ids == [len(entries) - 1]:
        options.append(entries[:-1])
    # In front of an open id 0 there is no place for it: id 0 would be that place.
    if background is not None and not ids and not (open_first and background == 0):
        options.append(_inserted(entries, background))
    if background is not None and entries[0] is None:
        options.append(_inserted(entries[1:], background))
    return options


def _inserted(entries: Entries, background: int) -> Entries:
    return (*entries[:background], BACKGROUND, *entries[background:])


def _agrees(names: Names, option: Entries, background: int | None) -> bool:
    for column, name in enumerate(option):
        called = name == BACKGROUND if names.recorded else is_background(name)
        if column == background and not (called or is_gap(name)):
            return False
        if column != background and called:
            return False
    return True


def _mismatch(names: Names, count: int, claim: _Claim | None = None) -> UsageError:
    """Return the error for names that do not fit: by their number, or by the background."""
    number = len(names.entries) - is_gap(names.entries[0])
    where = f"; {_says(claim.column)} ({claim.why})" if claim else ""
    fitting = [
        preset
        for preset, entries in PRESETS.items()
        if any(
            _place(Names(entries, preset), count, column) is not None for column in (0, count - 1, None)
        )
    ]
    return UsageError(
        f"{number} names ({names.source}) do not fit the head's {count} columns{where}",
        advice=(
            f"Names must be {count}, or {count - 1} without a background, and agree with "
            "--background. Give such names by --labels"
            + (f" (the preset {' or '.join(fitting)} has that many)" if fitting else "")
            + ", or --labels none to go by ids."
        ),
    )


def _says(column: int | None) -> str:
    return "there is no background" if column is None else f"the background is column {column}"
