"""Edits of operands that carry no labels but know the class count: slicing and patching backward.

A labelled tensor meets operands that are stored (biases, anchors' scales, label tables) or computed
from what is stored (a Cast weight, a shape put together by Concat). `select` shortens such an
operand, `patch` changes single elements of a computed integer vector, so that what depends on the
picture (batch, image size) stays computed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnx_headcut.editing import edits as ed
from onnx_headcut.errors import GraphRefused
from onnx_headcut.graph.facts import attributes
from onnx_headcut.graph.scope import is_fixed, is_stored

if TYPE_CHECKING:
    import onnx

    from onnx_headcut.graph.facts import Array
    from onnx_headcut.graph.scope import Scope
    from onnx_headcut.labels import Ints
    from onnx_headcut.tracing.trace import Trace

PASSING = frozenset({"Identity", "Cast", "CastLike"})
RESHAPING = frozenset({"Unsqueeze", "Squeeze", "Reshape", "Flatten"})


def select(trace: Trace, scope: Scope, i: int, slot: int, axis: int, take: Ints) -> list[ed.Edit]:
    """Edits that make input ``slot`` of node ``i`` its positions ``take`` of ``axis``."""
    node = scope.graph.node[i]
    name = node.input[slot]
    place = (*scope.place, i)
    if is_stored(scope, name):
        return [ed.Select(place, slot, axis, take)]
    maker = scope.index.producer.get(name)
    if maker is not None and _is_exclusive(trace, scope, name):
        inner = _select_through(trace, scope, maker, axis, take)
        if inner is not None:
            return inner
    fact = scope.old(name)
    if fact.value is not None and is_fixed(scope, name):
        return [ed.Replace(place, slot, np.asarray(fact.value.take(take, axis)))]
    copies = _fewer_copies(trace, scope, name, axis, take)
    return [ed.GatherInput(place, slot, axis, take)] if copies is None else copies


def _is_exclusive(trace: Trace, scope: Scope, name: str) -> bool:
    """Whether all that read ``name`` want the same of it: one node alone, or heads alike."""
    readers = scope.index.consumers[name]
    if name in scope.index.outputs:
        return False
    heads = [trace.heads.get((*scope.place, k)) for k in readers]
    first = heads[0]
    return len(readers) == 1 or (first is not None and all(first.same(h) for h in heads))


def _fewer_copies(trace: Trace, scope: Scope, name: str, axis: int, take: Ints) -> list[ed.Edit] | None:
    """Along an axis of equal copies (Tile, Expand), any selection is a number of copies."""
    maker = scope.index.producer.get(name)
    if maker is None or len(scope.index.consumers[name]) != 1:
        return None
    node = scope.graph.node[maker]
    data, counts = scope.old(node.input[0]).shape, None
    if node.op_type in {"Tile", "Expand"} and len(node.input) == 2:
        counts = scope.new(node.input[1]).value
    rank = len(scope.old(name).shape or ())
    if counts is None or data is None or len(data) != rank or len(counts) != rank or data[axis] != 1:
        return None
    wanted = counts.copy()
    wanted[axis] = len(take)
    edits = patch(trace, scope, maker, 1, wanted)
    _collect(trace, scope, maker, edits)
    # nobody else reads what it makes, so it may change though it is not stored
    trace.visited[*scope.place, maker] = [scope.new(n) for n in node.input]
    return edits


def _select_through(
    trace: Trace, scope: Scope, maker: int, axis: int, take: Ints
) -> list[ed.Edit] | None:
    """Push a selection of a stored weight through Cast, Transpose, DequantizeLinear or a factor."""
    node = scope.graph.node[maker]
    attrs = attributes(node)
    if node.op_type == "Mul":
        return _select_factor(trace, scope, maker, axis, take)
    if not is_fixed(scope, node.output[0]):
        return None
    if node.op_type in PASSING:
        edits = select(trace, scope, maker, 0, axis, take)
    elif node.op_type == "Transpose":
        rank = len(scope.old(node.input[0]).shape or ())
        perm = attrs.get("perm", list(range(rank))[::-1])
        edits = select(trace, scope, maker, 0, perm[axis], take)
    elif node.op_type == "DequantizeLinear":
        rank = len(scope.old(node.input[0]).shape or ())
        scales = scope.old(node.input[1]).shape or ()
        if attrs.get("block_size", 0) and attrs.get("axis", 1) % rank == axis:
            trace.notes.append(
                f"DequantizeLinear {node.name or node.output[0]!r} has one scale for blocks of "
                f"{attrs['block_size']} classes: the kept ones' weights are stored in float"
            )
            return None
        edits = select(trace, scope, maker, 0, axis, take)
        if attrs.get("block_size", 0):
            pairs = [(k, axis) for k in range(1, len(node.input)) if node.input[k]]
        elif len(scales) == 1 and scales[0] != 1 and attrs.get("axis", 1) % rank == axis:
            pairs = [(k, 0) for k in range(1, len(node.input)) if node.input[k]]
        else:
            pairs = []
        for k, where in pairs:
            edits += select(trace, scope, maker, k, where, take)
    else:
        return None
    _collect(trace, scope, maker, edits)
    return edits


def _select_factor(
    trace: Trace, scope: Scope, maker: int, axis: int, take: Ints
) -> list[ed.Edit] | None:
    """A stored factor for each channel times a number of the picture's (its dynamic scale)."""
    node = scope.graph.node[maker]
    rank = len(scope.old(node.output[0]).shape or ())
    shapes = [scope.old(n).static for n in node.input]
    stored = [k for k, n in enumerate(node.input) if is_stored(scope, n)]
    if len(stored) != 1 or any(s is None for s in shapes):
        return None
    factor, other = shapes[stored[0]] or (), shapes[1 - stored[0]] or ()
    own = axis - (rank - len(factor))
    if own < 0 or int(np.prod(other)) != 1:
        return None
    edits = select(trace, scope, maker, stored[0], own, take)
    _collect(trace, scope, maker, edits)
    # nobody else reads what it makes, so it may change though it is not stored
    trace.visited[*scope.place, maker] = [scope.new(n) for n in node.input]
    return edits


def patch(trace: Trace, scope: Scope, i: int, slot: int, wanted: Array) -> list[ed.Edit]:
    """Edits that make integer input ``slot`` of node ``i`` come out as ``wanted``."""
    node = scope.graph.node[i]
    name = node.input[slot] if slot < len(node.input) else ""
    place = (*scope.place, i)
    now = scope.new(name).value if name else None
    if now is not None and np.array_equal(now, wanted):
        return []
    if not name or is_fixed(scope, name):
        dtype = wanted.dtype if now is None else now.dtype
        return [ed.Replace(place, slot, np.asarray(wanted, dtype))]
    maker = scope.index.producer.get(name)
    if maker is None or now is None:
        raise _computed(node, name)
    if name in trace.separate:
        return [_copied(scope, place, slot, name, wanted)]
    trace.patched.add(name)
    edits = _patch_through(trace, scope, maker, wanted, node)
    _collect(trace, scope, maker, edits)
    return edits


def _copied(scope: Scope, place: ed.Place, slot: int, name: str, wanted: Array) -> ed.Edit:
    """An edit that gives an input a copy of a shape of its own, element by element."""
    user = scope.graph.node[place[-1]]
    makers: list[int] = []
    value = name
    while True:
        maker = scope.index.producer.get(value)
        if maker is None:
            raise _computed(user, name)
        makers.insert(0, maker)
        node = scope.graph.node[maker]
        if node.op_type == "Concat":
            break
        if node.op_type not in PASSING | RESHAPING:
            raise _computed(user, name)
        value = node.input[0]
    parts, at = {}, 0
    for k, one in enumerate(node.input):
        part = scope.new(one).value
        if part is None:
            raise _computed(user, name)
        want = wanted.reshape(-1)[at : at + part.size]
        at += part.size
        if not np.array_equal(part, want):
            if not is_fixed(scope, one):
                raise _computed(user, name)
            parts[k] = want.astype(part.dtype)
    return ed.CopyInput(place, slot, tuple(makers), parts, wanted)


def _patch_through(
    trace: Trace, scope: Scope, maker: int, wanted: Array, user: onnx.NodeProto
) -> list[ed.Edit]:
    node = scope.graph.node[maker]
    if node.op_type == "Concat":
        edits, at = [], 0
        for k, name in enumerate(node.input):
            part = scope.new(name).value
            if part is None:
                raise _computed(user, name)
            want = wanted[at : at + part.size]
            at += part.size
            if not np.array_equal(part, want):
                edits += patch(trace, scope, maker, k, want)
        return edits
    source = scope.new(node.input[0]).value
    if node.op_type in {"Add", "Sub"}:
        return _patch_term(trace, scope, maker, wanted, user)
    if node.op_type in PASSING | RESHAPING and source is not None and source.size == wanted.size:
        return patch(trace, scope, maker, 0, wanted.reshape(source.shape).astype(source.dtype))
    raise _computed(user, node.output[0])


def _patch_term(
    trace: Trace, scope: Scope, maker: int, wanted: Array, user: onnx.NodeProto
) -> list[ed.Edit]:
    """A sum of a stored number and one that the graph finds: the stored one makes up for it."""
    node = scope.graph.node[maker]
    fixed = [k for k, n in enumerate(node.input) if is_fixed(scope, n)]
    values = [scope.new(n).value for n in node.input]
    if len(fixed) != 1 or any(v is None or v.size != 1 for v in values) or wanted.size != 1:
        raise _computed(user, node.output[0])
    stored, other = (np.asarray(values[k]) for k in (fixed[0], 1 - fixed[0]))
    total, rest = int(wanted.item()), int(other.item())
    number = total - rest if node.op_type == "Add" else rest - total if fixed[0] else total + rest
    return patch(trace, scope, maker, fixed[0], np.full(stored.shape, number, stored.dtype))


def _collect(trace: Trace, scope: Scope, maker: int, edits: list[ed.Edit]) -> None:
    """Take the edits of ``maker`` into account for those who read it from now on."""
    view = trace.view(scope, maker)
    for edit in edits:
        trace.add(edit, view)
    scope.set_new(view.node, trace.infer_new(view))


def _computed(node: onnx.NodeProto, name: str) -> GraphRefused:
    return GraphRefused(
        f"its input {name!r} contains the class count, computed in a way that cannot be patched",
        node=node.name or node.output[0],
        op=node.op_type,
        advice="fix the picture size when exporting, or simplify the graph first (onnxslim)",
    )
