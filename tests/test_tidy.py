"""What a cut leaves behind: no dead code of its own, true shapes, and outputs that are told."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from exported import each_node
from onnx import helper, numpy_helper, shape_inference
from patterns import PATTERNS, REFUSED, pictures, run

import onnx_headcut as hc

CUT = [name for name in PATTERNS if name not in REFUSED]
DEAD = {("node", "dead_value"), ("value", "dead_value")}
"""What is dead from the start, and stays; an initializer that it reads is not."""


@pytest.mark.parametrize("name", CUT)
def test_what_is_dead_goes_and_declared_shapes_are_true(name: str) -> None:
    pattern = PATTERNS[name]()
    source = shape_inference.infer_shapes(pattern.model(), data_prop=True)
    source.graph.initializer.append(numpy_helper.from_array(np.arange(3), "dead"))
    source.graph.node.append(helper.make_node("Identity", ["dead"], ["dead_value"]))
    source.graph.value_info.append(helper.make_tensor_value_info("dead_value", 7, [3]))
    before = useless(source)
    assert before >= DEAD
    classes = pattern.foreground

    cut = hc.cut(source, [classes[-2], classes[0], classes[2]], validation=False, **pattern.told).model

    assert DEAD <= useless(cut) <= before
    feeds = next(pictures(batch=pattern.batch))
    assert not untrue(cut, feeds)


@pytest.mark.parametrize("name", [n for n in CUT if PATTERNS[n]().kind == "rows"])
def test_inspect_tells_which_output_says_class_ids(name: str) -> None:
    pattern = PATTERNS[name]()

    told = [o.convention for o in hc.inspect(pattern.model(), **pattern.told).outputs if o.convention]

    assert told == ["numbers of the model's own" if pattern.own_ids else "column"]


def useless(model: onnx.ModelProto) -> set[tuple[str, str]]:
    """Nodes and initializers that nothing reads, and declared shapes of what nothing reads."""
    read = {o.name for o in model.graph.output}
    read |= {name for node in each_node(model.graph) for name in node.input}
    bodies = (a.g for node in each_node(model.graph) for a in node.attribute)
    read |= {o.name for body in bodies for o in body.output}
    found = {("node", n.output[0]) for n in model.graph.node if read.isdisjoint(n.output)}
    found |= {("initializer", t.name) for t in model.graph.initializer if t.name not in read}
    return found | {("value", v.name) for v in model.graph.value_info if v.name not in read}


def untrue(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> dict[str, tuple[object, ...]]:
    """Values that are declared with another shape than they have."""
    shown = onnx.ModelProto.FromString(model.SerializeToString())
    said = {v.name: v for v in [*model.graph.value_info, *model.graph.output]}
    outputs = {o.name for o in model.graph.output}
    shown.graph.output.extend(v for name, v in said.items() if name not in outputs)
    for value in shown.graph.output:
        value.type.tensor_type.ClearField("shape")
    wrong = {}
    for value, array in zip(shown.graph.output, run(shown, feeds), strict=True):
        tensor = said[value.name].type.tensor_type
        if not tensor.HasField("shape"):
            continue
        dims = [d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim]
        if len(dims) != array.ndim or any(
            d not in {None, e} for d, e in zip(dims, array.shape, strict=True)
        ):
            wrong[value.name] = (dims, array.shape)
    return wrong
