"""Average precision of a shapes detector, whole or cut, with numpy and onnxruntime alone.

From the repository's root::

    python -m models.shapes.evaluate models/shapes/ssd_shapes_ts_softmax.onnx
    python -m models.shapes.evaluate cut.onnx --keep circle heart "stop sign"
"""

import argparse
from collections.abc import Iterable, Sequence
from os import PathLike
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnxruntime

from models.shapes.pictures import NAMES, Floats, picture

Integers = npt.NDArray[np.int64]


class Detections(NamedTuple):
    """What was found in one picture, best first."""

    boxes: Floats
    """float32 [n,4]: x0,y0,x1,y1 in pixels."""
    columns: Integers
    """int64 [n]: columns of the score tensor, 1 or more."""
    scores: Floats
    """float32 [n]: probabilities."""


def overlaps(box: Floats, boxes: Floats) -> Floats:
    """Intersection over union of ``box`` [4] with each of ``boxes`` [n,4]: float32 [n]."""
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    shared = np.prod(np.maximum(sides, 0), axis=1)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    return np.asarray(shared / (areas + np.prod(box[2:] - box[:2]) - shared), np.float32)


def probabilities(scores: Floats) -> Floats:
    """Scores [...,C] as they are if all lie in 0..1, else their softmax over the last axis."""
    if scores.min() >= 0 and scores.max() <= 1:
        return scores
    raised = np.exp(scores - scores.max(-1, keepdims=True))
    return np.asarray(raised / raised.sum(-1, keepdims=True), np.float32)


def detections(
    scores: Floats,
    boxes: Floats,
    threshold: float = 0.3,
    most_overlap: float = 0.45,
    most: int = 100,
) -> list[Detections]:
    """Decode a session's outputs: a threshold, then non-maximum suppression class by class.

    ``scores`` float32 [N,anchors,C] are logits or probabilities with the background at column 0;
    ``boxes`` float32 [N,anchors,4] are corners in pixels.  One ``Detections`` a picture.
    """
    result = []
    for score, box in zip(probabilities(scores), boxes, strict=True):
        found: list[tuple[float, int, int]] = []  # score, column, anchor
        for column in range(1, score.shape[1]):
            left = np.flatnonzero(score[:, column] >= threshold)
            left = left[np.argsort(-score[left, column], kind="stable")][: 4 * most]
            while len(left):
                best, left = left[0], left[1:]
                found.append((float(score[best, column]), column, int(best)))
                left = left[overlaps(box[best], box[left]) <= most_overlap]
        found = sorted(found, reverse=True)[:most]
        result.append(
            Detections(
                box[[anchor for *_, anchor in found]].reshape(-1, 4),
                np.array([column for _, column, _ in found], np.int64),
                np.array([value for value, *_ in found], np.float32),
            )
        )
    return result


def average_precision(
    found: Sequence[tuple[float, int, Floats]], truth: Sequence[Floats], least_overlap: float = 0.5
) -> float:
    """Area under the precision envelope of one class, as VOC 2010 and later have it.

    ``found`` holds (score, picture, box [4]); ``truth`` the boxes [n,4] of each picture.  NaN if
    there is no object.
    """
    total = sum(len(boxes) for boxes in truth)
    if not total:
        return float("nan")
    taken = [np.zeros(len(boxes), np.bool_) for boxes in truth]
    hits = np.zeros(len(found))
    for i, (_, where, box) in enumerate(sorted(found, key=lambda f: -f[0])):
        if len(truth[where]):
            iou = overlaps(box, truth[where])
            best = int(iou.argmax())
            if iou[best] >= least_overlap and not taken[where][best]:
                taken[where][best] = True
                hits[i] = 1
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((envelope * hits).sum() / total)


def evaluate(
    model: str | PathLike[str] | onnxruntime.InferenceSession,
    seeds: Iterable[int],
    names: Sequence[str] = NAMES,
    keep: Sequence[str] | None = None,
    batch: int = 32,
) -> dict[str, float]:
    """Average precision at IoU 0.5 of each class of ``model`` on the pictures of ``seeds``.

    ``names`` are the classes that the pictures have, background first.  ``keep`` names the
    model's columns 1, 2, ... in their order; without it they are ``names`` without the
    background.  Objects of classes not in ``keep`` count as background.
    """
    columns = list(names[1:] if keep is None else keep)
    labels = [names.index(name) for name in columns]
    if not isinstance(model, onnxruntime.InferenceSession):
        model = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    entry = model.get_inputs()[0].name
    found: list[list[tuple[float, int, Floats]]] = [[] for _ in columns]
    truth: list[list[Floats]] = [[] for _ in columns]
    seeds, done = list(seeds), 0
    for start in range(0, len(seeds), batch):
        pictures = [picture(seed) for seed in seeds[start : start + batch]]
        images = np.stack([image for image, _, _ in pictures]).transpose(0, 3, 1, 2)
        scores, boxes = model.run(["scores", "boxes"], {entry: images.astype(np.float32) / 255})
        if scores.shape[-1] != len(columns) + 1:
            raise ValueError(
                f"{scores.shape[-1]} score columns, but the background and {len(columns)} names"
            )
        for (_, true_boxes, true_labels), some in zip(
            pictures, detections(scores, boxes, threshold=0.02), strict=True
        ):
            for i, label in enumerate(labels):
                truth[i].append(true_boxes[true_labels == label])
            for box, column, score in zip(*some, strict=True):
                found[column - 1].append((float(score), done, box))
            done += 1
    return {name: average_precision(f, t) for name, f, t in zip(columns, found, truth, strict=True)}


def main() -> None:
    """Print the average precision of every class of a model."""
    parser = argparse.ArgumentParser(description="mAP at IoU 0.5 on held-out pictures")
    parser.add_argument("model")
    parser.add_argument("--keep", nargs="+", help="names of the model's classes in their order")
    parser.add_argument("--pictures", type=int, default=500)
    options = parser.parse_args()
    result = evaluate(options.model, range(options.pictures), NAMES, options.keep)
    for name, value in result.items():
        print(f"{name:12} {value:.3f}")
    print(f"{'mean':12} {np.nanmean(list(result.values())):.3f}")


if __name__ == "__main__":
    main()
