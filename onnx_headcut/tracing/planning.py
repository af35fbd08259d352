"""The plan of a class map: where the map is applied, what is edited for it, and its values."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from onnx_headcut.classes import ClassMap
from onnx_headcut.classes.record import fronts_of
from onnx_headcut.editing import edits as ed
from onnx_headcut.errors import InputError, UsageError
from onnx_headcut.graph import model as files
from onnx_headcut.heads.front import exact_map
from onnx_headcut.tracing.blending import blended
from onnx_headcut.tracing.plan import Plan, Step, make_plan

if TYPE_CHECKING:
    from onnx_headcut.classes import Classes, CutRecord, GivenRows
    from onnx_headcut.classes.mapping import Merge
    from onnx_headcut.understanding import Understood

Ids = Literal["compact", "original"]
Scores = Literal["renormalized", "exact"]


def applied_to(scores: Scores, merge: Merge | None, wanted: ClassMap, known: Understood) -> ClassMap:
    """``wanted`` to be applied in the heads, or behind the activation."""
    props = files.metadata_of(known.analysis.source.proto)
    if scores == "renormalized" and fronts_of(props):
        raise UsageError(
            "the model was cut with --scores exact: its heads still hold the classes that went, and "
            "a cut in the heads would normalise over these, too",
            advice="say --scores exact again, or cut the original",
        )
    if scores == "exact":
        return exact_map(wanted, known.located.fronts, merge)
    if merge is not None:
        raise UsageError(
            "--merge says how exact scores are merged; in the heads, merged classes are averaged",
            advice="add --scores exact, or leave --merge away",
        )
    return wanted


def recorded(record: CutRecord, classes: Classes) -> ClassMap:
    """The class map that a cut model's metadata tell of, for an original with ``classes``."""
    found = record.map or ClassMap.of_columns(record.keep, classes.count, classes.background)
    if found.count != classes.count or any(c >= classes.count for c in found.order):
        raise InputError("the cut model's metadata name columns that the original lacks")
    return found


def planned(known: Understood, wanted: ClassMap, ids: Ids, given: GivenRows | None = None) -> Plan:
    """The plan of a class map: the structure by its selection, the values by its rows."""
    if ids == "original" and any(wanted.order[j] != wanted.background for j in wanted.blended):
        raise UsageError(
            "--ids original: merged and new classes have no id in the original",
            advice="leave --ids away; new ids are the columns of the cut model",
        )
    if known.located.boxes and wanted.blended:
        raise UsageError(
            "every class has a box of its own, and boxes cannot be merged or made anew",
            advice="keep classes as they are, in any order",
        )
    if wanted.exact:
        plan = make_plan(known.analysis, known.located, wanted.selection, ids, exact=wanted)
        return _told(_with_numbers_apart(plan, wanted, known.classes), known)
    plan = _told(make_plan(known.analysis, known.located, wanted.selection, ids), known)
    plan = _with_numbers_apart(plan, wanted, known.classes)
    return blended(plan, known.analysis, known.located, wanted, given)


def _with_numbers_apart(plan: Plan, wanted: ClassMap, classes: Classes) -> Plan:
    """The plan; UsageError where an output would give different classes one number."""
    for output, columns in plan.alike:
        rows = [wanted.rows[j] for j in columns]
        first, *others = [replace(row, name=None) for row in rows]
        if any(row != first for row in others):
            names = [row.name or classes.name(row.template) for row in rows]
            raise UsageError(
                f"{' and '.join(names)} would come out with one number at output {output!r}: the model "
                "has numbers of its own for its classes, and none for a class that is added",
                advice="let that class take a dropped one's place, and have its number: drone=new(copy "
                "X) without X, or a merge whose first member is not kept beside it",
            )
    return plan


def _told(plan: Plan, known: Understood) -> Plan:
    """The plan with the calls that were inlined for it."""
    graph = known.analysis.main.graph
    edited = {o for e in plan.edits for o in list(ed.node_at(graph, e.place)[1].output)[:1]}
    blocks = known.inlined.touched(edited) if known.inlined else []
    steps = [Step(b.call.name or b.call.output[0], b.call.op_type,
                  f"inlined: {len(b.nodes)} nodes in its place") for b in blocks]  # fmt: skip
    return replace(plan, steps=(*steps, *plan.steps))
