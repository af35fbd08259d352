"""Class maps: from what a person says, through the graph, to validation."""

from __future__ import annotations

import json
import re
from itertools import product
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import run_cli
from hypothesis import given
from hypothesis import strategies as st

import onnx_headcut as hc
from onnx_headcut.classes import parse_map, read_cut_metadata
from onnx_headcut.classes.background import Classes
from onnx_headcut.classes.mapping import ClassMap, Row, Start, row_of
from onnx_headcut.labels import NONE, Selection, copies
from onnx_headcut.validation.mapped import laid_out

SHAPES = Path(__file__).parents[1] / "models" / "shapes" / "ssd_shapes_ts_softmax.onnx"
NAMES = SHAPES.with_name("names.txt")
KNOWN = ("background", "person", "car", "truck", "bus", "bird", "a=b")


def test_a_map_says_what_it_is() -> None:
    plain = ClassMap.of_columns([0, 3, 1], 4, 0)
    assert plain.plain
    assert not plain.identity
    assert plain.order == plain.selection.order == (0, 3, 1)
    assert ClassMap.of_columns(range(4), 4, 0).identity
    merged = Row(2, ((2, 0.5), (3, 0.5)), merged=True, name="vehicle")
    new = Row(1, (), Start("normal", 0.01), "drone")
    mixed = ClassMap((row_of(0), merged, new, row_of(1), row_of(1)), 4, 0)
    assert not mixed.plain
    assert mixed.repeats
    assert mixed.blended == (1, 2)
    assert np.array_equal(mixed.matrix[1], [0, 0, 0.5, 0.5])
    assert not mixed.matrix[2].any()
    assert [mixed.describe(j) for j in range(3)] == ["0", "2 + 3", "new (normal 0.01), like 1"]
    names = ("background", "vehicle", "drone", None, None)
    read = ClassMap.from_json(mixed.to_json(), names)
    assert read.to_json() == mixed.to_json()
    assert read.rows[1] == merged


@pytest.mark.parametrize("text", ["", "[]", '{"rows": 3}', '{"rows": [{}]}'])
def test_what_is_no_map_is_no_map(text: str) -> None:
    with pytest.raises(ValueError, match="is no class map"):
        ClassMap.from_json(text)


# --- SPEC


def classes_of(*names: str, background: int | None = 0) -> Classes:
    return Classes(len(names), background, "", background_assumed=False, names=names)


@pytest.mark.parametrize(
    ("spec", "rows"),
    [
        ("person, person", "0; 1; 1"),
        ("bird, person", "0; 5; 1"),
        ("auto=car", "0; auto 2"),
        ("a=b", "0; 6"),
        ('"a=b", x="a=b"|car', "refused"),
        ('x="a=b"|car', "0; x 6 + 2"),
        ("v=1-2|4", "0; v 1 + 2 + 4"),
        ("car=car, v=car|bus", "0; 2; v 2 + 4"),
        ("car=car|truck", "0; 2 + 3"),
        ("drone=new", "0; drone new (normal 0.01), like 1"),
        ("bird, drone=new ( zeros )", "0; 5; drone new (zeros), like 1"),
        ("drone=new(copy bird)", "0; drone new (copy of 5)"),
        ("drone=new(mean car|2-3)", "refused"),
        ("drone=new(mean car|truck), 1", "0; drone new (mean of 2 + 3); 1"),
        ("CAR=new(normal 0.5), 1", "0; new (normal 0.5), like 2; 1"),
        ("1-2=new(zeros)", "0; new (zeros), like 1; new (zeros), like 2"),
        ('"7"=car', "0; 7 2"),
        ("2=2, v=2|4", "0; 2; v 2 + 4"),
    ],
)
def test_what_a_spec_says(spec: str, rows: str) -> None:
    try:
        found = parse_map(spec, classes_of(*KNOWN))
    except hc.UsageError:
        assert rows == "refused"
        return
    said = [f"{row.name or ''} {found.describe(j)}".strip() for j, row in enumerate(found.rows)]
    assert "; ".join(said) == rows


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("vehicle=", "is an empty merge"),
        ("vehicle=car|", "a member of it is empty"),
        ("=car", "no name before the '='"),
        ("vehicle=car|background", "merges across the background"),
        ("drone=new(copy background)", "copies the background"),
        ("drone=new(copy)", "does not say of which class"),
        ("drone=new(mean )", "does not say of which class"),
        ("car=new, car", "the name 'car' is given twice"),
        ("car, bus, car=new(copy bus)", "the name 'car' is given twice"),
        ("car=car|bus, car=car", "the name 'car' is given twice"),
        ("v=new, v=new(zeros)", "the name 'v' is given twice"),
        ("background=new", "the background cannot start anew"),
        ("background=car", "can be called as the background is"),
        ("car=truck, truck=car", "the names would run in a circle"),
        ("x=y, y=x", "'y' is a name that this SPEC gives"),
        ("car, vehicle=car|truck", "car=car keeps it beside the merge"),
        ("1-3, vehicle=car|bus", "is also a member of 'vehicle=car|bus'"),
        ("1-3, 2", "repeated by naming it twice by itself"),
        ("vehicle=car|car", "names a class twice"),
        ("v=car, v=bus", "the name 'v' is given twice"),
        ("drone=new(copi bird)", "a class starts as new"),
        ("drone=new(copy car|bus)", "Say mean instead of copy"),
        ("drone=new(copy birb)", "The nearest names: bird"),
        ("vehicle=car|trukc", "The nearest names: truck"),
        ("drone=new(normal 0)", "no standard deviation above 0"),
        ("drone=new(normal much)", "no standard deviation above 0"),
        ("drone=new(zeros 3)", "zeros need no '3'"),
        ("7=car", "reads as an id"),
        ("2=2|4", "reads as an id"),
        ("2, v=2|4", "2=2 keeps it beside the merge"),
        ("random 7", "there are 6 classes to draw from"),
        ("random 0", "draws no class"),
    ],
)
def test_what_is_refused(spec: str, message: str) -> None:
    with pytest.raises(hc.UsageError, match=re.escape(message)):
        parse_map(spec, classes_of(*KNOWN))


def test_any_classes_by_seed() -> None:
    classes = classes_of("background", *(f"c{i}" for i in range(40)))
    one, two = (parse_map("c7, random 8", classes, seed=seed) for seed in (0, 1))
    assert one == parse_map("c7, random 8", classes, seed=0)
    assert one.order != two.order
    for found in (one, two):
        drawn = found.order[2:]
        assert found.order[:2] == (0, 8)
        assert list(drawn) == sorted(set(drawn) - {0, 8})
        assert len(drawn) == 8


# --- the grid of anchors and classes


@given(st.data())
def test_repeated_columns_stay_on_the_grid(data: st.DataObject) -> None:
    count, anchors = data.draw(st.integers(2, 6)), data.draw(st.integers(1, 4))
    order = data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=9))
    runs, boxes = data.draw(st.booleans()), data.draw(st.integers(0, 2))
    grid = list(product(range(anchors), range(count)))
    if runs:
        grid = sorted(grid, key=lambda place: place[::-1])
        boxes = 0
    cells: list[tuple[int, int]] = []
    for a, c in grid:
        cells += [(a, NONE)] * (boxes if c == 0 and not runs else 0) + [(a, c)]
    selection = Selection(tuple(order), count)
    ids = np.array([c for _, c in cells])
    if sorted(set(order)) != list(dict.fromkeys(order)):
        return  # classes in another order than the graph's are the graph's own affair
    take = selection.take(ids)
    columns = selection.columns_at(ids, take)

    rows = [(j, a) for j in range(len(order)) for a in range(anchors)]
    if not runs:
        rows = sorted(rows, key=lambda row: row[::-1])
    seen = [(int(j), cells[p][0]) for p, j in zip(take, columns, strict=True) if j != NONE]
    assert seen == rows
    assert [order[j] for j, _ in seen] == [cells[p][1] for p in take if cells[p][1] != NONE]
    assert sum(ids[take] == NONE) == boxes * anchors
    # the proof lays columns out by itself, and alike
    assert laid_out(ids.tolist(), order) == list(zip(take.tolist(), columns.tolist(), strict=True))


def test_where_nothing_shows_the_layout_nothing_is_repeated() -> None:
    with pytest.raises(ValueError, match="nothing shows how anchors and classes"):
        Selection((1, 1), 3).take(np.array([1, 1, 1]))
    assert copies(np.array([3, 5, 3, 3])).tolist() == [0, 0, 1, 2]


# --- metadata


def test_a_grown_model_is_cut_again(tmp_path: Path) -> None:
    spec = "star, drone=new, round=circle|ring"
    first = hc.cut(SHAPES, spec, tmp_path / "a.onnx", labels=NAMES, seed=3, provider="cpu")
    assert first.exit_code == 0
    props = onnx.load(tmp_path / "a.onnx").metadata_props
    record = read_cut_metadata({p.key: p.value for p in props})
    assert record is not None
    assert record.map is not None
    assert record.map.to_json() == first.class_map.to_json()
    assert record.names == ("background", "star", "drone", "round")
    assert record.map.seed == 3

    assert hc.validate(SHAPES, tmp_path / "a.onnx", labels=NAMES, provider="cpu").exit_code == 0
    again = hc.cut(tmp_path / "a.onnx", "round, drone", tmp_path / "b.onnx", provider="cpu")
    assert again.exit_code == 0
    assert again.kept.names == ("background", "round", "drone")
    assert "onnx_headcut.map" not in {p.key for p in again.model.metadata_props}
    assert hc.validate(tmp_path / "a.onnx", tmp_path / "b.onnx", provider="cpu").exit_code == 0


def test_tables_and_json_show_the_map(tmp_path: Path) -> None:
    options = ("--keep", "star, round=circle|ring, drone=new", "--labels", NAMES, "--seed", "2")
    done = run_cli("cut", SHAPES, *options, "--output", tmp_path / "c.onnx")
    assert done.code == 0
    assert "2 round (was 1 + 6), 3 drone (new (normal 0.01), like 2)" in " ".join(done.out.split())
    done = run_cli("cut", SHAPES, *options, "--dry-run", "--json")
    document = json.loads(done.out)
    assert document["keep"] == [0, 4, 1, 2]
    assert document["map"]["seed"] == 2
    assert document["classes"]["after"]["names"] == ["background", "star", "round", "drone"]
    done = run_cli("check", tmp_path / "c.onnx")
    assert "onnx_headcut" not in done.err


def test_original_ids_are_not_for_new_classes() -> None:
    with pytest.raises(hc.UsageError, match="have no id in the original"):
        hc.cut(SHAPES, "star, drone=new", labels=NAMES, ids="original", validation=False)
