"""Quantized heads: stored integers are selections of the original's, integer for integer."""

from __future__ import annotations

import dataclasses
import re
from functools import cache
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser
from onnxruntime import quantization as oq
from patterns import PATTERNS, pictures
from variants import COLUMNS, KEEP, ORDER, optimised, picture, run, shapes

import onnx_headcut as hc
from onnx_headcut.errors import GraphRefused
from onnx_headcut.facts import Fact
from onnx_headcut.interpreter import Interpreter
from onnx_headcut.validation.runtime import fusing_crashes, open_session

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NAMES = ("background", "cat", "dog", "cow", "hen", "fox")
ROWS = (0, 5, 2)
"""Columns of a cut to fox, dog."""

Tensors = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Case:
    """A quantized layer in text, with ``P`` for its name and ``N`` for its channels.

    ``tensors`` makes what it stores for a number of channels; ``sliced`` says along which axis
    each of them knows the channels. ``shape`` is that of the data before the channels.
    """

    text: str
    tensors: Callable[[np.random.Generator, int], Tensors]
    sliced: dict[str, int]
    before: str = ""
    data: str = "float[2,8,4,4]"
    result: str = "float[2,N,4,4]"
    axis: int = 1
    opset: int = 21
    ir: int = 10
    kept: tuple[str, ...] = ()

    def model(self) -> onnx.ModelProto:
        noise = np.random.default_rng(0)
        results = ", ".join(f"{self.result.replace('N', n)} {p}" for p, n in OUTPUTS)
        layers = "".join(
            re.sub(r"\bP(?=\b|_)", p, self.text).replace("=N", f"={n}") for p, n in OUTPUTS
        )
        model = parser.parse_model(f"""<ir_version: {self.ir},
            opset_import: ["": {self.opset}, "com.microsoft": 1]>
            quantized ({self.data} x) => ({results}) {{ {self.before} {layers} }}""")
        stored = dict(SHARED)
        for p, n in OUTPUTS:
            made = self.tensors(noise, int(n))
            stored |= {name.replace("P", p): value for name, value in made.items()}
        used = {name for node in model.graph.node for name in node.input}
        model.graph.initializer.extend(
            numpy_helper.from_array(np.asarray(value), name)
            for name, value in stored.items() if name in used
        )  # fmt: skip
        return model


OUTPUTS = (("scores", "6"), ("boxes", "4"))
SHARED: Tensors = {
    "x_s": np.float32(0.02), "x_z": np.uint8(120), "one": np.float32(0.0003),
    "y_s": np.float32(0.05), "y_z": np.uint8(128), "zero": np.int8(0),
}  # fmt: skip


def ints(noise: np.random.Generator, *shape: int, dtype: type = np.int8) -> np.ndarray:
    info = np.iinfo(dtype)
    low, high = max(info.min, -100), min(info.max, 100)
    return noise.integers(low, high, shape).astype(dtype)


def scales(noise: np.random.Generator, n: int) -> np.ndarray:
    return (0.01 + 0.02 * noise.random(n)).astype(np.float32)


def conv_weights(dtype: type, *, zero: bool = True) -> Callable[..., Tensors]:
    def make(noise: np.random.Generator, n: int) -> Tensors:
        found = {
            "P_w": ints(noise, n, 8, 1, 1, dtype=np.int8).clip(-8, 7).astype(dtype),
            "P_s": scales(noise, n),
            "P_b": ints(noise, n, dtype=np.int32),
            "P_bs": scales(noise, n) / 50,
        }
        if zero:
            found["P_z"] = ints(noise, n).clip(-4, 3).astype(dtype)
        return found

    return make


def unsigned(dtype: type) -> Callable[..., Tensors]:
    def make(noise: np.random.Generator, n: int) -> Tensors:
        found = conv_weights(np.int8)(noise, n)
        found["P_w"] = ints(noise, n, 8, 1, 1, dtype=np.uint8).clip(0, 15).astype(dtype)
        return found | {"P_z": np.arange(n).astype(dtype)}

    return make


QDQ = """P_d = DequantizeLinear <axis = 0> (P_w, P_s, P_z)
         P_db = DequantizeLinear <axis = 0> (P_b, P_bs)
         P = Conv (x, P_d, P_db)"""
SLICED = {"P_w": 0, "P_s": 0, "P_z": 0, "P_b": 0, "P_bs": 0}


def per_tensor(noise: np.random.Generator, n: int) -> Tensors:
    return {
        "P_w": ints(noise, n, 8, 1, 1),
        "P_t": np.float32(0.02),
        "P_b": ints(noise, n, dtype=np.int32),
    }


def blocked(noise: np.random.Generator, n: int) -> Tensors:
    return {
        "P_w": ints(noise, n, 8).clip(-8, 7).astype(ml_dtypes.int4),
        "P_s": scales(noise, n * 2).reshape(n, 2),
        "P_z": ints(noise, n, 2).clip(-4, 3).astype(ml_dtypes.int4),
    }


def linear_conv(noise: np.random.Generator, n: int) -> Tensors:
    return {
        "P_w": ints(noise, n, 8, 3, 3), "P_s": scales(noise, n) / 10, "P_z": np.zeros(n, np.int8),
        "P_b": ints(noise, n, dtype=np.int32),
    }  # fmt: skip


def columns(dtype: type = np.int8) -> Callable[..., Tensors]:
    def make(noise: np.random.Generator, n: int) -> Tensors:
        return {
            "P_w": ints(noise, 8, n, dtype=dtype), "P_s": scales(noise, n) / 3,
            "P_z": ints(noise, n, dtype=dtype), "P_b": ints(noise, n, dtype=np.int32) * 30,
            "P_f": scales(noise, n),
        }  # fmt: skip

    return make


def packed(noise: np.random.Generator, n: int) -> Tensors:
    return {
        "P_w": ints(noise, n, 2, 8, dtype=np.uint8), "P_s": scales(noise, n * 2),
        "P_z": ints(noise, n, dtype=np.uint8), "P_f": scales(noise, n),
    }  # fmt: skip


FLAT = {"data": "float[2,8]", "result": "float[2,N]"}
QUANTIZED = "xq = QuantizeLinear (x, x_s, x_z)"
OUT = "P = DequantizeLinear (P_q, y_s, y_z)"
CASES = {
    **{
        f"QDQ Conv {np.dtype(t).name}": Case(QDQ, conv_weights(t), SLICED)
        for t in (np.int8, np.int16, ml_dtypes.int4)
    },
    **{
        f"QDQ Conv {np.dtype(t).name}": Case(QDQ, unsigned(t), SLICED)
        for t in (np.uint16, ml_dtypes.uint4)
    },
    "QDQ Conv float8_e4m3fn": Case(
        "P_d = DequantizeLinear <axis = 0> (P_w, P_s)  P = Conv (x, P_d)",
        conv_weights(ml_dtypes.float8_e4m3fn, zero=False), {"P_w": 0, "P_s": 0},
    ),
    "QDQ Conv per tensor": Case(
        """P_d = DequantizeLinear (P_w, P_t, zero)  P_db = DequantizeLinear (P_b, P_t)
           P = Conv (x, P_d, P_db)""",
        per_tensor, {"P_w": 0, "P_b": 0}, opset=10, ir=5, kept=("P_t",),
    ),
    "QDQ to the integers at the output": Case(
        """P_d = DequantizeLinear <axis = 0> (P_w, P_s, P_z)  P_r = Conv (x, P_d)
           P = QuantizeLinear (P_r, y_s, y_z)""",
        conv_weights(np.int8), {"P_w": 0, "P_s": 0, "P_z": 0}, result="uint8[2,N,4,4]",
    ),
    "QDQ Gemm, blocks of 4": Case(
        """P_d = DequantizeLinear <axis = 1, block_size = 4> (P_w, P_s, P_z)
           P = Gemm <transB = 1> (x, P_d)""",
        blocked, {"P_w": 0, "P_s": 0, "P_z": 0}, **FLAT,
    ),
    "QDQ MatMul": Case(
        "P_d = DequantizeLinear <axis = 1> (P_w, P_s, P_z)  P = MatMul (x, P_d)",
        columns(), {"P_w": 1, "P_s": 0, "P_z": 0}, **FLAT,
    ),
    "QDQ Conv, weights behind a Transpose": Case(
        """P_d = DequantizeLinear <axis = 3> (P_w, P_s)
           P_t = Transpose <perm = [3, 2, 0, 1]> (P_d)  P = Conv (x, P_t)""",
        lambda noise, n: {"P_w": ints(noise, 1, 1, 8, n), "P_s": scales(noise, n)},
        {"P_w": 3, "P_s": 0},
    ),
    "QDQ MatMul, blocks of 4": Case(
        """P_d = DequantizeLinear <axis = 0, block_size = 4> (P_w, P_s, P_z)
           P = MatMul (x, P_d)""",
        lambda noise, n: {"P_w": ints(noise, 8, n), "P_s": scales(noise, n * 2).reshape(2, n),
                          "P_z": ints(noise, 2, n)},
        {"P_w": 1, "P_s": 1, "P_z": 1}, **FLAT,
    ),
    "QLinearConv": Case(
        "P_q = QLinearConv <pads = [1, 1, 1, 1]> (xq, x_s, x_z, P_w, P_s, P_z, y_s, y_z, P_b)"
        + OUT,
        linear_conv, {"P_w": 0, "P_s": 0, "P_z": 0, "P_b": 0}, QUANTIZED,
    ),
    "QLinearConv, scalar zero point and integers out": Case(
        "P = QLinearConv <pads = [1, 1, 1, 1]> (xq, x_s, x_z, P_w, P_s, zero, y_s, y_z, P_b)",
        linear_conv, {"P_w": 0, "P_s": 0, "P_b": 0}, QUANTIZED, result="uint8[2,N,4,4]",
    ),
    "QLinearMatMul": Case(
        "P_q = QLinearMatMul (xq, x_s, x_z, P_w, P_s, P_z, y_s, y_z)" + OUT,
        columns(), {"P_w": 1, "P_s": 0, "P_z": 0}, QUANTIZED, **FLAT,
    ),
    "QGemm": Case(
        "P_q = com.microsoft.QGemm (xq, x_s, x_z, P_w, P_s, P_z, P_b, y_s, y_z)" + OUT,
        columns(), {"P_w": 1, "P_s": 0, "P_z": 0, "P_b": 0}, QUANTIZED, **FLAT,
    ),
    "ConvInteger": Case(
        """P_i = ConvInteger <pads = [1, 1, 1, 1]> (xq, P_w, x_z)  P_c = Cast <to = 1> (P_i)
           P_m = Mul (P_c, one)  P = Add (P_m, P_f)""",
        lambda noise, n: (
            linear_conv(noise, n) | {"P_f": 100 * scales(noise, n).reshape(1, n, 1, 1)}
        ),
        {"P_w": 0, "P_f": 1}, QUANTIZED,
    ),
    "MatMulInteger behind DynamicQuantizeLinear": Case(
        """P_i = MatMulInteger (xq, P_w, xz, P_z)  P_c = Cast <to = 1> (P_i)
           P_k = Mul (xs, P_s)  P_m = Mul (P_c, P_k)  P = Add (P_m, P_f)""",
        columns(), {"P_w": 1, "P_z": 0, "P_f": 0, "P_s": 0},
        "xq, xs, xz = DynamicQuantizeLinear (x)", **FLAT,
    ),
    "DynamicQuantizeMatMul": Case(
        "P = com.microsoft.DynamicQuantizeMatMul (x, P_w, P_s, P_z, P_f)",
        columns(), {"P_w": 1, "P_s": 0, "P_z": 0, "P_f": 0}, **FLAT,
    ),
    "MatMulIntegerToFloat": Case(
        "P = com.microsoft.MatMulIntegerToFloat (xq, P_w, x_s, P_s, x_z, P_z, P_f)",
        columns(), {"P_w": 1, "P_s": 0, "P_z": 0, "P_f": 0}, QUANTIZED, **FLAT,
    ),
    "MatMulNBits": Case(
        "P = com.microsoft.MatMulNBits <K=32, N=N, bits=4, block_size=16> (x, P_w, P_s, P_z)",
        packed, {"P_w": 0, "P_z": 0}, data="float[2,32]", result="float[2,N]",
    ),
    "MatMulNBits of 8 bits": Case(
        "P = com.microsoft.MatMulNBits <K=32, N=N, bits=8, block_size=16> (x, P_w, P_s, P_z)",
        lambda noise, n: {"P_w": ints(noise, n, 2, 16, dtype=np.uint8), "P_s": scales(noise, n * 2),
                          "P_z": ints(noise, n, 2, dtype=np.uint8)},
        {"P_w": 0, "P_z": 0}, data="float[2,32]", result="float[2,N]",
    ),
}  # fmt: skip


def stored(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


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


# ------------------------------------------------------------- what onnxruntime's quantizer makes


class _Pictures(oq.CalibrationDataReader):
    def __init__(self) -> None:
        self.left = [picture(seed) for seed in range(2)]

    def get_next(self) -> dict[str, np.ndarray] | None:
        return self.left.pop() if self.left else None


@cache
def _quantized(activation: str, style: str, *, per_channel: bool) -> bytes:
    import tempfile  # noqa: PLC0415  the quantizer reads and writes files
    from pathlib import Path  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "float.onnx"), Path(folder, "quantized.onnx")
        onnx.save(shapes(activation), source)
        if style == "dynamic":
            oq.quantize_dynamic(source, target, weight_type=oq.QuantType.QUInt8)
        else:
            oq.quantize_static(
                source, target, _Pictures(), quant_format=oq.QuantFormat[style],
                per_channel=per_channel, weight_type=oq.QuantType.QInt8,
            )  # fmt: skip
        return target.read_bytes()


def quantized(activation: str, style: str, *, per_channel: bool = True) -> onnx.ModelProto:
    return onnx.load_model_from_string(_quantized(activation, style, per_channel=per_channel))


STYLES = [("QDQ", True), ("QDQ", False), ("QOperator", True), ("QOperator", False),
          ("dynamic", False)]  # fmt: skip


@pytest.mark.parametrize(
    ("activation", "style", "per_channel"),
    [("softmax", *s) for s in STYLES]
    + [(a, s, True) for a in ("raw", "sigmoid") for s in ("QDQ", "QOperator")],
)
def test_a_quantized_detector_is_cut_and_validated(
    activation: str, style: str, *, per_channel: bool
) -> None:
    model = quantized(activation, style, per_channel=per_channel)
    result = hc.cut(model, KEEP, labels=COLUMNS, provider="cpu")
    assert result.verdict, result.verdict and result.verdict.lines()
    before, after = stored(model), stored(result.model)
    changed = [n for n in after if n not in before or after[n].tobytes() != before[n].tobytes()]
    assert changed
    assert all(after[n].dtype == before[n].dtype for n in changed if n in before)
    if activation != "softmax":  # which looks at all classes
        old, new = run(model, picture(7)), run(result.model, picture(7))
        np.testing.assert_array_equal(new[0], old[0].take(ORDER, 2))
        np.testing.assert_array_equal(new[1], old[1])


@pytest.mark.parametrize("style", ["QDQ", "QOperator"])
@pytest.mark.parametrize("level", ["BASIC", "EXTENDED", "ALL"])
def test_what_onnxruntime_makes_of_a_quantized_detector(style: str, level: str, tmp_path: Path) -> None:
    """QLinearConv of onnxruntime's own with channels last, QLinearConcat, QLinearSoftmax, …"""
    model = optimised(quantized("softmax", style), level, tmp_path)
    result = hc.cut(model, KEEP, labels=COLUMNS, provider="cpu")
    assert result.verdict, result.verdict and result.verdict.lines()


def rounded(activation: str, elem_type: int, opset: int) -> onnx.ModelProto:
    """The detector of shapes whose scores are given in steps of a 256th."""
    model = shapes(activation)
    model.opset_import[0].version, model.ir_version = opset, 10
    model.opset_import.add(domain="com.microsoft", version=1)
    graph = model.graph
    last = next(n for n in graph.node if "scores" in n.output)
    last.output[0] = "float"
    graph.initializer.append(helper.make_tensor("step", TensorProto.FLOAT, [], [1 / 256]))
    graph.initializer.append(helper.make_tensor("zero", elem_type, [], [0]))
    node = graph.node.add(op_type="QuantizeLinear", input=["float", "step", "zero"], name="q",
                          output=["scores"])  # fmt: skip
    node.domain = "com.microsoft" if opset < 21 else ""
    scores = next(o for o in graph.output if o.name == "scores")
    scores.type.tensor_type.elem_type = elem_type
    return model


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("scores", ["renormalized", "exact"])
@pytest.mark.parametrize(("kind", "opset"), [("UINT8", 17), ("INT16", 17), ("UINT16", 21)])
def test_scores_given_as_integers(activation: str, scores: str, kind: str, opset: int) -> None:
    model = rounded(activation, getattr(TensorProto, kind), opset)
    background = "first" if activation == "softmax" else "none"
    keep = KEEP if activation == "softmax" else ORDER
    result = hc.cut(model, keep, background=background, scores=scores, provider="cpu")
    assert result.verdict, result.verdict and result.verdict.lines()
    swapped = onnx.ModelProto.FromString(result.model.SerializeToString())
    heads = {n.input[1] for n in swapped.graph.node if n.op_type == "Conv"}
    for tensor in swapped.graph.initializer:
        if tensor.name in heads and tensor.name not in stored(model):
            value = numpy_helper.to_array(tensor)[::-1]
            tensor.CopyFrom(numpy_helper.from_array(value.copy(), tensor.name))
            scores = "swapped"
    if scores == "swapped":
        assert not hc.validate(model, swapped, background=background, provider="cpu")


def test_floats_of_8_bits_cannot_be_masked_behind_an_activation() -> None:
    model = rounded("softmax", TensorProto.FLOAT8E4M3FN, 21)
    assert hc.cut(model, KEEP, background="first", provider="cpu").verdict
    with pytest.raises(hc.GraphRefused, match="floats of 8 bits"):
        hc.cut(model, KEEP, background="first", scores="exact", provider="cpu")


SCORES = """<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]>
behind (float[2,8,4,4] x) => (uint8[2,6,4,4] scores, float[2,4,4,4] boxes) {
  xq = QuantizeLinear (x, x_s, x_z)
  q = QLinearConv (xq, x_s, x_z, w, s, z, y_s, y_z)  %s  boxes = Conv (x, v) }"""
BEHIND = {
    "QLinearSigmoid": "scores = com.microsoft.QLinearSigmoid (q, y_s, y_z, p_s, p_z)",
    "QLinearSoftmax": "scores = com.microsoft.QLinearSoftmax <axis = 1, opset = 17>"
    " (q, y_s, y_z, p_s, p_z)",
    "QLinearLeakyRelu": "scores = com.microsoft.QLinearLeakyRelu (q, y_s, y_z, y_s, y_z)",
    "QLinearAdd": "scores = com.microsoft.QLinearAdd (q, y_s, y_z, c, k_s, y_z, y_s, y_z)",
    "QLinearMul": "scores = com.microsoft.QLinearMul (q, y_s, y_z, c, k_s, p_z, y_s, y_z)",
}


def behind(op: str) -> onnx.ModelProto:
    noise = np.random.default_rng(5)
    model = parser.parse_model(SCORES % BEHIND[op])
    values: Tensors = {
        **SHARED, "w": ints(noise, 6, 8, 1, 1), "s": scales(noise, 6) / 3,
        "z": np.zeros(6, np.int8), "p_s": np.float32(1 / 256), "p_z": np.uint8(0),
        "k_s": np.float32(0.02), "c": ints(noise, 6, 1, 1, dtype=np.uint8),
        "v": scales(noise, 32).reshape(4, 8, 1, 1),
    }  # fmt: skip
    used = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(v), k) for k, v in values.items() if k in used
    )
    return model


@pytest.mark.parametrize("op", BEHIND)
def test_ops_on_quantized_scores(op: str) -> None:
    model = behind(op)
    result = hc.cut(model, ["fox", "dog"], labels=NAMES, provider="cpu")
    assert result.verdict, result.verdict and result.verdict.lines()
    if op != "QLinearSoftmax":
        feed = {"x": np.random.default_rng(1).normal(size=(2, 8, 4, 4)).astype(np.float32)}
        new, old = run(result.model, feed), run(model, feed)
        np.testing.assert_array_equal(new[0], old[0].take(ROWS, 1))
    wrong = onnx.ModelProto()
    wrong.CopyFrom(result.model)
    del wrong.metadata_props[:]
    name = "c" if op in {"QLinearAdd", "QLinearMul"} else "w"
    tensor = next(t for t in wrong.graph.initializer if t.name == name)
    swapped = numpy_helper.to_array(tensor)[[0, 2, 1]]
    tensor.CopyFrom(numpy_helper.from_array(swapped, name))
    assert not hc.validate(model, wrong, ["fox", "dog"], labels=NAMES, provider="cpu")


@pytest.mark.parametrize("op", ["BiasSoftmax", "CropAndResize"])
def test_an_op_without_a_rule_is_refused_by_name(op: str) -> None:
    model = behind("QLinearLeakyRelu")
    node = next(n for n in model.graph.node if n.op_type == "QLinearLeakyRelu")
    node.op_type = op
    with pytest.raises(GraphRefused) as caught:
        hc.cut(model, ["fox", "dog"], labels=NAMES, heads=("q",), validation=False)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("opset", [13, 21])
def test_sixteen_bits_of_onnxruntime_s_own_ops_have_shapes(opset: int) -> None:
    facts = Interpreter([helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)], 8)
    line = "(x, scale, zero)"
    scale, zero = Fact((), TensorProto.FLOAT), Fact((), TensorProto.INT16)
    for op, given, wanted in (
        ("QuantizeLinear", TensorProto.FLOAT, TensorProto.INT16),
        ("DequantizeLinear", TensorProto.INT16, TensorProto.FLOAT),
    ):
        node = parser.parse_node(f"y = com.microsoft.{op} {line}")
        (found,) = facts.infer(node, [Fact((1, 8, 4, 4), given), scale, zero])
        assert (found.shape, found.elem_type) == ((1, 8, 4, 4), wanted)


class Calibration(oq.CalibrationDataReader):
    """Pictures for onnxruntime's quantizer."""

    def __init__(self, batch: int = 1) -> None:
        self.left = pictures(batch=batch)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.left, None)


@pytest.mark.parametrize("name", ["branches_with_a_number_left_out", "branches_of_row_tables"])
def test_labels_of_branches_that_quantizers_round_are_not_taken_for_something_else(
    name: str, tmp_path: Path
) -> None:
    """The quantizer's preprocessing folds them to stored integers, each with a scale of its own."""
    pattern = PATTERNS[name]()
    onnx.save(pattern.model(), tmp_path / "a.onnx")
    oq.quant_pre_process(str(tmp_path / "a.onnx"), str(tmp_path / "b.onnx"), skip_symbolic_shape=True)
    oq.quantize_static(str(tmp_path / "b.onnx"), str(tmp_path / "q.onnx"), Calibration())
    with pytest.raises(GraphRefused, match="labels of its branches") as caught:
        hc.cut(onnx.load(tmp_path / "q.onnx"), [4, 1, 3], validation=False, **pattern.told)
    assert "nodes_to_exclude" in caught.value.advice


def test_numbers_of_a_branch_that_are_not_known_are_refused() -> None:
    """A label by an op of which nothing is known, from nothing but a size."""
    name = "branches_with_constant_of_shape"
    model = PATTERNS[name]().model()
    model.opset_import.add(domain="acme", version=1)
    at = next(i for i, n in enumerate(model.graph.node) if n.op_type == "ConstantOfShape")
    node = model.graph.node[at]
    node.op_type, node.domain = "Label", "acme"
    with pytest.raises(GraphRefused, match="numbers of its own") as caught:
        hc.cut(model, [4, 1, 3], validation=False, **PATTERNS[name]().told)
    assert "ConstantOfShape" in caught.value.advice


NOTHING = """<ir_version: 8, opset_import: ["": 17]> g (float[N] x) => (float[M] y)
    <float s = {0.01}, uint8 z = {0}, uint8 k = {255}, float t = {0.02}, float low = {0.5}> {
      some = Greater (x, low)  found = Compress <axis = 0> (x, some)
      q = QuantizeLinear (found, s, z)  d = DequantizeLinear (q, s, z)
      number = DequantizeLinear (k, t, z)  sum = Add (d, number)
      r = QuantizeLinear (sum, t, z)  y = DequantizeLinear (r, t, z) }"""


def test_a_quantized_sum_of_nothing_does_not_end_the_process() -> None:
    """onnxruntime 1.31's QLinearAdd crashes on it."""
    model = parser.parse_model(NOTHING)
    assert fusing_crashes(model)
    session = open_session(model, provider="cpu")
    assert session.run({"x": np.zeros(3, np.float32)})["y"].shape == (0,)
    assert session.run({"x": np.ones(3, np.float32)})["y"].shape == (3,)
    del model.graph.node[:2]
    assert not fusing_crashes(model)
