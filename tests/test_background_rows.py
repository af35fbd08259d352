"""A background that is among the detections, and would fill every slot of a top-k of all classes.

Kept classes have to be seen all the same: a mistake that moves their boxes alone is none of its rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import from_text
from onnx import numpy_helper

import onnx_headcut as hc
from onnx_headcut.validation import study

TOP = """<ir_version: 8, opset_import: ["": 17]>
top (float[1,3,8,8] image) => (float[1,4,4] boxes, float[1,4] scores, int64[1,4] labels)
<float[4,3,1,1] cls_w, float[4] cls_b, float[4,3,1,1] box_w, int64[1] k = {4},
 int64 places = {64}, int64 width = {64}, int64[1] two = {2}, int64[3] four = {1,1,4},
 int64[3] rows = {1,4,64}, int64[2] flat = {1,-1}>
{
    cls = Conv (image, cls_w, cls_b)
    scores_of = Reshape (cls, rows)
    p = Softmax <axis = 1> (scores_of)
    every = Reshape (p, flat)
    scores, at = TopK <axis = 1> (every, k)
    labels = Div (at, places)
    first = Mul (labels, width)
    place = Sub (at, first)
    box = Conv (image, box_w)
    box_rows = Reshape (box, rows)
    all_boxes = Transpose <perm = [0, 2, 1]> (box_rows)
    column = Unsqueeze (place, two)
    index = Expand (column, four)
    boxes = GatherElements <axis = 1> (all_boxes, index)
}
"""


def with_width(model: Any, width: int) -> Any:
    """The model with another factor, and without its record: its numbers alone have to tell."""
    wrong = type(model)()
    wrong.CopyFrom(model)
    wrong.ClearField("metadata_props")
    for node in wrong.graph.node:
        if node.output[0] == "first":
            node.input[1] = "width_said"
    wrong.graph.initializer.append(numpy_helper.from_array(np.array(width, np.int64), "width_said"))
    return wrong


@pytest.mark.parametrize("keep", [[3], [2, 1], [1, 2, 3], [3, 1, 2]])
@pytest.mark.parametrize("ids", ["compact", "original"])
def test_kept_classes_are_seen_where_a_background_fills_all_slots(keep: list[int], ids: Any) -> None:
    model = from_text(TOP)
    asked: dict[str, Any] = {"background": "first", "ids": ids, "provider": "cpu"}
    cut = hc.cut(model, keep, **asked)
    assert cut.verdict, cut.verdict.lines()
    seen = {row.column: row.detections for row in cut.verdict.classes}
    assert all(seen[column] for column in keep)
    assert hc.validate(model, with_width(cut.model, 64), keep, **asked)
    wrong = hc.validate(model, with_width(cut.model, 65), keep, **asked)
    assert wrong.status == "failed", wrong.lines()


def test_rows_of_the_background_are_no_detections_of_the_class_that_was_excited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where the background never gives way, the class was not seen."""
    monkeypatch.setattr(study.Learner, "_below", lambda _, best: best)
    monkeypatch.setattr(study, "_coming_first", lambda *_: None)
    verdict = hc.cut(from_text(TOP), [3], background="first", provider="cpu").verdict
    assert not verdict
    assert [row.detections for row in verdict.classes if row.column == 3] == [0]


@pytest.mark.parametrize("keep", [[3], [2, 1]])
def test_a_single_slot_that_is_forgiven_shows_nothing(keep: list[int]) -> None:
    """Rounding may decide which of two equals takes the last slot: here it is all there is."""
    one = TOP.replace("k = {4}", "k = {1}")
    one = one.replace("[1,4,4] boxes", "[1,1,4] boxes").replace("[1,4] scores", "[1,1] scores")
    one = one.replace("[1,4] labels", "[1,1] labels")
    asked: dict[str, Any] = {"background": "first", "provider": "cpu"}
    model = from_text(one)
    cut = hc.cut(model, keep, **asked)
    assert cut.verdict, cut.verdict.lines()
    assert not hc.validate(model, with_width(cut.model, 65), keep, **asked)


RAW = """<ir_version: 8, opset_import: ["": 17]>
raw (float[1,3,8,8] image) =>
 (float[1,N,P] scores, float[1,P,4] boxes, float[1,P] best, int64[1,P] labels)
<float[6,3,1,1] cls_w, float[6] cls_b, float[4,3,1,1] box_w, int64[3] six = {1,6,64},
 int64[3] four = {1,4,64}>
{
    cls = Conv (image, cls_w, cls_b)
    rows = Reshape (cls, six)
    p = Transpose <perm = [0, 2, 1]> (rows)
    best = ReduceMax <axes = [2], keepdims = 0> (p)
    labels = ArgMax <axis = 2, keepdims = 0> (p)
    scores = HOW (p)
    box = Conv (image, box_w)
    box_rows = Reshape (box, four)
    boxes = Transpose <perm = [0, 2, 1]> (box_rows)
}
"""


@pytest.mark.parametrize("how", ["Identity", "Transpose <perm = [0, 2, 1]>"])
@pytest.mark.parametrize("scores", ["renormalized", "exact"])
def test_a_best_raw_score_read_beside_a_copy_of_the_scores_is_masked_too(how: str, scores: Any) -> None:
    """Classes are defined where all of their readers begin, not in the output alone."""
    model = from_text(RAW.replace("HOW", how))
    cut = hc.cut(model, [3, 1], background="none", scores=scores, provider="cpu")
    assert cut.verdict, cut.verdict.lines()


LEFT_OUT = """<ir_version: 8, opset_import: ["": 17]>
left_out (float[1,3,8,8] image) => (float[1,4,64] boxes, float[1,64] scores, int64[1,64] labels)
<float[4,3,1,1] cls_w, float[4] cls_b, float[4,3,1,1] box_w, int64 nothing = {0},
 float zero = {0}, int64[3] rows = {1,4,64}>
{
    cls = Conv (image, cls_w, cls_b)
    scores_of = Reshape (cls, rows)
    p = Softmax <axis = 1> (scores_of)
    best = ReduceMax <axes = [1], keepdims = 0> (p)
    labels = ArgMax <axis = 1, keepdims = 0> (p)
    empty = Equal (labels, nothing)
    scores = Where (empty, zero, best)
    box = Conv (image, box_w)
    boxes = Reshape (box, rows)
}
"""


@pytest.mark.parametrize("keep", [[3], [2, 1]])
def test_rows_of_the_background_that_are_no_longer_left_out_are_seen(keep: list[int]) -> None:
    """No class that is excited shows that: the background has to win somewhere."""
    model = from_text(LEFT_OUT)
    asked: dict[str, Any] = {"background": "first", "provider": "cpu"}
    cut = hc.cut(model, keep, **asked)
    assert cut.verdict, cut.verdict.lines()
    wrong = without_record(cut.model)
    next(t for t in wrong.graph.initializer if t.name == "nothing").CopyFrom(
        numpy_helper.from_array(np.array(-1, np.int64), "nothing")
    )
    assert hc.validate(model, wrong, keep, **asked).status == "failed"


SUPPRESSED = """<ir_version: 8, opset_import: ["": 17]>
suppressed (float[1,3,8,8] image) => (float[N,1,4] boxes, float[N] scores, int64[N,1] labels)
<float[4,3,1,1] cls_w, float[4] cls_b, float[4,3,1,1] box_w, int64[3] rows = {1,4,64},
 int64 cap = {5}, float[1] overlap = {0.5}, float[1] least = {0.05}, int64[1] one = {1},
 int64[1] two = {2}, int64[1] four = {4}, int64[1] zero = {0}>
{
    cls = Conv (image, cls_w, cls_b)
    scores_of = Reshape (cls, rows)
    p = Softmax <axis = 1> (scores_of)
    box = Conv (image, box_w)
    box_rows = Reshape (box, rows)
    places = Transpose <perm = [0, 2, 1]> (box_rows)
    middle = Slice (places, zero, two, two)
    size = Slice (places, two, four, two)
    reach = Exp (size)
    low = Sub (middle, reach)
    high = Add (middle, reach)
    corners = Concat <axis = 2> (low, high)
    found = NonMaxSuppression (corners, p, cap, overlap, least)
    scores = GatherND (p, found)
    labels = Gather <axis = 1> (found, one)
    at = Gather <axis = 1> (found, two)
    flat = Squeeze (corners, zero)
    boxes = GatherND (flat, at)
}
"""


def without_record(model: Any) -> Any:
    """The model without its record: its numbers alone have to tell."""
    same = type(model)()
    same.CopyFrom(model)
    same.ClearField("metadata_props")
    return same


@pytest.mark.parametrize("keep", [[3], [2, 1], [1, 2, 3]])
@pytest.mark.parametrize("ids", ["compact", "original"])
def test_a_suppression_that_the_background_takes_part_in(keep: list[int], ids: Any) -> None:
    """Its rows score as well as those of classes, and fall as these rise."""
    model = from_text(SUPPRESSED)
    asked: dict[str, Any] = {"background": "first", "ids": ids, "provider": "cpu"}
    cut = hc.cut(model, keep, **asked)
    assert cut.verdict, cut.verdict.lines()
    assert all(row.label == row.column for row in cut.verdict.classes if row.column in keep)
    for name, value in [("cap", np.array(4, np.int64)), ("overlap", np.array([0.6], np.float32)),
                        ("least", np.array([0.6], np.float32))]:  # fmt: skip
        wrong = without_record(cut.model)
        next(t for t in wrong.graph.initializer if t.name == name).CopyFrom(
            numpy_helper.from_array(value, name)
        )
        assert hc.validate(model, wrong, keep, **asked).status == "failed", name


@pytest.mark.parametrize("keep", [[3], [2, 1], [1, 2, 3]])
def test_more_slots_than_places_are_left(keep: list[int]) -> None:
    """The reference fills them with dropped classes, whose score is 0; the cut has fewer."""
    more = TOP.replace("k = {4}", "k = {250}").replace("[1,4,4] boxes", "[1,K,4] boxes")
    more = more.replace("[1,4] scores", "[1,K] scores").replace("[1,4] labels", "[1,K] labels")
    model = from_text(more)
    asked: dict[str, Any] = {"background": "first", "provider": "cpu"}
    cut = hc.cut(model, keep, **asked)
    assert cut.verdict, cut.verdict.lines()
    assert all(row.detections for row in cut.verdict.classes if row.column in keep)
    wrong = hc.validate(model, with_width(cut.model, 65), keep, **asked)
    assert wrong.status == "failed", wrong.lines()
