"""What cannot be done is said on the command line, with the way out; no output is left or lost."""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from conftest import RAW, Done, from_text, run_cli, saved, tiny
from onnx import numpy_helper
from test_cli import columns, foreign_op

if TYPE_CHECKING:
    from collections.abc import Callable


def _without_head() -> onnx.ModelProto:
    return from_text("""
        <ir_version: 8, opset_import: ["": 17]>
        m (float[1,3,8,8] images) => (float[1,3,8,8] y) { y = Relu (images) }
    """)


def _disagreeing() -> onnx.ModelProto:
    one = "scores = Softmax <axis = 2> (logits)"
    return tiny(
        (one, one + "\n  wide = Conv (level1, wide_w)\n  wide_last = Transpose <perm = [0,2,3,1]>"
         " (wide)\n  others = Softmax <axis = 3> (wide_last)"),
        ("float[8,8,3,3] box0_w", "float[9,8,1,1] wide_w, float[8,8,3,3] box0_w"),
        ("=> (", "=> (float[N,4,4,9] others, "),
        names=(),
    )  # fmt: skip


def _not_finite() -> onnx.ModelProto:
    model = tiny()
    weight = next(t for t in model.graph.initializer if t.name == "cls0_w")
    values = numpy_helper.to_array(weight).copy()
    values[0, 0, 0, 0] = np.nan
    weight.CopyFrom(numpy_helper.from_array(values, "cls0_w"))
    return model


@pytest.mark.parametrize(
    ("model", "options", "code", "words"),
    [
        (tiny, ["--keep", "1-9"], 2, "ids are 0 to 5"),
        (tiny, ["--keep", "catt"], 2, "nearest names: cat"),
        (tiny, ["--keep", "cat,1-2"], 2, "kept twice"),
        (tiny, ["--keep", ""], 2, "no class"),
        (tiny, ["--keep", "background"], 2, "only the background"),
        (tiny, ["--keep", "@missing.txt"], 2, "missing.txt"),
        (tiny, ["--keep", "1", "--labels", "voc"], 2, "do not fit"),
        (tiny, ["--keep", "1", "--background", "middle"], 2, "--background"),
        (tiny, ["--keep", "1", "--head", "make_nothing"], 2, "make_nothing"),
        (tiny, ["--keep", "1", "--input-shape", "images:3"], 2, "--input-shape"),
        (tiny, ["--keep", "1", "--input", "missing.npz"], 2, "missing.npz"),
        (tiny, ["--keep", "1", "--image", "missing.jpg"], 2, "missing.jpg"),
        (tiny, ["--keep", "1", "--preprocess", "imagenet"], 2, "--image"),
        (tiny, ["--keep", "1", "--provider", "abacus"], 2, "abacus"),
        (tiny, ["--kep", "1"], 2, "--kep"),
        (tiny, [], 2, "--keep"),
        (lambda: tiny(RAW, names=()), ["--keep", "1"], 2, "--background first"),
        (_not_finite, ["--keep", "1"], 2, "NaN"),
        (_without_head, ["--keep", "1"], 3, "head"),
        (_disagreeing, ["--keep", "1"], 3, "--head"),
        (foreign_op, ["--keep", "1"], 3, "Blend"),
    ],
)
def test_what_cannot_be_done_is_said_with_the_way_out(
    model: Callable[[], onnx.ModelProto],
    options: list[str],
    code: int,
    words: str,
    *,
    tmp_path: Path,
    run_here: Callable[..., Done],
) -> None:
    path = saved(model(), tmp_path / "m.onnx")
    done = run_here("cut", path, *options, "--output", "out.onnx")
    assert words in done.err
    assert done.code == code
    assert done.err.startswith("error: ")
    assert done.out == ""
    assert "Traceback" not in done.err
    assert list(tmp_path.iterdir()) == [path]


def _external(folder: Path, location: str) -> Path:
    model = tiny()
    onnx.save(model, folder / "m.onnx", save_as_external_data=True, location="weights.bin",
              size_threshold=0)  # fmt: skip
    model = onnx.load(folder / "m.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    return Path(saved(model, folder / "m.onnx"))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda at: at.write_text("weights"), "not an ONNX model"),
        (lambda at: at.write_bytes(tiny().SerializeToString()[:5000]), "truncated"),
        (lambda at: at.write_bytes(b""), "empty"),
        (lambda at: at.write_text("version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
        (lambda at: at.write_bytes(gzip.compress(tiny().SerializeToString())), "gzip"),
        (lambda at: at.write_bytes(b"PK\x03\x04 archive/data.pkl"), "export to ONNX"),
        (lambda at: at.write_text("\n<!DOCTYPE html><title>404</title>"), "download"),
        (lambda at: at.write_bytes(b"\x1c\0\0\0TFL3"), "TFLite"),
        (lambda at: at.mkdir(), "directory"),
        (lambda _: None, "does not exist"),
        (lambda at: _external(at.parent, "elsewhere.bin"), "missing"),
        (lambda at: _external(at.parent, "../weights.bin"), "outside"),
        (lambda at: _external(at.parent, "/etc/hosts"), "outside"),
    ],
)
def test_what_is_no_model_is_refused(
    make: Callable[[Path], object], words: str, tmp_path: Path, run_here: Callable[..., Done]
) -> None:
    make(tmp_path / "m.onnx")
    before = set(tmp_path.iterdir())
    done = run_here("cut", "m.onnx", "--keep", "1", "--output", "out.onnx")
    assert words in done.err
    assert (done.code, done.out) == (2, "")
    assert set(tmp_path.iterdir()) == before


# ---------------------------------------------------------------------------------- outputs


def test_an_output_that_exists_needs_force(
    model_path: Path, tmp_path: Path, run_here: Callable[..., Done]
) -> None:
    out = tmp_path / "out.onnx"
    out.write_text("mine")
    arguments = ("cut", model_path, "--keep", "1", "--output", out, "--no-validate")
    done = run_here(*arguments)
    assert (done.code, out.read_text()) == (2, "mine")
    assert "--force" in done.err
    assert run_here(*arguments, "--force").code == 0
    assert columns(out) == 2


def test_the_input_is_not_overwritten_by_accident(
    tmp_path: Path, run_here: Callable[..., Done]
) -> None:
    model = saved(tiny(), tmp_path / "m.onnx")
    before = model.read_bytes()
    arguments = ("cut", model, "--keep", "1", "--output", model, "--no-validate")
    done = run_here(*arguments)
    assert (done.code, model.read_bytes()) == (2, before)
    assert "is the input" in done.err
    assert run_here(*arguments, "--force").code == 0
    assert columns(model) == 2


@pytest.mark.parametrize("output", ["no/folder/out.onnx", "m.onnx/out.onnx", "."])
def test_an_output_that_cannot_be_is_refused_before_any_work(
    output: str, tmp_path: Path, run_here: Callable[..., Done]
) -> None:
    saved(tiny(), tmp_path / "m.onnx")
    done = run_here("cut", "m.onnx", "--keep", "1", "--output", output)
    assert done.code == 2
    assert done.err.startswith("error: ")


NO_BYTECODE = "import sys; sys.dont_write_bytecode = True"
"""For a process with a bound on files: Python would cut bytecode off there, and never notice."""


@pytest.mark.skipif(os.name != "posix", reason="limits and signals of POSIX")
@pytest.mark.parametrize(
    ("accident", "code"),
    [
        (f"{NO_BYTECODE}; import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))", 2),
        ("import os, signal; os.fsync = lambda _: os.kill(os.getpid(), signal.SIGINT)", 130),
        ("import os, signal; os.fsync = lambda _: os.kill(os.getpid(), signal.SIGTERM)", 143),
    ],
    ids=["disk full", "Ctrl-C", "terminated"],
)
def test_accidents_leave_nothing_behind(
    accident: str, code: int, model_path: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.onnx"
    out.write_text("old")
    arguments = ("cut", model_path, "--keep", "1-4", "--output", out, "--no-validate", "--force")
    done = run_cli(*arguments, code=accident)
    assert done.code == code, done.err
    assert "Traceback" not in done.err
    assert list(tmp_path.iterdir()) == [out]
    assert out.read_text() == "old"
