"""Many models in one command: a process each, one table, one exit code."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import onnx
import pytest
from conftest import TINY_NAMES, run_cli, tiny

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("many")
    onnx.save(tiny(), path / "a.onnx")
    onnx.save(tiny(names=(*TINY_NAMES[:3], "sow", "hen", "fox")), path / "c.onnx")
    (path / "b.onnx").write_bytes(b"no model")
    (path / "notes.txt").write_text("nothing to cut")
    return path


def test_a_folder_is_cut_and_a_refusal_does_not_end_it(folder: Path, tmp_path: Path) -> None:
    to = tmp_path / "new" / "cut"
    done = run_cli("cut", folder, "--keep", "dog,hen", "--output-dir", to, "--json")
    said = json.loads(done.out)
    assert done.code == said["exit_code"] == 2
    assert [(m["model"][-6:], m.get("exit_code", "")) for m in said["models"]] == [
        ("a.onnx", 0), ("b.onnx", ""), ("c.onnx", 0),
    ]  # fmt: skip
    assert said["models"][1]["error"]["kind"] == "InputError"
    assert sorted(p.name for p in to.iterdir()) == ["a.onnx", "c.onnx"]
    assert all(m["validation"] for m in said["models"] if "validation" in m)


def test_a_glob_takes_the_options_along(folder: Path, tmp_path: Path) -> None:
    done = run_cli("cut", folder / "[ac].onnx", "--keep", "dog,hen", "--background", "first",
                   "--no-validate", "--output-dir", tmp_path)  # fmt: skip
    assert done.code == 0, done.err
    assert "2 of 2 models cut" in done.out
    again = run_cli("cut", folder / "[ac].onnx", "--keep", "dog,hen", "--no-validate",
                    "--output-dir", tmp_path)  # fmt: skip
    assert again.code == 2
    assert "--force" in again.out or "exists" in again.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "x.onnx"], "--output is for one model"),
        (["--dry-run"], "--dry-run is for one model"),
    ],
)
def test_what_is_for_one_model(
    folder: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    done = run_cli("cut", folder, "--keep", "dog", "--output-dir", tmp_path, *arguments)
    assert done.code == 2
    assert message in done.err


def test_nothing_to_cut(tmp_path: Path) -> None:
    done = run_cli("cut", tmp_path / "*.onnx", "--keep", "dog", "--output-dir", tmp_path)
    assert done.code == 2
    assert "no model matches" in done.err


def test_where_weights_go(tmp_path: Path) -> None:
    model = tmp_path / "a.onnx"
    onnx.save(tiny(), model, save_as_external_data=True, location="w", size_threshold=0)
    (tmp_path / "to").mkdir()
    done = run_cli("cut", model, "--keep", "dog,hen", "--no-validate", "--external-data", "inline",
                   "--output", tmp_path / "to" / "b.onnx")  # fmt: skip
    assert done.code == 0, done.err
    assert [p.name for p in (tmp_path / "to").iterdir()] == ["b.onnx"]
    wrong = run_cli("cut", model, "--keep", "dog", "--external-data", "there", "--output", "x.onnx")
    assert wrong.code == 2
    assert "reference, copy or inline" in wrong.err
