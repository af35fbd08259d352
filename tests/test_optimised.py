"""Graphs that other tools have been at: optimisers, the version converter, local functions."""

from __future__ import annotations

import importlib
import time
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from conftest import from_text
from onnx import helper, inliner, version_converter
from onnxruntime.transformers.float16 import convert_float_to_float16
from variants import COLUMNS, KEEP, ORDER, optimised, picture, run, shapes

import onnx_headcut as hc
from onnx_headcut.errors import GraphRefused
from onnx_headcut.graph.plain import FORMS, plain

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("activation", ["raw", "softmax", "sigmoid"])
@pytest.mark.parametrize("level", ["BASIC", "EXTENDED"])
def test_what_onnxruntime_saves(activation: str, level: str, tmp_path: Path) -> None:
    model = optimised(shapes(activation), level, tmp_path)
    result = hc.cut(model, KEEP, labels=COLUMNS, provider="cpu")
    assert result.verdict, result.verdict and result.verdict.lines()
    if level == "EXTENDED":
        assert any(n.op_type == "FusedConv" for n in result.model.graph.node)
    if activation != "softmax":
        old, new = run(model, picture(2)), run(result.model, picture(2))
        np.testing.assert_allclose(new[0], old[0].take(ORDER, 2), rtol=1e-4, atol=1e-5)


def test_a_graph_laid_out_for_one_processor_is_refused_by_name(tmp_path: Path) -> None:
    model = optimised(shapes(), "ALL", tmp_path)
    if not any(n.domain == "com.microsoft.nchwc" for n in model.graph.node):
        pytest.skip("this processor has no blocked layout")
    with pytest.raises(GraphRefused, match="NchwcConv") as caught:
        hc.cut(model, KEEP, background="first")
    assert "before optimising" in caught.value.advice


@pytest.mark.parametrize("tool", ["onnxslim", "onnxsim"])
def test_optimisers(tool: str) -> None:
    module = pytest.importorskip(tool)
    model = module.slim(shapes()) if tool == "onnxslim" else module.simplify(shapes())[0]
    result = hc.cut(model, KEEP, labels=COLUMNS, provider="cpu")
    assert result.verdict, result.verdict and result.verdict.lines()


# ---------------------------------------------------------------------------- ops of com.microsoft

NAMES = ("background", "cat", "dog", "cow", "hen", "fox")
ROWS = (0, 5, 2)
FUSED = {
    "FusedConv": 'P = com.microsoft.FusedConv <activation = "Sigmoid"> (x, P_w, P_b)',
    "FusedConv with a sum": "P_0 = Conv (x, P_w)"
    ' P = com.microsoft.FusedConv <activation = "Relu"> (x, P_w, P_b, P_a)',
    "FusedGemm": 'P = com.microsoft.FusedGemm <activation = "Relu", transB = 1> (f, P_g, P_b)',
    "FusedMatMul": "P = com.microsoft.FusedMatMul <transB = 1, alpha = 0.5> (f, P_g)",
    "FusedMatMul, weights first": "P = com.microsoft.FusedMatMul <transA = 1> (P_t, x3)",
    "BiasGelu": "P_m = MatMul (f, P_t)  P = com.microsoft.BiasGelu (P_m, P_b)",
    "FastGelu": "P_m = MatMul (f, P_t)  P = com.microsoft.FastGelu (P_m, P_b)",
    "Gelu": "P_m = MatMul (f, P_t)  P = com.microsoft.Gelu (P_m)",
    "QuickGelu": "P_m = MatMul (f, P_t)  P = com.microsoft.QuickGelu <alpha = 1.7> (P_m)",
}


def fused(name: str) -> tuple[onnx.ModelProto, int]:
    """A layer of scores and one of boxes of the kind ``name``; and the axis of their channels."""
    text = FUSED[name]
    shape = {"x": "[2,N,4,4]", "f": "[2,N]", "x3": "[2,N,5]"}
    data = next(d for d in ("x3", "f", "x") if f"({d}," in text or f", {d})" in text)
    layers, results, weights = "", [], []
    for p, n in (("scores", "6"), ("boxes", "4")):
        for old, new in (("P_", f"{p}_"), ("P =", f"{p} =")):
            text = text.replace(old, new)
        layers += text
        text = FUSED[name]
        results.append(f"float{shape[data].replace('N', n)} {p}")
        declared = {"w": f"[{n},8,1,1]", "b": f"[{n}]", "g": f"[{n},8]", "t": f"[8,{n}]",
                    "a": f"[2,{n},4,4]"}  # fmt: skip
        weights += [f"float{d} {p}_{k}" for k, d in declared.items() if f"P_{k}" in text]
    sizes = {"x": "[2,8,4,4]", "f": "[2,8]", "x3": "[2,8,5]"}
    model = from_text(f"""<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]>
        fused (float{sizes[data]} {data}) => ({", ".join(results)}) <{", ".join(weights)}>
        {{ {layers} }}""")
    return model, 1


@pytest.mark.parametrize("name", FUSED)
def test_fused_ops(name: str) -> None:
    model, axis = fused(name)
    result = hc.cut(model, ["fox", "dog"], labels=NAMES, provider="cpu")
    assert result.verdict, result.verdict and result.verdict.lines()
    value = model.graph.input[0]
    dims = [d.dim_value for d in value.type.tensor_type.shape.dim]
    feed = {value.name: np.random.default_rng(0).normal(size=dims).astype(np.float32)}
    old, new = run(model, feed), run(result.model, feed)
    np.testing.assert_allclose(new[0], old[0].take(ROWS, axis), rtol=1e-5, atol=1e-6)
    wrong = onnx.ModelProto()
    wrong.CopyFrom(result.model)
    del wrong.metadata_props[:]
    tensor = next(t for t in wrong.graph.initializer
                  if t.name.startswith("scores_") and 3 in t.dims)  # fmt: skip
    turned = onnx.numpy_helper.to_array(tensor).take([0, 2, 1], list(tensor.dims).index(3))
    tensor.CopyFrom(onnx.numpy_helper.from_array(turned, tensor.name))
    assert not hc.validate(model, wrong, ["fox", "dog"], labels=NAMES, provider="cpu")


def test_the_plain_form_of_every_op_is_one_that_onnx_knows() -> None:
    for domain, op in FORMS:
        node = helper.make_node(op, [f"i{k}" for k in range(9)], ["o"], domain=domain)
        form = plain(node)
        assert form is not None
        assert form.node.domain == ""
        onnx.defs.get_schema(form.node.op_type)


def test_an_op_with_classes_and_no_rule_is_refused_by_name() -> None:
    model, _ = fused("Gelu")
    node = next(n for n in model.graph.node if n.op_type == "Gelu")
    node.op_type, node.domain = "Rotate", "vendor.ops"
    model.opset_import.append(helper.make_opsetid("vendor.ops", 3))
    with pytest.raises(GraphRefused, match="Rotate") as caught:
        hc.cut(model, ["fox", "dog"], labels=NAMES, heads=("scores_m",))
    assert (caught.value.exit_code, caught.value.op) == (3, "Rotate")


# --------------------------------------------------------------------------------------- opsets

OLD = """<ir_version: 8, opset_import: ["": 7]>
old (float[2,3,32,32] images) => (float[2,128,5] scores, float[2,128,4] boxes, float[2,128] best)
<float[8,3,3,3] stem_w, float[20,8,3,3] w, float[20] b, int64[3] rows = {2, 128, 10}> {
  stem = Conv <strides = [4, 4], pads = [1, 1, 1, 1]> (images, stem_w)
  level = Clip <min = 0.0, max = 6.0> (stem)
  head = Conv <pads = [1, 1, 1, 1]> (level, w, b)
  last = Transpose <perm = [0, 2, 3, 1]> (head)
  both = Reshape (last, rows)
  raw, logits = Split <axis = 2, split = [4, 6]> (both)
  boxes = Clip <min = -4.0, max = 4.0> (raw)
  wide = Unsqueeze <axes = [1]> (logits)
  narrow = Squeeze <axes = [1]> (wide)
  all = Softmax <axis = 2> (narrow)
  scores = Slice <axes = [2], starts = [1], ends = [6]> (all)
  best = ReduceMax <axes = [2], keepdims = 0> (scores) }"""
NEWEST = min(onnx.defs.onnx_opset_version(), 26)


@pytest.mark.parametrize("opset", range(7, NEWEST + 1))
def test_opsets(opset: int) -> None:
    """Clip at 11, Slice at 10, Softmax, Split and Squeeze at 13, Split and reductions at 18."""
    model = from_text(OLD)
    if opset > 7:
        try:
            model = version_converter.convert_version(model, opset)
        except RuntimeError as error:
            pytest.skip(f"the converter cannot: {error}")
    result = hc.cut(model, [5, 2], provider="cpu")
    assert result.verdict, result.verdict and result.verdict.lines()
    assert [d.dim_value for d in result.model.graph.output[0].type.tensor_type.shape.dim] == [
        2, 128, 2]  # fmt: skip
    onnx.checker.check_model(result.model, full_check=True)


@pytest.mark.parametrize("opset", [18, 21, NEWEST])
def test_the_shipped_detector_in_newer_opsets(opset: int) -> None:
    model = version_converter.convert_version(shapes(), opset)
    result = hc.cut(model, KEEP, labels=COLUMNS, provider="cpu")
    assert result.verdict, result.verdict and result.verdict.lines()


# ------------------------------------------------------------------------------ local functions

CALLS = """<ir_version: 8, opset_import: ["": 17, "local": 1, "ai.onnx.ml": 3]>
calls (float[N,3,8,8] x) => (float[N,5,8,8] s, float[N,4,8,8] b)
<float[8,3,3,3] w0, float[5,8,1,1] w, float[4,8,1,1] v> {
  c = Conv <pads = [1, 1, 1, 1]> (x, w0)  f = local.act <low = 0.1> (c)
  %s  b = Conv (f, v) }
<domain: "local", opset_import: ["": 17]> act <low> (a) => (o) {
  r = LeakyRelu <alpha: float = @low> (a)  o = Mul (r, r) }
<domain: "local", opset_import: ["": 17]> head (a, w) => (o) {
  r = Conv (a, w)  o = Softmax <axis = 1> (r) }"""


def test_local_functions_before_the_heads_stay() -> None:
    model = from_text(CALLS % "l = Conv (f, w)  s = Softmax <axis = 1> (l)")
    result = hc.cut(model, [3, 1], background="first", provider="cpu")
    assert result.verdict, result.verdict and result.verdict.lines()
    assert [f.SerializeToString() for f in result.model.functions] == [
        f.SerializeToString() for f in model.functions
    ]


@pytest.mark.parametrize(
    "layers",
    [
        "s = local.head (f, w)",
        "l = Conv (f, w)  p = Softmax <axis = 1> (l)  s = local.act <low = 0.2> (p)",
    ],
)
def test_heads_and_scores_inside_local_functions(layers: str) -> None:
    model = from_text(CALLS % layers)
    inlined = inliner.inline_local_functions(model)
    for each in (model, inlined):
        result = hc.cut(each, [3, 1], background="first", provider="cpu")
        assert result.verdict, result.verdict and result.verdict.lines()


def test_functions_that_call_each_other_end() -> None:
    steps = [
        f'<domain: "local", opset_import: ["": 17, "local": 1]> f{k} (a) => (o) '
        f"{{ r = local.f{k + 1} (a)  o = local.f{k + 1} (r) }}"
        for k in range(40)
    ]
    steps.append('<domain: "local", opset_import: ["": 17]> f40 (a) => (o) { o = Relu (a) }')
    text = CALLS.split("<domain", maxsplit=1)[0] % "s = Conv (f, w)"
    model = from_text(text.replace("local.act <low = 0.1> (c)", "local.f0 (c)") + "\n".join(steps))
    began = time.monotonic()
    result = hc.cut(model, [3, 1], labels=NAMES[:5], validation=False)
    assert time.monotonic() - began < 10
    assert len(result.plan.heads) == 1


def test_optional_tools_are_optional() -> None:
    assert not {"onnxslim", "onnxsim"} & set(vars(importlib.import_module("onnx_headcut")))


def test_nodes_in_another_order_are_sorted() -> None:
    """Onnxruntime takes them in any order, and its float16 converter appends its casts."""
    model = shapes("softmax")
    mixed = onnx.ModelProto.FromString(model.SerializeToString())
    nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in reversed(mixed.graph.node)]
    del mixed.graph.node[:]
    mixed.graph.node.extend(nodes)
    before = mixed.SerializeToString()
    result = hc.cut(mixed, KEEP, labels=COLUMNS, provider="cpu")
    assert result.verdict, result.verdict and result.verdict.lines()
    assert mixed.SerializeToString() == before
    onnx.checker.check_model(result.model, full_check=True)
    plain = hc.cut(model, KEEP, labels=COLUMNS, validation=False).model
    for one, other in zip(run(plain, picture()), run(result.model, picture()), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_float16_converter_of_onnxruntime() -> None:
    model = convert_float_to_float16(shapes("sigmoid"), keep_io_types=True)
    result = hc.cut(model, ORDER, background="none", provider="cpu")
    assert result.verdict, result.verdict and result.verdict.lines()


def test_an_activation_that_stays_in_float_between_casts_to_half() -> None:
    """Its casts round what the masks are added to, and what it gives."""
    blocked = ["Softmax", "Concat", "Resize"]
    model = convert_float_to_float16(shapes(), keep_io_types=True, op_block_list=blocked)
    result = hc.cut(model, KEEP, labels=COLUMNS, provider="cpu")
    assert result.verdict, result.verdict and result.verdict.lines()
