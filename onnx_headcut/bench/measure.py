"""Time two models against each other."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from onnx_headcut import errors
from onnx_headcut.bench.stages import Stages
from onnx_headcut.validation.runtime import RuntimeFailure

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from onnx_headcut.validation.inputs import NamedFeed

    Progress = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """How to measure.

    At most ``rounds`` runs of each model after ``warmup`` ones, fewer where ``seconds`` have
    passed (but five at least). ``threads`` is the number of intra-op threads; 0 leaves it to
    onnxruntime. ``seed`` is that of the order.
    """

    provider: str = "auto"
    threads: int = 1
    rounds: int = 50
    warmup: int = 3
    seconds: float = 20.0
    seed: int = 0


@dataclass(frozen=True)
class Timing:
    """One model: all times in seconds, memory in bytes beyond onnxruntime's own, or None.

    ``peak_memory`` is the process's own, ``device_memory`` what it took on a CUDA device.

    ``low`` and ``high`` are the 10th and 90th percentile; ``throughput`` is pictures a second.
    ``stages`` divides the median by part of the graph, as a profile does.
    """

    model: str
    provider: str
    runs: int
    best: float
    median: float
    low: float
    high: float
    throughput: float
    peak_memory: int | None
    stages: dict[str, float] = field(default_factory=dict)
    device_memory: int | None = None


@dataclass(frozen=True)
class Bench:
    """Both models, and how many times faster the cut is: ``ratio``, and its quartiles."""

    original: Timing
    cut: Timing
    ratio: float
    ratio_low: float
    ratio_high: float
    batch: int
    threads: int
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain data with stable keys."""
        return asdict(self)

    @property
    def line(self) -> str:
        """Say it for people; a ratio whose spread holds 1 is no difference."""
        spread = f"middle half of pairs: {self.ratio_low:.2f} to {self.ratio_high:.2f}"
        text = f"The cut is {self.ratio:.2f} times as fast ({spread})"
        if self.ratio_low <= 1 <= self.ratio_high:
            return f"{text}: no difference that these runs could show"
        return text


class _Model:
    """A model in its own process."""

    def __init__(
        self, path: Path, feed: Path, settings: Settings, surroundings: Mapping[str, str] | None = None
    ) -> None:
        self.path, self._feed, self._settings = path, feed, settings
        self._process = subprocess.Popen(
            [sys.executable, "-m", "onnx_headcut.bench.worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env=os.environ | (surroundings or {}),
        )  # fmt: skip
        self._order = {"model": str(path), "feed": str(feed), "provider": settings.provider,
                       "threads": settings.threads}  # fmt: skip
        self.times: list[float] = []
        self.provider = ""

    def __enter__(self) -> Self:
        self.provider = self.ask(self._order)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        self._process.wait()

    def ask(self, order: object) -> Any:
        """Have the process do something; raises its error here."""
        sent, received = self._process.stdin, self._process.stdout
        line = ""
        if sent is not None and received is not None:
            try:
                sent.write(json.dumps(order) + "\n")
                sent.flush()
                line = received.readline()
            except BrokenPipeError:
                line = ""
        if not line:
            raise RuntimeFailure(f"{self.path.name}: onnxruntime ended its process")
        reply = json.loads(line)
        if "error" in reply:
            kind = getattr(errors, reply["error"], RuntimeFailure)
            raise kind(reply["what"], advice=reply["advice"])
        return reply["answer"]

    def nodes(self) -> Any:
        """Seconds by node. Of CUDA in a process that waits for each kernel: others launch and go on."""
        if self.provider != "cuda":
            return self.ask("stages")
        waits = {"CUDA_LAUNCH_BLOCKING": "1"}
        with _Model(self.path, self._feed, self._settings, waits) as again:
            return again.ask("stages")

    def timing(self, batch: int) -> Timing:
        """Put together what was measured; to be asked before ``nodes``, which takes memory, too."""
        low, median, high = np.percentile(self.times, [10, 50, 90]).tolist()
        return Timing(self.path.name, self.provider, len(self.times), min(self.times), median, low,
                      high, batch / median, self.ask("peak"), {}, self.ask("device"))  # fmt: skip


def bench(
    original: Path,
    cut: Path,
    feed: NamedFeed,
    settings: Settings | None = None,
    progress: Progress = lambda step: None,  # noqa: ARG005
) -> Bench:
    """Time both models on one feed.

    Raises ProviderError where the provider cannot be used, InputError and RuntimeFailure where a
    model cannot be run on the feed.
    """
    settings = settings or Settings()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="onnx-headcut-")))
        arrays: dict[str, Any] = dict(feed.feed)
        np.savez(folder / "feed.npz", **arrays)
        progress("opening both models")
        models = [
            stack.enter_context(_Model(path, folder / "feed.npz", settings)) for path in (original, cut)
        ]
        _run_in_turn(models, settings, progress)
        batch = max((a.shape[0] for a in feed.feed.values() if a.ndim == 4), default=1)
        timings = [model.timing(batch) for model in models]
        progress("profiling")
        notes: list[str] = []
        for k, model in enumerate(models):
            shares = _stages(model, notes)
            stages = {stage: share * timings[k].median for stage, share in shares.items()}
            timings[k] = replace(timings[k], stages=stages)
        pairs = np.array(models[0].times) / np.array(models[1].times)
    low, middle, high = np.percentile(pairs, [25, 50, 75]).tolist()
    return Bench(timings[0], timings[1], middle, low, high, batch, settings.threads, tuple(notes))


def _run_in_turn(models: Sequence[_Model], settings: Settings, progress: Progress) -> None:
    order = random.Random(settings.seed)  # noqa: S311  (no secret)
    for model in [*models] * settings.warmup:
        model.ask("run")
    end = time.monotonic() + settings.seconds
    for done in range(settings.rounds):
        if done >= 5 and time.monotonic() > end:
            break
        progress(f"running: {done} of {settings.rounds}")
        for model in order.sample(models, len(models)):
            model.times.append(model.ask("run"))


def _stages(model: _Model, notes: list[str]) -> dict[str, float]:
    try:
        return Stages(model.path).shares(model.nodes())
    except errors.HeadcutError as error:
        why = error.what
        if "compiled nodes" in why:
            why = f"{model.provider} compiles what it takes of the graph into a few nodes"
        notes.append(f"{model.path.name}: no times by stage: {why}")
        return {}
