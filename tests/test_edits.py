"""What a cut may touch: constants and weights that others share stay as they are for them."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from nets import Net
from onnx import helper, numpy_helper
from test_generated import outputs_of

import onnx_headcut as hc
from onnx_headcut.editing.edits import (
    Blend,
    CopyInput,
    Fill,
    GatherInput,
    MapScores,
    Redeclare,
    Replace,
    Select,
    same,
)
from onnx_headcut.graph.facts import Fact

PICTURE = {"picture": np.random.default_rng(1).normal(size=(1, 3, 6, 6)).astype(np.float32)}


def cut(model: onnx.ModelProto, keep: list[int], **told: Any) -> onnx.ModelProto:
    return hc.cut(model, keep, validation=False, **{"background": "none"} | told).model


def assert_gathered(model: onnx.ModelProto, keep: list[int], axes: dict[str, int], **told: Any) -> None:
    """Outputs named in ``axes`` are gathered along their axis; all others stay bit for bit."""
    after = cut(model, keep, **told)
    names = [o.name for o in model.graph.output]
    outputs = zip(names, outputs_of(model, PICTURE), outputs_of(after, PICTURE), strict=True)
    for name, old, new in outputs:
        wanted = old.take(keep, axes[name]) if name in axes else old
        np.testing.assert_allclose(new, wanted, rtol=1e-5, atol=1e-6, err_msg=name)


def refused_or_gathered(model: onnx.ModelProto, axes: dict[str, int], **told: Any) -> bool:
    """Whether it was cut; it may be refused, but not be wrong."""
    try:
        for keep in ([0, 2], [2, 0, 1], [3]):
            assert_gathered(model, keep, axes, **told)
    except hc.GraphRefused:
        return False
    return True


class Heads(Net):
    """Scores and boxes whose layers take stored weights of one's own choosing."""

    def layer(self, name: str, weight: str, bias: str = "", value: str = "") -> str:
        inputs = [value or self.features, weight, *([bias] if bias else [])]
        return self.add("Conv", *inputs, name=name)

    def floats(self, *shape: int) -> str:
        return self.const(self.noise.normal(size=shape), np.float32)


@pytest.mark.parametrize("way", ["none", "Identity", "Cast", "Neg"])
def test_a_bias_that_boxes_share_is_copied_or_the_cut_refused(way: str) -> None:
    """With four classes, scores and boxes have as many channels: exporters store one bias."""
    net = Heads()
    bias = net.floats(12)
    if way != "none":
        bias = net.add(way, bias, **({"to": 1} if way == "Cast" else {}))
    for first, second in (("scores", "boxes"), ("boxes", "scores")):
        net.layer(first, net.floats(12, 8, 1, 1), bias)
        net.layer(second, net.floats(12, 8, 1, 1), bias)
        scores, boxes = net.add("Sigmoid", net.rows("scores", 4)), net.rows("boxes", 4)
        done = refused_or_gathered(net.model(scores, boxes), {scores: 2})
        assert done or way in {"Cast", "Neg"}
        net = Heads()
        bias = net.floats(12)
        if way != "none":
            bias = net.add(way, bias, **({"to": 1} if way == "Cast" else {}))


@pytest.mark.parametrize("way", ["none", "Identity", "Cast", "Transpose"])
def test_a_weight_that_a_hidden_layer_shares(way: str) -> None:
    net = Heads()
    weight = net.floats(8, 8, 1, 1)
    if way == "Transpose":
        weight = net.add(way, weight, perm=[1, 0, 2, 3])
    elif way != "none":
        weight = net.add(way, weight, **({"to": 1} if way == "Cast" else {}))
    net.features = net.add("Relu", net.layer("hidden", weight))
    scores = net.add("Sigmoid", net.rows(net.layer("scores", weight), 8))
    done = refused_or_gathered(net.model(scores, net.head("boxes", 4)), {scores: 2})
    assert done or way in {"Cast", "Transpose"}


@pytest.mark.parametrize("order", ["scores first", "boxes first"])
@pytest.mark.parametrize("computed", [False, True])
def test_a_shape_that_boxes_share(order: str, *, computed: bool) -> None:
    net = Heads()
    target = net.const([1, -1, 4])
    if computed:
        batch = net.add("Slice", net.add("Shape", "picture"), *map(net.const, ([0], [1])))
        target = net.add("Concat", batch, net.const([-1]), net.const([4]), axis=0)
    rows = {}
    for name in ("scores", "boxes")[:: 1 if order == "scores first" else -1]:
        turned = net.add("Transpose", net.conv(net.features, 12, name=name), perm=[0, 2, 3, 1])
        rows[name] = net.add("Reshape", turned, target)
    scores = net.add("Sigmoid", rows["scores"])
    done = refused_or_gathered(net.model(rows["boxes"], scores), {scores: 2})
    assert done or computed


def test_anchors_counted_by_dividing_by_the_class_count_are_not_forgotten() -> None:
    """The number of places is the length of the flat scores over four: nothing says "classes"."""
    net = Heads()
    scores = net.add("Sigmoid", net.head("scores", 6))
    flat = net.add("Reshape", scores, net.const([1, -1]))
    length = net.add("Gather", net.add("Shape", flat), net.const([1]), axis=0)
    places = net.add("Div", length, net.const([6]))
    target = net.add("Concat", net.const([1]), places, net.const([-1]), axis=0)
    boxes = net.add("Reshape", net.conv(net.features, 12, name="boxes"), target)
    refused_or_gathered(net.model(scores, boxes), {scores: 2})


def test_the_class_count_read_from_a_shape_follows_by_itself() -> None:
    net = Heads()
    scores = net.add("Sigmoid", net.head("scores", 6))
    count = net.add("Gather", net.add("Shape", scores), net.const([2]), axis=0)
    target = net.add("Concat", net.const([1, 36, 3]), count, axis=0)
    split = net.add("Reshape", scores, target)
    model = net.model(split, net.head("boxes", 4))
    assert refused_or_gathered(model, {split: 3}, labels=list("abcdef"))


@pytest.mark.parametrize("axis", [2, -1])
def test_outputs_of_single_classes_stay_only_for_classes_that_stay(axis: int) -> None:
    net = Heads()
    scores = net.add("Sigmoid", net.head("scores", 4))
    singles = [net.add("Gather", scores, net.const(k), axis=axis) for k in range(4)]
    net.head("boxes", 4)
    model = net.model(scores, *singles, net.nodes[-1].output[0])
    with pytest.raises(hc.GraphRefused):
        cut(model, [1, 2], heads=["scores"])


def test_one_class_kept_leaves_an_axis_of_one() -> None:
    net = Heads()
    scores = net.add("Sigmoid", net.head("scores", 6))
    factor = net.const(net.noise.normal(size=6), np.float32)
    scores = net.add("Mul", scores, factor)
    assert refused_or_gathered(net.model(scores, net.head("boxes", 4)), {scores: 2})


@pytest.mark.parametrize("shape", [(6,), (1, 1, 6), (1,), (), (36 * 3, 1), (36 * 3, 6), (1, 108, 1)])
def test_constants_beside_scores_are_sliced_where_they_have_the_classes(
    shape: tuple[int, ...],
) -> None:
    net = Heads()
    scores = net.add("Sigmoid", net.head("scores", 6))
    scores = net.add("Add", net.floats(*shape), scores)
    assert refused_or_gathered(net.model(scores, net.head("boxes", 4)), {scores: 2})


@pytest.mark.parametrize("places", [6, 36])
def test_a_constant_along_places_is_no_constant_along_classes(places: int) -> None:
    """As many places as classes: numpy's rules say which axis a constant is for."""
    net = Heads()
    scores = net.add("Sigmoid", net.rows(net.conv(net.features, 36, name="scores"), 36))
    shape = (36, 1) if places == 36 else (6, 6, 1)
    if places == 6:
        scores = net.add("Reshape", scores, net.const([6, 6, 36]))
    scores = net.add("Mul", scores, net.floats(*shape))
    assert refused_or_gathered(net.model(scores, net.head("boxes", 4)), {scores: 2})


def test_the_old_broadcast_of_opset_six_is_refused() -> None:
    net = Heads(6)
    conv = net.conv(net.features, 6, name="scores")
    biased = net.add("Add", conv, net.floats(6), broadcast=1, axis=1)
    model = net.model(net.add("Sigmoid", biased), net.conv(net.features, 4, name="boxes"))
    with pytest.raises(hc.GraphRefused):
        cut(model, [0, 1])


def test_a_split_into_equal_parts_gets_sizes_when_they_are_not_equal_any_more() -> None:
    net = Heads(18)
    scores = net.add("Sigmoid", net.head("scores", 6))
    halves = ["first", "second"]
    net.nodes.append(helper.make_node("Split", [scores], halves, axis=2, num_outputs=2))
    both = net.add("Concat", "second", "first", axis=2)
    model = net.model(both, net.head("boxes", 4))
    after = cut(model, [0, 1, 4])
    old, new = outputs_of(model, PICTURE)[0], outputs_of(after, PICTURE)[0]
    np.testing.assert_allclose(new, old.take([0, 1, 4], 2), rtol=1e-6)  # ids: output's columns


def test_new_constants_of_old_files_are_inputs_as_all_of_theirs_are() -> None:
    net = Heads(8)
    scores = net.add("Sigmoid", net.conv(net.features, 6, name="scores"))
    model = net.model(scores, net.conv(net.features, 4, name="boxes"))
    model.ir_version = 3
    for tensor in model.graph.initializer:
        model.graph.input.append(
            helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        )
    after = cut(model, [0, 2])
    listed = {i.name for i in after.graph.input}
    assert {t.name for t in after.graph.initializer} < listed


def test_the_original_is_left_as_it_was() -> None:
    net = Heads()
    model = net.model(net.add("Sigmoid", net.head("scores", 6)), net.head("boxes", 4))
    before = model.SerializeToString(deterministic=True)
    cut(model, [0, 1])
    assert model.SerializeToString(deterministic=True) == before


def test_only_the_heads_weights_change() -> None:
    net = Heads()
    model = net.model(net.add("Sigmoid", net.head("scores", 6)), net.head("boxes", 4))
    old = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    new = {t.name: numpy_helper.to_array(t) for t in cut(model, [4, 1]).graph.initializer}
    changed = [n for n in new if n not in old or not np.array_equal(old[n], new[n])]
    assert [new[n].shape for n in changed] in ([(6, 8, 1, 1), (3,)], [(3,), (6, 8, 1, 1)])


def test_edits_are_the_same_where_all_that_they_say_is() -> None:
    """Arrays, facts and what is in collections of them is compared, too."""
    take, half = np.array([0, 2]), np.array([0.5, 0.25])
    scores = MapScores((1,), "p", 1, frozenset(), "sum", (take, take), (half, half))
    blend = Blend((1,), 1, 0, take, (Fill(1, given=half),), (0, 2))
    known = Fact((2, 3), 1), Fact((2, 2), 1)
    pairs = [
        (scores, replace(scores, shares=(half, half * 2))),
        (scores, replace(scores, takes=(take, take + 1))),
        (blend, replace(blend, fills=(Fill(1, given=half * 2),))),
        (CopyInput((1,), 1, (2,), {0: take}, take), CopyInput((1,), 1, (2,), {1: take}, take)),
        (Redeclare((1,), 0, {"a": known}), Redeclare((1,), 0, {"a": known[::-1]})),
        (Replace((1,), 1, take), Replace((1,), 1, take + 1)),
        (Select((1,), 1, 0, take), GatherInput((1,), 1, 0, take)),
    ]
    for edit, other in pairs:
        assert same(edit, deepcopy(edit))
        assert not same(edit, other)
