"""Hidden names of files that are on their way, and what to do with those that never arrived.

A killed process leaves a hidden file behind where the operating system knows no nameless ones, or
where it was killed together with the process that gives names, in the microseconds that this takes.
Who writes a file holds a lock on it, which ends with the last of its processes: a hidden file that
nobody holds is a leftover, and the next write into the folder removes it. A model whose data are
new is hidden under a name that says theirs: those are removed with it.
"""

from __future__ import annotations

import contextlib
import os
import re
from typing import TYPE_CHECKING

try:
    import fcntl
except ImportError:  # Windows: without locks nothing is ever taken for a leftover
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from pathlib import Path

_FILE = re.compile(r"\..+\.[0-9a-f]{8}\.headcut", re.DOTALL)
_MODEL = re.compile(r"\.(?P<data>.+\.[0-9a-f]{16}\.data)\.[0-9a-f]{8}\.headcut-model", re.DOTALL)
_LONGEST = 255 - len("..01234567.headcut-model")
"""Bytes of a name that leave room for what is added to it, as file systems allow them."""


def name_of_data(output: Path, digest: str) -> Path:
    """The name of the data file of ``output`` that holds what the hexadecimal digest says."""
    return output.with_name(f"{output.name}.{digest[:16]}.data")


def name_of_file(output: Path) -> Path:
    """A hidden name for what will be ``output``."""
    name = os.fsdecode(os.fsencode(output.name)[:_LONGEST])
    return output.with_name(f".{name}.{os.urandom(4).hex()}.headcut")


def name_of_model(data: Path) -> Path:
    """A hidden name for the model to which the new file ``data`` belongs."""
    if len(os.fsencode(data.name)) > _LONGEST:  # cut off, it would say the name of another file
        return name_of_file(data)
    return data.with_name(f".{data.name}.{os.urandom(4).hex()}.headcut-model")


def claim(descriptor: int) -> None:
    """Hold an open file, for as long as this process or a child has it open."""
    if fcntl is not None:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def remove(folder: Path) -> None:
    """Remove what killed processes left in ``folder``."""
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):  # noqa: PTH208  (names)
            model = _MODEL.fullmatch(name)
            if model or _FILE.fullmatch(name):
                with contextlib.suppress(OSError):
                    _remove_unheld(folder / name, folder / model["data"] if model else None)


def _remove_unheld(path: Path, data: Path | None) -> None:
    """Remove a hidden file and the data that came with it, unless somebody holds it."""
    if fcntl is None:
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # OSError where it is held
        if data is not None:
            data.unlink(missing_ok=True)
        path.unlink()  # last: what is interrupted here is done again
    finally:
        os.close(descriptor)
