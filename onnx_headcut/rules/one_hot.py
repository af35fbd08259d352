"""OneHot of class numbers: what said a class by its value says it by its place.

https://onnx.ai/onnx/operators/onnx__OneHot.html: negative numbers count from the end, others beyond
the depth are nowhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnx_headcut.labels import NONE, Labels, Lookup, copies
from onnx_headcut.rules.deciding import commit, possible
from onnx_headcut.tracing.view import Outcome

if TYPE_CHECKING:
    from onnx_headcut.graph.facts import Array
    from onnx_headcut.labels import Ints
    from onnx_headcut.tracing.view import View


def one_hot(view: View) -> Outcome:
    """The new axis carries the classes whose numbers are its places; the depth follows them."""
    lookup, depth = view.marks[0], view.old[1].value
    if not isinstance(lookup, Lookup) or any(m is not None for m in view.marks[1:]):
        view.refuse("class numbers reach it as its depth or its values")
    if depth is None or depth.size != 1:
        view.refuse("how many places it gives is not known")
    n = int(depth.item())
    before = places(lookup.old, n)
    ids = np.full(n, NONE)
    for cls, place in zip(lookup.ids, before, strict=True):
        if cls != NONE and 0 <= place < n:
            if ids[place] not in {NONE, cls}:
                view.refuse(f"classes {ids[place]} and {cls} have one place")
            ids[place] = cls
    take = view.take(ids)
    nowhere = len(take)
    for option in lookup.options:
        after = places(option.new, len(take))
        old = before[lookup.take]
        inside = after < nowhere
        same = np.array_equal(inside, old < n) and np.array_equal(take[after[inside]], old[inside])
        ranks = copies(lookup.take)[inside]
        real = lookup.ids[lookup.take][inside] != NONE
        same = same and np.array_equal(copies(take)[after[inside]][real], ranks[real])
        if same and possible(view, option):
            commit(view, option)
            rank = view.rank(0) + 1
            axis = view.attrs.get("axis", -1) % rank
            edits = view.patch(1, np.full(depth.shape, len(take), depth.dtype))
            return Outcome([Labels(axis, ids)], edits)
    view.refuse("its places would be those of other classes after the cut")


def places(numbers: Array, depth: int) -> Ints:
    """The place of each number; ``depth`` for those that have none."""
    found = np.rint(numbers).astype(np.int64)
    found = np.where((found < 0) & (found >= -depth), found + depth, found)
    result: Ints = np.where((found < 0) | (found >= depth), depth, found)
    return result
