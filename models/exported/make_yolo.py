"""The YOLO family's networks of `yolo_nets`, dense and with suppression in the graph.

make_yolo.py [NAME PART ...]   makes all pairs, or those with a part in their name
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import torch
import torching
from making import KEEP_80, add
from skeleton import Pair, Scores
from torch import nn
from yolo_nets import SIDE, V5, V8, EndToEnd, WithNms, WithOffsets, X

CLASSES, NATIVE = 80, len(KEEP_80)
COCO = [
    "person",
    "bicycle",
    "car",
    "motorcycle",
    "airplane",
    "bus",
    "train",
    "truck",
    "boat",
    "traffic light",
    "fire hydrant",
    "stop sign",
    "parking meter",
    "bench",
    "bird",
    "cat",
    "dog",
    "horse",
    "sheep",
    "cow",
    "elephant",
    "bear",
    "zebra",
    "giraffe",
    "backpack",
    "umbrella",
    "handbag",
    "tie",
    "suitcase",
    "frisbee",
    "skis",
    "snowboard",
    "sports ball",
    "kite",
    "baseball bat",
    "baseball glove",
    "skateboard",
    "surfboard",
    "tennis racket",
    "bottle",
    "wine glass",
    "cup",
    "fork",
    "knife",
    "spoon",
    "bowl",
    "banana",
    "apple",
    "sandwich",
    "orange",
    "broccoli",
    "carrot",
    "hot dog",
    "pizza",
    "donut",
    "cake",
    "chair",
    "couch",
    "potted plant",
    "bed",
    "dining table",
    "toilet",
    "tv",
    "laptop",
    "mouse",
    "remote",
    "keyboard",
    "cell phone",
    "microwave",
    "oven",
    "toaster",
    "sink",
    "refrigerator",
    "book",
    "clock",
    "vase",
    "scissors",
    "teddy bear",
    "hair drier",
    "toothbrush",
]


@dataclass
class Spec:
    """A pair."""

    name: str
    net: type[nn.Module]
    opset: int
    wrap: type[WithNms | WithOffsets | EndToEnd] | None = None
    dynamo: bool = False
    batch: bool = False
    outputs: tuple[str, ...] = ("output0",)
    note: str = ""


SCORES: dict[type[nn.Module], Scores] = {
    V8: {"output": 0, "axis": 1, "anchors": 0, "first": 4},
    V5: {"output": 0, "axis": 2, "anchors": 0, "first": 5},
    X: {"output": 0, "axis": 2, "anchors": 0, "first": 5},
}
COLUMN = {WithNms: 5, WithOffsets: None, EndToEnd: 5}
ROWS = ("detections",)
PARTS = ("boxes", "scores", "labels")
SPECS = [
    Spec(
        "yolov8_dense_ts12",
        V8,
        12,
        note="[N, 4 + C, cells]; a hidden layer of 80 before 80 classes",
    ),
    Spec("yolov8_dense_batch_ts17", V8, 17, batch=True),
    Spec("yolov8_dense_batch_dynamo18", V8, 18, dynamo=True, batch=True),
    Spec(
        "yolov8_nms_batch_ts12",
        V8,
        12,
        WithNms,
        batch=True,
        outputs=ROWS,
        note="NonMaxSuppression by class",
    ),
    Spec(
        "yolov8_offsets_ts17",
        V8,
        17,
        WithOffsets,
        outputs=PARTS,
        note="argmax, class offsets, one NonMaxSuppression",
    ),
    Spec(
        "yolov10_topk_ts13",
        V8,
        13,
        EndToEnd,
        outputs=ROWS,
        note="flat top-k, index // C and index % C",
    ),
    Spec(
        "yolov10_topk_batch_dynamo18",
        V8,
        18,
        EndToEnd,
        dynamo=True,
        batch=True,
        outputs=ROWS,
        note="flat top-k, index // C and index % C",
    ),
    Spec("yolov5_dense_ts12", V5, 12, note="[N, boxes, 5 + C], 3 * (5 + C) channels a level"),
    Spec("yolov5_dense_batch_dynamo18", V5, 18, dynamo=True, batch=True),
    Spec("yolov5_nms_ts11", V5, 11, WithNms, outputs=ROWS, note="scores are class * objectness"),
    Spec(
        "yolov5_offsets_ts16",
        V5,
        16,
        WithOffsets,
        outputs=PARTS,
        note="argmax, class offsets, one NonMaxSuppression",
    ),
    Spec(
        "yolox_dense_batch_ts11",
        X,
        11,
        batch=True,
        note="box | objectness | classes from three branches",
    ),
]


def share_interleaved(many: V5, native: V5) -> None:
    """As ``torching.share``, on a grid of (anchor, box and objectness and class)."""
    columns = [*range(5), *(5 + k for k in KEEP_80)]
    torching.share(many, native, columns, 5 + CLASSES)


def make(spec: Spec) -> None:
    """Export twice."""
    torch.manual_seed(0)
    many, native = (spec.net(n).eval() for n in (CLASSES, NATIVE))
    images = torch.rand(2 if spec.batch else 1, 3, SIDE, SIDE)
    torching.liven(many, lambda: many(images), r"cv3\.\d\.2|cls_preds\.\d\.1|^m\.\d", -1.0)
    if isinstance(many, V5) and isinstance(native, V5):
        share_interleaved(many, native)
    else:
        torching.share(many, native, KEEP_80, CLASSES)
    graphs = []
    for model, names in ((many, COCO), (native, [COCO[k] for k in KEEP_80])):
        whole = spec.wrap(model).eval() if spec.wrap else model
        if spec.dynamo:
            axes = ({0: torch.export.Dim.DYNAMIC},) if spec.batch else None
            graph = torching.dynamo(whole, (images,), spec.opset, spec.outputs, axes)
        else:
            dynamic = {"images": {0: "batch"}} if spec.batch else {}
            if spec.wrap in (WithNms, WithOffsets):
                dynamic |= {name: {0: "detections"} for name in spec.outputs}
            elif spec.batch:
                dynamic |= {name: {0: "batch"} for name in spec.outputs}
            graph = torching.torchscript(whole, (images,), spec.opset, spec.outputs, dynamic)
        if spec.net is V8:
            graph.metadata_props.add(key="names", value=str(dict(enumerate(names))))
            graph.metadata_props.add(key="stride", value="32")
        graphs.append(graph)
    pair = Pair(
        name=spec.name,
        architecture=f"{spec.name.split('_')[0]}-like, tiny",
        exporter=f"{torching.VERSIONS}, {'dynamo' if spec.dynamo else 'TorchScript'} exporter",
        opset=spec.opset,
        kind="pipeline" if spec.wrap else "raw",
        classes=CLASSES,
        native_classes=NATIVE,
        background=None,
        activation="sigmoid",
        keep=KEEP_80,
        inputs=[{"name": "images", "shape": list(images.shape), "dtype": "float32"}],
        scores=[SCORES[spec.net]] if spec.wrap is None else [],
        labels={"output": len(spec.outputs) - 1, "column": COLUMN[spec.wrap]} if spec.wrap else None,
        args=[],
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
