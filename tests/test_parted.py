"""Scores that the graph takes apart by columns and puts together again: one tensor, all its classes."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from patterns import Pattern, front, graph, pictures, run

import onnx_headcut as hc

BOX = 4


def parted() -> Pattern:
    """Sigmoid scores split in two, joined, put in another order and joined with boxes."""
    weights, body, heads = front()
    weights += ", int64[2] sizes = {4, 2}, int64[6] order = {5, 3, 0, 1, 2, 4}"
    body += """
      probs = Sigmoid (logits)
      left, right = Split <axis = 2> (probs, sizes)
      joined = Concat <axis = 2> (left, right)
      ordered = Gather <axis = 2> (joined, order)
      table = Concat <axis = 2> (rects, ordered)"""
    text = graph("float[1,16,K] table", weights, body)
    return Pattern(text, heads, kind="dense", background=None)


@pytest.mark.parametrize("scores", ["renormalized", "exact"])
@pytest.mark.parametrize("keep", [[2, 3, 4, 5], [0, 1], [1, 5]])
def test_all_parts_are_cut(keep: list[int], scores: Literal["renormalized", "exact"]) -> None:
    model = parted().model()

    cut = hc.cut(model, keep, background="none", scores=scores, heads=["make_cls_map"], provider="cpu")

    assert cut.verdict, cut.verdict and cut.verdict.reasons
    assert len(cut.plan.sites) == 1
    assert sorted(cut.plan.sites[0].ids) == list(range(6))
    for feeds in pictures():
        wanted = run(model, feeds)[0].take([0, 1, 2, 3, *(BOX + k for k in keep)], 2)
        np.testing.assert_allclose(run(cut.model, feeds)[0], wanted, rtol=1e-5, atol=1e-6)
