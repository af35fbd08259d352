"""``--tolerance OUTPUT=RELATIVE,ABSOLUTE``. Typer reads annotations at run time."""

import math
from typing import Annotated

import typer

from onnx_headcut.errors import UsageError

Tolerance = Annotated[
    list[str] | None,
    typer.Option(
        metavar="OUTPUT=REL,ABS",
        help="How far values of an output may differ: relative to the value, and in parts of the "
        "output's largest. Without it: by type and provider. Repeatable.",
    ),
]


def parse(texts: list[str] | None) -> dict[str, tuple[float, float]]:
    """Read tolerances by output; raises UsageError. The absolute part may be left out: 0."""
    return dict(map(_one, texts or ()))


def _one(text: str) -> tuple[str, tuple[float, float]]:
    name, _, numbers = text.rpartition("=")
    try:
        relative, absolute = (float(part) for part in f"{numbers},0".split(",")[:2])
    except ValueError:
        relative = absolute = math.nan
    if not name or not (0 <= relative < math.inf and 0 <= absolute < math.inf):
        raise UsageError(
            f"--tolerance cannot take {text!r}", advice="Write, for example, scores=1e-3,1e-5."
        )
    return name, (relative, absolute)
