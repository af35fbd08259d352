"""Tiny networks with channel layouts that others overlook.

make_layouts.py [NAME PART ...]   makes all pairs, or those with a part in their name

* MLPerf's SSD-ResNet34: class-major channels ``k * A + a``, viewed as ``[N, 81, anchors]``.
* EfficientDet: raw maps ``[N, 9 * 90, h, w]``, one output for each level.
* DETR: scores by a fully connected layer, the background last.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import torch
import torching
from making import KEEP_81, KEEP_91, add
from skeleton import Labels, Pair, Scores
from torch import Tensor, nn
from yolo_nets import OnnxNms, block, corners

SIDE = 128


class Pyramid(nn.Module):
    """Four maps of 64 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(block(3, 16, 2), block(16, 32, 2), block(32, 64, 2))
        self.down = nn.ModuleList(block(64, 64, 2) for _ in range(3))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images to maps."""
        maps = [self.stem(images)]
        for down in self.down:
            maps.append(down(maps[-1]))
        return maps


class Mlperf(nn.Module):
    """Dense heads as MLPerf's SSD-ResNet34 has them, class-major; softmax over axis 1."""

    anchors = (4, 6, 6, 4)

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.backbone, self.classes = Pyramid(), classes
        self.loc = nn.ModuleList(nn.Conv2d(64, a * 4, 3, padding=1) for a in self.anchors)
        self.conf = nn.ModuleList(nn.Conv2d(64, a * classes, 3, padding=1) for a in self.anchors)
        count = sum(a * (SIDE // s) ** 2 for a, s in zip(self.anchors, (8, 16, 32, 64), strict=True))
        generator = torch.Generator().manual_seed(1)
        self.register_buffer("boxes", torch.rand(1, count, 4, generator=generator) * 0.3 + 0.2)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images to ``[N, 4, anchors]`` and ``[N, classes, anchors]``."""
        boxes, scores = [], []
        for x, loc, conf in zip(self.backbone(images), self.loc, self.conf, strict=True):
            boxes.append(loc(x).view(x.shape[0], 4, -1))
            scores.append(conf(x).view(x.shape[0], self.classes, -1))
        return torch.cat(boxes, 2), torch.cat(scores, 2).softmax(1)


class MlperfDetections(nn.Module):
    """Decoded boxes, and suppression of every class but the background in one node."""

    def __init__(self, net: Mlperf) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images to boxes, scores and labels; the labels count from 1."""
        offsets, scores = self.net(images)
        boxes = corners(self.net.boxes + offsets.transpose(1, 2) * 0.05)
        scores = scores[:, 1:]
        batch, label, place = OnnxNms.apply(boxes, scores).unbind(1)
        return boxes[batch, place], scores[batch, label, place], label + 1


class EfficientDet(nn.Module):
    """Class and box networks shared by all levels; raw maps come out."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.backbone = Pyramid()
        self.class_net = nn.Sequential(block(64, 64), nn.Conv2d(64, 9 * classes, 3, padding=1))
        self.box_net = nn.Sequential(block(64, 64), nn.Conv2d(64, 9 * 4, 3, padding=1))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images to class maps of all levels, then box maps of all levels."""
        maps = self.backbone(images)
        return (*(self.class_net(x) for x in maps), *(self.box_net(x) for x in maps))


class EfficientDetTopK(nn.Module):
    """The best of all (anchor, class) scores of all levels, before any decoding."""

    def __init__(self, net: EfficientDet, classes: int) -> None:
        super().__init__()
        self.net, self.classes = net, classes

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images to box offsets, scores and labels of 100 candidates."""
        out = self.net(images)
        maps = len(out) // 2
        scores, boxes = (
            torch.cat([x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, width) for x in part], 1)
            for part, width in ((out[:maps], self.classes), (out[maps:], 4))
        )
        best, index = scores.reshape(scores.shape[0], -1).topk(100)
        place = torch.div(index, self.classes, rounding_mode="floor")
        picked = boxes.gather(1, place[..., None].expand(-1, -1, 4))
        return picked, best.sigmoid(), index % self.classes


class Detr(nn.Module):
    """Queries look at the image once; scores by a fully connected layer, the background last."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.backbone = Pyramid()
        self.queries = nn.Parameter(torch.randn(100, 64))
        self.class_embed = nn.Linear(64, classes)
        self.bbox_embed = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images to logits ``[N, 100, classes]`` and boxes."""
        tokens = self.backbone(images)[-2].flatten(2).transpose(1, 2)
        weights = (self.queries @ tokens.transpose(1, 2) / 2).softmax(-1)
        found = nn.functional.layer_norm(weights @ tokens + self.queries, (64,))
        return self.class_embed(found), self.bbox_embed(found).sigmoid()


class DetrPost(nn.Module):
    """Softmax, the background dropped, the best class of each query."""

    def __init__(self, net: Detr) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images to boxes, scores and labels of 100 queries."""
        logits, boxes = self.net(images)
        scores, labels = logits.softmax(-1)[..., :-1].max(-1)
        return corners(boxes), scores, labels


@dataclass
class Spec:
    """A pair."""

    name: str
    net: type[Mlperf | EfficientDet | Detr]
    opset: int
    wrap: bool = False
    dynamo: bool = False
    note: str = ""


SPECS = [
    Spec("mlperf_ssd_dense_ts11", Mlperf, 11, note="class-major channels, classes on axis 1"),
    Spec("mlperf_ssd_dense_dynamo18", Mlperf, 18, dynamo=True, note="class-major channels"),
    Spec(
        "mlperf_ssd_nms_ts13",
        Mlperf,
        13,
        wrap=True,
        note="class-major channels, labels count from 1",
    ),
    Spec(
        "efficientdet_maps_ts11",
        EfficientDet,
        11,
        note="9 * C channels in every map that comes out",
    ),
    Spec("efficientdet_maps_dynamo18", EfficientDet, 18, dynamo=True),
    Spec(
        "efficientdet_topk_ts13",
        EfficientDet,
        13,
        wrap=True,
        note="flat top-k, index // C and index % C",
    ),
    Spec("detr_logits_ts17", Detr, 17, note="background last"),
    Spec("detr_logits_dynamo20", Detr, 20, dynamo=True, note="background last"),
    Spec("detr_labels_ts13", Detr, 13, wrap=True, note="background last, dropped after the softmax"),
]
CLASSES = {Mlperf: 81, EfficientDet: 90, Detr: 92}
KEEP = {Mlperf: KEEP_81, EfficientDet: [k - 1 for k in KEEP_91], Detr: KEEP_91}
BACKGROUND = {Mlperf: 0, EfficientDet: None, Detr: 91}
OUTPUTS = {
    Mlperf: ["boxes", "scores"],
    EfficientDet: [f"{part}{level}" for part in ("class", "box") for level in range(3, 7)],
    Detr: ["logits", "boxes"],
}
SCORES: dict[type[nn.Module], list[Scores]] = {
    Mlperf: [{"output": 1, "axis": 1, "anchors": 0, "first": 0}],
    EfficientDet: [{"output": k, "axis": 1, "anchors": 9, "first": 0} for k in range(4)],
    Detr: [{"output": 0, "axis": 2, "anchors": 0, "first": 0}],
}
LABELS: Labels = {"output": 2, "column": None}


def make(spec: Spec) -> None:
    """Export twice."""
    torch.manual_seed(0)
    keep, background = KEEP[spec.net], BACKGROUND[spec.net]
    columns = list(keep)
    if background is not None:
        columns.insert(0 if background == 0 else len(keep), background)
    classes = CLASSES[spec.net]
    many, native = spec.net(classes).eval(), spec.net(len(columns)).eval()
    images = torch.rand(1, 3, SIDE, SIDE)
    torching.liven(many, lambda: many(images), r"conf\.|class_net\.1|class_embed")
    inner = {rf"conf\.{k}\.": a for k, a in enumerate(Mlperf.anchors)}
    torching.share(many, native, columns, classes, inner)
    outputs = ["boxes", "scores", "labels"] if spec.wrap else OUTPUTS[spec.net]
    graphs = []
    for net in (many, native):
        whole: nn.Module = net
        if spec.wrap and isinstance(net, Mlperf):
            whole = MlperfDetections(net)
        elif spec.wrap and isinstance(net, EfficientDet):
            whole = EfficientDetTopK(net, len(columns) if net is native else classes)
        elif spec.wrap and isinstance(net, Detr):
            whole = DetrPost(net)
        dynamic = None
        if spec.wrap and spec.net is Mlperf:
            dynamic = {name: {0: "detections"} for name in outputs}
        if spec.dynamo:
            graphs.append(torching.dynamo(whole.eval(), (images,), spec.opset, outputs))
        else:
            graphs.append(torching.torchscript(whole.eval(), (images,), spec.opset, outputs, dynamic))
    inside = spec.wrap or spec.net is Mlperf
    activation = "sigmoid" if spec.net is EfficientDet else "softmax"
    args = ["--background", "last"] if spec.net is Detr else []
    if spec.net is EfficientDet and not spec.wrap:  # no Reshape splits these maps, nothing is activated
        args = ["--layout", "anchors=9", "--background", "none"]
    pair = Pair(
        name=spec.name,
        architecture=f"{spec.net.__name__}-like, tiny",
        exporter=f"{torching.VERSIONS}, {'dynamo' if spec.dynamo else 'TorchScript'} exporter",
        opset=spec.opset,
        kind="pipeline" if spec.wrap else "raw",
        classes=classes,
        native_classes=len(columns),
        background=background,
        activation=activation if inside else "none",
        keep=keep,
        inputs=[{"name": "images", "shape": list(images.shape), "dtype": "float32"}],
        scores=[] if spec.wrap else SCORES[spec.net],
        labels=LABELS if spec.wrap else None,
        args=args,
        note=spec.note,
    )
    add(pair, *graphs)


def main() -> None:
    """Make what the command line names."""
    wanted = sys.argv[1:] or [""]
    for spec in SPECS:
        if any(part in spec.name for part in wanted):
            print(spec.name, flush=True)
            make(spec)


if __name__ == "__main__":
    main()
