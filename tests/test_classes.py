"""Names, background, SPEC and the record of a cut: what is read, and what is refused and how."""

import ast
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_headcut.classes import (
    PRESETS,
    Classes,
    Evidence,
    Names,
    cut_metadata,
    find_names,
    load_names,
    parse_keep,
    read_cut_metadata,
    resolve,
)
from onnx_headcut.classes.names import rewrite
from onnx_headcut.errors import InputError, UsageError

ABC = ("a", "b", "c")
BG = "background"
SLICE = Evidence(0, "the graph drops column 0 by Slice node 'x'")
DROPS_LAST = Evidence(3, "the graph drops column 3 by Slice node 'y'")
NO_BACKGROUND = Evidence(None, "every column reaches an output")


# --- where names come from


def test_presets() -> None:
    assert [len(PRESETS[preset]) for preset in ("coco80", "coco91", "voc")] == [80, 91, 20]
    coco = PRESETS["coco91"]
    assert (coco[1], coco[17], coco[44], coco[90]) == ("person", "cat", "bottle", "toothbrush")
    gaps = [i for i, name in enumerate(coco) if name in {None, "N/A"}]
    assert gaps == [0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83]
    assert (PRESETS["coco80"][0], PRESETS["coco80"][79]) == ("person", "toothbrush")
    assert (PRESETS["voc"][0], PRESETS["voc"][14], PRESETS["voc"][19]) == (
        "aeroplane",
        "person",
        "tvmonitor",
    )
    assert load_names("COCO80") == Names(PRESETS["coco80"], "preset coco80")


PBTXT = """# made by hand
item {
  name: "/m/01g317"  # a MID
  id: 1
  display_name: 'per\\'son'
  keypoints { id: 7 label: "nose" }
}
item < id: 4, name: "caf\\303\\251"; >
other { id: 9 }
"""

FILES = {
    "voc.txt": ("a\nb\nc\n\n", ABC),
    "voc.names": ("\ufeffa \r\n  b\r\nc", ABC),
    "comment.txt": ("# three of them\na\nb\nc", ABC),
    "spaces.txt": ("traffic light\n4 wheeler", ("traffic light", "4 wheeler")),
    "coral.txt": ("1  a\n2  b\n4  traffic light", (None, "a", "b", None, "traffic light")),
    "colon.txt": ("0: a\n1: b\n2: c", ABC),
    "list.json": ('["a", "b", null, 4]', ("a", "b", None, "4")),
    "ids.json": ('{"1": "b", "0": "a", "2": "c"}', ABC),
    "names.json": ('{"nc": 3, "names": {"0": "a", "1": "b", "2": "c"}}', ABC),
    "coco.json": (
        '{"images": [], "categories": [{"id": 2, "name": "b"}, {"id": 1, "name": "a"}]}',
        (None, "a", "b"),
    ),
    "data.yaml": ("path: x\nnc: 3\nnames: [a, b, c]", ABC),
    "data.yml": ("names:\n  0: a\n  1: b\n  2: c", ABC),
    "ids.yaml": ("0: background\n2: b", (BG, None, "b")),
    "map.pbtxt": (PBTXT, (None, "per'son", None, None, "café")),
    "map.txt": (PBTXT, (None, "per'son", None, None, "café")),
}


@pytest.mark.parametrize("name", FILES)
def test_label_files(tmp_path: Path, name: str) -> None:
    text, entries = FILES[name]
    path = tmp_path / name
    path.write_text(text, encoding="utf-8", newline="")
    assert load_names(path) == load_names(str(path)) == Names(entries, f"labels file {name}")


BAD_FILES = {
    "empty.txt": (b"\n\n", "no names in it"),
    "hole.txt": (b"a\n\nb\n", "line 2 is empty"),
    "binary.txt": (b"\x08\x08\x12\0\0", "binary, not text"),
    "latin.txt": (b"caf\xe9", "not UTF-8"),
    "large.txt": (b"a\n" * (9 << 20), "too large"),
    "many.txt": (b"a\n" * 100_001, "too many"),
    "broken.json": (b"[1, 2", "Expecting"),
    "deep.json": (b"[" * 100_000, "recursion"),
    "number.json": (b"80", "found a value of type int"),
    "null.json": (b"null", "found nothing"),
    "nested.json": (b'[["a"]]', "expected a name, found a value of type list"),
    "blank.json": (b'["a", " "]', "name of id 1 is empty"),
    "key.json": (b'{"a": "b"}', "'a' is not a class id"),
    "huge.json": (b'{"999999": "b"}', "'999999' is not a class id"),
    "twice.json": (b'[{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]', "id 1 appears twice"),
    "lacks.json": (b'[{"id": 1}]', "lacks its id or its name"),
    "broken.yaml": (b"names: [a", "expected"),
    "empty.yaml": (b"", "found nothing"),
    "norway.yaml": (b"names: [se, no]", "quotes around"),
    "open.pbtxt": (b"item { id: 1 name: 'a'", "braces do not match"),
    "closed.pbtxt": (b"item { id: 1 }\n }", "unexpected '}' in line 2"),
    "stray.pbtxt": (b"item {\n id: $ }", "unexpected '$' in line 2"),
    "none.pbtxt": (b"a: 1", "no 'item"),
    "id.pbtxt": (b"item { id: -1 name: 'a' }", "'-1' is not a class id"),
    "lacks.pbtxt": (b"item { name: 'a' }", "lacks its id"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_label_files_refused(tmp_path: Path, name: str) -> None:
    content, message = BAD_FILES[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        load_names(path)
    assert name in caught.value.what
    assert "coco91" in caught.value.advice


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("coco8", "'coco8' does not exist"),
        (".", "is a directory"),
        ("a\0b", "cannot read labels file"),
        ([], "no names"),
        ({0: "a", -1: "b"}, "-1 is not a class id"),
        ([True], "no text"),
    ],
)
def test_labels_refused(labels: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_names(labels)


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"names": "{0: 'a', 1: \"b\", 2: 'c'}"}, Names(ABC, "metadata 'names'")),
        ({"classes": '["a", "b", "c"]'}, Names(ABC, "metadata 'classes'")),
        ({"labels": "a, b,c", "classes": "3"}, Names(ABC, "metadata 'labels'")),
        ({"names": "a\nb\nc\n"}, Names(ABC, "metadata 'names'")),
        ({"names": "{0: 'a'", "classes": "('a',)"}, Names(("a",), "metadata 'classes'")),
        ({"names": "yolo", "labels": "{'a': 1}", "author": "[1]"}, None),
        ({}, None),
    ],
)
def test_names_in_metadata(metadata: dict[str, str], expected: Names | None) -> None:
    assert find_names(None, metadata) == expected
    assert find_names("none", metadata) is None
    assert find_names(["x"], metadata) == Names(("x",), "labels given")


# --- the background, by all evidence

VACANT = (None, *ABC)  # ids from 1
LIST_BG = ("__background__", *ABC)

RESOLVED = [
    # count, names, declared, activation, evidence -> background, assumed, names, why
    (4, None, "first", "none", DROPS_LAST, 0, False, (), "declared by --background first"),
    (4, None, "LAST", "softmax", None, 3, False, (), "declared by --background last"),
    (4, None, "none", "softmax", None, None, False, (), "declared by --background none"),
    (4, None, 2, "softmax", None, 2, False, (), "declared by --background 2"),
    (4, None, None, "softmax", None, 0, True, (), "assumed: SSD convention"),
    (4, None, None, "sigmoid", None, None, False, (), "sigmoid scores"),
    (4, None, None, "none", SLICE, 0, False, (), SLICE.why),
    (4, None, None, "softmax", NO_BACKGROUND, None, False, (), NO_BACKGROUND.why),
    (4, ABC, None, "softmax", None, 0, True, (BG, *ABC), "one label fewer than columns; assumed"),
    (4, ABC, None, "sigmoid", None, 0, True, (BG, *ABC), "one label fewer"),
    (4, ABC, None, "none", DROPS_LAST, 3, False, (*ABC, BG), "one label fewer than columns; the "),
    (4, ABC, "1", "none", None, 1, False, ("a", BG, "b", "c"), "declared"),
    (3, ABC, None, "softmax", None, None, True, ABC, "labels name every column"),
    (3, ABC, None, "sigmoid", None, None, False, ABC, "labels name every column"),
    (3, ABC, None, "none", NO_BACKGROUND, None, False, ABC, NO_BACKGROUND.why),
    (4, LIST_BG, None, "none", None, 0, False, (BG, *ABC), "labels name it"),
    (4, (*ABC, "No-Object"), None, "softmax", DROPS_LAST, 3, False, (*ABC, BG), "labels name it"),
    (3, LIST_BG, None, "sigmoid", None, None, False, ABC, "labels' background has no column"),
    (3, (*ABC, "bg"), "none", "softmax", None, None, False, ABC, "declared"),
    (4, VACANT, None, "none", None, 0, False, (BG, *ABC), "labels leave column 0 to it"),
    (4, ("???", *ABC), None, "softmax", None, 0, False, (BG, *ABC), "labels leave column 0"),
    (4, VACANT, "last", "none", None, 3, False, (*ABC, BG), "declared"),
    (4, VACANT, "none", "softmax", None, None, False, VACANT, "declared"),
    (4, VACANT, None, "sigmoid", None, 0, True, (BG, *ABC), "labels leave column 0 to it"),
    (3, VACANT, None, "sigmoid", None, None, False, ABC, "labels name every column"),
    (5, VACANT, "last", "none", None, 4, False, (*VACANT, BG), "declared"),
]


@pytest.mark.parametrize("case", RESOLVED, ids=str)
def test_resolve(case: tuple[object, ...]) -> None:
    count, entries, declared, activation, evidence, background, assumed, names, why = case
    source = None if entries is None else Names(entries, "labels given")
    classes = resolve(
        count, names=source, background=declared, activation=activation, evidence=evidence
    )
    assert (classes.background, classes.background_assumed) == (background, assumed)
    assert (classes.count, classes.names) == (count, names)
    assert why in classes.background_why
    assert classes.names_why == ("labels given" if names else "unknown")


@pytest.mark.parametrize(
    ("count", "declared", "background", "person", "bottle"),
    [
        (91, None, 0, 1, 44),  # torchvision, TensorFlow
        (90, None, None, 0, 43),  # TensorFlow behind the slice that drops the background
        (92, "last", 91, 1, 44),  # DETR
        (91, "none", None, 1, 44),  # Deformable DETR
    ],
)
def test_coco91_fits(
    count: int, declared: str | None, background: int | None, person: int, bottle: int
) -> None:
    names = load_names("coco91")
    classes = resolve(count, names=names, background=declared, activation="sigmoid")
    assert classes.background == background
    assert (classes.names.index("person"), classes.names.index("bottle")) == (person, bottle)


UNRESOLVED = [
    (4, None, "9" * 5000, "softmax", None, "is not one of the head's columns"),
    (5, VACANT, "first", "softmax", None, "3 names (labels given) do not fit the head's 5 columns"),
    # count, names, declared, activation, evidence -> message
    (4, None, None, "none", None, "raw scores without softmax or sigmoid do not show"),
    (4, None, "4", "softmax", None, "--background 4 is not one of the head's columns, 0 to 3"),
    (4, None, "-1", "softmax", None, "--background -1 is not one"),
    (4, None, "bg", "softmax", None, "--background bg is not one"),
    (4, None, None, "softmax", Evidence(4, "sliced"), "sliced: there is no column 4 among 4"),
    (4, ABC, None, "none", None, "3 ids in labels given for 4 columns: one column is the"),
    (5, VACANT, None, "softmax", None, "id 0 has no name either"),
    (4, LIST_BG, None, "softmax", DROPS_LAST, "the background is column 0 by labels given, but"),
    (4, LIST_BG, None, "softmax", NO_BACKGROUND, "but there is no background by the graph"),
    (3, LIST_BG, None, "softmax", SLICE, "there is no background by labels given, but"),
    (
        4,
        LIST_BG,
        "last",
        "softmax",
        None,
        "4 names (labels given) do not fit the head's 4 columns; the",
    ),
    (4, LIST_BG, "none", "softmax", None, "there is no background (declared"),
    (
        3,
        ABC,
        None,
        "softmax",
        SLICE,
        "3 names (labels given) do not fit the head's 3 columns; the back",
    ),
    (3, ABC, "first", "softmax", None, "the background is column 0 (declared"),
    (
        4,
        ABC,
        None,
        "softmax",
        NO_BACKGROUND,
        "3 names (labels given) do not fit the head's 4 columns",
    ),
    (5, LIST_BG, None, "softmax", None, "4 names (labels given) do not fit the head's 5 columns"),
    (6, LIST_BG, None, "softmax", None, "4 names (labels given) do not fit the head's 6 columns"),
    (9, ABC, None, "softmax", None, "3 names (labels given) do not fit the head's 9 columns"),
    (2, ABC, None, "sigmoid", None, "3 names (labels given) do not fit the head's 2 columns"),
    (4, ("bg", "no object", "a", "b"), None, "softmax", None, "more than one background: 'bg' (id"),
    (80, PRESETS["coco91"], None, "sigmoid", None, "90 names (labels given) do not"),
]


@pytest.mark.parametrize("case", UNRESOLVED, ids=str)
def test_unresolved(case: tuple[object, ...]) -> None:
    count, entries, declared, activation, evidence, message = case
    source = None if entries is None else Names(entries, "labels given")
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        resolve(count, names=source, background=declared, activation=activation, evidence=evidence)
    assert "--background" in caught.value.advice or "--labels" in caught.value.advice
    if count == 9:
        assert caught.value.what == message  # not a word of a background
    if count == 80:
        assert "the preset coco80 has that many" in caught.value.advice


# --- SPEC


def classes_of(*names: str | None, background: int | None = None) -> Classes:
    return Classes(len(names), background, "", background_assumed=False, names=names)


COCO = resolve(91, names=load_names("coco91"), activation="softmax")
NAMELESS = resolve(81, background="first", activation="softmax")
ODD = classes_of(BG, "3-5", "7", "a, b", 'say "x"', "Cat", "CAT", "@home", "9", "#1", background=0)


@pytest.mark.parametrize(
    ("spec", "classes", "expected"),
    [
        ("0,3,8,1,2,10,4,6,12", NAMELESS, (3, 8, 1, 2, 10, 4, 6, 12)),
        ("1-8", NAMELESS, tuple(range(1, 9))),
        (" 0 - 2 , 80-80", NAMELESS, (1, 2, 80)),
        ("background, 007", NAMELESS, (7,)),
        ("bg,__Background__,1", COCO, (1,)),
        ("car, person,17,traffic light", COCO, (3, 1, 17, 10)),
        ("Car,TRAFFIC LIGHT", COCO, (3, 10)),
        ("Cat", ODD, (5,)),
        ('"3-5","7" , "a, b","say ""x""","@home"', ODD, (1, 2, 3, 4, 7)),
        ('7-7,#1,say "x"', ODD, (7, 9, 4)),
        ("person", classes_of("person", "car"), (0,)),
        ("0", classes_of("0", "1"), (0,)),
        ("1990", classes_of("1990", "2000"), (0,)),
        (["3-5"], NAMELESS, (3, 4, 5)),
        (["a, b", 'say "x"', '"7"', 7], ODD, (3, 4, 2, 7)),
        ((0, 2, 1), NAMELESS, (2, 1)),
    ],
)
def test_parse_keep(
    spec: str | list[int | str], classes: Classes, expected: tuple[int, ...]
) -> None:
    assert parse_keep(spec, classes) == expected


@pytest.mark.parametrize(
    ("spec", "classes", "message"),
    [
        ("", COCO, "names no class"),
        ([], COCO, "names no class"),
        ("0, background", COCO, "only the background"),
        ("person,,car", COCO, "item 2 of 'person,,car' is empty"),
        ("person,", COCO, "item 2"),
        ('""', COCO, "item 1"),
        ("motorbike", COCO, "The nearest names: motorcycle"),
        ("zzzz", COCO, "There are ids 0 to 90, named background, person"),
        ("person", NAMELESS, "names are not known"),
        ("person", NAMELESS, "ids 0 to 80, or give the names by --labels"),
        ("91", COCO, "the head's ids are 0 to 90"),
        ("9" * 5000, COCO, "the head's ids are 0 to 90"),
        ("1-91", COCO, "there is no class '1-91'"),
        ("-1", COCO, "there is no class '-1': the head's ids"),
        ([-1], COCO, "there is no class '-1': the head's ids"),
        ("8-1", COCO, "the range '8-1' runs backwards"),
        ("5,4-6", NAMELESS, "class 5 (column 5) is to be kept twice"),
        ("N/A", COCO, "'N/A' is the name of 10 columns: 12, 26, 29"),
        ("cat", ODD, "'cat' is the name of 2 columns: 5, 6"),
        ("a", classes_of(*"a" * 12), "columns: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ..."),
        ("3-5", ODD, "'3-5' is a name (column 1) and also reads as ids"),
        ("3-5", ODD, "or the ids as 03-5"),
        ("1", classes_of("1", "1-1", "01"), "or the id as 001"),
        ("7", ODD, 'in quotes, "7", or the id as 7-7'),
        ("bg", classes_of("x", "y"), "There are ids 0 to 1, named x, y."),
        ("@", COCO, "no file name behind the @"),
        ([True], COCO, "True is no class to keep"),
        ([1.5], COCO, "1.5 is no class to keep"),
        ([" "], COCO, "' ' is no class to keep"),
    ],
)
def test_keep_refused(spec: str, classes: Classes, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        parse_keep(spec, classes)


def test_keep_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("keep.txt").write_text(
        '# kept\n3-5, "a #b",\n\n  C#  # a language\nbg\n', encoding="utf-8"
    )
    classes = classes_of(BG, "x", "a #b", "C#", "y", "z", background=0)
    with pytest.raises(UsageError, match=r"kept twice: as '3-5' \(keep.txt, line 2\) and as 'C#'"):
        parse_keep("@keep.txt", classes)
    Path("keep.txt").write_text(
        '# kept\n4-5, "a #b",\n\n  C#  # a language\nbg\n', encoding="utf-8"
    )
    assert parse_keep("1,@keep.txt", classes) == (1, 4, 5, 2, 3)
    assert parse_keep(["@keep.txt", 1], classes) == (4, 5, 2, 3, 1)

    for content, message in {
        "# nothing\n": "'keep.txt' names no class",
        "x\n\nw\n": r"no class 'w' \(keep.txt, line 3\)",
        "x,,y\n": r"item 2 of 'x,,y' \(keep.txt, line 1\) is empty",
        "@other.txt\n": "read a file from a file",
    }.items():
        Path("keep.txt").write_text(content, encoding="utf-8")
        with pytest.raises(UsageError, match=message):
            parse_keep("@keep.txt", classes)
    for name in ("missing.txt", "."):
        with pytest.raises(InputError, match="file of classes to keep"):
            parse_keep(f"@{name}", classes)


# Names as unlike words as they come: quotes, commas, digits, ranges, @ and #.
anything = st.text('ab,"-@# 019', min_size=1, max_size=6).map(str.strip).filter(bool)
some_classes = st.builds(
    lambda names, first: classes_of(
        *([BG] if first else []), *names, background=0 if first else None
    ),
    st.lists(anything, min_size=1, max_size=12, unique_by=str.casefold),
    st.booleans(),
)


@given(some_classes, st.data())
def test_any_selection_can_be_said(classes: Classes, data: st.DataObject) -> None:
    columns = [column for column in range(classes.count) if column != classes.background]
    kept = data.draw(st.lists(st.sampled_from(columns), min_size=1, unique=True))
    names = {name for name in classes.names if name}
    said = []
    for column in kept:
        ways = ['"' + classes.name(column).replace('"', '""') + '"']
        if f"{column}-{column}" not in names:  # else it could be either, and is asked about
            ways.append(f"{column}-{column}")
        said.append(data.draw(st.sampled_from(ways)))
    assert parse_keep(" , ".join(said), classes) == tuple(kept)
    assert parse_keep(said, classes) == tuple(kept)
    assert parse_keep(kept, classes) == tuple(kept)


@given(st.text('ab,"-@# 019=|()'), some_classes)
def test_any_text_is_taken_or_refused(text: str, classes: Classes) -> None:
    try:
        kept = parse_keep(text, classes)
    except (UsageError, InputError):
        return
    assert len(kept) > 0
    assert all(0 <= column < classes.count and column != classes.background for column in kept)


# --- the record of a cut


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
    names = (
        tuple(BG if i == background else name for i, name in enumerate(entries)) if named else ()
    )
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
