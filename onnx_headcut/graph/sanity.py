"""Is it a model at all? What the ONNX specification demands and the rest of the tool relies on.

Checked here, in Python, before any library computes with a stranger's graph: names are text and
made once, nodes come after what they read (so there are no cycles), tensors hold what their shapes
say, local functions do not call each other in circles. https://onnx.ai/onnx/repo-docs/IR.html
"""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING

from onnx.defs import OpSchema, SchemaError, get_schema

from onnx_headcut.errors import GraphRefused, InputError
from onnx_headcut.storage.tensors import RANK, all_tensors, check_size, subgraphs_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import onnx

DEPTH = 60
"""Graphs within graphs; protobuf's own limit lies at about 33 for a file."""

_MISSORTED = "the graph is damaged, or runs in circles: export it again"


class Unsorted(InputError):
    """A node reads what nothing before it makes; perhaps something behind it does."""


def check(proto: onnx.ModelProto) -> None:
    """Raise InputError for a model that breaks the specification where the tool relies on it."""
    _check_depth(proto.graph, DEPTH)
    domains = {"ai.onnx" if not o.domain else o.domain: o.version for o in proto.opset_import}
    if not proto.opset_import and proto.ir_version < 3:
        domains["ai.onnx"] = 1
    for domain, version in domains.items():
        _text(domain, "an opset's domain")
        if not 0 < version < 1 << 31:
            raise InputError(f"opset {domain!r} has no sensible version: {version}")
    _check_functions(proto)
    scope = _Scope(domains, {(f.domain, f.name) for f in proto.functions})
    scope.graph(proto.graph, frozenset())
    for tensor in all_tensors(proto):
        _text(tensor.name, "a tensor's name")
        check_size(tensor)
    for value in [*proto.graph.input, *proto.graph.output, *proto.graph.value_info]:
        _check_shape(value)


def _check_depth(graph: onnx.GraphProto, left: int) -> None:
    if not left:
        raise InputError(f"graphs are nested more than {DEPTH} deep")
    for node in graph.node:
        for attribute in node.attribute:
            for inner in subgraphs_of(attribute):
                _check_depth(inner, left - 1)


def _text(name: object, what: str) -> str:
    if not isinstance(name, str):  # protobuf gives bytes where they are no UTF-8
        raise InputError(f"{what} is not text: {name!r}", advice="names must be UTF-8")
    return name


def _check_shape(value: onnx.ValueInfoProto) -> None:
    _text(value.name, "a value's name")
    dims = value.type.tensor_type.shape.dim
    if len(dims) > RANK:
        raise InputError(f"{value.name!r} has {len(dims)} axes, more than {RANK}")
    for dim in dims:
        _text(dim.dim_param, "a dimension's name")
        if dim.dim_value < 0:
            raise InputError(f"{value.name!r} is declared with a negative extent: {dim.dim_value}")


class _Scope:
    """Walks graphs with the names that are known at each node."""

    def __init__(self, domains: dict[str, int], functions: set[tuple[str, str]]) -> None:
        self.domains, self.functions = domains, functions

    def graph(self, graph: onnx.GraphProto, around: frozenset[str]) -> None:
        inputs = [_text(v.name, "an input's name") for v in graph.input]
        stored = [t.name for t in graph.initializer]
        stored += [t.values.name for t in graph.sparse_initializer]
        _once(inputs, "inputs")
        _once(stored, "initializers")
        known = {*around, *inputs, *stored}
        self.nodes(graph.node, known, made={*inputs, *stored})
        for output in graph.output:
            if _text(output.name, "an output's name") not in known:
                raise Unsorted(f"nothing makes the output {output.name!r}", advice=_MISSORTED)

    def nodes(self, nodes: Iterable[onnx.NodeProto], known: set[str], made: set[str]) -> None:
        for node in nodes:
            self._check_domain(node)
            self._check_signature(node)
            for name in node.input:
                if name and name not in known:
                    raise Unsorted(
                        f"{_say(node)} reads {_text(name, 'an input')!r}, which nothing before it"
                        " makes",
                        advice=_MISSORTED,
                    )
            for attribute in node.attribute:
                for inner in subgraphs_of(attribute):
                    self.graph(inner, frozenset(known))
            for name in node.output:
                if name and name in made:
                    raise InputError(f"two things make {name!r}, of which one is {_say(node)}")
                if name:
                    made.add(_text(name, "an output"))
                    known.add(name)

    def _check_signature(self, node: onnx.NodeProto) -> None:
        """Hold inputs, outputs and types of attributes, against the op's schema."""
        schema = _schema(node.op_type, self.domains.get(node.domain or "ai.onnx", 0), node.domain)
        if schema is None:
            return
        least, most = schema.min_input, schema.max_input
        given = max((i + 1 for i, name in enumerate(node.input) if name), default=0)
        if len(node.input) < least or given > most:
            raise InputError(f"{_say(node)} has {given} inputs, not {_span(least, most)}")
        if len(node.output) < schema.min_output or len(node.output) > schema.max_output:
            span = _span(schema.min_output, schema.max_output)
            raise InputError(f"{_say(node)} has {len(node.output)} outputs, not {span}")
        attributes = {a.name: a for a in node.attribute}
        if len(attributes) < len(node.attribute):
            raise InputError(f"{_say(node)} has an attribute twice")
        for name, required, kind in _attributes(schema):
            if name not in attributes:
                if required:
                    raise InputError(f"{_say(node)} lacks the attribute {name!r}")
            elif _other_type(attributes[name], kind):
                raise InputError(f"{_say(node)} has an attribute {name!r} of the wrong type")
        if node.op_type == "Constant" and not node.domain and not attributes:
            raise InputError(f"{_say(node)} has no value")

    def _check_domain(self, node: onnx.NodeProto) -> None:
        for name in (node.name, node.op_type, node.domain, *(a.name for a in node.attribute)):
            _text(name, f"a name in node {node.name!r}")
        domain = node.domain or "ai.onnx"
        if domain not in self.domains and (node.domain, node.op_type) not in self.functions:
            raise InputError(
                f"{_say(node)} is of the domain {domain!r}, of which the model imports no opset"
            )


@functools.cache
def _schema(op: str, version: int, domain: str) -> OpSchema | None:
    """Look up what ONNX says of an op, or None where it does not know it."""
    try:
        return get_schema(op, version, "" if domain == "ai.onnx" else domain)
    except (SchemaError, TypeError):
        return None


@functools.cache
def _attributes(schema: OpSchema) -> list[tuple[str, bool, int]]:
    """Name, whether it must be there, and type of each attribute."""
    return [(name, known.required, known.type.value)  # type: ignore[attr-defined]
            for name, known in schema.attributes.items()]  # fmt: skip


def _other_type(attribute: onnx.AttributeProto, known: int) -> bool:
    """Whether it differs; a function's attribute refers to another, whose type it has."""
    return not attribute.ref_attr_name and attribute.type != known


def _span(least: int, most: int) -> str:
    if least == most:
        return str(least)
    return f"{least} or more" if most > 1 << 20 else f"{least} to {most}"


def _say(node: onnx.NodeProto) -> str:
    return f"the {node.op_type} node {node.name or next(iter(node.output), '')!r}"


def _once(names: Sequence[str], what: str) -> None:
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{twice!r} is there twice among the {what}")


def _check_functions(proto: onnx.ModelProto) -> None:
    """Functions are known by one name each, sorted inside, and end."""
    functions = {(f.domain, f.name): f for f in proto.functions}
    if len(functions) < len(proto.functions):
        raise InputError("two local functions have the same name")
    calls = {}
    for key, function in functions.items():
        domains = {o.domain or "ai.onnx": o.version for o in function.opset_import}
        scope = _Scope(domains, set(functions))
        known = {_text(name, "a function's input") for name in function.input}
        scope.nodes(function.node, known, made=set(known))
        missing = [name for name in function.output if name not in known]
        if missing:
            raise InputError(f"nothing makes the output {missing[0]!r} of function {key[1]!r}")
        calls[key] = {(n.domain, n.op_type) for n in function.node} & functions.keys()
    while calls:
        ends = [key for key, called in calls.items() if not called & calls.keys()]
        if not ends:
            raise InputError(f"the local function {next(iter(calls))[1]!r} calls itself")
        for key in ends:
            del calls[key]


@contextlib.contextmanager
def foreseen() -> Iterator[None]:
    """Refuse a graph on which following it breaks down in a way that nobody thought of.

    A stranger's graph can be nonsense in more ways than can be checked. Nothing is written then,
    and the message names what happened; the cause is chained to it.
    """
    try:
        yield
    except MemoryError as error:
        raise GraphRefused(
            "the memory does not suffice to follow the graph",
            advice="are the extents of its inputs and constants what they should be?",
        ) from error
    except RecursionError as error:
        raise GraphRefused("the graph is too deep to be followed") from error
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError,
            ValueError) as error:  # fmt: skip
        raise GraphRefused(
            f"the graph cannot be followed: {type(error).__name__}: {str(error)[:200]}",
            advice="if onnx.checker.check_model and onnxruntime accept the model, report this",
        ) from error
