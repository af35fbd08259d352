"""Seeded synthetic inputs: pictures of several kinds, and other sizes where a model takes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from onnx_headcut.validation.auxiliary import Picture, auxiliary, resolve
from onnx_headcut.validation.image_inputs import ImageInput, image_input
from onnx_headcut.validation.inputs import InputSpec, NamedFeed, input_specs, with_shapes
from onnx_headcut.validation.painting import PATTERNS, paint

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx

    from onnx_headcut.validation.image_inputs import AxisName
    from onnx_headcut.validation.inputs import Array, Feed

_BASE_SIZE = 320  # of images whose size is dynamic: a multiple of every usual stride
_OTHER_SIZE = {"height": 256, "width": 384}  # of one feed more, and not square
_OTHER_BATCH = 2


def synthetic(
    model: onnx.ModelProto,
    *,
    count: int = 4,
    seed: int = 0,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> list[NamedFeed]:
    """Make ``count`` feeds of the declared shapes and dtypes; the same arguments, the same values.

    ``shapes`` sets whole shapes by input name. Dynamic dimensions get one value per dim_param in
    a feed. The last feeds take another batch and another image size where these are dynamic.
    Raises UsageError where a shape cannot be known or ``shapes`` contradicts the model.
    """
    specs = with_shapes(input_specs(model), shapes or {})
    image = image_input(model)
    if image is not None:
        spec = next(spec for spec in specs if spec.name == image.spec.name)
        image = ImageInput(spec, image.axes, image.channels, image.low, image.high)
    variants = _variants(image, count)
    return [
        _synthetic_feed(specs, image, index, np.random.default_rng([seed, index]), variants[index])
        for index in range(count)
    ]


def _variants(image: ImageInput | None, count: int) -> list[tuple[AxisName, ...]]:
    """Say for each feed which dynamic axes of the image move away from their usual extent."""
    groups: list[tuple[AxisName, ...]] = [("batch",), ("height", "width")]
    moved = [
        group
        for group in groups
        if image is not None and any(axis in image.axes and image.size(axis) is None for axis in group)
    ][: max(count - 1, 0)]
    return [()] * (count - len(moved)) + moved


def _usual(image: ImageInput, axis: AxisName) -> int:
    """Choose the extent of a dynamic axis: a square picture where one side is known."""
    if axis == "batch":
        return 1
    if axis == "channel":
        return image.channels
    return image.size("width" if axis == "height" else "height") or _BASE_SIZE


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
        extents = {axis: _usual(image, axis) for axis in image.axes}
        extents |= {axis: _OTHER_SIZE.get(axis, _OTHER_BATCH) for axis in moved}
        shape = tuple(resolve(image.spec, extents, picture, bound, image.axes))
        sizes = dict(zip(image.axes, shape, strict=True))
        height, width = sizes["height"], sizes["width"]
        picture = Picture(sizes.get("batch", 1), height, width, height, width)
        values = paint(pattern, rng, (picture.batch, height, width, sizes["channel"]))
        values = image.low + (image.high - image.low) * values
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
