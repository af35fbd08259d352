"""If, Loop and Scan: bodies are traced as graphs of their own, with what they see from outside."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnx_headcut.analysis import merged
from onnx_headcut.labels import Labels, Lookup, Mark, Rows, Whole
from onnx_headcut.model import captures
from onnx_headcut.trace import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx_headcut.trace import View

OPS = frozenset({"If", "Loop", "Scan"})


def control(view: View) -> Outcome:
    """A node that belongs to one class as a whole goes with it; else its bodies are traced."""
    seen = {m for m in [*view.marks, *captured(view)] if m is not None}
    if len(seen) == 1 and all(isinstance(m, Whole) for m in seen):
        return Outcome([seen.pop()] * len(view.node.output))
    if view.op == "If":
        return branch(view)
    view.refuse(f"classes reach a {view.op}, which is not supported yet")
    raise AssertionError  # pragma: no cover  refuse() does not return


def captured(view: View) -> list[Mark | None]:
    """Marks of what the bodies read from outside."""
    return [view.scope.mark(n) for n in captures(view.node)]


def branch(view: View) -> Outcome:
    """If: both bodies are traced, and what they give must agree."""
    if isinstance(view.marks[0], Labels | Lookup):
        view.refuse("its condition depends on single classes")
    bodies = [view.scope.children[view.place[-1], k] for k in range(2)]
    for body in bodies:
        view.trace.run(body)
    marks: list[Mark | None] = []
    for j in range(len(view.node.output)):
        names = [b.graph.output[j].name for b in bodies]
        marks.append(agree(view, [b.mark(n) for b, n in zip(bodies, names, strict=True)]))
        view.trace.bodies[view.place, j] = merged(
            [b.new(n) for b, n in zip(bodies, names, strict=True)]
        )
    if isinstance(view.marks[0], Rows | Whole):
        marks = [view.marks[0] if m is None else m for m in marks]
    return Outcome(marks)


def agree(view: View, marks: Sequence[Mark | None]) -> Mark | None:
    """One mark for the outputs of several bodies."""
    found = [m for m in marks if m is not None]
    if not found:
        return None
    first = found[0]
    if all(isinstance(m, Rows) for m in found):
        return Rows(any(isinstance(m, Rows) and m.apart for m in found))
    if all(isinstance(m, Whole) and m == first for m in found):
        return first
    if len(found) == len(marks):
        if isinstance(first, Labels) and all(first.same(m) for m in found):
            return first
        if isinstance(first, Lookup) and all(
            isinstance(m, Lookup) and np.array_equal(m.old, first.old) for m in found
        ):
            return first
    view.refuse("its bodies give tensors that depend on classes in different ways")
    return None  # pragma: no cover  refuse() does not return
