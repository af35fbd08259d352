"""What the columns of a generated graph's outputs mean, and what a cut has to leave of them."""

# ruff: noqa: S311  (seeded draws are meant to be seeded)

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Classes:
    """Columns of one output that belong to classes, in one piece.

    They are the ``classes`` of each of ``anchors`` anchors: anchor after anchor or, where
    ``class_major``, class after class.
    """

    classes: tuple[int, ...]
    anchors: int = 1
    class_major: bool = False

    @property
    def width(self) -> int:
        return len(self.classes) * self.anchors

    def kept(self, order: tuple[int, ...]) -> list[int]:
        """Positions that a cut to ``order`` leaves, in their new order."""
        at = [self.classes.index(c) for c in order if c in self.classes]
        if self.class_major:
            return [k * self.anchors + a for k in at for a in range(self.anchors)]
        return [a * len(self.classes) + k for a in range(self.anchors) for k in at]


@dataclass(frozen=True)
class Meaning:
    """What an output's ``axis`` holds: pieces of `Classes`, or a number of columns without."""

    axis: int
    pieces: tuple[Classes | int, ...]
    softmax: bool = False

    @property
    def width(self) -> int:
        return sum(p if isinstance(p, int) else p.width for p in self.pieces)

    def columns(self, order: tuple[int, ...]) -> list[int]:
        """Columns that a cut to ``order`` leaves, in their new order."""
        result: list[int] = []
        at = 0
        for piece in self.pieces:
            width = piece if isinstance(piece, int) else piece.width
            inside = range(width) if isinstance(piece, int) else piece.kept(order)
            result += [at + i for i in inside]
            at += width
        return result

    def without_classes(self, order: tuple[int, ...]) -> list[int]:
        """Columns of the cut model that belong to no class."""
        return np.flatnonzero(~self._is_score(order)).tolist()

    def expected(self, original: np.ndarray, order: tuple[int, ...]) -> np.ndarray:
        """The output of a cut model, from the original's: gathered, and for softmax renormalised.

        A kept probability becomes p / (1 - the sum of the dropped ones), which is right whether or
        not the output still contains the background.
        """
        kept = original.take(self.columns(order), self.axis)
        if not self.softmax:
            return kept
        score = self._is_score(order)
        p = original.astype(np.float64)
        at = [i for i, c in enumerate(self._classes()) if c is not None and c not in order]
        dropped = p.take(at, self.axis).sum(self.axis, keepdims=True)
        renormalised = kept / (1 - dropped)
        shape = [1] * kept.ndim
        shape[self.axis] = -1
        return np.where(score.reshape(shape), renormalised, kept).astype(original.dtype)

    def _classes(self) -> list[int | None]:
        result: list[int | None] = []
        for piece in self.pieces:
            result += [None] * piece if isinstance(piece, int) else piece.classes
        return result

    def _is_score(self, order: tuple[int, ...]) -> np.ndarray:
        every = self._classes()
        return np.array([every[i] is not None for i in self.columns(order)])


@dataclass
class Sample:
    """A generated graph: what to tell the program about it, and what its outputs mean."""

    seed: int
    model: onnx.ModelProto
    classes: int
    background: str
    """``first``, ``last`` or ``none``."""
    outputs: dict[str, Meaning]
    told: dict[str, Any]
    """Options for the cut, without which the graph would be ambiguous."""
    ambiguous: bool
    """Whether refusing is the right answer."""
    traits: list[str] = field(default_factory=list)

    @property
    def columns(self) -> list[int]:
        """The classes without the background."""
        return {
            "first": list(range(1, self.classes)),
            "last": list(range(self.classes - 1)),
            "none": list(range(self.classes)),
        }[self.background]

    def keep(self) -> list[int]:
        """A random subset of the classes in random order."""
        draw = random.Random(self.seed + 1)
        return draw.sample(self.columns, draw.randint(1, len(self.columns)))

    def order(self, keep: list[int]) -> tuple[int, ...]:
        """Source columns of the cut model."""
        if self.background == "first":
            return (0, *keep)
        if self.background == "last":
            return (*keep, self.classes - 1)
        return tuple(keep)

    def feed(self) -> dict[str, np.ndarray]:
        """A random picture (two where the batch is dynamic)."""
        noise = np.random.default_rng(self.seed)
        stored = {t.name for t in self.model.graph.initializer}
        value = next(i for i in self.model.graph.input if i.name not in stored)
        dims = value.type.tensor_type.shape.dim
        channels_last = dims[3].dim_value == 3
        sizes = [d.dim_value or (2 if k == 0 else 24 if k == 2 - channels_last else 16)
                 for k, d in enumerate(dims)]  # fmt: skip
        return {value.name: noise.normal(size=sizes).astype(np.float32)}
