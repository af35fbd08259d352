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
from onnx_headcut.facts import attributes
from onnx_headcut.labels import NONE, Columns, Labels, Lookup, Option, Rows, Whole
from onnx_headcut.rules.elementwise import BROADCASTING, UNARY
from onnx_headcut.scope import is_fixed
from onnx_headcut.storage.tensors import to_array
from onnx_headcut.view import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx_headcut.facts import Array
    from onnx_headcut.labels import Ints, Mark
    from onnx_headcut.scope import Scope
    from onnx_headcut.view import View


def join(view: View) -> Outcome:
    """Concat of whole-class tensors: the branches of dropped classes leave it."""
    if any(isinstance(m, Lookup) for m in view.marks):
        view.refuse("whole-class tensors are joined with class numbers")
    keep = ordered(view)
    if not any(isinstance(view.marks[k], Whole) for k in keep):
        view.refuse("no kept class has a branch here")
    edits: list[ed.Edit] = []
    if keep != tuple(range(len(view.marks))):
        edits.append(ed.KeepInputs(view.place, keep))
    branches = {m.cls: n for n, m in zip(view.node.input, view.marks, strict=True)
                if isinstance(m, Whole)}  # fmt: skip
    numbers = label_constants(view, branches)
    edits += [e for found in numbers for e in found.edits]
    ids, static = ids_of(view)
    patterns = {c: pattern(view.scope, n) for c, n in branches.items()}
    columns = _columns(view, patterns, numbers, ids, line=static and view.rank(0) == 1)
    _refuse_others(view, numbers, patterns)
    axis = view.attrs.get("axis", 0) % view.rank(0)
    if columns is not None:
        if len(columns) == 1:
            return Outcome([columns[0]], edits)
        return Outcome([Columns(view.rank(0) - 1, columns)], edits)
    return Outcome([Labels(axis, ids) if static else Rows()], edits)


def _refuse_others(
    view: View,
    numbers: list[LabelConstant],
    patterns: dict[int, tuple[Origin | None, ...] | None],
) -> None:
    """Refuse constants that differ as class numbers do, and are no label that is filled in."""
    labels = {origin for p in patterns.values() for origin in p or ()}
    for number in numbers:
        if number.edits and labels.isdisjoint(number.places):
            view.refuse(
                "a constant in its branches is each class's number, and is reckoned with: whether it "
                "says the class is not known",
                "let each branch fill in its label (ConstantOfShape, Expand), or export scores as they "
                "are, and choose detections outside the graph",
            )


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
        shape = view.scope.exact(view.node.input[i]).shape
        rank = len(shape) if shape is not None else 1
        extent = shape[view.attrs.get("axis", 0) % rank] if shape is not None else None
        static &= extent is not None
        cls = mark.cls if isinstance(mark, Whole) else NONE
        ids.append(np.full(1 if extent is None else extent, cls))
    if not static:
        ids = [i[:1] for i in ids]
    return np.concatenate(ids), static


# ------------------------------------------------------------- constants that differ by class


@dataclass(frozen=True)
class LabelConstant:
    """A constant that in every branch is its class's column plus ``offset``; edits renumber it."""

    offset: float
    places: frozenset[tuple[ed.Place, int | str]]
    edits: tuple[ed.Edit, ...]


def label_constants(view: View, branches: dict[int, str]) -> list[LabelConstant]:
    """Walk the branches side by side: what differs from one to the next is the class."""
    classes = list(branches)
    if len(classes) < 2:
        return []
    found: list[LabelConstant] = []
    todo = [tuple((view.scope, n) for n in branches.values())]
    seen: set[tuple[tuple[ed.Place, str], ...]] = set()
    while todo:
        values = todo.pop()
        key = tuple((s.place, n) for s, n in values)
        if key in seen or len(set(key)) == 1:
            continue
        seen.add(key)
        makers = [s.home(n) for s, n in values]
        homes = [m for m in makers if m is not None]
        nodes = [s.graph.node[i] for s, i in homes]
        if len(nodes) != len(values):
            continue
        if len({(n.op_type, len(n.input)) for n in nodes}) != 1:
            found += _of_unlike(view, classes, homes)
            continue  # no more can be told by comparing branches of different build
        places = [(*s.place, i) for s, i in homes]
        if nodes[0].op_type == "ConstantOfShape":
            found += _renumbered(view, classes, [_attribute(view, n) for n in nodes],
                                 [(p, "value") for p in places])  # fmt: skip
        if nodes[0].op_type == "If":
            at = list(nodes[0].output).index(values[0][1])
            for k in range(2):
                bodies = [s.children[i, k] for s, i in homes]
                todo.append(tuple((b, b.graph.output[at].name) for b in bodies))
        entry = any(isinstance(homes[0][0].mark(n), Labels) for n in nodes[0].input)
        for k in range(len(nodes[0].input)):
            inputs = tuple((s, n.input[k]) for (s, _), n in zip(homes, nodes, strict=True))
            if entry or not all(n for _, n in inputs):
                continue
            if all(is_fixed(s, n) for s, n in inputs):
                stored = [s.old(n).value for s, n in inputs]
                found += _renumbered(view, classes, stored, [(p, k) for p in places])
            else:
                todo.append(inputs)
    return found


def _of_unlike(
    view: View, classes: list[int], homes: Sequence[tuple[Scope, int]]
) -> list[LabelConstant]:
    """Branches of which some add their number to zeros, and others are made with it.

    Optimisers leave out a ``+ 0`` that they find in one branch.
    """
    values: list[Array | None] = []
    places: list[tuple[ed.Place, int | str]] = []
    for scope, i in homes:
        node, slot = scope.graph.node[i], _added_to_zeros(view, scope, i)
        if node.op_type == "ConstantOfShape" and len(scope.index.consumers[node.output[0]]) == 1:
            values.append(_attribute(view, node))
        elif slot is not None:
            values.append(scope.old(node.input[slot]).value)
        else:
            return []
        places.append(((*scope.place, i), "value" if slot is None else slot))
    return _renumbered(view, classes, values, places)


def _added_to_zeros(view: View, scope: Scope, i: int) -> int | None:
    """Which input of an Add is added to zeros of a shape that is computed, if it is such an Add."""
    node = scope.graph.node[i]
    for k in (0, 1) if node.op_type == "Add" else ():
        maker = scope.node_of(node.input[1 - k])
        if maker is not None and maker.op_type == "ConstantOfShape" and _is_own(scope, node.input[k]):
            return k if not _attribute(view, maker).any() else None
    return None


def _attribute(view: View, node: onnx.NodeProto) -> Array:
    value = attributes(node).get("value")
    if value is None:
        return np.zeros(1, np.float32)
    return to_array(value, view.trace.interpreter.folder)


def _renumbered(
    view: View,
    classes: list[int],
    values: Sequence[Array | None],
    places: Sequence[tuple[ed.Place, int | str]],
) -> list[LabelConstant]:
    """A `LabelConstant`, where uniform constants differ by class and by nothing else."""
    scalars = []
    for value in values:
        if value is None or value.size == 0 or (value != value.flat[0]).any():
            return []
        scalars.append(float(value.flat[0]))
    offsets = {s - c for s, c in zip(scalars, classes, strict=True)}
    if len(offsets) != 1:
        return []  # a threshold of each class's own, say: it stays with its branch
    offset = offsets.pop()
    edits: list[ed.Edit] = []
    for cls, value, (place, where) in zip(classes, values, places, strict=True):
        if cls not in view.sel.column or value is None:
            continue
        wanted = np.full(value.shape, view.sel.column[cls] + offset, value.dtype)
        if np.array_equal(wanted, value):
            continue
        if isinstance(where, str):
            tensor = onnx.numpy_helper.from_array(wanted, where)
            edits.append(ed.SetAttribute(place, where, tensor))
        else:
            edits.append(ed.Replace(place, where, wanted))
    return [LabelConstant(offset, frozenset(places), tuple(edits))]


# ------------------------------------------------------- where such a constant stands in the rows

Origin = tuple[ed.Place, "int | str"]
"""The place of the constant that a column is filled with."""

ROW_OPS = frozenset(
    {"Gather", "GatherND", "Slice", "Compress", "Identity", "Cast", "Pad", "Reshape", "Unsqueeze",
     "Squeeze", "Expand", "Flatten", "Tile", "Where"}
)  # fmt: skip
"""Ops that choose, pad or regroup rows and leave columns where they are (given equal widths)."""


def pattern(scope: Scope, name: str, depth: int = 0) -> tuple[Origin | None, ...] | None:
    """For each column of the last axis, the place of the constant it is filled with.

    One entry stands for the whole tensor where all of it is filled with one constant. None where
    nothing can be said.
    """
    maker = scope.home(name)
    if maker is None or depth > 64:
        return None
    scope, at = maker
    node, place = scope.graph.node[at], (*scope.place, at)
    if node.op_type == "If":
        j = list(node.output).index(name)
        bodies = [scope.children[at, k] for k in range(2)]
        inner = [pattern(b, b.graph.output[j].name, depth + 1) for b in bodies]
        # a body that fills with zeros where nothing was found says nothing of the numbers
        return max(inner, key=lambda p: 0 if p is None else len(p))
    if node.op_type == "ConstantOfShape":
        return ((place, "value"),)
    width = _width(scope, name)
    if node.op_type == "Concat":
        rank = len(scope.old(name).shape or ())
        if rank and attributes(node)["axis"] % rank == rank - 1 and rank > 1:
            return _beside(scope, node, depth)
        return pattern(scope, node.input[0], depth + 1)
    operands = _operands(scope, node)
    if len(operands) > 1 and not all(is_filled(scope, node.input[k]) for k in set(operands)):
        return None  # what is found in the picture is added to it, or stands among it
    for k in operands:
        if _is_own(scope, node.input[k]):
            return ((place, k),)
        found = pattern(scope, node.input[k], depth + 1)
        if found is not None and len(found) in {1, width}:
            return found
    return None


def _operands(scope: Scope, node: onnx.NodeProto) -> list[int]:
    """Inputs of ``node`` that its values can come from."""
    if node.op_type in {"Add", "Sub", "Max"}:
        return [k for k in (1, 0) if _is_own(scope, node.input[k])] + [0, 1]
    if node.op_type == "Where":
        return [1, 2]
    return [0] if node.op_type in ROW_OPS else []


def is_filled(scope: Scope, name: str, depth: int = 0) -> bool:
    """Whether all values of a tensor are stored numbers, whatever the picture; its size may follow."""
    if is_fixed(scope, name):
        return True
    maker = scope.home(name)
    if maker is None or depth > 64:
        return False
    scope, at = maker
    node = scope.graph.node[at]
    if node.op_type == "ConstantOfShape":
        return True
    if node.op_type == "If":
        j = list(node.output).index(name)
        bodies = [scope.children[at, k] for k in range(2)]
        return all(is_filled(b, b.graph.output[j].name, depth + 1) for b in bodies)
    if node.op_type == "Where":
        read = list(node.input[1:])
    elif node.op_type in ROW_OPS:
        read = [node.input[0], *(node.input[2:3] if node.op_type == "Pad" else ())]
    elif node.op_type in {*UNARY, *BROADCASTING, "Concat"}:
        read = list(node.input)
    else:
        return False
    return all(is_filled(scope, n, depth + 1) for n in read if n)


def _is_own(scope: Scope, name: str) -> bool:
    value = scope.old(name).value
    return (
        value is not None
        and is_fixed(scope, name)
        and value.size > 0
        and bool((value == value.flat[0]).all())
    )


def _width(scope: Scope, name: str) -> int | None:
    shape = scope.old(name).shape
    return shape[-1] if shape else None


def _beside(scope: Scope, node: onnx.NodeProto, depth: int) -> tuple[Origin | None, ...] | None:
    """Columns of a Concat on the last axis."""
    columns: list[Origin | None] = []
    for name in node.input:
        width = _width(scope, name)
        inner = pattern(scope, name, depth + 1)
        if inner is not None and len(inner) > 1:
            columns += inner
        elif width is not None:
            columns += [inner[0] if inner else None] * width
        else:
            return None
    return tuple(columns)


def _columns(
    view: View,
    patterns: dict[int, tuple[Origin | None, ...] | None],
    numbers: list[LabelConstant],
    ids: Ints,
    *,
    line: bool,
) -> tuple[Mark | None, ...] | None:
    """Marks of the joined tensor's columns: a `Lookup` where all branches fill in their number."""
    found = list(patterns.values())
    first = found[0]
    if first is None or any(p is None or len(p) != len(first) for p in found):
        return None
    marks: list[Mark | None] = []
    for k in range(len(first)):
        places = {p[k] for p in found if p is not None}
        constant = next((n for n in numbers if places <= n.places), None)
        marks.append(Rows() if constant is None else _numbers(view, constant, ids, line=line))
    if all(isinstance(m, Rows) for m in marks):
        return None
    return tuple(marks)


def _numbers(view: View, constant: LabelConstant, ids: Ints, *, line: bool) -> Lookup:
    kept = ids[ids != NONE]
    take = view.take(kept)
    old = (kept + constant.offset).astype(np.int64 if constant.offset.is_integer() else np.float64)
    new = np.array([view.sel.column[int(c)] for c in kept[take]]) + constant.offset
    direct = line and len(kept) == len(ids)
    return Lookup(kept, take, old, (Option(new.astype(old.dtype)),), view.node.output[0], direct)
