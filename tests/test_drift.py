"""Drift on pictures: what a right cut changes all the same."""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from onnx_headcut import Cut, cut
from onnx_headcut.drift import decode, mapped, measure, precision
from onnx_headcut.drift.boxes import Detections, from_centres, overlaps, suppressed
from onnx_headcut.drift.matching import pair
from onnx_headcut.errors import InputError
from onnx_headcut.tracing.plan import OutputClasses

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from conftest import Done

ROOT = Path(__file__).parent.parent
SHAPES = ROOT / "models" / "shapes" / "ssd_shapes_ts_softmax.onnx"
KEEP = ("heart", "star", "circle")
FED = (100, 50)


@pytest.fixture(scope="session")
def shapes_cut() -> Cut:
    return cut(SHAPES, KEEP, provider="cpu")


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn pictures with annotations in COCO's format beside them."""
    sys.path.insert(0, str(ROOT))
    from models.shapes.pictures import NAMES, picture  # noqa: PLC0415

    folder = tmp_path_factory.mktemp("pictures")
    images, objects = [], []
    for seed in range(24):
        pixels, boxes, labels = picture(seed)
        Image.fromarray(pixels).save(folder / f"{seed:02}.png")
        images.append({"id": seed, "file_name": f"{seed:02}.png", "width": 128, "height": 128})
        for (x0, y0, x1, y1), k in zip(boxes.tolist(), labels.tolist(), strict=True):
            at = {"id": len(objects) + 1, "image_id": seed, "category_id": int(k)}
            objects.append(at | {"bbox": [x0, y0, x1 - x0, y1 - y0]})
    categories = [{"id": k, "name": name} for k, name in enumerate(NAMES) if k]
    data = {"images": images, "annotations": objects, "categories": categories}
    (folder / "objects.json").write_text(json.dumps(data))
    return folder


def subject(result: Cut) -> measure.Subject:
    assert result.verdict is not None
    import onnx  # noqa: PLC0415

    proto = onnx.load(SHAPES)
    columns = mapped.columns_of(result.class_map, result.classes)
    return measure.Subject(SHAPES, result.model, proto, result.plan, result.classes, result.verdict,
                           columns)  # fmt: skip


def test_a_softmax_over_fewer_classes_raises_scores_and_answers_for_dropped_ones(
    shapes_cut: Cut, pictures: Path
) -> None:
    images = measure.pictures_in(pictures)
    found = measure.measure(subject(shapes_cut), images, annotations=pictures / "objects.json")
    assert [row.name for row in found.classes] == list(KEEP)
    assert found.total("matched") > 5
    assert found.total("lost") == 0
    assert found.score_change[0] > 0
    assert found.total("gained") >= found.total("on_dropped") > 0
    before, after = found.mean("ap50_before"), found.mean("ap50_after")
    assert before is not None
    assert after is not None
    assert before > 0.7
    assert found.annotated == 24
    text = json.dumps(found.to_json(), allow_nan=False) + "\n".join(found.lines())
    assert str(pictures) not in text
    assert "where a dropped object is" in text


def test_pictures_that_cannot_be_read_are_left_out_by_name(
    shapes_cut: Cut, pictures: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes((pictures / "00.png").read_bytes())
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    Image.fromarray(np.zeros((9, 9), np.uint16)).save(tmp_path / "deep.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "._a.png").write_bytes(b"of macOS")
    images = measure.pictures_in(tmp_path)
    assert [path.name for path in images] == ["a.png", "broken.jpg", "deep.png"]
    found = measure.measure(subject(shapes_cut), images)
    assert [p.path.name for p in found.pictures] == ["a.png"]
    (note,) = found.notes
    assert note.startswith("2 pictures left out: broken.jpg: not a picture")
    assert "deep.png: not a picture of 8 bits" in note
    with pytest.raises(InputError, match=r"broken\.jpg"):
        measure.measure(subject(shapes_cut), images[1:])


def test_nothing_found_and_nothing_annotated_are_not_told_as_no_change(
    shapes_cut: Cut, tmp_path: Path
) -> None:
    Image.new("RGB", (128, 128)).save(tmp_path / "empty.png")
    image = {"id": 1, "file_name": "empty.png", "width": 128, "height": 128}
    zebra = {"id": 1, "image_id": 1, "category_id": 7, "bbox": [0, 0, 5, 5]}
    data = {"images": [image], "categories": [{"id": 7, "name": "zebra"}], "annotations": [zebra]}
    (tmp_path / "objects.json").write_text(json.dumps(data))
    images = measure.pictures_in(tmp_path)
    found = measure.measure(subject(shapes_cut), images, annotations=tmp_path / "objects.json")
    assert "nothing is known of scores" in found.lines()[1]
    assert found.notes == (f"no average precision: no annotated object is called {', '.join(KEEP)}",)


def test_a_cut_to_everything_drifts_nowhere(pictures: Path) -> None:
    result = cut(SHAPES, "1-14", provider="cpu")
    found = measure.measure(subject(result), measure.pictures_in(pictures)[:3])
    assert found.score_change == (0.0, 0.0)
    assert found.total("gained") == found.total("lost") == found.total("moved") == 0


def as_they_are(folder: Path, spec: str, **how: Any) -> measure.DriftReport:
    """Drift of a class map, on annotated pictures."""
    result = cut(SHAPES, spec, provider="cpu", **how)
    return measure.measure(subject(result), measure.pictures_in(folder),
                           annotations=folder / "objects.json")  # fmt: skip


def test_a_merged_class_is_held_against_all_that_it_is_made_of(pictures: Path) -> None:
    apart = as_they_are(pictures, "1-14")
    merged = as_they_are(pictures, "round=circle|ring|hexagon, 2-5, 7-11, 13-14", scores="exact")
    assert merged.classes[0].sources == (1, 6, 12)
    parts = [row for row in apart.classes if row.column in (1, 6, 12)]
    assert 0 < merged.classes[0].before <= sum(row.before for row in parts)
    assert merged.total("lost") == 0
    assert merged.classes[0].matched == merged.classes[0].before
    rest = {row.name: row for row in merged.classes[1:]}
    for row in apart.classes:
        if row not in parts:
            assert row.after == rest[row.name].after
            assert row.ap50_after == rest[row.name].ap50_after
    assert merged.classes[0].ap50_before is not None
    assert merged.classes[0].ap50_after == pytest.approx(merged.classes[0].ap50_before, abs=0.05)


def test_a_new_class_has_nothing_to_be_held_against(pictures: Path) -> None:
    known = as_they_are(pictures, "heart, star, circle")
    grown = as_they_are(pictures, "heart, heart, square=new, drone=new(copy star), star, circle")
    names = [row.name for row in grown.classes]
    assert names == ["heart", "heart", "square", "drone", "star", "circle"]
    first, second, square, drone, *old = grown.classes
    assert (first.before, first.after, first.matched) == (second.before, second.after, second.matched)
    for row in (square, drone):
        assert row.sources == ()
        assert row.before == row.gained == row.lost == 0
        assert row.ap50_before is None
    assert square.ap50_after == 0  # of the squares in the annotations, which it does not know yet
    assert sum(row.before for row in (first, *old)) == known.total("before") > 5
    said = "new classes, of which the original knows nothing: 0 of square, 0 of drone"
    assert said in str(grown.lines())


def test_the_page_and_the_document_of_a_map(pictures: Path, run_here: Callable[..., Done]) -> None:
    spec = "round=circle|ring, heart, heart, drone=new(copy star)"
    done = run_here("cut", SHAPES, "--keep", spec, "--images", pictures, "--annotations",
                    pictures / "objects.json", "--report", "r.html", "--output", "cut.onnx", "--json",
                    "--provider", "cpu")  # fmt: skip
    assert done.code == 0, done.err
    rows = json.loads(done.out)["drift_on_pictures"]["classes"]
    assert [(row["name"], row["sources"]) for row in rows] == [
        ("round", [1, 6]), ("heart", [7]), ("heart", [7]), ("drone", []),
    ]  # fmt: skip
    page = Path("r.html").read_text("utf-8")
    assert "round 0." in page
    assert re.search(r"knows nothing: \d+ of drone", page)


def test_detections_of_members_are_one_object() -> None:
    boxes = np.array([[0, 0, 1, 1], [0, 0, 1, 0.9], [0.5, 0.5, 1, 1], [0, 0, 0.2, 0.2]])
    found = Detections(boxes, np.array([2, 3, 3, 5]), np.array([0.9, 0.8, 0.7, 0.6]))
    both = mapped.Column(1, 2, "m", (2, 3), frozenset())
    again = mapped.Column(2, 3, "c", (3,), frozenset())
    seen = mapped.as_columns(found, [both, again, mapped.Column(3, 7, "new", (), frozenset())])
    assert seen.columns.tolist() == [1, 2, 1, 2, mapped.OTHER]
    assert seen.scores.tolist() == [0.9, 0.8, 0.7, 0.7, 0.6]


# ---------------------------------------------------------------------------------- decoding


def outputs(*kinds: tuple[str, str, int | None]) -> list[OutputClasses]:
    return [OutputClasses(name, None, kind, axis) for name, kind, axis in kinds]


def decoded(
    values: dict[str, Any], said: Sequence[OutputClasses], background: int | None = None
) -> Detections:
    reader = decode.Decoder(said, (0, 1, 2), {0.0: 0, 1.0: 1, 7.0: 2}, background)
    arrays = {name: np.asarray(value, np.float32) for name, value in values.items()}
    return reader.read(arrays, FED, (400, 200))


def test_rows_in_three_outputs_are_read() -> None:
    said = outputs(("a", "detections", None), ("b", "class ids", None), ("c", "detections", None))
    values = {"a": [[[10, 10, 20, 20], [0, 0, 50, 25]]], "b": [[7, 1]], "c": [[0.4, 0.9]]}
    found = decoded(values, said)
    assert found.columns.tolist() == [1, 2]
    assert found.boxes[0].tolist() == [0, 0, 0.5, 0.5]


def test_tensorflow_has_y_first_and_rows_of_six_are_read() -> None:
    said = outputs(("n", "class ids", None))
    values = {"TFLite_Detection": [[[0.1, 0.2, 0.3, 0.4]]], "n": [[0]], "scores": [[0.8]]}
    assert decoded(values, said).boxes[0] == pytest.approx([0.2, 0.1, 0.4, 0.3])
    six = decoded({"rows": [[40, 20, 80, 40, 0.7, 7]]}, outputs(("rows", "detections", None)))
    assert (six.columns.tolist(), six.boxes[0].tolist()) == ([2], [0.4, 0.4, 0.8, 0.8])


def test_boxes_and_scores_in_one_tensor_on_either_axis_are_read() -> None:
    row = [50, 25, 20, 10, 0.1, 0.9, 0.2]
    for axis, value in ((2, [[row, row]]), (1, np.array([[row, row]]).transpose(0, 2, 1))):
        found = decoded({"y": value}, outputs(("y", "scores", axis)))
        assert (len(found), found.columns.tolist()) == (1, [1])
        assert found.boxes[0] == pytest.approx([0.4, 0.4, 0.6, 0.6])


def test_what_needs_anchors_is_not_guessed() -> None:
    raw = np.random.default_rng(0).normal(size=(1, 9, 4))
    said = outputs(("s", "scores", 2))
    with pytest.raises(decode.CannotDecode, match="anchors"):
        decoded({"s": np.full((1, 9, 3), 0.9), "b": raw}, said)
    with pytest.raises(decode.CannotDecode, match="level"):
        decoded({}, outputs(("s", "scores", 2), ("t", "scores", 2)))
    with pytest.raises(decode.CannotDecode, match="class ids"):
        decoded({"x": [1.0]}, [])


def test_boxes_in_cells_of_a_grid_are_read() -> None:
    fed = (64, 96)
    cells = [(w, t, s) for s in (8, 16, 32) for t in range(96 // s) for w in range(64 // s)]
    rows = np.zeros((1, len(cells), 7))
    rows[..., 4:] = [1, 0, 0]
    at = cells.index((1, 2, 16))
    rows[0, at] = [0.5, 0.25, np.log(2), 0, 0.9, 0, 1]
    columns = decode.Decoder(outputs(("y", "scores", 2)), range(2), {}, None)
    found = columns.read({"y": rows}, fed, fed)
    assert (len(found), found.columns.tolist()) == (1, [1])
    assert found.boxes[0] * [64, 96, 64, 96] == pytest.approx([8, 28, 40, 44])
    # As many rows as there are no cells: nothing says where their boxes are.
    many = np.tile(rows, (1, 9, 1))
    many[..., 0] = 5
    with pytest.raises(decode.CannotDecode, match="anchors"):
        columns.read({"y": many}, fed, fed)


def test_what_cannot_be_told_is_not_told_as_nothing(
    pictures: Path, model_path: Path, run_here: Callable[..., Done]
) -> None:
    done = run_here("cut", model_path, "--keep", "cat,dog", "--images", pictures, "--report", "r.html",
                    "--output", "cut.onnx", "--json", "--provider", "cpu")  # fmt: skip
    assert done.code == 0, done.err
    drift = json.loads(done.out)["drift_on_pictures"]
    assert (drift["classes"], len(drift["notes"])) == ([], 1)
    page = Path("r.html").read_text("utf-8")
    assert "detections cannot be told from the outputs" in page
    assert ">Pictures<" not in page
    assert "0 detections" not in page


def test_raw_scores_become_probabilities() -> None:
    logits = np.array([[0.0, 2.0, -3.0]])
    assert decode.probabilities(logits, softmax=True).sum() == pytest.approx(1)
    assert decode.probabilities(logits, softmax=False)[0, 0] == pytest.approx(0.5)


# ---------------------------------------------------------------------------------- arithmetic


def test_overlap_and_suppression() -> None:
    boxes = np.array([[0, 0, 2, 2], [1, 0, 3, 2], [5, 5, 5, 5]], np.float64)
    assert overlaps(boxes, boxes)[0].tolist() == pytest.approx([1, 1 / 3, 0])
    same = Detections(boxes[[0, 0, 1]], np.array([1, 1, 1]), np.array([0.9, 0.8, 0.7]))
    assert len(suppressed(same)) == 2
    assert from_centres(np.array([[2.0, 2, 2, 4]])).tolist() == [[1, 0, 3, 4]]


def test_pairs_are_of_one_class_and_place() -> None:
    far, near, box = [0.6, 0.6, 0.9, 0.9], [0.1, 0.1, 0.32, 0.3], [0.1, 0.1, 0.3, 0.3]
    before = Detections(np.array([box, far]), np.array([1, 9]), np.array([0.9, 0.8]))
    after = Detections(np.array([near, far, far]), np.array([1, 1, 2]), np.array([0.9, 0.5, 0.4]))
    found = pair(before, after, frozenset({1, 2}))
    assert (found.pairs, found.lost) == (((0, 0),), ())
    assert found.moved == {(0, 0)}
    assert found.gained == found.on_dropped == (1, 2)


def annotated(*boxes: Sequence[float], crowd: Sequence[bool] = ()) -> list[precision.Annotated]:
    """Cats at corners in fractions of a picture of 100 by 100 pixels."""
    flags = [*crowd, *[False] * (len(boxes) - len(crowd))]
    return [
        precision.Annotated("cat", [100 * v for v in (x0, y0, x1 - x0, y1 - y0)], flag)
        for (x0, y0, x1, y1), flag in zip(boxes, flags, strict=True)
    ]


def found_at(*rows: tuple[float, Sequence[float]]) -> Detections:
    boxes = np.array([box for _, box in rows], np.float64).reshape(-1, 4)
    return Detections(boxes, np.ones(len(rows), np.int64), np.array([s for s, _ in rows]))


def truth_of(**objects: list[precision.Annotated]) -> precision.Truth:
    return precision.Truth(dict.fromkeys(objects, (100.0, 100.0)), objects)


def test_average_precision_by_hand() -> None:
    box, other = [0.0, 0, 0.2, 0.2], [0.5, 0.5, 0.9, 0.9]
    truth = truth_of(a=annotated(box), b=annotated(box))

    def at_half(**found: Detections) -> float | None:
        return precision.of_columns(found, truth, {1: {"cat"}})[1][0]

    assert at_half(a=found_at((0.9, box)), b=found_at((0.8, box))) == pytest.approx(1)
    wrong_first = found_at((0.9, other), (0.8, box), (0.7, box))
    assert at_half(a=wrong_first, b=found_at()) == pytest.approx(0.5 * 51 / 101)
    assert at_half(a=found_at(), b=found_at()) == 0
    # Half of its side is shared: right at 0.5, wrong from 0.55 on.
    near = {"a": found_at((0.9, [0, 0, 0.2, 0.11])), "b": found_at((0.9, [0, 0, 0.2, 0.11]))}
    half, mean = precision.of_columns(near, truth, {1: {"cat"}})[1]
    assert (half, mean) == pytest.approx((1, 0.2))  # 0.5 and 0.55 of ten
    crowded = truth_of(a=annotated(box, other, crowd=[False, True]))
    inside = {"a": found_at((0.9, [0.52, 0.52, 0.54, 0.54]), (0.8, box))}
    assert precision.of_columns(inside, crowded, {1: {"cat"}})[1] == pytest.approx((1, 1))


def test_precision_is_told_of_classes_as_the_cut_has_them() -> None:
    box = [0.1, 0.1, 0.4, 0.4]
    truth = truth_of(a=annotated(box))
    found = {"a": found_at((0.9, box)), "not annotated": found_at((1.0, box))}
    told = precision.of_columns(found, truth, {0: {"cat"}, 1: {"cat", "dog"}, 5: {"dog"}})
    assert told == {0: (0, 0), 1: pytest.approx((1, 1)), 5: (None, None)}
    assert precision.of_columns({}, truth, {1: {"cat"}}) == {1: (None, None)}
    assert precision.of_columns({"a": found_at()}, truth_of(a=[]), {1: {"cat"}}) == {1: (None, None)}


def test_precision_is_what_pycocotools_says_of_the_same_files(tmp_path: Path) -> None:
    """Fractions, names and numbering lose nothing: the plain way through pycocotools says the same."""
    from pycocotools.coco import COCO  # noqa: PLC0415
    from pycocotools.cocoeval import COCOeval  # noqa: PLC0415

    rng = np.random.default_rng(0)
    images = [{"id": k, "file_name": f"in/{k:02}.png", "width": 200, "height": 100} for k in range(8)]
    objects: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for k in range(60):
        corner, size = rng.uniform(0, 60, 2), rng.uniform(5, 40, 2)
        item = {"image_id": int(rng.integers(8)), "category_id": int(rng.integers(1, 4))}
        objects.append(item | {"id": k + 1, "bbox": [*corner, *size], "area": float(size.prod()),
                               "iscrowd": int(k % 7 == 0)})  # fmt: skip
        for _ in range(rng.integers(0, 4)):
            near = [*(corner + rng.normal(0, 3, 2)), *(size * rng.uniform(0.7, 1.3, 2))]
            results.append(item | {"bbox": near, "score": float(rng.random())})
    results.sort(key=lambda row: -row["score"])
    path = tmp_path / "objects.json"
    names = [{"id": k, "name": f"Class {k}"} for k in (1, 2, 3, 4)]
    path.write_text(json.dumps({"images": images, "annotations": objects, "categories": names,
                                "info": {}}))  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        told = COCO(str(path))
        run = COCOeval(told, told.loadRes(results), "bbox")
        run.evaluate()
        run.accumulate()
    found = {}
    for image in images:
        mine = [r for r in results if r["image_id"] == image["id"]]
        boxes = np.array([[x, y, x + w, y + h] for x, y, w, h in (r["bbox"] for r in mine)])
        found[f"{image['id']:02}.png"] = Detections(
            boxes.reshape(-1, 4) / [200, 100, 200, 100],
            np.array([r["category_id"] for r in mine], np.int64), np.array([r["score"] for r in mine]),
        )  # fmt: skip
    ours = precision.of_columns(found, precision.read(path), {k: {f"class {k}"} for k in (1, 2, 3, 4)})
    for at, k in enumerate((1, 2, 3)):
        expected = run.eval["precision"][:, :, at, 0, 2]
        assert ours[k] == pytest.approx((expected[0].mean(), expected.mean()), abs=1e-12)
    assert ours[4] == (None, None)


def test_annotations_without_pycocotools_name_the_line_that_brings_it(
    pictures: Path, model_path: Path, run_here: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools.cocoeval", None)
    asked = ("cut", model_path, "--keep", "cat", "--images", pictures, "--annotations",
             pictures / "objects.json", "--output", "cut.onnx")  # fmt: skip
    done = run_here(*asked)
    assert done.code == 2
    assert "--annotations needs pycocotools" in done.err
    assert "pip install 'onnx-headcut[coco]'" in done.err
    assert not Path("cut.onnx").exists()  # said before any work
    assert json.loads(run_here(*asked, "--json").out)["error"]["kind"] == "UsageError"
    done = run_here("cut", model_path, "--keep", "cat", "--images", pictures, "--output", "cut.onnx")
    assert done.code == 0, done.err  # without them, drift needs no pycocotools


def test_letterboxes_are_undone() -> None:
    boxes = np.array([[0.0, 0.25, 1.0, 0.75]])
    assert measure._unletterboxed(boxes, (64, 64), (200, 100), centred=True) == pytest.approx(
        np.array([[0, 0, 1, 1]])
    )


@pytest.mark.parametrize(
    "text", ["[]", "{}", "no", '{"images": [{"id": 1}], "categories": [], "annotations": []}']
)
def test_broken_annotations_are_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "objects.json"
    path.write_text(text)
    with pytest.raises(InputError, match="COCO"):
        precision.read(path)


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(InputError, match=r"picture|folder"):
            measure.pictures_in(folder)
