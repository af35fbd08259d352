"""Values of a class map in the weights of the score heads: rows merged, grown, started anew.

The trace has made the structure right: where a map merges, adds or re-initialises classes, each
head's weights and biases hold copies of the templates. Here the edits of those tensors learn what
to write in such places instead, for every anchor: the same sum of rows as the map says, taken at
the same anchor, or new weights with the bias at which training would start. The edits say it, the
weights are read only when they are applied.

Between a head and the tensor in which its scores are activated nothing may stand but movement and
biases: a sum of rows is the sum of scores only where the way is linear and the same for each class.
What is added to all classes alike, a new one's bias makes up for where no background is moved along.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NoReturn

import numpy as np
from onnx import helper

from onnx_headcut.editing import edits as ed
from onnx_headcut.errors import GraphRefused
from onnx_headcut.graph.facts import attributes
from onnx_headcut.graph.ops import MOVING
from onnx_headcut.graph.plain import plain, simple
from onnx_headcut.graph.scope import is_fixed, is_stored
from onnx_headcut.labels import Labels
from onnx_headcut.tracing.operands import PASSING
from onnx_headcut.tracing.plan import Step

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx

    from onnx_headcut.classes.mapping import ClassMap, Given, GivenRows, Row
    from onnx_headcut.graph.analysis import Analysis
    from onnx_headcut.graph.facts import Array
    from onnx_headcut.heads.locate import Located
    from onnx_headcut.labels import Ints
    from onnx_headcut.tracing.plan import Plan

    Maker = Callable[[int, int, Callable[[int], Ints]], ed.Fill]
    """From a new position, its anchor, and the old positions of a source column, by anchor."""

FLOATS = frozenset({1, 10, 11, 16})
"""Element types float, float16, double, bfloat16."""

EXACT = (
    "say --scores exact: the map is then applied to the scores behind the activation, and the "
    "head stays as it is"
)

WAY_OUT = "leave --fit-background away, or keep all scores as they are with --scores exact"

_INTEGERS = "its weights are integers, of which only rows can be picked"

NEEDED = (
    "leave the new classes away: they need weights of their own, in a head of floats (add them before "
    "quantizing) with nothing but biases between it and its activation"
)


def blended(
    plan: Plan,
    analysis: Analysis,
    located: Located,
    class_map: ClassMap,
    given: GivenRows | None = None,
) -> Plan:
    """``plan`` with the map's values in the edits of its score heads; as it is for a selection.

    ``given`` are rows computed elsewhere; where they are missing, their places begin with zeros, for
    plans that are looked at and not applied. Right after `make_plan` with the map's selection, whose
    marks it reads. Raises GraphRefused where a sum of rows is not the sum of scores.
    """
    if not class_map.blended:
        return plan
    edits = {edit.key: edit for edit in plan.edits}
    for node, labels in located.heads.items():
        head = _Head(analysis, located, class_map, edits, node)
        head.fill(labels, given or {})
    graph = analysis.main.graph
    steps = []
    for edit in sorted(edits.values(), key=lambda e: e.place):
        _, found = ed.node_at(graph, edit.place)
        steps.append(Step(found.name or found.output[0], found.op_type, edit.describe()))
    return replace(plan, edits=tuple(edits.values()), steps=tuple(steps))


def biases_behind(
    plan: Plan, analysis: Analysis, located: Located, class_map: ClassMap
) -> dict[int, list[tuple[int, int, int, Ints]]]:
    """By head, what is added behind its node: node, input, axis and the classes along it.

    Right after `make_plan`, as `blended`, and with what that refuses.
    """
    edits = {edit.key: edit for edit in plan.edits}
    found = {}
    for node, labels in located.heads.items():
        head = _Head(analysis, located, class_map, edits, node)
        found[node] = [
            (stored.edit.place[0], stored.edit.input, stored.edit.axis, grid.ids)
            for stored, grid in head.biases(head.grid(labels.ids))
            if stored.edit.place != (node,)
        ]
    return found


@dataclass(frozen=True)
class _Grid:
    """The (anchor, new column) grid of an axis: labels before, and positions after."""

    ids: Ints
    take: Ints
    columns: Ints

    def places(self, j: int) -> list[tuple[int, int]]:
        """New positions of new column ``j``, each with its anchor."""
        found = []
        for q in np.flatnonzero(self.columns == j).tolist():
            same = self.old(int(self.ids[self.take[q]]))
            found.append((q, int(np.flatnonzero(same == self.take[q])[0])))
        return found

    def old(self, column: int) -> Ints:
        """Old positions of a source column, by anchor."""
        return np.flatnonzero(self.ids == column)


@dataclass
class _Stored:
    """The edit of a stored tensor, and the order in which the head reads its axes."""

    edit: ed.Select
    perm: tuple[int, ...] | None


def _turned(row: Array, stored: _Stored) -> Array:
    """A row's weights as the head reads them, in the order of axes in which they are stored."""
    if stored.perm is None:
        return row
    whole = np.expand_dims(row, stored.perm.index(stored.edit.axis))
    turned: Array = np.transpose(whole, np.argsort(stored.perm)).take(0, stored.edit.axis)
    return turned


class _Head:
    """One score head: its weight, its biases, and what stands between it and its activation."""

    def __init__(
        self,
        analysis: Analysis,
        located: Located,
        class_map: ClassMap,
        edits: dict[tuple[object, ...], ed.Edit],
        node: int,
    ) -> None:
        self.scope, self.map, self.edits = analysis.main, class_map, edits
        self.place, self.node = node, analysis.main.graph.node[node]
        self.alike: list[tuple[onnx.NodeProto, str]] = []
        """What is added to all classes of a box alike: where, and which value."""
        self.sites = {site.value for site in located.sites}
        self.softmax = located.activation == "softmax" or (
            located.activation == "none" and class_map.background is not None
        )
        self.value = located.values[node]

    def fill(self, labels: Labels, given: GivenRows) -> None:
        """Make the edits of this head's tensors say the map's values."""
        form = plain(self.node)
        if form is not None and (form.activation or "Fused" not in self.node.op_type):
            self._refuse(self.node, "it computes with integers, or activates what it computes")
        grid = self.grid(labels.ids)
        weights = self._weights()
        biases = self.biases(grid)
        self.shared = self._of_all()
        if not biases and any(row.new for row in self.map.rows):
            self._begin(grid, labels.axis, given)
        for j in self.map.blended:
            row, values = self.map.rows[j], given.get((self.value, j))
            self._fill(weights, grid, j, self._row(row, j, values, weights), "weight")
            for number, (bias, axis_grid) in enumerate(biases):
                make = self._bias(row, values, number)
                self._fill(bias, axis_grid, j, make, "rest" if number else "bias")

    def _row(self, row: Row, j: int, given: Given | None, stored: _Stored) -> Maker:
        """What a row's weights are, by anchor and its sources' positions."""
        if given is not None:
            return lambda at, a, _: ed.Fill(at, given=_turned(given.weights[a], stored))
        start = row.start
        if start is not None:
            return lambda at, a, _: ed.Fill(at, std=start.std, key=(self.map.seed, j, a))
        return lambda at, a, old: ed.Fill(at, tuple((int(old(c)[a]), w) for c, w in row.terms))

    def _bias(self, row: Row, given: Given | None, number: int) -> Maker:
        """The same of a bias: where training starts for new classes; all of it in the first one."""
        if given is not None:
            return lambda at, a, _: ed.Fill(at, shift=0.0 if number else float(given.bias[a]))
        if not row.new:
            return lambda at, a, old: ed.Fill(at, tuple((int(old(c)[a]), w) for c, w in row.terms))
        shift, background = 0.0 if number else self._rare, self.map.background
        if not self._has_background:
            return lambda at, _a, _old: ed.Fill(at, shift=shift)
        return lambda at, a, old: ed.Fill(at, ((int(old(background)[a]), 1.0),), shift)  # type: ignore[arg-type]

    def _fill(self, stored: _Stored, grid: _Grid, j: int, make: Maker, role: ed.Role) -> None:
        known = self.edits[stored.edit.key]
        assert isinstance(known, ed.Select)  # noqa: S101  (it was found as one)
        fills = {f.at: f for f in known.fills} if isinstance(known, ed.Blend) else {}
        for at, anchor in grid.places(j):
            fills[at] = make(at, anchor, grid.old)
        made = tuple(fills[at] for at in sorted(fills))
        self.edits[known.key] = ed.Blend(known.place, known.input, known.axis, known.take, made,
                                         tuple(grid.ids.tolist()), role)  # fmt: skip

    def grid(self, ids: Ints) -> _Grid:
        selection = self.map.selection
        take = selection.take(ids)
        grid = _Grid(ids, take, selection.columns_at(ids, take))
        counts = {len(grid.old(c)) for j in self.map.blended
                  for c in (self.map.rows[j].template, *self.map.rows[j].members)}  # fmt: skip
        if len(counts) > 1:
            self._refuse(self.node, "the classes to be blended have not the same anchors")
        return grid

    # -- finding what is stored

    def _weights(self) -> _Stored:
        for slot in (1, 0):
            if slot < len(self.node.input) and is_fixed(self.scope, self.node.input[slot]):
                found = self._stored(self.place, slot)
                if found is not None:
                    return found
        self._refuse(self.node, "its weights are not stored as they are")

    def _stored(self, node: int, slot: int) -> _Stored | None:
        """The selection that the trace made of an input, where it is stored as floats."""
        place, perm = (node,), None
        while True:
            edit = self.edits.get((place, "input", slot))
            made = self.scope.graph.node[place[0]]
            if isinstance(edit, ed.Select):
                if self.scope.old(made.input[slot]).elem_type not in FLOATS:
                    self._refuse(made, _INTEGERS)
                return _Stored(edit, perm)
            if edit is not None:
                self._refuse(made, "its weights are computed, or cut where they are read")
            maker = self.scope.index.producer.get(made.input[slot])
            if maker is None:
                return None
            source = self.scope.graph.node[maker]
            if source.op_type == "Transpose":
                rank = len(self.scope.old(source.input[0]).shape or ())
                turn = tuple(attributes(source).get("perm", range(rank)[::-1]))
                perm = turn if perm is None else tuple(turn[p] for p in perm)
            elif source.op_type in {"DequantizeLinear", "Mul"}:
                self._refuse(source, _INTEGERS)
            elif source.op_type not in PASSING:
                return None
            place, slot = (maker,), 0

    def biases(self, grid: _Grid) -> list[tuple[_Stored, _Grid]]:
        """Biases of the head itself, and those that are added on the way to the activation."""
        found = []
        self.alike.clear()
        if len(self.node.input) > 2 and self.node.input[2]:
            if self.node.op_type.endswith("Gemm") and attributes(self.node).get("beta", 1.0) != 1:
                self._refuse(self.node, "its bias has a factor (beta)", "fold it into the bias; or ")
            own = self._stored(self.place, 2)
            found += [] if own is None else [(own, grid)]
            self.alike += [(self.node, self.node.input[2])] if own is None else []
        for number in self._between():
            node = self.scope.graph.node[number]
            op = simple(node).op_type
            if op in MOVING | {"Identity", "Cast"}:
                continue
            if op != "Add":
                self._refuse(
                    node, f"{op} stands between the head {self.node.name or self.value!r} and its "
                    "activation, where only biases may",
                    "fold it into the head first (onnxslim does); or ",
                )  # fmt: skip
            slots = [k for k, n in enumerate(node.input) if is_fixed(self.scope, n)]
            mark = self.scope.mark(node.output[0])
            if isinstance(mark, Labels) and self._is_stretched(node, mark):
                self.alike += [(node, n) for n in node.input
                               if not isinstance(self.scope.mark(n), Labels)]  # fmt: skip
                continue
            if len(slots) != 1 or not isinstance(mark, Labels):
                self._refuse(node, "scores of two heads are added here")
            stored = self._stored(number, slots[0]) or self._unchanged(number, slots[0], mark)
            if stored is not None:
                found.append((stored, self.grid(mark.ids)))
        return found

    def _is_stretched(self, node: onnx.NodeProto, labels: Labels) -> bool:
        """Whether what is added is the same for all classes of a box: a quality score, a number."""
        rank = len(self.scope.old(node.output[0]).shape or ())
        others = [n for n in node.input if not isinstance(self.scope.mark(n), Labels)]
        shapes = [self.scope.old(n).shape for n in others]
        if len(others) != 1 or shapes[0] is None:
            return False
        axis = labels.axis - (rank - len(shapes[0]))
        return axis < 0 or shapes[0][axis] == 1

    def _unchanged(self, number: int, slot: int, labels: Labels) -> _Stored | None:
        """A bias that a map with all columns in their old places leaves as it is, so far."""
        node = self.scope.graph.node[number]
        shape, behind = (self.scope.old(n).shape for n in (node.input[slot], node.output[0]))
        axis, extent = labels.axis - len(behind or ()) + len(shape or ()), len(labels.ids)
        if shape is None or axis < 0 or shape[axis] != extent or extent == 1:
            return None
        if not is_stored(self.scope, node.input[slot]):
            self._refuse(node, "its bias is not stored as it is")
        edit = ed.Select((number,), slot, axis, np.arange(extent))
        self.edits[edit.key] = edit
        return _Stored(edit, None)

    def _between(self) -> list[int]:
        """Nodes on the way from the head to the sites, in order."""
        graph, reached, behind = self.scope.graph, {self.value}, []
        for i in range(self.place + 1, len(graph.node)):
            node = graph.node[i]
            if (reached - self.sites) & set(node.input):
                labelled = {o for o in node.output if isinstance(self.scope.mark(o), Labels)}
                reached |= labelled
                behind += [i] if labelled else []
        wanted, way = set(self.sites), []
        for i in reversed(behind):
            if wanted & set(graph.node[i].output):
                wanted |= set(graph.node[i].input)
                way.append(i)
        if not self.sites & reached:
            self._refuse(self.node, "no tensor of class scores lies behind it")
        return way[::-1]

    def _begin(self, grid: _Grid, axis: int, given: GivenRows) -> None:
        """A bias for a head that has none, so that new classes can begin where they should.

        The old classes' is 0, the background's too. Conv and Gemm take one, others get it behind.
        """
        elem_type = self.scope.old(self.value).elem_type
        value = np.zeros(len(grid.take), helper.tensor_dtype_to_np_dtype(elem_type))
        for j in self.map.blended:
            if self.map.rows[j].new:
                known = given.get((self.value, j))
                for at, anchor in grid.places(j):
                    value[at] = self._rare if known is None else known.bias[anchor]
        ids, op = tuple(grid.ids.tolist()), self.node.op_type
        takes = op == "Conv" or (op == "Gemm" and attributes(self.node).get("beta", 1.0) == 1)
        edit: ed.Edit = ed.Begin((self.place,), 2, value, ids)
        if not takes or any(node is self.node for node, _ in self.alike):
            behind = (1,) * (len(self.scope.old(self.value).shape or ()) - axis - 1)
            edit = ed.BeginBehind((self.place,), value.reshape(-1, *behind), ids)
        self.edits[edit.key] = edit

    def _of_all(self) -> float:
        """What is added to all classes alike, which new ones' bias has to make up for.

        Beside a background it moves that one along, and nothing has to be made up for.
        """
        total = 0.0
        if self._has_background or not any(row.new for row in self.map.rows):
            return total
        for node, name in self.alike:
            value = self.scope.old(name).value
            if value is None or not value.size or (value != value.flat[0]).any():
                self._refuse(
                    node, f"{name!r} is added to all classes of a box alike and differs from box to "
                    "box, so that no bias lets new ones begin at one probability",
                    "leave the new classes away; those that there are can be kept and merged",
                )  # fmt: skip
            else:
                total += float(value.flat[0])
        return total

    @property
    def _has_background(self) -> bool:
        """Whether a softmax's background is among the head's classes."""
        ids = self.scope.mark(self.value)
        return (self.softmax and self.map.background is not None
                and isinstance(ids, Labels) and self.map.background in ids.ids)  # fmt: skip

    @property
    def _rare(self) -> float:
        """The bias at which new classes start: the log of their odds."""
        return self._odds - self.shared

    @property
    def _odds(self) -> float:
        return -float(np.log((1 - self.map.prior) / self.map.prior))

    def _refuse(self, node: onnx.NodeProto, what: str, advice: str = "") -> NoReturn:
        """Refuse a node; without ``advice``, or after its "or", the way out is the map's."""
        new = [row for row in self.map.rows if row.new]
        if new and all(row.start is not None and row.start.kind == "given" for row in new):
            why, way = "a fitted background is written into the head as new weights", WAY_OUT
        elif new:
            why, way = "the class map adds classes, or starts some anew", NEEDED
        else:
            why, way = "the class map merges classes", EXACT
        raise GraphRefused(
            f"{what}; {why}", node=node.name or node.output[0], op=node.op_type,
            advice=advice if advice and not advice.endswith("or ") else advice + way,
        )  # fmt: skip
