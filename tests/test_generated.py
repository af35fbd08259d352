"""Hundreds of SSD-like graphs, a random subset of classes each: equal, or refused.

What the cut model must give follows from the original's own outputs and from what the generator
says about their columns; nothing here asks the program which columns are which.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import LONG
from ssd_graphs import Sample, generate

import onnx_headcut as hc

if TYPE_CHECKING:
    from collections.abc import Sequence

GRAPHS = 1000 if LONG else 100
"""The first 100 have all that the generator chooses from, and 9 of 10 pairs of choices."""
AT_ONCE = 50


def outputs_of(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Run a model as it stands, without the optimizer."""
    names = [o.name for o in model.graph.output]
    result: list[np.ndarray] = session(model.SerializeToString()).run(names, feed)
    return result


@lru_cache(maxsize=2)
def session(model: bytes) -> onnxruntime.InferenceSession:
    """One for all runs of a model and of its cut."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def assert_equal(sample: Sample, cut: onnx.ModelProto, order: Sequence[int]) -> None:
    """Hold a cut model's outputs against the original's, column by column."""
    feed = sample.feed()
    names = [o.name for o in sample.model.graph.output]
    assert [o.name for o in cut.graph.output] == names
    pairs = zip(names, outputs_of(sample.model, feed), outputs_of(cut, feed), strict=True)
    for name, before, after in pairs:
        meaning = sample.outputs[name]
        wanted = meaning.expected(before, tuple(order))
        assert after.shape == wanted.shape, name
        np.testing.assert_allclose(after, wanted, rtol=1e-4, atol=1e-5, err_msg=name)
        apart = meaning.without_classes(tuple(order))
        boxes = [x.take(apart, meaning.axis) for x in (after, wanted)]
        assert np.array_equal(*boxes), f"{name}: columns without classes changed"


def assert_sound(sample: Sample, cut: onnx.ModelProto, order: Sequence[int]) -> None:
    """The file is valid, declares true shapes, and keeps weights that it keeps byte for byte."""
    # before opset 9, exporters wrote integer constants that the schema did not know
    onnx.checker.check_model(cut, full_check=sample.model.opset_import[0].version >= 9)
    for value, array in zip(cut.graph.output, outputs_of(cut, sample.feed()), strict=True):
        dims = value.type.tensor_type.shape.dim
        assert len(dims) == array.ndim
        for dim, extent in zip(dims, array.shape, strict=True):
            assert not dim.HasField("dim_value") or dim.dim_value == extent, value.name
    before = {t.name: t for t in sample.model.graph.initializer}
    for tensor in cut.graph.initializer:
        old = before.get(tensor.name)
        if old is not None and old.data_type != onnx.TensorProto.INT64 and old.dims == tensor.dims:
            reordered = len(order) == sample.classes
            assert reordered or old.SerializeToString() == tensor.SerializeToString(), tensor.name


@pytest.mark.parametrize("first", range(0, GRAPHS, AT_ONCE))
def test_a_generated_graph_is_cut_rightly_or_refused(first: int) -> None:
    refused: Counter[bool] = Counter()
    for seed in range(first, first + AT_ONCE):
        sample = generate(seed)
        keep = sample.keep()
        try:
            cut = hc.cut(sample.model, keep, validation=False, **sample.told).model
        except (hc.GraphRefused, hc.UsageError):
            refused[sample.ambiguous] += 1
            continue
        try:
            assert_equal(sample, cut, sample.order(keep))
            assert_sound(sample, cut, sample.order(keep))
        except Exception as error:
            error.add_note(f"seed {seed}, keep {keep}: {', '.join(sample.traits)}")
            raise
    assert refused[False] <= AT_ONCE // 10, "graphs that a person could read are refused too often"
    assert sum(refused.values()) <= AT_ONCE // 3


PLAIN = {
    "style": "conv", "bias": "input", "class_major": False, "per_level": False, "share": False,
    "final": "apart", "anchors": [2, 3], "levels": 2,
}  # fmt: skip


@pytest.mark.parametrize("background", ["first", "last", "none"])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "raw"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_plain_graphs_are_never_refused(background: str, activation: str, seed: int) -> None:
    fixed = {**PLAIN, "background": background, "activation": activation, "count": 6}
    sample = generate(seed, **fixed)
    keep = sample.keep()
    cut = hc.cut(sample.model, keep, validation=False, background=background).model
    assert_equal(sample, cut, sample.order(keep))


def test_the_same_seed_gives_the_same_graph() -> None:
    one, other = generate(7).model, generate(7).model
    assert one.SerializeToString(deterministic=True) == other.SerializeToString(deterministic=True)


def test_the_oracle_sees_two_classes_swapped() -> None:
    sample = generate(1, **PLAIN, background="none", activation="sigmoid", count=6)
    cut = hc.cut(sample.model, [1, 2], validation=False, background="none").model
    assert_equal(sample, cut, (1, 2))
    with pytest.raises(AssertionError):
        assert_equal(sample, cut, (2, 1))
