"""A background fitted to pictures, on its way into a cut and into the cut's verdict.

The fitting runs models, and is imported only where it does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx_headcut.handover import runnable
from onnx_headcut.tracing.planning import planned

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from onnx_headcut.classes import Classes, ClassMap
    from onnx_headcut.fitting import Fit, Picture
    from onnx_headcut.graph import model as files
    from onnx_headcut.handover import Subject
    from onnx_headcut.tracing.plan import Plan
    from onnx_headcut.understanding import Understood
    from onnx_headcut.validation.verdict import Verdict


def to_be_fitted(wanted: ClassMap, known: Understood) -> ClassMap:
    """The map with a background whose values are computed; UsageError where there is none to fit."""
    from onnx_headcut.fitting import calibration  # noqa: PLC0415

    return calibration.with_background_given(wanted, known.located.activation)


def fitted(  # noqa: PLR0913, PLR0917
    source: files.Source,
    known: Understood,
    wanted: ClassMap,
    plan: Plan,
    pictures: Sequence[Picture],
    provider: str,
    progress: Callable[[str], None],
) -> tuple[Fit, Plan]:
    """A background fitted to pictures, and the plan with its values."""
    from onnx_headcut.fitting import calibration  # noqa: PLC0415

    proto, folder = runnable(source.proto, source)
    original = calibration.Original(proto, folder, known.analysis, known.located)
    fit = calibration.fit_for(original, wanted, plan, pictures, provider, progress)
    return fit, planned(known, wanted, "compact", calibration.given_rows(fit, wanted))


def doubt(fit: Fit, classes: Classes) -> Verdict | None:
    """The verdict where the pictures show nothing of what is dropped; None where they do."""
    from onnx_headcut.fitting import calibration  # noqa: PLC0415

    return calibration.doubt(fit, _names(classes))


def proved(
    verdict: Verdict,
    subject: Subject,
    fit: Fit,
    classes: Classes,
    pictures: Sequence[Picture],
    provider: str,
) -> Verdict:
    """The verdict with what a fitted background was found to be."""
    from onnx_headcut.fitting import calibration  # noqa: PLC0415
    from onnx_headcut.validation.fitted import Side  # noqa: PLC0415

    plan = subject.plan
    sides = (
        Side(*runnable(subject.source.proto, subject.source), plan.sites),
        Side(*runnable(subject.proto, subject.home), plan.cut_sites),
    )
    verdict = calibration.proved(verdict, fit, subject.class_map, sides, pictures, provider)
    return calibration.noted(verdict, fit, _names(classes))


def _names(classes: Classes) -> list[str]:
    return [classes.name(c) for c in range(classes.count)]
