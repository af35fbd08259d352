"""docs/json.md names every key that commands print, and the schema describes every document."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import onnx
import pytest
from conftest import Done, tiny

import onnx_headcut as hc
from onnx_headcut.report.schema import document

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE = (Path(__file__).parent.parent / "docs" / "json.md").read_text(encoding="utf-8")
COMMANDS = {
    "inspect": ["inspect", "coco.onnx"],
    "cut": ["cut", "coco.onnx", "--keep", "fox,cat", "--output", "o.onnx", "--provider", "cpu"],
    "map": [
        "cut",
        "coco.onnx",
        "--keep",
        "pet=cat|dog,new=new,bird=new(copy hen),fox",
        "--output",
        "m.onnx",
        "--provider",
        "cpu",
    ],
    "exact": [
        "cut",
        "coco.onnx",
        "--keep",
        "cat",
        "--output",
        "x.onnx",
        "--scores",
        "exact",
        "--provider",
        "cpu",
    ],
    "recipe": ["cut", "--recipe", "headcut.toml", "--dry-run"],
    "folder": ["cut", "many", "--keep", "cat", "--output-dir", "cut", "--no-validate"],
    "dry run": ["cut", "coco.onnx", "--keep", "cat", "--dry-run"],
    "validate": ["validate", "coco.onnx", "cut.onnx", "--provider", "cpu"],
    "check": ["check", "coco.onnx", "cut.onnx"],
    "rule": ["check", "--explain", "runs"],
    "bench": ["bench", "coco.onnx", "cut.onnx", "--provider", "cpu", "--rounds", "5"],
    "doctor": ["doctor"],
    "a provider that is not here": ["doctor", "--provider", "coreml"],
    "error": ["cut", "coco.onnx", "--keep", "nobody", "--output", "e.onnx"],
}
OPEN = {"placement", "stages", "example_shapes", "detections"}
"""Objects whose keys are the model's own, or the machine's."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("json")
    onnx.save(tiny(), folder / "coco.onnx")
    hc.cut(folder / "coco.onnx", "dog,hen", folder / "cut.onnx", validation=False)
    recipe = 'source = "coco.onnx"\noutput = "{variant}.onnx"\n[variants.pets]\nkeep = "cat"\n'
    (folder / "headcut.toml").write_text(recipe + '[variants.wrong]\nkeep = "nobody"\n')
    (folder / "many").mkdir()
    onnx.save(tiny(), folder / "many" / "a.onnx")
    (folder / "many" / "b.onnx").write_bytes(b"no model")
    return folder


def keys(value: Any, depth: int = 0) -> set[str]:
    if isinstance(value, list):
        return set().union(*(keys(item, depth) for item in value))
    if not isinstance(value, dict):
        return set()
    found = set(value)
    for name, item in value.items():
        found |= set() if name in OPEN else keys(item, depth + 1)
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_every_key_is_on_the_page_and_in_the_schema(
    name: str, folder: Path, run_here: Callable[..., Done]
) -> None:
    printed = json.loads(run_here(*COMMANDS[name], "--json", cwd=folder).out)
    schema = jsonschema.Draft202012Validator(document())
    schema.validate(printed)
    for key in printed:
        assert not schema.is_valid({k: v for k, v in printed.items() if k != key}), key
    told = set(re.findall(r'`"?(\w+)"?`|"(\w+)":', PAGE))
    words = {word for pair in told for word in pair if word}
    assert keys(printed) <= words, " ".join(sorted(keys(printed) - words))
