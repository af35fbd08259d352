"""What every report is written from: results, one for each thing that was looked at.

No heavy imports: the rule catalogue and ``--help`` read this.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

Severity = Literal["error", "warning", "note"]
Status = Literal["passed", "failed", "skipped"]


@dataclass(frozen=True)
class Topic:
    """What results are about: a rule of `check`, or one part of a validation.

    ``sentence`` says what is true where it holds, ``fix`` what to do where it does not.
    """

    id: str
    severity: Severity
    sentence: str
    fix: str


@dataclass(frozen=True)
class Result:
    """One topic on one model. ``where`` is a node or tensor, where one is to blame."""

    model: str
    topic: Topic
    status: Status
    message: str
    severity: Severity
    where: str = ""

    @property
    def bad(self) -> bool:
        """Whether it failed with the severity of an error."""
        return self.status == "failed" and self.severity == "error"

    def to_json(self) -> dict[str, Any]:
        """Plain data with stable keys; the topic by its id."""
        data = asdict(self) | {"rule": self.topic.id, "fix": self.topic.fix}
        del data["topic"], data["model"]
        return data


def shown(path: Path | str) -> str:
    """Write a path as reports have it: relative if below the working folder, else its name."""
    try:
        return Path(os.path.abspath(path)).relative_to(Path.cwd()).as_posix()  # noqa: PTH100  (links stay)
    except ValueError:
        return Path(path).name
