"""What `inspect` counts: parameters of heads, each stored number once."""

from __future__ import annotations

import math

import exported
import numpy as np
import onnx
from conftest import tiny
from onnx import numpy_helper

import onnx_headcut as hc


def stored(model: onnx.ModelProto, *names: str) -> int:
    return sum(math.prod(t.dims) for t in model.graph.initializer if t.name in names)


def test_a_weight_that_levels_share_counts_once() -> None:
    name = "efficientdet_topk_ts13"
    model, _ = exported.load_pair(name)
    found = hc.inspect(model, **exported.arguments(exported.PAIRS[name]))
    assert len(found.heads) == 4
    (weight,) = {h.weight for h in found.heads}
    assert found.head_parameters == stored(model, weight) + found.heads[0].channels  # and a bias
    assert 0 < found.savings(8)[0] < found.head_parameters / found.figures.parameters < 1


def test_a_weight_behind_a_quantizer_is_named_as_it_is_stored() -> None:
    model = tiny()
    node = next(n for n in model.graph.node if n.name == hc.inspect(model).heads[0].node)
    name = node.input[1]
    (tensor,) = (t for t in model.graph.initializer if t.name == name)
    bytes8 = np.clip(np.rint(numpy_helper.to_array(tensor) * 50), -127, 127).astype(np.int8)
    tensor.CopyFrom(numpy_helper.from_array(bytes8, "bytes"))
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0.02), "scale"))
    at = list(model.graph.node).index(node)
    model.graph.node.insert(at, onnx.helper.make_node("DequantizeLinear", ["bytes", "scale"], [name]))
    head = hc.inspect(model).heads[0]
    assert (head.weight, head.dtype) == ("bytes", "int8")
