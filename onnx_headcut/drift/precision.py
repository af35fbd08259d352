"""Average precision as COCO measures it, against annotations in COCO's format.

Written here rather than taken from pycocotools: 60 lines beside a compiled package, and the same
figure whether it is installed or not. The tests hold it against pycocotools on generated pictures.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from onnx_headcut.drift.boxes import Floats, overlaps
from onnx_headcut.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Container, Mapping
    from pathlib import Path

    from onnx_headcut.drift.boxes import Detections

Bools = npt.NDArray[np.bool_]

THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""Overlaps at which a detection counts as right."""
_RECALLS = np.linspace(0.0, 1.0, 101)
_MOST = 100  # detections of a class in a picture


@dataclass(frozen=True)
class Objects:
    """Objects of one class in one picture: boxes [n,4], and which of them are crowds [n].

    What lies in a crowd is neither right nor wrong.
    """

    boxes: Floats
    crowd: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Truth:
    """Objects by picture (its file name): class name, box in fractions, whether a crowd."""

    objects: Mapping[str, list[tuple[str, Floats, bool]]] = field(default_factory=dict)

    def of(self, picture: str, names: Container[str]) -> Objects:
        """Give the objects of one class in one picture, which may have several ``names``."""
        mine = [item for item in self.objects.get(picture, ()) if item[0] in names]
        boxes = np.array([box for _, box, _ in mine], np.float64).reshape(-1, 4)
        return Objects(boxes, np.array([crowd for *_, crowd in mine], bool))


def read(path: Path) -> Truth:
    """Read annotations in COCO's JSON. Raises InputError."""
    try:
        data = json.loads(path.read_text("utf-8"))
        names = {c["id"]: str(c["name"]).casefold() for c in data["categories"]}
        images = {i["id"]: i for i in data["images"]}
        objects: dict[str, list[tuple[str, Floats, bool]]] = defaultdict(list)
        for image in images.values():
            objects[_name(image)] = []
        for item in data["annotations"]:
            image = images[item["image_id"]]
            x, y, width, height = item["bbox"]
            size = np.array([image["width"], image["height"]] * 2, np.float64)
            box = np.array([x, y, x + width, y + height], np.float64) / size
            crowd = bool(item.get("iscrowd") or item.get("ignore"))
            objects[_name(image)].append((names[item["category_id"]], box, crowd))
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


def of_class(
    detections: Mapping[str, Detections], truth: Truth, column: int, names: Container[str]
) -> tuple[float | None, float | None]:
    """AP at an overlap of one half, and COCO's mean over 0.5 to 0.95, of one class.

    ``names``, in lower case, are those of its objects in the annotations. None where no annotated
    picture has an object of it.
    """
    scores: list[Floats] = []
    judged: list[tuple[Bools, Bools]] = []
    total = 0
    for picture, found in detections.items():
        if picture not in truth.objects:
            continue
        objects = truth.of(picture, names)
        mine = found.of(found.columns == column)
        mine = mine.of(np.argsort(-mine.scores, kind="stable")[:_MOST])
        scores.append(mine.scores)
        judged.append(judge(mine.boxes, objects))
        total += int((~objects.crowd).sum())
    if not total:
        return None, None
    ranks = np.argsort(-np.concatenate(scores), kind="stable")
    right, counted = (np.concatenate(part, axis=1)[:, ranks] for part in zip(*judged, strict=True))
    areas = [_area(r[c], total) for r, c in zip(right, counted, strict=True)]
    return areas[0], float(np.mean(areas))


def judge(boxes: Floats, objects: Objects) -> tuple[Bools, Bools]:
    """Say which detections, best first, are right and which count, each [thresholds, detections].

    An object is found once, by the first that overlaps it enough, which takes the object that it
    overlaps most of those left. What finds none but a crowd does not count.
    """
    right = np.zeros((len(THRESHOLDS), len(boxes)), bool)
    counted = np.ones_like(right)
    order = np.argsort(objects.crowd, kind="stable")
    crowd = objects.crowd[order]
    shared = _overlaps(boxes, objects.boxes[order], crowd)
    for at, least in enumerate(THRESHOLDS):
        free = np.ones(len(crowd), bool)
        for k, row in enumerate(shared):
            able = free & (row >= least)
            able = able & ~crowd if (able & ~crowd).any() else able & crowd
            if not able.any():
                continue
            # of equal ones the last, as pycocotools has it
            best = len(row) - 1 - int(np.argmax(np.where(able, row, -1.0)[::-1]))
            right[at, k] = counted[at, k] = not crowd[best]
            free[best] = crowd[best]
    return right, counted


def _overlaps(boxes: Floats, objects: Floats, crowd: Bools) -> Floats:
    """Intersection over union; for crowds, the part of the detection that lies inside."""
    shared = overlaps(boxes, objects)
    areas = [np.prod(b[:, 2:] - b[:, :2], axis=1) for b in (boxes, objects)]
    # from i / (a + b - i) to i / a
    both = shared * (areas[0][:, None] + areas[1][None, :]) / (1 + shared)
    inside = np.divide(both, areas[0][:, None], out=np.zeros_like(both), where=both > 0)
    return np.asarray(np.where(crowd[None, :], inside, shared))


def _area(right: Bools, total: int) -> float:
    """Mean of the precision envelope at 101 recalls."""
    hits = np.cumsum(right)
    recall, precision = hits / total, hits / np.arange(1, len(right) + 1)
    envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return float(envelope[np.searchsorted(recall, _RECALLS)].mean())
