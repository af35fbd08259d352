"""The original as a whole: facts of every value, scope by scope, for an example of its inputs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from onnx_headcut.errors import UsageError
from onnx_headcut.graph.facts import (
    STORED_LIMIT,
    UNKNOWN,
    Fact,
    attributes,
    merged,
    of_tensor,
    of_type,
)
from onnx_headcut.graph.interpreter import Interpreter, infer_or_unknown
from onnx_headcut.graph.iterations import iterations, scanned
from onnx_headcut.graph.model import has_bodies, subgraphs_of
from onnx_headcut.graph.plain import refuse_layouts
from onnx_headcut.graph.scope import Scope

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import onnx

    from onnx_headcut.extensions import Extensions
    from onnx_headcut.graph.model import Index, Source
    from onnx_headcut.labels import Mark

    Way = tuple[int, Callable[[int], int]]
    """Of another example: how many more pictures, and the size of which."""

EXAMPLE_BATCH = 2
"""A dynamic batch is traced as two pictures, so that batch and class axes are never confused."""

EXAMPLE_ROWS = 7
"""Rows that an op is taken to find in the picture (NonZero, NonMaxSuppression)."""

OTHER_ROWS = (11, 5)
"""And in other pictures: extents that are the same in all do not depend on what is found."""

FINDING = frozenset({"NonZero", "NonMaxSuppression", "Compress", "Unique", "If", "Loop"})
"""Ops with as many rows as they find; for the others, unknown extents follow from these."""

EXAMPLE_SIZES = (320, 416, 640, 512, 300, 224)

STRIDE = 128
"""Pixels that the coarsest feature maps are apart, at most: sizes are kept multiples of what divides
both."""


@dataclass
class Analysis:
    """The original with the facts of its values, ready to be located and traced."""

    source: Source
    interpreter: Interpreter
    main: Scope
    shapes: Mapping[str, tuple[int, ...]]
    """Example shapes taken for inputs with dynamic extents."""
    given: frozenset[str] = frozenset()
    """Those of them that the person gave."""
    everything: dict[str, Mark] | None = None
    """Marks of the main graph in a trace that keeps all classes, once there was one."""
    unknown: int = 0
    """Values with a known rank that lack a known extent."""

    @cached_property
    def smaller(self) -> Analysis | None:
        """The same for smaller pictures and more of them, as far as the graph takes such.

        And with another number of rows found in them; None where no extent of any input is left
        open. What is reckoned from an example may be so in that example alone: what a cut is based on
        has to be so here, too.
        """
        ways: list[Way] = [(1, _smaller), (1, _larger), (1, int), (0, _smaller), (0, _larger)]
        if _is_tight(self.main):
            ways = [way for way in ways if way[1] is not _smaller]
        return self._elsewhere(ways)

    @cached_property
    def larger(self) -> Analysis | None:
        """The same for larger pictures, for cuts that leave too little of smaller ones."""
        return self._elsewhere([(1, _larger), (1, int), (0, _larger)])

    def _elsewhere(self, ways: Sequence[Way]) -> Analysis | None:
        if not self.shapes:
            return None
        scope, shapes = _otherwise(self.main, self.interpreter, self.shapes, self.unknown,
                                   [*ways, (0, int)], OTHER_ROWS[1])  # fmt: skip
        if shapes == self.shapes:
            return None
        scope.otherwise = lambda: self.main.twin
        return replace(self, main=scope, shapes=shapes, everything=None)

    @property
    def counted(self) -> dict[str, tuple[int, ...]]:
        """The shapes that multiply-adds are told for: one picture where the batch is open."""
        declared = {v.name: of_type(v.type).shape for v in self.source.proto.graph.input}
        return {
            name: shape if name in self.given or (declared[name] or (1,))[0] is not None
            else (1, *shape[1:])
            for name, shape in self.shapes.items()
        }  # fmt: skip


def analyse(
    source: Source,
    shapes: Mapping[str, Sequence[int]] | None = None,
    extensions: Extensions | None = None,
) -> Analysis:
    """Facts of every value of the main graph, with dynamic input extents bound to examples."""
    proto = source.proto
    refuse_layouts(proto.graph)
    interpreter = Interpreter(proto.opset_import, proto.ir_version, proto.functions,
                              extensions=extensions, folder=source.folder)  # fmt: skip
    best: Analysis | None = None
    fewest = 0
    for candidate in _bindings(proto, shapes or {}):
        scope = Scope(proto.graph)
        unknown = infer_all(scope, interpreter, candidate, like=best.main if best else None)
        if best is None or unknown < fewest:
            best = Analysis(source, interpreter, scope, candidate, frozenset(shapes or ()))
            fewest = unknown
        if unknown == 0 or not candidate:
            break
    if best is None:  # pragma: no cover  _bindings yields at least once
        raise UsageError("the model's inputs have no usable shape")
    best.unknown = fewest
    known, bound = best.main, best.shapes  # not the analysis itself, which would hold what holds it
    doubled: list[Way] = [(2, _doubled), (2, int), (0, int)]
    known.otherwise = lambda: _otherwise(known, interpreter, bound, fewest, doubled, OTHER_ROWS[0])[0]
    return best


def _doubled(size: int) -> int:
    return size * 2


def _smaller(size: int) -> int:
    """About half as much, with the same strides where that leaves some; but 2 for 1."""
    unit = math.gcd(size, STRIDE)
    return size // 2 // unit * unit or size // 2 or 2


def _larger(size: int) -> int:
    """A little more, with the same strides."""
    unit = math.gcd(size, STRIDE)
    return max(size * 6 // 5 // unit * unit, size + unit)


def _otherwise(
    known: Scope,
    interpreter: Interpreter,
    shapes: Mapping[str, tuple[int, ...]],
    unknown: int,
    ways: Sequence[Way],
    rows: int,
) -> tuple[Scope, Mapping[str, tuple[int, ...]]]:
    """Facts for other extents of whatever is dynamic, and these: the first of ``ways`` to be taken.

    The last way is the example's own.
    """
    graph = known.graph
    declared = {v.name: of_type(v.type).shape for v in graph.input}
    scope, bound = known, shapes
    for batch, sized in ways:
        bound = {}
        for name, shape in shapes.items():
            free = declared[name] or (None,) * len(shape)
            bound[name] = tuple(
                d if f is not None else d + batch if k == 0 else sized(d)
                for k, (d, f) in enumerate(zip(shape, free, strict=True))
            )
        scope = Scope(graph)
        open_extents = infer_all(scope, interpreter, bound, rows=rows, like=known)
        if open_extents <= unknown and _fits(scope):
            break
    return scope, bound


def _is_tight(scope: Scope) -> bool:
    """Whether a layer without padding would not fit into half of what it reads (SSD's last ones)."""
    for node in scope.graph.node:
        if node.op_type != "Conv":
            continue
        given = attributes(node)
        size, kernel = (scope.old(name).static or () for name in node.input[:2])
        padded = any(given.get("pads", ())) or given.get("auto_pad", b"NOTSET") != b"NOTSET"
        if not padded and any(n // 2 < k for n, k in zip(size[2:], kernel[2:], strict=False) if k > 1):
            return True
    return False


def _fits(scope: Scope) -> bool:
    """Whether reshapes leave as many elements as there are, which inference takes for granted."""
    for node in scope.graph.node:
        if node.op_type == "Reshape":
            before, after = (scope.old(name).static for name in (node.input[0], node.output[0]))
            if before is not None and after is not None and math.prod(before) != math.prod(after):
                return False
    return all(map(_fits, scope.children.values()))


def _bindings(
    proto: onnx.ModelProto, given: Mapping[str, Sequence[int]]
) -> list[dict[str, tuple[int, ...]]]:
    """Example shapes to try for inputs with dynamic extents: sizes by layout, two pictures."""
    stored = {t.name for t in proto.graph.initializer}
    inputs = [i for i in proto.graph.input if i.name not in stored]
    names = {i.name for i in inputs}
    for name in given:
        if name not in names:
            raise UsageError(f"--input-shape: the model has no input {name!r}",
                             advice=f"its inputs are {', '.join(sorted(names))}")  # fmt: skip
    dynamic: dict[str, tuple[int | None, ...]] = {}
    for value in inputs:
        shape = of_type(value.type).shape
        if value.name in given:
            dynamic[value.name] = tuple(given[value.name])
        elif shape is not None and any(d is None for d in shape):
            dynamic[value.name] = shape
    if not dynamic:
        return [{}]
    results = []
    for batch in (EXAMPLE_BATCH, 1):
        for size in EXAMPLE_SIZES:
            bound = {n: tuple(_bind(s, k, batch, size) if d is None else d for k, d in enumerate(s))
                     for n, s in dynamic.items()}  # fmt: skip
            if bound not in results:
                results.append(bound)
    return results


def _bind(shape: tuple[int | None, ...], axis: int, batch: int, size: int) -> int:
    if axis == 0 and len(shape) != 3:
        return batch
    if (
        len(shape) >= 3
        and axis in {1, len(shape) - 1}
        and None not in (shape[-1] if axis == 1 else 0, shape[1] if axis != 1 else 0)
    ):
        return size
    channels_known = any(d in {1, 3, 4} for d in shape[-3:] if d is not None)
    if len(shape) >= 3 and axis == len(shape) - 3 and not channels_known:
        return 3
    return size


def infer_all(
    scope: Scope,
    interpreter: Interpreter,
    bound: Mapping[str, tuple[int, ...]],
    *,
    keep_inputs: bool = False,
    rows: int = EXAMPLE_ROWS,
    like: Scope | None = None,
) -> int:
    """Fill ``scope.facts``; returns how many values with a known rank lack a known extent.

    ``like``: the same graph with other extents; what reads the very same facts there is not inferred
    again.
    """
    graph = scope.graph
    scope.rows = rows
    declared = {v.name: of_type(v.type) for v in [*graph.value_info, *graph.output]}
    for value in () if keep_inputs else graph.input:
        fact = of_type(value.type)
        shape = bound.get(value.name, fact.shape)
        scope.facts[value.name] = _as_in(like, value.name, Fact(shape, fact.elem_type))
    for tensor in graph.initializer:
        if like is not None:
            scope.facts[tensor.name] = like.facts[tensor.name]
            continue
        beside = tensor.data_location == tensor.EXTERNAL
        read = beside and _tells_more_than_a_layer(scope.index, tensor)
        scope.facts[tensor.name] = of_tensor(tensor, interpreter.folder if read else None)
    unknown = 0
    for i, node in enumerate(graph.node):
        if has_bodies(node):
            facts = _infer_bodies(scope, interpreter, i, node, rows, like)
        else:
            inputs = [scope.old(n) for n in node.input]
            if (
                like is not None
                and node.op_type not in FINDING
                and all(fact is like.old(n) for fact, n in zip(inputs, node.input, strict=True))
            ):
                found = {name: like.facts[name] for name in node.output if name in like.facts}
                scope.facts |= found
                unknown += sum(fact.static is None for fact in found.values())
                continue
            facts = infer_or_unknown(interpreter, node, inputs)
        for name, fact in zip(node.output, facts, strict=False):
            if name:
                both = _merge(fact, declared.get(name))
                scope.facts[name] = with_rows(both, rows) if node.op_type in FINDING else both
                unknown += scope.facts[name].static is None
    return unknown


LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization"})
"""Ops whose weights are most of a model; what they compute depends on the picture."""

STEPS = frozenset({"Cast", "DequantizeLinear", "Identity", "Reshape", "Transpose"})
"""Ops that often stand between weights and their layer."""

FEW = 64
"""Elements that are read whatever they are for: the factors of an expected value, say."""


def _tells_more_than_a_layer(index: Index, tensor: onnx.TensorProto) -> bool:
    """Whether data beside the model are worth reading: all but the weights of the backbone."""
    size = math.prod(tensor.dims)
    if size <= FEW or size > STORED_LIMIT:
        return bool(size <= FEW)
    todo, seen = [tensor.name], set[str]()
    while todo:
        name = todo.pop()
        readers = [index.graph.node[i] for i in index.consumers.get(name, ())]
        for node in readers:
            if node.op_type in STEPS and node.input[:1] == [name]:
                todo += [made for made in node.output if made not in seen]
                seen.update(node.output)
            elif node.op_type not in LAYERS or name not in node.input:
                return True
    return False


def _as_in(like: Scope | None, name: str, fact: Fact) -> Fact:
    """The other scope's fact where it says the same of a value that is not known."""
    other = like.facts.get(name) if like is not None else None
    if other is None or other.value is not None or fact.value is not None:
        return fact
    return other if (other.shape, other.elem_type) == (fact.shape, fact.elem_type) else fact


def _infer_bodies(
    scope: Scope,
    interpreter: Interpreter,
    i: int,
    node: onnx.NodeProto,
    rows: int,
    like: Scope | None,
) -> list[Fact]:
    """Outputs of If: what both bodies agree on; of Loop and Scan: what is carried, then stacked."""
    graphs = [g for a in node.attribute for g in subgraphs_of(a)]
    results = []
    for k, graph in enumerate(graphs):
        if (i, k) not in scope.children:
            scope.children[i, k] = Scope(graph, scope, (*scope.place, i, k))
        body = scope.children[i, k]
        same = like.children.get((i, k)) if like is not None else None
        infer_all(body, interpreter, {}, rows=rows, like=same)
        if not _bind_inputs(scope, body, node, interpreter):
            results.append([body.old(o.name) for o in graph.output])
            continue
        for value in graph.input:
            body.facts[value.name] = _as_in(same, value.name, body.facts[value.name])
        infer_all(body, interpreter, {}, keep_inputs=True, rows=rows, like=same)
        if _loosen(body, node):
            infer_all(body, interpreter, {}, keep_inputs=True, rows=rows)
        body.iterations = iterations(interpreter, scope, body, node)
        results.append([body.old(o.name) for o in graph.output])
    if node.op_type == "If":
        return [merged(pair) for pair in zip(*results, strict=True)]
    body = scope.children[i, 0]
    known = body.iterations
    extent = known.count if known is not None and known.sure else None
    if node.op_type == "Loop":
        return stacked_facts(node, results[0][1:], len(node.input) - 2, extent)
    if interpreter.opsets[""] < PLAIN_SCAN:
        return [UNKNOWN] * len(node.output)
    return stacked_facts(node, results[0], len(node.input) - _scan_inputs(node), extent)


PLAIN_SCAN = 9
"""Opset from which Scan has no batch axis of its own."""


def _scan_inputs(node: onnx.NodeProto) -> int:
    return int(attributes(node)["num_scan_inputs"])


def _bind_inputs(scope: Scope, body: Scope, node: onnx.NodeProto, interpreter: Interpreter) -> bool:
    """Give the body's inputs the shapes of what the node reads; whether it is a loop at all."""
    if node.op_type == "If" or (node.op_type == "Scan" and interpreter.opsets[""] < PLAIN_SCAN):
        return False
    shift = 2 if node.op_type == "Loop" else 0
    axes = {}
    if node.op_type == "Scan":
        axes = {inner: axis for _, inner, axis in scanned(node, body.graph)}
    for inner, outer in zip(body.graph.input[shift:], list(node.input)[shift:], strict=False):
        fact = scope.old(outer)
        shape = fact.shape
        if inner.name in axes and shape is not None:
            at = axes[inner.name] % len(shape)
            shape = shape[:at] + shape[at + 1 :]
        body.facts[inner.name] = Fact(shape, fact.elem_type)
    return True


def _loosen(body: Scope, node: onnx.NodeProto) -> bool:
    """Carried values that an iteration makes longer have no known extent there."""
    ins, outs = (2, 1) if node.op_type == "Loop" else (0, 0)
    carried = len(node.input) - (2 if node.op_type == "Loop" else _scan_inputs(node))
    changed = False
    for k in range(carried):
        name = body.graph.input[ins + k].name
        before, after = body.facts[name], body.old(body.graph.output[outs + k].name)
        loose = merged([before, after])
        if before.shape is not None and after.shape is not None and loose.shape != before.shape:
            body.facts[name] = Fact(loose.shape, before.elem_type)
            changed = True
    return changed


def stacked_facts(
    node: onnx.NodeProto, results: Sequence[Fact], carried: int, extent: int | None
) -> list[Fact]:
    """Facts of a Loop's or Scan's outputs from those of its body: scans get an axis of iterations."""
    axes = attributes(node).get("scan_output_axes") or [0] * (len(results) - carried)
    facts = [Fact(f.shape, f.elem_type) for f in results[:carried]]
    for fact, axis in zip(results[carried:], axes, strict=True):
        shape = fact.shape
        if shape is not None:
            at = axis % (len(shape) + 1)
            shape = (*shape[:at], extent, *shape[at:])
        facts.append(Fact(shape, fact.elem_type))
    return facts


def with_rows(fact: Fact, rows: int) -> Fact:
    """Extents that depend on what is found in the picture, taken as ``rows``."""
    if fact.shape is None:
        return fact
    shape = tuple(rows if d is None else d for d in fact.shape)
    return Fact(shape, fact.elem_type, fact.value)


def _merge(fact: Fact, declared: Fact | None) -> Fact:
    """What inference left open and the model's value_info states."""
    if declared is None:
        return fact
    if fact.shape is None:
        return Fact(declared.shape, fact.elem_type or declared.elem_type)
    if declared.shape is None or len(declared.shape) != len(fact.shape):
        return fact
    shape = tuple(a if a is not None else b
                  for a, b in zip(fact.shape, declared.shape, strict=True))  # fmt: skip
    return Fact(shape, fact.elem_type or declared.elem_type, fact.value)
