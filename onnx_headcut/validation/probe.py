"""Find out what the numbers of a model's outputs mean, by changing class scores and looking.

Nothing here knows an operator. Scores are set to codes (see ``reference``), and an element of an
output belongs to the class whose code it follows, to no class if nothing moves it, or to several.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from onnx_headcut.labels import NONE
from onnx_headcut.validation.reference import occurrences

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from onnx_headcut.labels import Site

Array = npt.NDArray[Any]
Ints = npt.NDArray[np.int64]
Values = dict[str, Array]

# What an element can be besides a source column (>= 0) or NONE.
DROPPED = -2  # one of the classes that are not kept
MIXED = -3  # several classes at once
SILENT = -4  # zero in every run: a score times an objectness of 0 can show nothing

_CODE = 4.0  # codes are ±4: sigmoid gives 0.98 and 0.02 there, far from saturation in float16
# An answer counts if it exceeds rounding by far and is far below what a code does to any score.
_MOVED = 1e-3
# A masked class stays where it is, but for what a softmax over others takes off its logarithm.
_ALONE = 1e-2


@dataclass(frozen=True)
class Columns:
    """The source columns of a model's class axis: how many, and which are kept in which order.

    ``background`` is the "no object" column where it is known; it need not be among the kept ones.
    Where a class map is looked at in parts (see ``mapped``), a cut has ``extra`` labels from
    ``total`` on, for columns that are not in the part, and ``new`` are the part's columns in it.
    """

    total: int
    order: tuple[int, ...]
    background: int | None = None
    extra: int = 0
    new: tuple[int, ...] = ()

    @property
    def width(self) -> int:
        """How many labels there are."""
        return self.total + self.extra

    @property
    def dropped(self) -> tuple[int, ...]:
        """The columns that are cut away, or are not looked at."""
        return tuple(sorted(set(range(self.width)) - set(self.order)))

    def place(self, column: int) -> int:
        """Where the cut has a kept column."""
        at = self.order.index(column)
        return self.new[at] if self.new else at

    @property
    def classes(self) -> tuple[int, ...]:
        """The kept columns that are classes of objects."""
        return tuple(column for column in self.order if column != self.background)

    def pattern(self, value: float = 0.0) -> npt.NDArray[np.float32]:
        """Make a pattern ``[1, 1, width]`` that is the same everywhere."""
        return np.full((1, 1, self.width), value, np.float32)


@dataclass(frozen=True)
class Meaning:
    """What one output's elements mean.

    ``kind``: ``apart`` (no class moves it), ``dense`` (positions of one axis belong to classes),
    ``rows`` (anything else: a set of detections). ``axes`` are the axes along which alone the
    meaning varies (several only where it does not vary), ``ids`` the labels along the first.
    """

    kind: str
    shape: tuple[int, ...]
    axes: tuple[int, ...] = ()
    ids: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    why: str = ""


def meanings(
    run: Callable[[Array], Values],
    run_noise: Callable[[int], Values],
    names: Sequence[str],
    columns: Columns,
    *,
    masked: float | None,
) -> dict[str, Meaning]:
    """Find the meaning of the outputs ``names`` by about ``2 log2(kept)`` runs.

    ``run(pattern)`` runs with a pattern in place of all scores; ``run_noise(seed)`` with seeded
    noise at every position. ``masked`` is the "never" of an original, None for a cut model, which
    has no dropped columns.
    """
    pairs = _coded_runs(run, columns, masked)
    noise = [run_noise(seed) for seed in (0, 1)]
    result = {}
    for name in names:
        arrays = [pair[side][name] for pair in pairs for side in (0, 1)]
        arrays += [values[name] for values in noise]
        result[name] = _meaning(arrays, columns, has_dropped=masked is not None)
    return result


MOST_SINGLED = 128
"""Columns that are excited one by one, at most."""


def singled(
    run: Callable[[Array], Values], name: str, columns: Columns, *, masked: float | None
) -> Meaning | None:
    """Find the meaning of an output that says a best class by its place, as a OneHot does.

    Of scores that rise together only one is the best, so each column rises alone. None where that
    does not show a place for each class, or takes too many runs.
    """
    kept = list(columns.order)
    dropped = [c for c in columns.dropped if c < columns.total] if masked is not None else []
    if len(kept) < 2 or len(kept) + len(dropped) > MOST_SINGLED:
        return None
    arrays = []
    for column in [*kept, *dropped]:
        pattern = columns.pattern(-_CODE)
        if masked is not None and column in kept:
            pattern[..., list(columns.dropped)] = masked
        pattern[..., column] = _CODE
        arrays.append(run(pattern)[name])
    if len({array.shape for array in arrays}) > 1:
        return None
    stack = np.stack(arrays).astype(np.float64)
    top, others = stack.argmax(0), np.sort(stack, axis=0)
    rises = others[-1] > others[0]
    if (others[-2] != others[0]).any() or not rises.any():
        return None
    labels = np.array(kept + [DROPPED] * len(dropped))
    elements = np.where(rises, labels[top], NONE)
    found = {axis: ids for axis in range(elements.ndim) for ids in [_along(elements, axis)] if ids}
    return Meaning("dense", arrays[0].shape, tuple(found), found) if found else None


def _coded_runs(
    run: Callable[[Array], Values], columns: Columns, masked: float | None
) -> list[tuple[Values, Values]]:
    """Run with each bit of the kept columns' codes as ±code, and with the signs swapped.

    A softmax would not notice that all its classes rise together; each bit splits them. The last
    pair, of an original, moves the dropped against the kept.
    """
    kept, dropped = list(columns.order), list(columns.dropped)
    pairs = []
    for codes, bit in itertools.product(_codings(len(kept)), range(_bits(len(kept)))):
        signs = np.where(codes >> bit & 1, 1.0, -1.0)
        pair = []
        for sign in (1.0, -1.0):
            pattern = columns.pattern()
            pattern[..., kept] = _CODE * sign * signs
            pattern[..., dropped] = masked or 0.0
            pair.append(run(pattern))
        pairs.append((pair[0], pair[1]))
    if masked is not None:
        pair = []
        for sign in (1.0, -1.0):
            pattern = columns.pattern(-sign * _CODE)
            pattern[..., dropped] = sign * _CODE
            pair.append(run(pattern))
        pairs.append((pair[0], pair[1]))
    return pairs


def _bits(kept: int) -> int:
    return max(1, (kept - 1).bit_length())


def _codings(kept: int) -> tuple[Ints, Ints]:
    """Give each rank two codes: a sum or a mean of classes may look like one class once, not twice.

    A single class has one bit, in which it has to be seen to rise.
    """
    ranks = np.arange(kept)
    return ranks ^ 1, ranks[::-1] ^ 1


def _meaning(arrays: Sequence[Array], columns: Columns, *, has_dropped: bool) -> Meaning:
    shapes = {array.shape for array in arrays}
    shape = arrays[0].shape
    if len(shapes) > 1:
        return Meaning("rows", shape, why="its size depends on the scores")
    elements = _elements(arrays, columns, has_dropped=has_dropped)
    if (elements == MIXED).any():
        elements = _beside_classes(elements, columns)
    if (elements == MIXED).any():
        return Meaning("rows", shape, why="an element depends on several classes")
    if not ((elements >= 0) | (elements == DROPPED)).any():
        return Meaning("apart", shape)
    ids = {}
    for axis in range(len(shape)):
        found = _along(elements, axis)
        if found is not None:
            ids[axis] = found
    if not ids:
        return Meaning("rows", shape, why="classes vary along more than one axis")
    return Meaning("dense", shape, tuple(ids), ids)


def _beside_classes(elements: Ints, columns: Columns) -> Ints:
    """Elements in which what was made of several classes and stands beside each of them is of none.

    A column of the best scores beside those of each class, say: its values are compared as they are.
    """
    for axis in range(elements.ndim):
        lines = np.moveaxis(elements, axis, 0).reshape(elements.shape[axis], -1)
        mixed = ((lines == MIXED) | (lines == SILENT)).all(1) & (lines == MIXED).any(1)
        single = set(np.unique(lines[~mixed]).tolist())
        if mixed.any() and MIXED not in single and single.issuperset(columns.classes):
            result = elements.copy()
            np.moveaxis(result, axis, 0)[mixed] = NONE
            return result
    return elements


def _elements(arrays: Sequence[Array], columns: Columns, *, has_dropped: bool) -> Ints:
    """Label each element: a kept source column, NONE, DROPPED, MIXED or SILENT."""
    *coded, noise_a, noise_b = arrays
    shape = coded[0].shape
    signs = [_moves(plus, minus) for plus, minus in zip(coded[::2], coded[1::2], strict=True)]
    bits = signs[:-1] if has_dropped else signs
    every, none = np.ones(shape, bool), np.ones(shape, bool)
    for sign in bits:
        every &= sign != 0
        none &= sign == 0
    rank = _rank(bits, len(columns.order))
    kept = every & (rank != MIXED)
    elements = np.full(shape, MIXED, np.int64)
    elements[kept] = np.array(columns.order)[rank[kept]]
    elements[none] = NONE
    if has_dropped:
        # what kept classes move, while dropped ones are masked, is of several: a sum over all, say
        alone = np.isclose(noise_a, noise_b, rtol=_ALONE, atol=1e-6, equal_nan=True)
        fallen = none & (signs[-1] > 0)
        elements[fallen & alone] = DROPPED
        elements[fallen & ~alone] = MIXED
        # The kept fall where the dropped rise; what does neither follows no single class.
        elements[kept & (signs[-1] > 0)] = MIXED
    still = none & (elements == NONE)
    elements[still & (noise_a != noise_b) & ~(_nan(noise_a) & _nan(noise_b))] = MIXED
    zero = np.ones(shape, bool)
    for array in arrays:
        zero &= array == 0
    elements[zero] = SILENT
    return elements


def _rank(signs: Sequence[Ints], kept: int) -> Ints:
    """Decode both codings; MIXED where they disagree or name no rank."""
    count, ranks = _bits(kept), []
    for coding, part in enumerate((signs[:count], signs[count:])):
        code = sum((sign > 0).astype(np.int64) << bit for bit, sign in enumerate(part)) ^ 1
        ranks.append(code if coding == 0 else kept - 1 - code)
    agreed = (ranks[0] == ranks[1]) & (ranks[0] >= 0) & (ranks[0] < kept)
    return np.where(agreed, ranks[0], MIXED)


def _nan(array: Array) -> npt.NDArray[np.bool_]:
    return np.asarray(array != array)  # noqa: PLR0124  (isnan has no integers)


def _moves(plus: Array, minus: Array) -> Ints:
    """Give the sign of ``plus - minus`` where that is more than rounding."""
    a, b = plus.astype(np.float64), minus.astype(np.float64)
    with np.errstate(invalid="ignore"):
        moved = np.abs(a - b) > _MOVED * np.maximum(np.abs(a), np.abs(b))
        return np.where(moved, np.sign(a - b), 0).astype(np.int64)


def _along(elements: Ints, axis: int) -> tuple[int, ...] | None:
    """Read the labels along an axis; None where they vary along another one too."""
    rows = np.moveaxis(elements, axis, 0).reshape(elements.shape[axis], -1)
    if rows.shape[1] == 0:
        return None
    silent = rows == SILENT
    low = np.where(silent, np.iinfo(np.int64).max, rows).min(1)
    high = np.where(silent, np.iinfo(np.int64).min, rows).max(1)
    mute = silent.all(1)
    if ((low != high) & ~mute).any():
        return None
    return tuple(int(x) for x in np.where(mute, NONE, low))


# ------------------------------------------------------------------ what a cut has to look like


def natural_cut(ids: Sequence[int], order: Sequence[int]) -> list[int] | None:
    """Say which positions of a class axis a cut keeps, in which order.

    Positions without a class stay where they are between the others. The place of the first of the
    kept columns, as they are numbered, goes to the first of the new order, and so on, in each anchor:
    where a graph has its classes in another order than its columns, the cut has them in it, too.
    Labels that are not kept (other columns, DROPPED) go. None where kept classes do not occur
    equally often, and more than deletion is asked for.
    """
    rank = {column: place for place, column in enumerate(order)}
    result = [at for at, label in enumerate(ids) if label == NONE or label in rank]
    labels = [ids[at] for at in result]
    kept = sorted({label for label in labels if label != NONE})
    follows = dict(zip(kept, sorted(kept, key=rank.__getitem__), strict=True))
    if all(old == new for old, new in follows.items()):
        return result
    entries = list(zip(labels, occurrences(labels).tolist(), strict=True))
    places = dict(zip(entries, result, strict=True))
    wanted = [(follows.get(label, label), time) for label, time in entries]
    if any(entry not in places for entry in wanted):
        return None
    return [places[entry] for entry in wanted]


def in_column_order(ids: Sequence[int]) -> bool:
    """Say whether each kept column stands where its number says, as columns are numbered.

    All columns count, the DROPPED ones too; a background that was sliced off moves all alike.
    """
    entries = [label for label in ids if label != NONE]
    first = {label: at for at, label in reversed(list(enumerate(entries))) if label >= 0}
    times = int(occurrences([label for label in entries if label >= 0]).max(initial=0)) + 1
    in_blocks = {at - label for label, at in first.items()}
    in_runs = {at / times - label for label, at in first.items()}
    return min(len(in_blocks), len(in_runs)) <= 1


def site_complaints(
    sites: Sequence[Site], cut_sites: Sequence[Site], order: Sequence[int]
) -> list[str]:
    """Hold the sites of a cut against those of its original: the labels that a cut has to leave."""
    if len(sites) != len(cut_sites):
        return [f"the original has {len(sites)} tensors of class scores, the cut {len(cut_sites)}"]
    result = []
    for site, cut in zip(sites, cut_sites, strict=True):
        take = natural_cut(site.ids, order)
        if take is None:
            result.append(f"{site.value!r}: its classes have no order that can be told")
        elif tuple(site.ids[at] for at in take) != tuple(cut.ids):
            result.append(f"{cut.value!r}: the cut's columns are not the kept ones in their order")
    return result
