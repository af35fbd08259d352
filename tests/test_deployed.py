"""The cut once more as deployed: a difference is told, and is no failure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
import pytest

from onnx_headcut import cut
from onnx_headcut.validation import deployed, runtime
from onnx_headcut.validation.pair import load
from onnx_headcut.validation.synthetic import synthetic

if TYPE_CHECKING:
    from pathlib import Path


def test_the_verdict_tells_how_the_cut_runs_as_deployed(model_path: Path) -> None:
    verdict = cut(model_path, "cat", provider="cpu").verdict
    assert verdict is not None
    assert verdict.deployed is not None
    assert verdict.deployed.provider == "cpu"
    assert "as deployed on cpu" in "\n".join(verdict.lines())


def test_a_difference_and_an_error_are_told(
    model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, feed = load(model_path, None), synthetic(onnx.load(model_path), count=1)[0]
    exact = runtime.open_session(model_path, provider="cpu").run(feed.feed)
    moved = {name: value + (name == "scores") for name, value in exact.items()}
    found = deployed.as_deployed(model, "cpu", feed, moved)
    assert found.max_abs == pytest.approx(1)
    fewer = {name: value[:, :3] for name, value in exact.items()}
    assert "number of detections" in deployed.as_deployed(model, "cpu", feed, fewer).line

    def fail(*_: object, **__: object) -> None:
        raise runtime.RuntimeFailure("out of memory")

    monkeypatch.setattr(deployed, "open_session", fail)
    assert "out of memory" in deployed.as_deployed(model, "cpu", feed, exact).line
