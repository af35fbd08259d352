"""Validation: the proof that a cut model equals its original on the kept classes.

It shares no code with the rules that make the cut. ``validate`` is loaded when it is first used:
the onnxruntime behind it is not needed to inspect or cut.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnx_headcut.validation.claims import Claims, Findings
    from onnx_headcut.validation.compare import Tolerance
    from onnx_headcut.validation.mapped import NewColumn
    from onnx_headcut.validation.mixture import Beginning, Mixture
    from onnx_headcut.validation.structure import structural
    from onnx_headcut.validation.verdict import Settings, Verdict
    from onnx_headcut.validation.widened import validate

__all__ = [
    "Beginning", "Claims", "Findings", "Mixture", "NewColumn", "Settings", "Tolerance", "Verdict",
    "structural", "validate",
]  # fmt: skip

_HOMES = {
    "Claims": "claims",
    "Findings": "claims",
    "structural": "structure",
    "Settings": "verdict",
    "Verdict": "verdict",
    "Tolerance": "compare",
    "NewColumn": "mapped",
    "Beginning": "mixture",
    "Mixture": "mixture",
    "validate": "widened",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
