"""Make the edits of a plan in a protobuf, then sweep up what nothing uses any more.

Constants are copied on write: a tensor that others still use stays as it is for them. Where nobody
does, the new tensor takes the old one's name and place, so that a cut model differs from its
original where it must and nowhere else.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnx_headcut.editing import edits as ed
from onnx_headcut.errors import GraphRefused, InputError
from onnx_headcut.graph.facts import of_type
from onnx_headcut.graph.model import subgraphs_of, to_array
from onnx_headcut.graph.ops import WEIGHTED
from onnx_headcut.graph.sweep import live, read, sweep
from onnx_headcut.graph.walking import walk
from onnx_headcut.storage.tensors import with_data_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from onnx_headcut.graph.facts import Array, Fact

INPUTS_LIST_INITIALIZERS = 4
"""IR version from which an initializer need not be listed among the graph's inputs."""


@dataclass
class Applied:
    """What applying did, for the report and for the structural proof."""

    nodes: set[str] = field(default_factory=set)
    """First output names of nodes that were changed, added or removed."""
    initializers: set[str] = field(default_factory=set)
    """Names of initializers that were changed, added or removed."""
    rewritten: set[str] = field(default_factory=set)
    """Initializers with new values, as opposed to selections of the original's."""
    declared: set[str] = field(default_factory=set)
    """Values in bodies that are declared anew."""
    mixed: dict[str, tuple[str | None, ed.Mixed]] = field(default_factory=dict)
    """Initializers that a class map made: the tensor that they were made of, and how."""
    whole: dict[str, str] = field(default_factory=dict)
    """New names of scores that were left whole, and the old ones, which the picked columns have."""


def apply(proto: onnx.ModelProto, edits: Sequence[ed.Edit], folder: Path | None = None) -> Applied:
    """Make ``edits`` in ``proto`` itself. ``folder`` is where external data is read."""
    writer = _Writer(proto, folder)
    graphs = [(g, live(g), read(g)) for g in walk(proto.graph)]
    resolved = [(edit, *ed.node_at(proto.graph, edit.place)) for edit in edits]
    # inputs are numbered as in the original, so a Concat loses its inputs last
    fewer = ed.KeepInputs, ed.KeepOutputs
    for edit, graph, node in sorted(resolved, key=lambda r: isinstance(r[0], fewer)):
        writer.write(edit, graph, node)
    writer.insert_nodes()
    for graph, *used in reversed(graphs):  # bodies first: what they capture stays used
        nodes, initializers = sweep(graph, *used)
        writer.done.nodes |= nodes
        writer.done.initializers |= initializers
    writer.take_names()
    return writer.done


class _Writer:
    """Writes edits; keeps fresh names, new constants and nodes to insert."""

    def __init__(self, proto: onnx.ModelProto, folder: Path | None) -> None:
        self.proto, self.folder, self.done = proto, folder, Applied()
        self.names = _all_names(proto.graph)
        self.order = [t.name for t in proto.graph.initializer]
        self.new: dict[str, tuple[str, onnx.TensorProto]] = {}
        self.known: dict[tuple[str, str, bytes], str] = {}
        self.inserted: list[tuple[onnx.GraphProto, int, onnx.NodeProto]] = []
        self.after: tuple[onnx.GraphProto, int] = (proto.graph, 0)
        self.copies: dict[tuple[int, tuple[int, ...], bytes], str] = {}

    def write(self, edit: ed.Edit, graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
        """Make one edit; nodes to insert and tensors to add are only noted."""
        if isinstance(edit, ed.Redeclare):
            body = [g for a in node.attribute for g in subgraphs_of(a)][edit.body]
            renew_shapes(body, edit.changed)
            self.done.declared |= set(edit.changed)
            return
        if node.output and not isinstance(edit, ed.MapScores):
            self.done.nodes.add(node.output[0])
        if isinstance(edit, ed.Select):
            self._select(edit, node)
        elif isinstance(edit, ed.GatherInput | ed.CopyInput | ed.BeginBehind):
            self._insert(edit, graph, node)
        elif isinstance(edit, ed.Replace):
            while len(node.input) <= edit.input:
                node.input.append("")
            name = node.input[edit.input] or f"{node.output[0]}_{edit.input}"
            node.input[edit.input] = made = self._constant(name, edit.value, rewritten=True)
            if isinstance(edit, ed.Begin):
                self.done.mixed[made] = None, edit
        elif isinstance(edit, ed.SetAttribute):
            _set_attribute(node, edit)
        elif isinstance(edit, ed.KeepInputs | ed.KeepOutputs):
            ed.leave_out(node, edit)
            self.done.nodes.add(node.output[0])
        elif isinstance(edit, ed.MapOutput):
            self._map_output(edit, graph)
        elif isinstance(edit, ed.MapScores):
            self._map_scores(edit, graph, node)

    def _insert(
        self, edit: ed.GatherInput | ed.CopyInput | ed.BeginBehind, graph: onnx.GraphProto,
        node: onnx.NodeProto,
    ) -> None:  # fmt: skip
        """An input that comes from nodes of its own, or a bias in a node behind."""
        if isinstance(edit, ed.GatherInput):
            self._gather(edit, graph, node)
        elif isinstance(edit, ed.CopyInput):
            self._copy(edit, graph, node)
        else:
            self._begin_behind(edit, graph, node)

    def _select(self, edit: ed.Select, node: onnx.NodeProto) -> None:
        name = node.input[edit.input]
        tensor = stored_tensor(ed.graphs_at(self.proto.graph, edit.place), name)
        if tensor is None:  # pragma: no cover  the plan selects stored tensors only
            raise GraphRefused(f"{name!r} is not stored", node=node.name, op=node.op_type)
        stored = to_array(tensor, self.folder)
        if node.op_type in WEIGHTED and not _is_finite(stored):
            raise InputError(
                f"weight {name!r} of {node.op_type} node {node.name!r} holds NaN or infinity",
                advice="no cut can mend that: export the model again from a sound checkpoint",
            )
        if isinstance(edit, ed.Blend):
            value = edit.of(stored, tensor.name or name)
        else:
            value = stored.take(edit.take, edit.axis)
        node.input[edit.input] = made = self._constant(name, value, like=tensor)
        if isinstance(edit, ed.Blend):
            self.done.mixed[made] = tensor.name or name, edit

    def _gather(self, edit: ed.GatherInput, graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
        name = node.input[edit.input]
        out = self._fresh(f"{name}_kept")
        index = self._constant(f"{name}_kept_positions", edit.take, rewritten=True)
        new = helper.make_node("Gather", [name, index], [out], name=out, axis=edit.axis)
        self.inserted.append((graph, edit.place[-1], new))
        self.done.nodes.add(out)
        node.input[edit.input] = out

    def _map_scores(self, edit: ed.MapScores, graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
        """The whole scores get another name for those before; the new ones take the old name."""
        claimed = set(self.done.nodes)
        whole = self._fresh(f"{edit.value}_whole")
        self.after = (graph, edit.place[-1] + 1)
        readers = [names for i in edit.before for names in _inputs(graph.node[i])]
        for names in (node.output, *readers):
            for i, name in enumerate(names):
                if name == edit.value:
                    names[i] = whole
        self.done.whole[whole] = edit.value
        parts = []
        for k, (take, share) in enumerate(zip(edit.takes, edit.shares, strict=True)):
            positions = self._constant(f"{edit.value}_positions", take, rewritten=True)
            part = edit.value if edit.merge is None else self._fresh(f"{edit.value}_members")
            self._append("Gather", [whole, positions], part, axis=edit.axis)
            if edit.merge == "sum" and k:
                shares = self._constant(f"{edit.value}_shares", share, rewritten=True)
                part = self._append("Mul", [part, shares], self._fresh(f"{edit.value}_added"))
            parts.append(part)
        if edit.merge == "max":
            self._append("Max", parts, edit.value)
        elif edit.merge == "sum":
            self._append("Sum", parts, edit.value)
        self.done.nodes = claimed  # without them, and by its old name, all is what it was

    def _begin_behind(self, edit: ed.BeginBehind, graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
        """The node's result gets another name, and the sum with the bias takes the old one."""
        out = node.output[0]
        node.output[0] = bare = self._fresh(f"{out}_bare")
        self.done.nodes |= {bare, out}
        bias = self._constant(f"{out}_bias", edit.value, rewritten=True)
        self.done.mixed[bias] = None, edit
        self.after = (graph, edit.place[-1] + 1)
        self._append("Add", [bare, bias], out)

    def _copy(self, edit: ed.CopyInput, graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
        """Copies of the nodes that put a shape together, once for all that want it alike."""
        key = (id(graph), edit.makers, edit.value.tobytes())
        if key not in self.copies:
            made = ""
            for maker in edit.makers:
                new = onnx.NodeProto()
                new.CopyFrom(graph.node[maker])
                for k, value in edit.parts.items() if maker == edit.makers[0] else ():
                    new.input[k] = self._constant(new.input[k], value, rewritten=True)
                if made:
                    new.input[0] = made
                made = new.name = new.output[0] = self._fresh(f"{new.output[0]}_own")
                self.inserted.append((graph, edit.makers[-1] + 1, new))
                self.done.nodes.add(made)
            self.copies[key] = made
        node.input[edit.input] = self.copies[key]

    def _map_output(self, edit: ed.MapOutput, graph: onnx.GraphProto) -> None:
        """The producer gets another output name, and a lookup makes the graph output."""
        inner = self._fresh(f"{edit.output}_compact")
        self.after = (graph, edit.place[-1] + 1)
        for node in graph.node:
            for names in (node.input, node.output):
                for i, name in enumerate(names):
                    if name == edit.output:
                        names[i] = inner
                        self.done.nodes.add(node.output[0])
        elem_type = next(o for o in graph.output if o.name == edit.output).type.tensor_type.elem_type
        if edit.column is None:
            self._look_up(edit, inner, elem_type, edit.output)
        else:
            names = [self._columns(edit, inner, range(edit.column))] if edit.column else []
            ids = self._columns(edit, inner, range(edit.column, edit.column + 1))
            names.append(self._look_up(edit, ids, elem_type, self._fresh(f"{edit.output}_original")))
            if edit.column + 1 < edit.width:
                names.append(self._columns(edit, inner, range(edit.column + 1, edit.width)))
            self._append("Concat", names, edit.output, axis=edit.axis)
        self.done.nodes.add(inner)

    def _columns(self, edit: ed.MapOutput, value: str, columns: range) -> str:
        index = self._constant(f"{edit.output}_columns", np.array(columns, np.int64), rewritten=True)
        out = self._fresh(f"{edit.output}_part")
        return self._append("Gather", [value, index], out, axis=edit.axis)

    def _look_up(self, edit: ed.MapOutput, value: str, elem_type: int, output: str) -> str:
        table = edit.table.astype(helper.tensor_dtype_to_np_dtype(elem_type))
        if edit.rounded:
            value = self._append("Round", [value], self._fresh(f"{edit.output}_whole"))
        if elem_type != onnx.TensorProto.INT64:
            number = self._fresh(f"{edit.output}_number")
            value = self._append("Cast", [value], number, to=onnx.TensorProto.INT64)
        if edit.low:
            low = self._constant(f"{edit.output}_low", np.array(edit.low, np.int64), rewritten=True)
            value = self._append("Sub", [value, low], self._fresh(f"{edit.output}_row"))
        ids = self._constant(f"{edit.output}_ids", table, rewritten=True)
        return self._append("Gather", [ids, value], output, axis=0)

    def _append(self, op: str, inputs: list[str], output: str, **attributes: int) -> str:
        name = self._fresh(f"{output}_{op}")
        node = helper.make_node(op, inputs, [output], name=name)
        node.attribute.extend(helper.make_attribute(k, v) for k, v in attributes.items())
        self.inserted.append((*self.after, node))
        self.done.nodes.add(output)
        return output

    def _constant(
        self,
        base: str,
        value: Array,
        *,
        like: onnx.TensorProto | None = None,
        rewritten: bool = False,
    ) -> str:
        """Note a tensor to store, once for equal values, and return its name."""
        value = np.asarray(value, order="C")  # ascontiguousarray would make scalars vectors
        key = (base, f"{value.dtype}{value.shape}", value.tobytes())
        if key not in self.known:
            name = self._fresh(base)
            tensor = numpy_helper.from_array(value, name)
            if like is not None:
                tensor = with_data_of(like, tensor)
            self.new[name] = (base, tensor)
            self.known[key] = name
            if rewritten:
                self.done.rewritten.add(name)
        return self.known[key]

    def _fresh(self, name: str) -> str:
        candidate, n = name if name not in self.names else f"{name}_cut", 2
        while candidate in self.names:
            candidate, n = f"{name}_cut{n}", n + 1
        self.names.add(candidate)
        return candidate

    def insert_nodes(self) -> None:
        """Put new nodes where they are read, and lookups behind what made the ids."""
        # from the end on, so that earlier places stay true; what shares a place keeps its order
        numbered = [(at, k, graph, node) for k, (graph, at, node) in enumerate(self.inserted)]
        for at, _, graph, node in sorted(numbered, key=lambda n: n[:2], reverse=True):
            graph.node.insert(at, node)

    def take_names(self) -> None:
        """Store the new tensors, under the old names and in the old places where these are free."""
        graph = self.proto.graph
        left = _all_names(graph) - set(self.new)
        uses: dict[str, list[str]] = defaultdict(list)
        for name, (base, _) in self.new.items():
            uses[base].append(name)
        renamed = {names[0]: base for base, names in uses.items() if base not in left}
        for g in walk(graph):
            for node in g.node:
                for i, name in enumerate(node.input):
                    if name in renamed:
                        node.input[i] = renamed[name]
        self.done.rewritten = {renamed.get(n, n) for n in self.done.rewritten}
        self.done.mixed = {renamed.get(n, n): m for n, m in self.done.mixed.items()}
        place = {n: i for i, n in enumerate(self.order)}
        added = []
        for name, (base, tensor) in self.new.items():
            tensor.name = renamed.get(name, name)
            self.done.initializers |= {tensor.name, base} if base in place else {tensor.name}
            added.append((place.get(tensor.name, len(place)), tensor))
        stored = [(place[t.name], t) for t in graph.initializer]
        ordered = [t for _, t in sorted([*stored, *added], key=lambda p: p[0])]
        _reorder(graph, ordered)
        if self.proto.ir_version < INPUTS_LIST_INITIALIZERS:
            self._list_inputs([t for _, t in added])

    def _list_inputs(self, tensors: list[onnx.TensorProto]) -> None:
        listed = {v.name for v in self.proto.graph.input}
        for tensor in tensors:
            if tensor.name not in listed:
                self.proto.graph.input.append(
                    helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
                )


def _inputs(node: onnx.NodeProto) -> Iterator[Any]:
    """The names that a node reads, and nodes in its bodies; to be changed in place."""
    yield node.input
    for attribute in node.attribute:
        for graph in subgraphs_of(attribute):
            for inner in graph.node:
                yield from _inputs(inner)


def _reorder(graph: onnx.GraphProto, ordered: list[onnx.TensorProto]) -> None:
    """Insert the new tensors among the stored ones; stored ones are not copied."""
    for i, tensor in enumerate(ordered):
        if i >= len(graph.initializer):
            graph.initializer.append(tensor)
        elif graph.initializer[i].name != tensor.name:
            graph.initializer.insert(i, tensor)


def _set_attribute(node: onnx.NodeProto, edit: ed.SetAttribute) -> None:
    found = next((a for a in node.attribute if a.name == edit.name), None)
    if edit.value is None:
        node.attribute.remove(found)
    elif found is None:
        node.attribute.append(helper.make_attribute(edit.name, edit.value))
    else:
        found.CopyFrom(helper.make_attribute(edit.name, edit.value))


def stored_tensor(scopes: Sequence[onnx.GraphProto], name: str) -> onnx.TensorProto | None:
    """The initializer or Constant behind ``name``, through Identity; None if it is computed."""
    for graph in scopes:
        tensor: onnx.TensorProto
        for tensor in graph.initializer:
            if tensor.name == name:
                return tensor
        for node in graph.node:
            if name in node.output:
                if node.op_type == "Identity":
                    return stored_tensor(scopes, node.input[0])
                for attribute in node.attribute:
                    if attribute.name == "value":
                        value: onnx.TensorProto = attribute.t
                        return value
                return None
    return None


def _all_names(graph: onnx.GraphProto) -> set[str]:
    names: set[str] = set()
    for g in walk(graph):
        names |= {v.name for v in [*g.input, *g.output, *g.value_info]}
        names |= {t.name for t in g.initializer}
        names |= {name for node in g.node for name in [*node.input, *node.output, node.name]}
    return names


def renew_shapes(graph: onnx.GraphProto, changed: Mapping[str, tuple[Fact, Fact]]) -> None:
    """Declared shapes of values that the cut changed; what is not known any more is left open."""
    for value in [*graph.value_info, *graph.output, *graph.input]:
        if value.name not in changed or not value.type.HasField("tensor_type"):
            continue
        old, new = changed[value.name]
        declared = of_type(value.type).shape
        tensor = value.type.tensor_type
        if declared is None or old.shape is None:
            continue
        if new.shape is None or len(new.shape) != len(declared):
            tensor.ClearField("shape")
            continue
        for dim, was, now in zip(tensor.shape.dim, old.shape, new.shape, strict=True):
            if was == now or not dim.HasField("dim_value"):
                continue
            if now is None:
                dim.Clear()
            else:
                dim.dim_value = now


def _is_finite(value: Array) -> bool:
    return value.dtype.kind not in "fV" or bool(np.isfinite(value).all())  # V: bfloat16 and smaller
