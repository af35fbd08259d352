"""The structural half of the proof: what a plan does not name is byte for byte what it was.

Two models and a plan's claims go in; findings come out. Where a claimed node reads another weight
than before, that weight has to be a selection of the old one's rows along one axis, found here by
comparing bytes, or a small constant, or be claimed as rewritten.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import AttributeProto, TensorProto

from onnx_headcut.storage.tensors import to_array
from onnx_headcut.validation.mixture import Beginning, complaint
from onnx_headcut.validation.reference import uses

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    import numpy.typing as npt
    import onnx
    from google.protobuf.message import Message  # type: ignore[import-untyped]

    from onnx_headcut.validation.mapped import NewColumn
    from onnx_headcut.validation.mixture import Mixture

# Shapes, limits, counts and the like may be rewritten; more elements than this are weights.
_SMALL = 64


@dataclass(frozen=True)
class Claims:
    """What a plan says that it changes; everything else has to be byte-identical.

    ``nodes``: first outputs of nodes that were changed, added or removed; ``initializers`` by name
    likewise. ``rewritten`` are new initializers (or outputs of Constant nodes) that are larger than
    a small constant and no selection of the old one, such as a table of label ids. ``values`` are
    graph inputs and outputs whose declaration changes, ``metadata`` keys of metadata_props,
    ``functions`` local functions (``name`` or ``domain::name``), ``fields`` other fields of the
    model (``producer_name``) or of its graph (``graph.doc_string``). value_info is exempt unless
    ``value_info`` is False: it is inferred anew. ``mixtures`` are the heads' tensors that a class
    map of ``rows`` blends, and ``begin`` is where new classes begin: they are worked out anew.
    ``whole``: names of scores that were left whole, and the names that they had, which now stand
    for what a class map picks of them; without the nodes between, nothing else of them is new.
    """

    nodes: frozenset[str] = frozenset()
    initializers: frozenset[str] = frozenset()
    rewritten: frozenset[str] = frozenset()
    values: frozenset[str] = frozenset()
    metadata: frozenset[str] = frozenset()
    functions: frozenset[str] = frozenset()
    fields: frozenset[str] = frozenset()
    value_info: bool = True
    whole: Mapping[str, str] = field(default_factory=dict)
    mixtures: tuple[Mixture, ...] = ()
    rows: tuple[NewColumn, ...] = ()
    begin: Beginning | None = None


@dataclass(frozen=True)
class Selection:
    """A changed weight ``name``: ``source`` restricted to ``rows`` of ``axis``, in that order."""

    name: str
    source: str
    axis: int
    rows: tuple[int, ...]


@dataclass(frozen=True)
class Findings:
    """What the structural comparison found; true where nothing was changed beyond the claims."""

    problems: tuple[str, ...] = ()
    selections: tuple[Selection, ...] = ()
    same_nodes: int = 0
    same_initializers: int = 0
    made: int = 0

    def __bool__(self) -> bool:
        return not self.problems

    @property
    def line(self) -> str:
        """Say it in one line."""
        text = f"{self.same_nodes} nodes and {self.same_initializers} initializers byte-identical"
        text += f", {len(self.selections)} weights are selections of the original's"
        text += f", {self.made} are made of its rows as the class map says" if self.made else ""
        return text + (f", {len(self.problems)} unclaimed changes" if self.problems else "")


@dataclass
class _Found:
    folders: tuple[Path | None, Path | None]
    problems: list[str] = field(default_factory=list)
    selections: list[Selection] = field(default_factory=list)
    nodes: int = 0
    initializers: int = 0
    made: set[str] = field(default_factory=set)


def structural(
    original: onnx.ModelProto,
    cut: onnx.ModelProto,
    claims: Claims,
    *,
    original_dir: Path | None = None,
    cut_dir: Path | None = None,
) -> Findings:
    """Hold a cut model against its original, outside of what the claims name.

    The folders are those of external data; changed weights are read from there, unchanged ones
    are compared by their location only where both models keep them in one folder, else by content.
    """
    found = _Found((original_dir, cut_dir))
    _compare_mixtures(original.graph, cut.graph, claims, found)
    _compare_fields(original, cut, claims, found)
    _compare_nodes(original.graph, cut.graph, claims, found)
    _compare_initializers(original.graph, cut.graph, claims, found)
    _compare_weights(original.graph, cut.graph, claims, found)
    _compare_rest(original.graph, cut.graph, claims, found)
    return Findings(tuple(found.problems), tuple(found.selections), found.nodes,
                    found.initializers, len(found.made))  # fmt: skip


def _bytes(message: Message) -> bytes:
    return bytes(message.SerializeToString(deterministic=True))


# ------------------------------------------------------------------ fields of the model


_TREES = {"graph", "functions", "metadata_props"}
_GRAPH_LISTS = {"node", "initializer", "value_info", "input", "output"}


def _compare_fields(
    original: onnx.ModelProto, cut: onnx.ModelProto, claims: Claims, found: _Found
) -> None:
    names = [f.name for f in original.DESCRIPTOR.fields if f.name not in _TREES]
    for name in names:
        if name not in claims.fields and not _same_field(original, cut, name):
            found.problems.append(f"model field {name!r} differs")
    before = {prop.key: prop.value for prop in original.metadata_props}
    after = {prop.key: prop.value for prop in cut.metadata_props}
    for key in sorted(before.keys() | after.keys()):
        if key not in claims.metadata and before.get(key) != after.get(key):
            found.problems.append(f"metadata {key!r} differs")
    old, new = ({f"{f.domain}::{f.name}": f for f in m.functions} for m in (original, cut))
    for key in sorted(old.keys() | new.keys()):
        claimed = key in claims.functions or key.split("::")[1] in claims.functions
        same = key in old and key in new and _bytes(old[key]) == _bytes(new[key])
        if not same and not claimed:
            found.problems.append(f"function {key!r} differs")


def _same_field(a: Message, b: Message, name: str) -> bool:
    """Compare one field of two messages by its bytes."""
    kept = []
    for message in (a, b):
        alone = type(message)()
        value = getattr(message, name)
        if _repeated(message, name):
            getattr(alone, name).extend(value)
        elif message.HasField(name):
            if hasattr(value, "CopyFrom"):
                getattr(alone, name).CopyFrom(value)
            else:
                setattr(alone, name, value)
        kept.append(_bytes(alone))
    return kept[0] == kept[1]


def _repeated(message: Message, name: str) -> bool:
    return hasattr(getattr(message, name), "extend")


# ------------------------------------------------------------------ nodes


def _by_output(
    graph: onnx.GraphProto, whole: Mapping[str, str] | None = None
) -> dict[str, onnx.NodeProto]:
    nodes = _without_picking(graph, whole) if whole else list(graph.node)
    return {
        next((name for name in node.output if name), f"#{at}"): node
        for at, node in enumerate(nodes)
    }


_PICKING = frozenset({"Gather", "Max", "Mul", "Sum"})


def _without_picking(graph: onnx.GraphProto, whole: Mapping[str, str]) -> list[onnx.NodeProto]:
    """The nodes of a graph whose map behind the activation is undone; all, where that is no map."""
    maker = {name: at for at, node in enumerate(graph.node) for name in node.output}
    between: set[int] = set()
    todo = list(whole.values())
    while todo:
        at = maker.get(todo.pop())
        if at is None or at in between:
            continue
        if graph.node[at].op_type not in _PICKING:
            return list(graph.node)
        between.add(at)
        todo += [name for name in graph.node[at].input if name not in whole]
    return [_renamed(node, whole) for at, node in enumerate(graph.node) if at not in between]


def _renamed(node: onnx.NodeProto, names: Mapping[str, str]) -> onnx.NodeProto:
    """A node that reads and gives values by other names, in its bodies too."""
    if names.keys().isdisjoint([*uses(node), *node.output]):
        return node
    copy = type(node)()
    copy.CopyFrom(node)
    todo = [copy]
    while todo:
        one = todo.pop()
        for values in (one.input, one.output):
            for i, name in enumerate(values):
                values[i] = names.get(name, name)
        todo += [inner for a in one.attribute for g in [a.g, *a.graphs] for inner in g.node]
    return copy


def _compare_nodes(
    original: onnx.GraphProto, cut: onnx.GraphProto, claims: Claims, found: _Found
) -> None:
    old, new = _by_output(original), _by_output(cut, claims.whole)
    for key, node in old.items():
        same = key in new and _bytes(node) == _bytes(new[key])
        found.nodes += same
        if key in new and not same:
            same = _compare_bodies(node, new[key], claims, found)
        if not same and key not in claims.nodes:
            what = "differs" if key in new else "is gone"
            found.problems.append(f"{node.op_type} node {key!r} {what}")
    for key in sorted(new.keys() - old.keys() - claims.nodes):
        found.problems.append(f"{new[key].op_type} node {key!r} is new")
    _compare_order("nodes", old, new, found)


def _compare_bodies(
    old: onnx.NodeProto, new: onnx.NodeProto, claims: Claims, found: _Found
) -> bool:
    """Hold the bodies of an If, Loop or Scan to the claims; whether all else of it is the same."""
    (shell, before), (other, after) = _shell(old), _shell(new)
    if before.keys() != after.keys():
        return False
    for name, body in before.items():
        _compare_nodes(body, after[name], claims, found)
        _compare_initializers(body, after[name], claims, found)
        _compare_rest(body, after[name], claims, found)
    return bool(before) and _bytes(shell) == _bytes(other)


def _shell(node: onnx.NodeProto) -> tuple[onnx.NodeProto, dict[str, onnx.GraphProto]]:
    """Take a node apart: all but its bodies, and these by name."""
    shell = type(node)()
    shell.CopyFrom(node)
    bodies = {a.name: a.g for a in node.attribute if a.type == AttributeProto.GRAPH}
    for attribute in shell.attribute:
        if attribute.type == AttributeProto.GRAPH:
            attribute.ClearField("g")
    return shell, bodies


def _compare_order(
    what: str, old: Mapping[str, Any], new: Mapping[str, Any], found: _Found
) -> None:
    before = [key for key in old if key in new]
    after = [key for key in new if key in old]
    if before != after:
        at = next(i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b)
        found.problems.append(f"{what} are in another order from {after[at]!r} on")


# ------------------------------------------------------------------ initializers and weights


def _compare_initializers(
    original: onnx.GraphProto, cut: onnx.GraphProto, claims: Claims, found: _Found
) -> None:
    old = {tensor.name: tensor for tensor in original.initializer}
    new = {tensor.name: tensor for tensor in cut.initializer}
    for name, tensor in old.items():
        same = name in new and _same_tensor(tensor, new[name], found.folders)
        found.initializers += same
        if same:
            continue
        if name not in claims.initializers:
            what = "differs" if name in new else "is gone"
            found.problems.append(f"initializer {name!r} {what}")
        elif name in new:
            _hold(name, (name, tensor), new[name], claims, found)
    for name in sorted(new.keys() - old.keys() - claims.initializers):
        found.problems.append(f"initializer {name!r} is new")
    _compare_order("initializers", old, new, found)


def _same_tensor(
    old: TensorProto, new: TensorProto, folders: tuple[Path | None, Path | None]
) -> bool:
    external = TensorProto.EXTERNAL in (old.data_location, new.data_location)
    if not external or folders[0] == folders[1]:
        return _bytes(old) == _bytes(new)
    if (list(old.dims), old.data_type) != (list(new.dims), new.data_type):
        return False
    before, after = _array(old, folders[0]), _array(new, folders[1])
    return before.tobytes() == after.tobytes()


def _array(tensor: TensorProto, folder: Path | None) -> npt.NDArray[Any]:
    return to_array(tensor, folder)


def _stored(graph: onnx.GraphProto) -> dict[str, TensorProto]:
    """List the tensors that a graph stores: initializers, and the values of Constant nodes."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.type == AttributeProto.TENSOR:
                    tensors[node.output[0]] = attribute.t
    return tensors


def _compare_weights(
    original: onnx.GraphProto, cut: onnx.GraphProto, claims: Claims, found: _Found
) -> None:
    """Hold every stored tensor that is new, or read by a claimed node anew, to the law.

    What a node reads is held against what it read at the same place before; a new tensor that no
    node leads to an old one from has to be a selection of one that went.
    """
    old, new = _stored(original), _stored(cut)
    before, after = _by_output(original), _by_output(cut, claims.whole)
    paired: set[str] = set()
    for key in [key for key in after if key in before and key in claims.nodes]:
        inputs = list(zip(before[key].input, after[key].input, strict=False))
        if len(before[key].input) != len(after[key].input):
            continue  # a Concat that lost branches: places do not correspond
        for was, now in inputs:
            if now in new and now not in old and was in old and now not in paired:
                paired.add(now)
                _hold(now, (was, old[was]), new[now], claims, found)
    gone = [name for name in old if name not in new]
    for name in [name for name in new if name not in old and name not in paired]:
        _hold_any(name, new[name], {one: old[one] for one in gone}, claims, found)
    for key in [key for key in after if key in old and key in new and key in claims.nodes]:
        if after[key].op_type == "Constant" and _bytes(old[key]) != _bytes(new[key]):
            _hold(key, (key, old[key]), new[key], claims, found)


def _compare_mixtures(
    original: onnx.GraphProto, cut: onnx.GraphProto, claims: Claims, found: _Found
) -> None:
    """Work out anew what a class map makes of the heads' tensors."""
    old, new = _stored(original), _stored(cut)
    begin = claims.begin or Beginning(0.01, None)
    for mixture in claims.mixtures:
        if mixture.name not in new or (mixture.source is not None and mixture.source not in old):
            found.problems.append(f"{mixture.name!r} is not there, which the class map made")
            continue
        found.made.add(mixture.name)
        before = None if mixture.source is None else _array(old[mixture.source], found.folders[0])
        after = _array(new[mixture.name], found.folders[1])
        wrong = complaint(mixture, before, after, claims.rows, begin)
        if wrong:
            found.problems.append(f"{mixture.name!r} {wrong}")


def _hold(
    name: str, source: tuple[str, TensorProto], new: TensorProto, claims: Claims, found: _Found
) -> None:
    """Demand that a tensor is a selection of the one it stands for, a small one, or claimed."""
    if name in found.made:
        return
    was, old = source
    selection = find_selection(_array(old, found.folders[0]), _array(new, found.folders[1]))
    if selection is not None:
        found.selections.append(Selection(name, was, *selection))
    elif int(np.prod(new.dims)) > _SMALL and name not in claims.rewritten:
        found.problems.append(
            f"{name!r} {list(new.dims)} is no selection of the original's {was!r} {list(old.dims)}"
        )


def _hold_any(
    name: str, new: TensorProto, gone: Mapping[str, TensorProto], claims: Claims, found: _Found
) -> None:
    if int(np.prod(new.dims)) <= _SMALL or name in claims.rewritten | found.made:
        return
    array = _array(new, found.folders[1])
    for was, tensor in gone.items():
        if tensor.data_type == new.data_type and len(tensor.dims) == len(new.dims):
            selection = find_selection(_array(tensor, found.folders[0]), array)
            if selection is not None:
                found.selections.append(Selection(name, was, *selection))
                return
    found.problems.append(f"{name!r} {list(new.dims)} is no selection of an original weight")


def find_selection(
    old: npt.NDArray[Any], new: npt.NDArray[Any]
) -> tuple[int, tuple[int, ...]] | None:
    """Find the axis and rows with ``new == old.take(rows, axis)``, bit for bit; None if none.

    Where rows of the original are equal, the first fitting one after the row before is named.
    """
    if old.dtype != new.dtype or old.ndim != new.ndim:
        return None
    different = [axis for axis in range(old.ndim) if old.shape[axis] != new.shape[axis]]
    if len(different) > 1:
        return None
    for axis in different or range(old.ndim):
        rows = _rows(old, new, axis)
        if rows is not None:
            return axis, rows
    return None


def _rows(old: npt.NDArray[Any], new: npt.NDArray[Any], axis: int) -> tuple[int, ...] | None:
    places: dict[bytes, list[int]] = {}
    for at, row in enumerate(_digests(old, axis)):
        places.setdefault(row, []).append(at)
    result: list[int] = []
    for row in _digests(new, axis):
        if row not in places:
            return None
        later = [at for at in places[row] if not result or at > result[-1]]
        result.append(later[0] if later else places[row][0])
    return tuple(result)


def _digests(array: npt.NDArray[Any], axis: int) -> Iterator[bytes]:
    for row in np.moveaxis(array, axis, 0):
        yield hashlib.sha256(np.ascontiguousarray(row).tobytes()).digest()


# ------------------------------------------------------------------ the rest of the graph


def _compare_rest(
    original: onnx.GraphProto, cut: onnx.GraphProto, claims: Claims, found: _Found
) -> None:
    for name in [f.name for f in original.DESCRIPTOR.fields if f.name not in _GRAPH_LISTS]:
        if f"graph.{name}" not in claims.fields and not _same_field(original, cut, name):
            found.problems.append(f"graph field {name!r} differs")
    # Before IR version 4 initializers are listed as inputs too, and come and go with them.
    old, new = ([v for v in g.input if v.name not in claims.initializers] for g in (original, cut))
    _compare_values("input", old, new, claims.values, found)
    _compare_values("output", original.output, cut.output, claims.values, found)
    if not claims.value_info:
        _compare_values("value_info", original.value_info, cut.value_info, frozenset(), found)


def _compare_values(
    what: str,
    old: Iterable[onnx.ValueInfoProto],
    new: Iterable[onnx.ValueInfoProto],
    claimed: frozenset[str],
    found: _Found,
) -> None:
    before, after = list(old), list(new)
    if _names(before) != _names(after):
        found.problems.append(f"{what} names differ: {_names(before)} and {_names(after)}")
        return
    found.problems += [
        f"{what} {a.name!r} differs"
        for a, b in zip(before, after, strict=True)
        if a.name not in claimed and _bytes(a) != _bytes(b)
    ]


def _names(values: Iterable[onnx.ValueInfoProto]) -> list[str]:
    return [value.name for value in values]
