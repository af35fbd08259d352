"""Fuzz the cutter with mutated real graphs: no traceback, no hang, no memory hunger, no output.

    python benchmarks/fuzz.py --cases 100000 --jobs 2

The corpus is what ships: the shapes detector, and real exporters' graphs whose weights are a hole
in a file (external data that nobody reads but the heads). A case is a number: it chooses the graph
and the mutations, of bytes or of the parsed protobuf, and is the same on every machine. Each worker
is a process of its own, bounded in memory; one that dies or hangs is a finding, not the end.

A finding is anything but a cut or an error that the command line knows (`HeadcutError`).
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import os
import random
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import onnx
from google.protobuf.message import DecodeError, EncodeError
from mutations import mutate_bytes, mutate_graph
from onnx import TensorProto

import onnx_headcut as hc

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "models" / "exported"))
import skeleton  # noqa: E402

SECONDS, MEGABYTES = 20, 3000
"""A case may take so long (of the processor, 20 times the slowest graph unharmed), and so much
memory."""
HOLE = 1 << 32
KEEPS = ("1", "2,1", "0,1", "1-3", "0")


@dataclass
class Found:
    """What a run came to: cases by outcome, and what should not have happened."""

    outcomes: Counter[str] = field(default_factory=Counter)
    findings: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def cases(self) -> int:
        """How many ran."""
        return sum(self.outcomes.values())


NODES = 1000
"""Larger graphs (R-CNNs, unrolled branches) take seconds a case and show nothing else."""


def corpus(folder: Path, limit: int) -> list[bytes]:
    """Serialized graphs of at most ``limit`` bytes; writes the file that they take weights from."""
    with (folder / "hole").open("wb") as hole:
        hole.truncate(HOLE)
    graphs = [p.read_bytes() for p in sorted((ROOT / "models/shapes").glob("*.onnx"))]
    for path in sorted(skeleton.HERE.glob("*.many.onnx.gz")):
        model = onnx.load_model_from_string(gzip.decompress(path.read_bytes()))
        for tensor in skeleton.tensors(model):
            if tensor.doc_string.startswith('{"noise"'):
                _dig(tensor)
        skeleton.fill(model)
        if len(model.graph.node) > NODES:
            continue
        graphs.append(model.SerializeToString())
    return [graph for graph in graphs if len(graph) <= limit]


def _dig(tensor: TensorProto) -> None:
    """Let a stripped tensor's data be a hole in a file."""
    count = 1
    for extent in tensor.dims:
        count *= extent
    size = count * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    tensor.ClearField("doc_string")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": "hole", "offset": 0, "length": size}.items():
        tensor.external_data.add(key=key, value=str(value))


def mutated(graphs: Sequence[bytes], case: int) -> bytes:
    """Give the mutated graph of a case."""
    chance = random.Random(case)  # noqa: S311  (the same everywhere)
    data = chance.choice(graphs)
    if chance.random() < 0.4:
        return mutate_bytes(data, chance)
    model = onnx.load_model_from_string(data)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 6))):
        with contextlib.suppress(ValueError, TypeError, IndexError, EncodeError, DecodeError):
            mutate_graph(model, chance)  # what protobuf does not take is no mutation
    try:
        data = bytes(model.SerializeToString())
    except (EncodeError, ValueError):
        return data
    return mutate_bytes(data, chance) if chance.random() < 0.1 else data


class _Hang(BaseException):
    pass


def _alarm(*_: object) -> NoReturn:
    raise _Hang


def attempt(data: bytes, case: int, folder: Path) -> tuple[str, str]:
    """Cut one graph; returns the outcome, and a finding or ""."""
    path, output = folder / "case.onnx", folder / "cut.onnx"
    path.write_bytes(data)
    output.unlink(missing_ok=True)
    before = set(os.listdir(folder))  # noqa: PTH208  (names)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    outcome, finding = "cut", ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            hc.cut(path, KEEPS[case % len(KEEPS)], output, validation=False)
    except hc.HeadcutError as error:
        outcome = type(error).__name__
        if error.__cause__ is not None and outcome == "GraphRefused":
            outcome = "unforeseen"
            if os.environ.get("FUZZ_STRICT"):
                finding = _where()
    except _Hang:
        outcome, finding = "hang", _where()
    except RecursionError:
        outcome, finding = "recursion", _where()
    except Exception:  # noqa: BLE001  (that is what is looked for)
        outcome, finding = "traceback", _where()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    left = set(os.listdir(folder)) - before - {output.name}  # noqa: PTH208
    if left or (output.exists() and outcome != "cut"):
        outcome, finding = "output", f"left {sorted(left)} after {outcome}"
    return outcome, finding


def _where() -> str:
    kind, error, trace = sys.exc_info()
    frames = traceback.extract_tb(trace)
    ours = [f for f in frames if "onnx_headcut" in f.filename] or frames
    last = ours[-1]
    name = kind.__name__ if kind else ""
    return f"{name} in {Path(last.filename).name}:{last.name}: {str(error)[:120]}"


def _work(graphs: Sequence[bytes], cases: Sequence[int], pipe: int, folder: Path) -> None:
    """Run cases in a process of its own, telling each one's start and end."""
    resource.setrlimit(resource.RLIMIT_AS, (MEGABYTES << 20, MEGABYTES << 20))
    signal.signal(signal.SIGPROF, _alarm)
    with os.fdopen(pipe, "w") as out:
        for case in cases:
            out.write(json.dumps({"case": case}) + "\n")
            out.flush()
            outcome, finding = attempt(mutated(graphs, case), case, folder)
            out.write(json.dumps({"case": case, "outcome": outcome, "finding": finding}) + "\n")


def run(cases: Sequence[int], *, jobs: int = 2, limit: int = 1 << 20) -> Found:
    """Run ``cases`` in ``jobs`` processes."""
    found, start = Found(), time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        graphs = corpus(folder, limit)
        workers = [_Worker(graphs, cases[k::jobs], folder, k) for k in range(jobs)]
        while workers:
            ready, _, _ = select.select([w.read for w in workers], [], [], 1.0)
            for worker in list(workers):
                if worker.read in ready or worker.is_late():
                    worker.tell(found)
                if worker.done:
                    workers.remove(worker)
    found.seconds = time.monotonic() - start
    return found


class _Worker:
    """A process, and what it has told."""

    def __init__(
        self, graphs: Sequence[bytes], cases: Sequence[int], folder: Path, number: int
    ) -> None:
        self.graphs, self.left, self.done = graphs, list(cases), False
        self.folder = folder / str(number)
        self.folder.mkdir()
        self._start()

    def _start(self) -> None:
        shutil.rmtree(self.folder)
        self.folder.mkdir()
        with (self.folder / "hole").open("wb") as hole:
            hole.truncate(HOLE)
        self.read, write = os.pipe()
        self.buffer, self.now, self.since = b"", -1, time.monotonic()
        self.process = os.fork()
        if self.process == 0:
            code = 1
            try:
                os.close(self.read)
                _work(self.graphs, self.left, write, self.folder)
                code = 0
            finally:
                os._exit(code)
        os.close(write)

    def is_late(self) -> bool:
        """Whether a case hangs where not even an alarm is heard."""
        return time.monotonic() - self.since > 20 * SECONDS

    def tell(self, found: Found) -> None:
        """Take in what the process has told, and start another one where it died."""
        if self.is_late():
            os.kill(self.process, signal.SIGKILL)
        data = os.read(self.read, 1 << 16)
        self.buffer += data
        *lines, self.buffer = self.buffer.split(b"\n")
        for line in lines:
            self._take(json.loads(line), found)
        if data:
            return
        _, status = os.waitpid(self.process, 0)
        os.close(self.read)
        if self.now >= 0:
            died = {"case": self.now, "outcome": "died", "finding": f"wait status {status}"}
            self._take(died, found)
        if self.left and status != 0:
            self._start()
        else:
            self.done = True

    def _take(self, line: dict[str, Any], found: Found) -> None:
        self.since = time.monotonic()
        if "outcome" not in line:
            self.now = line["case"]
            return
        self.now = -1
        self.left.remove(line["case"])
        found.outcomes[line["outcome"]] += 1
        if line["finding"]:
            found.findings.append(line)


def grouped(found: Found) -> Iterator[tuple[str, list[int]]]:
    """Findings by what they say, most frequent first."""
    by: dict[str, list[int]] = {}
    for finding in found.findings:
        by.setdefault(finding["finding"], []).append(finding["case"])
    yield from sorted(by.items(), key=lambda item: -len(item[1]))


def main() -> int:
    """Run, and say what was found; the exit code is 1 where something was."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--limit", type=int, default=1 << 20, help="bytes of the largest graph")
    options = parser.parse_args()
    cases = range(options.first, options.first + options.cases)
    found = run(cases, jobs=options.jobs, limit=options.limit)
    print(f"{found.cases} cases in {found.seconds:.0f} s: {dict(found.outcomes)}")
    for what, which in grouped(found):
        print(f"{len(which):6} {what}  (case {which[0]})")
    return 1 if found.findings else 0


if __name__ == "__main__":
    raise SystemExit(main())
