"""Branches, one per class, and where they join.

A tensor picked out for one class is `Whole`, and so is all that is computed from it. Where such
tensors are concatenated, those of dropped classes leave the Concat, and with them all that only
they used. What a branch emits as its label is found by value: where every branch's tensor is
filled with a constant, and the constants are the classes' columns plus an offset, they are class
ids, however the exporter wrote them (ConstantOfShape, Expand, an added ``k.0``, an index table).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx

from onnx_headcut import edits as ed
from onnx_headcut.demand import is_fixed
from onnx_headcut.facts import attributes
from onnx_headcut.labels import NONE, Labels, Lookup, Option, Rows, Whole
from onnx_headcut.rules.values import offset_of
from onnx_headcut.trace import Outcome

if TYPE_CHECKING:
    from onnx_headcut.analysis import Scope
    from onnx_headcut.labels import Ints, Mark
    from onnx_headcut.trace import View

FILL_PASSES = frozenset(
    {"Expand", "Identity", "Reshape", "Unsqueeze", "Squeeze", "Flatten", "Gather", "GatherND",
     "GatherElements", "Slice", "Tile", "Transpose", "Compress"}
)  # fmt: skip


def join(view: View) -> Outcome:
    """Concat of whole-class tensors: the branches of dropped classes leave it."""
    if any(isinstance(m, Lookup) for m in view.marks):
        view.refuse("whole-class tensors are joined with class numbers")
    keep = ordered(view)
    if not keep:
        view.refuse("no kept class has a branch here")
    edits: list[ed.Edit] = []
    if keep != tuple(range(len(view.marks))):
        edits.append(ed.KeepInputs(view.place, keep))
    ids, static = ids_of(view)
    fills = [fill(view.scope, n) if isinstance(m, Whole) else None
             for n, m in zip(view.node.input, view.marks, strict=True)]  # fmt: skip
    labels = _label_values(view, fills, ids)
    if labels is not None:
        return Outcome([labels], edits)
    if not static:
        return Outcome([Rows()], edits)
    axis = view.attrs.get("axis", 0) % view.rank(0)
    return Outcome([Labels(axis, ids)], edits)


def ordered(view: View) -> tuple[int, ...]:
    """Inputs that stay; kept classes' branches stand in their new order."""
    column = view.sel.column
    slots = [k for k, m in enumerate(view.marks) if isinstance(m, Whole) and m.cls in column]

    def new_place(k: int) -> int:
        mark = view.marks[k]
        return column[mark.cls] if isinstance(mark, Whole) else k

    filled = dict(zip(slots, sorted(slots, key=new_place), strict=True))
    return tuple(filled.get(k, k) for k, m in enumerate(view.marks)
                 if k in filled or not isinstance(m, Whole))  # fmt: skip


def ids_of(view: View) -> tuple[Ints, bool]:
    """Class of each position of the joined axis, and whether all extents are known."""
    ids: list[Ints] = []
    static = True
    for i, mark in enumerate(view.marks):
        shape = view.old[i].shape
        rank = len(shape) if shape is not None else 1
        extent = shape[view.attrs.get("axis", 0) % rank] if shape is not None else None
        static &= extent is not None
        cls = mark.cls if isinstance(mark, Whole) else NONE
        ids.append(np.full(1 if extent is None else extent, cls))
    if not static:
        ids = [i[:1] for i in ids]
    return np.concatenate(ids), static


@dataclass(frozen=True)
class Fill:
    """A tensor all of whose elements are ``value``; ``edit`` makes it another value."""

    value: float
    edits: tuple[tuple[ed.Place, int | str, np.ndarray], ...]  # type: ignore[type-arg]
    """Places (input number or attribute) of constants that can shift the value, one by one."""


def fill(scope: Scope, name: str) -> Fill | None:
    """The constant that ``name`` is filled with, and where that constant stands; None if none."""
    known = scope.old(name).value
    node = scope.node_of(name)
    at = scope.index.producer.get(name)
    if known is not None and is_fixed(scope, name) and (node is None or node.op_type == "Constant"):
        return Fill(float(known.flat[0]), ()) if known.size and (known == known.flat[0]).all() else None
    if node is None or at is None:
        return None
    place = (*scope.place, at)
    if node.op_type == "ConstantOfShape":
        value = attributes(node).get("value")
        stored = onnx.numpy_helper.to_array(value) if value is not None else np.zeros(1, np.float32)
        return Fill(float(stored.flat[0]), ((place, "value", stored),))
    if node.op_type in FILL_PASSES | {"Cast"}:
        inner = fill(scope, node.input[0])
        return None if inner is None else Fill(inner.value, _own(scope, place, node, 0) or inner.edits)
    if node.op_type in {"Add", "Sub", "Mul"} and len(node.input) == 2:
        a, b = (fill(scope, n) for n in node.input)
        if a is None or b is None:
            return None
        value = {"Add": a.value + b.value, "Sub": a.value - b.value, "Mul": a.value * b.value}
        places = (*(_own(scope, place, node, 0) or a.edits), *(_own(scope, place, node, 1) or b.edits))
        return Fill(value[node.op_type], places if node.op_type == "Add" else places[:1])
    return None


def _own(
    scope: Scope, place: ed.Place, node: onnx.NodeProto, i: int
) -> tuple[tuple[ed.Place, int | str, np.ndarray], ...]:  # type: ignore[type-arg]
    """The input ``i`` itself as the place to change, where it is fixed."""
    value = scope.old(node.input[i]).value
    if value is None or not is_fixed(scope, node.input[i]):
        return ()
    return ((place, i, value),)


def _label_values(
    view: View, fills: list[Fill | None], joined: Ints
) -> Mark | None:
    """A `Lookup` where the branches emit constants that differ: label ids, or numbers like them."""
    found = [(m.cls, f) for m, f in zip(view.marks, fills, strict=True)
             if isinstance(m, Whole) and f is not None]  # fmt: skip
    wholes = [m for m in view.marks if isinstance(m, Whole)]
    if len(found) != len(wholes) or len({f.value for _, f in found}) < min(2, len(found)):
        return None
    value_of = {cls: f.value for cls, f in found}
    dtype = np.dtype(np.float64 if any(v != round(v) for v in value_of.values()) else np.int64)
    ids = np.array([c for c in joined.tolist() if c != NONE])
    if len(ids) != len(joined):
        return None
    old = np.array([value_of[c] for c in ids.tolist()], dtype)
    take = view.take(ids)
    plain = Option(old[take])
    lookup = Lookup(ids, take, old, (plain,), view.node.output[0], direct=_is_line(view))
    offset = offset_of(lookup)
    if offset is None:
        return lookup
    kept = ids[take]
    new = np.array([view.sel.column[int(c)] for c in kept]) + offset
    edits: list[ed.Edit] = []
    for cls, f in found:
        if cls in view.sel.column:
            edit = _shifted(view, f, view.sel.column[cls] + offset)
            if edit is None:
                return lookup
            edits += edit
    translated = Option(new.astype(dtype), tuple(edits))
    return Lookup(ids, take, old, (translated, plain), lookup.origin, direct=lookup.direct)


def _is_line(view: View) -> bool:
    return view.rank(0) == 1 and all(f.static is not None for f in view.old)


def _shifted(view: View, f: Fill, wanted: float) -> list[ed.Edit] | None:
    """Edits that make a fill ``wanted``; None where no constant of its own can do it."""
    if wanted == f.value:
        return []
    if not f.edits:
        return None
    # the last constant on the way is the branch's own: earlier ones are shared zeros and ones
    place, where, stored = f.edits[-1]
    value = (stored.astype(np.float64) + (wanted - f.value)).astype(stored.dtype)
    if isinstance(where, str):
        return [ed.SetAttribute(place, where, onnx.numpy_helper.from_array(value, where))]
    return [ed.Replace(place, where, value)]
