"""Ops that numpy computes in place of onnx's reference say what the reference says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from onnx_headcut.graph.arranging import _OPS, arranged

FLOAT, INT = np.float32, np.int64
SHAPES = st.lists(st.integers(1, 4), max_size=4)


def reference(op: str, arrays: list[np.ndarray[Any, Any] | None], opset: int, **given: Any) -> Any:
    names = ["" if a is None else f"i{k}" for k, a in enumerate(arrays)]
    node = helper.make_node(op, names, ["out"], **given)
    inputs = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in zip(names, arrays, strict=True) if a is not None
    ]  # fmt: skip
    graph = helper.make_graph(
        [node], "g", inputs, [helper.make_value_info("out", helper.make_tensor_type_proto(1, None))]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    feeds = {n: a for n, a in zip(names, arrays, strict=True) if a is not None}
    return ReferenceEvaluator(model).run(None, feeds)[0]


@st.composite
def cases(draw: st.DrawFn) -> tuple[str, list[np.ndarray[Any, Any] | None], int, dict[str, Any]]:
    """A node of each op: its inputs, the opset, its attributes."""
    op = draw(st.sampled_from(sorted(_OPS)))
    shape = draw(SHAPES)
    kind = draw(st.sampled_from([np.float32, np.int64, np.float16, np.bool_]))
    data = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(kind)
    rank, late = len(shape), draw(st.booleans())
    axis = draw(st.integers(-max(rank, 1), max(rank, 1) - 1))
    if op == "Constant":
        return op, [], 13, {"value": numpy_helper.from_array(data)}
    if op == "Identity":
        return op, [data], 13, {}
    if op == "Transpose":
        perm = draw(st.permutations(range(rank)))
        return op, [data], 13, {"perm": perm} if draw(st.booleans()) and rank else {}
    if op == "Concat":
        shape = shape or [2]
        parts = [np.full([*shape], k, kind) for k in range(draw(st.integers(1, 3)))]
        return op, parts, 13, {"axis": draw(st.integers(-len(shape), len(shape) - 1))}
    if op == "Gather":
        data = data if rank else data.reshape(1)
        size = data.shape[axis]
        places = draw(st.lists(st.integers(-size, size - 1), min_size=1, max_size=4))
        at = np.array(places[0] if draw(st.booleans()) else places, INT)
        return op, [data, at], 13, {"axis": axis}
    if op == "Reshape":
        wanted = draw(st.permutations(shape))
        if draw(st.booleans()) and rank:
            wanted = [0, *shape[1:-1], -1] if rank > 1 else [-1]
        return op, [data, np.array(wanted, INT)], 14, {}
    if op == "Slice":
        ends = st.integers(-6, 6) | st.sampled_from([2**63 - 1, -(2**63)])
        axes = draw(st.lists(st.sampled_from(range(rank)), unique=True)) if rank else []
        starts, stops = ([draw(ends) for _ in axes] for _ in range(2))
        steps = [draw(st.sampled_from([1, 2, -1, -2])) for _ in axes]
        if axes == list(range(rank)) and draw(st.booleans()):
            return op, [data, np.array(starts, INT), np.array(stops, INT)], 13, {}
        return op, [data, *(np.array(v, INT) for v in (starts, stops, axes, steps))], 13, {}
    if op == "Unsqueeze":
        axes = draw(st.lists(st.integers(0, rank), unique=True, min_size=1, max_size=2))
        axes = sorted(a for a in axes if a < rank + len(axes))
    else:
        data = data[..., None] if draw(st.booleans()) else data[None]
        axes = [k for k, n in enumerate(data.shape) if n == 1]
        axes = [axes[0] - data.ndim] if draw(st.booleans()) else axes
    if late:
        return op, [data, np.array(axes, INT)], 13, {}
    return op, [data], 11, {"axes": axes}


@given(cases())
def test_numpy_says_what_the_reference_says(
    case: tuple[str, list[np.ndarray[Any, Any] | None], int, dict[str, Any]],
) -> None:
    op, arrays, opset, given = case
    node = helper.make_node(op, [f"i{k}" for k in range(len(arrays))], ["out"], **given)
    expected = reference(op, arrays, opset, **given)
    found = arranged(node, arrays)
    assert found is not None
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert np.array_equal(found, expected)


@pytest.mark.parametrize(
    ("op", "inputs", "given"),
    [
        ("Constant", [], {"value_float": 1.0}),
        ("Reshape", [np.zeros(4, FLOAT)], {"shape": [2, 2]}),
        ("Slice", [np.zeros(4, FLOAT)], {"starts": [0], "ends": [2]}),
        ("Squeeze", [np.zeros((1, 4), FLOAT)], {}),
        ("Gather", [np.zeros((0, 4), FLOAT), np.zeros(0, INT)], {}),
        ("Add", [np.zeros(4, FLOAT), np.zeros(4, FLOAT)], {}),
    ],
)
def test_what_is_not_plain_is_left_to_the_reference(
    op: str, inputs: list[np.ndarray[Any, Any] | None], given: dict[str, Any]
) -> None:
    node = helper.make_node(op, [f"i{k}" for k in range(len(inputs))], ["out"], **given)
    assert arranged(node, inputs) is None
