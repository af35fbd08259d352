"""Labels: which source class each position of an axis carries, and the selection of a cut.

A *label* is the source class's column on the class axis (an int >= 0), or ``NONE`` for a position
that belongs to no class: a box coordinate, an objectness score, an anchor. numpy only.

A tensor behind a head is in one of these states, called its *mark*:

=============  =====================================================================================
no mark        independent of classes
`Labels`       positions of one static axis belong to classes
`Whole`        the whole tensor belongs to one class (an unrolled per-class branch)
`Rows`         depends on scores of several classes, along no static axis: detections as found
`Lookup`       its *values* are numbers that know the classes: ids, flat (box, class) indices
`PerIteration` in a Loop over classes: known for every iteration
`Columns`      positions of one axis have marks of their own: NonMaxSuppression's index triples
=============  =====================================================================================
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal

import numpy as np

NONE = -1

REMEMBERED = 1 << 16
"""Positions of an axis up to which a selection remembers what it takes of them."""

Ints = np.ndarray[Any, np.dtype[np.int64]]
Array = np.ndarray[Any, np.dtype[Any]]
Activation = Literal["softmax", "sigmoid", "none"]


@dataclass(frozen=True)
class Site:
    """A tensor of the main graph where classes are *defined*: the scores before their activation.

    ``ids[i]`` is the source class at position ``i`` of ``axis`` (non-negative), or ``NONE``.
    A site says nothing of how the scores came there nor of what happens behind: validation masks
    and excites classes here, and shares nothing else with the cutter.

    With ``exact`` scores, classes are defined behind the activation: these are its results, and
    what leads from one site to another is left as it is.
    """

    value: str
    axis: int
    ids: tuple[int, ...]
    activation: Activation
    exact: bool = False


@dataclass(frozen=True)
class Selection:
    """The cut as a map of columns: new column ``j`` is source column ``order[j]``.

    ``order`` contains the background's column where the model has one; ``count`` is the number of
    source columns. A source column may stand there twice (repetition, new classes): its copies
    are told apart by their new columns, see `copies` and `columns_at`.
    """

    order: tuple[int, ...]
    count: int

    @cached_property
    def column(self) -> dict[int, int]:
        """New column by source class; of a repeated class the last."""
        return {c: j for j, c in enumerate(self.order)}

    @cached_property
    def repeated(self) -> frozenset[int]:
        """Source classes that stand in several new columns."""
        return frozenset(c for c in self.order if self.order.count(c) > 1)

    @cached_property
    def identity(self) -> bool:
        """Whether nothing is dropped and nothing moves."""
        return self.order == tuple(range(self.count))

    def take(self, ids: Ints) -> Ints:
        """Old positions, in their new order, of an axis whose positions carry ``ids``.

        The work is on the (anchor, class) grid, whatever its layout: a position's *slot* is the
        rank of its class among the kept ones present; slot ``r`` is filled with the ``r``-th class
        of the new order, from the same occurrence (anchor). Positions without a class stay.
        Further copies of a class stand behind the slot of the column before them.
        Raises ValueError where kept classes occur unequally often and the order changes.
        """
        key = ids.dtype.char, ids.tobytes() if len(ids) <= REMEMBERED else None
        if key in self._known:
            return self._known[key]
        taken = self._take(ids)
        taken.flags.writeable = False
        if key[1] is not None:
            self._known[key] = taken
        return taken

    @cached_property
    def _known(self) -> dict[tuple[str, bytes | None], Ints]:
        """What `take` gave, by dtype and bytes of the ids: many tensors carry the same."""
        return {}

    def _take(self, ids: Ints) -> Ints:
        if self.identity:
            return np.arange(len(ids))
        there = set(np.flatnonzero(np.bincount(ids[ids != NONE])).tolist())
        if self.repeated & there:
            return self._repeat(ids, there)
        present = [c for c in self.order if c in there]
        stays = np.zeros(max([self.count, *there]) + 2, np.bool_)
        stays[[NONE, *present]] = True  # NONE is the last one
        kept = np.flatnonzero(stays[ids])
        slots = sorted(present)
        if slots == present:
            return kept
        classes = ids[kept]
        if len(set(np.bincount(classes[classes != NONE])[slots].tolist())) != 1:
            msg = "the kept classes occur unequally often on this axis, so they cannot be reordered"
            raise ValueError(msg)
        by_class = kept[np.argsort(classes, kind="stable")]
        grid = by_class[np.count_nonzero(classes == NONE) :].reshape(len(slots), -1)  # (class, anchor)
        source = np.arange(len(ids))
        source[grid] = grid[np.searchsorted(slots, present)]
        result: Ints = source[kept]
        return result

    def _repeat(self, ids: Ints, there: set[int]) -> Ints:
        """`take` with copies: behind one position (a·C + k), or a whole run of anchors (k·A + a)."""
        present = [c for c in self.order if c in there]
        places = {c: np.flatnonzero(ids == c) for c in there if c != NONE}
        if len({len(places[c]) for c in present}) != 1:
            msg = "the kept classes occur unequally often on this axis, so they cannot be repeated"
            raise ValueError(msg)
        anchors = len(places[present[0]])
        runs = anchors > 1 and _in_runs(places)
        slots = iter(sorted(set(present)))
        entries = [((int(p), 0, 0), int(p)) for p in np.flatnonzero(ids == NONE)]
        seen, at = set[int](), places[present[0]]
        for number, cls in enumerate(present):
            copy = number if cls in seen else 0
            if not copy:
                at = places[next(slots)]
                seen.add(cls)
            for a, position in enumerate(places[cls].tolist()):
                behind = int(at[-1] if runs and copy else at[a])
                entries.append(((behind, copy, a), position))
        return np.array([position for _, position in sorted(entries)], np.int64)

    def columns_at(self, ids: Ints, take: Ints) -> Ints:
        """New column of each new position, which was position ``take[q]`` with class ``ids``."""
        classes = ids[take]
        if not self.repeated:
            table = np.full(max(self.column, default=0) + 3, NONE)
            table[list(self.column)] = list(self.column.values())
            found: Ints = table[np.clip(classes, NONE, len(table) - 2)]  # the last two are NONE
            return found
        columns = {c: [j for j, d in enumerate(self.order) if d == c] for c in set(self.order)}
        return np.array(
            [columns[int(c)][k % len(columns[int(c)])] if c != NONE else NONE
             for c, k in zip(classes, copies(take), strict=True)], np.int64,
        )  # fmt: skip


def _in_runs(places: dict[int, Ints]) -> bool:
    """Whether all anchors of a class stand side by side (k·A + a), rather than its classes."""

    def apart(parts: list[Ints]) -> bool:
        ordered = sorted(parts, key=lambda p: int(p.min()))
        return all(a.max() < b.min() for a, b in pairwise(ordered))

    found = list(places.values())
    by_class, alike = apart(found), len({len(p) for p in found}) == 1
    by_anchor = alike and apart([np.array(p) for p in zip(*found, strict=True)])
    if by_class == by_anchor:
        msg = "nothing shows how anchors and classes share this axis, so no class can be repeated"
        raise ValueError(msg)
    return by_class


def copies(take: Ints) -> Ints:
    """Of each new position, how many before it are copies of the same old one."""
    result = np.zeros(len(take), np.int64)
    if np.bincount(take).max(initial=0) <= 1:
        return result
    seen: dict[int, int] = {}
    for q, p in enumerate(take.tolist()):
        result[q] = seen[p] = seen.get(p, -1) + 1
    return result


def told_apart(numbers: Array, take: Ints, axis: int, size: int) -> Array:
    """Positions ``take`` of element numbers below ``size``, with copies numbered anew.

    Negative numbers stand for no element and stay.
    """
    taken = numbers.take(take, axis)
    ranks = copies(take)
    if not ranks.any():
        return taken
    shape = [1] * taken.ndim
    shape[axis] = len(take)
    return np.where(taken < 0, taken, taken.astype(np.int64) + size * ranks.reshape(shape))


@dataclass(frozen=True)
class Mark:
    """Base of what a tensor's dependence on classes can be."""


@dataclass(frozen=True)
class Labels(Mark):
    """Positions of ``axis`` carry the classes ``ids`` (int64, one per position)."""

    axis: int
    ids: Ints = field(compare=False)

    def same(self, other: Mark | None) -> bool:
        """Equality by value."""
        return (
            isinstance(other, Labels)
            and self.axis == other.axis
            and np.array_equal(self.ids, other.ids)
        )


@dataclass(frozen=True)
class Whole(Mark):
    """All of the tensor belongs to class ``cls``; it goes when the class goes."""

    cls: int


@dataclass(frozen=True)
class Rows(Mark):
    """Depends on several classes' scores along no static axis; fewer rows need no edit.

    ``apart`` names the tensor in which class numbers entered the values (boxes moved apart by
    label x extent for a batched NMS): they may only be compared with one another. ``paired``: class
    numbers entered by their differences alone, from one row to another. ``stacked``: a loop over
    classes put them side by side, so that their places know the classes; ``places``: the values
    are such places, and may only pick rows out of what was stacked.
    """

    apart: str = ""
    stacked: bool = False
    places: bool = False
    paired: bool = False

    @property
    def numbered(self) -> bool:
        """Whether class numbers entered the values."""
        return bool(self.apart) or self.paired


@dataclass(frozen=True)
class Option:
    """One way a `Lookup`'s new values may come out.

    ``edits`` make them so; ``left`` are the keys of places that must then stay as they are.
    """

    new: Array
    edits: tuple[Any, ...] = ()
    left: frozenset[Any] = frozenset()


@dataclass(frozen=True)
class Lookup(Mark):
    """Every element is ``old[p]`` for some position ``p`` of an axis that carries ``ids``.

    In the cut graph it is ``new[q]`` for a position ``q`` of the shortened axis, and that was
    position ``take[q]``: such are the indices from TopK or ArgMax over classes, the class column
    of NonMaxSuppression, label constants of per-class branches, and whatever is computed from
    them one by one. A position with id ``NONE`` stands for a filler (padding). Several ``options``
    are open until a use decides between them. Values may be combined where ``origin`` is the same;
    ``direct`` says that the tensor is the table itself, position by position; ``step`` is the scale
    of a quantizer that rounded the values, or 0.
    """

    ids: Ints = field(compare=False)
    take: Ints = field(compare=False)
    old: Array = field(compare=False)
    options: tuple[Option, ...] = field(compare=False)
    origin: str = ""
    direct: bool = False
    step: float = 0.0


@dataclass(frozen=True)
class IteratedOption:
    """One way a `PerIteration` value may come out; ``edits`` and ``left`` as for `Option`."""

    new: tuple[Array, ...]
    edits: tuple[Any, ...] = ()
    left: frozenset[Any] = frozenset()


@dataclass(frozen=True)
class PerIteration(Mark):
    """In a Loop over classes: the tensor's whole value in each iteration.

    Iteration ``p`` works on class ``ids[p]``; after the cut, iteration ``q`` is the one that was
    ``take[q]``. ``old[p]`` and ``option.new[q]`` are complete values of the tensor.
    """

    ids: Ints = field(compare=False)
    take: Ints = field(compare=False)
    old: tuple[Array, ...] = field(compare=False)
    options: tuple[IteratedOption, ...] = field(compare=False)


@dataclass(frozen=True)
class Columns(Mark):
    """Position ``i`` of ``axis`` has mark ``marks[i]``."""

    axis: int
    marks: tuple[Mark | None, ...] = field(compare=False)
