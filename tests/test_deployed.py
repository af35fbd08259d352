"""The cut once more as deployed: a difference is told, and is no failure."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest

from onnx_headcut import cut
from onnx_headcut.validation import deployed, detections, runtime
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


def test_a_difference_and_an_error_are_told(model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, feed = load(model_path, None), synthetic(onnx.load(model_path), count=1)[0]
    exact = runtime.open_session(model_path, provider="cpu").run(feed.feed)
    moved = {name: value + (name == "scores") for name, value in exact.items()}
    found = deployed.as_deployed(model, "cpu", feed, moved)
    assert found.max_abs == pytest.approx(1)
    fewer = {name: value[:, :3] for name, value in exact.items()}
    assert "another shape" in deployed.as_deployed(model, "cpu", feed, fewer).line

    def fail(*_: object, **__: object) -> None:
        raise runtime.RuntimeFailure("out of memory")

    monkeypatch.setattr(deployed, "open_session", fail)
    assert "out of memory" in deployed.as_deployed(model, "cpu", feed, exact).line


def test_detections_that_change_places_do_not_move(
    model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = {
        "boxes": np.array([[0, 0, 10, 10], [50, 50, 90, 90.0]], np.float32),
        "ids": np.array([3, 7]),
        "found": np.array([0.5, 0.499], np.float32),
    }
    columns = [detections.Column("boxes", k) for k in range(4)]
    columns += [detections.Column("ids", 0), detections.Column("found", 0)]
    group = detections.Group(("boxes", "ids", "found"), 0, (), tuple(columns), 5, (4,))
    model, feed = load(model_path, None), synthetic(onnx.load(model_path), count=1)[0]

    def run(outputs: dict[str, Any]) -> None:
        session = SimpleNamespace(provider="cuda", run=lambda _: outputs)
        monkeypatch.setattr(deployed, "open_session", lambda *_, **__: session)

    turned = {name: value[::-1].copy() for name, value in exact.items()}
    turned["found"] += np.float32(0.001)  # as TF32 does
    run(turned)
    found = deployed.as_deployed(model, "cuda", feed, exact, [group])
    assert found.max_abs == pytest.approx(0.001, rel=1e-3)
    assert found.note == ""
    run({name: value[:1] for name, value in exact.items()})
    found = deployed.as_deployed(model, "cuda", feed, exact, [group])
    assert found.note == "1 of 2 detections go, and 0 others come"
