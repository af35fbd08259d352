"""Types that no runtime here has kernels for: compared in float32, and it is said.

A right cut passes whatever type its model computes in, a wrong one does not, and stored weights are
selections of the original's to the bit.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np
import onnx
import pytest
from conftest import dealt, from_text, run_cli, some, tiny
from onnx import TensorProto, helper, numpy_helper
from patterns import PATTERNS, REFUSED
from test_planted import MISTAKES, kept
from test_planted import cut_of as right_cut
from variants import between_casts, retyped

import onnx_headcut as hc
from onnx_headcut.validation.half import stored_name, widen
from onnx_headcut.validation.inputs import NamedFeed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BFLOAT16, DOUBLE, FLOAT = TensorProto.BFLOAT16, TensorProto.DOUBLE, TensorProto.FLOAT
QUANTIZED = "ids_rounded_by_a_quantizer"
"""Quantizers take no other type at that opset."""
RATIO = "top_k_by_reciprocal"
"""An index times 1/6 has too few bits in half precision."""


def autocast(model: onnx.ModelProto) -> onnx.ModelProto:
    """Layers in bfloat16, all else in double."""
    graph = retyped(model, DOUBLE).graph
    stored = {tensor.name for tensor in graph.initializer}
    for at in reversed(range(len(graph.node))):
        node = graph.node[at]
        if node.op_type in {"Conv", "Gemm", "MatMul"} and stored.intersection(node.input):
            name = node.output[0]
            node.output[0] = f"{name} narrow"
            graph.node.insert(at + 1, helper.make_node("Cast", [node.output[0]], [name], to=DOUBLE))
            for slot, read in enumerate(node.input):
                node.input[slot] = f"{name} reads {slot}"
                cast = helper.make_node("Cast", [read], [node.input[slot]], to=BFLOAT16)
                graph.node.insert(at, cast)
                node = graph.node[at + slot + 1]
    return model


INSIDE: dict[str, Callable[[onnx.ModelProto], onnx.ModelProto]] = {
    "float16": lambda model: between_casts(model, TensorProto.FLOAT16),
    "bfloat16": lambda model: between_casts(model, BFLOAT16),
}
TYPES: dict[str, Callable[[onnx.ModelProto], onnx.ModelProto]] = {
    "bfloat16": lambda model: retyped(model, BFLOAT16),
    "float64": lambda model: retyped(model, DOUBLE),
    "both": autocast,
    **{f"{name} inside": made for name, made in INSIDE.items()},
}
CUT = [name for name in PATTERNS if name not in {*REFUSED, QUANTIZED}]
RIGHT = [(n, kind) for n, kind in dealt(some(CUT, step=3), TYPES) if n != RATIO or "16" not in kind]
WRONG = [
    (mistake, kind) for mistake, kind in dealt(some(MISTAKES, step=3), TYPES)
    if MISTAKES[mistake][0] != QUANTIZED and (MISTAKES[mistake][0] != RATIO or "16" not in kind)
]  # fmt: skip


@pytest.mark.parametrize(("name", "kind"), RIGHT)
def test_a_right_cut_passes(name: str, kind: str) -> None:
    pattern = PATTERNS[name]()
    verdict = hc.cut(TYPES[kind](pattern.model()), kept(name), provider="cpu", **pattern.told).verdict
    assert verdict is not None
    assert verdict.status == "passed", verdict.reasons
    assert not verdict.not_run
    if kind != "both":  # all ops of some patterns have kernels of float64
        assert set(verdict.in_float32) <= {kind.removesuffix(" inside")} - {"float16"}


@pytest.mark.parametrize(("mistake", "kind"), WRONG)
def test_a_mistake_does_not_pass(mistake: str, kind: str) -> None:
    name, make = MISTAKES[mistake]
    cut = right_cut(name)
    make(cut)
    told = PATTERNS[name]().told
    model, cut = (TYPES[kind](each) for each in (PATTERNS[name]().model(), cut))
    verdict = hc.validate(model, cut, kept(name), provider="cpu", **told)
    assert verdict.status == "failed", verdict.reasons


@pytest.mark.parametrize("kind", INSIDE)
def test_boxes_of_each_class_that_are_an_output_behind_a_cast(kind: str) -> None:
    """What reads the boxes by class numbers reads them before the cast to the output's type."""
    name = "class_specific_boxes_that_are_given_out"
    model = INSIDE[kind](PATTERNS[name]().model())
    assert hc.cut(model, kept(name), provider="cpu", **PATTERNS[name]().told).verdict


def test_it_is_said(tmp_path: Path) -> None:
    onnx.save(retyped(tiny(), BFLOAT16), tmp_path / "a.onnx")
    options = ["--keep", "fox,cat", "--provider", "cpu", "--output"]
    done = run_cli("cut", tmp_path / "a.onnx", *options, tmp_path / "b.onnx")
    assert done.code == 0
    assert "in float32 instead of bfloat16" in " ".join(done.out.split())
    done = run_cli("cut", tmp_path / "a.onnx", "--json", *options, tmp_path / "c.onnx")
    document = json.loads(done.out)
    assert document["validation"]["in_float32"] == ["bfloat16"]
    verdict = hc.validate(tmp_path / "a.onnx", tmp_path / "b.onnx", provider="cpu")
    assert verdict.lines()[0].endswith("in float32 instead of bfloat16")
    assert "no kernels for bfloat16" in verdict.notes[0]
    assert verdict.deployed is None  # it was not run as it will be


def test_stored_weights_are_compared_to_the_bit() -> None:
    """The last bit of one weight in bfloat16: float32 would let it pass."""
    model = retyped(tiny(), BFLOAT16)
    cut = hc.cut(model, ["fox", "cat"], validation=False).model
    assert hc.validate(model, cut, provider="cpu")
    tensor = next(t for t in cut.graph.initializer if t.name.startswith("cls0_w"))
    bits = numpy_helper.to_array(tensor).view(np.uint16).copy()
    bits.flat[np.abs(bits.view(ml_dtypes.bfloat16).astype(np.float32)).argmin()] ^= 1
    tensor.CopyFrom(numpy_helper.from_array(bits.view(ml_dtypes.bfloat16), tensor.name))
    verdict = hc.validate(model, cut, provider="cpu")
    assert verdict.status == "failed"
    assert any("is no selection" in reason for reason in verdict.reasons)


def test_the_rows_that_a_class_map_makes_are_rounded_to_the_models_own_type() -> None:
    model = retyped(tiny(), BFLOAT16)
    result = hc.cut(model, "beast=fox|cat|hen, dog, bird=new", provider="cpu")
    assert result.verdict, result.verdict and result.verdict.reasons
    made = [t for t in result.model.graph.initializer if t.data_type != BFLOAT16]
    assert {t.data_type for t in made} <= {TensorProto.INT64}


def test_data_beside_the_model_are_cast(tmp_path: Path) -> None:
    onnx.save(retyped(tiny(), BFLOAT16), tmp_path / "a.onnx", save_as_external_data=True,
              location="a.data", size_threshold=0)  # fmt: skip
    result = hc.cut(tmp_path / "a.onnx", ["fox", "cat"], tmp_path / "b.onnx", provider="cpu")
    assert result.verdict
    assert result.verdict.in_float32 == ("bfloat16",)
    model = onnx.load(tmp_path / "a.onnx", load_external_data=False)
    assert widen(model, {BFLOAT16}) == {BFLOAT16}
    weight = next(n for n in model.graph.node if n.output[0] == "stem_w")
    assert (weight.op_type, *weight.input) == ("Cast", stored_name("stem_w"))


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float32, np.float64])
def test_feeds_of_the_users_own(dtype: type) -> None:
    model = retyped(tiny(), BFLOAT16)
    picture = np.random.default_rng(0).random((1, 3, 32, 32)).astype(dtype)
    feed = NamedFeed("noise", {"images": picture})
    assert hc.cut(model, ["fox"], provider="cpu", feeds=[feed]).verdict


def test_beside_a_plugin() -> None:
    from plugin_patterns import PLUGINS  # noqa: PLC0415

    pattern = PLUGINS["efficient_nms"]()
    model = retyped(pattern.model(), BFLOAT16)
    verdict = hc.cut(model, [5, 1, 3], provider="cpu", **pattern.told).verdict
    assert verdict
    assert verdict.in_float32 == ("bfloat16",)
    assert len(verdict.not_run) == 1


def test_what_has_kernels_stays_what_it_is() -> None:
    model = from_text("""<ir_version: 10, opset_import: ["": 22]>
        g (bfloat16[1,3,8,8] x) => (double[1,5,8,8] scores, bfloat16[1,4,8,8] boxes)
        <bfloat16[5,3,1,1] w, bfloat16[4,3,1,1] v> {
          l = Conv (x, w)  wide = Cast <to = 11> (l)  scores = Softmax <axis = 1> (wide)
          boxes = Conv (x, v) }""")
    verdict = hc.cut(model, [3, 1], background="first", provider="cpu").verdict
    assert verdict
    assert verdict.in_float32 == ("bfloat16",)


def test_doubles_that_float32_cannot_say() -> None:
    model = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["": 21]>
        g (double[2] x, seq(double[2]) s) => (double[2] y) <double[2] low> {
          at = Constant <value = int64 {0}> ()  one = SequenceAt (s, at)
          m = Max (x, low)  y = Add (m, one) }""")
    low = np.array([np.finfo(np.float64).min, -np.inf])
    model.graph.initializer.append(numpy_helper.from_array(low, "low"))
    assert widen(model, {DOUBLE}) == {DOUBLE}
    onnx.checker.check_model(model, full_check=True)
    found = numpy_helper.to_array(model.graph.initializer[0])
    assert found.tolist() == [np.finfo(np.float32).min, -np.inf]


def test_a_model_that_does_not_run_in_any_type_says_why() -> None:
    model = retyped(tiny(("= Relu (stem)", "= Dropout (stem)")), BFLOAT16)
    model.graph.node.add(op_type="Relu", input=["whole"], output=["dead"])
    model.graph.initializer.append(numpy_helper.from_array(np.arange(3), "whole"))
    with pytest.raises(hc.HeadcutError, match="onnxruntime cannot load the model") as caught:
        hc.cut(model, ["fox"], provider="cpu")
    assert "--no-validate" in caught.value.advice
