"""The report as one page: nothing is fetched, and it reads on paper, on a phone and aloud."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnx_headcut import __version__
from onnx_headcut.numbers import change, in_bytes, many, short
from onnx_headcut.report import graph, pictures, plots
from onnx_headcut.report.html import Child, Markup, h, table
from onnx_headcut.report.style import CSS

if TYPE_CHECKING:
    from onnx_headcut.bench.measure import Bench
    from onnx_headcut.classes import Classes
    from onnx_headcut.drift.measure import DriftReport
    from onnx_headcut.figures import Figures, Head
    from onnx_headcut.tracing.plan import Plan
    from onnx_headcut.validation.verdict import Verdict, Where

_SIGNS = {"passed": "✓ Passed", "failed": "✗ Failed", "inconclusive": "? Inconclusive"}
_MEANINGS = {
    "passed": "On the kept classes the cut says the same as the original.",
    "failed": "The cut differs from the original, or is not what it claims to be.",
    "inconclusive": "Too little could be compared to say that the cut is right.",
}
_KINDS = {
    "scores": "class scores inside the graph",
    "dense": "scores by class",
    "detections": "detections, matched one to one",
    "count": "how many detections",
    "apart": "no class reaches it",
}
_MOST_PICTURES = 12
_NO_NETWORK = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@dataclass(frozen=True)
class File:
    """A file as it lies there: its name, its size in bytes, and its sha256."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Material:
    """All that a page shows; what is None is left out. Names are without folders."""

    original: str
    cut: str
    verdict: Verdict
    plan: Plan
    classes: Classes
    heads: tuple[Head, ...] = ()
    before: Figures | None = None
    after: Figures | None = None
    drift: DriftReport | None = None
    bench: Bench | str | None = None  # or why there is none
    called: tuple[str | None, ...] = ()
    """What the cut's own record calls its columns, new and merged ones among them."""
    files: tuple[File, ...] = ()

    def name(self, new: int, column: int) -> str:
        """How to call column ``new`` of the cut, whose place in the original is ``column``."""
        return (self.called[new] if self.called else None) or self.classes.name(column)


def page(material: Material) -> str:
    """Write the page."""
    m = material
    title = f"{m.cut}: {m.verdict.status}"
    head = h(
        "head",
        h("meta", charset="utf-8"),
        h("meta", name="viewport", content="width=device-width, initial-scale=1"),
        h("meta", http_equiv="Content-Security-Policy", content=_NO_NETWORK),
        h("title", title),
        Markup(f"<style>{CSS}</style>"),
    )
    parts = [
        _verdict(m), _figures(m), _graph(m), _compared(m), _classes(m), _drift(m), _pictures(m),
        _speed(m), _plan(m),
    ]  # fmt: skip
    footer = h("footer", f"Written by onnx-headcut {__version__}.")
    body = h("body", h("main", *parts), footer)
    return f"<!DOCTYPE html>\n{h('html', head, body, lang='en')}\n"


def _section(title: str, *children: Child) -> Markup:
    name = title.lower().replace(" ", "-")
    return h("section", h("h2", title, id=name), *children, aria_labelledby=name)


def _verdict(m: Material) -> Markup:
    v = m.verdict
    order = enumerate(m.plan.selection.order)
    kept = [m.name(new, c) for new, c in order if c != m.classes.background]
    where = f"{many(v.runs, 'run')} on {many(len(v.feeds), 'input')}{v.widened}"
    facts: list[tuple[str, str]] = [
        ("Kept", ", ".join(kept)),
        ("Compared", f"{v.values:,} values in {where}"),
    ]
    worst = max((row.max_abs for row in v.outputs), default=0.0)
    facts += [("Largest difference", f"{worst:.3g}")] if v.values else []
    facts += [("Ran on", _where(v.cut))] if v.cut else []
    if v.deployed is not None:
        facts.append(("As deployed", v.deployed.line.removeprefix("as deployed ")))
    facts += [("Untouched", v.structure.line)] if v.structure else []
    facts += [("Note", note) for note in dict.fromkeys([*m.plan.notes, *v.notes])]
    box = h(
        "div",
        h("p", h("strong", _SIGNS[v.status])),
        h("p", _MEANINGS[v.status]),
        h("ul", *(h("li", reason) for reason in v.reasons)) if v.reasons else None,
        class_=f"verdict {v.status}",
    )
    rows = [part for name, text in facts for part in (h("dt", name), h("dd", text))]
    for file in m.files:
        digest = h("code", file.sha256)
        rows += [h("dt", "File"), h("dd", f"{file.name}, {in_bytes(file.size)}, sha256", digest)]
    return h("header", h("h1", f"{m.original} → {m.cut}"), box, h("dl", *rows))


def _where(where: Where) -> str:
    nodes = ", ".join(f"{many(n, 'node')} on {name}" for name, n in where.placement.items())
    return "; ".join(filter(None, [nodes or where.provider, where.note]))


def _figures(m: Material) -> Markup | None:
    if m.before is None or m.after is None:
        return None
    names = {"heads": "heads", "channels": "head channels", "parameters": "parameters",
             "macs": "multiply-adds", "nodes": "nodes", "bytes": "model file"}  # fmt: skip
    rows: list[tuple[Child, ...]] = []
    for name, label in names.items():
        old, new = getattr(m.before, name), getattr(m.after, name)
        say = in_bytes if name == "bytes" else short
        rows.append((label, say(old), say(new), change(old, new)))
    return _section("Before and after", table("Sizes of the model", ("figure", "before", "after",
                                              "change"), rows))  # fmt: skip


def _graph(m: Material) -> Markup | None:
    if not m.heads:
        return None
    words = "What the cut changed has a coloured edge."
    drawn = h("div", graph.draw(m.heads, m.plan), class_="scroll", tabindex="0", role="region",
              aria_label="The head as a graph")  # fmt: skip
    return _section("The head", h("figure", drawn, h("figcaption", words)))


def _compared(m: Material) -> Markup | None:
    rows: list[tuple[Child, ...]] = []
    for row in m.verdict.outputs:
        wrong = row.outside or row.missing or row.extra
        detections = f"{row.matched:,}" if row.kind == "detections" else ""
        lost = [f"{n} {word}" for n, word in ((row.missing, "missing"), (row.extra, "extra"),
                                              (row.moved, "moved")) if n]  # fmt: skip
        detections += f" ({', '.join(lost)})" if lost else ""
        state = h("span", "differs", class_="bad") if wrong else "equal"
        rows.append((row.name, _KINDS.get(row.kind, row.kind), f"{row.values:,}", detections,
                     f"{row.max_abs:.2g}", f"{row.max_rel:.2g}", state, row.where))  # fmt: skip
    if not rows:
        return None
    head = ("output", "what it holds", "values", "detections", "largest difference", "relative",
            "result", "where")  # fmt: skip
    return _section("What was compared", table(
        "Each output of the cut against the original with its dropped classes masked", head, rows,
        numbers_from=2))  # fmt: skip


def _classes(m: Material) -> Markup:
    found = m.verdict.classes
    by_value, by_detection = any(r.values for r in found), any(r.detections for r in found)
    rows: list[tuple[Child, ...]] = [
        (m.name(row.new, row.column), f"{row.column}", f"{row.new}",
         f"{row.values:,}" if by_value or not by_detection else "",
         f"{row.detections:,}" if by_detection else "",
         *(f"{n}" if n else "" for n in (row.missing, row.extra)),
         _id(row.label), _id(row.cut_label))
        for row in found
    ]  # fmt: skip
    head = ("class", "column before", "column after", "values", "detections", "missing", "extra",
            "id before", "id after")  # fmt: skip
    return _section("Evidence by class", table("How much was compared of each class", head, rows))


def _id(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _drift(m: Material) -> Markup | None:
    words = h("p", "Apart from right or wrong: what the cut changes against the original with all "
              "its classes.")  # fmt: skip
    if m.drift is None:
        moved = [d for d in m.verdict.drift if d.max_change or d.gained or d.lost]
        if not moved:
            return None
        items = [
            h("li", f"{d.output}: scores move by up to {d.max_change:.3g}"
              + (f"; {d.words}" if d.words else "")) for d in moved
        ]  # fmt: skip
        return _section(
            "Drift",
            words,
            h("ul", *items),
            h("p", "Give pictures to see more of it: --images.", class_="faint"),
        )
    d = m.drift
    head = ("class", "before", "after", "matched", "moved", "gained", "on dropped objects", "lost",
            "score change", "AP50 before", "AP50 after")  # fmt: skip
    rows: list[tuple[Child, ...]] = [
        (r.name, *(f"{n}" for n in (r.before, r.after, r.matched, r.moved, r.gained, r.on_dropped,
                                    r.lost)),
         "" if r.score_change is None else f"{r.score_change:+.3f}", _part(r.ap50_before),
         _part(r.ap50_after))
        for r in d.classes
    ]  # fmt: skip
    return _section("Drift", words, h("ul", *(h("li", line) for line in d.lines())),
                    table("Detections by class, scores of 0.3 and more", head, rows) if rows else None,
                    _plots(d))  # fmt: skip


def _part(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _plots(d: DriftReport) -> Markup | None:
    if not len(d.scores):
        return None
    if not plots.available():
        return h("p", plots.MISSING, class_="faint")
    change = d.scores[:, 1] - d.scores[:, 0]
    drawn = [plots.scatter(d.scores), plots.histogram(change, "change of score")]
    return h("div", *(h("figure", plot) for plot in drawn), class_="plots")


def _pictures(m: Material) -> Markup | None:
    if m.drift is None or not m.drift.classes:
        return None
    words = "Dashed and grey: objects of dropped classes, which only the original names."
    shown = m.drift.pictures[:_MOST_PICTURES]
    sides = _sides(m, m.drift)
    drawn = [pictures.compared(p, sides, number) for number, p in enumerate(shown)]
    rest = len(m.drift.pictures) - len(shown)
    more = f"{many(rest, 'more picture')} measured, and not shown."
    left = h("p", more, class_="faint") if rest else None
    return _section("Pictures", h("p", words), *drawn, left)


def _sides(m: Material, drift: DriftReport) -> tuple[pictures.Side, pictures.Side]:
    """How both models' columns are called and drawn: what becomes one class has one colour."""
    names = {c: m.classes.name(c) for c in range(m.classes.count)}
    numbers = {row.new: number for number, row in enumerate(drift.classes)}
    colours = {c: numbers[row.new] for row in reversed(drift.classes) for c in row.sources}
    called = {row.new: row.name for row in drift.classes}
    return pictures.Side("original", names, colours), pictures.Side("cut", called, numbers)


def _speed(m: Material) -> Markup | None:
    b = m.bench
    if b is None:
        return None
    if isinstance(b, str):
        return _section("Speed", h("p", f"Not measured: {b}."))
    longest = max(b.original.high, b.cut.high)
    rows: list[tuple[Child, ...]] = [
        (name, h("span", class_="bar", style=f"width: {12 * t.median / longest:.2f}rem",
                 aria_hidden="true"),
         f"{t.median * 1e3:.2f} ms", f"{t.best * 1e3:.2f} ms",
         f"{t.low * 1e3:.2f} to {t.high * 1e3:.2f} ms", f"{t.throughput:.1f}",
         *("" if size is None else f"{size / 1e6:.1f} MB" for size in (t.peak_memory, t.device_memory)))
        for name, t in (("original", b.original), ("cut", b.cut))
    ]  # fmt: skip
    stages = list(b.original.stages | b.cut.stages)
    parts: list[tuple[Child, ...]] = [
        (s, *(f"{t.stages.get(s, 0) * 1e3:.2f} ms" for t in (b.original, b.cut))) for s in stages
    ]
    threads = many(b.threads, "thread") if b.threads else "onnxruntime's own threads"
    runs = f"{b.cut.runs} runs of each in turn on {b.cut.provider}, {threads}"
    words = f"{b.line}, in {runs}."
    head = ("model", "", "median", "best", "10 % to 90 %", "pictures a second", "peak memory",
            "on the device")  # fmt: skip
    return _section(
        "Speed",
        h("p", words),
        table("Latency", head, rows, numbers_from=2),
        table("Time by stage", ("stage", "original", "cut"), parts) if parts else None,
        *(h("p", note) for note in b.notes),
    )


def _plan(m: Material) -> Markup:
    rows: list[tuple[Child, ...]] = [(s.node, s.op, s.change) for s in m.plan.steps]
    inner = table("Every edit", ("node", "operator", "change"), rows, numbers_from=9)
    return _section("The plan", h("details", h("summary", many(len(rows), "edit")), inner))
