"""Quantized and fused ops in plain words: the standard op that each computes but for its numbers.

QLinearAdd adds, FusedConv convolves, QGemm is a Gemm: whichever number formats and activations
they take along, elements and channels go where the plain op sends them. So one table makes all
that is known of the plain ops (shapes, data flow, rules) hold for their relatives too. References:
https://onnx.ai/onnx/operators/ for QLinearConv, QLinearMatMul, ConvInteger and MatMulInteger, and
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md for ``com.microsoft``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx
from onnx import TensorProto, helper
from onnx.defs import get_schema

from onnx_headcut.errors import GraphRefused

if TYPE_CHECKING:
    from collections.abc import Iterable

MICROSOFT = "com.microsoft"

CAFFE2 = "org.pytorch._caffe2"
"""Detectron2's exports for Caffe2."""

LAID_OUT = frozenset({"com.microsoft.nchwc", "com.ms.internal.nhwc"})
"""Domains of graphs whose tensors onnxruntime has laid out for the machine that saved them."""

PACKED = frozenset({"MatMulBnb4", "MatMulNBits"})
"""Ops whose weights' shape is said by their attributes ``K`` and ``N``."""

FLAGS = ("channels_last", "transA", "transB", "transBatchA", "transBatchB")


@dataclass(frozen=True)
class Form:
    """How an op relates to the plain op ``op``.

    ``data``: its inputs that are the plain op's, in that op's order (``step``: from ``data[0]`` on
    every so many); ``per_channel``: further inputs with an element for each output channel, or one
    for all; ``per_row``: the same where the weights are the left operand. The output's element
    type is that of input ``like``; where that is left out, ``otherwise``; else the first data's.
    """

    op: str
    data: tuple[int, ...] = (0,)
    step: int = 0
    per_channel: tuple[int, ...] = ()
    per_row: tuple[int, ...] = ()
    like: int = -1
    otherwise: int = TensorProto.UNDEFINED


FORMS: dict[tuple[str, str], Form] = {
    # weights
    ("", "QLinearConv"): Form("Conv", (0, 3, 8), per_channel=(4, 5), like=7),
    ("", "ConvInteger"): Form("Conv", (0, 1), per_channel=(3,), otherwise=TensorProto.INT32),
    ("", "QLinearMatMul"): Form("MatMul", (0, 3), per_channel=(4, 5), per_row=(1, 2), like=7),
    ("", "MatMulInteger"): Form("MatMul", (0, 1), per_channel=(3,), per_row=(2,),
                                otherwise=TensorProto.INT32),
    (MICROSOFT, "QLinearConv"): Form("Conv", (0, 3, 8), per_channel=(4, 5), like=7),
    (MICROSOFT, "QGemm"): Form("Gemm", (0, 3, 6), per_channel=(4, 5), like=8,
                               otherwise=TensorProto.FLOAT),
    (MICROSOFT, "DynamicQuantizeMatMul"): Form("MatMul", (0, 1), per_channel=(2, 3, 4)),
    (MICROSOFT, "MatMulIntegerToFloat"): Form("MatMul", (0, 1), per_channel=(3, 5, 6),
                                              per_row=(2, 4), like=2),
    (MICROSOFT, "FusedConv"): Form("Conv", (0, 1, 2)),
    (MICROSOFT, "NhwcFusedConv"): Form("Conv", (0, 1, 2)),
    (MICROSOFT, "FusedGemm"): Form("Gemm", (0, 1, 2)),
    (MICROSOFT, "FusedMatMul"): Form("MatMul", (0, 1)),
    (MICROSOFT, "MatMulNBits"): Form("MatMul", (0, 1)),
    (MICROSOFT, "MatMulBnb4"): Form("MatMul", (0, 1)),
    (MICROSOFT, "TransposeMatMul"): Form("MatMul", (0, 1)),
    # element by element
    (MICROSOFT, "QLinearAdd"): Form("Add", (0, 3)),
    (MICROSOFT, "QLinearMul"): Form("Mul", (0, 3)),
    (MICROSOFT, "QLinearWhere"): Form("Where", (0, 1, 4), like=1),
    (MICROSOFT, "QLinearLeakyRelu"): Form("LeakyRelu"),
    (MICROSOFT, "QLinearSigmoid"): Form("Sigmoid"),
    (MICROSOFT, "QLinearSoftmax"): Form("Softmax"),
    (MICROSOFT, "BiasGelu"): Form("Add", (0, 1)),
    (MICROSOFT, "FastGelu"): Form("Add", (0, 1)),
    (MICROSOFT, "Gelu"): Form("Relu"),
    (MICROSOFT, "QuickGelu"): Form("Relu"),
    (MICROSOFT, "QuantizeLinear"): Form("QuantizeLinear", (0, 1, 2), like=2,
                                        otherwise=TensorProto.UINT8),
    (MICROSOFT, "DequantizeLinear"): Form("DequantizeLinear", (0, 1, 2), like=1),
    (CAFFE2, "AliasWithName"): Form("Identity"),
    (CAFFE2, "BBoxTransform"): Form("Identity", (1,)),  # deltas of each class become boxes
    # moved, pooled, normalised
    (MICROSOFT, "QLinearConcat"): Form("Concat", (2,), 3, like=1),
    (MICROSOFT, "QLinearAveragePool"): Form("AveragePool"),
    (MICROSOFT, "QLinearGlobalAveragePool"): Form("GlobalAveragePool"),
    (MICROSOFT, "QLinearReduceMean"): Form("ReduceMean"),
    (MICROSOFT, "NhwcMaxPool"): Form("MaxPool"),
    (MICROSOFT, "SkipLayerNormalization"): Form("Identity"),
    (MICROSOFT, "SkipSimplifiedLayerNormalization"): Form("Identity"),
}  # fmt: skip


@dataclass(frozen=True)
class Plain:
    """A node as the plain op; input ``k`` of ``node`` is input ``slots[k]`` of the node itself.

    ``channels_last``: data and result are laid out NHWC; ``swapped``: inputs whose two last axes
    change places first; ``activation``: what the node applies to its result by itself.
    """

    form: Form
    node: onnx.NodeProto
    slots: tuple[int, ...]
    channels_last: bool = False
    swapped: frozenset[int] = frozenset()
    activation: str = ""

    def elem_type(self, node: onnx.NodeProto, types: Iterable[int]) -> int:
        """Element type of the output of ``node``, whose inputs have ``types``."""
        known = list(types)
        if 0 <= self.form.like < len(known) and node.input[self.form.like]:
            return known[self.form.like]
        return self.form.otherwise or known[self.form.data[0]]


def plain(node: onnx.NodeProto) -> Plain | None:
    """Return the plain form of ``node``; None where it has none, or is plain itself."""
    form = FORMS.get((node.domain if node.domain != "ai.onnx" else "", node.op_type))
    if form is None:
        return None
    every = range(form.data[0], len(node.input), form.step) if form.step else form.data
    slots = [s for s in every if s < len(node.input)]
    while slots and not node.input[slots[-1]]:
        slots.pop()
    given = {a.name: a for a in node.attribute}
    flags = {name: bool(given[name].i) for name in FLAGS if name in given}
    op = "Relu" if form.op == "Add" and len(slots) == 1 else form.op
    same = onnx.NodeProto(
        op_type=op, name=node.name, input=[node.input[s] for s in slots], output=node.output[:1]
    )
    allowed = get_schema(op).attributes
    same.attribute.extend(a for name, a in given.items() if name in allowed)
    if op == "Softmax" and "axis" not in given:
        same.attribute.append(helper.make_attribute("axis", -1))
    activation = given["activation"].s.decode() if "activation" in given else ""
    swapped = {k for k in (0, 1) if op == "MatMul" and flags.get(("transA", "transB")[k])}
    if flags.get("transBatchA") or flags.get("transBatchB"):
        return None
    return Plain(form, same, tuple(slots), flags.get("channels_last", False),
                 frozenset(swapped), activation)  # fmt: skip


def simple(node: onnx.NodeProto) -> onnx.NodeProto:
    """Return the node in its plain form, or as it is."""
    found = plain(node)
    return node if found is None else found.node


def refuse_layouts(graph: onnx.GraphProto) -> None:
    """Refuse graphs that were laid out for one kind of processor, by the name of their ops."""
    for node in graph.node:
        if node.domain in LAID_OUT:
            raise GraphRefused(
                f"the op belongs to {node.domain}: onnxruntime laid this graph out for the machine "
                "that saved it",
                node=node.name or node.output[0],
                op="NchwcConv" if node.domain.endswith("nchwc") and node.op_type == "Conv"
                else node.op_type,
                advice="cut the model before optimising it, or save it at level extended or below "
                "(ORT_ENABLE_EXTENDED)",
            )  # fmt: skip
