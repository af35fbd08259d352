"""Candidate heads: nodes with weights behind which no other node with weights comes.

Behind a layer of the backbone other layers follow: what it gives are features. What a candidate gives
may be scores, boxes, masks: that is not decided here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from onnx_headcut.errors import CallReached
from onnx_headcut.graph.model import captures
from onnx_headcut.graph.ops import ACTIVATIONS, KEEPING, MIXING, MOVING, PASSING, REDUCING, WEIGHTED
from onnx_headcut.graph.plain import plain, simple
from onnx_headcut.graph.scope import is_fixed
from onnx_headcut.rules.heads import channel_axis

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx

    from onnx_headcut.graph.facts import Array
    from onnx_headcut.graph.interpreter import Interpreter
    from onnx_headcut.graph.scope import Scope


PRODUCTS = frozenset({"Einsum", "MatMul"})
"""Ops whose operands may all be computed."""


@dataclass(frozen=True)
class Leaf:
    """A candidate head: node number, its output, and where the numbers of its places start."""

    node: int
    value: str
    shape: tuple[int, ...]
    axis: int
    start: int
    activation: str = ""
    """What the node itself applies to its scores (FusedConv)."""

    @property
    def places(self) -> int:
        """Number of elements of one channel."""
        return math.prod(self.shape) // max(self.shape[self.axis], 1)

    @property
    def grid(self) -> tuple[int, ...]:
        """Its axes but the channels'."""
        return *self.shape[: self.axis], *self.shape[self.axis + 1 :]

    def numbers(self, bits: int, dtype: type[np.integer[Any]]) -> Array:
        """Number every element: its place (unique among all heads), then ``bits`` for its channel."""
        apart = [1 if a == self.axis else n for a, n in enumerate(self.shape)]
        along = [n if a == self.axis else 1 for a, n in enumerate(self.shape)]
        places = np.arange(self.start, self.start + self.places, dtype=dtype).reshape(apart)
        return (places << bits) | np.arange(self.shape[self.axis], dtype=dtype).reshape(along)


class Candidates:
    """The candidate heads of a graph; raises CallReached for local functions that may hide one."""

    def __init__(self, scope: Scope, interpreter: Interpreter) -> None:
        self.scope, self.interpreter = scope, interpreter
        self.unread: list[int] = []
        """Nodes with weights that only ops which mix their channels follow: numbers end there."""
        self.deep: set[str] = set()
        """Values that reach a node with weights, by whatever ops: attention, reference points."""
        self._hidden: dict[str, bool] = {}
        for node in reversed(scope.graph.node):
            for name in node.output:
                self._hidden[name] = self._is_hidden(name)
            if self._is_layer(node) or not self.deep.isdisjoint(node.output):
                self.deep.update([*node.input, *captures(node)])
        self._refuse_calls()

    def leaves(self) -> Iterator[Leaf]:
        """The candidates in the graph's order, and what comes to be ``unread`` on the way."""
        start = 0
        for i, original in enumerate(self.scope.graph.node):
            form = plain(original)
            node = original if form is None else form.node
            if node.op_type not in WEIGHTED or not node.output:
                continue
            if self._hidden[node.output[0]]:
                if node.output[0] not in self.deep and self._is_fixed(node.input[1]):
                    self.unread.append(i)
                continue
            if self._is_no_layer(node):
                continue
            shape = self.scope.old(node.output[0]).static
            weight_first = node.op_type == "MatMul" and self._is_fixed(node.input[0])
            if shape is None or len(shape) < 2 or not (weight_first or self._is_fixed(node.input[1])):
                continue
            axis = channel_axis(original, len(shape), weight_first=weight_first)
            leaf = Leaf(i, node.output[0], shape, axis, start, form.activation if form else "")
            yield leaf
            start += leaf.places

    @cached_property
    def layers(self) -> set[tuple[str, str]]:
        """Local functions with a weighted node in them, or in what they call."""
        found: set[tuple[str, str]] = set()
        before = -1
        while len(found) > before:
            before = len(found)
            for name, function in self.interpreter.functions.items():
                calls = {(n.domain, n.op_type) for n in function.node}
                if calls & found or any(simple(n).op_type in WEIGHTED for n in function.node):
                    found.add(name)
        return found

    def _refuse_calls(self) -> None:
        """Say which calls have weights in them and may make the class scores."""
        nodes = self.scope.graph.node
        found = [i for i, node in enumerate(nodes) if (node.domain, node.op_type) in self.layers
                 and not all(self._hidden[o] for o in node.output)]  # fmt: skip
        if found:
            first = nodes[found[0]]
            raise CallReached(
                "a local function with weights in it may make the class scores",
                [(i,) for i in found],
                node=first.name or first.output[0],
                op=first.op_type,
            )

    def _is_layer(self, node: onnx.NodeProto) -> bool:
        """Whether it has weights of its own, or calls what has."""
        form = simple(node)
        if form.op_type not in WEIGHTED:
            return (node.domain, node.op_type) in self.layers
        return any(map(self._is_fixed, form.input[:2])) and not self._is_no_layer(form)

    def _is_hidden(self, name: str) -> bool:
        """Whether ``name`` reaches another node with weights by ops that keep features features."""
        for i in self.scope.index.consumers.get(name, ()):
            node = simple(self.scope.graph.node[i])
            at = [k for k, n in enumerate(node.input) if n == name]
            if not at and name in self.scope.graph.node[i].input:
                continue  # a scale or a zero point
            if (node.domain, node.op_type) in self.layers:
                return True
            weighs = is_product(self.scope, node) and self._is_activated(name)
            if node.op_type in WEIGHTED | MIXING and not (weighs or self._is_no_layer(node)):
                return True
            if node.op_type in {"RoiAlign", "MaxRoiPool"} and 0 in at:
                return True
            data = node.op_type != "Gather" or 0 in at
            called = (node.domain, node.op_type) in self.interpreter.functions
            passing = node.op_type in MOVING | PASSING | REDUCING and node.op_type != "Where"
            further = any(self._hidden.get(o, False) for o in node.output)
            if further and (called or weighs or (passing and data)):
                return True
        return False

    def _is_activated(self, name: str) -> bool:
        """Whether it holds activated scores, as they are or moved: a product weighs others by them."""
        maker = self.scope.node_of(name)
        while maker is not None and maker.op_type in MOVING | KEEPING:
            maker = self.scope.node_of(maker.input[0])
        return maker is not None and simple(maker).op_type in ACTIVATIONS

    def _is_no_layer(self, node: onnx.NodeProto) -> bool:
        return self._is_expectation(node) or is_conversion(self.scope, node)

    def _is_expectation(self, node: onnx.NodeProto) -> bool:
        """Whether its weights are 0, 1, 2, …: the mean of a distribution (DFL), no layer."""
        weight = self.scope.old(node.input[1]).value if len(node.input) > 1 else None
        if weight is None or weight.size < 2 or weight.size != max(weight.shape):
            return False
        return bool((weight.ravel() == np.arange(weight.size)).all())

    def _is_fixed(self, name: str) -> bool:
        return is_fixed(self.scope, name)


def is_product(scope: Scope, node: onnx.NodeProto) -> bool:
    """Whether it multiplies what is computed with what is computed: it has no weights."""
    return node.op_type in PRODUCTS and not any(is_fixed(scope, n) for n in node.input)


def is_conversion(scope: Scope, node: onnx.NodeProto) -> bool:
    """Whether its weights make corners of centre and size, or the other way round: 4 x 4 halves."""
    weight = scope.old(node.input[1]).value if node.op_type == "MatMul" else None
    if weight is None or weight.shape[-2:] != (4, 4) or weight.size != 16:
        return False
    return bool(np.isin(weight, (-1, -0.5, 0, 0.5, 1)).all())
