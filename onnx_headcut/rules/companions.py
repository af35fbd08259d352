"""Graph outputs whose rows go with those of a score output, though no class reaches them.

Where an output lays classes side by side in its rows (``boxes x classes``, or slots of each class),
others hold the box or the label of each row: constants, or boxes copied for each class. The cut takes
rows from the one and would leave the others as long as they were.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from onnx_headcut.graph.facts import attributes
from onnx_headcut.graph.ops import BROADCASTING, UNARY
from onnx_headcut.graph.scope import is_fixed
from onnx_headcut.labels import NONE, Labels
from onnx_headcut.rules.beside import says_classes
from onnx_headcut.rules.movement import RULES as MOVING
from onnx_headcut.tracing.view import View

if TYPE_CHECKING:
    import onnx

    from onnx_headcut.graph.facts import Array
    from onnx_headcut.graph.scope import Scope
    from onnx_headcut.labels import Ints
    from onnx_headcut.tracing.trace import Trace

LIMIT = 1 << 23
"""Elements up to which it is looked where an output's elements come from."""


def check(trace: Trace, scope: Scope) -> None:
    """Refuse where an output without classes has a row for each row of class scores that goes."""
    names = [o.name for o in scope.graph.output]
    found = [(n, m) for n in names for m in [scope.mark(n)] if isinstance(m, Labels)]
    for name in names if found and not trace.selection.identity else ():
        at = scope.index.producer.get(name)
        if at is None or scope.mark(name) is not None or scope.new(name) is not scope.old(name):
            continue
        for other, labels in found:
            if goes_with(trace, scope, name, labels):
                View(trace, scope, at).refuse(
                    f"output {name!r} has a place for each of the {len(labels.ids)} of {other!r}, "
                    "which the cut changes, and nothing leads from the one to the other",
                    "let the graph pick its detections (TopK, NonMaxSuppression) and read rows of both "
                    f"by the same index, or leave {name!r} out of the outputs",
                )


def goes_with(trace: Trace, scope: Scope, name: str, labels: Labels) -> bool:
    """Whether ``name`` would have to follow the class axis of a score output."""
    shape = scope.old(name).static
    axis, count = labels.axis, len(labels.ids)
    if shape is None:
        return False
    if is_fixed(scope, name) and shape == (count,):
        axis = 0  # a name or a code of each class
    if axis >= len(shape) or shape[axis] != count:
        return False
    shorter = len(trace.selection.take(labels.ids)) != count
    if is_fixed(scope, name):
        value = scope.old(name).value
        return shorter or value is None or not says_classes(np.moveaxis(value, axis, -1), labels.ids)
    if not shorter or not 0 < math.prod(shape) <= LIMIT:
        return False
    return copied(np.moveaxis(sources(trace, scope, name), axis, 0).reshape(count, -1), labels.ids)


def copied(lines: Array, ids: Ints) -> bool:
    """Whether places of different classes hold the same elements."""
    order = np.lexsort((lines[:, 0],))
    a, b = order[1:], order[:-1]
    same = (lines[a] == lines[b]).all(1)
    return bool((same & (ids[a] != ids[b]) & (ids[a] != NONE) & (ids[b] != NONE)).any())


def sources(trace: Trace, scope: Scope, name: str) -> Array:
    """For each element the number of the one it was copied from, as far back as ops only move."""
    shape = scope.old(name).static or ()
    own = np.arange(math.prod(shape), dtype=np.int64).reshape(shape)
    node = scope.index.node_of(name)
    if node is None or scope.mark(name) is not None:
        return own
    if node.op_type == "Concat":
        return _joined(trace, scope, node, own)
    if node.op_type in BROADCASTING:
        free = [n for n in node.input if n and not is_fixed(scope, n)]
        if len(free) != 1 or scope.old(free[0]).static is None:
            return own
        return np.broadcast_to(sources(trace, scope, free[0]), shape)
    if node.op_type not in {*MOVING, *UNARY} or scope.old(node.input[0]).static is None:
        return own
    before = sources(trace, scope, node.input[0])
    if node.op_type in UNARY:
        return before
    rest = [scope.old(n).value if n else None for n in node.input[1:]]
    try:
        results = trace.interpreter.run(node, [before, *rest])
    except Exception:  # noqa: BLE001  computed from the picture: nothing can be told
        return own
    found = results[list(node.output).index(name)]
    return found if found.shape == own.shape else own


def _joined(trace: Trace, scope: Scope, node: onnx.NodeProto, own: Array) -> Array:
    if any(scope.old(n).static is None for n in node.input):
        return own
    parts, first = [], 0
    for part in (sources(trace, scope, n) for n in node.input):
        parts.append(part + first)
        first += int(part.max(initial=-1)) + 1
    found: Ints = np.concatenate(parts, attributes(node)["axis"])
    return found if found.shape == own.shape else own
