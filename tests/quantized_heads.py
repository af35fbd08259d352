"""Quantized layers in text: every form of a head that exporters and quantizers write."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import onnx
from onnx import numpy_helper, parser

if TYPE_CHECKING:
    from collections.abc import Callable

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
