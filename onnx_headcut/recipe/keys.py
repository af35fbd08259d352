"""The keys of a recipe: what each takes and means, and where it may stand.

To add one: a line in the group that it belongs to. A key of `CUT` or `VALIDATION` is handed to
`onnx_headcut.cut` as the keyword of its name, or of ``becomes``. docs/recipe.md is generated from
these lists.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Kind:
    """What a key takes: ``need`` in words; ``take`` gives the value, or None where it is none."""

    need: str
    take: Callable[[Any], Any]


@dataclass(frozen=True)
class Key:
    """One key: ``becomes`` is the keyword of `onnx_headcut.cut`, where it has another name."""

    name: str
    kind: Kind
    meaning: str
    becomes: str = ""

    @property
    def keyword(self) -> str:
        """The keyword that takes it."""
        return self.becomes or self.name


def _text(value: object) -> object:
    return value if isinstance(value, str) and value else None


def _flag(value: object) -> object:
    return value if isinstance(value, bool) else None


def _count(value: object) -> object:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _texts(value: object) -> object:
    if isinstance(value, str):
        value = [value]
    fits = isinstance(value, list) and value and all(isinstance(x, str) and x for x in value)
    return tuple(value) if fits and isinstance(value, list) else None


def _spec(value: object) -> object:
    if isinstance(value, list) and value:
        fits = all(isinstance(x, str) or _count(x) is not None for x in value)
        return tuple(value) if fits else None
    return _text(value)


def _shapes(value: object) -> object:
    if not isinstance(value, dict):
        return None
    shapes = {
        name: tuple(dims) if isinstance(dims, list) and dims and all(map(_count, dims)) else None
        for name, dims in value.items()
    }
    return shapes if None not in shapes.values() else None


def _tolerances(value: object) -> object:
    if not isinstance(value, dict):
        return None
    pairs = {name: _pair(numbers) for name, numbers in value.items()}
    return pairs if None not in pairs.values() else None


def _pair(value: object) -> tuple[float, float] | None:
    numbers = value if isinstance(value, list) and len(value) in {1, 2} else [value]
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int | float):
            return None
        if not 0 <= number < math.inf:
            return None
    relative, absolute = map(float, [*numbers, 0.0][:2])
    return relative, absolute


def _one_of(*choices: str) -> Kind:
    words = " or ".join(f'"{choice}"' for choice in choices)
    return Kind(words, lambda value: value if value in choices else None)


TEXT = Kind("a string", _text)
PATH = Kind("a path", _text)
PATHS = Kind("a path or a list of paths; * and ** match several", _texts)
FLAG = Kind("true or false", _flag)
COUNT = Kind("a whole number", _count)
NAMES = Kind("a list of strings", _texts)
SPEC = Kind("a string, or a list of names and ids", _spec)
COLUMN = Kind("a string, or a column's number", lambda x: _text(x) if isinstance(x, str) else _count(x))
SHAPES = Kind("a table of lists, such as images = [1, 3, 320, 320]", _shapes)
TOLERANCES = Kind("a table of pairs, such as scores = [1e-3, 1e-5]", _tolerances)

SOURCE = (
    Key("source", PATH, "The model that all variants are cut from."),
    Key("labels", TEXT, "Class names, as --labels takes them: a preset or a file."),
    Key("background", COLUMN, "The background's column: first, last, none, or its id."),
    Key("heads", NAMES, "The heads' nodes, where they are not found or not the ones meant."),
    Key("layout", TEXT, "How anchors and classes share channels, as --layout takes it."),
    Key("input_shapes", SHAPES, "Shapes of inputs whose size is left open."),
    Key("follow_links", FLAG, "Trust weights beside the model that are links."),
    Key("plugins", NAMES, "Rules for custom operators: modules or .py files, as --plugin takes them."),
)
"""Keys at the top alone: they say how the model is read, once."""

PREPROCESS = Key(
    "preprocess", TEXT, "How a picture becomes an input, wherever pictures are named here; as "
    "--preprocess takes it.",
)  # fmt: skip
"""At the top alone."""

MAP = Key("keep", SPEC, "The classes to keep, in their new order, as --keep takes them.")
OUTPUT = Key(
    "output", PATH, "The file to write; {variant} stands for the variant's name. Without it: "
    "NAME.onnx for a variant.",
)  # fmt: skip

FIT = Key(
    "fit_background", PATHS, "Pictures that the background of a softmax is fitted to, as "
    "--fit-background takes them.",
)  # fmt: skip

CUT = (
    Key("scores", _one_of("renormalized", "exact"), "Whether kept scores are renormalized by a "
        "smaller head, or stay exactly what they were."),
    Key("merge", _one_of("sum", "max"), "How exact scores of merged classes become one."),
    Key("seed", COUNT, "Of what the map draws: `random N` and new weights."),
    Key("ids", _one_of("compact", "original"), "What label outputs say."),
    Key("external_data", _one_of("reference", "copy", "inline"), "Where weights beside the model go."),
)  # fmt: skip
"""Keys at the top, for all variants, or in a variant."""

VALIDATION = (
    Key("enabled", FLAG, "Whether the cut is validated before it is written.", "validation"),
    Key("provider", TEXT, "Where validation runs, as --provider takes it."),
    Key("tolerances", TOLERANCES, "How far an output's values may differ: relative to the value, "
        "and in parts of the output's largest."),
)  # fmt: skip
"""Keys of the table ``[validation]``, at the top or in a variant."""

FEEDS = (
    Key("arrays", PATH, "Validate on the arrays of this .npz file."),
    Key("images", PATHS, "Validate on these pictures."),
)
"""Keys of ``[validation]`` that together become the keyword ``feeds``."""

REPORT = (
    Key("page", PATH, "A page for people (HTML); {variant} stands for the variant's name."),
    Key("images", PATH, "A folder of pictures to measure drift on."),
    Key("annotations", PATH, "What is in them, in COCO's format; needs the extra `coco`."),
)
"""Keys of the table ``[report]``, at the top or in a variant."""

FILES = (
    Key("junit", PATH, "JUnit XML of all variants."),
    Key("sarif", PATH, "SARIF of all variants."),
)
"""Keys of ``[report]`` at the top alone."""
