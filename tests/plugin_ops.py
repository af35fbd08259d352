"""What each detection plugin does, in plain numpy, for onnx's reference implementation.

The ops as their documentation describes them, but for the suppression of overlaps: every box and
class above the threshold is a detection, read with the attributes that the node has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx
    from patterns import Array

SOME = 0.05
"""Scores below are no detections."""


class Plugin(OpRun):
    """What the plugins have in common."""

    op_domain = "trt"

    def say(self, name: str, default: Any = None) -> Any:
        value = getattr(self, name, default)
        assert value is not None, f"{name} is required"
        return value

    def found(self, scores: Array, hidden: int) -> Iterator[tuple[int, int, float]]:
        """Box, class and score of what is detected in one picture, best first."""
        at = [(i, c) for i, c in np.argwhere(scores > SOME).tolist() if c != hidden]
        for i, c in sorted(at, key=lambda ic: -scores[ic]):
            yield i, c, float(scores[i, c])

    def four(self, boxes: Array, scores: Array, rows: int, hidden: int, kind: Any) -> tuple[Array, ...]:
        scores = scores.reshape(scores.shape[:3])
        if boxes.ndim == 3:
            boxes = boxes[:, :, None]
        assert boxes.shape[2] in {1, scores.shape[2]}
        batch = len(boxes)
        count = np.zeros((batch, 1), np.int32)
        out = np.zeros((batch, rows, 4), np.float32), np.zeros((batch, rows), np.float32)
        classes = np.full((batch, rows), -1, kind)
        for b in range(batch):
            for k, (i, c, score) in enumerate(list(self.found(scores[b], hidden))[:rows]):
                out[0][b, k] = boxes[b, i, min(c, boxes.shape[2] - 1)]
                out[1][b, k], classes[b, k] = score, c
                count[b] += 1
        return count, *out, classes


class EfficientNMS_TRT(Plugin):  # noqa: N801  (the op's name)
    def _run(self, boxes: Array, scores: Array, **_: Any) -> tuple[Array, ...]:
        if self.say("score_activation"):
            scores = 1 / (1 + np.exp(-scores))
        hidden = self.say("background_class")
        return self.four(boxes, scores, self.say("max_output_boxes"), hidden, np.int32)


class EfficientNMS_Explicit_TF_TRT(Plugin):  # noqa: N801
    def _run(self, boxes: Array, scores: Array, **_: Any) -> tuple[Array, ...]:
        rows = self.say("max_total_size")
        if self.say("pad_per_class"):
            rows = min(rows, self.say("max_output_size_per_class") * scores.shape[2])
        return self.four(boxes, scores, rows, -1, np.int32)


class EfficientNMS_ONNX_TRT(Plugin):  # noqa: N801
    def _run(self, boxes: Array, scores: Array, **_: Any) -> tuple[Array]:
        assert len(boxes) == 1
        rows = np.full((self.say("max_output_boxes_per_class"), 3), -1, np.int32)
        found = list(self.found(scores[0], -1))[: len(rows)]
        for k, (i, c, _) in enumerate(found):
            rows[k] = 0, c, i
        return (rows[: len(found)],)  # what the slots beyond hold is nothing to compare


class BatchedNMSDynamic_TRT(Plugin):  # noqa: N801
    def _run(self, boxes: Array, scores: Array, **_: Any) -> tuple[Array, ...]:
        assert self.say("numClasses") == scores.shape[2]
        assert boxes.shape[2] == (1 if self.say("shareLocation") else scores.shape[2])
        hidden = self.say("backgroundLabelId")
        return self.four(boxes, scores, self.say("keepTopK"), hidden, np.float32)


class TFLite_Detection_PostProcess(Plugin):  # noqa: N801
    op_domain = "tfl"

    def _run(self, boxes: Array, scores: Array, anchors: Array, **_: Any) -> tuple[Array, ...]:
        offset = scores.shape[2] - self.say("num_classes")
        each = self.say("max_classes_per_detection")
        assert offset in {0, 1} and each > 0 and anchors.shape == boxes.shape[1:]  # noqa: PT018
        real = scores[0, :, offset:]
        best = np.argsort(-real.max(1), kind="stable")[: self.say("max_detections")]
        rows = self.say("max_detections") * each
        out = np.zeros((1, rows, 4), np.float32), np.zeros((1, rows), np.float32)
        values = np.zeros((1, rows), np.float32)
        for k, i in enumerate(best):
            for n, c in enumerate(np.argsort(-real[i], kind="stable")[: min(each, real.shape[1])]):
                out[0][0, k * each + n] = boxes[0, i] + anchors[i]
                out[1][0, k * each + n] = c
                values[0, k * each + n] = real[i, c]
        return *out, values, np.array([len(best)], np.float32)


class DetectionOutput(Plugin):
    op_domain = "org.openvinotoolkit"

    def _run(self, boxes: Array, scores: Array, priors: Array, **_: Any) -> tuple[Array]:
        count = priors.shape[2] // 4
        classes = scores.shape[1] // count
        assert getattr(self, "num_classes", classes) == classes
        share = getattr(self, "share_location", 1)
        places = boxes.reshape(count, 1 if share else classes, 4)
        assert boxes.shape[1] == places.size
        table = np.zeros((1, 1, self.say("keep_top_k"), 7), np.float32)
        table[..., 0] = -1
        less = getattr(self, "decrease_label_id", 0)
        found = self.found(scores.reshape(count, classes), getattr(self, "background_label_id", 0))
        for k, (i, c, score) in enumerate(found):
            table[0, 0, k] = 0, c - less, score, *places[i, 0 if share else c]
        return (table,)


class NMS_TRT(DetectionOutput):  # noqa: N801
    op_domain = "trt"

    def _run(self, *inputs: Array, **_: Any) -> tuple[Array, ...]:
        order = self.say("inputOrder")
        for own, theirs in (("num_classes", "numClasses"), ("keep_top_k", "keepTopK"),
                            ("share_location", "shareLocation"),
                            ("background_label_id", "backgroundLabelId")):  # fmt: skip
            setattr(self, own, self.say(theirs))
        (table,) = super()._run(*(inputs[k] for k in order))
        return table, np.zeros((1, 1, 1, 1), np.int32)


class TRTBatchedNMS(Plugin):
    op_domain = "mmdeploy"

    def _run(self, boxes: Array, scores: Array, **_: Any) -> tuple[Array, ...]:
        assert self.say("num_classes") == scores.shape[2]
        hidden = self.say("background_label_id")
        limit = self.say("keep_topk")
        _, places, values, labels = self.four(boxes, scores, limit, hidden, np.int32)
        return np.concatenate([places, values[..., None]], -1), labels


class NMSRotated(Plugin):
    op_domain = "mmdeploy"

    def _run(self, _: Array, scores: Array, **__: Any) -> tuple[Array]:
        assert len(scores) == 1
        found = [(0, c, i) for i, c, _ in self.found(scores[0].T, -1)]
        return (np.array(found, np.int64).reshape(-1, 3),)


class NMSDynamic_TRT(NMS_TRT):  # noqa: N801
    pass


class BoxWithNMSLimit(Plugin):
    op_domain = "org.pytorch._caffe2"

    def _run(self, scores: Array, boxes: Array, *_: Array, **__: Any) -> tuple[Array, ...]:
        first, counted = (
            self.say("input_boxes_include_bg_cls"),
            self.say("output_classes_include_bg_cls"),
        )
        columns = scores.shape[1]
        each = boxes.reshape(len(boxes), -1, 4)
        assert each.shape[1] == (1 if self.say("cls_agnostic_bbox_reg") else columns - 1 + first)
        found = list(self.found(scores, 0 if first else columns - 1))
        places = [each[i, c if each.shape[1] > 1 else 0] for i, c, _ in found]
        labels = [c + (not first) - (not counted) for _, c, _ in found]
        values = np.array([score for *_, score in found], np.float32)
        return values, np.array(places).reshape(-1, 4), np.array(labels, np.float32)


EMULATED = [BoxWithNMSLimit, EfficientNMS_TRT, EfficientNMS_Explicit_TF_TRT, EfficientNMS_ONNX_TRT,
            BatchedNMSDynamic_TRT, TRTBatchedNMS, NMSRotated, TFLite_Detection_PostProcess,
            DetectionOutput, NMS_TRT, NMSDynamic_TRT]  # fmt: skip


def run(model: onnx.ModelProto, feeds: dict[str, Array]) -> list[Array]:
    """All outputs, of a model with plugins."""
    with np.errstate(over="ignore"):  # a masked score in an exp
        return list(ReferenceEvaluator(model, new_ops=EMULATED).run(None, feeds))
