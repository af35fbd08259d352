"""Strangers' models: a clear error and exit code 2 or 3, soon, in bounded memory, and no output."""

from __future__ import annotations

import sys
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from conftest import LONG, run_cli, tiny
from hostile import KEEP, refused, tensor
from onnx import TensorProto, helper, numpy_helper

import onnx_headcut as hc
from onnx_headcut.graph.facts import Fact
from onnx_headcut.graph.interpreter import Interpreter

if TYPE_CHECKING:
    from collections.abc import Callable

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


# ------------------------------------------------------------------------------- external data


def outside(model: onnx.ModelProto, **entries: object) -> None:
    """Let a head's weights lie elsewhere."""
    weight = tensor(model, "cls0_w")
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        weight.external_data.add(key=key, value=str(value))


SIZE = 12 * 8 * 9 * 4


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"location": "/etc/passwd"}, "outside the model's folder"),
        ({"location": "../secret"}, "outside the model's folder"),
        ({"location": "sub/../../secret"}, "outside the model's folder"),
        ({"location": "C:\\secret"}, "outside the model's folder"),
        ({"location": ""}, "outside the model's folder"),
        ({"location": "."}, "missing"),
        ({"location": "gone"}, "missing"),
        ({"location": "data\0"}, "missing"),
        ({"location": "x" * 5000}, "missing"),
        ({}, "outside the model's folder"),
        ({"location": "data", "offset": -1, "length": SIZE}, "no usable place"),
        ({"location": "data", "offset": 0, "length": -SIZE}, "no usable place"),
        ({"location": "data", "offset": "1e3", "length": SIZE}, "no usable place"),
        ({"location": "data", "offset": "9" * 6000, "length": SIZE}, "no usable place"),
        ({"location": "data", "offset": 1, "length": SIZE}, "too short"),
        ({"location": "data", "offset": 1 << 62, "length": SIZE}, "too short"),
        ({"location": "data", "offset": 0, "length": 1 << 62}, "too short"),
        ({"location": "data", "offset": 0, "length": SIZE - 4}, "needs"),
    ],
)
def test_external_data(tmp_path: Path, entries: dict[str, object], message: str) -> None:
    (tmp_path / "secret").write_bytes(bytes(SIZE))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "data").write_bytes(bytes(SIZE))
    model = tiny()
    outside(model, **entries)
    assert message in refused(model, folder)


def test_a_location_that_is_no_text(tmp_path: Path) -> None:
    model = tiny()
    outside(model, location="data")
    tensor(model, "cls0_w").external_data[0].MergeFromString(b"\x12\x02\xff\xfe")
    assert "not text" in refused(model, tmp_path)


def test_a_length_that_is_said_twice_and_left_empty(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(bytes(SIZE))
    model = tiny()
    outside(model, location="data", offset=0, length="")
    tensor(model, "cls0_w").external_data.add(key="length", value=str(SIZE - 4))
    assert "needs" in refused(model, tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
@pytest.mark.parametrize("target", ["../secret", "/etc/passwd", "data"])
def test_links(tmp_path: Path, target: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(bytes(SIZE))
    (folder / "data").write_bytes(bytes(SIZE))
    (folder / "link").symlink_to(target)
    model = tiny()
    outside(model, location="link", offset=0, length=SIZE)
    assert "symbolic link" in refused(model, folder)


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_a_linked_folder(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "data").write_bytes(bytes(SIZE))
    (folder / "sub").symlink_to(tmp_path)
    model = tiny()
    outside(model, location="sub/data", offset=0, length=SIZE)
    assert "symbolic link" in refused(model, folder)


# --------------------------------------------------------------- billions declared in a few bytes


def with_constant(name: str, value: object) -> TensorProto:
    return numpy_helper.from_array(np.asarray(value, np.int64), name)


def bomb(op: str, *inputs: object) -> Callable[[onnx.ModelProto], None]:
    """Add to the logits what an op blows up to billions of elements, summed up again."""

    def change(model: onnx.ModelProto) -> None:
        names = []
        for k, value in enumerate(inputs):
            names.append(value if isinstance(value, str) else f"bomb{k}")
            if not isinstance(value, str):
                model.graph.initializer.append(with_constant(f"bomb{k}", value))
        at = next(i for i, n in enumerate(model.graph.node) if "scores" in n.output)
        new = [
            helper.make_node(op, names, ["blown"]),
            helper.make_node("Cast", ["blown"], ["float"], to=TensorProto.FLOAT),
            helper.make_node("ReduceSum", ["float"], ["sum"], keepdims=0),
            helper.make_node("Add", ["logits", "sum"], ["logits2"]),
        ]
        model.graph.node[at].input[0] = "logits2"
        for k, made in enumerate(new):
            model.graph.node.insert(at + k, made)

    return change


def wide_head(model: onnx.ModelProto) -> None:
    """Billions of places in the picture."""
    for k in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[k].dim_value = 1 << 20


def wide_picture(model: onnx.ModelProto) -> None:
    """Places enough to take minutes and gigabytes, where those are given."""
    for k in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[k].dim_value = 1 << 14


def wide_reshape(model: onnx.ModelProto) -> None:
    tensor(model, "to_scores").raw_data = np.array([0, 1 << 40, 6]).tobytes()


@pytest.mark.parametrize(
    "change",
    [
        bomb("ConstantOfShape", [1 << 20, 1 << 20]),
        bomb("ConstantOfShape", [1 << 62]),
        bomb("Range", 0, 1 << 60, 1),
        bomb("Expand", [[1]], [1 << 20, 1 << 20]),
        bomb("Tile", [[1, 2]], [1 << 20, 1 << 20]),
        bomb("Tile", "logits", [1 << 20, 1 << 20, 1]),
        bomb("Expand", "logits", [1 << 20, 1, 1, 1]),
        wide_head,
        wide_picture,
        wide_reshape,
    ],
)
def test_billions_of_elements(tmp_path: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    """In 3 GiB of address space and half a minute: a cut that needs none of them, or a refusal."""
    model = tiny()
    change(model)
    path = tmp_path / "bomb.onnx"
    path.write_bytes(model.SerializeToString())
    limit = (
        "import resource\n"
        "resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))\n"
        "resource.setrlimit(resource.RLIMIT_CPU, (30, 30))"
        if sys.platform == "linux"
        else ""
    )
    done = run_cli("cut", path, "--keep", KEEP, "--no-validate", "--output", tmp_path / "out.onnx",
                   code=limit)  # fmt: skip
    assert done.code in {0, 2, 3}, done.err
    assert "Traceback" not in done.err
    assert (tmp_path / "out.onnx").exists() == (done.code == 0)


@pytest.mark.parametrize("change", [wide_head, wide_picture, bomb("Tile", "logits", [1 << 20, 9, 1])])
def test_too_many_scores_are_refused_before_they_are_numbered(
    change: Callable[[onnx.ModelProto], None],
) -> None:
    """Whatever the memory: at the node, with a way out."""
    model = tiny()
    change(model)
    tracemalloc.start()
    with pytest.raises(hc.GraphRefused, match="too many to be followed") as caught:
        hc.cut(model, KEEP, validation=False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert caught.value.node
    assert "--input-shape" in caught.value.advice
    assert peak < 1 << 26


def test_a_mistake_of_ours_is_not_taken_for_a_shape_that_nothing_is_known_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def mistaken(*_: object) -> None:
        raise TypeError("ours")

    monkeypatch.setattr(Interpreter, "_shape_of", mistaken)
    model = tiny()
    model.graph.node.append(helper.make_node("Shape", [model.graph.input[0].name], ["shape"]))
    with pytest.raises(hc.GraphRefused, match="cannot be followed: TypeError: ours"):
        hc.cut(model, KEEP, validation=False)


def test_packed_weights_that_do_not_say_their_size_are_of_an_unknown_one() -> None:
    node = helper.make_node("MatMulNBits", ["a", "b", "s"], ["y"], domain="com.microsoft", bits=4)
    known = [Fact((2, 8), TensorProto.FLOAT), Fact((4, 1, 4), TensorProto.UINT8), Fact((4,), 1)]
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    assert Interpreter(opsets, 10).infer(node, known)[0].shape is None
    node.attribute.extend([helper.make_attribute("K", 8), helper.make_attribute("N", 4)])
    assert Interpreter(opsets, 10).infer(node, known)[0].shape == (2, 4)


# ------------------------------------------------------------------------------ names and fuzz


def test_names_that_collide_with_ours(tmp_path: Path) -> None:
    """Values already called what the cut would call new ones: both are kept apart."""
    model = tiny()
    for name in ("cls0_w_cut", "to_scores_cut", "cls0_kept", "scores_kept", "scores_ids"):
        model.graph.node.append(helper.make_node("Identity", ["stem"], [name], name=name))
        made = helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 8, 8, 8])
        model.graph.output.append(made)
    helper.set_model_props(model, {"names": str(["bg", "cat", "dog", "cow", "hen", "fox"])})
    assert hc.cut(model, KEEP, tmp_path / "out.onnx").exit_code == 0
    onnx.checker.check_model(onnx.load(tmp_path / "out.onnx"))


@pytest.mark.parametrize("content", [b"", b"\x00" * 100, b"PK\x03\x04", b"\xff" * 1000, b"{}"])
def test_what_is_no_model(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(content)
    for validation in (False, True):
        with pytest.raises(hc.InputError):
            hc.cut(path, KEEP, tmp_path / "out.onnx", validation=validation)
    assert [p.name for p in tmp_path.iterdir()] == ["a.onnx"]


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.99])
def test_what_is_cut_off(tmp_path: Path, part: float) -> None:
    data = tiny().SerializeToString()
    path = tmp_path / "a.onnx"
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(hc.HeadcutError) as caught:
        hc.cut(path, KEEP, tmp_path / "out.onnx", validation=False)
    assert caught.value.exit_code in {2, 3}


@pytest.mark.skipif(sys.platform != "linux", reason="bounds processes")
def test_mutated_real_graphs() -> None:
    """What benchmarks/fuzz.py does, with the smaller graphs."""
    cases = 2000 if LONG else 500
    done = run_cli(code=f"""
import sys
sys.path.insert(0, {str(BENCHMARKS)!r})
import fuzz
found = fuzz.run(range({cases}), jobs=2, limit=15_000)
print(found.cases, found.outcomes, list(fuzz.grouped(found)))
raise SystemExit(1 if found.findings or found.cases != {cases} else 0)
""")  # fmt: skip
    assert done.code == 0, done.out + done.err
