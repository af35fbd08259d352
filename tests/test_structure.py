"""What a plan does not claim has to be byte-identical, and changed weights selections."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from conftest import from_text
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper, parser
from patterns import PATTERNS

import onnx_headcut as hc
from onnx_headcut.labels import Site
from onnx_headcut.validation import Claims, structural, validate, weights
from onnx_headcut.validation.claims import Selection
from onnx_headcut.validation.weights import find_selection

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TEXT = """<ir_version: 8, opset_import: ["": 17], producer_name: "here">
tiny (float[1,4] x) => (float[1,6] y) <float[1,6] s> {
    h = Relu(x)
    s = Gemm(h, w, b)
    r = Reshape(s, shape)
    y = Sigmoid(r)
}"""
WEIGHT = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
ROWS = [4, 0, 2]


def tensors(model: onnx.ModelProto, **values: Any) -> onnx.ModelProto:
    model.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in values.items())
    return model


def original() -> onnx.ModelProto:
    model = parser.parse_model(TEXT)
    helper.set_model_props(model, {"names": "abc", "other": "1"})
    return tensors(model, w=WEIGHT, b=np.arange(6, dtype=np.float32), shape=np.array([1, 6]))


def right_cut() -> onnx.ModelProto:
    model = original()
    del model.graph.initializer[:]
    tensors(model, w_cut=WEIGHT[:, ROWS], b_cut=np.arange(6, dtype=np.float32)[ROWS])
    tensors(model, shape_cut=np.array([1, 3]))
    model.graph.node[1].input[1:] = ["w_cut", "b_cut"]
    model.graph.node[2].input[1] = "shape_cut"
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 3
    model.metadata_props[0].value = "ac"
    return model


CLAIMS = Claims(
    nodes=frozenset({"s", "r"}),
    initializers=frozenset({"w", "b", "shape", "w_cut", "b_cut", "shape_cut"}),
    values=frozenset({"y"}),
    metadata=frozenset({"names"}),
)


def test_right_cut_has_no_findings_and_names_its_selections() -> None:
    found = structural(original(), right_cut(), CLAIMS)
    assert found, found.problems
    assert found.selections == (
        Selection("w_cut", "w", 1, tuple(ROWS)),
        Selection("b_cut", "b", 0, tuple(ROWS)),
    )
    assert found.same_nodes == 2
    assert found.line.startswith("2 nodes and 0 initializers byte-identical")


def test_a_model_is_identical_to_itself() -> None:
    found = structural(original(), original(), Claims(value_info=False))
    assert found
    assert (found.same_nodes, found.same_initializers) == (4, 3)


@pytest.mark.parametrize(
    ("less", "word"),
    [
        ({"nodes": frozenset({"s"})}, "Reshape node 'r' differs"),
        ({"initializers": CLAIMS.initializers - {"w"}}, "'w' is gone"),
        ({"initializers": CLAIMS.initializers - {"w_cut"}}, "'w_cut' is new"),
        ({"values": frozenset()}, "output 'y' differs"),
        ({"metadata": frozenset()}, "metadata 'names' differs"),
    ],
)
def test_each_claim_is_needed(less: dict[str, frozenset[str]], word: str) -> None:
    found = structural(original(), right_cut(), replace(CLAIMS, **less))
    assert not found
    assert any(word in problem for problem in found.problems)


def reorder(model: onnx.ModelProto) -> None:
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([nodes[1], nodes[0], *nodes[2:]])


def free_batch(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"


def change(model: onnx.ModelProto, what: str) -> None:
    nodes = model.graph.node
    changes: dict[str, Callable[[], object]] = {
        "node": lambda: setattr(nodes[0], "op_type", "Elu"),
        "attribute": lambda: nodes[0].attribute.append(helper.make_attribute("alpha", 2.0)),
        "new node": lambda: nodes.append(helper.make_node("Neg", ["y"], ["z"])),
        "order": lambda: reorder(model),
        "opset": lambda: setattr(model.opset_import[0], "version", 18),
        "producer": lambda: setattr(model, "producer_name", "there"),
        "graph name": lambda: setattr(model.graph, "name", "other"),
        "metadata": lambda: setattr(model.metadata_props[1], "value", "2"),
        "input": lambda: free_batch(model),
        "output name": lambda: setattr(model.graph.output[0], "name", "z"),
        "function": lambda: setattr(model.functions.add(), "name", "f"),
        "doc string": lambda: setattr(model.graph, "doc_string", "hello"),
        "value_info": lambda: model.graph.ClearField("value_info"),
    }
    changes[what]()


WHATS = (
    "node,attribute,new node,order,opset,producer,graph name,metadata,input,output name,function,"
    "doc string,value_info"
)


@pytest.mark.parametrize("what", WHATS.split(","))
def test_unclaimed_changes_are_found(what: str) -> None:
    cut = right_cut()
    change(cut, what)
    assert not structural(original(), cut, replace(CLAIMS, value_info=False))


def test_fields_and_functions_can_be_claimed() -> None:
    cut = original()
    for what in ("producer", "doc string", "function"):
        change(cut, what)
    claims = Claims(fields=frozenset({"producer_name", "graph.doc_string"}))
    assert not structural(original(), cut, claims)
    assert structural(original(), cut, replace(claims, functions=frozenset({"f"})))


def spoilt(spoil: Callable[[Any], Any]) -> onnx.ModelProto:
    cut = right_cut()
    for tensor in cut.graph.initializer:
        if tensor.name == "w_cut":
            value = spoil(numpy_helper.to_array(tensor).copy())
            tensor.CopyFrom(numpy_helper.from_array(value, "w_cut"))
    return cut


def test_changed_weights_have_to_be_selections() -> None:
    big = np.tile(WEIGHT, (8, 1))
    whole = original()
    whole.graph.initializer[0].CopyFrom(numpy_helper.from_array(big, "w"))
    good = spoilt(lambda _: big[:, ROWS])
    assert structural(whole, good, CLAIMS)
    for bad in (big[:, ROWS] * np.float32(1 + 1e-6), big[::-1][:, ROWS], big[:, ROWS].astype("f2")):
        found = structural(whole, spoilt(lambda _, bad=bad: bad), CLAIMS)
        assert not found
        assert "'w_cut'" in found.problems[0]
        claims = replace(CLAIMS, rewritten=frozenset({"w_cut"}))
        assert structural(whole, spoilt(lambda _, bad=bad: bad), claims)


def test_weights_in_constant_nodes() -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
    g (float[1,100] x) => (float[1,n] y) { y = MatMul(x, w) }"""
    big = np.random.default_rng(1).normal(size=(100, 5)).astype(np.float32)

    def made(value: Any) -> onnx.ModelProto:
        model = parser.parse_model(text)
        node = helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(value))
        model.graph.node.insert(0, node)
        return model

    claims = Claims(nodes=frozenset({"w"}))
    assert structural(made(big), made(big[:, [3, 1]]), claims).selections[0].rows == (3, 1)
    assert not structural(made(big), made(big[:, [3, 1]] + 1), claims)
    assert not structural(made(big), made(big[:, [3, 1]]), Claims())


@given(st.data())
def test_selections_are_found_along_any_axis(data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    axis = data.draw(st.integers(0, len(shape) - 1))
    rows = data.draw(st.lists(st.integers(0, shape[axis] - 1), min_size=1, max_size=6))
    new = array.take(rows, axis)
    found = find_selection(array, new)
    assert found is not None
    assert np.array_equal(array.take(found[1], found[0]), new)


def test_what_is_no_selection() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert find_selection(array, array[:2, :2]) is None
    assert find_selection(array, array.astype(np.float64)) is None
    assert find_selection(array, array[0]) is None
    assert find_selection(np.array([0.0]), np.array([-0.0])) is None


def test_external_data_in_another_folder(tmp_path: Path) -> None:
    paths = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        paths.append(tmp_path / name / "model.onnx")
        onnx.save(original(), paths[-1], save_as_external_data=True, location="data", size_threshold=0)
    models = [onnx.load(path, load_external_data=False) for path in paths]
    folders = {"original_dir": paths[0].parent, "cut_dir": paths[1].parent}
    assert structural(*models, Claims(), **folders)
    data = paths[1].parent / "data"
    data.write_bytes(data.read_bytes().replace(WEIGHT.tobytes(), (WEIGHT + 1).tobytes()))
    assert not structural(*models, Claims(), **folders)


def test_unclaimed_changes_fail_validation() -> None:
    sites = [Site("s", 1, tuple(range(6)), "sigmoid")]
    cut_sites = [Site("s", 1, tuple(ROWS), "sigmoid")]

    def held(claims: Claims) -> Any:
        return validate(
            original(),
            right_cut(),
            sites=sites,
            cut_sites=cut_sites,
            order=ROWS,
            provider="cpu",
            claims=claims,
        )

    assert held(CLAIMS)
    verdict = held(Claims())
    assert verdict.status == "failed"
    assert any(reason.startswith("structure: ") for reason in verdict.reasons)


def test_models_can_be_given_by_path(tmp_path: Path) -> None:
    paths = [tmp_path / "original.onnx", tmp_path / "cut.onnx"]
    # Shapes stay in the model: onnxruntime does not take them from elsewhere.
    onnx.save(original(), paths[0], save_as_external_data=True, location="o", size_threshold=80)
    onnx.save(right_cut(), paths[1], save_as_external_data=True, location="c", size_threshold=80)
    verdict = validate(
        *paths,
        sites=[Site("s", 1, tuple(range(6)), "sigmoid")],
        cut_sites=[Site("s", 1, tuple(ROWS), "sigmoid")],
        order=ROWS,
        provider="cpu",
        claims=CLAIMS,
    )
    assert verdict, verdict.lines()


BODY = """<ir_version: 8, opset_import: ["": 17]>
tiny (float[2,6] x, bool go) => (float[2,6] y) {
    y = If (go) <then_branch = yes () => (float[2,6] a) { k = Identity (w) a = Mul (x, k) },
                 else_branch = no () => (float[2,6] b) { b = Identity (x) }>
}"""


def bodied(**values: Any) -> onnx.ModelProto:
    return tensors(parser.parse_model(BODY), **values)


@pytest.mark.parametrize("claimed", [True, False])
def test_a_change_in_a_body_is_claimed_there(*, claimed: bool) -> None:
    before, after = (bodied(w=np.arange(6, dtype=np.float32)) for _ in range(2))
    tensors(after, w_cut=np.arange(3, dtype=np.float32))
    after.graph.node[0].attribute[0].g.node[0].input[0] = "w_cut"

    claims = Claims(initializers=frozenset({"w_cut"}), nodes=frozenset({"k"} if claimed else ()))
    found = structural(before, after, claims)

    assert bool(found) == claimed
    assert claimed or "Identity node 'k' differs" in found.problems


def test_an_unclaimed_change_beside_a_claimed_one_is_found_in_a_body() -> None:
    before, after = (bodied(w=np.arange(6, dtype=np.float32)) for _ in range(2))
    body = after.graph.node[0].attribute[0].g
    body.node[1].op_type = "Add"

    found = structural(before, after, Claims(nodes=frozenset({"k"})))

    assert "Mul node 'a' differs" in found.problems


def test_a_claimed_body_says_nothing_of_the_node_around_it() -> None:
    before, after = (bodied(w=np.arange(6, dtype=np.float32)) for _ in range(2))
    after.graph.node[0].attribute[0].g.node[0].input[0] = "x"
    after.graph.node[0].input[0] = ""

    found = structural(before, after, Claims(nodes=frozenset({"k"})))

    assert "If node 'y' differs" in found.problems


CLIPPED = """<ir_version: 8, opset_import: ["": 17]>
tiny (float[1,3,4,4] x) => (float[1,K,C] scores)
<float[8,3,1,1] w, float[8] b, float low = {-99.0}, float high = {99.0}, float[12,8,1,1] cls_w,
float[12] cls_b, int64[3] to_cls = {1,-1,6}> {
    clipped = Clip (x, low, high)
    features = Conv (clipped, w, b)
    cls_map = Conv (features, cls_w, cls_b)
    last = Transpose <perm = [0, 2, 3, 1]> (cls_map)
    logits = Reshape (last, to_cls)
    scores = Sigmoid (logits)
}"""


def test_a_bound_in_the_backbone_is_seen_where_no_number_shows_it() -> None:
    """Synthetic pictures lie within the bounds, so that 999 for 99 changes nothing they show."""
    before, told = from_text(CLIPPED, 0), {"labels": [*"abcdef"], "background": "none"}
    cut = hc.cut(before, [3, 1], validation=False, **told).model
    bound = next(t for t in cut.graph.initializer if t.name == "high")
    bound.CopyFrom(numpy_helper.from_array(np.float32(999), "high"))

    found = hc.validate(before, cut, provider="cpu", **told)

    assert found.status == "failed"
    assert found.reasons == ("structure: initializer 'high' differs",)


def test_weights_that_two_heads_share_through_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_SMALL", 0)
    model = PATTERNS["weights_shared_through_identity"]().model()
    assert hc.cut(model, [3, 1], background=0, provider="cpu").verdict
