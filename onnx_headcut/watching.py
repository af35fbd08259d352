"""A word where the process itself can say none: when a library crashes, or memory runs out.

Runtimes and checkers are native code, and have been seen to abort or to segfault on strange models;
Python is gone then. A child, forked before anything is loaded, waits at a pipe for the process to
end. If it ends without saying that it is done, the child says so, as text or as JSON. The exit code
is that of the signal. Files are written whole or not at all, so there is nothing to put in order.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_DONE = b"."


def watched(work: Callable[[], int], *, as_json: bool) -> int:
    """Run ``work`` and return its exit code; where there is no fork (Windows), without a watcher."""
    if not hasattr(os, "fork"):
        return work()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writing)
        _watch(reading, as_json=as_json)
    os.close(reading)
    try:
        return work()
    finally:
        with suppress(OSError):  # the watcher may have been killed
            os.write(writing, _DONE)
        os.close(writing)
        with suppress(ChildProcessError):
            os.waitpid(child, 0)


def _watch(reading: int, *, as_json: bool) -> None:
    """Wait for the end, and say it if nobody else has; never returns."""
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the one that works
        signal.signal(number, signal.SIG_IGN)
    try:
        if os.read(reading, 1) != _DONE:
            from onnx_headcut.console import crashed  # noqa: PLC0415  (only where it is needed)

            crashed(as_json=as_json)
            sys.stdout.flush()
            sys.stderr.flush()
    finally:
        os._exit(0)
