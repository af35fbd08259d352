"""If, Loop and Scan: bodies are traced as graphs of their own, with what they see from outside."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnx_headcut.analysis import Scope, infer_all
from onnx_headcut.facts import UNKNOWN, Fact
from onnx_headcut.labels import Labels, Lookup, Mark, Rows, Whole
from onnx_headcut.model import subgraphs_of
from onnx_headcut.trace import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx_headcut.trace import View

OPS = frozenset({"If", "Loop", "Scan"})


def control(view: View) -> Outcome:
    """Dispatch by op."""
    if view.op == "If":
        return branch(view)
    view.refuse(f"classes reach a {view.op}, which is not supported yet")
    raise AssertionError  # pragma: no cover  refuse() does not return


def branch(view: View) -> Outcome:
    """If: both bodies are traced, and what they give must agree."""
    if isinstance(view.marks[0], Labels | Lookup):
        view.refuse("its condition depends on single classes")
    children = [child(view, k) for k in range(2)]
    for scope in children:
        infer_all(scope, view.trace.interpreter, {})
        view.trace.run(scope)
    marks: list[Mark | None] = []
    for j, name in enumerate(view.node.output):
        names = [s.graph.output[j].name for s in children]
        found = [s.mark(n) for s, n in zip(children, names, strict=True)]
        marks.append(agree(view, found))
        old = merged([s.old(n) for s, n in zip(children, names, strict=True)])
        if view.scope.old(name).shape is None:
            view.scope.facts[name] = old
        view.trace.bodies[view.place, j] = merged(
            [s.new(n) for s, n in zip(children, names, strict=True)]
        )
    if isinstance(view.marks[0], Rows | Whole):
        marks = [view.marks[0] if m is None else m for m in marks]
    return Outcome(marks)


def child(view: View, k: int) -> Scope:
    """The scope of the ``k``-th body of the node."""
    graphs = [g for a in view.node.attribute for g in subgraphs_of(a)]
    return Scope(graphs[k], view.scope, (*view.place, k))


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


def merged(facts: Sequence[Fact]) -> Fact:
    """What is true of both bodies' outputs."""
    first = facts[0]
    if any(f.shape is None or first.shape is None or len(f.shape) != len(first.shape) for f in facts):
        return Fact(None, first.elem_type) if first.elem_type else UNKNOWN
    dims = zip(*(f.shape or () for f in facts), strict=True)
    return Fact(tuple(d[0] if len(set(d)) == 1 else None for d in dims), first.elem_type)
