"""Nodes in an order in which each comes after what it reads, as the specification demands.

Runtimes take others, too, and tools write them: onnxruntime's float16 converter appends its casts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx

from onnx_headcut.graph.model import captures, subgraphs_of

if TYPE_CHECKING:
    from collections.abc import Sequence


def sort(graph: onnx.GraphProto) -> None:
    """Sort the nodes of ``graph`` and of the bodies in it, in place.

    A node moves no farther than it must; in a circle nothing can be sorted, and nothing is.
    """
    for node in graph.node:
        for attribute in node.attribute:
            for body in subgraphs_of(attribute):
                sort(body)
    order = _order(graph.node)
    if order is None or order == list(range(len(order))):
        return
    nodes = [onnx.NodeProto.FromString(graph.node[i].SerializeToString()) for i in order]
    del graph.node[:]
    graph.node.extend(nodes)


def _order(nodes: Sequence[onnx.NodeProto]) -> list[int] | None:
    """Numbers of the nodes, each after those that it reads from; None where they run in circles."""
    makers = {name: i for i, node in enumerate(nodes) for name in node.output if name}
    needed = [
        [makers[name] for name in dict.fromkeys([*node.input, *captures(node)]) if name in makers]
        for node in nodes
    ]
    order: list[int] = []
    done, open_ = set[int](), set[int]()
    for start in range(len(nodes)):
        todo = [start]
        while todo:
            i = todo[-1]
            missing = [k for k in needed[i] if k not in done]
            if i in done or not missing:
                todo.pop()
                open_.discard(i)
                if i not in done:
                    done.add(i)
                    order.append(i)
            elif i in open_:
                return None
            else:
                open_.add(i)
                todo += reversed(missing)
    return order
