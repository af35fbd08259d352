"""What a rule sees of one node, and what it answers: a `View` in, an `Outcome` out.

Nothing is edited here: what a view gives to make edits with are edits as data, and refusals.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from onnx_headcut.editing import edits as ed
from onnx_headcut.errors import GraphRefused
from onnx_headcut.graph.facts import attributes
from onnx_headcut.labels import Labels
from onnx_headcut.tracing import operands

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onnx_headcut.graph.facts import Array
    from onnx_headcut.graph.scope import Scope
    from onnx_headcut.labels import Ints, Mark
    from onnx_headcut.tracing.trace import Trace

GENERIC_ADVICE = (
    "please report the model's exporter and this line; until a rule exists, cut a model exported "
    "without this part (raw scores), or name the heads with --head"
)


@dataclass
class Outcome:
    """What a rule says: a mark for each output (None: no classes), and the edits it needs."""

    marks: Sequence[Mark | None]
    edits: list[ed.Edit] = field(default_factory=list)


class Demand(Exception):
    """A tensor without labels is read class by class: its own head must be cut as well."""

    def __init__(self, value: str, labels: Labels) -> None:
        super().__init__(value)
        self.value, self.labels = value, labels


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
        return static

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
        return mark

    def take(self, ids: Ints) -> Ints:
        """`Selection.take`, refusing where it cannot be done."""
        try:
            return self.sel.take(ids)
        except ValueError as error:
            self.refuse(str(error))

    def refuse(
        self, what: str, advice: str = GENERIC_ADVICE, kind: type[GraphRefused] = GraphRefused
    ) -> NoReturn:
        """Raise GraphRefused for this node."""
        raise kind(
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
        return operands.select(self.trace, self.scope, self.place[-1], i, axis, take)

    def demand(self, i: int, axis: int, ids: Ints) -> None:
        """Start again with labels ``ids`` on ``axis`` of input ``i``, unless that was tried."""
        name = self.node.input[i]
        if name not in self.trace.tried and not self.scope.place:
            raise Demand(name, Labels(axis, ids))

    def patch(self, i: int, wanted: Array) -> list[ed.Edit]:
        """Edits that make the integer input ``i`` come out as ``wanted``, element by element."""
        return operands.patch(self.trace, self.scope, self.place[-1], i, wanted)
