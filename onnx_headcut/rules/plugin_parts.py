"""What detection plugins have in common: scores, boxes, attributes that count, class numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnx_headcut.graph.facts import Fact, attributes
from onnx_headcut.labels import NONE, Labels, Lookup, Option, Rows
from onnx_headcut.rules.joining import NO_SLOT, filled

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx

    from onnx_headcut.editing import edits as ed
    from onnx_headcut.labels import Ints
    from onnx_headcut.tracing.view import View


def class_numbers(
    view: View,
    ids: Ints,
    output: int,
    *,
    hidden: int | None = None,
    offset: int = 0,
    fillers: Sequence[float] = (0, -1),
) -> Lookup:
    """The mark of output ``output`` whose values are positions of a class axis, plus ``offset``.

    ``ids`` are the axis' classes; the one at position ``hidden`` never shows (the background).
    ``fillers`` are values that say nothing: what unused slots hold.
    """
    take = view.take(ids)
    seen = np.flatnonzero(np.arange(len(ids)) != (-1 if hidden is None else hidden))
    now = np.flatnonzero(take != (-1 if hidden is None else hidden))
    lookup = Lookup(
        ids[seen],
        np.searchsorted(seen, take[now]),
        seen + offset,
        (Option(now + offset),),
        view.node.output[output],
    )
    for value in fillers:
        lookup = filled(view, lookup, value, NO_SLOT)
    return lookup


def scores_of(view: View, slot: int) -> Labels:
    """Scores ``[batch, boxes, classes]`` or ``[batch, boxes, classes, 1]``, each class once."""
    labels = classes_of(view, slot)
    shape = view.old[slot].shape or ()
    if labels.axis != 2 or len(shape) not in {3, 4} or (len(shape) == 4 and shape[3] != 1):
        view.refuse(f"classes lie on axis {labels.axis} of its scores {_text(shape)}, and it reads "
                    "them as [batch, boxes, classes]", "transpose the scores before it")  # fmt: skip
    real = labels.ids[labels.ids != NONE]
    if len(np.unique(real)) < len(real):
        view.refuse("its class axis holds anchors, too, which it would number as classes",
                    "export the scores as [batch, boxes, classes]")  # fmt: skip
    return labels


def classes_of(view: View, slot: int) -> Labels:
    """The labels of the scores, which have to carry some."""
    if not isinstance(view.marks[slot], Labels):
        view.refuse(
            "its scores carry no classes along an axis, but another of its inputs does",
            "name the layers that make its scores with --head NODE",
        )
    return view.labels(slot)


def number(view: View, name: str, default: int | None = None) -> int:
    """An integer attribute; refused where it is missing without a default, or is none."""
    value = view.attrs.get(name, default)
    if value is None:
        view.refuse(f"its attribute {name!r} is missing, and what it does cannot be told without",
                    f"give the node {name!r} as its documentation says, then cut")  # fmt: skip
    if isinstance(value, (list, tuple)) and len(value) == 1:
        value = value[0]
    if not isinstance(value, int):
        view.refuse(f"its attribute {name!r} is {value!r}, no whole number",
                    f"give the node {name!r} as its documentation says, then cut")  # fmt: skip
    return int(value)


def counted(view: View, name: str, columns: int, left: int) -> list[ed.Edit]:
    """The attribute that says the class count: it has to be the scores', and follows them."""
    said = number(view, name)
    if said != columns:
        view.refuse(
            f"its attribute {name!r} is {said}, but its scores have {columns} columns",
            f"find out which is right: set {name!r} to {columns}, or mend the export",
        )
    return [view.set(name, left)] if left != columns else []


def background(
    view: View, name: str, ids: Ints, default: int | None = None
) -> tuple[int | None, list[ed.Edit]]:
    """The position on the class axis that never shows (-1: none), and how its attribute changes."""
    said = number(view, name, default)
    if said == -1:
        return None, []
    if not 0 <= said < len(ids):
        view.refuse(
            f"its attribute {name!r} is {said}, which is none of its {len(ids)} columns",
            f"set {name!r} to the background's column, or to -1 where there is none",
        )
    new = np.flatnonzero(view.take(ids) == said)
    if len(new) != 1:
        view.refuse(
            f"its attribute {name!r} says that column {said} is the background, and the cut would "
            f"{'drop' if not len(new) else 'repeat'} it",
            f"say --background {said}, so that it stays; or set {name!r} to -1 if it is a class",
        )
    return said, [view.set(name, int(new[0]))] if new[0] != said else []


def shared(view: View, slot: int) -> None:
    """Boxes that all classes share: nothing in them may know the classes."""
    mark = view.marks[slot]
    if mark is not None and (not isinstance(mark, Rows) or mark.numbered):
        view.refuse(
            "its boxes depend on classes, though all classes share them",
            "export with boxes of their own for each class, or report the exporter",
        )


def separate(view: View, slot: int, axis: int, ids: Ints) -> list[ed.Edit]:
    """Boxes of each class, on ``axis``: cut with the scores, by their own head or where read."""
    mark = view.marks[slot]
    if isinstance(mark, Labels):
        if not mark.same(Labels(axis, ids)):
            view.refuse("its boxes carry classes in another way than its scores")
        return []
    shared(view, slot)
    view.demand(slot, axis, ids)
    return view.select(slot, axis, view.take(ids))


def boxes_of(view: View, slot: int, labels: Labels, *, share: bool | None = None) -> list[ed.Edit]:
    """Boxes ``[batch, boxes, 4]``, ``[…, 1, 4]`` or ``[…, classes, 4]``; ``share`` as said."""
    shape = view.old[slot].shape
    if shape is None or len(shape) not in {3, 4} or (len(shape) == 4 and shape[2] is None):
        view.refuse(f"its boxes have shape {_text(shape)}, not [batch, boxes, 1 or classes, 4]",
                    "give the model's input shape with --input-shape NAME=1x3x320x320")  # fmt: skip
    extent = shape[2] if len(shape) == 4 else 1
    apart = extent == len(labels.ids) and extent != 1 if share is None else not share
    if extent != (len(labels.ids) if apart else 1):
        view.refuse(f"its boxes have shape {_text(shape)}, with {extent} for each place, where "
                    f"{len(labels.ids) if apart else 1} are needed", "mend the export")  # fmt: skip
    if apart:
        return separate(view, slot, 2, labels.ids)
    shared(view, slot)
    return []


def _text(shape: Sequence[int | None] | None) -> str:
    return "unknown" if shape is None else f"[{', '.join('?' if d is None else str(d) for d in shape)}]"


def dim(fact: Fact, axis: int) -> int | None:
    """The extent of an axis, where it is known."""
    return None if fact.shape is None or len(fact.shape) <= axis else fact.shape[axis]


def positive(node: onnx.NodeProto, *names: str) -> int | None:
    """The first of these attributes that is a whole number above 0."""
    for name in names:
        value = attributes(node).get(name)
        value = value[0] if isinstance(value, (list, tuple)) and len(value) == 1 else value
        if isinstance(value, int) and value > 0:
            return value
    return None
