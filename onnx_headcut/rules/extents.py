"""Extents of a class axis less a stored number: how many positions lie behind the classes, say.

Exporters count what stands beside boxes and scores on one axis (keypoints, mask coefficients, an
angle) as its extent less ``4 + classes``. The extent follows a cut by itself, the stored number must
be told. What it leaves out is either the first positions or the last; where one of the two ends
between classes and the others, that is what it counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnx_headcut.graph.scope import is_fixed
from onnx_headcut.labels import NONE, Labels

if TYPE_CHECKING:
    from onnx_headcut.editing import edits as ed
    from onnx_headcut.labels import Ints
    from onnx_headcut.tracing.view import View

PASSING = frozenset({"Gather", "Slice", "Squeeze", "Unsqueeze", "Cast", "Identity", "Reshape"})


def followed(view: View) -> list[ed.Edit]:
    """The edit of the stored number that an extent of a class axis is lessened by, if any."""
    if view.op != "Sub" or not is_fixed(view.scope, view.node.input[1]):
        return []
    number, labels = view.old[1].value, extent_of(view)
    if number is None or labels is None or number.size != 1:
        return []
    n, k, take = len(labels.ids), int(number.item()), view.take(labels.ids)
    left = set()
    if 0 < k <= n and _between(labels.ids, k):
        left.add(int((take >= k).sum()))  # without the first k
    if 0 < k <= n and _between(labels.ids, n - k):
        left.add(int((take < n - k).sum()))  # without the last k
    if len(left) > 1:
        view.refuse(
            f"it takes {k} off the {n} positions of a class axis, and whether these are the first or "
            "the last is not known",
            "simplify the graph first (onnxslim): folded to a plain number, it stays what it is",
        )
    if not left or len(take) - k in left:
        return []
    return view.patch(1, np.full(number.shape, len(take) - left.pop(), number.dtype))


def _between(ids: Ints, at: int) -> bool:
    """Whether all classes lie on one side of a place."""
    return bool((ids[:at] == NONE).all() or (ids[at:] == NONE).all())


def extent_of(view: View) -> Labels | None:
    """The labels of the axis whose extent the node's first input is."""
    name, old = view.node.input[0], view.old[0].value
    while (node := view.scope.node_of(name)) is not None:
        name = node.input[0]
        if node.op_type == "Shape":
            mark = view.scope.mark(name)
            if not isinstance(mark, Labels) or old is None or old.size != 1:
                return None
            return mark if old.item() == len(mark.ids) else None
        if node.op_type not in PASSING:
            return None
    return None
