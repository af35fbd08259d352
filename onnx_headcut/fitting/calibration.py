"""A fitted background as part of a cut: what it makes of the map, of the plan and of the verdict."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from onnx_headcut.classes import Row, Start
from onnx_headcut.editing.apply import stored_tensor
from onnx_headcut.errors import GraphRefused, UsageError
from onnx_headcut.fitting.background import Fit, fit_background
from onnx_headcut.fitting.heads import WAY_OUT, heads_of
from onnx_headcut.graph.model import to_array
from onnx_headcut.tracing.blending import biases_behind
from onnx_headcut.validation.fitted import Side, background_error
from onnx_headcut.validation.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    import onnx

    from onnx_headcut.classes import ClassMap, GivenRows
    from onnx_headcut.fitting.background import Floats
    from onnx_headcut.fitting.pictures import Picture
    from onnx_headcut.graph.analysis import Analysis
    from onnx_headcut.heads.locate import Located
    from onnx_headcut.labels import Activation
    from onnx_headcut.tracing.plan import Plan


def with_background_given(wanted: ClassMap, activation: Activation) -> ClassMap:
    """The map with a background whose values are computed; UsageError where there is none to fit."""
    if wanted.exact:
        raise UsageError(
            "--fit-background is for cuts in the heads; exact scores stay what they are",
            advice="leave --fit-background or --scores exact away",
        )
    if activation == "sigmoid":
        raise UsageError(
            "--fit-background: there is nothing to fit behind sigmoids: a class's score does not "
            "depend on the others, and stays what it is when they go",
            advice="leave --fit-background away",
        )
    if wanted.background is None or wanted.background not in wanted.order:
        raise UsageError(
            "--fit-background: the model has no background, which would stand for what goes",
            advice="say which column it is with --background, or leave --fit-background away",
        )
    if not _dropped(wanted):
        raise UsageError("--fit-background: no class is dropped, so that there is nothing to fit")
    rows = tuple(
        Row(row.template, (), Start("given"), row.name) if row.template == wanted.background else row
        for row in wanted.rows
    )
    return replace(wanted, rows=rows)


def kept_of(wanted: ClassMap) -> list[int]:
    """Source columns that live on in the map: as they are, merged, or as the place of a new class."""
    used = {c for row in wanted.rows for c in (row.template, *row.members)}
    return sorted(used - {wanted.background})


def _dropped(wanted: ClassMap) -> set[int]:
    return {*range(wanted.count)} - {*kept_of(wanted), wanted.background}


@dataclass(frozen=True)
class Original:
    """The model that is cut, as it is run: ``folder`` is where its external data are."""

    proto: onnx.ModelProto
    folder: Path | None
    analysis: Analysis
    located: Located


def fit_for(
    original: Original,
    wanted: ClassMap,
    plan: Plan,
    pictures: Sequence[Picture],
    provider: str,
    progress: Callable[[str], None],
) -> Fit:
    """Fit the background of a cut; right after its plan was made, whose marks are read."""
    assert wanted.background is not None  # noqa: S101  (with_background_given looked)
    heads = heads_of(
        original.proto,
        original.located.heads,
        wanted.count,
        original.folder,
        _offsets(original, wanted, plan),
    )
    return fit_background(
        original.proto,
        heads,
        kept_of(wanted),
        wanted.background,
        pictures,
        folder=original.folder,
        provider=provider,
        progress=progress,
    )


def given_rows(fit: Fit, wanted: ClassMap) -> GivenRows:
    """The fitted rows as a plan takes them."""
    column = next(j for j, row in enumerate(wanted.rows) if row.template == wanted.background)
    return {(value, column): rows for value, rows in fit.rows.items()}


def _offsets(original: Original, wanted: ClassMap, plan: Plan) -> dict[int, Floats]:
    """What is added to each head's channels behind its node, by node number."""
    graph = original.proto.graph
    found = {}
    for at, behind in biases_behind(plan, original.analysis, original.located, wanted).items():
        labels = original.located.heads[at].ids
        total = np.zeros(len(labels))
        for place, slot, axis, ids in behind:
            node = graph.node[place]
            tensor = stored_tensor([graph], node.input[slot])
            value = np.zeros(0) if tensor is None else to_array(tensor, original.folder)
            if value.size != len(ids) or value.shape[axis : axis + 1] != (len(ids),):
                raise GraphRefused(
                    "a background cannot be fitted: what is added here depends on more than the class",
                    node=node.name or node.output[0], op=node.op_type, advice=WAY_OUT,
                )  # fmt: skip
            for c in range(wanted.count):
                total[labels == c] += value.reshape(-1)[ids == c].astype(np.float64)
        found[at] = total
    return found


def doubt(fit: Fit, names: Sequence[str]) -> Verdict | None:
    """The verdict where the pictures show nothing of what is dropped; None where they do."""
    if fit.conclusive:
        return None
    dropped = _listed(fit.shown, names)
    reason = (
        f"the background was to be fitted to {fit.pictures} pictures, and none of them shows a class "
        f"that is dropped ({dropped}): give pictures with such objects in them"
    )
    return Verdict("inconclusive", (reason,))


def proved(
    verdict: Verdict,
    fit: Fit,
    wanted: ClassMap,
    sides: tuple[Side, Side],
    pictures: Sequence[Picture],
    provider: str,
) -> Verdict:
    """The verdict after the cut's background was held against what it was fitted to."""
    assert wanted.background is not None  # noqa: S101  (with_background_given looked)
    found, rounding = background_error(
        *sides,
        (wanted.background, *sorted(_dropped(wanted))),
        wanted.count,
        (pictures[n]() for n in fit.checked),
        provider,
    )
    if abs(found - fit.check) <= 0.01 * fit.check + rounding:
        return verdict
    reason = (
        f"the cut's background is not the one that was fitted: it is {found:.4g} (root mean square) "
        f"from what it should stand for, and the fit is {fit.check:.4g}"
    )
    return replace(verdict, status="failed", reasons=(*verdict.reasons, reason))


def noted(verdict: Verdict, fit: Fit, names: Sequence[str]) -> Verdict:
    """The verdict with what was found of the fit."""
    return replace(verdict, notes=(*verdict.notes, *lines(fit, names)))


def lines(fit: Fit, names: Sequence[str]) -> list[str]:
    """Say it for people: how near kept scores are to the original's, and what was not seen."""
    before, after = fit.before, fit.after
    said = ["no fitted background came nearer to the original than its own: that one stays"]
    if fit.ridge is not None:
        scores = (
            f"fitted background: on {fit.held_out} of {fit.pictures} pictures, held out, kept scores "
            f"are {after.rms:.2g} (root mean square) from the original's, at most {after.most:.2g}; "
            f"without the fit {before.rms:.2g}, at most {before.most:.2g}"
        )
        logit = (
            f"fitted background: its logit is {after.background:.2g} from that of the original's "
            f"background and dropped classes together, without the fit {before.background:.2g} "
            "(root mean square, weighted by what is there)"
        )
        said = [scores, logit]
    if fit.unseen:
        missing = _listed(fit.unseen, names)
        said.append(f"no picture for the background shows {missing}: the fit does not know them")
    return said


def _listed(columns: Iterable[int], names: Sequence[str], most: int = 8) -> str:
    """Some names, and how many more there are."""
    said = [names[c] for c in columns]
    more = [f"and {len(said) - most} more"] if len(said) > most + 1 else []
    return ", ".join([*(said[:most] if more else said), *more])
