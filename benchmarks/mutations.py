"""Mutations of models, of their bytes and of their parsed protobufs, for fuzz.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
from onnx import AttributeProto, TensorProto, helper

if TYPE_CHECKING:
    import random

EXTREMES = (0, 1, -1, 2, -2, 3, 7, 81, 255, 65536, 1 << 20, 1 << 31, -(1 << 31), (1 << 62), -(1 << 63))
OPS = (
    "Conv", "MatMul", "Gemm", "Reshape", "Transpose", "Concat", "Slice", "Split", "Gather", "Expand",
    "Tile", "Range", "ConstantOfShape", "Shape", "Softmax", "Sigmoid", "Add", "Mul", "Div", "Mod",
    "TopK", "ArgMax", "NonMaxSuppression", "Squeeze", "Unsqueeze", "Flatten", "Pad", "Resize", "Cast",
    "Where", "Identity", "Constant", "If", "Loop", "Scan", "QuantizeLinear", "DequantizeLinear",
    "DepthToSpace", "GatherND", "ScatterND", "NonZero", "OneHot", "ReduceMax", "Einsum", "NoSuchOp",
)  # fmt: skip


def mutate_bytes(data: bytes, chance: random.Random) -> bytes:
    """Flip, insert, delete, repeat or cut off bytes, in a few places."""
    out = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        # half of them near the ends, where the nodes are rather than the weights
        at = chance.randrange(len(out)) if out else 0
        if chance.random() < 0.5:
            at = min(int(chance.expovariate(1 / 3000)), max(len(out) - 1, 0))
        kind = chance.randrange(6)
        if kind == 0 and out:
            out[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            out[at:at] = chance.randbytes(chance.randrange(1, 9))
        elif kind == 2:
            del out[at : at + chance.choice((1, 2, 8, 64, 4096))]
        elif kind == 3:
            out[at:at] = out[at : at + chance.choice((1, 8, 256))]
        elif kind == 4:
            out[at : at + 4] = chance.choice((b"\xff" * 4, b"\0" * 4, b"\x80" * 4))
        elif chance.random() < 0.2:
            del out[at:]
    return bytes(out)


def mutate_graph(model: onnx.ModelProto, chance: random.Random) -> None:
    """Make one change to a parsed model; may raise what protobuf raises for values it refuses."""
    graph = model.graph
    if chance.random() < 0.1:
        bodies = [a.g for n in graph.node for a in n.attribute if a.type == AttributeProto.GRAPH]
        graph = chance.choice(bodies or [graph])
    chance.choice(MUTATIONS)(model, graph, chance)


def _values(graph: onnx.GraphProto) -> list[str]:
    names = [o for n in graph.node for o in n.output]
    return names + [t.name for t in graph.initializer] + [i.name for i in graph.input] + ["", "no"]


def _node(graph: onnx.GraphProto, chance: random.Random) -> onnx.NodeProto:
    """Choose a node, mostly one of the last: those behind the heads."""
    if chance.random() < 0.7:
        return graph.node[-1 - min(int(chance.expovariate(1 / 25)), len(graph.node) - 1)]
    return chance.choice(graph.node)


def _tensor(graph: onnx.GraphProto, chance: random.Random) -> TensorProto:
    constants = [a.t for n in graph.node for a in n.attribute if a.type == AttributeProto.TENSOR]
    return chance.choice([*graph.initializer, *constants])


def rewire(_: onnx.ModelProto, graph: onnx.GraphProto, chance: random.Random) -> None:
    """Let a node read another value."""
    node = _node(graph, chance)
    node.input[chance.randrange(len(node.input))] = chance.choice(_values(graph))


def rename_output(_: onnx.ModelProto, graph: onnx.GraphProto, chance: random.Random) -> None:
    """Let a node make a value of another name."""
    node = _node(graph, chance)
    node.output[chance.randrange(len(node.output))] = chance.choice(_values(graph))


def more_inputs(_: onnx.ModelProto, graph: onnx.GraphProto, chance: random.Random) -> None:
    """Give a node one input more, or fewer."""
    node = _node(graph, chance)
    if chance.random() < 0.5:
        node.input.append(chance.choice(_values(graph)))
    else:
        del node.input[chance.randrange(len(node.input)) :]


def fewer_outputs(_: onnx.ModelProto, graph: onnx.GraphProto, chance: random.Random) -> None:
    """Give a node one output more, or fewer."""
    node = _node(graph, chance)
    if chance.random() < 0.5:
        node.output.append("another")
    else:
        del node.output[chance.randrange(len(node.output)) :]


def retype(_: onnx.ModelProto, graph: onnx.GraphProto, chance: random.Random) -> None:
    """Make another op of a node."""
    _node(graph, chance).op_type = chance.choice(OPS)


def redomain(_: onnx.ModelProto, graph: onnx.GraphProto, chance: random.Random) -> None:
    """Put a node into another domain."""
    domain = chance.choice(("ai.onnx", "com.microsoft", "ai.onnx.ml", "who.knows"))
    _node(graph, chance).domain = domain


def drop_node(_: onnx.ModelProto, graph: onnx.GraphProto, chance: random.Random) -> None:
    """Remove a node."""
    del graph.node[chance.randrange(len(graph.node))]


def repeat_node(_: onnx.ModelProto, graph: onnx.GraphProto, chance: random.Random) -> None:
    """Repeat a node at the end."""
    graph.node.append(_node(graph, chance))


def move_node(_: onnx.ModelProto, graph: onnx.GraphProto, chance: random.Random) -> None:
    """Put a node elsewhere."""
    copy = onnx.NodeProto()
    at = chance.randrange(len(graph.node))
    copy.CopyFrom(graph.node[at])
    del graph.node[at]
    graph.node.insert(chance.randrange(len(graph.node)), copy)


def change_attribute(_: onnx.ModelProto, graph: onnx.GraphProto, chance: random.Random) -> None:
    """Change an attribute: its value, type, name or length."""
    nodes = [n for n in graph.node if n.attribute]
    attribute = chance.choice(chance.choice(nodes[-60:]).attribute)
    kind = chance.randrange(6)
    if kind == 0:
        attribute.i = chance.choice(EXTREMES)
    elif kind == 1 and attribute.ints:
        attribute.ints[chance.randrange(len(attribute.ints))] = chance.choice(EXTREMES)
    elif kind == 2:
        attribute.type = chance.choice(range(15))
    elif kind == 3:
        attribute.name = chance.choice(("axis", "value", "perm", "", "body", "then_branch", "to"))
    elif kind == 4:
        del attribute.ints[chance.randrange(len(attribute.ints) + 1) :]
    else:
        attribute.f = chance.choice((0.0, float("nan"), float("inf"), -1.0))


def drop_attribute(_: onnx.ModelProto, graph: onnx.GraphProto, chance: random.Random) -> None:
    """Remove an attribute."""
    node = chance.choice([n for n in graph.node if n.attribute])
    del node.attribute[chance.randrange(len(node.attribute))]


def new_attribute(_: onnx.ModelProto, graph: onnx.GraphProto, chance: random.Random) -> None:
    """Add an attribute with an extreme value."""
    name = chance.choice(("axis", "axes", "perm", "group", "keepdims", "to", "mode", "value", "new"))
    extreme = chance.choice(EXTREMES)
    value = chance.choice([extreme, [extreme] * chance.randrange(1, 4), "text", 0.5])
    _node(graph, chance).attribute.append(helper.make_attribute(name, value))


def redim(_: onnx.ModelProto, graph: onnx.GraphProto, chance: random.Random) -> None:
    """Change a tensor's shape or type."""
    tensor = _tensor(graph, chance)
    kind = chance.randrange(4)
    if kind == 0 and tensor.dims:
        tensor.dims[chance.randrange(len(tensor.dims))] = chance.choice(EXTREMES)
    elif kind == 1:
        tensor.dims[:] = reversed(tensor.dims)
    elif kind == 2:
        tensor.dims.append(chance.choice((0, 1, 2)))
    else:
        tensor.data_type = chance.choice(range(27))


def revalue(_: onnx.ModelProto, graph: onnx.GraphProto, chance: random.Random) -> None:
    """Change numbers of small constants: shapes, bounds, axes, counts."""
    integers = {TensorProto.INT64, TensorProto.INT32}
    constants = [a.t for n in graph.node for a in n.attribute if a.type == AttributeProto.TENSOR]
    small = [t for t in [*graph.initializer, *constants]
             if t.data_type in integers and 0 < len(t.raw_data) <= 256]  # fmt: skip
    tensor = chance.choice(small)
    width = 8 if tensor.data_type == TensorProto.INT64 else 4
    data = bytearray(tensor.raw_data)
    at = chance.randrange(len(data) // width) * width
    number = chance.choice(EXTREMES) & ((1 << 8 * width) - 1)
    data[at : at + width] = number.to_bytes(width, "little")
    tensor.raw_data = bytes(data)


def cut_data(_: onnx.ModelProto, graph: onnx.GraphProto, chance: random.Random) -> None:
    """Cut a tensor's bytes off."""
    tensor = _tensor(graph, chance)
    tensor.raw_data = tensor.raw_data[: chance.randrange(len(tensor.raw_data) + 1)]


def poison(_: onnx.ModelProto, graph: onnx.GraphProto, chance: random.Random) -> None:
    """Fill a tensor with ones: NaN, or -1."""
    tensor = _tensor(graph, chance)
    tensor.raw_data = b"\xff" * len(tensor.raw_data)


def move_data(_: onnx.ModelProto, graph: onnx.GraphProto, chance: random.Random) -> None:
    """Let a tensor's data lie elsewhere."""
    tensor = _tensor(graph, chance)
    tensor.data_location = TensorProto.EXTERNAL
    key = chance.choice(("location", "offset", "length"))
    value = chance.choice(("/etc/passwd", "../hole", "hole", "", "-1", "99999999999", "x", "\0", "."))
    tensor.external_data.add(key=key, value=value)


def redeclare(_: onnx.ModelProto, graph: onnx.GraphProto, chance: random.Random) -> None:
    """Change what a value is declared to be."""
    value = chance.choice([*graph.input, *graph.output, *graph.value_info])
    dims = value.type.tensor_type.shape.dim
    kind = chance.randrange(4)
    if kind == 0 and dims:
        chance.choice(dims).dim_value = chance.choice(EXTREMES)
    elif kind == 1:
        value.type.tensor_type.elem_type = chance.choice(range(27))
    elif kind == 2:
        dims.add().dim_value = 1
    else:
        value.name = chance.choice(_values(graph))


def reversion(model: onnx.ModelProto, _: onnx.GraphProto, chance: random.Random) -> None:
    """Change opset or IR version."""
    kind = chance.randrange(3)
    if kind == 0:
        model.opset_import[0].version = chance.choice((*range(1, 27), *EXTREMES))
    elif kind == 1:
        del model.opset_import[:]
    else:
        model.ir_version = chance.choice((0, 1, 3, 7, 99, -5))


def metadata(model: onnx.ModelProto, _: onnx.GraphProto, chance: random.Random) -> None:
    """Add metadata that a reader of names could stumble over."""
    value = chance.choice(("", "{0: 'a'}", "{", "[" * 5000, "{0: 1 << 99}", "['a', 'b']", "\udcff"))
    key = chance.choice(("names", "headcut.keep", "onnx-headcut", "classes", "labels"))
    model.metadata_props.add(key=key, value=value)


def function(model: onnx.ModelProto, graph: onnx.GraphProto, chance: random.Random) -> None:
    """Turn a node into a call of a local function, perhaps one that calls itself."""
    node = _node(graph, chance)
    inner = onnx.NodeProto()
    inner.CopyFrom(node)
    new = helper.make_function("local", "F", list(node.input), list(node.output), [inner],
                               list(model.opset_import))  # fmt: skip
    if chance.random() < 0.5:
        new.node[0].domain, new.node[0].op_type = "local", "F"
    model.functions.append(new)
    node.domain, node.op_type = "local", "F"
    del node.attribute[:]


def nest(_: onnx.ModelProto, graph: onnx.GraphProto, chance: random.Random) -> None:
    """Put a graph into a graph, a few times."""
    node = _node(graph, chance)
    for _k in range(chance.choice((1, 3, 20))):
        inner = onnx.NodeProto()
        inner.CopyFrom(node)
        body = helper.make_graph([inner], "body", [], [helper.make_empty_tensor_value_info("o")])
        node.Clear()
        node.op_type = chance.choice(("If", "Loop", "Scan"))
        node.output.extend(inner.output)
        node.input.extend(inner.input[:1])
        name = "then_branch" if node.op_type == "If" else "body"
        node.attribute.append(helper.make_attribute(name, body))


def bad_text(_: onnx.ModelProto, graph: onnx.GraphProto, chance: random.Random) -> None:
    """Give a name that is no text, by the bytes (protobuf would not take it otherwise)."""
    node = _node(graph, chance)
    node.MergeFromString(chance.choice((b"\x1a\x02\xff\xfe", b"\x22\x01\xff", b"\x0a\x01\x80")))


MUTATIONS = (
    rewire, rename_output, more_inputs, fewer_outputs, retype, redomain, drop_node, repeat_node,
    move_node, change_attribute, change_attribute, drop_attribute, new_attribute, redim, revalue,
    revalue, cut_data, poison, move_data, redeclare, reversion, metadata, function, nest, bad_text,
)  # fmt: skip
