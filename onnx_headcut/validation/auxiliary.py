"""Inputs beside the image: sizes, scale factors, thresholds, masks, and extents of free axes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from onnx_headcut.validation.image_inputs import AxisName
    from onnx_headcut.validation.inputs import Array, InputSpec

_PER_IMAGE = ("target_size", "orig", "im_shape", "image_shape", "scale_factor", "im_info")


@dataclass(frozen=True)
class Picture:
    """Sizes in pixels that auxiliary inputs speak of: as fed, and of the picture it came from."""

    batch: int
    height: int
    width: int
    original_height: int
    original_width: int


def auxiliary(spec: InputSpec, picture: Picture) -> Array:
    """Fill an input beside the image: sizes, scale factors, thresholds, masks.

    What an input means is told by its name and type only, as exporters write it:
    ``orig_target_sizes`` is (width, height), Paddle's ``im_shape`` (height, width).
    """
    shape = tuple(resolve(spec, None, picture, {}))
    name = spec.name.lower()
    if any(word in name for word in _PER_IMAGE) and shape and shape[-1] in (2, 3):
        row = _size_row(name, picture)[: shape[-1]]
        return np.broadcast_to(np.array(row), shape).astype(spec.dtype)
    if "mask" in name and spec.dtype != np.bool_:
        return np.ones(shape, spec.dtype)  # pixel_mask: every pixel is real
    if np.prod(shape, dtype=int) == 1:
        return np.full(shape, _scalar(name, spec.dtype), spec.dtype)
    if spec.dtype == np.bool_:
        return np.zeros(shape, spec.dtype)  # a padding mask: nothing is padded
    rng = np.random.default_rng(0)
    if np.issubdtype(spec.dtype, np.integer):
        return np.ones(shape, spec.dtype)
    return rng.random(shape).astype(spec.dtype)


def resolve(
    spec: InputSpec,
    extents: Mapping[AxisName, int] | None,
    picture: Picture,
    bound: dict[str, int],
    axes: Sequence[AxisName] = (),
) -> Iterator[int]:
    """Give each axis an extent, the same for the same dim_param: ``bound`` remembers them."""
    rank = len(spec.dims)
    for index, dim in enumerate(spec.dims):
        if isinstance(dim, int):
            yield dim
            continue
        if extents is not None and axes:
            guess = extents[axes[index]]
        elif index == 0:
            guess = picture.batch
        elif rank >= 3 and index >= rank - 2:
            guess = picture.height if index == rank - 2 else picture.width
        else:
            guess = 1
        yield bound.setdefault(dim, guess) if dim else guess


def _size_row(name: str, picture: Picture) -> tuple[float, ...]:
    """Give what one picture's row of a size input says, the usual third column included."""
    height, width = picture.height, picture.width
    scale = height / picture.original_height, width / picture.original_width
    if "scale_factor" in name:
        return (*scale, 1.0)
    if "im_info" in name:
        return height, width, scale[0]
    if "orig" in name or "target" in name:
        return picture.original_width, picture.original_height, 1.0
    return height, width, 1.0


def _scalar(name: str, dtype: np.dtype[Any]) -> float:
    """Guess a lone number: a threshold low enough to leave detections, a limit high enough."""
    if dtype == np.bool_:
        return 0  # "training" and its like
    if np.issubdtype(dtype, np.integer):
        return 100 if any(word in name for word in ("max", "top", "num", "detections")) else 1
    return 0.05 if "score" in name or "conf" in name else 0.5
