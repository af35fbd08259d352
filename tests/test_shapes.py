"""What a cut does to the accuracy of the shipped detector, on pictures that it was not trained on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import onnx_headcut as hc
from models.shapes.evaluate import evaluate
from models.shapes.pictures import NAMES, picture

if TYPE_CHECKING:
    from collections.abc import Iterable

SHAPES = Path(__file__).parents[1] / "models" / "shapes"
KEEP = ("stop sign", "heart", "star", "lightning")
KEPT_ALONE = (21, 24, 36, 46, 57, 65, 71, 91, 116, 137, 145, 155, 162, 166, 168, 185, 188, 201, 219,
              220, 230, 236, 244, 251, 263, 267, 270, 275, 295, 303)  # fmt: skip
"""The first thirty pictures without a shape that goes."""


def both(name: str, seeds: Iterable[int], folder: Path, **how: str) -> list[dict[str, float]]:
    """Average precision of the kept classes, before and after a cut."""
    model, cut = SHAPES / f"ssd_shapes_{name}.onnx", folder / "cut.onnx"
    hc.cut(model, KEEP, cut, labels=SHAPES / "names.txt", validation=False, **how)
    before, after = evaluate(model, seeds), evaluate(cut, seeds, keep=KEEP)
    return [{name: found[name] for name in KEEP} for found in (before, after)]


def test_the_pictures_show_kept_shapes_alone() -> None:
    assert {NAMES[k] for seed in KEPT_ALONE for k in picture(seed)[2]} == set(KEEP)


@pytest.mark.parametrize("name", ["ts_softmax", "dynamo_raw"])
def test_kept_classes_are_found_as_well_as_before(name: str, tmp_path: Path) -> None:
    before, after = both(name, KEPT_ALONE, tmp_path)
    assert min(before.values()) > 0.6
    assert sum(after.values()) >= sum(before.values()) - 0.01  # scores rise alike, so ranks may change
    assert all(after[kept] >= before[kept] - 0.02 for kept in KEEP)


def test_exact_scores_find_the_same_among_dropped_shapes(tmp_path: Path) -> None:
    before, after = both("ts_softmax", range(24), tmp_path, scores="exact")
    assert after == before
