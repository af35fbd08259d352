"""Synthetic pictures, float64 in 0..1: noise, soft blobs, sharp shapes, grey."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from onnx_headcut.validation.inputs import Array

Pattern = Literal["noise", "blobs", "shapes", "grey"]
PATTERNS: tuple[Pattern, ...] = ("noise", "blobs", "shapes", "grey")


def paint(pattern: Pattern, rng: np.random.Generator, shape: tuple[int, int, int, int]) -> Array:
    """Draw pictures ``[N, H, W, C]``, float64 in 0..1."""
    painters: dict[Pattern, Callable[[np.random.Generator, tuple[int, int, int, int]], Array]] = {
        "noise": lambda rng, shape: rng.random(shape),
        "blobs": _blobs,
        "shapes": _shapes,
        "grey": lambda rng, shape: np.clip(rng.normal(rng.random(), 0.05, shape), 0, 1),
    }
    return painters[pattern](rng, shape)


def _blobs(rng: np.random.Generator, shape: tuple[int, int, int, int]) -> Array:
    """Sum smooth noise of several scales: large soft forms and some detail, as pictures have."""
    batch, height, width, channels = shape
    total = np.zeros(shape)
    for cells in (2, 4, 8, 16):
        coarse = rng.random((batch, cells + 1, cells + 1, channels))
        total += _stretch(_stretch(coarse, height, 1), width, 2) / cells
    low, high = total.min(), total.max()
    scaled: Array = (total - low) / max(high - low, 1e-9)
    return scaled


def _stretch(values: Array, extent: int, axis: int) -> Array:
    """Interpolate linearly along one axis to ``extent`` positions."""
    place = np.linspace(0, values.shape[axis] - 1, extent)
    left = np.minimum(place.astype(int), values.shape[axis] - 2)
    weight = (place - left).reshape([-1 if index == axis else 1 for index in range(values.ndim)])
    mixed: Array = values.take(left, axis) * (1 - weight) + values.take(left + 1, axis) * weight
    return mixed


def _shapes(rng: np.random.Generator, shape: tuple[int, int, int, int]) -> Array:
    """Draw rectangles and discs of one colour each on a gradient: edges that detectors react to."""
    _, height, width, channels = shape
    rows, columns = np.linspace(0, 1, height)[:, None], np.linspace(0, 1, width)[None, :]
    canvas = np.empty(shape)
    for picture in canvas:
        ends = rng.random((2, channels))
        picture[:] = ends[0] + (ends[1] - ends[0]) * (rows + columns)[..., None] / 2
        for _ in range(12):
            (y, x), size, colour = rng.random(2), rng.uniform(0.03, 0.25), rng.random(channels)
            away = np.abs(rows - y), np.abs(columns - x)
            inside = np.hypot(*away) < size if rng.random() < 0.5 else np.maximum(*away) < size
            picture[inside] = colour
    return canvas
