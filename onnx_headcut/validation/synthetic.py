"""Seeded synthetic inputs: pictures of several kinds, and other sizes where a model takes them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from onnx_headcut.validation.auxiliary import Picture, auxiliary, resolve
from onnx_headcut.validation.image_inputs import image_input
from onnx_headcut.validation.inputs import InputSpec, NamedFeed, input_specs, with_shapes
from onnx_headcut.validation.painting import PATTERNS, paint

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx

    from onnx_headcut.validation.image_inputs import AxisName, ImageInput
    from onnx_headcut.validation.inputs import Array, Feed

_BASE_SIZE = 320  # of images whose size is dynamic: a multiple of every usual stride
_GROUPS: tuple[tuple[AxisName, ...], ...] = (("batch",), ("height", "width"))
_STRIDE = 128  # the largest of these: of other sizes, what divides both stays


def synthetic(
    model: onnx.ModelProto,
    *,
    count: int = 4,
    seed: int = 0,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> list[NamedFeed]:
    """Make ``count`` feeds of the declared shapes and dtypes; the same arguments, the same values.

    ``shapes`` sets whole shapes by input name. Dynamic dimensions get one value per dim_param in
    a feed. The last feeds take another batch and another image size where the model declares these
    dynamic, whatever is set. Raises UsageError where a shape cannot be known or ``shapes``
    contradicts the model.
    """
    specs = with_shapes(input_specs(model), shapes or {})
    image = image_input(model)
    variants = _variants(image, count)
    return [
        _synthetic_feed(specs, image, index, np.random.default_rng([seed, index]), variants[index])
        for index in range(count)
    ]


def _variants(image: ImageInput | None, count: int) -> list[tuple[AxisName, ...]]:
    """Say for each feed which dynamic axes of the image move away from their usual extent."""
    if image is None:
        return [()] * count
    free = [tuple(a for a in g if a in image.axes and image.size(a) is None) for g in _GROUPS]
    moved = [group for group in free if group][: max(count - 1, 0)]
    return [()] * (count - len(moved)) + moved


def elsewhere(
    model: onnx.ModelProto, *, seed: int = 0, shapes: Mapping[str, Sequence[int]] | None = None
) -> list[NamedFeed]:
    """Make a feed for each way in which `synthetic` moves away from a shape; none of a fixed one."""
    ways = sum(map(bool, _variants(image_input(model), len(_GROUPS) + 1)))
    return synthetic(model, count=ways + 1, seed=seed, shapes=shapes)[1:]


def _usual(image: ImageInput, axis: AxisName) -> int:
    """Choose the extent of a dynamic axis: a square picture where one side is known."""
    if axis == "batch":
        return 1
    if axis == "channel":
        return image.channels
    return image.size("width" if axis == "height" else "height") or _BASE_SIZE


def _other(axis: AxisName, usual: int) -> int:
    """Choose another extent: one picture more, less high, wider; so it is not square."""
    unit = math.gcd(usual, _STRIDE)
    if axis == "batch":
        return usual + 1
    if axis == "height":
        return usual * 4 // 5 // unit * unit or usual // 2 or 2
    return max(usual * 6 // 5 // unit * unit, usual + unit)


def _shape(
    given: InputSpec, image: ImageInput, moved: tuple[AxisName, ...], bound: dict[str, int]
) -> tuple[int, ...]:
    """Say how large a picture is fed; axes that are ``moved`` are other than is ``given``."""
    extents = {axis: _usual(image, axis) for axis in image.axes}
    none = Picture(1, _BASE_SIZE, _BASE_SIZE, _BASE_SIZE, _BASE_SIZE)
    usual = resolve(given, extents, none, {}, image.axes)
    sizes = dict(zip(image.axes, usual, strict=True))
    extents |= {axis: _other(axis, sizes[axis]) for axis in moved}
    both = zip(image.axes, given.dims, image.spec.dims, strict=True)
    dims = tuple(declared if axis in moved else dim for axis, dim, declared in both)
    return tuple(resolve(replace(given, dims=dims), extents, none, bound, image.axes))


def _synthetic_feed(
    specs: Sequence[InputSpec],
    image: ImageInput | None,
    index: int,
    rng: np.random.Generator,
    moved: tuple[AxisName, ...],
) -> NamedFeed:
    bound: dict[str, int] = {}
    feed: Feed = {}
    picture = Picture(1, _BASE_SIZE, _BASE_SIZE, _BASE_SIZE, _BASE_SIZE)
    pattern = "shapes" if moved else PATTERNS[index % len(PATTERNS)]
    if image is not None:
        shape = _shape(next(s for s in specs if s.name == image.spec.name), image, moved, bound)
        sizes = dict(zip(image.axes, shape, strict=True))
        height, width = sizes["height"], sizes["width"]
        picture = Picture(sizes.get("batch", 1), height, width, height, width)
        values = paint(pattern, rng, (picture.batch, height, width, sizes["channel"]))
        low, high = image.widest if pattern == "noise" else (image.low, image.high)
        values = low + (high - low) * values
        feed[image.spec.name] = image.from_nhwc(as_dtype(values, image.spec.dtype))
    for spec in specs:
        if spec.name in feed:
            continue
        dims = tuple(resolve(spec, None, picture, bound))
        known = InputSpec(spec.name, spec.elem_type, dims)
        plain = image is None and np.issubdtype(spec.dtype, np.floating) and np.prod(dims) > 1
        feed[spec.name] = rng.random(dims).astype(spec.dtype) if plain else auxiliary(known, picture)
    # Only what is fed as an image is worth naming; other inputs follow from it.
    main = feed[image.spec.name] if image is not None else next(iter(feed.values()), np.zeros(0))
    shown = "x".join(map(str, main.shape)) or "scalar"
    label = pattern if image is not None else "noise"
    return NamedFeed(f"synthetic {index} ({label}, {shown})", feed, may_fail=bool(moved))


def as_dtype(values: Array, dtype: np.dtype[Any]) -> Array:
    """Convert to a dtype; integers are rounded and clipped, never wrapped."""
    if np.issubdtype(dtype, np.integer):
        info = np.iinfo(dtype)
        return np.clip(np.rint(values), info.min, info.max).astype(dtype)
    return values.astype(dtype)
