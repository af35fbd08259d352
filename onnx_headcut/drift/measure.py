"""Run the original as it is and the cut on the same pictures, and tell what changed in meaning."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from onnx_headcut.drift import precision
from onnx_headcut.drift.boxes import Detections, Floats
from onnx_headcut.drift.decode import CannotDecode, Decoder
from onnx_headcut.drift.mapped import as_columns
from onnx_headcut.drift.matching import Pairs, pair
from onnx_headcut.errors import InputError
from onnx_headcut.numbers import many
from onnx_headcut.validation import preprocess
from onnx_headcut.validation.image_inputs import image_input
from onnx_headcut.validation.runtime import Session, open_session

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import onnx

    from onnx_headcut.classes import Classes
    from onnx_headcut.drift.mapped import Column
    from onnx_headcut.tracing.plan import Plan
    from onnx_headcut.validation.image_inputs import ImageInput
    from onnx_headcut.validation.inputs import NamedFeed
    from onnx_headcut.validation.verdict import Verdict

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
THRESHOLD, LOWEST = 0.3, 0.02
"""Scores from which detections count, and from which average precision counts them."""
_SAMPLE = 1500
_NAMED = 5  # pictures that a note names


@dataclass(frozen=True)
class ClassDrift:
    """One class of the cut over all pictures; scores and precision in 0..1, None where nothing tells.

    ``sources`` are the source columns that it is made of, whose detections together are those
    ``before``: several of a merged class, none of a new one, of which only ``after`` is counted.
    ``gained`` and ``lost`` have no partner in the other model; ``on_dropped`` of the gained lie
    where the original found an object of a dropped class.
    """

    column: int
    new: int
    name: str
    sources: tuple[int, ...]
    before: int
    after: int
    matched: int
    moved: int
    gained: int
    lost: int
    on_dropped: int
    score_change: float | None
    ap50_before: float | None = None
    ap50_after: float | None = None
    ap_before: float | None = None
    ap_after: float | None = None


@dataclass(frozen=True)
class Picture:
    """One picture and what both models found in it, scores of 0.3 and more.

    ``before`` is in columns of the original, ``after`` in those of the cut.
    """

    path: Path
    before: Detections
    after: Detections


@dataclass(frozen=True)
class DriftReport:
    """The drift on pictures. ``scores`` [n,2] are scores before and after, a sample of them."""

    pictures: tuple[Picture, ...]
    classes: tuple[ClassDrift, ...]
    scores: Floats
    annotated: int
    notes: tuple[str, ...] = ()

    @property
    def score_change(self) -> tuple[float, float]:
        """Mean and largest change of a kept score."""
        if not len(self.scores):
            return 0.0, 0.0
        change = self.scores[:, 1] - self.scores[:, 0]
        return float(change.mean()), float(change[np.argmax(np.abs(change))])

    def total(self, name: str) -> int:
        """Sum of one count over the classes."""
        return int(sum(getattr(row, name) for row in self.classes))

    def mean(self, name: str) -> float | None:
        """Mean of one precision over the classes that have objects, and that the original knows."""
        values = [v for row in self.classes if row.sources and (v := getattr(row, name)) is not None]
        return float(np.mean(values)) if values else None

    def to_json(self) -> dict[str, Any]:
        """Plain data with stable keys."""
        mean, largest = self.score_change
        counts = ("before", "after", "matched", "moved", "gained", "lost", "on_dropped")
        return {
            "pictures": [p.path.name for p in self.pictures],
            "annotated": self.annotated,
            "threshold": THRESHOLD,
            "score_change": {"mean": mean, "largest": largest},
            "detections": {name: self.total(name) for name in counts},
            "precision": {n: self.mean(n) for n in ("ap50_before", "ap50_after", "ap_before",
                                                    "ap_after")},
            "classes": [asdict(row) for row in self.classes],
            "notes": list(self.notes),
        }  # fmt: skip

    def lines(self) -> list[str]:
        """Say it in short."""
        if not self.classes:
            return list(self.notes)
        n, mean = len(self.pictures), self.score_change
        moved, gained = self.total("moved"), self.total("gained")
        counts = (
            f"{self.total('matched')} detections matched ({moved} moved), {gained} gained"
            f" ({self.total('on_dropped')} where a dropped object is), {self.total('lost')} lost"
        )
        result = [
            f"on {n} picture{'s' * (n != 1)} against the original as it is: {counts}",
            "no object of a kept class was found by both, so that nothing is known of scores"
            if not len(self.scores)
            else f"kept scores change by {mean[0]:+.3f} on average, by {mean[1]:+.3f} at most"
            if round(abs(mean[1]), 3)
            else "kept scores stay as they are",
        ]
        before, after = self.mean("ap50_before"), self.mean("ap50_after")
        if before is not None and after is not None:
            result.append(f"mAP at IoU 0.5 of the kept classes: {before:.3f} before, {after:.3f}"
                          f" after, on {self.annotated} annotated pictures")  # fmt: skip
        new = [f"{row.after} of {row.name}" for row in self.classes if not row.sources]
        if new:
            result.append(f"detections of new classes, of which the original knows nothing:"
                          f" {', '.join(new)}")  # fmt: skip
        return [*result, *self.notes]


def pictures_in(folder: Path) -> list[Path]:
    """List a folder's pictures by name; raises InputError where there is none."""
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder", advice="--images takes a folder of pictures.")
    known = (p for p in folder.iterdir() if p.suffix.lower() in PICTURES and p.is_file())
    found = sorted(p for p in known if not p.name.startswith("."))  # what macOS puts beside files
    if not found:
        raise InputError(f"{folder} holds no picture", advice=f"Known are {', '.join(PICTURES)}.")
    return found


@dataclass(frozen=True)
class Subject:
    """Both models, and what is known of them: the plan of the cut and the verdict on it.

    ``columns`` are the classes of the cut.
    """

    original: onnx.ModelProto | Path
    cut: onnx.ModelProto | Path
    proto: onnx.ModelProto
    plan: Plan
    classes: Classes
    verdict: Verdict
    columns: Sequence[Column]


def measure(
    subject: Subject,
    images: Sequence[Path],
    *,
    how: str | None = None,
    annotations: Path | None = None,
    provider: str = "cpu",
    progress: Callable[[str], None] = lambda step: None,  # noqa: ARG005
) -> DriftReport:
    """Run both models on pictures.

    ``how`` is the preprocessing, as ``--preprocess`` takes it. Raises InputError for annotations that
    cannot be read, or where no picture can; a picture among others that cannot is a note, and so
    are outputs that cannot be decoded.
    """
    truth = precision.Truth() if annotations is None else precision.read(annotations)
    chosen = preprocess.default_for(subject.proto) if how is None else preprocess.parse(how)
    sessions = [open_session(m, provider=provider) for m in (subject.original, subject.cut)]
    readers = _readers(subject)
    image = image_input(subject.proto)
    found: list[dict[str, Detections]] = [{}, {}]
    unread: list[InputError] = []
    for at, path in enumerate(images):
        progress(f"picture {at + 1} of {len(images)}")
        try:
            feed = preprocess.from_images([path], subject.proto, chosen)[0]
        except InputError as error:
            unread.append(error)
            continue
        for session, reader, each in zip(sessions, readers, found, strict=True):
            try:
                each[path.name] = _detect(session, reader, feed, path, image, chosen)
            except CannotDecode as error:
                return _untold(images, error)
    if len(unread) == len(images):
        raise unread[0]
    read = [path for path in images if path.name in found[0]]
    notes = (*_left_out(unread), *_unknown(subject, readers[0]))
    return _report(subject, read, found, truth, notes)


def _left_out(unread: Sequence[InputError]) -> list[str]:
    """Name the pictures that could not be read: all that is told is of the others."""
    if not unread:
        return []
    named = [error.what for error in unread[:_NAMED]]
    more = [f"and {len(unread) - _NAMED} more"] if len(unread) > _NAMED else []
    return [f"{many(len(unread), 'picture')} left out: {'; '.join([*named, *more])}"]


def _untold(images: Sequence[Path], error: CannotDecode) -> DriftReport:
    """Say that nothing can be said, rather than that nothing was found."""
    note = f"drift on pictures: detections cannot be told from the outputs: {error}"
    pictures = tuple(Picture(path, _NOTHING, _NOTHING) for path in images)
    return DriftReport(pictures, (), np.zeros((0, 2)), 0, (note,))


_NOTHING = Detections(np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0))


def _readers(subject: Subject) -> tuple[Decoder, Decoder]:
    """Make decoders of both models, each in columns of its own."""
    plan, classes = subject.plan, subject.classes
    rows = [r for r in subject.verdict.classes if r.label is not None]
    before = {float(r.label or 0): r.column for r in rows}
    offsets = {label - column for label, column in before.items()}
    if len(offsets) == 1:  # the dropped classes' ids run on
        offset = offsets.pop()
        before |= {k + offset: k for k in range(classes.count)}
    after = {float(r.cut_label): r.new for r in rows if r.cut_label is not None}
    order = plan.selection.order
    home = order.index(classes.background) if classes.background in order else None
    return (
        Decoder(plan.outputs, range(classes.count), before, classes.background, LOWEST),
        Decoder(plan.outputs, range(len(order)), after, home, LOWEST),
    )


def _unknown(subject: Subject, before: Decoder) -> list[str]:
    """Say which merged classes' members the original's ids do not tell."""
    known = set(before.labels.values())
    missing = [c.name for c in subject.columns if known and set(c.members) - known]
    if not missing:
        return []
    names = ", ".join(missing)
    return [f"not all ids of what {names} is made of are known: the original's finds count in part"]


def _detect(
    session: Session,
    reader: Decoder,
    feed: NamedFeed,
    path: Path,
    image: ImageInput | None,
    chosen: preprocess.Preprocess,
) -> Detections:
    from PIL import Image, ImageOps  # noqa: PLC0415  (only where a picture is read)

    with Image.open(path) as file:
        width, height = ImageOps.exif_transpose(file).size
    fed = (width, height)
    if image is not None:
        shape = dict(zip(image.axes, feed.feed[image.spec.name].shape, strict=True))
        fed = (shape["width"], shape["height"])
    seen = reader.read(session.run(feed.feed), fed, (width, height))
    boxes = seen.boxes
    if chosen.resize == "letterbox":
        boxes = _unletterboxed(boxes, fed, (width, height), centred=chosen.align == "center")
    return Detections(np.clip(boxes, 0, 1), seen.columns, seen.scores)


def _unletterboxed(
    boxes: Floats, fed: tuple[int, int], original: tuple[int, int], *, centred: bool
) -> Floats:
    """Turn fractions of what was fed into fractions of the picture inside it."""
    whole, size = np.array(fed, np.float64), np.array(original, np.float64)
    part = np.round(size * (whole / size).min())
    start = np.floor((whole - part) / 2) if centred else np.zeros(2)
    return np.asarray((boxes * np.tile(whole, 2) - np.tile(start, 2)) / np.tile(part, 2))


def _report(
    subject: Subject,
    images: Sequence[Path],
    found: Sequence[Mapping[str, Detections]],
    truth: precision.Truth,
    notes: tuple[str, ...],
) -> DriftReport:
    columns = subject.columns
    kept = frozenset(column.new for column in columns)
    mapped = [{name: as_columns(d, columns) for name, d in found[0].items()}, found[1]]
    shown, clear = (
        [{name: d.of(d.scores >= THRESHOLD) for name, d in each.items()} for each in both]
        for both in (found, mapped)
    )
    matches = {p.name: pair(clear[0][p.name], clear[1][p.name], kept) for p in images}
    rows = [_class_row(column, clear, matches) for column in columns]
    if truth:
        names = {column.new: column.truth for column in columns}
        before, after = (precision.of_columns(d, truth, names) for d in mapped)
        rows = [_with_precision(row, before[row.new], after[row.new]) for row in rows]
    scores = [
        (clear[0][name].scores[i], clear[1][name].scores[j])
        for name, match in matches.items()
        for i, j in match.pairs
    ]
    pictures = tuple(Picture(p, shown[0][p.name], shown[1][p.name]) for p in images)
    table = np.array(scores, np.float64).reshape(-1, 2)[:_SAMPLE]
    annotated = sum(p.name in truth.sizes for p in images)
    if truth and not annotated:
        notes = (*notes, "none of the pictures is annotated")
    elif truth and all(row.ap_before is None and row.ap_after is None for row in rows):
        called = ", ".join(column.name for column in columns)
        notes = (*notes, f"no average precision: no annotated object is called {called}")
    return DriftReport(pictures, tuple(rows), table, annotated, notes)


def _with_precision(
    row: ClassDrift, before: tuple[float | None, ...], after: tuple[float | None, ...]
) -> ClassDrift:
    """Add the precision of both; the original knows nothing of a new class."""
    if not row.sources:
        before = None, None
    return replace(row, ap50_before=before[0], ap_before=before[1], ap50_after=after[0],
                   ap_after=after[1])  # fmt: skip


def _class_row(
    column: Column, clear: Sequence[Mapping[str, Detections]], matches: Mapping[str, Pairs]
) -> ClassDrift:
    counts = dict.fromkeys(("matched", "moved", "gained", "lost", "on_dropped"), 0)
    changes: list[float] = []
    totals = [sum(int((d.columns == column.new).sum()) for d in each.values()) for each in clear]
    for picture, match in matches.items() if column.members else ():
        old, new = clear[0][picture], clear[1][picture]
        of_it = [(i, j) for i, j in match.pairs if old.columns[i] == column.new]
        counts["matched"] += len(of_it)
        counts["moved"] += sum(1 for p in of_it if p in match.moved)
        counts["gained"] += sum(1 for j in match.gained if new.columns[j] == column.new)
        counts["on_dropped"] += sum(1 for j in match.on_dropped if new.columns[j] == column.new)
        counts["lost"] += sum(1 for i in match.lost if old.columns[i] == column.new)
        changes += [float(new.scores[j] - old.scores[i]) for i, j in of_it]
    change = float(np.mean(changes)) if changes else None
    before, after = totals
    return ClassDrift(column.column, column.new, column.name, column.members, before, after,
                      score_change=change, **counts)  # fmt: skip
