"""Average precision against annotations in COCO's format.

The measure is VOC's since 2010: the area under the precision envelope, at an overlap of one half
and, as COCO has it, as the mean over overlaps of 0.5 to 0.95. COCO samples the envelope at 101
points, so its own tools give slightly other numbers; before and after are measured alike here.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from onnx_headcut.drift.boxes import Floats, overlaps
from onnx_headcut.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from onnx_headcut.drift.boxes import Detections


@dataclass(frozen=True)
class Truth:
    """Objects by picture (its file name): class names and boxes as fractions of the picture."""

    objects: Mapping[str, list[tuple[str, Floats]]] = field(default_factory=dict)

    def of(self, picture: str, name: str) -> Floats:
        """Boxes [n,4] of one class in one picture."""
        boxes = [box for label, box in self.objects.get(picture, ()) if label == name]
        return np.array(boxes, np.float64).reshape(-1, 4)


def read(path: Path) -> Truth:
    """Read annotations in COCO's JSON; crowds are left out. Raises InputError."""
    try:
        data = json.loads(path.read_text("utf-8"))
        names = {c["id"]: str(c["name"]).casefold() for c in data["categories"]}
        images = {i["id"]: i for i in data["images"]}
        objects: dict[str, list[tuple[str, Floats]]] = defaultdict(list)
        for image in images.values():
            objects[_name(image)] = []
        for item in data["annotations"]:
            if item.get("iscrowd"):
                continue
            image = images[item["image_id"]]
            x, y, width, height = item["bbox"]
            size = np.array([image["width"], image["height"]] * 2, np.float64)
            box = np.array([x, y, x + width, y + height], np.float64) / size
            objects[_name(image)].append((names[item["category_id"]], box))
    except OSError as error:
        raise InputError(f"{path.name} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path.name} has no annotations in COCO's format: {type(error).__name__} {error}",
            advice="It needs images (id, file_name, width, height), categories and annotations.",
        ) from None
    return Truth(dict(objects))


def _name(image: Mapping[str, Any]) -> str:
    return str(image["file_name"]).replace("\\", "/").rsplit("/", 1)[-1]


def average_precision(
    found: Sequence[tuple[float, int, Floats]], truth: Sequence[Floats], least: float = 0.5
) -> float | None:
    """Area under the precision envelope of one class; None where there is no object.

    ``found`` holds (score, picture, box [4]), ``truth`` the boxes [n,4] of each picture.
    """
    total = sum(len(boxes) for boxes in truth)
    if not total:
        return None
    taken = [np.zeros(len(boxes), bool) for boxes in truth]
    hits = np.zeros(len(found), bool)
    for k, (_, picture, box) in enumerate(sorted(found, key=lambda item: -item[0])):
        shared = overlaps(box[None], truth[picture])[0]
        best = int(shared.argmax()) if len(shared) else -1
        if best >= 0 and shared[best] >= least and not taken[picture][best]:
            taken[picture][best] = hits[k] = True
    if not len(hits):
        return 0.0
    right = np.cumsum(hits)
    recall, precision = right / total, right / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * envelope))


def of_class(
    detections: Mapping[str, Detections], truth: Truth, column: int, name: str
) -> tuple[float | None, float | None]:
    """AP at one half, and COCO's mean over overlaps of 0.5 to 0.95, of one class."""
    pictures = [p for p in detections if p in truth.objects]
    boxes = [truth.of(p, name.casefold()) for p in pictures]
    found = [
        (float(score), at, box)
        for at, p in enumerate(pictures)
        for box, c, score in zip(
            detections[p].boxes, detections[p].columns, detections[p].scores, strict=True
        )
        if c == column
    ]
    steps = [average_precision(found, boxes, 0.5 + 0.05 * k) for k in range(10)]
    known = [value for value in steps if value is not None]
    return steps[0], float(np.mean(known)) if known else None
