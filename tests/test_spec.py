"""What a SPEC says is kept, and what is refused and how."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_headcut.classes import Classes, load_names, parse_keep, resolve
from onnx_headcut.errors import InputError, UsageError

BG = "background"


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
def test_parse_keep(spec: str | list[int | str], classes: Classes, expected: tuple[int, ...]) -> None:
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
    Path("keep.txt").write_text('# kept\n3-5, "a #b",\n\n  C#  # a language\nbg\n', encoding="utf-8")
    classes = classes_of(BG, "x", "a #b", "C#", "y", "z", background=0)
    with pytest.raises(UsageError, match=r"kept twice: as '3-5' \(keep.txt, line 2\) and as 'C#'"):
        parse_keep("@keep.txt", classes)
    Path("keep.txt").write_text('# kept\n4-5, "a #b",\n\n  C#  # a language\nbg\n', encoding="utf-8")
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
    lambda names, first: classes_of(*([BG] if first else []), *names, background=0 if first else None),
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
