"""The front of exact scores: where a class map is applied to scores as they are, heads left whole.

With ``--scores renormalized`` labels start at the heads' outputs. With ``exact`` they start behind
the activation: each *front* is a tensor of activated scores (one for each level, or one behind a
softmax over all), and the cut model picks its columns there. What leads to a front stays as it is.
Where something else reads class scores on the way there (raw logits that are an output, too), it
gets a front of its own, so that every reader of classes is behind one.

A front of integers is picked from as it is. A softmax or sigmoid whose result is quantized at once
has its front behind that, since runtimes fuse the three to one op, and would round otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto, helper

from onnx_headcut.editing import edits as ed
from onnx_headcut.errors import GraphRefused, UsageError
from onnx_headcut.graph.model import captures
from onnx_headcut.labels import NONE, Labels, Rows, Site

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx

    from onnx_headcut.classes.mapping import ClassMap, Merge
    from onnx_headcut.graph.analysis import Analysis
    from onnx_headcut.graph.facts import Array
    from onnx_headcut.graph.scope import Scope
    from onnx_headcut.labels import Activation, Ints, Mark
    from onnx_headcut.tracing.view import View

FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE})

SHAPES = frozenset({"Shape", "Size"})

RENORMALIZED = "say --scores renormalized to make the cut in the heads"


@dataclass(frozen=True)
class Front:
    """Tensors of the main graph at which a map is applied, and the nodes that lead to them.

    ``sites`` are the fronts, ``before`` the numbers of nodes that stay as they are. Of the fronts
    ``asked``, only the shape is read.
    """

    sites: tuple[Site, ...]
    before: frozenset[int]
    asked: frozenset[str]
    wanted: ClassMap

    def site(self, value: str) -> Site | None:
        """The front at ``value``, if there is one."""
        return next((s for s in self.sites if s.value == value), None)

    def edit(self, view: View, site: Site, take: Ints) -> ed.MapScores:
        """The edit that makes the new columns behind the node that makes ``site``."""
        members = _members(np.array(site.ids), take, self.wanted)
        merge = self.wanted.merge if len(members) > 1 else None
        if merge is not None:
            self._check(view, site)
        fact = view.scope.old(site.value)
        along = [-1] + [1] * (len(fact.shape or ()) - site.axis - 1)
        dtype = helper.tensor_dtype_to_np_dtype(fact.elem_type) if merge else np.int64
        return ed.MapScores(
            view.place, site.value, site.axis, self.before, merge,
            tuple(np.where(m < 0, take, m) for m in members),
            tuple((m >= 0).astype(dtype).reshape(along) for m in members),
        )  # fmt: skip

    def _check(self, view: View, site: Site) -> None:
        """Refuse to merge what are no probabilities of one scale."""
        if view.scope.old(site.value).elem_type not in FLOATS:
            view.refuse(f"its scores {site.value!r} are integers, which cannot be merged",
                        "merge in the float model, and quantize that")  # fmt: skip
        if site.activation == "none":
            view.refuse(f"its scores {site.value!r} are no probabilities, so they cannot be merged",
                        RENORMALIZED)  # fmt: skip


def front_of(
    analysis: Analysis, marks: Mapping[str, Mark], fronts: Sequence[Site], wanted: ClassMap
) -> Front:
    """The front of ``wanted``; ``marks`` are those of a trace that keeps everything.

    ``fronts`` are the tensors behind activations that the way back from the outputs met. Those
    that lead to another one (scores by which queries are picked) stay whole.
    """
    scope = analysis.main
    merges = any(row.merged for row in wanted.rows)  # which integers cannot be
    settled = {s.value: s for s in (s if merges else _quantized(scope, s) for s in fronts)}
    upstream = {value: _upstream(scope, value) for value in settled}
    makers = {value: scope.index.producer[value] for value in settled}
    last = [v for v in settled if not any(makers[v] in upstream[o] for o in settled if o != v)]
    before = frozenset().union(*(upstream[v] for v in last))
    before |= _without_classes(analysis, marks, frozenset(last))
    sites, asked = [settled[v] for v in last], set[str]()
    for i in sorted(before):
        for value in scope.graph.node[i].output:
            readers = [r for r in scope.index.consumers.get(value, ()) if r not in before]
            is_output = value in scope.index.outputs
            if value in last or not _has_classes(marks.get(value)) or not (readers or is_output):
                continue
            sites.append(_side_site(scope.graph.node[i], value, marks[value]))
            if not is_output and all(scope.graph.node[r].op_type in SHAPES for r in readers):
                asked.add(value)
    return Front(tuple(sites), before, frozenset(asked), wanted)


def exact_map(wanted: ClassMap, fronts: Sequence[Site], merge: Merge | None) -> ClassMap:
    """``wanted`` to be applied behind the activation; probabilities of a softmax are added.

    Raises UsageError for classes that no score stands for.
    """
    for row in wanted.rows:
        if row.new:
            raise UsageError(
                f"--scores exact: {row.name or row.template!r} needs weights, and heads stay whole",
                advice=f"{RENORMALIZED}, where new classes have weights of their own",
            )
    if all(not row.merged for row in wanted.rows):
        return replace(wanted, exact=True)
    usual: Merge = "sum" if any(s.activation == "softmax" for s in fronts) else "max"
    return replace(wanted, exact=True, merge=merge or usual)


def _quantized(scope: Scope, site: Site) -> Site:
    """The front behind a QuantizeLinear that alone reads it."""
    readers = scope.index.consumers.get(site.value, [])
    if len(readers) != 1 or site.value in scope.index.outputs:
        return site
    reader = scope.graph.node[readers[0]]
    quantizes = reader.op_type == "QuantizeLinear" and reader.input[0] == site.value
    scale = scope.old(reader.input[1]).static if quantizes else None
    return site if scale is None or np.prod(scale) != 1 else replace(site, value=reader.output[0])


def _upstream(scope: Scope, value: str) -> frozenset[int]:
    """Numbers of the nodes that ``value`` is computed by."""
    todo, found = [value], set[int]()
    while todo:
        at = scope.index.producer.get(todo.pop())
        if at is None or at in found:
            continue
        found.add(at)
        node = scope.graph.node[at]
        todo += [*node.input, *captures(node)]
    return frozenset(found)


def _without_classes(analysis: Analysis, marks: Mapping[str, Mark], fronts: frozenset[str]) -> set[int]:
    """Nodes not behind ``fronts`` that read class scores and hand no classes on: boxes beside them."""
    index, nodes = analysis.main.index, analysis.main.graph.node
    found, later = set[int](), set(fronts)
    read = [frozenset([*node.input, *captures(node)]) for node in nodes]
    for node, names in zip(nodes, read, strict=True):
        if not later.isdisjoint(names):
            later.update(node.output)
    for i in reversed(range(len(nodes))):
        node = nodes[i]
        if not later.isdisjoint(read[i]) or marks.keys().isdisjoint(read[i]):
            continue
        if node.op_type in SHAPES:
            if _asks_for_others(analysis, node, marks.get(node.input[0])):
                found.add(i)
        elif all(
            not (_has_classes(marks.get(o)) or isinstance(marks.get(o), Rows))
            or (o not in index.outputs and found.issuperset(index.consumers[o]))
            for o in node.output
        ):
            found.add(i)
    return found


def _asks_for_others(analysis: Analysis, node: onnx.NodeProto, mark: Mark | None) -> bool:
    """Whether of a tensor's extents, only those of other axes than the class axis are read."""
    scope = analysis.main
    shape = scope.old(node.input[0]).shape
    if not isinstance(mark, Labels) or shape is None or node.attribute or node.op_type == "Size":
        return False
    axes = np.arange(len(shape))
    for i in scope.index.consumers.get(node.output[0], ()):
        reader = scope.graph.node[i]
        if reader.op_type not in {"Gather", "Slice"} or reader.input[0] != node.output[0]:
            return False
        rest = [scope.old(n).value for n in reader.input[1:]]
        if any(v is None for v in rest):
            return False
        if mark.axis in analysis.interpreter.run(reader, [axes, *rest])[0]:
            return False
    return node.output[0] not in scope.index.outputs


def _has_classes(mark: Mark | None) -> bool:
    """Whether a reader has to be behind a front. Rows found by whole scores are what they were."""
    if isinstance(mark, Labels):
        return bool((mark.ids >= 0).any())
    return mark is not None and mark != Rows()


def _side_site(node: onnx.NodeProto, value: str, mark: Mark) -> Site:
    """A front of its own for those who read ``value`` beside what leads to the others."""
    if not isinstance(mark, Labels):
        raise GraphRefused(
            f"its output {value!r} knows the classes, and is read both before and behind the "
            "activated scores",
            node=node.name or value, op=node.op_type, advice=RENORMALIZED,
        )  # fmt: skip
    return behind(value, mark, "")


def behind(value: str, labels: Labels, op: str) -> Site:
    """The front behind the activation ``op`` (or none, "") that makes ``value``.

    Logarithms of probabilities are taken for scores without an activation: they do not add up.
    """
    kinds: dict[str, Activation]
    kinds = {"Softmax": "softmax", "Sigmoid": "sigmoid", "HardSigmoid": "sigmoid"}
    ids = np.where(labels.ids < 0, NONE, labels.ids)
    return Site(value, labels.axis, tuple(ids.tolist()), kinds.get(op, "none"), exact=True)


def _members(ids: Ints, take: Ints, wanted: ClassMap) -> Array:
    """Old positions of each new position's members, int64 of shape (members, new positions).

    A row's first member is at its own position ``take``; -1 stands where a row has fewer members
    than others.
    """
    rows = wanted.rows
    result = np.full((max(len(r.terms) if r.merged else 1 for r in rows), len(take)), -1)
    result[0] = take
    for new, j in enumerate(wanted.selection.columns_at(ids, take)):
        if j != NONE and rows[j].merged:
            anchor = np.flatnonzero(ids == rows[j].template).searchsorted(take[new])
            result[:, new] = -1
            for k, column in enumerate(rows[j].members):
                result[k, new] = np.flatnonzero(ids == column)[anchor]
    return result
