"""The cut model itself: a plan's edits, its shapes and metadata, and its file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from onnx_headcut import __version__
from onnx_headcut.classes import cut_metadata
from onnx_headcut.classes.record import FITTED, IDS
from onnx_headcut.editing import edits as ed
from onnx_headcut.editing.apply import Applied, apply, renew_shapes
from onnx_headcut.graph import model as files
from onnx_headcut.heads.inlining import fold
from onnx_headcut.storage.atomic import write
from onnx_headcut.storage.external import outside

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import onnx

    from onnx_headcut.classes import ClassMap
    from onnx_headcut.fitting import Fit
    from onnx_headcut.heads.inlining import Inlined
    from onnx_headcut.storage.external import External
    from onnx_headcut.tracing.plan import Plan
    from onnx_headcut.understanding import Understood


def applied_model(
    source: files.Source,
    known: Understood,
    plan: Plan,
    wanted: ClassMap,
    fit: Fit | None,
    *,
    copy: bool,
) -> tuple[onnx.ModelProto, Applied]:
    """The edited protobuf with its shapes and metadata renewed."""
    proto = files.copied(source.proto) if copy else source.proto
    if wanted.identity:
        return proto, Applied()
    applied = apply(proto, plan.edits, source.folder)
    renew_shapes(proto.graph, plan.changed)
    existing = files.metadata_of(proto)
    new = cut_metadata(
        existing, known.classes, wanted, source_sha256=source.sha256, version=__version__,
        fronts=sorted(applied.whole.values()),
    )  # fmt: skip
    if known.plugins:
        new["onnx_headcut.plugins"] = json.dumps(known.plugins, ensure_ascii=False)
    if any(isinstance(edit, ed.MapOutput) for edit in plan.edits):
        new[IDS] = "original"
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


def folded(
    known: Understood, plan: Plan, written: files.Source, proto: onnx.ModelProto
) -> Inlined | None:
    """Fold calls that the cut left alone in ``proto``; the original, with the others inlined."""
    if known.inlined is None or not known.inlined.blocks:
        return known.inlined
    sites = frozenset(s.value for s in (*plan.sites, *plan.cut_sites))
    return fold(known.inlined, written.proto, proto, sites)


def write_out(
    proto: onnx.ModelProto,
    source: files.Source,
    target: Path,
    external_data: External | None,
    progress: Callable[[str], None],
    *,
    unchanged: bool,
) -> None:
    """Write the cut model; where nothing was cut (``unchanged``), the source's own bytes."""
    beside = outside(files.all_tensors(source.proto))
    if unchanged and source.path is not None and not beside:
        write(target, [source.whole()])
        return
    files.save(proto, target, source, external_data, progress)
