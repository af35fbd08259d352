"""Which column is the background, by all evidence."""

import re

import pytest

from onnx_headcut.classes import PRESETS, Evidence, Names, load_names, resolve
from onnx_headcut.errors import UsageError

ABC = ("a", "b", "c")
BG = "background"
SLICE = Evidence(0, "the graph drops column 0 by Slice node 'x'")
DROPS_LAST = Evidence(3, "the graph drops column 3 by Slice node 'y'")
NO_BACKGROUND = Evidence(None, "every column reaches an output")
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
    (4, None, None, "none", None, "raw scores, a softmax times an objectness, and one"),
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
