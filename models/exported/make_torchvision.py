"""torchvision's detectors: dense heads and whole pipelines, by both of PyTorch's exporters.

make_torchvision.py [NAME PART ...]   makes all pairs, or those with a part in their name
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

import torch
import torching
from making import KEEP_91, add
from skeleton import Pair
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import detection

CLASSES = 91
NATIVE = 1 + len(KEEP_91)
COLUMNS = [0, *KEEP_91]
NO_WEIGHTS: dict[str, Any] = {"weights": None, "weights_backbone": None}


class DenseHeads(nn.Module):
    """Box regression and class scores of every anchor, before any decoding."""

    def __init__(self, detector: nn.Module, *, softmax: bool) -> None:
        super().__init__()
        self.detector, self.softmax = detector, softmax

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images to boxes ``[N, anchors, 4]`` and scores ``[N, anchors, classes]``."""
        heads = self.detector.head(list(self.detector.backbone(images).values()))
        scores = heads["cls_logits"]
        return heads["bbox_regression"], functional.softmax(scores, -1) if self.softmax else scores


@dataclass
class Raw:
    """A pair of dense heads."""

    name: str
    builder: str
    opset: int
    dynamo: bool = False
    softmax: bool = False
    batch: bool = False
    size: bool = False
    biases: bool = True
    note: str = ""


RAW = [
    Raw("tv_ssd300_logits_ts11", "ssd300_vgg16", 11),
    Raw("tv_ssd300_softmax_batch_ts13", "ssd300_vgg16", 13, softmax=True, batch=True),
    Raw("tv_ssd300_softmax_any_ts17", "ssd300_vgg16", 17, softmax=True, batch=True, size=True),
    Raw(
        "tv_ssd300_logits_equalbias_ts17",
        "ssd300_vgg16",
        17,
        biases=False,
        note="biases of zero, which the exporter shares between heads through Identity nodes",
    ),
    Raw("tv_ssd300_logits_dynamo18", "ssd300_vgg16", 18, dynamo=True),
    Raw(
        "tv_ssd300_softmax_batch_dynamo20",
        "ssd300_vgg16",
        20,
        dynamo=True,
        softmax=True,
        batch=True,
    ),
    Raw(
        "tv_ssd300_softmax_any_dynamo18",
        "ssd300_vgg16",
        18,
        dynamo=True,
        softmax=True,
        batch=True,
        size=True,
    ),
    Raw("tv_ssdlite320_logits_ts17", "ssdlite320_mobilenet_v3_large", 17),
    Raw("tv_ssdlite320_softmax_ts11", "ssdlite320_mobilenet_v3_large", 11, softmax=True),
    Raw(
        "tv_ssdlite320_softmax_any_ts13",
        "ssdlite320_mobilenet_v3_large",
        13,
        softmax=True,
        batch=True,
        size=True,
    ),
    Raw(
        "tv_ssdlite320_softmax_dynamo18",
        "ssdlite320_mobilenet_v3_large",
        18,
        dynamo=True,
        softmax=True,
    ),
    Raw(
        "tv_ssdlite320_logits_any_dynamo21",
        "ssdlite320_mobilenet_v3_large",
        21,
        dynamo=True,
        batch=True,
        size=True,
    ),
]


def make_raw(spec: Raw) -> None:
    """Export dense heads twice."""
    torch.manual_seed(0)
    build = getattr(detection, spec.builder)
    many, native = (build(**NO_WEIGHTS, num_classes=n).eval() for n in (CLASSES, NATIVE))
    side = 300 if "300" in spec.builder else 320
    images = torch.rand(2 if spec.batch else 1, 3, side, side)
    wrapped = DenseHeads(many, softmax=spec.softmax)
    torching.liven(many, lambda: wrapped(images), r"head\.classification_head")
    if not spec.biases:
        for name, parameter in many.named_parameters():
            if name.endswith("bias"):
                parameter.data.zero_()
    torching.share(many, native, COLUMNS, CLASSES)
    outputs = ["boxes", "scores"]
    graphs = []
    for model in (many, native):
        heads = DenseHeads(model, softmax=spec.softmax).eval()
        if spec.dynamo:
            axes: dict[int, object] = {}
            if spec.batch:
                axes[0] = torch.export.Dim.DYNAMIC
            if spec.size:
                axes[2] = axes[3] = torch.export.Dim.DYNAMIC
            graphs.append(
                torching.dynamo(heads, (images,), spec.opset, outputs, (axes,) if axes else None)
            )
        else:
            names = {0: "batch"} if spec.batch else {}
            if spec.size:
                names |= {2: "height", 3: "width"}
            dynamic = {"images": names} | (
                {o: {0: "batch", 1: "anchors"} if spec.size else {0: "batch"} for o in outputs}
            )
            graphs.append(
                torching.torchscript(heads, (images,), spec.opset, outputs, dynamic if names else None)
            )
    add(
        Pair(
            name=spec.name,
            architecture="SSD300 with VGG16" if side == 300 else "SSDLite320 with MobileNetV3",
            exporter=f"{torching.VERSIONS}, {'dynamo' if spec.dynamo else 'TorchScript'} exporter",
            opset=spec.opset,
            kind="raw",
            classes=CLASSES,
            native_classes=NATIVE,
            background=0,
            activation="softmax" if spec.softmax else "none",
            keep=KEEP_91,
            inputs=[{"name": "images", "shape": list(images.shape), "dtype": "float32"}],
            scores=[{"output": 1, "axis": 2, "anchors": 0, "first": 0}],
            labels=None,
            args=[] if spec.softmax else ["--background", "first"],
            note=spec.note,
        ),
        *graphs,
    )


@dataclass
class Full:
    """A pair of whole pipelines: an image in, detections out."""

    name: str
    builder: str
    opset: int
    outputs: tuple[str, ...] = ("boxes", "scores", "labels")
    background: int | None = 0
    size: tuple[int, int] = (320, 320)
    dynamic: bool = False
    prior: float = 0.0
    spread: float = 2.0
    scores: str = r"cls_logits|cls_score|mask_fcn_logits|head\.classification_head\.module_list"
    options: dict[str, Any] = field(default_factory=dict)
    note: str = ""


SMALL = {"min_size": 256, "max_size": 320}
RCNN = ("boxes", "labels", "scores")
FULL = [
    Full("tv_ssd300_full_ts17", "ssd300_vgg16", 17, size=(300, 300)),
    Full("tv_ssd300_full_any_ts11", "ssd300_vgg16", 11, size=(240, 340), dynamic=True),
    Full("tv_ssdlite320_full_ts17", "ssdlite320_mobilenet_v3_large", 17),
    Full(
        "tv_retinanet_full_ts17",
        "retinanet_resnet50_fpn",
        17,
        background=None,
        size=(256, 320),
        prior=-3.0,
        options=SMALL,
        note="column 0 is a class like any other: sigmoid knows no background",
    ),
    Full(
        "tv_retinanet_full_any_ts11",
        "retinanet_resnet50_fpn",
        11,
        background=None,
        size=(240, 300),
        prior=-3.0,
        options=SMALL,
        dynamic=True,
    ),
    Full(
        "tv_fcos_full_ts17",
        "fcos_resnet50_fpn",
        17,
        background=None,
        size=(256, 320),
        prior=-3.0,
        options=SMALL,
    ),
    Full(
        "tv_fasterrcnn_mobilenet_full_ts17",
        "fasterrcnn_mobilenet_v3_large_320_fpn",
        17,
        RCNN,
        spread=4.0,
        size=(256, 320),
        options=SMALL,
        note="class-specific boxes",
    ),
    Full(
        "tv_fasterrcnn_mobilenet_full_any_ts11",
        "fasterrcnn_mobilenet_v3_large_320_fpn",
        11,
        RCNN,
        spread=4.0,
        size=(240, 300),
        options=SMALL,
        dynamic=True,
        note="class-specific boxes",
    ),
    Full(
        "tv_fasterrcnn_resnet50_full_ts17",
        "fasterrcnn_resnet50_fpn",
        17,
        RCNN,
        spread=4.0,
        size=(256, 320),
        options=SMALL,
        note="class-specific boxes",
    ),
    Full(
        "tv_maskrcnn_resnet50_full_ts17",
        "maskrcnn_resnet50_fpn",
        17,
        (*RCNN, "masks"),
        spread=4.0,
        size=(256, 320),
        options={**SMALL, "box_detections_per_img": 20},
        note="class-specific boxes and masks",
    ),
]


def make_full(spec: Full) -> None:
    """Export a pipeline twice."""
    torch.manual_seed(0)
    build = getattr(detection, spec.builder)
    columns = COLUMNS if spec.background == 0 else KEEP_91
    sizes = CLASSES, len(columns)
    many, native = (build(**NO_WEIGHTS, **spec.options, num_classes=n).eval() for n in sizes)
    image = torch.rand(3, *spec.size)
    torching.liven(many, lambda: many([image]), spec.scores, spec.prior, spec.spread)
    torching.share(many, native, columns, CLASSES, {"bbox_pred": 4})
    dynamic: dict[str, dict[int, str]] = {name: {0: "detections"} for name in spec.outputs}
    if spec.dynamic:
        dynamic["image"] = {1: "height", 2: "width"}
    graphs = [
        torching.torchscript(model, ([image],), spec.opset, spec.outputs, dynamic, ["image"])
        for model in (many, native)
    ]
    add(
        Pair(
            name=spec.name,
            architecture=spec.builder,
            exporter=f"{torching.VERSIONS}, TorchScript exporter",
            opset=spec.opset,
            kind="pipeline",
            classes=CLASSES,
            native_classes=len(columns),
            background=spec.background,
            activation="softmax" if spec.background == 0 else "sigmoid",
            keep=KEEP_91,
            inputs=[{"name": "image", "shape": list(image.shape), "dtype": "float32"}],
            scores=[],
            labels={"output": spec.outputs.index("labels"), "column": None},
            args=[],
            note=spec.note,
        ),
        *graphs,
    )


def main() -> None:
    """Make what the command line names."""
    wanted = sys.argv[1:] or [""]
    for make, specs in ((make_raw, RAW), (make_full, FULL)):
        for spec in specs:
            if any(part in spec.name for part in wanted):
                print(spec.name, flush=True)
                make(spec)  # type: ignore[operator]


if __name__ == "__main__":
    main()
