"""Nodes that are not what ONNX says of their op: of a type, or an opset, that it does not have.

Nothing behind them can be followed, since nothing is known of what they give. Where a graph is
refused, such a node is the cause more often than what was missed behind it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import TensorProto, helper
from onnx.defs import SchemaError, get_schema, onnx_opset_version
from onnx.shape_inference import InferenceError

from onnx_headcut.errors import CallReached, GraphRefused, NoHead
from onnx_headcut.graph.interpreter import Interpreter
from onnx_headcut.graph.model import has_bodies
from onnx_headcut.graph.sweep import live

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import onnx

    from onnx_headcut.graph.analysis import Analysis
    from onnx_headcut.graph.facts import Fact
    from onnx_headcut.graph.scope import Scope

MIXED = (
    "onnxruntime refuses such a graph, too: cast one of them, or convert the float model anew, with "
    "this node on the converter's block list"
)

_QUANTIZERS = frozenset({"QuantizeLinear", "DequantizeLinear"})


def real_cause(error: GraphRefused, analysis: Analysis) -> GraphRefused:
    """Give the refusal that names the first such node; ``error`` itself where there is none."""
    if isinstance(error, CallReached):
        return error  # what it calls is looked into
    kind = NoHead if isinstance(error, NoHead) else GraphRefused
    opset, functions = analysis.interpreter.opsets[""], analysis.interpreter.functions
    for scope in _scopes(analysis.main):
        used = live(scope.graph)
        for node in scope.graph.node:
            own = node.domain in {"", "ai.onnx"} and (node.domain, node.op_type) not in functions
            if not own or used.isdisjoint(node.output) or has_bodies(node):
                continue
            inputs = [scope.old(name) for name in node.input]
            wrong, advice = _wrong(node, inputs, opset)
            if wrong:
                where = node.name or node.output[0]
                what = f"{wrong}, so that nothing behind it can be followed ({error.what})"
                return kind(what, node=where, op=node.op_type, advice=advice)
    return error


def _scopes(scope: Scope) -> Iterator[Scope]:
    """Yield a graph's scope and those of its bodies."""
    yield scope
    for body in scope.children.values():
        yield from _scopes(body)


def _wrong(node: onnx.NodeProto, inputs: Sequence[Fact], opset: int) -> tuple[str, str]:
    """What ONNX does not have, and what to do; "" for nothing, or where that cannot be told."""
    try:
        get_schema(node.op_type, opset, "")
    except SchemaError:
        version = _first(node, inputs, opset)
        said = f"ONNX has no {node.op_type} before opset {version}, and the model imports {opset}"
        return (said, _advice(node, version)) if version else ("", "")
    mixed = _mixed(node, inputs, opset)
    if mixed:
        return f"it reads {mixed} where ONNX wants one type", MIXED
    if _fits(node, inputs, opset) is not False:
        return "", ""
    types = [TensorProto.DataType.Name(f.elem_type).lower() for f in inputs if f.elem_type]
    said = f"in ONNX it does not take {' and '.join(dict.fromkeys(types))}"
    version = _first(node, inputs, opset)
    when = f"before opset {version}, and the model imports {opset}" if version else "at any opset"
    return f"{said} {when}", _advice(node, version)


def _mixed(node: onnx.NodeProto, inputs: Sequence[Fact], opset: int) -> str:
    """Types of inputs that ONNX wants to be of one; "" where there are no two."""
    schema = get_schema(node.op_type, opset, "")
    found: dict[str, dict[str, None]] = {}
    for k, fact in enumerate(inputs):
        known = schema.inputs[min(k, len(schema.inputs) - 1)] if schema.inputs else None
        if known is not None and known.is_homogeneous and "(" not in known.type_str and fact.elem_type:
            name = TensorProto.DataType.Name(fact.elem_type).lower()
            found.setdefault(known.type_str, {})[name] = None
    return next((" and ".join(types) for types in found.values() if len(types) > 1), "")


def _fits(node: onnx.NodeProto, inputs: Sequence[Fact], opset: int) -> bool | None:
    """Whether the types are those of the op at that opset; None where types are not known."""
    if any(name and fact.elem_type == 0 for name, fact in zip(node.input, inputs, strict=True)):
        return None
    try:
        Interpreter([helper.make_opsetid("", opset)], 10).infer(node, inputs)
    except InferenceError as error:
        return "type" not in str(error)
    except (ValueError, TypeError, KeyError):
        return None
    return True


def _first(node: onnx.NodeProto, inputs: Sequence[Fact], opset: int) -> int | None:
    """The first opset after ``opset`` at which ONNX has the node; None for none."""
    for version in range(opset + 1, onnx_opset_version() + 1):
        try:
            get_schema(node.op_type, version, "")
        except SchemaError:
            continue
        if _fits(node, inputs, version):
            return version
    return None


def _advice(node: onnx.NodeProto, version: int | None) -> str:
    """What to do: another opset, another domain, another type."""
    ways = [f"export it at opset {version} or later (or onnx.version_converter)"] if version else []
    if node.op_type in _QUANTIZERS:
        ways.append("quantize it to 8 bits, or with the quantizers of com.microsoft (onnxruntime's "
                    "extra_options={'UseQDQContribOps': True})")  # fmt: skip
    return "; or ".join(ways) or "onnxruntime will not run it either: export it in float32"
