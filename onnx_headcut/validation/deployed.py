"""The cut once more as it will be deployed, without the settings that make comparisons exact."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx_headcut.errors import HeadcutError
from onnx_headcut.validation.compare import Tolerance, difference
from onnx_headcut.validation.runtime import open_session
from onnx_headcut.validation.verdict import Deployed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnx_headcut.validation.inputs import Array, NamedFeed
    from onnx_headcut.validation.pair import Model


def as_deployed(
    model: Model, provider: str, feed: NamedFeed, exact: Mapping[str, Array]
) -> Deployed:
    """Run with TF32 and the search for fast kernels as onnxruntime has them, and tell how far.

    ``exact`` are the outputs of the comparison. An error is told, too: it is no mistake of the cut.
    """
    try:
        session = open_session(
            model.source, provider=provider, external_data_dir=model.folder, deterministic=False
        )
        outputs = session.run(feed.feed)
    except HeadcutError as error:
        return Deployed(provider, note=f"it does not run as deployed: {error.what}")
    reach, relative, other = 0.0, 0.0, []
    for name, value in exact.items():
        got = outputs[name]
        if got.shape != value.shape:
            other.append(name)
            continue
        found = difference(value, got, Tolerance(0, 0))
        reach, relative = max(reach, found.max_abs), max(relative, found.max_rel)
    note = f"{', '.join(other)}: another number of detections" if other else ""
    return Deployed(session.provider, reach, relative, note)
