"""Which columns are the classes: what must be found, and what must be asked rather than guessed."""

from __future__ import annotations

import re

import numpy as np
import pytest
from nets import Net, found
from onnx import TensorProto, helper

import onnx_headcut as hc

# ------------------------------------------------------------------------- four of everything


@pytest.mark.parametrize("activation", ["Identity", "Sigmoid"])
def test_four_classes_that_look_like_boxes_are_not_guessed(activation: str) -> None:
    net = Net()
    scores, boxes = (net.add(activation, net.head(n, 4)) for n in ("scores", "boxes"))
    model = net.model(scores, boxes)
    with pytest.raises(hc.GraphRefused, match="--head"):
        found(model)
    with pytest.raises(hc.GraphRefused):
        found(model, labels=["a", "b", "c", "d"])
    assert found(model, heads=["scores"]) == (4, {"scores"})


def test_four_sigmoid_scores_beside_plain_boxes_are_the_classes() -> None:
    net = Net()
    scores, boxes = net.add("Sigmoid", net.head("scores", 4)), net.head("boxes", 4)
    assert found(net.model(scores, boxes)) == (4, {"scores"})


def test_four_columns_with_a_softmax_are_the_classes() -> None:
    net = Net()
    scores, boxes = net.add("Softmax", net.head("scores", 4), axis=2), net.head("boxes", 4)
    assert found(net.model(boxes, scores)) == (4, {"scores"})


def test_three_names_do_not_make_four_box_columns_three_classes_and_background() -> None:
    net = Net()
    model = net.model(net.head("scores", 3), net.head("boxes", 4))
    assert found(model, labels=["a", "b", "c"]) == (3, {"scores"})


def test_four_names_do_not_make_box_columns_classes_when_there_are_five() -> None:
    net = Net()
    scores, boxes = net.head("scores", 5), net.head("boxes", 4)
    model = net.model(boxes, scores)
    assert found(model, labels=["a", "b", "c", "d"], background="first") == (5, {"scores"})


# ----------------------------------------------------------------------- what is not a head


def test_a_hidden_layer_of_as_many_channels_is_no_head() -> None:
    net = Net()
    for name in ("hidden", "deeper"):
        net.features = net.add("Relu", net.conv(net.features, 8, name=name))
    scores = net.add("Sigmoid", net.head("scores", 8, anchors=1))
    assert found(net.model(scores, net.head("boxes", 4, anchors=1))) == (8, {"scores"})


def test_gates_are_no_scores() -> None:
    net = Net()
    net.features = net.add("Mul", net.features, net.add("Sigmoid", net.features))
    pooled = net.add("GlobalAveragePool", net.features)
    gate = net.add("Sigmoid", net.conv(pooled, 8, name="gate"))
    net.features = net.add("Mul", net.features, gate)
    scores = net.add("Softmax", net.head("scores", 7), axis=2)
    assert found(net.model(scores, net.head("boxes", 4))) == (7, {"scores"})


@pytest.mark.parametrize("way", ["Conv", "MatMul", "ReduceSum"])
def test_distances_as_distributions_are_no_classes(way: str) -> None:
    """Four softmaxes over 16 bins, of which the mean is taken (DFL), beside sigmoid scores."""
    net = Net()
    scores = net.add("Sigmoid", net.head("scores", 5, anchors=1))
    conv = net.conv(net.features, 64, name="distances")
    if way == "Conv":
        bins = net.add("Reshape", conv, net.const([1, 4, 16, 36]))
        bins = net.add("Transpose", bins, perm=[0, 2, 1, 3])
        means = np.arange(16).reshape(1, 16, 1, 1)
        mean = net.add("Conv", net.add("Softmax", bins, axis=1), net.const(means, np.float32))
    else:
        bins = net.add("Reshape", net.rows(conv, 64), net.const([1, 36, 4, 16]))
        bins = net.add("Softmax", bins, axis=3)
        if way == "MatMul":
            mean = net.add("MatMul", bins, net.const(np.arange(16), np.float32))
        else:
            weighed = net.add("Mul", bins, net.const(np.arange(16), np.float32))
            mean = net.add("ReduceSum", weighed, net.const([3]), keepdims=0)
    assert found(net.model(scores, mean)) == (5, {"scores"})


def test_distances_and_scores_that_are_joined_and_taken_apart_again() -> None:
    """As YOLOv8 does: [64 + 5, places] of two layers, split before the means are taken."""
    net = Net()
    both = [net.conv(net.features, 64, name="distances"), net.conv(net.features, 5, name="scores")]
    joined = net.add("Reshape", net.add("Concat", *both, axis=1), net.const([1, 69, -1]))
    bins, scores = net.split(joined, [64, 5], axis=1)
    bins = net.add("Reshape", bins, net.const([1, 4, 16, 36]))
    bins = net.add("Transpose", bins, perm=[0, 2, 1, 3])
    means = net.const(np.arange(16).reshape(1, 16, 1, 1), np.float32)
    boxes = net.add("Conv", net.add("Softmax", bins, axis=1), means)
    boxes = net.add("Reshape", boxes, net.const([1, 4, 36]))
    model = net.model(net.add("Concat", boxes, net.add("Sigmoid", scores), axis=1))
    assert found(model) == (5, {"scores"})


def test_landmarks_of_a_detector_of_one_class_are_no_classes() -> None:
    net = Net()
    score = net.add("Sigmoid", net.head("score", 1))
    with pytest.raises(hc.GraphRefused):
        found(net.model(score, net.head("boxes", 4), net.head("landmarks", 10)))


def test_landmarks_beside_one_score_and_an_objectness_are_no_classes() -> None:
    """One anchor a place, as YuNet: nothing has columns but boxes and landmarks."""
    net = Net()
    single = [net.add("Sigmoid", net.head(name, 1, anchors=1)) for name in ("score", "objectness")]
    boxes, marks = net.head("boxes", 4, anchors=1), net.head("landmarks", 10, anchors=1)
    model = net.model(*single, boxes, marks)
    with pytest.raises(hc.GraphRefused, match=r"one score for each place.*landmarks"):
        found(model)
    assert found(model, heads=["landmarks"]) == (10, {"landmarks"})


def test_boxes_alone_are_no_classes() -> None:
    net = Net()
    score = net.add("Sigmoid", net.head("score", 1))
    with pytest.raises(hc.GraphRefused):
        found(net.model(score, net.head("boxes", 4)))
    with pytest.raises(hc.GraphRefused):
        found(net.model(net.add("Sigmoid", net.head("boxes2", 4))))


@pytest.mark.parametrize("activation", ["Sigmoid", "Identity"])
def test_anchors_of_one_class_are_no_classes(activation: str) -> None:
    """As BlazeFace: one score for each of three anchors."""
    net = Net()
    score = net.add(activation, net.head("score", 1))
    for output in (score, net.add("Squeeze", score, net.const([2]))):
        model = net.model(output, net.head(f"boxes of {output}", 4))
        for told in ({}, {"labels": ["face"]}, {"labels": ["a", "b", "c"]}, {"heads": ["score"]}):
            with pytest.raises(hc.GraphRefused):
                found(model, **told)


def test_a_model_without_any_head_is_refused() -> None:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])], "relu",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, 4, 4])],
    )  # fmt: skip
    with pytest.raises(hc.GraphRefused, match="no head was found"):
        hc.inspect(helper.make_model(graph))


# ------------------------------------------------------------------------------ several tasks


def test_two_tasks_of_different_sizes_need_names_or_heads() -> None:
    net = Net()
    kinds, colours = (net.add("Sigmoid", net.head(n, k)) for n, k in (("kinds", 7), ("colours", 9)))
    model = net.model(kinds, colours, net.head("boxes", 4))
    with pytest.raises(hc.GraphRefused, match="several groups"):
        found(model)
    assert found(model, heads=["colours"]) == (9, {"colours"})


@pytest.mark.parametrize("activation", ["Softmax", "Sigmoid", "Identity"])
def test_two_tasks_of_one_size_need_heads(activation: str) -> None:
    net = Net()
    over = {"axis": 2} if activation == "Softmax" else {}
    one, other = (net.add(activation, net.head(n, 6), **over) for n in ("one", "other"))
    model = net.model(one, other, net.head("boxes", 4))
    with pytest.raises(hc.GraphRefused, match=r"one.*other"):
        found(model)
    with pytest.raises(hc.GraphRefused):
        found(model, labels=list("abcdef"))
    assert found(model, heads=["other"]) == (6, {"other"})


def test_two_tasks_of_one_layer_are_refused() -> None:
    net = Net()
    one, boxes, other = net.split(net.head("all", 14), [5, 4, 5])
    model = net.model(net.add("Sigmoid", one), boxes, net.add("Sigmoid", other))
    with pytest.raises(hc.GraphRefused):
        found(model)


def test_every_level_is_a_head_or_none_is() -> None:
    net = Net()
    smaller = net.add("MaxPool", net.features, kernel_shape=[2, 2], strides=[2, 2])
    scores = [net.add("Sigmoid", net.head(f"scores{k}", 6, value=v))
              for k, v in enumerate((net.features, smaller))]  # fmt: skip
    boxes = [net.head(f"boxes{k}", 4, value=v) for k, v in enumerate((net.features, smaller))]
    model = net.model(*scores, *boxes)
    assert found(model) == (6, {"scores0", "scores1"})
    assert found(model, heads=["scores0", "scores1"]) == (6, {"scores0", "scores1"})
    with pytest.raises(hc.GraphRefused, match=r"scores1.*scores0"):
        found(model, heads=["scores1"])


def test_a_level_in_another_form_is_not_left_behind() -> None:
    """Two levels with sigmoid scores, one with its boxes' columns under the sigmoid, too."""
    net = Net()
    smaller = net.add("MaxPool", net.features, kernel_shape=[2, 2], strides=[2, 2])
    scores, boxes = net.add("Sigmoid", net.head("scores", 6)), net.head("boxes", 4)
    level = net.add("Sigmoid", net.head("both", 10, value=smaller))
    with pytest.raises(hc.GraphRefused):
        found(net.model(scores, boxes, level))


def test_a_head_that_is_not_there_is_named_with_those_that_are() -> None:
    net = Net()
    model = net.model(net.add("Sigmoid", net.head("scores", 6)), net.head("boxes", 4))
    with pytest.raises(hc.UsageError, match=re.escape("--head nobody")) as refused:
        found(model, heads=["nobody"])
    assert "scores" in refused.value.advice
    with pytest.raises(hc.UsageError):
        found(model, heads=["stem"])


def test_of_stacked_layers_the_last_one_alone_is_read() -> None:
    """Both go through the heads, and one is given out; boxes are decoded by halves (LW-DETR)."""
    net = Net()
    both = net.add("Concat", net.features, net.add("Neg", net.features), axis=0)
    conv = {name: net.conv(both, n, name=name) for name, n in (("scores", 9), ("boxes", 4))}
    last = {name: net.add("Gather", value, net.const(1), axis=0) for name, value in conv.items()}
    scores = net.add("Transpose", last["scores"], perm=[1, 2, 0])
    moves = net.add("Transpose", last["boxes"], perm=[1, 2, 0])
    anchors = net.const(np.random.default_rng(0).random((6, 6, 2)), np.float32)
    centres = net.add("Add", net.add("Mul", net.slice(moves, 0, 2), anchors), anchors)
    sizes = net.add("Mul", net.add("Exp", net.slice(moves, 2, 4)), anchors)
    boxes = net.add("Concat", centres, sizes, axis=2)
    assert found(net.model(scores, boxes)) == (9, {"scores"})


def rows_of(net: Net) -> str:
    """The features as rows [places, 8], as those of an R-CNN's proposals."""
    turned = net.add("Transpose", net.features, perm=[0, 2, 3, 1])
    return net.add("Reshape", turned, net.const([-1, 8]))


def over(net: Net, rows: str, columns: int, name: str) -> str:
    weight = net.const(net.noise.normal(size=(8, columns)), np.float32)
    return net.add("MatMul", rows, weight, name=name)


@pytest.mark.parametrize("background", [0, 1])
@pytest.mark.parametrize("apart", [False, True])
def test_boxes_of_each_class_over_rows_are_not_left_behind(background: int, *, apart: bool) -> None:
    """As Detectron2 and torchvision give them: with the background's, or without."""
    net = Net()
    rows = rows_of(net)
    scores = net.add("Softmax", over(net, rows, 7, "scores"), axis=1)
    boxes = over(net, rows, 4 * (7 - background), "boxes")
    if apart:
        boxes = net.add("Reshape", boxes, net.const([36, -1, 4]))
    model = net.model(scores, boxes)
    with pytest.raises(hc.GraphRefused, match="it makes a box for each"):
        found(model)
    assert found(model, heads=["scores"]) == (7, {"scores"})


def test_a_softmax_over_rows_is_not_assumed_to_have_its_background_first() -> None:
    """Torchvision's R-CNNs have it first, Detectron2's and DETRs last."""
    net = Net()
    rows = rows_of(net)
    model = net.model(net.add("Softmax", over(net, rows, 7, "scores"), axis=1),
                      over(net, rows, 4, "boxes"))  # fmt: skip
    with pytest.raises(hc.UsageError, match="over rows"):
        hc.cut(model, "2, 1", validation=False)
    assert hc.inspect(model, labels=list("abcdef"), background="last").classes.names[0] == "a"


@pytest.mark.parametrize("places", [1, 36])
def test_only_among_places_is_a_softmax_assumed_to_have_a_background(places: int) -> None:
    """A classifier's has none, or has one: nothing shows it."""
    net = Net()
    pooled = net.features if places > 1 else net.add("GlobalAveragePool", net.features)
    scores = net.add("Softmax", net.rows(net.conv(pooled, 7, name="scores"), 7), axis=2)
    model = net.model(scores)
    if places > 1:
        assert hc.inspect(model).classes.background == 0
        return
    with pytest.raises(hc.UsageError, match="whole picture"):
        hc.cut(model, "2, 1", validation=False)
    assert hc.cut(model, "2, 1", background="none", provider="cpu").verdict


def test_a_softmax_of_which_several_columns_come_out_nowhere_is_refused() -> None:
    """COCO's 91 columns, of which an exporter picks 80: which of the others is the background?"""
    net = Net()
    scores = net.add("Softmax", net.head("scores", 9), axis=2)
    picked = net.add("Gather", scores, net.const([1, 2, 4, 5, 7]), axis=2)
    with pytest.raises(hc.GraphRefused, match="over 9 columns, of which 4") as refused:
        found(net.model(picked, net.head("boxes", 4)))
    assert "all 9 columns" in refused.value.advice


def test_scores_alone_are_cut_where_their_layer_is_named() -> None:
    """A classifier without a softmax: plain columns with nothing beside them."""
    net = Net()
    pooled = net.add("GlobalAveragePool", net.features)
    model = net.model(net.add("Flatten", net.conv(pooled, 7, name="scores")))
    with pytest.raises(hc.GraphRefused, match="nothing shows"):
        found(model)
    assert found(model, heads=["scores"]) == (7, {"scores"})
    assert hc.cut(model, "2, 1", heads=["scores"], background="none", provider="cpu").verdict
