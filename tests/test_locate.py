"""Which columns are the classes: what must be found, and what must be asked rather than guessed."""

from __future__ import annotations

import re
from collections import Counter
from itertools import product
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from patterns import run

import onnx_headcut as hc

if TYPE_CHECKING:
    from collections.abc import Callable


class Net:
    """A small detector, written down layer by layer; the first layer gives 8 features, 6 x 6."""

    def __init__(self, opset: int = 13) -> None:
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.stored: list[onnx.TensorProto] = []
        self.noise = np.random.default_rng(0)
        self.features = self.add("Relu", self.conv("picture", 8, wide=3, name="stem"))

    def add(self, op: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        out = name or f"{op}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [out], name=out, **attributes))
        return out

    def split(self, value: str, sizes: list[int], axis: int = 2) -> list[str]:
        outs = [f"split{len(self.nodes)}_{k}" for k in range(len(sizes))]
        self.nodes.append(helper.make_node("Split", [value, self.const(sizes)], outs, axis=axis))
        return outs

    def const(self, value: Any, dtype: Any = np.int64) -> str:
        name = f"constant{len(self.stored)}"
        self.stored.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def conv(self, value: str, channels: int, *, wide: int = 8, name: str = "", **more: Any) -> str:
        weight = self.const(self.noise.normal(size=(channels, wide, 1, 1)), np.float32)
        return self.add("Conv", value, weight, name=name, **more)

    def rows(self, value: str, columns: int) -> str:
        """[N, A x columns, H, W] to [N, places, columns]."""
        turned = self.add("Transpose", value, perm=[0, 2, 3, 1])
        return self.add("Reshape", turned, self.const([1, -1, columns]))

    def head(self, name: str, columns: int, anchors: int = 3, value: str = "") -> str:
        """Columns for each anchor, as rows."""
        conv = self.conv(value or self.features, anchors * columns, name=name)
        return self.rows(conv, columns)

    def slice(self, value: str, start: int, end: int, axis: int = 2) -> str:
        return self.add("Slice", value, *(self.const([v]) for v in (start, end, axis)))

    def model(self, *outputs: str) -> onnx.ModelProto:
        picture = helper.make_tensor_value_info("picture", TensorProto.FLOAT, [1, 3, 6, 6])
        ends = [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs]
        graph = helper.make_graph(self.nodes, "net", [picture], ends, self.stored)
        opsets = [helper.make_opsetid("", self.opset)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def found(model: onnx.ModelProto, **told: Any) -> tuple[int, set[str]]:
    """Return the number of columns and the names of the heads."""
    result = hc.inspect(model, **{"background": "none"} | told)
    return result.classes.count, {h.node for h in result.heads}


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


# ------------------------------------------------------------------ scores in a form of their own


def _reshaped_scores(net: Net, x: str, columns: int) -> dict[str, Callable[[], str]]:
    """Ways of scores from their activation to an output, of which the finder knows some."""
    places = 108

    def number(*shape: int) -> str:
        return net.const(net.noise.normal(size=shape), np.float32)

    def classes() -> str:
        count = net.add("Gather", net.add("Shape", x), net.const([2]), axis=0)
        return net.add("Cast", count, to=TensorProto.FLOAT)

    def total(op: str) -> str:
        return net.add(op, x, net.const([2]), keepdims=1)

    return {
        "as it is": lambda: x,
        "by their count": lambda: net.add("Div", x, classes()),
        "by a number": lambda: net.add("Div", x, number(1)),
        "from a row": lambda: net.add("Sub", x, number(1, 1, columns)),
        "a prior of each place": lambda: net.add("Add", x, number(1, places, 1)),
        "less of each place": lambda: net.add("Sub", x, number(1, places, 1)),
        "a factor of each score": lambda: net.add("Mul", x, number(1, places, columns)),
        "a root": lambda: net.add("Pow", net.add("Abs", x), number(1)),
        "exponentials": lambda: net.add("Exp", x),
        "sums up to one": lambda: net.add("Div", x, total("ReduceSum")),
        "unlike the best": lambda: net.add("Pow", x, net.add("Sigmoid", net.head("sure", 1))),
        "running sums": lambda: net.add("CumSum", x, net.const(2)),
        "normalised": lambda: net.add("LpNormalization", x, axis=2, p=2),
        "parents": lambda: net.add("Mul", x, net.add("Gather", x, net.const([0] * columns), axis=2)),
        "mixed": lambda: net.add("Einsum", x, number(columns, columns), equation="abc,cd->abd"),
        "an op of nobody": lambda: net.add("Mish", x),
    }


def _boxes(net: Net, how: str) -> str:
    rows, places = net.head("boxes", 4), 108
    if how in {"decoded", "corners"}:
        xy, wh = net.split(rows, [2, 2])
        anchors = net.const(net.noise.normal(size=(1, places, 2)), np.float32)
        centre = net.add("Add", net.add("Mul", xy, anchors), anchors)
        size = net.add("Mul", net.add("Exp", wh), anchors)
        if how == "corners":
            half = net.add("Div", size, net.const([2.0], np.float32))
            centre, size = net.add("Sub", centre, half), net.add("Add", centre, half)
        return net.add("Concat", centre, size, axis=2)
    if how == "moved":
        return net.add("Add", rows, net.const(net.noise.normal(size=(1, places, 4)), np.float32))
    return rows if how == "plain" else net.add(how, rows)


BESIDE: dict[str, Callable[[Net], list[str]]] = {
    "nothing": lambda _: [],
    "masks": lambda net: [net.head("masks", 32)],
    "landmarks": lambda net: [
        net.add("Mul", net.head("landmarks", 10),
                net.const(net.noise.normal(size=(1, 108, 10)), np.float32))],
}  # fmt: skip


@pytest.mark.parametrize("activation", ["Identity", "Sigmoid", "Softmax"])
def test_whatever_becomes_of_the_scores_nothing_else_is_taken_for_them(activation: str) -> None:
    """Scores that drop out of the candidates must not leave boxes or masks as the last of them."""
    ways = _reshaped_scores(Net(18), "x", 2)
    boxes = ("plain", "decoded", "corners", "moved", "Exp", "Sigmoid")
    every = list(product(ways, (2, 3, 4, 5), boxes, BESIDE, (False, True)))
    outcome: Counter[str] = Counter()
    for case in np.random.default_rng(0).permutation(len(every))[:300]:
        way, columns, box, more, named = every[case]
        if (columns, box, activation) == (4, "Sigmoid", "Identity"):
            continue  # four columns under a sigmoid beside four plain ones: the sigmoid's are taken
        net = Net(18)
        over = {"axis": 2} if activation == "Softmax" else {}
        scores = net.add(activation, net.head("scores", columns), **over)
        scores = _reshaped_scores(net, scores, columns)[way]()
        model = net.model(scores, _boxes(net, box), *BESIDE[more](net))
        told: dict[str, Any] = {"labels": list("abcdefgh"[:columns])} if named else {}
        what = f"{way}, {columns} classes, {box} boxes, {more} beside, names: {named}"
        try:
            known = found(model, **told)
        except hc.GraphRefused:
            outcome["refused"] += 1
            continue
        assert known == (columns, {"scores"}), what
        outcome["found"] += 1
    assert outcome["found"] > 15, outcome


def test_raw_scores_beside_boxes_with_corners_are_found_and_their_background_is_asked() -> None:
    net = Net()
    model = net.model(net.head("scores", 7), _boxes(net, "corners"))
    assert hc.inspect(model).classes.count == 7
    assert hc.inspect(model).classes.background is None
    with pytest.raises(hc.UsageError, match="background"):
        hc.cut(model, "1", dry_run=True)


def test_heads_that_are_named_settle_what_else_could_be_the_classes() -> None:
    net = Net()
    masks = net.add("Sigmoid", net.head("masks", 9))
    model = net.model(net.head("scores", 7), masks, net.head("boxes", 4))
    assert found(model, heads=["scores"]) == (7, {"scores"})
    with pytest.raises(hc.GraphRefused, match="80 class names") as refused:
        found(model, labels="coco80")
    assert "--labels none" in refused.value.advice


@pytest.mark.parametrize("told", [{}, {"labels": [*"abcdefg"]}, {"heads": ["scores"]}])
def test_values_that_a_further_layer_samples_are_no_classes(told: dict[str, Any]) -> None:
    """Deformable attention: its values are masked, and sampled at places of their own."""
    net = Net(opset=16)
    weight = net.const(net.noise.normal(size=(8, 18)), np.float32)
    values = net.add("MatMul", net.rows(net.features, 8), weight, name="values")
    inside = net.const(np.ones((1, 36, 1)), np.bool_)  # no padding, as masks say it
    masked = net.add("Where", inside, values, net.const(0, np.float32))
    apart = net.add("Reshape", masked, net.const([1, 36, 3, 6]))
    of_heads = net.add(
        "Reshape", net.add("Transpose", apart, perm=[0, 2, 3, 1]), net.const([3, 6, 6, 6])
    )
    places = net.const(net.noise.uniform(-1, 1, size=(3, 6, 6, 2)), np.float32)
    sampled = net.add("GridSample", of_heads, places)
    together = net.add("Reshape", sampled, net.const([1, 18, 6, 6]))
    mixed = net.add("Relu", net.conv(together, 8, wide=18, name="mixing"))
    model = net.model(net.head("scores", 7, value=mixed), _boxes(net, "corners"))
    assert found(model, **told) == (7, {"scores"})


@pytest.mark.parametrize("columns", [3, 4])
def test_scores_beside_a_filler_are_no_decoded_boxes(columns: int) -> None:
    net = Net()
    odd = net.add("Exp", net.head("scores", columns))
    filler = net.add("Mul", net.slice(odd, 0, 1), net.const([0.0], np.float32))
    model = net.model(net.add("Concat", filler, odd, axis=2), net.head("boxes", 4))
    with pytest.raises(hc.GraphRefused, match="could be the classes"):
        found(model)


def test_scores_of_which_some_are_lost_on_the_way_are_refused() -> None:
    """Each class times its parent's score: what is gathered holds some classes twice, some never."""
    net = Net()
    scores = net.add("Sigmoid", net.head("scores", 6))
    parents = net.add("Gather", scores, net.const([1, 3, 1, 3, 1, 3]), axis=2)
    best = net.add("ReduceMax", net.add("Mul", scores, parents), axes=[2])
    with pytest.raises(hc.GraphRefused):
        found(net.model(best, net.head("boxes", 4)))


# ------------------------------------------------------------------- columns of several kinds


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
