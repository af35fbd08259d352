"""What is made of all classes, of their names, and of the labels of their branches, cut or refused."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from patterns import PATTERNS, Pattern, pictures, run
from test_counts import tiny

import onnx_headcut as hc
from onnx_headcut.errors import GraphRefused
from onnx_headcut.rules import filled, neutral

if TYPE_CHECKING:
    from collections.abc import Callable

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
