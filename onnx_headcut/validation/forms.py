"""What two models have to have in common to be held against each other, and what differs where not.

A file of another exporter, or one that gives raw scores where the original gives probabilities, is no
cut of the original. That is said as what it is, and with what to do, rather than by what it leads to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from onnx_headcut.labels import Site

Array = npt.NDArray[Any]

ADVICE = (
    "validate holds two files of one graph against each other: both need the same inputs and outputs,"
    " and the same names where class scores are. Cut the original with onnx-headcut cut, or export both"
    " alike; a model trained anew is another model, and its accuracy is what can be compared"
)

_NEAR = 1e-3
_LEAST = 1e-6  # probabilities below are not told from nothing


def differing(
    original: onnx.ModelProto, cut: onnx.ModelProto, cut_sites: Sequence[Site]
) -> Iterator[str]:
    """Say what is declared otherwise: types and sizes of inputs, types and axes of outputs, scores.

    Sizes that one of both leaves open agree; so do those of outputs, and of inputs that only repeat a
    weight (up to version 3 of the format all weights are inputs, too), which a cut may change.
    """
    weights = {t.name for model in (original, cut) for t in model.graph.initializer}
    for kind, sizes in (("input", True), ("output", False)):
        mine, others = ({v.name: v for v in getattr(m.graph, kind)} for m in (original, cut))
        for name in [name for name in mine if name in others]:
            if not _agree(mine[name], others[name], sizes=sizes and name not in weights):
                yield (
                    f"{kind} {name!r} is {_said(others[name])} in the cut, and"
                    f" {_said(mine[name])} in the original"
                )
    made = {name for node in cut.graph.node for name in node.output}
    made |= {v.name for v in [*cut.graph.input, *cut.graph.initializer]}
    for name in dict.fromkeys(site.value for site in cut_sites if site.value not in made):
        yield f"the cut has no tensor {name!r}, which holds class scores in the original"


def _agree(a: onnx.ValueInfoProto, b: onnx.ValueInfoProto, *, sizes: bool) -> bool:
    left, right = a.type.tensor_type, b.type.tensor_type
    if left.elem_type and right.elem_type and left.elem_type != right.elem_type:
        return False
    if not (left.HasField("shape") and right.HasField("shape")):
        return True
    dims = left.shape.dim, right.shape.dim
    if len(dims[0]) != len(dims[1]):
        return False
    known = [(x.dim_value, y.dim_value) for x, y in zip(*dims, strict=True)]
    return not sizes or all(x == y for x, y in known if x and y)


def _said(value: onnx.ValueInfoProto) -> str:
    tensor = value.type.tensor_type
    name = str(onnx.TensorProto.DataType.Name(tensor.elem_type)).lower()
    if not tensor.HasField("shape"):
        return name
    dims = (str(d.dim_value or d.dim_param or "?") for d in tensor.shape.dim)
    return f"{name}[{', '.join(dims)}]"


def _softmax(scores: Array) -> Array:
    raised = np.exp(scores - scores.max(-1, keepdims=True))
    return np.asarray(raised / raised.sum(-1, keepdims=True))


def _sigmoid(scores: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-np.clip(scores, -60, 60))))


_FORMS: dict[str, Callable[[Array], Array]] = {"softmax": _softmax, "sigmoid": _sigmoid}


def activation(expected: Array, got: Array, axis: int, classes: Sequence[bool]) -> str:
    """Say it where scores differ by an activation alone; "" for any other difference."""
    chosen = np.flatnonzero(classes)
    mine, theirs = (
        np.moveaxis(values, axis, -1)[..., chosen].astype(np.float64) for values in (expected, got)
    )
    if not mine.size or not (np.isfinite(mine).all() and np.isfinite(theirs).all()):
        return ""
    if _same(mine, theirs):  # so near to each other, every form of one is near to the other
        return ""
    for name, form in _FORMS.items():
        if _same(form(theirs), mine):
            return f": the cut gives raw scores, the original behind a {name}"
        if _same(form(mine), theirs):
            return f": the cut gives scores behind a {name}, the original raw ones"
    inside = np.clip(theirs, _LEAST, 1 - _LEAST)
    if _same(_softmax(np.log(inside / (1 - inside))), mine):
        return ": the cut gives scores behind a sigmoid, the original behind a softmax"
    inside = np.clip(mine, _LEAST, 1 - _LEAST)
    if _same(_softmax(np.log(inside / (1 - inside))), theirs):
        return ": the cut gives scores behind a softmax, the original behind a sigmoid"
    return ""


def _same(a: Array, b: Array) -> bool:
    return bool((np.abs(a - b) <= _NEAR).all())
