"""Scores in forms of their own: nothing else is taken for them, whatever becomes of them."""

from __future__ import annotations

from collections import Counter
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from conftest import LONG
from nets import Net, found
from onnx import TensorProto

import onnx_headcut as hc

if TYPE_CHECKING:
    from collections.abc import Callable

CASES = 1000 if LONG else 150
"""Of 2,304 for each activation."""


def _reshaped_scores(net: Net, x: str, columns: int) -> dict[str, Callable[[], str]]:
    """Ways of scores from their activation to an output, of which the finder knows some."""
    places = 108

    def number(*shape: int) -> str:
        return net.const(net.noise.normal(size=shape), np.float32)

    def classes() -> str:
        count = net.add("Gather", net.add("Shape", x), net.const([2]), axis=0)
        return net.add("Cast", count, to=TensorProto.FLOAT)

    def total(op: str) -> str:
        return net.add(op, x, net.const([2]), keepdims=1)

    return {
        "as it is": lambda: x,
        "by their count": lambda: net.add("Div", x, classes()),
        "by a number": lambda: net.add("Div", x, number(1)),
        "from a row": lambda: net.add("Sub", x, number(1, 1, columns)),
        "a prior of each place": lambda: net.add("Add", x, number(1, places, 1)),
        "less of each place": lambda: net.add("Sub", x, number(1, places, 1)),
        "a factor of each score": lambda: net.add("Mul", x, number(1, places, columns)),
        "a root": lambda: net.add("Pow", net.add("Abs", x), number(1)),
        "exponentials": lambda: net.add("Exp", x),
        "sums up to one": lambda: net.add("Div", x, total("ReduceSum")),
        "unlike the best": lambda: net.add("Pow", x, net.add("Sigmoid", net.head("sure", 1))),
        "running sums": lambda: net.add("CumSum", x, net.const(2)),
        "normalised": lambda: net.add("LpNormalization", x, axis=2, p=2),
        "parents": lambda: net.add("Mul", x, net.add("Gather", x, net.const([0] * columns), axis=2)),
        "mixed": lambda: net.add("Einsum", x, number(columns, columns), equation="abc,cd->abd"),
        "an op of nobody": lambda: net.add("Mish", x),
    }


def _boxes(net: Net, how: str) -> str:
    rows, places = net.head("boxes", 4), 108
    if how in {"decoded", "corners"}:
        xy, wh = net.split(rows, [2, 2])
        anchors = net.const(net.noise.normal(size=(1, places, 2)), np.float32)
        centre = net.add("Add", net.add("Mul", xy, anchors), anchors)
        size = net.add("Mul", net.add("Exp", wh), anchors)
        if how == "corners":
            half = net.add("Div", size, net.const([2.0], np.float32))
            centre, size = net.add("Sub", centre, half), net.add("Add", centre, half)
        return net.add("Concat", centre, size, axis=2)
    if how == "moved":
        return net.add("Add", rows, net.const(net.noise.normal(size=(1, places, 4)), np.float32))
    return rows if how == "plain" else net.add(how, rows)


BESIDE: dict[str, Callable[[Net], list[str]]] = {
    "nothing": lambda _: [],
    "masks": lambda net: [net.head("masks", 32)],
    "landmarks": lambda net: [
        net.add("Mul", net.head("landmarks", 10),
                net.const(net.noise.normal(size=(1, 108, 10)), np.float32))],
}  # fmt: skip


@pytest.mark.parametrize("activation", ["Identity", "Sigmoid", "Softmax"])
def test_whatever_becomes_of_the_scores_nothing_else_is_taken_for_them(activation: str) -> None:
    """Scores that drop out of the candidates must not leave boxes or masks as the last of them."""
    ways = _reshaped_scores(Net(18), "x", 2)
    boxes = ("plain", "decoded", "corners", "moved", "Exp", "Sigmoid")
    every = list(product(ways, (2, 3, 4, 5), boxes, BESIDE, (False, True)))
    outcome: Counter[str] = Counter()
    for case in np.random.default_rng(0).permutation(len(every))[:CASES]:
        way, columns, box, more, named = every[case]
        if (columns, box, activation) == (4, "Sigmoid", "Identity"):
            continue  # four columns under a sigmoid beside four plain ones: the sigmoid's are taken
        net = Net(18)
        over = {"axis": 2} if activation == "Softmax" else {}
        scores = net.add(activation, net.head("scores", columns), **over)
        scores = _reshaped_scores(net, scores, columns)[way]()
        model = net.model(scores, _boxes(net, box), *BESIDE[more](net))
        told: dict[str, Any] = {"labels": list("abcdefgh"[:columns])} if named else {}
        what = f"{way}, {columns} classes, {box} boxes, {more} beside, names: {named}"
        try:
            known = found(model, **told)
        except hc.GraphRefused:
            outcome["refused"] += 1
            continue
        assert known == (columns, {"scores"}), what
        outcome["found"] += 1
    assert outcome["found"] > CASES // 20, outcome


def test_raw_scores_beside_boxes_with_corners_are_found_and_their_background_is_asked() -> None:
    net = Net()
    model = net.model(net.head("scores", 7), _boxes(net, "corners"))
    assert hc.inspect(model).classes.count == 7
    assert hc.inspect(model).classes.background is None
    with pytest.raises(hc.UsageError, match="background"):
        hc.cut(model, "1", dry_run=True)


def test_heads_that_are_named_settle_what_else_could_be_the_classes() -> None:
    net = Net()
    masks = net.add("Sigmoid", net.head("masks", 9))
    model = net.model(net.head("scores", 7), masks, net.head("boxes", 4))
    assert found(model, heads=["scores"]) == (7, {"scores"})
    with pytest.raises(hc.GraphRefused, match="80 class names") as refused:
        found(model, labels="coco80")
    assert "--labels none" in refused.value.advice


@pytest.mark.parametrize("told", [{}, {"labels": [*"abcdefg"]}, {"heads": ["scores"]}])
def test_values_that_a_further_layer_samples_are_no_classes(told: dict[str, Any]) -> None:
    """Deformable attention: its values are masked, and sampled at places of their own."""
    net = Net(opset=16)
    weight = net.const(net.noise.normal(size=(8, 18)), np.float32)
    values = net.add("MatMul", net.rows(net.features, 8), weight, name="values")
    inside = net.const(np.ones((1, 36, 1)), np.bool_)  # no padding, as masks say it
    masked = net.add("Where", inside, values, net.const(0, np.float32))
    apart = net.add("Reshape", masked, net.const([1, 36, 3, 6]))
    of_heads = net.add(
        "Reshape", net.add("Transpose", apart, perm=[0, 2, 3, 1]), net.const([3, 6, 6, 6])
    )
    places = net.const(net.noise.uniform(-1, 1, size=(3, 6, 6, 2)), np.float32)
    sampled = net.add("GridSample", of_heads, places)
    together = net.add("Reshape", sampled, net.const([1, 18, 6, 6]))
    mixed = net.add("Relu", net.conv(together, 8, wide=18, name="mixing"))
    model = net.model(net.head("scores", 7, value=mixed), _boxes(net, "corners"))
    assert found(model, **told) == (7, {"scores"})


@pytest.mark.parametrize("columns", [3, 4])
def test_scores_beside_a_filler_are_no_decoded_boxes(columns: int) -> None:
    net = Net()
    odd = net.add("Exp", net.head("scores", columns))
    filler = net.add("Mul", net.slice(odd, 0, 1), net.const([0.0], np.float32))
    model = net.model(net.add("Concat", filler, odd, axis=2), net.head("boxes", 4))
    with pytest.raises(hc.GraphRefused, match="could be the classes"):
        found(model)


def test_scores_of_which_some_are_lost_on_the_way_are_refused() -> None:
    """Each class times its parent's score: what is gathered holds some classes twice, some never."""
    net = Net()
    scores = net.add("Sigmoid", net.head("scores", 6))
    parents = net.add("Gather", scores, net.const([1, 3, 1, 3, 1, 3]), axis=2)
    best = net.add("ReduceMax", net.add("Mul", scores, parents), axes=[2])
    with pytest.raises(hc.GraphRefused):
        found(net.model(best, net.head("boxes", 4)))
