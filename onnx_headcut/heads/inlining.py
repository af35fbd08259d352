"""Calls of local functions that class scores reach, written out in the graph around them.

A function is one body for all its callers, and a cut may need another one for each: so the calls on
the classes' way are inlined, one by one, and all other calls stay as they are. Names are made from
the call's own, so that the same model gives the same names every time. What a cut then leaves as it
was is folded back into its call. A function whose last call goes is gone with it; one that nobody
called before stays.
https://onnx.ai/onnx/repo-docs/IR.html#model-local-functions
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import onnx
from onnx.defs import SchemaError, get_schema

from onnx_headcut.editing import edits as ed
from onnx_headcut.errors import CallReached, GraphRefused
from onnx_headcut.graph.model import captures, copied, subgraphs_of
from onnx_headcut.graph.walking import each_node, walk
from onnx_headcut.heads.provenance import Flow

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from onnx_headcut.graph.analysis import Analysis
    from onnx_headcut.graph.model import Source
    from onnx_headcut.validation import Claims

T = TypeVar("T")

Key = tuple[str, str]
"""A function's domain and name."""

MOST_NODES = 100_000
"""Nodes that inlining may add; functions that call each other twice each double them each time."""


@dataclass(frozen=True)
class Block:
    """A call, and the nodes that stand in its place."""

    call: onnx.NodeProto
    nodes: tuple[onnx.NodeProto, ...]

    @property
    def made(self) -> frozenset[str]:
        """First outputs of its nodes."""
        return frozenset(o for node in self.nodes for o in list(node.output)[:1])

    @property
    def inner(self) -> frozenset[str]:
        """Values that nothing outside of it knows."""
        return frozenset(o for n in self.nodes for o in n.output) - {*self.call.output}


@dataclass(frozen=True)
class Inlined:
    """A model with calls written out: ``blocks``, in the order in which that was done.

    ``functions`` (as ``domain::name``) went with their last calls; ``imports``: opsets were added.
    """

    source: Source
    blocks: tuple[Block, ...] = ()
    functions: frozenset[str] = frozenset()
    imports: bool = False

    @property
    def claims(self) -> Claims:
        """What inlining says that it changes, for the structural proof."""
        from onnx_headcut.validation import Claims  # noqa: PLC0415  (only where it is validated)

        nodes = set().union(*({*b.made, b.call.output[0]} for b in self.blocks))
        holders = {o for n in self.source.proto.graph.node for o in list(n.output)[:1]
                   if not nodes.isdisjoint(_made_inside(n))}  # fmt: skip
        return Claims(
            nodes=frozenset(nodes | holders),
            rewritten=frozenset(nodes),  # constants of the functions are in the graph now
            functions=self.functions,
            fields=frozenset({"opset_import"} if self.imports else ()),
        )

    def touched(self, edited: set[str]) -> list[Block]:
        """Blocks with nodes that are ``edited`` (by first output), or with such blocks in them."""
        names, found = set(edited), []
        for block in reversed(self.blocks):
            if not names.isdisjoint(block.made):
                found.append(block)
                names.add(block.call.output[0])
        return found[::-1]


def fold(
    state: Inlined, written: onnx.ModelProto, cut: onnx.ModelProto, keep: frozenset[str]
) -> Inlined:
    """Fold what the cut left as it was back into calls, in the cut and in the inlined original.

    Values ``keep`` must stay in sight. Functions without callers go from both; one that nobody
    called as the model was ``written`` stays.
    """
    base = copied(state.source.proto)
    left = []
    for block in reversed(state.blocks):
        if block.inner & keep or not _is_there(base, block) or not _fold(cut, block):
            left.append(block)
        else:
            _fold(base, block)
    called = reachable(written)
    drop_uncalled(cut, called)
    gone = drop_uncalled(base, called)
    return Inlined(state.source.rewritten(base), tuple(left[::-1]), gone, state.imports)


def _is_there(proto: onnx.ModelProto, block: Block) -> bool:
    return any(_find(graph, block) is not None for graph in walk(proto.graph))


def _fold(proto: onnx.ModelProto, block: Block) -> bool:
    """Put the call in place of its nodes; False where these are not what they were."""
    for graph in walk(proto.graph):
        at = _find(graph, block)
        if at is not None:
            for _ in block.nodes:
                del graph.node[at]
            graph.node.insert(at, block.call)
            return True
    return False


def _find(graph: onnx.GraphProto, block: Block) -> int | None:
    """Where the nodes of a block stand side by side, and nothing else reads what is inside."""
    count, first = len(block.nodes), list(block.nodes[0].output) if block.nodes else None
    for at, node in enumerate(graph.node):
        if list(node.output) == first and tuple(graph.node[at : at + count]) == block.nodes:
            others = [*graph.node[:at], *graph.node[at + count :]]
            read = {name for n in others for name in [*n.input, *captures(n)]}
            if block.inner.isdisjoint(read | {o.name for o in graph.output}):
                return at
    return None


def _made_inside(node: onnx.NodeProto) -> set[str]:
    graphs = [g for a in node.attribute for g in subgraphs_of(a)]
    return {o for graph in graphs for n in each_node(graph.node) for o in n.output}


def settled(
    source: Source, study: Callable[[Source], Analysis], attempt: Callable[[Analysis], T]
) -> tuple[Inlined, T]:
    """Inline what ``attempt`` (locating and tracing) runs into, until it succeeds.

    Where it is refused before it knows the classes' way, every call that scores may go through is
    inlined. Raises what ``attempt`` raises for a graph without such calls.
    """
    state = Inlined(source)
    while True:
        analysis = study(state.source)
        try:
            return state, attempt(analysis)
        except CallReached as reached:
            state = inline(state, reached.places)
        except GraphRefused:
            places = frontier(analysis)
            if not places:
                raise
            state = inline(state, places)


def exhausted(state: Inlined, study: Callable[[Source], Analysis]) -> Inlined:
    """Inline every call that elements of candidate heads go into, whatever they turn out to be."""
    while places := frontier(study(state.source)):
        state = inline(state, places)
    return state


def frontier(analysis: Analysis) -> list[ed.Place]:
    """Calls of the main graph that elements of candidate heads go into."""
    functions = analysis.interpreter.functions
    if not functions:
        return []
    flow = Flow(analysis.main, analysis.interpreter)
    try:
        flow.run()
    except CallReached as reached:
        return list(reached.places)
    return [
        (i,)
        for i, node in enumerate(analysis.main.graph.node)
        if (node.domain, node.op_type) in functions and any(n in flow.origins for n in node.input)
    ]


def inline(state: Inlined, places: Sequence[ed.Place]) -> Inlined:
    """Write out the calls at ``places``; what was inlined before stays noted."""
    proto = copied(state.source.proto)
    names = _all_names(proto.graph)
    blocks, imports = list(state.blocks), state.imports
    for place in sorted(places, reverse=True):  # from the end on, so that earlier places stay true
        graph, found = ed.node_at(proto.graph, place)
        call = onnx.NodeProto()
        call.CopyFrom(found)
        function = _function(proto, call)
        imports |= _import(proto, function, call)
        block = Block(call, tuple(_Body(function, call, names).nodes()))
        blocks.append(block)
        if sum(len(b.nodes) for b in blocks) > MOST_NODES:
            raise GraphRefused(
                f"its functions have more than {MOST_NODES} nodes in all",
                node=call.name or call.output[0],
                op=call.op_type,
                advice="inline them first with onnx.inliner",
            )
        del graph.node[place[-1]]
        for node in reversed(block.nodes):
            graph.node.insert(place[-1], node)
    return Inlined(state.source.rewritten(proto), tuple(blocks), imports=imports)


def reachable(proto: onnx.ModelProto) -> set[Key]:
    """Functions that the graph calls, or that are called by those."""
    functions = {(f.domain, f.name): f for f in proto.functions}
    found: set[Key] = set()
    todo = [(n.domain, n.op_type) for n in each_node(proto.graph.node)]
    while todo:
        key = todo.pop()
        if key in functions and key not in found:
            found.add(key)
            todo += [(n.domain, n.op_type) for n in each_node(functions[key].node)]
    return found


def drop_uncalled(proto: onnx.ModelProto, before: set[Key]) -> frozenset[str]:
    """Remove functions that were called (``before``) and are not any more; says which."""
    gone = before - reachable(proto)
    for i in reversed(range(len(proto.functions))):
        if (proto.functions[i].domain, proto.functions[i].name) in gone:
            del proto.functions[i]
    return frozenset(f"{domain}::{name}" for domain, name in gone)


def _function(proto: onnx.ModelProto, call: onnx.NodeProto) -> onnx.FunctionProto:
    found: onnx.FunctionProto
    for found in proto.functions:
        if (found.domain, found.name) == (call.domain, call.op_type):
            return found
    raise KeyError(call.op_type)  # pragma: no cover  (it was called a function by this list)


def _import(proto: onnx.ModelProto, function: onnx.FunctionProto, call: onnx.NodeProto) -> bool:
    """Import the opsets of a function that the model lacks; refuse versions that do not agree."""
    known = {_plain(o.domain): o.version for o in proto.opset_import}
    added = False
    for opset in function.opset_import:
        domain = _plain(opset.domain)
        version = known.get(domain)
        if version is None:
            proto.opset_import.add(domain=opset.domain, version=opset.version)
            known[domain] = opset.version
            added = True
        elif version != opset.version:
            for node in each_node(function.node):
                if _plain(node.domain) == domain and not _same(node, domain, opset.version, version):
                    raise GraphRefused(
                        f"the local function is written for opset {opset.version} and the model for "
                        f"{version}, and {node.op_type} is not the same in both",
                        node=call.name or call.output[0], op=call.op_type,
                        advice="convert the model first: onnx.inliner.inline_local_functions(model, "
                        "convert_version=True)",
                    )  # fmt: skip
    return added


def _same(node: onnx.NodeProto, domain: str, one: int, other: int) -> bool:
    try:
        schemas = [get_schema(node.op_type, version, domain) for version in (one, other)]
    except SchemaError:
        return False
    return schemas[0].since_version == schemas[1].since_version


def _plain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def _all_names(graph: onnx.GraphProto) -> set[str]:
    names = {v.name for v in [*graph.input, *graph.output, *graph.value_info]}
    names |= {t.name for t in graph.initializer}
    for node in graph.node:
        names |= {*node.input, *node.output, node.name, *captures(node)}
        for attribute in node.attribute:
            for inner in subgraphs_of(attribute):
                names |= _all_names(inner)
    return names


class _Body:
    """The nodes of a function in place of one call."""

    def __init__(self, function: onnx.FunctionProto, call: onnx.NodeProto, names: set[str]) -> None:
        self.function, self.call, self.names = function, call, names
        self.prefix = call.name or next(name for name in call.output if name)
        self.given = {a.name: a for a in [*function.attribute_proto, *call.attribute]}
        self.map = {"": ""}
        inputs = [*call.input, *[""] * (len(function.input) - len(call.input))]
        self.map |= dict(zip(function.input, inputs, strict=False))
        self.passed: list[tuple[str, str]] = []
        """Inputs of the function that are outputs, too, and the outputs' names outside."""
        for inner, outer in zip(function.output, call.output, strict=False):
            if inner in function.input:
                self.passed.append((self.map[inner], outer))
            elif outer:
                self.map[inner] = outer

    def nodes(self) -> list[onnx.NodeProto]:
        """The body, renamed and with its attributes bound; Identity for what only passes."""
        result = [self._renamed(node) for node in self.function.node]
        for inner, outer in self.passed:
            if outer:
                name = self._fresh(f"{self.prefix}/{outer}")
                result.append(onnx.NodeProto(op_type="Identity", input=[inner], output=[outer],
                                             name=name))  # fmt: skip
        return result

    def _fresh(self, name: str) -> str:
        candidate, n = name, 2
        while candidate in self.names:
            candidate, n = f"{name}_{n}", n + 1
        self.names.add(candidate)
        return candidate

    def _name(self, inner: str) -> str:
        """The name outside of a value inside."""
        if inner not in self.map:
            self.map[inner] = self._fresh(f"{self.prefix}/{inner}")
        return self.map[inner]

    def _renamed(self, node: onnx.NodeProto) -> onnx.NodeProto:
        new = onnx.NodeProto()
        new.CopyFrom(node)
        del new.input[:], new.output[:], new.attribute[:]
        new.input.extend(self._name(name) for name in node.input)
        new.output.extend(self._name(name) for name in node.output)
        if node.name:
            new.name = self._fresh(f"{self.prefix}/{node.name}")
        for attribute in node.attribute:
            self._bind(attribute, new)
        return new

    def _bind(self, attribute: onnx.AttributeProto, node: onnx.NodeProto) -> None:
        """Give a node an attribute as the call says it; none where the call says none."""
        source = attribute
        if attribute.ref_attr_name:
            if attribute.ref_attr_name not in self.given:
                return
            source = self.given[attribute.ref_attr_name]
        new = node.attribute.add()
        new.CopyFrom(source)
        new.name = attribute.name
        if not attribute.ref_attr_name:  # what the call gives has the names around the call
            for graph in subgraphs_of(new):
                self._rename_body(graph)

    def _rename_body(self, graph: onnx.GraphProto) -> None:
        for value in [*graph.input, *graph.output, *graph.value_info]:
            value.name = self._name(value.name)
        for tensor in graph.initializer:
            tensor.name = self._name(tensor.name)
        nodes = [self._renamed(node) for node in graph.node]
        del graph.node[:]
        graph.node.extend(nodes)


__all__ = ["Inlined", "exhausted", "fold", "inline", "reachable", "settled"]
