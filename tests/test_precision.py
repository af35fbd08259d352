"""Half precision, bfloat16, double, and Casts between them."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from conftest import from_text, tiny
from onnx import TensorProto, helper, numpy_helper, version_converter
from patterns import PATTERNS
from variants import COLUMNS, KEEP, ORDER, picture, retyped, run, shapes, weights_behind

import onnx_headcut as hc
from onnx_headcut.labels import Site
from onnx_headcut.validation.half import halves, widen
from onnx_headcut.validation.reference import NEVER, never

ACTIVATIONS = ["raw", "softmax", "sigmoid"]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_half_precision(activation: str) -> None:
    model = retyped(shapes(activation), TensorProto.FLOAT16)
    result = hc.cut(model, KEEP, labels=COLUMNS, provider="cpu")
    assert result.verdict, result.verdict and result.verdict.lines()
    assert {t.data_type for t in result.model.graph.initializer} <= {
        TensorProto.FLOAT16, TensorProto.INT64}  # fmt: skip
    if activation != "softmax":
        feed = picture(3, np.float16)
        old, new = run(model, feed), run(result.model, feed)
        np.testing.assert_allclose(new[0], old[0].take(ORDER, 2), rtol=5e-3, atol=5e-3)


def test_two_classes_swapped_in_half_precision_are_found() -> None:
    model = retyped(tiny(), TensorProto.FLOAT16)
    cut = hc.cut(model, ["fox", "cat"], validation=False).model
    del cut.metadata_props[:]
    assert hc.validate(model, cut, ["fox", "cat"], provider="cpu")
    tensor = next(t for t in cut.graph.initializer if t.name == "cls1_b")
    swapped = numpy_helper.to_array(tensor)[[0, 1, 2, 3, 5, 4, 6, 7, 8]]
    tensor.CopyFrom(numpy_helper.from_array(swapped, tensor.name))
    assert not hc.validate(model, cut, ["fox", "cat"], provider="cpu")


@pytest.mark.parametrize(
    "kind", [TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.FLOAT, TensorProto.DOUBLE]
)
def test_weights_that_are_no_numbers_are_refused_in_every_type(kind: int) -> None:
    model = retyped(tiny(), kind)
    tensor = next(t for t in model.graph.initializer if t.name == "cls1_w")
    broken = numpy_helper.to_array(tensor).copy()
    broken.flat[-1] = np.nan
    tensor.CopyFrom(numpy_helper.from_array(broken, tensor.name))
    with pytest.raises(hc.InputError, match="NaN"):
        hc.cut(model, ["fox", "cat"], validation=False)


def test_masks_stay_finite_in_every_type() -> None:
    for name, value in NEVER.items():
        if name.startswith("float"):
            dtype = np.dtype(name)
            assert np.isfinite(np.array(value, dtype) - np.array(3.4e4, dtype))
    mixed = {"a": np.zeros(2, np.float16), "b": np.zeros(2, np.float32)}
    assert never(mixed) == NEVER["float16"]


def test_the_halves_that_a_graph_computes_in() -> None:
    model = tiny()
    assert halves(model.graph) == set()
    model.graph.node.insert(0, helper.make_node("Cast", ["stem_w"], ["weights"], to=16))
    assert halves(model.graph) == set()  # of a weight that is stored in another type
    model.graph.node.append(helper.make_node("Cast", ["logits"], ["narrow"], to=10))
    assert halves(model.graph) == {np.dtype(np.float16)}
    assert halves(retyped(tiny(), TensorProto.FLOAT16).graph) == {np.dtype(np.float16)}


HALF = """<ir_version: 10, opset_import: ["": 21, "local": 1]>
half (float16[2,3] x, bool b) => (float16[2,3] y) <float16[3] w = {15360, 16384, 16896}> {
  c = Cast <to = 16> (x)  d = CastLike (c, w)  e = Add (d, w)
  f = If (b) <then_branch = t () => (float16[2,3] u) { u = local.twice (e) },
              else_branch = f () => (float16[2,3] v) { v = Neg (e) }>
  g = ConstantOfShape <value = float16[1] {16384}> (to)  y = Mul (f, g) }
<domain: "local", opset_import: ["": 21]> twice (a) => (o) {
  two = Constant <value = float16 {16384}> ()  o = Mul (a, two) }"""


def test_half_precision_is_taken_out_everywhere() -> None:
    """The text holds halves as bits: 1 is 15360, 2 is 16384."""
    model = onnx.parser.parse_model(HALF)
    model.graph.initializer.append(numpy_helper.from_array(np.array([2, 3]), "to"))
    feed = {"x": np.float32([[0.1, 0.2, 0.3], [7, 8, 9]]), "b": np.ones((), bool)}
    assert widen(model) == {TensorProto.FLOAT16, TensorProto.BFLOAT16}
    onnx.checker.check_model(model, full_check=True)
    np.testing.assert_array_equal(run(model, feed)[0], (feed["x"] + np.float32([1, 2, 3])) * 4)
    assert widen(model) == set()


def test_half_precision_scores_near_the_end_of_their_type_are_masked() -> None:
    """Scores of 3e4 in float16, beside a mask that must not overflow to an infinity (and NaN)."""
    model = retyped(tiny(), TensorProto.FLOAT16)
    for tensor in model.graph.initializer:
        if tensor.name in {"cls0_b", "cls1_b"}:
            value = np.full(tensor.dims, 3e4, np.float16)
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    result = hc.cut(model, ["fox", "cat"], provider="cpu")
    assert result.verdict, result.verdict and result.verdict.lines()


@pytest.mark.parametrize("elem_type", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_weights_stored_in_half_and_cast_to_float(elem_type: int) -> None:
    dtype = helper.tensor_dtype_to_np_dtype(elem_type)

    def store(name: str, value: np.ndarray) -> list[object]:
        return [
            numpy_helper.from_array(value.astype(dtype), f"{name}_half"),
            helper.make_node("Cast", [f"{name}_half"], [name], to=TensorProto.FLOAT),
        ]

    model = weights_behind(shapes("raw"), store)
    result = hc.cut(model, KEEP, labels=COLUMNS, provider="cpu")
    assert result.verdict, result.verdict and result.verdict.lines()
    half = {t.name: t for t in model.graph.initializer if t.data_type == elem_type}
    changed = [t for t in result.model.graph.initializer
               if t.name in half and t.dims != half[t.name].dims]  # fmt: skip
    assert len(changed) == 4  # one a level
    assert all(t.data_type == elem_type for t in changed)


@pytest.mark.parametrize("elem_type", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_scores_pass_through_another_type(elem_type: int) -> None:
    model = tiny(("(logits)", "(wide)"))
    at = [n.output[0] for n in model.graph.node].index("scores")
    model.graph.node.insert(at, helper.make_node("Cast", ["logits"], ["narrow"], to=elem_type))
    model.graph.node.insert(at + 1, helper.make_node("Cast", ["narrow"], ["wide"], to=1))
    result = hc.cut(model, ["fox", "cat"], provider="cpu")
    assert result.verdict, result.verdict and result.verdict.lines()


def test_all_of_bfloat16_is_cut_where_the_runtime_has_no_kernels() -> None:
    model = retyped(version_converter.convert_version(tiny(), 22), TensorProto.BFLOAT16)
    result = hc.cut(model, ["fox", "cat"], validation=False)
    before = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    after = {t.name: numpy_helper.to_array(t) for t in result.model.graph.initializer}
    grid = np.arange(12).reshape(2, 6)[:, [0, 5, 1]].ravel()
    assert after["cls0_w"].dtype == ml_dtypes.bfloat16
    assert after["cls0_w"].tobytes() == before["cls0_w"][grid].tobytes()
    onnx.checker.check_model(result.model, full_check=True)


def test_bfloat16_at_an_opset_that_has_it_not_yet() -> None:
    """As PyTorch exports a model of bfloat16 at opset 20: Conv knows the type from opset 22 on."""
    model = retyped(tiny(), TensorProto.BFLOAT16)
    result = hc.cut(model, ["fox", "cat"], validation=False)
    wanted = hc.cut(tiny(), ["fox", "cat"], validation=False)
    shapes_of = [[list(t.dims) for t in r.model.graph.initializer] for r in (result, wanted)]
    assert shapes_of[0] == shapes_of[1]
    assert [o.type.tensor_type.shape for o in result.model.graph.output] == [
        o.type.tensor_type.shape for o in wanted.model.graph.output]  # fmt: skip


def test_double() -> None:
    model = from_text("""<ir_version: 8, opset_import: ["": 17]>
        g (double[N,6] x) => (double[N,5] s, double[N,4] b)
        <double[6,5] w, double[5] c, double[6,4] v> {
          l = Gemm (x, w, c)  s = Softmax <axis = 1> (l)  b = MatMul (x, v) }""")
    result = hc.cut(model, [3, 1], background="first", provider="cpu")
    assert result.verdict, result.verdict and result.verdict.lines()
    assert not result.verdict.in_float32
    assert result.plan.sites == (Site("l", 1, (0, 1, 2, 3, 4), "softmax"),)


INT16 = """<ir_version: 8, opset_import: ["": 17]>
    g (float[N,6] x) => (float[N,5] s, float[N,4] b)
    <float[6,5] w, float[5] c, float[6,4] v, float q = {0.01}, int16 z = {0}> {
      xq = QuantizeLinear (x, q, z)  xd = DequantizeLinear (xq, q, z)
      l = Gemm (xd, w, c)  s = Softmax <axis = 1> (l)  b = MatMul (xd, v) }"""


@pytest.mark.parametrize(
    ("old", "new", "said", "way"),
    [
        ("", "", "it does not take float and int16 before opset 21, and the model imports 17", "com.m"),
        ("xd = Deq", "xd = Gelu (x)  unused = Deq", "ONNX has no Gelu before opset 20", "opset 20 or"),
        ("xd = Deq", "xd = Acos (xq)  unused = Deq", "it does not take uint8 at any opset", "float32"),
    ],
)
def test_a_type_that_onnx_does_not_have_there_is_the_cause(
    old: str, new: str, said: str, way: str
) -> None:
    text = INT16.replace(old, new) if old else INT16
    if old:
        text = text.replace("int16", "uint8")
    with pytest.raises(hc.GraphRefused, match=said) as caught:
        hc.cut(from_text(text), [3, 1], background="first")
    assert way in caught.value.advice
    assert caught.value.node


def test_an_op_of_two_types_is_the_cause() -> None:
    """As float16 converters leave them where they cast a number, but not what it is compared with."""
    model = PATTERNS["top_k_in_floats"]().model()
    maker = next(n for n in model.graph.node if n.output[0] == "ratio")
    model.graph.node.insert(0, helper.make_node("Cast", [maker.input[1]], ["half"], to=10))
    maker.input[1] = "half"
    with pytest.raises(hc.GraphRefused, match="float and float16 where ONNX wants one") as caught:
        hc.cut(model, [4, 1, 3], validation=False, **PATTERNS["top_k_in_floats"]().told)
    assert caught.value.node == maker.name
    assert "block list" in caught.value.advice
