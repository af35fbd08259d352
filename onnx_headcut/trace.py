"""The engine: carries labels from the heads to the outputs and collects the edits of a cut.

Three ways for a node, as in JAX's batching: no marked input, pass by; a rule, ask it for output
marks and edits; a marked input and no rule, refuse. Nothing is edited here. After each rule the
node is inferred anew as it will be, and its shape must be the one that the labels promise, so a
rule that forgets an edit is refused at that node rather than found out later.
"""

from __future__ import annotations

from collections import defaultdict
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper
from onnx.shape_inference import InferenceError

from onnx_headcut import edits as ed
from onnx_headcut.analysis import FINDING, with_rows
from onnx_headcut.errors import GraphRefused
from onnx_headcut.facts import UNKNOWN, Array, Fact, Interpreter, attributes, of_array
from onnx_headcut.front import RENORMALIZED
from onnx_headcut.labels import (
    NONE,
    Ints,
    Labels,
    Lookup,
    Mark,
    Option,
    Rows,
    Selection,
    Whole,
)
from onnx_headcut.model import captures
from onnx_headcut.rivals import rivalry
from onnx_headcut.scope import is_fixed, same_fact

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onnx_headcut.front import Front
    from onnx_headcut.scope import Scope

GENERIC_ADVICE = (
    "please report the model's exporter and this line; until a rule exists, cut a model exported "
    "without this part (raw scores), or name the heads with --head"
)


COLLECTED = frozenset({"edits", "settled", "bodies", "said", "notes", "visited"})
"""What a `Trace` gathers on its way."""


@dataclass
class Outcome:
    """What a rule says: a mark for each output (None: no classes), and the edits it needs."""

    marks: Sequence[Mark | None]
    edits: list[ed.Edit] = field(default_factory=list)


class View:
    """One node as a rule sees it: marks, facts in both worlds, and helpers to make edits."""

    def __init__(self, trace: Trace, scope: Scope, i: int) -> None:
        self.trace, self.scope, self.place = trace, scope, (*scope.place, i)
        self.node = scope.graph.node[i]
        self.op = self.node.op_type
        self.sel = trace.selection
        self.marks = [scope.mark(n) for n in self.node.input]
        self.old = [scope.old(n) for n in self.node.input]
        self.new = [scope.new(n) for n in self.node.input]
        self.opset = trace.interpreter.opsets.get(self.node.domain, 1)

    @cached_property
    def attrs(self) -> Mapping[str, Any]:
        """The node's attributes by name, also where it is seen as another op."""
        return attributes(self.scope.graph.node[self.place[-1]])

    # -- asking

    def shape(self, i: int) -> tuple[int, ...]:
        """The original, fully known shape of input ``i``; refuses where it is not known."""
        static = self.old[i].static
        if static is None:
            self.refuse(
                f"the shape of its input {self.node.input[i]!r} is not known",
                "give the model's input shape with --input-shape NAME=1x3x320x320",
            )
        return static  # type: ignore[return-value]  # refuse() does not return

    def rank(self, i: int) -> int:
        """The rank of input ``i``; refuses where it is not known."""
        shape = self.old[i].shape
        return len(shape) if shape is not None else len(self.shape(i))

    def exact(self, i: int, axis: int) -> int | None:
        """The extent of an input's axis where it is the same for every picture and batch."""
        shape = self.scope.exact(self.node.input[i]).shape
        return None if shape is None else shape[axis]

    def varies(self, i: int, axis: int) -> bool:
        """Whether an input's extent is known to change with the batch, the size or the picture."""
        shape = self.scope.exact(self.node.input[i]).shape
        return shape is not None and shape[axis] is None

    def labelled(self) -> list[int]:
        """Indices of inputs with `Labels`."""
        return [i for i, m in enumerate(self.marks) if isinstance(m, Labels)]

    def labels(self, i: int) -> Labels:
        """The `Labels` of input ``i``; refuses other marks there."""
        mark = self.marks[i]
        if not isinstance(mark, Labels):
            self.refuse(f"its input {i} does not carry classes along an axis as expected")
        return mark  # type: ignore[return-value]

    def take(self, ids: Ints) -> Ints:
        """`Selection.take`, refusing where it cannot be done."""
        try:
            return self.sel.take(ids)
        except ValueError as error:
            self.refuse(str(error))
            raise  # pragma: no cover  refuse() does not return

    def refuse(self, what: str, advice: str = GENERIC_ADVICE) -> None:
        """Raise GraphRefused for this node."""
        raise GraphRefused(
            what,
            node=self.node.name or (self.node.output[0] if self.node.output else ""),
            op=self.op,
            path=self.trace.path(self.scope, self.place[-1]),
            advice=advice,
        )

    # -- editing

    def replace(self, i: int, value: Array) -> ed.Edit:
        """A constant input with another value."""
        old = self.old[i].value if i < len(self.old) else None
        dtype = value.dtype if old is None else old.dtype
        return ed.Replace(self.place, i, np.asarray(value, dtype))

    def set(self, name: str, value: Any) -> ed.Edit:
        """An attribute with another value."""
        return ed.SetAttribute(self.place, name, value)

    def select(self, i: int, axis: int, take: Ints) -> list[ed.Edit]:
        """Edits that leave ``take`` of ``axis`` of an unlabelled input: sliced where it is stored."""
        return self.trace.select(self.scope, self.place[-1], i, axis, take)

    def demand(self, i: int, axis: int, ids: Ints) -> None:
        """Start again with labels ``ids`` on ``axis`` of input ``i``, unless that was tried."""
        name = self.node.input[i]
        if name not in self.trace.tried and not self.scope.place:
            raise Demand(name, Labels(axis, ids))

    def patch(self, i: int, wanted: Array) -> list[ed.Edit]:
        """Edits that make the integer input ``i`` come out as ``wanted``, element by element."""
        return self.trace.patch(self.scope, self.place[-1], i, wanted)


class Demand(Exception):
    """A tensor without labels is read class by class: its own head must be cut as well."""

    def __init__(self, value: str, labels: Labels) -> None:
        super().__init__(value)
        self.value, self.labels = value, labels


class Separate(Exception):
    """A computed shape is needed as it was by others: who changes it needs a copy."""

    def __init__(self, value: str) -> None:
        super().__init__(value)
        self.value = value


class Trace:
    """One pass over a graph from the heads on; see `Plan` for its result."""

    def __init__(self, interpreter: Interpreter, selection: Selection) -> None:
        self.interpreter, self.selection = interpreter, selection
        self.edits: dict[tuple[Any, ...], ed.Edit] = {}
        self.by_place: dict[ed.Place, list[ed.Edit]] = defaultdict(list)
        self.settled: set[Any] = set()
        """Keys of places that a decision left as they are."""
        self.bodies: dict[tuple[ed.Place, int], Fact] = {}
        """Facts after the cut that inference cannot find: what bodies give, and what a loop's
        iterations read."""
        self.said: dict[tuple[str, int | None], tuple[Lookup, Option]] = {}
        """Class numbers at graph outputs (and in which column), and how they come out."""
        self.notes: list[str] = []
        self.heads: dict[tuple[int, ...], Labels] = {}
        self.tried: set[str] = set()
        """Values for which no head of their own was found; they are shortened where they are read."""
        self.patched: set[str] = set()
        """Computed shapes that were changed where they are put together."""
        self.separate: set[str] = set()
        """Those of them that must be copied instead."""
        self.visited: dict[tuple[int, ...], list[Fact]] = {}
        """What each node on the classes' way read when its rule was asked."""
        self.front: Front | None = None
        """Where labels start instead of at the heads, for exact scores."""

    # -- the walk

    def run(self, scope: Scope) -> None:
        """Visit every node of ``scope`` in order."""
        for i, node in enumerate(scope.graph.node):
            self.visit(scope, i, node)

    def finish(self, scope: Scope) -> None:
        """Decide what values at the graph's outputs mean, and look at every edited node again."""
        from onnx_headcut.rules import companions  # noqa: PLC0415  rules import this module
        from onnx_headcut.rules.deciding import decide_output  # noqa: PLC0415

        for output in scope.graph.output:
            at = scope.index.producer.get(output.name)
            if at is not None:
                decide_output(View(self, scope, at), output.name, scope.mark(output.name))
        for i, node in enumerate(scope.graph.node):
            if (*scope.place, i) not in self.by_place and not scope.touched(node.input):
                continue
            view = View(self, scope, i)
            if self.is_before(view):
                self._check_whole(view)
                continue
            dead = all(scope.is_dead(o, self.selection) for o in node.output)
            changed = any(n is not o for n, o in zip(view.new, view.old, strict=True))
            if dead or not (changed or view.place in self.by_place):
                continue
            facts = self.infer_new(view)
            self._check_constants(view, facts)
            self._check(view, [scope.mark(o) for o in node.output], facts)
            scope.set_new(node, facts)
        companions.check(self, scope)

    def _check_constants(self, view: View, facts: Sequence[Fact]) -> None:
        """Refuse where a constant that one node needs changed decides what another makes."""
        if view.place in self.visited:
            before = self.visited[view.place]
            late = any(m is None and not same_fact(n, b)
                       for m, n, b in zip(view.marks, view.new, before, strict=True))  # fmt: skip
        else:
            late = any(f.value is None and not is_fixed(view.scope, o)
                       for f, o in zip(facts, view.node.output, strict=False))  # fmt: skip
        if late:
            self._separate(view)
            view.refuse("it shares a constant with the class scores, and needs it as it was")

    def _separate(self, view: View) -> None:
        """Start again with a copy, where a changed shape is what a node needs as it was."""
        for name, new, old, mark in zip(view.node.input, view.new, view.old, view.marks, strict=True):
            if mark is None and new is not old and name in self.patched - self.separate:
                raise Separate(name)

    def visit(self, scope: Scope, i: int, node: onnx.NodeProto) -> None:
        """Marks, edits and new facts of one node."""
        from onnx_headcut.rules import counts, outcome  # noqa: PLC0415  rules import this module

        touched = scope.touched([*node.input, *captures(node)])
        if not touched and self.front is None and (*scope.place, i) not in self.heads:
            return
        view = View(self, scope, i)
        if self.is_before(view):
            self.start(view)
            return
        head = self.heads.get(view.place)
        marked = (
            head is not None
            or any(m is not None for m in view.marks)
            or (scope.captures_marks(node))
        )
        if not marked:
            if node.op_type in counts.BODIES:
                counts.check_bodies(view)
            if any(n is not o for n, o in zip(view.new, view.old, strict=True)):
                self.follow(view)
                scope.set_new(node, self.infer_new(view))
            return
        if head is None:
            counts.check(view)
        try:
            result = outcome(view, head)
        except (IndexError, KeyError, ValueError, TypeError, AttributeError) as error:
            view.refuse(f"its rule does not cover this use ({type(error).__name__}: {error})")
        for edit in result.edits:
            self.add(edit, view)
        scope.set_marks(node, counts.entered(view, result.marks))
        dead = [isinstance(m, Whole) and m.cls not in self.selection.column for m in result.marks]
        if all(dead) and dead:
            scope.set_new(node, [UNKNOWN] * len(node.output))
            return
        told = rivalry(view)
        self.notes += [told] if told else []
        view = View(self, scope, i)
        facts = self.infer_new(view)
        self._check(view, result.marks, facts)
        scope.set_new(node, facts)
        self.visited[view.place] = view.new

    def is_before(self, view: View) -> bool:
        """Whether a node leads to activated scores that the map is applied to, and stays as it is."""
        return self.front is not None and not view.scope.place and view.place[-1] in self.front.before

    def follow(self, view: View) -> None:
        """Numbers that a changed extent is reckoned with change with it."""
        from onnx_headcut.rules.extents import followed  # noqa: PLC0415  rules import this module

        for edit in followed(view):
            self.add(edit, view)

    def start(self, view: View) -> None:
        """Labels begin at the outputs that are a front; the node itself stays as it is."""
        assert self.front is not None  # noqa: S101  (`is_before` says so)
        for name in view.node.output:
            site, fact = self.front.site(name), view.scope.old(name)
            if site is None or fact.shape is None:
                continue
            labels = Labels(site.axis, np.array(site.ids))
            take = view.take(labels.ids)
            self.add(self.front.edit(view, site, take), view)
            view.scope.marks[name] = labels
            view.scope.after[name] = _taken(fact, site.axis, take)

    def _check_whole(self, view: View) -> None:
        """Refuse where what a reader behind the front needs changed is read before it, too."""
        fronts = {s.value for s in self.front.sites} if self.front else set()
        inputs = zip(view.new, view.old, view.node.input, strict=True)
        changed = any(n is not o and name not in fronts for n, o, name in inputs)
        edits = self.by_place.get(view.place, ())
        if changed or any(not isinstance(edit, ed.MapScores) for edit in edits):
            view.refuse("it leads to the class scores, which stay whole, and shares a constant with "
                        "what is behind them", RENORMALIZED)  # fmt: skip

    def _check(self, view: View, marks: Sequence[Mark | None], facts: Sequence[Fact]) -> None:
        """What labels promise must be what the edited node gives."""
        for mark, fact, name in zip(marks, facts, view.node.output, strict=False):
            old = view.scope.old(name)
            if not isinstance(mark, Labels) or fact.shape is None or old.shape is None:
                continue
            expected = list(old.shape)
            expected[mark.axis] = len(view.take(mark.ids))
            clash = len(fact.shape) != len(expected) or any(
                a is not None and b is not None and a != b
                for a, b in zip(fact.shape, expected, strict=True)
            )
            if clash:
                view.refuse(f"its output would have shape {fact.shape}, not {tuple(expected)}")

    def infer_new(self, view: View) -> list[Fact]:
        """Facts of a node's outputs in the cut graph, with all edits of it collected so far."""
        edits = self.by_place.get(view.place, ())
        if (view.place, 0) in self.bodies:
            return [with_rows(self.bodies[view.place, j]) for j in range(len(view.node.output))]
        if any(a.g.node or a.g.output for a in view.node.attribute):
            # a body that sees detections only, as many of them as in the example
            return [view.scope.old(o) for o in view.node.output]
        node, inputs = edited(view.node, view.new, edits)
        try:
            facts = self.interpreter.infer(node, inputs)
            return [with_rows(f) for f in facts] if node.op_type in FINDING else facts
        except (InferenceError, ValueError, TypeError, KeyError) as error:
            reason = str(error).strip().splitlines()
            self._separate(view)
            view.refuse(f"its shapes do not fit after the cut ({reason[-1] if reason else error})")
            raise  # pragma: no cover  refuse() does not return

    def add(self, edit: ed.Edit, view: View) -> None:
        """Collect an edit; two different edits of one place cannot both be made."""
        known = self.edits.get(edit.key)
        if known is None:
            self.edits[edit.key] = edit
            self.by_place[edit.place].append(edit)
        elif not ed.same(known, edit):
            view.refuse("one of its constants would have to change in two different ways at once")

    def mark_now(self) -> dict[str, Any]:
        """What was collected so far, for `go_back`: a body is traced again with other marks."""
        kept = {name: copy(value) for name, value in vars(self).items() if name in COLLECTED}
        kept["by_place"] = {place: list(edits) for place, edits in self.by_place.items()}
        return kept

    def go_back(self, kept: Mapping[str, Any]) -> None:
        """Forget what was collected since."""
        for name, value in kept.items():
            setattr(self, name, copy(value))
        by_place = {place: list(edits) for place, edits in kept["by_place"].items()}
        self.by_place = defaultdict(list, by_place)

    def path(self, scope: Scope, i: int) -> tuple[str, ...]:
        """Names of nodes from a head to node ``i`` (the shortest way back, at most eight)."""
        names: list[str] = []
        node = scope.graph.node[i]
        while len(names) < 8:
            marked = [n for n in node.input if scope.mark(n) is not None]
            marked = marked or [n for n in node.input if scope.new(n) is not scope.old(n)]
            before = scope.node_of(marked[0]) if marked else None
            if before is None:
                break
            names.insert(0, before.name or before.output[0])
            node = before
        return tuple(names)

    # -- edits of what is stored or computed from what is stored

    def select(self, scope: Scope, i: int, slot: int, axis: int, take: Ints) -> list[ed.Edit]:
        """Edits that make input ``slot`` of node ``i`` be its positions ``take`` of ``axis``."""
        from onnx_headcut.demand import select  # noqa: PLC0415  imports this module

        return select(self, scope, i, slot, axis, take)

    def patch(self, scope: Scope, i: int, slot: int, wanted: Array) -> list[ed.Edit]:
        """Edits that make integer input ``slot`` of node ``i`` come out as ``wanted``."""
        from onnx_headcut.demand import patch  # noqa: PLC0415

        return patch(self, scope, i, slot, wanted)


def edited(
    node: onnx.NodeProto, inputs: Sequence[Fact], mine: Sequence[ed.Edit]
) -> tuple[onnx.NodeProto, list[Fact]]:
    """``node`` and its inputs' facts as they will be after its edits ``mine``."""
    if not mine:
        return node, list(inputs)
    new, facts = onnx.NodeProto(), list(inputs)
    new.CopyFrom(node)
    for edit in mine:
        if isinstance(edit, ed.Select | ed.GatherInput):
            facts[edit.input] = _taken(facts[edit.input], edit.axis, edit.take)
        elif isinstance(edit, ed.Replace | ed.CopyInput):
            while len(facts) <= edit.input:
                facts.append(UNKNOWN)
                new.input.append("")
            facts[edit.input] = of_array(edit.value)
        elif isinstance(edit, ed.SetAttribute):
            kept = [a for a in new.attribute if a.name != edit.name]
            del new.attribute[:]
            new.attribute.extend(kept)
            if edit.value is not None:
                new.attribute.append(helper.make_attribute(edit.name, edit.value))
    # one name may stand at several inputs, of which one is edited: names here are only for facts
    for k, fact in enumerate(facts):
        if k < len(inputs) and fact is inputs[k]:
            continue
        new.input[k] = f"{node.input[k] if k < len(node.input) else ''}·{k}"
    for edit in mine:
        if isinstance(edit, ed.KeepInputs):
            names = [new.input[k] for k in edit.keep]
            facts = [facts[k] for k in edit.keep]
            del new.input[:]
            new.input.extend(names)
    return new, facts


def _taken(fact: Fact, axis: int, take: Ints) -> Fact:
    if fact.value is not None:
        return of_array(fact.value.take(take, axis))
    if fact.shape is None:
        return fact
    shape = list(fact.shape)
    shape[axis] = len(take)
    return Fact(tuple(shape), fact.elem_type)


__all__ = ["NONE", "Outcome", "Rows", "Trace", "View", "edited"]
