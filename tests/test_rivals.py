"""Where classes compete, the plan says so before the cut, and the verdict what came of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import onnx
import pytest
from conftest import run_cli
from patterns import PATTERNS

import onnx_headcut as hc

if TYPE_CHECKING:
    from pathlib import Path

CAP = "over all classes: slots that dropped classes had go to more detections of kept ones"
AGNOSTIC = "suppresses boxes whatever their classes"
BEST = "gives a box its best class"
TOLD = {
    "nms_with_total_cap": ("TopK 'make_scores'", CAP),
    "top_k_div_mod": ("TopK", "takes the best 10 " + CAP),
    "nms_class_agnostic": ("NonMaxSuppression 'make_found'", AGNOSTIC),
    "argmax_over_classes": ("ArgMax", BEST),
}
SILENT = ("nms_batched_trick", "branches_by_slice", "background_split_off", "nms_columns_gathered",
          "table_scaled_by_column")  # fmt: skip


def notes(name: str, keep: list[int]) -> tuple[str, ...]:
    pattern = PATTERNS[name]()
    return hc.cut(pattern.model(), keep, validation=False, **pattern.told).plan.notes


@pytest.mark.parametrize("name", TOLD)
def test_a_node_at_which_classes_compete_is_named(name: str) -> None:
    foreground = PATTERNS[name]().foreground
    told = notes(name, foreground[:2])
    assert any(all(part in note for part in TOLD[name]) for note in told), told
    assert not notes(name, foreground[::-1])  # nobody goes


@pytest.mark.parametrize("name", SILENT)
def test_where_each_class_is_by_itself_nothing_is_said(name: str) -> None:
    assert notes(name, PATTERNS[name]().foreground[:2]) == ()


def test_table_document_and_page_say_it(tmp_path: Path) -> None:
    onnx.save(PATTERNS["nms_with_total_cap"]().model(), tmp_path / "model.onnx")
    options = ("--background", "0", "--provider", "cpu")
    made = run_cli("cut", "model.onnx", "--keep", "1,2", "--output", "cut.onnx", *options, "--json",
                   cwd=tmp_path)  # fmt: skip
    document = json.loads(made.out)
    assert any(CAP in note for note in document["notes"])
    assert any(row["gained"] for row in document["validation"]["drift"])
    told = run_cli("validate", "model.onnx", "cut.onnx", *options, "--report", "r.html", cwd=tmp_path)
    page = (tmp_path / "r.html").read_text()
    for text in (" ".join(told.out.split()), page):
        assert CAP in text
        assert "detections of kept classes are new, as those of dropped ones take no slots" in text
