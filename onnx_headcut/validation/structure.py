"""The structural half of the proof: what a plan does not name is byte for byte what it was.

Two models and a plan's claims go in; findings come out. Where a claimed node reads another weight
than before, that weight has to be a selection of the old one's rows: see `weights`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onnx import AttributeProto

from onnx_headcut.validation.claims import Claims, Findings, Found
from onnx_headcut.validation.messages import by_output, bytes_of, same_field
from onnx_headcut.validation.weights import compare_mixtures, compare_weights, hold, same_tensor

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    import onnx

_TREES = {"graph", "functions", "metadata_props"}
_GRAPH_LISTS = {"node", "initializer", "value_info", "input", "output"}


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
    found = Found((original_dir, cut_dir))
    compare_mixtures(original.graph, cut.graph, claims, found)
    _compare_fields(original, cut, claims, found)
    _compare_nodes(original.graph, cut.graph, claims, found)
    _compare_initializers(original.graph, cut.graph, claims, found)
    compare_weights(original.graph, cut.graph, claims, found)
    _compare_rest(original.graph, cut.graph, claims, found)
    return Findings(tuple(found.problems), tuple(found.selections), found.nodes,
                    found.initializers, len(found.made))  # fmt: skip


def _compare_fields(
    original: onnx.ModelProto, cut: onnx.ModelProto, claims: Claims, found: Found
) -> None:
    names = [f.name for f in original.DESCRIPTOR.fields if f.name not in _TREES]
    for name in names:
        if name not in claims.fields and not same_field(original, cut, name):
            found.problems.append(f"model field {name!r} differs")
    before = {prop.key: prop.value for prop in original.metadata_props}
    after = {prop.key: prop.value for prop in cut.metadata_props}
    for key in sorted(before.keys() | after.keys()):
        if key not in claims.metadata and before.get(key) != after.get(key):
            found.problems.append(f"metadata {key!r} differs")
    old, new = ({f"{f.domain}::{f.name}": f for f in m.functions} for m in (original, cut))
    for key in sorted(old.keys() | new.keys()):
        claimed = key in claims.functions or key.split("::")[1] in claims.functions
        same = key in old and key in new and bytes_of(old[key]) == bytes_of(new[key])
        if not same and not claimed:
            found.problems.append(f"function {key!r} differs")


def _compare_nodes(
    original: onnx.GraphProto, cut: onnx.GraphProto, claims: Claims, found: Found
) -> None:
    old, new = by_output(original), by_output(cut, claims.whole)
    for key, node in old.items():
        same = key in new and bytes_of(node) == bytes_of(new[key])
        found.nodes += same
        if key in new and not same:
            same = _compare_bodies(node, new[key], claims, found)
        if not same and key not in claims.nodes:
            what = "differs" if key in new else "is gone"
            found.problems.append(f"{node.op_type} node {key!r} {what}")
    for key in sorted(new.keys() - old.keys() - claims.nodes):
        found.problems.append(f"{new[key].op_type} node {key!r} is new")
    _compare_order("nodes", old, new, found)


def _compare_bodies(old: onnx.NodeProto, new: onnx.NodeProto, claims: Claims, found: Found) -> bool:
    """Hold the bodies of an If, Loop or Scan to the claims; whether all else of it is the same."""
    (shell, before), (other, after) = _shell(old), _shell(new)
    if before.keys() != after.keys():
        return False
    for name, body in before.items():
        _compare_nodes(body, after[name], claims, found)
        _compare_initializers(body, after[name], claims, found)
        _compare_rest(body, after[name], claims, found)
    return bool(before) and bytes_of(shell) == bytes_of(other)


def _shell(node: onnx.NodeProto) -> tuple[onnx.NodeProto, dict[str, onnx.GraphProto]]:
    """Take a node apart: all but its bodies, and these by name."""
    shell = type(node)()
    shell.CopyFrom(node)
    bodies = {a.name: a.g for a in node.attribute if a.type == AttributeProto.GRAPH}
    for attribute in shell.attribute:
        if attribute.type == AttributeProto.GRAPH:
            attribute.ClearField("g")
    return shell, bodies


def _compare_initializers(
    original: onnx.GraphProto, cut: onnx.GraphProto, claims: Claims, found: Found
) -> None:
    old = {tensor.name: tensor for tensor in original.initializer}
    new = {tensor.name: tensor for tensor in cut.initializer}
    for name, tensor in old.items():
        same = name in new and same_tensor(tensor, new[name], found.folders)
        found.initializers += same
        if same:
            continue
        if name not in claims.initializers:
            what = "differs" if name in new else "is gone"
            found.problems.append(f"initializer {name!r} {what}")
        elif name in new:
            hold(name, (name, tensor), new[name], claims, found)
    for name in sorted(new.keys() - old.keys() - claims.initializers):
        found.problems.append(f"initializer {name!r} is new")
    _compare_order("initializers", old, new, found)


def _compare_order(what: str, old: Mapping[str, Any], new: Mapping[str, Any], found: Found) -> None:
    before = [key for key in old if key in new]
    after = [key for key in new if key in old]
    if before != after:
        at = next(i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b)
        found.problems.append(f"{what} are in another order from {after[at]!r} on")


def _compare_rest(
    original: onnx.GraphProto, cut: onnx.GraphProto, claims: Claims, found: Found
) -> None:
    for name in [f.name for f in original.DESCRIPTOR.fields if f.name not in _GRAPH_LISTS]:
        if f"graph.{name}" not in claims.fields and not same_field(original, cut, name):
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
    found: Found,
) -> None:
    before, after = list(old), list(new)
    if _names(before) != _names(after):
        found.problems.append(f"{what} names differ: {_names(before)} and {_names(after)}")
        return
    found.problems += [
        f"{what} {a.name!r} differs"
        for a, b in zip(before, after, strict=True)
        if a.name not in claimed and bytes_of(a) != bytes_of(b)
    ]


def _names(values: Iterable[onnx.ValueInfoProto]) -> list[str]:
    return [value.name for value in values]
