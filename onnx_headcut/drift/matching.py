"""Detections of two models on one picture: who has a partner, by class and overlap."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnx_headcut.drift.boxes import Detections, overlaps

SAME_OBJECT, SAME_PLACE = 0.5, 0.95


@dataclass(frozen=True)
class Pairs:
    """``pairs`` of indices (before, after); ``lost`` and ``gained`` have no partner.

    ``moved`` are the pairs whose boxes overlap by less than 0.95; ``on_dropped`` are those gained
    where the original found an object of a dropped class.
    """

    pairs: tuple[tuple[int, int], ...]
    lost: tuple[int, ...]
    gained: tuple[int, ...]
    moved: frozenset[tuple[int, int]]
    on_dropped: tuple[int, ...]


def pair(before: Detections, after: Detections, kept: frozenset[int]) -> Pairs:
    """Match one to one, the best detections first: the same class, and half of the area shared."""
    shared = overlaps(before.boxes, after.boxes)
    same = before.columns[:, None] == after.columns[None, :]
    free, pairs, lost = set(range(len(after))), [], []
    for i in range(len(before)):
        if int(before.columns[i]) not in kept:
            continue
        near = shared[i] * same[i]
        choice = max(free, key=near.__getitem__, default=None)
        if choice is None or near[choice] < SAME_OBJECT:
            lost.append(i)
            continue
        free.discard(choice)
        pairs.append((i, choice))
    dropped = np.array([int(c) not in kept for c in before.columns], bool)
    gained = sorted(free)
    on_dropped = [j for j in gained if (shared[dropped, j] >= SAME_OBJECT).any()]
    moved = frozenset(p for p in pairs if shared[p] < SAME_PLACE)
    return Pairs(tuple(pairs), tuple(lost), tuple(gained), moved, tuple(on_dropped))
