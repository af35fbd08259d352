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
from typing import Any, Literal

import numpy as np

NONE = -1

Ints = np.ndarray[Any, np.dtype[np.int64]]
Array = np.ndarray[Any, np.dtype[Any]]
Activation = Literal["softmax", "sigmoid", "none"]


@dataclass(frozen=True)
class Site:
    """A tensor of the main graph where classes are *defined*: the scores before their activation.

    ``ids[i]`` is the source class at position ``i`` of ``axis`` (non-negative), or ``NONE``.
    A site says nothing of how the scores came there nor of what happens behind: validation masks
    and excites classes here, and shares nothing else with the cutter.
    """

    value: str
    axis: int
    ids: tuple[int, ...]
    activation: Activation


@dataclass(frozen=True)
class Selection:
    """The cut as a map of columns: new column ``j`` is source column ``order[j]``.

    ``order`` contains the background's column where the model has one; ``count`` is the number of
    source columns.
    """

    order: tuple[int, ...]
    count: int

    @cached_property
    def column(self) -> dict[int, int]:
        """New column by source class."""
        return {c: j for j, c in enumerate(self.order)}

    @property
    def identity(self) -> bool:
        """Whether nothing is dropped and nothing moves."""
        return self.order == tuple(range(self.count))

    def take(self, ids: Ints) -> Ints:
        """Old positions, in their new order, of an axis whose positions carry ``ids``.

        The work is on the (anchor, class) grid, whatever its layout: a position's *slot* is the
        rank of its class among the kept ones present; slot ``r`` is filled with the ``r``-th class
        of the new order, from the same occurrence (anchor). Positions without a class stay.
        Raises ValueError where kept classes occur unequally often and the order changes.
        """
        there = set(np.unique(ids).tolist())
        present = [c for c in self.order if c in there]
        kept = np.flatnonzero(np.isin(ids, [NONE, *present]))
        slots = sorted(present)
        if slots == present:
            return kept
        places = {c: np.flatnonzero(ids == c) for c in present}
        if len({len(p) for p in places.values()}) != 1:
            msg = "the kept classes occur unequally often on this axis, so they cannot be reordered"
            raise ValueError(msg)
        source = np.arange(len(ids))
        for slot, cls in zip(slots, present, strict=True):
            source[places[slot]] = places[cls]
        result: Ints = source[kept]
        return result


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

    ``apart`` says that class numbers themselves entered the values (boxes moved apart by
    label x extent for a batched NMS): they may only be compared with one another.
    """

    apart: bool = False


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
    ``direct`` says that the tensor is the table itself, position by position.
    """

    ids: Ints = field(compare=False)
    take: Ints = field(compare=False)
    old: Array = field(compare=False)
    options: tuple[Option, ...] = field(compare=False)
    origin: str = ""
    direct: bool = False


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
