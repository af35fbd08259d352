"""Local functions on the classes' way are inlined, call by call; all else stays what it was."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import onnx
import pytest
from conftest import from_text
from patterns import PATTERNS, Pattern, pictures, run
from test_patterns import cut_of, same

import onnx_headcut as hc
from onnx_headcut.heads import inlining

if TYPE_CHECKING:
    from pathlib import Path

FUNCTIONS = ["local_function", "one_function_for_scores_and_boxes", "a_function_called_for_each_class"]


def keep_of(pattern: Pattern) -> list[int]:
    classes = pattern.foreground
    return [classes[-2], classes[0], classes[2]]


def functions(model: onnx.ModelProto) -> dict[str, bytes]:
    return {f.name: f.SerializeToString() for f in model.functions}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_cut_is_validated_against_the_model_as_it_was_written(name: str) -> None:
    pattern = PATTERNS[name]()
    result = hc.cut(pattern.model(), keep_of(pattern), provider="cpu", **pattern.told)
    assert result.verdict, result.verdict and result.verdict.reasons
    assert hc.validate(pattern.model(), result.model, provider="cpu", **pattern.told)


def test_what_the_cut_changes_is_inlined_and_said() -> None:
    pattern = shaped()
    result = hc.cut(pattern.model(), keep_of(pattern), provider="cpu", **pattern.told)
    assert result.verdict, result.verdict and result.verdict.reasons
    assert "the same with them and without" in result.verdict.notes[-1]
    (step,) = [s for s in result.plan.steps if s.change.startswith("inlined")]
    assert (step.node, step.op, step.change) == (
        "make_probs",
        "Squash",
        "inlined: 3 nodes in its place",
    )
    assert [n.name for n in result.model.graph.node if not n.name.startswith("make_")] == [""] * 2
    assert not result.model.functions


def shaped() -> Pattern:
    """A function that knows the class count."""
    pattern = PATTERNS["local_function"]()
    old = "b = Softmax <axis = 2> (a)"
    assert old in pattern.text
    new = """to = Constant <value = int64[3] {1, -1, 6}> ()
  rows = Reshape (a, to)
  b = Softmax <axis = 2> (rows)"""
    return replace(pattern, text=pattern.text.replace(old, new))


def test_calls_that_the_cut_leaves_alone_stay_byte_for_byte() -> None:
    pattern = PATTERNS["one_function_for_scores_and_boxes"]()
    model = from_text(pattern.text + UNUSED)

    cut = cut_of(replace(pattern, text=pattern.text + UNUSED), [5, 1, 3]).model

    # one function for both: heads are cut by the weights that its call reads
    assert functions(cut) == functions(model)
    assert [n.SerializeToString() for n in cut.graph.node] == [
        n.SerializeToString() for n in model.graph.node
    ]


def test_one_call_is_inlined_and_another_of_the_same_function_stays() -> None:
    pattern = PATTERNS["a_function_called_for_each_class"]()
    cut = cut_of(pattern, [5, 1, 3]).model
    assert [n.output[0] for n in cut.graph.node if n.domain == "own"] == ["l_3"]  # 3 is 3 again
    assert list(functions(cut)) == ["Best"]


UNUSED = """
<domain: "own", opset_import: ["": 17]>
Unused (a) => (b) { b = Neg (a) }
"""


def test_a_function_that_loses_its_last_call_goes() -> None:
    pattern = PATTERNS["a_function_called_for_each_class"]()
    cut = cut_of(replace(pattern, text=pattern.text + UNUSED), [5, 1, 2]).model
    assert list(functions(cut)) == ["Unused"]
    onnx.checker.check_model(cut, full_check=True)


def test_what_was_dead_before_is_left_alone() -> None:
    pattern = shaped()
    text = pattern.text.replace("own.Squash (logits)", "own.Squash (logits)\n  side = own.Neg (logits)")
    cut = cut_of(replace(pattern, text=text + UNUSED.replace("Unused", "Neg")), [1, 2]).model
    assert list(functions(cut)) == ["Neg"]
    assert [n.op_type for n in cut.graph.node if n.domain == "own"] == ["Neg"]


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    pattern = PATTERNS["a_function_called_for_each_class"]()
    path = tmp_path / "model.onnx"
    onnx.save(pattern.model(), path)
    files = []
    for name in ("a.onnx", "b.onnx"):
        hc.cut(path, [5, 1, 3], tmp_path / name, validation=False, **pattern.told)
        files.append((tmp_path / name).read_bytes())
    assert files[0] == files[1]
    whole = hc.cut(path, pattern.foreground, tmp_path / "c.onnx", provider="cpu", **pattern.told)
    assert whole.verdict
    assert (tmp_path / "c.onnx").read_bytes() == path.read_bytes()


def test_names_in_bodies_and_of_passed_values() -> None:
    pattern = in_an_if()
    keep = [5, 1, 3]
    cut = cut_of(pattern, keep).model
    onnx.checker.check_model(cut, full_check=True)
    for feeds in pictures():
        for got, wanted in zip(run(cut, feeds), pattern.expected(keep, feeds), strict=True):
            same(pattern, got, wanted)
    assert hc.cut(pattern.model(), keep, provider="cpu", **pattern.told).verdict


def in_an_if() -> Pattern:
    """A function with an If in it, and an output that nobody reads."""
    pattern = PATTERNS["local_function"]()
    old = "Squash (a) => (b)\n{\n  b = Softmax <axis = 2> (a)\n}"
    assert old in pattern.text
    new = """Squash (x) => (b, spare)
{
  to = Constant <value = int64[3] {1, -1, 6}> ()
  a = Reshape (x, to)
  n = Size (a)
  zero = Constant <value = int64 {0}> ()
  some = Greater (n, zero)
  b = If (some) <then_branch = yes () => (float[A,B,C] made) { made = Softmax <axis = 2> (a) },
    else_branch = no () => (float[A,B,C] made) { made = Identity (a) }>
  spare = Neg (a)
}"""
    text = pattern.text.replace(old, new)
    text = text.replace("probs = own.Squash (logits)", "probs, spared = own.Squash (logits)")
    return replace(pattern, text=text)


def test_opsets_that_do_not_agree_are_refused() -> None:
    pattern = PATTERNS["local_function"]()
    older = pattern.text.replace('<domain: "own", opset_import: ["": 17]>',
                                 '<domain: "own", opset_import: ["": 11]>')  # fmt: skip
    assert older != pattern.text
    with pytest.raises(hc.GraphRefused, match="Softmax is not the same in both") as caught:
        hc.cut(from_text(older), [1, 2], validation=False, **pattern.told)
    assert "convert" in caught.value.advice


def test_functions_that_call_themselves_are_no_model() -> None:
    pattern = PATTERNS["local_function"]()
    text = pattern.text.replace("b = Softmax <axis = 2> (a)", "b = own.Squash (a)")
    text = text.replace('<domain: "own", opset_import: ["": 17]>',
                        '<domain: "own", opset_import: ["": 17, "own": 1]>')  # fmt: skip
    with pytest.raises(hc.InputError, match="calls itself"):
        hc.cut(from_text(text), [1, 2], **pattern.told)


def wrong_attribute(nodes: list[onnx.NodeProto]) -> None:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.name == "axis":
                attribute.i = 1


def test_validation_sees_a_mistake_of_inlining_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    pattern = shaped()
    right = inlining._Body.nodes

    def nodes(body: Any) -> list[onnx.NodeProto]:
        made = right(body)
        wrong_attribute(made)
        return made

    monkeypatch.setattr(inlining._Body, "nodes", nodes)
    verdict = hc.cut(pattern.model(), keep_of(pattern), provider="cpu", **pattern.told).verdict
    assert not verdict
    assert any("inlining changes output" in reason for reason in verdict.reasons)


def test_structure_sees_what_inlining_does_not_claim() -> None:
    pattern = PATTERNS["one_function_for_scores_and_boxes"]()
    cut = cut_of(pattern, [5, 1, 3]).model
    node = next(n for n in cut.graph.node if n.op_type == "Warm")
    node.attribute[0].f = 0.2
    verdict = hc.validate(pattern.model(), cut, provider="cpu", **pattern.told)
    assert not verdict
    assert any("Warm node" in reason for reason in verdict.reasons)


def test_functions_beside_a_plugin_are_inlined_too() -> None:
    from plugin_patterns import PLUGINS  # noqa: PLC0415

    pattern = PLUGINS["efficient_nms"]()
    text = pattern.text.replace("probs = Softmax <axis = 2> (logits)", "probs = own.Squash (logits)")
    text = text.replace('"trt": 1', '"trt": 1, "own": 1')
    text += shaped().text.partition("}\n\n")[2]
    verdict = hc.cut(from_text(text), [5, 1, 3], provider="cpu", **pattern.told).verdict
    assert verdict
    assert verdict.not_run
    assert "the same with them and without" in verdict.notes[-1]
