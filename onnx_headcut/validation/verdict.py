"""What validation found, as data: printable, serializable, and true only for a pass."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from onnx_headcut.numbers import many

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx_headcut.validation.claims import Findings
    from onnx_headcut.validation.compare import Tolerance

Status = Literal["passed", "failed", "inconclusive"]

SCHEMA = 1


@dataclass(frozen=True)
class Settings:
    """What validation may be told.

    ``count`` synthetic feeds of ``seed`` and ``shapes`` are made where no feeds are given. ``ids``:
    whether label outputs of the cut say the new ids (``compact``) or the original's. ``tolerances``
    overrides the tolerance of single outputs. ``rounds`` bounds how often each score tensor is
    excited with another arrangement of classes; ``searches`` how often other synthetic inputs are
    tried where these have shown too little, the best of those of ``searched`` seeds. ``unmatched`` is
    the fraction of detections that may be without a partner: 0, unless kernels are not deterministic.
    ``names`` are what columns are called in reasons, where that is known.
    """

    count: int = 3
    seed: int = 0
    shapes: dict[str, tuple[int, ...]] | None = None
    ids: Literal["compact", "original"] = "compact"
    tolerances: dict[str, Tolerance] = field(default_factory=dict)
    rounds: int = 8
    searches: int = 2
    searched: int = 12
    unmatched: float = 0.0
    names: tuple[str | None, ...] = ()

    def called(self, columns: Sequence[int]) -> str:
        """Name columns: what they are called and their numbers."""
        known = {at: name for at, name in enumerate(self.names) if name}
        return ", ".join(f"{known[c]} (column {c})" if c in known else f"column {c}" for c in columns)


@dataclass(frozen=True)
class OutputRow:
    """What was compared of one output, or of one tensor of class scores, over all runs.

    ``kind``: ``scores`` (raw tensors of class scores inside the graph), ``dense`` (an axis of the
    output belongs to classes), ``detections`` (rows matched as sets), ``apart`` (no class moves
    it). For detections, ``values`` counts matched rows' values, and ``missing`` and ``extra`` rows;
    ``moved`` are missing ones with an extra one of the same class at an IoU of one half and more.
    ``where`` is the place of the worst value: the run's name and the index.
    """

    name: str
    kind: str
    runs: int = 0
    values: int = 0
    classes: int = 0
    outside: int = 0
    max_abs: float = 0.0
    max_rel: float = 0.0
    where: str = ""
    matched: int = 0
    missing: int = 0
    extra: int = 0
    moved: int = 0


@dataclass(frozen=True)
class ClassRow:
    """The evidence for one kept class: values compared and detections matched.

    ``label`` and ``cut_label`` are the ids that original and cut emit for it, where they emit any.
    """

    column: int
    new: int
    values: int = 0
    detections: int = 0
    label: float | None = None
    cut_label: float | None = None
    missing: int = 0
    extra: int = 0


@dataclass(frozen=True)
class Drift:
    """How the reference differs from the original as it is: a change of meaning, no mistake.

    Softmax scores rise when other classes go (``max_change`` in the output's own units); a top-k or
    a class-agnostic suppression keeps other rows (``gained``, ``lost``: rows of kept classes).
    """

    output: str
    max_change: float = 0.0
    gained: int = 0
    lost: int = 0

    @property
    def words(self) -> str:
        """Say what became of detections; "" where nothing did."""
        if not (self.gained or self.lost):
            return ""
        return (
            f"{self.gained} detections of kept classes are new, as those of dropped ones take no"
            f" slots, suppress none and outscore none any more; {self.lost} are gone or moved"
        )


@dataclass(frozen=True)
class Where:
    """On what a model ran: the provider that took nodes first, and nodes per provider."""

    provider: str
    placement: dict[str, int] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Deployed:
    """How the cut as deployed differs from itself with exact settings, on the first input.

    Exact is without TF32 and without the search for the fastest kernel, as for all comparisons.
    """

    provider: str
    max_abs: float = 0.0
    max_rel: float = 0.0
    note: str = ""

    @property
    def line(self) -> str:
        """Say it for people."""
        text = f"as deployed on {self.provider}, outputs move by at most {self.max_abs:.3g}"
        return f"{text} ({self.note})" if self.note else text


@dataclass(frozen=True)
class Verdict:
    """The answer of validation. True only where the cut was compared and equals the reference.

    ``reasons`` say why it did not pass, ``notes`` what else should be known. ``feeds`` are the
    names of the inputs used, ``runs`` counts all comparisons of whole runs. ``not_run`` are nodes
    that no runtime here has a kernel for: what enters them was compared, and no detections.
    ``plugins`` are those whose rules the cut was made with. ``in_float32`` are types that no runtime
    here has kernels for, which were float32 in both models while they were compared.
    """

    status: Status
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    outputs: tuple[OutputRow, ...] = ()
    classes: tuple[ClassRow, ...] = ()
    drift: tuple[Drift, ...] = ()
    feeds: tuple[str, ...] = ()
    runs: int = 0
    original: Where | None = None
    cut: Where | None = None
    structure: Findings | None = None
    deployed: Deployed | None = None
    not_run: tuple[str, ...] = ()
    plugins: tuple[str, ...] = ()
    in_float32: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.status == "passed"

    @property
    def exit_code(self) -> int:
        """0 for a pass, 1 for everything else."""
        return 0 if self else 1

    @property
    def values(self) -> int:
        """How many values were compared in all."""
        return sum(row.values for row in self.outputs)

    @property
    def widened(self) -> str:
        """Say that types were others while models were compared; "" where they were not."""
        return f", in float32 instead of {' and '.join(self.in_float32)}" if self.in_float32 else ""

    def to_dict(self) -> dict[str, Any]:
        """Give the verdict as plain data, with stable keys and nothing that varies between runs."""
        data = asdict(self)
        return {"schema": SCHEMA, "passed": bool(self), **data}

    def to_json(self) -> str:
        """Give ``to_dict`` as JSON; numbers that JSON does not know become strings."""
        return json.dumps(_plain(self.to_dict()), indent=2, ensure_ascii=False)

    def lines(self) -> list[str]:
        """Say it in short, for people: the verdict, the reasons, what was compared, the drift."""
        runs = f"{self.runs} runs on {len(self.feeds)} input{'s' if len(self.feeds) != 1 else ''}"
        result = [f"{self.status}: {self.values:,} values compared in {runs}{self.widened}"]
        result += [f"- {reason}" for reason in self.reasons]
        result += [_line(row) for row in self.outputs if row.runs]
        result += [_drift_line(drift) for drift in self.drift if drift != Drift(drift.output)]
        for name, where in (("original", self.original), ("cut", self.cut)):
            if where is not None:
                nodes = ", ".join(f"{many(n, 'node')} on {p}" for p, n in where.placement.items())
                result.append(f"{name} ran on {where.provider}{f' ({nodes})' if nodes else ''}")
        if self.deployed is not None:
            result.append(self.deployed.line)
        if self.structure is not None:
            result.append(self.structure.line)
        return [*result, *(f"note: {note}" for note in self.notes)]


def decide(failures: list[str], doubts: list[str], values: int) -> tuple[Status, tuple[str, ...]]:
    """Decide: a failure beats a doubt, and a comparison of nothing is a doubt.

    Where all that was compared differs, no value agrees: that is no comparison of nothing.
    """
    if not values and not failures:
        doubts = [*doubts, "nothing was compared"]
    if failures:
        return "failed", tuple(dict.fromkeys(failures + doubts))
    if doubts:
        return "inconclusive", tuple(dict.fromkeys(doubts))
    return "passed", ()


def merged(verdicts: Sequence[Verdict]) -> Verdict:
    """One verdict of several parts of one cut: what any of them found counts."""
    first = verdicts[0]
    if len(verdicts) == 1:
        return first
    worst = max(verdicts, key=lambda v: ("passed", "inconclusive", "failed").index(v.status))
    outputs: dict[tuple[str, str], OutputRow] = {}
    for row in (row for verdict in verdicts for row in verdict.outputs):
        known = outputs.setdefault((row.name, row.kind), row)
        if known is not row:
            sums = ("runs", "values", "classes", "outside", "matched", "missing", "extra", "moved")
            outputs[row.name, row.kind] = replace(
                known, **{name: getattr(known, name) + getattr(row, name) for name in sums},
                max_abs=max(known.max_abs, row.max_abs), max_rel=max(known.max_rel, row.max_rel),
                where=known.where or row.where,
            )  # fmt: skip
    classes = {row.new: row for verdict in reversed(verdicts) for row in verdict.classes}
    return replace(
        first,
        status=worst.status,
        reasons=tuple(dict.fromkeys(reason for v in verdicts for reason in v.reasons)),
        notes=tuple(dict.fromkeys(note for v in verdicts for note in v.notes)),
        outputs=tuple(outputs.values()),
        classes=tuple(classes[new] for new in sorted(classes)),
        runs=sum(v.runs for v in verdicts),
    )


def _line(row: OutputRow) -> str:
    if row.kind == "detections":
        counts = f"{row.matched} detections matched, {row.missing} missing, {row.extra} extra"
        counts += f", {row.moved} of them moved" if row.moved else ""
    else:
        counts = f"{row.values:,} values"
        counts += f" of {row.classes} classes" if row.classes else ""
        counts += f", {row.outside:,} outside tolerance" if row.outside else ""
    at = f" ({row.where})" if row.where and (row.outside or row.missing or row.extra) else ""
    return f"{row.name}: {counts}; largest difference {row.max_abs:.3g}, {row.max_rel:.3g} rel.{at}"


def _drift_line(drift: Drift) -> str:
    text = f"{drift.output}: against the original as it is, values move by {drift.max_change:.3g}"
    if drift.words:
        text = f"{drift.output}: against the original as it is, {drift.words}"
    return text


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):  # noqa: PLR0124
        return str(value)
    return value
