"""Detection plugins of other runtimes, known by the names that their runtimes know them by.

onnx has no schema for them, so each gives its shapes too. The domain says nothing (exporters write
"", "TRT", "trt.plugins", "org.openvinotoolkit" …); the attributes are held against the scores, and
what does not fit them is refused. Where they are described:

* ``EfficientNMS*_TRT``, ``BatchedNMS*_TRT``, ``NMS_TRT``: the READMEs of efficientNMSPlugin,
  batchedNMSPlugin and nmsPlugin in https://github.com/NVIDIA/TensorRT/tree/main/plugin
* ``TRTBatchedNMS``, ``TRTBatchedRotatedNMS``, ``NMSRotated``: MMDeploy's docs/en/06-custom-ops
* ``TFLite_Detection_PostProcess``: tensorflow/lite/kernels/detection_postprocess.cc
* ``DetectionOutput``: OpenVINO's DetectionOutput-1 and -8, which is that of Caffe's SSD
* ``BoxWithNMSLimit``: caffe2/operators/box_with_nms_limit_op.h, as Detectron2 exported it

A rule of one's own is written in the same way: docs/rules.md.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

from onnx_headcut.extensions import Rule
from onnx_headcut.graph.facts import UNKNOWN, Fact, attributes
from onnx_headcut.labels import Columns, Labels, Mark, Rows
from onnx_headcut.rules.detections import non_max_suppression
from onnx_headcut.rules.options import period_of
from onnx_headcut.rules.plugin_parts import (
    background,
    boxes_of,
    class_numbers,
    classes_of,
    counted,
    dim,
    number,
    positive,
    scores_of,
    separate,
    shared,
)
from onnx_headcut.tracing.view import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import onnx

    from onnx_headcut.editing import edits as ed
    from onnx_headcut.tracing.view import View

_OF_TENSORRT = {"NMS_TRT", "NMSDynamic_TRT"}
INT, FLOAT = TensorProto.INT32, TensorProto.FLOAT

# ------------------------------------------------------------------------------------- TensorRT


def efficient_nms(view: View) -> Outcome:
    """EfficientNMS_TRT: boxes, scores[, anchors] → count, boxes, scores, classes (columns)."""
    labels = scores_of(view, 1)
    edits = boxes_of(view, 0, labels)
    _unmarked(view, range(2, len(view.marks)))
    hidden, more = background(view, "background_class", labels.ids)
    if view.attrs.get("class_agnostic", 0):
        _note(view, "suppresses boxes whatever their classes: with fewer classes, fewer are")
    return _four(view, labels, [*edits, *more], hidden)


def efficient_nms_tf(view: View) -> Outcome:
    """EfficientNMS_Explicit_TF_TRT (TensorFlow's CombinedNonMaxSuppression): no background."""
    labels = scores_of(view, 1)
    edits = boxes_of(view, 0, labels)
    _unmarked(view, range(2, len(view.marks)))
    if number(view, "pad_per_class", 0) and number(view, "max_output_size_per_class", -1) > 0:
        _note(view, "pads its outputs for each class: they have fewer rows after the cut")
    return _four(view, labels, edits, None)


def batched_nms(view: View) -> Outcome:
    """BatchedNMS(Dynamic)_TRT: boxes, scores → count, boxes, scores, classes (float columns)."""
    labels = scores_of(view, 1)
    share = number(view, "shareLocation")
    edits = boxes_of(view, 0, labels, share=bool(share))
    edits += counted(view, "numClasses", len(labels.ids), len(view.take(labels.ids)))
    hidden, more = background(view, "backgroundLabelId", labels.ids)
    return _four(view, labels, [*edits, *more], hidden)


def _four(view: View, labels: Labels, edits: list[ed.Edit], hidden: int | None) -> Outcome:
    if len(view.node.output) != 4:
        view.refuse(f"it has {len(view.node.output)} outputs, not 4")
    numbers = class_numbers(view, labels.ids, 3, hidden=hidden)
    return Outcome([Rows(), Rows(), Rows(), numbers], edits)


def efficient_nms_onnx(view: View) -> Outcome:
    """EfficientNMS_ONNX_TRT: boxes, scores → rows ``[batch, class, box]``, unused ones -1."""
    labels = scores_of(view, 1)
    edits = boxes_of(view, 0, labels)
    numbers = replace(class_numbers(view, labels.ids, 0, fillers=()), direct=False)
    return Outcome([Columns(1, (Rows(), numbers, Rows()))], edits)


def mmdeploy_nms(view: View) -> Outcome:
    """TRTBatched(Rotated)NMS: boxes, scores → rows of box and score, classes[, boxes' places]."""
    labels = scores_of(view, 1)
    edits = boxes_of(view, 0, labels)
    edits += counted(view, "num_classes", len(labels.ids), len(view.take(labels.ids)))
    hidden, more = background(view, "background_label_id", labels.ids, -1)
    numbers = class_numbers(view, labels.ids, 1, hidden=hidden)
    rest = [Rows()] * (len(view.node.output) - 2)
    return Outcome([Rows(), numbers, *rest], [*edits, *more])


def _mmdeploy_facts(node: onnx.NodeProto, inputs: Sequence[Fact]) -> list[Fact]:
    batch, rows = dim(inputs[0], 0), positive(node, "keep_topk")
    last = inputs[0].shape[-1] if inputs[0].shape else None
    shape = batch, rows
    found = [Fact((*shape, None if last is None else last + 1), FLOAT), Fact(shape, INT)]
    return [*found, Fact(shape, INT)][: len(node.output)]


def _unmarked(view: View, slots: Sequence[int]) -> None:
    for slot in slots:
        if view.marks[slot] is not None:
            view.refuse(f"its input {view.node.input[slot]!r} depends on classes")


def _note(view: View, what: str) -> None:
    view.trace.notes.append(f"{view.op} {view.node.name or view.node.output[0]!r} {what}")


def _facts(kind: int, *limits: str) -> Callable[[onnx.NodeProto, Sequence[Fact]], list[Fact]]:
    """Shapes of count, boxes, scores and classes (of ``kind``); ``limits`` name the rows' number."""

    def shapes(node: onnx.NodeProto, inputs: Sequence[Fact]) -> list[Fact]:
        batch, rows = dim(inputs[0], 0), positive(node, *limits)
        per_class, columns = positive(node, "max_output_size_per_class"), dim(inputs[1], 2)
        if positive(node, "pad_per_class") and per_class and rows:
            rows = None if columns is None else min(rows, per_class * columns)
        like = inputs[0].elem_type or FLOAT
        return [Fact((batch, 1), INT), Fact((batch, rows, 4), like), Fact((batch, rows), like),
                Fact((batch, rows), kind)]  # fmt: skip

    return shapes


def _index_facts(node: onnx.NodeProto, inputs: Sequence[Fact]) -> list[Fact]:
    batch, limit = dim(inputs[0], 0), positive(node, "max_output_boxes_per_class")
    rows = None if batch is None or limit is None else batch * limit
    return [Fact((rows, 3), INT)]


# --------------------------------------------------------------------------------------- TFLite


def tflite(view: View) -> Outcome:
    """TFLite_Detection_PostProcess: boxes, scores, anchors → boxes, classes, scores, count.

    Scores may have one column more than ``num_classes``, the background at column 0; the classes
    that it emits (as floats) do not count it. ``max_classes_per_detection`` times as many rows come
    out as detections, so it is limited by the classes that are left.
    """
    labels = scores_of(view, 1)
    columns, left = len(labels.ids), view.take(labels.ids)
    said = number(view, "num_classes")
    offset = columns - said
    if offset not in {0, 1}:
        view.refuse(f"its attribute 'num_classes' is {said}, but its scores have {columns} columns",
                    "set 'num_classes' to the columns without the background")  # fmt: skip
    if offset and not (len(left) and left[0] == 0 and np.count_nonzero(left == 0) == 1):
        view.refuse(
            "it takes column 0 as the background, as 'num_classes' is one less than its columns, "
            "and the cut would not leave it there",
            "say --background first",
        )
    if len(left) <= offset:
        view.refuse("no class would be left", "keep one class at least")
    shared(view, 0)
    _unmarked(view, range(2, len(view.marks)))
    edits: list[ed.Edit] = []
    classes = len(left) - offset
    if classes != said:
        edits.append(view.set("num_classes", classes))
    each = number(view, "max_classes_per_detection")
    if each > classes:
        edits.append(view.set("max_classes_per_detection", classes))
        _note(view, f"gives {each} classes a detection, and only {classes} are left: its outputs "
                    f"have {each} : {classes} as many rows")  # fmt: skip
    hidden = 0 if offset else None
    numbers = class_numbers(view, labels.ids, 1, hidden=hidden, offset=-offset, fillers=(0,))
    return Outcome([Rows(), numbers, Rows(), Rows()], edits)


def _tflite_facts(node: onnx.NodeProto, _: Sequence[Fact]) -> list[Fact]:
    most, each = positive(node, "max_detections"), positive(node, "max_classes_per_detection")
    rows = None if most is None or each is None else most * each
    return [Fact((1, rows, 4), FLOAT), Fact((1, rows), FLOAT), Fact((1, rows), FLOAT),
            Fact((1,), FLOAT)][: len(node.output)]  # fmt: skip


# ------------------------------------------------------------------- Caffe, OpenVINO, TensorRT's SSD


def detection_output(view: View) -> Outcome:
    """DetectionOutput: boxes ``[n, P·L·4]``, scores ``[n, P·C]``, priors → rows of seven.

    L is 1 where classes share a location, else C. Rows are ``[picture, class, score, box]``; what
    is not used has -1 as its picture.
    """
    trt = view.op in _OF_TENSORRT
    order = list(view.attrs.get("inputOrder", (0, 1, 2))) if trt else [0, 1, 2]
    if sorted(order) != [0, 1, 2] or len(view.marks) != 3:
        view.refuse("it has other inputs than boxes, scores and priors",
                    "cut a model exported without it (raw scores)")  # fmt: skip
    boxes, scores, priors = order
    labels = classes_of(view, scores)
    name = "numClasses" if trt else "num_classes"
    columns = _columns_each(view, priors, scores) if name not in view.attrs else number(view, name)
    period = period_of(labels.ids)
    if labels.axis != 1 or columns != period:
        view.refuse(
            f"it reads its scores as {columns} columns side by side for each box, and they carry "
            f"{period} (axis {labels.axis})",
            f"give it scores [batch, boxes * classes] and {name!r} as they are",
        )
    row = labels.ids[:columns]
    left = len(view.take(row))
    edits = counted(view, name, columns, left) if name in view.attrs else []
    hidden, more = background(
        view, "backgroundLabelId" if trt else "background_label_id", row, None if trt else 0
    )
    if number(view, "shareLocation" if trt else "share_location", None if trt else 1):
        shared(view, boxes)
    else:
        edits += separate(view, boxes, 1, np.repeat(labels.ids, 4))
    _unmarked(view, [priors])
    less = number(view, "decrease_label_id", 0)
    if less and hidden != 0:
        view.refuse("'decrease_label_id' counts classes from 1, and column 0 is not the background",
                    "set 'background_label_id' to 0, or 'decrease_label_id' to 0")  # fmt: skip
    numbers = class_numbers(view, row, 0, hidden=hidden, offset=-1 if less else 0)
    marks: list[Mark | None] = [Columns(3, (Rows(), numbers, *[Rows()] * 5))]
    return Outcome([*marks, *[Rows()] * (len(view.node.output) - 1)], [*edits, *more])


def _columns_each(view: View, priors: int, scores: int) -> int:
    """Version 8 has no ``num_classes``: scores by priors, of 4 numbers (5 where not normalized)."""
    shape, flat = view.shape(priors), view.shape(scores)[1]
    each = 4 if number(view, "normalized", 1) else 5
    count = shape[-1] // each
    if count < 1 or shape[-1] % each or flat % count:
        view.refuse(f"its {shape[-1] / each:g} priors do not divide its {flat} scores",
                    "give the node 'num_classes'")  # fmt: skip
    return flat // count


def _detection_facts(node: onnx.NodeProto, inputs: Sequence[Fact]) -> list[Fact]:
    batch, most = dim(inputs[0], 0), positive(node, "keep_top_k", "keepTopK")
    if node.op_type in _OF_TENSORRT:
        found = [Fact((batch, 1, most, 7), FLOAT), Fact((batch, 1, 1, 1), INT)]
    else:
        rows = None if batch is None or most is None else batch * most
        found = [Fact((1, 1, rows, 7), FLOAT)]
    return (found + [UNKNOWN] * len(node.output))[: len(node.output)]


# --------------------------------------------------------------------------------------- Caffe2


def box_with_nms_limit(view: View) -> Outcome:
    """BoxWithNMSLimit: scores ``[boxes, C]``, boxes ``[boxes, B·4]`` → scores, boxes, classes (floats).

    Where boxes have the background's too (B is C), it is column 0; else (C - 1) the last column.
    With ``cls_agnostic_bbox_reg`` B is 1; ``output_classes_include_bg_cls`` says that it is class 0.
    """
    labels = classes_of(view, 0)
    columns, left = len(labels.ids), view.take(labels.ids)
    first = bool(number(view, "input_boxes_include_bg_cls", 1))
    hidden, place = (0, 0) if first else (columns - 1, -1)
    if labels.axis != 1 or not len(left) or left[place] != hidden or np.sum(left == hidden) != 1:
        view.refuse(f"it takes column {hidden} of axis 1 as the background, and the cut would not "
                    "leave it there", f"say --background {hidden}")  # fmt: skip
    each = 5 if number(view, "rotated", 0) else 4
    edits: list[ed.Edit] = []
    if number(view, "cls_agnostic_bbox_reg", 0):
        shared(view, 1)
    else:
        edits = separate(view, 1, 1, np.repeat(labels.ids if first else labels.ids[:-1], each))
    _unmarked(view, range(2, len(view.marks)))
    for name in view.node.output[5:]:
        if view.scope.index.consumers.get(name) or name in view.scope.index.outputs:
            view.refuse(f"its output {name!r} counts the detections of each class")
    offset = (0 if first else 1) - (0 if number(view, "output_classes_include_bg_cls", 1) else 1)
    numbers = class_numbers(view, labels.ids, 2, hidden=hidden, offset=offset, fillers=())
    marks: list[Mark | None] = [Rows(), Rows(), replace(numbers, direct=False), Rows(), Rows(), None]
    return Outcome(marks[: len(view.node.output)], edits)


def _limit_facts(node: onnx.NodeProto, inputs: Sequence[Fact]) -> list[Fact]:
    each = 5 if attributes(node).get("rotated", 0) else 4
    pictures = dim(inputs[2], 0) if len(inputs) > 2 else 1
    return [Fact((None,), FLOAT), Fact((None, each), FLOAT), Fact((None,), FLOAT),
            Fact((pictures,), FLOAT), Fact((None,), INT), UNKNOWN][: len(node.output)]  # fmt: skip


_COMBINED = Rule("EfficientNMS_Explicit_TF_TRT", efficient_nms_tf, _facts(INT, "max_total_size"))
_BATCHED = Rule("BatchedNMS_TRT", batched_nms, _facts(FLOAT, "keepTopK"))
_MMDEPLOY = Rule("TRTBatchedNMS", mmdeploy_nms, _mmdeploy_facts)
_TFLITE = Rule("TFLite_Detection_PostProcess", tflite, _tflite_facts)
_DETECTION = Rule("DetectionOutput", detection_output, _detection_facts)

KNOWN: dict[str, Rule] = {
    rule.op: rule
    for rule in (
        Rule("EfficientNMS_TRT", efficient_nms, _facts(INT, "max_output_boxes")),
        Rule("EfficientNMS_ONNX_TRT", efficient_nms_onnx, _index_facts),
        _COMBINED,
        replace(_COMBINED, op="EfficientNMS_Implicit_TF_TRT"),
        _BATCHED,
        replace(_BATCHED, op="BatchedNMSDynamic_TRT"),
        _MMDEPLOY,
        replace(_MMDEPLOY, op="TRTBatchedRotatedNMS"),
        Rule("NMSRotated", non_max_suppression, lambda *_: [Fact((None, 3), TensorProto.INT64)]),
        _TFLITE,
        replace(_TFLITE, op="TFL_TFLite_Detection_PostProcess"),  # as tf2onnx leaves it
        _DETECTION,
        Rule("BoxWithNMSLimit", box_with_nms_limit, _limit_facts),
        replace(_DETECTION, op="NMS_TRT"),
        replace(_DETECTION, op="NMSDynamic_TRT"),
    )
}
"""Rules by the op's name, whatever its domain."""
