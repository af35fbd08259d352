"""Reports that `cut` and `validate` write beside their answer: options, and what they become."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from onnx_headcut.console import Answer
    from onnx_headcut.drift.measure import DriftReport

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
                 "precision of each kept class before and after. Needs the extra `coco`."),
]  # fmt: skip
Junit = Annotated[Path | None, typer.Option(metavar="FILE", help="Write JUnit XML, too.")]
Sarif = Annotated[Path | None, typer.Option(metavar="FILE", help="Write SARIF 2.1.0, too.")]
Github = Annotated[
    bool, typer.Option("--github", help="Write annotations for GitHub's workflows to stderr.")
]


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
