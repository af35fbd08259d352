"""Where the elements of a tensor come from: which node with weights, which channel, by which ops.

From every candidate head (`candidates`)
the numbers of its output's elements are sent through the ops that move or transform elements one
by one. At any tensor behind, the axis along which only the channel changes, never the place in the
picture, is where classes can lie; and columns that came the same way form a group. Channel counts
and names of nodes play no part.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from onnx_headcut.graph import limits
from onnx_headcut.graph.facts import attributes
from onnx_headcut.graph.ops import BROADCASTING, KEEPING, MOVING, PASSING, WEIGHTED
from onnx_headcut.graph.plain import simple
from onnx_headcut.graph.scope import is_fixed
from onnx_headcut.heads.candidates import Candidates, is_conversion, is_product

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx

    from onnx_headcut.graph.facts import Array
    from onnx_headcut.graph.interpreter import Interpreter
    from onnx_headcut.graph.scope import Scope
    from onnx_headcut.heads.candidates import Leaf

NOTHING = -1
MIXED = -2


@dataclass
class Origin:
    """For each element of a tensor: the number of the element it came from, and how.

    ``numbers``: the head's element, NOTHING for constants, MIXED for several at once;
    ``history`` (int32): which elementwise ops it passed, as a number that `Flow.histories` knows;
    an int where it is the same for all elements.
    """

    numbers: Array
    history: Array | int

    def histories(self) -> list[int]:
        """Every history that occurs."""
        if isinstance(self.history, int):
            return [self.history]
        return np.flatnonzero(np.bincount(self.history.ravel())).tolist()


@dataclass
class Flow:
    """Everything that element numbers reached, over one graph."""

    scope: Scope
    interpreter: Interpreter
    leaves: list[Leaf] = field(default_factory=list)
    origins: dict[str, Origin] = field(default_factory=dict)
    histories: list[tuple[str, ...]] = field(default_factory=lambda: [()])
    softmaxes: list[tuple[Array, int]] = field(default_factory=list)
    """What went over which axis into each softmax over channels; histories say its number."""
    bits: int = 0
    unread: list[int] = field(default_factory=list)
    """Nodes with weights that only ops which mix their channels follow: numbers end there."""
    met: dict[int, set[tuple[int, ...]]] = field(default_factory=lambda: defaultdict(set))
    """Channels, as `channels` numbers them, that others of their place are added to, as the sides of
    a box are for its centre; with the shapes of the tensors in which that is."""
    deep: set[str] = field(default_factory=set)
    """Values that reach a node with weights, by whatever ops: attention, reference points."""
    _held: int = 0
    _known: dict[tuple[int, str], int] = field(default_factory=dict)
    _channel_axes: dict[int, tuple[Array, dict[int, bool]]] = field(default_factory=dict)
    """What `is_channel_axis` found, by the array that it was asked of."""

    # ------------------------------------------------------------------------------ running

    def run(self) -> None:
        """Find the candidate heads and send element numbers from them to wherever they get."""
        self._find_leaves()
        for node in map(simple, self.scope.graph.node):
            if node.op_type in MOVING | PASSING and any(n in self.origins for n in node.input):
                self._step(node)
            elif is_conversion(self.scope, node) and node.input[0] in self.origins:
                numbers = self.origins[node.input[0]].numbers
                self._meet(numbers, numbers.shape)

    def _find_leaves(self) -> None:
        candidates = Candidates(self.scope, self.interpreter)
        self.deep = candidates.deep
        for leaf in candidates.leaves():
            self._hold(self.scope.graph.node[leaf.node], leaf.shape)
            self.leaves.append(leaf)
        self.unread = candidates.unread
        self.bits = max((v.shape[v.axis] for v in self.leaves), default=1).bit_length()
        places = sum(leaf.places for leaf in self.leaves)
        dtype = np.int32 if places << self.bits < 2**31 else np.int64
        for leaf in self.leaves:
            origin = Origin(leaf.numbers(self.bits, dtype), 0)
            if leaf.activation:
                origin.history = self._advance(origin, leaf.activation)
            self.origins[leaf.value] = origin

    def _hold(self, node: onnx.NodeProto, shape: tuple[int, ...]) -> None:
        """Refuse what memory and time do not suffice for, before they are taken."""
        limits.check(node, shape)
        self._held += math.prod(shape)
        limits.check_all(node, self._held)

    def _step(self, node: onnx.NodeProto) -> None:
        shapes = [self.scope.old(o).static for o in node.output if o]
        if None in shapes:
            return
        for shape in shapes:
            self._hold(node, shape or ())
        if node.op_type in MOVING:
            moved = self._move(node)
        elif node.op_type in BROADCASTING:
            moved = [self._combine(node)]
        else:
            moved = [self._pass(node)]
        for name, origin in zip(node.output, moved, strict=False):
            if origin is not None:
                self.origins[name] = origin

    def _move(self, node: onnx.NodeProto) -> list[Origin | None]:
        """Run a movement op on numbers and histories alike."""
        variadic = node.op_type == "Concat"
        if not variadic and node.input[0] not in self.origins:
            return [None] * len(node.output)
        sources = [self.origins.get(n) if variadic or k == 0 else None
                   for k, n in enumerate(node.input)]  # fmt: skip
        numbers = self._moved(node, [None if o is None else o.numbers for o in sources], NOTHING)
        if numbers is None:
            return [None] * len(node.output)
        known = [o.history for o in sources if o is not None]
        if all(isinstance(h, int) and h == known[0] for h in known):
            return [Origin(n, known[0]) for n in numbers]
        spread = [None if o is None else
                  np.broadcast_to(np.asarray(o.history, np.int32), o.numbers.shape)
                  for o in sources]  # fmt: skip
        history = self._moved(node, spread, 0)
        if history is None:
            return [None] * len(node.output)
        return [Origin(n, h) for n, h in zip(numbers, history, strict=True)]

    def _moved(
        self, node: onnx.NodeProto, sources: Sequence[Array | None], fill: int
    ) -> list[Array] | None:
        """Run the op on ``sources``, constants beside them as ``fill``; None where it cannot be."""
        inputs: list[Array | None] = []
        for name, source in zip(node.input, sources, strict=True):
            fact = self.scope.old(name)
            if source is not None:
                inputs.append(source)
            elif node.op_type == "Concat" and fact.static is not None:
                inputs.append(np.full(fact.static, fill, np.int32))
            elif node.op_type != "Concat" and (fact.value is not None or not name):
                inputs.append(fact.value)
            else:
                return None
        try:
            return self.interpreter.run(node, inputs)
        except Exception:  # noqa: BLE001  what the reference cannot run leads nowhere
            return None

    def _pass(self, node: onnx.NodeProto) -> Origin | None:
        origin = self.origins.get(node.input[0])
        if origin is None:
            return None
        step = node.op_type
        if step in {"Softmax", "LogSoftmax"}:
            default = -1 if self.interpreter.opsets[""] >= 13 else 1
            axis = attributes(node).get("axis", default) % origin.numbers.ndim
            if self.is_channel_axis(origin.numbers, axis):
                step = f"{step}:{len(self.softmaxes)}"
                self.softmaxes.append((origin.numbers, axis))
        return Origin(origin.numbers, self._advance(origin, step))

    def _combine(self, node: onnx.NodeProto) -> Origin | None:
        """Elementwise with several operands: the one that is not stretched says where from."""
        shape = self.scope.old(node.output[0]).static or ()
        step = node.op_type
        names = node.input
        if step == "Where" and any(n in self.origins for n in names[1:]):
            names = names[1:]  # what is chosen, not by what
        found = [self.origins[n] for n in names if n in self.origins
                 and np.broadcast_shapes(self.origins[n].numbers.shape, shape) == shape]  # fmt: skip
        if not found:
            return None
        for name in names:
            if name not in self.origins and not self._is_per_channel(name, found[0].numbers):
                step = f"{node.op_type}*"  # joined with something that differs from place to place
        if step == node.op_type and sum(n in self.origins for n in node.input) > 1:
            step = f"{step}+"  # joined with what a head gives
        whole = [o for o in found if o.numbers.size == math.prod(shape)]
        if not whole:
            return Origin(np.full(shape, MIXED, np.int32), 0)
        first = whole[0].numbers.reshape(shape)
        numbers = first
        for other in whole[1:]:
            beside = other.numbers.reshape(shape)
            near = (numbers != beside) & (numbers >= 0) & ((numbers ^ beside) >> self.bits == 0)
            self._meet(np.append(numbers[near], beside[near]), shape)
            numbers = np.where(numbers == beside, numbers, MIXED)
        before = whole[0].history
        if not isinstance(before, int):
            before = before.reshape(shape)
        return Origin(numbers, self._advance(Origin(numbers, before), step))

    def _meet(self, numbers: Array, shape: tuple[int, ...]) -> None:
        for channel in np.unique(self.channels(numbers[numbers >= 0])).tolist():
            self.met[channel].add(shape)

    def _is_per_channel(self, name: str, numbers: Array) -> bool:
        """Whether ``name`` is a scalar, or stored and has an element a channel: a bias, a factor."""
        shape = self.scope.old(name).static
        if shape is None:
            return False
        axes = [a - len(shape) for a, n in enumerate(shape) if n > 1]
        return not axes or (
            len(axes) == 1
            and -axes[0] <= numbers.ndim
            and self._is_factor(name)
            and self.is_channel_axis(numbers, numbers.ndim + axes[0])
        )

    def _is_factor(self, name: str) -> bool:
        """Whether ``name`` is stored, or a scalar of the picture's times what is stored."""
        maker = self.scope.node_of(name)
        if is_fixed(self.scope, name) or maker is None or maker.op_type != "Mul":
            return is_fixed(self.scope, name)
        shapes = [self.scope.old(n).static for n in maker.input]
        return all(
            is_fixed(self.scope, n) or (shape is not None and math.prod(shape) == 1)
            for n, shape in zip(maker.input, shapes, strict=True)
        )

    def _advance(self, origin: Origin, step: str) -> Array | int:
        history = origin.history
        if step in KEEPING:
            return history
        table = np.zeros(len(self.histories), np.int32)
        for old in origin.histories():
            key = (old, step)
            if key not in self._known:
                self._known[key] = len(self.histories)
                self.histories.append((*self.histories[old], step))
            table[old] = self._known[key]
        return int(table[history]) if isinstance(history, int) else table[history]

    # ------------------------------------------------------------------------------ reading

    def channels(self, numbers: Array) -> Array:
        """Channel of each element, numbered over all leaves: leaf, then ``bits`` (-1: none)."""
        inside = (numbers & ((1 << self.bits) - 1)).astype(np.int32)
        known: Array = self._first_channels[numbers >> self.bits] | inside
        known[numbers < 0] = NOTHING
        return known

    def is_summed(self, value: str) -> bool:
        """Whether the elements of ``value`` are summed up, as for an expected value."""
        readers = (self.scope.graph.node[i] for i in self.scope.index.consumers.get(value, ()))
        summing = WEIGHTED | {"ReduceSum", "ReduceMean"}
        return any(r.op_type in summing and not is_conversion(self.scope, r)
                   and not is_product(self.scope, r) for r in readers)  # fmt: skip

    def leaf(self, numbers: Array) -> Array:
        """Leaf number of each element (-1: none)."""
        known: Array = self._leaf_of_place[numbers >> self.bits]
        known[numbers < 0] = NOTHING
        return known

    @cached_property
    def _leaf_of_place(self) -> Array:
        """Number of the leaf (int32) for each place; they are numbered leaf by leaf."""
        places = [leaf.places for leaf in self.leaves]
        return np.repeat(np.arange(len(places), dtype=np.int32), places)

    @cached_property
    def _first_channels(self) -> Array:
        """What the numbers of a place's channels start from (int32)."""
        first: Array = self._leaf_of_place << self.bits
        return first

    def is_channel_axis(self, numbers: Array, axis: int) -> bool:
        """Whether only the channel changes along ``axis``, never the place in the picture."""
        _, known = self._channel_axes.setdefault(id(numbers), (numbers, {}))
        if axis not in known:
            one = numbers[tuple(slice(None) if a == axis else 0 for a in range(numbers.ndim))]
            known[axis] = (  # mostly one line is enough to see that the place changes
                self._within_places(one, 0) is not False and self._within_places(numbers, axis) is True
            )
        return known[axis]

    def is_softmax_axis(self, value: str, axis: int) -> bool:
        """Whether a softmax went over what now lies along ``axis``, wherever it lay then."""
        origin = self.origins[value]
        numbers = np.moveaxis(origin.numbers, axis, 0)
        passed = {int(s.split(":")[1]) for h in origin.histories()
                  for s in self.histories[h] if ":" in s}  # fmt: skip
        for before, over in (self.softmaxes[k] for k in passed):
            lines = np.moveaxis(before, over, -1).reshape(-1, before.shape[over])
            line = lines[0]  # all that one softmax made sum up to one
            if ((np.isin(numbers, line)).sum(axis=0) > 1).any():
                return True
        return False

    def _within_places(self, numbers: Array, axis: int) -> bool | None:
        """Return False where the place changes along ``axis``, True where the channel does, or None."""
        along = (slice(None),) * axis
        a, b = numbers[*along, 1:], numbers[*along, :-1]
        differs = a ^ b
        if numbers.min() >= 0 and differs.max(initial=0) >> self.bits == 0:  # one place each
            return bool(differs.any()) or None
        changes = (differs != 0) & (a >= 0) & (b >= 0)
        a, b, differs = a[changes], b[changes], differs[changes]
        apart = differs >> self.bits != 0
        if (self.leaf(a[apart]) == self.leaf(b[apart])).any():
            return False
        return True if not apart.all() else None
