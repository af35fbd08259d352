"""The main job: inspect a model, cut it, validate a cut. This is the public API's home."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import onnx

from onnx_headcut import __version__, extensions
from onnx_headcut import edits as ed
from onnx_headcut import model as files
from onnx_headcut.analysis import Analysis, analyse
from onnx_headcut.apply import Applied, apply, renew_shapes
from onnx_headcut.blending import blended
from onnx_headcut.classes import (
    Classes,
    ClassMap,
    Evidence,
    cut_metadata,
    find_names,
    parse_map,
    read_cut_metadata,
    resolve,
)
from onnx_headcut.classes.record import FITTED, fronts_of
from onnx_headcut.edits import Begin
from onnx_headcut.errors import GraphRefused, InputError, UsageError
from onnx_headcut.figures import Figures, Inspection, figures, inspection
from onnx_headcut.front import exact_map
from onnx_headcut.inlining import exhausted, fold, reachable, settled
from onnx_headcut.labels import Selection
from onnx_headcut.layout import Layout
from onnx_headcut.locate import Located, locate
from onnx_headcut.plan import Plan, Step, dropped_column, make_plan
from onnx_headcut.sanity import foreseen
from onnx_headcut.storage.atomic import write
from onnx_headcut.storage.external import outside, without_links
from onnx_headcut.storage.lean import fill_all

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from onnx_headcut.classes import CutRecord, GivenRows, LabelsLike
    from onnx_headcut.classes.mapping import Merge
    from onnx_headcut.classes.names import Names
    from onnx_headcut.extensions import PluginLike
    from onnx_headcut.fitting import Fit, Picture
    from onnx_headcut.inlining import Inlined
    from onnx_headcut.storage.external import External
    from onnx_headcut.validation import Claims, NewColumn
    from onnx_headcut.validation.inputs import NamedFeed
    from onnx_headcut.validation.verdict import Verdict

    KeepLike = str | Sequence[int | str]

    FeedsLike: TypeAlias = "Sequence[NamedFeed] | Feeds"
    Progress = Callable[[str], None]

Ids = Literal["compact", "original"]
Scores = Literal["renormalized", "exact"]
ModelLike = onnx.ModelProto | str | os.PathLike[str]


@dataclass(frozen=True)
class Options:
    """How a model is read: everything that says what its classes and heads are."""

    labels: LabelsLike | None = None
    background: str | int | None = None
    heads: tuple[str, ...] = ()
    input_shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    layout: str | None = None
    plugins: tuple[PluginLike, ...] = ()
    unsure: bool = False
    """Leave the background open where nothing shows it, to look at a model rather than cut it."""


@dataclass(frozen=True)
class Feeds:
    """The user's own inputs for validation: an ``.npz`` of arrays, pictures, or both.

    ``preprocess`` is a preset's name or settings; without it the model tells, as far as it can.
    """

    arrays: str | os.PathLike[str] | None = None
    images: Sequence[str | os.PathLike[str]] = ()
    preprocess: str | None = None

    def read(self, proto: onnx.ModelProto) -> list[NamedFeed]:
        """Read what is named, in the dtypes and shapes of the model's inputs."""
        from onnx_headcut.validation import inputs, preprocess  # noqa: PLC0415

        chosen = None if self.preprocess is None else preprocess.parse(self.preprocess)
        if chosen is not None and not self.images:
            raise UsageError("preprocessing is given, but no picture", advice="Add --image FILE.")
        feeds = [] if self.arrays is None else inputs.from_npz(Path(self.arrays), proto)
        if self.images:
            feeds += preprocess.from_images([Path(image) for image in self.images], proto, chosen)
        return feeds


@dataclass(frozen=True)
class Understood:
    """A model whose classes and heads are known."""

    analysis: Analysis
    located: Located
    classes: Classes
    inlined: Inlined | None = None

    @property
    def signature(self) -> tuple[object, ...]:
        """What was found, to compare: how many columns, which heads, what activates them."""
        located = self.located
        return located.count, located.activation, tuple(sorted(located.values.values()))

    @property
    def plugins(self) -> tuple[str, ...]:
        """Plugins from outside whose rules the model's ops have, one line each."""
        rules = self.analysis.interpreter.extensions
        return rules.used(self.analysis.source.proto) if rules else ()


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


@dataclass(frozen=True)
class Opened:
    """A model that was read and understood once, to be cut several times; see `open_model`."""

    source: files.Source
    known: Understood
    options: Options


def open_model(
    model: ModelLike,
    options: Options | None = None,
    *,
    follow_links: bool = False,
    small: bool = False,
) -> Opened:
    """Read and understand a model for several cuts, each the same as `cut` of the model itself.

    ``small`` leaves large weights in the file, for cuts that are not validated. Raises what
    `inspect` raises.
    """
    options = options or Options()
    source = files.load(model, links=follow_links, small=small)
    source.start_hashing()
    with foreseen():
        return Opened(source, understand(source, options), options)


def understand(model: ModelLike | files.Source, options: Options | None = None) -> Understood:
    """Load a model, find its heads and what its columns mean."""
    options = options or Options()
    source = model if isinstance(model, files.Source) else files.load(model)
    metadata = {p.key: p.value for p in source.proto.metadata_props}
    names = find_names(options.labels, metadata)
    rules = extensions.load(options.plugins)

    def study(source: files.Source) -> Analysis:
        return analyse(source, options.input_shapes, rules)

    def understood(analysis: Analysis) -> Understood:
        return _understood(analysis, options, names)

    state, known = settled(source, study, understood)
    if source.proto.functions:
        # a function may hide what tells classes from boxes: with all of them open, nothing may differ
        full = exhausted(state, study)
        if full is not state:
            everything = understood(study(full.source))
            if everything.signature != known.signature:
                state, known = full, everything
    return replace(known, inlined=state)


def _understood(analysis: Analysis, options: Options, names: Names | None) -> Understood:
    expected = sum(1 for n in names.entries if n is not None) if names else None
    layout = Layout.parse(options.layout) if options.layout else None
    record = read_cut_metadata({p.key: p.value for p in analysis.source.proto.metadata_props})
    try:
        located = locate(analysis, count=expected, heads=options.heads, layout=layout)
        make_plan(analysis, located, Selection(tuple(range(located.count)), located.count))
    except GraphRefused as error:
        if record is not None and record.exact:
            error.advice = (
                "the model was cut with --scores exact, and merges or repeats classes behind whole "
                "heads: inspect and cut its original"
            )
        raise
    found = dropped_column(analysis, located.count)
    evidence = Evidence(found[0], _background_told(*found)) if found else None
    if evidence is None and record is not None and record.keep:
        evidence = record.evidence
    classes = resolve(
        located.count,
        names=names,
        background=options.background,
        activation=located.activation,
        evidence=evidence,
        unsure=options.unsure,
    )
    return Understood(analysis, located, classes)


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
    inputs = _read_feeds(feeds, source)
    pictures = None if fit_background is None else _read_pictures(fit_background, source)
    fit: Fit | None = None
    progress("planning")
    with foreseen():
        known = opened.known if opened is not None else understand(source, options)
        written, source = source, known.analysis.source  # the same, with calls inlined
        wanted = applied_to(scores, merge, parse_map(keep, known.classes, seed=seed), known)
        if pictures is not None:
            wanted = _to_be_fitted(wanted, known)
        plan = _planned(known, wanted, ids)
        before = figures(known.analysis, known.located)
        if dry_run:
            return Cut(source.proto, plan, before, before, known.classes, wanted, None, None)
        if pictures is not None:
            fit, plan = _fitted(source, known, wanted, plan, pictures, provider, progress)
        progress("cutting")
        keep_original = opened is not None or source.path is None or validation
        proto, applied = _applied(source, known, plan, wanted, fit, copy=keep_original)
        inlined = _folded(known, plan, written, proto)
        source = inlined.source if inlined is not None else source
        after = figures(known.analysis, known.located, proto)
    verdict = None if fit is None else _doubt(fit, known.classes)
    if validation and verdict is None:
        progress("validating")
        subject = Subject(source, proto, plan, wanted, applied, source, known.plugins,
                          written.proto, inlined)  # fmt: skip
        verdict = _validate(subject, provider, inputs, options.input_shapes, ids, tolerances)
        if fit is not None and pictures is not None:
            verdict = _proved(verdict, subject, fit, known.classes, pictures, provider)
    result = Cut(proto, plan, before, after, known.classes, wanted, verdict, target, fit)
    if wanted.identity and written is not source:
        result = replace(result, lean=_copy(written.proto))
    if target is not None and result.exit_code == 0:
        progress("writing")
        _write(result, source, target, external_data, progress)
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
    ids: Ids = "compact",
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

    So may ``scores`` and ``merge``, which say how it was cut: see `cut`.
    """
    progress("reading")
    source = files.load(original, links=follow_links)
    other = files.load(cut_model, links=follow_links)
    options = Options(labels, background, tuple(heads), input_shapes or {}, layout, tuple(plugins))
    inputs = _read_feeds(feeds, source)
    progress("planning")
    with foreseen():
        known = understand(source, options)
        written, source = source, known.analysis.source  # the same, with calls inlined
        record = read_cut_metadata({p.key: p.value for p in other.proto.metadata_props})
        if keep is None:
            if record is None:
                raise UsageError(
                    "the cut model does not say which classes it kept", advice="say it with --keep"
                )
            wanted = _recorded(record, known.classes)
        else:
            wanted = parse_map(keep, known.classes, seed=seed)
        exact = scores == "exact" or (scores is None and record is not None and record.exact)
        merge = merge or (wanted.merge if exact else None)
        wanted = applied_to("exact" if exact else "renormalized", merge, wanted, known)
        plan = _planned(known, wanted, ids)
    progress("validating")
    # what another tool made is held against the original by its numbers alone
    applied = None if record is None else apply(_copy(source.proto), plan.edits, source.folder)
    inlined = known.inlined
    if inlined is not None and inlined.blocks:
        again = _copy(source.proto)
        apply(again, plan.edits, source.folder)
        inlined = _folded(known, plan, written, again)
        source = inlined.source if inlined is not None else source
    subject = Subject(source, other.proto, plan, wanted, applied, other, known.plugins,
                      written.proto, inlined)  # fmt: skip
    verdict = _validate(subject, provider, inputs, options.input_shapes, ids, tolerances)
    return replace(verdict, notes=(*plan.notes, *verdict.notes))


# ------------------------------------------------------------------------------------- steps


def _background_told(column: int | None, where: str) -> str:
    if column is None:
        return f"{where} numbers every column as a class"
    return f"{where} drops column {column}"


def applied_to(
    scores: Scores, merge: Merge | None, wanted: ClassMap, known: Understood
) -> ClassMap:
    """``wanted`` to be applied in the heads, or behind the activation."""
    props = {p.key: p.value for p in known.analysis.source.proto.metadata_props}
    if scores == "renormalized" and fronts_of(props):
        raise UsageError(
            "the model was cut with --scores exact: its heads still hold the classes that went, and "
            "a cut in the heads would normalise over these, too",
            advice="say --scores exact again, or cut the original",
        )
    if scores == "exact":
        return exact_map(wanted, known.located.fronts, merge)
    if merge is not None:
        raise UsageError(
            "--merge says how exact scores are merged; in the heads, merged classes are averaged",
            advice="add --scores exact, or leave --merge away",
        )
    return wanted


def _planned(
    known: Understood, wanted: ClassMap, ids: Ids, given: GivenRows | None = None
) -> Plan:
    """The plan of a class map: the structure by its selection, the values by its rows."""
    if ids == "original" and any(wanted.order[j] != wanted.background for j in wanted.blended):
        raise UsageError(
            "--ids original: merged and new classes have no id in the original",
            advice="leave --ids away; new ids are the columns of the cut model",
        )
    if wanted.exact:
        plan = make_plan(known.analysis, known.located, wanted.selection, ids, exact=wanted)
        return _told(plan, known)
    plan = _told(make_plan(known.analysis, known.located, wanted.selection, ids), known)
    return blended(plan, known.analysis, known.located, wanted, given)


def _to_be_fitted(wanted: ClassMap, known: Understood) -> ClassMap:
    from onnx_headcut.fitting import calibration  # noqa: PLC0415  (its pictures are run)

    return calibration.with_background_given(wanted, known.located.activation)


def _fitted(  # noqa: PLR0913, PLR0917
    source: files.Source,
    known: Understood,
    wanted: ClassMap,
    plan: Plan,
    pictures: Sequence[Picture],
    provider: str,
    progress: Progress,
) -> tuple[Fit, Plan]:
    """A background fitted to pictures, and the plan with its values."""
    from onnx_headcut.fitting import calibration  # noqa: PLC0415

    proto, folder = _runnable(source.proto, source)
    original = calibration.Original(proto, folder, known.analysis, known.located)
    fit = calibration.fit_for(original, wanted, plan, pictures, provider, progress)
    return fit, _planned(known, wanted, "compact", calibration.given_rows(fit, wanted))


def _doubt(fit: Fit, classes: Classes) -> Verdict | None:
    from onnx_headcut.fitting import calibration  # noqa: PLC0415

    return calibration.doubt(fit, [classes.name(c) for c in range(classes.count)])


def _proved(
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
        Side(*_runnable(subject.source.proto, subject.source), plan.sites),
        Side(*_runnable(subject.proto, subject.home), plan.cut_sites),
    )
    verdict = calibration.proved(verdict, fit, subject.class_map, sides, pictures, provider)
    return calibration.noted(verdict, fit, [classes.name(c) for c in range(classes.count)])


def _recorded(record: CutRecord, classes: Classes) -> ClassMap:
    """The class map that a cut model's metadata tell of, for an original with ``classes``."""
    found = record.map or ClassMap.of_columns(record.keep, classes.count, classes.background)
    if found.count != classes.count or any(c >= classes.count for c in found.order):
        raise InputError("the cut model's metadata name columns that the original lacks")
    return found


def _folded(
    known: Understood, plan: Plan, written: files.Source, proto: onnx.ModelProto
) -> Inlined | None:
    """Fold calls that the cut left alone in ``proto``; the original, with the others inlined."""
    if known.inlined is None or not known.inlined.blocks:
        return known.inlined
    sites = frozenset(s.value for s in (*plan.sites, *plan.cut_sites))
    return fold(known.inlined, written.proto, proto, sites)


def _told(plan: Plan, known: Understood) -> Plan:
    """The plan with the calls that were inlined for it."""
    graph = known.analysis.main.graph
    edited = {o for e in plan.edits for o in list(ed.node_at(graph, e.place)[1].output)[:1]}
    blocks = known.inlined.touched(edited) if known.inlined else []
    steps = [Step(b.call.name or b.call.output[0], b.call.op_type,
                  f"inlined: {len(b.nodes)} nodes in its place") for b in blocks]  # fmt: skip
    return replace(plan, steps=(*steps, *plan.steps))


@dataclass(frozen=True)
class Subject:
    """A cut model to be held against its original, and what is claimed to differ."""

    source: files.Source
    proto: onnx.ModelProto
    plan: Plan
    class_map: ClassMap
    applied: Applied | None
    home: files.Source
    """Where the cut model's external data are."""
    plugins: tuple[str, ...] = ()
    """Those from outside whose rules the model's ops have."""
    written: onnx.ModelProto | None = None
    """The original with all its calls of local functions."""
    inlined: Inlined | None = None


def _copy(proto: onnx.ModelProto) -> onnx.ModelProto:
    new = onnx.ModelProto()
    new.CopyFrom(proto)
    return new


def _applied(
    source: files.Source, known: Understood, plan: Plan, wanted: ClassMap, fit: Fit | None, *,
    copy: bool,
) -> tuple[onnx.ModelProto, Applied]:
    """The edited protobuf with its shapes and metadata renewed."""
    proto = _copy(source.proto) if copy else source.proto
    if wanted.identity:
        return proto, Applied()
    applied = apply(proto, plan.edits, source.folder)
    renew_shapes(proto.graph, plan.changed)
    existing = {p.key: p.value for p in proto.metadata_props}
    new = cut_metadata(
        existing, known.classes, wanted, source_sha256=source.sha256, version=__version__,
        fronts=sorted(applied.whole.values()),
    )  # fmt: skip
    if known.plugins:
        new["onnx_headcut.plugins"] = json.dumps(known.plugins, ensure_ascii=False)
    if fit is not None:
        new[FITTED] = fit.to_json()
    _set_metadata(proto, new)
    return proto, applied


def _set_metadata(proto: onnx.ModelProto, new: Mapping[str, str]) -> None:
    """Entries keep their order; new ones follow, sorted by key."""
    props = {p.key: p for p in proto.metadata_props}
    for key in [k for k in props if k not in new]:
        proto.metadata_props.remove(props[key])
    for key in [*(k for k in props if k in new), *sorted(k for k in new if k not in props)]:
        if key in props:
            props[key].value = new[key]
        else:
            proto.metadata_props.add(key=key, value=new[key])


def _read_feeds(
    feeds: FeedsLike | None, source: files.Source
) -> Sequence[NamedFeed] | None:
    """Read inputs that are named by files, before any other work."""
    return feeds.read(source.proto) if isinstance(feeds, Feeds) else feeds


def _read_pictures(feeds: FeedsLike, source: files.Source) -> list[Picture]:
    """Pictures to fit to, which are read one by one as they are needed."""
    from onnx_headcut.fitting.pictures import one_by_one, pictures_of  # noqa: PLC0415

    if not isinstance(feeds, Feeds):
        return one_by_one(feeds, source.proto)
    paths = [Path(path) for path in (*feeds.images, *([] if feeds.arrays is None else [feeds.arrays]))]
    return pictures_of(paths, source.proto, feeds.preprocess)


def _validate(
    subject: Subject,
    provider: str,
    feeds: Sequence[NamedFeed] | None,
    input_shapes: Mapping[str, Sequence[int]],
    ids: Ids,
    tolerances: Mapping[str, tuple[float, float]] | None = None,
) -> Verdict:
    # the runtime is imported only where it runs something
    from onnx_headcut.validation import Settings, Tolerance  # noqa: PLC0415
    from onnx_headcut.validation import validate as hold  # noqa: PLC0415

    plan = subject.plan
    original, original_dir = _runnable(subject.source.proto, subject.source)
    cut_proto, cut_dir = _runnable(subject.proto, subject.home)
    settings = Settings(
        shapes={name: tuple(dims) for name, dims in input_shapes.items()},
        ids=ids,
        tolerances={name: Tolerance(*pair) for name, pair in (tolerances or {}).items()},
    )
    verdict = hold(
        original,
        cut_proto,
        sites=plan.sites,
        cut_sites=plan.cut_sites,
        order=plan.selection.order,
        background=subject.class_map.background,
        rows=_new_columns(subject.class_map),
        feeds=feeds,
        provider=provider,
        settings=settings,
        claims=_claims(subject),
        original_dir=original_dir,
        cut_dir=cut_dir,
    )
    if subject.inlined is not None and subject.inlined.blocks and subject.written is not None:
        from onnx_headcut.validation.inlined import with_inlining  # noqa: PLC0415

        verdict = with_inlining(verdict, subject.written, subject.source.proto,
                                claims=subject.inlined.claims, folder=original_dir, provider=provider,
                                feeds=feeds, settings=settings)  # fmt: skip
    told = tuple(f"cut with rules of the plugin {line}" for line in subject.plugins)
    return replace(verdict, plugins=subject.plugins, notes=(*verdict.notes, *told))


def _new_columns(class_map: ClassMap) -> list[NewColumn] | None:
    """What validation has to know of a class map; None for a selection."""
    from onnx_headcut.validation import NewColumn  # noqa: PLC0415

    if class_map.plain:
        return None
    merges = class_map.exact
    return [
        NewColumn(
            row.template,
            tuple((c, 1.0) for c in row.members) if merges else row.terms or ((row.template, 1.0),),
            combine=(class_map.merge if row.merged and merges else None) or "sum",
            start="grown" if row.grown else row.start.kind if row.start else "",
            std=row.start.std if row.start else 0.0,
        )
        for row in class_map.rows
    ]


def _runnable(
    proto: onnx.ModelProto, home: files.Source
) -> tuple[onnx.ModelProto, Path | None]:
    """Give a model as runtimes take it: they refuse data behind links, whatever the user says."""
    if not home.links or home.folder is None or not outside(files.all_tensors(proto)):
        return proto, home.folder
    copy = _copy(proto)
    return copy, without_links(files.all_tensors(copy), home.folder)


def _claims(subject: Subject) -> Claims | None:
    """What the plan says that it changes, for the structural proof."""
    from onnx_headcut.validation import Beginning, Claims, Mixture  # noqa: PLC0415

    if subject.applied is None:
        return None
    before = {p.key: p.value for p in subject.source.proto.metadata_props}
    after = {p.key: p.value for p in subject.proto.metadata_props}
    graph, wanted = subject.source.proto.graph, subject.class_map
    softmax = any(site.activation != "sigmoid" for site in subject.plan.sites)
    declared = {v.name for v in [*graph.output, *graph.input]}
    return Claims(
        nodes=frozenset(subject.applied.nodes),
        initializers=frozenset(subject.applied.initializers),
        rewritten=frozenset(subject.applied.rewritten),
        whole=subject.applied.whole,
        values=frozenset(declared & {*subject.plan.changed, *subject.applied.initializers})
        | subject.applied.declared,
        metadata=frozenset(k for k in {*before, *after} if before.get(k) != after.get(k)),
        functions=frozenset(
            f"{domain}::{name}"
            for domain, name in reachable(subject.source.proto) - reachable(subject.proto)
        ),
        mixtures=tuple(
            Mixture(name, source, 0, edit.ids, "bias") if isinstance(edit, Begin)
            else Mixture(name, source, edit.axis, edit.ids, edit.role)
            for name, (source, edit) in subject.applied.mixed.items()
        ),
        rows=tuple(_new_columns(wanted) or ()),
        begin=Beginning(wanted.prior, wanted.background if softmax else None),
    )


def _write(
    result: Cut,
    source: files.Source,
    target: Path,
    external_data: External | None,
    progress: Progress,
) -> None:
    beside = outside(files.all_tensors(source.proto))
    if result.class_map.identity and source.path is not None and not beside:
        write(target, [source.whole()])
        return
    files.save(result.lean, target, source, external_data, progress)


__all__ = [
    "Cut",
    "Feeds",
    "Inspection",
    "Options",
    "Plan",
    "cut",
    "inspect",
    "understand",
    "validate",
]
