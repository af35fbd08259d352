"""What options become: how a model is read, which ids it gives, what validation runs on.

Typer reads annotations at run time.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from onnx_headcut.errors import UsageError

if TYPE_CHECKING:
    import onnx_headcut as hc
    from onnx_headcut.storage.external import External

ExternalData = Annotated[
    str | None,
    typer.Option(
        metavar="WHERE",
        help="Where weights beside MODEL go: reference (they stay where they lie), copy (into one "
        "file beside FILE), inline (into FILE). Without it: reference in the same folder, copy "
        "elsewhere.",
    ),
]
FollowLinks = Annotated[
    bool,
    typer.Option(
        "--follow-links",
        help="Trust weights beside MODEL that are symbolic or hard links, as in Hugging Face's cache.",
    ),
]

Plugin = Annotated[
    list[str] | None,
    typer.Option(
        metavar="MODULE",
        help="Rules for ops of your own: a Python module's name, or a .py file. Repeatable; see "
        "docs/rules.md.",
    ),
]

FitBackground = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="PICTURES",
        help="Fit the background of a softmax to these pictures, so that it stands for the dropped "
        "classes, too: a picture, a folder of them, or arrays (FILE.npz). Repeatable; see "
        "docs/fitted-background.md.",
    ),
]

Scores = Annotated[
    str | None,
    typer.Option(
        metavar="HOW",
        help="Where classes are cut: renormalized, in the heads, so that a softmax is over the kept "
        "classes; or exact, behind the activation, so that each kept score is what it was and the "
        "heads stay as large as they are.",
    ),
]
Merge = Annotated[
    str | None,
    typer.Option(
        metavar="HOW",
        help="How exact scores of merged classes become one: sum (the default behind a softmax) or "
        "max (behind sigmoids).",
    ),
]

_IDS: tuple[Literal["compact"], Literal["original"]] = ("compact", "original")
_SCORES: tuple[Literal["renormalized"], Literal["exact"]] = ("renormalized", "exact")
_MERGES: tuple[Literal["sum"], Literal["max"]] = ("sum", "max")


def reading_of(
    labels: str | None,
    background: str | None,
    head: list[str] | None,
    shapes: list[str] | None,
    layout: str | None,
    plugin: list[str] | None = None,
) -> dict[str, Any]:
    """Options that say how a model is read, as the API takes them."""
    return {
        "labels": labels,
        "background": background,
        "layout": layout,
        "heads": tuple(head or ()),
        "plugins": tuple(plugin or ()),
        "input_shapes": dict(map(_shape, shapes or ())),
    }


def ids_of(text: str) -> Literal["compact", "original"]:
    """Take the text of --ids; raises UsageError for another."""
    for choice in _IDS:
        if text == choice:
            return choice
    raise UsageError(f"--ids cannot take {text!r}", advice="Say compact or original.")


def scores_of(text: str | None) -> Literal["renormalized", "exact"] | None:
    """Take the text of --scores; raises UsageError for another."""
    for choice in _SCORES:
        if text == choice:
            return choice
    if text is None:
        return None
    raise UsageError(f"--scores cannot take {text!r}", advice="Say renormalized or exact.")


def merge_of(text: str | None) -> Literal["sum", "max"] | None:
    """Take the text of --merge; raises UsageError for another."""
    for choice in _MERGES:
        if text == choice:
            return choice
    if text is None:
        return None
    raise UsageError(f"--merge cannot take {text!r}", advice="Say sum or max.")


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    name, _, dims = text.rpartition("=")
    try:
        shape = tuple(int(dim) for dim in dims.lower().split("x"))
    except ValueError:
        shape = ()
    if not (name and shape):
        raise UsageError(
            f"--input-shape cannot take {text!r}", advice="Write NAME=1x3x320x320, dim by dim."
        )
    return name, shape


def feeds_of(arrays: Path | None, images: list[Path] | None, preprocess: str | None) -> dict[str, Any]:
    """Name the user's own inputs, where there are any: keywords of `onnx_headcut.Feeds`."""
    if not (arrays or images or preprocess):
        return {}
    return {"arrays": arrays, "images": tuple(images or ()), "preprocess": preprocess}


def external_data_of(text: str | None) -> "External | None":
    """Take the text of --external-data; raises UsageError for another."""
    for choice in ("reference", "copy", "inline"):
        if text == choice:
            return choice
    if text is None:
        return None
    raise UsageError(f"--external-data cannot take {text!r}", advice="Say reference, copy or inline.")


def calibration_of(pictures: list[Path] | None, preprocess: str | None) -> "hc.Feeds | None":
    """Name the pictures that a background is fitted to, where there are any."""
    import onnx_headcut as hc  # noqa: PLC0415

    return hc.Feeds(images=tuple(pictures), preprocess=preprocess) if pictures else None
