"""Small SSD-like graphs, each from one seed, with the meaning of every output's columns.

`generate(seed)` draws everything that exporters do differently: levels and anchors, layouts of the
channels, how weights and biases are stored, opsets, transposes and reshapes, where levels are
joined, where scores are activated, what is joined to them. The meaning of the columns comes from
the drawing itself, so a test that uses it shares nothing with the program under test.
"""

# ruff: noqa: FBT003  (ops take anything)

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from ssd_layers import Layers
from ssd_meaning import Classes, Meaning, Sample
from ssd_writing import Part


def generate(seed: int, **fixed: Any) -> Sample:
    """Return the SSD-like graph of ``seed``, with choices ``fixed`` whatever was drawn."""
    return _Generator(seed, fixed).sample()


class _Generator(Layers):
    """Joins levels, activates their scores, and says what comes out."""

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

    # -------------------------------------------------------------------------- behind

    def outputs(
        self, scores: list[Part], boxes: list[Part], objectness: list[str | None]
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

    def turned(self, part: Part) -> Part:
        value = self.g.add("Transpose", part.value, perm=[0, 2, 1])
        return Part(value, part.pieces, 3 - part.axis, part.softmax)

    def concat(self, parts: list[Part]) -> Part:
        g, axis = self.g, 3 - parts[0].axis
        if len(parts) == 1 and self.draw.random() < 0.5:
            return parts[0]
        value = g.add("Concat", *[p.value for p in parts], axis=g.axis(axis, 3, since=11))
        return Part(value, parts[0].pieces, parts[0].axis, parts[0].softmax)

    def activated(self, part: Part) -> Part:
        g = self.g
        if self.activation == "raw":
            return part
        if self.activation == "sigmoid":
            return Part(g.add("Sigmoid", part.value), part.pieces, part.axis)
        if g.opset < 13 and part.axis != 2:
            back = self.turned(part)
            return self.turned(Part(g.add("Softmax", back.value, axis=2), part.pieces, 2, True))
        axis = g.axis(part.axis, 3, since=11)
        if g.opset < 13 and self.draw.random() < 0.4:
            flat = g.add("Reshape", part.value, g.const([-1, self.count]))
            shape = g.add("Shape", part.value)
            value = g.add("Reshape", g.add("Softmax", flat, axis=1), shape)
            return Part(value, part.pieces, 2, True)
        return Part(g.add("Softmax", part.value, axis=axis), part.pieces, part.axis, True)

    def dropped(self, part: Part) -> Part:
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
        return Part(value, (Classes(left),), part.axis, part.softmax)

    def weighed(self, part: Part) -> Part:
        """Perhaps a factor for each class: behind it, softmax scores would not renormalise."""
        if part.softmax or self.draw.random() > 0.15:
            return part
        wide = sum(p.width for p in part.pieces if isinstance(p, Classes))
        shape = (wide,) if part.axis == 2 else (wide, 1)
        factor = self.g.const(1 + np.abs(self.g.random(*shape)), np.float32)
        pair = [factor, part.value] if self.draw.random() < 0.5 else [part.value, factor]
        return Part(self.g.add("Mul", *pair), part.pieces, part.axis, part.softmax)

    def detour(self, part: Part) -> Part:
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
        return Part(value, part.pieces, part.axis, part.softmax)

    def decoded(self, box: Part) -> str:
        """Boxes as they are, or moved and scaled."""
        g = self.g
        if self.draw.random() < 0.6:
            return box.value
        xy, wh = g.split(box.value, box.axis, [2, 2])
        factor = g.const(self.draw.random(), np.float32)
        xy = g.add("Add", g.add("Mul", xy, factor), factor)
        wh = g.add("Mul", g.add("Exp", wh), factor)
        return str(g.add("Concat", xy, wh, axis=box.axis))

    def joined(self, scores: Part, box: Part, sure: str | None) -> tuple[str, Meaning]:
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
