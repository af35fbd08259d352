"""The few kinds of edit that a cut consists of, as data; `apply.py` makes them.

An edit names a node by its `Place`. Edits are found by the trace and applied only when the whole
trace has succeeded.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import numpy_helper

from onnx_headcut.model import subgraphs_of

if TYPE_CHECKING:
    from onnx_headcut.facts import Array
    from onnx_headcut.labels import Ints

Place = tuple[int, ...]
"""(i,) in the main graph; (i, a, j) for node j in the a-th subgraph of node i, and so on."""


@dataclass(frozen=True)
class Edit:
    """Base: one change to the node at ``place``."""

    place: Place

    @property
    def key(self) -> tuple[Any, ...]:
        """What is changed; two edits with one key must be equal."""
        raise NotImplementedError  # pragma: no cover  every kind has its own

    def describe(self) -> str:
        """One line for a person."""
        raise NotImplementedError  # pragma: no cover


@dataclass(frozen=True)
class Select(Edit):
    """A stored input keeps the positions ``take`` of ``axis`` only."""

    input: int
    axis: int
    take: Ints = field(compare=False)

    @property
    def key(self) -> tuple[Any, ...]:
        return (self.place, "input", self.input)

    def describe(self) -> str:
        return f"input {self.input}: keep {len(self.take)} positions of axis {self.axis}"


@dataclass(frozen=True)
class Replace(Edit):
    """A small constant input (shape, bounds, index, label) gets the value ``value``."""

    input: int
    value: Array = field(compare=False)

    @property
    def key(self) -> tuple[Any, ...]:
        return (self.place, "input", self.input)

    def describe(self) -> str:
        return f"input {self.input} becomes {_short(self.value)}"


@dataclass(frozen=True)
class SetAttribute(Edit):
    """An attribute gets another value; None removes it."""

    name: str
    value: Any = field(compare=False)

    @property
    def key(self) -> tuple[Any, ...]:
        return (self.place, "attribute", self.name)

    def describe(self) -> str:
        value = self.value
        if value is None:
            return f"attribute {self.name} goes"
        if isinstance(value, onnx.TensorProto):
            value = numpy_helper.to_array(value)
        return f"attribute {self.name} becomes {_short(np.asarray(value))}"


@dataclass(frozen=True)
class KeepInputs(Edit):
    """A variadic node keeps the inputs ``keep`` only, in this order."""

    keep: tuple[int, ...]

    @property
    def key(self) -> tuple[Any, ...]:
        return (self.place, "inputs")

    def describe(self) -> str:
        return f"keeps {len(self.keep)} inputs"


@dataclass(frozen=True)
class GatherInput(Edit):
    """A computed input passes through a Gather of the positions ``take`` of ``axis``."""

    input: int
    axis: int
    take: Ints = field(compare=False)

    @property
    def key(self) -> tuple[Any, ...]:
        return (self.place, "input", self.input)

    def describe(self) -> str:
        return f"input {self.input}: Gather of {len(self.take)} positions of axis {self.axis}"


@dataclass(frozen=True)
class MapOutput(Edit):
    """A graph output of class ids is translated: value ``v`` becomes ``table[v - low]``.

    Where the ids are one ``column`` of a table of detections with ``width`` columns on ``axis``,
    only that column is.
    """

    output: str
    low: int
    table: Array = field(compare=False)
    column: int | None = None
    axis: int = 0
    width: int = 0

    @property
    def key(self) -> tuple[Any, ...]:
        return (self.place, "output", self.output, self.column)

    def describe(self) -> str:
        return f"output {self.output!r}: class ids looked up in {_short(self.table)}"


def same(a: Edit, b: Edit) -> bool:
    """Equality by value, arrays included."""
    if type(a) is not type(b) or a != b:
        return False
    if isinstance(a, Select | GatherInput) and isinstance(b, Select | GatherInput):
        return np.array_equal(a.take, b.take)
    if isinstance(a, Replace) and isinstance(b, Replace):
        return np.array_equal(a.value, b.value)
    if isinstance(a, SetAttribute) and isinstance(b, SetAttribute):
        return bool(_plain(a.value) == _plain(b.value))
    if isinstance(a, MapOutput) and isinstance(b, MapOutput):
        return np.array_equal(a.table, b.table)
    return True


def _plain(value: Any) -> Any:
    return value.SerializeToString() if isinstance(value, onnx.TensorProto) else value


def _short(value: Array) -> str:
    text = np.array2string(np.asarray(value), separator=", ", threshold=12, edgeitems=4)
    return " ".join(text.split())


def node_at(graph: onnx.GraphProto, place: Place) -> tuple[onnx.GraphProto, onnx.NodeProto]:
    """The node at ``place`` and the graph that holds it."""
    node = graph.node[place[0]]
    for step in range(1, len(place), 2):
        graph = [g for a in node.attribute for g in subgraphs_of(a)][place[step]]
        node = graph.node[place[step + 1]]
    return graph, node
