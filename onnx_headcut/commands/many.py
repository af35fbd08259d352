"""Options for files, and ``cut`` for many models: a process each, one table, one exit code.

Typer reads annotations at run time.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onnx_headcut import __version__
from onnx_headcut.console import SCHEMA, Answer, printable, steps
from onnx_headcut.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from onnx_headcut.storage.external import External

ExternalData = Annotated[
    str | None,
    typer.Option(
        metavar="WHERE",
        help="Where weights beside MODEL go: reference (they stay where they lie), copy (into one "
        "file beside FILE), inline (into FILE). Without it: reference in the same folder, copy "
        "elsewhere.",
    ),
]
FollowLinks = Annotated[
    bool,
    typer.Option(
        "--follow-links",
        help="Trust weights beside MODEL that are symbolic or hard links, as in Hugging Face's "
        "cache.",
    ),
]
OutputDir = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Cut every model of the folder or quoted glob MODEL, each into a file of its name in "
        "FOLDER.",
    ),
]

_OF_ONE = ("output", "report", "junit", "sarif", "github", "dry_run")
_OF_ALL = ("model", "output_dir", "json")


def external_data_of(text: str | None) -> "External | None":
    """Take the option's text; raises UsageError for another."""
    for choice in ("reference", "copy", "inline"):
        if text == choice:
            return choice
    if text is None:
        return None
    raise UsageError(
        f"--external-data cannot take {text!r}", advice="Say reference, copy or inline."
    )


@dataclass
class _Job:
    """One model, and what its process said."""

    model: Path
    output: Path
    arguments: Sequence[str]
    process: "subprocess.Popen[str] | None" = None
    said: str = ""
    code: int = -1
    document: dict[str, Any] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(  # noqa: S603  (this program)
            [sys.executable, "-m", "onnx_headcut", "cut", "--output", str(self.output), "--json",
             *self.arguments, "--", str(self.model)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )  # fmt: skip

    def has_ended(self) -> bool:
        """Wait a little, and read meanwhile, so that no pipe fills up."""
        if self.process is None:
            return False
        try:
            self.said, _ = self.process.communicate(timeout=0.05)
        except subprocess.TimeoutExpired:
            return False
        return True

    def end(self) -> None:
        """Take what the process said; one that died said nothing."""
        if self.process is None:
            return
        self.code = self.process.returncode
        try:
            self.document = json.loads(self.said)
        except ValueError:
            died = f"the process died of signal {-self.code}" if self.code < 0 else "no answer"
            self.document = {"error": {"kind": "Died", "message": died, "advice": ""}}
            self.code = 70

    @property
    def what(self) -> str:
        """Say in a line what came of it."""
        document = self.document or {}
        if "error" in document:
            return f"{document['error']['kind']}: {document['error']['message']}"
        if self.code == 0:
            return "cut" if document.get("validation") is None else "cut and validated"
        return "validation failed or was inconclusive; nothing was written"


def cut_many(ctx: typer.Context, output_dir: Path, *, as_json: bool) -> Answer:
    """Cut each model of a folder or glob by a process of its own; goes on after a refusal.

    The exit code is 0 where all were cut, else the largest of all.
    """
    for name in _OF_ONE:
        if ctx.params.get(name):
            flag = f"--{name.replace('_', '-')}"
            raise UsageError(f"{flag} is for one model", advice="Leave --output-dir out.")
    models = _found(ctx.params["model"])
    output_dir.mkdir(parents=True, exist_ok=True)
    arguments = list(_arguments(ctx))
    jobs = [_Job(model, output_dir / model.name, arguments) for model in models]
    with steps() as step:
        _run(jobs, step)
    code = max(job.code for job in jobs)
    documents = [{"model": str(job.model), **(job.document or {})} for job in jobs]
    document = {"schema": SCHEMA, "tool": f"onnx-headcut {__version__}", "command": "cut",
                "exit_code": code, "models": documents}  # fmt: skip
    return Answer(document, lambda to: _show(to, jobs), code, as_json)


def _found(model: Path) -> list[Path]:
    """List the models of a folder, or of a glob; raises UsageError where there is none."""
    if model.is_dir():
        found = sorted(model.glob("*.onnx"))
    elif model.exists():
        found = [model]
    else:
        anchor = Path(model.anchor)
        found = sorted(anchor.glob(str(model.relative_to(anchor))))
    if not found:
        raise UsageError(f"no model matches {model}", advice="Name a folder of .onnx files.")
    names = [path.name for path in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UsageError(f"two models are called {twice}", advice="Cut them folder by folder.")
    return found


def _arguments(ctx: typer.Context) -> Iterator[str]:
    """Give the options again, as they were read."""
    for option in ctx.command.params:
        value = ctx.params.get(option.name or "")
        if option.name in (*_OF_ONE, *_OF_ALL) or value in {None, False, ()} or value == []:
            continue
        flag = max(option.opts, key=len)
        if value is True:
            yield flag
        else:
            for one in value if isinstance(value, list | tuple) else [value]:
                yield f"{flag}={one}"


def _run(jobs: Sequence[_Job], step: Callable[[str], None]) -> None:
    """Run all, as many at once as there are cores."""
    waiting, running = list(jobs), list[_Job]()
    try:
        while waiting or running:
            while waiting and len(running) < (os.cpu_count() or 1):
                job = waiting.pop(0)
                job.start()
                running.append(job)
            step(f"{len(jobs) - len(waiting) - len(running)} of {len(jobs)} models")
            for job in [j for j in running if j.has_ended()]:
                job.end()
                running.remove(job)
    finally:
        for job in running:
            if job.process is not None:
                job.process.kill()
                job.process.communicate()


def _show(to: "Console", jobs: Sequence[_Job]) -> None:
    from rich.table import Table  # noqa: PLC0415  (not for --help)

    table = Table(box=None, pad_edge=False)
    for name in ("model", "exit code", "MB before", "after", ""):
        table.add_column(name, justify="left" if name in {"model", ""} else "right")
    for job in jobs:
        after = f"{job.output.stat().st_size / 1e6:.1f}" if job.code == 0 else ""
        before = f"{job.model.stat().st_size / 1e6:.1f}" if job.model.is_file() else ""
        table.add_row(printable(job.model.name), str(job.code), before, after, printable(job.what))
    to.print(table)
    done = sum(job.code == 0 for job in jobs)
    to.print(f"{done} of {len(jobs)} models cut")
