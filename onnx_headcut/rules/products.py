"""Products of computed tensors, Einsum and MatMul: each class by itself where its axis is left.

Masks weighed by each query's class probabilities (Mask2Former's and MaskFormer's semantic maps) are
the case in point: ``bqc,bqhw->bchw``. Where the classes are summed up, they mix, as in a layer.
https://onnx.ai/onnx/operators/onnx__Einsum.html, https://onnx.ai/onnx/operators/onnx__MatMul.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx_headcut.graph.scope import is_fixed
from onnx_headcut.labels import Labels
from onnx_headcut.rules.elementwise import merge, same_for_all, shorten
from onnx_headcut.tracing.view import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from onnx_headcut.labels import Ints
    from onnx_headcut.tracing.view import View

BATCH = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""Letters of the axes that MatMul repeats itself over."""


def product(view: View) -> Outcome:
    """The axis that carries classes is one of the result: labels go there, operands follow them."""
    operands, result = letters(view)
    letter = ""
    ids: Ints | None = None
    for i in view.labelled():
        mark = view.labels(i)
        if operands[i].count(operands[i][mark.axis]) > 1 or letter not in {"", operands[i][mark.axis]}:
            view.refuse("classes meet one another in it, each with every other")
        letter = operands[i][mark.axis]
        ids = mark.ids if ids is None else merge(view, ids, mark.ids)
    for axes, other, name in zip(operands, view.marks, view.node.input, strict=True):
        if other is None or isinstance(other, Labels):
            continue
        if letter in axes or not same_for_all(view, name, other):
            view.refuse(f"its input {name!r} depends on classes in another way than the others")
    if ids is None or letter not in result:
        stored = any(is_fixed(view.scope, n) for n in view.node.input)
        view.refuse(
            "its weights mix the classes"
            if stored
            else "it sums over the classes, and what it gives would change with their number"
        )
    edits = [e for i, axes in enumerate(operands) if letter in axes and view.marks[i] is None
             for e in shorten(view, i, axes.index(letter), ids)]  # fmt: skip
    return Outcome([Labels(result.index(letter), ids)], edits)


def letters(view: View) -> tuple[list[str], str]:
    """One letter for each axis of each operand and of the result, equal where axes go together."""
    if view.op == "MatMul":
        ranks = view.rank(0), view.rank(1)
        around = BATCH[: max(max(ranks) - 2, 0)]
        left, right = (around[len(around) - max(r - 2, 0) :] for r in ranks)
        row, column = "i" if ranks[0] > 1 else "", "j" if ranks[1] > 1 else ""
        return [f"{left}{row}k", f"{right}k{column}"], f"{around}{row}{column}"
    equation = view.attrs["equation"].decode().replace(" ", "")
    if "." in equation:
        view.refuse("its equation leaves axes open, so which one carries the classes is not known")
    left, _, result = equation.partition("->")
    operands = left.split(",")
    if "->" not in equation:
        every = "".join(operands)
        result = "".join(sorted(c for c in set(every) if every.count(c) == 1))
    if [len(axes) for axes in operands] != [view.rank(i) for i in range(len(view.old))]:
        view.refuse("its equation does not fit its operands")
    return operands, result


RULES: dict[str, Callable[[View], Outcome]] = {"Einsum": product, "MatMul": product}
