"""From a detector's outputs to detections, where outputs say enough: for pictures, not for proof.

Told apart by kind and shape: scores ``[1, anchors, classes]`` beside boxes ``[1, anchors, 4]``;
boxes and scores in one tensor, on either axis (as YOLO has it); and detections as the graph picks
them, in three outputs or in rows of six. Boxes that still need anchors to be decoded are refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from onnx_headcut.drift.boxes import Detections, Floats, from_centres, suppressed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onnx_headcut.tracing.plan import OutputClasses

_ANCHORS = "boxes need the anchors, which the outputs do not hold"
_MANY = 200  # rows that are one for each cell rather than one for each object
_YX = ("tflite", "postprocess", "detection_boxes")
"""Names in TensorFlow's outputs, which have y before x."""


class CannotDecode(Exception):
    """The outputs do not say where detections are; the message says why."""


@dataclass(frozen=True)
class Decoder:
    """How to read a model's outputs.

    ``columns``: how to call each column of this model's class axis; ``labels``: the column so called
    for each id that its label output emits; ``background``: the background's.
    """

    outputs: Sequence[OutputClasses]
    columns: Sequence[int]
    labels: Mapping[float, int]
    background: int | None
    threshold: float = 0.3

    def read(
        self, values: Mapping[str, np.ndarray[Any, Any]], fed: tuple[int, int],
        original: tuple[int, int],
    ) -> Detections:  # fmt: skip
        """Read the first picture's detections, in fractions of the picture as fed.

        ``fed`` and ``original`` are (width, height) in pixels. Raises CannotDecode.
        """
        arrays = {n: np.asarray(v, np.float64) for n, v in values.items() if v.dtype.kind in "fiu"}
        dense = [o for o in self.outputs if o.kind == "scores" and o.axis is not None]
        found = self._dense(arrays, dense, fed) if dense else self._rows(arrays)
        boxes = _scaled(found.boxes, fed, original)
        good = (found.scores >= self.threshold) & np.isfinite(boxes).all(1)
        found = Detections(boxes, found.columns, found.scores).of(good)
        return suppressed(found) if dense else found

    # ---------------------------------------------------------------- scores of all anchors

    def _dense(
        self, arrays: Mapping[str, np.ndarray[Any, Any]], dense: Sequence[OutputClasses],
        fed: tuple[int, int],
    ) -> Detections:  # fmt: skip
        if len(dense) > 1:
            raise CannotDecode("each level has an output of its own, and boxes need its anchors")
        output = dense[0]
        table = arrays[output.name]
        table = np.moveaxis(table, (output.axis or 0) % table.ndim, -1)[0]
        table = table.reshape(-1, table.shape[-1])
        boxes = self._boxes_beside(arrays, output.name, len(table))
        if boxes is None:
            table, boxes = self._interleaved(table, fed)
        scores = probabilities(table, softmax=self.background is not None)
        at = np.array(self.columns)
        wanted = at != (-1 if self.background is None else self.background)
        anchors, places = np.nonzero((scores >= self.threshold) & wanted)
        return Detections.ranked(boxes[anchors], at[places], scores[anchors, places])

    def _interleaved(self, table: Floats, fed: tuple[int, int]) -> tuple[Floats, Floats]:
        """Read four numbers of a box, perhaps an objectness, then scores, in each row."""
        extra = table.shape[1] - len(self.columns)
        if extra not in (4, 5):
            raise CannotDecode(_ANCHORS)
        scores = table[:, extra:] * (table[:, 4:5] if extra == 5 else 1)
        boxes = table[:, :4]
        if not _in_pixels(boxes, fed):
            if extra != 5:
                raise CannotDecode(_ANCHORS)
            boxes = _from_cells(boxes, fed)
        return scores, from_centres(boxes)

    @staticmethod
    def _boxes_beside(
        arrays: Mapping[str, np.ndarray[Any, Any]], scores: str, anchors: int
    ) -> Floats | None:
        found = [
            (n, v) for n, v in arrays.items()
            if n != scores and v.ndim >= 2 and v.shape[-1] == 4 and v[0].size == 4 * anchors
        ]  # fmt: skip
        if not found:
            return None
        return _corners(found[0][0], found[0][1][0].reshape(-1, 4))

    # ---------------------------------------------------------------- rows as found

    def _rows(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Detections:
        for name, value in arrays.items():
            if value.ndim in (2, 3) and value.shape[-1] in (6, 7):
                rows = value.reshape(-1, value.shape[-1])
                return self._six(name, rows[:, -6:], batch_first=value.shape[-1] == 7)
        boxes = next(((n, v) for n, v in arrays.items() if v.shape[-1:] == (4,)), None)
        labels = next((o.name for o in self.outputs if o.kind == "class ids"), None)
        if boxes is None or labels is None:
            raise CannotDecode("no output holds boxes and none class ids")
        corners = _corners(boxes[0], boxes[1].reshape(-1, 4))
        ids = arrays[labels].reshape(-1)
        scores = [v.reshape(-1) for n, v in arrays.items()
                  if n not in (labels, boxes[0]) and v.size == len(corners)]  # fmt: skip
        if not scores or len(ids) != len(corners):
            raise CannotDecode("boxes, class ids and scores are not of one length")
        return Detections.ranked(corners, self._known(ids), scores[0])

    def _six(self, name: str, rows: Floats, *, batch_first: bool) -> Detections:
        scores, ids = (rows[:, 5], rows[:, 4]) if batch_first else (rows[:, 4], rows[:, 5])
        return Detections.ranked(_corners(name, rows[:, :4]), self._known(ids), scores)

    def _known(self, ids: Floats) -> np.ndarray[Any, np.dtype[np.int64]]:
        return np.array([self.labels.get(float(i), -1) for i in ids], np.int64)


def probabilities(scores: Floats, *, softmax: bool) -> Floats:
    """Scores as they are where all lie in 0..1, else their softmax or sigmoid."""
    if scores.size == 0 or (scores.min() >= 0 and scores.max() <= 1 + 1e-6):
        return scores
    if softmax:
        raised = np.exp(scores - scores.max(-1, keepdims=True))
        return np.asarray(raised / raised.sum(-1, keepdims=True))
    return np.asarray(1 / (1 + np.exp(-np.clip(scores, -60, 60))))


def _corners(name: str, boxes: Floats) -> Floats:
    if any(word in name.lower() for word in _YX):
        boxes = boxes[:, [1, 0, 3, 2]]
    filled = boxes[np.any(boxes != 0, axis=1)]
    if len(filled) and np.mean((filled[:, 2:] >= filled[:, :2]).all(1)) < 0.95:
        if (filled[:, 2:] < 0).any():
            raise CannotDecode(_ANCHORS)
        return from_centres(boxes)
    return boxes


def _in_pixels(boxes: Floats, fed: tuple[int, int]) -> bool:
    """Whether centres and sizes are pixels: then the centres of many lie all over the picture."""
    if np.percentile(np.abs(boxes), 90) < 2:
        return False
    low, high = np.percentile(boxes[:, :2], [5, 95], axis=0)
    return len(boxes) < _MANY or bool((high - low > 0.3 * np.array(fed)).all())


def _from_cells(boxes: Floats, fed: tuple[int, int]) -> Floats:
    """Boxes as YOLOX leaves them: offsets in cells of 8, 16 and 32 pixels, and sizes' logarithms."""
    steps = [(fed[0] // step, fed[1] // step, step) for step in (8, 16, 32)]
    if sum(wide * tall for wide, tall, _ in steps) != len(boxes):
        raise CannotDecode(_ANCHORS)
    cells = np.concatenate([
        np.stack([np.tile(np.arange(wide), tall), np.repeat(np.arange(tall), wide),
                  np.full(wide * tall, step)], axis=1) for wide, tall, step in steps
    ])  # fmt: skip
    step = cells[:, 2:]
    sizes = np.exp(np.minimum(boxes[:, 2:], 10))
    return np.asarray(np.concatenate([boxes[:, :2] + cells[:, :2], sizes], axis=1) * step)


def _scaled(boxes: Floats, fed: tuple[int, int], original: tuple[int, int]) -> Floats:
    """Pixels become fractions; pixels beyond what was fed are those of the original picture."""
    reach = float(np.abs(boxes).max(initial=0.0))
    if reach <= 2:
        return boxes
    inside = np.percentile(boxes[:, 2:], 90, axis=0) <= np.array(fed) * 1.1
    width, height = fed if inside.all() else original
    return np.asarray(boxes / np.array([width, height, width, height]))
