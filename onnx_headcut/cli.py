"""The command line: commands without logic. They read options, call the API, and answer.

What an `Answer` and an exception become is in console.py, the tables are in tables.py, the JSON
documents in documents.py. Annotations are read by Typer at run time.
"""

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from copy import copy
from pathlib import Path
from typing import Annotated, Any

import typer

import onnx_headcut as hc
from onnx_headcut.commands import tolerances
from onnx_headcut.commands.bench import bench
from onnx_headcut.commands.check import check
from onnx_headcut.commands.converting import convert_plainly
from onnx_headcut.commands.doctor import doctor
from onnx_headcut.commands.many import Jobs, Only, OutputDir, Recipe, cut_many, cut_recipe
from onnx_headcut.commands.reading import (
    ExternalData,
    FitBackground,
    FollowLinks,
    Merge,
    Plugin,
    Scores,
    calibration_of,
    external_data_of,
    feeds_of,
    ids_of,
    merge_of,
    reading_of,
    scores_of,
)
from onnx_headcut.commands.reporting import (
    Annotations,
    Github,
    Images,
    Junit,
    Report,
    Sarif,
    with_drift,
)
from onnx_headcut.commands.tolerances import Tolerance
from onnx_headcut.console import Answer, run, steps
from onnx_headcut.errors import UsageError
from onnx_headcut.report.files import Wanted
from onnx_headcut.report.wanted import Reports
from onnx_headcut.watching import watched

_NAME = "onnx-headcut"
_COMPLETING = "_ONNX_HEADCUT_COMPLETE"
_HELP_NAMES = frozenset({"-h", "--help"})
_HELP = """Cut the classes you do not need out of an exported ONNX detector, and prove that the rest
says the same.

\b
  onnx-headcut inspect detector.onnx
  onnx-headcut cut detector.onnx --keep person,car,3-5 --output small.onnx
  onnx-headcut validate detector.onnx small.onnx
  onnx-headcut cut --recipe headcut.toml

\b
Exit codes: 0 done, and validated where that was not switched off; 1 validation failed or was
inconclusive, nothing was written; 2 wrong usage or unreadable input; 3 the graph was refused: not
supported, or ambiguous; 4 the provider cannot be used; 70 a bug in this tool; 130 interrupted.
"""

app = typer.Typer(
    help=_HELP,
    rich_markup_mode=None,  # plain help: Rich would double the time that --help takes
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": sorted(_HELP_NAMES)},
)

Model = Annotated[
    Path, typer.Argument(metavar="MODEL", help="The detector, an .onnx file.", show_default=False)
]
Keep = Annotated[
    str | None,
    typer.Option(
        metavar="SPEC",
        help="Classes to keep, in their new order: names and ids separated by commas, ranges such "
        "as 1-8, or @FILE. Ids are the head's own columns. The background stays by itself. Also "
        "vehicle=car|truck to merge, drone=new to add, auto=car to rename, random 8; all of it is "
        "in docs/classes.md.",
    ),
]
Seed = Annotated[
    int,
    typer.Option(
        metavar="N", min=0, help="Of what SPEC draws: random classes and new weights. It is recorded."
    ),
]
Labels = Annotated[
    str | None,
    typer.Option(
        metavar="LABELS",
        help="Class names: coco80, coco91, voc, or a file (one name a line, JSON, YAML, .names, "
        ".pbtxt); none for no names. Without it: what the model's metadata say.",
    ),
]
Head = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NODE",
        help="A head's node, where heads are not found or not the ones meant. Repeatable.",
    ),
]
Background = Annotated[
    str | None,
    typer.Option(
        metavar="WHICH",
        help="The background's column: first, last, none, or its id. Without it: evidence in "
        "names and graph.",
    ),
]
Layout = Annotated[
    str | None,
    typer.Option(
        metavar="anchors=A[,before=5]",
        help="How anchors and classes share channels that the graph never splits: side by side for "
        "each anchor (a·C + k), behind the columns of its box (before=5; after=32 for masks), or "
        "class-major (k·A + a); anchors=1,class-boxes where every class has a box of its own.",
    ),
]
Ids = Annotated[
    str,
    typer.Option(
        metavar="WHICH",
        help="What label outputs say: compact, the new ids, as the framework would export them; or "
        "original, the ids they have said so far.",
    ),
]
IdsAsCut = Annotated[
    str | None,
    typer.Option(
        metavar="WHICH",
        help="What CUT's label outputs say, compact or original, where it does not say so itself.",
    ),
]
InputShape = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=1x3x320x320",
        help="The shape of an input whose size is left open, to follow the graph with. Repeatable.",
    ),
]
Provider = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="Where validation runs: auto (CUDA where it truly runs, else the CPU), cpu, cuda, "
        "tensorrt, openvino, and so on.",
    ),
]
Input = Annotated[
    Path | None,
    typer.Option(
        "--input",
        metavar="FILE.npz",
        help="Validate on these arrays, by the names of the model's inputs.",
    ),
]
Image = Annotated[
    list[Path] | None,
    typer.Option(metavar="FILE", help="Validate on this picture. Repeatable."),
]
Preprocess = Annotated[
    str | None,
    typer.Option(
        metavar="HOW",
        help="How a picture becomes an input: a preset such as imagenet, uint8, caffe or yolo, or "
        "settings such as 'mean=123.7,116.3,103.5;order=bgr;letterbox=114'.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document, also for errors.")]


@app.command()
def inspect(  # noqa: PLR0913, PLR0917  (options)
    model: Model,
    labels: Labels = None,
    background: Background = None,
    layout: Layout = None,
    head: Head = None,
    input_shape: InputShape = None,
    plugin: Plugin = None,
    follow_links: FollowLinks = False,  # noqa: FBT002
    json: Json = False,  # noqa: FBT002
) -> Answer:
    """Show heads, classes and outputs of a detector, and what a cut would save."""
    with steps() as step:
        step("inspecting")
        reading = reading_of(labels, background, head, input_shape, layout, plugin)
        found = hc.inspect(model, **reading, follow_links=follow_links)
    from onnx_headcut import documents, tables  # noqa: PLC0415  (not for --help)

    document = documents.of_inspection(found)
    return Answer(document, lambda to: tables.show_inspection(to, found, model), as_json=json)


@app.command()
def cut(  # noqa: PLR0913, PLR0917  (options)
    ctx: typer.Context,
    model: Annotated[
        Path | None, typer.Argument(metavar="MODEL", help="The detector, an .onnx file.")
    ] = None,
    keep: Keep = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Where the cut model is written."),
    ] = None,
    output_dir: OutputDir = None,
    recipe: Recipe = None,
    only: Only = None,
    jobs: Jobs = None,
    external_data: ExternalData = None,
    follow_links: FollowLinks = False,  # noqa: FBT002
    labels: Labels = None,
    background: Background = None,
    layout: Layout = None,
    head: Head = None,
    input_shape: InputShape = None,
    plugin: Plugin = None,
    ids: Ids = "compact",
    seed: Seed = 0,
    scores: Scores = None,
    merge: Merge = None,
    fit_background: FitBackground = None,
    provider: Provider = "auto",
    input_: Input = None,
    image: Image = None,
    preprocess: Preprocess = None,
    tolerance: Tolerance = None,
    report: Report = None,
    images: Images = None,
    annotations: Annotations = None,
    junit: Junit = None,
    sarif: Sarif = None,
    github: Github = False,  # noqa: FBT002
    dry_run: Annotated[  # noqa: FBT002
        bool, typer.Option("--dry-run", help="Print the plan; change and write nothing.")
    ] = False,
    no_validate: Annotated[  # noqa: FBT002
        bool, typer.Option("--no-validate", help="Write without proof; needs no onnxruntime.")
    ] = False,
    force: Annotated[  # noqa: FBT002
        bool, typer.Option("--force", help="Replace FILE if it exists, even if it is MODEL.")
    ] = False,
    json: Json = False,  # noqa: FBT002
) -> Answer:
    """Cut a detector to some of its classes, validate the cut, and only then write it."""
    if recipe is not None:
        return cut_recipe(ctx, recipe)
    if only:
        raise UsageError("--variant is of a recipe", advice="Add --recipe FILE.")
    if model is None:
        raise UsageError("no model is named", advice="Write: onnx-headcut cut MODEL --keep SPEC")
    if keep is None:
        raise UsageError("which classes to keep is not said", advice="Add --keep SPEC.")
    reading, drift = reading_of(labels, background, head, input_shape, layout, plugin), None
    elsewhere = (images or fit_background) and not image  # what preprocessing may be for
    feeds = feeds_of(input_, image, None if elsewhere else preprocess)
    arguments: dict[str, Any] = {
        "ids": ids_of(ids),
        "seed": seed,
        "scores": scores_of(scores) or "renormalized",
        "merge": merge_of(merge),
        "fit_background": calibration_of(fit_background, preprocess),
        "provider": provider,
        "validation": not no_validate,
        "force": force,
        "external_data": external_data_of(external_data),
        "tolerances": tolerances.parse(tolerance),
    }
    if output_dir is not None:
        how = {**reading, "follow_links": follow_links}
        return cut_many(ctx, output_dir, how, arguments, feeds)
    if jobs is not None:
        raise UsageError("--jobs is for many cuts", advice="Add --recipe FILE or --output-dir FOLDER.")
    if output is None and not dry_run:
        raise UsageError("where to write is not said", advice="Add --output FILE, or --dry-run.")
    files = Wanted(junit, sarif, github)
    reports = Reports(report, images, annotations, preprocess, files)
    reports.check(validated=not (no_validate or dry_run))
    reports.keep_apart(model, output)
    with steps() as step:
        result = hc.cut(
            model,
            keep,
            output,
            **reading,
            **arguments,
            feeds=hc.Feeds(**feeds) if feeds else None,
            follow_links=follow_links,
            dry_run=dry_run,
            progress=step,
        )
        if result.verdict is not None and output is not None:
            written = output if result.exit_code == 0 else result.model
            drift = reports.write(model, written, result.verdict, reading, name=str(output),
                                  command="cut", progress=step)  # fmt: skip
    from onnx_headcut import documents, tables  # noqa: PLC0415  (not for --help)

    answer = Answer(
        documents.of_cut(result, dry_run=dry_run),
        lambda to: (tables.show_plan if dry_run else tables.show_cut)(to, result, model),
        result.exit_code,
        json,
    )
    return with_drift(answer, drift)


@app.command()
def validate(  # noqa: PLR0913, PLR0917  (options)
    original: Annotated[Path, typer.Argument(metavar="ORIGINAL", help="The detector before the cut.")],
    cut: Annotated[Path, typer.Argument(metavar="CUT", help="The detector after it.")],
    keep: Annotated[
        str | None,
        typer.Option(metavar="SPEC", help="What was kept, where CUT does not say it itself."),
    ] = None,
    labels: Labels = None,
    background: Background = None,
    layout: Layout = None,
    head: Head = None,
    input_shape: InputShape = None,
    plugin: Plugin = None,
    ids: IdsAsCut = None,
    seed: Seed = 0,
    scores: Scores = None,
    merge: Merge = None,
    provider: Provider = "auto",
    input_: Input = None,
    image: Image = None,
    preprocess: Preprocess = None,
    tolerance: Tolerance = None,
    report: Report = None,
    images: Images = None,
    annotations: Annotations = None,
    junit: Junit = None,
    sarif: Sarif = None,
    github: Github = False,  # noqa: FBT002
    follow_links: FollowLinks = False,  # noqa: FBT002
    json: Json = False,  # noqa: FBT002
) -> Answer:
    """Validate a cut detector against its original."""
    files = Wanted(junit, sarif, github)
    reports = Reports(report, images, annotations, preprocess, files)
    reports.check()
    reading = reading_of(labels, background, head, input_shape, layout, plugin)
    feeds = feeds_of(input_, image, None if images and not image else preprocess)
    with steps() as step:
        verdict = hc.validate(
            original,
            cut,
            keep,
            **reading,
            ids=None if ids is None else ids_of(ids),
            seed=seed,
            scores=scores_of(scores),
            merge=merge_of(merge),
            provider=provider,
            feeds=hc.Feeds(**feeds) if feeds else None,
            tolerances=tolerances.parse(tolerance),
            follow_links=follow_links,
            progress=step,
        )
        drift = reports.write(original, cut, verdict, reading, name=str(cut), command="validate",
                              progress=step)  # fmt: skip
    from onnx_headcut import documents, tables  # noqa: PLC0415  (not for --help)

    document = documents.of_verdict(verdict)
    answer = Answer(document, lambda to: tables.show_verdict(to, verdict), verdict.exit_code, json)
    return with_drift(answer, drift)


app.command()(check)
app.command()(bench)
app.command()(doctor)


def _version(asked: bool) -> None:  # noqa: FBT001  (Typer calls it so)
    if asked:
        typer.echo(f"onnx-headcut {hc.__version__}")
        raise typer.Exit


@app.callback()
def _main(
    _: Annotated[  # noqa: FBT002
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    pass


def main() -> int:
    """Run the command line of this process; returns the exit code."""
    arguments = sys.argv[1:]
    return watched(lambda: run(invoke, arguments), as_json="--json" in arguments)


def invoke(arguments: Sequence[str]) -> object:
    """Give a command's `Answer`, or an exit code where it has answered itself (``--help``)."""
    if _COMPLETING in os.environ:  # the shell asks, and click ends the process after its answer
        with suppress(SystemExit):
            app(list(arguments), prog_name=_NAME, standalone_mode=False)
        return 0
    asked = arguments[: arguments.index("--")] if "--" in arguments else arguments
    if not asked or _HELP_NAMES & set(asked):
        typer.echo(_help(asked))
        return 0
    command = typer.main.get_command(_with_only(asked[0]))
    convert_plainly(command)
    return command(list(arguments), prog_name=_NAME, standalone_mode=False)


def _with_only(name: str) -> typer.Typer:
    """The app with the command of that name alone, where there is one: it need not read the others."""
    named = [c for c in app.registered_commands if c.callback and c.callback.__name__ == name]
    found = copy(app)
    found.registered_commands = named or app.registered_commands
    return found


def _help(arguments: Sequence[str]) -> str:
    """Give the help that is asked for, without the values that Typer would read by pydantic."""
    group: Any = typer.main.get_command(app)
    settings: Any = {"help_option_names": sorted(_HELP_NAMES)}
    context = typer.Context(group, info_name=_NAME, **settings)
    for name in arguments:
        if name in group.commands:
            command = group.commands[name]
            return str(typer.Context(command, context, name, **settings).get_help())
    return str(context.get_help())
