"""The processes that make many cuts: one that reads the model, and forks of it that do the rest.

The *foreman* (`main`) is a fresh process that has neither threads of its own nor a runtime in it,
whatever the process has that asks for the cuts: so it may fork. Where all cuts are of one model, it
reads and understands it once. Its *workers* are forks that hold what was understood; each takes the
next task from a pipe until there is none, and imports the runtime once. A worker that dies takes
one task with it, and another takes its place. Where processes cannot be forked (Windows), the
foreman does the tasks itself, one after the other.

Messages go to the asking process as pickles on stdout. When that process ends, in whatever way,
stdin ends, and so do all of these: files are written whole or not at all.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import re
import signal
import struct
import subprocess
import sys
import traceback
import warnings
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess
    from typing import IO

    from onnx_headcut.console import Failure
    from onnx_headcut.report.wanted import Reports
    from onnx_headcut.understanding import Opened
    from onnx_headcut.validation.verdict import Verdict

_NUMBER = struct.Struct("<I")
# what is imported there is what is imported here, whatever lies in the folder where it works
_START = "import sys; sys.path[:] = {}; from onnx_headcut.workers import main; main()"
# bytes of a worker without a model, and how many times the model's one that validates was seen to
# hold at most (an SSD300 of 143 MB and pictures by twos: 2.1 GB)
_FIRST, _HELD = 1 << 28, 16
_ON_A_GPU = 4  # cuts at once, unless --jobs says otherwise
_GPUS = ("/dev/nvidiactl", "/dev/dxg", "/dev/nvhost-gpu")  # of Linux, WSL and Jetsons
_PATIENCE = 3.0  # seconds that a worker has for ending by itself


@dataclass(frozen=True)
class Task:
    """One cut. ``arguments`` are keywords of `onnx_headcut.cut`, ``feeds`` of `onnx_headcut.Feeds`.

    So are ``fit``, the pictures that the background is fitted to.
    ``report`` says what is wanted beside it: page, images, annotations, preprocess.
    """

    source: str
    keep: Any
    output: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    feeds: Mapping[str, Any] = field(default_factory=dict)
    fit: Mapping[str, Any] = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Order:
    """Cuts to make, ``jobs`` at once; ``reading`` are the keywords that say how models are read.

    Without ``jobs``: as many as there are cores, and as memory allows where it is one model.
    """

    tasks: tuple[Task, ...]
    reading: Mapping[str, Any] = field(default_factory=dict)
    jobs: int | None = None


@dataclass(frozen=True)
class Done:
    """What came of a task: the document of ``cut --json``, the verdict, or the failure."""

    exit_code: int
    document: dict[str, Any]
    verdict: Verdict | None = None
    failure: Failure | None = None


@dataclass(frozen=True)
class Message:
    """A step of a task, or its end; an ``error`` ends the whole order."""

    task: int = -1
    step: str = ""
    done: Done | None = None
    error: Exception | None = None


# ------------------------------------------------------------------------------- who asks


def ask(order: Order, folder: Path) -> Iterator[Message]:
    """Let a fresh process do ``order`` in ``folder``; gives what it tells, all but errors.

    Leaving it ends the work. Raises what is wrong with the model that all cuts are of.
    """
    process = subprocess.Popen(  # noqa: S603  (this program)
        [sys.executable, "-P", "-c", _START.format([os.path.abspath(p) for p in sys.path])],  # noqa: PTH100
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=folder,
    )
    asked, told = cast("IO[bytes]", process.stdin), cast("IO[bytes]", process.stdout)
    try:
        with suppress(EOFError, BrokenPipeError):
            pickle.dump(order, asked)
            asked.flush()
            while True:
                message: Message = pickle.load(told)  # noqa: S301  (our own)
                if message.error is not None:
                    raise message.error
                yield message
    finally:
        with suppress(OSError):
            asked.close()  # with this, whatever goes on ends
        told.close()
        try:
            process.wait(2 * _PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


# ------------------------------------------------------------------------------ the foreman


def main() -> None:
    """Read an order from stdin, and do it."""
    gc.set_threshold(200_000)  # as in the command line itself
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever asked decides; then stdin ends
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # workers and temporary files go
    if not os.environ.get("HEADCUT_DEBUG"):
        warnings.simplefilter("ignore")
    order: Order = pickle.load(sys.stdin.buffer)  # noqa: S301  (our own, by the pipe that we hold)
    with suppress(BrokenPipeError), os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)  # what libraries print is no message

        def tell(message: Message) -> None:
            pickle.dump(message, out)
            out.flush()

        try:
            opened = _open(order)
            (_with_forks if hasattr(os, "fork") else _alone)(order, opened, tell)
        except Exception as error:  # noqa: BLE001  (told to whoever asked)
            if os.environ.get("HEADCUT_DEBUG"):
                traceback.print_exc()
            tell(Message(error=_carried(error)))


def _open(order: Order) -> Opened | None:
    """Read the model once, where it is one; else a worker reads what it cuts."""
    if len({task.source for task in order.tasks}) > 1:
        return None
    from onnx_headcut.understanding import Options, open_model  # noqa: PLC0415  (not for who asks)

    reading = dict(order.reading)
    links = reading.pop("follow_links", False)
    runs = any(_said(t, "validation") or t.fit or _said(t, "fit_background") for t in order.tasks)
    source = order.tasks[0].source
    opened = open_model(source, Options(**reading), follow_links=links, small=not runs)
    if not all(_said(task, "dry_run") for task in order.tasks):
        _ = opened.source.sha256  # ends the thread that makes it, before any fork
    return opened


def _said(task: Task, keyword: str) -> bool:
    return bool(task.arguments.get(keyword, keyword == "validation"))


def _alone(order: Order, opened: Opened | None, tell: Callable[[Message], None]) -> None:
    for number, task in enumerate(order.tasks):
        _do(opened, order, number, task, tell)
        gc.collect()


def _at_once(opened: Opened | None) -> int:
    """As many as there are cores, and as fit into the memory that is free."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if opened is None:
        return cores
    from onnx_headcut.storage import external, tensors  # noqa: PLC0415

    source = opened.source
    beside = external.outside(tensors.all_tensors(source.proto))
    size: int = source.proto.ByteSize() + sum(
        external.range_of(tensor, source.folder).length for tensor in beside
    )
    with suppress(OSError, IndexError):  # Linux alone says what is free
        said = Path("/proc/meminfo").read_text(encoding="ascii")
        free = int(re.findall(r"MemAvailable: *(\d+) kB", said)[0]) << 10
        return max(min(cores, free // (_FIRST + _HELD * size)), 1)
    return cores


def _at_once_there(tasks: Sequence[Task]) -> int:
    """How many a device takes at once: each process holds memory of a GPU, whose size none knows yet.

    No runtime is loaded here, so that what tells of a GPU is a driver's file.
    """
    asked = {t.arguments.get("provider", "auto") for t in tasks if _said(t, "validation")}
    if asked & {"cuda", "tensorrt"} or ("auto" in asked and any(map(os.path.exists, _GPUS))):
        return _ON_A_GPU
    return len(tasks)


@dataclass
class _Worker:
    process: BaseProcess
    heard: Connection
    task: int = -1


def _with_forks(order: Order, opened: Opened | None, tell: Callable[[Message], None]) -> None:
    """Let workers do the tasks, until all are done or stdin has ended."""
    numbers, fill = os.pipe()
    os.write(fill, b"".join(map(_NUMBER.pack, range(len(order.tasks)))))  # fits: 64 KiB
    os.close(fill)
    work = (opened, order, numbers)
    at_once = order.jobs or min(_at_once(opened), _at_once_there(order.tasks))
    gc.freeze()  # what all workers hold is no garbage, and stays in memory that they share
    workers = [_hire(work) for _ in range(min(at_once, len(order.tasks)))]
    left, stdin = len(order.tasks), sys.stdin.fileno()
    try:
        while left and workers:
            ready = wait([*(worker.heard for worker in workers), stdin])
            if stdin in ready:
                return
            for worker in [w for w in workers if w.heard in ready]:
                message = _hear(worker)
                if message is None:
                    workers.remove(worker)
                    if worker.task < 0:  # there was no task left for it
                        continue
                    message = _death(worker)
                    workers.append(_hire(work))
                worker.task = message.task if message.done is None else -1
                left -= message.done is not None
                tell(message)
    finally:
        _dismiss(workers)


def _hire(work: tuple[Opened | None, Order, int]) -> _Worker:
    fork = multiprocessing.get_context("fork")
    heard, said = fork.Pipe(duplex=False)
    process = fork.Process(target=_work, args=(*work, said), daemon=True)
    process.start()
    said.close()
    return _Worker(process, heard)


def _hear(worker: _Worker) -> Message | None:
    try:
        message = worker.heard.recv()
    except (EOFError, OSError):
        worker.heard.close()
        return None
    return message if isinstance(message, Message) else None


def _death(worker: _Worker) -> Message:
    """What is told of the task of a worker that has died."""
    from onnx_headcut.console import BUG, Failure  # noqa: PLC0415

    worker.process.join()
    code = worker.process.exitcode or 0
    how = f"of signal {-code}" if code < 0 else f"with exit code {code}"
    failure = Failure("Died", f"the process died {how}", BUG, "Is there enough memory? Try --jobs 1.")
    return Message(worker.task, done=Done(BUG, failure.document, failure=failure))


def _dismiss(workers: Sequence[_Worker]) -> None:
    for worker in workers:
        worker.process.terminate()
    for worker in workers:
        worker.process.join(_PATIENCE)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()


def _carried(error: Exception) -> Exception:
    """Give an error that survives the way to another process."""
    from onnx_headcut.console import describe  # noqa: PLC0415
    from onnx_headcut.errors import HeadcutError, InputError  # noqa: PLC0415

    if isinstance(error, HeadcutError):
        return error
    failure = describe(error)
    if failure.exit_code == InputError.exit_code:
        return InputError(failure.what, advice=failure.advice)
    return RuntimeError(failure.what)


# ------------------------------------------------------------------------------- the workers


def _work(opened: Opened | None, order: Order, numbers: int, said: Connection) -> None:
    """Do tasks as long as there are any, and the foreman."""
    foreman = os.getppid()
    with suppress(BrokenPipeError):
        while os.getppid() == foreman and (data := os.read(numbers, _NUMBER.size)):
            (number,) = _NUMBER.unpack(data)
            _do(opened, order, number, order.tasks[number], said.send)
            gc.collect()  # sessions in reference cycles hold much memory, and little that gc counts


def _do(
    opened: Opened | None, order: Order, number: int, task: Task, tell: Callable[[Message], None]
) -> None:
    """Do one task, and tell its steps and its end; what goes wrong is told, too."""
    tell(Message(number, "starting"))
    try:
        done = _cut(opened, order, task, lambda step: tell(Message(number, step)))
    except Exception as error:  # noqa: BLE001  (the other tasks go on)
        from onnx_headcut.console import describe  # noqa: PLC0415

        if os.environ.get("HEADCUT_DEBUG"):
            traceback.print_exc()
        failure = describe(error)
        done = Done(failure.exit_code, failure.document, failure=failure)
    tell(Message(number, done=done))


def _cut(opened: Opened | None, order: Order, task: Task, told: Callable[[str], None]) -> Done:
    from onnx_headcut import documents  # noqa: PLC0415  (after the fork)
    from onnx_headcut.cutting import Feeds, cut  # noqa: PLC0415

    dry_run = _said(task, "dry_run")
    reports = _reports(task) if _said(task, "validation") and not dry_run else None
    feeds = Feeds(**task.feeds) if task.feeds else None
    arguments = dict(task.arguments)
    if opened is None:
        arguments |= order.reading
    if task.fit:
        arguments["fit_background"] = Feeds(**task.fit)
    model = opened if opened is not None else Path(task.source)
    result = cut(model, task.keep, task.output, feeds=feeds, progress=told, **arguments)
    document = documents.of_cut(result, dry_run=dry_run)
    if reports is not None and result.verdict is not None:
        cut_model = Path(task.output) if result.exit_code == 0 else result.model
        reading = {k: v for k, v in order.reading.items() if k != "follow_links"}
        drift = reports.write(Path(task.source), cut_model, result.verdict, reading,
                              name=task.output, command="cut", progress=told)  # fmt: skip
        document |= {} if drift is None else {"drift_on_pictures": drift.to_json()}
    return Done(result.exit_code, document, result.verdict)


def _reports(task: Task) -> Reports | None:
    """Give what is wanted beside the cut; raises UsageError, before any work, where it cannot be."""
    if not task.report:
        return None
    from onnx_headcut.report.wanted import Reports  # noqa: PLC0415

    page, images, annotations = (
        Path(task.report[k]) if k in task.report else None for k in ("page", "images", "annotations")
    )
    reports = Reports(page, images, annotations, task.report.get("preprocess"))
    reports.check()
    return reports
