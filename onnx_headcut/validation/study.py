"""What an original's detections look like: which outputs belong together, and which columns say what.

Learnt by exciting each kept class alone, with each guess at what the background is.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from onnx_headcut.validation import detections as d
from onnx_headcut.validation.excite import DENSITIES, Exciter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onnx_headcut.validation.pair import Pair
    from onnx_headcut.validation.probe import Columns

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Values = dict[str, Array]


@dataclass
class Study:
    """What was learnt of an original's detections, with one guess at the background."""

    exciter: Exciter
    density: float
    groups: list[d.Group]
    quiet: Values
    labels: list[d.Labels] = field(default_factory=list)
    alone: dict[int, Values] = field(default_factory=dict)
    shown: list[set[int]] = field(default_factory=list)
    """Per group, the columns' classes to which rows can be put down, if only as they alone rose."""
    calm: list[float] = field(default_factory=list)
    """Per group, the score that a row has to exceed to be no leftover of an unused slot."""
    told: bool = True
    """Whether rows of classes can be told from those of a background among them."""

    @property
    def seen(self) -> set[int]:
        """Which columns' classes were detected when they alone were excited."""
        return {column for labels in self.labels for column in labels.found}

    @property
    def complete(self) -> bool:
        """Whether some group shows every class that can be excited."""
        return set[int]().union(*self.shown).issuperset(self.exciter.classes)


class Learner:
    """Studies the outputs ``names`` of a pair's original, which hold rows of detections."""

    def __init__(self, pair: Pair, names: Sequence[str], columns: Columns) -> None:
        self.pair, self.names, self.columns = pair, names, columns

    def study(self) -> Study:
        """Learn with each guess at the background until every class shows."""
        best: Study | None = None
        for background in self._backgrounds():
            exciter = self.pair.exciter(background)
            for density in DENSITIES:
                study = self._once(exciter, density)
                if best is None or (len(study.seen), study.told) > (len(best.seen), best.told):
                    best = study
                if study.seen.issuperset(exciter.classes) and study.told:
                    return study
        if best is None:  # pragma: no cover  (there is always a guess and a density)
            raise RuntimeError
        if not best.seen and self.is_full_softmax():
            # every place has a best class and its share of 1: none stands out, all are compared
            again = self._once(self.pair.exciter(None), DENSITIES[-1], scored=False)
            best = again if again.seen else best
        return best if best.complete and best.told else self._below(best)

    def _below(self, best: Study) -> Study:
        """Learn with the background below all classes, which it has kept out of the slots."""
        for background in self._backgrounds():
            if background not in self.columns.order:
                continue
            exciter = self.pair.exciter(background, low=True)
            for density in DENSITIES:
                study = self._once(exciter, density)
                shown, most = (sum(map(len, each.shown)) for each in (study, best))
                if (shown, study.told) > (most, best.told):
                    best = study
                if study.complete and study.told:
                    return study
        return best

    def is_full_softmax(self) -> bool:
        """Whether scores add up to 1 over the kept classes alone, for all that is known."""
        sites = self.pair.original.sites
        return self.columns.background is None and all(s.activation == "softmax" for s in sites)

    def _backgrounds(self) -> list[int | None]:
        if self.columns.background is not None:
            return [self.columns.background]
        if len(self.columns.order) > 1 and self.is_full_softmax():
            return [min(self.columns.order), max(self.columns.order)]
        return [None]

    def _once(self, exciter: Exciter, density: float, *, scored: bool = True) -> Study:
        quiet = self.pair.run_original(exciter.quiet(), masked=True)
        weak, strong = (
            self.pair.run_original(exciter.excited(density, lift=lift), masked=True)
            for lift in (0.0, 0.5)
        )
        alone = {
            column: self.pair.run_original(exciter.excited(density, only=column), masked=True)
            for column in exciter.classes
        }
        # Kept ids may be in a row by chance: dropped ones lend theirs, the first, the last, one more.
        dropped = [c for c in self.columns.dropped if c < self.columns.total]
        lent = {dropped[k] for k in (0, len(dropped) // 2, -1)} if dropped else set[int]()
        others = {
            column: self.pair.run_original(exciter.excited(density, only=column)) for column in lent
        }
        groups = d.group_outputs(self.names, [quiet, weak, strong, *alone.values()])
        study = Study(exciter, density, [], quiet, alone=alone)
        for group in groups:
            # with scores of all classes in a row, no row is empty, and none is of one class
            wide = self.pair.narrowed.keys() & set(group.outputs)
            score = (
                None
                if wide or not scored
                else d.score_column(group, d.all_rows(group, weak), d.all_rows(group, strong))
            )
            found = replace(group, score=score)
            labels = _labels(found, quiet, alone | others, low=exciter.low)
            calm = d.calm_of(found, d.all_rows(group, quiet))
            untold = exciter.background in self.columns.order and scored and not wide
            untold &= not labels.columns or score is None
            first = _coming_first(found, alone | others) if untold else None
            if first is not None:
                found, labels = replace(group, score=first[0]), first[1]
            study.told &= not untold or first is not None
            study.labels.append(labels)
            # what scores well in quiet rows is no leftover where a background is among them
            study.calm.append(-np.inf if exciter.low or first is not None else calm)
            moved = set(alone) if len(self.columns.order) == 1 else {
                column for column, values in alone.items()
                if score is None and (wide or exciter.background not in self.columns.order)
                and _differ(d.all_rows(group, values), d.all_rows(group, quiet))
            }  # fmt: skip
            study.shown.append(moved | labels.found.keys() & set(exciter.classes))
            study.groups.append(replace(found, labels=labels.columns))
        return study


def _coming_first(group: d.Group, alone: Mapping[int, Values]) -> tuple[int, d.Labels] | None:
    """Find the score by which the rows of the one class that each run excites come before others.

    Where a background is among the rows, its scores fall as those of classes rise, and quiet rows
    score well: no column tells by itself that it is the score, or which rows are of the class. Where
    it is known to be the score, there need not be others.
    """
    runs = {column: d.all_rows(group, values) for column, values in alone.items()}
    if not group.outputs or len(runs) < 2 or not all(map(len, runs.values())):
        return None
    whole = d.label_candidates(group, runs.values())
    scores = range(len(group.columns)) if group.score is None else [group.score]
    for score, label in itertools.product(scores, whole):
        if score not in whole:
            ids = {
                c: _first_id(rows[:, score], rows[:, label], alone=group.score is not None)
                for c, rows in runs.items()
            }
            if None not in ids.values() and len(set(ids.values())) == len(ids):
                told = d.Labels((label,))
                told.found |= {column: (one,) for column, one in ids.items() if one is not None}
                return score, told
    return None


def _first_id(scores: Floats, ids: Floats, *, alone: bool) -> float | None:
    """Give the id of the best row, if all rows of it are better than all others (or ``alone``)."""
    best = ids[np.argmax(scores)]
    own = ids == best
    if own.all():
        return float(best) if alone else None
    first = bool(np.isfinite(scores).all()) and scores[own].min() > scores[~own].max()
    return float(best) if first else None


def _differ(rows: Floats, calm: Floats) -> bool:
    """Whether excitement made other rows; an order of its own is no other row."""
    return not np.array_equal(np.sort(rows, axis=0), np.sort(calm, axis=0), equal_nan=True)


def _labels(
    group: d.Group, quiet: Values, alone: Mapping[int, Values], *, low: bool = False
) -> d.Labels:
    """Learn the ids that classes give, from runs in which each alone was excited.

    With the background ``low``, slots hold rows of quiet classes too, which score well.
    """
    if not group.outputs:
        return d.Labels(())
    calm_rows = d.all_rows(group, quiet)
    calm = d.calm_of(group, calm_rows)
    rows = {}
    every = {column: d.all_rows(group, values) for column, values in alone.items()}
    own = _own_places(group, calm_rows, list(every.values()))
    for column, all_rows in every.items():
        found = _better(group, all_rows, calm) if low else d.above(group, all_rows, calm, 0.5)
        if group.score is None and len(found) == len(calm_rows):
            whole = d.label_candidates(group, [found, calm_rows])
            found = found[(found != calm_rows)[:, whole].any(axis=1) if own is None else own]
        elif group.score is None and len(found) <= len(calm_rows):
            continue
        if len(found):
            rows[column] = found
    if not rows:
        return d.Labels(())
    # An id is the same in all rows of a class.
    steady = [
        place
        for place in d.label_candidates(group, rows.values())
        if all(len(np.unique(found[:, place])) == 1 for found in rows.values())
    ]
    ids = {c: tuple(float(found[0, place]) for place in steady) for c, found in rows.items()}
    return d.Labels(tuple(steady), ids)


def _better(group: d.Group, rows: Floats, calm: float) -> Floats:
    """Keep rows that score better than those of quiet classes, by half of what the best one does."""
    if group.score is None or not len(rows):
        return rows
    scores = rows[:, group.score]
    least = max((float(scores.max()) + calm) / 2, calm + 1e-6)
    found: Floats = rows[scores > least]
    return found


def _own_places(group: d.Group, calm: Floats, runs: Sequence[Floats]) -> npt.NDArray[np.bool_] | None:
    """Say which rows of a map belong to the one class that each run excites.

    They are those of which every run says something else; None where there are no such: ids are
    shared, or there is one run only.
    """
    if group.score is not None or len(runs) < 2 or any(len(each) != len(calm) for each in runs):
        return None
    whole = list(d.label_candidates(group, [calm, *runs]))
    ids = np.sort(np.stack([each[:, whole] for each in runs]), axis=0)
    own: npt.NDArray[np.bool_] = (np.diff(ids, axis=0) != 0).all(axis=0).any(axis=1)
    return own if own.any() else None
