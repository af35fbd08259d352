"""The engine: carries labels from the heads to the outputs and collects the edits of a cut.

Three ways for a node, as in JAX's batching: no marked input, pass by; a rule, ask it for output
marks and edits; a marked input and no rule, refuse. Nothing is edited here. After each rule the
node is inferred anew as it will be, and its shape must be the one that the labels promise, so a
rule that forgets an edit is refused at that node rather than found out later.
"""

from __future__ import annotations

from collections import defaultdict
from copy import copy
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx.shape_inference import InferenceError

from onnx_headcut.editing import edits as ed
from onnx_headcut.graph.analysis import FINDING, with_rows
from onnx_headcut.graph.facts import UNKNOWN, Fact, same_fact
from onnx_headcut.graph.model import has_bodies
from onnx_headcut.graph.ops import CONTROL
from onnx_headcut.graph.scope import is_fixed
from onnx_headcut.heads.front import RENORMALIZED
from onnx_headcut.labels import Labels, Lookup, Mark, Option, Selection, Whole
from onnx_headcut.rules import companions, counts, outcome
from onnx_headcut.rules.deciding import decide_output
from onnx_headcut.rules.extents import followed
from onnx_headcut.tracing.rivals import rivalry
from onnx_headcut.tracing.view import View

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from collections.abc import Set as AbstractSet

    import onnx

    from onnx_headcut.graph.interpreter import Interpreter
    from onnx_headcut.graph.scope import Scope
    from onnx_headcut.heads.front import Front


COLLECTED = frozenset({"edits", "settled", "bodies", "said", "notes", "visited"})
"""What a `Trace` gathers on its way."""


class Separate(Exception):
    """A computed shape is needed as it was by others: who changes it needs a copy."""

    def __init__(self, value: str) -> None:
        super().__init__(value)
        self.value = value


class Trace:
    """One pass over a graph from the heads on; see `Plan` for its result."""

    def __init__(
        self,
        interpreter: Interpreter,
        selection: Selection,
        heads: Mapping[int, Labels],
        front: Front | None = None,
        *,
        tried: AbstractSet[str] = frozenset(),
        separate: AbstractSet[str] = frozenset(),
    ) -> None:
        """Labels start at ``heads``, by node number; or for exact scores at ``front`` instead.

        ``tried`` and ``separate`` are what earlier passes found out: values for which no head of their
        own was found, and computed shapes that must be copied rather than changed.
        """
        self.interpreter, self.selection, self.front = interpreter, selection, front
        self.heads: dict[ed.Place, Labels] = {(k,): labels for k, labels in heads.items()}
        self.tried, self.separate = tried, separate
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
        self.patched: set[str] = set()
        """Computed shapes that were changed where they are put together."""
        self.visited: dict[tuple[int, ...], list[Fact]] = {}
        """What each node on the classes' way read when its rule was asked."""

    def view(self, scope: Scope, i: int) -> View:
        """Node ``i`` of ``scope`` as its rule sees it now."""
        return View(self, scope, i)

    # -- the walk

    def run(self, scope: Scope) -> None:
        """Visit every node of ``scope`` in order."""
        for i, node in enumerate(scope.graph.node):
            self.visit(scope, i, node)

    def finish(self, scope: Scope) -> None:
        """Decide what values at the graph's outputs mean, and look at every edited node again."""
        for output in scope.graph.output:
            at = scope.index.producer.get(output.name)
            if at is not None:
                decide_output(self.view(scope, at), output.name, scope.mark(output.name))
        for i, node in enumerate(scope.graph.node):
            if (*scope.place, i) not in self.by_place and not scope.touched(node.input):
                continue
            view = self.view(scope, i)
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
        touched = scope.touched(scope.index.reads[i])
        if not touched and self.front is None and (*scope.place, i) not in self.heads:
            return
        view = self.view(scope, i)
        if self.is_before(view):
            self.start(view)
            return
        head = self.heads.get(view.place)
        marked = (
            head is not None or any(m is not None for m in view.marks) or (scope.captures_marks(node))
        )
        if not marked:
            if node.op_type in CONTROL:
                counts.check_bodies(view)
            if any(n is not o for n, o in zip(view.new, view.old, strict=True)):
                self.follow(view)
                scope.set_new(node, self.infer_new(view))
            return
        if head is None:
            counts.check(view)
        try:
            result = outcome(view, head)
        except RecursionError:
            raise
        except (IndexError, KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
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
        view = self.view(scope, i)
        facts = self.infer_new(view)
        self._check(view, result.marks, facts)
        scope.set_new(node, facts)
        self.visited[view.place] = view.new

    def is_before(self, view: View) -> bool:
        """Whether a node leads to activated scores that the map is applied to, and stays as it is."""
        return self.front is not None and not view.scope.place and view.place[-1] in self.front.before

    def follow(self, view: View) -> None:
        """Numbers that a changed extent is reckoned with change with it."""
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
            view.scope.after[name] = fact.taken(site.axis, take)

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
            found = [self.bodies[view.place, j] for j in range(len(view.node.output))]
            return [with_rows(f, view.scope.rows) for f in found]
        if has_bodies(view.node):
            # a body that sees detections only, as many of them as in the example
            return [view.scope.old(o) for o in view.node.output]
        node, inputs = ed.edited(view.node, view.new, edits)
        try:
            facts = self.interpreter.infer(node, inputs)
            if node.output != view.node.output:
                named = dict(zip(node.output, facts, strict=True))
                facts = [named.get(o, UNKNOWN) for o in view.node.output]
            finds = node.op_type in FINDING
            return [with_rows(f, view.scope.rows) for f in facts] if finds else facts
        except (InferenceError, ValueError, TypeError, KeyError) as error:
            reason = str(error).strip().splitlines()
            self._separate(view)
            view.refuse(f"its shapes do not fit after the cut ({reason[-1] if reason else error})")

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
