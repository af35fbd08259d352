"""Branches, one per class, and where they join."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx_headcut import edits as ed
from onnx_headcut.labels import Rows, Whole
from onnx_headcut.trace import Outcome

if TYPE_CHECKING:
    from onnx_headcut.trace import View


def join(view: View) -> Outcome:
    """Concat of whole-class tensors: the branches of dropped classes leave it."""
    view.refuse("per-class branches are joined here, which is not supported yet")
    keep = tuple(
        k for k, m in enumerate(view.marks)
        if not isinstance(m, Whole) or m.cls in view.sel.column
    )  # fmt: skip
    return Outcome([Rows()], [ed.KeepInputs(view.place, keep)])
