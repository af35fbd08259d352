"""Quantized heads: stored integers are selections of the original's, integer for integer."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser
from quantized_heads import CASES, NAMES, ROWS, Case, Tensors, ints, scales, stored
from variants import run

import onnx_headcut as hc
from onnx_headcut.errors import GraphRefused


@pytest.mark.parametrize("name", CASES)
def test_integers_of_a_head_are_selections(name: str) -> None:
    case = CASES[name]
    model = case.model()
    result = hc.cut(model, ["fox", "dog"], labels=NAMES, provider="cpu")
    assert result.verdict is not None
    assert result.verdict, result.verdict.lines()
    before, after = stored(model), stored(result.model)
    sliced = {key.replace("P", "scores"): axis for key, axis in case.sliced.items()}
    for key, axis in sliced.items():
        wanted = before[key].take(ROWS, axis)
        assert after[key].dtype == wanted.dtype
        assert after[key].tobytes() == wanted.tobytes(), key
    rest = before.keys() - sliced.keys() - {"scores_s"}
    for key in rest & after.keys():
        assert after[key].tobytes() == before[key].tobytes(), key
    data = before_shape(model)
    feed = {"x": np.random.default_rng(1).normal(size=data).astype(np.float32)}
    old, new = run(model, feed), run(result.model, feed)
    np.testing.assert_array_equal(new[0], old[0].take(ROWS, case.axis))
    np.testing.assert_array_equal(new[1], old[1])


def before_shape(model: onnx.ModelProto) -> list[int]:
    return [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]


@pytest.mark.parametrize("name", CASES)
def test_a_mistake_in_any_tensor_of_a_head_is_found(name: str) -> None:
    """Each tensor that goes with the channels is swapped for two classes; all else is right."""
    case = CASES[name]
    model = case.model()
    right = hc.cut(model, ["fox", "dog"], labels=NAMES, validation=False).model
    del right.metadata_props[:]  # else the structural proof alone would see it
    assert hc.validate(model, right, ["fox", "dog"], labels=NAMES, provider="cpu")
    for key, axis in case.sliced.items():
        wrong = onnx.ModelProto()
        wrong.CopyFrom(right)
        tensor = next(t for t in wrong.graph.initializer if t.name == key.replace("P", "scores"))
        value = numpy_helper.to_array(tensor)
        swapped = value.take([0, 2, 1], axis)
        if swapped.tobytes() == value.tobytes():
            continue
        tensor.CopyFrom(numpy_helper.from_array(swapped, tensor.name))
        assert not hc.validate(model, wrong, ["fox", "dog"], labels=NAMES, provider="cpu"), key


BNB4 = Case(
    "P = com.microsoft.MatMulBnb4 <K=32, N=N, block_size=16, quant_type=1> (x, P_w, P_s)",
    lambda noise, n: {"P_w": ints(noise, n * 16, dtype=np.uint8), "P_s": scales(noise, n * 2)},
    {}, data="float[2,32]", result="float[2,N]",
)  # fmt: skip


def test_rows_of_bitsandbytes_are_laid_flat() -> None:
    model = BNB4.model()
    result = hc.cut(model, ["fox", "dog"], labels=NAMES, provider="cpu")
    assert result.verdict
    before, after = stored(model), stored(result.model)
    for key, each in (("scores_w", 16), ("scores_s", 2)):
        wanted = before[key].reshape(6, each)[list(ROWS)]
        assert after[key].tobytes() == wanted.tobytes()
        wrong = onnx.ModelProto()
        wrong.CopyFrom(result.model)
        del wrong.metadata_props[:]
        tensor = next(t for t in wrong.graph.initializer if t.name.startswith(key))
        swapped = wanted[[0, 2, 1]].ravel()
        tensor.CopyFrom(numpy_helper.from_array(swapped, tensor.name))
        assert not hc.validate(model, wrong, ["fox", "dog"], labels=NAMES, provider="cpu"), key
    feed = {"x": np.random.default_rng(1).normal(size=(2, 32)).astype(np.float32)}
    np.testing.assert_array_equal(run(result.model, feed)[0], run(model, feed)[0].take(ROWS, 1))


def test_blocks_of_bitsandbytes_across_classes_are_refused() -> None:
    across = dataclasses.replace(BNB4, text=BNB4.text.replace("block_size=16", "block_size=64"))
    with pytest.raises(GraphRefused, match="lie across classes") as caught:
        hc.cut(across.model(), ["fox", "dog"], labels=NAMES, validation=False)
    assert "MatMulNBits" in caught.value.advice


def test_blocks_of_several_classes_are_stored_in_float_and_it_is_said() -> None:
    model = parser.parse_model("""<ir_version: 10, opset_import: ["": 21]>
        g (float[2,8] x) => (float[2,6] scores, float[2,4] boxes) <float[8,4] v> {
          d = DequantizeLinear <axis = 1, block_size = 4> (w, s)
          l = MatMul (x, d)  scores = Softmax <axis = 1> (l)  boxes = MatMul (x, v) }""")
    noise = np.random.default_rng(0)
    del model.graph.value_info[:]
    for name, value in (("w", ints(noise, 8, 6)), ("s", scales(noise, 16).reshape(8, 2)),
                        ("v", noise.normal(size=(8, 4)).astype(np.float32))):  # fmt: skip
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    result = hc.cut(model, [4, 1], background="first", provider="cpu")
    assert result.verdict
    assert any("one scale for blocks of 4 classes" in note for note in result.plan.notes)


def test_scales_of_packed_blocks_follow_their_rows() -> None:
    model = CASES["MatMulNBits"].model()
    cut = hc.cut(model, ["fox", "dog"], labels=NAMES, validation=False).model
    wanted = stored(model)["scores_s"].reshape(6, 2)[list(ROWS)].ravel()
    np.testing.assert_array_equal(stored(cut)["scores_s"], wanted)
    node = next(n for n in cut.graph.node if n.output[0] == "scores")
    assert {a.name: a.i for a in node.attribute}["N"] == len(ROWS)


LEVELS = """<ir_version: 10, opset_import: ["": 21]>
levels (float[2,8,4,4] x, float[2,8,2,2] y) => (float[2,20,6] scores, float[2,20,4] boxes) {
  d0 = DequantizeLinear <axis = 0> (w0, s0, zeros)  c0 = Conv (x, d0)
  d1 = DequantizeLinear <axis = 0> (w1, s1, zeros)  c1 = Conv (y, d1)
  d2 = DequantizeLinear <axis = 0> (w2, s2, zeros)  hidden = Conv (x, d2)
  b0 = DequantizeLinear <axis = 0> (v0, t0, few)  e0 = Conv (hidden, b0)
  b1 = DequantizeLinear <axis = 0> (v1, t1, few)  e1 = Conv (y, b1)
  r0 = Reshape (c0, to6)  r1 = Reshape (c1, to6)  rs = Concat <axis = 2> (r0, r1)
  scores = Transpose <perm = [0, 2, 1]> (rs)
  p0 = Reshape (e0, to4)  p1 = Reshape (e1, to4)  ps = Concat <axis = 2> (p0, p1)
  boxes = Transpose <perm = [0, 2, 1]> (ps) }"""


def levels() -> onnx.ModelProto:
    """Two heads that share one tensor of zero points, with each other and with a hidden layer."""
    noise = np.random.default_rng(3)
    model = parser.parse_model(LEVELS)
    values: Tensors = {"zeros": ints(noise, 6), "few": ints(noise, 4)}
    for k in range(3):
        values |= {f"w{k}": ints(noise, 6, 8, 1, 1), f"s{k}": scales(noise, 6)}
        values |= {f"v{k}": ints(noise, 4, 8, 1, 1), f"t{k}": scales(noise, 4)}
    values |= {"to6": np.array([2, 6, -1]), "to4": np.array([2, 4, -1])}
    values["v0"] = ints(noise, 4, 6, 1, 1)
    used = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(
        numpy_helper.from_array(v, k) for k, v in values.items() if k in used
    )
    return model


def test_zero_points_that_heads_share_are_copied_on_write() -> None:
    model = levels()
    result = hc.cut(model, ["fox", "dog"], labels=NAMES, provider="cpu")
    assert result.verdict, result.verdict and result.verdict.lines()
    before, after = stored(model), stored(result.model)
    read = {n.output[0]: n.input[2] for n in result.model.graph.node if len(n.input) == 3}
    for name in ("d0", "d1"):
        np.testing.assert_array_equal(after[read[name]], before["zeros"][list(ROWS)])
    assert read["d0"] == read["d1"]
    np.testing.assert_array_equal(after[read["d2"]], before["zeros"])
    np.testing.assert_array_equal(after["few"], before["few"])


TFLITE = """<ir_version: 8, opset_import: ["": 17]>
tflite (int8[1,3,8,8] x) => (int8[1,160,4] boxes, int8[1,160,1] best, int64[1,160] classes) {
  d = DequantizeLinear (x, x_s, x_z)
  e = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (d)
  %s
  scores_a = DequantizeLinear (scores_q, y_s, y_z)  scores_p = Sigmoid (scores_a)
  scores_i = QuantizeLinear (scores_p, p_s, p_z)  scores_d = DequantizeLinear (scores_i, p_s, p_z)
  top = GlobalMaxPool (scores_d)  best = QuantizeLinear (top, p_s, p_z)
  classes = ArgMax <axis = 2, keepdims = 0> (scores_d)  boxes = Identity (boxes_q) }"""
LEVEL = """P_wN = DequantizeLinear <axis = 0> (P_iN, P_tN, P_z)
  P_bN = DequantizeLinear <axis = 0> (P_jN, P_uN, P_y)
  P_cN = Conv (X, P_wN, P_bN)  P_qN = QuantizeLinear (P_cN, y_s, y_z)
  P_mN = Transpose <perm = [0, 2, 3, 1]> (P_qN)  P_rN = Reshape (P_mN, P_to)"""


def tflite() -> onnx.ModelProto:
    """As tf2onnx writes a TFLite detector in int8: heads share zero points, the best is a pool."""
    noise = np.random.default_rng(9)
    values: Tensors = {
        "x_s": np.float32(0.02), "x_z": np.int8(-3), "y_s": np.float32(0.04), "y_z": np.int8(-9),
        "p_s": np.float32(1 / 256), "p_z": np.int8(-128),
    }  # fmt: skip
    text = ""
    for p, n in (("scores", 12), ("boxes", 8)):
        for k, x in (("0", "d"), ("1", "e")):
            text += LEVEL.replace("P", p).replace("N", k).replace("X", x) + "\n"
            values |= {f"{p}_i{k}": ints(noise, n, 3, 1, 1), f"{p}_t{k}": scales(noise, n)}
            values |= {f"{p}_j{k}": ints(noise, n, dtype=np.int32), f"{p}_u{k}": scales(noise, n) / 9}
        text += f"{p}_q = Concat <axis = 1> ({p}_r0, {p}_r1)\n"
        values |= {f"{p}_z": np.zeros(n, np.int8), f"{p}_y": np.zeros(n, np.int32),
                   f"{p}_to": np.array([1, -1, n // 2])}  # fmt: skip
    model = parser.parse_model(TFLITE % text)
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), k) for k, v in values.items())
    return model


def test_a_detector_as_tf2onnx_writes_it_from_tflite() -> None:
    model = tflite()
    result = hc.cut(model, [5, 2], background="none", provider="cpu")
    assert result.verdict, result.verdict and result.verdict.lines()
    before, after = stored(model), stored(result.model)
    rows = [5, 2, 11, 8]
    for name in before:
        wanted = before[name]
        if name.startswith("scores") and name != "scores_to":
            wanted = wanted[rows]
        if name != "scores_to":
            assert after[name].tobytes() == wanted.tobytes(), name
    feed = {"x": ints(np.random.default_rng(1), 1, 3, 8, 8)}
    for output, integers in (("scores_q", (5, 2)), ("boxes_q", range(4))):
        tapped = []
        for each in (model, result.model):
            copy = onnx.ModelProto.FromString(each.SerializeToString())
            copy.graph.output.add(name=output)
            tapped.append(run(copy, feed)[-1])
        np.testing.assert_array_equal(tapped[1], tapped[0].take(integers, 2))
