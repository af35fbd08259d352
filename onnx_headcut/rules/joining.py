"""Class numbers that are picked, padded, joined and written among others.

A filler becomes a position of its own, without a class.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from onnx_headcut.editing import edits as ed
from onnx_headcut.graph.scope import is_fixed
from onnx_headcut.labels import NONE, Columns, Lookup, Mark, Option, Rows
from onnx_headcut.rules.deciding import decide
from onnx_headcut.rules.options import bounded, counted
from onnx_headcut.tracing.view import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx_headcut.graph.facts import Array
    from onnx_headcut.labels import Ints
    from onnx_headcut.tracing.view import View

NO_SLOT = 1 << 16
"""Number of an input that no node has: a filler that cannot be changed where it stands."""


def picked(view: View, lookup: Lookup) -> Lookup:
    """The same values in another order: no longer aligned with what they were read from."""
    trail = ",".join(view.node.input[1:])
    return replace(lookup, origin=f"{lookup.origin}[{view.op}:{trail}]", direct=False)


def where(view: View, at: list[int]) -> Outcome:
    """Where(found, labels, filler): the filler becomes a position of its own."""
    lookup = view.marks[at[0]]
    if at == [1, 2]:
        return Outcome([stacked(view, at)])
    if not isinstance(lookup, Lookup) or len(at) != 1:
        view.refuse("it chooses between two kinds of class numbers")
    other = 3 - at[0]
    value = view.old[other].value
    if value is None or value.size != 1 or view.marks[other] is not None:
        view.refuse("it fills class numbers up with values that are not known")
    return Outcome([filled(view, picked(view, lookup), value.item(), other)])


def filled(view: View, lookup: Lookup, value: float, slot: int) -> Lookup:
    """A table with one more position, without a class, that holds the filler ``value``."""
    dtype = lookup.old.dtype
    ids = np.append(lookup.ids, NONE)
    take = np.append(lookup.take, len(lookup.ids))
    old = np.append(lookup.old, np.asarray(value, dtype))
    options = []
    key = (view.place, "input", slot)
    stored = slot < len(view.old) and is_fixed(view.scope, view.node.input[slot])
    for option in lookup.options:
        plain = Option(np.append(option.new, np.asarray(value, dtype)), option.edits, option.left)
        options.append(plain)
        for new in counted(lookup, np.asarray(value, dtype)) if stored else ():
            edit = ed.Replace(view.place, slot, new.reshape(view.old[slot].value.shape))  # type: ignore[union-attr]
            changed = Option(np.append(option.new, new), (*option.edits, edit), option.left)
            options[-1] = replace(plain, left=option.left | {key})
            options.append(changed)
    return Lookup(ids, take, old, bounded(view, options), lookup.origin)


def concat(view: View) -> Outcome:
    """Concat of class numbers: columns of a detection table, or rows from several levels."""
    rank = view.rank(0)
    axis = view.attrs.get("axis", 0) % rank
    extents = [(f.shape or [None] * rank)[axis] for f in view.old]
    found = any(view.exact(i, axis) is None for i in range(len(extents)))
    if rank > 1 and axis == rank - 1 and all(e is not None for e in extents) and not found:
        marks: list[Mark | None] = []
        for extent, mark in zip(extents, view.marks, strict=True):
            marks += [mark] * (extent or 0)
        return Outcome([Columns(axis, tuple(marks))])
    return Outcome([stacked(view)])


def stacked(view: View, inputs: Sequence[int] | None = None) -> Lookup:
    """Class numbers from several levels, one behind the other: one table of all that occurs."""
    parts: list[tuple[Ints, Array, Array]] = []
    for i in range(len(view.marks)) if inputs is None else inputs:
        mark, value = view.marks[i], filler_of(view, i)
        if isinstance(mark, Lookup):
            option = decide(view, mark, {"ids", "free"})
            gone = np.flatnonzero(np.bincount(mark.take, minlength=len(mark.ids)) == 0)
            at = np.concatenate([mark.take, gone])
            new = np.concatenate([option.new.astype(np.float64), np.full(len(gone), np.inf)])
            parts.append((mark.ids[at], mark.old[at], new))
        elif value is not None:
            parts.append((np.full(len(value), NONE), value, value))
        else:
            view.refuse("class numbers are joined with values that are not known")
    table = np.stack([np.concatenate([np.asarray(p[k], np.float64) for p in parts])
                      for k in range(3)])  # fmt: skip
    table = distinct(table)
    new, take = table[2], np.flatnonzero(~np.isinf(table[2]))  # infinite: that value goes
    first = next(m for m in view.marks if isinstance(m, Lookup))
    if view.sel.repeated:  # copies of a class are one position before, and several after
        pairs, place = np.unique(table[:2], axis=1, return_inverse=True)
        dtype, at = first.old.dtype, place.reshape(-1)[take]
        option = Option(new[take].astype(dtype))
        return Lookup(pairs[0].astype(np.int64), at, pairs[1].astype(dtype), (option,),
                      view.node.output[0])  # fmt: skip
    ids, old = table[0].astype(np.int64), table[1]
    option = Option(new[take].astype(first.old.dtype))
    return Lookup(ids, take, old.astype(first.old.dtype), (option,), view.node.output[0])


def distinct(table: Array) -> Array:
    """Each column of a table once, in order: `numpy.unique` over an axis takes ten times as long."""
    table = table[:, np.lexsort(table[::-1])]
    first = np.ones(table.shape[1], bool)
    first[1:] = (table[:, 1:] != table[:, :-1]).any(axis=0)
    return table[:, first]


def filler_of(view: View, i: int) -> Array | None:
    """The one value that input ``i`` holds whatever is found, as ``[1]`` (or ``[0]`` if empty)."""
    if not isinstance(view.marks[i], Rows | None):
        return None
    other = view.scope.twin.old(view.node.input[i]).value
    known = [view.old[i].value, view.new[i].value, other]
    values = [np.unique(v) for v in known if v is not None]
    if len(values) < len(known) or any(len(v) > 1 or not np.array_equal(v, values[0]) for v in values):
        return None
    return values[0]


def scatter(view: View) -> Outcome:
    """Rows written into a padded tensor: the padding becomes a filler."""
    data, updates = view.marks[0], view.marks[2]
    value = view.old[0].value
    index = view.marks[1]
    if isinstance(index, Lookup):
        decide(view, index, {"free"})
    if isinstance(updates, Lookup) and data is None and value is not None:
        if len(np.unique(value)) == 1:
            return Outcome([filled(view, picked(view, updates), value.flat[0].item(), NO_SLOT)])
    elif isinstance(updates, Lookup) and isinstance(data, Lookup):
        return Outcome([written(view, data, updates)])
    elif not isinstance(updates, Lookup) and not isinstance(data, Lookup):
        return Outcome([Rows()])
    view.refuse("class numbers are written into a tensor whose other values are not known")


def written(view: View, data: Lookup, updates: Lookup) -> Lookup:
    """Class numbers written among others of the same table, such as those of another picture."""
    here, there = decide(view, data, {"ids", "free"}), decide(view, updates, {"ids", "free"})
    n, m = len(updates.ids), len(updates.take)
    same = (
        np.array_equal(updates.ids, data.ids[:n])
        and np.array_equal(updates.old, data.old[:n])
        and np.array_equal(updates.take, data.take[:m])
        and np.array_equal(there.new, here.new[:m])
    )
    if not same:
        view.refuse("class numbers of two conventions are written into one tensor")
    return replace(data, options=(here,))
