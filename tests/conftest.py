"""What several test files share: a small SSD, in text and in files; the command line as it is run."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import subprocess
import sys
import warnings
from contextlib import suppress
from dataclasses import dataclass
from itertools import cycle
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from hypothesis import settings
from onnx import helper, numpy_helper, parser

from onnx_headcut import cli, console, cut

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
"""Processes that tests start would each compile the package anew, which takes them 0.3 s."""

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # started in the background: processes would take over that Ctrl-C is nothing to them
    signal.signal(signal.SIGINT, signal.default_int_handler)

LONG = bool(os.environ.get("HEADCUT_LONG_TESTS"))
"""More of what is drawn by number, and big models run as well: `make test-long`."""


def dealt(names: Iterable[str], kinds: Iterable[Any], each: int = 1) -> list[tuple[str, Any]]:
    """Every name with every kind; by default with ``each`` of them, dealt out in turn."""
    known = [*kinds]
    each = len(known) if LONG else each
    turns = cycle(known)
    return [(name, next(turns)) for name in names for _ in range(each)]


def some(names: Iterable[str], first: int = 0, step: int = 2) -> list[str]:
    """Every name; by default each second from ``first`` on, or as ``step`` says."""
    return [*names] if LONG else [*names][first::step]


# How long an example takes says how busy the machine is.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

gc.set_threshold(20_000)
"""Thousands of tests and all that they import stay: looking for garbage there costs a tenth."""

if sys.platform == "linux":
    # memory of large models that was given back is not asked for again, which takes as long as they do
    with suppress(AttributeError):  # not of every C library
        for parameter, value in ((-4, 0), (-1, 1 << 30)):  # M_MMAP_MAX, M_TRIM_THRESHOLD
            ctypes.CDLL(None).mallopt(parameter, value)


def pytest_collection_finish() -> None:
    gc.freeze()


TINY_NAMES = ("background", "cat", "dog", "cow", "hen", "fox")

TINY = """
<ir_version: 8, opset_import: ["": 17]>
tiny (float[N,3,32,32] images) => (float[N,176,6] scores, float[N,176,4] boxes)
<float[8,3,3,3] stem_w, float[8,8,3,3] down_w,
 float[12,8,3,3] cls0_w, float[12] cls0_b, float[18,8,3,3] cls1_w, float[18] cls1_b,
 float[8,8,3,3] box0_w, float[12,8,3,3] box1_w,
 int64[3] to_scores = {0, -1, 6}, int64[3] to_boxes = {0, -1, 4}>
{
  stem = Conv <strides = [4, 4], pads = [1, 1, 1, 1]> (images, stem_w)
  level0 = Relu (stem)
  down = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (level0, down_w)
  level1 = Relu (down)
  cls0 = Conv <pads = [1, 1, 1, 1]> (level0, cls0_w, cls0_b)
  cls0_last = Transpose <perm = [0, 2, 3, 1]> (cls0)
  cls0_rows = Reshape (cls0_last, to_scores)
  cls1 = Conv <pads = [1, 1, 1, 1]> (level1, cls1_w, cls1_b)
  cls1_last = Transpose <perm = [0, 2, 3, 1]> (cls1)
  cls1_rows = Reshape (cls1_last, to_scores)
  logits = Concat <axis = 1> (cls0_rows, cls1_rows)
  scores = Softmax <axis = 2> (logits)
  box0 = Conv <pads = [1, 1, 1, 1]> (level0, box0_w)
  box0_last = Transpose <perm = [0, 2, 3, 1]> (box0)
  box0_rows = Reshape (box0_last, to_boxes)
  box1 = Conv <pads = [1, 1, 1, 1]> (level1, box1_w)
  box1_last = Transpose <perm = [0, 2, 3, 1]> (box1)
  box1_rows = Reshape (box1_last, to_boxes)
  boxes = Concat <axis = 1> (box0_rows, box1_rows)
}
"""
RAW = ("scores = Softmax <axis = 2> (logits)", "scores = Identity (logits)")


def from_text(text: str, seed: int = 0) -> onnx.ModelProto:
    """A model from text; what it declares without a value becomes a weight of seeded noise."""
    model = parser.parse_model(text)
    rng = np.random.default_rng(seed)
    made = {name for node in model.graph.node for name in node.output}
    for value in [v for v in model.graph.value_info if v.name not in made]:
        tensor = value.type.tensor_type
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        weight = rng.normal(size=[dim.dim_value for dim in tensor.shape.dim]).astype(dtype)
        model.graph.initializer.append(numpy_helper.from_array(weight, value.name))
        model.graph.value_info.remove(value)
    for node in model.graph.node:
        node.name = node.name or f"make_{node.output[0]}"
    return model


def tiny(*changes: tuple[str, str], names: tuple[str, ...] = TINY_NAMES) -> onnx.ModelProto:
    """A small SSD of two levels, background + 5 animals; ``changes`` are made to its text."""
    text = TINY
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    model = from_text(text)
    if names:
        helper.set_model_props(model, {"names": str(dict(enumerate(names)))})
    return model


def heavy(*, outside: int = 2048) -> onnx.ModelProto:
    """The tiny SSD, with a large convolution beside it."""
    model = tiny()
    weight = np.random.default_rng(1).normal(size=(outside, 3, 6, 6)).astype(np.float32)
    model.graph.initializer.insert(2, numpy_helper.from_array(weight, "wide_w"))
    node = helper.make_node("Conv", ["images", "wide_w"], ["wide"], "wide", strides=[16, 16])
    model.graph.node.append(node)
    shape = ["N", outside, 2, 2]
    model.graph.output.append(helper.make_tensor_value_info("wide", onnx.TensorProto.FLOAT, shape))
    return model


def saved(model: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def beside(tmp_path: Path) -> Path:
    """A model whose weights lie in a file beside it, heads and all."""
    folder = tmp_path / "from"
    folder.mkdir()
    onnx.save(
        heavy(), folder / "a.onnx", save_as_external_data=True, location="a.data", size_threshold=0
    )
    return folder / "a.onnx"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A file to be written, in a folder of its own."""
    folder = tmp_path / "out"
    folder.mkdir()
    return folder / "b.onnx"


@pytest.fixture(scope="session")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that no test changes: background + cat, dog, cow, hen, fox."""
    path = tmp_path_factory.mktemp("models") / "tiny.onnx"
    onnx.save(tiny(), path)
    return path


@pytest.fixture(scope="session")
def cut_path(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, cut to one class; no test changes it, either."""
    path = tmp_path_factory.mktemp("cut") / "small.onnx"
    cut(model_path, "cat", path, validation=False)
    return path


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str


def run_cli(
    *arguments: str | Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    code: str = "",
    stdout: IO[str] | int = subprocess.PIPE,
) -> Done:
    """The command line in a process of its own; ``code`` is Python to run in it first."""
    start = f"{code}\nfrom onnx_headcut.cli import main\nraise SystemExit(main())"
    done = subprocess.run(
        [sys.executable, "-c", start, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "COLUMNS": "100", **(env or {})},
        stdout=stdout,
        stderr=subprocess.PIPE,
        check=False,
        text=True,
        timeout=600,  # against hanging for ever, on however busy a machine
    )
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def run_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    """The same in this process and in a folder of the test's own: a second quicker each time."""
    monkeypatch.chdir(tmp_path)  # also for what the test itself does
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments: str | Path, cwd: Path = tmp_path) -> Done:
        monkeypatch.chdir(cwd)
        stdout = os.dup(1)  # with --json, the command line does not give it back
        try:
            with warnings.catch_warnings():
                code = console.run(cli.invoke, [str(argument) for argument in arguments])
        finally:
            os.dup2(stdout, 1)
            os.close(stdout)
        return Done(code, *capfd.readouterr())

    return run
