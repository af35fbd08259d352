"""Every pattern behind a head, in a tiny detector: the cut finds what the original finds."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from conftest import dealt
from exported import unmatched
from patterns import GATHER, PATTERNS, REFUSED, Pattern, branches, changed, pictures, run

import onnx_headcut as hc

if TYPE_CHECKING:
    from collections.abc import Callable

CUT = [name for name in PATTERNS if name not in REFUSED]
ROWS = [name for name in CUT if PATTERNS[name]().kind == "rows"]
NO_IDS = [name for name in CUT if name not in ROWS]
"""Where no output says class ids: dense scores."""

SUBSETS: dict[str, Callable[[list[int]], list[int]]] = {
    "reordered": lambda classes: [classes[-2], classes[0], classes[2]],
    "one": lambda classes: [classes[2]],
    "all but one": lambda classes: [c for c in classes if c != classes[1]],
    "reversed": lambda classes: classes[::-1],
}


@pytest.mark.parametrize(("name", "subset"), dealt(CUT, SUBSETS))
def test_the_cut_finds_what_the_original_finds(name: str, subset: str) -> None:
    pattern = PATTERNS[name]()
    keep = SUBSETS[subset](pattern.foreground)

    cut = cut_of(pattern, keep).model

    onnx.checker.check_model(cut, full_check=True)
    found: set[float] = set()
    for feeds in pictures(batch=pattern.batch):
        wanted, got = pattern.expected(keep, feeds), pattern.given(run(cut, feeds))
        for one, other in zip(got, wanted, strict=True):
            found |= same(pattern, one, other)
    if pattern.kind == "rows":
        assert len(found) >= min(pattern.some, len(keep))


@pytest.mark.parametrize("name", ROWS)
def test_ids_can_stay_those_of_the_original(name: str) -> None:
    pattern = PATTERNS[name]()
    keep = SUBSETS["reordered"](pattern.foreground)

    cut = cut_of(pattern, keep, ids="original").model

    for feeds in pictures(batch=pattern.batch):
        wanted = pattern.found(run(pattern.masked(keep), feeds))
        same(pattern, pattern.found(run(cut, feeds)), wanted)


def test_a_cut_says_itself_that_its_ids_are_those_of_the_original() -> None:
    pattern = PATTERNS["top_k_div_mod"]()
    source, known = pattern.model(), pattern.told
    cut = hc.cut(source, [4, 1], ids="original", validation=False, **known).model

    assert hc.validate(source, cut, provider="cpu", **known)
    assert not hc.validate(source, cut, ids="compact", provider="cpu", **known)
    again = hc.cut(cut, [1], validation=False).model
    assert "onnx_headcut.ids" not in {p.key for p in again.metadata_props}


@pytest.mark.parametrize("name", NO_IDS)
def test_where_there_are_no_ids_none_can_stay(name: str) -> None:
    pattern = PATTERNS[name]()
    with pytest.raises(hc.HeadcutError, match="ids"):
        cut_of(pattern, pattern.foreground[:2], ids="original")


@pytest.mark.parametrize("name", CUT)
def test_keeping_all_changes_nothing(name: str) -> None:
    pattern = PATTERNS[name]()

    cut = cut_of(pattern, pattern.foreground).model

    assert cut.graph.SerializeToString() == pattern.model().graph.SerializeToString()


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_rule_covers_is_refused(name: str) -> None:
    op, reason = REFUSED[name]
    pattern = PATTERNS[name]()

    with pytest.raises(hc.GraphRefused, match=reason) as caught:
        cut_of(pattern, pattern.foreground[:3])

    assert caught.value.op == op
    assert caught.value.path
    assert caught.value.advice


@pytest.mark.parametrize("op", ["Mul", "Sub", "Max"])
def test_a_number_that_is_no_label_is_not_renumbered(op: str) -> None:
    number = """
      k_@ = Constant <value = int64 {@}> ()
      threes_@ = ConstantOfShape <value = int64[1] {3}> (size_@)
      made_@ = OP (threes_@, k_@)
      l_@ = Expand (made_@, size_@)"""
    pattern = branches(GATHER, number.replace("OP", op))

    with pytest.raises(hc.GraphRefused, match="is reckoned with") as caught:
        cut_of(pattern, [4, 1])

    assert caught.value.op == "Concat"


GROUPS = changed(
    PATTERNS["background_split_off"](),
    ("nothing, scores = Split", "nothing, few, more = Split"),
    ("(probs, parts)", "(probs, parts)\n      scores = Concat <axis = 2> (few, more)"),
    ("int64[2] parts = {1, 5}", "int64[3] parts = {1, 2, 3}"),
)
"""Classes in two groups, [1, 2] and [3, 4, 5], that are joined again."""


@pytest.mark.parametrize("keep", [[5, 4, 3, 2, 1], [4, 5, 1], [2, 3], [2, 1, 4, 3]])
def test_groups_of_classes_are_joined_in_the_new_order(keep: list[int]) -> None:
    cut = cut_of(GROUPS, keep).model
    for feeds in pictures():
        for got, wanted in zip(run(cut, feeds), GROUPS.expected(keep, feeds), strict=True):
            same(GROUPS, got, wanted)


@pytest.mark.parametrize("keep", [[4, 1, 3], [1, 3, 2]])
def test_an_order_that_takes_groups_apart_is_refused(keep: list[int]) -> None:
    with pytest.raises(hc.GraphRefused, match=r"change places|cannot be moved"):
        cut_of(GROUPS, keep)


@pytest.mark.parametrize("keep", [0, 2, 5])
def test_one_class_leaves_no_doubt_which_row_of_a_table_is_its(keep: int) -> None:
    """The remainder by any count says a class of one, but only by 1 it says its new number."""
    pattern = PATTERNS["top_k_with_sizes_of_each_class"]()
    cut = cut_of(pattern, [keep]).model
    for feeds in pictures():
        wanted, got = pattern.expected([keep], feeds), pattern.given(run(cut, feeds))
        assert same(pattern, got[0], wanted[0]) == {0}


def test_class_numbers_of_two_conventions_are_not_compared() -> None:
    own = PATTERNS["nms_written_out_within_a_class"]()
    text = own.text.replace("id_row = Unsqueeze (ids, c0)", """next = Add (ids, one)
      id_row = Unsqueeze (next, c0)""")  # fmt: skip
    assert text != own.text

    with pytest.raises(hc.GraphRefused, match="would not keep classes apart") as caught:
        cut_of(replace(own, text=text), [4, 1, 3])

    assert caught.value.op == "Equal"


def cut_of(pattern: Pattern, keep: list[int], **options: Any) -> hc.Cut:
    return hc.cut(pattern.model(), keep, validation=False, **pattern.told, **options)


def same(pattern: Pattern, got: np.ndarray, wanted: np.ndarray) -> set[float]:
    """Both hold the same; returns the ids among them."""
    if pattern.kind == "dense":
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)
        return set()
    assert unmatched(got, wanted) == unmatched(wanted, got) == 0
    return set(wanted[:, 0])
