"""Boxes as x0, y0, x1, y1, in fractions of the picture (0 to 1) unless said otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Detections:
    """What was found in one picture, best first: boxes [n,4], columns [n], scores [n].

    A column of -1 is a class that cannot be told.
    """

    boxes: Floats
    columns: Ints
    scores: Floats

    def __len__(self) -> int:
        return len(self.scores)

    def of(self, chosen: Any) -> Detections:
        """Take some of them."""
        return Detections(self.boxes[chosen], self.columns[chosen], self.scores[chosen])

    @classmethod
    def ranked(cls, boxes: Floats, columns: Ints, scores: Floats) -> Detections:
        """Sort by score."""
        return cls(boxes, columns, scores).of(np.argsort(-scores, kind="stable"))


def overlaps(left: Floats, right: Floats) -> Floats:
    """Intersection over union of each box [n,4] with each other one [m,4]: [n,m]."""
    low = np.maximum(left[:, None, :2], right[None, :, :2])
    high = np.minimum(left[:, None, 2:], right[None, :, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=2)
    areas = [np.prod(np.maximum(b[:, 2:] - b[:, :2], 0), axis=1) for b in (left, right)]
    union = areas[0][:, None] + areas[1][None, :] - shared
    return np.asarray(np.where(union > 0, shared / np.where(union > 0, union, 1), 0))


def suppressed(found: Detections, most_overlap: float = 0.5, most: int = 100) -> Detections:
    """Non-maximum suppression class by class; the best ``most`` are left."""
    kept: list[int] = []
    for column in np.unique(found.columns):
        left = np.flatnonzero(found.columns == column)[: 8 * most]
        while len(left):
            best, left = left[0], left[1:]
            kept.append(int(best))
            near = overlaps(found.boxes[[best]], found.boxes[left])[0]
            left = left[near <= most_overlap]
    return found.of(np.sort(np.array(kept, np.int64))[:most])


def from_centres(boxes: Floats) -> Floats:
    """Turn centre x, centre y, width, height into corners."""
    middle, half = boxes[:, :2], boxes[:, 2:] / 2
    return np.concatenate([middle - half, middle + half], axis=1)
