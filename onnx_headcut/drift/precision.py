"""Average precision by pycocotools (the extra ``coco``), against annotations in COCO's format.

What is evaluated as a category is a class of the cut: its objects are those of all names that it
stands for, so that merged and repeated classes are measured as what they are.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from onnx_headcut.errors import InputError, UsageError

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping, Sequence
    from pathlib import Path

    from onnx_headcut.drift.boxes import Detections

_ALL_AREAS = [0, 1e10]
_MOST = 100  # detections of a class in a picture


@dataclass(frozen=True)
class Annotated:
    """An object in a picture; ``box`` is its left, top, width and height in pixels.

    What lies in a ``crowd`` is neither right nor wrong.
    """

    name: str
    box: Sequence[float]
    crowd: bool = False


@dataclass(frozen=True)
class Truth:
    """Pictures by their file names: width and height, and what is in them, names in lower case."""

    sizes: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    objects: Mapping[str, Sequence[Annotated]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.sizes)


def read(path: Path) -> Truth:
    """Read annotations in COCO's JSON. Raises InputError, and UsageError without pycocotools."""
    needed()
    try:
        data = json.loads(path.read_text("utf-8"))
        told = _indexed(data["images"], data["categories"], data["annotations"])
        sizes: dict[str, tuple[float, float]] = {}
        objects: dict[str, list[Annotated]] = defaultdict(list)
        for image in told.imgs.values():
            sizes[_name(image)] = (float(image["width"]), float(image["height"]))
        for item in told.anns.values():
            left, top, width, height = map(float, item["bbox"])
            name = str(told.cats[item["category_id"]]["name"]).casefold()
            crowd = bool(item.get("iscrowd"))
            picture = _name(told.imgs[item["image_id"]])
            objects[picture].append(Annotated(name, (left, top, width, height), crowd))
    except OSError as error:
        raise InputError(f"{path.name} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path.name} has no annotations in COCO's format: {type(error).__name__} {error}",
            advice="It needs images (id, file_name, width, height), categories (id, name) and "
            "annotations (id, image_id, category_id, bbox).",
        ) from None
    return Truth(sizes, objects)


def of_columns(
    found: Mapping[str, Detections], truth: Truth, names: Mapping[int, Container[str]]
) -> dict[int, tuple[float | None, float | None]]:
    """AP at an overlap of one half, and COCO's mean over 0.5 to 0.95, of each column.

    ``names`` are what the column's objects are called in the annotations. None where no annotated
    picture has an object of it.
    """
    from pycocotools.cocoeval import COCOeval  # noqa: PLC0415  (optional; asked for by read)

    pictures = {name: at for at, name in enumerate(found, 1) if name in truth.sizes}
    images = [{"id": at} for at in pictures.values()]
    categories = [{"id": column} for column in sorted(names)]
    right = [
        {"image_id": at, "category_id": column, "bbox": list(o.box), "iscrowd": int(o.crowd)}
        for picture, at in pictures.items()
        for o in truth.objects.get(picture, ())
        for column, called in names.items()
        if o.name in called
    ]
    seen = [
        {"image_id": at, "category_id": column, "bbox": box, "score": score}
        for picture, at in pictures.items()
        for column, box, score in _in_pixels(found[picture], truth.sizes[picture])
    ]
    told, given = (_indexed(images, categories, _numbered(rows)) for rows in (right, seen))
    with _silent():
        run = COCOeval(told, given, "bbox")
        run.params.areaRng, run.params.areaRngLbl, run.params.maxDets = [_ALL_AREAS], ["all"], [_MOST]
        run.evaluate()
        run.accumulate()
    # [overlaps, recalls, columns, areas, numbers of detections]; -1 where there is no object
    columns = np.moveaxis(run.eval["precision"][:, :, :, 0, 0], 2, 0)
    return {
        column: (None, None) if (each < 0).any() else (float(each[0].mean()), float(each.mean()))
        for column, each in zip(sorted(names), columns, strict=True)
    }


def needed() -> None:
    """Raise UsageError where pycocotools is not there."""
    try:
        import pycocotools.cocoeval as _  # noqa: F401, PLC0415  (optional)
    except ImportError as error:
        raise UsageError(
            f"--annotations needs pycocotools, which cannot be imported ({error})",
            advice="pip install 'onnx-headcut[coco]', or leave --annotations out: drift is then "
            "measured without average precision.",
        ) from None


def _in_pixels(
    found: Detections, size: tuple[float, float]
) -> Iterable[tuple[int, list[float], float]]:
    """Give column, box (left, top, width, height) and score of each."""
    boxes = found.boxes * np.tile(size, 2)
    boxes = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    return zip(found.columns.tolist(), boxes.tolist(), found.scores.tolist(), strict=True)


def _numbered(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add what COCOeval asks for; ids count from 1, as it takes 0 for none."""
    return [row | {"id": at, "area": row["bbox"][2] * row["bbox"][3]} for at, row in enumerate(rows, 1)]


def _indexed(images: Any, categories: Any, annotations: Any) -> Any:
    from pycocotools.coco import COCO  # noqa: PLC0415  (optional)

    told = COCO()
    told.dataset = {"images": images, "categories": categories, "annotations": annotations}
    with _silent():
        told.createIndex()
    return told


def _silent() -> contextlib.AbstractContextManager[Any]:
    """Pycocotools prints what it does, and stdout is for the answer."""
    return contextlib.redirect_stdout(io.StringIO())


def _name(image: Mapping[str, Any]) -> str:
    return str(image["file_name"]).replace("\\", "/").rsplit("/", 1)[-1]
