"""A recipe file becomes a `Recipe`. What is misspelt, misplaced or of another type is refused.

At the top stands what holds for all: how the source is read, and what a variant does not say
itself. Each table ``[variants.NAME]`` is one cut. A recipe without variants is one cut, said at the
top. Paths are relative to the recipe's folder, and stay as they are written: the builder works in
that folder.
"""

from __future__ import annotations

import glob
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnx_headcut import toml
from onnx_headcut.errors import InputError
from onnx_headcut.recipe import keys

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from onnx_headcut.recipe.keys import Key

_NAME = "{variant}"
_SECTIONS = ("validation", "report")
_OF_SOURCE = (*keys.SOURCE, keys.PREPROCESS)
_OF_VARIANT = (keys.MAP, keys.OUTPUT, keys.FIT, *keys.CUT)
_OF_VALIDATION = (*keys.VALIDATION, *keys.FEEDS)
_SPECIAL = "*?["


@dataclass(frozen=True)
class Variant:
    """One cut: the classes to keep, the file to write, and the keywords of `onnx_headcut.cut`.

    ``feeds`` and ``fit`` are keywords of `onnx_headcut.Feeds`: what validation runs on, and what the
    background is fitted to. ``report`` are the keys of the recipe's ``[report]``.
    """

    name: str
    keep: str | Sequence[int | str]
    output: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    feeds: Mapping[str, Any] = field(default_factory=dict)
    fit: Mapping[str, Any] = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """Cuts of one model. Paths in it are relative to ``folder``.

    ``reading`` are the keywords that say how the model is read; ``files`` the paths of ``junit``
    and ``sarif`` reports on all variants.
    """

    source: str
    variants: tuple[Variant, ...]
    folder: Path = Path()
    reading: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)


def read_recipe(path: str | os.PathLike[str]) -> Recipe:
    """Read a recipe; raises InputError with the key, what it has to be, and the nearest words."""
    path = Path(path)
    return parse(toml.read(path), path.parent, str(path))


def parse(data: Mapping[str, Any], folder: Path, name: str) -> Recipe:
    """Check all keys of a recipe and give it; ``name`` is how messages call it."""
    top = (*_OF_SOURCE, *_OF_VARIANT)
    _demand_known(data, [*(k.name for k in top), *_SECTIONS, "variants"], name)
    common = _values(data, top, name)
    if "source" not in common:
        raise InputError(f"{name}: the source is not said", advice='Write: source = "model.onnx"')
    sections = {s: _section(data, s, name) for s in _SECTIONS}
    files = {k.name: folder / v for k in keys.FILES if (v := sections["report"].pop(k.name, None))}
    named = _tables(data, name)
    if named is None:  # the top is the one cut
        stem = Path(str(common.get("output", "cut"))).stem.replace(_NAME, "cut")
        named = {stem: {}}
    elif not named:
        raise InputError(f"{name}: there is no variant", advice="Write: [variants.NAME]")
    shared = {k: v for k, v in common.items() if k not in {s.name for s in keys.SOURCE}}
    variants = tuple(
        _variant(key, table, (shared, sections), (folder, f"{name}, [variants.{key}]"))
        for key, table in named.items()
    )
    _demand_apart(variants, common["source"], folder, name)
    reading = {k.keyword: common[k.name] for k in keys.SOURCE[1:] if k.name in common}
    return Recipe(common["source"], variants, folder, reading, files)


def _tables(data: Mapping[str, Any], name: str) -> dict[str, dict[str, Any]] | None:
    """Give the variants' tables by name, or None where there are none."""
    tables = data.get("variants")
    if tables is None:
        return None
    if not isinstance(tables, dict):
        raise InputError(f"{name}: variants is no table", advice="Write: [variants.NAME]")
    for key, table in tables.items():
        if not isinstance(table, dict):
            raise InputError(
                f"{name}: the variant {key!r} is no table", advice=f"Write: [variants.{key}]"
            )
        if not key.strip() or not key.isprintable() or set(key) & set("/\\"):
            raise InputError(
                f"{name}: {key!r} is no name for a variant",
                advice="A file may be called by it: use letters, digits, - and _.",
            )
    return tables


def _variant(
    key: str,
    table: dict[str, Any],
    shared: tuple[Mapping[str, Any], Mapping[str, Mapping[str, Any]]],
    place: tuple[Path, str],
) -> Variant:
    """Give a variant: what it says itself, over what the top says for all."""
    (folder, where), (common, sections) = place, shared
    _demand_known(table, [*(k.name for k in _OF_VARIANT), *_SECTIONS], where)
    values = {**common, **_values(table, _OF_VARIANT, where)}
    if keys.MAP.name not in values:
        raise InputError(
            f"{where}: which classes to keep is not said", advice='Write: keep = "person, car"'
        )
    said = {s: {**sections[s], **_section(table, s, where, top=False)} for s in _SECTIONS}
    validation, report = said["validation"], said["report"]
    feeds = {k.name: validation[k.name] for k in keys.FEEDS if k.name in validation}
    fit = {"images": values[keys.FIT.name]} if keys.FIT.name in values else {}
    for pictures in (feeds, fit, report):
        if "images" in pictures and keys.PREPROCESS.name in values:
            pictures["preprocess"] = values[keys.PREPROCESS.name]
    for pictures in (feeds, fit):
        if "images" in pictures:
            pictures["images"] = tuple(_matching(pictures["images"], folder, where))
    if report and validation.get("enabled") is False:
        raise InputError(
            f"{where}: a report tells of validation, which is switched off",
            advice="Leave out [report], or enabled = false.",
        )
    if "page" in report:
        report["page"] = report["page"].replace(_NAME, key)
    settings = {
        k.keyword: (values | validation)[k.name]
        for k in (*keys.CUT, *keys.VALIDATION)
        if k.name in values or k.name in validation
    }
    output = str(values.get("output", f"{key}.onnx")).replace(_NAME, key)
    return Variant(key, values[keys.MAP.name], output, settings, feeds, fit, report)


def _section(data: Mapping[str, Any], section: str, where: str, *, top: bool = True) -> dict[str, Any]:
    """Give the values of ``[validation]`` or ``[report]``, at the ``top`` or in a variant."""
    table = data.get(section, {})
    if not isinstance(table, dict):
        raise InputError(f"{where}: {section} is no table", advice=f"Write: [{section}]")
    known = {
        "validation": _OF_VALIDATION,
        "report": (*keys.REPORT, *(keys.FILES if top else ())),
    }[section]
    where = f"{where}, [{section}]"
    _demand_known(table, [k.name for k in known], where)
    return _values(table, known, where)


def _values(table: Mapping[str, Any], known: Sequence[Key], where: str) -> dict[str, Any]:
    """Check the types of what is there."""
    values = {}
    for key in known:
        if key.name not in table:
            continue
        value = key.kind.take(table[key.name])
        if value is None:
            raise InputError(
                f"{where}: {key.name} is {table[key.name]!r}", advice=f"It has to be {key.kind.need}."
            )
        values[key.name] = value
    return values


def _demand_known(table: Iterable[str], names: Sequence[str], where: str) -> None:
    """Raise InputError for an unknown key, which may belong to another place."""
    places = {
        "at the top": [k.name for k in (*_OF_SOURCE, *_OF_VARIANT)],
        "in [validation]": [k.name for k in _OF_VALIDATION],
        "in [report]": [k.name for k in (*keys.REPORT, *keys.FILES)],
    }
    for key in table:
        right = [place for place, found in places.items() if key in found]
        if key not in names and right:
            raise InputError(
                f"{where}: {key} has no place here", advice=f"It stands {' or '.join(right)}."
            )
    toml.demand_known(table, names, where, "key")


def _matching(patterns: Sequence[str], folder: Path, where: str) -> Iterable[str]:
    """Give the files that patterns name, in order; paths without a * are taken as they are."""
    for pattern in patterns:
        if not set(pattern) & set(_SPECIAL) or (folder / pattern).exists():
            yield pattern
            continue
        # Path.glob takes no absolute pattern
        found = sorted(glob.glob(pattern, root_dir=folder, recursive=True))  # noqa: PTH207
        if not found:
            raise InputError(f"{where}: no picture matches {pattern!r}")
        yield from found


def _demand_apart(variants: Sequence[Variant], source: str, folder: Path, name: str) -> None:
    """Raise InputError where two files would be one."""
    owners = {os.path.realpath(folder / source): "the source"}
    for variant in variants:
        for path in filter(None, (variant.output, variant.report.get("page"))):
            real = os.path.realpath(folder / path)
            if real in owners:
                raise InputError(
                    f"{name}: {path} would be written for variant {variant.name!r}, and is of "
                    f"{owners[real]}",
                    advice=f"Give each a file of its own; {_NAME} stands for the variant's name.",
                )
            owners[real] = f"variant {variant.name!r}"
