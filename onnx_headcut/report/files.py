"""Where reports go: files that are written whole or not at all, and annotations on stderr."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnx_headcut.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from onnx_headcut.report.results import Result


@dataclass(frozen=True)
class Wanted:
    """Reports that were asked for, beside what the command prints."""

    junit: Path | None = None
    sarif: Path | None = None
    github: bool = False

    def check(self) -> None:
        """Raise UsageError, before any work, where a report could not be written."""
        for path in (self.junit, self.sarif):
            check_place(path)

    def write(self, results: Sequence[Result], suite: str) -> None:
        """Write the reports; annotations go to stderr, so that ``--json`` has stdout alone."""
        from onnx_headcut.graph.model import write_atomically  # noqa: PLC0415  (not for --help)
        from onnx_headcut.report import formats  # noqa: PLC0415

        if self.junit:
            write_atomically(self.junit, formats.junit(results, suite).encode())
        if self.sarif:
            write_atomically(self.sarif, formats.sarif(results).encode())
        if self.github:
            print(*formats.github(results), sep="\n", file=sys.stderr)  # noqa: T201  (GitHub reads it)


def check_place(path: Path | None) -> None:
    """Raise UsageError where ``path`` names no file that can be made."""
    if path is None:
        return
    if path.is_dir():
        raise UsageError(f"{path} is a directory", advice="Name a file for the report.")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"the folder {path.parent} does not exist", advice="Create it first.")
