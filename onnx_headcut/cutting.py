"""The main job: inspect a model, cut it, validate a cut. This is the public API's home."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from onnx_headcut.classes import parse_map, read_cut_metadata
from onnx_headcut.editing.apply import apply
from onnx_headcut.errors import UsageError
from onnx_headcut.feeding import Feeds, read_feeds, read_pictures
from onnx_headcut.figures import Figures, Inspection, figures, inspection
from onnx_headcut.fitted import doubt, fitted, proved, to_be_fitted
from onnx_headcut.graph import model as files
from onnx_headcut.graph.sanity import foreseen
from onnx_headcut.handover import Subject, validated
from onnx_headcut.labels import Selection
from onnx_headcut.making import applied_model, folded, write_out
from onnx_headcut.storage.lean import fill_all
from onnx_headcut.tracing.plan import Plan, make_plan
from onnx_headcut.tracing.planning import Ids, Scores, applied_to, planned, recorded
from onnx_headcut.understanding import (
    ModelLike,
    Opened,
    Options,
    Understood,
    open_model,
    understand,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence

    import onnx

    from onnx_headcut.classes import Classes, ClassMap, LabelsLike
    from onnx_headcut.classes.mapping import Merge
    from onnx_headcut.extensions import PluginLike
    from onnx_headcut.feeding import FeedsLike
    from onnx_headcut.fitting import Fit
    from onnx_headcut.storage.external import External
    from onnx_headcut.validation.verdict import Verdict

    KeepLike = str | Sequence[int | str]
    Progress = Callable[[str], None]


@dataclass(frozen=True)
class Cut:
    """The result of a cut: the model, what was planned, and what validation found.

    ``lean`` is the model with large weights left in the source's file where nothing was run.
    """

    lean: onnx.ModelProto
    plan: Plan
    before: Figures
    after: Figures
    classes: Classes
    class_map: ClassMap
    verdict: Verdict | None
    output: Path | None
    fit: Fit | None = None

    @property
    def kept(self) -> Classes:
        """What the columns of the cut model mean."""
        return self.classes.mapped(self.class_map)

    @cached_property
    def model(self) -> onnx.ModelProto:
        """The model with all its weights, but for external data; reads them where need be."""
        fill_all(self.lean)
        return self.lean

    @property
    def exit_code(self) -> int:
        """0 where the cut was validated, or validation was not asked for; else 1."""
        return 0 if self.verdict is None else self.verdict.exit_code


def inspect(  # noqa: PLR0913  (each is one option of the command line)
    model: ModelLike,
    *,
    labels: LabelsLike | None = None,
    background: str | int | None = None,
    heads: Sequence[str] = (),
    layout: str | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    plugins: Sequence[PluginLike] = (),
    follow_links: bool = False,
) -> Inspection:
    """What the tool finds in a model: heads, classes, outputs, and what a cut would save.

    ``plugins`` hold rules for ops of your own: docs/rules.md. Raises InputError, UsageError or
    GraphRefused; needs no runtime.
    """
    source = files.load(model, links=follow_links, small=True)
    options = Options(labels, background, tuple(heads), input_shapes or {}, layout, tuple(plugins))
    options = replace(options, unsure=True)
    with foreseen():
        return _inspected(source, options)


def _inspected(source: files.Source, options: Options) -> Inspection:
    known = understand(source, options)
    plan = make_plan(known.analysis, known.located,
                     Selection(tuple(range(known.located.count)), known.located.count))  # fmt: skip
    return inspection(known.analysis, known.located, known.classes, plan)


def cut(  # noqa: PLR0913  (each is one option of the command line)
    model: ModelLike | Opened,
    keep: KeepLike,
    output: str | os.PathLike[str] | None = None,
    *,
    labels: LabelsLike | None = None,
    background: str | int | None = None,
    heads: Sequence[str] = (),
    layout: str | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    plugins: Sequence[PluginLike] = (),
    ids: Ids = "compact",
    seed: int = 0,
    scores: Scores = "renormalized",
    merge: Merge | None = None,
    fit_background: FeedsLike | None = None,
    provider: str = "auto",
    feeds: FeedsLike | None = None,
    validation: bool = True,
    force: bool = False,
    dry_run: bool = False,
    external_data: External | None = None,
    follow_links: bool = False,
    tolerances: Mapping[str, tuple[float, float]] | None = None,
    progress: Progress = lambda step: None,  # noqa: ARG005
) -> Cut:
    """Cut ``model`` to the classes that ``keep`` says, and write it where ``output`` is given.

    The file is written only when validation has passed (or was switched off). ``model`` itself is
    never changed. Raises the errors of `onnx_headcut.errors`; a failed or inconclusive validation
    is no error but the result's ``verdict``. ``progress`` is called with the name of each step.
    ``plugins`` hold rules for ops of your own: docs/rules.md.

    ``external_data`` says where weights beside the model go: "reference" leaves them where they
    lie, "copy" puts them into one file beside the output, "inline" into the model; by default they
    stay where the output's folder holds them, and are copied elsewhere. ``follow_links`` trusts
    data files that are symbolic or hard links. A model that `open_model` gave was read already: what
    says how to read it was said there. What ``keep`` may say is in docs/classes.md; ``seed`` is for
    what it draws at random. ``tolerances`` are by output, as those of `validate`.

    ``scores``: "renormalized" makes the cut in the heads, so that a softmax is over what is kept;
    "exact" leaves the heads whole and picks behind the activation, so that each kept score is what
    it was. There, ``merge`` says how merged classes' scores become one: "sum" (the default behind a
    softmax) or "max" (behind sigmoids). ``fit_background`` are pictures to which the background of a
    softmax is fitted, so that it stands for what is dropped, too: docs/fitted-background.md.
    """
    progress("reading")
    opened: Opened | None = None
    if isinstance(model, Opened):
        opened, source, options = model, model.source, model.options
    else:
        small = not validation and fit_background is None
        source = files.load(model, links=follow_links, small=small)
        options = Options(labels, background, tuple(heads), input_shapes or {}, layout, tuple(plugins))
    if not dry_run:
        source.start_hashing()
    target = Path(output) if output is not None else None
    if target is not None and not dry_run:
        files.prepare_output(target, source.path, force=force)
    inputs = read_feeds(feeds, source)
    pictures = None if fit_background is None else read_pictures(fit_background, source)
    fit: Fit | None = None
    progress("planning")
    with foreseen():
        known = opened.known if opened is not None else understand(source, options)
        written, source = source, known.analysis.source  # the same, with calls inlined
        wanted = applied_to(scores, merge, parse_map(keep, known.classes, seed=seed), known)
        if pictures is not None:
            wanted = to_be_fitted(wanted, known)
        plan = planned(known, wanted, ids)
        before = figures(known.analysis, known.located)
        if dry_run:
            return Cut(source.proto, plan, before, before, known.classes, wanted, None, None)
        if pictures is not None:
            fit, plan = fitted(source, known, wanted, plan, pictures, provider, progress)
        progress("cutting")
        keep_original = opened is not None or source.path is None or validation
        proto, applied = applied_model(source, known, plan, wanted, fit, copy=keep_original)
        inlined = folded(known, plan, written, proto)
        source = inlined.source if inlined is not None else source
        after = figures(known.analysis, known.located, proto)
    verdict = None if fit is None else doubt(fit, known.classes)
    if validation and verdict is None:
        progress("validating")
        subject = Subject(source, proto, plan, wanted, applied, source, known.plugins,
                          written.proto, inlined, known.classes.names)  # fmt: skip
        verdict = validated(subject, provider, inputs, options.input_shapes, ids, tolerances)
        if fit is not None and pictures is not None:
            verdict = proved(verdict, subject, fit, known.classes, pictures, provider)
    result = Cut(proto, plan, before, after, known.classes, wanted, verdict, target, fit)
    if wanted.identity and written is not source:
        result = replace(result, lean=files.copied(written.proto))
    if target is not None and result.exit_code == 0:
        progress("writing")
        unchanged = result.class_map.identity
        write_out(result.lean, source, target, external_data, progress, unchanged=unchanged)
    return result


def validate(  # noqa: PLR0913
    original: ModelLike,
    cut_model: ModelLike,
    keep: KeepLike | None = None,
    *,
    labels: LabelsLike | None = None,
    background: str | int | None = None,
    heads: Sequence[str] = (),
    layout: str | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    plugins: Sequence[PluginLike] = (),
    ids: Ids | None = None,
    seed: int = 0,
    scores: Scores | None = None,
    merge: Merge | None = None,
    provider: str = "auto",
    feeds: FeedsLike | None = None,
    follow_links: bool = False,
    tolerances: Mapping[str, tuple[float, float]] | None = None,
    progress: Progress = lambda step: None,  # noqa: ARG005
) -> Verdict:
    """Hold a cut model against its original; ``keep`` may be left out where metadata say it.

    So may ``ids``, ``scores`` and ``merge``, which say how it was cut: see `cut`.
    """
    progress("reading")
    source = files.load(original, links=follow_links)
    other = files.load(cut_model, links=follow_links)
    options = Options(labels, background, tuple(heads), input_shapes or {}, layout, tuple(plugins))
    inputs = read_feeds(feeds, source)
    progress("planning")
    with foreseen():
        known = understand(source, options)
        written, source = source, known.analysis.source  # the same, with calls inlined
        record = read_cut_metadata(files.metadata_of(other.proto))
        if keep is None:
            if record is None:
                raise UsageError(
                    "the cut model does not say which classes it kept", advice="say it with --keep"
                )
            wanted = recorded(record, known.classes)
        else:
            wanted = parse_map(keep, known.classes, seed=seed)
        exact = scores == "exact" or (scores is None and record is not None and record.exact)
        merge = merge or (wanted.merge if exact else None)
        wanted = applied_to("exact" if exact else "renormalized", merge, wanted, known)
        if ids is None:
            ids = "original" if record is not None and record.original_ids else "compact"
        plan = planned(known, wanted, ids)
    progress("validating")
    # what another tool made is held against the original by its numbers alone
    applied = None if record is None else apply(files.copied(source.proto), plan.edits, source.folder)
    inlined = known.inlined
    if inlined is not None and inlined.blocks:
        again = files.copied(source.proto)
        apply(again, plan.edits, source.folder)
        inlined = folded(known, plan, written, again)
        source = inlined.source if inlined is not None else source
    subject = Subject(source, other.proto, plan, wanted, applied, other, known.plugins,
                      written.proto, inlined, known.classes.names)  # fmt: skip
    verdict = validated(subject, provider, inputs, options.input_shapes, ids, tolerances)
    return replace(verdict, notes=(*plan.notes, *verdict.notes))


__all__ = [
    "Cut",
    "Feeds",
    "Inspection",
    "Opened",
    "Options",
    "Plan",
    "Understood",
    "cut",
    "inspect",
    "open_model",
    "understand",
    "validate",
]
