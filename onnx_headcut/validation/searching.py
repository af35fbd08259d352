"""Other synthetic inputs, where the first ones showed too little: those on which most is detected.

Whether an object is found may hang on more than class scores, which can be excited: on an objectness,
or on the sizes of boxes. So the original alone is run on many seeded inputs, with every kept class
excited all over, and inputs are ranked by how many numbers of its detections that changes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from onnx_headcut.errors import HeadcutError
from onnx_headcut.validation.synthetic import synthetic

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onnx_headcut.validation.inputs import NamedFeed
    from onnx_headcut.validation.pair import Pair
    from onnx_headcut.validation.verdict import Settings


def ranked(pair: Pair, outputs: Sequence[str], settings: Settings) -> list[NamedFeed]:
    """Inputs of seeds behind the first one, best first; without those on which nothing changes.

    ``outputs`` are those that hold detections.
    """
    found: list[tuple[int, NamedFeed]] = []
    for seed in range(settings.seed + 1, settings.seed + 1 + settings.searched):
        feeds = synthetic(pair.original.model, count=settings.count, seed=seed, shapes=settings.shapes)
        for feed in feeds:
            changed = _changed(pair, feed, outputs)
            if changed:
                found.append((changed, replace(feed, name=f"seed {seed}, {feed.name}")))
    found.sort(key=lambda item: -item[0])
    # A size that the original need not take is no input to begin with.
    return sorted((feed for _, feed in found), key=lambda feed: feed.may_fail)


def _changed(pair: Pair, feed: NamedFeed, outputs: Sequence[str]) -> int:
    """Count the numbers of the outputs that differ between classes that are quiet and excited."""
    try:
        pair.state = pair.original.base(feed.feed)
    except HeadcutError:
        if feed.may_fail:
            return 0
        raise
    exciter = pair.exciter(pair.columns.background)
    quiet = pair.run_original(exciter.quiet(), masked=True)
    excited = pair.run_original(exciter.excited(1.0), masked=True)
    return sum(_differing(quiet, excited, name) for name in outputs)


def _differing(before: Mapping[str, Any], after: Mapping[str, Any], name: str) -> int:
    a, b = before[name], after[name]
    return abs(a.size - b.size) if a.shape != b.shape else int(np.count_nonzero(a != b))
