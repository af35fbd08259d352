"""docs/classes.md: every row of its table is built, and held against numpy on the original."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from conftest import from_text
from onnx import numpy_helper

import onnx_headcut as hc

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "classes.md").read_text(encoding="utf-8")
NAMES = (ROOT / "models" / "shapes" / "names.txt").read_text(encoding="utf-8").split("\n")[:15]
SHAPES = ROOT / "models" / "shapes" / "ssd_shapes_ts_softmax.onnx"
RAW = ROOT / "models" / "shapes" / "ssd_shapes_ts_raw.onnx"
TABLE = PAGE.split("## SPEC by example")[1].split("## ")[0]
ROWS = re.findall(r"^\| `(.+?)` \| (.+?) \|$", TABLE, re.MULTILINE)
RARE = np.log(0.01 / 0.99)

SIGMOID = """
<ir_version: 8, opset_import: ["": 17]>
g (float[1,8,4,4] x) => (float[1,48,15] scores, float[1,48,4] boxes)
<float[45,8,1,1] cls_w, float[45] cls_b, float[12,8,1,1] box_w, float[12] box_b,
 int64[3] to_cls = {1, -1, 15}, int64[3] to_box = {1, -1, 4}>
{
  cls = Conv (x, cls_w, cls_b)
  last = Transpose <perm = [0, 2, 3, 1]> (cls)
  logits = Reshape (last, to_cls)
  scores = Sigmoid (logits)
  box = Conv (x, box_w, box_b)
  box_last = Transpose <perm = [0, 2, 3, 1]> (box)
  boxes = Reshape (box_last, to_box)
}
"""

Array = np.ndarray[Any, np.dtype[Any]]


def run(model: onnx.ModelProto | Path, x: Array) -> Array:
    data = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: x})[0], np.float64)


def bias_of_rows(model: onnx.ModelProto, cells: list[int]) -> Array:
    """The head's bias at every row of the scores: heads with `cells` places, anchors inside."""
    tensors = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    biases = [t for n, t in tensors.items() if re.search(r"cls.*(bias|_b)$", n)]
    parts = [np.tile(b.reshape(-1, 15), (n, 1)) for b, n in zip(biases, cells, strict=True)]
    return np.concatenate(parts).astype(np.float64)


def wanted(cell: str, logits: Array, bias: Array, *, softmax: bool) -> tuple[list[str], Array]:
    """Names and logits that a cell of the table says; not a number where weights are noise."""
    columns, names = [], []
    for part in cell.split(";"):
        name, _, made = (x.strip() for x in (part if "=" in part else f"{part}={part}").partition("="))
        terms = [t.partition("/") for t in made.split(" + ")]
        grown = terms[0][0] == "prior"
        total = np.zeros(logits.shape[:-1])
        if grown:
            total = total + RARE + (bias[:, 0] if softmax else 0)
        for of, _, share in terms[grown:]:
            if of == "noise":
                total = total * np.nan
                continue
            c = NAMES.index(of)
            total = total + (logits[..., c] - grown * bias[:, c]) / float(share or 1)
        names.append(name)
        columns.append(total)
    if softmax:
        columns.insert(0, logits[..., 0])
    return names, np.stack(columns, -1)


def test_the_table_is_there() -> None:
    assert len(ROWS) >= 16


@pytest.mark.parametrize(("spec", "cell"), ROWS, ids=[s for s, _ in ROWS])
def test_a_row_on_the_shipped_detector(spec: str, cell: str) -> None:
    x = np.random.default_rng(1).random((1, 3, 128, 128), np.float32)
    cut = hc.cut(SHAPES, spec.replace("\\|", "|"), labels=NAMES, validation=False)
    bias = bias_of_rows(onnx.load(RAW), [256, 64, 16, 4])
    names, logits = wanted(cell, run(RAW, x), bias, softmax=True)

    got = run(cut.model, x)

    assert list(cut.kept.names) == ["background", *names]
    # a softmax tells its logits but for one number: the background's is taken as known
    found = np.log(got / got[..., :1]) + logits[..., :1]
    known = ~np.isnan(logits) & (got > 1e-30)
    np.testing.assert_allclose(found[known], logits[known], rtol=1e-4, atol=2e-4)
    new = np.isnan(logits)
    rare = found[new] - np.broadcast_to(bias[:, :1] + RARE, logits.shape)[new]
    assert np.isfinite(rare).all()
    assert abs(np.median(rare)) < 3 if rare.size else True


@pytest.mark.parametrize(("spec", "cell"), ROWS, ids=[s for s, _ in ROWS])
def test_a_row_on_sigmoids(spec: str, cell: str) -> None:
    model = from_text(SIGMOID)
    x = np.random.default_rng(1).normal(0, 1, (1, 8, 4, 4)).astype(np.float32)
    labels = ["thing", *NAMES[1:]]
    cut = hc.cut(model, spec.replace("\\|", "|"), labels=labels, background="none", provider="cpu")
    scores = run(model, x)
    logits = np.log(scores / (1 - scores))
    names, expected = wanted(cell, logits, bias_of_rows(model, [16]), softmax=False)

    got = run(cut.model, x)

    assert cut.exit_code == 0, cut.verdict
    if "random" not in spec:  # the column that is the background of the other may be drawn here
        assert list(cut.kept.names) == names
        known = ~np.isnan(expected)
        want = 1 / (1 + np.exp(-expected[known]))
        np.testing.assert_allclose(got[known], want, rtol=1e-4, atol=1e-5)
        assert (got[~known] < 0.1).all()
