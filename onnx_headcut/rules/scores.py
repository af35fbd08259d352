"""Ops that mean something for scores: normalising, reducing, asking for shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx_headcut.trace import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from onnx_headcut.trace import View


def softmax(view: View) -> Outcome:
    """Softmax and LogSoftmax keep positions; over the class axis the kept scores renormalise."""
    return Outcome([view.labels(0)])


def shape(_: View) -> Outcome:
    """Shape and Size carry no classes; the class count in them follows by itself."""
    return Outcome([None])


RULES: dict[str, Callable[[View], Outcome]] = {
    "Softmax": softmax,
    "LogSoftmax": softmax,
    "Shape": shape,
    "Size": shape,
}
