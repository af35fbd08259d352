"""JUnit and SARIF hold what their readers ask for.

Both schemas are the standards' own parts that are used here, written out and closed: what they do
not name is not written. ``HEADCUT_SARIF_SCHEMA`` may name a file with the official schema (OASIS,
SARIF 2.1.0), to hold the reports against all of it.
"""

from __future__ import annotations

import json
import os
import string
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_headcut.check.catalogue import RULES
from onnx_headcut.report import formats, of_verdict
from onnx_headcut.report.results import Result

if TYPE_CHECKING:
    from collections.abc import Sequence

TOPICS = [
    *RULES.values(),
    of_verdict.EQUAL,
    of_verdict.EVIDENCE,
    of_verdict.STRUCTURE,
    of_verdict.DRIFT,
]


def closed(properties: dict[str, Any], *optional: str) -> dict[str, Any]:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required,
            "additionalProperties": False}  # fmt: skip


TEXT = {"type": "string", "minLength": 1}
MESSAGE = closed({"text": TEXT})
LEVEL = {"enum": ["none", "note", "warning", "error"]}
# A URI reference (RFC 3986): relative here, so that no colon stands in its first segment.
PLACE = closed({"uri": {"type": "string", "pattern": r"^[A-Za-z0-9%._~/-]+$"}})
SARIF = closed({
    "$schema": {"const": "https://json.schemastore.org/sarif-2.1.0.json"},
    "version": {"const": "2.1.0"},
    "runs": {"type": "array", "items": closed({
        "tool": closed({"driver": closed({
            "name": TEXT, "version": TEXT,
            "rules": {"type": "array", "uniqueItems": True, "items": closed({
                "id": TEXT, "shortDescription": MESSAGE, "help": MESSAGE,
                "defaultConfiguration": closed({"level": LEVEL})})},
        })}),
        "columnKind": {"enum": ["utf16CodeUnits", "unicodeCodePoints"]},
        "results": {"type": "array", "items": closed({
            "ruleId": TEXT, "ruleIndex": {"type": "integer", "minimum": 0}, "level": LEVEL,
            "message": MESSAGE,
            "locations": {"type": "array", "minItems": 1, "items": closed({
                "physicalLocation": closed({"artifactLocation": PLACE}),
                "logicalLocations": {"type": "array", "uniqueItems": True, "items": closed({
                    "name": TEXT, "kind": TEXT})},
            }, "logicalLocations")},
        })},
    })},
})  # fmt: skip

# The elements that readers such as Jenkins take: attributes (required first) and children.
JUNIT = {
    "testsuites": ([], ["name", "tests", "failures", "errors"], ["testsuite"]),
    "testsuite": (["name", "tests", "failures", "errors"], ["skipped"], ["testcase"]),
    "testcase": (["name"], ["classname"], ["failure", "skipped", "system-out"]),
    "failure": (["type"], ["message"], []),
    "skipped": ([], ["message"], []),
    "system-out": ([], [], []),
}

WORDS = st.text(min_size=1, max_size=30)
NAMES = st.text(string.ascii_letters + " %:é/.\\<&\x01￿", min_size=1, max_size=20)
RESULTS = st.lists(
    st.builds(
        Result,
        model=NAMES,
        topic=st.sampled_from(TOPICS),
        status=st.sampled_from(["passed", "failed", "skipped"]),
        message=WORDS,
        severity=st.sampled_from(["error", "warning", "note"]),
        where=st.one_of(st.just(""), NAMES),
    ),
    max_size=6,
)


@given(RESULTS)
def test_sarif_is_what_the_standard_asks_for(results: Sequence[Result]) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    document = json.loads(formats.sarif(results))
    jsonschema.Draft202012Validator(SARIF).validate(document)
    official = os.environ.get("HEADCUT_SARIF_SCHEMA")
    if official:
        whole = json.loads(Path(official).read_text(encoding="utf-8"))
        jsonschema.Draft4Validator(whole).validate(document)
    run = document["runs"][0]
    rules = run["tool"]["driver"]["rules"]
    assert len({rule["id"] for rule in rules}) == len(rules)
    failed = [r for r in results if r.status == "failed"]
    for result, told in zip(failed, run["results"], strict=True):
        assert rules[told["ruleIndex"]]["id"] == told["ruleId"] == result.topic.id
        place = told["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
        assert unquote(place) == result.model


@given(RESULTS)
def test_junit_is_what_its_readers_take(results: Sequence[Result]) -> None:
    root = ET.fromstring(formats.junit(results, "check"))  # noqa: S314  (ours)
    assert root.tag == "testsuites"
    for element in root.iter():
        required, optional, children = JUNIT[element.tag]
        assert set(required) <= set(element.attrib) <= {*required, *optional}
        assert {child.tag for child in element} <= set(children)
    for suite in [*root, root]:
        cases = list(suite.iter("testcase"))
        assert suite.get("tests") == str(len(cases))
        assert suite.get("failures") == str(sum(c.find("failure") is not None for c in cases))
    for case in root.iter("testcase"):  # a case fails or is skipped, not both
        assert len(case.findall("failure")) + len(case.findall("skipped")) <= 1
    bad = {(r.model, r.topic.id) for r in results if r.bad}
    assert len(list(root.iter("failure"))) == len(bad)
