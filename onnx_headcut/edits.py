"""The few kinds of edit that a cut consists of, and applying them to a graph.

An edit names a node by its place: `Place` is the index path of the node from the main graph, with
(attribute name, graph number) steps into subgraphs. Edits are found by the trace and applied only
when the whole trace has succeeded. Constants are copied on write: a tensor with other users stays
as it is for them.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnx_headcut import model as files
from onnx_headcut.errors import GraphRefused

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

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
    """An attribute gets another value."""

    name: str
    value: Any = field(compare=False)

    @property
    def key(self) -> tuple[Any, ...]:
        return (self.place, "attribute", self.name)

    def describe(self) -> str:
        value = self.value
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
    """A graph output of class ids is translated: value ``v`` becomes ``table[v - low]``."""

    output: str
    low: int
    table: Array = field(compare=False)

    @property
    def key(self) -> tuple[Any, ...]:
        return (self.place, "output", self.output)

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


# -------------------------------------------------------------------------------------- applying


@dataclass
class Applied:
    """What applying did, for the report and for the structural proof."""

    nodes: set[str] = field(default_factory=set)
    """First output names of nodes that were changed, added or removed."""
    initializers: set[str] = field(default_factory=set)
    """Names of initializers that were changed, added or removed."""


def node_at(graph: onnx.GraphProto, place: Place) -> tuple[onnx.GraphProto, onnx.NodeProto]:
    """The node at ``place`` and the graph that holds it."""
    node = graph.node[place[0]]
    for step in range(1, len(place), 2):
        graph = [g for a in node.attribute for g in files.subgraphs_of(a)][place[step]]
        node = graph.node[place[step + 1]]
    return graph, node


def apply(
    proto: onnx.ModelProto, edits: Sequence[Edit], folder: Path | None = None
) -> Applied:
    """Make ``edits`` in ``proto`` itself, then drop what nothing uses any more.

    ``folder`` is where external data of changed tensors is read.
    """
    done = Applied()
    writer = _Writer(proto, folder, done)
    before = _live(proto.graph)
    resolved = [(edit, *node_at(proto.graph, edit.place)) for edit in edits]
    for edit, graph, node in resolved:
        if not isinstance(edit, KeepInputs):
            done.nodes.add(node.output[0])
            writer.write(edit, graph, node)
    for edit, _, node in resolved:
        if isinstance(edit, KeepInputs):
            done.nodes.add(node.output[0])
            kept = [node.input[i] for i in edit.keep]
            del node.input[:]
            node.input.extend(kept)
    writer.insert()
    _sweep(proto.graph, before, done)
    _forget_shapes(proto)
    return done


class _Writer:
    """Carries names and pending insertions while edits are written."""

    def __init__(self, proto: onnx.ModelProto, folder: Path | None, done: Applied) -> None:
        self.proto, self.folder, self.done = proto, folder, done
        self.names = _all_names(proto.graph)
        self.stored: dict[tuple[str, bytes], str] = {}
        self.pending: list[tuple[onnx.GraphProto, onnx.NodeProto, onnx.NodeProto]] = []
        self.last: list[tuple[onnx.GraphProto, onnx.NodeProto]] = []
        self.users = _users(proto.graph)
        self.wanted: dict[int, set[tuple[str, bytes]]] = defaultdict(set)

    def write(self, edit: Edit, graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
        if isinstance(edit, Select):
            tensor = self._stored_tensor(graph, node.input[edit.input])
            value = files.to_array(tensor, self.folder).take(edit.take, edit.axis)
            node.input[edit.input] = self._constant(node.input[edit.input], value, tensor)
        elif isinstance(edit, Replace):
            while len(node.input) <= edit.input:
                node.input.append("")
            node.input[edit.input] = self._constant(
                node.input[edit.input] or f"{node.output[0]}_headcut", edit.value, None
            )
        elif isinstance(edit, SetAttribute):
            kept = [a for a in node.attribute if a.name != edit.name]
            new = helper.make_attribute(edit.name, edit.value)
            if len(kept) == len(node.attribute):
                node.attribute.append(new)
            for attribute in node.attribute:
                if attribute.name == edit.name:
                    attribute.CopyFrom(new)
        elif isinstance(edit, GatherInput):
            index = self._constant(f"{node.output[0]}_kept", edit.take, None)
            out = self._fresh(f"{node.input[edit.input]}_kept")
            gather = helper.make_node(
                "Gather", [node.input[edit.input], index], [out], name=out, axis=edit.axis
            )
            node.input[edit.input] = out
            self.done.nodes.add(out)
            self.pending.append((graph, node, gather))
        elif isinstance(edit, MapOutput):
            self._map_output(edit, graph)

    def insert(self) -> None:
        for graph, before, new in self.pending:
            at = next(i for i, n in enumerate(graph.node) if n is before or n == before)
            graph.node.insert(at, new)
        for graph, new in self.last:
            graph.node.append(new)

    def _map_output(self, edit: MapOutput, graph: onnx.GraphProto) -> None:
        """Rename the producer's output and let a lookup make the graph output's name."""
        inner = self._fresh(f"{edit.output}_compact")
        for node in graph.node:
            for names in (node.input, node.output):
                for i, name in enumerate(names):
                    if name == edit.output:
                        names[i] = inner
        declared = next(o for o in graph.output if o.name == edit.output)
        elem_type = declared.type.tensor_type.elem_type
        table = edit.table.astype(helper.tensor_dtype_to_np_dtype(elem_type))
        steps = [
            ("Cast", [inner], {"to": onnx.TensorProto.INT64}),
            ("Sub", [None, self._constant(f"{edit.output}_low", np.int64(edit.low), None)], {}),
            ("Gather", [self._constant(f"{edit.output}_ids", table, None), None], {"axis": 0}),
        ]
        if edit.low == 0:
            del steps[1]
        if elem_type == onnx.TensorProto.INT64:
            del steps[0]
        value = inner
        for op, inputs, attributes in steps:
            out = edit.output if op == "Gather" else self._fresh(f"{edit.output}_{op.lower()}")
            names = [value if n is None else n for n in inputs]
            node = helper.make_node(op, names, [out], name=self._fresh(f"{out}_node"), **attributes)
            self.last.append((graph, node))
            self.done.nodes.add(out)
            value = out
        self.done.nodes.add(inner)

    def _stored_tensor(self, graph: onnx.GraphProto, name: str) -> onnx.TensorProto:
        found = stored_tensor(self.proto.graph, graph, name)
        if found is None:
            raise GraphRefused(f"{name!r} is not a stored tensor")  # pragma: no cover  planned so
        return found

    def _constant(self, name: str, value: Array, like: onnx.TensorProto | None) -> str:
        """Store ``value`` as an initializer of the main graph, once, and return its name."""
        value = np.asarray(value, order="C")  # ascontiguousarray would make scalars vectors
        content = (str(value.dtype) + str(value.shape), value.tobytes())
        key = (name, b"".join([content[0].encode(), content[1]]))
        if key not in self.stored:
            new = self._fresh(name)
            tensor = numpy_helper.from_array(value, new)
            if like is not None:
                tensor.data_type = like.data_type
                tensor.doc_string = like.doc_string
            self.proto.graph.initializer.append(tensor)
            if self.proto.ir_version < 4:  # initializers are inputs, too
                self.proto.graph.input.append(
                    helper.make_tensor_value_info(new, tensor.data_type, tensor.dims)
                )
            self.stored[key] = new
            self.done.initializers.add(new)
        return self.stored[key]

    def _fresh(self, name: str) -> str:
        candidate, n = f"{name}_cut", 2
        while candidate in self.names:
            candidate, n = f"{name}_cut{n}", n + 1
        self.names.add(candidate)
        return candidate


def stored_tensor(
    main: onnx.GraphProto, graph: onnx.GraphProto, name: str
) -> onnx.TensorProto | None:
    """The initializer or Constant behind ``name``, through Identity; None if it is computed."""
    for scope in (graph, main):
        for tensor in scope.initializer:
            if tensor.name == name:
                return tensor
        for node in scope.node:
            if name in node.output:
                if node.op_type == "Constant":
                    return next((a.t for a in node.attribute if a.name == "value"), None)
                if node.op_type == "Identity":
                    return stored_tensor(main, scope, node.input[0])
                return None
    return None


# ------------------------------------------------------------------------------- sweeping up


def _walk(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for sub in files.subgraphs_of(attribute):
                yield from _walk(sub)


def _all_names(graph: onnx.GraphProto) -> set[str]:
    names: set[str] = set()
    for g in _walk(graph):
        names |= {v.name for v in [*g.input, *g.output, *g.value_info]}
        names |= {t.name for t in g.initializer}
        names |= {name for node in g.node for name in [*node.input, *node.output, node.name]}
    return names


def _users(graph: onnx.GraphProto) -> dict[str, int]:
    users: dict[str, int] = defaultdict(int)
    for g in _walk(graph):
        for node in g.node:
            for name in node.input:
                users[name] += 1
    return users


def _live(graph: onnx.GraphProto) -> set[str]:
    """Names of values and initializers of the main graph that an output depends on."""
    producer = {o: node for node in graph.node for o in node.output}
    todo, live = [o.name for o in graph.output], set()
    while todo:
        name = todo.pop()
        if not name or name in live:
            continue
        live.add(name)
        node = producer.get(name)
        if node is not None:
            live.update(o for o in node.output if o)
            todo += [*node.input, *files.captures(node)]
    return live


def _sweep(graph: onnx.GraphProto, before: set[str], done: Applied) -> None:
    """Drop nodes and initializers that were used before and are not any more."""
    after = _live(graph)
    dead = [i for i, n in enumerate(graph.node)
            if any(o in before for o in n.output) and not any(o in after for o in n.output)]  # fmt: skip
    for i in reversed(dead):
        done.nodes.add(graph.node[i].output[0])
        del graph.node[i]
    inputs = {i.name for i in graph.input}
    gone = [i for i, t in enumerate(graph.initializer)
            if t.name in before and t.name not in after]  # fmt: skip
    for i in reversed(gone):
        name = graph.initializer[i].name
        done.initializers.add(name)
        del graph.initializer[i]
        if name in inputs:  # IR versions before 4 list initializers as inputs
            at = next(k for k, v in enumerate(graph.input) if v.name == name)
            del graph.input[at]
    for annotations in (graph.quantization_annotation, graph.value_info):
        names = [getattr(a, "tensor_name", "") or getattr(a, "name", "") for a in annotations]
        for i in reversed(range(len(names))):
            if names[i] in before and names[i] not in after:
                del annotations[i]


def _forget_shapes(proto: onnx.ModelProto) -> None:
    """Placeholder for callers that renew value_info: see cutting.renew_shapes."""
    del proto


def initializer_names(graph: onnx.GraphProto) -> Iterable[str]:
    """Names of the main graph's initializers."""
    return (t.name for t in graph.initializer)
