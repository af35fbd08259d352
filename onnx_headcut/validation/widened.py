"""Validation in float32 of models in types that no runtime here has kernels for.

onnxruntime's CPU provider computes neither convolutions of bfloat16 nor of float64. Both models are
then compared with those types widened to float32 (float64: narrowed), alike: types for which there
are kernels stay. Stored tensors are held against each other as they are, bit for bit. The verdict
says so: what rounding to the model's own type would do is no part of it.
"""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto

from onnx_headcut.errors import InputError
from onnx_headcut.validation import entrances, proof
from onnx_headcut.validation.half import widen
from onnx_headcut.validation.pair import Model, load
from onnx_headcut.validation.runtime import RuntimeFailure

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from pathlib import Path

    from onnx_headcut.errors import HeadcutError
    from onnx_headcut.validation.inputs import NamedFeed
    from onnx_headcut.validation.verdict import Verdict

_TYPES = {
    "bfloat16": TensorProto.BFLOAT16,
    "float64": TensorProto.DOUBLE,
    "float16": TensorProto.FLOAT16,
}
"""By what they are called; those that most likely lack kernels first."""

_LACKS = re.compile(r"Could not find an implementation|'tensor\((bfloat16|double|float16)\)'")
"""How onnxruntime says that it has no code for an op in some type."""


def validate(
    original: onnx.ModelProto | Path,
    cut: onnx.ModelProto | Path,
    *,
    original_dir: Path | None = None,
    cut_dir: Path | None = None,
    feeds: Sequence[NamedFeed] | None = None,
    **known: Any,
) -> Verdict:
    """Hold a cut model against its original, as `proof.validate`; in float32 where it has to be.

    Tried are, in turn: the models as they are; with types without kernels in float32, as few as can
    be; and without ops that cannot be run in any type (see `entrances`).
    """
    before, after = load(original, original_dir), load(cut, cut_dir)
    try:
        return proof.validate(before, after, feeds=feeds, **known)
    except (InputError, RuntimeFailure) as error:
        first = error
    types = _types_of(before.proto)
    for hold in (proof.validate, entrances.validate):
        for some in [(), *_choices(types)]:
            if hold is proof.validate and not some:
                continue  # as was tried
            pair = [_widened(model, some) for model in (before, after)]
            try:
                verdict = hold(*pair, feeds=fed_in_float32(pair[0].proto, feeds), **known)
            except (InputError, RuntimeFailure):
                continue
            if len(some) == len(types) or not any(map(_is_standard, verdict.not_run)):
                return _told(verdict, some, first)
    raise first


def _is_standard(node: str) -> bool:
    """Whether a node, as `Verdict.not_run` names it, is of onnx's own domain: a matter of types."""
    return "::" not in node


def _told(verdict: Verdict, types: Sequence[str], error: HeadcutError) -> Verdict:
    """The verdict with a word on the types that were others."""
    if not types:
        return verdict
    reason = f" ({error.what})" if _LACKS.search(error.what) else ""
    note = (
        f"compared in float32, both models alike: onnxruntime has no kernels for {' and '.join(types)}"
        f" here{reason}; stored weights were compared as they are"
    )
    return replace(verdict, in_float32=tuple(types), notes=(note, *verdict.notes))


def _types_of(model: onnx.ModelProto) -> list[str]:
    """Types of a model that onnxruntime may lack kernels for."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    found = widen(copy, _TYPES.values())
    return [name for name, elem_type in _TYPES.items() if elem_type in found]


def _choices(types: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yield what to widen: one type, two, all."""
    for count in range(1, len(types) + 1):
        yield from combinations(types, count)


def _widened(model: Model, types: Collection[str]) -> Model:
    if not types:
        return model
    proto = in_float32(model.proto, types)
    return Model(proto, proto, model.folder, model.proto)


def in_float32(model: onnx.ModelProto, types: Collection[str]) -> onnx.ModelProto:
    """Give a copy with these types as float32; the model itself for none."""
    if not types:
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    widen(copy, [_TYPES[name] for name in types])
    return copy


def fed_in_float32(
    model: onnx.ModelProto, feeds: Sequence[NamedFeed] | None
) -> Sequence[NamedFeed] | None:
    """Give feeds with what the model takes as float32 in that type."""
    if feeds is None:
        return None
    wide = {value.name for value in model.graph.input
            if value.type.tensor_type.elem_type == TensorProto.FLOAT}  # fmt: skip
    return [
        replace(each, feed={name: np.asarray(value, np.float32) if name in wide else value
                            for name, value in each.feed.items()})
        for each in feeds
    ]  # fmt: skip
