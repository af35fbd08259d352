"""Nodes and constants, written as exporters of many days wrote them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    import random

    from ssd_meaning import Classes

OPSETS = (7, 8, 9, 10, 11, 11, 12, 13, 13, 15, 17, 18, 19, 21, 23)


@dataclass
class Part:
    """A tensor under construction whose ``axis`` holds ``pieces``; the rest are places."""

    value: str
    pieces: tuple[Classes | int, ...]
    axis: int
    softmax: bool = False


class Graph:
    """Nodes and constants, written as the exporter of the day would."""

    def __init__(self, draw: random.Random, noise: np.random.Generator) -> None:
        self.draw, self.noise = draw, noise
        self.opset = draw.choice(OPSETS)
        self.nodes: list[onnx.NodeProto] = []
        self.stored: list[onnx.TensorProto] = []
        self.named = draw.random() < 0.7
        self.constants = draw.choice(["initializer", "initializer", "node", "identity", "mixed"])
        self.weights = draw.choice(["plain", "plain", "plain", "cast", "transpose", "identity"])
        self.count = 0

    def fresh(self, stem: str) -> str:
        self.count += 1
        return f"{stem}_{self.count}"

    def add(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """One node; returns the name of its output, or all names."""
        names = [self.fresh(op.lower()) for _ in range(outputs)]
        name = names[0] + "_node" if self.named else ""
        self.nodes.append(helper.make_node(op, list(inputs), names, name=name, **attributes))
        return names[0] if outputs == 1 else names

    def const(self, value: Any, dtype: Any = np.int64) -> str:
        """A constant, stored in one of the ways that there are."""
        array = np.asarray(value, dtype)
        way = self.constants
        if way == "mixed":
            way = self.draw.choice(["initializer", "node", "identity"])
        if way == "node":
            return str(self.add("Constant", value=numpy_helper.from_array(array)))
        name = self.fresh("const")
        self.stored.append(numpy_helper.from_array(array, name))
        return self.add("Identity", name) if way == "identity" else name

    def weight(self, array: np.ndarray) -> str:
        """A float32 tensor of a layer, perhaps behind Cast, Transpose or Identity."""
        array = array.astype(np.float32)
        if self.weights == "cast":
            stored = self.const(array, self.draw.choice([np.float16, np.float64]))
            return str(self.add("Cast", stored, to=TensorProto.FLOAT))
        if self.weights == "transpose" and array.ndim > 1:
            perm = list(range(array.ndim))
            self.draw.shuffle(perm)
            stored = self.const(np.ascontiguousarray(array.transpose(np.argsort(perm))), np.float32)
            return str(self.add("Transpose", stored, perm=perm))
        if self.weights == "identity":
            name = self.fresh("weight")
            self.stored.append(numpy_helper.from_array(array, name))
            return str(self.add("Identity", name))
        return self.const(array, np.float32)

    def random(self, *shape: int, inner: int = 4) -> np.ndarray:
        """Noise, smaller the more products of it (``inner``) will be summed."""
        return (self.noise.normal(size=shape) / np.sqrt(inner)).astype(np.float32)

    # -- ops whose form depends on the opset

    def squeeze(self, value: str, axis: int) -> str:
        if self.opset < 13:
            return str(self.add("Squeeze", value, axes=[axis]))
        return str(self.add("Squeeze", value, self.const([axis])))

    def unsqueeze(self, value: str, axis: int) -> str:
        if self.opset < 13:
            return str(self.add("Unsqueeze", value, axes=[axis]))
        return str(self.add("Unsqueeze", value, self.const([axis])))

    def slice(self, value: str, axis: int, start: int, end: int) -> str:
        if self.opset < 10:
            return str(self.add("Slice", value, axes=[axis], starts=[start], ends=[end]))
        inputs = [self.const([start]), self.const([end]), self.const([axis])]
        if self.draw.random() < 0.3:
            inputs.append(self.const([1]))
        return str(self.add("Slice", value, *inputs))

    def split(self, value: str, axis: int, sizes: list[int]) -> list[str]:
        if self.opset < 13:
            names = self.add("Split", value, outputs=len(sizes), axis=axis, split=sizes)
        elif self.opset >= 18 and len(set(sizes)) == 1 and self.draw.random() < 0.5:
            names = self.add("Split", value, outputs=len(sizes), axis=axis, num_outputs=len(sizes))
        else:
            names = self.add("Split", value, self.const(sizes), outputs=len(sizes), axis=axis)
        return names if isinstance(names, list) else [names]

    def axis(self, axis: int, rank: int, *, since: int) -> int:
        """The axis, or the same one counted from the end where the opset knows that."""
        return axis - rank if self.opset >= since and self.draw.random() < 0.5 else axis
