"""Hold arrays against each other: tolerances, and what a comparison found.

Tolerances say how far two right computations of the same formula may lie apart. They are relative
to the value, plus an absolute part in units of the largest value of the same kind (all scores of an
output, or all its other values), since rounding errors of a sum follow its largest terms.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Tolerance:
    """How far values may differ: ``|a - b| <= relative * |a| + absolute * scale``.

    Where values are rounded to steps, up to ``share`` of them (and always two) may lie further
    apart, by ``step * scale + unit`` at most.
    """

    relative: float
    absolute: float
    step: float = 0.0
    unit: float = 0.0
    share: float = 0.0

    def allowed(self, expected: npt.NDArray[np.float64], scale: float) -> Array:
        """Give the allowed difference for each expected value."""
        with np.errstate(invalid="ignore"):  # 0 times infinity
            return np.asarray(self.relative * np.abs(expected) + self.absolute * scale)

    def on(self, provider: str) -> Tolerance:
        """Widen it for a provider; what is exact stays so."""
        factor = PROVIDERS.get(provider, 1.0)
        return replace(self, relative=self.relative * factor, absolute=self.absolute * factor)

    def stepped(self, dtype: np.dtype[Any], share: float) -> Tolerance:
        """Allow one step of 8 bits to a ``share`` of the values, where the type can hold it.

        A step is 1/255 of the range that a quantizer was made for, and the largest value mostly
        fills half of that and more; swapped classes differ by more in most places.
        """
        if not share or dtype.kind not in "fiu" or (dtype.kind in "iu" and dtype.itemsize > 1):
            return self  # class ids and counts are exact
        if dtype.kind == "f":
            return replace(self, step=0.02, share=share)
        return replace(self, unit=1.0, share=share)

    @property
    def widest(self) -> Tolerance:
        """What a single value may differ by."""
        return replace(self, absolute=self.absolute + self.step)


# By the narrowest type that the scores passed through. A convolution with fewer output channels may
# run another kernel, which adds up in another order: the error grows with the square root of the
# number of terms (about 1e3) times the type's epsilon (1.2e-7 in float32, 1e-3 in float16), and is
# 30 times less than what is allowed here. Classes that are swapped differ by 1e-2 and more.
TOLERANCES = {
    "float64": Tolerance(1e-9, 1e-10),
    "float32": Tolerance(1e-4, 1e-5),
    "float16": Tolerance(2e-2, 5e-3),
    "bfloat16": Tolerance(8e-2, 2e-2),
}
# Times as much by provider. The CPU and CUDA run with TF32 off, so that only the order of sums
# differs; where cuDNN takes Winograd's form for one head and not for the other, its error, about ten
# times that of the sum, is within what is allowed. TensorRT, OpenVINO and DirectML fuse across
# layers, and choose kernels by the shapes, which the cut changes; CoreML may compute in float16
# whatever the model says.
PROVIDERS = {"tensorrt": 10.0, "openvino": 10.0, "dml": 10.0, "coreml": 100.0}
EXACT = Tolerance(0.0, 0.0)  # whole numbers and truth values: label ids, counts, indices
_NARROWEST = ("bfloat16", "float16", "float32", "float64")


def tolerance_for(dtype: np.dtype[Any], through: Iterable[np.dtype[Any]] = ()) -> Tolerance:
    """Choose the tolerance for an output's dtype and the dtypes its values came through."""
    if dtype.name not in TOLERANCES:
        return EXACT
    names = {dtype.name, *(other.name for other in through)}
    return TOLERANCES[next(name for name in _NARROWEST if name in names)]


@dataclass(frozen=True)
class Difference:
    """What the comparison of two arrays found.

    ``where`` is the index of the value that exceeds its tolerance most (or comes nearest to it);
    ``outside`` counts values beyond tolerance, among them those that are finite on one side only.
    """

    values: int
    outside: int
    max_abs: float
    max_rel: float
    where: tuple[int, ...] | None
    expected: float | None = None
    got: float | None = None

    @property
    def text(self) -> str:
        """Say in a few words how far and where."""
        at = "" if self.where is None else f" at [{', '.join(map(str, self.where))}]"
        return f"{self.got} instead of {self.expected}{at}"


def difference(
    expected: Array,
    got: Array,
    tolerance: Tolerance,
    *,
    axis: int | None = None,
    kinds: Sequence[bool] | None = None,
) -> Difference:
    """Compare two arrays of one shape, element by element.

    ``kinds`` tells for each position of ``axis`` whether it holds a score; scores and other values
    get scales of their own. NaN equals NaN and an infinity the same one; else a value that is not
    finite on one side is outside every tolerance.
    """
    if expected.shape != got.shape:
        raise ValueError(f"shapes differ: {expected.shape} and {got.shape}")
    if expected.size == 0:
        return Difference(0, 0, 0.0, 0.0, None)
    a, b = expected.astype(np.float64), got.astype(np.float64)
    finite = np.isfinite(a) & np.isfinite(b)
    with np.errstate(invalid="ignore"):
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        distance = np.where(finite, np.abs(a - b), np.where(same, 0.0, np.inf))
    allowed = _allowed(a, tolerance, axis, kinds)
    outside = ~same & ~(finite & (distance <= allowed))
    if tolerance.share and outside.any():
        far = _allowed(a, tolerance.widest, axis, kinds) + tolerance.unit
        near = outside & finite & (distance <= far)
        if np.count_nonzero(near) <= max(2.0, tolerance.share * a.size):
            outside, allowed = outside & ~near, np.where(near, far, allowed)
    # A ratio picks the worst place, also among values within tolerance.
    ratio = np.where(same, 0.0, np.where(finite, distance / np.maximum(allowed, 1e-300), np.inf))
    flat = int(np.argmax(ratio))
    where = tuple(int(i) for i in np.unravel_index(flat, a.shape))
    reach = distance[finite]
    size = np.abs(a[finite])
    relative = reach[size > 0] / size[size > 0]
    return Difference(
        int(a.size),
        int(np.count_nonzero(outside)),
        float(reach.max(initial=0.0)),
        float(relative.max(initial=0.0)),
        where,
        float(a[where]),
        float(b[where]),
    )


def _allowed(
    expected: npt.NDArray[np.float64],
    tolerance: Tolerance,
    axis: int | None,
    kinds: Sequence[bool] | None,
) -> Array:
    if axis is None or kinds is None:
        return tolerance.allowed(expected, scale_of(expected))
    moved = np.moveaxis(expected, axis, 0)
    allowed = np.empty_like(moved)
    for kind in (True, False):
        chosen = np.array(kinds, bool) == kind
        allowed[chosen] = tolerance.allowed(moved[chosen], scale_of(moved[chosen]))
    return np.moveaxis(allowed, 0, axis)


def scale_of(values: npt.NDArray[np.float64]) -> float:
    """Take the largest finite magnitude as the scale of rounding errors."""
    finite = np.abs(values[np.isfinite(values)])
    return float(finite.max(initial=0.0))
