"""Scores that are stored as integers: masked and excited as the numbers that they stand for.

An integer cannot say "never": its lowest value stands for some -6.0, of which a softmax makes a
quarter of a percent. So a site of integers is dequantized, changed, and quantized again for those
who read integers; where an activation on integers reads it, that is spelled out as the float
activation between a DequantizeLinear and a QuantizeLinear, which is how ONNX Runtime defines it
(https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md, QLinearSoftmax and
QLinearSigmoid). The rounding of the two may differ by one step. Behind an activation, what made the
integers says what they stand for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from onnx_headcut.errors import GraphRefused

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from onnx_headcut.labels import Site

Array = npt.NDArray[Any]

TYPES = frozenset({"int8", "uint8", "int16", "uint16"})

ACTIVATIONS = {"QLinearSoftmax": "Softmax", "QLinearSigmoid": "Sigmoid"}
"""Activations on integers: data, its scale and zero point, those of the result."""

QUANTIZING = ("QuantizeLinear", "DynamicQuantize", "QLinear", "QGemm")
"""Beginnings of the names of ops that round what they give to steps."""

_SCALE = 1 / 16  # where nothing says what the integers stand for: a power of two, so nothing rounds
_MIDDLE = {"int8": 0, "uint8": 128, "int16": 0, "uint16": 1 << 15}

_FLOATS = frozenset(
    value for name, value in onnx.TensorProto.DataType.items() if name.startswith("FLOAT8")
)
"""Types of 8 bits that Python is given as integers, which they are not."""


def quantizes(nodes: Iterable[onnx.NodeProto]) -> bool:
    """Say whether any of the nodes rounds to steps."""
    return any(node.op_type.startswith(QUANTIZING) for node in nodes)


class Integers:
    """The sites of a graph that hold integers, and how they are written in a tail."""

    def __init__(self, graph: onnx.GraphProto, sites: Sequence[Site]) -> None:
        self._readers: dict[str, onnx.NodeProto] = {}
        for node in graph.node:
            if node.op_type in ACTIVATIONS and node.input[0] in {site.value for site in sites}:
                self._readers.setdefault(node.input[0], node)
        self._makers = {name: node for node in graph.node for name in node.output}
        self._stored = {tensor.name: tensor for tensor in graph.initializer}
        self.constants: dict[str, onnx.TensorProto] = {}

    def _maker(self, site: Site) -> onnx.NodeProto:
        maker: onnx.NodeProto = self._makers[site.value]
        while maker.op_type == "Gather":  # a cut picks its columns
            maker = self._makers[maker.input[0]]
        return maker

    def _made(self, site: Site) -> list[str]:
        """Names of the scale and zero point with which a site behind an activation was made."""
        maker = self._maker(site)
        if maker.op_type in ACTIVATIONS:
            return [name for name in maker.input[3:5] if name]
        return [name for name in maker.input[1:3] if name] if "Quantize" in maker.op_type else []

    def _scale(self, site: Site, scores: Array) -> list[str]:
        """Names of the scale and zero point of a site's integers."""
        if site.exact and self._made(site):
            return self._made(site)
        reader = self._readers.get(site.value)
        if reader is not None:
            return [name for name in reader.input[1:3] if name]
        kind = scores.dtype.name
        names = ["headcut/scale", f"headcut/middle/{kind}"]
        values = [np.array(_SCALE, np.float32), np.array(_MIDDLE[kind], scores.dtype)]
        for name, value in zip(names, values, strict=True):
            self.constants[name] = numpy_helper.from_array(value, name)
        return names

    def site_nodes(self, index: int, site: Site, scores: Array, raw: str) -> list[onnx.NodeProto]:
        """Change the integers ``raw`` as what they stand for, and give ``site.value``.

        Raises GraphRefused for floats of 8 bits.
        """
        scale = self._scale(site, scores)
        zero = self._stored.get(scale[1]) if len(scale) > 1 else None
        if zero is not None and zero.data_type in _FLOATS:
            raise GraphRefused(
                f"class scores {site.value!r} are floats of 8 bits, in which validation cannot mask"
                " classes",
                advice="Cut with --scores renormalized, or give the scores in another type.",
            )
        maker = self._maker(site)  # before opset 21, 16 bits are onnxruntime's own
        domain = maker.domain if maker.op_type == "QuantizeLinear" else ""
        number, product = f"headcut/number{index}", f"headcut/scaled{index}"
        return [
            helper.make_node("DequantizeLinear", [raw, *scale], [number], domain=domain),
            helper.make_node("Mul", [number, f"headcut/mul{index}"], [product]),
            helper.make_node("Add", [product, f"headcut/add{index}"], [_changed(site.value)]),
            helper.make_node(
                "QuantizeLinear", [_changed(site.value), *scale], [site.value], domain=domain
            ),
        ]

    def spelled_out(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Write an activation on a site's integers as a float one; other nodes as they are."""
        if node.op_type not in ACTIVATIONS or node.input[0] not in self._readers:
            return [node]
        inner = f"headcut/float/{node.output[0]}"
        attributes: dict[str, Any] = {a.name: a.i for a in node.attribute if a.name == "axis"}
        op = ACTIVATIONS[node.op_type]
        if op == "Softmax":
            attributes.setdefault("axis", -1)
        return [
            helper.make_node(op, [_changed(node.input[0])], [inner], **attributes),
            helper.make_node("QuantizeLinear", [inner, *node.input[3:5]], [node.output[0]]),
        ]


def _changed(value: str) -> str:
    return f"headcut/changed/{value}"
