"""If, Loop and Scan: bodies are traced as graphs of their own, with what they see from outside."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx_headcut.graph.facts import merged
from onnx_headcut.graph.model import captures
from onnx_headcut.labels import Columns, Labels, Lookup, Mark, PerIteration, Rows, Whole
from onnx_headcut.rules.bodies import padded, same
from onnx_headcut.rules.iterated import lookup_of
from onnx_headcut.rules.loops import control_by, iterate
from onnx_headcut.rules.stacked import joined
from onnx_headcut.tracing.view import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx_headcut.graph.scope import Scope
    from onnx_headcut.tracing.view import View


def control(view: View) -> Outcome:
    """Trace the bodies, unless all that they see goes or stays as a whole."""
    seen = [m for m in [*view.marks, *captured(view)] if m is not None]
    if all(isinstance(m, Whole) and m == seen[0] for m in seen):
        return Outcome([seen[0]] * len(view.node.output))
    if all(isinstance(m, Rows) and not m.numbered and not m.places for m in seen):
        return Outcome([joined(seen)] * len(view.node.output))
    return branch(view) if view.op == "If" else Outcome(iterate(view))


def captured(view: View) -> list[Mark | None]:
    """Marks of what the bodies read from outside."""
    return [view.scope.mark(n) for n in captures(view.node)]


def branch(view: View) -> Outcome:
    """If: both bodies are traced, and what they give must agree."""
    control_by(view, 0, "which of its bodies runs")
    bodies = [view.scope.children[view.place[-1], k] for k in range(2)]
    for body in bodies:
        view.trace.run(body)
    marks: list[Mark | None] = []
    for j in range(len(view.node.output)):
        names = [b.graph.output[j].name for b in bodies]
        pairs = list(zip(bodies, names, strict=True))
        found = [leaving(b, n) for b, n in pairs]
        if any(is_carried(view, j, b, n) for b, n in pairs):
            marks.append(agree(view, [m for m in found if m is not None]))
        else:
            marks.append(with_filler(view, found, bodies, names) or agree(view, found))
        view.trace.bodies[view.place, j] = merged(
            [b.new(n) for b, n in zip(bodies, names, strict=True)]
        )
    if view.marks[0] is not None:
        chosen = view.marks[0] if isinstance(view.marks[0], Rows | Whole) else Rows()
        marks = [chosen if m is None else m for m in marks]
    return Outcome(marks)


def leaving(body: Scope, name: str) -> Mark | None:
    """The mark of a body's output; what is known for each iteration around it is a table."""
    mark = body.mark(name)
    return lookup_of(mark, f"{name}?") if isinstance(mark, PerIteration) else mark


def is_carried(view: View, j: int, body: Scope, name: str) -> bool:
    """Whether a body hands on what a Loop around carries to output ``j``, and no mark is known yet.

    The Loop is traced again with the mark that the other body gives it, and both must agree then.
    """
    loop = view.scope
    if loop.parent is None or loop.parent.graph.node[loop.place[-2]].op_type != "Loop":
        return False
    states = zip(loop.graph.input[2:], loop.graph.output[1:], strict=False)
    read = {i.name for i, o in states if copied(loop, o.name) == view.node.output[j]}
    return body.mark(name) is None and copied(body, name) in read


def copied(scope: Scope, name: str) -> str:
    """What ``name`` is a plain copy of."""
    node = scope.node_of(name)
    return copied(scope, node.input[0]) if node is not None and node.op_type == "Identity" else name


def with_filler(
    view: View, marks: Sequence[Mark | None], bodies: Sequence[Scope], names: Sequence[str]
) -> Mark | None:
    """Class numbers from one body, a constant where nothing was found from the other."""
    numbers = [m for m in marks if isinstance(m, Lookup | Columns)]
    plain = [b.old(n).value for b, n, m in zip(bodies, names, marks, strict=True) if m is None]
    if len(numbers) != 1 or len(plain) != 1 or plain[0] is None:
        return None
    if plain[0].size == 0:
        return numbers[0]
    value = plain[0].flat[0].item()
    return padded(view, numbers[0], value) if (plain[0] == value).all() else None


def agree(view: View, marks: Sequence[Mark | None]) -> Mark | None:
    """One mark for the outputs of several bodies."""
    found = [m for m in marks if m is not None]
    if not found:
        return None
    first = found[0]
    if all(isinstance(m, Rows) for m in found):
        return joined(found)
    if all(isinstance(m, Whole) and m == first for m in found):
        return first
    if len(found) == len(marks):
        if isinstance(first, Labels) and all(first.same(m) for m in found):
            return first
        if isinstance(first, Lookup | Columns) and all(same(m, first) for m in found):
            return first
    view.refuse("its bodies give tensors that depend on classes in different ways")
