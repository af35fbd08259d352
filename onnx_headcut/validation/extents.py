"""What a graph reckons from extents of its scores, as it would from scores of the kept classes alone.

A detector that picks boxes by flat numbers reads its strides from the shape of the scores: no score
moves them, and a cut has others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnx_headcut.validation.probe import natural_cut
from onnx_headcut.validation.reference import leading

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx_headcut.labels import Site


def of_kept(
    model: onnx.ModelProto, shown: str, sites: Sequence[Site], order: Sequence[int]
) -> onnx.ModelProto | None:
    """A copy of the model whose output ``shown`` is reckoned behind sites with the kept columns alone.

    ``shown`` is made by an Identity; what leads to it is there twice then. None where no site leads
    to it, or its classes have no order that can be told. It may not run: where a stored shape has
    the class count in it.
    """
    part = onnx.ModelProto()
    part.CopyFrom(model)
    graph = part.graph
    wanted = leading(graph, [shown])
    last = next(node for node in graph.node if shown in node.output)
    kept: dict[str, str] = {}
    added = []
    for site in sites:
        take = natural_cut(site.ids, order)
        if take is None:
            return None
        kept[site.value] = f"{site.value}/of the kept"
        index = numpy_helper.from_array(np.array(take, np.int64), f"{site.value}/kept of {shown}")
        graph.initializer.append(index)
        read = [site.value, index.name]
        added.append(helper.make_node("Gather", read, [kept[site.value]], axis=site.axis))
    for node in graph.node:
        if node is not last and wanted.intersection(node.output) and kept.keys() & {*node.input}:
            again = onnx.NodeProto()
            again.CopyFrom(node)
            again.ClearField("name")
            again.input[:] = [kept.get(name, name) for name in node.input]
            again.output[:] = [name and f"{name}/of the kept" for name in node.output]
            kept |= dict(zip(node.output, again.output, strict=True))
            added.append(again)
    if last.input[0] not in kept:
        return None
    added.append(helper.make_node("Identity", [kept[last.input[0]]], [shown]))
    graph.node.remove(last)
    for node in added:
        node.output[:] = [name if name == shown else f"{name} for {shown}" for name in node.output]
        node.input[:] = [
            f"{name} for {shown}" if name in kept.values() else name for name in node.input
        ]
    graph.node.extend(added)
    return part
