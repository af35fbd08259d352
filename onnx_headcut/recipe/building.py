"""All variants of a recipe, from one load of its source. This is `onnx_headcut.build`."""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from onnx_headcut.errors import UsageError
from onnx_headcut.recipe.workers import Done, Message, Order, Task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from typing import IO

    from onnx_headcut.console import Failure
    from onnx_headcut.recipe.reading import Recipe, Variant
    from onnx_headcut.validation.verdict import Verdict

_MEMORY = 8
"""How many times the model's bytes a validation was seen to hold, sessions and all; rounded up."""

# what is imported there is what is imported here, whatever lies in the recipe's folder
_START = "import sys; sys.path[:] = {}; from onnx_headcut.recipe.workers import main; main()"

_PATIENCE = 10.0  # seconds that the builder has for ending by itself


@dataclass(frozen=True)
class Built:
    """What came of one variant.

    ``document`` is what ``cut --json`` prints of it. ``verdict`` is None where nothing was
    validated; ``failure`` says why there is no cut. ``output`` is where the file is, if it was
    written.
    """

    name: str
    exit_code: int
    output: Path | None
    document: dict[str, Any]
    verdict: Verdict | None = None
    failure: Failure | None = None

    def __bool__(self) -> bool:
        return self.exit_code == 0


@dataclass(frozen=True)
class Build:
    """What came of a recipe, variant by variant in its order. True where all is well."""

    variants: tuple[Built, ...]

    @property
    def exit_code(self) -> int:
        """The worst of all variants'."""
        return max((built.exit_code for built in self.variants), default=0)

    def __bool__(self) -> bool:
        return self.exit_code == 0


def build(  # noqa: PLR0913  (each is one option of the command line)
    recipe: Recipe,
    *,
    variants: Sequence[str] | None = None,
    force: bool = False,
    dry_run: bool = False,
    validation: bool | None = None,
    provider: str | None = None,
    jobs: int | None = None,
    progress: Callable[[str], None] = lambda step: None,  # noqa: ARG005
) -> Build:
    """Cut the variants of ``recipe``, or those named, each as `cut` alone would, byte for byte.

    The source is read and understood once, in a process of its own, and ``jobs`` copies of that
    process cut and validate: by default as many as cores and memory allow. A variant that is
    refused or fails does not end the others; what is wrong with the source is raised, as by `cut`.
    ``validation`` and ``provider`` say otherwise than the recipe where they are given.
    """
    chosen = _chosen(recipe, variants)
    override = {"force": force, "dry_run": dry_run}
    if validation is not None:
        override["validation"] = validation
    said = {} if provider is None else {"provider": provider}
    tasks = tuple(
        Task(v.keep, v.output, {**v.settings, **override, **said}, v.feeds, v.report) for v in chosen
    )
    if jobs is not None and jobs < 1:
        raise UsageError(f"{jobs} jobs cannot do anything", advice="Say --jobs 1, or more.")
    at_once = min(jobs or _at_once(recipe), len(tasks))
    order = Order(recipe.source, recipe.reading, tasks, at_once)
    results: dict[int, Done] = {}
    for message in _messages(order, recipe.folder):
        if message.error is not None:
            raise message.error
        if message.done is not None:
            results[message.task] = message.done
        step = f"{chosen[message.task].name}: {message.step}; " if message.step else ""
        progress(f"{step}{len(results)} of {len(tasks)} variants")
    if len(results) < len(tasks):
        raise RuntimeError("the process that builds has died")
    return Build(tuple(_built(recipe, v, results[i]) for i, v in enumerate(chosen)))


def _chosen(recipe: Recipe, names: Sequence[str] | None) -> tuple[Variant, ...]:
    known = [variant.name for variant in recipe.variants]
    for name in names or ():
        if name not in known:
            raise UsageError(
                f"the recipe has no variant {name!r}", advice=f"It has {', '.join(known)}."
            )
    return tuple(v for v in recipe.variants if names is None or v.name in names)


def _built(recipe: Recipe, variant: Variant, done: Done) -> Built:
    """Say it with paths as seen from here."""
    document, output = done.document, None
    if document.get("output") is not None:
        output = recipe.folder / variant.output
        document = document | {"output": str(output)}
    return Built(variant.name, done.exit_code, output, document, done.verdict, done.failure)


def _at_once(recipe: Recipe) -> int:
    """As many as there are cores, and as fit into the free memory."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with contextlib.suppress(OSError, ValueError, AttributeError):  # not every system tells
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        size = (recipe.folder / recipe.source).stat().st_size
        return max(min(cores or 1, free // (_MEMORY * size or 1)), 1)
    return cores or 1


def _messages(order: Order, folder: Path) -> Iterator[Message]:
    """Let a fresh process do ``order`` in ``folder``; gives what it tells until it ends."""
    if not folder.is_dir():
        raise UsageError(f"the recipe's folder {folder} does not exist")
    process = subprocess.Popen(  # noqa: S603  (this program)
        [sys.executable, "-P", "-c", _START.format([os.path.abspath(p) for p in sys.path])],  # noqa: PTH100
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=folder,
    )
    asked, told = cast("IO[bytes]", process.stdin), cast("IO[bytes]", process.stdout)
    try:
        with contextlib.suppress(EOFError, BrokenPipeError):
            pickle.dump(order, asked)
            asked.flush()
            while True:
                yield pickle.load(told)  # noqa: S301  (our own)
    finally:
        with contextlib.suppress(OSError):
            asked.close()  # with this, whatever goes on ends
        told.close()
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
