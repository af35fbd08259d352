"""Options: a constant that equals the class count may have to change with it, or only look like it.

Both ways stay open until a use decides; where they grow too many, the graph is refused.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from onnx_headcut.editing import edits as ed
from onnx_headcut.graph.scope import is_fixed
from onnx_headcut.labels import NONE, IteratedOption, Lookup, Option

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from onnx_headcut.graph.facts import Array
    from onnx_headcut.labels import Ints
    from onnx_headcut.tracing.view import View

MOST_OPTIONS = 16
"""What real graphs keep open is at most a handful."""

Choice = TypeVar("Choice", Option, IteratedOption)


def constant_choices(
    view: View, lookup: Lookup, others: Sequence[int]
) -> Iterator[tuple[dict[int, Array | None], tuple[ed.Edit, ...], frozenset[object]]]:
    """The constants as they stand, then with those changed that look like the class count."""
    now = {i: view.new[i].value for i in others}
    # what is computed follows the class count by itself, or is a size of the picture's
    stored = [i for i in others if is_fixed(view.scope, view.node.input[i])]
    yield now, (), frozenset((view.place, "input", i) for i in stored if _counts(view, lookup, i))
    for i in stored:
        if not np.array_equal(view.old[i].value, view.new[i].value):  # type: ignore[arg-type]
            continue  # changed where it is stored
        for value in counted(lookup, view.old[i].value):
            edit = ed.Replace(view.place, i, value)
            yield {**now, i: value}, (edit,), frozenset()


def _counts(view: View, lookup: Lookup, i: int) -> bool:
    return any(True for _ in counted(lookup, view.old[i].value))


def counted(lookup: Lookup, value: Array | None) -> Iterator[Array]:
    """What a scalar that equals a class count (its negative, reciprocal, less one) would become."""
    if value is None:
        return
    n, m = len(lookup.ids), len(lookup.take)
    period = period_of(lookup.ids)
    pairs = [(period, m * period // n), (n, m)]
    if (lookup.ids == NONE).any():
        real = int((lookup.ids != NONE).sum())
        pairs.append((real, int((lookup.ids[lookup.take] != NONE).sum())))
    x = value.reshape(()).astype(np.float64)
    seen: set[float] = set()
    for before, after in pairs:
        forms: list[tuple[float, float]] = [(before, after), (-before, -after), (before - 1, after - 1)]
        if value.dtype.kind == "f":
            forms.append((1 / before, 1 / after))
            forms.append((-1 / before, -1 / after))
        for a, b in forms:
            if a not in {b, 0} and np.isclose(x, a, rtol=1e-6, atol=0) and b not in seen:
                seen.add(b)
                yield np.full(value.shape, b, value.dtype)


def period_of(ids: Ints) -> int:
    """The smallest number of positions after which ``ids`` repeat: the class count of a row."""
    n = len(ids)
    for p in range(1, n + 1):
        if n % p == 0 and np.array_equal(ids[: n - p], ids[p:]):
            return p
    return n


def bounded(view: View, options: Sequence[Choice]) -> tuple[Choice, ...]:
    """As many options as can be kept open; refuses more, since one left out may be the right one."""
    if len(options) > MOST_OPTIONS:
        view.refuse(
            f"{len(options)} ways in which constants before it may follow the class count are open, "
            f"and no more than {MOST_OPTIONS} can be followed",
            "simplify the graph first (onnxslim): it folds numbers that are reckoned step by step",
        )
    return tuple(options)


def same_edits(a: Sequence[ed.Edit], b: Sequence[ed.Edit]) -> bool:
    """Whether two options change the same to the same."""
    return len(a) == len(b) and all(map(ed.same, a, b))


def prune(options: list[Option]) -> list[Option]:
    """Drop repetitions, and choices that make no difference."""
    kept: list[Option] = []
    for option in sorted(options, key=lambda o: len(o.edits)):
        if not any(_equal(o, option) for o in kept):
            kept.append(option)
    for key in sorted({k for o in kept for k in o.left}, key=str):
        kept = _without_difference(kept, key)
    return kept


def _equal(a: Option, b: Option) -> bool:
    return np.array_equal(a.new, b.new) and same_edits(a.edits, b.edits) and a.left == b.left


def _without_difference(options: list[Option], key: object) -> list[Option]:
    """Where changing ``key`` and leaving it give the same values, leave it to others to decide."""
    changed = [o for o in options if any(e.key == key for e in o.edits)]
    result = []
    for option in options:
        if key in option.left:
            twins = [o for o in changed if _rest(o, key) == _rest(option, key)]
            if twins and all(np.array_equal(o.new, option.new) for o in twins):
                edits = tuple(e for e in option.edits if e.key != key)
                result.append(replace(option, edits=edits, left=option.left - {key}))
                changed = [o for o in changed if not any(o is t for t in twins)]
                continue
        result.append(option)
    merged = [o for o in result if key in o.left or not any(e.key == key for e in o.edits)]
    return merged + [o for o in result if any(o is c for c in changed)]


def _rest(option: Option, key: object) -> tuple[object, ...]:
    edits = tuple(sorted(str(e.key) for e in option.edits if e.key != key))
    return (edits, tuple(sorted(str(k) for k in option.left if k != key)))


def merge_options(options: Sequence[Option]) -> Option | None:
    """All edits together, or None where one option changes what another leaves."""
    edits: dict[object, ed.Edit] = {}
    left: frozenset[object] = frozenset().union(*(o.left for o in options))
    for option in options:
        for edit in option.edits:
            if not ed.same(edits.setdefault(edit.key, edit), edit):
                return None
    if left & set(edits):
        return None
    return Option(options[-1].new, tuple(edits.values()), left)
