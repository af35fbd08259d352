"""The head as a small graph: backbone, heads, what lies behind, outputs; changes stand out."""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING

from onnx_headcut.report.html import Markup, h

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx_headcut.figures import Head
    from onnx_headcut.tracing.plan import OutputClasses, Plan

_MOST = 10
_WIDTH, _ROW, _TALL = 760, 46, 36
_BACKBONE, _HEADS, _BEHIND, _OUTPUTS = (0, 110), (150, 230), (420, 130), (590, 170)
"""Left edge and width of each column."""


def draw(heads: Sequence[Head], plan: Plan) -> Markup:
    """Draw the graph as SVG, with all of it in words for screen readers."""
    names = _short([head.node for head in heads[:_MOST]], 30)
    shown = [(name, _channels(head, plan)) for name, head in zip(names, heads, strict=False)]
    if len(heads) > _MOST:
        shown.append((f"and {len(heads) - _MOST} more heads", "cut alike"))
    names = _short([output.name for output in plan.outputs[:_MOST]], 22)
    outputs = [(name, _kind(output)) for name, output in zip(names, plan.outputs, strict=False)]
    height = max(len(shown), len(outputs), 1) * _ROW + 40
    middle = height / 2 + 6
    at = [_spread(k, len(shown), height) for k in range(len(shown))]
    to = [_spread(k, len(outputs), height) for k in range(len(outputs))]
    behind = len({s.node for s in plan.steps} - {head.node for head in heads})
    edited = f"{behind} node{'s' * (behind != 1)} edited"
    lines = [_line(_BACKBONE, middle, _HEADS, y) for y in at]
    lines += [_line(_HEADS, y, _BEHIND, middle) for y in at]
    lines += [_line(_BEHIND, middle, _OUTPUTS, y) for y in to]
    boxes = [
        _box(_BACKBONE, middle, ("backbone", "unchanged"), changed=False),
        *(_box(_HEADS, y, words, changed=True) for y, words in zip(at, shown, strict=True)),
        _box(_BEHIND, middle, ("behind", edited if behind else "unchanged"), changed=behind > 0),
        *(
            _box(_OUTPUTS, y, words, changed=output.kind != "independent")
            for y, words, output in zip(to, outputs, plan.outputs, strict=False)
        ),
    ]
    told = "; ".join(f"{name}: {change}" for name, change in shown)
    said = f"Backbone, unchanged. Heads: {told}. Behind them: {edited}. Outputs: " + "; ".join(
        f"{name}, {kind}" for name, kind in outputs
    )
    return h(
        "svg", h("title", "The head before and after"), h("desc", said), *lines, *boxes,
        viewBox=f"0 0 {_WIDTH} {height:.0f}", role="img", aria_label=said,
        font_family="system-ui, sans-serif", font_size="12",
    )  # fmt: skip


def _channels(head: Head, plan: Plan) -> str:
    anchors = f"{head.anchors} anchor{'s' * (head.anchors != 1)}"
    if any(site.exact for site in plan.sites):
        return f"{head.channels} channels, whole ({anchors})"
    after = head.channels - head.anchors * (head.classes - len(plan.selection.order))
    return f"{head.channels} → {after} channels ({anchors})"


def _kind(output: OutputClasses) -> str:
    if output.kind == "scores":
        return f"classes on axis {output.axis}"
    return {"independent": "no classes", "detections": "detections"}.get(output.kind, output.kind)


def _spread(k: int, count: int, height: float) -> float:
    return (k + 0.5) * (height - 12) / count + 6


def _line(left: tuple[int, int], y0: float, right: tuple[int, int], y1: float) -> Markup:
    x0, x1 = left[0] + left[1], right[0]
    half = (x0 + x1) / 2
    d = f"M{x0} {y0:.1f} C{half} {y0:.1f} {half} {y1:.1f} {x1} {y1:.1f}"
    return h("path", d=d, fill="none", stroke="var(--line)", stroke_width="1.5")


def _box(column: tuple[int, int], y: float, words: tuple[str, str], *, changed: bool) -> Markup:
    x, width = column
    edge = "var(--accent)" if changed else "var(--line)"
    rect = h("rect", x=x + 1, y=f"{y - _TALL / 2:.1f}", width=width - 2, height=_TALL, rx="5",
             fill="var(--soft)", stroke=edge, stroke_width="2" if changed else "1")  # fmt: skip
    texts = [
        h("text", word, x=x + 8, y=f"{y + dy:.1f}", fill=f"var(--{colour})")
        for word, dy, colour in ((words[0], -3, "ink"), (words[1], 12, "faint"))
    ]
    return h("g", rect, *texts)


def _short(names: Sequence[str], most: int) -> list[str]:
    """Cut long names so that what tells them apart stays: their common ends go first."""
    if max(map(len, names), default=0) <= most:
        return list(names)
    letters = enumerate(zip_longest(*names, fillvalue=""))
    start = next((at for at, there in letters if len(set(there)) > 1), 0)
    return [_around(name, start, most) for name in names]


def _around(name: str, start: int, most: int) -> str:
    """Cut a name to what lies around its character ``start``, a few before it included."""
    if len(name) <= most:
        return name
    first = max(min(start - most // 4, len(name) - most + 1), 0)
    first = 0 if first <= 1 else first
    last = first + most - (first > 0) - 1
    head = "…" if first else ""
    return f"{head}{name[first:]}" if last >= len(name) - 1 else f"{head}{name[first:last]}…"
