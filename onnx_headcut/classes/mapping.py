"""A class map: what each column of the cut model's class axis is made of.

One mechanism for keeping, reordering, repeating, renaming, merging, adding and re-initialising
classes: a map has one `Row` per new column, the background's included, and a plain cut is the map
whose rows are distinct source columns. As a formula, ``new = M · old`` along the class axis, for
every anchor; `ClassMap.matrix` is M, with rows of zeros where weights start anew.

A row has two sides. Its *template* is the source column whose place it takes everywhere behind the
heads (per-class constants, class-specific boxes, branches, label ids): there a new class is a copy
of its template, and `ClassMap.selection` is all that the graph's structure has to know. Its
*terms* (or its *start*) are its values, made in the weights of the score heads, or behind the
activation with exact scores. numpy and the standard library only.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from onnx_headcut.labels import Selection

if TYPE_CHECKING:
    from collections.abc import Sequence

Floats = np.ndarray[Any, np.dtype[np.float64]]
Merge = Literal["sum", "max"]

PRIOR = 0.01
"""Probability that a new class starts with, as RetinaNet's heads do before training."""


@dataclass(frozen=True)
class Start:
    """How a row with new weights begins; its bias comes from `ClassMap.prior`.

    ``std`` is the standard deviation of ``normal``, in units of the head's weights. ``given``
    stands for weights and biases that were computed elsewhere (`Given`), a fitted background's.
    """

    kind: Literal["zeros", "normal", "given"]
    std: float = 0.0


@dataclass(frozen=True)
class Row:
    """One column of the cut model.

    ``template``: the source column whose place it takes behind the heads. ``terms``: (source
    column, weight) pairs, none of them where the row has a ``start`` of its own. ``name``: None for
    the template's. ``merged``: the terms are the members of a merge, whose logits are averaged in
    a head, and whose scores are added or compared with exact scores.

    A class that is grown (``drone=new(copy bird)``) has terms, ``grown``, and the prior's bias.
    """

    template: int
    terms: tuple[tuple[int, float], ...]
    start: Start | None = None
    name: str | None = None
    merged: bool = False
    grown: bool = False

    @property
    def plain(self) -> bool:
        """Whether its values are the template's own."""
        return self.start is None and not self.grown and self.terms == ((self.template, 1.0),)

    @property
    def new(self) -> bool:
        """Whether it is a class that the original does not know, or one that starts anew."""
        return self.grown or self.start is not None

    @property
    def members(self) -> tuple[int, ...]:
        """Source columns that its values come from."""
        return tuple(column for column, _ in self.terms)


def row_of(column: int, name: str | None = None) -> Row:
    """Return the row that is source column ``column`` itself."""
    return Row(column, ((column, 1.0),), name=name)


@dataclass(frozen=True)
class ClassMap:
    """The new columns in their order, from ``count`` source columns.

    ``background`` is the source's column, None where there is none. ``seed`` is for what is drawn
    at random, ``prior`` the probability at which new classes start. With ``exact`` scores the map
    is applied behind the activation; ``merge`` says how they are merged there, where they are.
    """

    rows: tuple[Row, ...]
    count: int
    background: int | None = None
    seed: int = 0
    prior: float = PRIOR
    merge: Merge | None = None
    exact: bool = False

    @classmethod
    def of_columns(cls, columns: Sequence[int], count: int, background: int | None) -> ClassMap:
        """Return the map of plain rows ``columns``, the background's among them."""
        return cls(tuple(row_of(c) for c in columns), count, background)

    @property
    def order(self) -> tuple[int, ...]:
        """The templates: where each new column stands in for a source column."""
        return tuple(row.template for row in self.rows)

    @cached_property
    def selection(self) -> Selection:
        """The map as the graph's structure sees it."""
        return Selection(self.order, self.count)

    @property
    def repeats(self) -> bool:
        """Whether two rows have one template."""
        return len(set(self.order)) < len(self.rows)

    @property
    def plain(self) -> bool:
        """Whether each row is another source column as it is: a selection."""
        return not self.repeats and all(row.plain for row in self.rows)

    @property
    def blended(self) -> tuple[int, ...]:
        """New columns whose values are not a source column's."""
        return tuple(j for j, row in enumerate(self.rows) if not row.plain)

    @property
    def identity(self) -> bool:
        """Whether the cut model would be the original."""
        named = any(row.name is not None for row in self.rows)
        return self.plain and not named and self.selection.identity

    @property
    def new_background(self) -> int | None:
        """The background's new column."""
        return None if self.background is None else self.order.index(self.background)

    @cached_property
    def matrix(self) -> Floats:
        """M, float64 of shape (new columns, source columns)."""
        matrix = np.zeros((len(self.rows), self.count))
        for j, row in enumerate(self.rows):
            for column, weight in row.terms:
                matrix[j, column] += weight
        return matrix

    def describe(self, j: int) -> str:
        """What new column ``j`` is made of, for tables: ``3``, ``3 + 8``, ``new, like 4``."""
        row = self.rows[j]
        if row.start is not None:
            if row.start.kind == "given":
                return f"{row.template} (fitted)"
            start = row.start.kind if row.start.kind == "zeros" else f"normal {row.start.std:g}"
            return f"new ({start}), like {row.template}"
        said = " + ".join(
            str(c) if w == 1 or row.merged or row.grown else f"{w:g}*{c}" for c, w in row.terms
        )
        if row.grown:
            return f"new ({'copy' if len(row.terms) == 1 else 'mean'} of {said})"
        return said

    # -- metadata

    def to_json(self) -> str:
        """The map as canonical JSON, for metadata; names are recorded beside it."""
        rows = []
        for row in self.rows:
            entry: dict[str, Any] = {"template": row.template, "terms": [[c, w] for c, w in row.terms]}
            if row.start is not None:
                entry["start"] = {"kind": row.start.kind, "std": row.start.std}
            entry |= {key: True for key in ("merged", "grown") if getattr(row, key)}
            rows.append(entry)
        data = {"count": self.count, "background": self.background, "seed": self.seed,
                "prior": self.prior, "merge": self.merge, "rows": rows}  # fmt: skip
        return json.dumps(data, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str, names: Sequence[str | None] = ()) -> ClassMap:
        """Read what `to_json` wrote; ValueError for anything else."""
        try:
            data = json.loads(text)
            rows = tuple(
                _row(entry, names[j] if j < len(names) else None)
                for j, entry in enumerate(data["rows"])
            )
            count, background = int(data["count"]), data["background"]
            found = cls(rows, count, background, int(data["seed"]), float(data["prior"]),
                        data["merge"])  # fmt: skip
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"is no class map ({type(error).__name__}: {error})") from None
        columns = {c for row in rows for c in (row.template, *row.members)}
        if not rows or not all(0 <= c < count for c in columns):
            raise ValueError("names columns that are not there")
        if found.merge not in {None, "sum", "max"} or Counter(found.order)[background] > 1:
            raise ValueError("is no class map")
        return found


def _row(entry: dict[str, Any], name: str | None) -> Row:
    start = entry.get("start")
    if start is not None and start["kind"] not in {"zeros", "normal", "given"}:
        raise ValueError(f"{start['kind']!r} is no start")
    return Row(
        int(entry["template"]),
        tuple((int(c), float(w)) for c, w in entry["terms"]),
        None if start is None else Start(start["kind"], float(start["std"])),
        name,
        bool(entry.get("merged", False)),
        bool(entry.get("grown", False)),
    )


@dataclass(frozen=True)
class Given:
    """Values of a row that were computed elsewhere, such as a fitted background's, for one head.

    ``weights``: float of shape (anchors, *rest), where ``rest`` is the shape of the head's weight
    without its output channels' axis; ``bias``: float of shape (anchors,). Anchors are in the order
    in which the row's template occurs among the head's channels.
    """

    weights: Floats
    bias: Floats


GivenRows = dict[tuple[str, int], Given]
"""By the head's output value and the new column: explicit values that a plan's blend writes."""
