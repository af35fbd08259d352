"""Pictures with detections: small JPEGs inside the page, boxes as SVG above them.

Each has a switch between both models: three radio buttons and a rule of CSS, no script. Flipping
between the two at one place shows what moved; on paper, both are there.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from onnx_headcut.report.html import Markup, h

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from onnx_headcut.drift.boxes import Detections
    from onnx_headcut.drift.measure import Picture

Place: TypeAlias = tuple[float, float, float, float]

_LONGEST = 480
# White is read on each of them: a contrast of 4.5 and more.
COLOURS = ("#c2410c", "#1668c4", "#15803d", "#a21caf", "#8a6100", "#0f7676", "#be185d", "#5b50d6")
DROPPED = "#5f6a76"


@dataclass(frozen=True)
class Side:
    """One of the two models: who it is, what its columns are called, and a number for their colour.

    Columns without a colour are those of dropped classes.
    """

    who: str
    names: Mapping[int, str]
    colours: Mapping[int, int]


def compared(picture: Picture, sides: Sequence[Side], number: int) -> Markup:
    """Draw one picture twice, with what the original and the cut find in it.

    ``number`` tells the switches of a page's pictures apart.
    """
    data, width, height = _small(picture.path)
    halves = [
        h(
            "div",
            _drawn((data, width, height), found, side, f"{picture.path.name}, {side.who}"),
            h("p", f"{side.who}: {_words(found, side)}", class_="faint"),
            class_=side.who,
        )
        for side, found in zip(sides, (picture.before, picture.after), strict=True)
    ]
    name = picture.path.name
    return h(
        "figure", h("figcaption", h("h3", name)), _switch(name, number),
        h("div", *halves, class_="pair"), class_="picture",
    )  # fmt: skip


def _switch(name: str, number: int) -> Markup:
    buttons = [
        h(
            "label",
            h("input", type="radio", name=f"view-{number}", value=value,
              checked="" if value == "both" else None),
            f" {text}",
        )
        for value, text in (("both", "both"), ("original", "original"), ("cut", "cut"))
    ]  # fmt: skip
    legend = h("legend", f"Show {name} as found by", class_="aloud")
    return h("fieldset", legend, *buttons, class_="switch")


def _small(path: Path) -> tuple[str, int, int]:
    from PIL import Image, ImageOps  # noqa: PLC0415  (only where a picture is shown)

    with Image.open(path) as file:
        image = ImageOps.exif_transpose(file).convert("RGB")
    image.thumbnail((_LONGEST, _LONGEST))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=82)
    return base64.b64encode(out.getvalue()).decode(), image.width, image.height


def _drawn(image: tuple[str, int, int], found: Detections, side: Side, title: str) -> Markup:
    data, width, height = image
    size = width / 34  # as large on the page, whatever the picture's size
    corners = found.boxes * [width, height, width, height]
    names = [
        f"{_name(int(c), side)} {score:.2f}"
        for c, score in zip(found.columns, found.scores, strict=True)
    ]
    colours = [_colour(int(c), side) for c in found.columns]
    # The best detection is drawn last, and names lie above all boxes.
    order = range(len(found) - 1, -1, -1)
    places = _places(corners.tolist(), names, size, (width, height))
    boxes = [_box(corners[k].tolist(), colours[k], size) for k in order]
    boxes += [_label(names[k], places[k], colours[k], size) for k in order]
    said = f"{title}: {_words(found, side)}"
    source = f"data:image/jpeg;base64,{data}"
    return h(
        "svg", h("title", said), h("image", href=source, width=width, height=height), *boxes,
        viewBox=f"0 0 {width} {height}", role="img", aria_label=said,
    )  # fmt: skip


def _colour(column: int, side: Side) -> str:
    number = side.colours.get(column)
    return DROPPED if number is None else COLOURS[number % len(COLOURS)]


def _box(box: Sequence[float], colour: str, size: float) -> Markup:
    x0, y0, x1, y1 = box
    dash = f"{size / 2:.2f}" if colour == DROPPED else None
    return h("rect", x=f"{x0:.1f}", y=f"{y0:.1f}", width=f"{max(x1 - x0, 0):.1f}",
             height=f"{max(y1 - y0, 0):.1f}", fill="none", stroke=colour,
             stroke_width=f"{size / 6:.2f}", stroke_dasharray=dash)  # fmt: skip


def _label(name: str, place: Place, colour: str, size: float) -> Markup:
    left, top, wide, tall = place
    back = h("rect", x=f"{left:.1f}", y=f"{top:.1f}", width=f"{wide:.1f}", height=f"{tall:.1f}",
             fill=colour)  # fmt: skip
    text = h("text", name, x=f"{left + size / 6:.1f}", y=f"{top + size:.1f}", fill="#fff",
             font_size=f"{size:.1f}", font_family="system-ui, sans-serif")  # fmt: skip
    return h("g", back, text)


def _places(
    boxes: Sequence[Sequence[float]], names: Sequence[str], size: float, whole: tuple[int, int]
) -> list[Place]:
    """Find a place for each name, the best first: on its box, in it, below, or near, where it is free.

    A place is left, top, width and height; ``whole`` is the picture's width and height.
    """
    tall, placed = 1.3 * size, list[Place]()
    for (x0, y0, x1, y1), name in zip(boxes, names, strict=True):
        wide = 0.58 * size * len(name) + size / 3
        tops = [y0 - tall, y0, y1, *(y0 + k * tall for k in range(1, 10))]
        tries = [
            (max(min(left, whole[0] - wide), 0.0), max(min(top, whole[1] - tall), 0.0), wide, tall)
            for top in tops for left in (x0, x1 - wide)
        ]  # fmt: skip
        free = (place for place in tries if not any(_meet(place, other) for other in placed))
        placed.append(next(free, tries[0]))
    return placed


def _meet(a: Place, b: Place) -> bool:
    return all(a[k] < b[k] + b[k + 2] and b[k] < a[k] + a[k + 2] for k in (0, 1))


def _words(found: Detections, side: Side) -> str:
    names = [_name(int(c), side) for c in found.columns]
    counts = [f"{names.count(n)} {n}" if names.count(n) > 1 else n for n in dict.fromkeys(names)]
    return ", ".join(counts) or "nothing"


def _name(column: int, side: Side) -> str:
    return side.names.get(column, "a dropped class")
