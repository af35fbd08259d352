"""Reading without the weights, writing whole or not at all, data beside the model."""

from __future__ import annotations

import errno
import itertools
import json
import os
import resource
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from conftest import dealt, run_cli, tiny
from onnx import TensorProto, numpy_helper
from patterns import PATTERNS, REFUSED

import onnx_headcut as hc
from onnx_headcut import model as files
from onnx_headcut.storage import atomic, external, lean, leftovers, wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

linux = pytest.mark.skipif(sys.platform != "linux", reason="uses what Linux has")
KEEP = "dog,hen"


def heavy(*, outside: int = 2048) -> onnx.ModelProto:
    """The tiny SSD, with a large convolution beside it."""
    model = tiny()
    weight = np.random.default_rng(1).normal(size=(outside, 3, 6, 6)).astype(np.float32)
    model.graph.initializer.insert(2, numpy_helper.from_array(weight, "wide_w"))
    node = onnx.helper.make_node("Conv", ["images", "wide_w"], ["wide"], "wide", strides=[16, 16])
    model.graph.node.append(node)
    shape = ["N", outside, 2, 2]
    model.graph.output.append(onnx.helper.make_tensor_value_info("wide", TensorProto.FLOAT, shape))
    return model


def saved(model: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def cut_bytes(path: Path, *, validation: bool, **options: object) -> bytes:
    output = path.with_name(f"cut-{validation}.onnx")
    hc.cut(path, KEEP, output, validation=validation, force=True, **options)  # type: ignore[arg-type]
    return output.read_bytes()


# --------------------------------------------------------------------------------- lean reading


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


# -------------------------------------------------------------------------------- external data


@pytest.fixture
def beside(tmp_path: Path) -> Path:
    """A model whose weights lie in a file beside it, heads and all."""
    folder = tmp_path / "from"
    folder.mkdir()
    onnx.save(
        heavy(), folder / "a.onnx", save_as_external_data=True, location="a.data", size_threshold=0
    )
    return folder / "a.onnx"


def plain_cut(tmp_path: Path) -> dict[str, bytes]:
    """The weights of the same cut of a model in one file."""
    hc.cut(saved(heavy(), tmp_path / "plain.onnx"), KEEP, tmp_path / "cut.onnx", validation=False)
    return weights(tmp_path / "cut.onnx")


def weights(path: Path) -> dict[str, bytes]:
    model = onnx.load(path)
    return {t.name: numpy_helper.to_array(t).tobytes() for t in model.graph.initializer}


def locations(path: Path) -> set[str]:
    model = onnx.load(path, load_external_data=False)
    found = external.outside(files.all_tensors(model))
    return {e.value for t in found for e in t.external_data if e.key == "location"}


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


@pytest.mark.parametrize("name", sorted(PATTERNS.keys() - REFUSED.keys()))
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


def values(model: onnx.ModelProto) -> list[bytes]:
    return [numpy_helper.to_array(t).tobytes() for t in files.all_tensors(model)]


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


# ------------------------------------------------------------------------- whole or not at all


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder / "b.onnx"


@linux
@pytest.mark.parametrize("old", [False, True])
def test_a_killed_write_leaves_the_old_file_or_the_new_one(
    tmp_path: Path, target: Path, *, old: bool
) -> None:
    """Killed at 15 moments of a write of 24 MB in small steps, data file first."""
    big = tmp_path / "big"
    big.write_bytes(os.urandom(1 << 20) * 12)
    code = f"""
import sys, time
from pathlib import Path
from onnx_headcut.storage import atomic
part = atomic.FileRange(Path({str(big)!r}), 0, {12 << 20})
atomic._STEP = 1 << 18
sys.stdout.write("x"); sys.stdout.flush()
atomic.write(Path({str(target)!r}), [b"start", part, b"middle", part, b"end"])
"""
    new = b"start" + big.read_bytes() + b"middle" + big.read_bytes() + b"end"
    seen = set()
    for k in range(15):
        if old:
            target.write_bytes(b"old")
        else:
            target.unlink(missing_ok=True)
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.read(1)
            time.sleep(k * 0.0024)
            process.send_signal(signal.SIGKILL)
        content = target.read_bytes() if target.exists() else None
        assert content in ({b"old", new} if old else {None, new})
        seen.add(content == new)
        assert set(target.parent.iterdir()) <= {target}
    assert False in seen


def cut_as_copy(beside: Path, target: Path, code: str) -> str:
    """Python that cuts into another folder, data and all, and is told what befalls it."""
    return f"""
import os, signal, sys
import onnx_headcut as hc
from onnx_headcut.storage import atomic
{code}
hc.cut({str(beside)!r}, {KEEP!r}, {str(target)!r}, external_data="copy", validation=False, force=True)
"""


FORKS = """
import json, os, sys
from onnx_headcut import cutting
for line in sys.stdin:
    body, out = json.loads(line)
    child = os.fork()
    if not child:
        os.setsid()
        for number, path in enumerate((os.devnull, out, os.devnull)):
            os.dup2(os.open(path, os.O_WRONLY if number else os.O_RDONLY), number)
        exec(body)
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""Runs Python, a piece a line, in processes of their own, without importing anew for each."""


@pytest.fixture(scope="module")
def in_fork(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], int]]:
    """Runs Python in a session of its own, waits for its heirs, too, and gives its exit code."""
    folder, command = tmp_path_factory.mktemp("forks"), [sys.executable, "-c", FORKS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        count = itertools.count()

        def run(body: str) -> int:
            assert server.stdin is not None
            assert server.stdout is not None
            out = folder / str(next(count))
            os.mkfifo(out)
            print(json.dumps([body, str(out)]), file=server.stdin, flush=True)
            out.read_bytes()  # ends when the last of them has ended
            return int(server.stdout.readline())

        yield run


DIES = """
place, left = atomic.Pending.place, [{step}]
def die():
    left[0] = -1  # once: who adopts an orphan must not be killed in its parent's place
    me, parent = os.getpid(), os.getppid()
    if {who!r} == "process": os.kill(parent, signal.SIGKILL)
    if {who!r} == "group": os.killpg(os.getpgid(parent), signal.SIGKILL)
    if {who!r} == "both": os.kill(parent, signal.SIGKILL)
    if {who!r} in ("heir", "both"): os.kill(me, signal.SIGKILL)
def killed(self):
    if left[0] == 0: die()
    place(self)
    left[0] -= 1
    if left[0] == 0: die()
atomic.Pending.place = killed
"""
"""Kills whom ``who`` says when ``step`` files have got their names."""


def state(target: Path) -> tuple[dict[str, bytes] | None, list[Path]]:
    """What the model holds, whose data have to be there, and what lies beside both."""
    if not target.exists():
        return None, sorted(target.parent.iterdir())
    own = {target, *(target.parent / name for name in locations(target))}
    return weights(target), sorted(set(target.parent.iterdir()) - own)


@linux
@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(("who", "step"), dealt(["process", "group", "heir", "both"], [0, 1, 2], 2))
def test_killed_between_data_and_model(
    beside: Path, tmp_path: Path, target: Path, in_fork: Callable[[str], int],
    step: int, who: str, *, old: bool,
) -> None:  # fmt: skip
    """The model is the old one or the new one, with its data, and no data lie there without it: where
    both processes are killed at that moment, the new model is hidden beside its data, and both go
    with the next write into the folder."""
    hc.cut(beside, KEEP, tmp_path / "new.onnx", external_data="inline", validation=False)
    new = weights(tmp_path / "new.onnx")
    if old:
        hc.cut(beside, "1", target, external_data="copy", validation=False)
    before, _ = state(target)
    code = in_fork(cut_as_copy(beside, target, DIES.format(step=step, who=who)))
    assert code == (int(step < 2) if who == "heir" else -signal.SIGKILL)
    done = step == 2 or who in {"process", "group"}
    found, others = state(target)
    assert found == (new if done else before)
    hidden = [path for path in others if ".headcut" in path.name]
    assert len(hidden) == (who == "both" and step < 2)
    assert len(others) == len(hidden) + (len(hidden) and step == 1 and not old)
    for path in hidden:
        assert (step == 0 and not old) or weights(path) == new
    hc.cut(beside, KEEP, target.with_name("c.onnx"), external_data="copy", validation=False)
    assert state(target)[0] == found
    assert not [path for path in state(target)[1] if not path.name.startswith("c.onnx")]
    hc.cut(beside, KEEP, target, external_data="copy", validation=False, force=True)
    assert state(target)[0] == new


def test_data_of_other_content_have_another_name(beside: Path, target: Path) -> None:
    """The same graph, trained further: what was cut from the older weights keeps them."""
    hc.cut(beside, KEEP, target, external_data="copy", validation=False)
    kept = target.rename(target.with_name("kept.onnx"))
    before, data = weights(kept), beside.with_name("a.data")
    data.write_bytes(bytes(byte ^ 1 for byte in data.read_bytes()))
    hc.cut(beside, KEEP, target, external_data="copy", validation=False)
    assert weights(kept) == before != weights(target)


@linux
def test_leftovers(target: Path) -> None:
    """Only what nobody holds, and what is named as ours, is removed."""
    data = leftovers.name_of_data(target, "0123456789abcdef" * 4)
    model, file = leftovers.name_of_model(data), leftovers.name_of_file(target)
    other = [target.with_name(name) for name in (
        "a.onnx", ".a.onnx.headcut", ".a.onnx.0123456.headcut", ".db.01234567.headcut-model", "db",
        "b.onnx.0123456789abcdef.data.part")]  # fmt: skip
    for path in (data, model, file, *other):
        path.write_bytes(b"x")
    with model.open("rb") as held:
        leftovers.claim(held.fileno())
        leftovers.remove(target.parent)
        assert set(target.parent.iterdir()) == {data, model, *other}
    leftovers.remove(target.parent)
    assert set(target.parent.iterdir()) == set(other)
    for length in (100, 250):
        long = target.with_name("ü" * (length // 2))
        leftovers.name_of_file(long).write_bytes(b"")
    leftovers.remove(target.parent)
    assert set(target.parent.iterdir()) == set(other)


@linux
def test_a_copy_killed_at_many_moments(beside: Path, tmp_path: Path, target: Path) -> None:
    hc.cut(beside, KEEP, tmp_path / "new.onnx", external_data="inline", validation=False)
    new = weights(tmp_path / "new.onnx")
    hc.cut(beside, "1", target, external_data="copy", validation=False)
    old, _ = state(target)
    slow = """
import time
atomic._STEP = 1 << 12
write = os.write
sys.stdout.write("x"); sys.stdout.flush()
"""
    seen = []
    for k in range(12):
        command = [sys.executable, "-c", cut_as_copy(beside, target, slow)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            assert process.stdout is not None
            process.stdout.read(1)
            time.sleep(k * 0.016)
            process.send_signal(signal.SIGKILL)
        found, others = state(target)
        assert found in (old, new)
        seen.append(found == new)
        assert all(path.suffix != ".onnx" for path in others)
    assert not seen[0]


def full_disk(code: str) -> str:
    """Python that bounds the size of files, so that writing fails as on a full disk.

    It writes no bytecode meanwhile: Python would not notice that some is missing, and read it later.
    """
    return f"""
import resource, signal, sys
sys.dont_write_bytecode = True
resource.setrlimit(resource.RLIMIT_FSIZE, ({code}, {code}))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
"""


@linux
@pytest.mark.parametrize("extra", [["--no-validate"], []])
def test_a_full_disk_leaves_nothing(tmp_path: Path, target: Path, extra: list[str]) -> None:
    path = saved(heavy(), tmp_path / "a.onnx")
    done = run_cli("cut", path, "--keep", KEEP, "--output", target, *extra,
                   code=full_disk("1 << 16"))  # fmt: skip
    assert done.code == 2, done.err
    assert "cannot be written" in done.err
    assert not list(target.parent.iterdir())


@linux
def test_a_full_disk_keeps_the_old_pair(
    beside: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The data file is complete, and then the model cannot be placed."""
    hc.cut(beside, "cat", target, validation=False)
    before = {p: p.read_bytes() for p in target.parent.iterdir()}
    place = atomic.Pending.place

    def fail(pending: atomic.Pending) -> None:
        if pending.output == target:
            raise OSError(errno.ENOSPC, "disk full")
        place(pending)

    monkeypatch.setattr(atomic.Pending, "place", fail)
    with pytest.raises(hc.UsageError, match="No space"):
        hc.cut(beside, KEEP, target, validation=False, force=True)
    assert before == {p: p.read_bytes() for p in target.parent.iterdir()}


@linux
def test_without_nameless_files_a_hidden_one_is_removed(
    tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "O_TMPFILE")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    path = saved(heavy(), tmp_path / "a.onnx")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limit[1]))
    try:
        with pytest.raises(hc.UsageError, match="cannot be written"):
            hc.cut(path, KEEP, target, validation=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, ignored)
    assert not list(target.parent.iterdir())
    hc.cut(path, KEEP, target, validation=False)
    assert [p.name for p in target.parent.iterdir()] == [target.name]


@linux
def test_ctrl_c_leaves_nothing(tmp_path: Path, target: Path) -> None:
    path = saved(heavy(), tmp_path / "a.onnx")
    interrupted = (
        "from onnx_headcut.storage import atomic\n"
        "import os, signal\n"
        "atomic.Pending.seal = lambda self: os.kill(os.getpid(), signal.SIGINT)\n"
    )
    done = run_cli("cut", path, "--keep", KEEP, "--no-validate", "--output", target,
                   code=interrupted)  # fmt: skip
    assert done.code == 130
    assert not list(target.parent.iterdir())


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o555)
    yield folder
    folder.chmod(0o755)


# Root may write anywhere by two capabilities, which a process can lay down.
MERE_USER = """
import ctypes
header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
assert ctypes.CDLL(None).capset(header, none) == 0
"""


@linux
def test_a_read_only_folder(tmp_path: Path, read_only: Path) -> None:
    path = saved(tiny(), tmp_path / "a.onnx")
    done = run_cli("cut", path, "--keep", KEEP, "--no-validate", "--output", read_only / "b.onnx",
                   code=MERE_USER)  # fmt: skip
    assert done.code == 2
    assert "not writable" in done.err
    assert not list(read_only.iterdir())


def test_a_folder_that_refuses_new_files(
    tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(atomic, "_nameless", refuse)
    with pytest.raises(hc.UsageError, match="Permission denied"):
        hc.cut(saved(tiny(), tmp_path / "a.onnx"), KEEP, target, validation=False)


@pytest.mark.parametrize("gone", [(), ("_by_kernel",), ("_by_kernel", "_by_sendfile")])
def test_ranges_are_copied_by_whatever_way_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: tuple[str, ...]
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(18, "Invalid cross-device link")

    data = os.urandom(3 << 20)
    (tmp_path / "a").write_bytes(data)
    for name in gone:
        monkeypatch.setattr(atomic, name, refuse)
    part = atomic.FileRange(tmp_path / "a", 5, 2 << 20)
    atomic.write(tmp_path / "b", [b"1", part, b"", part])
    assert (tmp_path / "b").read_bytes() == b"1" + data[5 : (2 << 20) + 5] * 2


def test_permissions_stay(tmp_path: Path) -> None:
    output = tmp_path / "b.onnx"
    output.write_bytes(b"")
    output.chmod(0o640)
    atomic.write(output, [b"new"])
    assert output.stat().st_mode & 0o777 == 0o640
    mask = os.umask(0)
    os.umask(mask)
    atomic.write(tmp_path / "c.onnx", [b"new"])
    assert (tmp_path / "c.onnx").stat().st_mode & 0o777 == 0o666 & ~mask
