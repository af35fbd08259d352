"""Graphs that are none, or not quite: a clear error and exit code 2 or 3, and no output."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from conftest import tiny
from hostile import KEEP, node, refused, tensor
from onnx import helper, numpy_helper

import onnx_headcut as hc

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def cycle(model: onnx.ModelProto) -> None:
    node(model, "stem").input[0] = "cls0"


def own_tail(model: onnx.ModelProto) -> None:
    node(model, "level0").input[0] = "level0"


def identities_in_a_ring(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Identity", ["ring1"], ["ring0"]))
    model.graph.node.append(helper.make_node("Identity", ["ring0"], ["ring1"]))


def made_twice(model: onnx.ModelProto) -> None:
    node(model, "down").output[0] = "stem"


def initializer_twice(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(tensor(model, "cls0_b"))


def input_twice(model: onnx.ModelProto) -> None:
    model.graph.input.append(model.graph.input[0])


def weight_made_by_a_node(model: onnx.ModelProto) -> None:
    node(model, "down").output[0] = "cls0_w"


def no_opset(model: onnx.ModelProto) -> None:
    del model.opset_import[:]


def opset_of_nonsense(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = -3


def unknown_domain(model: onnx.ModelProto) -> None:
    node(model, "cls0_last").domain = "who.knows"


def unknown_op(model: onnx.ModelProto) -> None:
    node(model, "cls0_last").op_type = "Entangle"


def no_text(model: onnx.ModelProto) -> None:
    node(model, "cls0_last").MergeFromString(b"\x1a\x02\xff\xfe")


def no_text_output(model: onnx.ModelProto) -> None:
    model.graph.output[0].MergeFromString(b"\x0a\x02\xff\xfe")


def no_output(model: onnx.ModelProto) -> None:
    model.graph.output[0].name = "nothing"


def negative_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = -32


def negative_weight(model: onnx.ModelProto) -> None:
    tensor(model, "cls0_w").dims[0] = -12


def huge_weight(model: onnx.ModelProto) -> None:
    tensor(model, "cls0_w").dims[0] = 1 << 40


def short_weight(model: onnx.ModelProto) -> None:
    weight = tensor(model, "stem_w")
    weight.raw_data = weight.raw_data[:-1]


def empty_weight(model: onnx.ModelProto) -> None:
    tensor(model, "cls0_w").ClearField("raw_data")


def typeless_weight(model: onnx.ModelProto) -> None:
    tensor(model, "cls0_w").data_type = 0


def type_of_tomorrow(model: onnx.ModelProto) -> None:
    tensor(model, "cls0_w").data_type = 999


def many_axes(model: onnx.ModelProto) -> None:
    weight = tensor(model, "cls0_w")
    weight.dims.extend([1] * 3000)


def two_types_of_data(model: onnx.ModelProto) -> None:
    weight = tensor(model, "cls0_b")
    weight.ClearField("raw_data")
    weight.float_data.extend([1.0, 2.0])


def wrong_attribute(model: onnx.ModelProto) -> None:
    attribute = next(a for a in node(model, "cls0_last").attribute if a.name == "perm")
    attribute.type = onnx.AttributeProto.GRAPH


def missing_input(model: onnx.ModelProto) -> None:
    del node(model, "cls0").input[1:]


def attribute_twice(model: onnx.ModelProto) -> None:
    last = node(model, "cls0_last")
    last.attribute.append(last.attribute[0])


def not_finite(value: float) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        weight = tensor(model, "cls0_w")
        values = numpy_helper.to_array(weight).copy()
        values[3, 0, 0, 0] = value
        weight.raw_data = values.tobytes()

    change.__name__ = f"weight_of_{value}"
    return change


def function_that_calls_itself(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("local", 1))
    call = helper.make_node("F", ["x"], ["y"], domain="local")
    imports = [helper.make_opsetid("local", 1)]
    model.functions.append(helper.make_function("local", "F", ["x"], ["y"], [call], imports))
    node(model, "cls0_last").domain, node(model, "cls0_last").op_type = "local", "F"
    del node(model, "cls0_last").attribute[:]


def functions_in_a_ring(model: onnx.ModelProto) -> None:
    imports = [helper.make_opsetid("local", 1)]
    for name, other in (("F", "G"), ("G", "F")):
        call = helper.make_node(other, ["x"], ["y"], domain="local")
        model.functions.append(helper.make_function("local", name, ["x"], ["y"], [call], imports))


@pytest.mark.parametrize(
    "change",
    [
        cycle, own_tail, identities_in_a_ring, made_twice, initializer_twice, input_twice,
        weight_made_by_a_node, no_opset, opset_of_nonsense, unknown_domain, unknown_op, no_text,
        no_text_output, no_output, negative_input, negative_weight, huge_weight, short_weight,
        empty_weight, typeless_weight, type_of_tomorrow, many_axes, two_types_of_data,
        wrong_attribute, missing_input, attribute_twice, not_finite(np.nan), not_finite(np.inf),
        function_that_calls_itself, functions_in_a_ring,
    ],
)  # fmt: skip
def test_graphs(tmp_path: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    model = tiny()
    change(model)
    said = refused(model, tmp_path)
    assert "cannot be followed" not in said, "foreseen, and said in words"


@pytest.mark.parametrize("depth", [40, 300])
def test_graphs_in_graphs(tmp_path: Path, depth: int) -> None:
    """Built by hand, since protobuf itself refuses to read such a file."""
    inner = b""
    from onnx_headcut.storage import wire  # noqa: PLC0415

    for _ in range(depth):
        graph = wire.header(1, len(inner)) + inner if inner else b""
        attribute = b"\x0a\x01b" + wire.header(6, len(graph)) + graph + b"\xa0\x01\x05"
        inner = b"\x22\x02If" + wire.header(5, len(attribute)) + attribute
    model = tiny()
    path = tmp_path / "deep.onnx"
    node_bytes = wire.header(1, len(inner)) + inner
    graph = node_bytes + model.graph.SerializeToString()
    model.ClearField("graph")
    path.write_bytes(model.SerializeToString() + wire.header(7, len(graph)) + graph)
    with pytest.raises(hc.HeadcutError) as caught:
        hc.cut(path, KEEP, tmp_path / "out.onnx", validation=False)
    assert caught.value.exit_code in {2, 3}
    assert [p.name for p in tmp_path.iterdir()] == ["deep.onnx"]
