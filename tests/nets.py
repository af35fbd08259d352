"""Small detectors, written down layer by layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import onnx_headcut as hc


class Net:
    """A small detector, written down layer by layer; the first layer gives 8 features, 6 x 6."""

    def __init__(self, opset: int = 13) -> None:
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.stored: list[onnx.TensorProto] = []
        self.noise = np.random.default_rng(0)
        self.features = self.add("Relu", self.conv("picture", 8, wide=3, name="stem"))

    def add(self, op: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        out = name or f"{op}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [out], name=out, **attributes))
        return out

    def split(self, value: str, sizes: list[int], axis: int = 2) -> list[str]:
        outs = [f"split{len(self.nodes)}_{k}" for k in range(len(sizes))]
        self.nodes.append(helper.make_node("Split", [value, self.const(sizes)], outs, axis=axis))
        return outs

    def const(self, value: Any, dtype: Any = np.int64) -> str:
        name = f"constant{len(self.stored)}"
        self.stored.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def conv(self, value: str, channels: int, *, wide: int = 8, name: str = "", **more: Any) -> str:
        weight = self.const(self.noise.normal(size=(channels, wide, 1, 1)), np.float32)
        return self.add("Conv", value, weight, name=name, **more)

    def rows(self, value: str, columns: int) -> str:
        """[N, A x columns, H, W] to [N, places, columns]."""
        turned = self.add("Transpose", value, perm=[0, 2, 3, 1])
        return self.add("Reshape", turned, self.const([1, -1, columns]))

    def head(self, name: str, columns: int, anchors: int = 3, value: str = "") -> str:
        """Columns for each anchor, as rows."""
        conv = self.conv(value or self.features, anchors * columns, name=name)
        return self.rows(conv, columns)

    def slice(self, value: str, start: int, end: int, axis: int = 2) -> str:
        return self.add("Slice", value, *(self.const([v]) for v in (start, end, axis)))

    def model(self, *outputs: str) -> onnx.ModelProto:
        picture = helper.make_tensor_value_info("picture", TensorProto.FLOAT, [1, 3, 6, 6])
        ends = [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs]
        graph = helper.make_graph(self.nodes, "net", [picture], ends, self.stored)
        opsets = [helper.make_opsetid("", self.opset)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def found(model: onnx.ModelProto, **told: Any) -> tuple[int, set[str]]:
    """Return the number of columns and the names of the heads."""
    result = hc.inspect(model, **{"background": "none"} | told)
    return result.classes.count, {h.node for h in result.heads}
