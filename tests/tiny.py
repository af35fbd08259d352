"""A tiny detector of two levels in ONNX text, in many layouts, and validation of a cut of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper, parser

from onnx_headcut.labels import Site
from onnx_headcut.validation import Verdict, validate

SIZES = (6, 3)  # of the two feature maps
CHANNELS = 8


@dataclass(frozen=True)
class Tiny:
    """A two-level SSD; ``columns`` are the classes it has, of ``total`` that weights are made for.

    The planted mistakes: ``level_columns`` gives one level other classes than it says, ``shift``
    starts its rows that many channels late, ``target`` is the class count in the reshapes, and
    ``labels`` the number added to class indices behind NMS.
    """

    columns: tuple[int, ...]
    total: int = 5
    anchors: int = 3
    activation: str = "softmax"
    layout: str = "anchor"
    joined: bool = False
    nms: bool = False
    fixed_slots: bool = False
    background: int | None = 0
    dtype: type = np.float32
    level_columns: dict[int, tuple[int, ...]] = field(default_factory=dict)
    shift: dict[int, int] = field(default_factory=dict)
    target: int | None = None
    labels: int = 1
    table: tuple[int, ...] | None = None
    seed: int = 0

    def model(self) -> onnx.ModelProto:
        """Build it: its weights are the same selection of the same seeded ones, whatever it has."""
        kind = {np.float32: "float", np.float16: "float16", np.float64: "double"}[self.dtype]
        outputs = f"{kind}[n,c,d] joined" if self.joined else f"{kind}[n,c,d] scores"
        outputs += "" if self.joined else f", {kind}[n,b,4] boxes"
        if self.nms:
            outputs = "float[k,4] out_boxes, int64[k] out_labels, float[k] out_scores"
        if self.fixed_slots:
            outputs = "float[1,5,4] out_boxes, float[1,5] out_labels, float[1,5] out_scores"
        text = (
            f'<ir_version: 8, opset_import: ["": 17]> tiny ({kind}[1,3,12,12] image)'
            f" => ({outputs}) {{\n{self._body()}}}"
        )
        model = parser.parse_model(text)
        for name, value in self._weights().items():
            model.graph.initializer.append(numpy_helper.from_array(value, name))
        onnx.checker.check_model(model)
        return model

    def sites(self) -> list[Site]:
        """Give the sites with the columns as they ought to be."""
        ids = tuple(np.tile(self.columns, self.anchors))
        if self.layout == "class":
            ids = tuple(np.repeat(self.columns, self.anchors))
        ids = tuple(map(int, ids))
        return [Site(f"cls{level}", 1, ids, self.activation) for level in range(len(SIZES))]  # type: ignore[arg-type]

    def _body(self) -> str:
        lines = ["f0 = Conv <strides=[2,2]> (image, wf0)", "r0 = Relu(f0)"]
        lines += ["f1 = Conv <strides=[2,2]> (r0, wf1)", "r1 = Relu(f1)"]
        for level in range(len(SIZES)):
            lines.append(f"cls{level} = Conv(r{level}, wc{level}, bc{level})")
            lines.append(f"loc{level} = Conv(r{level}, wl{level})")
            lines.append(f"lt{level} = Transpose <perm=[0,2,3,1]> (loc{level})")
            lines.append(f"lr{level} = Reshape(lt{level}, four)")
            if self.layout == "anchor":
                lines.append(f"ct{level} = Transpose <perm=[0,2,3,1]> (cls{level})")
                lines.append(f"cr{level} = Reshape(ct{level}, target)")
            else:
                lines.append(f"ct{level} = Reshape(cls{level}, target)")
                lines.append(f"cr{level} = Transpose <perm=[0,2,1]> (ct{level})")
        lines.append("logits = Concat <axis=1> (cr0, cr1)")
        act = {"softmax": "Softmax <axis=2>", "sigmoid": "Sigmoid", "none": "Identity"}
        inner = self.nms or self.joined
        lines.append(f"{'p' if inner else 'scores'} = {act[self.activation]} (logits)")
        boxes = "locations" if inner else "boxes"
        lines.append(f"{boxes} = Concat <axis=1> (lr0, lr1)")
        if self.joined:
            lines.append("joined = Concat <axis=2> (locations, p)")
        if self.nms:
            lines += _NMS_LINES + (_SLOT_LINES if self.fixed_slots else _ALL_LINES)
            if self.table is not None:
                lines = [
                    "labels64 = Gather(table, index)" if x.startswith("labels64") else x for x in lines
                ]
        return "\n".join(lines) + "\n"

    def _weights(self) -> dict[str, Any]:
        rng = np.random.default_rng(self.seed)
        count = self.target or len(self.columns)
        made = {
            "wf0": rng.normal(0, 0.4, (CHANNELS, 3, 2, 2)),
            "wf1": rng.normal(0, 0.4, (CHANNELS, CHANNELS, 2, 2)),
            "four": np.array([1, -1, 4]),
            "target": np.array([1, -1, count] if self.layout == "anchor" else [1, count, -1]),
        }
        for level in range(len(SIZES)):
            full = (self.anchors, self.total)
            weight = rng.normal(0, 0.7, (*full, CHANNELS, 1, 1))
            bias = rng.normal(0, 0.7, full)
            columns = list(self.level_columns.get(level, self.columns))
            picked, offset = weight[:, columns], bias[:, columns]
            if self.layout == "class":
                picked, offset = picked.swapaxes(0, 1), offset.swapaxes(0, 1)
            picked, offset = picked.reshape(-1, CHANNELS, 1, 1), offset.reshape(-1)
            turn = self.shift.get(level, 0)
            made[f"wc{level}"] = np.roll(picked, turn, 0)
            made[f"bc{level}"] = np.roll(offset, turn, 0)
            made[f"wl{level}"] = rng.normal(0, 0.4, (self.anchors * 4, CHANNELS, 1, 1))
        made |= self._nms_weights() if self.nms else {}
        return {
            name: np.asarray(v, self.dtype if np.asarray(v).dtype.kind == "f" else np.int64)
            for name, v in made.items()
        }

    def _nms_weights(self) -> dict[str, Any]:
        count = sum(size * size for size in SIZES) * self.anchors
        rng = np.random.default_rng(5)
        corner = rng.random((1, count, 2)) * 100
        made = {
            "priors": np.concatenate([corner, corner + 4 + 8 * rng.random((1, count, 2))], 2),
            "most": np.array([20]),
            "iou": np.array([0.5]),
            "least": np.array([0.3]),
            "first": np.array([0 if self.background is None else 1]),
            "end": np.array([1000]),
            "axis1": np.array([1]),
            "add": np.array(self.labels),
            "col1": np.array(1),
            "col2": np.array(2),
            "minus1": np.array([-1]),
            "five": np.array([5]),
            "zero": np.array([0]),
            "pads": np.array([0, 5]),
            "boxpads": np.array([0, 0, 5, 0]),
            "fivefour": np.array([1, 5, 4]),
            "onefive": np.array([1, 5]),
        }
        return made | ({"table": np.array(self.table)} if self.table else {})


_NMS_LINES = [
    "b = Add(locations, priors)",
    "pt = Transpose <perm=[0,2,1]> (p)",
    "pk = Slice(pt, first, end, axis1)",
    "chosen = NonMaxSuppression(b, pk, most, iou, least)",
    "index = Gather <axis=1> (chosen, col1)",
    "which = Gather <axis=1> (chosen, col2)",
    "b2 = Squeeze(b, zero)",
    "found_boxes = Gather(b2, which)",
    "iu = Unsqueeze(index, minus1)",
    "wu = Unsqueeze(which, minus1)",
    "pair = Concat <axis=1> (iu, wu)",
    "pk2 = Squeeze(pk, zero)",
    "found_scores = GatherND(pk2, pair)",
    "labels64 = Add(index, add)",
    "size = Shape(found_scores)",
    "top, order = TopK(found_scores, size)",
]
_ALL_LINES = [
    "out_boxes = Gather(found_boxes, order)",
    "out_labels = Gather(labels64, order)",
    "out_scores = Identity(top)",
]
_SLOT_LINES = [
    "lf = Cast <to=1> (labels64)",
    "sb = Gather(found_boxes, order)\nsl = Gather(lf, order)",
    "pb = Pad(sb, boxpads)\npl = Pad(sl, pads)\nps = Pad(top, pads)",
    "cb = Slice(pb, zero, five, zero)\ncl = Slice(pl, zero, five)\ncs = Slice(ps, zero, five)",
    "out_boxes = Reshape(cb, fivefour)",
    "out_labels = Reshape(cl, onefive)\nout_scores = Reshape(cs, onefive)",
]

FULL = Tiny((0, 1, 2, 3, 4))
KEPT = (0, 3, 1)


def check(whole: Tiny, cut: Tiny, *, claimed: Tiny | None = None, **more: object) -> Verdict:
    options: dict[str, Any] = {"provider": "cpu", "background": whole.background, **more}
    kept = claimed or cut
    return validate(
        whole.model(),
        cut.model(),
        sites=whole.sites(),
        cut_sites=kept.sites(),
        order=kept.columns,
        **options,
    )
