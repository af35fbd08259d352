"""Data beside the model: read where they lie, referenced, copied or taken in."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from conftest import heavy, run_cli, saved, some
from onnx import TensorProto, numpy_helper
from patterns import PATTERNS, REFUSED
from stored import KEEP, linux, locations, values, weights

import onnx_headcut as hc
from onnx_headcut.storage import atomic

if TYPE_CHECKING:
    from pathlib import Path

CUT = [name for name in PATTERNS if name not in REFUSED]


def plain_cut(tmp_path: Path) -> dict[str, bytes]:
    """The weights of the same cut of a model in one file."""
    hc.cut(saved(heavy(), tmp_path / "plain.onnx"), KEEP, tmp_path / "cut.onnx", validation=False)
    return weights(tmp_path / "cut.onnx")


@pytest.mark.parametrize("validation", [False, True])
def test_in_the_same_folder_data_are_referenced(
    beside: Path, tmp_path: Path, *, validation: bool
) -> None:
    before = beside.with_name("a.data").read_bytes()
    hc.cut(beside, KEEP, beside.with_name("b.onnx"), validation=validation)
    assert sorted(p.name for p in beside.parent.iterdir()) == ["a.data", "a.onnx", "b.onnx"]
    assert beside.with_name("a.data").read_bytes() == before
    assert locations(beside.with_name("b.onnx")) == {"a.data"}
    plain = plain_cut(tmp_path)
    assert weights(beside.with_name("b.onnx")) == plain


def test_from_a_folder_above_too(beside: Path, tmp_path: Path) -> None:
    hc.cut(beside, KEEP, tmp_path / "b.onnx", external_data="reference", validation=False)
    assert locations(tmp_path / "b.onnx") == {"from/a.data"}
    assert hc.validate(beside, tmp_path / "b.onnx")


def test_several_data_files(tmp_path: Path) -> None:
    """One for each head and one for the rest, in folders of their own."""
    model, folder = heavy(), tmp_path / "from"
    floats = [t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT]
    for at, tensor in enumerate(floats):
        location = f"part{at % 3}/{'heads' if tensor.name.startswith('cls') else 'rest'}.data"
        path = folder / location
        path.parent.mkdir(parents=True, exist_ok=True)
        data = numpy_helper.to_array(tensor).tobytes()
        offset = path.stat().st_size if path.exists() else 0
        with path.open("ab") as file:
            file.write(data)
        for field in ("raw_data", "float_data"):
            tensor.ClearField(field)
        tensor.data_location = TensorProto.EXTERNAL
        said = {"location": location, "offset": offset, "length": len(data)}
        for key, value in said.items():
            tensor.external_data.add(key=key, value=str(value))
    saved(model, folder / "a.onnx")
    plain = plain_cut(tmp_path)
    hc.cut(folder / "a.onnx", KEEP, folder / "b.onnx")
    assert locations(folder / "b.onnx") == {f"part{k}/rest.data" for k in range(3)}
    assert weights(folder / "b.onnx") == plain
    for choice, files_beside in (("copy", 1), ("inline", 0)):
        to = tmp_path / choice
        to.mkdir()
        hc.cut(folder / "a.onnx", KEEP, to / "b.onnx", external_data=choice)
        assert weights(to / "b.onnx") == plain
        assert len(list(to.iterdir())) == 1 + files_beside


@pytest.mark.parametrize("validation", [False, True])
def test_into_another_folder_data_are_copied(beside: Path, tmp_path: Path, *, validation: bool) -> None:
    to = tmp_path / "to"
    to.mkdir()
    steps: list[str] = []
    result = hc.cut(beside, KEEP, to / "b.onnx", validation=validation, progress=steps.append)
    assert result.exit_code == 0
    assert any(step.startswith("copying") for step in steps)
    (name,) = locations(to / "b.onnx")
    assert sorted(p.name for p in to.iterdir()) == ["b.onnx", name]
    plain = plain_cut(tmp_path)
    assert weights(to / "b.onnx") == plain
    first = {p.name: p.read_bytes() for p in to.iterdir()}
    hc.cut(beside, KEEP, to / "b.onnx", validation=False, force=True)
    assert first == {p.name: p.read_bytes() for p in to.iterdir()}, "the same input, the same bytes"
    beside.with_name("a.data").unlink()
    assert hc.inspect(to / "b.onnx").classes.count == 3


def test_inline_takes_everything_in(beside: Path, tmp_path: Path) -> None:
    hc.cut(beside, KEEP, tmp_path / "b.onnx", external_data="inline", validation=False)
    assert locations(tmp_path / "b.onnx") == set()
    plain = plain_cut(tmp_path)
    assert weights(tmp_path / "b.onnx") == plain


def test_reference_from_elsewhere_is_refused(beside: Path, tmp_path: Path) -> None:
    to = tmp_path / "to"
    to.mkdir()
    with pytest.raises(hc.UsageError, match="does not hold"):
        hc.cut(beside, KEEP, to / "b.onnx", external_data="reference", validation=False)
    assert not list(to.iterdir())


def test_keeping_everything_takes_the_data_along(beside: Path, tmp_path: Path) -> None:
    (tmp_path / "to").mkdir()
    hc.cut(beside, "cat,dog,cow,hen,fox", tmp_path / "to" / "b.onnx", validation=False)
    assert weights(tmp_path / "to" / "b.onnx") == weights(beside)


@pytest.mark.parametrize("name", some(CUT, 1, 4))
def test_numbers_beside_the_model_are_as_good_as_those_in_it(name: str, tmp_path: Path) -> None:
    """Shapes, limits, label tables: every stored tensor and every Constant lies in a file."""
    pattern = PATTERNS[name]()
    path = tmp_path / "a.onnx"
    onnx.save(pattern.model(), path, save_as_external_data=True, location="a.data",
              size_threshold=0, convert_attribute=True)  # fmt: skip
    keep = pattern.foreground[:2]
    cut = hc.cut(path, keep, tmp_path / "b.onnx", validation=False, **pattern.told).model
    plain = hc.cut(pattern.model(), keep, validation=False, **pattern.told).model
    assert [n.output for n in cut.graph.node] == [n.output for n in plain.graph.node]
    assert values(onnx.load(tmp_path / "b.onnx")) == values(plain)


def test_validation_reads_numbers_beside_the_model(tmp_path: Path) -> None:
    pattern = PATTERNS["loop_over_classes_with_codes"]()
    path = tmp_path / "a.onnx"
    onnx.save(pattern.model(), path, save_as_external_data=True, size_threshold=0)
    assert hc.cut(path, pattern.foreground[:2], tmp_path / "b.onnx", **pattern.told).verdict


def test_layers_are_not_read_to_be_understood(beside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    real = atomic.FileRange.read
    monkeypatch.setattr(atomic.FileRange, "read", lambda r: read.append(r.length) or real(r))
    hc.inspect(beside)
    assert max(read) <= 64 * 8


def hollow(beside: Path) -> None:
    """Add a table of 3 GiB that is a hole in the data file, and a node that reads a row of it."""
    model = onnx.load(beside, load_external_data=False)
    data = beside.with_name("a.data")
    rows = (3 << 30) // 400
    table = TensorProto(name="table", data_type=TensorProto.FLOAT, dims=[rows, 100])
    table.data_location = TensorProto.EXTERNAL
    place = {"location": "a.data", "offset": data.stat().st_size, "length": rows * 400}
    for key, value in place.items():
        table.external_data.add(key=key, value=str(value))
    os.truncate(data, data.stat().st_size + rows * 400)
    row = numpy_helper.from_array(np.array(7), "row")
    model.graph.initializer.extend([table, row])
    model.graph.node.append(onnx.helper.make_node("Gather", ["table", "row"], ["seventh"]))
    made = onnx.helper.make_tensor_value_info("seventh", TensorProto.FLOAT, [100])
    model.graph.output.append(made)
    saved(model, beside)


@linux
def test_the_backbone_is_never_read(beside: Path) -> None:
    """Neither time nor memory go to 3 GiB of weights that no cut concerns."""
    hollow(beside)
    bounded = "import resource; resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))"
    done = run_cli("cut", beside, "--keep", KEEP, "--no-validate", "--output",
                   beside.with_name("b.onnx"), code=bounded)  # fmt: skip
    assert done.code == 0, done.err
    assert beside.with_name("b.onnx").stat().st_size < 1 << 16


@linux
def test_inline_ends_at_2_gib(beside: Path, tmp_path: Path) -> None:
    hollow(beside)
    with pytest.raises(hc.InputError, match="2 GiB"):
        hc.cut(beside, KEEP, tmp_path / "b.onnx", external_data="inline", validation=False)
    assert not (tmp_path / "b.onnx").exists()


@pytest.mark.parametrize("kind", ["symbolic", "hard"])
def test_links_need_the_users_word(beside: Path, tmp_path: Path, kind: str) -> None:
    hub = tmp_path / "hub"
    hub.mkdir()
    saved(onnx.load(beside, load_external_data=False), hub / "a.onnx")
    real = beside.with_name("a.data").rename(beside.with_name("blob"))
    if kind == "hard":
        (hub / "a.data").hardlink_to(real)
    else:
        (hub / "a.data").symlink_to(real)
    with pytest.raises(hc.InputError, match="--follow-links"):
        hc.cut(hub / "a.onnx", KEEP, hub / "b.onnx", validation=False)
    to = tmp_path / "to"
    to.mkdir()
    result = hc.cut(hub / "a.onnx", KEEP, to / "b.onnx", follow_links=True)
    assert result.exit_code == 0
    plain = plain_cut(tmp_path)
    assert weights(to / "b.onnx") == plain
    assert hc.validate(hub / "a.onnx", to / "b.onnx", follow_links=True)
