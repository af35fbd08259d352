"""The layers of generated graphs: a backbone, and heads whose channels become rows."""

# ruff: noqa: S311  (seeded draws are meant to be seeded)

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import numpy as np
from ssd_meaning import Classes
from ssd_writing import Graph, Part


class Layers:
    """Draws what there is, and writes it as far as scores and boxes of each level are rows."""

    def __init__(self, seed: int, fixed: dict[str, Any]) -> None:
        self.seed = seed
        self.draw = random.Random(seed)
        self.g = Graph(self.draw, np.random.default_rng(seed))
        draw = self.draw
        self.background = draw.choice(["first", "first", "last", "none", "none"])
        self.activation = draw.choice(["softmax", "softmax", "sigmoid", "raw"])
        self.count = draw.choice([2, 3, 4, 4, 5, 6, 7, 9, 12])
        self.count += (self.background != "none" and draw.random() < 0.8) or self.count == 2
        self.levels = draw.randint(1, 4)
        self.anchors = ([draw.randint(1, 4)] * self.levels if draw.random() < 0.4
                        else [draw.randint(1, 5) for _ in range(self.levels)])  # fmt: skip
        self.class_major = draw.random() < 0.25
        self.style = draw.choice(["conv"] * 5 + ["shared conv", "matmul", "gemm", "one conv"])
        self.bias = draw.choice(["input", "input", "add", "add first", "batchnorm"])
        self.channels_last = draw.random() < 0.3
        self.dynamic_batch = draw.random() < 0.4
        self.dynamic_size = draw.random() < 0.12 and self.style != "gemm"
        self.dynamic = self.dynamic_batch or self.dynamic_size
        self.target = draw.choice(["const", "zero", "computed"])
        if self.dynamic_batch and self.target == "const":
            self.target = "zero"
        self.shared_target: dict[tuple[int, ...], str] = {}
        self.share = draw.random() < 0.4
        self.head_nodes: list[str] = []
        self.objectness = self.style == "one conv" and draw.random() < 0.4
        self.features = draw.choice([4, 6, self.count, 4 * self.anchors[0],
                                     self.count * self.anchors[0]])  # fmt: skip
        self.shared_weights: dict[str, tuple[str, str]] = {}
        self.fixed = fixed
        self.fix()

    def fix(self) -> None:
        """Let fixed choices win over drawn ones."""
        vars(self).update({k: v for k, v in self.fixed.items() if k in vars(self)})
        self.all_classes = tuple(range(self.count))

    # ------------------------------------------------------------------------ the network

    def backbone(self) -> list[str]:
        """Feature maps of 8x8, 4x4, 2x2 and 1x1, hidden layers as wide as heads among them."""
        g, value, wide = self.g, "picture", 3
        if self.channels_last:
            value = g.add("Transpose", value, perm=[0, 3, 1, 2])
        maps = []
        for _ in range(self.levels):
            weight = g.random(self.features, wide, 3, 3, inner=9 * wide)
            bias = g.random(self.features)
            value = g.add("Conv", value, g.weight(weight), g.weight(bias),
                          kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])  # fmt: skip
            wide = self.features
            value = self.activate_features(value)
            maps.append(value)
        return maps

    def activate_features(self, value: str) -> str:
        g, kind = self.g, self.draw.choice(["relu", "relu", "silu", "clip", "se"])
        if kind == "silu":
            return str(g.add("Mul", value, g.add("Sigmoid", value)))
        if kind == "clip":
            if g.opset < 11:
                return str(g.add("Clip", value, min=0.0, max=6.0))
            return str(g.add("Clip", value, g.const(0, np.float32), g.const(6, np.float32)))
        if kind == "se":
            squeezed = g.add("GlobalAveragePool", value)
            weight = g.weight(g.random(self.features, self.features, 1, 1, inner=self.features))
            return str(g.add("Mul", value, g.add("Sigmoid", g.add("Conv", squeezed, weight))))
        return str(g.add("Relu", value))

    def level(self, k: int, features: str) -> tuple[Part, Part, str | None]:
        """Scores and boxes of one level, each as [N, places, columns], and objectness."""
        anchors = self.anchors[k]
        if self.style == "one conv":
            return self.interleaved(k, features, anchors)
        if self.style == "shared conv":
            return self.blocks(k, features, anchors)
        scores = self.head("scores", k, features, anchors * self.count)
        boxes = self.head("boxes", k, features, anchors * 4)
        layout = Classes(self.all_classes, anchors, self.class_major)
        return (self.to_rows(scores, layout), self.to_rows(boxes, 4, anchors), None)

    def head(self, what: str, k: int, features: str, channels: int) -> tuple[str, bool]:
        """A layer with ``channels`` outputs; returns it and whether channels come last."""
        g = self.g
        share = self.share and len(set(self.anchors)) == 1 and self.style in {"conv", "matmul"}
        if self.style == "gemm":
            return self.gemm_head(what, k, features, channels)
        kernel = self.draw.choice([1, 3])
        if share and what in self.shared_weights:
            weight, bias = self.shared_weights[what]
        elif self.style == "matmul":
            weight = g.weight(g.random(self.features, channels, inner=self.features))
            bias = g.weight(g.random(channels))
        else:
            inner = self.features * kernel**2
            weight = g.weight(g.random(channels, self.features, kernel, kernel, inner=inner))
            bias = self.bias_of(channels)
        if share:
            self.shared_weights[what] = weight, bias
            kernel = 0
        if self.style == "matmul":
            rows = g.add("Transpose", features, perm=[0, 2, 3, 1])
            value = g.add("MatMul", rows, weight)
            self.note_head(what, value)
            pair = [bias, value] if self.bias == "add first" else [value, bias]
            return g.add("Add", *pair), True
        return self.conv(what, features, weight, bias, kernel), False

    def bias_of(self, channels: int) -> str:
        g = self.g
        if self.bias in {"add", "add first"}:
            return g.weight(g.random(channels, 1, 1))
        return g.weight(g.random(channels))

    def conv(self, what: str, features: str, weight: str, bias: str, kernel: int) -> str:
        """A convolution with its bias; without ``kernel``, its size is taken from the weight."""
        g = self.g
        same = {"auto_pad": "SAME_UPPER"} if kernel != 1 else {}
        if self.bias == "input":
            value = g.add("Conv", features, weight, bias, **same)
            self.note_head(what, value)
            return str(value)
        value = g.add("Conv", features, weight, **same)
        self.note_head(what, value)
        if self.bias == "batchnorm":
            channels = self.bias_length(bias)
            scale, mean = g.random(channels), g.random(channels)
            variance = np.abs(g.random(channels)) + np.float32(0.5)
            rest = [g.weight(scale), bias, g.weight(mean), g.weight(variance)]
            return str(g.add("BatchNormalization", value, *rest))
        pair = [bias, value] if self.bias == "add first" else [value, bias]
        return str(g.add("Add", *pair))

    def bias_length(self, bias: str) -> int:
        for tensor in self.g.stored:
            if tensor.name == bias:
                return int(tensor.dims[0])
        node = next(n for n in self.g.nodes if bias in n.output)
        if node.op_type == "Constant":
            return int(node.attribute[0].t.dims[0])
        return self.bias_length(node.input[0])

    def note_head(self, what: str, value: str) -> None:
        if what == "scores":
            self.head_nodes.append(value)

    def gemm_head(self, what: str, k: int, features: str, channels: int) -> tuple[str, bool]:
        """One dense layer for the whole map: its places are channels, so it has one place."""
        g, edge = self.g, 16 >> (k + 1)
        flat = g.add("Flatten", features, axis=1)
        inner = self.features * edge * edge
        transposed = self.draw.random() < 0.5
        shape = (channels, inner) if transposed else (inner, channels)
        weight = g.weight(g.random(*shape, inner=inner))
        bias = g.weight(g.random(channels))
        value = g.add("Gemm", flat, weight, bias, transB=int(transposed))
        self.note_head(what, value)
        return g.unsqueeze(g.unsqueeze(value, 1), 1), True

    def interleaved(self, k: int, features: str, anchors: int) -> tuple[Part, Part, str | None]:
        """YOLO's one layer for everything: A x (4 + C) or A x (5 + C) channels."""
        g = self.g
        wide = 4 + int(self.objectness) + self.count
        head = self.head("scores", k, features, anchors * wide)
        rows = self.reshape_rows(head, anchors, wide, class_major=False)
        cuts = [4, 1, self.count] if self.objectness else [4, self.count]
        if self.draw.random() < 0.5:
            parts = g.split(rows, 2, cuts)
        else:
            at = np.cumsum([0, *cuts]).tolist()
            parts = [g.slice(rows, 2, a, b) for a, b in pairwise(at)]
        boxes = Part(parts[0], (4,), 2)
        return (
            Part(parts[-1], (Classes(self.all_classes),), 2),
            boxes,
            (parts[1] if self.objectness else None),
        )

    def blocks(self, k: int, features: str, anchors: int) -> tuple[Part, Part, str | None]:
        """One layer for boxes and scores, its channels in two blocks that are taken apart."""
        g = self.g
        value, last = self.head("scores", k, features, anchors * (4 + self.count))
        axis = 3 if last else 1
        cut = anchors * 4
        if self.draw.random() < 0.5:
            boxes, scores = g.split(value, axis, [cut, anchors * self.count])
        else:
            boxes = g.slice(value, axis, 0, cut)
            end = self.draw.choice([cut + anchors * self.count, 1 << 31])
            scores = g.slice(value, axis, cut, end)
        layout = Classes(self.all_classes, anchors, self.class_major)
        return self.to_rows((scores, last), layout), self.to_rows((boxes, last), 4, anchors), None

    # ------------------------------------------------------------------------- to rows

    def to_rows(self, head: tuple[str, bool], pieces: Classes | int, anchors: int = 0) -> Part:
        """[N, places x anchors, columns] from a head's channels."""
        if isinstance(pieces, int):
            rows = self.reshape_rows(head, anchors, pieces, class_major=False)
            return Part(rows, (pieces,), 2)
        wide = len(pieces.classes)
        rows = self.reshape_rows(head, pieces.anchors, wide, class_major=pieces.class_major)
        return Part(rows, (Classes(pieces.classes),), 2)

    def reshape_rows(
        self, head: tuple[str, bool], anchors: int, wide: int, *, class_major: bool
    ) -> str:
        g, (value, last) = self.g, head
        way = self.draw.choice(["a", "b"])
        if class_major:
            if last:
                value = self.reshape(value, [-1, wide, anchors], [0, 1, 2])
                return str(g.add("Transpose", self.reshape5(value), perm=[0, 2, 1]))
            # MLPerf: [N, C x A, H, W] is seen as [N, C, A x H x W]
            columns = self.reshape(value, [wide, -1])
            return str(g.add("Transpose", columns, perm=[0, 2, 1]))
        if not last and way == "a":
            value, last = g.add("Transpose", value, perm=[0, 2, 3, 1]), True
        if last:
            return self.reshape(value, [-1, wide])
        grid = self.reshape(value, [anchors, wide, -1])
        turned = g.add("Transpose", grid, perm=[0, 3, 1, 2])
        return self.reshape(turned, [-1, wide])

    def reshape5(self, value: str) -> str:
        """[N, places, C, A] to [N, C, places x A]."""
        turned = self.g.add("Transpose", value, perm=[0, 2, 1, 3])
        return self.reshape(turned, [self.last_wide, -1])

    def reshape(self, value: str, rest: list[int], _: list[int] | None = None) -> str:
        """Reshape to [N, *rest], the batch kept by 0, by a computed shape or, static, by 1."""
        g = self.g
        if len(rest) == 3 and rest[0] == -1:
            self.last_wide = rest[1]
        if self.target == "computed":
            key = tuple(rest)
            if self.share and key in self.shared_target:
                return str(g.add("Reshape", value, self.shared_target[key]))
            shape = g.add("Shape", value)
            batch = g.add("Gather", shape, g.const([0] if self.share else 0), axis=0)
            if not self.share:
                batch = g.unsqueeze(batch, 0)
            parts = [batch, *(g.const([r]) for r in rest)]
            if self.draw.random() < 0.3:
                parts = [batch, g.const(rest)]
            target = g.add("Concat", *parts, axis=0)
            self.shared_target[key] = target
            return str(g.add("Reshape", value, target))
        first = 0 if self.target == "zero" else 1
        key = (first, *rest)
        if self.share and key in self.shared_target:
            return str(g.add("Reshape", value, self.shared_target[key]))
        self.shared_target[key] = g.const([first, *rest])
        return str(g.add("Reshape", value, self.shared_target[key]))
