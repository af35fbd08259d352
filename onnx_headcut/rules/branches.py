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

from onnx_headcut.editing import edits as ed
from onnx_headcut.graph.scope import is_fixed
from onnx_headcut.labels import NONE, Columns, Labels, Lookup, Option, Rows, Whole
from onnx_headcut.rules.deciding import BEFORE_QUANTIZING
from onnx_headcut.rules.filled import fill_value, filling, is_uniform, sees_no_picture
from onnx_headcut.tracing.view import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx_headcut.graph.facts import Array
    from onnx_headcut.graph.scope import Scope
    from onnx_headcut.labels import Ints, Mark
    from onnx_headcut.rules.filled import Filled, Filling, Origin
    from onnx_headcut.tracing.view import View


FILL = f"let each branch fill in its label (ConstantOfShape, Expand), and {BEFORE_QUANTIZING}"

NEARLY = 1e-3
"""How far from its class's number a label may be that is stored as steps of a scale."""


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
    fillings = {c: filling(view, n) for c, n in branches.items()}
    _refuse_unknown(view, branches, fillings)
    labels = _labels(view, fillings, numbers)
    _refuse_others(view, numbers, labels)
    made = {e.key: e for found in [*numbers, *labels] if found is not None for e in found.edits}
    edits += made.values()
    ids, static = ids_of(view)
    columns = _columns(view, labels, ids, line=static and view.rank(0) == 1)
    axis = view.attrs.get("axis", 0) % view.rank(0)
    if columns is not None:
        if len(columns) == 1:
            return Outcome([columns[0]], edits)
        return Outcome([Columns(view.rank(0) - 1, columns)], edits)
    return Outcome([Labels(axis, ids) if static else Rows()], edits)


def _refuse_others(
    view: View, numbers: list[LabelConstant], labels: list[LabelConstant | None]
) -> None:
    """Refuse constants that differ as class numbers do, and are no label that is filled in."""
    known = {origin for label in labels if label is not None for origin in label.places}
    for number in numbers:
        if number.edits and known.isdisjoint(number.places):
            view.refuse(
                "a constant in its branches is each class's number, and is reckoned with: whether it "
                "says the class is not known",
                "let each branch fill in its label (ConstantOfShape, Expand), or export scores as they "
                "are, and choose detections outside the graph",
            )


def _refuse_unknown(view: View, branches: dict[int, str], fillings: dict[int, Filling | None]) -> None:
    """Refuse numbers in which there is nothing of the picture, and which are not known."""
    for cls, name in branches.items():
        if fillings[cls] is None and sees_no_picture(view.scope, name):
            view.refuse(
                f"the branch of class {cls} gives numbers of its own in {name!r}, which may be its "
                "label, and are reckoned in a way that is not known",
                FILL,
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
    """A number that in every branch is its class's column plus ``offset``; edits renumber it.

    It is stored at ``places``, or reckoned from what is stored there.
    """

    offset: float
    places: frozenset[Origin]
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
            found += _renumbered(view, classes, [fill_value(view, n) for n in nodes],
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
    places: list[Origin] = []
    for scope, i in homes:
        node, slot = scope.graph.node[i], _added_to_zeros(view, scope, i)
        if node.op_type == "ConstantOfShape" and len(scope.index.consumers[node.output[0]]) == 1:
            values.append(fill_value(view, node))
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
        if maker is None or maker.op_type != "ConstantOfShape":
            continue
        if is_uniform(scope, node.input[k]):
            return k if not fill_value(view, maker).any() else None
    return None


def _renumbered(
    view: View,
    classes: list[int],
    values: Sequence[Array | None],
    places: Sequence[Origin],
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
        edits.append(_stored_as(place, where, wanted))
    return [LabelConstant(offset, frozenset(places), tuple(edits))]


# ------------------------------------------------------- labels that are reckoned in each branch


def _labels(
    view: View, fillings: dict[int, Filling | None], numbers: list[LabelConstant]
) -> list[LabelConstant | None]:
    """For each column of the branches' rows its label, where all branches fill in their number."""
    found = list(fillings.values())
    first = found[0]
    if first is None or len(found) < 2:
        return []
    rows = {c: f for c, f in fillings.items() if f is not None and len(f) == len(first)}
    if len(rows) != len(found):
        return []
    return [_label(view, {c: f[k] for c, f in rows.items()}, numbers) for k in range(len(first))]


def _label(
    view: View, column: dict[int, Filled | None], numbers: list[LabelConstant]
) -> LabelConstant | None:
    filled = {c: f for c, f in column.items() if f is not None}
    offsets = {f.value - c for c, f in filled.items()}
    exact = [f.exact - c for c, f in filled.items()]
    if len(filled) == len(column) and len(offsets) > 1 and max(exact) - min(exact) < NEARLY:
        said = ", ".join(f"{f.value:.4g} for class {c}" for c, f in [*filled.items()][:3])
        view.refuse(f"the labels of its branches are rounded to steps ({said})", BEFORE_QUANTIZING)
    if len(filled) != len(column) or len(offsets) != 1:
        return None  # a number of each class's own, say: it stays with its branch
    offset, places = offsets.pop(), frozenset(o for f in filled.values() for o in f.places)
    for number in numbers:
        if places & number.places and _says(view, filled, number.edits, offset):
            return LabelConstant(offset, places, number.edits)
    edits = _exchanged(view, filled)
    if not _says(view, filled, edits, offset):
        edits = _replaced(view, filled)
    if not _says(view, filled, edits, offset):
        view.refuse("the labels of its branches are reckoned in a way that cannot be renumbered", FILL)
    return LabelConstant(offset, places, edits)


def _says(view: View, filled: dict[int, Filled], edits: Sequence[ed.Edit], offset: float) -> bool:
    """Whether with ``edits`` each kept class's branch is filled with its new number."""
    changed: dict[Origin, Array] = {}
    for edit in edits:
        if isinstance(edit, ed.Replace):
            changed[edit.place, edit.input] = edit.value
        elif isinstance(edit, ed.SetAttribute):
            changed[edit.place, edit.name] = onnx.numpy_helper.to_array(edit.value)
    kept = {c: f for c, f in filled.items() if c in view.sel.column}
    return all(f.again(changed) == view.sel.column[c] + offset for c, f in kept.items())


def _exchanged(view: View, filled: dict[int, Filled]) -> tuple[ed.Edit, ...]:
    """Each kept class's branch takes the constants of that which had its new number before."""
    edits: list[ed.Edit] = []
    for cls in (c for c in filled if c in view.sel.column):
        donor = filled.get(view.sel.column[cls])
        if donor is None or len(donor.places) != len(filled[cls].places):
            continue
        for (place, where), old, new in zip(
            filled[cls].places, filled[cls].stored, donor.stored, strict=True
        ):
            if old.flat[0] != new.flat[0]:
                edits.append(_stored_as(place, where, np.full(old.shape, new.flat[0], old.dtype)))
    return tuple(edits)


def _replaced(view: View, filled: dict[int, Filled]) -> tuple[ed.Edit, ...]:
    """In each branch the constant that is its number, where nothing else is made of it.

    Optimisers leave out the factor 1 of one branch, which then has no place for another's constants.
    """
    edits: list[ed.Edit] = []
    for cls, found in filled.items():
        wanted = found.value - cls + view.sel.column.get(cls, cls)
        for origin, stored in zip(found.places, found.stored, strict=True):
            sign = float(stored.flat[0]) / found.value if found.value else 1.0
            value = np.full(stored.shape, sign * wanted, stored.dtype)
            if wanted == found.value or abs(sign) != 1 or not _leads_there_only(view, found, origin):
                continue
            if found.again({origin: value}) == wanted:
                edits.append(_stored_as(*origin, value))
                break
    return tuple(edits)


def _leads_there_only(view: View, found: Filled, origin: Origin) -> bool:
    """Whether the node with this constant makes nothing but what is filled in."""
    place, scope = origin[0], view.scope
    while scope.parent is not None:
        scope = scope.parent
    for k in range(0, len(place) - 1, 2):
        scope = scope.children[place[k], place[k + 1]]
    name = scope.graph.node[place[-1]].output[0]
    while found.reckoned is None or name != found.reckoned[1]:
        readers = scope.index.consumers.get(name, ())
        if len(readers) != 1 or name in scope.index.outputs:
            return False
        if found.reckoned is None:
            return True
        name = scope.graph.node[readers[0]].output[0]
    return True


def _stored_as(place: ed.Place, where: int | str, value: Array) -> ed.Edit:
    if isinstance(where, str):
        return ed.SetAttribute(place, where, onnx.numpy_helper.from_array(value, where))
    return ed.Replace(place, where, value)


def _columns(
    view: View, labels: list[LabelConstant | None], ids: Ints, *, line: bool
) -> tuple[Mark | None, ...] | None:
    """Marks of the joined tensor's columns: a `Lookup` where all branches fill in their number."""
    if all(label is None for label in labels):
        return None
    return tuple(Rows() if n is None else _numbers(view, n, ids, line=line) for n in labels)


def _numbers(view: View, constant: LabelConstant, ids: Ints, *, line: bool) -> Lookup:
    kept = ids[ids != NONE]
    take = view.take(kept)
    old = (kept + constant.offset).astype(np.int64 if constant.offset.is_integer() else np.float64)
    new = np.array([view.sel.column[int(c)] for c in kept[take]]) + constant.offset
    direct = line and len(kept) == len(ids)
    return Lookup(kept, take, old, (Option(new.astype(old.dtype)),), view.node.output[0], direct)
