"""``cut`` for many models, or to many variants: several at once, one table, one exit code.

Typer reads annotations at run time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onnx_headcut import __version__
from onnx_headcut.console import SCHEMA, Answer, printable, steps
from onnx_headcut.errors import UsageError
from onnx_headcut.report.files import Wanted

if TYPE_CHECKING:
    from rich.console import Console

    from onnx_headcut.workers import Done

OutputDir = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Cut every model of the folder or quoted glob MODEL, each into a file of its name in "
        "FOLDER.",
    ),
]
Recipe = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Cut what a recipe says, a TOML file: one model to one or more variants. It says MODEL "
        "and the options, too; --force, --dry-run, --no-validate and --provider may be added.",
    ),
]
Only = Annotated[
    list[str] | None,
    typer.Option("--variant", metavar="NAME", help="Of a recipe, this variant. Repeatable."),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        metavar="N", min=1, help="How many cuts are made at once. Without it: one a core, if they fit."
    ),
]

_OF_ONE = ("output", "report", "images", "annotations", "junit", "sarif", "github", "dry_run",
           "recipe", "only")  # fmt: skip
_BESIDE_RECIPE = ("recipe", "only", "jobs", "force", "dry_run", "no_validate", "provider", "junit",
                  "sarif", "github", "json")  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One line of the table: what was cut, into which file, and what came of it."""

    name: str
    exit_code: int
    document: dict[str, Any]

    @property
    def what(self) -> str:
        """Say in a few words what came of it."""
        document = self.document
        if "error" in document:
            error = document["error"]
            return f"{error['kind']}: {error['message']}\n{error['advice']}".strip()
        if document["dry_run"]:
            return f"{len(document['plan'])} edits planned, nothing written"
        if self.exit_code == 0:
            return "cut" if document["validation"] is None else "cut and validated"
        return "; ".join(
            [f"validation {document['validation']['status']}, nothing written",
             *document["validation"]["reasons"][:1]]
        )  # fmt: skip

    @property
    def columns(self) -> str:
        """How many columns there were, and are."""
        if "error" in self.document:
            return ""
        classes = self.document["classes"]
        return f"{classes['before']['count']} → {classes['after']['count']}"

    @property
    def sizes(self) -> tuple[str, str]:
        """Megabytes of the model file before and after."""
        figures = self.document.get("figures") or {}
        before, after = (
            f"{part['bytes'] / 1e6:.1f}" if part else ""
            for part in (figures.get("before"), figures.get("after"))
        )
        return before, after if self.exit_code == 0 else ""


def cut_many(
    ctx: typer.Context,
    output_dir: Path,
    reading: Mapping[str, Any],
    arguments: Mapping[str, Any],
    feeds: Mapping[str, Any],
) -> Answer:
    """Cut each model of a folder or glob, several at once; goes on after a refusal.

    ``reading``, ``arguments`` and ``feeds`` are the keywords of the API, the same for all. The exit
    code is 0 where all were cut, else the largest of all.
    """
    for name in _OF_ONE:
        if ctx.params.get(name):
            raise UsageError(f"{_flag(ctx, name)} is for one model", advice="Leave --output-dir out.")
    models = _found(ctx.params["model"])
    output_dir.mkdir(parents=True, exist_ok=True)
    from onnx_headcut.workers import Order, Task, ask  # noqa: PLC0415  (not for --help)

    tasks = [
        Task(str(model), ctx.params["keep"], str(output_dir / model.name), arguments, feeds)
        for model in models
    ]
    order = Order(tuple(tasks), reading, ctx.params["jobs"])
    results: dict[int, Done] = {}
    with steps() as step:
        step("reading")
        for message in ask(order, Path()):
            if message.done is not None:
                results[message.task] = message.done
            step(f"{len(results)} of {len(models)} models")
    rows = [
        Row(model.name, results[k].exit_code, results[k].document) for k, model in enumerate(models)
    ]
    documents = [{"model": str(model), **row.document} for model, row in zip(models, rows, strict=True)]
    return _answer(rows, {"models": documents}, "model", as_json=ctx.params["json"])


def cut_recipe(ctx: typer.Context, path: Path) -> Answer:
    """Cut the variants that a recipe says; goes on after a refusal. Exit codes as of `cut_many`."""
    for name in (option.name or "" for option in ctx.command.params):
        if name not in _BESIDE_RECIPE and _is_said(ctx, name):
            raise UsageError(
                f"{_flag(ctx, name)} has no place beside --recipe",
                advice="The recipe says it, or leave --recipe out.",
            )
    said = ctx.params
    asked = Wanted(said["junit"], said["sarif"], said["github"])
    if asked != Wanted() and (said["no_validate"] or said["dry_run"]):
        raise UsageError(
            "a report tells of validation, which is switched off",
            advice="Leave out --no-validate and --dry-run, or the options of reports.",
        )
    with steps() as step:
        step("reading")
        from onnx_headcut.recipe.building import build, make_folders  # noqa: PLC0415  (not for --help)
        from onnx_headcut.recipe.reading import read_recipe  # noqa: PLC0415

        recipe = read_recipe(path)
        reports = Wanted(
            asked.junit or recipe.files.get("junit"),
            asked.sarif or recipe.files.get("sarif"),
            asked.github,
        )
        if not said["dry_run"]:
            make_folders(recipe)
            reports.check()
        done = build(
            recipe,
            variants=said["only"] or None,
            force=said["force"],
            dry_run=said["dry_run"],
            validation=False if said["no_validate"] else None,
            provider=said["provider"] if _is_said(ctx, "provider") else None,
            jobs=said["jobs"],
            progress=step,
        )
    if not (said["no_validate"] or said["dry_run"]):
        reports.write(done.results, "cut")
    rows = [Row(built.name, built.exit_code, built.document) for built in done.variants]
    variants = [{"variant": row.name, **row.document} for row in rows]
    data = {"recipe": str(path), "source": str(recipe.folder / recipe.source), "variants": variants}
    return _answer(rows, data, "variant", as_json=said["json"])


def _is_said(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _flag(ctx: typer.Context, name: str) -> str:
    """Give an option as it is written."""
    option = next(option for option in ctx.command.params if option.name == name)
    return "MODEL" if option.param_type_name == "argument" else max(option.opts, key=len)


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


def _answer(rows: Sequence[Row], data: Mapping[str, Any], noun: str, *, as_json: bool) -> Answer:
    code = max(row.exit_code for row in rows)
    document = {"schema": SCHEMA, "tool": f"onnx-headcut {__version__}", "command": "cut",
                "exit_code": code, **data}  # fmt: skip
    return Answer(document, lambda to: _show(to, rows, noun), code, as_json)


def _show(to: "Console", rows: Sequence[Row], noun: str) -> None:
    from rich.table import Table  # noqa: PLC0415  (not for --help)

    table = Table(box=None, pad_edge=False)
    for name in (noun, "exit code", "columns", "MB before", "after", ""):
        table.add_column(name, justify="left" if name in {noun, ""} else "right")
    for row in rows:
        cells = (row.name, str(row.exit_code), row.columns, *row.sizes, row.what)
        table.add_row(*map(printable, cells))
    to.print(table)
    done = sum(row.exit_code == 0 for row in rows)
    planned = any(row.document.get("dry_run") for row in rows)
    to.print(f"{done} of {len(rows)} {noun}s {'planned' if planned else 'cut'}")
