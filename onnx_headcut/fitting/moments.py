"""Weighted least squares with a ridge, from sums over places: streaming, in float64.

For each anchor the solution minimises ``sum(v * (x . w + b - y)²) + ridge * sum(d_i * w_i²)``, where
``d_i`` is the weighted variance of feature ``i``, so that the ridge has no unit and features of any
scale are held alike; ``b`` is free. Hoerl and Kennard, "Ridge Regression", Technometrics 1970.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

Array = np.ndarray[Any, np.dtype[Any]]
Floats = np.ndarray[Any, np.dtype[np.float64]]

BLOCK = 1024
"""Places that are gathered before they are summed up: many small products would take longer."""


class Moments:
    """Sums over places: ``v [x 1]ᵀ[x 1]`` and ``v [x 1]ᵀy``, for each anchor.

    ``squares``: float64 [anchors, features + 1, features + 1]; ``products``: [anchors, features + 1].
    """

    def __init__(self, anchors: int, features: int) -> None:
        self.squares: Floats = np.zeros((anchors, features + 1, features + 1))
        self.products: Floats = np.zeros((anchors, features + 1))
        self._waiting: list[tuple[Array, Floats, Floats]] = []

    def add(self, features: Array, targets: Floats, weights: Floats) -> None:
        """Count places in: ``features`` [places, features], the others [places, anchors]."""
        for at in range(0, len(features), BLOCK):
            rows = slice(at, at + BLOCK)
            self._waiting.append((features[rows], targets[rows], weights[rows]))
            if sum(len(part[0]) for part in self._waiting) >= BLOCK:
                self.sum_up()

    def sum_up(self) -> None:
        """Take in the places that wait."""
        if not self._waiting:
            return
        features, targets, weights = (np.concatenate(p) for p in zip(*self._waiting, strict=True))
        self._waiting = []
        wide = np.concatenate([features.astype(np.float64), np.ones((len(features), 1))], axis=1)
        for k, (v, y) in enumerate(zip(weights.T, targets.T, strict=True)):
            weighed = wide.T * v
            self.squares[k] += weighed @ wide
            self.products[k] += weighed @ y

    def __iadd__(self, other: Self) -> Self:
        self.sum_up()
        other.sum_up()
        self.squares += other.squares
        self.products += other.products
        return self

    def solve(self, ridges: Sequence[float]) -> Floats:
        """Solutions for all ``ridges`` (> 0): float64 [ridges, anchors, features + 1], bias last."""
        self.sum_up()
        solved = [_solve(s, p, ridges) for s, p in zip(self.squares, self.products, strict=True)]
        return np.stack(solved, axis=1)


def _solve(squares: Floats, products: Floats, ridges: Sequence[float]) -> Floats:
    """Solutions for one anchor: [ridges, features + 1]."""
    total = squares[-1, -1]
    if total <= 0:  # no place had any weight
        return np.zeros((len(ridges), len(products)))
    mean_x, mean_y = squares[:-1, -1] / total, products[-1] / total
    spread = squares[:-1, :-1] - np.outer(squares[:-1, -1], mean_x)
    common = products[:-1] - squares[:-1, -1] * mean_y
    variance = np.diag(spread)
    there = variance > 1e-12 * np.diag(squares)[:-1]  # what does not vary says nothing
    scale = np.where(there, 1 / np.sqrt(np.where(there, variance, 1)), 0)
    values, vectors = np.linalg.eigh(spread * np.outer(scale, scale))
    along = vectors.T @ (common * scale)
    shrunk = along / (np.maximum(values, 0) + np.asarray(ridges)[:, None])
    slopes = (shrunk @ vectors.T) * scale
    return np.concatenate([slopes, (mean_y - slopes @ mean_x)[:, None]], axis=1)
