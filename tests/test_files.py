"""Writing whole or not at all, whatever ends it."""

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

import pytest
from conftest import dealt, heavy, run_cli, saved, tiny
from stored import KEEP, linux, locations, weights

import onnx_headcut as hc
from onnx_headcut.storage import atomic, leftovers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


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
