"""Where new classes begin, found out by running the cut with its heads silent.

With every weight of the heads at 0, what is left of a score is what is added on its way: biases,
whatever kind and wherever they stand. There a new class has to have the odds that were said, beside
the background of a softmax or by itself, at every place of every level.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from onnx_headcut.storage.tensors import to_array
from onnx_headcut.validation.fitted import Side
from onnx_headcut.validation.half import stored_name
from onnx_headcut.validation.mapped import spread

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx_headcut.labels import Site
    from onnx_headcut.validation.claims import Claims
    from onnx_headcut.validation.inputs import Feed
    from onnx_headcut.validation.mapped import Chunk
    from onnx_headcut.validation.pair import Model

Array = npt.NDArray[Any]

_STEPS = 16
"""Roundings that may lie between a bias and a score."""


def complaints(
    cut: Model, sites: Sequence[Site], chunk: Chunk, claims: Claims, feed: Feed, provider: str
) -> list[str]:
    """What is wrong with the scores at which new classes begin; nothing where there are none.

    ``sites`` are the cut's, labelled as ``chunk`` has them. Not said of a class beside a background
    that was fitted: it begins at the original's.
    """
    begin, rows = claims.begin, chunk.rows
    new = [j for j, row in enumerate(rows) if row.start in {"zeros", "normal", "grown"}]
    home = None if begin is None else next(
        (j for j, row in enumerate(rows) if row.template == begin.background), None
    )  # fmt: skip
    if not new or begin is None or (home is not None and rows[home].start == "given"):
        return []
    weights = {m.name for m in claims.mixtures if m.role == "weight"}
    made = {m.name for m in claims.mixtures if m.role != "weight"}
    odds = float(np.log(begin.prior / (1 - begin.prior)))
    proto = silenced(cut, weights)
    scores = Side(proto, cut.folder, sites).session(provider).run(feed)
    kinds = [onnx.helper.tensor_dtype_to_np_dtype(t.data_type)
             for t in cut.as_stored.graph.initializer if t.name in made]  # fmt: skip
    found = []
    for site in sites:
        there = spread(site, scores[site.value], chunk.total + len(rows))
        beside = 0.0 if home is None else there[..., chunk.label(home)]
        step = _STEPS * max(map(_step, [scores[site.value].dtype, *kinds]))
        for j in [j for j in new if chunk.label(j) in site.ids]:
            own = there[..., chunk.label(j)]
            allowed = step * (np.abs(own) + np.abs(beside) + abs(odds))
            off = np.abs(own - beside - odds)
            if not (off <= allowed).all():
                worst = float((own - beside).reshape(-1)[int(np.argmax(off - allowed))])
                found.append(
                    f"{site.value!r}: new column {j} begins at a logit of {worst:.4g}"
                    f"{'' if home is None else ' above the background'}, and should at {odds:.4g}"
                )
    return found


def silenced(model: Model, weights: set[str]) -> onnx.ModelProto:
    """A copy of the model in which the tensors ``weights`` are 0."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    stored = [(t.name, t) for t in proto.graph.initializer]
    stored += [(node.output[0], a.t) for node in proto.graph.node
               if node.op_type == "Constant" for a in node.attribute if a.name == "value"]  # fmt: skip
    elsewhere = {stored_name(name) for name in weights}
    for name, tensor in stored:
        if name in weights or name in elsewhere:
            zeros = np.zeros_like(to_array(tensor, model.folder))
            tensor.CopyFrom(numpy_helper.from_array(zeros, tensor.name))
    return proto


def _step(dtype: np.dtype[Any]) -> float:
    return float(np.finfo(dtype).eps) if dtype.kind == "f" else 2**-7
