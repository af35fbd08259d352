"""A file of another form is no cut: what differs is said, and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from conftest import tiny
from onnx import TensorProto, helper

import onnx_headcut as hc
from onnx_headcut.validation import forms

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Done

KEEP = ("fox", "cat")


def softmax_of(model: onnx.ModelProto) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.op_type == "Softmax")


def becomes(op: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        node = softmax_of(model)
        node.op_type = op
        del node.attribute[:]

    return change


def resized(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[3].dim_value += 8


def retyped(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE


def without_an_axis(model: onnx.ModelProto) -> None:
    node = softmax_of(model)
    shape = next(v for v in model.graph.output if v.name == node.output[0]).type.tensor_type.shape
    node.output[0] = "whole"
    model.graph.node.append(helper.make_node("ReduceMax", ["whole"], ["scores"], axes=[2], keepdims=0))
    del shape.dim[2:]


def under_other_names(model: onnx.ModelProto) -> None:
    site = softmax_of(model).input[0]
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = ["of_another_exporter" if name == site else name for name in names]


def without_boxes(model: onnx.ModelProto) -> None:
    del model.graph.output[1:]


@pytest.mark.parametrize(
    ("change", "said", "advised"),
    [
        (becomes("Identity"), "the cut gives raw scores, the original behind a softmax", False),
        (becomes("Sigmoid"), "behind a sigmoid, the original behind a softmax", False),
        (resized, "input 'images' is float[", True),
        (retyped, "input 'images' is double[", True),
        (without_an_axis, "output 'scores' is float[", True),
        (under_other_names, "the cut has no tensor '", True),
        (without_boxes, "the cut's outputs are ['scores']", True),
    ],
)
def test_what_differs_is_said(
    change: Callable[[onnx.ModelProto], None],
    said: str,
    advised: bool,  # noqa: FBT001
) -> None:
    model = tiny()
    cut = hc.cut(model, KEEP, validation=False).model
    change(cut)
    verdict = hc.validate(model, cut, provider="cpu")
    assert verdict.status == "failed"
    assert said in verdict.reasons[0]
    assert not any("cannot be run" in reason for reason in verdict.reasons)
    assert any("Cut the original with onnx-headcut cut" in note for note in verdict.notes) == advised


def test_raw_originals_and_activated_cuts_are_told_too() -> None:
    raw = tiny()
    becomes("Identity")(raw)
    cut = hc.cut(raw, KEEP, background="first", validation=False).model
    for op in ("Sigmoid", "Softmax"):
        changed = onnx.ModelProto()
        changed.CopyFrom(cut)
        node = next(n for n in changed.graph.node if n.op_type == "Identity")
        node.op_type = op
        if op == "Softmax":
            node.attribute.append(helper.make_attribute("axis", 2))
        verdict = hc.validate(raw, changed, background="first", provider="cpu")
        assert f"scores behind a {op.lower()}, the original raw ones" in verdict.reasons[0]


def test_a_file_of_another_exporter_is_told_first_and_in_few_lines(
    tmp_path: Path, run_here: Callable[..., Done]
) -> None:
    model = tiny()
    onnx.save(model, tmp_path / "whole.onnx")
    cut = hc.cut(model, KEEP, validation=False).model
    for node in cut.graph.node:
        for names in (node.input, node.output):
            names[:] = [n if n in {"images", "scores", "boxes"} else f"{n}_1" for n in names]
    for tensor in cut.graph.initializer:
        tensor.name += "_1"
    onnx.save(cut, tmp_path / "other.onnx")
    done = run_here("validate", "whole.onnx", "other.onnx", "--provider", "cpu")
    assert done.code == 1
    because = [line for line in done.out.splitlines() if line.startswith("Because")]
    assert "the cut has no tensor" in because[0]
    assert len(because) < 14
    assert "more; --json says all" in because[-1]


def test_a_small_difference_is_no_other_form() -> None:
    """Where one score is nearly 1, all forms of both sides are near to each other."""
    expected = np.full((1, 4, 3), [1 - 9e-5, 2e-5, 7e-5])
    found = expected[..., [0, 2, 1]]
    assert not forms.activation(expected, found, 2, [True] * 3)
    logits = np.array([[[2.0, 1.0, -1.0]]])
    assert "behind a sigmoid" in forms.activation(logits, 1 / (1 + np.exp(-logits)), 2, [True] * 3)
