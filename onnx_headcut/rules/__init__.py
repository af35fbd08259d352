"""The rules: what an op does to labels, and which edits it needs.

How to add one. A rule is a function from a `View` (one node, with the marks and facts of its
inputs) to an `Outcome` (a mark for each output, and edits). It is called only when an input
carries `Labels`; register it with the op's name in the family's file, or here for a single op::

    @rule("Hardmax")                      # keeps positions: labels pass through unchanged
    def hardmax(view: View) -> Outcome:
        return Outcome([view.labels(0)])

Ask first whether a family has it: ops that move elements without computing (`movement`) need no
rule of their own, the op itself is run on element numbers; ops that work element by element
(`elementwise`) need a name in a list. A rule never edits anything, and need not worry about the
shapes of its outputs: the engine infers the edited node and refuses what does not fit the labels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx_headcut.labels import Columns, Labels, Lookup, Rows, Whole
from onnx_headcut.rules import branches, elementwise, heads, movement, scores
from onnx_headcut.trace import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from onnx_headcut.trace import View

RULES: dict[str, Callable[[View], Outcome]] = {
    **elementwise.RULES,
    **movement.RULES,
    **scores.RULES,
}


def outcome(view: View, head: Labels | None) -> Outcome:
    """Marks and edits for one node that a mark reaches, or that is a head itself."""
    if head is not None:
        return heads.cut_head(view, head)
    marks = [m for m in view.marks if m is not None]
    if any(isinstance(m, Labels) for m in marks):
        found = RULES.get(view.op) if view.node.domain in {"", "ai.onnx"} else None
        if found is None:
            view.refuse(f"no rule says what {view.op} does to classes")
            raise AssertionError  # pragma: no cover  refuse() does not return
        return found(view)
    if any(isinstance(m, Lookup | Columns) for m in marks):
        view.refuse(f"class numbers computed in the graph reach {view.op}, which has no rule yet")
    if view.op == "Concat" and len(set(marks)) > 1:
        return branches.join(view)
    if marks and all(isinstance(m, Whole) for m in marks) and len(set(marks)) == 1:
        return Outcome([marks[0]] * len(view.node.output))
    if marks and all(isinstance(m, Rows) for m in marks):
        return Outcome([marks[0]] * len(view.node.output))
    view.refuse(f"classes of different kinds meet in {view.op}, which has no rule for that")
    raise AssertionError  # pragma: no cover
