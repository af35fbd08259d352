"""Where the command line meets its surroundings: streams, exit codes, errors, signals, progress.

A command returns an `Answer`; what it raises becomes a message and an exit code here. Nothing
heavy is imported before it is needed: ``--help`` waits for none of it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
import warnings
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TextIO

from onnx_headcut.errors import KINDS, GraphRefused, HeadcutError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.console import Console

SCHEMA = 1
BUG = 70
INTERRUPTED, BROKEN_PIPE, TERMINATED = 130, 141, 143  # as shells count: 128 and the signal

_DEBUG = "HEADCUT_DEBUG"
_REPORT = (
    f"This is a bug in onnx-headcut. Run again with {_DEBUG}=1 for the traceback, and report it "
    "with the model, or with what `inspect` says of it."
)


@dataclass(frozen=True)
class Answer:
    """What a command has to say: ``document`` to machines, ``show`` the same to people."""

    document: dict[str, Any]
    show: Callable[[Console], None]
    exit_code: int = 0
    as_json: bool = False


@dataclass(frozen=True)
class Failure:
    """Why there is no answer, and the exit code that says so."""

    kind: str
    what: str
    exit_code: int
    advice: str = ""
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def document(self) -> dict[str, Any]:
        """The failure as JSON has it."""
        said = {"kind": self.kind, "message": self.what, "advice": self.advice}
        return {"schema": SCHEMA, "error": {**said, **self.details, "exit_code": self.exit_code}}


class _Terminated(BaseException):
    """The process was asked to end."""


def run(command: Callable[[Sequence[str]], object], arguments: Sequence[str]) -> int:
    """Run a command line to its end and return the exit code; raises nothing."""
    as_json = "--json" in arguments
    if not (sys.warnoptions or os.environ.get(_DEBUG)):
        warnings.simplefilter("ignore")  # libraries' advice to programmers
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # no terminal is too plain for a name in a model
            stream.reconfigure(errors="backslashreplace")
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        with _stdout(as_json=as_json) as out:
            return _answered(command, arguments, out, as_json=as_json)
    except BrokenPipeError:
        _silence(sys.stdout)
        return BROKEN_PIPE
    finally:
        signal.signal(signal.SIGTERM, before)


def _answered(
    command: Callable[[Sequence[str]], object],
    arguments: Sequence[str],
    out: TextIO,
    *,
    as_json: bool,
) -> int:
    try:
        answer = command(arguments)
        if isinstance(answer, Answer):
            _give(answer, out)
            return answer.exit_code
        if answer == INTERRUPTED:  # newer versions of Typer turn Ctrl-C into this
            raise KeyboardInterrupt  # noqa: TRY301
        out.flush()
        return answer if isinstance(answer, int) else 0
    except BrokenPipeError:
        raise
    except BaseException as error:  # noqa: BLE001  (what is not known is a bug, and is said so)
        if os.environ.get(_DEBUG):
            traceback.print_exc()
        failure = describe(error)
        with suppress(OSError):  # where stdout itself was the failure
            _complain(failure, out, as_json=as_json)
        if isinstance(error, OSError):
            _silence(sys.stdout)
        return failure.exit_code


def describe(error: BaseException) -> Failure:
    """Say what an exception means to the person at the command line."""
    kind = type(error).__name__
    if isinstance(error, HeadcutError):
        kind = next(c.__name__ for c in type(error).__mro__ if c.__name__ in KINDS)
        details: dict[str, Any] = {}
        if isinstance(error, GraphRefused):
            details = {"node": error.node, "op": error.op, "path": list(error.path)}
        return Failure(kind, error.what, error.exit_code, error.advice, details)
    if hasattr(error, "format_message"):  # the class is Typer's or click's, by version
        message = error.format_message()
        return Failure("UsageError", message, 2, _see_help(error, message))
    if isinstance(error, KeyboardInterrupt) or kind == "Abort":
        return Failure("Interrupted", "interrupted", INTERRUPTED)
    if isinstance(error, _Terminated):
        return Failure("Interrupted", "terminated", TERMINATED)
    return _of_the_machine(error) or Failure("Bug", f"{kind}: {error}", BUG, _REPORT)


def _of_the_machine(error: BaseException) -> Failure | None:
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return Failure("InputError", f"{where}{error.strerror or error}", 2)
    if isinstance(error, MemoryError):
        return Failure("InputError", "the memory does not suffice", 2, "Close other programs.")
    return None


def printable(text: str) -> str:
    """Escape what could move the cursor or colour the terminal: names in models are strangers'."""
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text
    )


@contextmanager
def steps() -> Iterator[Callable[[str], None]]:
    """Give a function that names the step under way, on stderr if that is a terminal."""
    if not _is_terminal(sys.stderr):
        yield lambda step: None  # noqa: ARG005
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("starting", total=None)
        yield lambda step: progress.update(task, description=step)


def _see_help(error: BaseException, message: str) -> str:
    path = getattr(getattr(error, "ctx", None), "command_path", "onnx-headcut")
    if "unexpected extra argument" in message.lower() and "--image" in sys.argv:
        return "Say --image before each picture."
    return f"`{path} --help` explains its options."


def _give(answer: Answer, out: TextIO) -> None:
    if answer.as_json:
        _write(answer.document, out)
    else:
        console = _rich_console(out)
        with console.capture() as text:  # Rich would end the process at a broken pipe
            answer.show(console)
        out.write("".join(f"{line.rstrip()}\n" for line in text.get().splitlines()))
        out.flush()


def _write(document: dict[str, Any], out: TextIO) -> None:
    # Escaped, so that no encoding and no stray byte of a name can break it.
    out.write(json.dumps(document, indent=2, allow_nan=False) + "\n")
    out.flush()


def _complain(failure: Failure, out: TextIO, *, as_json: bool) -> None:
    if sys.stderr is not None:
        red, end = ("\x1b[1;31m", "\x1b[0m") if _is_colourful(sys.stderr) else ("", "")
        lines = [f"{red}error:{end} {printable(failure.what)}", printable(failure.advice)]
        sys.stderr.write("".join(f"{line}\n" for line in lines if line))
        sys.stderr.flush()
    if as_json:
        _write(failure.document, out)


def crashed(*, as_json: bool) -> None:
    """Say that the process ended without a word, for `onnx_headcut.watching`."""
    failure = Failure(
        "Crash",
        "the process ended without a word: a library crashed on this model, or the system killed it",
        BUG,
        "No file was written in part. If memory is not the reason, try --provider cpu where there is a "
        "GPU, or --no-validate, which needs no runtime, and report the model.",
    )
    _complain(failure, sys.stdout, as_json=False)
    if as_json:
        document = failure.document
        document["error"]["exit_code"] = None  # a signal's, which is not known here
        _write(document, sys.stdout)


def _rich_console(out: TextIO) -> Console:
    from rich.console import Console  # noqa: PLC0415  (not needed for --help and --json)

    # A pipe has no width: lines are not folded more than a wide terminal would.
    width = None if _is_terminal(out) or "COLUMNS" in os.environ else 120
    return Console(file=out, width=width, highlight=False, markup=False, emoji=False)


@contextmanager
def _stdout(*, as_json: bool) -> Iterator[TextIO]:
    """Give the stream for the answer; with JSON, whatever else is printed goes to stderr."""
    if sys.stdout is None:
        with open(os.devnull, "w", encoding="utf-8") as nothing:  # noqa: PTH123
            yield nothing
        return
    if not as_json:
        yield sys.stdout
        return
    sys.stdout.flush()
    # Also what libraries in C print: they know the descriptor only.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    with suppress(OSError):
        os.dup2(2, 1)
    try:
        yield out
    finally:
        with suppress(OSError):  # what could not be written is told already
            out.close()


def _terminate(*_: object) -> None:
    raise _Terminated


def _silence(stream: TextIO) -> None:
    """Let the interpreter's last flush go nowhere: where it should go, it cannot."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"


def _is_colourful(stream: TextIO) -> bool:
    return _is_terminal(stream) and not os.environ.get("NO_COLOR")
