"""Sizes that a provider has to know when it compiles a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from conftest import tiny

import onnx_headcut as hc
from onnx_headcut.validation import pair
from onnx_headcut.validation.fixed import Fixed
from onnx_headcut.validation.runtime import open_session

if TYPE_CHECKING:
    import pytest

SUM = """<ir_version: 8, opset_import: ["": 17]>
    g (float[a,b] x, int64[c] times) => (float[d,e] y) { y = Tile (x, times) }"""


def test_a_session_for_each_set_of_sizes() -> None:
    opened: list[onnx.ModelProto] = []

    def opener(model: onnx.ModelProto) -> Any:
        opened.append(model)
        return open_session(model, provider="cpu")

    model = onnx.parser.parse_model(SUM)
    before = model.SerializeToString()
    fixed = Fixed(model, opener)
    x, twice = np.ones((2, 3), np.float32), np.array([1, 2])
    for feed in ({"x": x, "times": twice}, {"x": 2 * x, "times": twice}):
        assert fixed.run(feed)["y"].shape == (2, 6)
    assert fixed.run({"x": x.T, "times": twice})["y"].shape == (3, 4)
    assert fixed.run({"x": x, "times": twice[::-1]})["y"].shape == (4, 3)
    assert model.SerializeToString() == before
    assert [[d.dim_value for d in m.graph.input[0].type.tensor_type.shape.dim] for m in opened] == [
        [2, 3],
        [3, 2],
        [2, 3],
    ]
    assert all([v.name for v in m.graph.input] == ["x"] for m in opened)


def test_validation_says_the_same_with_known_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    usual = hc.cut(model, "fox,cat", provider="cpu").verdict
    monkeypatch.setattr(pair, "WANTED", {"cpu"})
    told = hc.cut(model, "fox,cat", provider="cpu").verdict
    assert usual is not None
    assert told is not None
    assert told.status == "passed"
    assert (told.values, told.runs) == (usual.values, usual.runs)
