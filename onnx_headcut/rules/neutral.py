"""Over all classes a class that is never found has to count for nothing, as one that is gone does.

A sum of probabilities does not change with a class whose probability is 0, nor a largest score with one
that is below all others. A sum of raw scores does, and a smallest one: the kept classes would come out
with other values than where the dropped ones are never found. What a score that is "never" has become
on its way from the head is reckoned here beside usual scores, one by one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnx_headcut.graph.ops import ACTIVATIONS, BROADCASTING, MOVING, UNARY
from onnx_headcut.labels import Labels, Whole
from onnx_headcut.rules.scores import shares_among

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx

    from onnx_headcut.graph.facts import Array
    from onnx_headcut.graph.scope import Scope
    from onnx_headcut.tracing.view import View

NEVER = -1e4
"""A score that no usual one is lower than."""

SCORES = np.concatenate([[NEVER], np.linspace(-20, 20, 41)]).astype(np.float32)
PROBABILITIES = np.concatenate([[0.0], np.linspace(0, 1, 41)]).astype(np.float32)
UNKNOWN = np.full_like(SCORES, np.nan)
"""The first is that of a class that is never found; what is not known is no number."""

NEAR = 1e-3

STEPS = 200
"""Ops that are followed back, one behind another."""

NOTHING: dict[str, Callable[[Array], bool]] = {
    **dict.fromkeys(
        ["ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum"],
        lambda x: bool(abs(x[0]) < NEAR),
    ),
    **dict.fromkeys(["ReduceMax", "ArgMax", "largest"], lambda x: bool(x[0] <= x.min() + NEAR)),
    **dict.fromkeys(["ReduceMin", "ArgMin", "smallest"], lambda x: bool(x[0] >= x.max() - NEAR)),
    "ReduceLogSumExp": lambda x: bool(x[0] < np.log(NEAR)),
    "ReduceProd": lambda x: bool(abs(x[0] - 1) < NEAR),
    "ReduceMean": lambda _: False,
}
"""When such a class counts for nothing, by what is made of all classes."""

ONE_BY_ONE = frozenset({"ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum",
                        "ReduceProd", "ReduceLogSumExp"})  # fmt: skip
"""Those for which only the value of such a class matters, not how it lies among the others."""

DOUBTFUL = frozenset({"ReduceMean", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceProd"})
"""Those that are refused where it is not known."""


def check(view: View, made: str) -> None:
    """Refuse where a class that goes would have counted, or may have for all that is known.

    ``made``: the op, or for TopK whether the "largest" or the "smallest" are taken.
    """
    if sorted(view.sel.order) == list(range(view.sel.count)):
        return  # none goes
    values = _Reckoning(view).values(view.scope, view.node.input[0], STEPS)
    matters = values[:1] if made in ONE_BY_ONE else values
    known = not np.isnan(matters).any()
    if (known and not NOTHING[made](values)) or (not known and made in DOUBTFUL):
        told = f", as those that are never found count with {values[0]:g}" if known else ""
        view.refuse("it reduces over all classes, and what it gives would change with their number"
                    f"{told}")  # fmt: skip


class _Reckoning:
    """What `SCORES` of a head have become on their way, each tensor reckoned once."""

    def __init__(self, view: View) -> None:
        self.trace = view.trace
        self.known: dict[tuple[object, str], Array] = {}

    def values(self, scope: Scope, name: str, steps: int) -> Array:
        """Values at ``name`` of ``scope``, NaN where they are not known."""
        key = scope.place, name
        if key not in self.known:
            self.known[key] = self._values(scope, name, steps)
        return self.known[key]

    def _values(self, scope: Scope, name: str, steps: int) -> Array:
        front = self.trace.front
        site = front.site(name) if front is not None else None
        if site is not None:
            return SCORES if site.activation == "none" else PROBABILITIES
        if not isinstance(scope.mark(name), Labels | Whole):
            value = scope.old(name).value
            one = value is not None and value.size == 1
            return np.full_like(SCORES, value.item()) if value is not None and one else UNKNOWN
        home = scope.home(name)
        if home is None or not steps:
            return UNKNOWN
        scope, at = home
        node = scope.graph.node[at]
        if (*scope.place, at) in self.trace.heads:
            return SCORES
        if node.domain not in {"", "ai.onnx"}:
            return UNKNOWN
        if node.op_type in {"Softmax", "LogSoftmax"}:
            found = PROBABILITIES if node.op_type == "Softmax" else SCORES
            return found if self._is_over_classes(scope, node) else UNKNOWN
        if node.op_type in MOVING:
            carrying = [n for n in node.input if isinstance(scope.mark(n), Labels | Whole)]
            return self.values(scope, carrying[0], steps - 1) if carrying else UNKNOWN
        if node.op_type not in {*UNARY, *BROADCASTING, *ACTIVATIONS}:
            return UNKNOWN
        inputs = [self.values(scope, n, steps - 1) if n else None for n in node.input]
        return self._computed(node, inputs)

    def _is_over_classes(self, scope: Scope, node: onnx.NodeProto) -> bool:
        """Whether a softmax leaves a class that is never found no share; of places, it has its own."""
        mark, rank = scope.mark(node.output[0]), len(scope.old(node.output[0]).shape or ())
        opset = self.trace.interpreter.opsets[""]
        return isinstance(mark, Labels) and shares_among(node, mark.axis, rank, opset)

    def _computed(self, node: onnx.NodeProto, inputs: list[Array | None]) -> Array:
        """What an op makes of them one by one; of what is not known, a comparison says nothing."""
        first = inputs[0]
        if node.op_type in UNARY:
            inputs[1:] = [None if v is None else v[0] for v in inputs[1:]]
        try:
            found = np.asarray(self.trace.interpreter.run(node, inputs)[0], np.float32)
        except Exception:  # noqa: BLE001  the reference is asked about types that it may not take
            return UNKNOWN
        if found.shape != SCORES.shape:
            return UNKNOWN
        for value in inputs:
            if value is not None:
                found = np.where(np.isnan(value), np.nan, found)
        if node.op_type in {"Add", "Sub"} and first is not None and first[0] <= NEVER / 2:
            found[0] = first[0]  # whatever is added to it
        return found
