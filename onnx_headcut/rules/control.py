"""If, Loop and Scan: bodies are traced as graphs of their own, with what they see from outside."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from onnx_headcut import edits as ed
from onnx_headcut.analysis import merged
from onnx_headcut.demand import is_fixed
from onnx_headcut.facts import Fact
from onnx_headcut.labels import (
    Columns,
    IteratedOption,
    Labels,
    Lookup,
    Mark,
    PerIteration,
    Rows,
    Whole,
)
from onnx_headcut.model import captures
from onnx_headcut.rules.iterated import classes_of, decide_condition
from onnx_headcut.rules.movement import PicksByIteration
from onnx_headcut.rules.values import NO_SLOT, filled
from onnx_headcut.trace import Outcome, View

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx_headcut.analysis import Scope
    from onnx_headcut.facts import Array
    from onnx_headcut.labels import Ints

MOST_ITERATIONS = 4096

OPS = frozenset({"If", "Loop", "Scan"})


def control(view: View) -> Outcome:
    """Trace the bodies, unless all that they see goes or stays as a whole."""
    seen = [m for m in [*view.marks, *captured(view)] if m is not None]
    if all(isinstance(m, Whole) and m == seen[0] for m in seen):
        return Outcome([seen[0]] * len(view.node.output))
    if all(isinstance(m, Rows) and not m.apart for m in seen):
        return Outcome([Rows()] * len(view.node.output))
    if view.op == "If":
        return branch(view)
    if view.op == "Loop":
        return loop(view)
    view.refuse(f"classes reach a {view.op}, and no rule says what it does to them")
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
        found = [b.mark(n) for b, n in zip(bodies, names, strict=True)]
        marks.append(with_filler(view, found, bodies, names) or agree(view, found))
        view.trace.bodies[view.place, j] = merged(
            [b.new(n) for b, n in zip(bodies, names, strict=True)]
        )
    if isinstance(view.marks[0], Rows | Whole):
        marks = [view.marks[0] if m is None else m for m in marks]
    return Outcome(marks)


def with_filler(
    view: View, marks: Sequence[Mark | None], bodies: Sequence[Scope], names: Sequence[str]
) -> Mark | None:
    """Class numbers from one body, a constant where nothing was found from the other."""
    numbers = [m for m in marks if isinstance(m, Lookup | Columns)]
    plain = [b.old(n).value for b, n, m in zip(bodies, names, marks, strict=True) if m is None]
    if len(numbers) != 1 or len(plain) != 1 or plain[0] is None or plain[0].size == 0:
        return None
    value = plain[0].flat[0].item()
    return padded(view, numbers[0], value) if (plain[0] == value).all() else None


def padded(view: View, mark: Mark | None, value: float) -> Mark | None:
    """A mark of class numbers among which ``value`` may stand for no detection."""
    if isinstance(mark, Lookup):
        return filled(view, mark, value, NO_SLOT)
    if isinstance(mark, Columns):
        return Columns(mark.axis, tuple(padded(view, m, value) for m in mark.marks))
    return mark


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


# -------------------------------------------------------------------------------------- loops


def loop(view: View) -> Outcome:
    """Loop: over pictures the body is traced once; over classes, for every iteration at once."""
    body = view.scope.children[view.place[-1], 0]
    for k, mark in enumerate(view.marks[2:]):
        inner, result = body.graph.input[k + 2].name, body.graph.output[k + 1].name
        if isinstance(mark, Labels | Columns) and origin(body, result) != inner:
            view.refuse("scores are carried from one iteration to the next, and change on the way")
    body.tables = tables_of(view, body)
    try:
        marks = traced(view, body, {})
    except Picked as picked:
        marks = over_classes(view, body, picked.ids)
    finally:
        body.tables = {}
    carried = len(view.node.input) - 2
    for j, output in enumerate(list(body.graph.output)[1:]):
        fact = body.new(output.name)
        if fact.shape is not None and j >= carried:
            fact = Fact((None, *fact.shape), fact.elem_type)
        view.trace.bodies[view.place, j] = Fact(fact.shape, fact.elem_type)
    return Outcome([m if j < carried else stacked(m) for j, m in enumerate(marks)])


def origin(body: Scope, name: str) -> str:
    """What ``name`` is a plain copy of."""
    node = body.index.node_of(name)
    return origin(body, node.input[0]) if node is not None and node.op_type == "Identity" else name


class Picked(Exception):
    """Iterations pick classes ``ids``, one each."""

    def __init__(self, ids: Ints) -> None:
        super().__init__()
        self.ids = ids


def traced(view: View, body: Scope, given: dict[str, Mark]) -> list[Mark | None]:
    """Marks of the body's outputs, without its condition; carried values keep theirs."""
    inner = [i.name for i in body.graph.input]
    carried = dict(zip(inner[2:], view.marks[2:], strict=False))
    for _ in range(3):
        body.forget()
        for name, mark in {**carried, **given}.items():
            if mark is not None:
                body.marks[name] = mark
        for name, fact, now in zip(inner[2:], view.old[2:], view.new[2:], strict=False):
            if now is not fact:
                body.after[name] = Fact(now.shape, now.elem_type)
        run(view, body)
        outputs = [body.mark(o.name) for o in body.graph.output]
        again = False
        for name, mark in zip(inner[2:], outputs[1:], strict=False):
            if name in given or carried[name] == mark or mark is None:
                continue
            if carried[name] is None and isinstance(mark, Rows):
                carried[name], again = mark, True
            else:
                view.refuse("what it carries from one iteration to the next changes its kind")
        if not again:
            break
    decide_condition(View(view.trace, view.scope, view.place[-1]), outputs[0])
    return [carried.get(n) if isinstance(m, PerIteration) else m
            for n, m in zip([*inner[2:], *[""] * len(outputs)], outputs[1:], strict=False)]  # fmt: skip


def run(view: View, body: Scope) -> None:
    """Trace the body; raises Picked where an iteration turns out to stand for a class."""
    for i, node in enumerate(body.graph.node):
        try:
            view.trace.visit(body, i, node)
        except PicksByIteration:
            inner = View(view.trace, body, i)
            ids = classes_of(inner, inner.labels(0), body.tables)
            if ids is None or len(np.unique(ids)) != len(ids):
                inner.refuse("an iteration picks several classes, or two pick the same")
                raise AssertionError from None  # pragma: no cover
            raise Picked(ids) from None


def over_classes(view: View, body: Scope, ids: Ints) -> list[Mark | None]:
    """Trace the body with the class of each iteration known, and shorten the loop."""
    take = view.take(ids)
    given: dict[str, Mark] = {}
    for name in [i.name for i in body.graph.input]:
        if name in body.tables:
            old = tuple(body.tables[name])
            # the first iterations stay, and work on the kept classes
            new = numbered(view, old, len(take))
            given[name] = PerIteration(ids, take, old, (IteratedOption(new),))
    count = view.old[0].value
    if count is None or not is_fixed(view.scope, view.node.input[0]):
        view.refuse("how often it runs is computed from the picture")
        raise AssertionError  # pragma: no cover
    body.tables = {}
    marks = traced(view, body, given)
    edit = ed.Replace(view.place, 0, np.full(count.shape, len(take), count.dtype))
    view.trace.add(edit, view)
    return [Rows() if m is None else m for m in marks]


def numbered(view: View, old: tuple[Array, ...], count: int) -> tuple[Array, ...]:
    """A number of the first ``count`` iterations; it goes on as it runs where there were fewer."""
    if count <= len(old):
        return old[:count]
    step = old[1] - old[0]
    if any(not np.array_equal(b - a, step) for a, b in pairwise(old)):
        view.refuse("with more classes than it has, its iterations could not be numbered")
    return tuple((old[0] + step * k).astype(old[0].dtype) for k in range(count))


def stacked(mark: Mark | None) -> Mark | None:
    """A scan output: the iterations' values one behind the other on a new first axis."""
    if isinstance(mark, Columns | Labels):
        return replace(mark, axis=mark.axis + 1)
    return mark


def tables_of(view: View, body: Scope) -> dict[str, list[Array]]:
    """Values in the body that depend on nothing but the number of the iteration.

    That number is the body's first input, and any carried number that grows by a constant.
    Empty where the number of iterations is not stored.
    """
    count = view.old[0].value
    stored = count is not None and is_fixed(view.scope, view.node.input[0])
    if count is None or not stored or not 1 < count.item() <= MOST_ITERATIONS:
        return {}
    rounds = range(int(count.item()))
    inner = [i.name for i in body.graph.input]
    tables = {inner[0]: [np.array(t, np.int64) for t in rounds]}
    for k, name in enumerate(inner[2:]):
        start, step = view.old[k + 2].value, _step(body, name, body.graph.output[k + 1].name)
        if start is not None and step is not None and start.size == 1:
            tables[name] = [start + step * t for t in rounds]
    seeds = set(tables)
    for node in body.graph.node:
        if any(a.g.node for a in node.attribute) or not any(n in tables for n in node.input):
            continue
        known = [n in tables or not n or body.old(n).value is not None for n in node.input]
        if not all(known):
            continue
        try:
            values = [
                view.trace.interpreter.run(
                    node,
                    [tables[n][t] if n in tables else body.old(n).value for n in node.input],
                )
                for t in rounds
            ]
        except Exception:  # noqa: BLE001  what the reference cannot run is no index
            continue
        for j, name in enumerate(node.output):
            tables[name] = [v[j] for v in values]
    del seeds
    return tables


def _step(body: Scope, name: str, output: str) -> Array | None:
    """What a carried number grows by in each iteration; None where it does otherwise."""
    node = body.index.node_of(output)
    while node is not None and node.op_type in {"Identity", "Cast"}:
        node = body.index.node_of(node.input[0])
    if node is None or node.op_type != "Add" or name not in node.input:
        return None
    other = node.input[1 - list(node.input).index(name)]
    value = body.old(other).value
    return value if value is not None and value.size == 1 and is_fixed(body, other) else None
