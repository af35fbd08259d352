"""A fitted background: closed form, streaming, the geometry of heads, and what it recovers."""

import dataclasses
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnx_headcut.errors import GraphRefused, UsageError
from onnx_headcut.fitting import (
    MOST_FEATURES,
    Head,
    Moments,
    Picture,
    fit_background,
    heads_of,
    one_by_one,
)
from onnx_headcut.labels import Labels
from onnx_headcut.validation.inputs import NamedFeed
from onnx_headcut.validation.runtime import open_session

ANCHORS, CLASSES = 2, 5
RNG = np.random.default_rng(5)


def model(
    op: str, weight: Any, bias: Any, shape: list[Any], rank: int, **attributes: Any
) -> onnx.ModelProto:
    """One head on a graph's input, whose batch is open."""
    named = [("w", weight)] + ([("b", bias)] if bias is not None else [])
    node = helper.make_node(op, ["x", *(n for n, _ in named)], ["y"], **attributes)
    entry = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", *shape])
    out = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [None] * rank)
    stored = [numpy_helper.from_array(np.asarray(v, np.float32), n) for n, v in named]
    graph = helper.make_graph([node], "head", [entry], [out], stored)
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


def head_of(proto: onnx.ModelProto, axis: int = 1, **more: Any) -> Head:
    ids = np.tile(np.arange(CLASSES), ANCHORS)
    return heads_of(proto, {0: Labels(axis, ids)}, CLASSES, **more)[0]


def conv(
    kernel: tuple[int, ...] = (1, 1), channels: int = 7, scale: float = 1.0, **attributes: Any
) -> onnx.ModelProto:
    weight = RNG.normal(size=(ANCHORS * CLASSES, channels, *kernel)) * scale
    bias = RNG.normal(size=ANCHORS * CLASSES)
    shape = [channels, *([None] * len(kernel))]
    return model("Conv", weight, bias, shape, 2 + len(kernel), **attributes)


def pictures(count: int, channels: int = 7, size: int = 6, seed: int = 0) -> list[NamedFeed]:
    values = np.random.default_rng(seed).normal(size=(count, channels, size, size))
    return [NamedFeed("pictures", {"x": values.astype(np.float32)})]


def shown(proto: onnx.ModelProto, count: int, **how: int) -> list[Picture]:
    return one_by_one(pictures(count, **how), proto)


# ------------------------------------------------------------------ least squares


def some_places(places: int = 400, features: int = 6, anchors: int = 2) -> tuple[Any, Any, Any]:
    x = RNG.normal(size=(places, features)) * 10.0 ** np.arange(-3, features - 3)
    return x, RNG.normal(size=(places, anchors)), RNG.uniform(0.01, 1, (places, anchors))


@pytest.mark.parametrize("ridge", [1e-12, 1e-3, 0.5, 20])
def test_the_closed_form_is_what_lstsq_finds(ridge: float) -> None:
    x, y, v = some_places()
    moments = Moments(2, x.shape[1])
    moments.add(x, y, v)
    found = moments.solve([ridge])[0]
    for k in range(2):
        mean = np.average(x, axis=0, weights=v[:, k])
        variance = (v[:, k, None] * (x - mean) ** 2).sum(0)
        held = np.diag(np.sqrt(ridge * variance))
        rows = np.block(
            [[np.c_[x, np.ones(len(x))] * np.sqrt(v[:, [k]])], [held, np.zeros((x.shape[1], 1))]]
        )
        aims = np.concatenate([y[:, k] * np.sqrt(v[:, k]), np.zeros(x.shape[1])])
        expected = np.linalg.lstsq(rows, aims, rcond=None)[0]
        np.testing.assert_allclose(found[k], expected, rtol=1e-6)


def test_streaming_is_one_batch() -> None:
    x, y, v = some_places()
    whole, parts, halves = Moments(2, 6), Moments(2, 6), Moments(2, 6)
    whole.add(x, y, v)
    for rows in np.array_split(np.arange(300), 17):
        parts.add(x[rows], y[rows], v[rows])
    halves.add(x[300:], y[300:], v[300:])
    parts += halves
    whole.sum_up()
    np.testing.assert_allclose(parts.squares, whole.squares, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(parts.solve([0.1]), whole.solve([0.1]), rtol=1e-9)


def test_features_that_never_vary_and_places_without_weight_are_left_alone() -> None:
    x, y, v = some_places()
    x[:, 2] = 3.0
    moments = Moments(2, 6)
    moments.add(x, y, v * [1, 0])
    found = moments.solve([0.1])[0]
    assert np.isfinite(found).all()
    assert found[0, 2] == 0
    assert not found[1].any()


# ------------------------------------------------------------------ heads as linear maps

CONVS = {
    "1x1": ((1, 1), {}),
    "3x3 padded": ((3, 3), {"pads": [1, 1, 1, 1]}),
    "pads of four sizes": ((3, 2), {"pads": [0, 2, 1, 3]}),
    "strides": ((3, 3), {"strides": [2, 3], "pads": [1, 1, 1, 1]}),
    "dilations": ((3, 2), {"dilations": [2, 3], "pads": [2, 0, 2, 3]}),
    "all at once": ((2, 3), {"dilations": [3, 1], "strides": [2, 2], "pads": [1, 0, 2, 1]}),
    "same upper": ((3, 4), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    "same lower": ((3, 4), {"auto_pad": "SAME_LOWER", "strides": [2, 1]}),
    "valid": ((3, 3), {"auto_pad": "VALID"}),
    "one axis": ((3,), {"pads": [1, 0], "strides": [2]}),
    "three axes": ((2, 1, 2), {"pads": [0, 0, 1, 0, 0, 0]}),
}


@pytest.mark.parametrize("case", CONVS)
def test_patches_times_rows_are_the_convolution(case: str) -> None:
    kernel, attributes = CONVS[case]
    proto = conv(kernel, channels=3, **attributes)
    x = RNG.normal(size=(2, 3, *[9, 8, 5][: len(kernel)])).astype(np.float32)
    check_linear(proto, head_of(proto), x)


@pytest.mark.parametrize(
    "attributes", [{}, {"transB": 1}, {"alpha": 0.5, "beta": 2.0}, {"transB": 1, "alpha": -3.0}]
)
def test_gemm_is_linear_in_its_rows(attributes: dict[str, Any]) -> None:
    weight = RNG.normal(size=(6, ANCHORS * CLASSES))
    weight = weight.T if attributes.get("transB") else weight
    proto = model("Gemm", weight, RNG.normal(size=ANCHORS * CLASSES), [6], 2, **attributes)
    check_linear(proto, head_of(proto), RNG.normal(size=(8, 6)).astype(np.float32))


def test_matmul_is_linear_in_its_rows() -> None:
    proto = model("MatMul", RNG.normal(size=(6, ANCHORS * CLASSES)), None, [4, 6], 3)
    check_linear(proto, head_of(proto, axis=2), RNG.normal(size=(3, 4, 6)).astype(np.float32))


def check_linear(proto: onnx.ModelProto, head: Head, x: Any) -> None:
    y = open_session(proto, provider="cpu").run({"x": x})["y"]
    features, scores = head.places({"x": x, "y": y})
    flat = np.moveaxis(y, head.axis, -1).reshape(-1, ANCHORS, CLASSES)
    np.testing.assert_array_equal(scores, flat.astype(np.float64))
    linear = features @ head.rows.reshape(len(head.rows), -1).T + head.biases
    np.testing.assert_allclose(linear[:, head.grid], scores, atol=1e-4)


def test_a_place_of_very_many_features_is_left_to_the_rows() -> None:
    wide = head_of(conv((3, 3), channels=1024))  # 9,216 features
    assert wide.features is None
    assert wide.size == ANCHORS * CLASSES
    assert head_of(conv((3, 3), channels=MOST_FEATURES // 9)).size == MOST_FEATURES


def test_what_is_added_behind_a_head_counts_with_its_bias() -> None:
    proto = conv()
    offsets = np.arange(ANCHORS * CLASSES)
    plain, moved = head_of(proto), head_of(proto, offsets={0: offsets})
    np.testing.assert_allclose(moved.biases - plain.biases, offsets)


# ------------------------------------------------------------------ fitting


def equal_rows(shifts: dict[int, float]) -> onnx.ModelProto:
    """A head whose dropped classes are the background, ``shifts`` higher: t = z0 + constant."""
    proto = conv(scale=1.0)
    weight, bias = (numpy_helper.to_array(t).copy() for t in proto.graph.initializer)
    for a in range(ANCHORS):
        for c, shift in shifts.items():
            weight[a * CLASSES + c] = weight[a * CLASSES]
            bias[a * CLASSES + c] = bias[a * CLASSES] + shift
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "w"))
    proto.graph.initializer[1].CopyFrom(numpy_helper.from_array(bias, "b"))
    return proto


@pytest.mark.parametrize("unknowns", ["features", "rows"])
def test_what_is_linear_is_recovered_exactly(unknowns: str) -> None:
    proto = equal_rows({2: 0.5, 3: -1.0})
    head = head_of(proto)
    if unknowns == "rows":
        head = dataclasses.replace(head, features=None)
    fit = fit_background(proto, [head], [1, 4], 0, shown(proto, 10))
    given = fit.rows["y"]
    own = head.grid[:, 0]
    np.testing.assert_allclose(given.weights, head.rows[own], atol=1e-5)
    np.testing.assert_allclose(
        given.bias, head.biases[own] + np.log(1 + np.exp(0.5) + np.exp(-1.0)), atol=1e-5
    )
    assert fit.before.rms > 0.01
    assert fit.after.rms < 1e-6
    assert (fit.pictures, fit.held_out) == (10, 2)


@pytest.mark.parametrize("unknowns", ["features", "rows"])
def test_a_fit_brings_kept_scores_nearer(unknowns: str) -> None:
    proto = conv()
    head = head_of(proto)
    if unknowns == "rows":
        head = dataclasses.replace(head, features=None)
    fit = fit_background(proto, [head], [1], 0, shown(proto, 40))
    assert fit.after.rms < 0.6 * fit.before.rms
    assert fit.after.background < 0.6 * fit.before.background
    assert fit.conclusive
    assert not fit.unseen
    assert fit.shown.keys() == {2, 3, 4}


def test_the_row_is_written_as_the_weights_lie() -> None:
    proto = conv((3, 2), channels=4)
    head = head_of(proto)
    given = fit_background(proto, [head], [1], 0, shown(proto, 5, channels=4)).rows["y"]
    assert given.weights.shape == (ANCHORS, 4, 3, 2)
    assert given.bias.shape == (ANCHORS,)


def test_a_fit_is_reproducible_and_knows_its_pictures() -> None:
    proto = conv()
    first, again = (fit_background(proto, [head_of(proto)], [1], 0, shown(proto, 6)) for _ in range(2))
    assert first.to_json() == again.to_json()
    assert first.rows["y"].weights.tobytes() == again.rows["y"].weights.tobytes()
    other = fit_background(proto, [head_of(proto)], [1], 0, shown(proto, 6, seed=1))
    assert other.sha256 != first.sha256


def test_pictures_one_by_one_are_pictures_in_a_batch() -> None:
    proto = conv()
    batch = pictures(7)
    single = [NamedFeed(str(k), {"x": batch[0].feed["x"][k : k + 1]}) for k in range(7)]
    fed = [one_by_one(feeds, proto) for feeds in (batch, single)]
    one, other = (fit_background(proto, [head_of(proto)], [1], 0, f) for f in fed)
    assert one.to_json() == other.to_json()


def test_pictures_that_never_show_a_dropped_class_are_told() -> None:
    proto = equal_rows({2: -30, 3: -30, 4: -30})
    fit = fit_background(proto, [head_of(proto)], [1], 0, shown(proto, 5))
    assert not fit.conclusive
    assert fit.unseen == (2, 3, 4)
    assert fit.ridge is None  # nothing to gain: the row stays the background's own
    np.testing.assert_array_equal(fit.rows["y"].weights, head_of(proto).rows[[0, CLASSES]])


@pytest.mark.parametrize(("kept", "count"), [([1, 2, 3, 4], 5), ([1], 1), ([1], 0)])
def test_what_cannot_be_fitted_is_wrong_usage(kept: list[int], count: int) -> None:
    proto = conv()
    feeds = pictures(count) if count else []
    with pytest.raises(UsageError):
        fit_background(proto, [head_of(proto)], kept, 0, one_by_one(feeds, proto))


def test_integer_weights_are_refused_with_the_way_out() -> None:
    proto = conv()
    whole = numpy_helper.from_array(np.ones((ANCHORS * CLASSES, 7, 1, 1), np.int8), "w")
    proto.graph.initializer[0].CopyFrom(whole)
    with pytest.raises(GraphRefused, match="--scores exact"):
        head_of(proto)
