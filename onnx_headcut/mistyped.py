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
from onnx_headcut.interpreter import Interpreter
from onnx_headcut.sweep import live

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx

    from onnx_headcut.analysis import Analysis
    from onnx_headcut.facts import Fact

_QUANTIZERS = frozenset({"QuantizeLinear", "DequantizeLinear"})


def real_cause(error: GraphRefused, analysis: Analysis) -> GraphRefused:
    """Give the refusal that names the first such node; ``error`` itself where there is none."""
    if isinstance(error, CallReached):
        return error  # what it calls is looked into
    kind = NoHead if isinstance(error, NoHead) else GraphRefused
    scope, opset = analysis.main, analysis.interpreter.opsets[""]
    used = live(scope.graph)
    for node in scope.graph.node:
        inputs = [scope.old(name) for name in node.input]
        if node.domain not in {"", "ai.onnx"} or used.isdisjoint(node.output) or (
            (node.domain, node.op_type) in analysis.interpreter.functions
        ):  # fmt: skip
            continue
        wrong = _wrong(node, inputs, opset)
        if wrong and all(scope.old(name).shape is None for name in node.output if name):
            version = _first(node, inputs, opset)
            when = f"before opset {version}" if version else "at any opset"
            return kind(
                f"{wrong} {when}, and the model imports {opset}: what it gives is not known, nor what"
                f" lies behind it ({error.what})",
                node=node.name or node.output[0],
                op=node.op_type,
                advice=_advice(node, version),
            )
    return error


def _wrong(node: onnx.NodeProto, inputs: Sequence[Fact], opset: int) -> str:
    """What ONNX does not have; "" for nothing, or where that cannot be told."""
    try:
        get_schema(node.op_type, opset, "")
    except SchemaError:
        return f"ONNX has no {node.op_type}" if _first(node, inputs, opset) else ""
    if _fits(node, inputs, opset) is not False:
        return ""
    types = [TensorProto.DataType.Name(f.elem_type).lower() for f in inputs if f.elem_type]
    return f"in ONNX it does not take {' and '.join(dict.fromkeys(types))}"


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
