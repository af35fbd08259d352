"""Where names of classes come from, and what is refused and how."""

import re
from pathlib import Path

import pytest

from onnx_headcut.classes import PRESETS, Names, find_names, load_names
from onnx_headcut.errors import InputError

ABC = ("a", "b", "c")
BG = "background"


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
