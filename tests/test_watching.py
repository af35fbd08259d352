"""A process that ends by a signal still says that it did, as text and as JSON."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing watches without fork")

CRASH = """
import os, signal, sys
from onnx_headcut import cli
cli.invoke = lambda arguments: os.kill(os.getpid(), int(arguments[0]))
sys.exit(cli.main())
"""


def ended(number: int, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CRASH, str(number), *more],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGABRT, signal.SIGSEGV, signal.SIGKILL])
def test_a_crash_is_told(number: int) -> None:
    done = ended(number)
    assert done.returncode == -number
    assert done.stdout == ""
    assert "error: the process ended without a word: a library crashed" in done.stderr
    assert "--no-validate" in done.stderr


def test_a_crash_is_told_to_machines() -> None:
    done = ended(signal.SIGABRT, "--json")
    error = json.loads(done.stdout)["error"]
    assert error["kind"] == "Crash"
    assert error["exit_code"] is None


def test_an_end_with_words_is_told_once() -> None:
    done = ended(signal.SIGTERM)
    assert done.returncode == 143
    assert "without a word" not in done.stderr
