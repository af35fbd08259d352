"""Detections as sets: rows that belong together across outputs, matched one to one.

A *row* is one detection: its values from all outputs of a group, side by side. Outputs are read as
exporters write them: ``[n, 4] + [n] + [n]``, ``[N, 100, 4] + [N, 100] + [N, 100] + [N]``, or one
``[n, 6]`` or ``[N, n, 6]``. Which column is the score and which hold class ids is found by
exciting classes and looking, not by names.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from onnx_headcut.validation.compare import EXACT, Tolerance, scale_of

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
    return np.concatenate(
        [np.asarray(a, np.float64).reshape(a.shape[0], int(np.prod(a.shape[1:]))) for a in arrays],
        axis=1,
    )


def group_outputs(names: Sequence[str], runs: Sequence[Mapping[str, Array]]) -> list[Group]:
    """Sort outputs into groups by their shapes in several runs.

    Outputs with the same first two axes have a batch axis in front; all else has its rows on the
    first axis. A single number, or one number an image, counts rows.
    """
    shapes = {name: [run[name].shape for run in runs] for name in names}
    batched = [f for f in _batched(shapes) if not _are_rows(shapes[f[0]], names, runs)]
    batched += [[n] for n in names if not any(n in f for f in batched) and _is_label_map(n, runs)]
    left = [name for name in names if not any(name in found for found in batched)]
    groups = []
    if batched:
        images = shapes[batched[0][0]][0][0]
        counts = [n for n in left if all(int(np.prod(s)) in (1, images) for s in shapes[n])]
        left = [name for name in left if name not in counts]
        groups += [_group(found, 1, runs) for found in batched]
        groups[0] = replace(groups[0], counts=tuple(counts))
    scalars = tuple(name for name in left if all(shape == () for shape in shapes[name]))
    by_length: dict[tuple[int, ...], list[str]] = {}
    for name in left:
        if name not in scalars:
            by_length.setdefault(tuple(shape[0] for shape in shapes[name]), []).append(name)
    groups += [_group(found, 0, runs) for found in by_length.values()]
    return [*groups, Group((), 0, scalars)] if scalars else groups


def _batched(shapes: Mapping[str, Sequence[tuple[int, ...]]]) -> list[list[str]]:
    """List groups of outputs ``[images, rows, …]``: several that agree, or one of rank 3."""
    found: dict[tuple[tuple[int, ...], ...], list[str]] = {}
    for name, seen in shapes.items():
        if all(len(shape) >= 2 for shape in seen):
            found.setdefault(tuple(shape[:2] for shape in seen), []).append(name)
    return [
        names
        for prefix, names in found.items()
        if (len(names) > 1 or len(shapes[names[0]][0]) == 3) and any(p[1] != 1 for p in prefix)
    ]


def _are_rows(
    shapes: Sequence[tuple[int, ...]], names: Sequence[str], runs: Sequence[Mapping[str, Array]]
) -> bool:
    """Whether masks ``[n, height, width]`` are no pictures: others have a score for each."""
    return shapes[0][0] > 1 and any(
        all(run[name].shape == shape[:1] for run, shape in zip(runs, shapes, strict=True))
        and not all(_whole(run[name]) for run in runs)
        for name in names
    )


def _is_label_map(name: str, runs: Sequence[Mapping[str, Array]]) -> bool:
    """Whether an output ``[1, n]`` that belongs to no other holds whole numbers: a class each place."""
    arrays = [run[name] for run in runs]
    alike = len({a.shape for a in arrays}) == 1 and arrays[0].ndim == 2
    return alike and arrays[0].shape[0] == 1 < arrays[0].shape[1] and all(map(_whole, arrays))


def _group(names: Sequence[str], axis: int, runs: Sequence[Mapping[str, Array]]) -> Group:
    columns = [
        Column(name, place)
        for name in names
        for place in range(int(np.prod(runs[0][name].shape[axis + 1 :])))
    ]
    return Group(tuple(names), axis, (), tuple(columns))


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


def label_candidates(group: Group, runs: Iterable[Floats], widest: int = 256) -> tuple[int, ...]:
    """List the columns that hold whole numbers only.

    Rows of more than ``widest`` values are masks; those of a table are fewer, with its coefficients
    of masks (32 in YOLO) or its keypoints (51) beside box, score and class.
    """
    rows = np.concatenate(list(runs))
    widths = {name: sum(c.output == name for c in group.columns) for name in group.outputs}
    return tuple(
        at
        for at, column in enumerate(group.columns)
        if widths[column.output] <= widest and len(rows) and _whole(rows[:, at])
    )


def all_rows(group: Group, values: Mapping[str, Array]) -> Floats:
    """Rows of all images, float64 of shape (rows, columns); none where the group has only counts."""
    return stack(group.rows(values)) if group.outputs else np.zeros((0, 0))


def calm_of(group: Group, quiet: Floats) -> float:
    """Give the highest score of a run in which nothing is excited; -inf where it has no rows."""
    if group.score is None or not len(quiet):
        return -np.inf
    return float(quiet[:, group.score].max())


def floor_of(group: Group, rows: Floats, calm: float, share: float) -> float:
    """Give the score that a row has to exceed, to be more than what is left in an unused slot.

    It lies ``share`` of the way from ``calm`` to the best score, and clearly above calm.
    """
    if group.score is None:
        return -np.inf
    low = 0.0 if calm == -np.inf else calm
    best = float(rows[:, group.score].max(initial=low))
    return low + max(share * (best - low), 3 * low, 1e-6)


def above(group: Group, rows: Floats, calm: float, share: float) -> Floats:
    """Keep the rows that exceed ``floor_of``; all of them without a score column."""
    if group.score is None:
        return rows
    return rows[rows[:, group.score] > floor_of(group, rows, calm, share)]


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
    group: Group, rows: Floats, tolerances: Mapping[str, Tolerance]
) -> npt.NDArray[np.float64]:
    """Give what each value of the rows may differ by, from its output's tolerance and scale.

    Label columns are exact. Scores have a scale of their own where they share an output with boxes.
    """
    allowed = np.zeros_like(rows)
    together: dict[tuple[str, bool], list[int]] = {}
    for at, column in enumerate(group.columns):
        if at not in group.labels:
            together.setdefault((column.output, at == group.score), []).append(at)
    for (output, _), places in together.items():
        values = rows[:, places]
        allowed[:, places] = tolerances.get(output, EXACT).allowed(values, scale_of(values))
    return allowed


def match(expected: Floats, got: Floats, allowed: Floats) -> Match:
    """Match rows one to one where every value lies within its tolerance.

    Rows at the same place are tried first, as most pipelines sort by score, then rows at the same
    place after sorting by value, as a cut may bring classes in another order. The rest is matched
    greedily in the given order, each row to its nearest free one.
    """
    left, free = np.arange(len(expected)), np.arange(len(got))
    pairs: list[tuple[int, int]] = []
    for ranked in (False, True):
        if ranked:
            left, free = left[_ranking(expected[left])], free[_ranking(got[free])]
        size = min(len(left), len(free))
        fits = _within(expected[left[:size]], got[free[:size]], allowed[left[:size]])
        pairs += zip(left[:size][fits].tolist(), free[:size][fits].tolist(), strict=True)
        left, free = (np.concatenate([x[:size][~fits], x[size:]]) for x in (left, free))
    missing = []
    for i in np.sort(left):
        hits = free[_within(expected[i], got[free], allowed[i])]
        if len(hits):
            with np.errstate(invalid="ignore"):
                distance = np.nan_to_num(np.abs(got[hits] - expected[i])).sum(1)
            j = int(hits[np.argmin(distance)])
            pairs.append((int(i), j))
            free = free[free != j]
        else:
            missing.append(int(i))
    max_abs, max_rel = _reach(expected, got, pairs)
    return Match(len(pairs), tuple(missing), tuple(sorted(free.tolist())), max_abs, max_rel)


def forgive_ties(group: Group, found: Match, expected: Floats, got: Floats) -> Match:
    """Leave out unmatched rows that share the last slots' score: any of them may stand there.

    Scores rounded to steps are often equal, and a cut that brings classes in another order breaks
    ties in another way. A row that differs in its class id only is no tie.
    """
    if not found.missing or len(found.missing) != len(found.extra):
        return found
    missing, extra = expected[list(found.missing)], got[list(found.extra)]
    others = [c for c in range(expected.shape[1]) if c not in group.labels]
    same = (missing[:, None, others] == extra[None, :, others]).all(-1).any()
    tied = any((np.concatenate([missing, extra])[:, c] == expected[:, c].min()).all() for c in others)
    return replace(found, missing=(), extra=()) if tied and not same else found


def forgive_last(group: Group, found: Match, expected: Floats, got: Floats, allowed: Floats) -> Match:
    """Leave out unmatched rows whose score is that of the last slot, but for rounding.

    Where slots are few, rounding decides which of two such rows takes the last one. A row that
    differs in its class id only is no such case.
    """
    if group.score is None or not found.missing or len(found.missing) != len(found.extra):
        return found
    missing, extra = expected[list(found.missing)], got[list(found.extra)]
    others = [c for c in range(expected.shape[1]) if c not in group.labels]
    step = allowed.max(0)
    near = np.abs(missing[:, None, others] - extra[None, :, others]) <= step[others]
    scores = np.concatenate([missing, extra])[:, group.score]
    last = scores - min(expected[:, group.score].min(), got[:, group.score].min())
    if near.all(-1).any() or (last > 2 * step[group.score]).any():
        return found
    return replace(found, missing=(), extra=())


def tied(group: Group, found: Match, expected: Floats, got: Floats) -> bool:
    """Say whether all unmatched rows have a score that others have too, so that order decided.

    Not where a missing and an extra row differ in their class ids alone: that is a wrong id.
    """
    if group.score is None or not (found.missing or found.extra):
        return False
    missing, extra = expected[list(found.missing)], got[list(found.extra)]
    others = [c for c in range(expected.shape[1]) if c not in group.labels]
    if (missing[:, None, others] == extra[None, :, others]).all(-1).any():
        return False
    values, counts = np.unique(
        np.concatenate([expected[:, group.score], got[:, group.score]]), return_counts=True
    )
    several = values[counts > 2]  # one in either set is no tie yet
    return bool(np.isin(np.concatenate([missing, extra])[:, group.score], several).all())


def moved(group: Group, expected: Floats, got: Floats, found: Match) -> int:
    """Count unmatched rows that are one object in both: the same ids, and half of the area shared.

    Boxes are an output's four values, or the first four of a row that holds more; 0 without boxes.
    """
    place = _box_columns(group)
    if not place or not found.missing or not found.extra:
        return 0
    labels = list(group.labels)
    free, count = got[list(found.extra)], 0
    for row in expected[list(found.missing)]:
        same = (free[:, labels] == row[labels]).all(1)
        near = np.where(same, _shared(row[place], free[:, place]), 0.0)
        if near.max(initial=0.0) >= 0.5:
            free = np.delete(free, near.argmax(), 0)
            count += 1
    return count


def _box_columns(group: Group) -> list[int]:
    for output in group.outputs:
        mine = [at for at, column in enumerate(group.columns) if column.output == output]
        values = [at for at in mine if at != group.score and at not in group.labels]
        if len(mine) == 4 or (len(mine) > 4 and len(values) >= 4):
            return values[:4] if len(mine) > 4 else mine
    return []


def _shared(box: Floats, others: Floats) -> Floats:
    """Intersection over union of a box and each of others, whichever of x and y comes first."""
    with np.errstate(invalid="ignore", over="ignore"):
        sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
        inner = np.maximum(sides, 0).prod(1)
        union = (box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(1) - inner
        shared = inner / np.where(union > 0, union, 1)
    return np.where((union > 0) & np.isfinite(shared), shared, 0.0)


def _ranking(rows: Floats) -> npt.NDArray[np.int64]:
    """Order rows by value, coarsely: values within rounding mostly stay side by side."""
    with np.errstate(invalid="ignore"):
        coarse = np.nan_to_num(rows).astype(np.float32).astype(np.float16)
    return np.lexsort(coarse.T[::-1])


def _reach(expected: Floats, got: Floats, pairs: Sequence[tuple[int, int]]) -> tuple[float, float]:
    left, right = (np.array([pair[side] for pair in pairs], np.int64) for side in (0, 1))
    a, b = expected[left], got[right]
    finite = np.isfinite(a) & np.isfinite(b)
    distance, size = np.abs(a[finite] - b[finite]), np.abs(a[finite])
    relative = distance[size > 0] / size[size > 0]
    return float(distance.max(initial=0.0)), float(relative.max(initial=0.0))


def _within(expected: Floats, got: Floats, allowed: Floats) -> npt.NDArray[np.bool_]:
    with np.errstate(invalid="ignore"):
        same = (got == expected) | (np.isnan(got) & np.isnan(expected))
        close: npt.NDArray[np.bool_] = (
            same | (np.isfinite(expected) & (np.abs(got - expected) <= allowed))
        ).all(-1)
    return close


def translate(rows: Floats, mapping: Mapping[int, Mapping[float, float]]) -> Floats:
    """Replace the ids in label columns; ids that are not in the mapping stay."""
    result = rows.copy()
    for column, ids in mapping.items():
        for old, new in ids.items():
            result[rows[:, column] == old, column] = new
    return result
