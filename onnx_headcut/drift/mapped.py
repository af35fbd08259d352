"""Classes of a cut, and what of the original they are to be held against.

A merged class's detections and annotations are those of its members together, a repeated class has
the same twice, and a new one, or one that starts anew, has none in the original.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnx_headcut.drift.boxes import Detections, suppressed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx_headcut.classes import Classes, ClassMap

OTHER = -1
"""The column of what the cut has no class for."""


@dataclass(frozen=True)
class Column:
    """A class of the cut: its column ``new``, made of the source columns ``members``.

    ``column`` is the source column whose place it has; ``truth`` are names, in lower case, that its
    objects may have in annotations.
    """

    new: int
    column: int
    name: str
    members: tuple[int, ...]
    truth: frozenset[str]


def columns_of(class_map: ClassMap, classes: Classes, names: Sequence[str | None] = ()) -> list[Column]:
    """The cut's columns but for its background; ``names`` are what the cut calls them."""
    found = []
    for j, row in enumerate(class_map.rows):
        if row.template == class_map.background:
            continue
        members = () if row.new else row.members
        name = (names[j] if j < len(names) else None) or row.name or classes.name(row.template)
        called = {name, *(classes.name(c) for c in members)}
        found.append(Column(j, row.template, name, members, frozenset(n.casefold() for n in called)))
    return found


def as_columns(found: Detections, columns: Sequence[Column]) -> Detections:
    """An original's detections in columns of the cut, best first; the rest are `OTHER`.

    Where several members of one class found the same object, it is there once.
    """
    parts = [found.of(~np.isin(found.columns, [c for column in columns for c in column.members]))]
    new = [np.full(len(parts[0]), OTHER)]
    for column in columns:
        own = found.of(np.isin(found.columns, column.members))
        own = Detections(own.boxes, np.full(len(own), column.new), own.scores)
        parts.append(suppressed(own, most=len(own)) if len(column.members) > 1 else own)
        new.append(parts[-1].columns)
    boxes, scores = (np.concatenate([getattr(p, n) for p in parts]) for n in ("boxes", "scores"))
    return Detections.ranked(boxes, np.concatenate(new).astype(np.int64), scores)
