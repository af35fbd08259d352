"""onnxruntime behind one door: what runs, where it ran, what is said when it does not."""

from __future__ import annotations

import gc
import subprocess
import sys
import tempfile
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import parser
from running import FEED, HEAD, RELU, cuda_works

import onnx_headcut as hc
from onnx_headcut.errors import HeadcutError, InputError
from onnx_headcut.validation import runtime
from onnx_headcut.validation.providers import reason
from onnx_headcut.validation.runtime import RuntimeFailure, open_session, placement

LOOP = parser.parse_model(
    f"""{HEAD} g (float[1,3] x) => (float[1,3] y) {{
      n = Constant <value = int64 {{5}}> ()
      on = Constant <value = bool {{1}}> ()
      y = Loop <body = b (int64 i, bool go, float[1,3] s) => (bool again, float[1,3] t)
                {{ again = Identity(go) t = Sin(s) }}> (n, on, x)
    }}"""
)
STOPPED = "Non-zero status code while running Reshape node. Name:'r' Status Message:"


@pytest.mark.parametrize("as_what", ["proto", "bytes", "path"])
def test_a_model_runs_however_it_is_given(as_what: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(RELU, path)
    model = {"proto": RELU, "bytes": RELU.SerializeToString(), "path": path}[as_what]
    session = open_session(model, provider="cpu")
    assert (session.provider, session.providers) == ("cpu", ("cpu",))
    assert (session.input_names, session.output_names) == (("x",), ("y",))
    assert session.run(FEED)["y"].tolist() == [[0, 2, 0]]


def test_importing_does_not_load_onnxruntime() -> None:
    code = "import sys, onnx_headcut.validation.runtime; sys.exit('onnxruntime' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# ------------------------------------------------------------------ placement


def test_every_node_is_counted_once_and_nothing_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert placement(RELU, FEED, provider="cpu") == {"cpu": 2}
    plain = open_session(LOOP, provider="cpu", optimization="none")
    once = placement(plain, FEED)
    assert set(once) == {"cpu"}
    assert once["cpu"] in (3, 4, 5)  # Loop, Identity and Sin, not five of each; constants may run
    assert list(tmp_path.iterdir()) == []
    assert plain.run(FEED)  # the session itself goes on


def test_a_profile_of_an_older_version_may_hold_a_name_with_a_quote(tmp_path: Path) -> None:
    def line(name: str) -> str:
        return f'{{"cat" : "Node","name" :"{name}","args" : {{"provider" : "CUDAExecutionProvider"}}}}'

    path = tmp_path / "profile.json"
    lines = ",\n".join(map(line, ("a", 'the "b"', "c")))
    path.write_text(f"[\n{lines}\n]\n")
    assert runtime.read_placement(path) == {"cuda": 2}


def test_placement_proves_cuda_where_it_works() -> None:
    if not cuda_works():
        pytest.skip("CUDA cannot be used here")
    assert placement(RELU, FEED, provider="cuda") == {"cuda": 2}


def test_a_profile_is_left_where_it_is_asked_for(tmp_path: Path) -> None:
    session = open_session(RELU, provider="cpu", profile_to=tmp_path)
    session.run(FEED)
    assert session.end_profile().parent == tmp_path


# ------------------------------------------------------------------ weights in other files


@pytest.fixture
def with_external_data(tmp_path: Path) -> Path:
    model = parser.parse_model(f"{HEAD} g (float[1,512] x) => (float[1,512] y) {{ y = Add(x, w) }}")
    weights = np.arange(512, dtype=np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    path = tmp_path / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="m.data", size_threshold=0)
    return path


def test_external_data_is_found_by_path_and_by_folder(with_external_data: Path) -> None:
    path = with_external_data
    proto = onnx.load(path, load_external_data=False)
    feed = {"x": np.zeros((1, 512), np.float32)}
    for session in (
        open_session(path, provider="cpu"),
        open_session(proto, provider="cpu", external_data_dir=path.parent),
    ):
        assert session.run(feed)["y"][0, -1] == 511
        assert placement(session, feed) == {"cpu": 1}


def test_external_data_that_is_not_found_is_an_input_error(with_external_data: Path) -> None:
    path = with_external_data
    with pytest.raises(InputError, match="external_data_dir"):
        open_session(onnx.load(path, load_external_data=False), provider="cpu")
    (path.parent / "m.data").unlink()
    with pytest.raises(InputError, match="cannot load"):
        open_session(path, provider="cpu")


# ------------------------------------------------------------------ what onnxruntime refuses


def test_a_model_newer_than_the_runtime_is_told_the_way_out() -> None:
    model = onnx.ModelProto()
    model.CopyFrom(RELU)
    model.ir_version = 99
    with pytest.raises(InputError, match="IR version") as refused:
        open_session(model.SerializeToString(), provider="cpu")
    assert "--no-validate" in refused.value.advice


@pytest.mark.parametrize(
    ("model", "error"),
    [
        (b"", InputError),
        (b"no model", InputError),
        (RELU.SerializeToString()[:-30], InputError),
        (RELU.SerializeToString().replace(b"Relu", b"Rule"), InputError),
        (Path("nowhere.onnx"), InputError),
        (Path(), InputError),
    ],
)
def test_a_model_that_cannot_be_loaded(model: bytes | Path, error: type[HeadcutError]) -> None:
    with pytest.raises(error) as caught:
        open_session(model, provider="cpu")
    assert "[ONNXRuntimeError]" not in str(caught.value)


@pytest.mark.parametrize(
    "feed", [{}, {"z": FEED["x"]}, {"x": FEED["x"][:, :2]}, {"x": FEED["x"].astype(np.float64)}]
)
def test_a_feed_that_does_not_fit(feed: dict[str, np.ndarray]) -> None:
    with pytest.raises(RuntimeFailure) as caught:
        open_session(RELU, provider="cpu").run(feed)
    assert caught.value.exit_code == 1


@pytest.mark.parametrize(
    ("text", "useful"),
    [
        (
            f"[ONNXRuntimeError] : 6 : FAIL : {STOPPED} /s/shape.h:4 ort::A::A(const T&, b) sizes",
            f"{STOPPED} sizes",
        ),
        ("[ONNXRuntimeError] : 1 : FAIL : matmul_helper.h:59 Compute dims differ", "dims differ"),
        (
            "[ONNXRuntimeError] : 1 : FAIL : D:\\a\\_work\\x.cc:7 ort::F() bad\n\n stack",
            "bad stack",
        ),
        ("", "Exception"),
        (
            (
                "[ONNXRuntimeError] : 1 : FAIL : Exception during initialization: "
                "/o/ov/basic_backend.cc:136 ov::Backend::Backend(std::unique_ptr<P>&, T&) "
                "/o/ov/ov_interface.cc:28 auto ov::Boundary(Func&&, Args&& ...) "
                "[with bool typed = false; Args = {const s<char, t<char> >&}; F = b<char, c<char> >] "
                "[OpenVINO-EP] Exception while Loading Network: Exception from src/core.cpp:114:\n"
                "Check 'dims' failed at src/nms.cpp:116:\nNMS has unsupported input\n\n"
            ),
            (
                "Exception during initialization: [OpenVINO-EP] Exception while Loading Network: Check"
                " 'dims' failed at src/nms.cpp:116: NMS has unsupported input"
            ),
        ),
    ],
)
def test_the_useful_words_of_an_error(text: str, useful: str) -> None:
    assert reason(Exception(text)) == useful
    assert len(reason(Exception(text * 50))) <= 401


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=20))
def test_bfloat16_goes_in_rounded_to_nearest_and_comes_out_unchanged(numbers: list[float]) -> None:
    model = parser.parse_model(
        f"{HEAD} g (bfloat16[N] x) => (bfloat16[N] y, float[N] z)"
        "{ y = Identity(x) z = Cast <to = 1> (x) }"
    )
    given_values = np.array(numbers, np.float32)
    values = open_session(model, provider="cpu").run({"x": given_values})
    assert values["y"].tobytes() == values["z"].tobytes()
    with np.errstate(over="ignore"):
        want = onnx.numpy_helper.to_array(
            onnx.helper.make_tensor("t", onnx.TensorProto.BFLOAT16, [len(numbers)], given_values)
        )
    assert values["z"].tobytes() == want.astype(np.float32).tobytes()


# ------------------------------------------------------------------ what a process keeps


def test_sessions_go_with_the_validation_that_opened_them(
    model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without waiting for circles to be looked for: many cuts in one process keep their memory."""
    opened: list[weakref.ref[runtime.Session]] = []
    init = runtime.Session.__init__

    def seen(session: runtime.Session, *args: Any) -> None:
        init(session, *args)
        opened.append(weakref.ref(session))

    monkeypatch.setattr(runtime.Session, "__init__", seen)
    gc.collect()
    gc.disable()
    try:
        hc.cut(model_path, [1, 2], provider="cpu")
        assert len(opened) > 2
        assert [session() for session in opened] == [None] * len(opened)
    finally:
        gc.enable()


ABORTS = """<ir_version: 10, opset_import: ["": 21]>
g (float[1,8] x, bool c) => (float[1,4] y) <float s = {0.1}, int8 z = {0}> {
  q = QuantizeLinear (x, s, z)
  d = DequantizeLinear (q, s, z)
  zero = Constant <value = int64[1] {0}> ()
  four = Constant <value = int64[1] {4}> ()
  one = Constant <value = int64[1] {1}> ()
  part = Slice (d, zero, four, one)
  y = If (c) <then_branch = a () => (float[1,4] t) { t = Add (part, part) },
              else_branch = b () => (float[1,4] e) { e = Mul (part, part) }> }"""


def test_a_body_that_reads_what_was_dequantized_does_not_end_the_process() -> None:
    """onnxruntime 1.31 aborts on it, unless it is told to leave quantizers alone."""
    code = f"""
import numpy as np
from onnx import parser
from onnx_headcut.validation import runtime
session = runtime.open_session(parser.parse_model({ABORTS!r}), provider="cpu")
print(session.run({{"x": np.ones((1, 8), np.float32), "c": np.array(True)}})["y"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[[2. 2. 2. 2.]]\n"
