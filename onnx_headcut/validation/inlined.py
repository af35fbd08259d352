"""The model as it was written, held against itself with calls of local functions inlined.

A cut that inlines is compared with the inlined original; so that one has to be the original. Both
are run on the same inputs (onnxruntime inlines by itself, with code of its own), and whatever no
call concerns is byte-identical.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from onnx_headcut.errors import HeadcutError
from onnx_headcut.validation.compare import difference, tolerance_for
from onnx_headcut.validation.entrances import lacking, without
from onnx_headcut.validation.pair import Model
from onnx_headcut.validation.reference import expose
from onnx_headcut.validation.runtime import open_session
from onnx_headcut.validation.structure import structural
from onnx_headcut.validation.synthetic import synthetic
from onnx_headcut.validation.widened import fed_in_float32, in_float32

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import onnx

    from onnx_headcut.validation.claims import Claims
    from onnx_headcut.validation.inputs import NamedFeed
    from onnx_headcut.validation.verdict import Settings, Verdict


def _runnable(
    written: onnx.ModelProto, inlined: onnx.ModelProto, folder: Path | None, provider: str
) -> list[onnx.ModelProto]:
    """Both models, or where no kernel runs an op of theirs, what enters it in both."""
    models = [written, inlined]
    ops = lacking(Model(written, written, folder), (), provider)
    if not ops:
        return models
    parts = [without(model, ops) for model in models]
    made = [{o for node in part.graph.node for o in node.output} for part, _ in parts]
    entering = {name for node in parts[1][1] for name in node.input} & made[0] & made[1]
    return [expose(part, sorted(entering)) for part, _ in parts]


def with_inlining(  # noqa: PLR0913  (two models, and how to run them)
    verdict: Verdict,
    written: onnx.ModelProto,
    inlined: onnx.ModelProto,
    *,
    claims: Claims,
    folder: Path | None,
    provider: str,
    feeds: Sequence[NamedFeed] | None,
    settings: Settings,
) -> Verdict:
    """Add to a verdict on a cut of ``inlined`` what tells it from the model as it was ``written``.

    ``claims`` are the nodes and functions that inlining concerns.
    """
    found = structural(written, inlined, claims, original_dir=folder, cut_dir=folder)
    problems = [f"structure: inlining: {problem}" for problem in found.problems]
    note = "calls of local functions were inlined where the cut changes what is in them"
    written, inlined = (in_float32(model, verdict.in_float32) for model in (written, inlined))
    feeds = fed_in_float32(written, feeds)
    sessions = [open_session(model, provider=provider, external_data_dir=folder)
                for model in _runnable(written, inlined, folder, provider)]  # fmt: skip
    if feeds is None:
        feeds = synthetic(written, count=settings.count, seed=settings.seed, shapes=settings.shapes)
    values = 0
    for feed in feeds:
        try:
            old = sessions[0].run(feed.feed)
        except HeadcutError:
            if feed.may_fail:
                continue
            raise
        new = sessions[1].run(feed.feed)
        for name, value in old.items():
            same = value.shape == new[name].shape and value.dtype == new[name].dtype
            if not same:
                problems.append(f"inlining changes output {name!r} on {feed.name}")
                continue
            tolerance = tolerance_for(value.dtype)
            apart = difference(value, np.asarray(new[name]), tolerance)
            values += apart.values
            if apart.outside:
                problems.append(f"inlining changes output {name!r} on {feed.name}: {apart.text}")
    note += f"; {values:,} values of the outputs are the same with them and without"
    return replace(
        verdict,
        status="failed" if problems else verdict.status,
        reasons=(*verdict.reasons, *problems),
        notes=(*verdict.notes, note),
    )
