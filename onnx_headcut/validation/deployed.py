"""The cut once more as it will be deployed, without the settings that make comparisons exact."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnx_headcut.errors import HeadcutError
from onnx_headcut.validation import detections as d
from onnx_headcut.validation.compare import Tolerance, difference, scale_of
from onnx_headcut.validation.runtime import fusing_crashes, open_session
from onnx_headcut.validation.verdict import Deployed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onnx_headcut.validation.inputs import Array, NamedFeed
    from onnx_headcut.validation.pair import Model

_NEAR = 0.02
"""Detections are the same ones up to this: of the value, and of the largest value of its kind."""


def as_deployed(
    model: Model,
    provider: str,
    feed: NamedFeed,
    exact: Mapping[str, Array],
    groups: Sequence[d.Group] = (),
) -> Deployed:
    """Run with TF32 and the search for fast kernels as onnxruntime has them, and tell how far.

    ``exact`` are the outputs of the comparison; ``groups`` those of them that hold detections,
    which are matched whatever their order. An error is told, too: it is no mistake of the cut.
    """
    if fusing_crashes(model.source):
        return Deployed(provider, note="not run as deployed: onnxruntime may crash where it fuses"
                        " quantizers, in an If, Loop or Scan, or where nothing is found")  # fmt: skip
    try:
        session = open_session(
            model.source, provider=provider, external_data_dir=model.folder, deterministic=False
        )
        outputs = session.run(feed.feed)
    except HeadcutError as error:
        return Deployed(provider, note=f"it does not run as deployed: {error.what}")
    reach, relative, other = 0.0, 0.0, []
    rows = {name for group in groups for name in group.outputs}
    for name in exact.keys() - rows:
        if outputs[name].shape != exact[name].shape:
            other.append(name)
            continue
        found = difference(exact[name], outputs[name], Tolerance(0, 0))
        reach, relative = max(reach, found.max_abs), max(relative, found.max_rel)
    notes = [f"{', '.join(sorted(other))}: another shape"] if other else []
    for group in groups:
        match = _match(group, exact, outputs)
        if match is None:
            continue  # other columns than the original's: the comparison has told of that
        reach, relative = max(reach, match.max_abs), max(relative, match.max_rel)
        if match.missing or match.extra:
            notes.append(f"{len(match.missing)} of {match.matched + len(match.missing)} detections"
                         f" go, and {len(match.extra)} others come")  # fmt: skip
    return Deployed(session.provider, reach, relative, "; ".join(notes))


def _match(group: d.Group, exact: Mapping[str, Array], outputs: Mapping[str, Array]) -> d.Match | None:
    """Match one group's rows, image by image put under each other; None where they do not fit it."""
    both = [[v[name].shape[: group.axis + 1] for name in group.outputs] for v in (exact, outputs)]
    if any(len(set(extents)) > 1 for extents in both):
        return None  # rows that do not correspond: the comparison has told of that, too
    before, after = (d.stack(group.rows(values)) if group.outputs else np.zeros((0, 0))
                     for values in (exact, outputs))  # fmt: skip
    close = Tolerance(_NEAR, _NEAR)
    if before.ndim == 2 and before.shape[1] != len(group.columns):
        # the cut has fewer candidates for each row than the original, whose columns these are
        return d.match(before, after, close.allowed(before, scale_of(before)))
    if group.columns and {before.shape[-1], after.shape[-1]} != {len(group.columns)}:
        return None
    near = dict.fromkeys(group.outputs, close)
    return d.match(before, after, d.allowed_of(group, before, near))
