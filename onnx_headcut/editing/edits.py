"""The few kinds of edit that a cut consists of, as data; `apply.py` makes them.

An edit names a node by its `Place`. Edits are found by the trace and applied only when the whole
trace has succeeded.
"""

from __future__ import annotations

import zlib
from dataclasses import Field, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnx_headcut.graph.facts import UNKNOWN, Fact, of_array, same_fact
from onnx_headcut.graph.model import subgraphs_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onnx_headcut.graph.facts import Array
    from onnx_headcut.labels import Ints

Role = Literal["weight", "bias", "rest"]
Place = tuple[int, ...]
"""(i,) in the main graph; (i, a, j) for node j in the a-th subgraph of node i, and so on."""


EXAMPLE = {"example": True}
"""Of a field that tells of the example that an edit was found with."""


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
class Fill:
    """A new position ``at`` of a stored tensor, whose values no single old position has.

    They are the sum of old positions times weights (``terms``), plus ``shift``, plus normal noise
    of standard deviation ``std``, drawn by ``key``; or ``given``, with the axis taken away.
    """

    at: int
    terms: tuple[tuple[int, float], ...] = ()
    shift: float = 0.0
    std: float = 0.0
    key: tuple[int, ...] = ()
    given: Array | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Blend(Select):
    """A `Select` some of whose new positions are made of several old ones, or begin anew.

    ``ids`` are the classes of the old positions, ``role`` says what it is of the head: its weight,
    the bias with which new classes begin, or the ``rest`` of several biases.
    """

    fills: tuple[Fill, ...] = ()
    ids: tuple[int, ...] = ()
    role: Role = "weight"

    def describe(self) -> str:
        made = f"{len(self.fills)} of them blended or new"
        return f"input {self.input}: {len(self.take)} positions of axis {self.axis}, {made}"

    def of(self, stored: Array, name: str) -> Array:
        """The new tensor, from the ``stored`` one called ``name``; in float64 on the way."""
        new = stored.take(self.take, self.axis)
        for fill in self.fills:
            shape = np.delete(stored.shape, self.axis)
            value = np.zeros(shape) if fill.given is None else np.asarray(fill.given, np.float64)
            for position, weight in fill.terms:
                value = value + weight * stored.take(position, self.axis).astype(np.float64)
            if fill.std:
                rng = np.random.default_rng([*fill.key, zlib.crc32(name.encode())])
                value = value + rng.normal(0, fill.std, shape)
            at = (slice(None),) * self.axis + (fill.at,)
            new[at] = (value + fill.shift).astype(stored.dtype)
        return new


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
class Begin(Replace):
    """A head without a bias gets one, with which new classes begin; ``ids`` as in `Blend`."""

    ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class BeginBehind(Edit):
    """As `Begin`, of a head that takes no bias: ``value`` is added to what the node makes."""

    value: Array = field(compare=False)
    ids: tuple[int, ...] = ()

    @property
    def key(self) -> tuple[Any, ...]:
        return (self.place, "bias")

    def describe(self) -> str:
        return f"a bias of {self.value.size} positions is added behind it"


Mixed = Blend | Begin | BeginBehind
"""What a class map makes of a head's tensors."""


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
class KeepOutputs(Edit):
    """A node with several outputs gives those of ``keep`` only, in this order."""

    keep: tuple[int, ...]

    @property
    def key(self) -> tuple[Any, ...]:
        return (self.place, "outputs")

    def describe(self) -> str:
        return f"gives {len(self.keep)} outputs"


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
class CopyInput(Edit):
    """A computed shape that others read as it was: the input gets one of its own, ``value``.

    ``makers`` are the numbers of the nodes that are copied, the Concat that puts the shape together
    first; its inputs ``parts`` become other constants.
    """

    input: int
    makers: tuple[int, ...]
    parts: Mapping[int, Array] = field(compare=False)
    value: Array = field(compare=False, metadata=EXAMPLE)

    @property
    def key(self) -> tuple[Any, ...]:
        return (self.place, "input", self.input)

    def describe(self) -> str:
        return f"input {self.input}: a copy that comes out as {_short(self.value)}"


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
    rounded: bool = False
    """A quantizer left the ids beside whole numbers."""

    @property
    def key(self) -> tuple[Any, ...]:
        return (self.place, "output", self.output, self.column)

    def describe(self) -> str:
        return f"output {self.output!r}: class ids looked up in {_short(self.table)}"


@dataclass(frozen=True)
class MapScores(Edit):
    """The scores ``value`` that the node makes go on as the new columns, and are left whole.

    New position ``q`` of ``axis`` is made of the old positions ``takes[k][q]``: of one as it is, or
    of several by ``merge``, where ``shares[k][q]`` is 0 for a member that is none. Nodes ``before``
    (of the main graph) read the whole scores; everybody else, the graph's outputs too, the new.
    """

    value: str
    axis: int
    before: frozenset[int]
    merge: str | None
    takes: tuple[Ints, ...] = field(compare=False)
    shares: tuple[Array, ...] = field(compare=False)

    @property
    def key(self) -> tuple[Any, ...]:
        return (self.place, "scores", self.value)

    def describe(self) -> str:
        how = f", the {self.merge} of up to {len(self.takes)}" if self.merge else ""
        return (f"scores {self.value!r} stay whole; Gather of {len(self.takes[0])} positions of axis "
                f"{self.axis} behind them{how}")  # fmt: skip


@dataclass(frozen=True)
class Redeclare(Edit):
    """Values of a ``body`` of the node are declared with the shapes that they have after the cut."""

    body: int
    changed: Mapping[str, tuple[Fact, Fact]] = field(compare=False, metadata=EXAMPLE)

    @property
    def key(self) -> tuple[Any, ...]:
        return (self.place, "declared", self.body)

    def describe(self) -> str:
        return f"declares {len(self.changed)} values of a body with their new shapes"


def same(a: Edit, b: Edit) -> bool:
    """Equality by value, of all that the edits say."""
    return type(a) is type(b) and all(_equal(*both) for both in _values(a, b, fields(a)))


def alike(a: Edit, b: Edit) -> bool:
    """Equality but for what the edits say of the example that they were found with."""
    told = [f for f in fields(a) if f.metadata != EXAMPLE]
    return type(a) is type(b) and all(_equal(*both) for both in _values(a, b, told))


def _values(a: Any, b: Any, told: Sequence[Field[Any]]) -> list[tuple[Any, Any]]:
    return [(getattr(a, f.name), getattr(b, f.name)) for f in told]


def _equal(a: Any, b: Any) -> bool:
    """Equality of what edits hold: numbers, texts, arrays, tensors, facts, and collections of them."""
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        x, y = np.asarray(a), np.asarray(b)
        return np.array_equal(x, y, equal_nan=x.dtype.kind == y.dtype.kind == "f")
    if isinstance(a, Fact) and isinstance(b, Fact):
        return same_fact(a, b)
    if isinstance(a, Fill) and isinstance(b, Fill):
        return all(_equal(*both) for both in _values(a, b, fields(a)))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(_equal, a, b))
    if isinstance(a, onnx.TensorProto) and isinstance(b, onnx.TensorProto):
        return bool(a.SerializeToString() == b.SerializeToString())
    return bool(a == b)


def _short(value: Array) -> str:
    text = np.array2string(np.asarray(value), separator=", ", threshold=12, edgeitems=4)
    return " ".join(text.split())


def edited(
    node: onnx.NodeProto, inputs: Sequence[Fact], mine: Sequence[Edit]
) -> tuple[onnx.NodeProto, list[Fact]]:
    """``node`` and its inputs' facts as they will be after its edits ``mine``."""
    if not mine:
        return node, list(inputs)
    new, facts = onnx.NodeProto(), list(inputs)
    new.CopyFrom(node)
    for edit in mine:
        if isinstance(edit, Select | GatherInput):
            facts[edit.input] = facts[edit.input].taken(edit.axis, edit.take)
        elif isinstance(edit, Replace | CopyInput):
            while len(facts) <= edit.input:
                facts.append(UNKNOWN)
                new.input.append("")
            facts[edit.input] = of_array(edit.value)
        elif isinstance(edit, SetAttribute):
            kept = [a for a in new.attribute if a.name != edit.name]
            del new.attribute[:]
            new.attribute.extend(kept)
            if edit.value is not None:
                new.attribute.append(helper.make_attribute(edit.name, edit.value))
    # one name may stand at several inputs, of which one is edited: names here are only for facts
    for k, fact in enumerate(facts):
        if k < len(inputs) and fact is inputs[k]:
            continue
        new.input[k] = f"{node.input[k] if k < len(node.input) else ''}·{k}"
    for fewer in (e for e in mine if isinstance(e, KeepInputs | KeepOutputs)):
        leave_out(new, fewer)
        facts = [facts[k] for k in fewer.keep] if isinstance(fewer, KeepInputs) else facts
    return new, facts


def leave_out(node: onnx.NodeProto, edit: KeepInputs | KeepOutputs) -> None:
    """Make such an edit in the node itself."""
    names = node.input if isinstance(edit, KeepInputs) else node.output
    kept = [names[k] for k in edit.keep]
    del names[:]
    names.extend(kept)


def graphs_at(graph: onnx.GraphProto, place: Place) -> list[onnx.GraphProto]:
    """The graph that holds the node at ``place`` and those around it, inner ones first."""
    return [node_at(graph, place[:end])[0] for end in range(len(place), 0, -2)]


def node_at(graph: onnx.GraphProto, place: Place) -> tuple[onnx.GraphProto, onnx.NodeProto]:
    """The node at ``place`` and the graph that holds it."""
    node = graph.node[place[0]]
    for step in range(1, len(place), 2):
        graph = [g for a in node.attribute for g in subgraphs_of(a)][place[step]]
        node = graph.node[place[step + 1]]
    return graph, node
