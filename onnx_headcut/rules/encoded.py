"""LabelEncoder of class numbers: what each of them stands for, a name or a number of the model's own.

https://onnx.ai/onnx/operators/onnx_aionnxml_LabelEncoder.html. Its attributes hold pairs of keys and
values; of the pairs those of kept classes stay, with their new numbers as keys.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto, numpy_helper

from onnx_headcut.labels import NONE, Lookup, Option
from onnx_headcut.rules.deciding import offset_of
from onnx_headcut.rules.indexing import as_numbers
from onnx_headcut.tracing.view import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx_headcut.editing import edits as ed
    from onnx_headcut.graph.facts import Array
    from onnx_headcut.tracing.view import View

DOMAIN = "ai.onnx.ml"


def label_encoder(view: View) -> Outcome:
    """Numbers are looked up in pairs: those of dropped classes go, keys follow the numbers."""
    lookup = view.marks[0]
    found = (
        [k for k in view.attrs if k.startswith("keys_")],
        [k for k in view.attrs if k.startswith("values_")],
    )
    if not isinstance(lookup, Lookup) or view.node.domain != DOMAIN or [*map(len, found)] != [1, 1]:
        view.refuse(
            "class numbers reach it, and it says in no pairs of keys and values what they become"
        )
    (key,), (value,) = found
    keys, values = _listed(view.attrs[key]), _listed(view.attrs[value])
    known = dict(zip(keys, values, strict=True))
    if any(number not in known for number in lookup.old.tolist()):
        view.refuse("it has no key for some of the class numbers that reach it")
    old = [known[number] for number in lookup.old.tolist()]
    left = [old[p] for p in lookup.take]
    options = [
        Option(_numbers(new), (*option.edits, *_pairs(view, key, value, option.new.tolist(), new)),
               option.left)
        for option in lookup.options
        for new in _values(view, lookup, old, left)
        if _is_function(option.new.tolist(), new)
    ]  # fmt: skip
    if not options:
        view.refuse("one number would stand for two classes after the cut")
    return Outcome([Lookup(lookup.ids, lookup.take, _numbers(old), tuple(options), lookup.origin)])


def _numbers(values: list[Any]) -> Array:
    return (
        as_numbers(np.array(values, object)) if isinstance(values[0], bytes | str) else np.array(values)
    )


def _values(view: View, lookup: Lookup, old: list[Any], left: list[Any]) -> list[list[Any]]:
    """What may come out: new ids where the values are the classes' ids, else what came out before."""
    if isinstance(old[0], bytes | str):
        return [left]
    offset = offset_of(Lookup(lookup.ids, lookup.take, np.array(old), (), ""))
    if offset is None:
        return [left]
    columns = view.sel.columns_at(lookup.ids, lookup.take).tolist()
    kind = type(old[0])
    new = [v if c == NONE else kind(c + offset) for c, v in zip(columns, left, strict=True)]
    return [new, left]


def _is_function(keys: Sequence[Any], values: Sequence[Any]) -> bool:
    known: dict[Any, Any] = {}
    return all(known.setdefault(k, v) == v for k, v in zip(keys, values, strict=True))


def _pairs(
    view: View, key: str, value: str, numbers: Sequence[Any], values: Sequence[Any]
) -> tuple[ed.Edit, ...]:
    """Edits to the pairs, where they do not say already what they must."""
    before = dict(zip(_listed(view.attrs[key]), _listed(view.attrs[value]), strict=True))
    pairs = dict(zip(numbers, values, strict=True))
    if all(k in before and before[k] == v for k, v in pairs.items()):
        return ()
    made = (key, list(pairs)), (value, list(pairs.values()))
    return tuple(view.set(name, _as_before(view.attrs[name], new)) for name, new in made)


def _listed(stored: Any) -> list[Any]:
    return numpy_helper.to_array(stored).tolist() if isinstance(stored, TensorProto) else list(stored)


def _as_before(stored: Any, new: list[Any]) -> Any:
    if not isinstance(stored, TensorProto):
        return [type(stored[0])(v) for v in new]
    dtype = numpy_helper.to_array(stored).dtype
    return numpy_helper.from_array(np.array(new, dtype), stored.name)
