"""The ledger of a validation, and the comparison of outputs whose positions have a meaning."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from onnx_headcut.labels import NONE
from onnx_headcut.validation import probe
from onnx_headcut.validation.compare import (
    EXACT,
    PROVIDERS,
    Difference,
    Tolerance,
    difference,
    tolerance_for,
)
from onnx_headcut.validation.forms import activation
from onnx_headcut.validation.verdict import ClassRow, Drift, OutputRow

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from onnx_headcut.labels import Site
    from onnx_headcut.validation.detections import Match
    from onnx_headcut.validation.verdict import Settings

Array = npt.NDArray[Any]
Values = dict[str, Array]


class Ledger:
    """All that is found, as it is found: failures, doubts, notes, and counts of what was compared.

    ``detects`` is set where detections are picked inside the graph: each kept class has to be
    among them then. ``unshown`` is set where other inputs may show what these did not.
    """

    def __init__(self, columns: probe.Columns, settings: Settings) -> None:
        self.columns, self.settings = columns, settings
        self.failures: list[str] = []
        self.doubts: list[str] = []
        self.notes: list[str] = []
        self.runs = 0
        self.detects = False
        self.unshown = False
        self.provider = "cpu"
        self._rows: dict[tuple[str, str], OutputRow] = {}
        self._drift: dict[str, Drift] = {}
        self._classes = {column: ClassRow(column, columns.place(column)) for column in columns.order}

    def fail(self, what: str) -> None:
        """Write down why the cut is wrong."""
        self.failures.append(what)

    def doubt(self, what: str) -> None:
        """Write down what could not be shown."""
        self.doubts.append(what)

    def note(self, what: str) -> None:
        """Write down what else should be known."""
        self.notes.append(what)

    @property
    def values(self) -> int:
        """How many values of the outputs were compared."""
        return sum(row.values for row in self._rows.values() if row.kind != "scores")

    def tolerance(
        self, name: str, dtype: np.dtype[Any], through: Sequence[Any], steps: float = 0.0
    ) -> Tolerance:
        """Choose an output's tolerance: the user's, or the one of its type and provider."""
        given = self.settings.tolerances.get(name)
        return given or tolerance_for(dtype, through).on(self.provider).stepped(dtype, steps)

    def _row(self, name: str, kind: str) -> OutputRow:
        row = self._rows.setdefault((name, kind), OutputRow(name, kind))
        return replace(row, runs=row.runs + 1)

    def add(
        self, run: str, name: str, kind: str, found: Difference, classes: int = 0, why: str = ""
    ) -> None:
        """Add what a comparison of positions found; differences beyond tolerance are failures."""
        row = self._row(name, kind)
        place = f"{run}{'' if found.where is None else ' at ' + str(list(found.where))}"
        self._rows[name, kind] = replace(
            row,
            values=row.values + found.values,
            classes=max(row.classes, classes),
            outside=row.outside + found.outside,
            max_abs=max(row.max_abs, found.max_abs),
            max_rel=max(row.max_rel, found.max_rel),
            where=place if found.outside and not row.outside else row.where,
        )
        if found.outside and not row.outside:
            self.fail(
                f"{name}: {found.outside} of {found.values} values differ from the reference"
                f" ({run}), such as {found.text}{why}"
            )

    def add_rows(
        self, run: str, name: str, found: Match, width: int, moved: int = 0, what: str = ""
    ) -> None:
        """Add what a comparison of sets of rows found."""
        row = self._row(name, "detections")
        missing, extra = len(found.missing), len(found.extra)
        total = found.matched + missing + extra
        bad = missing + extra > self.settings.unmatched * total
        self._rows[name, "detections"] = replace(
            row,
            values=row.values + found.matched * width,
            matched=row.matched + found.matched,
            missing=row.missing + missing,
            extra=row.extra + extra,
            moved=row.moved + moved,
            max_abs=max(row.max_abs, found.max_abs),
            max_rel=max(row.max_rel, found.max_rel),
            where=run if bad and not row.where else row.where,
        )
        if bad and not row.where:
            self.fail(
                f"{name}: of {found.matched + missing} detections of the reference {missing} are"
                f" missing in the cut, and {extra} are extra ({run}){what}"
                + (f"; {moved} of them are the same object, moved" if moved else "")
            )

    def add_class(self, column: int, **counts: int) -> None:
        """Add to the counts of a kept class: values, detections, missing, extra."""
        if column in self._classes:
            row = self._classes[column]
            sums = {name: getattr(row, name) + count for name, count in counts.items()}
            self._classes[column] = replace(row, **sums)

    def name_class(self, column: int, label: float | None, cut_label: float | None) -> None:
        """Write down the ids that both models emit for a kept class."""
        self._classes[column] = replace(self._classes[column], label=label, cut_label=cut_label)

    def add_drift(self, output: str, change: float = 0.0, gained: int = 0, lost: int = 0) -> None:
        """Add what the reference changes against the original as it is."""
        old = self._drift.get(output, Drift(output))
        self._drift[output] = Drift(
            output, max(old.max_change, change), old.gained + gained, old.lost + lost
        )

    def demand_classes(self) -> None:
        """Doubt the comparison where it has no evidence for a kept class."""
        unseen = [
            row.column
            for row in self._classes.values()
            if row.column != self.columns.background
            and not (row.detections if self.detects else row.values + row.detections)
        ]
        edges = (0, self.columns.total - 1)
        if len(unseen) == 1 and unseen[0] in edges and self.columns.background is None:
            self.note(f"column {unseen[0]} shows in no output: taken as the background")
        elif unseen:
            self.unshown = True
            self.doubt(
                f"{'detections' if self.detects else 'values'} of {self.settings.called(unseen)}"
                " were never seen"
            )

    def output_rows(self) -> tuple[OutputRow, ...]:
        """Give the counts, in the order in which outputs were first compared."""
        return tuple(self._rows.values())

    def class_rows(self) -> tuple[ClassRow, ...]:
        """Give the evidence per kept class, in the new order."""
        return tuple(self._classes.values())

    def drift_rows(self) -> tuple[Drift, ...]:
        """Give the drift per output."""
        return tuple(self._drift.values())


@dataclass(frozen=True)
class _Dense:
    """How an output of the original maps to the cut's: positions to take, and their columns.

    ``cut_take`` are the cut's positions, where it has more than are compared.
    """

    axis: int
    take: tuple[int, ...]
    ids: tuple[int, ...]
    cut_take: tuple[int, ...] | None = None

    def parts(self, expected: Array, got: Array) -> tuple[Array, Array]:
        """Those positions of the original's and of the cut's array that are compared."""
        expected = np.take(expected, self.take, self.axis)
        if self.cut_take is not None and max(self.cut_take) < got.shape[self.axis]:
            got = np.take(got, self.cut_take, self.axis)
        return expected, got


class Layout:
    """What each output is: ``apart`` from classes, dense, or ``rows`` to be compared as sets."""

    def __init__(
        self,
        ledger: Ledger,
        columns: probe.Columns,
        precision: Sequence[np.dtype[Any]],
        steps: float = 0.0,
    ) -> None:
        self.ledger, self.columns, self.precision = ledger, columns, precision
        self.steps = steps
        self.apart: list[str] = []
        self.rows: list[str] = []
        self.dense: dict[str, _Dense] = {}
        self.narrowed: dict[str, tuple[int, tuple[int, ...]]] = {}
        self.cut_narrowed: dict[str, tuple[int, tuple[int, ...]]] = {}
        self._numbered: list[tuple[int, ...]] = []

    def add(self, name: str, before: probe.Meaning, after: probe.Meaning) -> None:
        """Decide about one output, from what probing both models found."""
        if before.kind == "rows" and before.shape != after.shape:
            self.ledger.doubt(f"{name}: {before.why}, so that its positions cannot be told")
        elif before.kind == "rows":
            self.rows.append(name)
        elif before.kind == after.kind == "apart" and before.shape != after.shape and self.steps:
            self.ledger.doubt(
                f"{name}: no class moves it, in neither model: its scores are rounded to nothing "
                "(a quantizer whose steps are made for boxes or logits beside them)"
            )
        elif before.kind == after.kind == "apart" and before.shape != after.shape:
            self.ledger.unshown = True
            self.ledger.doubt(
                f"{name}: no class moves it, in neither model, on these inputs (a score may be times"
                " an objectness of nothing), so that its positions cannot be told"
            )
        elif before.kind == "apart":
            self.apart.append(name)
            if after.kind != "apart":
                self.ledger.fail(f"{name}: classes move it in the cut, and not in the original")
        elif after.kind == "apart" and len(self.columns.order) == 1:
            self.ledger.doubt(f"{name}: with a single class, nothing shows what it belongs to")
        elif after.kind != "dense":
            why = after.why or "no class moves it"
            self.ledger.fail(f"{name}: positions belong to classes in the original; the cut: {why}")
        else:
            self._pair(name, before, after)

    def add_read(self, name: str, before: Array, after: Array) -> None:
        """Take an output that no class moves and that class numbers read, as boxes of each class.

        Where all of its extents are what they were (all classes in another order), it is the values
        that tell whether it has a class axis: whoever reads it is compared, too.
        """
        columns = self.columns
        count = columns.extra or len(columns.order)  # where a map is looked at in parts, all of it
        unlike = [axis for axis, n in enumerate(before.shape) if after.shape[axis : axis + 1] != (n,)]
        found = []
        for axis in unlike or range(before.ndim):
            each, rest = divmod(before.shape[axis], columns.total)
            others = set(unlike) - {axis} or before.ndim != after.ndim
            if rest or not each or others or after.shape[axis] != each * count:
                continue
            take, there = (
                tuple(column * each + k for column in some for k in range(each))
                for some in (columns.order, [columns.place(column) for column in columns.order])
            )
            found.append(_Dense(axis, take, (NONE,) * len(take), there if columns.extra else None))
        if not unlike:
            found = [x for x in found if not _close(before, after) and _close(*x.parts(before, after))]
        if len(found) == 1:
            self.dense[name] = found[0]
        else:
            self.apart.append(name)

    def keep_places(self, names: Collection[str]) -> None:
        """Compare ``names``, rows for all that is known, place by place: no op has picked them.

        So are sums or best scores of all classes beside the scores themselves; where there are none
        of these, what depends on classes has to show which, and rows are looked at as detections.
        """
        for name in [n for n in self.rows if self.dense and n in names]:
            self.rows.remove(name)
            self.apart.append(name)

    def add_chosen(self, name: str, before: probe.Meaning, after: probe.Meaning) -> None:
        """Take an output of rows picked by score; each may hold scores of all classes (DETR)."""
        self.rows.append(name)
        same_extents = self.columns.extra or len(self.columns.order) == self.columns.total
        differ = [
            axis
            for axis, (a, b) in enumerate(zip(before.shape, after.shape, strict=False))
            if (a != b or same_extents) and before.kind == "dense" and axis in before.axes
        ]
        if len(before.shape) != len(after.shape) or len(differ) != 1:
            return
        ids = before.ids[differ[0]]
        classes = [label for label in ids if label != NONE]
        if len(before.shape) == 1 or len(classes) > self.columns.total:
            return  # slots of a branch or an iteration for each class: those are rows themselves
        take = probe.natural_cut(ids, self.columns.order)
        there, got = self._looked_at(after.ids.get(differ[0]))
        if take is not None and got == tuple(ids[at] for at in take):
            self.narrowed[name] = (differ[0], tuple(take))
            if there is not None:
                self.cut_narrowed[name] = (differ[0], there)

    def _looked_at(
        self, got: tuple[int, ...] | None
    ) -> tuple[tuple[int, ...] | None, tuple[int, ...] | None]:
        """The cut's positions of the part that is looked at (None: all), and their labels."""
        if got is None or not self.columns.extra:
            return None, got
        there = tuple(at for at, label in enumerate(got) if label != probe.DROPPED)
        return there, tuple(got[at] for at in there)

    def _pair(self, name: str, before: probe.Meaning, after: probe.Meaning) -> None:
        complaint = ""
        for axis in before.axes:
            ids = before.ids[axis]
            take = probe.natural_cut(ids, self.columns.order)
            if take is None:
                complaint = complaint or "classes have no order that can be told"
                continue
            wanted = tuple(ids[at] for at in take)
            there, got = self._looked_at(after.ids.get(axis))
            if got == wanted:
                self.dense[name] = _Dense(axis, tuple(take), wanted, there)
                self._numbered.append(ids)
                return
            complaint = _wrong_columns(axis, wanted, got)
        if "no order" in complaint:
            self.ledger.doubt(f"{name}: {complaint}")
        else:
            self.ledger.fail(f"{name}: {complaint}")

    def check_numbering(self, sites: Sequence[Sequence[int]]) -> None:
        """Doubt columns that neither score tensors nor outputs have in rising order.

        Columns are numbered by their position, so one of the two has to show that order; else the
        labels at the score tensors may be permuted, in both models alike.
        """
        if all(map(probe.in_column_order, sites)):
            return
        if self._numbered and all(map(probe.in_column_order, self._numbered)):
            return
        self.ledger.doubt("the score tensors' labels are not in the order of columns")

    def compare_made(
        self, run: str, name: str, expected: Array, got: Array, *, same: bool = False
    ) -> None:
        """Compare scores that a class map made of others, laid out alike; or left the ``same``."""
        self._compare_one(run, name, "scores", None, expected, got, same=same)

    def compare_site(self, run: str, site: Site, expected: Array, got: Array) -> None:
        """Compare a tensor of class scores inside both graphs; exact ones are the same to the bit."""
        take = probe.natural_cut(site.ids, self.columns.order)
        if take is None:
            return
        ids = [site.ids[at] for at in take]
        found = _Dense(site.axis % expected.ndim, tuple(take), tuple(ids))
        self._compare_one(run, site.value, "scores", found, expected, got, same=site.exact)

    def compare(self, run: str, reference: Values, got: Values, steps: float | None = None) -> None:
        """Compare all outputs but sets of rows, position by position."""
        usual = self.steps
        self.steps = usual if steps is None else steps
        self._compare(run, reference, got)
        self.steps = usual

    def _compare(self, run: str, reference: Values, got: Values) -> None:
        self.ledger.runs += 1
        for name in self.apart:
            self._compare_one(run, name, "apart", None, reference[name], got[name])
        for name, dense in self.dense.items():
            if self._compare_one(run, name, "dense", dense, reference[name], got[name]):
                each = got[name].size // max(1, len(dense.ids))
                for column in dense.ids:
                    if column != NONE:
                        self.ledger.add_class(column, values=each)

    def _compare_one(  # noqa: PLR0913  (what is compared, and how)
        self,
        run: str,
        name: str,
        kind: str,
        dense: _Dense | None,
        expected: Array,
        got: Array,
        *,
        same: bool = False,
    ) -> bool:
        if dense is not None:
            if max(dense.take, default=0) >= expected.shape[dense.axis]:
                self.ledger.fail(f"{name}: shape {list(expected.shape)} on {run}")
                return False
            expected, got = dense.parts(expected, got)
        if expected.shape != got.shape or expected.dtype != got.dtype:
            self.ledger.fail(
                f"{name}: the cut gives {got.dtype}{list(got.shape)} instead of"
                f" {expected.dtype}{list(expected.shape)} ({run})"
            )
            return False
        tolerance = self.ledger.tolerance(name, expected.dtype, self.precision, self.steps)
        own = self.ledger.settings.tolerances
        if same and name not in own and self.ledger.provider not in PROVIDERS:
            tolerance = EXACT  # the same ops on the same numbers
        axis = None if dense is None else dense.axis
        kinds = None if dense is None else [label != NONE for label in dense.ids]
        found = difference(expected, got, tolerance, axis=axis, kinds=kinds)
        classes = len({label for label in dense.ids if label != NONE}) if dense else 0
        why = ""
        if found.outside and axis is not None and kinds is not None:
            why = activation(expected, got, axis, kinds)
        self.ledger.add(run, name, kind, found, classes, why)
        return True

    def drift(self, original: Values, reference: Values) -> None:
        """Measure how masking alone changes the kept scores."""
        for name, dense in self.dense.items():
            a, b = (np.take(v[name], dense.take, dense.axis) for v in (original, reference))
            change = difference(a, b, Tolerance(0, 0)).max_abs if a.shape == b.shape else np.inf
            self.ledger.add_drift(name, change)


def _close(a: Array, b: Array) -> bool:
    """Whether they are the same numbers, but for rounding."""
    return a.shape == b.shape and np.allclose(a, b, rtol=1e-2, atol=1e-3 * np.abs(a).max(initial=0))


def _wrong_columns(axis: int, wanted: Sequence[int], got: Sequence[int] | None) -> str:
    if got is None:
        return f"in the cut, classes do not lie along axis {axis}"
    if len(wanted) != len(got):
        return f"axis {axis} has {len(got)} positions in the cut instead of {len(wanted)}"
    at = next(i for i, (a, b) in enumerate(zip(wanted, got, strict=True)) if a != b)
    names = [f"column {x}" if x >= 0 else "no class" for x in (wanted[at], got[at])]
    return f"position {at} of axis {axis} is {names[1]} in the cut instead of {names[0]}"
