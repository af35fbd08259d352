"""How often a Loop or a Scan runs, and what in its body depends on nothing but that.

Seen of the original alone, without classes. The number of an iteration is a Loop's first body input,
any carried number that grows by a constant, and what a Scan reads from a stored tensor.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from onnx_headcut.graph.facts import attributes
from onnx_headcut.graph.scope import is_fixed

if TYPE_CHECKING:
    import onnx

    from onnx_headcut.graph.facts import Array
    from onnx_headcut.graph.interpreter import Interpreter
    from onnx_headcut.graph.scope import Scope

MOST_ITERATIONS = 4096

STEPPING = frozenset({"Identity", "Cast"})


@dataclass(frozen=True)
class Iterations:
    """``tables[name][t]`` is the value of ``name`` in iteration ``t`` of ``count``.

    ``sure`` says that no picture makes it stop earlier or go on; ``limited`` that the stored trip
    count ends it, rather than its condition alone.
    """

    count: int
    tables: dict[str, list[Array]] = field(default_factory=dict)
    sure: bool = True
    limited: bool = False


def iterations(
    interpreter: Interpreter, scope: Scope, body: Scope, node: onnx.NodeProto
) -> Iterations | None:
    """What is known of a node's iterations; None where their number depends on the picture."""
    if node.op_type == "Scan":
        return _of_scan(interpreter, scope, body, node)
    return _of_loop(interpreter, scope, body, node)


def _of_scan(
    interpreter: Interpreter, scope: Scope, body: Scope, node: onnx.NodeProto
) -> Iterations | None:
    extent, read = None, {}
    for outer, inner, said in scanned(node, body.graph):
        fact = scope.old(outer)
        axis = said % len(fact.shape or (1,))
        if fact.shape is None or fact.shape[axis] is None:
            continue
        extent = fact.shape[axis]
        if fact.value is not None and is_fixed(scope, outer):
            read[inner] = np.moveaxis(fact.value, axis, 0)
    if extent is None or not 1 < extent <= MOST_ITERATIONS:
        return None
    tables: dict[str, list[Array]] = {name: list(value) for name, value in read.items()}
    steps = _steps(scope, body, node, first=0)
    for name, (start, step) in steps.items():
        tables[name] = [start + step * t for t in range(extent)]
    _follow(interpreter, body, tables, extent)
    return Iterations(extent, tables)


def scanned(node: onnx.NodeProto, body: onnx.GraphProto) -> list[tuple[str, str, int]]:
    """Of a Scan (opset 9 on): outer name, name in the body and axis of each scan input."""
    attrs = attributes(node)
    n = attrs["num_scan_inputs"]
    axes = attrs.get("scan_input_axes") or [0] * n
    return list(zip(list(node.input)[-n:], [i.name for i in body.input][-n:], axes, strict=True))


def _of_loop(
    interpreter: Interpreter, scope: Scope, body: Scope, node: onnx.NodeProto
) -> Iterations | None:
    stored = scope.old(node.input[0]).value if node.input[0] else None
    if node.input[0] and (stored is None or not is_fixed(scope, node.input[0])):
        return None
    limit = int(stored.item()) if stored is not None else MOST_ITERATIONS + 1
    condition = body.graph.output[0].name
    follows = _follows(body, condition)
    limited = 1 < limit <= MOST_ITERATIONS
    if not limited and (limit < 2 or follows):
        return None
    number = body.graph.input[0].name
    steps = _steps(scope, body, node, first=2)
    found: dict[str, list[Array]] = {}
    # without a limit the condition must end it: look at it for ever more iterations
    for most in (limit,) if limited else (16, 256, MOST_ITERATIONS):
        found = {number: [np.array(t, np.int64) for t in range(most)]}
        for name, (start, step) in steps.items():
            found[name] = [start + step * t for t in range(most)]
        soft = _follow(interpreter, body, found, most, stored_only=not limited)
        last = _last(found.get(condition))
        if last is not None and condition not in soft:
            cut = {name: table[: last + 1] for name, table in found.items()}
            return Iterations(last + 1, cut, limited=last + 1 == limit)
    if not limited:
        return None
    sure = follows or (condition in found and condition not in soft)
    return Iterations(limit, found, sure=sure, limited=True)


def _last(goes_on: list[Array] | None) -> int | None:
    """The iteration after which a condition says to stop; None where it never does."""
    stops = (t for t, value in enumerate(goes_on or ()) if not value.all())
    return next(stops, None)


def _follows(body: Scope, name: str) -> bool:
    """Whether the condition of a body is true for ever: a copy of its own, or a stored true."""
    value = body.old(name).value
    if value is not None and is_fixed(body, name):
        return bool(value.all())
    node = body.index.node_of(name)
    if node is not None and node.op_type in STEPPING:
        return _follows(body, node.input[0])
    return node is None and name == body.graph.input[1].name


def _steps(
    scope: Scope, body: Scope, node: onnx.NodeProto, first: int
) -> dict[str, tuple[Array, Array]]:
    """Carried numbers that grow by a constant: where they start, and by what they grow."""
    found = {}
    shift = 1 if first else 0
    states = list(body.graph.input)[first : len(body.graph.input)]
    for k, (outer, inner) in enumerate(zip(list(node.input)[first:], states, strict=False)):
        if k + shift >= len(body.graph.output):
            break
        start = scope.old(outer).value
        step = _step(body, inner.name, body.graph.output[k + shift].name)
        if start is not None and step is not None and start.size == 1 and is_fixed(scope, outer):
            found[inner.name] = (start, step)
    return found


def _step(body: Scope, name: str, output: str) -> Array | None:
    """What a carried number grows by in each iteration; None where it does otherwise."""
    node = body.index.node_of(output)
    while node is not None and node.op_type in STEPPING:
        node = body.index.node_of(node.input[0])
    if node is None or node.op_type != "Add" or name not in node.input:
        return None
    other = node.input[1 - list(node.input).index(name)]
    value = body.old(other).value
    return value if value is not None and value.size == 1 and is_fixed(body, other) else None


def _follow(
    interpreter: Interpreter,
    body: Scope,
    tables: dict[str, list[Array]],
    count: int,
    *,
    stored_only: bool = False,
) -> set[str]:
    """Run all nodes whose inputs are known for each iteration; fills ``tables``.

    Returns the names that a size of the picture entered, as it is in the example.
    """
    soft: set[str] = set()
    for node in body.graph.node:
        if any(a.g.node for a in node.attribute) or not any(n in tables for n in node.input):
            continue
        known = [n in tables or not n or body.old(n).value is not None for n in node.input]
        if not all(known):
            continue
        entered = any(n in soft for n in node.input) or not all(
            is_fixed(body, n) for n in node.input if n and n not in tables
        )
        if entered and stored_only:
            continue
        try:
            values = [
                interpreter.run(
                    node, [tables[n][t] if n in tables else body.old(n).value for n in node.input]
                )
                for t in range(count)
            ]
        except Exception:  # noqa: BLE001  what the reference cannot run is no index
            continue
        for j, name in enumerate(node.output):
            tables[name] = [v[j] for v in values]
        soft |= set(node.output) if entered else set()
    return soft
