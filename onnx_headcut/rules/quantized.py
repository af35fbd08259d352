"""Quantized and fused ops: the rules of the plain ops, and the parameters beside the weights.

A node such as QLinearAdd or FusedConv is shown to the rules as the plain op that it computes
(`plain.py`), over its data inputs only; what a rule selects or replaces is carried over to the
node's own inputs. Scales and zero points of a whole tensor stay what they are, so stored integers
and the integers at outputs are exactly the original's. Scales and zero points with an element for
each output channel are sliced with the weights of their head.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from onnx_headcut.editing import edits as ed
from onnx_headcut.errors import GraphRefused
from onnx_headcut.graph.plain import plain
from onnx_headcut.labels import Columns, Labels, Lookup, Rows
from onnx_headcut.rules import heads, rounding
from onnx_headcut.rules.deciding import BEFORE_QUANTIZING
from onnx_headcut.tracing.view import GENERIC_ADVICE, Outcome, View

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx_headcut.graph.facts import Array
    from onnx_headcut.graph.plain import Plain
    from onnx_headcut.labels import Ints


class PlainView(View):
    """A node as the plain op that it computes; edits go to the node's own inputs."""

    def __init__(self, view: View, form: Plain) -> None:
        super().__init__(view.trace, view.scope, view.place[-1])
        self.form, self.real = form, view
        self.node, self.op = form.node, form.node.op_type
        self.marks = [view.marks[s] for s in form.slots]
        self.old = [view.old[s] for s in form.slots]
        self.new = [view.new[s] for s in form.slots]
        self.opset = view.trace.interpreter.opsets[""]

    def refuse(
        self, what: str, advice: str = GENERIC_ADVICE, kind: type[GraphRefused] = GraphRefused
    ) -> NoReturn:
        """Refuse in the name of the node itself."""
        self.real.refuse(what, advice, kind)

    def replace(self, i: int, value: Array) -> ed.Edit:
        """Give a constant input another value."""
        return self.real.replace(self.form.slots[i], value)

    def select(self, i: int, axis: int, take: Ints) -> list[ed.Edit]:
        """Edits that leave ``take`` of ``axis`` of an unlabelled input."""
        return self.real.select(self.form.slots[i], axis, take)

    def patch(self, i: int, wanted: Array) -> list[ed.Edit]:
        """Edits that make the integer input ``i`` come out as ``wanted``."""
        return self.real.patch(self.form.slots[i], wanted)

    def own(self, outcome: Outcome) -> Outcome:
        """Renumber the inputs of a rule's edits as the node itself numbers them."""
        first, step = self.form.form.data[0], self.form.form.step
        edits = [
            replace(e, keep=(*range(first), *(first + k * step + j for k in e.keep
                                              for j in range(step))))
            if isinstance(e, ed.KeepInputs) else e
            for e in outcome.edits
        ]  # fmt: skip
        rest = [None] * (len(self.real.node.output) - len(outcome.marks))
        return Outcome([*outcome.marks, *rest], edits)


def shown(view: View) -> View:
    """Show the node as its plain op, where it has one, for rules about classes along an axis."""
    form = plain(view.node)
    if form is None or all(m is None or isinstance(m, Rows) for m in view.marks):
        return view
    numbers = any(isinstance(m, Lookup | Columns) for m in view.marks)
    if numbers and form.node.op_type not in {"Identity", *rounding.OPS}:
        view.refuse("class numbers reach it, which a quantized or fused op would round",
                    BEFORE_QUANTIZING)  # fmt: skip
    beside = [m for k, m in enumerate(view.marks) if k not in form.slots]
    if any(m is not None for m in beside):
        view.refuse("a scale, a zero point or a further operand of it depends on classes")
    return PlainView(view, form)


def cut_head(view: View, labels: Labels) -> Outcome:
    """Slice the weights, bias, scales and zero points of a head to the kept channels."""
    form = plain(view.node)
    if form is None:
        return heads.cut_head(view, labels)
    if view.op == "MatMulNBits":
        return n_bits(view, labels)
    if view.op == "MatMulBnb4":
        return bnb4(view, labels)
    result = heads.cut_head(PlainView(view, form), labels, form.swapped)
    edits = list(result.edits)
    take = view.take(labels.ids)
    left = form.node.op_type == "MatMul" and labels.axis != len(_shape(view)) - 1
    for slot in form.form.per_row if left else form.form.per_channel:
        if slot >= len(view.node.input) or not view.node.input[slot]:
            continue
        shape = view.shape(slot)
        if int(np.prod(shape)) != 1:
            at = len(shape) - 2 if left and len(shape) > 1 else len(shape) - 1
            edits += view.select(slot, at, take)
    edits += _added(view, labels, take)
    return Outcome([labels], edits)


def _shape(view: View) -> tuple[int | None, ...]:
    return view.scope.old(view.node.output[0]).shape or ()


def _added(view: View, labels: Labels, take: Ints) -> list[ed.Edit]:
    """FusedConv's fourth input, which it adds to its result before the activation."""
    if view.op not in {"FusedConv", "NhwcFusedConv"} or len(view.node.input) < 4:
        return []
    if view.marks[3] is not None:
        view.refuse("it adds other class scores to its own")
    return view.select(3, labels.axis, take) if view.node.input[3] else []


def n_bits(view: View, labels: Labels) -> Outcome:
    """MatMulNBits: rows of packed weights, their blocks' scales and zero points, and ``N``."""
    take = view.take(labels.ids)
    edits = [*view.select(1, 0, take), view.set("N", len(take))]
    for slot in (2, 3, 5):
        if slot >= len(view.node.input) or not view.node.input[slot]:
            continue
        shape = view.shape(slot)
        each = int(shape[0]) // len(labels.ids) if len(shape) == 1 else 1
        rows: Ints = (take[:, None] * each + np.arange(each)).ravel()
        edits += view.select(slot, 0, rows)
    return Outcome([labels], edits)


def bnb4(view: View, labels: Labels) -> Outcome:
    """MatMulBnb4: rows and their blocks' largest values laid flat, without zero points."""
    across, size = view.attrs["K"], view.attrs["block_size"]
    if across % size or across % 2 or not view.attrs.get("transB", 1):
        view.refuse(
            f"its blocks of {size} weights lie across classes, which have {across} each",
            "quantize it with a block size that divides them, or to MatMulNBits",
        )
    take = view.take(labels.ids)
    edits = [view.set("N", len(take))]
    for slot in (1, 2):
        each = int(view.shape(slot)[0]) // len(labels.ids)
        rows: Ints = (take[:, None] * each + np.arange(each)).ravel()
        edits += view.select(slot, 0, rows)
    return Outcome([labels], edits)


__all__: Sequence[str] = ["PlainView", "bnb4", "cut_head", "n_bits", "shown"]
