"""What fills the columns of a branch's rows: one number, stored or reckoned from what is stored.

A label is written in many ways: ConstantOfShape, Expand, ``zeros + k``, ``ones * k``, ``-(0 - k)``.
None is recognised: the ops are run on the one number that all elements have, whatever the picture.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import onnx

from onnx_headcut.graph.facts import attributes
from onnx_headcut.graph.model import has_bodies
from onnx_headcut.graph.ops import BROADCASTING, UNARY
from onnx_headcut.graph.scope import is_fixed
from onnx_headcut.rules import rounding
from onnx_headcut.storage.tensors import to_array

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnx_headcut.editing import edits as ed
    from onnx_headcut.graph.facts import Array
    from onnx_headcut.graph.scope import Scope
    from onnx_headcut.tracing.view import View

    Origin = tuple[ed.Place, int | str]
    """The place of a constant: a node's input, or its attribute."""

DEEPEST = 64

ROW_OPS = frozenset(
    {"Gather", "GatherND", "Slice", "Compress", "Identity", "Cast", "CastLike", "Pad", "Reshape",
     "Unsqueeze", "Squeeze", "Expand", "Flatten", "Tile", "Where"}
)  # fmt: skip
"""Ops that choose, pad or regroup rows and leave columns where they are (given equal widths)."""

ARITHMETIC = frozenset({*UNARY, *BROADCASTING, *rounding.OPS}) - ROW_OPS

RUNNING = frozenset({"CumSum", "NonZero", "Range"})
"""Ops that give every row a number of its own, and so no label."""

OF_SHAPES = frozenset({"ConstantOfShape", "Shape", "Size"})
"""Ops of whose inputs no value is seen."""


@dataclass(frozen=True)
class Number:
    """The one number that all elements of a tensor have, and the constants it was made from."""

    value: Array
    places: tuple[Origin, ...]
    stored: tuple[Array, ...]
    exact: Array
    """The value without the rounding of quantizers."""


@dataclass(frozen=True)
class Filled:
    """A column of which every row is ``value``, or padding; made from constants at ``places``.

    ``reckoned`` is the tensor (scope and name) that is computed from them, where they are not what
    is filled in. ``exact`` is the value without the ``steps`` of quantizers, those that its table
    goes through and others.
    """

    view: View
    value: float
    places: tuple[Origin, ...]
    stored: tuple[Array, ...]
    reckoned: tuple[Scope, str] | None = None
    exact: float = 0.0
    steps: tuple[Step, ...] = ()

    def again(self, changed: Mapping[Origin, Array]) -> float | None:
        """Its value with other constants at some places."""
        if self.reckoned is None:
            value = changed.get(self.places[0], self.stored[0]).flat[0]
        else:
            found = number(self.view, *self.reckoned, changed)
            if found is None:
                return None
            value = found.value
        return _rounded(float(value), self.steps)

    def stepped(self, step: Step) -> Filled:
        """The same behind one more quantizer."""
        exact = float(rounding.unrounded(step[0], np.asarray(self.exact), *step[1]))
        return replace(self, value=_rounded(self.value, (step,)), exact=exact,
                       steps=(*self.steps, step))  # fmt: skip


Step = tuple[str, tuple["Array", ...]]
"""A quantizer: the op, its scale and, where it has one, its zero point."""

Filling = tuple[Filled | None, ...]
"""Of each column of the last axis; one entry stands for the whole tensor where all is alike."""


def filling(view: View, name: str) -> Filling | None:
    """What the columns of a tensor are filled with; None where nothing can be said."""
    return _filling(view, view.scope, name, 0)


def _filling(view: View, scope: Scope, name: str, depth: int) -> Filling | None:
    maker = scope.home(name)
    if maker is None or depth > DEEPEST:
        return None
    scope, at = maker
    node, place = scope.graph.node[at], (*scope.place, at)
    if node.op_type == "If":
        j = list(node.output).index(name)
        bodies = [scope.children[at, k] for k in range(2)]
        inner = [_filling(view, b, b.graph.output[j].name, depth + 1) for b in bodies]
        # a body that fills with zeros where nothing was found says nothing of the numbers
        return max(inner, key=lambda p: 0 if p is None else len(p))
    if node.op_type == "ConstantOfShape":
        return (_stored(view, (place, "value"), fill_value(view, node)),)
    if node.op_type in rounding.OPS:
        data = scope.old(node.input[0]).value
        inside = _filling(view, scope, node.input[0], depth + 1)
        if data is not None and is_uniform(scope, node.input[0]):
            inside = (_stored(view, (place, 0), data),)
        known = [scope.old(n).value for n in node.input[1:] if n]
        step = (node.op_type, tuple(v for v in known if v is not None and v.size == 1))
        if inside is None or not step[1] or len(step[1]) < len(known):
            return None
        return tuple(f and f.stepped(step) for f in inside)
    if node.op_type in ARITHMETIC:
        found = number(view, scope, name, {}, depth)
        if found is None:
            return None
        return (Filled(view, float(found.value), found.places, found.stored, (scope, name),
                       float(found.exact)),)  # fmt: skip
    if node.op_type == "Concat":
        rank = len(scope.old(name).shape or ())
        if rank and attributes(node)["axis"] % rank == rank - 1 and rank > 1:
            return _beside(view, scope, node, place, depth)
        return _filling(view, scope, node.input[0], depth + 1)
    return _through(view, scope, node, place, depth)


def _through(
    view: View, scope: Scope, node: onnx.NodeProto, place: ed.Place, depth: int
) -> Filling | None:
    """What an op leaves in its columns that only chooses, pads or regroups rows."""
    operands = [1, 2] if node.op_type == "Where" else [0] if node.op_type in ROW_OPS else []
    if len(operands) > 1 and not all(is_filled(scope, node.input[k]) for k in operands):
        return None  # what is found in the picture stands among it
    for k in operands:
        value = scope.old(node.input[k]).value
        if value is not None and is_uniform(scope, node.input[k]):
            return (_stored(view, (place, k), value),)
        inside = _filling(view, scope, node.input[k], depth + 1)
        if inside is not None and len(inside) in {1, _width(scope, node.output[0])}:
            return inside
    return None


def _stored(view: View, origin: Origin, value: Array) -> Filled:
    number = float(value.flat[0])
    return Filled(view, number, (origin,), (value,), exact=number)


def _rounded(value: float, steps: tuple[Step, ...]) -> float:
    """A number behind quantizers."""
    for op, (scale, *zero) in steps:
        value = float(rounding.stepped(op, np.asarray(value), scale, *zero))
    return value


def _beside(
    view: View, scope: Scope, node: onnx.NodeProto, place: ed.Place, depth: int
) -> Filling | None:
    """Columns of a Concat on the last axis."""
    columns: list[Filled | None] = []
    for k, name in enumerate(node.input):
        width, value = _width(scope, name), scope.old(name).value
        inner = _filling(view, scope, name, depth + 1)
        if inner is None and value is not None and is_uniform(scope, name):
            inner = (_stored(view, (place, k), value),)
        if inner is not None and len(inner) > 1:
            columns += inner
        elif width is not None:
            columns += [inner[0] if inner else None] * width
        else:
            return None
    return tuple(columns)


def number(
    view: View, scope: Scope, name: str, changed: Mapping[Origin, Array], depth: int = 0
) -> Number | None:
    """The one number of a tensor that no picture changes, with other constants at some places."""
    return _number(view, scope, name, changed, depth, {})


def _number(
    view: View, scope: Scope, name: str, changed: Mapping[Origin, Array], depth: int,
    reckoned: dict[tuple[ed.Place, str], Number | None],
) -> Number | None:  # fmt: skip
    maker = scope.home(name)
    if maker is None or depth > DEEPEST:
        return None
    scope, at = maker
    node, place = scope.graph.node[at], (*scope.place, at)

    def stored(where: int | str, value: Array) -> Number:
        origin = (place, where)
        now = np.asarray(changed.get(origin, value).flat[0])
        return Number(now, (origin,), (value,), now)

    def operand(k: int) -> Number | None:
        value = scope.old(node.input[k]).value
        if value is not None and is_uniform(scope, node.input[k]):
            return stored(k, value)
        key = scope.place, node.input[k]
        if key not in reckoned:
            reckoned[key] = _number(view, scope, node.input[k], changed, depth + 1, reckoned)
        return reckoned[key]

    if node.op_type == "ConstantOfShape":
        return stored("value", fill_value(view, node))
    if node.op_type in ROW_OPS - {"Cast", "Pad", "Where"}:
        return operand(0)
    if node.op_type not in {"Cast", *ARITHMETIC}:
        return None
    dtype = onnx.helper.tensor_dtype_to_np_dtype(scope.old(name).elem_type or onnx.TensorProto.FLOAT)
    parts = [operand(k) if n else None for k, n in enumerate(node.input)]
    nothing = node.op_type == "Sub" and node.input[0] == node.input[1]
    if nothing or (node.op_type == "Mul" and any(p is not None and p.value == 0 for p in parts)):
        zero = next((p for p in parts if p is not None and p.value == 0), None)
        nil = np.zeros((), dtype)
        return Number(nil, zero.places if zero else (), zero.stored if zero else (), nil)
    known = [p for p in parts if p is not None]
    if len(known) < sum(1 for n in node.input if n):
        return None
    if node.op_type in rounding.OPS:
        made = rounding.stepped(node.op_type, *(p.value for p in known))
        exact = rounding.unrounded(node.op_type, known[0].exact, *(p.value for p in known[1:]))
    else:
        made, exact = (
            np.asarray(view.trace.interpreter.run(node, values)[0])
            for values in ([None if p is None else p.value for p in parts],
                           [None if p is None else p.exact for p in parts])
        )  # fmt: skip
    origins = {o: v for p in known for o, v in zip(p.places, p.stored, strict=True)}
    return Number(made, tuple(origins), tuple(origins.values()), exact)


Seen = set[tuple["ed.Place", str]]


def is_filled(scope: Scope, name: str, depth: int = 0, seen: Seen | None = None) -> bool:
    """Whether all values of a tensor are stored numbers, whatever the picture; its size may follow."""
    seen = set() if seen is None else seen
    if is_fixed(scope, name) or (scope.place, name) in seen:
        return True
    seen.add((scope.place, name))
    maker = scope.home(name)
    if maker is None or depth > DEEPEST:
        return False
    scope, at = maker
    node = scope.graph.node[at]
    if node.op_type == "ConstantOfShape":
        return True
    if node.op_type == "If":
        j = list(node.output).index(name)
        bodies = [scope.children[at, k] for k in range(2)]
        return all(is_filled(b, b.graph.output[j].name, depth + 1, seen) for b in bodies)
    if node.op_type == "Where":
        read = list(node.input[1:])
    elif node.op_type in ROW_OPS:
        read = [node.input[0], *(node.input[2:3] if node.op_type == "Pad" else ())]
    elif node.op_type in {*ARITHMETIC, "Concat"}:
        read = list(node.input)
    else:
        return False
    return all(is_filled(scope, n, depth + 1, seen) for n in read if n)


def sees_no_picture(scope: Scope, name: str, depth: int = 0, seen: Seen | None = None) -> bool:
    """Whether no value of the picture is in a tensor, by whatever ops; its size may follow."""
    seen = set() if seen is None else seen
    if is_fixed(scope, name) or (scope.place, name) in seen:
        return True
    seen.add((scope.place, name))
    maker = scope.home(name)
    if maker is None or depth > DEEPEST:
        return False
    scope, at = maker
    node = scope.graph.node[at]
    if has_bodies(node) or node.op_type in RUNNING:
        return False
    return node.op_type in OF_SHAPES or all(
        sees_no_picture(scope, n, depth + 1, seen) for n in node.input if n
    )


def is_uniform(scope: Scope, name: str) -> bool:
    """Whether a tensor is stored, and all its elements are one number."""
    value = scope.old(name).value
    return (
        value is not None
        and is_fixed(scope, name)
        and value.size > 0
        and bool((value == value.flat[0]).all())
    )


def fill_value(view: View, node: onnx.NodeProto) -> Array:
    """What a ConstantOfShape fills in, as ``[1]``."""
    value = attributes(node).get("value")
    if value is None:
        return np.zeros(1, np.float32)
    return to_array(value, view.trace.interpreter.folder)


def _width(scope: Scope, name: str) -> int | None:
    shape = scope.old(name).shape
    return shape[-1] if shape else None
