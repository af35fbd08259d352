"""A model that is read and understood: its heads, and what its columns mean.

Local functions are inlined as far as what is told of the heads needs it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import onnx

from onnx_headcut import extensions
from onnx_headcut.classes import Classes, Evidence, find_names, read_cut_metadata, resolve
from onnx_headcut.errors import GraphRefused
from onnx_headcut.graph import model as files
from onnx_headcut.graph.analysis import Analysis, analyse
from onnx_headcut.graph.sanity import foreseen
from onnx_headcut.heads.inlining import exhausted, settled
from onnx_headcut.heads.layout import Layout
from onnx_headcut.heads.locate import Located, locate
from onnx_headcut.labels import Selection
from onnx_headcut.tracing.plan import dropped_column, make_plan

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onnx_headcut.classes import LabelsLike
    from onnx_headcut.classes.names import Names
    from onnx_headcut.extensions import PluginLike
    from onnx_headcut.heads.inlining import Inlined

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
    metadata = files.metadata_of(source.proto)
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
    expected = None
    if names:  # a former cut's record has an entry for every column, named or not
        known = sum(1 for n in names.entries if n is not None)
        expected = len(names.entries) if names.recorded else known
    layout = Layout.parse(options.layout) if options.layout else None
    record = read_cut_metadata(files.metadata_of(analysis.source.proto))
    try:
        located = locate(analysis, count=expected, heads=options.heads, layout=layout)
        make_plan(analysis, located, Selection(tuple(range(located.count)), located.count))
        if located.own_boxes and not options.heads:
            _refuse_boxes_left_behind(analysis, located)
    except GraphRefused as error:
        if record is not None and record.exact:
            error.advice = (
                "the model was cut with --scores exact, and merges or repeats classes behind whole "
                "heads: inspect and cut its original"
            )
        # only where a graph is refused
        from onnx_headcut.graph.mistyped import real_cause  # noqa: PLC0415

        raise real_cause(error, analysis) from None
    found = dropped_column(analysis, located.count)
    evidence = Evidence(found[0], _background_told(*found)) if found else None
    if evidence is None and record is not None and record.keep:
        evidence = record.evidence
    unlike_ssd = located.of_rows and located.activation == "softmax"
    classes = resolve(
        located.count,
        names=names,
        background=options.background,
        # a softmax times an objectness (YOLOv2) has no background, but others weigh theirs, too; over
        # rows it is the first (torchvision) or the last (Detectron2, DETR), and a classifier has none
        activation="none" if located.weighed or unlike_ssd else located.activation,
        evidence=evidence,
        unsure=options.unsure,
    )
    return Understood(analysis, located, classes)


def _refuse_boxes_left_behind(analysis: Analysis, located: Located) -> None:
    """Refuse where an R-CNN gives out boxes of each class that no detection picks."""
    fewer = tuple(k for k in range(located.count) if k != 1)  # no background is there
    cut = make_plan(analysis, located, Selection(fewer, located.count)).heads
    for i in located.own_boxes:
        node = analysis.main.graph.node[i]
        if i not in cut:
            raise GraphRefused(
                f"it makes a box for each of {located.count} columns, or for all but a background, and "
                "nothing in the graph says which are whose",
                node=node.name or node.output[0], op=node.op_type,
                advice="cut a model whose detections pick their boxes themselves; to cut the scores "
                "alone and leave the boxes of all classes as they are, name the layers of scores with "
                "--head NODE",
            )  # fmt: skip


def _background_told(column: int | None, where: str) -> str:
    if column is None:
        return f"{where} numbers every column as a class"
    return f"{where} drops column {column}"
