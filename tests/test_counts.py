"""Where the class count or class numbers hide: cut to the same values, or refused; never in silence.

Each detector is held against the original with its dropped classes masked. Where a cut is refused,
the right node says so. Validation has to see the same by itself, so it is shown what a cut would
be without these rules.
"""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

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
from onnx_headcut.edits import Replace
from onnx_headcut.errors import GraphRefused
from onnx_headcut.labels import Option
from onnx_headcut.rules import beside, companions, counts, filled, neutral
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


# what is made of all classes, when a dropped one counts for nothing in it, and when it does
OVER_ALL = {
    "the sum of probabilities": ("probs", "ReduceSum", True),
    "the sum of raw scores": ("logits", "ReduceSum", False),
    "the sum of what is left to 1": ("rest", "ReduceSum", False),
    "the product of what is left to 1": ("rest", "ReduceProd", True),
    "the product of probabilities": ("probs", "ReduceProd", False),
    "the mean of probabilities": ("probs", "ReduceMean", False),
    "the length of a row of probabilities": ("probs", "ReduceL2", True),
    "the length of a row of raw scores": ("logits", "ReduceL2", False),
    "the best raw score": ("logits", "ReduceMax", True),
    "the best of what is left to 1": ("rest", "ReduceMax", False),
    "the least of what is left to 1": ("rest", "ReduceMin", True),
    "the least probability": ("probs", "ReduceMin", False),
    "the logarithm of the sum of raw scores' exponentials": ("logits", "ReduceLogSumExp", True),
    "the logarithm of the sum of probabilities' exponentials": ("probs", "ReduceLogSumExp", False),
    "the sum of a bounded score": ("bounded", "ReduceSum", True),
    "the sum of raw scores with something added": ("moved", "ReduceSum", False),
    "the best raw score with something added": ("moved", "ReduceMax", True),
    "how many are above a threshold": ("above", "ReduceSum", True),
    "how many are below a threshold": ("below", "ReduceSum", False),
    "how many are below a threshold, weighed by what is not known": ("faint", "ReduceL1", False),
    "the length of a row of each place's shares": ("places", "ReduceL2", False),
}


@pytest.mark.parametrize("name", OVER_ALL)
def test_over_all_classes_a_dropped_one_counts_for_nothing_or_it_is_refused(name: str) -> None:
    of, op, right = OVER_ALL[name]
    axes = (
        ("values, c2" if op == "ReduceSum" else "values"),
        ("" if op == "ReduceSum" else "axes=[2], "),
    )
    body = f"""
      probs = Sigmoid (logits)
      whole = Constant <value = float {{1.0}}> ()
      half = Constant <value = float {{0.5}}> ()
      none = Constant <value = float {{0.0}}> ()
      rest = Sub (whole, probs)
      bounded = Clip (logits, none, whole)
      moved = Add (logits, half)
      is_above = Greater (probs, half)
      above = Cast <to = 1> (is_above)
      is_below = Less (probs, half)
      below = Cast <to = 1> (is_below)
      quality = ReduceMax <axes = [2]> (rects)
      weighed = Mul (probs, quality)
      is_faint = Less (weighed, half)
      faint = Cast <to = 1> (is_faint)
      places = Softmax <axis = 1> (probs)
      values = Identity ({of})
      scores = Identity (probs)
      made = {op} <{axes[1]}keepdims = 1> ({axes[0]})"""
    outputs = "float[1,L,K] scores, float[1,L,1] made"
    ids = tuple(range(6))
    found = replace(tiny(outputs, body), kind="dense", dense=((2, ids), (0, ())), background=None)
    told = {**found.told, "labels": list("abcdef"), "validation": False}
    if not right:
        with pytest.raises(GraphRefused, match="reduces over all classes"):
            hc.cut(found.model(), [4, 2], **told)
        hc.cut(found.model(), [5, 4, 3, 2, 1, 0], **told)  # none goes
        return
    cut = hc.cut(found.model(), [4, 2], **told | {"validation": True})
    assert cut.verdict is not None
    assert cut.verdict.status == "passed", cut.verdict.reasons
    for feed in pictures():
        for old, new in zip(found.expected([4, 2], feed), run(cut.model, feed), strict=True):
            np.testing.assert_allclose(new, old, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("smallest", ["ArgMin <axis = 2>", "TopK <largest = 0>"])
def test_the_least_of_all_classes_is_refused(smallest: str) -> None:
    made = f"worst, at = {smallest} (probs, c1)" if "TopK" in smallest else f"at = {smallest} (probs)"
    body = f"\n      probs = Sigmoid (logits)\n      scores = Identity (probs)\n      {made}"
    found = tiny("float[1,L,K] scores, int64[1,L,1] at", body)
    with pytest.raises(GraphRefused, match="those that are never found count with 0"):
        hc.cut(found.model(), [4, 2], background="none", labels=list("abcdef"), validation=False)


def test_what_is_read_twice_again_and_again_is_reckoned_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    reckoned = neutral._Reckoning._computed

    def counted(reckoning: Any, node: Any, inputs: Any) -> Any:
        seen.append(node.name)
        return reckoned(reckoning, node, inputs)

    monkeypatch.setattr(neutral._Reckoning, "_computed", counted)
    doubled = "\n".join(f"v{k + 1} = Add (v{k}, v{k})" for k in range(10))
    body = f"""
      scores = Sigmoid (logits)
      v0 = Sigmoid (logits)
      {doubled}
      best = ReduceMax <axes = [2], keepdims = 0> (v10)"""
    found = tiny("float[1,L,K] scores, float[1,16] best", body)
    hc.cut(found.model(), [4, 2], background="none", labels=list("abcdef"), validation=False)
    assert len(seen) == len(set(seen)) > 10


def test_names_that_an_encoder_keeps_in_tensors_are_cut() -> None:
    pattern = PATTERNS["top_k_with_names_by_a_label_encoder"]()
    text = pattern.text.replace("keys_int64s = [", "keys_tensor = int64[6] {")
    text = text.replace("], values_strings = [", "}, values_tensor = string[6] {")
    text = text.replace('"fox"]', '"fox"}').replace('"ai.onnx.ml": 3', '"ai.onnx.ml": 4')
    found = replace(pattern, text=text)
    cut = hc.cut(found.model(), [4, 2], **found.told, validation=False).model
    for feed in pictures():
        (old,), (new,) = found.expected([4, 2], feed), found.given(run(cut, feed))
        assert len(old)
        assert np.array_equal(np.unique(new, axis=0), np.unique(old, axis=0))


def test_names_that_are_read_as_numbers_are_refused() -> None:
    pattern = PATTERNS["top_k_with_names"]()
    text = pattern.text.replace("string[K] labels", "int64[K] labels")
    text = text.replace('"ant", "bee", "cat", "dog", "eel", "fox"', '"0", "1", "2", "3", "4", "5"')
    text = text.replace("labels = Squeeze (", "label = Cast <to = 7> (label_row)\n labels = Squeeze (")
    found = replace(pattern, text=text.replace("Squeeze (label_row", "Squeeze (label"))
    with pytest.raises(GraphRefused, match="names of classes reach it") as refused:
        hc.cut(found.model(), [4, 2], **found.told, validation=False)
    assert refused.value.op == "Cast"


def with_each_label(change: Callable[[str, str], str]) -> Pattern:
    """Branches of which the label's node is written anew, given the class and what makes the label."""
    found = PATTERNS["branches_with_constant_of_shape"]()
    return replace(found, text=re.sub(r"l_(\d) = (ConstantOfShape .*)", lambda m: change(*m.groups()),
                                      found.text))  # fmt: skip


def test_numbers_of_rows_in_each_branch_stay_with_it() -> None:
    found = with_each_label(lambda k, made: f"""l_{k} = {made}
      nil_{k} = Constant <value = int64 {{0}}> ()
      step_{k} = Constant <value = int64 {{1}}> ()
      count_{k} = Squeeze (size_{k})
      r_{k} = Range (nil_{k}, count_{k}, step_{k})""")  # fmt: skip
    rows = ", ".join(f"r_{k}" for k in found.foreground)
    text = found.text.replace("int64[K] labels,", "int64[K] labels, int64[K] rows,")
    found = replace(found, text=f"{text.rstrip()[:-1]}\n rows = Concat <axis = 0> ({rows})\n}}")
    assert hc.cut(found.model(), [4, 2], provider="cpu", **found.told).verdict


def test_a_label_that_is_read_twice_again_and_again_is_reckoned_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def doubled(cls: str, made: str) -> str:
        names = [f"g_{cls}_{i}" for i in range(11)]
        steps = [f"{b} = Max ({a}, {a})" for a, b in pairwise(names)]
        return "\n".join([f"{names[0]} = {made}", *steps, f"l_{cls} = Identity ({names[-1]})"])

    found, seen = with_each_label(doubled), list[str]()
    reckoned = filled._number

    def counted(view: Any, scope: Any, name: str, *rest: Any) -> Any:
        seen.append(name)
        return reckoned(view, scope, name, *rest)

    monkeypatch.setattr(filled, "_number", counted)
    cut = hc.cut(found.model(), [4, 2], validation=False, **found.told)
    assert {o.convention for o in cut.plan.outputs if o.name == "labels"} == {"column"}
    assert 10 < len(seen) < 1000
