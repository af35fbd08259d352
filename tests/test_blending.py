"""Merged, new and repeated classes in the weights of heads: storages, anchors, planted mistakes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from conftest import dealt, from_text
from exported import load_pair
from onnx import numpy_helper

import onnx_headcut as hc
from benchmarks.growing import grown, mean_ap, of, renormalised
from onnx_headcut.tracing.blending import _Head
from onnx_headcut.validation import mixture
from onnx_headcut.validation.runtime import open_session

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[1]
SHAPES = ROOT / "models" / "shapes" / "ssd_shapes_ts_softmax.onnx"
RAW = ROOT / "models" / "shapes" / "ssd_shapes_ts_raw.onnx"
NAMES = ROOT / "models" / "shapes" / "names.txt"
MAPS = ("2, m=1|3|5", "1-5, d=new", "4, d=new(copy 2), e=new(zeros)", "2, 2, 1", "3=new, 1")

Array = np.ndarray[Any, np.dtype[Any]]

HEADS = {
    "Conv with its bias": """
<float[12,8,1,1] w, float[12] b>
{ map = Conv (x, w, b)  last = Transpose <perm = [0, 2, 3, 1]> (map)  logits = Reshape (last, to) }
""",
    "Conv, the bias added behind": """
<float[12,8,1,1] w, float[1,12,1,1] b>
{ bare = Conv (x, w)  map = Add (bare, b)
  last = Transpose <perm = [0, 2, 3, 1]> (map)  logits = Reshape (last, to) }
""",
    "Conv, a bias at the columns": """
<float[12,8,1,1] w, float[6] b>
{ map = Conv (x, w)  last = Transpose <perm = [0, 2, 3, 1]> (map)
  bare = Reshape (last, to)  logits = Add (bare, b) }
""",
    "Conv without a bias": """
<float[12,8,1,1] w>
{ map = Conv (x, w)  last = Transpose <perm = [0, 2, 3, 1]> (map)  logits = Reshape (last, to) }
""",
    "MatMul": """
<float[8,12] w, float[12] b>
{ rows = Transpose <perm = [0, 2, 3, 1]> (x)  bare = MatMul (rows, w)  map = Add (b, bare)
  logits = Reshape (map, to) }
""",
    "MatMul of a transposed weight": """
<float[12,8] w, float[12] b>
{ rows = Transpose <perm = [0, 2, 3, 1]> (x)  turned = Transpose <perm = [1, 0]> (w)
  bare = MatMul (rows, turned)  map = Add (bare, b)  logits = Reshape (map, to) }
""",
    "Gemm": """
<float[12,8] w, float[12] b, int64[2] flat = {-1, 8}>
{ last = Transpose <perm = [0, 2, 3, 1]> (x)  rows = Reshape (last, flat)
  map = Gemm <transB = 1> (rows, w, b)  logits = Reshape (map, to) }
""",
    "Gemm of a weight as it is": """
<float[8,12] w, float[12] b, int64[2] flat = {-1, 8}>
{ last = Transpose <perm = [0, 2, 3, 1]> (x)  rows = Reshape (last, flat)
  map = Gemm (rows, w, b)  logits = Reshape (map, to) }
""",
    "Conv, one number for all classes": """
<float[12,8,1,1] w, float one>
{ map = Conv (x, w)  last = Transpose <perm = [0, 2, 3, 1]> (map)
  own = Reshape (last, to)  logits = Add (own, one) }
""",
    "Conv with its bias, one number for all classes": """
<float[12,8,1,1] w, float[12] b, float[1,1] one>
{ map = Conv (x, w, b)  last = Transpose <perm = [0, 2, 3, 1]> (map)
  own = Reshape (last, to)  logits = Add (one, own) }
""",
    "MatMul without a bias": """
<float[8,12] w>
{ rows = Transpose <perm = [0, 2, 3, 1]> (x)  map = MatMul (rows, w)  logits = Reshape (map, to) }
""",
    "MatMul by a weight on the left": """
<float[12,8] w, float one, int64[3] flat = {1, 8, 16}>
{ rows = Reshape (x, flat)  bare = MatMul (w, rows)  map = Add (bare, one)
  last = Transpose <perm = [0, 2, 1]> (map)  logits = Reshape (last, to) }
""",
    "Gemm without a bias": """
<float[12,8] w, int64[2] flat = {-1, 8}>
{ last = Transpose <perm = [0, 2, 3, 1]> (x)  rows = Reshape (last, flat)
  map = Gemm <transB = 1> (rows, w)  logits = Reshape (map, to) }
""",
    "Gemm, one number for all classes": """
<float[12,8] w, float[1] one, int64[2] flat = {-1, 8}>
{ last = Transpose <perm = [0, 2, 3, 1]> (x)  rows = Reshape (last, flat)
  map = Gemm <transB = 1> (rows, w, one)  logits = Reshape (map, to) }
""",
    "a weight of half precision": """
<float16[12,8,1,1] w, float16[12] b>
{ small = Cast <to = 10> (x)  map = Conv (small, w, b)  large = Cast <to = 1> (map)
  last = Transpose <perm = [0, 2, 3, 1]> (large)  logits = Reshape (last, to) }
""",
    "a weight cast where it is read": """
<float16[12,8,1,1] w, float[12] b>
{ wide = Cast <to = 1> (w)  map = Conv (x, wide, b)
  last = Transpose <perm = [0, 2, 3, 1]> (map)  logits = Reshape (last, to) }
""",
    "a quality score added for each box": """
<float[12,8,1,1] w, float[12] b, float[2,8,1,1] q, int64[3] to_one = {1, -1, 1}>
{ map = Conv (x, w, b)  last = Transpose <perm = [0, 2, 3, 1]> (map)  own = Reshape (last, to)
  good = Conv (x, q)  good_last = Transpose <perm = [0, 2, 3, 1]> (good)
  quality = Reshape (good_last, to_one)  logits = Add (own, quality) }
""",
    "two levels with one weight": """
<float[12,8,1,1] w, float[12] b>
{ low = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (x)
  map0 = Conv (x, w, b)  last0 = Transpose <perm = [0, 2, 3, 1]> (map0)  one = Reshape (last0, to)
  map1 = Conv (low, w, b)  last1 = Transpose <perm = [0, 2, 3, 1]> (map1)  two = Reshape (last1, to)
  logits = Concat <axis = 1> (one, two) }
""",
}


def model_of(name: str, activation: str = "Softmax <axis = 2>") -> onnx.ModelProto:
    """A head as `HEADS` has it, with an activation and boxes beside it."""
    declared, body = HEADS[name].strip().split(">\n", 1)
    cells = 40 if "two" in name else 32
    body = body.rstrip().removesuffix("}")
    return from_text(f"""
<ir_version: 8, opset_import: ["": 17]>
g (float[1,8,4,4] x) => (float[1,{cells},6] scores, float[1,16,4] boxes)
{declared}, float[4,8,1,1] box_w, int64[3] to = {{1, -1, 6}}, int64[3] to_box = {{1, -1, 4}}>
{body}
  scores = {activation} (logits)
  box = Conv (x, box_w)  box_last = Transpose <perm = [0, 2, 3, 1]> (box)
  boxes = Reshape (box_last, to_box) }}
""")


@pytest.mark.parametrize(("name", "spec"), dealt(HEADS, MAPS, 3))
def test_a_map_in_any_storage(name: str, spec: str) -> None:
    model = model_of(name)
    result = hc.cut(model, spec, background="first", provider="cpu")

    assert result.exit_code == 0, result.verdict
    kinds = {t.name: t.data_type for t in model.graph.initializer}
    assert all(kinds.get(t.name, t.data_type) == t.data_type for t in result.model.graph.initializer)
    if spec == MAPS[0] or name == next(iter(HEADS)):  # what was done is read from the metadata
        again = hc.validate(model, result.model, provider="cpu", background="first")
        assert again.exit_code == 0, again
        same = hc.cut(model, spec, background="first", validation=False).model
        assert same.SerializeToString() == result.model.SerializeToString()


QUALITY = "a quality score added for each box"


NEW = ("1, d=new(zeros)", "1, 2=new(zeros), 3-5", "4, d=new(copy 2)")


@pytest.mark.parametrize(("name", "spec"), dealt([name for name in HEADS if name != QUALITY], NEW))
def test_sigmoids_begin_at_the_prior(name: str, spec: str) -> None:
    model = model_of(name, "Sigmoid")
    result = hc.cut(model, spec, background="none", provider="cpu")

    assert result.exit_code == 0, result.verdict
    still = {"x": np.zeros((1, 8, 4, 4), np.float32)}
    scores = open_session(result.model, provider="cpu").run(still)["scores"]
    np.testing.assert_allclose(scores[..., 1], 0.01, rtol=1e-2 if "half" in name else 1e-5)
    if name in list(HEADS)[:3]:
        again = hc.validate(model, result.model, provider="cpu", background="none")
        assert again.exit_code == 0, again


def test_what_differs_from_box_to_box_lets_no_sigmoid_begin() -> None:
    assert hc.cut(model_of(QUALITY, "Sigmoid"), "1, m=2|3", background="none", provider="cpu")
    with pytest.raises(hc.GraphRefused, match="'quality' is added to all classes of a box alike"):
        hc.cut(model_of(QUALITY, "Sigmoid"), "1, d=new", background="none", validation=False)


def test_the_seed_draws_the_weights() -> None:
    model = model_of("Conv with its bias")

    def made(seed: int) -> onnx.ModelProto:
        return hc.cut(model, "1, d=new", background="first", seed=seed, validation=False).model

    one, two = made(0), made(1)
    assert one.SerializeToString() == made(0).SerializeToString()
    tensors = [{t.name: numpy_helper.to_array(t) for t in m.graph.initializer} for m in (one, two)]
    weights = [found["w"] for found in tensors]
    assert (weights[0][2] != weights[1][2]).all()
    assert np.array_equal(weights[0][:2], weights[1][:2])
    assert any('"seed":1' in p.value for p in two.metadata_props)


BEHIND = {
    "BatchNormalization": "normed = BatchNormalization (map, s, b, m, v)",
    "Mul": "normed = Mul (map, f)",
}


@pytest.mark.parametrize("op", BEHIND)
def test_what_is_not_the_same_for_all_classes_is_refused(op: str) -> None:
    model = from_text(f"""
<ir_version: 8, opset_import: ["": 17]>
g (float[1,8,4,4] x) => (float[1,32,6] scores, float[1,16,4] boxes)
<float[12,8,1,1] w, float[12] s, float[12] b, float[12] m, float[12] v, float[1,12,1,1] f,
 float[4,8,1,1] box_w, int64[3] to = {{1, -1, 6}}, int64[3] to_box = {{1, -1, 4}}>
{{ map = Conv (x, w)  {BEHIND[op]}  last = Transpose <perm = [0, 2, 3, 1]> (normed)
  logits = Reshape (last, to)  scores = Softmax <axis = 2> (logits)
  box = Conv (x, box_w)  box_last = Transpose <perm = [0, 2, 3, 1]> (box)
  boxes = Reshape (box_last, to_box) }}
""")
    assert hc.cut(model, "1, 1, 2", background="first", validation=False).kept.count == 4
    for spec, way in (("1, m=2|3", "say --scores exact"), ("1, d=new", "leave the new classes away")):
        with pytest.raises(hc.GraphRefused, match=f"{op} stands between the head") as caught:
            hc.cut(model, spec, background="first", validation=False)
        assert way in caught.value.advice


def test_integers_are_only_picked() -> None:
    model = from_text("""
<ir_version: 8, opset_import: ["": 17]>
g (float[1,8,4,4] x) => (float[1,32,6] scores, float[1,16,4] boxes)
<int8[12,8,1,1] q, float[12] s, int8[12] z, float[4,8,1,1] box_w,
 int64[3] to = {1, -1, 6}, int64[3] to_box = {1, -1, 4}>
{ w = DequantizeLinear <axis = 0> (q, s, z)  map = Conv (x, w)
  last = Transpose <perm = [0, 2, 3, 1]> (map)
  logits = Reshape (last, to)  scores = Softmax <axis = 2> (logits)
  box = Conv (x, box_w)  box_last = Transpose <perm = [0, 2, 3, 1]> (box)
  boxes = Reshape (box_last, to_box) }
""")
    assert hc.cut(model, "1, 1, 2", background="first", provider="cpu").exit_code == 0
    with pytest.raises(hc.GraphRefused, match="integers") as caught:
        hc.cut(model, "1, m=2|3", background="first", validation=False)
    assert "--scores exact" in caught.value.advice


# --- on real detectors


def heads_of(model: onnx.ModelProto) -> dict[str, Array]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer
            if re.search(r"cls_heads.*(weight|bias)$", t.name)
            and "predict" in t.name}  # fmt: skip


def test_growing_keeps_each_anchors_background() -> None:
    before = heads_of(onnx.load(SHAPES))
    after = heads_of(hc.cut(SHAPES, "1-14, a=new, b=new, c=new", labels=NAMES, validation=False).model)

    for name, old in before.items():
        rows = old.reshape(-1, 15, *old.shape[1:])  # anchor, class, ...
        new = after[name].reshape(-1, 18, *old.shape[1:])
        assert len(new) == len(rows)
        assert np.array_equal(new[:, :15], rows), name
        if name.endswith("bias"):
            rare = np.broadcast_to(rows[:, :1] + np.log(0.01 / 0.99), new[:, 15:].shape)
            np.testing.assert_allclose(new[:, 15:], rare, rtol=1e-5)
        else:
            assert 0.005 < new[:, 15:].std() < 0.02


def test_growing_costs_old_classes_what_renormalising_does() -> None:
    seeds = range(40)
    least = mean_ap(renormalised(onnx.load(RAW)), seeds)

    for spec in ("1-14, drone=new", "1-14, drone=new(zeros)"):
        assert mean_ap(of(grown(spec)), seeds) > least - 0.005


def test_the_published_recipe_for_eight_classes() -> None:
    """Rows 81·a + c of every classifier, for every anchor a and each wanted class c, in that order."""
    classes = [0, 3, 8, 1, 2, 10, 4, 6, 12]
    many, _ = load_pair("keras_ssd300_training_op13")
    before = {t.name: numpy_helper.to_array(t) for t in many.graph.initializer}
    cut = hc.cut(many, "0,3,8,1,2,10,4,6,12", validation=False)

    after = {t.name: numpy_helper.to_array(t) for t in cut.model.graph.initializer}
    changed = [n for n in after if n in before and n.find("conf") >= 0]
    sampled = [n for n in changed if before[n].shape != after[n].shape]
    assert cut.class_map.order == tuple(classes)
    assert len([n for n in sampled if before[n].ndim == 4]) == 6
    for name in sampled:
        old = before[name]
        anchors = old.shape[0] // 81
        wanted = [81 * a + c for a in range(anchors) for c in classes]
        assert np.array_equal(after[name], old[wanted]), name


# --- mistakes


LARGE = from_text("""
<ir_version: 8, opset_import: ["": 17]>
g (float[1,64,4,4] x) => (float[1,64,15] scores, float[1,64,4] boxes)
<float[60,64,1,1] w, float[60] b, float[16,64,1,1] box_w,
 int64[3] to = {1, -1, 15}, int64[3] to_box = {1, -1, 4}>
{ map = Conv (x, w, b)  last = Transpose <perm = [0, 2, 3, 1]> (map)  logits = Reshape (last, to)
  scores = Softmax <axis = 2> (logits)
  box = Conv (x, box_w)  box_last = Transpose <perm = [0, 2, 3, 1]> (box)
  boxes = Reshape (box_last, to_box) }
""")
"""Four anchors, the classes of the shipped detector, and weights enough to judge noise by."""


def rows(model: onnx.ModelProto, change: Callable[[Array, Array], None]) -> None:
    """Change rows of the head: weight and bias as [anchor, class, ...]."""
    tensors = {t.name: t for t in model.graph.initializer}
    pair = ["w", "b"]
    arrays = [numpy_helper.to_array(tensors[name]).copy() for name in pair]
    grids = [a.reshape(4, -1, *a.shape[1:]) for a in arrays]
    change(*grids)
    for name, array in zip(pair, arrays, strict=True):
        tensors[name].CopyFrom(numpy_helper.from_array(array, name))


def wrong_anchor(w: Array, b: Array) -> None:
    w[[0, 1], 1], b[[0, 1], 1] = w[[1, 0], 1], b[[1, 0], 1]


def another_member(w: Array, b: Array) -> None:
    w[2, 1], b[2, 1] = (w[2, 1] + w[2, 2]) / 2, (b[2, 1] + b[2, 2]) / 2


def one_term(w: Array, b: Array) -> None:
    old = {t.name: numpy_helper.to_array(t) for t in LARGE.graph.initializer}
    w[1, 1], b[1, 1] = old["w"][15 + 1], old["b"][15 + 1]


def stale_copy(w: Array, b: Array) -> None:
    w[:, 2], b[:, 2] = w[:, 3], b[:, 3]


def later_prior(_: Array, b: Array) -> None:
    b[:, 2] += 1


def no_prior(_: Array, b: Array) -> None:
    b[1, 2] = 0


def louder(w: Array, _: Array) -> None:
    w[:, 2] *= 3


def not_zero(w: Array, _: Array) -> None:
    w[3, 2, 0] = 1e-3


def moved_background(w: Array, b: Array) -> None:
    w[[0, 1], 0], b[[0, 1], 0] = w[[1, 0], 0], b[[1, 0], 0]


def infinite(w: Array, _: Array) -> None:
    w[0, 2, 0] = np.inf


MISTAKES = {
    "a blend of another anchor": ("round=circle|ring, star", wrong_anchor),
    "a blend with another member": ("round=circle|ring, star", another_member),
    "a member alone": ("round=circle|ring, star", one_term),
    "a copy of another class": ("heart, heart, star", stale_copy),
    "a prior that is too high": ("star, drone=new", later_prior),
    "a bias without a prior": ("star, drone=new(zeros)", no_prior),
    "a grown class's prior": ("star, drone=new(copy circle)", later_prior),
    "a grown class from another": ("star, drone=new(copy circle), ring", stale_copy),
    "noise that is too loud": ("star, drone=new", louder),
    "zeros that are none": ("star, drone=new(zeros)", not_zero),
    "a background at another anchor": ("1-14, drone=new", moved_background),
    "weights that are not finite": ("star, drone=new", infinite),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_does_not_pass(mistake: str) -> None:
    spec, change = MISTAKES[mistake]
    cut = hc.cut(LARGE, spec, labels=NAMES, validation=False).model
    assert hc.validate(LARGE, cut, labels=NAMES, provider="cpu").status == "passed"
    rows(cut, change)

    found = hc.validate(LARGE, cut, labels=NAMES, provider="cpu")

    assert found.status == "failed", found.reasons


LOUDNESS = {"thrice": 3.0, "a little less": 0.99, "the other way round": -1.0}


@pytest.mark.parametrize("how", LOUDNESS)
@pytest.mark.parametrize("anchor", [0, 1])
def test_noise_is_what_its_seed_draws_however_little(how: str, anchor: int) -> None:
    model = model_of("Conv with its bias")
    cut = hc.cut(model, "1, d=new", background="first", seed=4, validation=False).model
    weight = next(t for t in cut.graph.initializer if t.name == "w")
    value = numpy_helper.to_array(weight).copy()
    value[3 * anchor + 2] *= LOUDNESS[how]
    weight.CopyFrom(numpy_helper.from_array(value, "w"))

    found = hc.validate(model, cut, background="first", provider="cpu")

    assert found.status == "failed", found.reasons


def test_where_numpy_draws_otherwise_the_size_of_noise_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixture, "_draws_as_ever", lambda: False)
    rng = np.random.default_rng(9)
    for count in (8, 64, 4000):
        noise = [rng.normal(0, 0.01, count) for _ in range(200)]
        assert all(mixture._is_drawn(n, 0.01, ()) for n in noise)
        wrong = [(s, sum(mixture._is_drawn(s * n, 0.01, ()) for n in noise)) for s in (0.2, 5.0)]
        assert all(not passed for _, passed in wrong) or count < 64


def test_a_number_for_all_that_was_forgotten_does_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Head, "_of_all", lambda _: 0.0)
    for name in ("Conv, one number for all classes", "Gemm, one number for all classes"):
        found = hc.cut(model_of(name, "Sigmoid"), "1, d=new", background="none", provider="cpu")
        assert found.verdict is not None
        assert found.verdict.status == "failed"
        assert "new column 1 begins at a logit of" in " ".join(found.verdict.reasons)


def test_a_wrong_formula_does_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Head, "_rare", property(lambda _: -1.0))
    found = hc.cut(LARGE, "star, drone=new", labels=NAMES, provider="cpu")
    assert found.verdict is not None
    assert found.verdict.status == "failed"
