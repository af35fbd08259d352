"""Patterns that make classes win where one wants them to.

All are float32 ``[others, occurrences, columns]`` (see ``reference.site_feed``), made to stand in
place of all scores (gain 0). They are seeded, and the same for an original and its cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from onnx_headcut.validation.reference import occurrences

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx_headcut.labels import Site
    from onnx_headcut.validation.probe import Columns

Array = npt.NDArray[Any]
Pattern = npt.NDArray[np.float32]

# A sigmoid gives 2e-9 and 0.73 to 0.95 for these, a softmax beside a background at 0 the same.
# No two positions get the same score, so that nothing hangs on how ties are broken.
_QUIET, _QUIET_SPREAD = -20.0, 1.0
_EXCITED, _EXCITED_SPREAD = 1.0, 2.0
_BACKGROUND_SPREAD = 0.1
# Where a background fills all slots: it is held below every class, and a softmax beside it gives
# 0.6 to 0.8 for a class that is quiet, and 0.99 for one that is excited.
_LOW, _LOW_QUIET = -4.0, -3.5
_SCATTER = 3.0  # deviation of the best scores: half of them between 0.1 and 0.9
_LEAST = 24  # positions excited at the lowest density
DENSITIES = (0.0, 0.1, 1.0)


@dataclass(frozen=True)
class Places:
    """The size of a site in a pattern's terms: positions of other axes, and times per class."""

    others: int
    times: int

    @property
    def count(self) -> int:
        """How many places a class has in this site."""
        return self.others * self.times


def places(site: Site, scores: Array) -> Places:
    """Measure a site."""
    axis = site.axis % scores.ndim
    others = int(np.prod([size for at, size in enumerate(scores.shape) if at != axis]))
    labelled = [label for label in site.ids if label >= 0]
    times = int(occurrences(labelled).max(initial=0)) + 1
    return Places(others, times)


class Exciter:
    """Makes patterns for the sites of one model and its cut.

    ``background`` is held at 0 where it is known, so that a softmax has somewhere to go. There it
    may be the best class of most places, and fill the slots of a top-k of all classes: with ``low``
    it is held below the classes, so that kept ones win everywhere.
    """

    def __init__(
        self,
        sites: Sequence[Places],
        columns: Columns,
        *,
        background: int | None,
        seed: int,
        low: bool = False,
    ) -> None:
        self.sites, self.columns, self.seed = sites, columns, seed
        self.background, self.low = background, low
        self.classes = [column for column in columns.order if column != background]
        self._quiet = [self._quiet_one(index, background) for index in range(len(sites))]

    def _quiet_one(self, index: int, background: int | None) -> Pattern:
        where = self.sites[index]
        rng = np.random.default_rng([self.seed, index])
        shape = (where.others, where.times, self.columns.width)
        least = _LOW_QUIET if self.low else _QUIET
        pattern = rng.random(shape, np.float32) * _QUIET_SPREAD + least
        if background is not None:
            spread = rng.random(shape[:2], np.float32) * _BACKGROUND_SPREAD
            pattern[..., background] = spread + (_LOW if self.low else 0.0)
        return pattern.astype(np.float32)

    def quiet(self) -> list[Pattern]:
        """Let no class win anywhere."""
        return [pattern.copy() for pattern in self._quiet]

    def excited(
        self,
        density: float,
        *,
        only: int | None = None,
        site: int | None = None,
        turn: int = 0,
        lift: float = 0.0,
    ) -> list[Pattern]:
        """Excite classes at seeded places of every site, or of one.

        ``only`` one column is excited at all these places, the same for whichever column it is;
        else the kept classes are dealt out to them, anew each ``turn``. ``lift`` raises them all.
        """
        patterns = self.quiet()
        for index in range(len(self.sites)) if site is None else [site]:
            chosen = self._chosen(index, density)
            place = np.arange(len(chosen)) + turn * len(chosen)
            dealt = np.array(self.classes)[place % len(self.classes)]
            rng = np.random.default_rng([self.seed, index, 2])
            level = _EXCITED + _EXCITED_SPREAD * rng.random(len(chosen)) + lift
            other, time = np.divmod(chosen, self.sites[index].times)
            patterns[index][other, time, dealt if only is None else only] = level
        return patterns

    def _chosen(self, site: int, density: float) -> npt.NDArray[np.int64]:
        count = self.sites[site].count
        wanted = max(_LEAST, 2 * len(self.classes), round(density * count))
        rng = np.random.default_rng([self.seed, site, 1])
        return rng.permutation(count)[: min(count, wanted)]

    def turns(self, site: int, density: float) -> int:
        """Say after how many turns each class has had its place in a site."""
        return -(-len(self.classes) // len(self._chosen(site, density)))

    def noise(self, seed: int) -> list[Pattern]:
        """Give every score a value of its own, of the usual size."""
        rng = np.random.default_rng([self.seed, 99, seed])
        return [
            rng.normal(0, 2, (s.others, s.times, self.columns.width)).astype(np.float32)
            for s in self.sites
        ]

    def scattered(self) -> list[Pattern]:
        """Noise in which the best class of a place is a good one here and a poor one there.

        A background is at 0 on average, and wins about every other place.
        """
        patterns = []
        best = 2 * np.sqrt(2 * np.log(len(self.columns.order)))  # of normal numbers, about
        for index, noise in enumerate(self.noise(0)):
            rng = np.random.default_rng([self.seed, index, 3])
            of_place = rng.normal(-best, _SCATTER, (*noise.shape[:2], 1)).astype(np.float32)
            classes = np.arange(self.columns.width) != self.background
            patterns.append(noise + np.where(classes, of_place, np.float32(0)))
        return patterns
