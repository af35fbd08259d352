"""What onnxruntime's quantizer makes of detectors, and scores that are read as integers."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser
from onnxruntime import quantization as oq
from patterns import PATTERNS, pictures
from quantized_heads import NAMES, ROWS, SHARED, Tensors, ints, scales, stored
from variants import COLUMNS, KEEP, ORDER, optimised, picture, run, shapes

import onnx_headcut as hc
from onnx_headcut.errors import GraphRefused
from onnx_headcut.graph.facts import Fact
from onnx_headcut.graph.interpreter import Interpreter
from onnx_headcut.validation.runtime import fusing_crashes, open_session

if TYPE_CHECKING:
    from pathlib import Path


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
