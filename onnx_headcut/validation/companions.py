"""Outputs whose rows go with those of a score output, though no class reaches them.

Where a graph gives out every class of every box as a row, or slots of each class, other outputs hold
the box or the label of each row: constants, or boxes copied for each class. A cut that takes rows from
the scores alone leaves such outputs equal to the original's, and wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import onnx

Array = npt.NDArray[Any]

_SAME = frozenset({"Cast", "DequantizeLinear", "Identity", "QuantizeLinear"})


def left_behind(
    graph: onnx.GraphProto, apart: Sequence[str], before: dict[str, Array], after: dict[str, Array]
) -> Iterator[str]:
    """Say which of the outputs ``apart`` from classes may have had to follow one that got shorter.

    ``before`` and ``after`` are outputs of original and cut on one input.
    """
    made = from_inputs(graph)
    shown = before.keys() & after.keys()
    for name in sorted(shown & set(apart)):
        own = before[name]
        if own.shape != after[name].shape:
            continue
        for other in sorted(shown - set(apart)):
            pairs = zip(before[other].shape, after[other].shape, strict=False)
            axes = [k for k, (a, b) in enumerate(pairs) if a != b]
            if len(axes) != 1:
                continue
            count = before[other].shape[axes[0]]
            axis = 0 if own.shape == (count,) and name not in made else axes[0]
            if axis >= own.ndim or own.shape[axis] != count or count < 2:
                continue
            if name not in made or is_copied(own, axis):
                yield (
                    f"{name}: it is as long as {other} in the original, {count}, and stays so in the "
                    "cut, where that is shorter: nothing shows which of its places are whose"
                )
                break


def same_numbers(graph: onnx.GraphProto, name: str) -> Iterator[str]:
    """Yield the value and those that it is in another type: a converter casts what it gives out."""
    makers = {output: node for node in graph.node for output in node.output}
    while True:
        yield name
        node = makers.get(name)
        if node is None or node.op_type not in _SAME:
            return
        name = node.input[0]


def is_copied(values: Array, axis: int) -> bool:
    """Whether half of the places hold what others hold; not all the same."""
    if values.dtype.kind not in "biuf":
        return False
    lines = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
    different = len(np.unique(lines, axis=0))
    return 1 < different <= len(lines) // 2


def from_inputs(graph: onnx.GraphProto) -> set[str]:
    """Values that are computed from the graph's inputs."""
    stored = {t.name for t in graph.initializer}
    made = {v.name for v in graph.input} - stored
    for node in graph.node:
        if not made.isdisjoint(_read(node)):
            made.update(node.output)
    return made


def _read(node: onnx.NodeProto) -> Iterator[str]:
    yield from node.input
    for attribute in node.attribute:
        for body in (attribute.g, *attribute.graphs):
            for inner in body.node:
                yield from _read(inner)
            yield from (o.name for o in body.output)
