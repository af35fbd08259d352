"""The same answers for people: tables by Rich, readable in a narrow terminal and in a pipe.

Names that come from models are strangers' text: they are printed through `printable` only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich import box
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from onnx_headcut.classes.background import UNKNOWN
from onnx_headcut.console import printable
from onnx_headcut.documents import savings, written
from onnx_headcut.numbers import change, in_bytes, many, short

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.console import Console, ConsoleOptions, RenderResult

    from onnx_headcut.classes import Classes
    from onnx_headcut.cutting import Cut, Inspection
    from onnx_headcut.figures import Figures
    from onnx_headcut.tracing.plan import OutputClasses
    from onnx_headcut.validation.verdict import Verdict, Where

_UNBOUNDED = 1_000_000
_STATUS = {"passed": "bold green", "failed": "bold red", "inconclusive": "bold yellow"}
_REASONS = 12
_FIGURES = (
    ("heads", "heads"),
    ("head channels", "channels"),
    ("parameters", "parameters"),
    ("multiply-adds", "macs"),
    ("nodes", "nodes"),
)


def show_inspection(to: Console, found: Inspection, model: Path) -> None:
    """Print what `inspect` found: heads, outputs, classes, and what a cut would save."""
    _title(to, str(model))
    heads = _Rows(("head", "op", "weight", "type", ">anchors", ">classes", ">parameters"))
    for head in found.heads:
        shape = "x".join(map(str, head.shape))
        figures = (f"{head.anchors}", f"{head.classes}", f"{head.parameters:,}")
        heads.add(head.node, head.op, shape, head.dtype, *figures)
    outputs = _Rows(("output", "shape", "depends on classes"))
    for output in found.outputs:
        outputs.add(output.name, _shape(output), _dependence(output))
    saved = _Rows((">classes kept", ">parameters saved", ">multiply-adds saved"))
    for count, parameters, macs in savings(found):
        saved.add(f"{count}", f"{parameters:.1%}", f"{macs:.1%}")
    facts = _facts()
    _fact(facts, "Scores", found.evidence or found.activation)
    _class_facts(facts, found.classes)
    share = found.head_parameters / max(found.figures.parameters, 1)
    macs = found.head_macs / max(found.figures.macs, 1)
    _fact(
        facts,
        "Heads' share",
        f"{share:.1%} of {short(found.figures.parameters)} parameters, "
        f"{macs:.1%} of {short(found.figures.macs)} multiply-adds" + _at(found.shapes),
    )
    for part in (heads, outputs, facts, saved):
        to.print(part)
        to.print()


def show_plan(to: Console, result: Cut, model: Path) -> None:
    """Print what a cut would do: every edit, node by node."""
    _title(to, f"{model}: the plan")
    if result.class_map.identity:
        to.print("Everything is kept: the cut is a copy, byte for byte.")
    for line in () if result.class_map.identity else result.plan.lines():
        to.print(Text(f"- {printable(line)}"))
    to.print()
    facts = _facts()
    _kept_facts(facts, result)
    _notes(facts, result.plan.notes)
    _fact(facts, "Written", "nothing: --dry-run")
    to.print(facts)


def show_cut(to: Console, result: Cut, model: Path) -> None:
    """Print a cut: its figures before and after, and what validation compared."""
    _title(to, f"{model} → {result.output}")
    to.print(_before_after(result.before, result.after))
    to.print()
    facts = _facts()
    _kept_facts(facts, result)
    if result.verdict is None:
        _fact(facts, "Validated", "no: --no-validate", "yellow")
    else:
        _verdict_facts(facts, result.verdict)
    _notes(facts, result.plan.notes)
    if written(result):
        _fact(facts, "Written", f"{result.output} ({in_bytes(result.after.bytes)})")
    else:
        _fact(facts, "Written", "nothing", "bold red")
    to.print(facts)


def show_verdict(to: Console, verdict: Verdict) -> None:
    """Print a validation: the verdict first, then output by output what was compared."""
    facts = _facts()
    _verdict_facts(facts, verdict)
    to.print(facts)
    if not verdict.outputs:
        return
    to.print()
    table = _Rows(
        ("compared", "kind", ">values", ">classes", ">detections", ">max abs", ">max rel", "at")
    )
    for row in verdict.outputs:
        detections = f"{row.matched:,}" if row.kind == "detections" else ""
        if row.missing or row.extra:
            detections += f" (-{row.missing}, +{row.extra})"
        numbers = (f"{row.values:,}", f"{row.classes or ''}", detections)
        table.add(
            row.name, row.kind, *numbers, f"{row.max_abs:.2g}", f"{row.max_rel:.2g}",
            row.where, style="red" if row.outside or row.missing or row.extra else "",
        )  # fmt: skip
    to.print(table)


# ------------------------------------------------------------------------------- paragraphs


def _before_after(before: Figures, after: Figures) -> _Rows:
    table = _Rows(("", ">before", ">after", ">change"))
    for label, name in _FIGURES:
        old, new = getattr(before, name), getattr(after, name)
        table.add(label, short(old), short(new), change(old, new))
    sizes = before.bytes, after.bytes
    table.add("model file", *map(in_bytes, sizes), change(*sizes))
    return table


def _kept_facts(facts: Table, result: Cut) -> None:
    kept, classes = result.kept, result.classes
    columns = [_origin(result, new) for new in range(kept.count)]
    text = f"{kept.count} of {classes.count} columns: {', '.join(columns)}"
    _fact(facts, "Kept", text)
    if result.class_map.exact:
        merged = {"sum": "; merged classes add up", "max": "; the best of merged classes counts"}
        _fact(facts, "Scores", "exact: heads stay whole, and each kept score is what it was"
              + merged.get(result.class_map.merge or "", ""))  # fmt: skip
    _fact(facts, "Names", classes.names_why)
    _background_fact(facts, classes)


def _origin(result: Cut, new: int) -> str:
    """One column of the cut: its name, and what it was or is made of."""
    row, name = result.class_map.rows[new], result.kept.name(new)
    if name != f"class {new}":  # what has no name is called by its number already
        name = f"{new} {name}"
    if row.start is not None and row.start.kind == "given":
        return f"{name} (fitted)"
    if row.plain:
        return f"{name} (was {row.template})" if row.template != new else name
    return (
        f"{name} (was {result.class_map.describe(new)})"
        if row.merged
        else (f"{name} ({result.class_map.describe(new)})")
    )


def _class_facts(facts: Table, classes: Classes) -> None:
    if classes.names:
        text = ", ".join(f"{i} {classes.name(i)}" for i in range(classes.count))
    else:
        text = f"ids 0 to {classes.count - 1}"
    _fact(facts, "Classes", f"{classes.count} columns: {text}")
    _fact(facts, "Names", classes.names_why)
    _background_fact(facts, classes)


def _background_fact(facts: Table, classes: Classes) -> None:
    where = "none" if classes.background is None else f"column {classes.background}"
    why = classes.background_why
    if why.startswith(UNKNOWN):
        _fact(facts, "Background", why, "yellow")
        return
    if classes.background_assumed and "assumed" not in why:
        why = f"assumed: {why}"
    style = "yellow" if classes.background_assumed else ""
    _fact(facts, "Background", f"{where} ({why})", style)


def _verdict_facts(facts: Table, verdict: Verdict) -> None:
    _fact(facts, "Validated", verdict.status, _STATUS[verdict.status])
    for reason in verdict.reasons[:_REASONS]:
        _fact(facts, "Because", reason)
    if len(verdict.reasons) > _REASONS:
        _fact(facts, "Because", f"{len(verdict.reasons) - _REASONS} more; --json says all")
    _fact(facts, "Compared", _compared(verdict))
    worst = max(verdict.outputs, key=lambda row: row.max_abs, default=None)
    if worst is not None:
        where = f" in {worst.name} at {worst.where}" if worst.max_abs and worst.where else ""
        _fact(
            facts, "Differences", f"at most {worst.max_abs:.3g} absolute{where}, "
            f"{max(row.max_rel for row in verdict.outputs):.3g} relative",
        )  # fmt: skip
    for drift in verdict.drift:
        if drift.max_change or drift.gained or drift.lost:
            against = "against the original with all its classes"
            moved = f"scores in '{drift.output}' move by up to {drift.max_change:.3g} {against}"
            said = [moved if drift.max_change else against, drift.words]
            _fact(facts, "Meaning", "; ".join(filter(None, said)))
    if verdict.cut is not None:
        _fact(facts, "Ran on", _ran_on(verdict.cut))
    if verdict.deployed is not None:
        _fact(facts, "As deployed", verdict.deployed.line.removeprefix("as deployed "))
    if verdict.structure is not None:
        _fact(facts, "Untouched", verdict.structure.line)
    _notes(facts, verdict.notes)


def _compared(verdict: Verdict) -> str:
    seen = sum(1 for row in verdict.classes if row.values or row.detections)
    detections = sum(row.matched for row in verdict.outputs if row.kind == "detections")
    parts = [f"{verdict.values:,} values", f"{seen} of {len(verdict.classes)} kept columns"]
    if verdict and seen == len(verdict.classes) - 1:  # nothing else may stay unseen
        parts[1] += " (no output shows the background)"
    if any(row.kind == "detections" for row in verdict.outputs):
        parts.append(f"{detections:,} detections")
    runs = f"{many(verdict.runs, 'run')} on {many(len(verdict.feeds), 'input')}"
    return f"{', '.join(parts)}, in {runs}{verdict.widened}"


def _ran_on(where: Where) -> str:
    nodes = ", ".join(f"{many(n, 'node')} on {name}" for name, n in where.placement.items())
    return "; ".join(filter(None, [where.provider, nodes, where.note]))


def _dependence(output: OutputClasses) -> str:
    if output.kind == "scores":
        return f"columns {output.columns} of axis {output.axis} are class scores"
    if output.kind == "class ids":
        return f"its values are class ids: {_ids(output.convention)}"
    if output.kind == "detections with class ids":
        at = f"column{'s' if '-' in output.columns or ',' in output.columns else ''} {output.columns}"
        return f"its rows are detections, with class ids in {at}: {_ids(output.convention)}"
    return {"independent": "no", "detections": "its rows are detections"}.get(output.kind, output.kind)


def _ids(convention: str) -> str:
    """How an id follows from its class, with words for what is short in JSON."""
    return convention if convention.startswith("numbers") else f"the head's {convention}"


def _at(shapes: dict[str, tuple[int, ...]]) -> str:
    sizes = ", ".join(f"{name} {'x'.join(map(str, dims))}" for name, dims in shapes.items())
    return f" for {sizes}" if sizes else ""


# -------------------------------------------------------------------------------- furniture


def _title(to: Console, text: str) -> None:
    to.print(Text(printable(text), style="bold", overflow="fold"))
    to.print()


@dataclass
class _Rows:
    """A table that becomes a list where the terminal is too narrow for it.

    A column whose head starts with ``>`` holds numbers.
    """

    columns: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)
    styles: list[str] = field(default_factory=list)

    def add(self, *cells: str, style: str = "") -> None:
        self.rows.append(tuple(printable(cell) for cell in cells))
        self.styles.append(style)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = self._table()
        unbounded = options.update(max_width=_UNBOUNDED)
        needed = console.measure(table, options=unbounded).maximum
        yield table if needed <= options.max_width else self._list()

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(1, options.max_width)

    def _table(self) -> Table:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", show_edge=False)
        for column in self.columns:
            name = column.removeprefix(">")
            table.add_column(name, justify="left" if name == column else "right", no_wrap=True)
        for cells, style in zip(self.rows, self.styles, strict=True):
            table.add_row(*map(Text, cells), style=style)
        return table

    def _list(self) -> Table:
        facts = _facts()
        for cells, style in zip(self.rows, self.styles, strict=True):
            for column, cell in zip(self.columns, cells, strict=True):
                if cell:
                    first = column is self.columns[0]
                    facts.add_row(column.removeprefix(">"), Text(cell, "bold" if first else style))
            facts.add_row()
        return facts


def _facts() -> Table:
    facts = Table.grid(padding=(0, 2, 0, 0))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    return facts


def _fact(facts: Table, label: str, text: str, style: str = "") -> None:
    facts.add_row(label, Text(printable(text), style=style))


def _notes(facts: Table, notes: Sequence[str]) -> None:
    for note in notes:
        _fact(facts, "Note", note)


def _shape(output: OutputClasses) -> str:
    if output.shape is None:
        return "?"
    return "x".join("?" if dim is None else f"{dim}" for dim in output.shape)
