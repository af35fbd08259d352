"""Nodes that a cut has added behind what cannot be run: lookups of the original's class ids.

They are run by themselves, on each new class number in every column, and have to give the
original's: in one column alone, or everywhere where the output says nothing but ids.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper

from onnx_headcut.errors import HeadcutError
from onnx_headcut.validation.runtime import open_session
from onnx_headcut.validation.statements import offset_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from onnx_headcut.validation.statements import Columns

    Array = npt.NDArray[Any]

WIDTH = 7
"""Columns of a table of detections, where it does not say how many."""


def lookup_problems(
    graphs: tuple[onnx.GraphProto, onnx.GraphProto],
    added: Sequence[onnx.NodeProto],
    columns: Columns,
    taken: Sequence[onnx.NodeProto],
    ids: str,
) -> tuple[list[str], list[str]]:
    """What is wrong with the nodes ``added``, and what is not clear."""
    if ids != "original":
        return [], [f"the cut has {len(added)} more nodes behind what cannot be run"]
    made = {name for node in added for name in node.output}
    entries = sorted({n for node in added for n in node.input if n and n not in made}
                     - {t.name for t in graphs[1].initializer})  # fmt: skip
    outputs = [o for o in graphs[1].output if o.name in made]
    problems, doubts = [], []
    for output in outputs:
        reads = _behind(output.name, added) & set(entries)
        if len(reads) != 1:
            doubts.append(f"output {output.name!r} is made from {len(reads)} values that cannot be run")
            continue
        offsets = {offset_of(n.op_type, {a.name: helper.get_attribute_value(a) for a in n.attribute},
                             columns) for n in taken}  # fmt: skip
        known = offsets.pop() if len(offsets) == 1 else None
        try:
            wrong = _wrong(graphs[1], added, reads.pop(), output, columns, known)
        except HeadcutError as error:
            wrong = error.what
        if wrong:
            problems.append(f"output {output.name!r}: {wrong}")
    if not outputs:
        doubts.append("what the cut adds behind what cannot be run leads to no output")
    return problems, doubts


def _behind(name: str, nodes: Sequence[onnx.NodeProto]) -> set[str]:
    """All names that ``name`` is made from by ``nodes``."""
    makers = {o: node for node in nodes for o in node.output}
    todo, seen = [name], set[str]()
    while todo:
        value = todo.pop()
        if value not in seen:
            seen.add(value)
            todo += makers[value].input if value in makers else []
    return seen


def _wrong(
    graph: onnx.GraphProto,
    added: Sequence[onnx.NodeProto],
    entry: str,
    output: onnx.ValueInfoProto,
    columns: Columns,
    known: int | None,
) -> str:
    """Run the lookup on every class number; say which is translated wrongly."""
    kind = output.type.tensor_type
    dims = [d.dim_value for d in kind.shape.dim]
    dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
    offsets = (0, -1, 1) if known is None else (known,)
    said = ""
    for offset in offsets:
        classes = [n for n, c in enumerate(columns.order) if c != columns.background]
        numbers = np.array([n for n in classes if n + offset >= 0])
        new = (numbers + offset).astype(dtype)
        old = np.array([columns.order[n] + offset for n in numbers], dtype)
        table = np.repeat(new[:, None], dims[-1] if dims and dims[-1] else WIDTH, 1)
        shape = (*[1] * (len(dims) - 2), *table.shape) if len(dims) > 1 else new.shape
        fed = table.reshape(shape) if len(dims) > 1 else new
        got = _run(graph, added, entry, output, fed)
        if got.shape != fed.shape:
            return f"its lookup gives {list(got.shape)} for {list(fed.shape)}"
        lines = got.reshape(len(new), -1).T
        changed = [line for line in lines if not np.array_equal(line, new)]
        right = all(np.array_equal(line, old) for line in changed)
        if right and len(changed) in {0, 1, len(lines)} and (changed or np.array_equal(new, old)):
            return ""
        first = next((n for n, line in enumerate(changed) if not np.array_equal(line, old)), 0)
        line = changed[first] if changed else new
        at = int(np.flatnonzero(line != old)[0]) if (line != old).any() else 0
        said = said or f"class number {new[at]} is said to be {line[at]} instead of {old[at]}"
    return said


def _run(
    graph: onnx.GraphProto,
    added: Sequence[onnx.NodeProto],
    entry: str,
    output: onnx.ValueInfoProto,
    fed: Array,
) -> Array:
    """Run the added nodes alone."""
    model = onnx.ModelProto(ir_version=8, opset_import=[helper.make_opsetid("", 13)])
    needed = _behind(output.name, added)
    model.graph.name = "lookup"
    model.graph.node.extend(n for n in graph.node if n in added and needed.intersection(n.output))
    model.graph.initializer.extend(t for t in graph.initializer if t.name in needed)
    elem_type = helper.np_dtype_to_tensor_dtype(fed.dtype)
    model.graph.input.append(helper.make_tensor_value_info(entry, elem_type, [None] * fed.ndim))
    model.graph.output.append(onnx.ValueInfoProto(name=output.name))
    return open_session(model, provider="cpu").run({entry: fed})[output.name]
