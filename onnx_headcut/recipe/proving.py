"""Whether a model is what a recipe makes: one of its variants, cut again, gives the same bytes.

Cuts are the same every time, so that a model's metadata need not name the recipe (and a comment in
the recipe changes no model): whoever has recipe and source can find out.
"""

from __future__ import annotations

import filecmp
import hashlib
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from onnx_headcut import __version__
from onnx_headcut.recipe.building import build
from onnx_headcut.recipe.reading import read_recipe

if TYPE_CHECKING:
    from onnx_headcut.classes.record import CutRecord


class NotComparable(Exception):
    """The model's bytes say nothing, for the reason that the message tells."""


def why_not(recipe: Path, model: Path, record: CutRecord) -> str:
    """Say why ``model``, with its ``record``, is none of the recipe's variants; nothing if it is one.

    A variant that writes a file of the model's name is the one that is meant, else any will do.
    Raises what `read_recipe` and `build` raise, and NotComparable for weights beside the model
    (where they lie is written into it), and for the cut of another version.
    """
    said = read_recipe(recipe)
    source = said.folder / said.source
    if source.is_file():
        with source.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != record.source_sha256:
                return f"it was cut from another model than the source of {recipe.name}"
    if record.version != __version__:
        raise NotComparable(f"it was cut by version {record.version}, and this is {__version__}")
    named = [v for v in said.variants if Path(v.output).name == model.name] or said.variants
    with tempfile.TemporaryDirectory() as folder:
        places = [Path(folder, str(k)) for k in range(len(named))]
        for place in places:
            place.mkdir()
        again = [
            replace(variant, output=str(place / model.name), report={})
            for variant, place in zip(named, places, strict=True)
        ]
        built = build(replace(said, variants=tuple(again)), validation=False).variants
        if any(len(list(place.iterdir())) > 1 for place in places):
            raise NotComparable("weights lie beside the model")
        for one in built:
            if one.output is not None and filecmp.cmp(one.output, model, shallow=False):
                return ""
    alike = [one.name for one in built if tuple(one.document.get("keep", ())) == record.keep]
    if alike:
        return f"variant {' or '.join(map(repr, alike))} of {recipe.name} makes another file"
    failed = [one.failure.what for one in built if one.failure is not None]
    if len(failed) == len(built):
        return f"{recipe.name} makes no model: {failed[0]}"
    which = f"variant {named[0].name!r}" if len(named) == 1 else "no variant"
    verb = "keeps other columns" if len(named) == 1 else "keeps its columns in their order"
    return f"{which} of {recipe.name} {verb}"
