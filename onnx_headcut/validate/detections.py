"""Detections as sets: rows that belong together across outputs, matched one to one.

A *row* is one detection: its values from all outputs of a group, side by side. Outputs are read as
exporters write them: ``[n, 4] + [n] + [n]``, ``[N, 100, 4] + [N, 100] + [N, 100] + [N]``, or one
``[n, 6]`` or ``[N, n, 6]``. Which column is the score and which hold class ids is found by
exciting classes and looking, not by names.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from onnx_headcut.validate.compare import EXACT, Tolerance, scale_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Values = dict[str, Array]


@dataclass(frozen=True)
class Column:
    """One value of a row: the output it is from, and its place among that output's values."""

    output: str
    place: int


@dataclass(frozen=True)
class Group:
    """Outputs whose rows belong together.

    ``axis`` is the axis of the rows (0, or 1 behind a batch axis). ``counts`` are outputs that say
    how many rows are meant; they are compared as they are. ``score`` is the score's column if one
    was found, ``labels`` those that hold class ids.
    """

    outputs: tuple[str, ...]
    axis: int
    counts: tuple[str, ...] = ()
    columns: tuple[Column, ...] = ()
    score: int | None = None
    labels: tuple[int, ...] = ()

    def rows(self, values: Mapping[str, Array]) -> list[Floats]:
        """Give the rows of each image, float64 ``[n, columns]``; one image if there is no batch."""
        arrays = [values[name] for name in self.outputs]
        if self.axis == 0:
            return [_beside(arrays)]
        return [_beside([array[image] for array in arrays]) for image in range(arrays[0].shape[0])]


def _beside(arrays: Sequence[Array]) -> Floats:
    flat = [np.asarray(a, np.float64).reshape(a.shape[0], int(np.prod(a.shape[1:]))) for a in arrays]
    return np.concatenate(flat, axis=1)


def group_outputs(names: Sequence[str], runs: Sequence[Mapping[str, Array]]) -> list[Group]:
    """Sort outputs into groups by their shapes in several runs.

    Outputs that fit nowhere form groups of one: their first axis then holds the rows.
    """
    shapes = {name: [run[name].shape for run in runs] for name in names}
    by_prefix: dict[tuple[tuple[int, ...], ...], list[str]] = {}
    for name in names:
        if all(len(shape) >= 2 for shape in shapes[name]):
            by_prefix.setdefault(tuple(s[:2] for s in shapes[name]), []).append(name)
    batched = [
        found
        for prefix, found in by_prefix.items()
        if (len(found) > 1 or len(shapes[found[0]][0]) == 3)
        and any(p[1] != 1 for p in prefix)
    ]
    taken = {name for found in batched for name in found}
    left = [name for name in names if name not in taken]
    if batched:
        counts = tuple(n for n in left if all(_counts(s, runs[0][taken_one(batched)]) for s in shapes[n]))
        first, *others = batched
        groups = [_group(first, 1, runs, counts), *(_group(g, 1, runs) for g in others)]
        left = [name for name in left if name not in counts]
    else:
        groups = []
    by_length: dict[tuple[int, ...], list[str]] = {}
    scalars = [name for name in left if all(shape == () for shape in shapes[name])]
    for name in left:
        if name not in scalars:
            by_length.setdefault(tuple(shape[0] for shape in shapes[name]), []).append(name)
    groups += [_group(found, 0, runs) for found in by_length.values()]
    if scalars:
        groups.append(Group((), 0, tuple(scalars)))
    return groups


def taken_one(batched: Sequence[Sequence[str]]) -> str:
    """Name one output of the first group that has a batch axis."""
    return batched[0][0]


def _counts(shape: tuple[int, ...], sample: Array) -> bool:
    return int(np.prod(shape)) in (1, sample.shape[0])


def _group(
    names: Sequence[str],
    axis: int,
    runs: Sequence[Mapping[str, Array]],
    counts: tuple[str, ...] = (),
) -> Group:
    columns = []
    for name in names:
        width = int(np.prod(runs[0][name].shape[axis + 1 :]))
        columns += [Column(name, place) for place in range(width)]
    return Group(tuple(names), axis, counts, tuple(columns))


def stack(rows: Sequence[Floats]) -> Floats:
    """Put the rows of all images under each other."""
    return np.concatenate(rows)


# ------------------------------------------------------------------ score and label columns


def score_column(group: Group, weak: Floats, strong: Floats) -> int | None:
    """Find the column that rises, and nothing else in it, when all excited classes rise alike.

    ``weak`` and ``strong`` are the rows of two such runs. Whole numbers are no scores.
    """
    best, best_rise = None, 0.0
    for column in range(len(group.columns)):
        a, b = (np.sort(rows[:, column])[::-1] for rows in (weak, strong))
        count = min(len(a), len(b))
        if count == 0 or _whole(np.concatenate([a, b])):
            continue
        a, b = a[:count], b[:count]
        scale = max(scale_of(a), scale_of(b))
        rise = float((b - a).sum()) / scale if scale else 0.0
        if (b >= a - 1e-6 * scale).all() and rise > best_rise:
            best, best_rise = column, rise
    return best


def _whole(values: Floats) -> bool:
    return bool((values == np.rint(values)).all())


@dataclass
class Labels:
    """What was learnt of class ids: for each label column, the id that each column's class gives.

    ``found`` maps a column of the class axis to the ids in all candidate columns, of the rows that
    appeared when that class alone was excited.
    """

    candidates: tuple[int, ...]
    found: dict[int, tuple[float, ...]] = field(default_factory=dict)

    @property
    def columns(self) -> tuple[int, ...]:
        """The candidates that tell all seen classes apart."""
        if len(self.found) < 2:
            return ()
        return tuple(
            column
            for at, column in enumerate(self.candidates)
            if len({ids[at] for ids in self.found.values()}) == len(self.found)
        )

    def ids(self, column: int) -> dict[int, float]:
        """Map each seen class to its id in one label column."""
        at = self.candidates.index(column)
        return {label: ids[at] for label, ids in self.found.items()}


def label_candidates(group: Group, runs: Iterable[Floats], widest: int = 8) -> tuple[int, ...]:
    """List the columns that hold whole numbers only, of outputs with few values a row."""
    rows = np.concatenate(list(runs))
    widths = {name: sum(c.output == name for c in group.columns) for name in group.outputs}
    return tuple(
        at
        for at, column in enumerate(group.columns)
        if widths[column.output] <= widest and len(rows) and _whole(rows[:, at])
    )


def excited_rows(group: Group, rows: Floats, quiet: Floats) -> Floats:
    """Keep the rows that excitement brought: scores far above those of a run without any.

    Without a score column, whatever is there beyond the number of rows of the quiet run.
    """
    if group.score is None:
        return rows if len(rows) > len(quiet) else rows[:0]
    scores = rows[:, group.score]
    calm = float(quiet[:, group.score].max(initial=0.0)) if len(quiet) else 0.0
    if not len(scores) or scores.max() <= max(4 * calm, 1e-6):
        return rows[:0]
    return rows[scores >= max(0.5 * float(scores.max()), 4 * calm)]


# ------------------------------------------------------------------ matching


@dataclass(frozen=True)
class Match:
    """How two sets of rows go together: index pairs, and what is left on either side.

    ``differences`` are the largest absolute and relative difference of all matched values.
    """

    matched: int
    missing: tuple[int, ...]
    extra: tuple[int, ...]
    max_abs: float = 0.0
    max_rel: float = 0.0


def allowed_of(
    group: Group, rows: Floats, dtypes: Mapping[str, Tolerance]
) -> npt.NDArray[np.float64]:
    """Give what each value of the rows may differ by, from its output's tolerance and scale.

    Label columns are exact, and so are columns of whole numbers in outputs that are integer.
    """
    allowed = np.zeros_like(rows)
    for at, column in enumerate(group.columns):
        tolerance = EXACT if at in group.labels else dtypes[column.output]
        same = [i for i, other in enumerate(group.columns) if other.output == column.output]
        others = [i for i in same if i not in group.labels and (i == group.score) == (at == group.score)]
        allowed[:, at] = tolerance.allowed(rows[:, at], scale_of(rows[:, others]) if others else 0.0)
    return allowed


def match(expected: Floats, got: Floats, allowed: Floats) -> Match:
    """Match rows one to one where every value lies within its tolerance.

    Rows at the same place are tried first, as most pipelines sort by score; the rest greedily in
    the given order, each to its nearest free row.
    """
    size = min(len(expected), len(got))
    with np.errstate(invalid="ignore"):
        straight = _within(expected[:size], got[:size], allowed[:size])
        pairs = [(i, i) for i in np.flatnonzero(straight)]
        missing, extra = [], []
        free = np.array(
            [j for j in range(len(got)) if j >= size or not straight[j]], np.int64
        )
        for i in [i for i in range(len(expected)) if i >= size or not straight[i]]:
            hits = free[_within(expected[i], got[free], allowed[i])]
            if not len(hits):
                missing.append(i)
                continue
            distance = np.nan_to_num(np.abs(got[hits] - expected[i])).sum(1)
            j = int(hits[np.argmin(distance)])
            pairs.append((i, j))
            free = free[free != j]
        extra = [int(j) for j in free]
        left, right = (np.array([p[k] for p in pairs], np.int64) for k in (0, 1))
        a, b = expected[left], got[right]
        finite = np.isfinite(a) & np.isfinite(b)
        distance = np.abs(a - b)[finite]
        size_of = np.abs(a)[finite]
    relative = distance[size_of > 0] / size_of[size_of > 0]
    return Match(
        len(pairs),
        tuple(missing),
        tuple(extra),
        float(distance.max(initial=0.0)),
        float(relative.max(initial=0.0)),
    )


def _within(expected: Floats, got: Floats, allowed: Floats) -> npt.NDArray[np.bool_]:
    same = (got == expected) | (np.isnan(got) & np.isnan(expected))
    close: npt.NDArray[np.bool_] = (same | (np.abs(got - expected) <= allowed)).all(-1)
    return close


def translate(rows: Floats, mapping: Mapping[int, Mapping[float, float]]) -> Floats:
    """Replace the ids in label columns; ids that are not in the mapping stay."""
    result = rows.copy()
    for column, ids in mapping.items():
        for old, new in ids.items():
            result[rows[:, column] == old, column] = new
    return result
