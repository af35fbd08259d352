"""Changed weights: a selection of the old one's rows along one axis, found here by comparing bytes.

Or a small constant, or claimed as rewritten, or worked out anew as a class map makes it.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import AttributeProto, TensorProto

from onnx_headcut.storage.tensors import to_array
from onnx_headcut.validation.claims import Selection
from onnx_headcut.validation.messages import by_output, bytes_of
from onnx_headcut.validation.mixture import Beginning, complaint

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import numpy.typing as npt
    import onnx

    from onnx_headcut.validation.claims import Claims, Found

# Shapes, limits, counts and the like may be rewritten; more elements than this are weights.
_SMALL = 64


def compare_weights(
    original: onnx.GraphProto, cut: onnx.GraphProto, claims: Claims, found: Found
) -> None:
    """Hold every stored tensor that is new, or read by a claimed node anew, to the law.

    What a node reads is held against what it read at the same place before; a new tensor that no
    node leads to an old one from has to be a selection of one that went.
    """
    old, new = _stored(original), _stored(cut)
    before, after = by_output(original), by_output(cut, claims.whole)
    same = {n.output[0]: n.input[0] for n in original.node if n.op_type == "Identity"}
    paired: set[str] = set()
    for key in [key for key in after if key in before and key in claims.nodes]:
        inputs = list(zip(before[key].input, after[key].input, strict=False))
        if len(before[key].input) != len(after[key].input):
            continue  # a Concat that lost branches: places do not correspond
        for read, now in inputs:
            was = read
            while was not in old and was in same:  # exporters share equal weights through Identity
                was = same[was]
            if now in new and now not in old and was in old and now not in paired:
                paired.add(now)
                hold(now, (was, old[was]), new[now], claims, found)
    gone = [name for name in old if name not in new]
    for name in [name for name in new if name not in old and name not in paired]:
        _hold_any(name, new[name], {one: old[one] for one in gone}, claims, found)
    for key in [key for key in after if key in old and key in new and key in claims.nodes]:
        if after[key].op_type == "Constant" and bytes_of(old[key]) != bytes_of(new[key]):
            hold(key, (key, old[key]), new[key], claims, found)


def compare_mixtures(
    original: onnx.GraphProto, cut: onnx.GraphProto, claims: Claims, found: Found
) -> None:
    """Work out anew what a class map makes of the heads' tensors."""
    old, new = _stored(original), _stored(cut)
    begin = claims.begin or Beginning(0.01, None)
    for mixture in claims.mixtures:
        if mixture.name not in new or (mixture.source is not None and mixture.source not in old):
            found.problems.append(f"{mixture.name!r} is not there, which the class map made")
            continue
        found.made.add(mixture.name)
        before = None if mixture.source is None else to_array(old[mixture.source], found.folders[0])
        after = to_array(new[mixture.name], found.folders[1])
        wrong = complaint(mixture, before, after, claims.rows, begin)
        if wrong:
            found.problems.append(f"{mixture.name!r} {wrong}")


def hold(
    name: str, source: tuple[str, TensorProto], new: TensorProto, claims: Claims, found: Found
) -> None:
    """Demand that a tensor is a selection of the one it stands for, a small one, or claimed."""
    if name in found.made:
        return
    was, old = source
    selection = find_selection(to_array(old, found.folders[0]), to_array(new, found.folders[1]))
    if selection is not None:
        found.selections.append(Selection(name, was, *selection))
    elif int(np.prod(new.dims)) > _SMALL and name not in claims.rewritten:
        found.problems.append(
            f"{name!r} {list(new.dims)} is no selection of the original's {was!r} {list(old.dims)}"
        )


def _hold_any(
    name: str, new: TensorProto, gone: Mapping[str, TensorProto], claims: Claims, found: Found
) -> None:
    if int(np.prod(new.dims)) <= _SMALL or name in claims.rewritten | found.made:
        return
    array = to_array(new, found.folders[1])
    for was, tensor in gone.items():
        if tensor.data_type == new.data_type and len(tensor.dims) == len(new.dims):
            selection = find_selection(to_array(tensor, found.folders[0]), array)
            if selection is not None:
                found.selections.append(Selection(name, was, *selection))
                return
    found.problems.append(f"{name!r} {list(new.dims)} is no selection of an original weight")


def same_tensor(old: TensorProto, new: TensorProto, folders: tuple[Path | None, Path | None]) -> bool:
    """Whether two stored tensors are the same: by content where their files lie apart."""
    external = TensorProto.EXTERNAL in (old.data_location, new.data_location)
    if not external or folders[0] == folders[1]:
        return bytes_of(old) == bytes_of(new)
    if (list(old.dims), old.data_type) != (list(new.dims), new.data_type):
        return False
    before, after = to_array(old, folders[0]), to_array(new, folders[1])
    return before.tobytes() == after.tobytes()


def _stored(graph: onnx.GraphProto) -> dict[str, TensorProto]:
    """List the tensors that a graph stores: initializers, and the values of Constant nodes."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.type == AttributeProto.TENSOR:
                    tensors[node.output[0]] = attribute.t
    return tensors


def find_selection(old: npt.NDArray[Any], new: npt.NDArray[Any]) -> tuple[int, tuple[int, ...]] | None:
    """Find the axis and rows with ``new == old.take(rows, axis)``, bit for bit; None if none.

    Where rows of the original are equal, the first fitting one after the row before is named.
    """
    if old.dtype != new.dtype or old.ndim != new.ndim:
        return None
    different = [axis for axis in range(old.ndim) if old.shape[axis] != new.shape[axis]]
    if len(different) > 1:
        return None
    for axis in different or range(old.ndim):
        rows = _rows(old, new, axis)
        if rows is not None:
            return axis, rows
    return None


def _rows(old: npt.NDArray[Any], new: npt.NDArray[Any], axis: int) -> tuple[int, ...] | None:
    places: dict[bytes, list[int]] = {}
    for at, row in enumerate(_digests(old, axis)):
        places.setdefault(row, []).append(at)
    result: list[int] = []
    for row in _digests(new, axis):
        if row not in places:
            return None
        later = [at for at in places[row] if not result or at > result[-1]]
        result.append(later[0] if later else places[row][0])
    return tuple(result)


def _digests(array: npt.NDArray[Any], axis: int) -> Iterator[bytes]:
    for row in np.moveaxis(array, axis, 0):
        yield hashlib.sha256(np.ascontiguousarray(row).tobytes()).digest()
