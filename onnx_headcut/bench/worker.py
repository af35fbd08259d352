"""One model in a process of its own: ``python -m onnx_headcut.bench.worker``, told what to do.

One JSON document a line goes each way. First comes what to open, then ``run`` (answered by the
seconds it took), ``stages`` (seconds by the output of each node, from a profile), ``peak``
(bytes of memory at most, beyond those of onnxruntime alone) and ``device`` (bytes that it took on
a CUDA device, or null).
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from onnx_headcut.errors import HeadcutError
from onnx_headcut.validation.choosing import usable
from onnx_headcut.validation.cuda import used_on_device
from onnx_headcut.validation.providers import import_runtime
from onnx_headcut.validation.runtime import open_session, read_profile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PROFILED = 5
"""Runs that a profile is taken of; the first is left out."""


class _Worker:
    def __init__(self, order: dict[str, Any]) -> None:
        self.model, self.provider = Path(order["model"]), order["provider"]
        self.threads = order["threads"]
        with np.load(order["feed"]) as arrays:
            self.feed = dict(arrays)
        # onnxruntime itself is loaded before memory is counted
        self.of_cuda = usable(self.provider) in ("cuda", "tensorrt")
        self.before = peak_memory()
        self.on_device: int | None = None
        with self._counted():
            self.session = open_session(
                self.model, provider=self.provider, deterministic=False, threads=self.threads
            )

    def opened(self) -> str:
        return self.session.provider

    def run(self) -> float:
        with self._counted():
            start = time.perf_counter()
            self.session.run(self.feed)
            return time.perf_counter() - start

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Add what the device's memory grows by: no other worker does anything meanwhile."""
        before = used_on_device(import_runtime()) if self.of_cuda else None
        yield
        after = used_on_device(import_runtime()) if before is not None else None
        if before is not None and after is not None:
            self.on_device = (self.on_device or 0) + max(after - before, 0)

    def device(self) -> int | None:
        return self.on_device

    def peak(self) -> int | None:
        after = peak_memory()
        return None if after is None or self.before is None else after - self.before

    def stages(self) -> list[list[Any]]:
        """Profile the graph as optimised; give op, outputs, inputs and seconds of each node, in order.

        Nodes are numbered first: onnxruntime then gives each that it fuses or adds a name of its own,
        copies between devices among them, by which the profile knows it again.
        """
        proto = onnx.load(self.model, load_external_data=False)
        for i, node in enumerate(proto.graph.node):
            node.name = f"n{i}"
        with tempfile.TemporaryDirectory(prefix="onnx-headcut-") as name:
            folder = Path(name)
            session = open_session(
                proto, provider=self.provider, deterministic=False, threads=self.threads,
                external_data_dir=self.model.parent, optimized_to=folder / "optimized.onnx",
                profile_to=folder,
            )  # fmt: skip
            for _ in range(_PROFILED + 1):
                session.run(self.feed)
            seconds = read_durations(session.end_profile(), _PROFILED + 1)
            nodes = onnx.load(folder / "optimized.onnx", load_external_data=False).graph.node
        return [
            [node.op_type, [*node.output], [*node.input], seconds.get(node.name, 0.0)] for node in nodes
        ]


def read_durations(profile: Path, runs: int) -> dict[str, float]:
    """Read seconds a run by node from a profile of ``runs`` runs, without the first of them.

    The median of few runs: whatever else the machine does lands on one node of one of them.
    """
    times: dict[str, list[float]] = defaultdict(list)
    for event in read_profile(profile):
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            times[event["name"].removesuffix("_kernel_time")].append(event["dur"] / 1e6)
    # Nodes of subgraphs run as often as they like; their time is in that of the node around them.
    return {name: float(np.median(t[1:])) for name, t in times.items() if len(t) == runs}


def peak_memory() -> int | None:
    """Bytes of memory that this process has held at most, or None where that is not known."""
    status = Path("/proc/self/status")
    if status.exists():  # unlike getrusage, it does not count the parent's memory
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource  # noqa: PLC0415  (not on Windows)
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main() -> None:
    """Answer until the other side hangs up."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print does not come between
    worker: _Worker | None = None
    for line in sys.stdin:
        order = json.loads(line)
        try:
            if worker is None:
                worker = _Worker(order)
                answer: object = worker.opened()
            else:
                does: dict[str, Callable[[], object]] = {
                    "run": worker.run, "stages": worker.stages, "peak": worker.peak,
                    "device": worker.device,
                }  # fmt: skip
                answer = does[order]()
            reply = {"answer": answer}
        except HeadcutError as error:
            reply = {"error": type(error).__name__, "what": error.what, "advice": error.advice}
        out.write(json.dumps(reply) + "\n")
        out.flush()


if __name__ == "__main__":
    main()
