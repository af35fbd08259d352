"""Cut classes out of an exported ONNX detector's head, and prove that the rest says the same.

The public API, imported on first touch so that ``import onnx_headcut`` costs nothing::

    import onnx_headcut as hc

    hc.inspect("detector.onnx")
    result = hc.cut("detector.onnx", "person, car", "small.onnx")
    hc.validate("detector.onnx", "small.onnx")

Data flow one way: `storage` reads files and writes them, `graph` says what is known of a model,
`heads` finds the class scores, `tracing` follows them by the `rules` and plans, `editing` makes the
plan's edits, and `validation` holds the result against the original, by code of its own. `cutting`
is where all of it comes together.
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
    from onnx_headcut.recipe.building import Build, Built, build
    from onnx_headcut.recipe.reading import Recipe, Variant, read_recipe
    from onnx_headcut.validation.verdict import Verdict

_HOMES = {
    **dict.fromkeys(["Cut", "Feeds", "Inspection", "Plan", "cut", "inspect", "validate"], "cutting"),
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
    **dict.fromkeys(["Build", "Built", "build"], "recipe.building"),
    **dict.fromkeys(["Recipe", "Variant", "read_recipe"], "recipe.reading"),
    "Verdict": "validation.verdict",
}

__all__ = [
    "Build",
    "Built",
    "Cut",
    "Feeds",
    "GraphRefused",
    "HeadcutError",
    "InputError",
    "Inspection",
    "Plan",
    "ProviderError",
    "Recipe",
    "UsageError",
    "ValidationFailed",
    "Variant",
    "Verdict",
    "__version__",
    "build",
    "cut",
    "inspect",
    "read_recipe",
    "validate",
]


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
