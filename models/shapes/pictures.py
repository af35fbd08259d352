"""Seeded pictures of fourteen drawn shapes on cluttered backgrounds, with numpy alone.

``picture(seed)`` gives the same picture every time.  A shape is a signed distance function in a
frame where the shape fills about the unit circle (x to the right, y down); the distance in pixels
makes the anti-aliased edge.  A box is the extent of the pixels that are at least half covered.
"""

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float32]
Distance: TypeAlias = Callable[[Floats, Floats], Floats]


def _polygon(*corners: tuple[float, float]) -> Distance:
    """Exact signed distance to a polygon; negative inside."""
    points = np.array(corners, np.float32)
    previous = np.roll(points, 1, axis=0)

    def distance(x: Floats, y: Floats) -> Floats:
        nearest = np.full(x.shape, np.inf, np.float32)
        inside = np.zeros(x.shape, np.bool_)
        for (ax, ay), (bx, by) in zip(points, previous, strict=True):
            ex, ey = bx - ax, by - ay
            wx, wy = x - ax, y - ay
            along = np.clip((wx * ex + wy * ey) / (ex * ex + ey * ey), 0, 1)
            nearest = np.minimum(nearest, (wx - ex * along) ** 2 + (wy - ey * along) ** 2)
            if ey:
                inside ^= ((ay > y) != (by > y)) & (wx < ex * wy / ey)
        return np.where(inside, -1, 1).astype(np.float32) * np.sqrt(nearest)

    return distance


def _regular(sides: int, phase: float, *radii: float) -> Distance:
    """Make a polygon with corners at equal angles, at the radii in turn (two radii: a star)."""
    turns = 2 * math.pi * (np.arange(sides) + phase) / sides
    lengths = np.resize(radii or (1.0,), sides)
    return _polygon(
        *((float(r * np.sin(t)), float(-r * np.cos(t))) for r, t in zip(lengths, turns, strict=True))
    )


def _plus(w: float) -> Distance:
    """Two bars of half-width w at a right angle."""
    return _polygon(
        (-w, -1), (w, -1), (w, -w), (1, -w), (1, w), (w, w),
        (w, 1), (-w, 1), (-w, w), (-1, w), (-1, -w), (-w, -w),
    )  # fmt: skip


def _circle(x: Floats, y: Floats) -> Floats:
    return np.hypot(x, y) - np.float32(1)


def _ring(x: Floats, y: Floats) -> Floats:
    return np.abs(np.hypot(x, y) - np.float32(0.78)) - np.float32(0.2)


def _crescent(x: Floats, y: Floats) -> Floats:
    bite: Floats = np.float32(0.82) - np.hypot(x - np.float32(0.5), y)
    return np.maximum(_circle(x, y), bite)


def _heart(x: Floats, y: Floats) -> Floats:
    """Two quarter discs on a square that stands on its corner (after Inigo Quilez)."""
    u, v = np.abs(x) * np.float32(0.6), np.float32(0.55) - y * np.float32(0.6)
    lobe = np.hypot(u - np.float32(0.25), v - np.float32(0.75)) - np.float32(np.sqrt(2) / 4)
    half = np.maximum(u + v, 0) / 2
    corner = np.minimum(u**2 + (v - 1) ** 2, (u - half) ** 2 + (v - half) ** 2)
    edge: Floats = np.where(u + v > 1, lobe, np.sqrt(corner) * np.sign(u - v))
    return edge / np.float32(0.6)


def _cross(x: Floats, y: Floats) -> Floats:
    s = np.float32(np.sqrt(0.5))
    return _PLUS_THIN((x + y) * s, (x - y) * s)


_PLUS_THIN = _plus(0.2)
_OCTAGON = _regular(8, 0.5)
_BAR = _polygon((-0.6, -0.16), (0.6, -0.16), (0.6, 0.16), (-0.6, 0.16))

# The class's signed distance and how far it may turn either way, in degrees.
_SHAPES: dict[str, tuple[Distance, float]] = {
    "circle": (_circle, 180),
    "square": (_polygon((-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)), 15),
    "triangle": (_regular(3, 0), 180),
    "star": (_regular(10, 0, 1.0, 0.42), 180),
    "cross": (_cross, 15),
    "ring": (_ring, 180),
    "heart": (_heart, 30),
    "arrow": (
        _polygon(
            (-1, -0.24), (0.1, -0.24), (0.1, -0.7), (1, 0), (0.1, 0.7), (0.1, 0.24), (-1, 0.24)
        ),
        180,
    ),
    "stop sign": (_OCTAGON, 12),
    "crescent": (_crescent, 180),
    "lightning": (
        _polygon((0.2, -1), (-0.6, 0.15), (-0.08, 0.15), (-0.3, 1), (0.6, -0.25), (0.1, -0.25)),
        25,
    ),
    "hexagon": (_regular(6, 0), 180),
    "plus": (_plus(0.3), 15),
    "diamond": (_polygon((0, -1), (0.62, 0), (0, 1), (-0.62, 0)), 15),
}  # fmt: skip

NAMES: tuple[str, ...] = ("background", *_SHAPES)


def _blend(image: Floats, cover: Floats, colour: Floats) -> None:
    """Paint ``colour`` [3] on ``image`` [h,w,3] in place where ``cover`` [h,w] in 0..1 says."""
    image += cover[..., None] * (colour - image)


def _colour(rng: np.random.Generator) -> Floats:
    return rng.uniform(0, 255, 3).astype(np.float32)


def _background(rng: np.random.Generator, size: int) -> Floats:
    """Gradient, blotches, soft blobs and lines: float32 [size,size,3] in 0..255."""
    y, x = np.mgrid[:size, :size].astype(np.float32) / np.float32(size)
    turn = rng.uniform(0, 2 * math.pi)
    slope = np.clip(0.5 + (x - 0.5) * math.cos(turn) + (y - 0.5) * math.sin(turn), 0, 1)
    image: Floats = _colour(rng) + slope[..., None] * (_colour(rng) - _colour(rng)) / 2

    cells = int(rng.integers(3, 12))  # blotches: a coarse grid of noise, interpolated
    grid = rng.uniform(0, 28) * rng.standard_normal((cells, cells, 3), np.float32)
    at = np.linspace(0, cells - 1.001, size, dtype=np.float32)
    low, part = at.astype(np.int64), (at % 1)[:, None, None]
    rows = grid[low] * (1 - part) + grid[low + 1] * part
    part = part.reshape(1, -1, 1)
    image += rows[:, low] * (1 - part) + rows[:, low + 1] * part

    for _ in range(rng.integers(0, 5)):  # blobs: long soft ellipses
        cx, cy, turn = rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform(0, math.pi)
        a = rng.uniform(0.05, 0.3)
        b = a * rng.uniform(0.25, 0.6)
        u = (x - cx) * math.cos(turn) + (y - cy) * math.sin(turn)
        v = (y - cy) * math.cos(turn) - (x - cx) * math.sin(turn)
        edge = (np.hypot(u / a, v / b) - 1) / rng.uniform(0.1, 0.6)
        _blend(image, rng.uniform(0.3, 0.9) * np.clip(0.5 - edge, 0, 1), _colour(rng))

    for _ in range(rng.integers(0, 6)):  # lines from side to side
        turn, offset = rng.uniform(0, math.pi), rng.uniform(-0.5, 0.5)
        away = np.abs((x - 0.5) * math.cos(turn) + (y - 0.5) * math.sin(turn) - offset) * size
        _blend(image, np.clip(rng.uniform(0.5, 3) - away, 0, 1), _colour(rng))
    return image


def _draw(
    image: Floats, rng: np.random.Generator, name: str, centre: Floats, radius: float
) -> Floats | None:
    """Draw one shape on ``image`` in place; its box x0,y0,x1,y1 in pixels, None if out of sight."""
    distance, most = _SHAPES[name]
    size = image.shape[0]
    reach = int(radius * 1.15) + 3
    (left, top), (right, bottom) = (
        np.clip(centre.astype(np.int64) + step, 0, size) for step in (-reach, reach + 1)
    )
    y, x = np.mgrid[top:bottom, left:right].astype(np.float32) + np.float32(0.5)
    turn = math.radians(rng.uniform(-most, most))
    c, s = math.cos(turn), math.sin(turn)
    stretch, mirror = np.float32(rng.uniform(0.9, 1.1)), np.float32(rng.choice((-1, 1)))
    u, v = (x - centre[0]) / np.float32(radius), (y - centre[1]) / np.float32(radius)
    u, v = (u * c + v * s) * stretch * mirror, (v * c - u * s) / stretch
    pixels = distance(u, v) * np.float32(radius)
    cover: Floats = np.clip(np.float32(0.5) - pixels, 0, 1)
    seen = np.argwhere(cover >= 0.5)
    if not len(seen):
        return None

    patch = image[top:bottom, left:right]
    behind = patch.mean((0, 1))
    colours = [_colour(rng) for _ in range(12)]
    stop = name == "stop sign"
    if stop and rng.random() < 0.7:
        colours.insert(0, rng.uniform((170, 0, 0), (255, 60, 60)).astype(np.float32))
    fill = next((k for k in colours if np.abs(k - behind).max() > 75), 255 - behind)
    _blend(patch, cover * np.float32(rng.uniform(0.85, 1)), fill)
    if stop:  # a pale rim and a pale bar
        pale = rng.uniform(200, 255, 3).astype(np.float32)
        rim = np.abs(pixels + 0.13 * radius) - max(0.05 * radius, 0.6)
        bar = _BAR(u, v) * radius
        _blend(patch, np.clip(0.5 - np.minimum(rim, bar), 0, 1).astype(np.float32), pale)
    elif rng.random() < 0.3:  # an outline
        width = np.float32(rng.uniform(0.6, 1.5))
        _blend(patch, np.clip(width + np.float32(0.5) - np.abs(pixels + width), 0, 1), _colour(rng))
    y0, x0 = seen.min(0)
    y1, x1 = seen.max(0) + 1
    return np.array([x0 + left, y0 + top, x1 + left, y1 + top], np.float32)


def _apart(box: Floats, others: list[Floats]) -> bool:
    """No other box shares more than a tenth of the smaller one's area."""
    for other in others:
        sides = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])
        areas = [float(np.prod(b[2:] - b[:2])) for b in (box, other)]
        if sides.min() > 0 and float(np.prod(sides)) > 0.1 * min(areas):
            return False
    return True


def picture(seed: int, size: int = 128) -> tuple[npt.NDArray[np.uint8], Floats, npt.NDArray[np.int64]]:
    """One picture with one to four shapes.

    Returns the image uint8 [size,size,3] in RGB, the boxes float32 [n,4] as x0,y0,x1,y1 in
    pixels, and the classes int64 [n], 1-based: an index into ``NAMES``.
    """
    rng = np.random.default_rng(seed)
    image = _background(rng, size)
    places: list[Floats] = []
    boxes: list[Floats] = []
    classes: list[int] = []
    for _ in range(rng.integers(1, 5)):
        for _ in range(20):
            radius = size / 128 * float(np.exp(rng.uniform(np.log(10), np.log(46))))
            centre = rng.uniform(radius * 0.9, size - radius * 0.9, 2).astype(np.float32)
            place = np.concatenate([centre - radius, centre + radius]).astype(np.float32)
            if not _apart(place, places):
                continue
            label = int(rng.integers(1, len(NAMES)))
            box = _draw(image, rng, NAMES[label], centre, radius)
            if box is not None:
                places.append(place)
                boxes.append(box)
                classes.append(label)
            break
    image += rng.uniform(1, 10) * rng.standard_normal(image.shape, np.float32)
    return (
        np.clip(image, 0, 255).astype(np.uint8),
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(classes, np.int64),
    )
