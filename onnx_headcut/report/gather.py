"""Gather what a report shows beyond the verdict: plan, figures, drift on pictures, speed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from onnx_headcut.classes import ClassMap, read_cut_metadata
from onnx_headcut.errors import HeadcutError
from onnx_headcut.figures import figures, inspection
from onnx_headcut.graph.model import load, metadata_of
from onnx_headcut.report.page import File, Material
from onnx_headcut.tracing.plan import make_plan
from onnx_headcut.understanding import Options, understand

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import onnx

    from onnx_headcut.bench.measure import Bench
    from onnx_headcut.classes import CutRecord
    from onnx_headcut.drift.measure import DriftReport, Subject
    from onnx_headcut.figures import Figures
    from onnx_headcut.validation.verdict import Verdict

    Progress = Callable[[str], None]


@dataclass(frozen=True)
class Wish:
    """What is to be measured: drift on ``images`` (``how`` they are fed), and the speed."""

    images: Sequence[Path] = ()
    how: str | None = None
    annotations: Path | None = None
    speed: bool = False
    provider: str = "cpu"


def gather(  # noqa: PLR0913  (two models, what is known, and what is wished)
    original: Path,
    cut: Path | onnx.ModelProto,
    verdict: Verdict,
    wish: Wish,
    *,
    name: str,
    options: Options | None = None,
    progress: Progress = lambda step: None,  # noqa: ARG005
) -> Material:
    """Gather it; ``name`` is what to call the cut. Errors as `inspect` and `drift.measure`."""
    known = understand(original, options)
    located, analysis, classes = known.located, known.analysis, known.classes
    order = tuple(row.column for row in sorted(verdict.classes, key=lambda row: row.new))
    record = _record(cut)
    wanted = ClassMap.of_columns(order, located.count, classes.background)
    exact = wanted if record is not None and record.exact else None
    plan = make_plan(analysis, located, wanted.selection, exact=exact)
    called, drift = _called(record, len(order)), None
    if wish.images:
        from onnx_headcut.drift import mapped, measure  # noqa: PLC0415  (only with pictures)

        known_map = record.map if record is not None and record.map else wanted
        columns = mapped.columns_of(known_map, classes, called)
        proto = analysis.source.proto
        both = measure.Subject(original, cut, proto, plan, classes, verdict, columns)
        drift = _drift(both, wish, progress)
    bench: Bench | str | None = None
    if wish.speed and isinstance(cut, Path) and verdict:
        bench = _speed(original, cut, wish.provider, progress)
    found = inspection(analysis, located, classes, plan)
    before = figures(analysis, located)
    return Material(original.name, name, verdict, plan, classes, found.heads, before, _after(cut),
                    drift, bench, called, _files(original, cut))  # fmt: skip


def _files(*models: Path | onnx.ModelProto) -> tuple[File, ...]:
    """What tells each of the files from all others; a model that is no file has nothing."""
    found = []
    for path in models:
        if isinstance(path, Path):
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            found.append(File(path.name, path.stat().st_size, digest))
    return tuple(found)


def _record(cut: Path | onnx.ModelProto) -> CutRecord | None:
    """The cut's own record; None where it has none that can be read."""
    try:
        return read_cut_metadata(metadata_of(load(cut, small=True).proto))
    except HeadcutError:
        return None


def _called(record: CutRecord | None, count: int) -> tuple[str | None, ...]:
    """What the cut's own record calls its columns; empty where it has none."""
    return record.names if record is not None and len(record.names) == count else ()


def _drift(both: Subject, wish: Wish, progress: Progress) -> DriftReport | None:
    from onnx_headcut.drift.measure import measure  # noqa: PLC0415
    from onnx_headcut.validation.runtime import RuntimeFailure  # noqa: PLC0415

    try:
        return measure(both, wish.images, how=wish.how, annotations=wish.annotations,
                       provider=wish.provider, progress=progress)  # fmt: skip
    except RuntimeFailure:
        if both.verdict:
            raise
        return None  # a broken cut that does not run: the verdict says so


def _speed(original: Path, cut: Path, provider: str, progress: Progress) -> Bench | str:
    """Time both, or say why not: what was proved stays proved where a device is full."""
    from onnx_headcut.bench.measure import Settings, bench  # noqa: PLC0415  (only where wished)
    from onnx_headcut.validation.synthetic import synthetic  # noqa: PLC0415

    feed = synthetic(load(original).proto, count=1)[0]
    try:
        return bench(original, cut, feed, Settings(provider, rounds=30, seconds=2.0), progress)
    except HeadcutError as error:
        return error.what


def _after(cut: Path | onnx.ModelProto) -> Figures | None:
    """Sizes of the cut; None for one that is too broken to be read."""
    try:
        known = understand(cut, Options(labels="none", background="none"))
    except HeadcutError:
        return None
    return figures(known.analysis, known.located)
