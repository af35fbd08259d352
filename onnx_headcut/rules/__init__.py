"""The rules: what an op does to labels, and which edits it needs.

How to add one. A rule is a function from a `View` (one node, with the marks and facts of its
inputs) to an `Outcome` (a mark for each output, and edits). It is called only when an input
carries `Labels`; register it with the op's name in the family's file, or here for a single op::

    @rule("Hardmax")                      # keeps positions: labels pass through unchanged
    def hardmax(view: View) -> Outcome:
        return Outcome([view.labels(0)])

Ask first whether a family has it: ops that move elements without computing (`movement`) need no
rule of their own, the op itself is run on element numbers; ops that work element by element
(`elementwise`) need a name in a list (`ops`). A rule never edits anything, and need not worry about the
shapes of its outputs: the engine infers the edited node and refuses what does not fit the labels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx_headcut.errors import CallReached
from onnx_headcut.graph.ops import CONTROL
from onnx_headcut.graph.plain import FORMS
from onnx_headcut.labels import Columns, Labels, Lookup, PerIteration, Rows, Whole
from onnx_headcut.rules import (
    branches,
    control,
    detections,
    elementwise,
    encoded,
    indexing,
    iterated,
    moved,
    movement,
    one_hot,
    plugins,
    products,
    quantized,
    rounding,
    scores,
    stacked,
    values,
)
from onnx_headcut.rules import heads as head_rules
from onnx_headcut.tracing.view import GENERIC_ADVICE, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from onnx_headcut.tracing.view import View

STANDARD_DOMAINS = frozenset({"", "ai.onnx"})

RULES: dict[str, Callable[[View], Outcome]] = {
    **elementwise.RULES,
    **movement.RULES,
    **scores.RULES,
    **indexing.RULES,
    **detections.RULES,
    **products.RULES,
}


OF_NUMBERS: dict[str, Callable[[View], Outcome]] = {
    **dict.fromkeys(rounding.OPS, rounding.rounded),
    "OneHot": one_hot.one_hot,
    "LabelEncoder": encoded.label_encoder,
}
"""Ops that have a rule of their own where class numbers reach them."""


def outcome(view: View, head: Labels | None) -> Outcome:
    """Marks and edits for one node that a mark reaches, or that is a head itself."""
    if head is not None:
        return quantized.cut_head(view, head)
    extensions = view.trace.interpreter.extensions
    rule = extensions.find(view.node) if extensions else None
    if rule is not None and any(isinstance(m, Labels | Lookup | Columns) for m in view.marks):
        result = rule.apply(view)
        if not isinstance(result, Outcome) or len(result.marks) != len(view.node.output):
            view.refuse("its rule does not say what each of its outputs carries",
                        "mend the rule: docs/rules.md")  # fmt: skip
        return result
    function = (view.node.domain, view.op) in view.trace.interpreter.functions
    if function and any(m is not None and not isinstance(m, Rows) for m in view.marks):
        raise CallReached(
            "class scores go through a local function",
            [view.place],
            node=view.node.name or view.node.output[0],
            op=view.op,
            path=view.trace.path(view.scope, view.place[-1]),
        )
    if view.op in CONTROL:
        return control.control(view)
    shown = quantized.shown(view)
    if isinstance(shown, quantized.PlainView):
        return shown.own(told(shown))
    return told(view)


def is_built_in(domain: str, op: str) -> bool:
    """Whether the tool has a rule of its own for an op."""
    standard = {*RULES, *CONTROL, *head_rules.HEAD_OPS}
    return (domain == "" and op in standard) or (domain, op) in FORMS or op in plugins.KNOWN


def told(view: View) -> Outcome:
    """What the rules say of a node, in its plain form where it has one."""
    marks = [m for m in view.marks if m is not None]
    stacked.check_places(view)
    if any(isinstance(m, PerIteration) for m in marks):
        return iterated.iterated(view)
    if any(isinstance(m, Labels) for m in marks):
        found = RULES.get(view.op) if view.node.domain in STANDARD_DOMAINS else None
        if found is None:
            view.refuse(f"no rule says what {view.op} does to classes", advice(view))
        return found(view)
    if any(isinstance(m, Lookup | Columns) for m in marks):
        return OF_NUMBERS.get(view.op, values.values)(view)
    if all(isinstance(m, Whole) for m in marks) and len(set(marks)) == 1:
        return Outcome([marks[0]] * len(view.node.output))
    if view.op == "Concat" and any(isinstance(m, Whole) for m in marks):
        return branches.join(view)
    return moved.rows(view)


SEQUENCES = (
    "turn the sequence into a Split first, as onnxscript.optimizer.optimize does where sizes are "
    "fixed, or export the model with fixed shapes"
)

ADVICE = {"SplitToSequence": SEQUENCES, "SequenceConstruct": SEQUENCES}


def advice(view: View) -> str:
    """What to do where no rule covers a node."""
    if view.op in ADVICE:
        return ADVICE[view.op]
    if view.node.domain not in STANDARD_DOMAINS:
        return f"{GENERIC_ADVICE}; or give a rule for {view.op} with --plugin (docs/rules.md)"
    return GENERIC_ADVICE
