"""All variants of a recipe, from one load of its source. This is `onnx_headcut.build`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnx_headcut.errors import UsageError
from onnx_headcut.report.results import shown
from onnx_headcut.workers import Done, Order, Task, ask

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from onnx_headcut.console import Failure
    from onnx_headcut.recipe.reading import Recipe, Variant
    from onnx_headcut.report.results import Result
    from onnx_headcut.validation.verdict import Verdict


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

    @property
    def results(self) -> list[Result]:
        """The same as results, for JUnit, SARIF and annotations."""
        from onnx_headcut.report import of_verdict  # noqa: PLC0415  (only where reports are made)

        found: list[Result] = []
        for built in self.variants:
            name = shown(built.output) if built.output is not None else built.name
            if built.failure is not None:
                found.append(of_verdict.refused(built.failure, name))
            if built.verdict is not None:
                found += of_verdict.results(built.verdict, name)
        return found

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
    process cut and validate: by default as many as cores and memory allow. Folders to write to are
    made. A variant that is refused or fails does not end the others; what is wrong with the source
    is raised, as by `cut`.
    ``validation`` and ``provider`` say otherwise than the recipe where they are given.
    """
    chosen = _chosen(recipe, variants)
    if not dry_run:
        make_folders(recipe)
    override = {"force": force, "dry_run": dry_run}
    if validation is not None:
        override["validation"] = validation
    said = {} if provider is None else {"provider": provider}
    tasks = tuple(
        Task(
            recipe.source,
            v.keep,
            v.output,
            {**v.settings, **override, **said},
            v.feeds,
            v.fit,
            v.report,
        )
        for v in chosen
    )
    if jobs is not None and jobs < 1:
        raise UsageError(f"{jobs} jobs cannot do anything", advice="Say --jobs 1, or more.")
    order = Order(tasks, recipe.reading, jobs)
    results: dict[int, Done] = {}
    for message in ask(order, recipe.folder):
        if message.done is not None:
            results[message.task] = message.done
        step = f"{chosen[message.task].name}: {message.step}; " if message.step else ""
        progress(f"{step}{len(results)} of {len(tasks)} variants")
    if len(results) < len(tasks):
        raise RuntimeError("the process that builds has died")
    return Build(tuple(_built(recipe, v, results[i]) for i, v in enumerate(chosen)))


def make_folders(recipe: Recipe) -> None:
    """Make the folders that a recipe writes to; raises OSError."""
    for variant in recipe.variants:
        for path in filter(None, (variant.output, variant.report.get("page"))):
            (recipe.folder / path).parent.mkdir(parents=True, exist_ok=True)
    for report in recipe.files.values():
        report.parent.mkdir(parents=True, exist_ok=True)


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
