"""Reports that `cut` and `validate` write beside their answer: options, and what they become."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onnx_headcut.errors import UsageError
from onnx_headcut.report.files import Wanted, check_place
from onnx_headcut.report.results import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import onnx
    from rich.console import Console

    from onnx_headcut.console import Answer
    from onnx_headcut.drift.measure import DriftReport
    from onnx_headcut.validation.verdict import Verdict

Report = Annotated[
    Path | None,
    typer.Option(metavar="FILE.html", help="Write a page for people: verdict, figures, drift, "
                 "pictures, speed, plan. Plots need the extra `report`."),
]  # fmt: skip
Images = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Measure drift against the original with all its classes on "
                 "these pictures: what it finds, and what the cut finds."),
]  # fmt: skip
Annotations = Annotated[
    Path | None,
    typer.Option(metavar="FILE.json", help="What is in --images, in COCO's format, for the average "
                 "precision of each kept class before and after."),
]  # fmt: skip
Junit = Annotated[Path | None, typer.Option(metavar="FILE", help="Write JUnit XML, too.")]
Sarif = Annotated[Path | None, typer.Option(metavar="FILE", help="Write SARIF 2.1.0, too.")]
Github = Annotated[
    bool, typer.Option("--github", help="Write annotations for GitHub's workflows to stderr.")
]


@dataclass(frozen=True)
class Reports:
    """What was asked for."""

    page: Path | None = None
    images: Path | None = None
    annotations: Path | None = None
    how: str | None = None
    files: Wanted = field(default_factory=Wanted)

    @property
    def any(self) -> bool:
        """Whether anything was asked for."""
        return self != Reports(how=self.how)

    def check(self, *, validated: bool = True) -> None:
        """Raise UsageError, before any work, for what could not be done."""
        self.files.check()
        check_place(self.page)
        if self.any and not validated:
            raise UsageError(
                "a report tells of validation, which is switched off",
                advice="Leave out --no-validate and --dry-run, or the options of reports.",
            )
        if self.annotations is not None and self.images is None:
            raise UsageError("--annotations is of --images", advice="Add --images DIR.")
        if self.images is not None:
            from onnx_headcut.drift import measure, precision  # noqa: PLC0415  (not for --help)

            measure.pictures_in(self.images)
            if self.annotations is not None:
                precision.read(self.annotations)

    def keep_apart(self, model: Path, output: Path | None) -> None:
        """Raise UsageError where the original, which a report needs, would be replaced."""
        both = output is not None and output.exists() and model.exists()
        if self.any and both and output is not None and output.samefile(model):
            raise UsageError(
                "a report compares the cut with the original, which it would replace",
                advice="Write the cut to another file.",
            )

    def write(  # noqa: PLR0913  (both models, the verdict, and how they were read)
        self,
        original: Path,
        cut: "Path | onnx.ModelProto",
        verdict: "Verdict",
        reading: "Mapping[str, Any]",
        *,
        name: str,
        command: str,
        progress: "Callable[[str], None]",
    ) -> "DriftReport | None":
        """Write all of it; gives the drift, where pictures were given."""
        from onnx_headcut.report import of_verdict  # noqa: PLC0415  (not for --help)

        self.files.write(of_verdict.results(verdict, shown(name)), command)
        if self.page is None and self.images is None:
            return None
        from onnx_headcut.cutting import Options  # noqa: PLC0415
        from onnx_headcut.drift.measure import pictures_in  # noqa: PLC0415
        from onnx_headcut.model import write_atomically  # noqa: PLC0415
        from onnx_headcut.report.gather import Wish, gather  # noqa: PLC0415
        from onnx_headcut.report.page import page  # noqa: PLC0415

        pictures = () if self.images is None else pictures_in(self.images)
        provider = verdict.cut.provider if verdict.cut else "cpu"
        speed = self.page is not None
        wish = Wish(pictures, self.how, self.annotations, speed=speed, provider=provider)
        found = gather(original, cut, verdict, wish, name=Path(name).name,
                       options=Options(**reading), progress=progress)  # fmt: skip
        if self.page is not None:
            progress("writing the report")
            write_atomically(self.page, page(found).encode())
        return found.drift


def with_drift(answer: "Answer", drift: "DriftReport | None") -> "Answer":
    """Add the drift on pictures to an answer."""
    if drift is None:
        return answer

    def show(to: "Console") -> None:
        from rich.text import Text  # noqa: PLC0415

        answer.show(to)
        to.print()
        for line in drift.lines():
            to.print(Text(f"Drift: {line}"))

    document = answer.document | {"drift_on_pictures": drift.to_json()}
    return replace(answer, document=document, show=show)
