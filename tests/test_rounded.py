"""Detections picked behind rounding: ties do not fail a right cut, nor save a wrong one.

The patterns' own detectors, with their activated scores rounded to 8 bits, to so few steps that
most scores are equal, or to half precision.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
import pytest
from conftest import dealt, some
from onnx import TensorProto, helper, numpy_helper
from patterns import PATTERNS, REFUSED
from test_planted import MISTAKES, kept

import onnx_headcut as hc
from onnx_headcut.validation import Settings, probe
from onnx_headcut.validation.tally import Layout, Ledger
from onnx_headcut.validation.unrounded import unrounded

FLOAT, BFLOAT16 = TensorProto.FLOAT, TensorProto.BFLOAT16
BODIES = ("loop", "if_body", "scan")
"""onnxruntime 1.31 aborts where a body reads what a DequantizeLinear gives."""
ROWS = [
    name for name in PATTERNS
    if name not in REFUSED and PATTERNS[name]().kind == "rows"
    and not any(word in name for word in BODIES)
]  # fmt: skip
STEPS = {"255": 1 / 255, "21": 12 / 255, "bfloat16": 0.0}
PLANTED = [mistake for mistake, (name, _) in MISTAKES.items() if name in ROWS]


def rounded(name: str, step: float = 1 / 255) -> onnx.ModelProto:
    """A pattern with a quantizer behind its activation; casts to half and back for a step of 0."""
    model = PATTERNS[name]().model()
    graph = model.graph
    for value, tensor in (("q_step", np.float32(step)), ("q_zero", np.uint8(0))):
        graph.initializer.append(numpy_helper.from_array(np.array(tensor), value))
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        graph.node.append(node)
        if node.op_type in {"Softmax", "Sigmoid"}:
            value = node.output[0]
            graph.node[-1].output[0] = f"{value}_raw"
            way = [f"{value}_raw", f"{value}_q", value]
            for k, op in enumerate(("QuantizeLinear", "DequantizeLinear")):
                added = (
                    helper.make_node(op, [way[k], "q_step", "q_zero"], [way[k + 1]], name=way[k + 1])
                    if step
                    else helper.make_node("Cast", [way[k]], [way[k + 1]], to=(BFLOAT16, FLOAT)[k])
                )
                graph.node.append(added)
    return model


def cut_of(name: str, model: onnx.ModelProto, keep: list[int]) -> onnx.ModelProto:
    """The right cut, without a record of what was done."""
    return onnx.ModelProto.FromString(right(name, model.SerializeToString(), tuple(keep)))


@cache
def right(name: str, model: bytes, keep: tuple[int, ...]) -> bytes:
    """Cut once for all mistakes that are made in it."""
    source = onnx.ModelProto.FromString(model)
    cut = hc.cut(source, list(keep), validation=False, **PATTERNS[name]().told).model
    del cut.metadata_props[:]
    return bytes(cut.SerializeToString())


def verdict(
    name: str, model: onnx.ModelProto, cut: onnx.ModelProto, keep: list[int] | None = None
) -> hc.Verdict:
    keep = keep or kept(name)
    return hc.validate(model, cut, keep, provider="cpu", **PATTERNS[name]().told)


@pytest.mark.parametrize(("name", "step"), dealt(some(ROWS), STEPS))
def test_a_right_cut_passes(name: str, step: str) -> None:
    model = rounded(name, STEPS[step])
    reverse = PATTERNS[name]().foreground[::-1]
    found = verdict(name, model, cut_of(name, model, reverse), reverse)
    assert found.status == "passed", found.reasons


@pytest.mark.parametrize(("mistake", "step"), dealt(some(PLANTED, 1), ["255", "bfloat16"]))
def test_a_mistake_does_not_pass(mistake: str, step: str) -> None:
    name, make = MISTAKES[mistake]
    model = rounded(name, STEPS[step])
    cut = cut_of(name, model, kept(name))
    make(cut)
    found = verdict(name, model, cut)
    assert found.status == "failed", found.reasons


def test_other_steps_are_not_taken_out() -> None:
    name = "nms_columns_gathered"
    model = rounded(name)
    cut = cut_of(name, model, kept(name))
    step = next(t for t in cut.graph.initializer if t.name == "q_step")
    step.CopyFrom(numpy_helper.from_array(np.array(30 / 255, np.float32), "q_step"))
    assert verdict(name, model, cut).status == "failed"


def test_ties_are_told() -> None:
    name, reverse = "nms_with_total_cap", [5, 4, 3, 2, 1]
    model = rounded(name, STEPS["21"])
    found = verdict(name, model, cut_of(name, model, reverse), reverse)
    assert any("which of equals is taken" in note for note in found.notes)


def test_class_numbers_through_two_quantizers_of_16_bits() -> None:
    """onnxruntime's own ops; each of them moves the numbers by half a step of its own at most."""
    name = "ids_rounded_by_a_quantizer"
    model = PATTERNS[name]().model()
    model.opset_import.add(domain="com.microsoft", version=1)
    graph = model.graph
    at = [n.op_type for n in graph.node].index("QuantizeLinear")
    graph.node[at + 1].output[0] = "labels_once"
    last = graph.node[at + 2 :]
    del graph.node[at + 2 :]
    for op, one, other in (("Quantize", "labels_once", "again"), ("Dequantize", "again", "labels")):
        graph.node.add(op_type=f"{op}Linear", input=[one, "step_2", "nil_2"], output=[other])
    for node in graph.node[at : at + 4]:
        node.domain = "com.microsoft"
    graph.node.extend(last)
    known = {n.output[0]: n for n in graph.node if n.op_type == "Constant"}
    for value, array in (("step", np.float32(0.0041)), ("nil", np.int16(-12915))):
        known[value].attribute[0].t.CopyFrom(numpy_helper.from_array(np.array(array), value))
    for value, array in (("step_2", np.float32(0.0087)), ("nil_2", np.int16(-31217))):
        graph.initializer.append(numpy_helper.from_array(np.array(array), value))
    keep = PATTERNS[name]().foreground[::-1]
    found = verdict(name, model, cut_of(name, model, keep), keep)
    assert found.status == "passed", found.reasons


INTEGERS = """
<ir_version: 8, opset_import: ["": 21]>
tiny (float[2,3] x) => ({type}[3,2] y)
<float s = {{0.5}}, int8 z = {{3}}>
{{ q = QuantizeLinear (x, s, z)  moved = Transpose (q)  {last} }}
"""


def test_integers_may_move_but_not_be_computed_with_or_given() -> None:
    def model(last: str, kind: str = "float") -> onnx.ModelProto:
        return onnx.parser.parse_model(INTEGERS.format(last=last, type=kind))

    found = unrounded(model("y = DequantizeLinear (moved, s, z)"))
    assert found is not None
    assert found[1] == {(0.5, 3.0)}
    ops = [node.op_type for node in found[0].graph.node]
    assert ops == ["Cast", "Div", "Add", "Transpose", "Sub", "Mul", "Cast"]
    assert unrounded(model("y = Identity (moved)", "int8")) is None
    assert unrounded(model("y = Identity (moved)", "int8"), {"y"}) is not None
    assert unrounded(model("w = QLinearSigmoid (moved, s, z, s, z)  y = Cast <to = 1> (w)")) is None
    assert unrounded(onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 21]> t (float[2] x) => (float[2] y) { y = Abs (x) }'
    )) is None  # fmt: skip


def test_scores_rounded_to_nothing_are_no_failure() -> None:
    """Boxes up to 320 and scores up to 1 behind one quantizer: its step is larger than any score."""
    columns = probe.Columns(3, (0, 2))
    ledger = Ledger(columns, Settings())
    layout = Layout(ledger, columns, [], steps=0.01)

    layout.add("y", probe.Meaning("apart", (1, 7)), probe.Meaning("apart", (1, 6)))

    assert not ledger.failures
    assert "rounded to nothing" in ledger.doubts[0]


def test_logits_that_are_rounded_do_not_fail_a_right_cut() -> None:
    """A quantizer before the activation makes them, too: ArgMax then takes the first of its order."""
    name = "argmax_over_classes"
    model = rounded(name, STEPS["255"])
    model.graph.initializer.append(numpy_helper.from_array(np.array(2, np.float32), "l_step"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(0, np.int8), "l_zero"))
    nodes = []
    for node in model.graph.node:
        nodes.append(node)
        if node.op_type == "Conv":
            value, node.output[0] = node.output[0], f"{node.output[0]}_raw"
            for op, one, other in (
                ("QuantizeLinear", f"{value}_raw", f"{value}_l"),
                ("DequantizeLinear", f"{value}_l", value),
            ):
                nodes.append(helper.make_node(op, [one, "l_step", "l_zero"], [other], name=other))
    nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    reverse = PATTERNS[name]().foreground[::-1]
    found = verdict(name, model, cut_of(name, model, reverse), reverse)
    assert found.status == "passed", found.reasons


@pytest.mark.parametrize("name", ["masks_weighed", "masks_multiplied"])
def test_masks_weighed_by_scores_behind_a_quantizer(name: str) -> None:
    pattern = PATTERNS[f"{name}_by_class_probabilities"]()
    model = rounded(f"{name}_by_class_probabilities")
    verdict = hc.cut(model, [4, 1, 3], provider="cpu", **pattern.told).verdict
    assert verdict, verdict and verdict.reasons
