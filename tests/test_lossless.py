"""What a cut does not concern is there afterwards as it was: compared as parsed protobufs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from conftest import tiny
from google.protobuf.unknown_fields import UnknownFieldSet
from onnx import TensorProto, helper, numpy_helper

import onnx_headcut as hc
from onnx_headcut.storage import wire

if TYPE_CHECKING:
    from pathlib import Path

KEEP = "dog,hen"
OURS = "headcut"
"""What all our metadata keys begin with."""


def sparse(name: str) -> onnx.SparseTensorProto:
    values = numpy_helper.from_array(np.ones(2, np.float32), name)
    indices = numpy_helper.from_array(np.array([0, 3]), f"{name}_at")
    return helper.make_sparse_tensor(values, indices, [8])


def training() -> onnx.TrainingInfoProto:
    info = onnx.TrainingInfoProto()
    node = helper.make_node("Identity", ["stem_w"], ["stem_w_new"])
    out = helper.make_tensor_value_info("stem_w_new", TensorProto.FLOAT, [8, 3, 3, 3])
    info.algorithm.CopyFrom(helper.make_graph([node], "step", [], [out]))
    info.update_binding.add(key="stem_w", value="stem_w_new")
    return info


def full(*, runnable: bool = False) -> onnx.ModelProto:
    """The tiny SSD with everything that ONNX can hold; some of it onnxruntime refuses."""
    model = tiny()
    model.ir_version = 10
    model.producer_name, model.producer_version = "an exporter", "1.2"
    model.domain, model.model_version, model.doc_string = "org.example", 7, "Ein Modell ✓"
    model.opset_import.append(helper.make_opsetid("org.example", 3))
    model.metadata_props.add(key="author", value="someone")
    model.training_info.append(training())
    function = helper.make_function(
        "org.example", "Twice", ["x"], ["y"], [helper.make_node("Add", ["x", "x"], ["y"])],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    function.doc_string = "adds"
    model.functions.append(function)
    graph = model.graph
    graph.doc_string = "a graph"
    graph.metadata_props.add(key="of the graph", value="1")
    graph.sparse_initializer.append(sparse("thin"))
    graph.initializer[0].doc_string = "a stem"
    graph.initializer[0].metadata_props.add(key="of a tensor", value="2")
    graph.initializer.append(numpy_helper.from_array(np.arange(3), "nobody reads this"))
    graph.node[0].doc_string = "a node"
    graph.node[0].metadata_props.add(key="of a node", value="3")
    if not runnable:
        graph.node[0].attribute.append(helper.make_attribute("of_tomorrow", [1.5, 2.5]))
    graph.node[0].attribute[-1].doc_string = "an attribute"
    graph.input[0].doc_string = "pictures"
    graph.output[1].metadata_props.add(key="of a value", value="4")
    for name, dims in (("stem", ["N", 8, 8, 8]), ("box0", ["N", 8, 8, 8])):
        graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, dims))
    graph.value_info[0].doc_string = "an activation"
    for name in ("stem", "cls0"):
        note = onnx.TensorAnnotation(tensor_name=name)
        note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value=f"{name}_scale")
        graph.quantization_annotation.append(note)
    add_unknown(model)
    return model


def add_unknown(model: onnx.ModelProto) -> None:
    """Give fields of tomorrow's ONNX to messages of every kind."""
    graph = model.graph
    for k, message in enumerate(
        [model, graph, graph.node[0], graph.node[4], graph.initializer[0], graph.input[0],
         graph.output[0], graph.node[0].attribute[0], model.opset_import[0]]
    ):  # fmt: skip
        message.MergeFromString(wire.header(1000 + k, 4) + b"new!" + bytes([0x80, 0x7D, k]))


def unknown(message: object) -> list[tuple[int, object]]:
    return [(field.field_number, field.data) for field in UnknownFieldSet(message)]


CHANGED = {"graph.initializer", "graph.output", "metadata_props"}


def differing(old: object, new: object, at: str = "") -> set[str]:
    """Where two messages differ, fields of the model and the graph one by one."""
    found = set()
    for field in type(old).DESCRIPTOR.fields:  # type: ignore[attr-defined]
        a, b = getattr(old, field.name), getattr(new, field.name)
        if field.name == "graph":
            found |= differing(a, b, "graph.")
        elif a != b:
            found.add(at + field.name)
    if unknown(old) != unknown(new):
        found.add(f"{at}unknown")
    return found


@pytest.mark.parametrize("validation", [False, True])
def test_everything_outside_the_plan_survives(tmp_path: Path, *, validation: bool) -> None:
    model = full(runnable=validation)
    path = tmp_path / "a.onnx"
    path.write_bytes(model.SerializeToString())
    result = hc.cut(path, KEEP, tmp_path / "b.onnx", validation=validation)
    assert result.exit_code == 0
    new = onnx.load(tmp_path / "b.onnx")
    assert differing(model, new) == CHANGED
    changed = {"cls0", "cls1", "cls0_rows", "cls1_rows", "scores", "logits"}
    for old_node, new_node in zip(model.graph.node, new.graph.node, strict=True):
        same = old_node.SerializeToString() == new_node.SerializeToString()
        assert same or set(old_node.output) & changed, old_node.name
        assert unknown(old_node) == unknown(new_node)
        assert [unknown(a) for a in old_node.attribute] == [unknown(a) for a in new_node.attribute]
    heads = {"cls0_w", "cls0_b", "cls1_w", "cls1_b", "to_scores"}
    assert [t.name for t in model.graph.initializer] == [t.name for t in new.graph.initializer]
    for old_tensor, new_tensor in zip(model.graph.initializer, new.graph.initializer, strict=True):
        if old_tensor.name not in heads:
            assert old_tensor.SerializeToString() == new_tensor.SerializeToString()
    assert unknown(model.graph.output[0]) == unknown(new.graph.output[0])
    before = [p.SerializeToString() for p in model.metadata_props if p.key != "names"]
    after = [p.SerializeToString() for p in new.metadata_props]
    assert [p for p in after if p in before] == before


WAYS: dict[str, dict[str, Any]] = {
    "reference": {"external_data": "reference"},
    "copy": {"external_data": "copy"},
    "inline": {"external_data": "inline"},
    "exact": {"scores": "exact"},
    "growing": {"keep": "dog,hen,drone=new"},
    "merging": {"keep": "dog,pet=cat|hen", "scores": "exact"},
    "reordered": {},
}


def about(tensor: TensorProto) -> bytes:
    """A tensor without its data and where they lie."""
    bare = TensorProto.FromString(tensor.SerializeToString())
    for name in ("raw_data", "float_data", "int64_data", "external_data", "data_location"):
        bare.ClearField(name)
    return bytes(bare.SerializeToString())


@pytest.mark.parametrize("way", WAYS)
def test_everything_survives_on_every_way(tmp_path: Path, way: str) -> None:
    told = {"keep": KEEP, **WAYS[way]}
    model, path = full(), tmp_path / "a.onnx"
    if "external_data" in told:
        onnx.save(model, path, save_as_external_data=True, location="a.data", size_threshold=0)
        model = onnx.load(path, load_external_data=False)
    elif way == "reordered":
        nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in model.graph.node]
        del model.graph.node[:]
        model.graph.node.extend(nodes[::-1])
        onnx.save(model, path)
    else:
        onnx.save(model, path)
    hc.cut(path, output=tmp_path / "b.onnx", validation=False, **told)
    new = onnx.load(tmp_path / "b.onnx", load_external_data=False)
    touched = {"graph.node"} if way in {"exact", "merging", "growing", "reordered"} else set()
    assert differing(model, new) <= CHANGED | touched
    kept = {n.output[0]: n for n in new.graph.node}
    same = [n.output[0] for n in model.graph.node if kept.get(n.output[0]) == n]
    assert {"stem", "down", "level0", "box0", "box1"} <= set(same)
    tensors = {t.name: t for t in new.graph.initializer}
    for tensor in model.graph.initializer:
        if tensor.name in {"nobody reads this", "stem_w", "down_w", "box0_w", "box1_w"}:
            assert about(tensor) == about(tensors[tensor.name])


def test_what_belongs_to_a_changed_weight_stays_with_it(tmp_path: Path) -> None:
    model = full()
    for tensor in model.graph.initializer:
        if tensor.name == "cls0_w":
            tensor.doc_string = "a head"
            tensor.metadata_props.add(key="layer", value="cls0")
            tensor.MergeFromString(wire.header(1000, 1) + b"x")
    path = tmp_path / "a.onnx"
    path.write_bytes(model.SerializeToString())
    new = hc.cut(path, KEEP, validation=False).model
    head = next(t for t in new.graph.initializer if t.name == "cls0_w")
    assert head.dims[0] == 6
    assert head.doc_string == "a head"
    assert [(p.key, p.value) for p in head.metadata_props] == [("layer", "cls0")]
    assert unknown(head) == [(1000, b"x")]


def test_keeping_everything_gives_the_same_bytes(tmp_path: Path) -> None:
    """Also of a file whose fields come in another order than protobuf would write them."""
    data = full().SerializeToString()
    top = list(wire.fields(wire.in_memory(data), 0, len(data)))
    path = tmp_path / "a.onnx"
    path.write_bytes(b"".join(data[f.start : f.end] for f in reversed(top)))
    hc.cut(path, "cat,dog,cow,hen,fox", tmp_path / "b.onnx", validation=False)
    assert (tmp_path / "b.onnx").read_bytes() == path.read_bytes()


def test_the_order_of_fields_in_the_file_does_not_matter(tmp_path: Path) -> None:
    data = tiny().SerializeToString()
    top = list(wire.fields(wire.in_memory(data), 0, len(data)))
    path, other = tmp_path / "a.onnx", tmp_path / "b.onnx"
    path.write_bytes(data)
    other.write_bytes(b"".join(data[f.start : f.end] for f in reversed(top)))
    first, second = (hc.cut(p, KEEP, validation=False).model for p in (path, other))
    assert first.graph == second.graph
