"""Reports that were asked for beside an answer: what can be said before any work, and writing them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnx_headcut.errors import UsageError
from onnx_headcut.report.files import Wanted, check_place
from onnx_headcut.report.results import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import onnx

    from onnx_headcut.drift.measure import DriftReport
    from onnx_headcut.validation.verdict import Verdict


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
        cut: Path | onnx.ModelProto,
        verdict: Verdict,
        reading: Mapping[str, Any],
        *,
        name: str,
        command: str,
        progress: Callable[[str], None],
    ) -> DriftReport | None:
        """Write all of it; gives the drift, where pictures were given."""
        from onnx_headcut.report import of_verdict  # noqa: PLC0415  (not for --help)

        self.files.write(of_verdict.results(verdict, shown(name)), command)
        if self.page is None and self.images is None:
            return None
        from onnx_headcut.drift.measure import pictures_in  # noqa: PLC0415
        from onnx_headcut.graph.model import write_atomically  # noqa: PLC0415
        from onnx_headcut.report.gather import Wish, gather  # noqa: PLC0415
        from onnx_headcut.report.page import page  # noqa: PLC0415
        from onnx_headcut.understanding import Options  # noqa: PLC0415

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
