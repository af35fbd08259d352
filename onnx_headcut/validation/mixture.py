"""The weights of a class map, held against the original's: each row as the map says, worked out anew.

The scores show that merged and repeated classes are right, and cannot show how new ones began. So
every tensor of a head that was blended is computed again here from the original's, position by
position: a plain row is the original's bit for bit, a merged one the sum of its members at the same
anchor, a new one zeros or noise of the stated deviation, with the bias at which training starts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from onnx_headcut.labels import NONE
from onnx_headcut.validation.mapped import laid_out
from onnx_headcut.validation.reference import occurrences

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx_headcut.validation.mapped import NewColumn

Array = npt.NDArray[Any]

_FEW = 64  # values, below which their deviation says little


@dataclass(frozen=True)
class Mixture:
    """A tensor of a score head: ``name`` in the cut, made of ``source`` in the original.

    ``ids`` are the source columns along ``axis`` of the original's (NONE: no class). ``role``:
    ``bias`` carries where new classes begin, ``rest`` are further biases. ``source`` is None for a
    bias that the original did without.
    """

    name: str
    source: str | None
    axis: int
    ids: tuple[int, ...]
    role: Literal["weight", "bias", "rest"]


@dataclass(frozen=True)
class Beginning:
    """Where new classes begin: at ``prior``, beside the column ``background`` of a softmax."""

    prior: float
    background: int | None


def complaint(
    mixture: Mixture, old: Array | None, new: Array, rows: Sequence[NewColumn], begin: Beginning
) -> str:
    """What is wrong with a tensor of the cut, from the original's; empty where it is as it should."""
    laid = laid_out(mixture.ids, [row.template for row in rows])
    axis = mixture.axis
    if laid is None or new.ndim <= axis or new.shape[axis] != len(laid):
        return f"has {new.shape[axis] if new.ndim > axis else 0} positions on axis {axis}"
    if old is None:
        old = np.zeros(len(mixture.ids), new.dtype)
    same = np.array_equal(np.delete(old.shape, axis), np.delete(new.shape, axis))
    if old.dtype != new.dtype or not same:
        return f"is {new.dtype}{list(new.shape)}, the original's {old.dtype}{list(old.shape)}"
    if not np.isfinite(new.astype(np.float64)).all():
        return "is not finite"
    times = occurrences(mixture.ids)
    place = {(label, int(times[at])): at for at, label in enumerate(mixture.ids)}
    before, after = np.moveaxis(old, axis, 0), np.moveaxis(new, axis, 0)
    for q, (at, j) in enumerate(laid):
        anchor = int(times[at])
        row = None if j == NONE else rows[j]
        if row is None or row.plain:
            right = before[at].tobytes() == after[q].tobytes()
        elif row.start == "given":
            continue
        elif row.start and mixture.role != "weight":
            right = _near(after[q], _begins(mixture, before, place, begin, anchor), np.abs(after[q]))
        elif row.start == "normal":
            right = _is_noise(after[q], row.std)
        else:
            parts = [w * before[place[c, anchor]].astype(np.float64) for c, w in row.terms]
            wanted = np.zeros(after[q].shape) if row.start == "zeros" else np.sum(parts, 0)
            right = _near(after[q], wanted, np.sum(np.abs(parts), 0))
        if not right:
            return f"is wrong at {q} of axis {axis} (new column {j}, anchor {anchor})"
    return ""


def _begins(
    mixture: Mixture, before: Array, place: dict[tuple[int, int], int], begin: Beginning, anchor: int
) -> Array:
    """The bias of a new class at an anchor."""
    rare = np.log(begin.prior / (1 - begin.prior)) if mixture.role == "bias" else 0.0
    if (begin.background, anchor) in place:
        return np.asarray(before[place[begin.background, anchor]].astype(np.float64) + rare)  # type: ignore[index]
    return np.full(before.shape[1:], rare)


def _near(found: Array, wanted: Array, size: Array) -> bool:
    """Equal but for one rounding to the tensor's type."""
    step = 2 * float(np.finfo(found.dtype).eps if found.dtype.kind == "f" else 2**-7)
    difference = np.abs(found.astype(np.float64) - wanted)
    return bool((difference <= step * (np.abs(wanted) + size) + 1e-30).all())


def _is_noise(values: Array, std: float) -> bool:
    """Values drawn with a deviation ``std``, as far as so many can show it."""
    found = values.astype(np.float64)
    if np.abs(found).max(initial=0) > 8 * std:
        return False
    return found.size < _FEW or 0.5 * std < found.std() < 2 * std
