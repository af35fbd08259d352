"""Cut classes out of an exported ONNX detector's head, and prove that the rest says the same.

The public API, imported on first touch so that ``import onnx_headcut`` costs nothing::

    import onnx_headcut as hc

    hc.inspect("detector.onnx")
    result = hc.cut("detector.onnx", "person, car", "small.onnx")
    hc.validate("detector.onnx", "small.onnx")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from onnx_headcut.cutting import Cut, Feeds, Inspection, Plan, cut, inspect, validate
    from onnx_headcut.errors import (
        GraphRefused,
        HeadcutError,
        InputError,
        ProviderError,
        UsageError,
        ValidationFailed,
    )
    from onnx_headcut.validation.verdict import Verdict

_HOMES = {
    **dict.fromkeys(
        ["Cut", "Feeds", "Inspection", "Plan", "cut", "inspect", "validate"], "cutting"
    ),
    **dict.fromkeys(
        [
            "GraphRefused",
            "HeadcutError",
            "InputError",
            "ProviderError",
            "UsageError",
            "ValidationFailed",
        ],
        "errors",
    ),
    "Verdict": "validation.verdict",
}

__all__ = [
    "Cut",
    "Feeds",
    "GraphRefused",
    "HeadcutError",
    "InputError",
    "Inspection",
    "Plan",
    "ProviderError",
    "UsageError",
    "ValidationFailed",
    "Verdict",
    "__version__",
    "cut",
    "inspect",
    "validate",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
