"""Facts of a node's outputs from those of its inputs.

onnx's own shape inference says the shapes, onnx's own reference implementation the values. Nodes of
one kind with equal inputs are looked at once. Nothing here knows about classes.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.checker import ValidationError
from onnx.defs import OpSchema, SchemaError, get_schema
from onnx.external_data_helper import uses_external_data
from onnx.shape_inference import InferenceError, infer_node_outputs

from onnx_headcut.errors import GraphRefused
from onnx_headcut.graph.arranging import arranged, numbers
from onnx_headcut.graph.facts import (
    UNKNOWN,
    Array,
    Fact,
    attributes,
    of_array,
    of_tensor,
    of_type,
    to_type,
)
from onnx_headcut.graph.plain import MICROSOFT, PACKED, plain

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from onnx_headcut.extensions import Extensions

VALUE_LIMIT = 1 << 20
"""Elements up to which values are computed: label tables and anchors, never weights."""

SHARED = 1 << 14
"""Nodes of different kinds whose facts are shared by all models of a process."""

_STANDARD = frozenset({"", "ai.onnx"})
_SHARED_DOMAINS = _STANDARD | {MICROSOFT}
_shared: dict[object, list[Fact]] = {}

ROOM = 1 << 22
"""Elements whose places are remembered, of all movement ops together: 16 MB."""

_GRAPHS = frozenset({onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS})

FUNCTION_STEPS = 50_000
"""Nodes inside local functions that are looked at; calls with equal inputs count once."""

NEVER_EVALUATED = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial",
     "Bernoulli", "If", "Loop", "Scan"}
)  # fmt: skip


class Interpreter:
    """Computes the facts of a node's outputs from those of its inputs, for given opset imports."""

    def __init__(
        self,
        opset_imports: Sequence[onnx.OperatorSetIdProto],
        ir_version: int,
        functions: Sequence[onnx.FunctionProto] = (),
        caller: Interpreter | None = None,
        extensions: Extensions | None = None,
        folder: Path | None = None,
    ) -> None:
        self.opset_imports = list(opset_imports)
        self._imports = tuple(sorted((o.domain, o.version) for o in opset_imports))
        self.opsets = {o.domain: o.version for o in opset_imports}
        self.opsets.setdefault("", self.opsets.get("ai.onnx", 1))
        self.ir_version = max(ir_version, 3)
        self.functions = {(f.domain, f.name): f for f in functions}
        self.steps: list[int] = caller.steps if caller else [FUNCTION_STEPS]
        self.calls: dict[object, list[Fact]] = caller.calls if caller else {}
        self.extensions: Extensions | None = caller.extensions if caller else extensions
        self.folder: Path | None = caller.folder if caller else folder
        self._implementations: dict[tuple[str, str], Any] = {}
        self._known: dict[object, list[Fact]] = {}
        self._common: dict[tuple[str, str], bool] = {}
        """Ops on which no function or rule of this model's has a say."""
        self.memory: dict[object, Any] = {}
        """What was worked out of the original's nodes, by whatever it follows from."""
        self._room = ROOM

    def run(self, node: onnx.NodeProto, inputs: Sequence[Array | None]) -> list[Array]:
        """Execute one node on arrays: by numpy where it only moves elements, or by onnx's reference.

        Raises whatever the implementation raises: callers know what a failure means to them.
        """
        key = (node.domain, node.op_type)
        with_data = self._with_data(node)
        if node.domain in _STANDARD and (moved := arranged(with_data, inputs)) is not None:
            return [moved]
        if key not in self._implementations:
            # 0.15 s to import, and only needed where something else is computed
            from onnx.reference.ops import load_op  # noqa: PLC0415

            schema = get_schema(node.op_type, self.opsets[node.domain], node.domain)
            self._implementations[key] = load_op(node.domain, node.op_type, schema.since_version)
        params = {"log": _silent, "opsets": self.opsets, "verbose": 0, "new_ops": None,
                  "evaluator_cls": None}  # fmt: skip
        with np.errstate(all="ignore"):
            outputs = self._implementations[key](with_data, params).run(*inputs)
        return [np.asarray(o) for o in outputs]

    def _with_data(self, node: onnx.NodeProto) -> onnx.NodeProto:
        """The node with what its attributes keep beside the model, where that is small.

        The reference would look for it in the current folder.
        """
        if not _has_data_beside(node):
            return node
        full = onnx.NodeProto()
        full.CopyFrom(node)
        for attribute in full.attribute:
            if uses_external_data(attribute.t):
                value = of_tensor(attribute.t, self.folder).value
                if value is None:
                    raise ValueError(f"attribute {attribute.name!r} is not at hand")
                attribute.t.CopyFrom(numpy_helper.from_array(value, attribute.t.name))
        return full

    def moved(self, node: onnx.NodeProto, inputs: Sequence[Fact]) -> tuple[list[Array], object]:
        """Where a movement op takes the elements of its first input: their numbers (int32), read-only.

        The shape of the first input is known, and the values of the others. Nodes of one kind are run
        once while there is room to remember it; the second result stands for the kind, or is None.
        """
        shape = inputs[0].static or ()
        kind = _kind(node, [Fact(shape, TensorProto.INT32), *inputs[1:]])
        if kind in self.memory:
            found: list[Array] = self.memory[kind]
            return found, kind
        result = self.run(node, [numbers(shape), *(f.value for f in inputs[1:])])
        for out in result:
            out.flags.writeable = False
        needed = sum(out.size for out in result)
        if kind is None or needed > self._room:
            return result, None
        self._room -= needed
        self.memory[kind] = result
        return result, kind

    def infer(self, node: onnx.NodeProto, inputs: Sequence[Fact]) -> list[Fact]:
        """Facts of ``node``'s outputs; raises InferenceError where the shapes do not fit.

        ``inputs`` are aligned with ``node.input``; an omitted optional input is UNKNOWN. Nodes of one
        kind with equal inputs are looked at once: branches and levels repeat one another.
        """
        kind = _kind(node, inputs)
        if kind is None:
            return self._inferred(node, inputs)
        if kind not in self._known:
            self._known[kind] = self._usual(kind, node, inputs)
        return self._known[kind]

    def _usual(self, kind: object, node: onnx.NodeProto, inputs: Sequence[Fact]) -> list[Fact]:
        """`_inferred`, once for all models of a process where no function or rule has a say."""
        op = node.domain, node.op_type
        if op not in self._common:
            ruled = self.extensions is not None and self.extensions.find(node) is not None
            self._common[op] = node.domain in _SHARED_DOMAINS and not ruled and op not in self.functions
        if not self._common[op] or _has_data_beside(node):
            return self._inferred(node, inputs)
        key = self._imports, self.ir_version, kind
        if key in _shared:
            return _shared[key]
        facts = self._inferred(node, inputs)
        if len(_shared) >= SHARED:
            _shared.clear()
        if all(f.value is None or f.value.size <= 64 for f in facts):
            for value in (f.value for f in facts if f.value is not None):
                value.flags.writeable = False  # what one cut did to it, all later ones would read
            _shared[key] = facts
        return facts

    def _inferred(self, node: onnx.NodeProto, inputs: Sequence[Fact]) -> list[Fact]:
        shapes = self._infer_shapes(node, inputs)
        if self._evaluable(node, inputs, shapes):
            try:
                values = self.run(node, [f.value if n else None
                                         for n, f in zip(node.input, inputs, strict=True)])  # fmt: skip
            except Exception:  # noqa: BLE001  an op the reference cannot run: the shape must do
                return shapes
            return [
                Fact(tuple(v.shape), s.elem_type or helper.np_dtype_to_tensor_dtype(v.dtype), v)
                for v, s in zip(values, shapes, strict=False)
            ]
        return shapes

    def _infer_shapes(self, node: onnx.NodeProto, inputs: Sequence[Fact]) -> list[Fact]:
        unknown = [UNKNOWN] * len(node.output)
        special = self._infer_special(node, inputs)
        if special is not None:
            return special or unknown
        version = self.opsets.get(node.domain)
        if version is None or any(a.type == onnx.AttributeProto.GRAPH for a in node.attribute):
            return unknown
        known = {n: f for n, f in zip(node.input, inputs, strict=True) if n}
        if any(f.elem_type == 0 for f in known.values()):
            return unknown
        try:
            schema = get_schema(node.op_type, version, node.domain)
        except SchemaError:
            return unknown
        small = {n: numpy_helper.from_array(f.value, n) for n, f in known.items()
                 if f.value is not None and _tells_shapes(f.value)}  # fmt: skip
        try:
            types = infer_node_outputs(
                schema,
                _as_known(node, schema),
                {n: to_type(f) for n, f in known.items()},
                small,
                opset_imports=self.opset_imports,
                ir_version=self.ir_version,
            )
        except ValidationError as error:  # types that the schema does not allow
            if TensorProto.BFLOAT16 not in {*(f.elem_type for f in inputs),
                                            *(a.t.data_type for a in node.attribute)}:  # fmt: skip
                raise InferenceError(str(error)) from None
            return self._infer_wide(node, inputs)
        return [of_type(types[n]) if n in types else UNKNOWN for n in node.output]

    def _infer_wide(self, node: onnx.NodeProto, inputs: Sequence[Fact]) -> list[Fact]:
        """As with float32 in place of bfloat16, which PyTorch writes at opsets that have it not yet."""
        half, full = TensorProto.BFLOAT16, TensorProto.FLOAT
        wide = [Fact(f.shape, full) if f.elem_type == half else f for f in inputs]
        if any(a.t.data_type == half for a in node.attribute):
            node = _with_tensors(node, half, full)
        found = self._infer_shapes(node, wide)
        return [Fact(f.shape, half) if f.elem_type == full else f for f in found]

    def _infer_special(self, node: onnx.NodeProto, inputs: Sequence[Fact]) -> list[Fact] | None:
        """Facts that need no schema, or that have none: None for the usual op, [] for unknown."""
        if (node.domain, node.op_type) in self.functions:
            return self._infer_function(node, inputs)
        rule = self.extensions.find(node) if self.extensions else None
        if rule is not None and rule.shapes is not None:
            return _told(rule.shapes, node, inputs)
        if node.domain == MICROSOFT:
            return self._infer_plain(node, inputs)
        if node.domain not in {"", "ai.onnx"}:
            return None
        if node.op_type == "Shape" and node.input:
            return [self._shape_of(node, inputs[0])]
        if node.op_type == "Size" and inputs and inputs[0].static is not None:
            return [of_array(np.array(math.prod(inputs[0].static), np.int64))]
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            # before opset 9 the schema knows floats only; exporters wrote integers all the same
            return [of_tensor(node.attribute[0].t, self.folder)]
        return None

    def _infer_function(self, node: onnx.NodeProto, inputs: Sequence[Fact]) -> list[Fact]:
        """Shapes through a local function, node by node; no function may call itself."""
        same = (node.domain, node.op_type, *(a.SerializeToString() for a in node.attribute),
                *((f.shape, f.elem_type, None if f.value is None else f.value.tobytes())
                  for f in inputs))  # fmt: skip
        if same not in self.calls:
            self.calls[same] = self._call(node, inputs)
        return self.calls[same]

    def _call(self, node: onnx.NodeProto, inputs: Sequence[Fact]) -> list[Fact]:
        function = self.functions[node.domain, node.op_type]
        rest = [f for f in self.functions.values() if f is not function]
        inner = Interpreter(function.opset_import, self.ir_version, rest, self)
        facts = dict(zip(function.input, inputs, strict=False))
        given = {a.name: a for a in [*function.attribute_proto, *node.attribute]}
        for step in function.node:
            self.steps[0] -= 1
            if self.steps[0] < 0:
                break  # functions that call each other twice each: what is unknown is refused
            bound = _bound(step, given)
            outputs = infer_or_unknown(inner, bound, [facts.get(n, UNKNOWN) for n in step.input])
            facts |= dict(zip(step.output, outputs, strict=False))
        return [facts.get(name, UNKNOWN) for name in function.output]

    def _infer_plain(self, node: onnx.NodeProto, inputs: Sequence[Fact]) -> list[Fact]:
        """Shapes of what onnx has no schema for, as of the plain op that it computes."""
        form = plain(node)
        if form is None:
            return []
        data = [inputs[s] for s in form.slots]
        if node.op_type in PACKED:  # packed by blocks; its attributes say what it is
            sizes = attributes(node)
            if not {"K", "N"} <= sizes.keys():
                return []  # onnx knows no schema by which it would have been refused
            data[1] = Fact((sizes["K"], sizes["N"]), TensorProto.FLOAT)
        if any(f.shape is None for n, f in zip(form.node.input, data, strict=True) if n):
            return []
        if form.channels_last:
            data[0] = _permuted(data[0], (0, -1, *range(1, len(data[0].shape or ()) - 1)))
        for k in form.swapped:
            rank = len(data[k].shape or ())
            data[k] = _permuted(data[k], (*range(rank - 2), rank - 1, rank - 2))
        # the plain op takes floats, or 8 bits where those are quantized; what it stands for may not
        others = {("Where", 0): TensorProto.BOOL, ("QuantizeLinear", 2): TensorProto.UINT8,
                  ("DequantizeLinear", 0): TensorProto.UINT8,
                  ("DequantizeLinear", 2): TensorProto.UINT8}  # fmt: skip
        kinds = [others.get((form.form.op, k), TensorProto.FLOAT) for k in range(len(data))]
        known = [Fact(f.shape, kind) for f, kind in zip(data, kinds, strict=True)]
        (shape,) = self._infer_shapes(form.node, known)
        if form.channels_last:
            shape = _permuted(shape, (0, *range(2, len(shape.shape or ())), 1))
        result = Fact(shape.shape, form.elem_type(node, [f.elem_type for f in inputs]))
        return [result] + [UNKNOWN] * (len(node.output) - 1)

    @staticmethod
    def _shape_of(node: onnx.NodeProto, data: Fact) -> Fact:
        if data.shape is None:
            return Fact((None,), onnx.TensorProto.INT64)
        attrs = {a.name: a.i for a in node.attribute}
        dims = data.shape[slice(attrs.get("start"), attrs.get("end"))]
        if any(d is None for d in dims):
            return Fact((len(dims),), onnx.TensorProto.INT64)
        return of_array(np.array(dims, np.int64))

    def _evaluable(self, node: onnx.NodeProto, inputs: Sequence[Fact], outputs: Sequence[Fact]) -> bool:
        if node.op_type in NEVER_EVALUATED or node.domain not in {"", "ai.onnx"}:
            return False
        if any(n and f.value is None for n, f in zip(node.input, inputs, strict=True)):
            return False
        # the declared output must be small: a ConstantOfShape may claim billions of elements
        sizes = [math.prod(f.static) if f.static is not None else None
                 for f in outputs]  # fmt: skip
        return all(s is not None and s <= VALUE_LIMIT for s in sizes) or (
            all(f.value is not None and f.value.size <= 64 for f in inputs)
            and node.op_type not in {"ConstantOfShape", "Expand", "Tile", "Range", "Pad", "Resize"}
        )


def _has_data_beside(node: onnx.NodeProto) -> bool:
    return any(a.HasField("t") and uses_external_data(a.t) for a in node.attribute)


def _kind(node: onnx.NodeProto, inputs: Sequence[Fact]) -> object:
    """All that facts of a node's outputs follow from; None where that is large."""
    values = [f.value for f in inputs if f.value is not None]
    if node.op_type == "Constant" or any(v.size > 64 or v.dtype.hasobject for v in values):
        return None
    if any(a.type in _GRAPHS for a in node.attribute):
        return None
    return (
        node.domain, node.op_type, *(a.SerializeToString() for a in node.attribute),
        *(bool(n) for n in [*node.input, *node.output]),
        *((f.shape, f.elem_type, None if f.value is None else f.value.tobytes()) for f in inputs),
    )  # fmt: skip


def _as_known(node: onnx.NodeProto, schema: OpSchema) -> onnx.NodeProto:
    """The node without attributes that the schema does not know, as inference would refuse it."""
    if all(a.name in schema.attributes for a in node.attribute):
        return node
    known = onnx.NodeProto()
    known.CopyFrom(node)
    del known.attribute[:]
    known.attribute.extend(a for a in node.attribute if a.name in schema.attributes)
    return known


def infer_or_unknown(
    interpreter: Interpreter, node: onnx.NodeProto, inputs: Sequence[Fact]
) -> list[Fact]:
    """Facts of ``node``'s outputs, or UNKNOWN ones where onnx finds that its shapes do not fit.

    Whatever else is raised is a mistake here, or a graph that is nonsense: see `sanity.foreseen`.
    """
    try:
        return interpreter.infer(node, inputs)
    except InferenceError:
        return [UNKNOWN] * len(node.output)


def _with_tensors(node: onnx.NodeProto, old: int, new: int) -> onnx.NodeProto:
    """The node with other types of what its attributes store; the numbers do not matter."""
    changed = onnx.NodeProto()
    changed.CopyFrom(node)
    for attribute in changed.attribute:
        if attribute.t.data_type == old:
            empty = np.zeros(tuple(attribute.t.dims), helper.tensor_dtype_to_np_dtype(new))
            attribute.t.CopyFrom(numpy_helper.from_array(empty, attribute.t.name))
    return changed


def _bound(node: onnx.NodeProto, given: Mapping[str, onnx.AttributeProto]) -> onnx.NodeProto:
    """Give a function's node the attributes of the call; it has none where the call gives none."""
    new = onnx.NodeProto()
    new.CopyFrom(node)
    del new.attribute[:]
    for attribute in node.attribute:
        if not attribute.ref_attr_name:
            new.attribute.append(attribute)
        elif attribute.ref_attr_name in given:
            new.attribute.add().CopyFrom(given[attribute.ref_attr_name])
            new.attribute[-1].name = attribute.name
    return new


def _told(
    shapes: Callable[[onnx.NodeProto, Sequence[Fact]], Sequence[Fact]],
    node: onnx.NodeProto,
    inputs: Sequence[Fact],
) -> list[Fact]:
    """What a rule says of an op's outputs; refuses where it says nothing sensible."""
    try:
        found = list(shapes(node, inputs))
        wrong = "" if all(isinstance(f, Fact) for f in found) else "it gives other things than facts"
    except Exception as error:  # noqa: BLE001  the rule may be anybody's
        found, wrong = [], f"{type(error).__name__}: {error}"
    if wrong:
        raise GraphRefused(
            f"what its rule says of its shapes cannot be used ({wrong})",
            node=node.name or next(iter(node.output), ""),
            op=node.op_type,
            advice="is the node as its documentation says? else mend the rule: docs/rules.md",
        )
    return found + [UNKNOWN] * (len(node.output) - len(found))


def _permuted(fact: Fact, order: Sequence[int]) -> Fact:
    shape = None if fact.shape is None else tuple(fact.shape[a] for a in order)
    return Fact(shape, fact.elem_type)


def _tells_shapes(value: Array) -> bool:
    """Whether shapes may follow from ``value``: few integers, or the scales of a Resize."""
    return value.size <= 16 or (value.size <= 4096 and value.dtype.kind in "iub")


def _silent(*_: object) -> None:
    return None
