"""Reading without the weights: a cut has the bytes of one that read them all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from conftest import heavy, saved, tiny
from onnx import TensorProto, numpy_helper
from stored import KEEP

import onnx_headcut as hc
from onnx_headcut.graph import model as files
from onnx_headcut.storage import atomic, lean, wire

if TYPE_CHECKING:
    from pathlib import Path


def cut_bytes(path: Path, *, validation: bool, **options: object) -> bytes:
    output = path.with_name(f"cut-{validation}.onnx")
    hc.cut(path, KEEP, output, validation=validation, force=True, **options)  # type: ignore[arg-type]
    return output.read_bytes()


def as_floats(model: onnx.ModelProto) -> None:
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            values = numpy_helper.to_array(tensor).ravel()
            tensor.ClearField("raw_data")
            tensor.float_data.extend(values.tolist())


def as_doubles(model: onnx.ModelProto) -> None:
    values = np.arange(70_000, dtype=np.float64)
    tensor = TensorProto(name="unused", data_type=TensorProto.DOUBLE, dims=[70_000])
    tensor.double_data.extend(values.tolist())
    model.graph.initializer.append(tensor)


def as_old(model: onnx.ModelProto) -> None:
    model.ir_version = 3
    for t in model.graph.initializer:
        value = onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims)
        model.graph.input.append(value)


def with_unknown(model: onnx.ModelProto) -> None:
    """Fields of tomorrow: in a tensor, in the graph, in the model."""
    later = wire.header(900, 3) + b"new"
    model.graph.initializer[2].MergeFromString(later)
    model.graph.MergeFromString(later)
    model.MergeFromString(later)


@pytest.mark.parametrize("limit", [100, lean.LARGE])
@pytest.mark.parametrize("change", [as_floats, as_doubles, as_old, with_unknown, lambda _: None])
def test_a_lean_cut_has_the_bytes_of_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: object, limit: int
) -> None:
    monkeypatch.setattr(lean, "LARGE", limit)
    model = heavy()
    change(model)  # type: ignore[operator]
    path = saved(model, tmp_path / "a.onnx")
    noted = [t for t in files.load(path, small=True).proto.graph.initializer if lean.note_of(t)]
    assert noted
    assert all(not t.raw_data and not t.float_data for t in noted)
    assert cut_bytes(path, validation=False) == cut_bytes(path, validation=True)


def test_a_lean_model_is_whole_for_who_asks(tmp_path: Path) -> None:
    path = saved(heavy(), tmp_path / "a.onnx")
    lean_cut = hc.cut(path, KEEP, validation=False).model
    assert lean_cut == hc.cut(heavy(), KEEP, validation=False).model or (
        [t.name for t in lean_cut.graph.initializer if lean.note_of(t)] == []
    )
    wide = next(t for t in lean_cut.graph.initializer if t.name == "wide_w")
    assert wide.raw_data == heavy().graph.initializer[2].raw_data


def twice(data: bytes) -> bytes:
    """Two graphs in one file: protobuf merges them."""
    return data + wire.header(7, 0)


def raw_in_two(data: bytes) -> bytes:
    """The weights of a tensor twice: the last counts."""
    model = onnx.load_model_from_string(data)
    tensor = model.graph.initializer[2]
    body = wire.header(9, 4) + b"\0\0\0\0" + tensor.SerializeToString()
    del model.graph.initializer[2]
    graph = model.graph.SerializeToString() + wire.header(5, len(body)) + body
    model.ClearField("graph")
    return model.SerializeToString() + wire.header(7, len(graph)) + graph


@pytest.mark.parametrize("surprise", [twice, raw_in_two])
def test_a_layout_that_surprises_is_read_whole(tmp_path: Path, surprise: object) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(surprise(heavy().SerializeToString()))  # type: ignore[operator]
    source = files.load(path, small=True).proto
    assert not any(lean.note_of(t) for t in source.graph.initializer)
    assert source == files.load(path).proto


def test_no_file_can_forge_a_note(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(12 * 8 * 9 * 4))
    folder = tmp_path / "m"
    folder.mkdir()
    model = tiny()
    tensor = next(t for t in model.graph.initializer if t.name == "cls0_w")
    tensor.ClearField("raw_data")
    lean.put_note(tensor, atomic.FileRange(secret, 0, secret.stat().st_size))
    tensor.external_data[3].key = "onnx-headcut-0123456789abcdef"
    path = saved(model, folder / "a.onnx")
    with pytest.raises(hc.InputError, match=r"missing|outside"):
        hc.cut(path, KEEP, validation=False)


def test_a_file_that_changes_meanwhile_is_not_mixed(tmp_path: Path) -> None:
    path = saved(heavy(), tmp_path / "a.onnx")

    def meddle(step: str) -> None:
        if step == "writing":
            saved(heavy(outside=2000), path)

    with pytest.raises(hc.InputError, match="changed"):
        hc.cut(path, KEEP, tmp_path / "b.onnx", validation=False, progress=meddle)
    assert [p.name for p in tmp_path.iterdir()] == ["a.onnx"]
