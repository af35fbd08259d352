"""Small SSD-like graphs, each from one seed, with the meaning of every output's columns.

`generate(seed)` draws everything that exporters do differently: levels and anchors, layouts of the
channels, how weights and biases are stored, opsets, transposes and reshapes, where levels are
joined, where scores are activated, what is joined to them. The meaning of the columns comes from
the drawing itself, so a test that uses it shares nothing with the program under test.
"""

# ruff: noqa: FBT003, S311  (ops take anything; seeded draws are meant to be seeded)

from __future__ import annotations

import random
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSETS = (7, 8, 9, 10, 11, 11, 12, 13, 13, 15, 17, 18, 19, 21, 23)


@dataclass(frozen=True)
class Classes:
    """Columns of one output that belong to classes, in one piece.

    They are the ``classes`` of each of ``anchors`` anchors: anchor after anchor or, where
    ``class_major``, class after class.
    """

    classes: tuple[int, ...]
    anchors: int = 1
    class_major: bool = False

    @property
    def width(self) -> int:
        return len(self.classes) * self.anchors

    def kept(self, order: tuple[int, ...]) -> list[int]:
        """Positions that a cut to ``order`` leaves, in their new order."""
        at = [self.classes.index(c) for c in order if c in self.classes]
        if self.class_major:
            return [k * self.anchors + a for k in at for a in range(self.anchors)]
        return [a * len(self.classes) + k for a in range(self.anchors) for k in at]


@dataclass(frozen=True)
class Meaning:
    """What an output's ``axis`` holds: pieces of `Classes`, or a number of columns without."""

    axis: int
    pieces: tuple[Classes | int, ...]
    softmax: bool = False

    @property
    def width(self) -> int:
        return sum(p if isinstance(p, int) else p.width for p in self.pieces)

    def columns(self, order: tuple[int, ...]) -> list[int]:
        """Columns that a cut to ``order`` leaves, in their new order."""
        result: list[int] = []
        at = 0
        for piece in self.pieces:
            width = piece if isinstance(piece, int) else piece.width
            inside = range(width) if isinstance(piece, int) else piece.kept(order)
            result += [at + i for i in inside]
            at += width
        return result

    def without_classes(self, order: tuple[int, ...]) -> list[int]:
        """Columns of the cut model that belong to no class."""
        return np.flatnonzero(~self._is_score(order)).tolist()

    def expected(self, original: np.ndarray, order: tuple[int, ...]) -> np.ndarray:
        """The output of a cut model, from the original's: gathered, and for softmax renormalised.

        A kept probability becomes p / (1 - the sum of the dropped ones), which is right whether or
        not the output still contains the background.
        """
        kept = original.take(self.columns(order), self.axis)
        if not self.softmax:
            return kept
        score = self._is_score(order)
        p = original.astype(np.float64)
        at = [i for i, c in enumerate(self._classes()) if c is not None and c not in order]
        dropped = p.take(at, self.axis).sum(self.axis, keepdims=True)
        renormalised = kept / (1 - dropped)
        shape = [1] * kept.ndim
        shape[self.axis] = -1
        return np.where(score.reshape(shape), renormalised, kept).astype(original.dtype)

    def _classes(self) -> list[int | None]:
        result: list[int | None] = []
        for piece in self.pieces:
            result += [None] * piece if isinstance(piece, int) else piece.classes
        return result

    def _is_score(self, order: tuple[int, ...]) -> np.ndarray:
        every = self._classes()
        return np.array([every[i] is not None for i in self.columns(order)])


@dataclass
class Sample:
    """A generated graph: what to tell the program about it, and what its outputs mean."""

    seed: int
    model: onnx.ModelProto
    classes: int
    background: str
    """``first``, ``last`` or ``none``."""
    outputs: dict[str, Meaning]
    told: dict[str, Any]
    """Options for the cut, without which the graph would be ambiguous."""
    ambiguous: bool
    """Whether refusing is the right answer."""
    traits: list[str] = field(default_factory=list)

    @property
    def columns(self) -> list[int]:
        """The classes without the background."""
        return {
            "first": list(range(1, self.classes)),
            "last": list(range(self.classes - 1)),
            "none": list(range(self.classes)),
        }[self.background]

    def keep(self) -> list[int]:
        """A random subset of the classes in random order."""
        draw = random.Random(self.seed + 1)
        return draw.sample(self.columns, draw.randint(1, len(self.columns)))

    def order(self, keep: list[int]) -> tuple[int, ...]:
        """Source columns of the cut model."""
        if self.background == "first":
            return (0, *keep)
        if self.background == "last":
            return (*keep, self.classes - 1)
        return tuple(keep)

    def feed(self) -> dict[str, np.ndarray]:
        """A random picture (two where the batch is dynamic)."""
        noise = np.random.default_rng(self.seed)
        stored = {t.name for t in self.model.graph.initializer}
        value = next(i for i in self.model.graph.input if i.name not in stored)
        dims = value.type.tensor_type.shape.dim
        channels_last = dims[3].dim_value == 3
        sizes = [d.dim_value or (2 if k == 0 else 24 if k == 2 - channels_last else 16)
                 for k, d in enumerate(dims)]  # fmt: skip
        return {value.name: noise.normal(size=sizes).astype(np.float32)}


def generate(seed: int, **fixed: Any) -> Sample:
    """Return the SSD-like graph of ``seed``, with choices ``fixed`` whatever was drawn."""
    return _Generator(seed, fixed).sample()


@dataclass
class _Part:
    """A tensor under construction whose ``axis`` holds ``pieces``; the rest are places."""

    value: str
    pieces: tuple[Classes | int, ...]
    axis: int
    softmax: bool = False


class _Graph:
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


class _Generator:
    def __init__(self, seed: int, fixed: dict[str, Any]) -> None:
        self.seed = seed
        self.draw = random.Random(seed)
        self.g = _Graph(self.draw, np.random.default_rng(seed))
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

    # ------------------------------------------------------------------------- the whole

    def sample(self) -> Sample:
        rows = [self.level(k, f) for k, f in enumerate(self.backbone())]
        outputs = self.outputs([r[0] for r in rows], [r[1] for r in rows], [r[2] for r in rows])
        model = self.model(outputs)
        told, ambiguous = self.told()
        traits = [f"{k}={v}" for k, v in sorted(vars(self).items())
                  if isinstance(v, str | int | list | bool)]  # fmt: skip
        g = self.g
        traits += [f"opset={g.opset}", f"weights={g.weights}", f"constants={g.constants}"]
        return Sample(self.seed, model, self.count, self.background,
                      outputs, told, ambiguous, traits)  # fmt: skip

    def told(self) -> tuple[dict[str, Any], bool]:
        """Say what a person would: the background, and heads or names where they are hidden."""
        told: dict[str, Any] = {"background": self.background}
        # four scores look like a box, a layer for everything may hold objectness, and a dense
        # layer has classes and anchors alike on an axis each
        unclear = self.style == "gemm" or (
            self.activation != "softmax"
            and (self.count == 4 or self.style == "one conv"
                 or (self.style == "shared conv" and 1 in self.anchors))
        )  # fmt: skip
        if self.draw.random() < (0.8 if unclear else 0.2):
            if self.draw.random() < 0.5 and self.style != "one conv":
                told["heads"] = list(self.head_nodes)
            else:
                told["labels"] = self.names()
        return told, unclear

    def names(self) -> list[str]:
        names = [f"thing {k}" for k in range(self.count)]
        if self.background == "first":
            names[0] = "background"
        elif self.background == "last":
            names[-1] = "background"
        return names

    def model(self, outputs: dict[str, Meaning]) -> onnx.ModelProto:
        g = self.g
        size: list[Any] = ["H", "W"] if self.dynamic_size else [16, 16]
        batch: Any = "N" if self.dynamic_batch else 1
        dims = [batch, *size, 3] if self.channels_last else [batch, 3, *size]
        inputs = [helper.make_tensor_value_info("picture", TensorProto.FLOAT, dims)]
        if g.opset <= 8 or (g.opset < 13 and self.draw.random() < 0.2):
            inputs += [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in g.stored]
            ir_version = 3
        else:
            ir_version = 10 if g.opset >= 21 else 8
        declared = [helper.make_tensor_value_info(v, TensorProto.FLOAT, None) for v in outputs]
        graph = helper.make_graph(g.nodes, "ssd", inputs, declared, g.stored)
        opsets = [helper.make_opsetid("", g.opset)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)
        if self.draw.random() < 0.5:
            model = onnx.shape_inference.infer_shapes(model, data_prop=True)
        del model.graph.output[:]
        for value, what in outputs.items():
            shape = [batch, None, None]
            shape[what.axis] = what.width
            model.graph.output.append(helper.make_tensor_value_info(value, TensorProto.FLOAT, shape))
        return model

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

    def level(self, k: int, features: str) -> tuple[_Part, _Part, str | None]:
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

    def interleaved(self, k: int, features: str, anchors: int) -> tuple[_Part, _Part, str | None]:
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
        boxes = _Part(parts[0], (4,), 2)
        return (
            _Part(parts[-1], (Classes(self.all_classes),), 2),
            boxes,
            (parts[1] if self.objectness else None),
        )

    def blocks(self, k: int, features: str, anchors: int) -> tuple[_Part, _Part, str | None]:
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

    def to_rows(self, head: tuple[str, bool], pieces: Classes | int, anchors: int = 0) -> _Part:
        """[N, places x anchors, columns] from a head's channels."""
        if isinstance(pieces, int):
            rows = self.reshape_rows(head, anchors, pieces, class_major=False)
            return _Part(rows, (pieces,), 2)
        wide = len(pieces.classes)
        rows = self.reshape_rows(head, pieces.anchors, wide, class_major=pieces.class_major)
        return _Part(rows, (Classes(pieces.classes),), 2)

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

    # -------------------------------------------------------------------------- behind

    def outputs(
        self, scores: list[_Part], boxes: list[_Part], objectness: list[str | None]
    ) -> dict[str, Meaning]:
        """Join levels, activate, drop the background, join boxes and the rest."""
        g, draw = self.g, self.draw
        self.per_level = self.levels > 1 and draw.random() < 0.3
        self.activate_first = self.per_level or draw.random() < 0.3
        self.columns_first = draw.random() < 0.3
        self.drop = self.activation != "raw" and self.background != "none" and draw.random() < 0.4
        self.final = draw.choice(["apart", "apart", "joined"])
        self.fix()
        if self.activate_first:
            scores = [self.activated(p) for p in scores]
        if self.columns_first:
            scores, boxes = [self.turned(p) for p in scores], [self.turned(p) for p in boxes]
            objectness = [o and g.add("Transpose", o, perm=[0, 2, 1]) for o in objectness]
        if not self.per_level:
            scores, boxes = [self.concat(scores)], [self.concat(boxes)]
            axis = 3 - scores[0].axis
            objectness = [g.add("Concat", *[o for o in objectness if o], axis=axis)
                          if objectness[0] else None]  # fmt: skip
        if not self.activate_first:
            scores = [self.activated(p) for p in scores]
        scores = [self.detour(self.weighed(self.dropped(p))) for p in scores]
        results: list[tuple[str, Meaning]] = []
        for part, box, found in zip(scores, boxes, objectness, strict=True):
            sure = g.add("Sigmoid", found) if found else None
            if self.final == "joined":
                results.append(self.joined(part, box, sure))
                continue
            if sure:
                results.append((sure, Meaning(box.axis, (1,))))
            results.append((part.value, Meaning(part.axis, part.pieces, part.softmax)))
            results.append((self.decoded(box), Meaning(box.axis, (4,))))
        draw.shuffle(results)
        return dict(results)

    def turned(self, part: _Part) -> _Part:
        value = self.g.add("Transpose", part.value, perm=[0, 2, 1])
        return _Part(value, part.pieces, 3 - part.axis, part.softmax)

    def concat(self, parts: list[_Part]) -> _Part:
        g, axis = self.g, 3 - parts[0].axis
        if len(parts) == 1 and self.draw.random() < 0.5:
            return parts[0]
        value = g.add("Concat", *[p.value for p in parts], axis=g.axis(axis, 3, since=11))
        return _Part(value, parts[0].pieces, parts[0].axis, parts[0].softmax)

    def activated(self, part: _Part) -> _Part:
        g = self.g
        if self.activation == "raw":
            return part
        if self.activation == "sigmoid":
            return _Part(g.add("Sigmoid", part.value), part.pieces, part.axis)
        if g.opset < 13 and part.axis != 2:
            back = self.turned(part)
            return self.turned(_Part(g.add("Softmax", back.value, axis=2), part.pieces, 2, True))
        axis = g.axis(part.axis, 3, since=11)
        if g.opset < 13 and self.draw.random() < 0.4:
            flat = g.add("Reshape", part.value, g.const([-1, self.count]))
            shape = g.add("Shape", part.value)
            value = g.add("Reshape", g.add("Softmax", flat, axis=1), shape)
            return _Part(value, part.pieces, 2, True)
        return _Part(g.add("Softmax", part.value, axis=axis), part.pieces, part.axis, True)

    def dropped(self, part: _Part) -> _Part:
        """Without the background's column, by any of the bounds that mean the same."""
        if not self.drop:
            return part
        count = self.count
        if self.background == "first":
            start, end = self.draw.choice([(1, count), (1 - count, count), (1, 1 << 31),
                                           (1, (1 << 63) - 1)])  # fmt: skip
            left = self.all_classes[1:]
        else:
            start, end = self.draw.choice([(0, count - 1), (0, -1), (-count, -1)])
            left = self.all_classes[:-1]
        value = self.g.slice(part.value, self.g.axis(part.axis, 3, since=10), start, end)
        return _Part(value, (Classes(left),), part.axis, part.softmax)

    def weighed(self, part: _Part) -> _Part:
        """Perhaps a factor for each class: behind it, softmax scores would not renormalise."""
        if part.softmax or self.draw.random() > 0.15:
            return part
        wide = sum(p.width for p in part.pieces if isinstance(p, Classes))
        shape = (wide,) if part.axis == 2 else (wide, 1)
        factor = self.g.const(1 + np.abs(self.g.random(*shape)), np.float32)
        pair = [factor, part.value] if self.draw.random() < 0.5 else [part.value, factor]
        return _Part(self.g.add("Mul", *pair), part.pieces, part.axis, part.softmax)

    def detour(self, part: _Part) -> _Part:
        g, kind = self.g, self.draw.choice(["none"] * 4 + ["identity", "squeeze", "cast", "tile"])
        value = part.value
        if kind == "identity":
            value = g.add("Identity", value)
        elif kind == "squeeze":
            value = g.squeeze(g.unsqueeze(value, 1), 1)
        elif kind == "cast":
            value = g.add("Cast", g.add("Cast", value, to=TensorProto.DOUBLE), to=TensorProto.FLOAT)
        elif kind == "tile":
            value = g.add("Tile", value, g.const([1, 1, 1]))
        return _Part(value, part.pieces, part.axis, part.softmax)

    def decoded(self, box: _Part) -> str:
        """Boxes as they are, or moved and scaled."""
        g = self.g
        if self.draw.random() < 0.6:
            return box.value
        xy, wh = g.split(box.value, box.axis, [2, 2])
        factor = g.const(self.draw.random(), np.float32)
        xy = g.add("Add", g.add("Mul", xy, factor), factor)
        wh = g.add("Mul", g.add("Exp", wh), factor)
        return str(g.add("Concat", xy, wh, axis=box.axis))

    def joined(self, scores: _Part, box: _Part, sure: str | None) -> tuple[str, Meaning]:
        """[scores | boxes | objectness | anchors | variances] on one axis, in any order."""
        g = self.g
        inside: list[tuple[str, tuple[Classes | int, ...]]] = [
            (scores.value, scores.pieces), (self.decoded(box), (4,))
        ]  # fmt: skip
        if sure:
            inside.append((sure, (1,)))
        if not (self.dynamic or self.per_level) and self.draw.random() < 0.6:
            places = sum((16 >> (k + 1)) ** 2 * a for k, a in enumerate(self.anchors))
            if self.style == "gemm":
                places = sum(self.anchors)
            shape = (1, places, 4) if box.axis == 2 else (1, 4, places)
            inside.append((g.const(g.random(*shape), np.float32), (4,)))
            inside.append((g.const(np.full(shape, 0.1), np.float32), (4,)))
        self.draw.shuffle(inside)
        value = g.add("Concat", *[v for v, _ in inside], axis=g.axis(scores.axis, 3, since=11))
        pieces = tuple(p for _, ps in inside for p in ps)
        return value, Meaning(scores.axis, pieces, scores.softmax)
