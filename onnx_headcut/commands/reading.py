"""What options become: how a model is read, which ids it gives, what validation runs on."""

from pathlib import Path
from typing import Any, Literal

import onnx_headcut as hc
from onnx_headcut.errors import UsageError

_IDS: tuple[Literal["compact"], Literal["original"]] = ("compact", "original")


def reading_of(
    labels: str | None,
    background: str | None,
    head: list[str] | None,
    shapes: list[str] | None,
    layout: str | None,
) -> dict[str, Any]:
    """Options that say how a model is read, as the API takes them."""
    return {
        "labels": labels,
        "background": background,
        "layout": layout,
        "heads": tuple(head or ()),
        "input_shapes": dict(map(_shape, shapes or ())),
    }


def ids_of(text: str) -> Literal["compact", "original"]:
    """Take the text of --ids; raises UsageError for another."""
    for choice in _IDS:
        if text == choice:
            return choice
    raise UsageError(f"--ids cannot take {text!r}", advice="Say compact or original.")


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


def feeds_of(
    arrays: Path | None, images: list[Path] | None, preprocess: str | None
) -> "hc.Feeds | None":
    """Name the user's own inputs, where there are any."""
    if not (arrays or images or preprocess):
        return None
    return hc.Feeds(arrays, tuple(images or ()), preprocess)
