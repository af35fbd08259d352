"""Drop what nothing uses any more; what was dead before stays, unless it reads what goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx_headcut.graph.model import captures

if TYPE_CHECKING:
    import onnx


def live(graph: onnx.GraphProto) -> set[str]:
    """Names that an output of ``graph`` depends on."""
    producer = {o: node for node in graph.node for o in node.output}
    todo, found = [o.name for o in graph.output], set[str]()
    while todo:
        name = todo.pop()
        if not name or name in found:
            continue
        found.add(name)
        node = producer.get(name)
        if node is not None:
            found.update(o for o in node.output if o)
            todo += [*node.input, *captures(node)]
    return found


def read(graph: onnx.GraphProto) -> set[str]:
    """Names that a node of ``graph`` reads, dead ones too, or a body of it."""
    return {n for node in graph.node for n in [*node.input, *captures(node)]}


def sweep(graph: onnx.GraphProto, before: set[str], read_before: set[str]) -> tuple[set[str], set[str]]:
    """Drop what was live ``before`` and is not any more, of one graph without its bodies.

    What dead nodes alone have read, and read no more, goes too. Returns the first outputs of the
    nodes and the names of the initializers that went. Bodies are swept first: what they capture
    stays used.
    """
    after = live(graph)
    nodes, lost = _sweep_nodes(graph, before, after)
    made = {o for node in graph.node for o in node.output}
    needless = (before | read_before | lost) - after - read(graph) - made
    unread = {t.name for t in graph.initializer if t.name in needless}
    for i in reversed(range(len(graph.initializer))):
        if graph.initializer[i].name in unread:
            del graph.initializer[i]
    for i in reversed(range(len(graph.input))):
        if graph.input[i].name in unread:  # IR versions before 4 list initializers as inputs
            del graph.input[i]
    for i in reversed(range(len(graph.value_info))):
        if graph.value_info[i].name in needless:
            del graph.value_info[i]
    for i in reversed(range(len(graph.quantization_annotation))):
        if graph.quantization_annotation[i].tensor_name in needless:
            del graph.quantization_annotation[i]
    return nodes, unread


def _sweep_nodes(
    graph: onnx.GraphProto, before: set[str], after: set[str]
) -> tuple[set[str], set[str]]:
    """First outputs of the nodes that go, and all their outputs."""
    gone, lost, said = [], set[str](), set[str]()
    for i, node in enumerate(graph.node):
        if any(o in after for o in node.output):
            continue
        reads = not lost.isdisjoint([*node.input, *captures(node)])
        if reads or any(o in before for o in node.output):
            said.update(node.output[:1])
            lost.update(filter(None, node.output))
            gone.append(i)
    for i in reversed(gone):
        del graph.node[i]
    return said, lost
