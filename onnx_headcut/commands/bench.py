"""``onnx-headcut bench``: how much faster a cut is. Typer reads annotations at run time."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onnx_headcut import __version__
from onnx_headcut.console import SCHEMA, Answer, printable, steps
from onnx_headcut.numbers import many

if TYPE_CHECKING:
    from rich.console import Console

    from onnx_headcut.bench.measure import Bench


def bench(  # noqa: PLR0913, PLR0917  (options)
    original: Annotated[
        Path, typer.Argument(metavar="ORIGINAL", help="The detector before the cut.")
    ],
    cut: Annotated[Path, typer.Argument(metavar="CUT", help="The detector after it.")],
    provider: Annotated[
        str, typer.Option(metavar="NAME", help="auto, cpu, cuda, tensorrt, openvino, and so on.")
    ] = "auto",
    threads: Annotated[
        int, typer.Option(min=0, help="Threads in one operator; 0 leaves it to onnxruntime.")
    ] = 1,
    rounds: Annotated[int, typer.Option(min=5, help="Runs of each model, at most.")] = 50,
    seconds: Annotated[float, typer.Option(min=0, help="Time for all runs, about.")] = 20.0,
    image: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Run on this picture, as what lies behind the head "
                     "depends on what is found; else on a synthetic one."),
    ] = None,
    preprocess: Annotated[
        str | None, typer.Option(metavar="HOW", help="As for validate.")
    ] = None,
    json: Annotated[  # noqa: FBT002
        bool, typer.Option("--json", help="Print one JSON document, also for errors.")
    ] = False,
) -> Answer:  # fmt: skip
    """Time a cut detector against its original, side by side: latency, memory, by stage."""
    with steps() as step:
        step("reading")
        from onnx_headcut.bench import measure  # noqa: PLC0415  (not for --help)
        from onnx_headcut.feeding import Feeds  # noqa: PLC0415
        from onnx_headcut.graph.model import load  # noqa: PLC0415
        from onnx_headcut.validation.synthetic import synthetic  # noqa: PLC0415

        proto, _ = load(original).proto, load(cut)
        images = () if image is None else (image,)
        given = image is not None or preprocess is not None
        feeds = Feeds(None, images, preprocess).read(proto) if given else synthetic(proto, count=1)
        settings = measure.Settings(provider, threads, rounds, seconds=seconds)
        found = measure.bench(original, cut, feeds[0], settings, step)
    document = {
        "schema": SCHEMA, "tool": f"onnx-headcut {__version__}", "command": "bench",
        "exit_code": 0, "feed": feeds[0].name, **found.to_json(),
    }  # fmt: skip
    return Answer(document, lambda to: _show(to, found), as_json=json)


def _show(to: "Console", found: "Bench") -> None:
    from rich.table import Table  # noqa: PLC0415  (not for --help)

    table = Table(box=None, pad_edge=False)
    for name in ("", "original", "cut"):
        table.add_column(name, justify="left" if not name else "right", no_wrap=True)
    both = (found.original, found.cut)
    table.add_row("model", *(printable(t.model) for t in both))
    table.add_row("best", *(_ms(t.best) for t in both))
    table.add_row("median", *(_ms(t.median) for t in both))
    table.add_row("10 % to 90 %", *(f"{_ms(t.low)} to {_ms(t.high)}" for t in both))
    table.add_row("pictures a second", *(f"{t.throughput:.1f}" for t in both))
    table.add_row("peak memory", *(_memory(t.peak_memory) for t in both))
    if any(t.device_memory is not None for t in both):
        table.add_row("on the device", *(_memory(t.device_memory) for t in both))
    for stage in found.original.stages | found.cut.stages:
        table.add_row(stage, *(_ms(t.stages[stage]) if stage in t.stages else "" for t in both))
    to.print(table)
    to.print()
    to.print(found.line, style="bold")
    threads = many(found.threads, "thread") if found.threads else "onnxruntime's own threads"
    to.print(f"{found.cut.runs} runs of each in turn, on {found.cut.provider}, {threads}, "
             f"batch {found.batch}", style="dim")  # fmt: skip
    for note in found.notes:
        to.print(printable(note), style="yellow")


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms"


def _memory(size: int | None) -> str:
    return "?" if size is None else f"{size / 1e6:.1f} MB"
