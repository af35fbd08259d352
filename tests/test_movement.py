"""Ops that only move elements, with the class axis at every place: one oracle for all.

A head makes scores [2, 6, 4]: batch, class, place. They are turned so that the class axis comes to
lie where a test wants it, and go through the op. Run with weights that *are* the class numbers, the
original itself says which class each element of the output is; so what a cut must give is a plain
`take` from the original's output, and where the classes lie on two axes at once it must be refused.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnx_headcut as hc
from onnx_headcut.editing.apply import apply
from onnx_headcut.graph.analysis import analyse
from onnx_headcut.graph.model import load
from onnx_headcut.heads.locate import Located
from onnx_headcut.labels import Labels, Selection
from onnx_headcut.tracing.plan import make_plan

if TYPE_CHECKING:
    from collections.abc import Iterator

CLASSES = 6
SHAPE = (2, CLASSES, 4)
ORDERS = ((1, 2), (0, 1, 2, 3, 4), (5, 0, 3), (4,), (3, 2, 1, 0, 5, 4))
LARGEST = np.iinfo(np.int64).max


@dataclass
class Op:
    """One op behind the scores; ``constants`` are its further inputs."""

    name: str
    constants: tuple[Any, ...] = ()
    attributes: dict[str, Any] = field(default_factory=dict)
    outputs: int = 1
    opset: int = 13
    dtype: Any = np.int64

    def __str__(self) -> str:
        given = [*map(str, self.constants), *(f"{k}={v}" for k, v in self.attributes.items())]
        return f"{self.name}-{self.opset}({', '.join(given)})"


def model_of(op: Op, place: int, weights: np.ndarray) -> onnx.ModelProto:
    """Return head, turn, op: the class axis is at ``place`` of three when the op comes."""
    names = [f"y{k}" for k in range(op.outputs)]
    stored = [numpy_helper.from_array(weights.reshape(CLASSES, 1, 1), "weights")]
    constants = []
    for k, value in enumerate(op.constants):
        constants.append(f"constant{k}")
        stored.append(numpy_helper.from_array(np.asarray(value, op.dtype), constants[-1]))
    perm = [0, 2]
    perm.insert(place, 1)
    nodes = [
        helper.make_node("Conv", ["x", "weights"], ["scores"]),
        helper.make_node("Transpose", ["scores"], ["turned"], perm=perm),
        helper.make_node(op.name, ["turned", *constants], names, **op.attributes),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [SHAPE[0], 1, SHAPE[2]])]
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in names]
    graph = helper.make_graph(nodes, "movement", inputs, outputs, stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", op.opset)], ir_version=8)


def run(model: onnx.ModelProto, x: np.ndarray) -> list[np.ndarray]:
    return _run(model.SerializeToString(), x.tobytes())


@lru_cache(maxsize=4)
def _run(model: bytes, x: bytes) -> list[np.ndarray]:
    """Once for all orders in which the classes are kept."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    fed = np.frombuffer(x, np.float32).reshape(SHAPE[0], 1, SHAPE[2])
    result: list[np.ndarray] = session.run(None, {"x": fed})
    return result


def cut(model: onnx.ModelProto, order: tuple[int, ...]) -> onnx.ModelProto:
    """Cut the head as it is told, without searching for it."""
    analysis = analyse(load(model))
    heads = {0: Labels(1, np.arange(CLASSES))}
    located = Located(CLASSES, (), heads, "none", "as told", {0: "scores"})
    plan = make_plan(analysis, located, Selection(order, CLASSES))
    result = onnx.ModelProto()
    result.CopyFrom(model)
    apply(result, plan.edits)
    return result


def wanted(output: np.ndarray, classes: np.ndarray, order: tuple[int, ...]) -> np.ndarray | None:
    """What a cut leaves of ``output``; None where the classes lie on two axes at once."""
    # padding (-1) has no class: it may stand beside any
    for axis in range(classes.ndim):
        others = tuple(a for a in range(classes.ndim) if a != axis)
        top = np.broadcast_to(classes.max(axis=others, keepdims=True), classes.shape)
        if (classes < 0).any() and ((classes < 0) | (classes == top)).all():
            classes = top
            break
    axes = [a for a in range(classes.ndim) if (classes != classes.take([0], a)).any()]
    if not axes:
        return output
    if len(axes) > 1:
        return None
    along = np.moveaxis(classes, axes[0], -1).reshape(-1, classes.shape[axes[0]])[0]
    present = [k for k in order if k in along]
    where = {k: np.flatnonzero(along == k) for k in present}
    slots = np.flatnonzero(np.isin(along, [-1, *present]))
    if present != sorted(present):
        if len({len(w) for w in where.values()}) > 1:
            return None
        place = dict(zip(sorted(present), present, strict=True))
        seen = dict.fromkeys(present, 0)
        for n, slot in enumerate(slots.tolist()):
            k = int(along[slot])
            if k < 0:
                continue
            slots[n] = where[place[k]][seen[k]]
            seen[k] += 1
    return output.take(slots, axes[0])


def check(op: Op, place: int, order: tuple[int, ...]) -> bool:
    """Cut behind ``op`` and compare; returns False where it was refused."""
    x = np.random.default_rng(0).normal(size=(SHAPE[0], 1, SHAPE[2])).astype(np.float32)
    numbers = model_of(op, place, np.arange(1, CLASSES + 1, dtype=np.float32))
    values = model_of(op, place, np.linspace(1, 2, CLASSES, dtype=np.float32))
    classes = [np.rint(c).astype(int) - 1 for c in run(numbers, np.ones_like(x))]
    before = run(values, x)
    try:
        after = run(cut(values, order), x)
    except hc.GraphRefused:
        return False
    for old, new, ids in zip(before, after, classes, strict=True):
        right = wanted(old, ids, order)
        assert right is not None, f"{op}: classes lie on two axes, which was not seen"
        dropped = ids.size and (ids == ids.flat[0]).all() and ids.flat[0] not in (-1, *order)
        assert not dropped, f"{op}: an output of a dropped class stayed"
        assert new.shape == right.shape, f"{op}, class axis {place}, {order}"
        np.testing.assert_array_equal(new, right, err_msg=f"{op}, class axis {place}, {order}")
    return True


def never_refused() -> Iterator[tuple[Op, int]]:
    """Ops that leave the classes on one axis, and the places of the class axis where they do."""
    for perm in itertools.permutations(range(3)):
        for place in range(3):
            yield Op("Transpose", attributes={"perm": perm}), place
    for place, targets in {
        0: [[6, -1], [0, 2, 2, 2], [6, 8], [-1, 8], [6, 0, 4], [1, 6, 8]],
        1: [[2, 6, -1], [0, 0, 2, 2], [0, -1, 4], [-1, 6, 1, 4], [0, 6, 4], [1, 2, 6, 4]],
        2: [[-1, 6], [8, 6], [0, 0, -1], [0, 2, 2, 6], [4, 2, 6], [1, -1, 6], [2, 4, 1, 6]],
    }.items():
        for target in targets:
            yield Op("Reshape", (target,)), place
            yield Op("Reshape", (target,), opset=5 + 2), place
    # the class axis joined with anchors: a x C + k, and k x A + a
    yield Op("Reshape", ([2, 24],)), 1
    yield Op("Reshape", ([0, -1],)), 2
    yield Op("Reshape", ([48],)), 0
    for axis in range(4):
        yield Op("Flatten", attributes={"axis": axis}), 0
        yield Op("Unsqueeze", ([axis],)), 1
        yield Op("Unsqueeze", ([axis - 4],)), 2
        yield Op("Unsqueeze", attributes={"axes": [axis]}, opset=11), 0
    yield Op("Flatten", attributes={"axis": 2}), 2
    for place in range(3):
        for axis in {0, 1, 2} - {place}:
            extent = [2, 4][[0, 1, 2].index(axis) - (axis > place)]
            yield Op("Gather", ([extent - 1, 0],), {"axis": axis}), place
            yield Op("Gather", (-1,), {"axis": axis}), place
            yield Op("Slice", ([1], [LARGEST], [axis])), place
            yield Op("Slice", ([-1], [-LARGEST], [axis], [-1])), place
            bounds = {"axes": [axis], "starts": [1], "ends": [9]}
            yield Op("Slice", attributes=bounds, opset=9), place
            sizes = [1, extent - 1]
            yield Op("Split", (sizes,), {"axis": axis}, 2), place
            yield Op("Split", (), {"axis": axis, "split": sizes}, 2, opset=11), place
            yield Op("Split", (), {"axis": axis, "num_outputs": 2}, 2, opset=18), place
            pads = [0] * 6
            pads[axis], pads[axis + 3] = 1, 2
            yield Op("Pad", attributes={"pads": pads}, opset=10), place
            repeats = [1, 1, 1]
            repeats[axis] = 3
            yield Op("Tile", (repeats,)), place
        yield Op("Gather", (np.arange(CLASSES),), {"axis": place}), place
        yield Op("Gather", (np.arange(CLASSES) - CLASSES,), {"axis": place - 3}), place
        yield Op("Slice", ([0], [LARGEST], [place])), place
        yield Op("Slice", ([0], [CLASSES], [place - 3])), place
        yield Op("Slice", ([-CLASSES], [LARGEST], [place], [1])), place
        yield Op("Tile", ([1, 1, 1],)), place
        yield Op("Identity"), place
        pads = [0] * 6
        pads[place], pads[place + 3] = 1, 2
        yield Op("Pad", (pads,)), place
        yield Op("Pad", attributes={"pads": pads}, opset=10), place
        yield Op("Expand", ([1],)), place
        yield Op("Expand", ([3, 1, 1, 1],)), place


@pytest.mark.parametrize(("op", "place"), list(never_refused()), ids=str)
def test_labels_follow_an_op_that_leaves_them_on_one_axis(op: Op, place: int) -> None:
    for order in ORDERS:
        assert check(op, place, order), f"refused for {order}"


BOUNDS = (-LARGEST, -7, -6, -5, -2, -1, 0, 1, 2, 5, 6, 7, LARGEST)


@pytest.mark.parametrize("start", BOUNDS)
@pytest.mark.parametrize("step", [1, 2, -1])
def test_slices_of_the_class_axis_with_any_bounds(start: int, step: int) -> None:
    done = 0
    for end, order in itertools.product(BOUNDS, ORDERS[:3]):
        if len(range(*slice(start, end, step).indices(CLASSES))) < 2:
            continue
        op = Op("Slice", ([start], [end], [1], [step]))
        done += check(op, 1, order)
    assert done or step != 1 or start in {5, 6, 7, LARGEST, -1}


@pytest.mark.parametrize("sizes", [[1, 5], [5, 1], [2, 4], [3, 3], [2, 2, 2], [1, 4, 1]], ids=str)
@pytest.mark.parametrize("opset", [11, 13, 18])
def test_splits_of_the_class_axis(sizes: list[int], opset: int) -> None:
    constants, attributes = ((sizes,), {"axis": 2})
    if opset < 13:
        constants, attributes = (), {"axis": 2, "split": sizes}
    for order in ORDERS:
        check(Op("Split", constants, attributes, len(sizes), opset), 2, order)
    if len(set(sizes)) == 1 and opset == 18:
        equal = {"axis": 2, "num_outputs": len(sizes)}
        for order in [*ORDERS, (0, 3), (0, 1, 3, 4), (0, 2, 4)]:
            check(Op("Split", (), equal, len(sizes), opset), 2, order)


def test_a_split_that_keeps_something_everywhere_is_cut() -> None:
    assert check(Op("Split", ([1, 5],), {"axis": 1}, 2), 1, (0, 2, 3))
    assert check(Op("Split", ([3, 3],), {"axis": 1}, 2), 1, (0, 2, 3))
    assert check(Op("Split", attributes={"axis": 1, "num_outputs": 2}, outputs=2, opset=18), 1,
                 (0, 2, 3))  # fmt: skip


@pytest.mark.parametrize("index", range(-CLASSES, CLASSES))
@pytest.mark.parametrize("scalar", [True, False])
def test_gathering_one_class(index: int, scalar: bool) -> None:  # noqa: FBT001  a parameter
    op = Op("Gather", (index if scalar else [index],), {"axis": 1})
    for order in ORDERS:
        assert check(op, 1, order) == (index % CLASSES in order)


@pytest.mark.parametrize("picked", [[0, 1], [3, 1, 2], [-1, 0], [5, 4, 3, 2, 1, 0], [1, 1, 2]], ids=str)
def test_gathering_several_classes(picked: list[int]) -> None:
    for place, order in itertools.product(range(3), ORDERS):
        check(Op("Gather", (picked,), {"axis": place}), place, order)


@pytest.mark.parametrize(
    "target", [[2, 2, 3, 4], [2, 3, 2, 4], [2, 12, 2], [12, 4], [2, 4, 6], [8, 6]], ids=str
)
def test_reshapes_that_mix_classes_with_places_are_refused_or_right(target: list[int]) -> None:
    for place, order in itertools.product(range(3), ORDERS):
        check(Op("Reshape", (target,)), place, order)


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_space_and_depth_are_refused_or_right(mode: str, order: tuple[int, ...]) -> None:
    for place, target in itertools.product(range(3), ([1, 12, 2, 2], [1, 8, 3, 2], [1, 24, 1, 2])):
        deep = Op("DepthToSpace", attributes={"blocksize": 2, "mode": mode})
        _check_pair((Op("Reshape", (target,)), deep), place, order)


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_pixels_folded_into_channels_are_refused_or_right(order: tuple[int, ...]) -> None:
    folded = Op("SpaceToDepth", attributes={"blocksize": 2})
    for place, target in itertools.product(range(3), ([1, 6, 4, 2], [2, 6, 2, 2], [2, 3, 4, 2])):
        _check_pair((Op("Reshape", (target,)), folded), place, order)


def _check_pair(ops: tuple[Op, Op], place: int, order: tuple[int, ...]) -> None:
    """As `check`, for a reshape and an op behind it."""
    reshape, op = ops
    x = np.random.default_rng(0).normal(size=(SHAPE[0], 1, SHAPE[2])).astype(np.float32)

    def built(weights: np.ndarray) -> onnx.ModelProto:
        model = model_of(reshape, place, weights.astype(np.float32))
        model.graph.node[-1].output[0] = "shaped"
        model.graph.node.append(helper.make_node(op.name, ["shaped"], ["y0"], **op.attributes))
        return model

    ids = np.rint(run(built(np.arange(1, CLASSES + 1)), np.ones_like(x))[0]).astype(int) - 1
    values = built(np.linspace(1, 2, CLASSES))
    try:
        after = run(cut(values, order), x)[0]
    except hc.GraphRefused:
        return
    right = wanted(run(values, x)[0], ids, order)
    assert right is not None
    np.testing.assert_array_equal(after, right)


@pytest.mark.parametrize("axis", range(-3, 3))
@pytest.mark.parametrize("place", range(3))
def test_concatenation_of_scores_with_themselves(axis: int, place: int) -> None:
    for order in ORDERS:
        op = Op("Concat", attributes={"axis": axis})
        x = np.random.default_rng(0).normal(size=(SHAPE[0], 1, SHAPE[2])).astype(np.float32)

        def built(weights: np.ndarray, op: Op = op) -> onnx.ModelProto:
            model = model_of(op, place, weights.astype(np.float32))
            model.graph.node[-1].input.append("turned")
            return model

        ids = np.rint(run(built(np.arange(1, CLASSES + 1)), np.ones_like(x))[0]).astype(int) - 1
        values = built(np.linspace(1, 2, CLASSES))
        right = wanted(run(values, x)[0], ids, order)
        assert right is not None
        np.testing.assert_array_equal(run(cut(values, order), x)[0], right)
