"""Pictures with detections: small JPEGs inside the page, boxes as SVG above them.

Each has a switch between both models: three radio buttons and a rule of CSS, no script. Flipping
between the two at one place shows what moved; on paper, both are there.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnx_headcut.report.html import Markup, h

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from onnx_headcut.drift.boxes import Detections
    from onnx_headcut.drift.measure import Picture

_LONGEST = 480
_COLOURS = ("#e4572e", "#1f8ef1", "#2a9d4a", "#c04ce0", "#d19000", "#00a3a3", "#e0457b", "#7a6ff0")
_DROPPED = "#8a949e"


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
    return h("figure", _switch(name, number), h("div", *halves, class_="pair"), h("figcaption", name))


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
    return h("fieldset", h("legend", f"Show {name} as found by"), *buttons, class_="switch")


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
    # The best detection is drawn last, above the others.
    boxes = [
        _box(
            found.boxes[k] * [width, height, width, height], int(found.columns[k]),
            float(found.scores[k]), side, width,
        )
        for k in reversed(range(len(found)))
    ]  # fmt: skip
    said = f"{title}: {_words(found, side)}"
    source = f"data:image/jpeg;base64,{data}"
    return h(
        "svg", h("title", said), h("image", href=source, width=width, height=height), *boxes,
        viewBox=f"0 0 {width} {height}", role="img", aria_label=said,
    )  # fmt: skip


def _box(box: object, column: int, score: float, side: Side, width: int) -> Markup:
    x0, y0, x1, y1 = (float(v) for v in box)  # type: ignore[attr-defined]  # an array of four
    kept = column in side.colours
    colour = _COLOURS[side.colours[column] % len(_COLOURS)] if kept else _DROPPED
    label = f"{_name(column, side)} {score:.2f}"
    size = width / 34  # as large on the page, whatever the picture's size
    wide, top = 0.58 * size * len(label) + size / 3, max(y0 - 1.3 * size, 0)
    left = max(min(x0, width - wide), 0)
    return h(
        "g",
        h("rect", x=f"{x0:.1f}", y=f"{y0:.1f}", width=f"{max(x1 - x0, 0):.1f}",
          height=f"{max(y1 - y0, 0):.1f}", fill="none", stroke=colour,
          stroke_width=f"{size / 6:.2f}",
          stroke_dasharray=None if kept else f"{size / 2:.2f}"),
        h("rect", x=f"{left:.1f}", y=f"{top:.1f}", width=f"{wide:.1f}", fill=colour,
          height=f"{1.3 * size:.1f}"),
        h("text", label, x=f"{left + size / 6:.1f}", y=f"{top + size:.1f}", fill="#fff",
          font_size=f"{size:.1f}", font_family="system-ui, sans-serif"),
    )  # fmt: skip


def _words(found: Detections, side: Side) -> str:
    names = [_name(int(c), side) for c in found.columns]
    counts = [f"{names.count(n)} {n}" if names.count(n) > 1 else n for n in dict.fromkeys(names)]
    return ", ".join(counts) or "nothing"


def _name(column: int, side: Side) -> str:
    return side.names.get(column, "a dropped class")
