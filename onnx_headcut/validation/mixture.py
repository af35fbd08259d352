"""The weights of a class map, held against the original's: each row as the map says, worked out anew.

The scores show that merged and repeated classes are right, and cannot show how new ones began. So
every tensor of a head that was blended is computed again here from the original's, position by
position: a plain row is the original's bit for bit, a merged one the sum of its members at the same
anchor, a new one zeros or what its seed draws. A new class's bias is the background's, and less;
where there is none, and whether that is where training starts, `beginning` finds out by running.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cache
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

_KNOWN = (1.4607987154372708, -0.3934468498976263, 0.557892695713759)
"""What numpy draws by ``[0, 1, 2, 3]``: another numpy might draw otherwise."""

_SIGMAS = 6.0
"""How improbable a sum of squares may be, where numbers themselves cannot be told: 1e-9."""


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
    """Where new classes begin: at ``prior``, beside the column ``background`` of a softmax.

    Noise is drawn by ``seed``: normal numbers of numpy's default generator, by the seed, the new
    column, the anchor and the CRC-32 of the name that the tensor has in the original.
    """

    prior: float
    background: int | None
    seed: int = 0


def complaint(
    mixture: Mixture, old: Array | None, new: Array, rows: Sequence[NewColumn], begin: Beginning
) -> str:
    """What is wrong with a tensor of the cut, from the original's; empty where it is as it should."""
    laid = laid_out(mixture.ids, [row.template for row in rows])
    axis = mixture.axis
    if laid is None or new.ndim <= axis or new.shape[axis] != len(laid):
        return f"has {new.shape[axis] if new.ndim > axis else 0} positions on axis {axis}"
    if old is None:
        old = np.zeros((len(mixture.ids), *new.shape[1:]), new.dtype)
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
            wanted = _begins(mixture, before, place, begin, anchor)
            right = wanted is None or _near(after[q], wanted, np.abs(after[q]))
        elif row.start == "normal":
            key = (begin.seed, j, anchor, zlib.crc32((mixture.source or "").encode()))
            right = _is_drawn(after[q], row.std, key)
        else:
            parts = [w * before[place[c, anchor]].astype(np.float64) for c, w in row.terms]
            wanted = np.zeros(after[q].shape) if row.start == "zeros" else np.sum(parts, 0)
            right = _near(after[q], wanted, np.sum(np.abs(parts), 0))
        if not right:
            return f"is wrong at {q} of axis {axis} (new column {j}, anchor {anchor})"
    return ""


def _begins(
    mixture: Mixture, before: Array, place: dict[tuple[int, int], int], begin: Beginning, anchor: int
) -> Array | None:
    """The bias of a new class at an anchor; None where it makes up for what others add."""
    rare = np.log(begin.prior / (1 - begin.prior)) if mixture.role == "bias" else 0.0
    if (begin.background, anchor) in place:
        return np.asarray(before[place[begin.background, anchor]].astype(np.float64) + rare)  # type: ignore[index]
    return None if mixture.role == "bias" else np.zeros(before.shape[1:])


def _near(found: Array, wanted: Array, size: Array) -> bool:
    """Equal but for one rounding to the tensor's type."""
    step = 2 * float(np.finfo(found.dtype).eps if found.dtype.kind == "f" else 2**-7)
    difference = np.abs(found.astype(np.float64) - wanted)
    return bool((difference <= step * (np.abs(wanted) + size) + 1e-30).all())


def _is_drawn(values: Array, std: float, key: tuple[int, ...]) -> bool:
    """Values drawn by ``key`` with a deviation ``std``; by their size where that cannot be told."""
    if _draws_as_ever():
        drawn = np.random.default_rng(key).normal(0, std, values.shape)
        return _near(values, drawn, np.abs(drawn))
    squares = np.square(values.astype(np.float64) / std)
    low, high = _sums(squares.size)
    return bool(low <= squares.sum() <= high)


@cache
def _draws_as_ever() -> bool:
    return np.allclose(np.random.default_rng((0, 1, 2, 3)).normal(size=3), _KNOWN, rtol=1e-12, atol=0)


def _sums(count: int) -> tuple[float, float]:
    """Bounds of the sum of ``count`` squared normal numbers (Wilson and Hilferty's approximation)."""
    part = 2 / (9 * count)
    low, high = (max(1 - part + sign * _SIGMAS * part**0.5, 0.0) ** 3 for sign in (-1, 1))
    return count * low, count * high
