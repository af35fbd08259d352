"""The parts of validation: patterns, differences, rows matched as sets, and how outputs are grouped."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_headcut.labels import NONE, Site
from onnx_headcut.validation import Tolerance
from onnx_headcut.validation import detections as d
from onnx_headcut.validation.compare import difference, tolerance_for
from onnx_headcut.validation.probe import DROPPED, in_column_order, natural_cut
from onnx_headcut.validation.reference import occurrences, site_feed


@given(st.lists(st.integers(-1, 3), max_size=12))
def test_occurrences_count(ids: list[int]) -> None:
    assert list(occurrences(ids)) == [ids[:at].count(x) for at, x in enumerate(ids)]


@pytest.mark.parametrize(
    ("ids", "order", "take"),
    [
        ((0, 1, 2), (2, 0), [2, 0]),
        ((0, 1, 2, 0, 1, 2), (2, 0), [2, 0, 5, 3]),  # anchor-major
        ((0, 0, 1, 1, 2, 2), (2, 0), [4, 5, 0, 1]),  # class-major
        ((NONE, NONE, 0, 1, NONE, NONE, 0, 1), (1, 0), [0, 1, 3, 2, 4, 5, 7, 6]),  # interleaved
        ((1, 2, 3, NONE), (0, 3, 1), [2, 0, 3]),  # background sliced off
        ((0, 1, 1, 0), (1, 0), [1, 0, 3, 2]),
        ((2, 3, 1, 0), (0, 1), [2, 3]),  # a graph's own order stays
        ((2, 3, 1, 0), (3, 0), [3, 1]),
        ((0, 1, 0), (1, 0), None),
        ((0, 1, 1, 0), (0, 1), [0, 1, 2, 3]),
    ],
)
def test_natural_cut(ids: tuple[int, ...], order: tuple[int, ...], take: list[int] | None) -> None:
    assert natural_cut(ids, order) == take


def test_column_order() -> None:
    assert in_column_order((NONE, 1, 2, 1, 2))
    assert in_column_order((0, DROPPED, 2, 3, 0, DROPPED, 2, 3))
    assert in_column_order((0, 0, DROPPED, DROPPED, 2, 2))
    assert not in_column_order((2, 1))
    assert not in_column_order((0, DROPPED, 1, 3))


def test_pattern_is_laid_out_by_class_and_time() -> None:
    pattern = np.arange(2 * 2 * 3, dtype=np.float32).reshape(2, 2, 3)
    site = Site("s", 1, (2, NONE, 0, 2), "none")
    multiply, add = site_feed(site, (2, 4), pattern, 0.0)
    assert multiply.tolist() == [[0, 1, 0, 0]]
    assert add.tolist() == [[2, 0, 0, 5], [8, 0, 6, 11]]


def test_differences_count_what_is_not_finite() -> None:
    nan, inf = np.nan, np.inf
    a = np.array([1.0, nan, inf, 2.0], np.float32)
    same = difference(a, a.copy(), tolerance_for(a.dtype))
    assert (same.values, same.outside, same.max_abs) == (4, 0, 0.0)
    other = difference(a, np.array([nan, nan, inf, 2.1], np.float32), tolerance_for(a.dtype))
    assert other.outside == 2
    assert other.where == (0,)
    assert difference(a, a[::-1], Tolerance(0, 0)).outside == 4


def test_whole_numbers_are_exact() -> None:
    a = np.array([1, 2], np.int64)
    assert difference(a, a + np.array([0, 1]), tolerance_for(a.dtype)).outside == 1


def test_rows_match_one_to_one_in_any_order() -> None:
    rng = np.random.default_rng(0)
    rows = rng.random((50, 6))
    allowed = np.full_like(rows, 1e-9)
    shuffled = rng.permutation(rows)
    assert d.match(rows, shuffled, allowed).matched == 50
    doubled = np.concatenate([shuffled[:-1], shuffled[:1]])
    found = d.match(rows, doubled, allowed)
    assert (found.matched, len(found.missing), len(found.extra)) == (49, 1, 1)
    assert d.match(rows, rows[:0], allowed).missing == tuple(range(50))


@pytest.mark.parametrize(
    ("shapes", "axis", "outputs", "counts"),
    [
        ([{"b": (3, 4), "l": (3,), "s": (3,)}, {"b": (0, 4), "l": (0,), "s": (0,)}], 0, "bls", ""),
        ([{"b": (1, 10, 4), "c": (1, 10), "s": (1, 10), "n": (1,)}], 1, "bcs", "n"),
        ([{"b": (2, 9, 4), "c": (2, 9), "n": (2, 1)}], 1, "bc", "n"),
        ([{"x": (1, 100, 6)}], 1, "x", ""),
        ([{"x": (7, 7)}, {"x": (5, 7)}], 0, "x", ""),
        ([{"b": (3, 4), "m": (3, 1, 28, 28), "l": (3,)}], 0, "bml", ""),
        ([{"m": (10, 8, 8), "s": (10,), "l": (10,)}], 0, "msl", ""),
    ],
)
def test_grouping(shapes: list[dict[str, Any]], axis: int, outputs: str, counts: str) -> None:
    runs = [{name: np.full(shape, 0.5 if name == "s" else 0) for name, shape in run.items()}
            for run in shapes]  # fmt: skip
    groups = d.group_outputs(list(shapes[0]), runs)
    assert len(groups) == 1
    assert (groups[0].axis, groups[0].outputs) == (axis, tuple(outputs))
    assert groups[0].counts == tuple(counts)
