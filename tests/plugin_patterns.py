"""One tiny detector for each detection plugin.

No runtime here has these ops, so the oracle runs graphs with onnx's reference implementation and
the plugins of `plugin_ops`. What the original finds with its dropped classes masked is what the cut
has to find.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from patterns import CELLS, CLASSES, Array, Head, Pattern, front, graph
from plugin_ops import run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import onnx


class PluginPattern(Pattern):
    """A pattern that only the reference runs."""

    def expected(self, keep: Sequence[int], feeds: dict[str, Array]) -> list[Array]:
        outputs = run(self.masked(keep), feeds)
        return [self.renumbered(self.found(outputs), keep)]

    def model(self) -> onnx.ModelProto:
        from conftest import from_text  # noqa: PLC0415

        return from_text(self.text, self.seed)  # the checker knows none of these ops


# ----------------------------------------------------------------------------------- the detectors

PLUGINS: dict[str, Callable[[], PluginPattern]] = {}
"""By name; the docstring says what it is."""


def plugin(make: Callable[[], PluginPattern]) -> Callable[[], PluginPattern]:
    PLUGINS[make.__name__] = make
    return make


FOUR = "int32[1,1] n, float[1,K,4] boxes, float[1,K] scores, int32[1,K] labels"
SOFTMAX = """
      probs = Softmax <axis = 2> (logits)"""
DOMAINS = (
    '["": 17, "trt": 1, "tfl": 1, "org.openvinotoolkit": 1, "mmdeploy": 1, "org.pytorch._caffe2": 1]'
)


def of_four(outputs: list[Array]) -> Array:
    """Rows of count, boxes, scores, classes."""
    _, boxes, scores, labels = outputs
    return rows(labels, scores, boxes)


def rows(labels: Array, scores: Array, boxes: Array) -> Array:
    parts = [labels.reshape(-1, 1), scores.reshape(-1, 1), boxes.reshape(-1, 4)]
    return np.concatenate([p.astype(np.float64) for p in parts], axis=1)


def detector(
    outputs: str,
    body: str,
    read: Callable[[list[Array]], Array],
    weights: str = "",
    background: int | None = 0,
    **more: Any,
) -> PluginPattern:
    """Scores ``logits`` and boxes ``rects`` of one level, and what follows."""
    before, nodes, heads = front()
    text = graph(outputs, before + weights, nodes + body).replace('["": 17]', DOMAINS)
    known: dict[str, Any] = {"background": background, "some": 3, **more}
    return PluginPattern(text, known.pop("heads", heads), read=read, **known)


EFFICIENT = """
      n, boxes, scores, labels = trt.EfficientNMS_TRT <background_class = {b}, box_coding = 0,
        iou_threshold = 0.5, max_output_boxes = 96, score_activation = {a},
        score_threshold = 0.05> ({boxes}, {scores})"""


@plugin
def efficient_nms() -> PluginPattern:
    """EfficientNMS_TRT over softmax scores, `background_class` 0"""
    body = EFFICIENT.format(b=0, a=0, boxes="rects", scores="probs")
    return detector(FOUR, SOFTMAX + body, of_four)


@plugin
def efficient_nms_of_raw_scores() -> PluginPattern:
    """EfficientNMS_TRT that applies the sigmoid itself, no background"""
    body = EFFICIENT.format(b=-1, a=1, boxes="rects", scores="logits")
    return detector(FOUR, body, of_four, background=None)


@plugin
def efficient_nms_with_boxes_of_each_class() -> PluginPattern:
    """EfficientNMS_TRT with boxes `[1, n, C, 4]` of each class, from a head of their own"""
    body = """
      each_map = Conv (x, each_w, each_b)
      each_last = Transpose <perm = [0, 2, 3, 1]> (each_map)
      each = Reshape (each_last, to_each)"""
    body += SOFTMAX + EFFICIENT.format(b=0, a=0, boxes="each", scores="probs")
    weights = (f", float[{4 * CLASSES},8,1,1] each_w, float[{4 * CLASSES}] each_b, "
               f"int64[4] to_each = {{1, {CELLS}, {CLASSES}, 4}}")  # fmt: skip
    return detector(FOUR, body, of_four, weights)


@plugin
def efficient_nms_of_tensorflow() -> PluginPattern:
    """EfficientNMS_Explicit_TF_TRT, rows padded for each class"""
    body = """
      probs = Sigmoid (logits)
      n, boxes, scores, labels = trt.EfficientNMS_Explicit_TF_TRT <clip_boxes = 0,
        iou_threshold = 0.5, max_output_size_per_class = 16, max_total_size = 96, pad_per_class = 1,
        score_threshold = 0.05> (rects, probs)"""
    return detector(FOUR, body, of_four, background=None)


@plugin
def efficient_nms_indices() -> PluginPattern:
    """EfficientNMS_ONNX_TRT: index triples, read by GatherND"""
    body = """
      probs = Sigmoid (logits)
      found = trt.EfficientNMS_ONNX_TRT <center_point_box = 0, iou_threshold = 0.5,
        max_output_boxes_per_class = 96, score_threshold = 0.05> (rects, probs)
      triples = Cast <to = 7> (found)
      order = Constant <value = int64[3] {0, 2, 1}> ()
      places = Gather <axis = 1> (triples, order)
      scores = GatherND (probs, places)
      one = Constant <value = int64 {1}> ()
      two = Constant <value = int64 {2}> ()
      labels = Gather <axis = 1> (triples, one)
      at = Gather <axis = 1> (triples, two)
      zero = Constant <value = int64[1] {0}> ()
      flat = Squeeze (rects, zero)
      boxes = Gather (flat, at)"""
    outputs = "int64[K] labels, float[K] scores, float[K,4] boxes"
    return detector(outputs, body, lambda found: rows(*found), background=None)


BATCHED = """
      n, boxes, scores, labels = trt.BatchedNMSDynamic_TRT <backgroundLabelId = {b}, clipBoxes = 0,
        iouThreshold = 0.5, isNormalized = 1, keepTopK = 96, numClasses = 6, scoreThreshold = 0.05,
        shareLocation = {share}, topK = 96> ({boxes}, probs)"""
FLOATS = FOUR.replace("int32[1,K] labels", "float[1,K] labels")
ALONE = """
      third = Constant <value = int64[1] {2}> ()
      alone = Unsqueeze (rects, third)"""


@plugin
def batched_nms() -> PluginPattern:
    """BatchedNMSDynamic_TRT, boxes shared, the background last"""
    body = SOFTMAX + ALONE + BATCHED.format(b=5, share=1, boxes="alone")
    return detector(FLOATS, body, of_four, background=CLASSES - 1)


@plugin
def batched_nms_with_copied_boxes() -> PluginPattern:
    """BatchedNMSDynamic_TRT, `shareLocation` 0, one box copied for each class"""
    body = SOFTMAX + ALONE + """
      copies = Constant <value = int64[4] {1, 1, 6, 1}> ()
      tiled = Tile (alone, copies)"""  # fmt: skip
    body += BATCHED.format(b=-1, share=0, boxes="tiled")
    return detector(FLOATS, body, of_four, background=None)


@plugin
def batched_nms_of_mmdeploy() -> PluginPattern:
    """TRTBatchedNMS of MMDeploy, boxes shared, no background"""
    body = "\n      probs = Sigmoid (logits)" + ALONE + """
      dets, labels = mmdeploy.TRTBatchedNMS <background_label_id = -1, clip_boxes = 0,
        iou_threshold = 0.5, is_normalized = 0, keep_topk = 96, num_classes = 6, return_index = 0,
        score_threshold = 0.05, topk = 96> (alone, probs)"""  # fmt: skip
    outputs = "float[1,K,5] dets, int32[1,K] labels"
    return detector(outputs, body, lambda o: rows(o[1], o[0][..., 4], o[0][..., :4]), background=None)


@plugin
def rotated_nms_of_mmdeploy() -> PluginPattern:
    """NMSRotated of MMDeploy: index triples as NonMaxSuppression gives them"""
    body = """
      probs = Sigmoid (logits)
      turned = Transpose <perm = [0, 2, 1]> (probs)
      found = mmdeploy.NMSRotated <iou_threshold = 0.5, score_threshold = 0.05> (rects, turned)
      scores = GatherND (turned, found)
      one = Constant <value = int64 {1}> ()
      two = Constant <value = int64 {2}> ()
      labels = Gather <axis = 1> (found, one)
      at = Gather <axis = 1> (found, two)
      zero = Constant <value = int64[1] {0}> ()
      flat = Squeeze (rects, zero)
      boxes = Gather (flat, at)"""
    outputs = "int64[K] labels, float[K] scores, float[K,4] boxes"
    return detector(outputs, body, lambda found: rows(*found), background=None)


TFLITE = """
      boxes, labels, scores, n = tfl.TFLite_Detection_PostProcess <detections_per_class = 16,
        h_scale = 5.0, max_classes_per_detection = {each}, max_detections = 16,
        nms_iou_threshold = 0.6, nms_score_threshold = 0.05, num_classes = {classes},
        use_regular_nms = 0, w_scale = 5.0, x_scale = 10.0, y_scale = 10.0> (rects, probs, anchors)"""
TFL_OUTPUTS = "float[1,K,4] boxes, float[1,K] labels, float[1,K] scores, float[1] n"
ANCHORS = f", float[{CELLS},4] anchors"


def of_tflite(outputs: list[Array]) -> Array:
    boxes, labels, scores, _ = outputs
    return rows(labels, scores, boxes)


@plugin
def tflite() -> PluginPattern:
    """TFLite_Detection_PostProcess, `num_classes` without the background at column 0"""
    body = SOFTMAX + TFLITE.format(each=1, classes=5)
    return detector(TFL_OUTPUTS, body, of_tflite, ANCHORS, offset=-1)


@plugin
def tflite_with_classes_of_each_box() -> PluginPattern:
    """TFLite_Detection_PostProcess with five classes a detection, more than are left; no background"""
    body = "\n      probs = Sigmoid (logits)" + TFLITE.format(each=5, classes=6)
    return detector(TFL_OUTPUTS, body, of_tflite, ANCHORS, background=None)


DETECTION = """
      flat_probs = Flatten <axis = 1> (probs)
      flat_rects = Flatten <axis = 1> ({boxes})
      table = org.openvinotoolkit.DetectionOutput <{more}code_type = "caffe.PriorBoxParameter.CORNER",
        keep_top_k = 96, nms_threshold = 0.5> (flat_rects, flat_probs, priors)"""
SEVEN = "float[1,1,K,7] table"
PRIORS = f", float[1,2,{4 * CELLS}] priors"


def of_seven(outputs: list[Array]) -> Array:
    table = outputs[0].reshape(-1, 7)
    table = np.where(table[:, :1] < 0, 0, table)
    return np.asarray(table[:, [1, 2, 3, 4, 5, 6]], np.float64)


@plugin
def detection_output() -> PluginPattern:
    """DetectionOutput of OpenVINO and Caffe: `num_classes`, `background_label_id`"""
    more = "num_classes = 6, background_label_id = 0, share_location = 1, "
    body = SOFTMAX + DETECTION.format(more=more, boxes="rects")
    return detector(SEVEN, body, of_seven, PRIORS)


@plugin
def detection_output_without_class_count() -> PluginPattern:
    """DetectionOutput-8, which counts classes itself, ids without the background"""
    body = SOFTMAX + DETECTION.format(more="decrease_label_id = 1, ", boxes="rects")
    return detector(SEVEN, body, of_seven, PRIORS, offset=-1)


@plugin
def detection_output_with_boxes_of_each_class() -> PluginPattern:
    """DetectionOutput, `share_location` 0, boxes of each class side by side"""
    more = "num_classes = 6, share_location = 0, "
    body = """
      each_map = Conv (x, each_w, each_b)
      each = Transpose <perm = [0, 2, 3, 1]> (each_map)"""
    body += SOFTMAX + DETECTION.format(more=more, boxes="each")
    weights = f", float[{4 * CLASSES},8,1,1] each_w, float[{4 * CLASSES}] each_b"
    return detector(SEVEN, body, of_seven, PRIORS + weights)


@plugin
def nms_of_tensorrt() -> PluginPattern:
    """NMS_TRT, inputs in an order of its own"""
    body = SOFTMAX + """
      flat_probs = Flatten <axis = 1> (probs)
      flat_rects = Flatten <axis = 1> (rects)
      table, kept = trt.NMS_TRT <backgroundLabelId = 0, inputOrder = [0, 2, 1], keepTopK = 96,
        numClasses = 6, shareLocation = 1> (flat_rects, priors, flat_probs)"""  # fmt: skip
    return detector(SEVEN + ", int32[1,1,1,1] kept", body, of_seven, PRIORS)


@plugin
def nms_of_tensorrt_for_any_batch() -> PluginPattern:
    """NMSDynamic_TRT, as NMS_TRT"""
    found = nms_of_tensorrt()
    return replace(found, text=found.text.replace("NMS_TRT", "NMSDynamic_TRT"))


LIMIT = """
      flat = Squeeze (probs, zero_axis)
      scores, boxes, labels = org.pytorch._caffe2.BoxWithNMSLimit <cls_agnostic_bbox_reg = {agnostic},
        detections_per_im = 100, input_boxes_include_bg_cls = {first}, legacy_plus_one = 0, nms = 0.5,
        output_classes_include_bg_cls = {counted}, rotated = 0, score_thresh = 0.05> (flat, {boxes})"""


@plugin
def box_with_nms_limit() -> PluginPattern:
    """BoxWithNMSLimit of Caffe2 (Detectron2), boxes of each class, the background last"""
    body = (
        SOFTMAX
        + """
      each_map = Conv (x, each_w, each_b)
      each_last = Transpose <perm = [0, 2, 3, 1]> (each_map)
      each = Reshape (each_last, to_each)"""
    )
    body += LIMIT.format(agnostic=0, first=0, counted=0, boxes="each")
    count = 4 * (CLASSES - 1)
    weights = (f", float[{count},8,1,1] each_w, float[{count}] each_b, int64[1] zero_axis = {{0}}, "
               f"int64[2] to_each = {{{CELLS}, {count}}}")  # fmt: skip
    outputs = "float[K] labels, float[K] scores, float[K,4] boxes"
    return detector(outputs, body, lambda o: rows(*o), weights, background=CLASSES - 1)


@plugin
def box_with_nms_limit_and_shared_boxes() -> PluginPattern:
    """BoxWithNMSLimit with one box for all classes, ids without the background at column 0"""
    body = SOFTMAX + "\n      own = Squeeze (rects, zero_axis)"
    body += LIMIT.format(agnostic=1, first=1, counted=0, boxes="own")
    outputs = "float[K] labels, float[K] scores, float[K,4] boxes"
    weights = ", int64[1] zero_axis = {0}"
    return detector(outputs, body, lambda o: rows(*o), weights, offset=-1)


def changed(name: str, old: str, new: str) -> PluginPattern:
    """A detector with other text in it."""
    found = PLUGINS[name]()
    assert old in found.text
    return replace(found, text=found.text.replace(old, new))


__all__ = ["PLUGINS", "Head", "PluginPattern", "changed", "run"]
