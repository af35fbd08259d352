"""The record of a cut in the metadata."""

import ast
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_headcut.classes import (
    Classes,
    Names,
    cut_metadata,
    find_names,
    load_names,
    read_cut_metadata,
    resolve,
)
from onnx_headcut.classes.names import rewrite
from onnx_headcut.errors import InputError, UsageError

ABC = ("a", "b", "c")
BG = "background"


def classes_of(*names: str | None, background: int | None = None) -> Classes:
    return Classes(len(names), background, "", background_assumed=False, names=names)


@pytest.mark.parametrize(
    ("background", "keep", "columns", "after"),
    [(0, (3, 1), (0, 3, 1), 0), (4, (3, 1), (3, 1, 4), 2), (2, (3, 1), (3, 2, 1), 1)],
)
def test_background_keeps_its_side(
    background: int, keep: tuple[int, ...], columns: tuple[int, ...], after: int
) -> None:
    names = tuple(BG if i == background else f"c{i}" for i in range(5))
    classes = classes_of(*names, background=background)
    assert classes.columns(keep) == columns
    cut = classes.cut(keep)
    assert (cut.count, cut.background) == (3, after)
    assert cut.names == tuple(names[column] for column in columns)


@pytest.mark.parametrize(
    ("key", "old", "new"),
    [
        ("names", "{0: 'a', 1: 'b', 2: 'c'}", "{0: 'c', 1: 'a'}"),
        ("names", "{1: 'a', 2: 'b', 3: 'c'}", "{1: 'c', 2: 'a'}"),
        ("names", "{'0': 'a', '1': 'b', '2': 'c'}", "{'0': 'c', '1': 'a'}"),
        ("names", "['a', 'b', 'c']", "['c', 'a']"),
        ("names", '{"0": "a", "1": "b", "2": "é"}', '{"0": "c", "1": "a"}'),
        ("classes", '["background", "a", "b", "c"]', '["background", "c", "a"]'),
        ("labels", "a,b,c", "c,a"),
        ("labels", "a, b, c", "c, a"),
        ("labels", "a\nb\nc", "c\na"),
        ("names", '{"names": {"0": "a"}}', '["c", "a"]'),
        ("labels", "yolo", "yolo"),
        ("stride", "[8, 16, 32]", "[8, 16, 32]"),
    ],
)
def test_names_keep_their_form(key: str, old: str, new: str) -> None:
    classes = resolve(4, names=Names(ABC, "labels given"), background="first", activation="softmax")
    kept = classes.map_of((3, 1))
    metadata = cut_metadata({key: old}, classes, kept, source_sha256="00", version="1")
    assert metadata[key] == new
    assert rewrite("yolo", ["c"]) == "yolo"


def test_record_is_as_documented() -> None:
    classes = resolve(4, names=Names(ABC, "labels given"), background="last", activation="softmax")
    kept = classes.map_of((2, 0))
    metadata = cut_metadata({"date": "today"}, classes, kept, source_sha256="ff", version="0.1")
    assert metadata == {
        "date": "today",
        "onnx_headcut.version": "0.1",
        "onnx_headcut.source_sha256": "ff",
        "onnx_headcut.keep": "[2, 0, 3]",
        "onnx_headcut.names": '["c", "a", "background"]',
        "onnx_headcut.background": "2",
    }


def test_unknown_names_leave_the_metadata() -> None:
    classes = resolve(3, activation="sigmoid")
    old = {"names": "{0: 'a', 1: 'b', 2: 'c'}"}
    metadata = cut_metadata(old, classes, classes.map_of((1,)), source_sha256="", version="1")
    assert "names" not in metadata
    assert metadata["onnx_headcut.names"] == "[null]"


texts = st.text(st.characters(exclude_categories=["Cs"]))
names_or_none = st.none() | texts.map(lambda text: f"n{text.strip()}".strip())


@given(st.data(), texts, texts)
def test_a_cut_can_be_cut_again(data: st.DataObject, sha: str, version: str) -> None:
    known = data.draw(st.booleans())
    count = data.draw(st.integers(2, 9))
    background = data.draw(st.none() | st.integers(0, count - 1))
    entries = data.draw(st.lists(names_or_none, min_size=count, max_size=count)) if known else []
    named = any(name for i, name in enumerate(entries) if i != background)
    names = tuple(BG if i == background else name for i, name in enumerate(entries)) if named else ()
    classes = Classes(count, background, "", background_assumed=False, names=names)
    columns = [column for column in range(count) if column != background]
    foreign = {"names": str(dict(enumerate("xyz")))}
    metadata: dict[str, str] = foreign
    source = classes
    for _ in range(2):
        keep = data.draw(st.permutations([c for c in columns if c != classes.background]))
        keep = keep[: data.draw(st.integers(1, len(keep)))]
        kept = classes.map_of(keep)
        metadata = cut_metadata(metadata, classes, kept, source_sha256=sha, version=version)
        source, classes = classes, classes.cut(keep)
        columns = list(range(classes.count))

        record = read_cut_metadata(metadata)
        assert record is not None
        assert (record.version, record.source_sha256) == (version, sha)
        assert (record.keep, record.background) == (source.columns(keep), classes.background)
        again = resolve(classes.count, names=find_names(None, metadata), activation="none")
        expected = (
            classes.names
            if any(name for i, name in enumerate(classes.names) if i != classes.background)
            else ()
        )
        assert (again.background, again.names) == (classes.background, expected)
        assert not again.background_assumed
        if names:
            rewritten = ast.literal_eval(metadata["names"])
            assert len(rewritten) == len(keep)
        else:
            assert "names" not in metadata


GOOD = {
    "version": "1",
    "source_sha256": "ff",
    "keep": "[0, 3]",
    "names": '["background", "c"]',
    "background": "0",
}


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        *[(key, None, "is missing") for key in GOOD],
        ("keep", "[0,", "is not JSON"),
        ("keep", "3", "is no list"),
        ("keep", "[]", "is no list of columns"),
        ("keep", "[0, true]", "is no list of columns"),
        ("keep", "[0, -3]", "is no list of columns"),
        ("names", '["background"]', "has 1 entries for 2 columns"),
        ("names", '["background", 3]', "holds more than names and null"),
        ("background", "1", "is 1, which its names do not call so"),
        ("background", "false", "is False, which"),
        ("background", "null", "is null, but its names call column 0 so"),
    ],
)
def test_malformed_record(key: str, value: str | None, problem: str) -> None:
    entries = {**GOOD, key: value}
    metadata = {f"onnx_headcut.{k}": v for k, v in entries.items() if v is not None}
    with pytest.raises(InputError, match=re.escape(f"'onnx_headcut.{key}' {problem}")):
        read_cut_metadata(metadata)
    with pytest.raises(InputError, match="cut the original again"):
        find_names(None, metadata)
    assert find_names("voc", metadata) == load_names("voc")


def test_recorded_names_are_columns() -> None:
    names = Names((None, "a", "bg"), "record of a former cut", recorded=True)
    classes = resolve(3, names=names, activation="softmax")
    assert (classes.background, classes.background_assumed) == (None, False)
    assert classes.names == names.entries
    for count in (2, 4):
        with pytest.raises(UsageError, match=r"2 names \(record of a former cut\) do not"):
            resolve(count, names=names, activation="softmax")


def test_no_record() -> None:
    assert read_cut_metadata({"names": "['a']", "keep": json.dumps([1])}) is None


def test_record_backs_other_labels() -> None:
    record = read_cut_metadata({f"onnx_headcut.{key}": value for key, value in GOOD.items()})
    assert record is not None
    classes = resolve(
        2, names=Names(("car",), "labels given"), activation="none", evidence=record.evidence
    )
    assert (classes.background, classes.names) == (0, (BG, "car"))
    assert classes.background_why == "one label fewer than columns; record of a former cut"
