"""Results for machines: JUnit for test views, SARIF for code scanning, GitHub's annotations."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from xml.etree import ElementTree as ET

from onnx_headcut import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from onnx_headcut.report.results import Result

_SARIF = "https://json.schemastore.org/sarif-2.1.0.json"


def junit(results: Sequence[Result], suite: str) -> str:
    """JUnit XML: a test suite for each model, a test case for each topic.

    An error is a failure; a warning passes, with its words in ``system-out``.
    """
    root = ET.Element("testsuites", name=f"onnx-headcut {suite}")
    for model, group in _by_model(results).items():
        node = ET.SubElement(root, "testsuite", name=_clean(model), errors="0")
        cases: dict[str, list[Result]] = defaultdict(list)
        for result in group:
            cases[result.topic.id].append(result)
        for topic, found in cases.items():
            case = ET.SubElement(node, "testcase", name=topic, classname=_clean(model))
            _fill(case, found)
        node.set("tests", str(len(cases)))
        node.set("failures", str(len(node.findall("testcase/failure"))))
        node.set("skipped", str(len(node.findall("testcase/skipped"))))
    for name in ("tests", "failures", "errors"):
        root.set(name, str(sum(int(node.get(name, 0)) for node in root)))
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, "unicode") + "\n"


def _fill(case: ET.Element, found: Sequence[Result]) -> None:
    bad = [r for r in found if r.bad]
    soft = [r for r in found if r.status == "failed" and not r.bad]
    if bad:
        failure = ET.SubElement(case, "failure", type="error", message=_clean(bad[0].message))
        failure.text = _clean("\n".join([*map(_told, bad), bad[0].topic.fix]))
    elif any(r.status == "skipped" for r in found):
        ET.SubElement(case, "skipped", message=_clean(found[0].message))
    if soft:
        text = "\n".join(f"{r.severity}: {_told(r)}" for r in soft)
        ET.SubElement(case, "system-out").text = _clean(text)


def sarif(results: Sequence[Result]) -> str:
    """SARIF 2.1.0 with one run; only what failed is a result."""
    topics = {r.topic.id: r.topic for r in results}
    rules = [
        {
            "id": topic.id,
            "shortDescription": {"text": topic.sentence},
            "help": {"text": topic.fix},
            "defaultConfiguration": {"level": topic.severity},
        }
        for topic in topics.values()
    ]
    order = {name: at for at, name in enumerate(topics)}
    found = [_sarif_result(r, order[r.topic.id]) for r in results if r.status == "failed"]
    driver = {"name": "onnx-headcut", "version": __version__, "rules": rules}
    run = {"tool": {"driver": driver}, "results": found, "columnKind": "unicodeCodePoints"}
    return json.dumps({"$schema": _SARIF, "version": "2.1.0", "runs": [run]}, indent=2) + "\n"


def _sarif_result(result: Result, index: int) -> dict[str, Any]:
    uri = quote(result.model)
    place: dict[str, Any] = {"physicalLocation": {"artifactLocation": {"uri": uri}}}
    if result.where:
        place["logicalLocations"] = [{"name": result.where, "kind": "element"}]
    return {
        "ruleId": result.topic.id,
        "ruleIndex": index,
        "level": result.severity,
        "message": {"text": result.message},
        "locations": [place],
    }


def github(results: Iterable[Result]) -> list[str]:
    """Workflow commands that GitHub shows beside the files: a line for each result that failed."""
    names = {"error": "error", "warning": "warning", "note": "notice"}
    return [
        f"::{names[r.severity]} file={_escaped(r.model, more=True)},"
        f"title={_escaped(f'onnx-headcut {r.topic.id}', more=True)}::"
        + _escaped(f"{_told(r)}\n{r.topic.fix}")
        for r in results
        if r.status == "failed"
    ]


def _escaped(text: str, *, more: bool = False) -> str:
    pairs = [("%", "%25"), ("\r", "%0D"), ("\n", "%0A")]
    for old, new in [*pairs, (":", "%3A"), (",", "%2C")] if more else pairs:
        text = text.replace(old, new)
    return text


def _told(result: Result) -> str:
    return f"{result.where}: {result.message}" if result.where else result.message


def _by_model(results: Iterable[Result]) -> dict[str, list[Result]]:
    groups: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        groups[result.model].append(result)
    return groups


def _clean(text: str) -> str:
    """Escape what XML 1.0 cannot hold."""
    return "".join(
        c if c in "\t\n" or (c.isprintable() and ord(c) < 0xFFFE) or ord(c) > 0xFFFF
        else c.encode("unicode_escape").decode() for c in text
    )  # fmt: skip
