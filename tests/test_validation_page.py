"""The page on validation holds the numbers that the program uses."""

from __future__ import annotations

import re
from pathlib import Path

from onnx_headcut.validation.compare import PROVIDERS, TOLERANCES

PAGE = (Path(__file__).parent.parent / "docs" / "validation.md").read_text(encoding="utf-8")


def test_tolerances_are_those_of_the_program() -> None:
    rows = re.findall(r"^\| (\w+) \| (\S+) \| (\S+) \|", PAGE, re.MULTILINE)
    told = {name: (float(a), float(b)) for name, a, b in rows if name in TOLERANCES}
    assert told == {name: (t.relative, t.absolute) for name, t in TOLERANCES.items()}


def test_providers_that_get_more_are_named() -> None:
    names = {"tensorrt": "TensorRT", "openvino": "OpenVINO", "dml": "DirectML", "coreml": "CoreML"}
    assert set(names) == set(PROVIDERS)
    assert all(name in PAGE for name in names.values())
    assert set(PROVIDERS.values()) == {10.0, 100.0}
