"""Exact scores that are read in several places, merged, or integers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from conftest import from_text
from exactly import exact, same_bits, told
from onnxruntime import quantization as oq
from test_generated import outputs_of
from variants import COLUMNS, KEEP, ORDER, picture, shapes

import onnx_headcut as hc

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from patterns import Array


READ = """<ir_version: 10, opset_import: ["": 17]>
read (float[1,8,4,4] x) => ({outputs}, float[1,32,4] boxes)
<float[12,8,1,1] w, float[12] b, float[8,8,1,1] v, int64[1] one = {{1}}, int64[1] six = {{6}},
 int64[1] two = {{2}}, int64[3] to = {{1,32,6}}, int64[3] to4 = {{1,32,4}}> {{
  m = Conv (x, w, b)  t = Transpose <perm = [0, 2, 3, 1]> (m)  logits = Reshape (t, to)
  n = Conv (x, v)  u = Transpose <perm = [0, 2, 3, 1]> (n)  boxes = Reshape (u, to4)
  {body} }}"""

SIDES: dict[str, tuple[str, str, Callable[[list[Array]], Array]]] = {
    "logits are an output, too": (
        "float[1,32,6] probs, float[1,32,6] logits",
        "probs = Softmax <axis = -1> (logits)",
        lambda whole: whole[1][..., [0, 5, 1, 3]],
    ),
    "the best logit": (
        "float[1,32,6] probs, float[1,32] best",
        "probs = Softmax <axis = -1> (logits)  best = ReduceMax <axes = [2], keepdims = 0> (logits)",
        lambda whole: whole[2][..., [0, 5, 1, 3]].max(-1),
    ),
    "background sliced off": (
        "float[1,32,6] probs, float[1,32,5] objects",
        "probs = Softmax <axis = -1> (logits)  objects = Slice (probs, one, six, two)",
        lambda whole: whole[0][..., [5, 1, 3]],
    ),
}


def reading(name: str) -> onnx.ModelProto:
    outputs, body, _ = SIDES[name]
    return from_text(READ.format(outputs=outputs, body=body))


@pytest.mark.parametrize("name", SIDES)
def test_every_reader_of_scores_is_behind_a_front(name: str) -> None:
    model = reading(name)
    feed = {"x": np.random.default_rng(0).normal(size=(1, 8, 4, 4)).astype(np.float32)}
    result = exact(model, [5, 1, 3], background="first")
    assert result.verdict, result.verdict and result.verdict.lines()
    open_ = onnx.ModelProto()
    open_.CopyFrom(model)
    known = {o.name for o in model.graph.output}
    open_.graph.output.extend(onnx.ValueInfoProto(name=n) for n in ("logits",) if n not in known)
    probs, side, *rest = outputs_of(open_, feed)
    whole = [probs, side, rest[-1]]
    after = outputs_of(result.model, feed)
    assert same_bits(np.ascontiguousarray(probs[..., [0, 5, 1, 3]]), after[0])
    assert same_bits(np.ascontiguousarray(SIDES[name][2](whole)), after[1])


def test_raw_logits_beside_probabilities_cannot_be_merged() -> None:
    with pytest.raises(hc.GraphRefused, match="no probabilities") as caught:
        exact(reading("logits are an output, too"), "x=5|1,3", background="first")
    assert "renormalized" in caught.value.advice


# ------------------------------------------------------------------------------------- merging

MERGES: dict[str, tuple[str, str | None, Callable[[Array], Array]]] = {
    "softmax": ("softmax", None, lambda a: a.sum(-1)),
    "sigmoid": ("sigmoid", None, lambda a: a.max(-1)),
    "the best of a softmax": ("softmax", "max", lambda a: a.max(-1)),
    "the sum of sigmoids": ("sigmoid", "sum", lambda a: a.sum(-1)),
}


@pytest.mark.parametrize("case", MERGES)
def test_merged_scores_are_what_numpy_makes_of_the_original_s(case: str) -> None:
    activation, merge, combined = MERGES[case]
    model = shapes(activation)
    options = {"labels": COLUMNS, "background": "first"}
    spec = "round=1|6|9,5,spiky=4|11,one=1,5"

    result = exact(model, spec, merge=merge, **options)

    assert result.verdict, result.verdict and result.verdict.lines()
    before, after = outputs_of(model, picture(2))[0], outputs_of(result.model, picture(2))[0]
    assert after.shape[-1] == 6
    for column, source in ((0, 0), (2, 5), (4, 1), (5, 5)):
        assert same_bits(np.ascontiguousarray(before[..., source]), after[..., column].copy())
    for column, members in ((1, [1, 6, 9]), (3, [4, 11])):
        np.testing.assert_allclose(after[..., column], combined(before[..., members]), rtol=1e-6)
    again = hc.validate(model, result.model, provider="cpu", **options)
    assert again, again.lines()


def test_sum_for_max_is_found() -> None:
    model = shapes()
    wrong = exact(model, "x=1|6,5", merge="max", validation=False, **told(model)).model
    del wrong.metadata_props[:]
    found = hc.validate(model, wrong, "x=1|6,5", scores="exact", merge="sum", provider="cpu",
                        **told(model))  # fmt: skip
    assert found.status == "failed"


@pytest.mark.parametrize(
    ("spec", "scores", "merge", "reason"),
    [
        ("drone=new", "exact", None, "heads stay whole"),
        ("5=new", "exact", None, "heads stay whole"),
        ("x=0|5", "exact", None, "background"),
        ("x=1|5", "renormalized", "sum", "--scores exact"),
    ],
)
def test_what_exact_scores_cannot_be(spec: str, scores: Any, merge: Any, reason: str) -> None:
    model = shapes()
    with pytest.raises(hc.UsageError) as caught:
        hc.cut(model, spec, scores=scores, merge=merge, validation=False, **told(model))
    assert reason in f"{caught.value.what} {caught.value.advice}"


def test_raw_scores_are_picked_and_never_merged() -> None:
    with pytest.raises(hc.GraphRefused, match="no probabilities"):
        exact(shapes("raw"), "x=1|5", labels=COLUMNS, background="first", validation=False)


# ------------------------------------------------------------------------------- quantized


class Pictures(oq.CalibrationDataReader):
    def __init__(self) -> None:
        self.left = [picture(seed) for seed in range(2)]

    def get_next(self) -> dict[str, Array] | None:
        return self.left.pop() if self.left else None


@pytest.fixture(scope="module", params=["QDQ", "QOperator"])
def quantized(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> onnx.ModelProto:
    folder: Path = tmp_path_factory.mktemp("quantized")
    onnx.save(shapes(), folder / "float.onnx")
    form = getattr(oq.QuantFormat, request.param)
    oq.quantize_static(folder / "float.onnx", folder / "q.onnx", Pictures(), quant_format=form)
    return onnx.load(folder / "q.onnx")


def test_integers_are_picked_as_they_are(quantized: onnx.ModelProto) -> None:
    options = {"labels": COLUMNS, "background": "first"}
    result = exact(quantized, KEEP, **options)
    assert result.verdict, result.verdict and result.verdict.lines()
    before, after = outputs_of(quantized, picture(4)), outputs_of(result.model, picture(4))
    assert same_bits(np.ascontiguousarray(before[0][..., list(ORDER)]), after[0])
    integers = any(n.op_type == "QLinearSoftmax" for n in quantized.graph.node)
    if integers:
        with pytest.raises(hc.GraphRefused, match="integers, which cannot be merged"):
            exact(quantized, "x=1|5", validation=False, **options)
    else:
        assert exact(quantized, "x=1|5,9", **options).verdict
