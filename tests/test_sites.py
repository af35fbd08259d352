"""Where classes are masked for the reference: before all that makes them compete."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import from_text
from onnx import numpy_helper
from patterns import run

import onnx_headcut as hc

BEST = """<ir_version: 8, opset_import: ["": 17]>
best (float[1,3,8,8] image) => (float[1,64,4] boxes, float[1,64] scores, int64[1,64] labels)
<float[5,3,1,1] cls_w, float[5] cls_b, float[4,3,1,1] box_w, int64[3] five = {1,5,64},
 int64[3] four = {1,4,64}, float[1,1,4] scale = {3,2,4,2.5}, float[1,1,4] offset = {-1,0.3,-0.5,0},
 int64[1] zero = {0}, int64[1] last = {-1}, int64[1] two = {2}>
{
    cls = Conv (image, cls_w, cls_b)
    rows = Reshape (cls, five)
    x = Transpose <perm = [0, 2, 1]> (rows)
    SHARES
    scores = ReduceMax <axes = [2], keepdims = 0> (p)
    labels = ArgMax <axis = 2, keepdims = 0> (p)
    box = Conv (image, box_w)
    box_rows = Reshape (box, four)
    boxes = Transpose <perm = [0, 2, 1]> (box_rows)
}
"""

SHARES = {
    "less the best": """most = ReduceMax <axes = [2]> (x)
    less = Sub (x, most)
    every = Softmax <axis = 2> (less)
    p = Slice (every, zero, last, two)""",
    "calibrated": """every = Softmax <axis = 2> (x)
    objects = Slice (every, zero, last, two)
    steep = Mul (objects, scale)
    logits = Add (steep, offset)
    p = Sigmoid (logits)""",
}


@pytest.mark.parametrize("shares", SHARES)
@pytest.mark.parametrize("keep", [[2, 0], [1], [3, 2, 1, 0]])
def test_classes_are_masked_before_they_compete(shares: str, keep: list[int]) -> None:
    model = from_text(BEST.replace("SHARES", SHARES[shares]))
    asked: dict[str, Any] = {"background": "last", "provider": "cpu"}
    cut = hc.cut(model, keep, **asked)
    assert cut.verdict, cut.verdict.lines()
    assert cut.plan.sites[0].value == "x"
    assert cut.plan.sites[0].activation == "softmax"


def test_a_table_behind_a_softmax_that_stays_in_its_order_is_seen() -> None:
    model = from_text(BEST.replace("SHARES", SHARES["calibrated"]))
    asked: dict[str, Any] = {"background": "last", "provider": "cpu"}
    wrong = hc.cut(model, [2, 0], **asked).model
    wrong.ClearField("metadata_props")
    table = next(n.input[1] for n in wrong.graph.node if n.output[0] == "logits")
    next(t for t in wrong.graph.initializer if t.name == table).CopyFrom(
        numpy_helper.from_array(np.array([[[-1, -0.5]]], np.float32), table)
    )
    assert hc.validate(model, wrong, [2, 0], **asked).status == "failed"


ALIVE = """<ir_version: 8, opset_import: ["": 17]>
alive (float[1,3,8,8] image) => (float[1,K,64] scores, float[1,4,64] boxes)
<float[4,3,1,1] stem_w = {WEIGHTS}, float[4] stem_b = {0,0,0,-3}, float[5,4,1,1] cls_w,
 float[4,4,1,1] box_w, int64[3] five = {1,5,64}, int64[3] four = {1,4,64}>
{
    stem = Conv (image, stem_w, stem_b)
    hidden = Relu (stem)
    cls = Conv (hidden, cls_w)
    rows = Reshape (cls, five)
    scores = Sigmoid (rows)
    box = Conv (hidden, box_w)
    boxes = Reshape (box, four)
}
"""


def test_a_weight_that_pictures_between_0_and_1_do_not_reach_is_seen() -> None:
    """Who normalises pictures before the graph says so nowhere in it."""
    weights = ",".join(["1"] * 9 + ["0.9"] * 3)
    model = from_text(ALIVE.replace("WEIGHTS", weights))
    cut = hc.cut(model, [3, 1], provider="cpu")
    assert cut.verdict, cut.verdict.lines()
    wrong = cut.model
    wrong.ClearField("metadata_props")
    tensor = next(t for t in wrong.graph.initializer if t.name == "box_w")
    array = numpy_helper.to_array(tensor).copy()
    array[2, 3] *= 0.7
    tensor.CopyFrom(numpy_helper.from_array(array, "box_w"))
    assert hc.validate(model, wrong, [3, 1], provider="cpu").status == "failed"


APART = """<ir_version: 8, opset_import: ["": 17]>
apart (float[1,3,4,4] image) => (float[1,K,4,4] scores, float[1,4,4,4] boxes)
<float[6,3,1,1] cls_w, float[6] cls_b, float[4,3,1,1] box_w, int64[2] sizes = {2,4},
 int64[6] ones = {1,1,1,1,1,1}>
{
    cls = Conv (image, cls_w, cls_b)
    PARTS
    boxes = Conv (image, box_w)
}
"""

BLOCKS = """few, many = Split <axis = 1> (cls, sizes)
    a = Sigmoid (few)
    b = Sigmoid (many)
    scores = Concat <axis = 1> (a, b)"""

SINGLES = """c0, c1, c2, c3, c4, c5 = Split <axis = 1> (cls, ones)
    s0 = Sigmoid (c0)
    s1 = Sigmoid (c1)
    s2 = Sigmoid (c2)
    s3 = Sigmoid (c3)
    s4 = Sigmoid (c4)
    s5 = Sigmoid (c5)
    scores = Concat <axis = 1> (s0, s1, s2, s3, s4, s5)"""


@pytest.mark.parametrize("keep", [[1, 3], [3, 1], [5, 2, 0]])
@pytest.mark.parametrize("parts", [BLOCKS, SINGLES], ids=["blocks", "singles"])
def test_scores_that_are_activated_apart_are_joined_in_the_new_order(
    parts: str, keep: list[int]
) -> None:
    model = from_text(APART.replace("PARTS", parts))
    cut = hc.cut(model, keep, labels=list("abcdef"), provider="cpu")
    assert cut.verdict, cut.verdict.lines()
    feed = {"image": np.random.default_rng(0).normal(size=(1, 3, 4, 4)).astype(np.float32)}
    before, after = (run(each, feed)[0] for each in (model, cut.model))
    np.testing.assert_allclose(after, before[:, keep], rtol=1e-5)


@pytest.mark.parametrize("scores", ["renormalized", "exact"])
def test_classes_that_would_change_from_one_part_to_another_are_refused(scores: Any) -> None:
    model = from_text(APART.replace("PARTS", BLOCKS))
    asked: dict[str, Any] = {"labels": list("abcdef"), "scores": scores, "validation": False}
    with pytest.raises(hc.GraphRefused, match=r"moved as|change places") as refused:
        hc.cut(model, [3, 1, 2], **asked)
    assert "in the order in which they are in the model" in refused.value.advice
    cut = hc.cut(model, [4, 0], **asked).model
    feed = {"image": np.random.default_rng(0).normal(size=(1, 3, 4, 4)).astype(np.float32)}
    np.testing.assert_allclose(run(cut, feed)[0], run(model, feed)[0][:, [4, 0]], rtol=1e-5)
