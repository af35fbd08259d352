"""One graph with what is known of its values: facts, marks, and what depends on nothing but weights.

A `Scope` is the main graph, or the body of an If, Loop or Scan. Names not found in a body are looked
up in the graph around it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from onnx_headcut.graph.facts import UNKNOWN, Fact, same_fact
from onnx_headcut.graph.model import Index, captures, has_bodies
from onnx_headcut.labels import Whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import onnx

    from onnx_headcut.graph.facts import Array
    from onnx_headcut.graph.iterations import Iterations
    from onnx_headcut.labels import Mark, Selection


@dataclass
class Scope:
    """One graph and what is known of its values; ``place`` leads to it from the main graph."""

    graph: onnx.GraphProto
    parent: Scope | None = None
    place: tuple[int, ...] = ()
    index: Index = field(init=False)
    facts: dict[str, Fact] = field(default_factory=dict)
    after: dict[str, Fact] = field(default_factory=dict)
    marks: dict[str, Mark] = field(default_factory=dict)
    children: dict[tuple[int, int], Scope] = field(default_factory=dict)
    """Bodies of If, Loop and Scan, by node number and number of the body."""
    tables: dict[str, list[Array]] = field(default_factory=dict)
    """In a body that is being traced: values that depend on the number of the iteration alone."""
    iterations: Iterations | None = None
    """Of the body of a Loop or Scan: how often it runs, where that is known."""
    fixed: dict[str, bool] = field(default_factory=dict)
    """What `is_fixed` found."""
    rows: int = 0
    """How many rows ops are taken to find in this example's pictures (NonZero, NonMaxSuppression)."""
    otherwise: Callable[[], Scope] | None = None
    """Of the main graph: makes the same scope for other example extents."""
    _twin: Scope | None = None

    def __post_init__(self) -> None:
        self.index = Index(self.graph)

    def old(self, name: str) -> Fact:
        """What is known of ``name`` in the original."""
        if name in self.facts:
            return self.facts[name]
        return self.parent.old(name) if self.parent else UNKNOWN

    def new(self, name: str) -> Fact:
        """What is known of ``name`` in the cut graph; the same object where nothing changes."""
        if name in self.after:
            return self.after[name]
        if name in self.facts or self.parent is None:
            return self.old(name)
        return self.parent.new(name)

    def mark(self, name: str) -> Mark | None:
        """The mark of ``name``."""
        if name in self.marks or name in self.facts or self.parent is None:
            return self.marks.get(name)
        return self.parent.mark(name)

    def node_of(self, name: str) -> onnx.NodeProto | None:
        """The node that makes ``name`` in this scope or around it."""
        node = self.index.node_of(name)
        if node is None and self.parent is not None and name not in self.facts:
            return self.parent.node_of(name)
        return node

    def home(self, name: str) -> tuple[Scope, int] | None:
        """The scope and number of the node that makes ``name``, here or around."""
        at = self.index.producer.get(name)
        if at is not None:
            return self, at
        if self.parent is None or name in self.facts:
            return None
        return self.parent.home(name)

    def exact(self, name: str) -> Fact:
        """What is known of ``name`` in the original whatever the batch, the size and the picture."""
        fact, other = self.old(name), self.twin.old(name)
        if fact.shape is None or other.shape is None or len(fact.shape) != len(other.shape):
            return Fact(None, fact.elem_type)
        shape = tuple(a if a == b else None for a, b in zip(fact.shape, other.shape, strict=True))
        return Fact(shape, fact.elem_type)

    @property
    def twin(self) -> Scope:
        """The same scope for another batch, size and picture."""
        if self._twin is None:
            if self.parent is not None:
                i, k = self.place[-2:]
                self._twin = self.parent.twin.children[i, k]
            else:
                self._twin = self.otherwise() if self.otherwise is not None else self
        return self._twin

    def forget(self) -> None:
        """Forget marks and facts of an earlier trace, in bodies too."""
        self.marks.clear()
        self.after.clear()
        for child in self.children.values():
            child.forget()

    def touched(self, names: Iterable[str]) -> bool:
        """Whether one of ``names`` has a mark, or is not what it was."""
        for name in names:
            scope: Scope | None = self
            while scope is not None:
                if name in scope.marks or name in scope.after:
                    return True
                scope = None if name in scope.facts else scope.parent
        return False

    def captures_marks(self, node: onnx.NodeProto) -> bool:
        """Whether a subgraph of ``node`` reads a marked value by outer scope."""
        return any(self.mark(n) is not None for n in captures(node))

    def is_dead(self, name: str, selection: Selection) -> bool:
        """Whether ``name`` belongs to a class that goes."""
        mark = self.mark(name)
        return isinstance(mark, Whole) and mark.cls not in selection.column

    def set_marks(self, node: onnx.NodeProto, marks: Sequence[Mark | None]) -> None:
        """Marks of a node's outputs."""
        for name, mark in zip(node.output, marks, strict=False):
            if name and mark is not None:
                self.marks[name] = mark

    def set_new(self, node: onnx.NodeProto, facts: Sequence[Fact]) -> None:
        """Facts of a node's outputs in the cut graph; equal ones are not kept twice."""
        for name, fact in zip(node.output, facts, strict=False):
            if name and not same_fact(fact, self.facts.get(name, UNKNOWN)):
                self.after[name] = fact
            else:
                self.after.pop(name, None)


def is_stored(scope: Scope, name: str) -> bool:
    """Whether ``name`` is an initializer or a Constant, perhaps behind Identity."""
    if name in scope.index.initializers:
        return True
    node = scope.node_of(name)
    if node is None:
        return scope.parent is not None and name not in scope.facts and is_stored(scope.parent, name)
    if node.op_type == "Identity":
        return is_stored(scope, node.input[0])
    return node.op_type == "Constant" and any(a.name == "value" for a in node.attribute)


def is_fixed(scope: Scope, name: str) -> bool:
    """Whether ``name`` depends on nothing but stored tensors and attributes."""
    if name not in scope.fixed:
        todo, seen = [name], set[str]()
        while todo:
            value = todo.pop()
            if not value or value in seen or scope.fixed.get(value, False):
                continue
            seen.add(value)
            if is_stored(scope, value):
                continue
            node = scope.node_of(value)
            if value in scope.fixed or node is None or has_bodies(node):
                scope.fixed[name] = False
                return False
            todo += node.input
        scope.fixed |= dict.fromkeys([name, *seen], True)
    return scope.fixed[name]
