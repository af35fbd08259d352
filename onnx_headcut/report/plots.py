"""Plots as SVG that takes its colours from the page, by matplotlib (extra ``report``).

Colours are drawn as stand-ins and replaced by the page's variables, so that one plot serves light
and dark. Without matplotlib there are no plots, and the page says so.
"""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

from onnx_headcut.report.html import Markup

if TYPE_CHECKING:
    from collections.abc import Callable

    from onnx_headcut.drift.boxes import Floats

_INK, _ACCENT, _LINE = "#010203", "#040506", "#070809"
_VARIABLES = {_INK: "var(--ink)", _ACCENT: "var(--accent)", _LINE: "var(--line)"}
_LEAST = 0.05
MISSING = "Plots need matplotlib: pip install 'onnx-headcut[report]'."


def available() -> bool:
    """Whether matplotlib can be imported."""
    try:
        import matplotlib as _  # noqa: F401, ICN001, PLC0415  (optional)
    except ImportError:
        return False
    return True


def scatter(scores: Floats) -> Markup:
    """Draw scores before and after [n,2]; on the diagonal they are the same."""

    def draw(axes: Any) -> None:
        axes.plot([0, 1], [0, 1], color=_LINE, linewidth=1)
        axes.scatter(scores[:, 0], scores[:, 1], s=18, color=_ACCENT, alpha=0.6, linewidths=0)
        axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="score before", ylabel="score after")

    return _plot(draw, f"Scores of {len(scores)} matched detections before and after the cut.")


def histogram(changes: Floats, what: str) -> Markup:
    """Draw how often which change occurs."""

    def draw(axes: Any) -> None:
        # Where hardly anything changes, an axis of millionths would make it look like much.
        reach = max(float(abs(changes).max(initial=0.0)), _LEAST)
        axes.hist(changes, bins=31, range=(-reach, reach), color=_ACCENT)
        axes.set(xlabel=what, ylabel="detections")
        axes.yaxis.get_major_locator().set_params(integer=True)

    return _plot(draw, f"Histogram: {what}, of {len(changes)} matched detections.")


def _plot(draw: Callable[[Any], None], words: str) -> Markup:
    import matplotlib as mpl  # noqa: PLC0415  (optional, and slow to import)
    from matplotlib.backends.backend_svg import FigureCanvasSVG  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    style: Any = {"svg.fonttype": "none", "svg.hashsalt": words, "font.family": "sans-serif",
             "font.size": 10, "text.color": _INK, "axes.labelcolor": _INK, "axes.edgecolor": _LINE,
             "xtick.color": _INK, "ytick.color": _INK}  # fmt: skip
    with mpl.rc_context(style):
        figure = Figure(figsize=(4.2, 3.2), layout="constrained")
        FigureCanvasSVG(figure)
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
        axes.spines[["top", "right"]].set_visible(False)
        draw(axes)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return Markup(_adapted(out.getvalue(), words))


def _adapted(svg: str, words: str) -> str:
    """Take the svg element alone, with the page's colours, its own ids, and words for readers."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    for stand_in, variable in _VARIABLES.items():
        svg = svg.replace(stand_in, variable)
    prefix = f"p{sum(map(ord, words)) % 9973}-"
    svg = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{prefix}", svg)
    return svg.replace("<svg", f'<svg role="img" aria-label="{words}"', 1)
