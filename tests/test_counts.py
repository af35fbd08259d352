"""Where the class count or class numbers hide: cut to the same values, or refused; never in silence.

Each detector is held against the original with its dropped classes masked. Where a cut is refused,
the right node says so. Validation has to see the same by itself, so it is shown what a cut would
be without these rules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from patterns import (
    FLAT,
    GATHER,
    LIMITS,
    OUTPUTS,
    PATTERNS,
    PLAIN,
    SHAPED,
    Pattern,
    branches,
    front,
    graph,
    pictures,
    run,
)

import onnx_headcut as hc
from onnx_headcut.editing.edits import Replace
from onnx_headcut.errors import GraphRefused
from onnx_headcut.labels import Option
from onnx_headcut.rules import beside, companions, counts
from onnx_headcut.rules import branches as joined
from onnx_headcut.rules.options import prune

if TYPE_CHECKING:
    from collections.abc import Callable

COUNT = """
      size = Shape (logits)
      last = Constant <value = int64 {2}> ()
      count = Gather <axis = 0> (size, last)
      number = Cast <to = 1> (count)
      probs = Softmax <axis = 2> (logits)"""
"""``count`` and ``number`` of the columns, as the graph reads them, and ``probs``."""

CONSTANTS = ", int64[1] c0 = {0}, int64[1] c1 = {1}, int64[1] c2 = {2}, int64 one = {1}"
SCORES = "float[1,L,K] scores"
BOXES = f"{SCORES}, float[1,16,4] boxes"
BEST = f"{SCORES}, float[1,16] best"

LOOP = """
      scores = Identity (probs)
      times = Constant <value = int64 {3}> ()
      true = Constant <value = bool {1}> ()
      """


def tiny(outputs: str, body: str, more: str = "", constants: str = CONSTANTS) -> Pattern:
    """A detector with that behind its logits and its rects."""
    weights, start, heads = front()
    return Pattern(graph(outputs, weights + constants + more, start + body), heads)


RECKONED: dict[str, tuple[str, str, str]] = {
    "scores times the count": ("Mul", SCORES, "scores = Mul (probs, number)"),
    "scores by the count": ("Div", SCORES, "scores = Div (probs, number)"),
    "scores to the power of the count": ("Pow", SCORES, "scores = Pow (probs, number)"),
    "a bound of Clip": ("Clip", SCORES, "low = Reciprocal (number)\n scores = Clip (probs, low)"),
    "a threshold": (
        "Greater",
        SCORES,
        ("low = Reciprocal (number)\n hot = Greater (probs, low)\n"
        "hot_float = Cast <to = 1> (hot)\n scores = Mul (probs, hot_float)"),
    ),
    "the best scores times the count": (
        "Mul",
        BEST,
        ("scores = Identity (probs)\n top = ReduceMax <axes = [2], keepdims = 0> (probs)\n"
        "best = Mul (top, number)"),
    ),
    "one class times the count": (
        "Mul",
        "float[1,16] best",
        "a = Gather <axis = 2> (probs, one)\n best = Mul (a, number)",
    ),
    "boxes times the count": ("Mul", BOXES, "scores = Identity (probs)\n boxes = Mul (rects, number)"),
    "boxes by the size": (
        "Div",
        BOXES,
        ("scores = Identity (probs)\n all = Size (logits)\n all_float = Cast <to = 1> (all)\n"
        "boxes = Div (rects, all_float)"),
    ),
    "boxes times the count and the picture": (
        "Mul",
        BOXES,
        ("scores = Identity (probs)\n mean = ReduceMean <keepdims = 0> (x)\n by = Mul (mean, number)\n"
        "boxes = Mul (rects, by)"),
    ),
    "a choice by the count": (
        "Where",
        SCORES,
        ("four = Constant <value = int64 {4}> ()\n more = Greater (count, four)\n low = Neg (probs)\n"
        "scores = Where (more, probs, low)"),
    ),
    "a body by the count": (
        "If",
        SCORES,
        ("four = Constant <value = int64 {4}> ()\n more = Greater (count, four)\n"
        "scores = If (more) <then_branch = a () => (float[1,L,K] s) {s = Identity (probs)}, "
        "else_branch = b () => (float[1,L,K] t) {t = Neg (probs)}>"),
    ),
    "candidates by half the count": (
        "TopK",
        "float[1,16,K] scores",
        "at = Unsqueeze (count, c0)\n half = Div (at, c2)\n scores, index = TopK (probs, half)",
    ),
    "places by the count": (
        "TopK",
        "float[1,L,K] scores",
        "at = Unsqueeze (count, c0)\n scores, index = TopK <axis = 1> (probs, at)",
    ),
    "a quantizer's scale": (
        "QuantizeLinear",
        SCORES,
        ("zero = Constant <value = uint8 {0}> ()\n step = Reciprocal (number)\n"
        "whole = QuantizeLinear (probs, step, zero)\n scores = DequantizeLinear (whole, step, zero)"),
    ),
    "a body that reads the count": (
        "Loop",
        BOXES,
        LOOP + "boxes = Loop (times, true, rects) <body = b (int64 i, bool go_in, float[1,16,4] a) => "
        "(bool go, float[1,16,4] d) {go = Identity (go_in)\n d = Mul (a, number)}>",
    ),
    "a body that is given the count": (
        "Loop",
        BEST,
        LOOP + "top = ReduceMax <axes = [2], keepdims = 0> (probs)\n"
        "best, end = Loop (times, true, top, number) <body = b (int64 i, bool go_in, float[1,16] a, "
        "float w) => (bool go, float[1,16] d, float v) {go = Identity (go_in)\n v = Identity (w)\n"
        "d = Mul (a, w)}>",
    ),
    "as many rounds as classes": (
        "Loop",
        SCORES,
        ("true = Constant <value = bool {1}> ()\n"
        "scores = Loop (count, true, probs) <body = b (int64 i, bool go_in, float[1,L,K] a) => "
        "(bool go, float[1,L,K] d) {go = Identity (go_in)\n by = Constant <value = float {1.1}> ()\n"
        "d = Mul (a, by)}>"),
    ),
}  # fmt: skip
"""The op that is refused, outputs, and what is reckoned with the class count."""

SLOTS = "".join(
    f"""
      at_{k} = Constant <value = int64 {{{k}}}> ()
      own_{k} = Gather <axis = 1> (table, at_{k})
      tv_{k}, ti_{k} = TopK (own_{k}, three)
      tb_{k} = Gather (rect, ti_{k})"""
    for k in range(1, 6)
)
SLOTS += """
      scores = Concat <axis = 0> (tv_1, tv_2, tv_3, tv_4, tv_5)
      boxes = Concat <axis = 0> (tb_1, tb_2, tb_3, tb_4, tb_5)"""
IDS = ",".join(str(k) for k in range(1, 6) for _ in range(3))
IDS_OF_CELLS = ",".join(str(k) for k in range(1, 6) for _ in range(16))
COPIES = """
      scores = Reshape (table, line)
      each = Unsqueeze (rect, c1)
      copies = Expand (each, to_each)
      boxes = Reshape (copies, rows)"""

BESIDE: dict[str, tuple[str, Callable[[], Pattern]]] = {
    "labels of slots as a constant output": (
        "Identity",
        lambda: tiny(OUTPUTS, FLAT + SLOTS + "\n labels = Identity (ids)",
                     f", int64[1] three = {{3}}, int64[15] ids = {{{IDS}}}"),
    ),
    "labels of slots in rows with scores and boxes": (
        "Concat",
        lambda: tiny("float[K,6] rows", FLAT + SLOTS + "\n value = Unsqueeze (scores, c1)\n"
                     "rows = Concat <axis = 1> (ids, value, boxes)",
                     f", int64[1] three = {{3}}, float[15,1] ids = {{{IDS}}}"),
    ),
    "a class's number where it is the best": (
        "Where",
        lambda: tiny("int64[K] labels, float[K] scores", FLAT + """
      top = ReduceMax <axes = [1]> (table)
      hot = Equal (table, top)
      number = Where (hot, ids, none)
      labels = ReduceMax <axes = [1], keepdims = 0> (number)
      scores = Squeeze (top, c1)""", ", int64[6] ids = {0,1,2,3,4,5}, int64 none = {-1}"),
    ),
    "a table of numbers read by index triples": (
        "GatherND",
        lambda: tiny(OUTPUTS, PLAIN + """
      labels = GatherND (ids, found)
      scores = GatherND (class_first, found)
      box_at = Gather <axis = 1> (found, row)
      flat = Squeeze (rects, c0)
      boxes = Gather (flat, box_at)""", f", int64[1,5,16] ids = {{{IDS_OF_CELLS}}}", LIMITS
                     + ", int64[1] beyond = {100}"),
    ),
    "a column of numbers read by class": (
        "Gather",
        lambda: tiny("int64[16,1] labels, float[16] scores", FLAT + """
      scores = ReduceMax <axes = [1], keepdims = 0> (table)
      which = ArgMax <axis = 1, keepdims = 0> (table)
      labels = Gather (ids, which)""", ", int64[6,1] ids = {0,1,2,3,4,5}"),
    ),
    "boxes copied for each class as an output": (
        "Reshape",
        lambda: tiny("float[96] scores, float[96,4] boxes", FLAT + COPIES,
                     ", int64[1] line = {-1}, int64[3] to_each = {16,6,4}, int64[2] rows = {-1,4}"),
    ),
    "a branch's scores times its class's number": (
        "Concat",
        lambda: branches(GATHER.replace("s_@", "plain_@") + """
      weight_@ = Constant <value = float {@.0}> ()
      s_@ = Mul (plain_@, weight_@)""", SHAPED),
    ),
    "a branch's scores and its class's number": (
        "Concat",
        lambda: branches(GATHER.replace("s_@", "plain_@") + """
      more_@ = Constant <value = float {@.0}> ()
      s_@ = Add (plain_@, more_@)""", SHAPED),
    ),
    "a branch's label, negated": (
        "Concat",
        lambda: branches(GATHER, SHAPED.replace("l_@", "number_@") + "\n l_@ = Neg (number_@)"),
    ),
    "a code of each class as an output": (
        "Identity",
        lambda: tiny("float[16,6] scores, int64[6] codes",
                     FLAT + "scores = Identity (table)\n codes = Identity (all)",
                     ", int64[6] all = {11,22,33,44,55,66}"),
    ),
}  # fmt: skip
"""What stands beside scores without any in it: the op that is refused, and the detector."""


def reckoned(name: str) -> Pattern:
    op, outputs, body = RECKONED[name]
    del op
    return tiny(outputs, COUNT + "\n" + body)


CASES = {**{n: (RECKONED[n][0], lambda n=n: reckoned(n)) for n in RECKONED}, **BESIDE}


@pytest.mark.parametrize("name", CASES)
def test_what_would_come_out_changed_is_refused(name: str) -> None:
    op, make = CASES[name]

    with pytest.raises(hc.GraphRefused) as caught:
        hc.cut(make().model(), [4, 1, 3], validation=False, background=0)

    assert caught.value.op == op
    assert caught.value.advice


@pytest.mark.parametrize("name", CASES)
def test_keeping_all_of_it_is_no_change(name: str) -> None:
    model = CASES[name][1]().model()
    cut = hc.cut(model, [1, 2, 3, 4, 5], validation=False, background=0).model
    assert cut.graph.SerializeToString() == model.graph.SerializeToString()


@pytest.mark.parametrize("name", CASES)
def test_validation_sees_it_without_the_rules(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, function in ((counts, "refuse_changed"), (counts, "check_bodies"),
                             (beside, "refuse_values"), (companions, "check"),
                             (joined, "_refuse_others")):  # fmt: skip
        monkeypatch.setattr(module, function, lambda *_: None)
    try:
        cut = hc.cut(CASES[name][1]().model(), [4, 1, 3], background=0, provider="cpu")
    except hc.GraphRefused:
        return  # another rule refuses it, too
    assert cut.verdict is not None
    assert cut.verdict.status in {"failed", "inconclusive"}


FOLLOWING: dict[str, tuple[str, str]] = {
    "the target of a Reshape": (
        "float[1,L] scores",
        ("cells = Constant <value = int64 {16}> ()\n all = Mul (cells, count)\n"
        "length = Unsqueeze (all, c0)\n to = Concat <axis = 0> (c1, length)\n"
        "scores = Reshape (probs, to)"),
    ),
    "a shape of what is found and of classes": (
        "float[L,K] scores",
        (
            "best = ReduceMax <axes = [2], keepdims = 0> (probs)\n"
            "five = Constant <value = int64[1] {5}> ()\n top, index = TopK (best, five)\n"
            "at = Squeeze (index, c0)\n table = Squeeze (probs, c0)\n picked = Gather (table, at)\n"
            "rows = Shape (at)\n columns = Unsqueeze (count, c0)\n"
            "to = Concat <axis = 0> (rows, columns)\n scores = Reshape (picked, to)"
        ),
    ),
    "all candidates": (
        "float[1,16,K] scores",
        "all = Unsqueeze (count, c0)\n scores, index = TopK (probs, all)",
    ),
    "a sum over classes, by a number that stays": (
        SCORES,
        ("sum = ReduceSum (probs, c2)\n six = Constant <value = float {6}> ()\n mean = Div (sum, six)\n"
        "scores = Sub (probs, mean)"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLLOWING)
def test_where_it_says_how_much_there_is_it_follows(name: str) -> None:
    outputs, body = FOLLOWING[name]
    pattern = tiny(outputs, COUNT + "\n" + body)

    cut = hc.cut(pattern.model(), [1, 3], validation=False, background=0).model

    for feeds in pictures():
        wanted = run(pattern.masked([1, 3]), feeds)[0].reshape(-1, 6)
        wanted = wanted[..., :3] if name == "all candidates" else wanted[..., [0, 1, 3]]
        got = run(cut, feeds)[0].reshape(wanted.shape)
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-6)


def test_rows_left_out_as_of_class_number_0_stay_those_of_that_class() -> None:
    model = PATTERNS["nms_rows_of_the_background_left_out"]().model()
    with pytest.raises(hc.GraphRefused, match="whose class number is 0") as caught:
        hc.cut(model, [5, 1], background="none", validation=False)
    assert caught.value.op == "NonZero"


def test_more_ways_than_can_be_followed_are_refused() -> None:
    # of 32 ways, that in which all six follow the class count is the last one
    counts_of = "".join(f", int64 six_{k} = {{6}}" for k in range(6))
    chain = "".join(f"\n      way_{k + 1} = {'Sub' if k % 2 else 'Add'} (way_{k}, six_{k})"
                    for k in range(6))  # fmt: skip
    body = f"""
      probs = Sigmoid (logits)
      scores = ReduceMax <axes = [2], keepdims = 0> (probs)
      way_0 = ArgMax <axis = 2, keepdims = 0> (probs){chain}
      labels = Identity (way_6)"""
    found = tiny("float[1,L] scores, int64[1,L] labels", body, counts_of)
    with pytest.raises(GraphRefused, match=r"32 ways in which constants .* no more than 16") as caught:
        hc.cut(found.model(), [4, 2], validation=False, background="none", labels=list("abcdef"))
    assert "onnxslim" in caught.value.advice


def test_options_that_change_one_place_to_two_values_are_two() -> None:
    new, edits = np.arange(3), [Replace((4,), 1, np.array(n)) for n in (2, 3, 3)]
    options = prune([Option(new, (edit,)) for edit in edits])
    assert [option.edits[0].value.item() for option in options] == [2, 3]
