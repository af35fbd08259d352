"""Rules from outside: the page's own example, from a file, a module, a list and a package."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from conftest import from_text, run_cli
from onnx import helper, numpy_helper
from patterns import front, graph

import onnx_headcut as hc
from onnx_headcut.extensions import GROUP, load
from onnx_headcut.plugins import Fact, Outcome, Rule, View

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Done

PAGE = Path(__file__).parent.parent / "docs" / "rules.md"
KEEP = [5, 1, 3]


def example() -> str:
    """The plugin that docs/rules.md shows."""
    found = re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


def detector(attributes: str = "class_count = 6, first_id = 1") -> onnx.ModelProto:
    weights, body, _ = front()
    body += f"""
      probs = Sigmoid (logits)
      boxes, scores, labels = Acme.Decode <{attributes}, top = 7,
        weights = [0.1, 1.1, 2.1, 3.1, 4.1, 5.1]> (rects, probs)"""
    outputs = "float[7,4] boxes, float[7] scores, int64[7] labels"
    return from_text(graph(outputs, weights, body).replace('["": 17]', '["": 17, "Acme": 1]'))


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    path = tmp_path / "acme_rules.py"
    path.write_text(example())
    return path


def decode(model: onnx.ModelProto) -> dict[str, Any]:
    node = next(n for n in model.graph.node if n.op_type == "Decode")
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def test_without_its_rule_the_op_is_refused_and_the_way_out_named() -> None:
    with pytest.raises(hc.GraphRefused, match="Decode") as caught:
        hc.cut(detector(), KEEP, validation=False)
    assert "--plugin" in caught.value.advice


def test_the_example_cuts_and_is_validated_at_what_enters(plugin: Path) -> None:
    result = hc.cut(detector(), KEEP, plugins=[plugin], provider="cpu")

    said = decode(result.model)
    assert said["class_count"] == 3
    np.testing.assert_allclose(said["weights"], [5.1, 1.1, 3.1], rtol=1e-6)
    assert result.verdict
    assert result.verdict.not_run == ("Acme::Decode node 'make_boxes'",)
    assert result.verdict.plugins == ("acme_rules.py (Acme::Decode)",)
    assert "rules of the plugin acme_rules.py" in result.verdict.notes[-1]
    recorded = {p.key: p.value for p in result.model.metadata_props}
    assert json.loads(recorded["onnx_headcut.plugins"]) == list(result.verdict.plugins)
    assert hc.validate(detector(), result.model, plugins=[str(plugin)], provider="cpu")


def test_the_example_tells_the_ids(plugin: Path) -> None:
    shown = {o.name: o for o in hc.inspect(detector(), plugins=[plugin]).outputs}
    assert shown["labels"].convention == "column + 1"

    model = hc.cut(detector(), KEEP, plugins=[plugin], ids="original", provider="cpu").model
    table = next(t for t in model.graph.initializer if t.name == "labels_ids")
    assert numpy_helper.to_array(table).tolist()[-3:] == [6, 2, 4]


def changed(name: str, value: Any) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        node = next(n for n in model.graph.node if n.op_type == "Decode")
        attribute = next(a for a in node.attribute if a.name == name)
        attribute.CopyFrom(helper.make_attribute(name, value))

    return change


def turned(model: onnx.ModelProto) -> None:
    tensor = next(t for t in model.graph.initializer if t.name == "labels_ids")
    array = np.roll(numpy_helper.to_array(tensor), 1)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


@pytest.mark.parametrize("mistake", [
    changed("class_count", 6), changed("class_count", 4), changed("top", 6),
    changed("weights", [0.1, 1.1, 3.1]), changed("weights", [1.1, 3.1, 5.1]), turned,
])  # fmt: skip
def test_validation_sees_mistakes_in_an_op_that_it_does_not_know(
    plugin: Path, mistake: Callable[[onnx.ModelProto], None]
) -> None:
    how: dict[str, Any] = {"plugins": [plugin], "ids": "original"}
    cut = hc.cut(detector(), KEEP, validation=False, **how).model
    del cut.metadata_props[:]
    assert hc.validate(detector(), cut, KEEP, provider="cpu", **how)
    mistake(cut)
    assert not hc.validate(detector(), cut, KEEP, provider="cpu", **how)


def test_a_rule_refuses_in_its_nodes_name(plugin: Path) -> None:
    with pytest.raises(hc.GraphRefused, match="'class_count' is not the number") as caught:
        hc.cut(detector("class_count = 5, first_id = 1"), KEEP, plugins=[plugin], validation=False)
    assert (caught.value.node, caught.value.op) == ("make_boxes", "Decode")


def test_plugins_by_module_name_by_module_and_as_rules(
    plugin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(plugin.parent)
    import acme_rules  # type: ignore[import-not-found]  # noqa: PLC0415

    wanted = hc.cut(detector(), KEEP, plugins=[plugin], validation=False).model.graph
    for given in ("acme_rules", acme_rules, acme_rules.RULES):
        got = hc.cut(detector(), KEEP, plugins=[given], validation=False).model.graph
        assert got == wanted
    del sys.modules["acme_rules"]


def test_an_installed_package_brings_its_rules(plugin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = plugin.parent / "acme_detectors-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-detectors\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\nacme = acme_rules\n")
    damaged = plugin.parent / "other-1.dist-info" / "entry_points.txt"
    damaged.mkdir(parents=True)  # what cannot be read is of somebody else
    monkeypatch.syspath_prepend(plugin.parent)
    result = hc.cut(detector(), KEEP, provider="cpu")
    assert result.verdict
    assert result.verdict.plugins == ("acme of acme-detectors 1.2 (Acme::Decode)",)
    del sys.modules["acme_rules"]


def passing(view: View) -> Outcome:
    return Outcome([view.marks[0]] * len(view.node.output))


def test_a_built_in_rule_is_not_overridden_silently() -> None:
    with pytest.raises(hc.UsageError, match="Sigmoid, and so has") as caught:
        load([Rule("Sigmoid", passing)])
    assert "override=True" in caught.value.advice
    model = from_text(graph("float[1,K,6] probs, float[1,K,4] rects", *front()[:2]).replace(
        "rects = Reshape", "probs = Sigmoid (logits)\n      rects = Reshape"))  # fmt: skip
    options: dict[str, Any] = {"background": "none", "provider": "cpu"}
    verdict = hc.cut(model, KEEP, plugins=[Rule("Sigmoid", passing, override=True)], **options).verdict
    assert verdict
    assert "Sigmoid, overriding" in verdict.plugins[0]
    assert hc.cut(model, KEEP, **options).verdict.plugins == ()


@pytest.mark.parametrize(("text", "reason"), [
    ("RULES = []", "has no rules"),
    ("RULES = ['Decode']", "has no rules"),
    ("x = 1", "has no rules"),
    ("import nothing_of_this_name", "No module named"),
    ("1 / 0", "ZeroDivisionError"),
    ("def (", "SyntaxError"),
])  # fmt: skip
def test_what_is_no_plugin_is_wrong_usage(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "plugin.py"
    path.write_text(text)
    with pytest.raises(hc.UsageError, match=reason) as caught:
        load([path])
    assert "docs/rules.md" in caught.value.advice
    assert caught.value.exit_code == 2


def test_two_plugins_for_one_op_are_wrong_usage(plugin: Path) -> None:
    other = Rule("Decode", passing, domain="Acme")
    with pytest.raises(hc.UsageError, match="two plugins"):
        load([plugin, other])
    with pytest.raises(hc.UsageError, match="no such file"):
        load([plugin.with_name("missing.py")])


def test_a_wrong_rule_is_refused_where_its_shapes_show_it() -> None:
    def shapes(node: onnx.NodeProto, inputs: Any) -> list[Fact]:
        return [Fact(f.shape, f.elem_type) for f in inputs[: len(node.output)]]

    def wrong(view: View) -> Outcome:  # says that classes stay on axis 2, and forgets to shorten
        return Outcome([view.marks[0]], [view.set("n", 6)])

    weights, body, _ = front()
    body += "\n      odd = Acme.Odd <n = 6> (logits)\n      probs = Sigmoid (odd)"
    text = graph("float[1,K,6] probs, float[1,K,4] rects", weights, body)
    model = from_text(text.replace('["": 17]', '["": 17, "Acme": 1]'))
    right = [Rule("Odd", passing, shapes, domain="Acme")]
    options: dict[str, Any] = {"background": "none", "validation": False, "heads": ["make_cls_map"]}
    assert hc.cut(model, KEEP, plugins=[right], **options).model
    stuck = [Rule("Odd", wrong, lambda *_: [Fact((1, 16, 6), 1)], domain="Acme")]
    with pytest.raises(hc.GraphRefused, match="its output would have shape"):
        hc.cut(model, KEEP, plugins=[stuck], **options)


@pytest.mark.parametrize(("apply", "shapes", "reason"), [
    (lambda _: None, None, "what each of its outputs carries"),
    (lambda _: Outcome([None]), None, "what each of its outputs carries"),
    (lambda view: view.nothing, None, "does not cover this use"),
    (passing, lambda *_: [(7, 4)], "other things than facts"),
    (passing, lambda _, inputs: inputs[9], "IndexError"),
])  # fmt: skip
def test_a_broken_rule_is_refused_with_its_node(apply: Any, shapes: Any, reason: str) -> None:
    rule = Rule("Decode", apply, shapes, domain="Acme")
    with pytest.raises(hc.GraphRefused, match=reason) as caught:
        hc.cut(detector(), KEEP, plugins=[rule], validation=False)
    assert (caught.value.node, caught.value.op) == ("make_boxes", "Decode")


def test_the_command_line_takes_plugins(
    plugin: Path, tmp_path: Path, run_here: Callable[..., Done]
) -> None:
    model, small = tmp_path / "model.onnx", tmp_path / "small.onnx"
    onnx.save(detector(), model)
    asked = ["--plugin", str(plugin)]
    assert run_here("inspect", str(model)).code == 3
    assert run_here("inspect", str(model), *asked).code == 0
    found = run_cli("cut", model, "--keep", "5,1,3", "--output", small, *asked, "--json",
                    "--provider", "cpu")  # fmt: skip
    assert found.code == 0, found.err
    document = json.loads(found.out)
    assert document["validation"]["plugins"] == ["acme_rules.py (Acme::Decode)"]
    assert document["validation"]["not_run"]
    assert run_here("validate", str(model), str(small), *asked).code == 0
    assert run_here("check", str(small), *asked).code in {0, 1}
    assert run_here("inspect", str(model), "--plugin", "no.such.module").code == 2
