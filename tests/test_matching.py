"""What a verdict tells of detections: moved ones, counts by class, and the search for evidence."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from conftest import from_text
from onnx import numpy_helper
from tiny import FULL, KEPT, Tiny, check

import onnx_headcut as hc
from onnx_headcut.validation import Settings, proof
from onnx_headcut.validation import detections as d
from onnx_headcut.validation.compare import EXACT, TOLERANCES
from onnx_headcut.validation.inputs import NamedFeed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Done

ROW = [10.0, 10, 20, 20, 0.9, 3]
GROUP = d.Group(("y",), 0, (), tuple(d.Column("y", k) for k in range(6)), 4, (5,))
NMS = replace(FULL, nms=True)
CUT = replace(NMS, columns=KEPT)


@pytest.mark.parametrize(
    ("row", "count"),
    [
        ([11.0, 10, 21, 20, 0.9, 3], 1),
        ([11.0, 10, 21, 20, 0.9, 4], 0),
        ([40.0, 40, 50, 50, 0.9, 3], 0),
        ([10.0, 10, 10, 10, 0.9, 3], 0),
    ],
)
def test_moved_is_the_same_class_at_nearly_the_same_place(row: list[float], count: int) -> None:
    found = d.Match(0, (0,), (0,))
    assert d.moved(GROUP, np.array([ROW]), np.array([row]), found) == count


def test_rows_without_boxes_do_not_move() -> None:
    group = replace(GROUP, columns=GROUP.columns[:3], score=None, labels=())
    rows = np.ones((1, 3))
    assert d.moved(group, rows, rows, d.Match(0, (0,), (0,))) == 0


@pytest.mark.parametrize(
    ("row", "forgiven"),
    [
        ([70.0, 70, 80, 80, 0.9, 3], True),
        ([70.0, 70, 80, 80, 0.95, 3], False),  # no tie: it should have stood further up
        ([10.0, 10, 20, 20, 0.9, 4], False),  # the same object with another id
    ],
)
def test_the_last_slot_goes_to_either_of_equals(row: list[float], forgiven: bool) -> None:  # noqa: FBT001
    expected = np.array([[40.0, 40, 50, 50, 0.99, 3], ROW])
    got, allowed = np.array([expected[0], row]), np.full((2, 6), 1e-5)
    found = d.forgive_last(GROUP, d.Match(1, (1,), (1,)), expected, got, allowed)
    assert (not found.missing and not found.extra) == forgiven


class _Moved(Tiny):
    """Its boxes lie half a pixel beside those of the original."""

    def _nms_weights(self) -> dict[str, Any]:
        made = super()._nms_weights()
        return made | {"priors": made["priors"] + 0.5}


def test_boxes_beside_their_place_are_told_as_moved_by_class() -> None:
    cut = _Moved(**{name: getattr(CUT, name) for name in CUT.__dataclass_fields__})
    verdict = check(NMS, cut)
    [row] = [row for row in verdict.outputs if row.kind == "detections"]
    assert verdict.status == "failed"
    assert row.moved > row.missing / 2 > 0
    assert any("the same object, moved" in reason for reason in verdict.reasons)
    assert sum(c.missing for c in verdict.classes) == row.missing
    assert sum(c.extra for c in verdict.classes) == row.extra


def test_other_inputs_are_tried_before_giving_up(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    inner = proof._Proof._run

    def blind(self: Any, *args: Any) -> None:
        seeds.append(self.settings.seed)
        inner(self, *args)
        if self.settings.seed < 2:  # as if these inputs had shown too little
            self.ledger.unshown = True
            self.ledger.doubt("column 3 was never seen")

    monkeypatch.setattr(proof._Proof, "_run", blind)
    verdict = check(NMS, CUT)
    assert seeds == [0, 1, 2]
    assert verdict.status == "passed"
    assert verdict.feeds[0].startswith("seed ")
    assert any("other synthetic inputs showed" in note for note in verdict.notes)
    seeds.clear()
    assert check(NMS, CUT, settings=Settings(searches=0)).status == "inconclusive"
    image = np.zeros((1, 3, 12, 12), np.float32)
    check(NMS, CUT, feeds=[NamedFeed("mine", {"image": image})])
    assert seeds == [0, 0]  # the user's own inputs are not exchanged for others


RARE = """<ir_version: 8, opset_import: ["": 17],
            metadata_props: ["names": "['cat', 'dog', 'fox', 'owl', 'bee']"]>
  g (float[1,3,16,16] image) => (int64[D,3] picks, float[1,5,16] scores)
  <float[5,3,4,4] cls_w, float[1,3,4,4] obj_w, float[1] obj_b, float[1,16,4] boxes,
   int64[3] wide = {1,5,16}, int64[3] narrow = {1,1,16},
   int64[1] most = {10}, float[1] overlap = {0.5}, float[1] least = {0.3}> {
    c = Conv <strides = [4, 4]> (image, cls_w)  logits = Reshape (c, wide)  cp = Sigmoid (logits)
    o = Conv <strides = [4, 4]> (image, obj_w, obj_b)  ol = Reshape (o, narrow)  op = Sigmoid (ol)
    scores = Mul (cp, op)
    picks = NonMaxSuppression (boxes, scores, most, overlap, least) }"""


def rare(rarity: float) -> onnx.ModelProto:
    """A detector whose scores are times an objectness that the picture has to earn."""
    corner = np.stack(np.meshgrid(np.arange(4), np.arange(4)), -1).reshape(1, 16, 2) * 4.0
    model = from_text(RARE)
    said = {"obj_b": np.array([-rarity]), "boxes": np.concatenate([corner, corner + 4], 2)}
    for tensor in model.graph.initializer:
        if tensor.name in said:
            value = said[tensor.name].astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    return model


def test_inputs_are_searched_for_those_on_which_something_is_found() -> None:
    assert hc.cut(rare(-1), "cat,owl", provider="cpu").verdict.feeds[0].startswith("synthetic 0")
    verdict = hc.cut(rare(16), "cat,owl", provider="cpu").verdict
    assert verdict, verdict.lines()
    assert all(name.startswith("seed ") for name in verdict.feeds)
    assert sum(row.matched for row in verdict.outputs) > 5


@pytest.mark.parametrize("rarity", [34, 40])
def test_what_no_input_shows_is_told_by_name_with_what_to_do(
    rarity: float, tmp_path: Path, run_here: Callable[..., Done]
) -> None:
    """The objectness is so near to nothing that no class moves even the scores."""
    model = rare(rarity)
    onnx.save(model, tmp_path / "rare.onnx")
    asked = ("cut", "rare.onnx", "--keep", "cat,owl", "--output", "cut.onnx")
    done = run_here(*asked)
    words = " ".join(done.out.split())
    assert done.code == 1
    assert "Validated inconclusive" in words
    assert "detections of cat (column 0), owl (column 3) were never seen" in words
    assert "give pictures in which the original finds these classes (--image, --input)" in words
    assert not (tmp_path / "cut.onnx").exists()
    weight = next(t for t in model.graph.initializer if t.name == "obj_w")
    np.savez("mine.npz", image=2 * np.tile(numpy_helper.to_array(weight), (1, 1, 4, 4)))
    done = run_here(*asked, "--input", "mine.npz")
    assert done.code == 0, done.out + done.err


def test_ties_are_told_from_wrong_ids() -> None:
    group = d.Group(("o",), 0, (), tuple(d.Column("o", k) for k in range(3)), score=1, labels=(0,))

    def is_tied(expected: list[list[float]], got: list[list[float]]) -> bool:
        a, b = np.array(expected, float), np.array(got, float)
        return d.tied(group, d.match(a, b, np.zeros_like(a)), a, b)

    rows = [[1, 0.5, 10], [2, 0.5, 20], [3, 0.25, 30]]
    assert is_tied(rows, [rows[0], [2, 0.5, 21], rows[2]])
    assert not is_tied(rows, [rows[0], rows[1], [3, 0.25, 31]])
    assert not is_tied(rows, [rows[0], [4, 0.5, 20], rows[2]])
    assert not is_tied(rows, rows)


# --------------------------------------------------------------------------------- tolerances


def test_tolerances_widen_by_provider_and_exact_stays_exact() -> None:
    assert TOLERANCES["float32"].on("cpu") == TOLERANCES["float32"].on("cuda")
    assert TOLERANCES["float32"].on("tensorrt").relative == pytest.approx(1e-3)
    assert EXACT.on("coreml") == EXACT


def test_a_tolerance_can_be_said_for_an_output(
    model_path: Path, tmp_path: Path, run_here: Callable[..., Done]
) -> None:
    path = tmp_path / "cut.onnx"
    hc.cut(model_path, "fox,cat", path, validation=False)
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.name.startswith("box0_w"):
            values = numpy_helper.to_array(tensor) * np.float32(1.001)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    model.ClearField("metadata_props")  # as of another tool: held by its numbers alone
    onnx.save(model, path)
    arguments = ("validate", model_path, path, "--keep", "fox,cat", "--provider", "cpu")
    assert run_here(*arguments).code == 1
    assert run_here(*arguments, "--tolerance", "boxes=1e-2,1e-3").code == 0
    for wrong in ("boxes", "=1", "boxes=x", "boxes=-1", "boxes=nan"):
        done = run_here(*arguments, "--tolerance", wrong)
        assert (done.code, "scores=1e-3" in done.err) == (2, True)
    done = run_here(*arguments, "--tolerance", "boxen=1e-3")
    assert (done.code, "'scores', 'boxes'" in done.err) == (2, True)


def test_a_cut_takes_tolerances_too(model_path: Path, run_here: Callable[..., Done]) -> None:
    arguments = ("cut", model_path, "--keep", "fox,cat", "--provider", "cpu", "--output", "out.onnx")
    assert run_here(*arguments, "--tolerance", "boxes=1e-2,1e-3").code == 0
    done = run_here(*arguments, "--force", "--tolerance", "scores=no")
    assert (done.code, "--tolerance cannot take" in done.err) == (2, True)
