"""Every pattern behind a head, in a tiny detector: the cut finds what the original finds."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from exported import unmatched
from patterns import PATTERNS, Pattern, pictures, run

import onnx_headcut as hc

SUBSETS = {
    "reordered": lambda classes: [classes[-2], classes[0], classes[2]],
    "one": lambda classes: [classes[2]],
    "all but one": lambda classes: [c for c in classes if c != classes[1]],
    "reversed": lambda classes: classes[::-1],
}


@pytest.mark.parametrize("subset", SUBSETS)
@pytest.mark.parametrize("name", PATTERNS)
def test_cut_equals_original(name: str, subset: str) -> None:
    pattern = PATTERNS[name]()
    keep = SUBSETS[subset](pattern.foreground)
    arguments = {"background": "none" if pattern.background is None else pattern.background}

    cut = hc.cut(pattern.model(), keep, validation=False, **{**arguments, **pattern.arguments})

    onnx.checker.check_model(cut.model, full_check=True)
    assert_equal(pattern, cut.model, keep)


def assert_equal(pattern: Pattern, cut: onnx.ModelProto, keep: list[int]) -> None:
    classes: set[float] = set()
    for feeds in pictures(batch=pattern.batch):
        wanted, got = pattern.expected(keep, feeds), pattern.given(run(cut, feeds))
        for one, other in zip(got, wanted, strict=True):
            if pattern.kind == "dense":
                np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
            else:
                assert unmatched(one, other) == unmatched(other, one) == 0
                classes |= set(other[:, 0])
    if pattern.kind == "rows":
        assert len(classes) >= min(pattern.some, len(keep))
