"""Operands that stand beside class scores, one place for each, and are shortened with them.

A stored bias, a threshold of each class: their places go with the classes. Numbers that *say* the
class of each place are another matter. Shortened they would still say the old ones, where all that
reads them counts by the cut's columns, so they are refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnx_headcut.labels import NONE

if TYPE_CHECKING:
    from onnx_headcut.editing import edits as ed
    from onnx_headcut.graph.facts import Array
    from onnx_headcut.labels import Ints
    from onnx_headcut.tracing.view import View

ADVICE = (
    "read class numbers by the index that TopK, ArgMax or NonMaxSuppression gives, or leave them out "
    "and put them beside the cut's detections"
)


def select(view: View, i: int, axis: int, ids: Ints) -> list[ed.Edit]:
    """Edits that shorten input ``i`` along ``axis``, whose places are of classes ``ids``."""
    take = view.take(ids)
    refuse_numbers(view, i, axis, ids, take)
    return view.select(i, axis, take)


def refuse_numbers(view: View, i: int, axis: int, ids: Ints, take: Ints) -> None:
    """Refuse where what is shortened says each place's class, and would say the old one."""
    value = view.old[i].value
    if value is not None:
        refuse_values(view, i, np.moveaxis(value, axis, -1), ids, take)


def refuse_values(view: View, i: int, value: Array, ids: Ints, take: Ints) -> None:
    """The same of what is read of input ``i``, with the classes along its last axis."""
    if says_classes(value, ids) and not np.array_equal(view.sel.columns_at(ids, take), ids[take]):
        view.refuse(f"its input {view.node.input[i]!r} says the number of each class beside the "
                    "scores, and would say the old ones after the cut", ADVICE)  # fmt: skip


def says_classes(value: Array, ids: Ints) -> bool:
    """Whether all values along the last axis are their place's class and one constant."""
    if value.dtype.kind not in "iuf" or len(np.unique(ids[ids != NONE])) < 2 or not value.size:
        return False
    offsets = value[..., ids != NONE].astype(np.float64) - ids[ids != NONE]
    return bool((offsets == offsets.flat[0]).all()) and float(offsets.flat[0]).is_integer()
