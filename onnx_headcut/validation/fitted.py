"""A fitted background, held against what it was fitted to by running both models.

The fit says how far its rows are from ``logsumexp(background, dropped)`` of the original, by its own
account of features and weights. Here the same figure is found from the scores of both models at
their sites. Were a row written to another anchor, in another layout or beside another bias, the two
would differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from onnx_headcut.validation.mapped import spread
from onnx_headcut.validation.runtime import open_session

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from onnx_headcut.labels import Site
    from onnx_headcut.validation.inputs import Feed
    from onnx_headcut.validation.runtime import Session

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Side:
    """One of the two models: its protobuf, its data's folder, and where its scores are."""

    proto: onnx.ModelProto
    folder: Path | None
    sites: Sequence[Site]

    def session(self, provider: str) -> Session:
        """Open it with its scores as outputs."""
        ended = onnx.ModelProto()
        ended.CopyFrom(self.proto)
        del ended.graph.output[:]
        names = dict.fromkeys(site.value for site in self.sites)
        ended.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
        return open_session(ended, provider=provider, external_data_dir=self.folder)


def background_error(
    original: Side,
    cut: Side,
    summed: Sequence[int],
    count: int,
    feeds: Iterable[Feed],
    provider: str,
) -> tuple[float, float]:
    """How far the cut's background is from what the original's columns ``summed`` come to together.

    ``summed[0]`` is the background; ``count`` the number of source columns. Gives the root mean
    square over all places of all ``feeds``, and how far rounding alone may move that.
    """
    sessions = original.session(provider), cut.session(provider)
    squares, number, rounding = 0.0, 0, 0.0
    for feed in feeds:
        old, new = (session.run(feed) for session in sessions)
        for site, cut_site in zip(original.sites, cut.sites, strict=True):
            scores = spread(site, old[site.value], count)[..., list(summed)]
            found = spread(cut_site, new[cut_site.value], count)[..., summed[0]]
            squares += float(((found - np.logaddexp.reduce(scores, axis=-1)) ** 2).sum())
            number += found.size
            rounding = max(rounding, 16 * _step(new[cut_site.value]) * float(np.abs(scores).max()))
    return float(np.sqrt(squares / max(number, 1))), rounding


def _step(scores: Array) -> float:
    return float(np.finfo(scores.dtype).eps if scores.dtype.kind == "f" else 2**-7)
