"""From an analysed model to a plan: every edit a cut needs, found before any is made."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from onnx_headcut.editing import edits as ed
from onnx_headcut.errors import GraphRefused, UsageError
from onnx_headcut.heads.front import front_of
from onnx_headcut.heads.pull import pull
from onnx_headcut.labels import NONE, Columns, Labels, Lookup, Mark, Selection, Site, Whole
from onnx_headcut.rules.deciding import offset_of
from onnx_headcut.tracing import steady
from onnx_headcut.tracing.trace import Separate, Trace
from onnx_headcut.tracing.view import Demand, View

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import onnx

    from onnx_headcut.classes.mapping import ClassMap
    from onnx_headcut.graph.analysis import Analysis
    from onnx_headcut.graph.facts import Fact
    from onnx_headcut.graph.scope import Scope
    from onnx_headcut.heads.front import Front
    from onnx_headcut.heads.locate import Located


@dataclass(frozen=True)
class OutputClasses:
    """How one graph output depends on classes.

    ``kind``: ``scores`` (positions ``columns`` of ``axis`` belong to classes), ``class ids``
    (its values are class numbers), ``detections`` (rows of several classes), ``independent``.
    """

    name: str
    shape: tuple[int | None, ...] | None
    kind: str
    axis: int | None = None
    columns: str = ""
    convention: str = ""
    """Of class ids: how they follow from the head's columns, such as ``column - 1``."""


@dataclass(frozen=True)
class Step:
    """One edit for a person: the node, its op, and what changes."""

    node: str
    op: str
    change: str


@dataclass(frozen=True)
class Plan:
    """All edits that a cut needs; printable, and applied as a whole or not at all."""

    selection: Selection
    heads: dict[int, Labels]
    sites: tuple[Site, ...]
    cut_sites: tuple[Site, ...]
    edits: tuple[ed.Edit, ...]
    steps: tuple[Step, ...]
    outputs: tuple[OutputClasses, ...]
    notes: tuple[str, ...]
    changed: dict[str, tuple[Fact, Fact]]
    """Values of the main graph whose shape or value changes: the fact before and after."""
    alike: tuple[tuple[str, tuple[int, ...]], ...] = ()
    """Outputs that give several new columns one number, with these columns."""

    def lines(self) -> Iterator[str]:
        """The plan as text, a line an edit, grouped by node."""
        by_node: dict[tuple[str, str], list[str]] = defaultdict(list)
        for step in self.steps:
            by_node[step.node, step.op].append(step.change)
        for (node, op), changes in by_node.items():
            yield f"{op} {node!r}: {'; '.join(changes)}"

    def to_json(self) -> list[dict[str, Any]]:
        """The edits as plain data."""
        return [{"node": s.node, "op": s.op, "change": s.change} for s in self.steps]


def make_plan(
    analysis: Analysis,
    located: Located,
    selection: Selection,
    ids: str = "compact",
    *,
    exact: ClassMap | None = None,
) -> Plan:
    """Trace the cut through the whole graph; raises GraphRefused where it cannot be done safely.

    ``ids``: whether label outputs say the new ids (``compact``) or the original's (``original``).
    ``exact``: the map that ``selection`` is of, to be applied to activated scores, heads left whole.
    """
    main = analysis.main
    found = _found(analysis, located, selection, ids, exact)
    trace = found.trace
    if not selection.identity:
        steady.hold(analysis, found, lambda there: _found(there, located, selection, ids, exact))
    elif exact is None:
        analysis.everything = dict(main.marks)
    steps = []
    for edit in sorted(trace.edits.values(), key=lambda e: e.place):
        _, node = ed.node_at(main.graph, edit.place)
        steps.append(Step(node.name or node.output[0], node.op_type, edit.describe()))
    changed = {n: (main.old(n), f) for n, f in main.after.items()}
    cut_sites = tuple(
        replace(s, ids=tuple(np.array(s.ids)[selection.take(np.array(s.ids))].tolist()))
        for s in found.sites
    )
    return Plan(
        selection,
        found.heads,
        found.sites,
        cut_sites,
        tuple(trace.edits.values()),
        tuple(steps),
        found.outputs,
        tuple(dict.fromkeys(trace.notes)),
        changed,
        tuple(said_alike(trace, selection)),
    )


@dataclass(frozen=True)
class Found:
    """A trace with all edits of a cut, the heads and sites it began at, and what outputs are."""

    trace: Trace
    heads: dict[int, Labels]
    sites: tuple[Site, ...]
    outputs: tuple[OutputClasses, ...]


def _found(
    analysis: Analysis, located: Located, selection: Selection, ids: str, exact: ClassMap | None
) -> Found:
    """Trace a cut for one example of the inputs."""
    main = analysis.main
    if exact is None:
        trace, heads = _traced(analysis, located.heads, selection, None)
        sites = located.sites
    else:
        front = front_of(analysis, _everything(analysis, located), located.fronts, exact)
        trace, heads = _traced(analysis, {}, selection, front)
        sites = tuple(s for s in front.sites if s.value not in front.asked)
    outputs = tuple(
        describe_output(o.name, main.old(o.name), main.mark(o.name)) for o in main.graph.output
    )
    if ids == "original":
        keep_ids(trace, main, outputs)
    trace.edits |= {edit.key: edit for edit in redeclared(main)}
    return Found(trace, heads, sites, outputs)


def said_alike(trace: Trace, selection: Selection) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Outputs that give several new columns one number: a table that knows the source's only."""
    for (name, _), (lookup, option) in trace.said.items():
        columns = defaultdict[float, set[int]](set)
        for j, number in zip(selection.columns_at(lookup.ids, lookup.take), option.new, strict=True):
            if j != NONE:
                columns[float(number)].add(int(j))
        yield from ((name, tuple(sorted(alike))) for alike in columns.values() if len(alike) > 1)


def _everything(analysis: Analysis, located: Located) -> dict[str, Mark]:
    """Marks of the main graph in a trace that keeps all classes; made once."""
    if analysis.everything is None:
        keeping = Selection(tuple(range(located.count)), located.count)
        _traced(analysis, located.heads, keeping, None)
        analysis.everything = dict(analysis.main.marks)
    return analysis.everything


def _traced(
    analysis: Analysis, heads: dict[int, Labels], selection: Selection, front: Front | None
) -> tuple[Trace, dict[int, Labels]]:
    """Trace from heads, or from a front; and from which heads, class-specific boxes' among them."""
    main, heads = analysis.main, dict(heads)
    tried, separate = set[str](), set[str]()
    while True:
        main.forget()
        trace = Trace(analysis.interpreter, selection, heads, front, tried=tried, separate=separate)
        try:
            trace.run(main)
            trace.finish(main)
        except Demand as wanted:
            # class-specific boxes or masks: their head is cut by the same labels
            tried.add(wanted.value)
            heads |= _heads_behind(analysis, wanted, heads)
        except Separate as wanted:
            separate.add(wanted.value)
        else:
            return trace, heads


def _heads_behind(analysis: Analysis, wanted: Demand, known: dict[int, Labels]) -> dict[int, Labels]:
    """Further heads whose channels belong to the classes as ``wanted`` says; none if unclear."""
    try:
        found = pull(analysis, wanted.value, wanted.labels).heads
    except GraphRefused:
        return {}
    if any(k in known and not known[k].same(m) for k, m in found.items()):
        return {}
    return found


def redeclared(scope: Scope) -> Iterator[ed.Redeclare]:
    """Edits that declare the values of bodies with the shapes that they have after the cut."""
    for (i, k), body in scope.children.items():
        graph = body.graph
        names = [v.name for v in [*graph.input, *graph.output, *graph.value_info]]
        changed = {n: (body.old(n), body.after[n]) for n in names
                   if n in body.after and body.after[n].shape != body.old(n).shape}  # fmt: skip
        if changed:
            yield ed.Redeclare((*scope.place, i), k, changed)
        yield from redeclared(body)


def describe_output(name: str, fact: Fact, mark: Mark | None) -> OutputClasses:
    """What a mark on a graph output means for its reader."""
    if isinstance(mark, Labels):
        return OutputClasses(name, fact.shape, "scores", mark.axis, ranges(mark.ids))
    if isinstance(mark, Lookup):
        return OutputClasses(name, fact.shape, "class ids", convention=convention(mark))
    if isinstance(mark, Whole):
        return OutputClasses(name, fact.shape, f"class {mark.cls} alone")
    if isinstance(mark, Columns):
        at = [k for k, m in enumerate(mark.marks) if isinstance(m, Lookup)]
        if at:
            kind = "detections with class ids"
            first = next(m for m in mark.marks if isinstance(m, Lookup))
            return OutputClasses(name, fact.shape, kind, mark.axis, ranges_of(at), convention(first))
    kind = "independent" if mark is None else "detections"
    return OutputClasses(name, fact.shape, kind)


def convention(lookup: Lookup) -> str:
    """How the model's class ids follow from the head's columns."""
    offset = offset_of(lookup)
    if offset is None:
        return "numbers of the model's own"
    if offset == 0:
        return "column"
    return f"column {'+' if offset > 0 else '-'} {abs(offset):g}"


def keep_ids(trace: Trace, scope: Scope, outputs: Sequence[OutputClasses]) -> None:
    """Edits that translate class ids at the graph's outputs back to the original's.

    Inside the graph ids stay compact: it may use them as indices.
    """
    if not trace.said:
        scores = ", ".join(repr(o.name) for o in outputs if o.kind == "scores")
        raise UsageError(
            "--ids original: no output says class ids"
            + (f"; a class is known by its column in {scores}" if scores else " as numbers"),
            advice="leave --ids away"
            + (" and map columns by the kept ids in the model's metadata" if scores else ""),
        )
    for (name, column), (lookup, option) in trace.said.items():
        old = np.rint(lookup.old[lookup.take]).astype(np.int64)
        new = np.rint(option.new).astype(np.int64)
        if np.array_equal(old, new):
            continue
        low, high = int(new.min()), int(new.max())
        table = np.arange(low, high + 1)
        table[new - low] = old
        # padding may look like class 0; what it says matters to nobody
        real = lookup.ids[lookup.take] != NONE
        table[new[real] - low] = old[real]
        home = scope.home(name)
        if home is None or not np.array_equal(table[new[real] - low], old[real]):
            raise GraphRefused(f"the ids at output {name!r} cannot be told apart after the cut")
        mark = scope.mark(name)
        axis = mark.axis if isinstance(mark, Columns) else 0
        width = len(mark.marks) if isinstance(mark, Columns) else 0
        place = (*home[0].place, home[1])
        edit = ed.MapOutput(place, name, low, table, column, axis, width, lookup.step > 0)
        trace.add(edit, View(trace, *home))


def ranges(ids: Any) -> str:
    """Positions that carry a class, as ``5-84`` or ``0-80, 85-165``."""
    return ranges_of(np.flatnonzero(np.asarray(ids) != NONE).tolist())


def ranges_of(positions: Sequence[int]) -> str:
    """Numbers in a line: ``0-80, 85``."""
    at = np.asarray(positions)
    if not at.size:
        return ""
    parts = np.split(at, np.flatnonzero(np.diff(at) != 1) + 1)
    return ", ".join(f"{p[0]}-{p[-1]}" if len(p) > 1 else f"{p[0]}" for p in parts)


def _numbers_of_plugin(
    analysis: Analysis, node: onnx.NodeProto, marks: Sequence[Mark | None]
) -> set[int] | None:
    """Classes whose numbers a detection plugin gives out; None where ``node`` is none."""
    extensions = analysis.interpreter.extensions
    if extensions is None or extensions.find(node) is None:
        return None
    inside = [k for m in marks if isinstance(m, Columns) for k in m.marks]
    lookups = [m for m in [*marks, *inside] if isinstance(m, Lookup)]
    return {int(c) for m in lookups for c in m.ids if c != NONE} if lookups else None


def dropped_column(analysis: Analysis, count: int) -> tuple[int | None, str] | None:
    """The first or last column, if the graph itself never lets it out; and which node drops it.

    No column (None), where a detection plugin gives out the numbers of them all.

    Needs the marks of a trace that keeps everything. Reads the tensors that carry all columns and
    have no reader that carries them all: what those readers leave out is dropped.
    """
    main = analysis.main
    seen: set[int] = set()
    numbered = False
    full = {n for n, m in main.marks.items()
            if isinstance(m, Labels) and set(range(count)) <= set(m.ids.tolist())}  # fmt: skip
    where = ""
    for name in full:
        readers = [main.graph.node[i] for i in main.index.consumers.get(name, ())]
        if any(o in full for n in readers for o in n.output):
            continue
        if name in main.index.outputs:
            return None
        for node in readers:
            marks = [main.marks.get(o) for o in node.output]
            if node.op_type in {"Shape", "Size"}:
                continue
            numbers = _numbers_of_plugin(analysis, node, marks)
            if numbers is not None:
                seen |= numbers
                numbered |= not main.index.outputs.isdisjoint(node.output)
                where = f"{node.op_type} node {node.name or node.output[0]!r}"
                continue
            for mark in marks:
                if isinstance(mark, Labels):
                    seen |= set(mark.ids.tolist())
                elif isinstance(mark, Whole):
                    seen.add(mark.cls)
                else:
                    return None
            where = f"{node.op_type} node {node.name or node.output[0]!r}"
    missing = set(range(count)) - seen
    if seen and len(missing) == 1 and missing <= {0, count - 1}:
        return missing.pop(), where
    if numbered and not missing:
        return None, where
    return None
