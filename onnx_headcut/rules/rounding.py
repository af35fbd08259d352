"""Class numbers that a quantizer rounds.

Static quantizers take class numbers for activations like any others, wherever the graph holds them as
floats. Rounded to steps of a scale they may still say their class, as 4.96 says 5, or no more. Scales
stay as they are, so the cut's numbers are rounded as the original's were; where two kept classes would
come out alike, or nearer to another class than to their own, the quantizer is refused.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from onnx_headcut.labels import NONE, Columns, Lookup
from onnx_headcut.rules.deciding import BEFORE_QUANTIZING, offset_of
from onnx_headcut.tracing.view import Outcome

if TYPE_CHECKING:
    from onnx_headcut.graph.facts import Array
    from onnx_headcut.tracing.view import View

OPS = frozenset({"QuantizeLinear", "DequantizeLinear"})


def rounded(view: View) -> Outcome:
    """QuantizeLinear and DequantizeLinear of class numbers, or of a table that holds them."""
    mark = view.marks[0]
    if any(m is not None for m in view.marks[1:]):
        view.refuse("its scale depends on classes")
    if isinstance(mark, Columns):
        seen = {id(m): _rounded(view, m) for m in mark.marks if isinstance(m, Lookup)}
        return Outcome([Columns(mark.axis, tuple(seen.get(id(m), m) for m in mark.marks))])
    return Outcome([_rounded(view, mark) if isinstance(mark, Lookup) else mark])


def _rounded(view: View, lookup: Lookup) -> Lookup:
    scale = view.old[1].value
    if (
        scale is None
        or scale.size != 1
        or any(f.value is None for n, f in zip(view.node.input[2:], view.old[2:], strict=True) if n)
    ):
        view.refuse("it rounds class numbers by scales that are not one stored number")
    options = tuple(replace(o, new=_run(view, o.new)) for o in lookup.options)
    after = replace(lookup, old=_run(view, lookup.old), options=options)
    if view.op == "DequantizeLinear":
        return after
    step, zero = float(scale.item()), _zero(view)
    for before, rounded_, take in (
        (lookup.old, after.old, lookup.take),
        *((o.new, r.new, np.arange(len(o.new))) for o, r in zip(lookup.options, options, strict=True)),
    ):
        said = (rounded_[take].astype(np.float64) - zero) * step
        _check(view, lookup, before[take].astype(np.float64), said, step)
    return replace(after, step=step + lookup.step)


def _run(view: View, table: Array) -> Array:
    """Compute the op on a table of numbers, as its specification has it.

    https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html: halves to even, then saturated.
    """
    known = view.old[1].value
    given = view.old[2].value if len(view.old) > 2 else None
    return stepped(view.op, table, np.ones(()) if known is None else known, given)


def stepped(op: str, table: Array, scale: Array, zero: Array | None = None) -> Array:
    """The same, by the op's name, and one scale and zero point for all."""
    step, start = float(scale.item()), 0.0 if zero is None else float(zero.item())
    if op == "DequantizeLinear":
        numbers: Array = (table.astype(np.float64) - start) * step
        return numbers.astype(np.float32)
    bounds = np.iinfo(np.uint8 if zero is None else zero.dtype)
    steps = np.rint(table.astype(np.float64) / step) + start
    saturated: Array = np.clip(steps, bounds.min, bounds.max).astype(np.int64)
    return saturated


def unrounded(op: str, table: Array, scale: Array, zero: Array | None = None) -> Array:
    """What it would give if its integers were any numbers."""
    step, start = float(scale.item()), 0.0 if zero is None else float(zero.item())
    wide = table.astype(np.float64)
    numbers: Array = (wide - start) * step if op == "DequantizeLinear" else wide / step + start
    return numbers.astype(np.float32)


def _zero(view: View) -> float:
    value = view.old[2].value if len(view.old) > 2 else None
    return 0.0 if value is None else float(value.item())


def _check(view: View, lookup: Lookup, before: Array, said: Array, step: float) -> None:
    """Refuse where a rounded number of a kept class says another class, or that of another the same."""
    classes = lookup.ids[lookup.take]
    real = classes != NONE
    numbers = {int(c): (v, w) for c, v, w in zip(classes[real], before[real], said[real], strict=True)}
    ids = offset_of(lookup) is not None
    for cls, (value, rounded_) in numbers.items():
        alike = [c for c, (v, w) in numbers.items() if w == rounded_ and v != value]
        if alike or (ids and abs(rounded_ - value) >= 0.5):
            what = f"as that of class {alike[0]}" if alike else "which is that of another"
            view.refuse(
                f"it rounds class numbers to steps of {step:g}: {value:g} of class {cls} comes out as "
                f"{rounded_:g}, {what}",
                BEFORE_QUANTIZING,
            )
