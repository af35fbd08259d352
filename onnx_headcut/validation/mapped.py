"""Class maps that are more than a selection: what each new column should say, worked out anew.

The reference of a selection is the original with the dropped classes masked. Of a merge, a repeated
or a new class it is the original whose scores are replaced, at every site, by what the map makes of
them: computed here with numpy from the original's own scores, then written into the slot of the
row's *template*, the source column whose place the new one takes behind the heads. So what lies
behind (softmax, top-k, suppression, label ids) is the original's own.

An original has one slot for a class, so columns with one template are looked at one after the
other, in *chunks* of distinct templates; the cut's other columns are masked meanwhile. Nothing of
the rules or of the blending is used; a map is data.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from onnx_headcut.labels import NONE, Site
from onnx_headcut.validation.probe import Columns, natural_cut
from onnx_headcut.validation.reference import occurrences

if TYPE_CHECKING:
    from collections.abc import Sequence

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class NewColumn:
    """What one column of a cut should say.

    ``terms`` are (source column, weight) pairs, summed up or, by ``combine``, compared. ``start``
    says how its weights began where they are new, with the deviation ``std`` of ``normal``:
    ``grown`` from its terms with a bias of its own, or ``given`` by others.
    """

    template: int
    terms: tuple[tuple[int, float], ...]
    combine: Literal["sum", "max"] = "sum"
    start: Literal["", "zeros", "normal", "grown", "given"] = ""
    std: float = 0.0

    @property
    def known(self) -> bool:
        """Whether the original says its scores."""
        return not self.start

    @property
    def plain(self) -> bool:
        """Whether it is its template as it is."""
        return self.known and self.terms == ((self.template, 1.0),)


@dataclass(frozen=True)
class Chunk:
    """New columns with distinct templates: what can be written into one original at a time.

    ``columns`` are their numbers in ``rows``, all columns of the cut; ``total`` is the number of
    source columns. Other columns of the cut have labels of their own, from ``total`` on.
    """

    rows: tuple[NewColumn, ...]
    columns: tuple[int, ...]
    total: int

    def as_columns(self, background: int | None) -> Columns:
        """The chunk for probes and patterns."""
        order = tuple(self.rows[j].template for j in self.columns)
        rest = len(self.columns) < len(self.rows)
        return Columns(self.total, order, background, len(self.rows) if rest else 0, self.columns)

    def label(self, column: int) -> int:
        """How a column of the cut is labelled at its sites."""
        if column == NONE:
            return NONE
        return self.rows[column].template if column in self.columns else self.total + column

    def cut_site(self, site: Site, cut: Site) -> Site | str:
        """The cut's site with the chunk's labels, or what is wrong with its columns."""
        order = [row.template for row in self.rows]
        laid = laid_out(site.ids, order)
        if laid is None:
            return f"{site.value!r}: its classes have no order that can be told"
        if tuple(NONE if j == NONE else order[j] for _, j in laid) != tuple(cut.ids):
            return f"{cut.value!r}: the cut's columns are not those of the map in their order"
        return replace(cut, ids=tuple(self.label(j) for _, j in laid))

    def written(
        self, sites: Sequence[Site], scores: Sequence[Array],
        cut_sites: Sequence[Site], cut_scores: Sequence[Array],
    ) -> tuple[list[Array], Array]:  # fmt: skip
        """What to add to the original's scores, by site, and how much of them stays, by column.

        New weights' scores are the cut's own: nothing else says what they should be.
        """
        columns = self.as_columns(None)
        gain = np.ones(columns.width, np.float32)
        patterns = []
        for site, own, cut, theirs in zip(sites, scores, cut_sites, cut_scores, strict=True):
            source, made = spread(site, own, columns.width), spread(cut, theirs, columns.width)
            pattern = np.zeros(source.shape, np.float32)
            for row in (self.rows[j] for j in self.columns):
                if not row.plain:
                    gain[row.template] = 0
                    value = combined(row, source) if row.known else made[..., row.template]
                    pattern[..., row.template] = value
            patterns.append(pattern)
        return patterns, gain

    def expected(self, site: Site, scores: Array) -> Array:
        """The chunk's known columns, made of an original's scores: float64 [others, times, n]."""
        source = spread(site, scores, self.total)
        made = [combined(row, source) for row in self._known()]
        return np.stack(made, -1) if made else source[..., :0]

    def found(self, cut: Site, scores: Array) -> Array:
        """The same columns as the cut has them."""
        own = spread(cut, scores, self.total + len(self.rows))
        return own[..., [row.template for row in self._known()]]

    @property
    def plain(self) -> npt.NDArray[np.bool_]:
        """Which of those columns are the original's as they are."""
        return np.array([row.plain for row in self._known()], bool)

    def slots(self, site: Site, scores: Array) -> Array:
        """What a site has in the templates' places, the original's or the cut's."""
        own = spread(site, scores, self.total + len(self.rows))
        return own[..., [self.rows[j].template for j in self.columns]]

    def fresh(self, cut: Site, scores: Array) -> Array:
        """Scores of the cut's columns with new weights."""
        own = spread(cut, scores, self.total + len(self.rows))
        return own[..., [self.rows[j].template for j in self.columns if not self.rows[j].known]]

    def _known(self) -> list[NewColumn]:
        return [self.rows[j] for j in self.columns if self.rows[j].known]


def chunks(rows: Sequence[NewColumn], total: int, background: int | None) -> list[Chunk]:
    """Deal the columns out; the background is in every chunk, for scores to go to."""
    seen: dict[int, int] = {}
    dealt: list[list[int]] = []
    home = [j for j, row in enumerate(rows) if row.template == background]
    for j, row in enumerate(rows):
        turn = seen[row.template] = seen.get(row.template, -1) + 1
        if turn == len(dealt):
            dealt.append([])
        dealt[turn].append(j)
    parts = [sorted({*part, *home}) for part in dealt]
    return [Chunk(tuple(rows), tuple(part), total) for part in parts]


def combined(row: NewColumn, source: Array) -> Array:
    """A row's scores from all source columns' (the last axis)."""
    members = np.stack([weight * source[..., c] for c, weight in row.terms])
    return np.asarray(members.max(0) if row.combine == "max" else members.sum(0))


def spread(site: Site, scores: Array, width: int) -> Array:
    """Scores of a site by what they belong to: float64 ``[others, occurrences, width]``.

    As patterns have it (see ``reference.site_feed``); 0 where a class does not occur.
    """
    ids = np.array(site.ids)
    axis = site.axis % scores.ndim
    rows = np.moveaxis(scores, axis, -1).reshape(-1, len(ids)).astype(np.float64)
    classes = ids != NONE
    times = np.where(classes, occurrences(site.ids), 0)
    result = np.zeros((len(rows), int(times.max(initial=0)) + 1, width))
    result[:, times[classes], ids[classes]] = rows[:, classes]
    return result


def laid_out(ids: Sequence[int], order: Sequence[int]) -> list[tuple[int, int]] | None:
    """Say how a map lays its columns out: old position and new column (NONE: no class) of each.

    As ``natural_cut``, with further copies of a class behind the column before them: within each
    anchor, or as a run of their own where the axis has runs. None where that cannot be told.
    """
    if len(set(order)) == len(order):
        take = natural_cut(ids, order)
        place = {column: j for j, column in enumerate(order)} | {NONE: NONE}
        return None if take is None else [(at, place[ids[at]]) for at in take]
    times, classes = occurrences(ids), [at for at, label in enumerate(ids) if label != NONE]
    rank = {label: r for r, label in enumerate(dict.fromkeys(ids[at] for at in classes))}
    by_anchor = sorted(classes, key=lambda at: (times[at], rank[ids[at]])) == classes
    by_class = sorted(classes, key=lambda at: (rank[ids[at]], times[at])) == classes
    anchors = max((int(times[at]) for at in classes), default=0) + 1
    if by_anchor == by_class and (anchors > 1 or not by_anchor):
        return None
    at_of = {(ids[at], int(times[at])): at for at in classes}
    entries: list[tuple[tuple[int, int, int], tuple[int, int]]] = []
    entries = [((at, -1, -1), (at, NONE)) for at, label in enumerate(ids) if label == NONE]
    for anchor in range(anchors):
        first = [at_of[c, anchor if by_anchor else 0] for c in set(order) & set(rank)
                 if (c, anchor) in at_of]  # fmt: skip
        for j, column in enumerate(order):
            if (column, anchor) in at_of:
                key = (min(first), j, 0 if by_anchor else anchor)
                entries.append((key, (at_of[column, anchor], j)))
    return [entry for _, entry in sorted(entries)]
