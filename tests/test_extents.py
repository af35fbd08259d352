"""Strides that a graph reads from the shape of its scores, where an op without a kernel reads on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import from_text
from onnx import helper, numpy_helper

import onnx_headcut as hc

ROTATED = """<ir_version: 8, opset_import: ["": 17, "mmdeploy": 1]>
rotated (float[1,3,8,8] image) => (float[K,5] boxes, float[K] scores, int64[K] labels)
<float[6,3,1,1] cls_w, float[6] cls_b, float[5,3,1,1] box_w, int64[3] six = {0,6,-1},
 int64[3] five = {0,5,-1}, int64[2] rows = {-1,5}, int64[1] flat = {-1}, int64 zero = {0},
 int64 one = {1}, int64 two = {2}>
{
    cls = Conv (image, cls_w, cls_b)
    logits = Reshape (cls, six)
    turned = Sigmoid (logits)
    box = Conv (image, box_w)
    box_rows = Reshape (box, five)
    places = Transpose <perm = [0, 2, 1]> (box_rows)
    found = mmdeploy.NMSRotated <iou_threshold = 0.1, score_threshold = 0.05> (places, turned)
    picture = Gather <axis = 1> (found, zero)
    labels = Gather <axis = 1> (found, one)
    place = Gather <axis = 1> (found, two)
    extents = Shape (turned)
    classes = Gather <axis = 0> (extents, one)
    count = Gather <axis = 0> (extents, two)
    each = Mul (classes, count)
    of_picture = Mul (picture, each)
    of_class = Mul (labels, count)
    before = Add (of_picture, of_class)
    at = Add (before, place)
    all_scores = Reshape (turned, flat)
    scores = Gather (all_scores, at)
    box_before = Mul (picture, count)
    box_at = Add (box_before, place)
    all_boxes = Reshape (places, rows)
    boxes = Gather (all_boxes, box_at)
}
"""


@pytest.mark.parametrize("keep", [[3, 0, 2], [5], [5, 4, 3, 2, 1, 0]])
def test_a_stride_over_classes_is_held_against_that_of_the_kept_ones(keep: list[int]) -> None:
    model = from_text(ROTATED)
    asked: dict[str, Any] = {"provider": "cpu"}
    cut = hc.cut(model, keep, **asked)
    assert cut.verdict, cut.verdict.lines()
    wrong = cut.model
    wrong.ClearField("metadata_props")
    at = next(i for i, node in enumerate(wrong.graph.node) if node.output[0] == "classes")
    stays = numpy_helper.from_array(np.array(6, np.int64))
    wrong.graph.node[at].CopyFrom(helper.make_node("Constant", [], ["classes"], value=stays))
    same = len(keep) == 6
    assert hc.validate(model, wrong, keep, **asked).status == ("passed" if same else "failed")
