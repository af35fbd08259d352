"""Protobuf messages held against each other by their bytes, and nodes by their first outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx_headcut.validation.reference import uses

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx
    from google.protobuf.message import Message  # type: ignore[import-untyped]

_PICKING = frozenset({"Gather", "Max", "Mul", "Sum"})


def bytes_of(message: Message) -> bytes:
    """A message's bytes, the same for the same content."""
    return bytes(message.SerializeToString(deterministic=True))


def same_field(a: Message, b: Message, name: str) -> bool:
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
        kept.append(bytes_of(alone))
    return kept[0] == kept[1]


def _repeated(message: Message, name: str) -> bool:
    return hasattr(getattr(message, name), "extend")


def by_output(
    graph: onnx.GraphProto, whole: Mapping[str, str] | None = None
) -> dict[str, onnx.NodeProto]:
    """Nodes by their first outputs, without those that pick of what was left whole."""
    nodes = _without_picking(graph, whole) if whole else list(graph.node)
    return {
        next((name for name in node.output if name), f"#{at}"): node for at, node in enumerate(nodes)
    }


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
