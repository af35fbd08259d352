"""Write files whole or not at all, from bytes and from ranges of other files.

A new file has no name until it is complete: where the operating system can (Linux), not even a
killed process leaves anything behind. Then it takes the place of the old one in one step. Several
files that belong together cannot be named in one step; a process of its own does it, which goes on
when ours is killed. Even where both end in the same microseconds (a power cut, the end of a
container) no data are without their model: it gets a hidden name first, then they get theirs, then
it takes its own. The old model is then still what it was, and the next write into that folder
removes the hidden one and its data (see `leftovers`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from onnx_headcut.errors import InputError, UsageError
from onnx_headcut.storage import leftovers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

_BLOCK = 1 << 20
_STEP = 1 << 26


@dataclass(frozen=True)
class Stamp:
    """What tells that a file is still the one that was read: size in bytes and change time."""

    size: int
    changed: int

    @classmethod
    def of(cls, path: Path | int) -> Stamp:
        """Look at a file now; raises OSError."""
        stat = os.stat(path)  # noqa: PTH116  (descriptors too)
        return cls(stat.st_size, stat.st_mtime_ns)


@dataclass(frozen=True)
class FileRange:
    """``length`` bytes of a file from ``offset`` on, as the file was when it had ``stamp``."""

    path: Path
    offset: int
    length: int
    stamp: Stamp | None = None

    def __len__(self) -> int:
        return self.length

    @contextlib.contextmanager
    def open(self) -> Iterator[int]:
        """Give a descriptor; raises InputError where the file is gone or has changed meanwhile."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        except OSError as error:
            raise InputError(f"{self.path} cannot be read: {error.strerror}") from None
        try:
            self._check(descriptor)
            yield descriptor
            self._check(descriptor)
        finally:
            os.close(descriptor)

    def _check(self, descriptor: int) -> None:
        if self.stamp is not None and Stamp.of(descriptor) != self.stamp:
            raise InputError(
                f"{self.path} has changed while it was read",
                advice="another program writes it: try again when that is done",
            )

    def blocks(self) -> Iterator[bytes]:
        """Read the bytes of the range in small parts, one after the other."""
        with self.open() as descriptor, os.fdopen(os.dup(descriptor), "rb", buffering=0) as file:
            file.seek(self.offset)
            left = self.length
            while left > 0 and (block := file.read(min(left, _BLOCK))):
                left -= len(block)
                yield block

    def read(self) -> bytes:
        """Read the bytes of the range; raises InputError where the file is shorter."""
        with self.open() as descriptor, os.fdopen(os.dup(descriptor), "rb") as file:
            file.seek(self.offset)
            data = file.read(self.length)
        if len(data) != self.length:
            raise InputError(f"{self.path} ends before byte {self.offset + self.length}")
        return data


Chunk = bytes | FileRange


def write(
    output: Path,
    chunks: Iterable[Chunk],
    told: Callable[[int], None] = lambda done: None,  # noqa: ARG005
) -> None:
    """Write ``chunks`` to ``output``: all of them, or the old file stays. See `Pending`."""
    with Pending(output) as pending:
        pending.write(chunks, told)
        place(pending)


def place(*files: Pending) -> None:
    """Give complete files their names: all of them, or none. Data come first, their model last.

    Raises UsageError where that cannot be; then what was there before is there again.
    """
    for file in files:
        file.seal()
    new = [file for file in files if not file.output.exists()]
    *data, model = files
    if not data and model.appear():
        return
    for file in data:
        if file in new:
            model.come_with(file.output)
    code = _by_heir(files)
    if code == 0 or files[-1].is_there():
        return
    for file in new:
        if file.is_there():
            file.output.unlink(missing_ok=True)
    reason = os.strerror(code) if code > 0 else "the process that gives it its name was killed"
    raise UsageError(f"{files[-1].output} cannot be written: {reason}")


def _by_heir(files: Sequence[Pending]) -> int:
    """Place files in a process that a kill of this one does not reach; 0, an errno, or negative."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # the heir needs no threads
            heir = os.fork()
    except (AttributeError, OSError):  # not on Windows; or there are too many processes
        return _place_all(files)
    if heir == 0:
        code = errno.EIO
        try:
            os.setsid()  # a kill of the whole group does not reach it either
            code = _place_all(files)
        finally:
            os._exit(code)
    try:
        status = os.waitpid(heir, 0)[1]
    except BaseException:  # Ctrl-C: the heir needs microseconds, and what it names is still ours
        os.waitpid(heir, 0)
        raise
    return os.waitstatus_to_exitcode(status)


def _place_all(files: Sequence[Pending]) -> int:
    *data, model = files
    try:
        model.hide()
        for file in (*data, model):
            file.place()
    except OSError as error:
        return error.errno or errno.EIO
    return 0


class Pending:
    """A file that is being written and has no name yet; leaving the context forgets it.

    ``hidden`` is the name that it has on the way where it needs one. Raises UsageError where it
    cannot be written: disk full, folder not writable.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self.hidden = leftovers.name_of_file(output)
        self._is_hidden = False
        self._descriptor = -1

    def __enter__(self) -> Self:
        leftovers.remove(self.output.parent)
        with self._speaking():
            self._descriptor, self._is_hidden = _nameless(self.output, self.hidden)
            leftovers.claim(self._descriptor)
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        with contextlib.suppress(OSError):
            self.hidden.unlink()  # where it was left, by the heir perhaps

    def write(self, chunks: Iterable[Chunk], told: Callable[[int], None]) -> None:
        """Append ``chunks``; ``told`` is called with the bytes done so far, now and then."""
        done = 0
        with self._speaking():
            for chunk in chunks:
                if isinstance(chunk, FileRange):
                    with chunk.open() as source:
                        for count in _copy(source, self._descriptor, chunk):
                            done += count
                            told(done)
                else:
                    _write_all(self._descriptor, chunk)
                    done += len(chunk)
            told(done)

    def seal(self) -> None:
        """Make what was written durable, with the permissions that it is to have."""
        with self._speaking():
            os.fsync(self._descriptor)
            if hasattr(os, "fchmod"):
                os.fchmod(self._descriptor, _mode(self.output))

    def appear(self) -> bool:
        """Give a nameless file its name in one step, where no file has it yet; whether it did."""
        if self._is_hidden or self.output.exists():
            return False
        try:
            _link(self._descriptor, self.output)
        except OSError:  # another one has the name by now, say
            return False
        return True

    def come_with(self, data: Path) -> None:
        """Let the hidden name say that ``data`` are new, and this file's."""
        hidden = leftovers.name_of_model(data)
        with self._speaking():
            if self._is_hidden:
                self.hidden.rename(hidden)
        self.hidden = hidden

    def hide(self) -> None:
        """Give a sealed file its hidden name where it has none yet; raises OSError."""
        if not self._is_hidden:
            _link(self._descriptor, self.hidden)
            self._is_hidden = True

    def place(self) -> None:
        """Give a sealed file its name, in place of an older file if need be; raises OSError."""
        if self.appear():
            return
        self.hide()
        if os.name == "nt":  # an open file cannot be renamed there
            os.close(self._descriptor)
            self._descriptor = -1
        self.hidden.replace(self.output)
        self._is_hidden = False

    def is_there(self) -> bool:
        """Whether the file of that name is this one."""
        if self._descriptor < 0:
            return not self._is_hidden
        try:
            return os.path.samestat(os.fstat(self._descriptor), self.output.stat())
        except OSError:
            return False

    @contextlib.contextmanager
    def _speaking(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UsageError(f"{self.output} cannot be written: {error.strerror}") from None


def _nameless(output: Path, hidden: Path) -> tuple[int, bool]:
    """Open a file without a name in the folder of ``output``; with the hidden one where need be.

    Gives its descriptor, and whether it has the hidden name.
    """
    if hasattr(os, "O_TMPFILE"):
        with contextlib.suppress(OSError):
            folder = output.parent
            return os.open(folder, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600), False
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0)
    return os.open(hidden, flags | getattr(os, "O_CLOEXEC", 0), 0o600), True


def _link(descriptor: int, path: Path) -> None:
    """Name a nameless file; a link cannot take the place of another file."""
    folder = os.open(path.parent, os.O_RDONLY)
    try:  # only with a folder's descriptor does Python use the call that follows /proc's links
        os.link(f"/proc/self/fd/{descriptor}", path.name, dst_dir_fd=folder, follow_symlinks=True)
    finally:
        os.close(folder)


def _mode(output: Path) -> int:
    """Permissions as the older file had them, or as a new file gets them."""
    if output.exists():
        return output.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view[:_STEP]) :]


def _copy(source: int, target: int, part: FileRange) -> Iterator[int]:
    """Copy a range by the fastest way there is; yields the bytes of each step."""
    at, end = part.offset, part.offset + part.length
    ways = [way for way in (_by_kernel, _by_sendfile) if _has(way)] + [_by_hand]
    while at < end:
        try:
            count = ways[0](source, target, at, min(end - at, _STEP))
        except OSError:
            if len(ways) == 1:
                raise
            del ways[0]  # not between these two file systems, say
            continue
        if count == 0 and len(ways) > 1:
            del ways[0]
            continue
        if count == 0:
            raise InputError(f"{part.path} ends before byte {end}")
        at += count
        yield count


def _has(way: Callable[[int, int, int, int], int]) -> bool:
    return hasattr(os, "copy_file_range" if way is _by_kernel else "sendfile")


def _by_kernel(source: int, target: int, at: int, count: int) -> int:
    return os.copy_file_range(source, target, count, offset_src=at)


def _by_sendfile(source: int, target: int, at: int, count: int) -> int:
    return os.sendfile(target, source, at, count)


def _by_hand(source: int, target: int, at: int, count: int) -> int:
    os.lseek(source, at, os.SEEK_SET)
    data = os.read(source, min(count, _BLOCK))
    _write_all(target, data)
    return len(data)
