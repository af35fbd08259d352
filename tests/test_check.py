"""Checks of model files: each rule with a model that keeps it and one that breaks it."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import exported
import numpy as np
import onnx
import pytest
from conftest import TINY_NAMES, Done, run_cli, tiny
from onnx import helper, numpy_helper

from onnx_headcut import cut
from onnx_headcut.check import catalogue, policy
from onnx_headcut.check.run import Report, check
from onnx_headcut.errors import InputError, ProviderError
from onnx_headcut.report import formats
from onnx_headcut.report.results import Result

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Change = Callable[[onnx.ModelProto], object]

ANIMALS = list(TINY_NAMES[1:])


def checked(path: Path, rules: dict[str, Any], *, strict: bool = False) -> Report:
    return check([path], policy.parse(rules, path.parent, "policy"), strict=strict)


def broken(report: Report) -> dict[str, str]:
    return {r.topic.id: r.message for r in report.results if r.status == "failed"}


def rewrite(tensor: str, change: Callable[[np.ndarray[Any, Any]], None]) -> Change:
    def apply(model: onnx.ModelProto) -> None:
        stored = next(t for t in model.graph.initializer if t.name == tensor)
        values = numpy_helper.to_array(stored).copy()
        change(values)
        stored.CopyFrom(numpy_helper.from_array(values, tensor))

    return apply


def both(name: str, change: Callable[[np.ndarray[Any, Any]], None]) -> Change:
    def apply(model: onnx.ModelProto) -> None:
        for end in "wb":
            rewrite(f"{name}_{end}", change)(model)

    return apply


def _nan(values: np.ndarray[Any, Any]) -> None:
    values[3] = np.nan


def _zero(values: np.ndarray[Any, Any]) -> None:
    values[[3, 9]] = 0  # class 3 of 6 at both anchors


def _double(values: np.ndarray[Any, Any]) -> None:
    values[[2, 8]] = values[[4, 10]]


def _stale_shape(model: onnx.ModelProto) -> None:
    shape = helper.make_tensor_value_info("logits", 1, ["N", 176, 21])
    model.graph.value_info.append(shape)


def _stale_names(model: onnx.ModelProto) -> None:
    helper.set_model_props(model, {"names": str(dict(enumerate("abcdefgh")))})


def _custom(model: onnx.ModelProto) -> None:
    model.graph.node[1].domain = "acme"
    model.opset_import.append(helper.make_opsetid("acme", 1))


def _outside(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../elsewhere.bin")


@pytest.mark.parametrize(
    ("change", "rules", "rule", "words"),
    [
        (both("cls0", _nan), {}, "head-finite", "not finite: cow"),
        (both("cls0", _zero), {}, "head-dead", "zero: cow"),
        (both("cls0", _double), {}, "head-duplicate", "dog and hen"),
        (_stale_shape, {}, "shapes", "[?, 176, 21] is declared, and the graph gives [?, 176, 6]"),
        (_stale_names, {}, "names-agree", "do not fit"),
        (lambda m: m.ClearField("metadata_props"), {}, "names", "no class names"),
        (_outside, {}, "external-data", "outside"),
        (lambda m: m.graph.node[3].input.__setitem__(0, "nobody"), {}, "valid", "nobody"),
        (lambda _: None, {"opset": {"max": 13}}, "opset", "17"),
        (lambda _: None, {"ir": {"max": 7}}, "ir", "8"),
        (_custom, {"domains": {}}, "domains", "acme"),
        (lambda _: None, {"ops": {"denied": ["Softmax"]}}, "ops", "Softmax"),
        (lambda _: None, {"ops": {"allowed": ["Conv"]}}, "ops", "not allowed"),
        (lambda _: None, {"file-size": {"max": "1 kB"}}, "file-size", "1,000 are allowed"),
        (lambda _: None, {"parameters": {"max": 100}}, "parameters", "100 are allowed"),
        (lambda _: None, {"recipe": {"required": True}}, "recipe", "no record"),
        (lambda _: None, {"classes": {"none_of": ["fox"]}}, "classes", "'fox' is there"),
        (lambda _: None, {"classes": {"at_least": ["owl"]}}, "classes", "'owl' is missing"),
        (lambda _: None, {"classes": {"exactly": ["cat"]}}, "classes", "is not wanted"),
        (lambda _: None, {"classes": {"exactly": ANIMALS[::-1], "ordered": True}}, "classes",
         "the order is cat"),
        (rewrite("cls0_b", lambda v: v.fill(np.nan)), {"runs": {}}, "runs", "NaN"),
    ],
)  # fmt: skip
def test_a_broken_rule_is_found(
    change: Change, rules: dict[str, Any], rule: str, words: str, tmp_path: Path
) -> None:
    model = tiny()
    change(model)
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    report = checked(path, rules)
    assert words in broken(report)[rule]
    severity = catalogue.RULES[rule].severity
    assert report.exit_code == (severity == "error")
    assert str(tmp_path) not in json.dumps(report.to_json())


def test_a_sound_model_keeps_every_rule(model_path: Path) -> None:
    rules = {
        "classes": {"exactly": ANIMALS, "at_least": ["cat"], "none_of": ["owl"]},
        "domains": {}, "ops": {"denied": ["Loop"]}, "file-size": {"max": "1 MB"},
        "parameters": {"max": 10_000}, "runs": {"inputs": 2}, "providers": {"allowed": ["cpu"]},
    }  # fmt: skip
    report = checked(model_path, rules, strict=True)
    assert broken(report) == {}
    assert {r.topic.id for r in report.results if r.status == "passed"} == {*catalogue.RULES} - {
        "recipe"
    }


def test_a_model_without_a_head_has_none(tmp_path: Path) -> None:
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Relu", ["x"], ["y"])], "g",
            [helper.make_tensor_value_info("x", 1, [1, 3])],
            [helper.make_tensor_value_info("y", 1, [1, 3])],
        ), ir_version=8, opset_imports=[helper.make_opsetid("", 17)],
    )  # fmt: skip
    onnx.save(model, tmp_path / "m.onnx")
    assert "head" in broken(checked(tmp_path / "m.onnx", {}))


def test_channels_that_nothing_splits_are_as_the_policy_says(tmp_path: Path) -> None:
    _, model = exported.load_pair("efficientdet_maps_ts11")
    onnx.save(model, tmp_path / "m.onnx")
    report = checked(tmp_path / "m.onnx", {})
    assert "anchors and classes" in broken(report)["head-clear"]
    assert report.exit_code == 0, "a model that is not clear is not broken"
    demanded = checked(tmp_path / "m.onnx", {"classes": {"none_of": ["knife"]}})
    assert demanded.exit_code == 1, "what a policy demands must be told"
    said = {"model": {"layout": "anchors=9", "background": "none"}}
    assert "head-clear" not in broken(checked(tmp_path / "m.onnx", said))


def test_a_level_that_was_never_trained_is_no_mistake(tmp_path: Path) -> None:
    def same(values: np.ndarray[Any, Any]) -> None:
        values[:] = values[:1]

    model = tiny()
    both("cls0", same)(model)
    onnx.save(model, tmp_path / "m.onnx")
    assert "head-duplicate" not in broken(checked(tmp_path / "m.onnx", {}))


def test_the_record_of_a_cut_is_held_against_its_source(model_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.onnx"
    cut(model_path, "fox,cat", path, validation=False)
    source = {"required": True, "source": str(model_path)}
    assert broken(checked(path, {"recipe": source, "classes": {"exactly": ["cat", "fox"]}})) == {}
    other = tmp_path / "other.onnx"
    other.write_bytes(b"other")
    report = checked(path, {"recipe": {"source": "other.onnx"}})
    assert "not from d9298a10d1b0" in broken(report)["recipe"]


def test_a_provider_that_cannot_be_used_is_no_broken_rule(model_path: Path) -> None:
    with pytest.raises(ProviderError):
        checked(model_path, {"runs": {"provider": "tensorrt"}})


def test_nodes_on_a_provider_that_is_not_allowed_are_counted(
    model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    placed = {"cuda": 20, "cpu": 3}
    monkeypatch.setattr("onnx_headcut.validation.runtime.placement", lambda *_, **__: placed)
    report = checked(model_path, {"providers": {"allowed": ["cuda"]}})
    assert broken(report)["providers"] == "3 nodes run on cpu"


def test_a_file_that_is_no_model_breaks_the_first_rule(tmp_path: Path) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(bytes(range(64)))
    report = checked(path, {})
    assert list(broken(report)) == ["readable"]
    assert report.exit_code == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[clases]\n", "Is it classes"),
        ("[classes]\nexacty = []\n", "exactly"),
        ("[classes]\nexactly = 'cat'\n", "a list of strings"),
        ("[opset]\nmin = true\n", "a whole number"),
        ("[file-size]\nmax = '5 apples'\n", "5 MB"),
        ("[runs]\nseverity = 'bad'\n", "error, warning"),
        ("[model]\ninput_shapes = {images = 3}\n", "a table, such as"),
        ("[model]\nlayout = 'anchors=x'\n", "[model]: --layout"),
        ("names = 3\n", "[names]"),
        ("[names\n", "not TOML"),
    ],
)
def test_a_policy_with_a_mistake_is_refused(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=re.escape(words)):
        policy.read(path)


# ------------------------------------------------------------------------- the command, formats


def test_every_format_tells_what_is_broken(tmp_path: Path) -> None:
    model = tiny()
    both("cls0", _double)(model)
    onnx.save(model, tmp_path / "a%b.onnx")
    (tmp_path / "bad.onnx").write_text("no model")
    files = ("--junit", "j.xml", "--sarif", "s.json")
    models = ("a%b.onnx", "bad.onnx")
    done = run_cli("check", *models, "--json", "--github", *files, cwd=tmp_path)
    assert done.code == 2
    document = json.loads(done.out)
    assert [m["model"] for m in document["models"]] == ["a%b.onnx", "bad.onnx"]
    assert "::error file=a%25b.onnx,title=onnx-headcut head-duplicate::make_cls0: dog" in done.err
    suites = ET.fromstring((tmp_path / "j.xml").read_text())  # noqa: S314  (our own)
    failures = {s.get("name"): s.get("failures") for s in suites}
    assert failures == {"a%b.onnx": "1", "bad.onnx": "1"}
    failure = suites.find("testsuite/testcase[@name='head-duplicate']/failure")
    assert failure is not None
    assert "dog and hen" in str(failure.get("message"))
    run = json.loads((tmp_path / "s.json").read_text())["runs"][0]
    result = run["results"][0]
    assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == "head-duplicate"
    assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "a%25b.onnx"


def test_exit_codes(model_path: Path, tmp_path: Path, run_here: Callable[..., Done]) -> None:
    assert run_here("check", model_path).code == 0
    nameless = tmp_path / "m.onnx"
    onnx.save(tiny(names=()), nameless)
    assert run_here("check", nameless).code == 0
    done = run_here("check", nameless, "--strict")
    assert done.code == 1
    assert "warning names" in done.out
    assert run_here("check").code == 2
    assert run_here("check", model_path, "--policy", "missing.toml").code == 2
    assert run_here("check", model_path, "--junit", "nowhere/j.xml").code == 2


def test_a_rule_is_explained_without_any_model() -> None:
    none = "import sys\nfor m in ('onnx', 'onnxruntime', 'numpy'): sys.modules[m] = None"
    done = run_cli("check", "--explain", "head-dead", code=none)
    assert done.code == 0, done.err
    rule = catalogue.RULES["head-dead"]
    assert all(words in done.out for words in (rule.sentence, rule.fix, rule.why))
    rules = json.loads(run_cli("check", "--explain", "all", "--json", code=none).out)["rules"]
    assert [r["id"] for r in rules] == list(catalogue.RULES)
    assert run_cli("check", "--explain", "no-rule").code == 2


def test_names_that_no_format_could_hold_are_escaped() -> None:
    topic = catalogue.RULES["names"]
    strange = Result("m\x01.onnx", topic, "failed", "a\x00<&\ud800\n%", "error")
    ET.fromstring(formats.junit([strange], "check"))  # noqa: S314
    json.loads(formats.sarif([strange]))
    assert formats.github([strange])[0].count("\n") == 0
