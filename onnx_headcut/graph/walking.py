"""Walks over all graphs and nodes of a model, bodies included."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx_headcut.storage.tensors import subgraphs_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import onnx


def walk(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and all graphs inside it, outer ones first."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for sub in subgraphs_of(attribute):
                yield from walk(sub)


def each_node(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Nodes and those of their bodies."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in subgraphs_of(attribute):
                yield from each_node(graph.node)


def all_nodes(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Every node, also in subgraphs and local functions."""
    yield from each_node(proto.graph.node)
    for function in proto.functions:
        yield from each_node(function.node)
