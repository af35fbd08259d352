"""What is handed over to validation: two models, and what the plan says of their difference.

Validation itself is imported only where it runs: it needs a runtime.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from onnx_headcut.editing.edits import Begin, BeginBehind
from onnx_headcut.graph import model as files
from onnx_headcut.heads.inlining import reachable
from onnx_headcut.storage.external import outside, take_in, without_links

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import onnx

    from onnx_headcut.classes import ClassMap
    from onnx_headcut.editing.apply import Applied
    from onnx_headcut.heads.inlining import Inlined
    from onnx_headcut.tracing.plan import Plan
    from onnx_headcut.tracing.planning import Ids
    from onnx_headcut.validation import Claims, NewColumn
    from onnx_headcut.validation.inputs import NamedFeed
    from onnx_headcut.validation.verdict import Verdict


SMALL = 1 << 12
"""Bytes of a tensor beside the model that validation has at hand: numbers, not weights."""


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
    names: tuple[str | None, ...] = ()
    """What the original's columns are called, as far as that is known."""


def validated(
    subject: Subject,
    provider: str,
    feeds: Sequence[NamedFeed] | None,
    input_shapes: Mapping[str, Sequence[int]],
    ids: Ids,
    tolerances: Mapping[str, tuple[float, float]] | None = None,
) -> Verdict:
    """The verdict on a cut model, with what plugins and inlined functions have to do with it."""
    # the runtime is imported only where it runs something
    from onnx_headcut.validation import Settings, Tolerance  # noqa: PLC0415
    from onnx_headcut.validation import validate as hold  # noqa: PLC0415

    plan = subject.plan
    original, original_dir = runnable(subject.source.proto, subject.source)
    cut_proto, cut_dir = runnable(subject.proto, subject.home)
    settings = Settings(
        shapes={name: tuple(dims) for name, dims in input_shapes.items()},
        ids=ids,
        tolerances={name: Tolerance(*pair) for name, pair in (tolerances or {}).items()},
        names=subject.names,
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
    told += tuple(
        f"nobody said how pictures are fed: {how} is assumed (--preprocess)"
        for how in sorted({feed.assumed for feed in feeds or () if feed.assumed})
    )
    return replace(verdict, plugins=subject.plugins, notes=(*verdict.notes, *told))


def _claims(subject: Subject) -> Claims | None:
    """What the plan says that it changes, for the structural proof."""
    from onnx_headcut.validation import Beginning, Claims, Mixture  # noqa: PLC0415

    if subject.applied is None:
        return None
    before = files.metadata_of(subject.source.proto)
    after = files.metadata_of(subject.proto)
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
            Mixture(name, source, 0, edit.ids, "bias")
            if isinstance(edit, Begin | BeginBehind)
            else Mixture(name, source, edit.axis, edit.ids, edit.role)
            for name, (source, edit) in subject.applied.mixed.items()
        ),
        rows=tuple(_new_columns(wanted) or ()),
        begin=Beginning(wanted.prior, wanted.background if softmax else None, wanted.seed),
    )


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


def runnable(proto: onnx.ModelProto, home: files.Source) -> tuple[onnx.ModelProto, Path | None]:
    """Give a model as it is run: what is small is in it, and no data lie behind links.

    Validation looks at scales and limits, wherever they are stored; runtimes refuse links,
    whatever the user says.
    """
    if home.folder is None or not outside(files.all_tensors(proto)):
        return proto, home.folder
    copy = files.copied(proto)
    take_in(files.all_tensors(copy), home.folder, SMALL)
    if home.links:
        return copy, without_links(files.all_tensors(copy), home.folder)
    return copy, home.folder
