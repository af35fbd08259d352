"""Maps of labels: the best class of every place, whatever its score, and with no score beside it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from patterns import front, graph, made

import onnx_headcut as hc

KEEP = [4, 0, 2]
WHICH = "which = ArgMax <axis = 2, keepdims = 0> (probs)"
BEST = "best = ReduceMax <axes = [2], keepdims = 0> (probs)"
OUTPUTS = {
    "labels": ("int64[1,16] which", WHICH),
    "labels and scores": ("int64[1,16] which, float[1,16] best", WHICH + "\n" + BEST),
    "labels beside dense scores": (
        "int64[1,16] which, float[1,16,K] scores",
        WHICH + "\nscores = Identity (probs)",
    ),
}
PLACES = "\n places = OneHot <axis = 2> (which, count, off_on)"
ACTIVATIONS = ["Sigmoid", "Softmax <axis = 2>"]


def model(outputs: str, activation: str) -> onnx.ModelProto:
    """Each place's best class of six, without a background."""
    said, body = OUTPUTS[outputs]
    weights, start, _ = front()
    start += f"\n probs = {activation} (logits)\n{body}\n boxes = Identity (rects)\n"
    return onnx.ModelProto.FromString(made(graph(f"{said}, float[1,16,4] boxes", weights, start), 0))


def cut_of(source: onnx.ModelProto, keep: list[int]) -> onnx.ModelProto:
    cut = hc.cut(source, keep, background="none", validation=False).model
    del cut.metadata_props[:]
    return cut


def verdict(source: onnx.ModelProto, cut: onnx.ModelProto, keep: list[int]) -> hc.Verdict:
    return hc.validate(source, cut, keep, provider="cpu", background="none")


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("outputs", OUTPUTS)
def test_a_right_cut_passes(outputs: str, activation: str) -> None:
    source = model(outputs, activation)

    found = verdict(source, cut_of(source, KEEP), KEEP)

    assert found.status == "passed", found.reasons


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("outputs", OUTPUTS)
def test_labels_that_say_other_classes_fail(outputs: str, activation: str) -> None:
    source = model(outputs, activation)
    cut = cut_of(source, KEEP)
    maker = next(n for n in cut.graph.node if "which" in n.output)
    maker.output[0] = "right"
    cut.graph.initializer.append(numpy_helper.from_array(np.array([0, 2, 1]), "mistaken"))
    at = list(cut.graph.node).index(maker) + 1
    cut.graph.node.insert(at, helper.make_node("Gather", ["mistaken", "right"], ["which"]))

    found = verdict(source, cut, KEEP)

    assert found.status == "failed", found.reasons


def with_places(activation: str) -> onnx.ModelProto:
    """The best class by its place, as an output."""
    weights, start, _ = front()
    weights += ", int64 count = {6}, float[2] off_on = {0.0, 1.0}"
    start += f"\n probs = {activation} (logits)\n{WHICH}\n{BEST}{PLACES}\n boxes = Identity (rects)\n"
    outputs = "float[1,16,K] places, float[1,16] best, float[1,16,4] boxes"
    return onnx.ModelProto.FromString(made(graph(outputs, weights, start), 0))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_places_of_classes(activation: str) -> None:
    source = with_places(activation)
    cut = cut_of(source, KEEP)

    assert verdict(source, cut, KEEP).status == "passed"

    maker = next(n for n in cut.graph.node if "places" in n.output)
    maker.output[0] = "right"
    cut.graph.initializer.append(numpy_helper.from_array(np.array([0, 2, 1]), "mistaken"))
    at = list(cut.graph.node).index(maker) + 1
    swap = helper.make_node("Gather", ["right", "mistaken"], ["places"], axis=2)
    cut.graph.node.insert(at, swap)

    assert verdict(source, cut, KEEP).status == "failed"


@pytest.mark.parametrize("outputs", OUTPUTS)
def test_one_class_of_a_softmax_that_is_always_one_is_inconclusive(outputs: str) -> None:
    source = model(outputs, ACTIVATIONS[1])

    found = verdict(source, cut_of(source, [3]), [3])

    assert found.status == "inconclusive", found.reasons
