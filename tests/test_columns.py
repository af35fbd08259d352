"""Columns of several kinds in one layer, and maps that the graph never splits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest
from nets import Net, found
from patterns import run

import onnx_headcut as hc

if TYPE_CHECKING:
    import onnx


@pytest.mark.parametrize("factors", ["none", "learnt"])
def test_objectness_under_one_sigmoid_with_the_classes_is_told_apart_by_names(factors: str) -> None:
    net = Net()
    rows = net.head("all", 10)
    if factors == "learnt":  # one of each channel (YOLOR, YOLOv7)
        rows = net.add("Mul", rows, net.const(net.noise.random(10) + 0.5, np.float32))
    rows = net.add("Sigmoid", rows)
    xy, wh, rest = net.split(rows, [2, 2, 6])
    grid = net.const(np.arange(216).reshape(1, 108, 2), np.float32)
    boxes = [net.add("Add", xy, grid), net.add("Mul", wh, grid)]
    model = net.model(net.add("Concat", *boxes, rest, axis=2))
    with pytest.raises(hc.GraphRefused, match="--labels"):
        found(model)
    assert found(model, labels=list("abcde")) == (5, {"all"})
    cut = hc.cut(model, ["b", "d"], labels=list("abcde"), validation=False, background="none")
    assert [o.columns for o in cut.plan.outputs] == ["5-9"]


def test_scores_times_objectness_hold_no_objectness() -> None:
    net = Net()
    boxes, sure, scores = net.split(net.head("all", 10), [4, 1, 5])
    scores = net.add("Mul", net.add("Sigmoid", scores), net.add("Sigmoid", sure))
    assert found(net.model(boxes, scores)) == (5, {"all"})


def sides(net: Net) -> list[str]:
    """Distances to the left, the top, the right and the bottom, as corners."""
    near, far = net.split(net.head("boxes", 4), [2, 2])
    grid = net.const(np.arange(216).reshape(1, 108, 2), np.float32)
    return [net.add("Sub", grid, near), net.add("Add", far, grid)]


CONVERSION = [[1, 0, 1, 0], [0, 1, 0, 1], [-0.5, 0, 0.5, 0], [0, -0.5, 0, 0.5]]


@pytest.mark.parametrize("way", ["added", "multiplied"])
def test_boxes_whose_sides_are_added_to_each_other_are_boxes(way: str) -> None:
    net = Net()
    first, last = sides(net)
    if way == "added":
        boxes = net.add("Concat", net.add("Add", first, last), net.add("Sub", last, first), axis=2)
    else:  # corners of centre and size, by a matrix
        boxes = net.add("Concat", first, last, axis=2)
        boxes = net.add("MatMul", boxes, net.const(CONVERSION, np.float32))
    scores = net.add("Sigmoid", net.head("scores", 5))
    assert found(net.model(net.add("Concat", boxes, scores, axis=2))) == (5, {"scores"})


def test_a_stored_matrix_of_other_numbers_is_a_layer() -> None:
    net = Net()
    rows = net.head("hidden", 4)
    weight = net.const(net.noise.normal(size=(4, 4)), np.float32)
    scores = net.add("MatMul", rows, weight, name="scores")
    model = net.model(net.add("Sigmoid", scores), net.head("boxes", 4))
    assert found(model) == (4, {"scores"})


@pytest.mark.parametrize("boxes", ["plain", "added"])
def test_a_softmax_over_pixels_is_not_taken_for_the_scores_beside_boxes(boxes: str) -> None:
    net = Net()
    pixels = net.add("Softmax", net.conv(net.features, 7, name="pixels"), axis=1)
    scores = net.add("Sigmoid", net.head("scores", 5))
    first, last = sides(net)
    places = {"plain": [first, last], "added": [net.add("Add", first, last)]}[boxes]
    model = net.model(scores, pixels, *places)
    with pytest.raises(hc.GraphRefused, match=r"pixels.*scores"):
        found(model)
    assert found(model, heads=["scores"]) == (5, {"scores"})


def test_two_heads_with_the_same_classes_are_cut_where_both_are_named() -> None:
    net = Net()
    first, second = (net.add("Sigmoid", net.head(n, 5)) for n in ("first", "second"))
    model = net.model(first, second, net.head("boxes", 4))
    with pytest.raises(hc.GraphRefused, match="--head"):
        found(model, labels=list("abcde"))
    assert found(model, heads=["first", "second"]) == (5, {"first", "second"})


def test_a_layer_for_boxes_and_raw_scores_needs_names() -> None:
    net = Net()
    model = net.model(net.head("all", 10))
    with pytest.raises(hc.GraphRefused):
        found(model)
    with pytest.raises(hc.GraphRefused):
        found(model, heads=["all"])
    with pytest.raises(hc.GraphRefused):
        found(model, labels=list("abcdef"))


@pytest.mark.parametrize("activation", ["Sigmoid", "Identity"])
@pytest.mark.parametrize("classes", [2, 3, 5, 20])
def test_anchors_and_classes_on_one_axis_are_not_taken_for_classes(
    activation: str, classes: int
) -> None:
    net = Net()
    scores = net.add(activation, net.conv(net.features, 3 * classes, name="scores"))
    with pytest.raises(hc.GraphRefused):
        found(net.model(scores, net.conv(net.features, 12, name="boxes")))


def test_one_anchor_leaves_a_heads_output_clear() -> None:
    net = Net()
    scores = net.add("Sigmoid", net.conv(net.features, 5, name="scores"))
    assert found(net.model(scores, net.conv(net.features, 4, name="boxes"))) == (5, {"scores"})


@pytest.mark.parametrize("activation", ["Softmax", "Sigmoid"])
@pytest.mark.parametrize(("bounds", "background"), [((1, 6), 0), ((0, 5), 5)])
def test_a_dropped_column_counts_as_the_background(
    activation: str, bounds: tuple[int, int], background: int
) -> None:
    net = Net()
    over = {"axis": 2} if activation == "Softmax" else {}
    scores = net.slice(net.add(activation, net.head("scores", 6), **over), *bounds)
    known = hc.inspect(net.model(scores, net.head("boxes", 4))).classes
    assert (known.count, known.background) == (6, background)


@pytest.mark.parametrize("opset", [9, 13])
def test_a_column_that_goes_elsewhere_is_not_dropped(opset: int) -> None:
    net = Net(opset)
    rows = net.add("Sigmoid", net.head("all", 6))

    def columns(start: int, end: int) -> str:
        if opset < 10:
            return net.add("Slice", rows, axes=[2], starts=[start], ends=[end])
        return net.slice(rows, start, end)

    model = net.model(columns(0, 1), columns(1, 6), net.head("boxes", 4))
    assert found(model) == (5, {"all"})


def test_softmax_over_one_class_and_background_of_which_one_column_leaves() -> None:
    net = Net()
    scores = net.slice(net.add("Softmax", net.head("scores", 2), axis=2), 1, 2)
    known = hc.inspect(net.model(scores, net.head("boxes", 4))).classes
    assert (known.count, known.background) == (2, 0)


def test_a_softmax_times_an_objectness_shows_no_background() -> None:
    """As the region layer of YOLOv2, in which every column is a class."""
    net = Net()
    boxes, sure, scores = net.split(net.head("all", 11), [4, 1, 6])
    scores = net.add("Mul", net.add("Softmax", scores, axis=2), net.add("Sigmoid", sure))
    model = net.model(scores, boxes)

    known = hc.inspect(model).classes
    assert (known.count, known.background) == (6, None)
    with pytest.raises(hc.UsageError, match="background"):
        hc.cut(model, "1", dry_run=True)
    with pytest.raises(hc.UsageError, match="background"):
        hc.cut(model, "b", labels=list("abcde"), dry_run=True)
    assert hc.inspect(model, labels=list("abcdef")).classes.background is None


# ------------------------------------------------------------- maps that the graph never splits


def _maps(columns: int, anchors: int = 3) -> tuple[onnx.ModelProto, Net]:
    """Two levels of a YOLO's maps as its layers give them, the second under a sigmoid."""
    net = Net()
    smaller = net.add("MaxPool", net.features, kernel_shape=[2, 2], strides=[2, 2])
    large, small = (net.conv(v, anchors * columns, name=n)
                    for n, v in (("large", net.features), ("small", smaller)))  # fmt: skip
    return net.model(large, net.add("Sigmoid", small)), net


@pytest.mark.parametrize(("before", "after"), [(5, 0), (4, 3), (0, 5), (5, 32)])
def test_maps_with_boxes_before_the_classes_are_cut_as_their_layout_says(
    before: int, after: int
) -> None:
    classes, anchors, keep = 6, 3, [4, 1]
    columns = before + classes + after
    model, _ = _maps(columns)
    said = f"anchors={anchors},before={before},after={after}"
    result = hc.cut(model, keep, layout=said, background="none", provider="cpu")
    assert result.verdict is not None
    assert result.verdict.status == "passed"
    of_one = [*range(before), *(before + k for k in keep), *range(before + classes, columns)]
    wanted = [a * columns + c for a in range(anchors) for c in of_one]
    picture = {"picture": np.random.default_rng(0).normal(size=(1, 3, 6, 6)).astype(np.float32)}
    for old, new in zip(run(model, picture), run(result.model, picture), strict=True):
        np.testing.assert_allclose(new, old[:, wanted], rtol=1e-5, atol=1e-6)


def test_maps_that_nothing_splits_are_refused_with_the_words_that_split_them() -> None:
    model, _ = _maps(5 + 6)
    with pytest.raises(hc.GraphRefused, match="--layout anchors=A,before=5"):
        found(model)
    with pytest.raises(hc.GraphRefused, match="--layout anchors=3,before=5"):
        found(model, labels=list("abcdef"), background=None)
    told = {"labels": list("abcdef"), "background": None}
    assert found(model, layout="anchors=3,before=5", **told) == (6, {"large", "small"})
    with pytest.raises(hc.GraphRefused, match="--layout"):
        found(model, layout="anchors=3,before=20")
    for odd in ("anchors=3,before", "before=5", "anchors=3,before=5,class-major", "anchors=3,by=5"):
        with pytest.raises(hc.UsageError, match="--layout"):
            found(model, layout=odd)


@pytest.mark.parametrize("numbers", [7, 9])
def test_maps_with_boxes_in_space_are_refused_with_the_words_that_split_them(numbers: int) -> None:
    """As PointPillars: of each anchor its classes, a box of 7 numbers or 9, and 2 directions."""
    net, anchors = Net(), 6
    sizes = {"scores": 3, "boxes": numbers, "turns": 2}
    model = net.model(*(net.conv(net.features, anchors * n, name=k) for k, n in sizes.items()))
    words = "--head scores --layout anchors=6, and --background none"
    for told in ({}, {"layout": "anchors=6"}, {"heads": ["scores"]}):
        with pytest.raises(hc.GraphRefused, match=words):
            found(model, **told)
    told = {"heads": ["scores"], "layout": "anchors=6"}
    assert found(model, background="none", **told) == (3, {"scores"})


def test_a_level_that_a_layout_does_not_fit_is_not_left_behind() -> None:
    net = Net()
    smaller = net.add("MaxPool", net.features, kernel_shape=[2, 2], strides=[2, 2])
    three, four = net.conv(net.features, 33, name="three"), net.conv(smaller, 44, name="four")
    with pytest.raises(hc.GraphRefused, match="four"):
        found(net.model(three, four), layout="anchors=3,before=5")
    net = Net()
    smaller = net.add("MaxPool", net.features, kernel_shape=[2, 2], strides=[2, 2])
    whole = [net.conv(net.features, n, name=str(n)) for n in (6, 24)]
    model = net.model(*whole, net.conv(smaller, 6, name="alone"))
    with pytest.raises(hc.GraphRefused, match="alone"):
        found(model, layout="anchors=1,class-boxes")


@pytest.mark.parametrize("classes", [3, 4, 5, 8])
@pytest.mark.parametrize("activation", ["Sigmoid", "Identity"])
def test_a_box_for_each_class_is_not_left_behind_unsaid(activation: str, classes: int) -> None:
    """As DetectNet: maps of one score and one box for each class, which only the layers' names tell."""
    net = Net()
    scores = net.add(activation, net.conv(net.features, classes, name="scores"))
    model = net.model(scores, net.conv(net.features, 4 * classes, name="boxes"))
    for told in ({}, {"labels": list("abcdefgh"[:classes])}):
        with pytest.raises(hc.GraphRefused):
            found(model, **told)
    assert found(model, heads=["scores"], layout="anchors=1") == (classes, {"scores"})


@pytest.mark.parametrize("how", ["renormalized", "exact"])
@pytest.mark.parametrize("activation", ["Sigmoid", "Identity"])
def test_a_box_for_each_class_is_cut_with_its_score(
    activation: str, how: Literal["renormalized", "exact"]
) -> None:
    net, keep = Net(), [2, 0, 2]
    scores = net.add(activation, net.conv(net.features, 4, name="scores"))
    model = net.model(scores, net.conv(net.features, 16, name="boxes"))
    told: dict[str, Any] = {"layout": "anchors=1,class-boxes", "background": "none"}
    result = hc.cut(model, keep, scores=how, provider="cpu", **told)
    assert result.verdict is not None
    assert result.verdict.status == "passed", result.verdict.reasons
    picture = {"picture": np.random.default_rng(0).normal(size=(1, 3, 6, 6)).astype(np.float32)}
    wanted = keep, [4 * k + c for k in keep for c in range(4)]
    for old, new, columns in zip(run(model, picture), run(result.model, picture), wanted, strict=True):
        np.testing.assert_allclose(new, old[:, columns], rtol=1e-5, atol=1e-6)
    with pytest.raises(hc.UsageError, match="box of its own"):
        hc.cut(model, "a=0|1,2", scores=how, provider="cpu", **told)


def test_four_scores_for_each_place_are_not_taken_for_the_box_of_more_columns() -> None:
    net = Net()
    scores, boxes = (net.conv(net.features, n, name=str(n)) for n in (4, 8))
    with pytest.raises(hc.GraphRefused):
        found(net.model(scores, boxes))


@pytest.mark.parametrize("distances", ["Identity", "Exp", "Relu"])
def test_maps_with_one_box_for_each_place_are_clear(distances: str) -> None:
    """As FCOS gives them: raw scores, distances, and a centre's score for each place, on two levels."""
    net, outputs = Net(), []
    smaller = net.add("MaxPool", net.features, kernel_shape=[2, 2], strides=[2, 2])
    for level, value in enumerate((net.features, smaller)):
        columns = {"scores": 20, "boxes": 4, "centre": 1}
        scores, boxes, centre = (net.conv(value, n, name=f"{what}{level}")
                                 for what, n in columns.items())  # fmt: skip
        outputs += [scores, net.add(distances, boxes), centre]
    assert found(net.model(*outputs)) == (20, {"scores0", "scores1"})
