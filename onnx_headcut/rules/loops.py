"""Loop and Scan: over pictures or anchors the body is traced once, over classes see `class_loops`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from onnx_headcut.graph.facts import Fact
from onnx_headcut.labels import Columns, Labels, Lookup, Mark, PerIteration, Rows, Whole
from onnx_headcut.rules import counts
from onnx_headcut.rules.bodies import Body, Picked, Read, shifted, traced
from onnx_headcut.rules.class_loops import classes_read, over_classes
from onnx_headcut.rules.iterated import freed

if TYPE_CHECKING:
    from onnx_headcut.tracing.view import View


def iterate(view: View) -> list[Mark | None]:
    """Marks of the outputs of a Loop or a Scan; its facts go to ``trace.bodies``."""
    if view.op == "Scan" and view.opset < 9:
        view.refuse("classes reach a Scan of opset 8", "convert the model to a newer opset first")
    body = Body(view)
    if body.is_loop:
        control_by(view, 0, "how often it runs")
        control_by(view, 1, "whether it runs")
    known = body.scope.iterations
    body.scope.tables = {} if known is None else known.tables
    ids = classes_read(view, body)
    clean = view.trace.mark_now()
    try:
        if ids is not None:
            marks = over_classes(view, body, ids)
        else:
            try:
                marks = plainly(view, body)
            except Picked as picked:
                view.trace.go_back(clean)
                marks = over_classes(view, body, ids := picked.ids)
    finally:
        body.scope.tables = {}
    extent = known.count if known is not None and known.sure else None
    note_facts(view, body, extent if ids is None else len(view.take(ids)))
    return marks


def control_by(view: View, slot: int, what: str) -> None:
    """A trip count or condition that classes entered."""
    mark = view.marks[slot]
    if isinstance(mark, PerIteration):
        if not freed(view, mark):
            view.refuse(f"{what} depends on the class of the iteration around it")
    elif isinstance(mark, Whole) and view.op == "If":
        return
    elif mark is not None and not (isinstance(mark, Rows) and not mark.places and not mark.numbered):
        view.refuse(f"{what} depends on single classes")


def note_facts(view: View, body: Body, extent: int | None) -> None:
    """Facts after the cut of the node's outputs."""
    facts = [body.scope.new(s.result) for s in body.states]
    for name, axis in body.stacks:
        fact = body.scope.new(name)
        shape = fact.shape
        if shape is not None:
            if not body.is_loop:
                extent = next((e for r in body.reads for e in [_extent(view, r)] if e), extent)
            shape = (*shape[:axis], extent, *shape[axis:])
        facts.append(Fact(shape, fact.elem_type))
    for j, fact in enumerate(facts):
        view.trace.bodies[view.place, j] = Fact(fact.shape, fact.elem_type)


def _extent(view: View, read: Read) -> int | None:
    shape = view.new[read.slot].shape
    return None if shape is None or view.marks[read.slot] is None else shape[read.axis]


def plainly(view: View, body: Body) -> list[Mark | None]:
    """Marks where no iteration stands for a class."""
    if body.is_loop:
        counts.refuse_changed(view, range(2))
    given = {r.inner: sliced(view, r) for r in body.reads}
    ends, stacks = traced(view, body, given)
    for mark in stacks:
        if isinstance(mark, PerIteration):
            view.refuse("what it stacks depends on a class in a way that no rule covers")
    return [*ends, *(shifted(m, axis) for m, (_, axis) in zip(stacks, body.stacks, strict=True))]


def sliced(view: View, read: Read) -> Mark | None:
    """The mark of one slice of what a Scan reads along an axis without classes."""
    mark = view.marks[read.slot]
    if isinstance(mark, PerIteration):
        view.refuse("it reads values of each class slice by slice")
    if isinstance(mark, Columns | Labels):
        if mark.axis == read.axis:
            view.refuse("it reads columns of several kinds one by one")
        return replace(mark, axis=mark.axis - (mark.axis > read.axis))
    return replace(mark, direct=False) if isinstance(mark, Lookup) else mark
