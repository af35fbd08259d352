"""The command line as its users meet it: a process with arguments, two streams and an exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from conftest import RAW, Done, run_cli, saved, tiny
from onnx import helper, numpy_helper
from PIL import Image

import onnx_headcut
from onnx_headcut.tables import _dependence
from onnx_headcut.tracing.plan import OutputClasses

if TYPE_CHECKING:
    from collections.abc import Callable

NO_RUNTIME = "import sys; sys.modules['onnxruntime'] = None"
HEAVY = {"onnx", "pydantic", "onnxruntime", "numpy", "yaml", "PIL", "rich", "google"}
SPARED = {"pydantic", "onnxruntime", "yaml", "PIL"}
"""What a cut that is not validated has no need of."""


def columns(model: Path) -> int:
    dims = onnx.load(model).graph.output[0].type.tensor_type.shape.dim
    return int(dims[-1].dim_value)


def foreign_op() -> onnx.ModelProto:
    model = tiny(("scores = Softmax <axis = 2> (logits)", "scores = Blend (logits)"))
    next(n for n in model.graph.node if n.op_type == "Blend").domain = "acme"
    model.opset_import.append(helper.make_opsetid("acme", 1))
    return model


# ------------------------------------------------------------------------- the three commands


def test_a_cut_is_validated_written_and_told(
    model_path: Path, tmp_path: Path, run_here: Callable[..., Done]
) -> None:
    out = tmp_path / "small.onnx"
    done = run_cli("cut", model_path, "--keep", "fox,cat", "--output", out, "--provider", "cpu")
    assert done.code == 0, done.err
    assert columns(out) == 3
    said = " ".join(done.out.split())
    for words in (
        "head channels 30 15 -50.0%",
        "3 of 6 columns: 0 background, 1 fox (was 5), 2 cat (was 1)",
        "Background column 0 (labels name it)",
        "Validated passed",
        "3 of 3 kept columns",
        "Ran on cpu",
    ):
        assert words in said
    assert list(tmp_path.iterdir()) == [out]

    again = run_here("validate", model_path, out, "--json")
    assert again.code == 0
    validation = json.loads(again.out)["validation"]
    assert validation["status"] == "passed"
    assert sum(row["values"] for row in validation["outputs"]) > 1000


def test_inspect_lists_heads_classes_and_savings(model_path: Path) -> None:
    done = run_cli("inspect", model_path, code=NO_RUNTIME)
    assert done.code == 0, done.err
    said = " ".join(done.out.split())
    for words in (
        "make_cls0 Conv 12x8x3x3",
        "0 background, 1 cat, 2 dog",
        "columns 0-5 of axis 2 are class scores",
        "metadata 'names'",
        "multiply-adds",
    ):
        assert words in said


def test_inspect_lists_heads_where_the_background_is_not_known(
    tmp_path: Path, run_here: Callable[..., Done]
) -> None:
    onnx.save(tiny(RAW, names=()), tmp_path / "raw.onnx")
    done = run_here("inspect", "raw.onnx")
    assert done.code == 0
    assert "make_cls0" in done.out
    assert "not known: the scores do not show it" in " ".join(done.out.split())
    document = json.loads(run_here("inspect", "raw.onnx", "--json").out)
    assert document["classes"]["background"] is None
    assert document["classes"]["background_why"].startswith("not known")
    done = run_here("cut", "raw.onnx", "--keep", "1", "--dry-run")
    assert (done.code, "--background" in done.err) == (2, True)


def test_inspect_says_it_to_machines(model_path: Path, run_here: Callable[..., Done]) -> None:
    document = json.loads(run_here("inspect", model_path, "--json").out)
    assert document["schema"] == 1
    assert document["command"] == "inspect"
    assert [head["classes"] for head in document["heads"]] == [6, 6]
    assert document["classes"]["names"][5] == "fox"
    assert document["savings"][0]["classes"] == 1


def test_multiply_adds_are_those_of_one_picture(tmp_path: Path, run_here: Callable[..., Done]) -> None:
    model = tiny()
    alone = onnx_headcut.inspect(model)
    dims = model.graph.input[0].type.tensor_type.shape.dim
    assert alone.figures.macs == onnx_headcut.inspect(_with_batch(model, 1)).figures.macs
    assert 3 * alone.figures.macs == onnx_headcut.inspect(_with_batch(model, 3)).figures.macs
    given = onnx_headcut.inspect(model, input_shapes={"images": [3, *(d.dim_value for d in dims[1:])]})
    assert 3 * alone.figures.macs == given.figures.macs
    assert [h.macs for h in given.heads] == [3 * h.macs for h in alone.heads]
    saved(model, tmp_path / "m.onnx")
    said = " ".join(run_here("inspect", "m.onnx").out.split())
    assert "multiply-adds for images 1x3x32x32" in said
    assert "scores ?x" in said


def _with_batch(model: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = batch
    return fixed


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (OutputClasses("o", (1, 9), "class ids", convention="column - 1"), "the head's column - 1"),
        (OutputClasses("o", (1, 9), "class ids", convention="numbers of the model's own"), "own"),
        (OutputClasses("o", (1, 9, 6), "detections with class ids", 2, "5", "column"), "in column 5:"),
    ],
)
def test_class_ids_are_told_with_what_they_count(output: OutputClasses, words: str) -> None:
    assert words in _dependence(output)


def test_an_assumed_background_is_called_so(tmp_path: Path, run_here: Callable[..., Done]) -> None:
    model = saved(tiny(names=()), tmp_path / "m.onnx")
    done = run_here("cut", model, "--keep", "3", "--dry-run")
    assert "assumed" in done.out
    kept = " ".join(done.out.split())
    assert "2 of 6 columns: 0 background, class 1 (was 3)" in kept


def test_a_dry_run_prints_the_plan_and_writes_nothing(
    model_path: Path, tmp_path: Path, run_here: Callable[..., Done]
) -> None:
    out = tmp_path / "small.onnx"
    done = run_here("cut", model_path, "--keep", "1-2", "--output", out, "--dry-run")
    assert done.code == 0
    assert "Reshape 'make_cls0_rows'" in done.out
    assert not out.exists()
    document = json.loads(run_here("cut", model_path, "--keep", "1-2", "--dry-run", "--json").out)
    assert document["plan"]
    assert document["output"] is None
    assert document["figures"]["after"] is None


def test_the_users_own_inputs_are_used(
    tmp_path: Path, model_path: Path, run_here: Callable[..., Done]
) -> None:
    arrays = tmp_path / "in.npz"
    np.savez(arrays, images=np.ones((2, 3, 32, 32), np.float32))
    cut = tmp_path / "cut.onnx"
    done = run_here("cut", model_path, "--keep", "dog", "--output", cut, "--input", arrays, "--json")
    assert done.code == 0, done.err
    own, other = json.loads(done.out)["validation"]["feeds"]
    assert own == "in.npz"
    assert other.startswith("synthetic")  # of another batch, which the model takes, too


def test_an_assumed_preprocessing_is_told(
    tmp_path: Path, model_path: Path, run_here: Callable[..., Done]
) -> None:
    Image.new("RGB", (40, 30), "red").save(tmp_path / "red.png")
    cut = tmp_path / "cut.onnx"
    onnx_headcut.cut(model_path, "dog", cut, validation=False)
    asked = ("validate", model_path, cut, "--image", "red.png")
    said = " ".join(run_here(*asked).out.split())
    assert "unit is assumed" in said
    assert "on 2 inputs " in said
    assert "assumed (--preprocess)" not in run_here(*asked, "--preprocess", "imagenet").out


def test_keeping_everything_is_a_copy(
    model_path: Path, tmp_path: Path, run_here: Callable[..., Done]
) -> None:
    out = tmp_path / "same.onnx"
    assert run_here("cut", model_path, "--keep", "1-5", "--output", out).code == 0
    assert out.read_bytes() == model_path.read_bytes()
    done = run_here("cut", model_path, "--keep", "1-5", "--dry-run")
    assert "byte for byte" in done.out
    assert "Conv" not in done.out  # nothing is edited, and no edit is told
    done = run_here("cut", model_path, "--keep", "1-5", "--dry-run", "--json")
    assert json.loads(done.out)["plan"] == []


def test_a_cut_needs_no_runtime_unless_it_validates(model_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    arguments = ("cut", model_path, "--keep", "cow", "--output", out)
    done = run_cli(*arguments, code=NO_RUNTIME)
    assert (done.code, out.exists()) == (4, False)
    assert "onnxruntime" in done.err
    done = run_cli(*arguments, "--no-validate", code=NO_RUNTIME)
    assert done.code == 0, done.err
    assert "no: --no-validate" in done.out
    assert columns(out) == 2


def test_the_same_input_gives_the_same_bytes(model_path: Path, tmp_path: Path) -> None:
    written = []
    for seed in ("1", "2"):
        out = tmp_path / f"{seed}.onnx"
        options = ("--keep", "fox,dog", "--output", out, "--no-validate")
        assert run_cli("cut", model_path, *options, env={"PYTHONHASHSEED": seed}).code == 0
        written.append(out.read_bytes())
    assert written[0] == written[1]


def test_a_wrong_cut_fails_validation(
    model_path: Path, tmp_path: Path, run_here: Callable[..., Done]
) -> None:
    cut = tmp_path / "cut.onnx"
    run_here("cut", model_path, "--keep", "1-3", "--output", cut, "--no-validate")
    model = onnx.load(cut)
    bias = next(t for t in model.graph.initializer if t.name.startswith("cls1_b"))
    swapped = numpy_helper.to_array(bias).copy()
    swapped[[1, 2]] = swapped[[2, 1]]
    bias.CopyFrom(numpy_helper.from_array(swapped, bias.name))
    onnx.save(model, cut)
    done = run_here("validate", model_path, cut)
    assert done.code == 1
    assert "failed" in done.out


# ---------------------------------------------------------------------------------- streams


def test_with_json_nothing_else_is_on_stdout(model_path: Path, tmp_path: Path) -> None:
    chatter = """
import os, onnx_headcut.cutting as c
quiet = c.understand
def loud(*arguments):
    print("from Python"); os.write(1, b"from C")
    return quiet(*arguments)
c.understand = loud
"""
    options = ("--keep", "1", "--output", tmp_path / "o.onnx", "--no-validate", "--json")
    done = run_cli("cut", model_path, *options, code=chatter)
    document = json.loads(done.out)
    assert document["keep"] == [0, 1]
    assert document["figures"]["after"]["channels"] == 10
    assert "from C" in done.err


@pytest.mark.parametrize(
    ("arguments", "code", "kind"),
    [
        (["inspect", "missing.onnx", "--json"], 2, "InputError"),
        (["cut", "m.onnx", "--json"], 2, "UsageError"),
        (["cut", "m.onnx", "--keep", "1", "--output", "o.onnx", "--json"], 3, "GraphRefused"),
    ],
)
def test_errors_are_json_too(
    arguments: list[str], code: int, kind: str, tmp_path: Path, run_here: Callable[..., Done]
) -> None:
    saved(foreign_op(), tmp_path / "m.onnx")
    done = run_here(*arguments)
    error = json.loads(done.out)["error"]
    assert (done.code, error["exit_code"], error["kind"]) == (code, code, kind)
    assert error["message"]
    if kind == "GraphRefused":
        assert error["op"] == "Blend"


def test_a_bug_is_owned_up_to(model_path: Path) -> None:
    bug = "import onnx_headcut.cutting as c; c.inspect = lambda *a, **k: {}['lost']"
    done = run_cli("inspect", model_path, code=bug)
    assert done.code == 70
    assert "This is a bug" in done.err
    assert "Traceback" not in done.err


def test_a_bug_has_a_traceback_for_those_who_ask(
    model_path: Path, run_here: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_headcut, "inspect", lambda *_, **__: {}["lost"])
    monkeypatch.setenv("HEADCUT_DEBUG", "1")
    done = run_here("inspect", model_path)
    assert (done.code, "Traceback" in done.err) == (70, True)


def test_names_from_a_model_cannot_write_to_the_terminal(
    tmp_path: Path, run_here: Callable[..., Done]
) -> None:
    names = ("background", "c\x1b[2Jt", "d\u202eog", "cow", "hen", "fox")
    model = saved(tiny(names=names), tmp_path / "m.onnx")
    done = run_here("inspect", model)
    assert done.code == 0, done.err
    assert "\x1b" not in done.out
    assert r"c\x1b[2Jt" in done.out


def test_plain_streams_get_plain_text(model_path: Path) -> None:
    done = run_cli("inspect", model_path, env={"PYTHONIOENCODING": "ascii", "COLUMNS": "30"})
    assert done.code == 0, done.err
    assert "\x1b" not in done.out + done.err
    assert "make_cls0" in done.out
    assert max(map(len, done.out.splitlines())) <= 30


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_stdout_that_takes_nothing_is_an_error(model_path: Path, options: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = run_cli("inspect", model_path, *options, stdout=full)
    assert done.code == 2
    assert done.err == "error: No space left on device\n"


@pytest.mark.skipif(os.name != "posix", reason="pipes of POSIX")
def test_a_reader_that_leaves_is_no_error_to_tell(model_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as nobody:
        done = run_cli("inspect", model_path, stdout=nobody)
    assert (done.code, done.err) == (141, "")


# ------------------------------------------------------------------------------- help, version


def test_version_and_help(run_here: Callable[..., Done]) -> None:
    assert run_here("--version").out == f"onnx-headcut {onnx_headcut.__version__}\n"
    assert "Exit codes" in run_here().out
    assert "--keep SPEC" in run_here("cut", "--help").out


@pytest.mark.parametrize(
    ("arguments", "heavy"),
    [
        (["cut", "--help"], HEAVY),
        (["cut", "m.onnx", "--keep", "1", "--no-validate", "--json", "--output", "o.onnx"], SPARED),
    ],
    ids=["help", "cut"],
)
def test_what_is_not_needed_is_not_imported(
    arguments: list[str], heavy: set[str], tmp_path: Path
) -> None:
    saved(tiny(), tmp_path / "m.onnx")
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "onnx_headcut", *arguments],
        cwd=tmp_path,
        capture_output=True,
        check=True,
        text=True,
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "typer" in imported
    assert not {name for name in imported if name.partition(".")[0] in heavy}


def test_ctrl_c_while_the_command_line_is_imported_is_told_as_later() -> None:
    interrupting = (
        "import sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'onnx_headcut.cli': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Finder())\n"
        "from onnx_headcut.__main__ import main\n"
        "sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", interrupting], capture_output=True, check=False, text=True
    )
    assert (done.returncode, done.stderr) == (130, "error: interrupted\n")
