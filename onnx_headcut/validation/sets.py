"""Detections that are picked inside the graph: excite, and compare as sets.

What their columns mean is learnt on the original: see `study`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from onnx_headcut.validation import detections as d
from onnx_headcut.validation.compare import difference
from onnx_headcut.validation.excite import DENSITIES
from onnx_headcut.validation.reference import flow
from onnx_headcut.validation.study import Learner

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from onnx_headcut.validation.pair import Pair
    from onnx_headcut.validation.probe import Columns
    from onnx_headcut.validation.study import Study
    from onnx_headcut.validation.tally import Layout, Ledger
    from onnx_headcut.validation.verdict import Settings

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Values = dict[str, Array]

_SAMPLE = 1 << 16  # scores that are looked at for the step that they were rounded to
_JUNK = 0.01  # of the way from calm to the best score: slots below it hold leftovers


class Sets:
    """The outputs that hold detections."""

    def __init__(
        self, pair: Pair, layout: Layout, ledger: Ledger, columns: Columns, settings: Settings
    ) -> None:
        self.pair, self.names, self.ledger = pair, layout.rows, ledger
        self.columns, self.settings = columns, settings
        self.precision = self.through = layout.precision
        self._groups: list[d.Group] = []
        self._expected: list[dict[int, dict[float, float]]] = []
        self._columns_of: list[dict[float, int]] = []
        self._calm: list[float] = []
        self._shown: list[set[int]] = []
        self._studied: Study | None = None

    @property
    def groups(self) -> Sequence[d.Group]:
        """Outputs whose rows belong together, once they are studied."""
        return self._groups

    def prove(self) -> None:
        """Excite every kept class in every score tensor, and compare what comes out.

        Where quantizers lie behind the scores, this is done without their rounding.
        """
        if self.names:
            self._without_rounding(self._prove)

    def scatter(self, run: str) -> None:
        """Compare on noise in place of all scores: best classes, ties and limits as they fall.

        The background wins about every other place, and boxes are those of the input.
        """
        study = self._studied
        if study is not None:
            self._without_rounding(lambda: self._scatter(run, study.exciter.background))

    def _without_rounding(self, work: Callable[[], None]) -> None:
        """Work without what rounds, and allow for no rounding before scores that are set."""
        kept = self.pair, self.through
        self.pair = self.pair.without_rounding() or self.pair
        self.through = self.pair.halves_behind
        work()
        self.pair, self.through = kept

    def _scatter(self, run: str, background: int | None) -> None:
        exciter = self.pair.exciter(background)
        # of poor scores many are equal once they are rounded, and another order picks others of them
        noise = exciter.noise(0) if self.pair.steps() else exciter.scattered()
        reference, got = self.pair.run(noise)
        self._compare(f"{run}, noise in place of all scores", reference, got, floor=_floor)

    def _prove(self) -> None:
        self.ledger.detects = True
        learner = Learner(self.pair, self.names, self.columns)
        if len(self.columns.order) == 1 and learner.is_full_softmax():
            self.ledger.doubt("a softmax over one class is 1 everywhere: nothing shows whose it is")
        study = learner.study()
        self._groups, self._shown, self._studied = study.groups, study.shown, study
        self._calm = study.calm
        for group, labels in zip(study.groups, study.labels, strict=True):
            self._learn_ids(group, labels)
        for column, reference in study.alone.items():
            got = self.pair.run_cut(study.exciter.excited(study.density, only=column))
            self._compare(f"column {column} excited", reference, got, only=column)
        self._excite_sites(study)
        if study.density < DENSITIES[-1]:  # caps and limits that a few detections do not reach
            everywhere = study.exciter.excited(DENSITIES[-1])
            self._compare("excited everywhere", *self.pair.run(everywhere))
        if study.exciter.low:
            above = self.pair.exciter(study.exciter.background)
            self._compare("a background at its place", *self.pair.run(above.excited(study.density)))

    def prove_again(self, run: str) -> None:
        """Excite every kept class once more, on an input of another size."""
        study = self._studied
        if study is None:
            return
        self._without_rounding(lambda: self._prove_again(run, study))

    def _prove_again(self, run: str, study: Study) -> None:
        exciter = self.pair.exciter(study.exciter.background, low=study.exciter.low)
        self._compare(f"{run}, excited", *self.pair.run(exciter.excited(study.density)))

    def _learn_ids(self, group: d.Group, labels: d.Labels) -> None:
        """Work out which id of the cut stands for which of the original, per label column."""
        mapping: dict[int, dict[float, float]] = {}
        columns_of: dict[float, int] = {}
        for place in labels.columns:
            known = labels.ids(place)
            ids = {c: i for c, i in known.items() if c in self.columns.order}
            new = self._new_ids(ids, known)
            mapping[place] = self._others(known) | {old: new[column] for column, old in ids.items()}
            if not columns_of:
                columns_of = {new[column]: column for column in ids}
                for column, old in ids.items():
                    self.ledger.name_class(column, old, new[column])
        if not labels.columns and len(labels.found) > 1 and group.outputs:
            self.ledger.note(f"{_title(group)}: no value tells classes apart")
        self._expected.append(mapping)
        self._columns_of.append(columns_of)

    def _others(self, known: Mapping[int, float]) -> dict[float, float]:
        """Ids of kept columns that never were excited alone (a background), where all run alike."""
        offsets = {label - column for column, label in known.items()}
        if self.settings.ids == "original" or len(offsets) != 1:
            return {}
        offset = offsets.pop()
        return {column + offset: self.columns.place(column) + offset for column in self.columns.order}

    def _new_ids(self, ids: Mapping[int, float], known: Mapping[int, float]) -> dict[int, float]:
        """Translate ids as the settings say; ``compact`` keeps the model's own counting.

        Ids that do not run with the columns come from a table, of which a cut keeps its entries: so
        say all that are ``known``, those of dropped classes too.
        """
        offsets = {label - column for column, label in known.items()}
        if self.settings.ids == "original":
            return dict(ids)
        if len(offsets) != 1:
            self.ledger.note("class ids come from a table: the cut has to keep its entries")
            return dict(ids)
        offset = offsets.pop()
        return {column: self.columns.place(column) + offset for column in ids}

    # -------------------------------------------------------------- exciting both

    def _excite_sites(self, study: Study) -> None:
        exciter, nested = study.exciter, self.pair.original.flow.nested
        sites: list[int | None] = [None] if nested else [*self._leading_here()]
        for site in sites:
            seen = False
            for density in [x for x in DENSITIES if x >= study.density]:
                turns = max(exciter.turns(at, density) for at in range(len(exciter.sites)))
                turns = exciter.turns(site, density) if site is not None else turns
                for turn in range(min(turns, self.settings.rounds)):
                    patterns = exciter.excited(density, site=site, turn=turn)
                    reference, got = self.pair.run(patterns)
                    what = "all score tensors" if site is None else self._site_name(site)
                    seen |= self._compare(f"{what} excited, turn {turn}", reference, got) > 0
                if seen:
                    break
            if not seen:
                what = "any score tensor" if site is None else self._site_name(site)
                self.ledger.unshown = True
                self.ledger.doubt(f"no detection came from {what}, however its classes are excited")
        # Once more on top of the picture's own scores.
        self.through = self.precision
        reference, got = self.pair.run(study.exciter.excited(study.density), gain=1.0)
        self._compare("excited on top of the input's scores", reference, got, floor=_floor)

    def _leading_here(self) -> list[int]:
        """Number the sites that detections come from; raw scores may be an output beside them."""
        twin = self.pair.original
        return [
            k for k, site in enumerate(twin.sites)
            if not flow(twin.model.graph, [site]).reached.isdisjoint(self.names)
        ]  # fmt: skip

    def _site_name(self, site: int) -> str:
        return repr(self.pair.original.sites[site].value)

    # -------------------------------------------------------------- comparing

    def compare_feed(self, run: str, reference: Values, got: Values) -> None:
        """Compare detections on an input."""
        if not self.names:
            return
        exact = self.pair.without_rounding()
        if exact is None:
            self._compare(run, reference, got, floor=_floor)
        else:
            patterns = [self._apart(exact.state.scores[s.value]) for s in exact.original.sites]
            self.pair, rounded = exact, self.pair
            self._compare(run, *exact.run(patterns, gain=1.0), floor=_floor)
            self.pair = rounded
            self._tell_rounding(reference, got)

    def drift(self, reference: Values, original: Values) -> None:
        """Compare detections of the masked original with those of the original as it is."""
        for index, group in enumerate(self._groups):
            before, after = d.all_rows(group, original), d.all_rows(group, reference)
            floor = _floor(group, after)
            kept = _above(group, before, floor)
            for place, ids in self._expected[index].items():
                kept = kept[np.isin(kept[:, place], list(ids))]
            after = _above(group, after, floor)
            found = d.match(kept, after, self._allowed(group, kept, original))
            self.ledger.add_drift(_title(group), 0.0, len(found.extra), len(found.missing))

    def _apart(self, scores: Array) -> Array:
        """Make a pattern that parts equal scores of different classes, and changes no other order.

        A quantizer before the scores makes ties as one behind them does. Scores that none has
        rounded lie so near to each other that nothing is added to them.
        """
        values = np.unique(scores.astype(np.float64).ravel()[:_SAMPLE])
        gaps = np.diff(values[np.isfinite(values)])
        pattern = self.columns.pattern()
        width = pattern.shape[-1]
        if gaps.size:
            pattern += (gaps.min() / (4 * width) * np.arange(width)).astype(np.float32)
        return pattern

    def _tell_rounding(self, reference: Values, got: Values) -> None:
        """Note how many detections differ as they are, where they do not without rounding."""
        for index, group in enumerate(self._groups):
            if not group.outputs or not self._same_columns("as it is", group, reference, got):
                continue
            rows = [d.all_rows(group, values) for values in (reference, got)]
            limit = _floor(group, np.concatenate(rows))
            expected, found = (_above(group, each, limit) for each in rows)
            expected = d.translate(expected, self._expected[index])
            pairs = d.match(expected, found, self._allowed(group, expected, reference))
            if pairs.missing or pairs.extra:
                self.ledger.note(
                    f"{_title(group)}: rounding to 8 bits or half precision makes equal scores, and"
                    f" which of equals is taken depends on their order: {len(pairs.missing)} of"
                    f" {len(expected)} detections of an input have no partner; without that rounding"
                    " all are compared"
                )

    def _compare(
        self,
        run: str,
        reference: Values,
        got: Values,
        *,
        only: int | None = None,
        floor: Any = None,
    ) -> int:
        """Compare all groups; the number of detections of the reference that stand out."""
        self.ledger.runs += 1
        total = 0
        for index, group in enumerate(self._groups):
            self._compare_counts(run, group, reference, got)
            if not group.outputs or not self._same_columns(run, group, reference, got):
                continue
            rows, cut_rows = group.rows(reference), group.rows(got)
            stacked = d.stack(rows)
            limit = (
                floor(group, np.concatenate([stacked, d.stack(cut_rows)]))
                if floor
                else d.floor_of(group, stacked, self._calm[index], _JUNK)
            )
            for image, (expected, found) in enumerate(zip(rows, cut_rows, strict=True)):
                where = run if len(rows) == 1 else f"{run}, image {image}"
                total += self._match(where, index, (expected, found), limit, reference, only)
        return total

    def _match(
        self,
        run: str,
        index: int,
        pair: tuple[Floats, Floats],
        limit: float,
        reference: Values,
        only: int | None,
    ) -> int:
        group, mapping = self._groups[index], self._expected[index]
        expected, got = (_above(group, rows, limit) for rows in pair)
        expected = d.translate(expected, mapping)
        allowed = self._allowed(group, expected, reference)
        plain = d.match(expected, got, allowed)
        found = _forgive(group, plain, expected, got, limit)
        found = d.forgive_last(group, found, expected, got, allowed)
        if self.pair.steps():
            found = d.forgive_ties(group, found, expected, got)
            if d.tied(group, found, expected, got):
                self.ledger.doubt(
                    f"{_title(group)}: {len(found.missing)} detections of the reference are missing,"
                    f" and {len(found.extra)} are extra ({run}), whose scores are rounded and equal"
                    " to others': which of equals is taken depends on their order"
                )
                found = replace(found, missing=(), extra=())
        what = self._explain(group, expected, got, found)
        moved = d.moved(group, expected, got, found)
        self.ledger.add_rows(run, _title(group), found, len(group.columns), moved, what)
        # What is forgiven is no evidence: where there is one slot, that may be all there is.
        good = np.delete(expected, list(plain.missing), axis=0)
        for rows, name in (
            (good, "detections"), (expected[list(found.missing)], "missing"),
            (got[list(found.extra)], "extra"),
        ):  # fmt: skip
            for column, count in self._by_class(index, rows, only).items():
                self.ledger.add_class(column, **{name: count})
        return len(expected)

    def _by_class(self, index: int, rows: Floats, only: int | None) -> dict[int, int]:
        """Count rows by the class that their id says, or that alone was excited.

        The latter where its excitement is seen to make rows: else a background may have made them.
        """
        labels = self._groups[index].labels
        if not labels:
            return {only: len(rows)} if only is not None and only in self._shown[index] else {}
        counts: dict[int, int] = {}
        for label, count in zip(*np.unique(rows[:, labels[0]], return_counts=True), strict=True):
            column = self._columns_of[index].get(float(label))
            if column is not None:
                counts[column] = int(count)
        return counts

    def _explain(self, group: d.Group, expected: Floats, got: Floats, found: d.Match) -> str:
        """Say more where only the class ids of unmatched rows differ."""
        if not group.labels or not found.missing or not found.extra:
            return ""
        place = group.labels[0]
        left, right = expected[list(found.missing)], got[list(found.extra)]
        others = [c for c in range(expected.shape[1]) if c not in group.labels]
        for row in left:
            same = np.isclose(right[:, others], row[others], rtol=1e-3, atol=1e-6).all(1)
            if same.any():
                wrong = right[np.flatnonzero(same)[0], place]
                return f": it says class id {wrong:g} where {row[place]:g} is right"
        return ""

    def _allowed(self, group: d.Group, rows: Floats, sample: Mapping[str, Array]) -> Floats:
        tolerances = {
            name: self.ledger.tolerance(
                name, sample[name].dtype, self.through, self.pair.steps()
            ).widest
            for name in group.outputs
        }
        return d.allowed_of(group, rows, tolerances)

    def _same_columns(self, run: str, group: d.Group, reference: Values, got: Values) -> bool:
        for name in group.outputs:
            a, b = reference[name], got[name]
            same = a.ndim == b.ndim and a.dtype == b.dtype
            same = same and a.shape[group.axis + 1 :] == b.shape[group.axis + 1 :]
            if not same or a.shape[: group.axis] != b.shape[: group.axis]:
                self.ledger.fail(
                    f"{name}: the cut gives {b.dtype}{list(b.shape)}, the reference"
                    f" {a.dtype}{list(a.shape)} ({run})"
                )
                return False
        lengths = {got[name].shape[group.axis] for name in group.outputs}
        if len(lengths) > 1:
            self.ledger.fail(f"{_title(group)}: rows of the cut do not correspond ({run})")
        return len(lengths) == 1

    def _compare_counts(self, run: str, group: d.Group, reference: Values, got: Values) -> None:
        for name in group.counts:
            a, b = reference[name], got[name]
            if a.shape != b.shape:
                self.ledger.fail(f"{name}: shape {list(b.shape)} instead of {list(a.shape)}")
                continue
            tolerance = self.ledger.tolerance(name, a.dtype, self.precision)
            self.ledger.add(run, name, "count", difference(a, b, tolerance))


def _forgive(group: d.Group, found: d.Match, expected: Floats, got: Floats, limit: float) -> d.Match:
    """Leave out unmatched rows right at the limit, where rounding decides who is above."""
    if group.score is None:
        return found
    top = limit + 1e-3 * abs(limit)
    missing = tuple(i for i in found.missing if expected[i, group.score] > top)
    extra = tuple(j for j in found.extra if got[j, group.score] > top)
    return replace(found, missing=missing, extra=extra)


def _floor(group: d.Group, rows: Floats) -> float:
    """Give the score at or below which a slot is empty, on an input's own scores.

    Masked classes have a score of 0 behind a sigmoid or softmax, and a very negative one without.
    """
    if group.score is None or not len(rows):
        return -np.inf
    return -1e4 if rows[:, group.score].min() < -1.5 else 1e-12


def _above(group: d.Group, rows: Floats, floor: float) -> Floats:
    return rows if group.score is None else rows[rows[:, group.score] > floor]


def _title(group: d.Group) -> str:
    return " + ".join(group.outputs or group.counts)
