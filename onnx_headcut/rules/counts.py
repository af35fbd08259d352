"""The class count, where the graph reads it from a shape and reckons with it.

Shapes follow a cut by themselves, and with them every number that the graph takes from one. Where
such a number says how much there is (the target of a Reshape, TopK's ``k``), that is what is wanted.
Where it enters what the outputs say (scores divided by the class count, a threshold of ``1 / C``), the
kept classes would come out with other values than before: those uses are refused.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

from onnx_headcut.graph.model import captures
from onnx_headcut.graph.ops import BROADCASTING, CONTROL, UNARY
from onnx_headcut.labels import Columns, Labels, Lookup, PerIteration, Rows, Whole
from onnx_headcut.rules import movement

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from onnx_headcut.graph.facts import Fact
    from onnx_headcut.graph.scope import Scope
    from onnx_headcut.labels import Mark
    from onnx_headcut.tracing.view import View

INTEGERS = frozenset({TensorProto.INT32, TensorProto.INT64})

SHAPED = {"Reshape": 1, "Expand": 1, "Tile": 1}
"""Of ops on what has changed with the classes, the input that says its new shape."""

AMOUNTS = frozenset({"TopK", "Pad"})
"""Ops whose second input says how many detections, or fillers behind them, there are."""

FILLING = frozenset({"Concat", "Scatter", "ScatterElements", "ScatterND"})
"""Ops that put detections beside a filler, or into it."""

ADVICE = (
    "simplify the graph first (onnxslim): folded to a plain number, it stays what it is; or export "
    "with the number itself instead of one read from the shape of the scores"
)


def check(view: View) -> None:
    """Refuse where a number that changed with the class count enters what the node gives."""
    refuse_changed(view, [i for i in changed(view) if not follows(view, i)])
    if view.op == "TopK" and isinstance(view.marks[0], Rows) and 1 in changed(view):
        old, new = (f[1].value for f in (view.old, view.new))
        view.trace.notes.append(
            f"TopK {view.node.name or view.node.output[0]!r}: its k is reckoned from the class count"
            + ("" if old is None or new is None else f", {new.item()} instead of {old.item()}")
            + "; outputs behind it have as many rows"
        )
    if view.op in CONTROL:
        check_bodies(view)


def refuse_changed(view: View, inputs: Iterable[int]) -> None:
    """Refuse where one of ``inputs`` has changed with the class count."""
    for i in set(changed(view)).intersection(inputs):
        view.refuse(f"its input {view.node.input[i]!r} is reckoned from the class count, and the kept "
                    "classes would come out with other values", ADVICE)  # fmt: skip


def changed(view: View) -> Iterator[int]:
    """Inputs without classes that the cut changes all the same."""
    for i, (mark, old, new) in enumerate(zip(view.marks, view.old, view.new, strict=True)):
        if mark is None and new is not old and not _equal(old, new):
            yield i


def _equal(old: Fact, new: Fact) -> bool:
    return old.value is not None and new.value is not None and np.array_equal(old.value, new.value)


def follows(view: View, i: int) -> bool:
    """Whether the node's rule looks at the changed values of input ``i``, and holds them to account."""
    first = view.marks[0]
    labelled = any(isinstance(m, Labels) for m in view.marks)
    if any(isinstance(m, PerIteration) for m in view.marks):
        known = zip(view.marks, view.old, strict=True)
        return all(m is not None or f.value is not None for m, f in known)
    if view.op in CONTROL:
        return bool(view.op != "If")
    if labelled and view.op in BROADCASTING:
        return stretched(view, i)
    if isinstance(first, Labels) and i and view.op in movement.RULES and view.op != "Concat":
        return True  # each element is looked at
    if isinstance(first, Labels) and view.op == "TopK":
        return same_candidates(view)
    if view.op in AMOUNTS and i == 1:
        return is_amount(view, first)
    if any(isinstance(m, Lookup) for m in view.marks):
        if view.op in UNARY or view.op in BROADCASTING:
            return view.op != "Where" and view.new[i].value is not None
        if view.op == "Gather" and i == 0:
            return True
    if is_index(view) or (view.op in FILLING and is_filler(view, i)):
        return True
    return SHAPED.get(view.op) == i and view.new[0] is not view.old[0]


def is_amount(view: View, found: Mark | None) -> bool:
    """Whether it says how many detections or fillers there are, as an export of fewer classes does."""
    if isinstance(found, Columns) and view.op == "Pad":
        pads = [f[1].value for f in (view.old, view.new)]
        old, new = (None if p is None else p.reshape(2, -1)[:, found.axis] for p in pads)
        return old is not None and new is not None and np.array_equal(old, new)
    return isinstance(found, Rows | Lookup)


def is_filler(view: View, i: int) -> bool:
    """Whether an input holds one number everywhere, before and after: only its extents follow."""
    maker = view.scope.node_of(view.node.input[i])
    if maker is not None and maker.op_type == "ConstantOfShape":
        return True
    old, new = view.old[i].value, view.new[i].value
    if old is None or new is None or not old.size or not new.size:
        return False
    return bool((old == old.flat[0]).all() and (new == old.flat[0]).all())


def is_index(view: View) -> bool:
    """Whether integers are multiplied, added or listed, as for an index or a shape.

    What comes out is looked at where it is read by (`indexing.flat_index`), and may go nowhere else.
    """
    if view.op == "Concat":
        if not all(m is None or isinstance(m, Rows) for m in view.marks):
            return False
    elif view.op not in {"Add", "Mul", "Sub"} or any(isinstance(m, Whole) for m in view.marks):
        return False
    return all(f.elem_type in INTEGERS for f in view.old)


def entered(view: View, marks: Sequence[Mark | None]) -> Sequence[Mark | None]:
    """Marks of a node's outputs, of which the class count has entered those that may be an index."""
    if not is_index(view) or all(is_filler(view, i) for i in changed(view)):
        return marks
    name = view.node.output[0]
    return [replace(m, apart=name) if isinstance(m, Rows) else m for m in marks]


def stretched(view: View, i: int) -> bool:
    """Whether an operand lies along the class axis, as long as that: its rule compares its values."""
    rank = max(view.rank(k) for k, n in enumerate(view.node.input) if n)
    axes = {view.labels(k).axis + rank - view.rank(k): len(view.labels(k).ids)
            for k in view.labelled() if len(view.labels(k).ids) > 1}  # fmt: skip
    shape = view.old[i].shape or ()
    return any(axis >= rank - len(shape) and shape[axis - rank + len(shape)] == extent
               for axis, extent in axes.items())  # fmt: skip


def same_candidates(view: View) -> bool:
    """Whether TopK still gives as many as it did, or all that are left."""
    labels = view.labels(0)
    axis = view.attrs.get("axis", -1) % view.rank(0)
    old, new = (view.old[1].value, view.new[1].value)
    if old is None or new is None or axis != labels.axis:
        return False
    left = len(view.take(labels.ids))
    return min(int(new.item()), left) == min(int(old.item()), left)


def check_bodies(view: View) -> None:
    """Refuse where bodies that nobody looks into read such a number from outside."""
    names = [n for n in [*view.node.input, *captures(view.node)] if n]
    marks = [m for n in names for m in [view.scope.mark(n)] if m is not None]
    if not all(isinstance(m, Rows | Whole) for m in marks):
        return  # its bodies are traced
    for name in names:
        if view.scope.mark(name) is None and moved(view.scope, name):
            view.refuse(f"its bodies read {name!r}, which is reckoned from the class count", ADVICE)


def moved(scope: Scope, name: str) -> bool:
    """Whether the cut changes ``name``."""
    old, new = scope.old(name), scope.new(name)
    return new is not old and not _equal(old, new)
