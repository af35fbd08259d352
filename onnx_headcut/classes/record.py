"""What a cut model's metadata says of its cut: written when cutting, read when cutting again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnx_headcut.classes.background import Classes, Evidence
from onnx_headcut.classes.mapping import ClassMap
from onnx_headcut.classes.names import (
    BACKGROUND,
    METADATA_KEYS,
    LabelsLike,
    Names,
    entries_of,
    is_background,
    load_names,
    names_in_metadata,
    rewrite,
)
from onnx_headcut.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_PREFIX = "onnx_headcut."
_SCORES = f"{_PREFIX}scores"
FITTED = f"{_PREFIX}fitted"
"""The entry that says to what a background was fitted."""
IDS = f"{_PREFIX}ids"
"""The entry that says ``original`` where outputs say the source's class ids."""
_RECORD = "record of a former cut"
_ADVICE = (
    f"Remove the entries that start with {_PREFIX!r} from the model's metadata, or cut the "
    "original again."
)


@dataclass(frozen=True)
class CutRecord:
    """What was cut: ``keep[i]`` is the source's column at the cut model's column ``i``.

    ``names`` has one entry a column, None where it is unknown; ``background`` is the cut model's
    column. ``source_sha256`` is that of the file that was cut. ``map`` is the class map, where
    columns are more than the source's in another order; ``keep`` are its templates then. ``exact``
    says that it was applied behind the activation, and the heads are whole; ``original_ids`` that
    outputs say the source's class ids.
    """

    version: str
    source_sha256: str
    keep: tuple[int, ...]
    names: tuple[str | None, ...]
    background: int | None
    map: ClassMap | None = None
    exact: bool = False
    original_ids: bool = False

    @property
    def evidence(self) -> Evidence:
        """What it says of the background, for where its names are set aside for others."""
        return Evidence(self.background, _RECORD)


def find_names(labels: LabelsLike | None, metadata: Mapping[str, str]) -> Names | None:
    """Class names from ``labels``, else from the model's metadata, or None.

    ``labels`` of ``none`` sets the metadata aside. A model that was cut before has its names by
    its own record. Raises InputError for labels, or a record, that cannot be read.
    """
    if isinstance(labels, str) and labels.casefold() == "none":
        return None
    if labels is not None:
        return load_names(labels)
    record = read_cut_metadata(metadata)
    if record is not None:
        return Names(record.names, _RECORD, recorded=True)
    return names_in_metadata(metadata)


def cut_metadata(
    existing: Mapping[str, str],
    classes: Classes,
    class_map: ClassMap,
    *,
    source_sha256: str,
    version: str,
    fronts: Sequence[str] = (),
) -> dict[str, str]:
    """Return the metadata of the model that is ``classes`` cut by ``class_map``.

    Lists of class names in it are rewritten in their own form, and left out where it is not known
    whose names they are; the cut is recorded; all else stays. It depends on the arguments only.
    ``fronts`` are the tensors at which exact scores are picked.
    """
    former = {f"{_PREFIX}map", FITTED, _SCORES, f"{_PREFIX}fronts", IDS}
    metadata = {k: v for k, v in existing.items() if k not in former}
    after = classes.mapped(class_map)
    for key in METADATA_KEYS:
        entries = entries_of(metadata.get(key, ""))
        if entries is None:
            continue
        if classes.names:
            with_background = any(is_background(name) for name in entries)
            names = [
                row.name or classes.name(row.template)
                for j, row in enumerate(class_map.rows)
                if with_background or j != after.background
            ]
            metadata[key] = rewrite(metadata[key], names)
        else:
            del metadata[key]  # no names are better than those of other classes
    columns = after.names or (None,) * after.count
    recorded = [BACKGROUND if i == after.background else name for i, name in enumerate(columns)]
    record = {
        "version": version,
        "source_sha256": source_sha256,
        "keep": json.dumps(class_map.order),
        "names": json.dumps(recorded, ensure_ascii=False),
        "background": json.dumps(after.background),
    }
    if not class_map.plain:
        record["map"] = class_map.to_json()
    if class_map.exact:
        record |= {"scores": "exact", "fronts": json.dumps(fronts)}
    return metadata | {f"{_PREFIX}{key}": value for key, value in record.items()}


def read_cut_metadata(metadata: Mapping[str, str]) -> CutRecord | None:
    """Return the record of a former cut, None if there is none; InputError for a malformed one."""
    if not any(key.startswith(_PREFIX) for key in metadata):
        return None
    keep, names = _list(metadata, "keep"), _list(metadata, "names")
    background = _decoded(metadata, "background")
    if not keep or not all(_is_column(column) for column in keep):
        raise _malformed("keep", "is no list of columns")
    if len(names) != len(keep):
        raise _malformed("names", f"has {len(names)} entries for {len(keep)} columns")
    if not all(name is None or isinstance(name, str) for name in names):
        raise _malformed("names", "holds more than names and null")
    ids = [i for i, name in enumerate(names) if name == BACKGROUND]
    if background is not None and not (_is_column(background) and [background] == ids):
        raise _malformed("background", f"is {background!r}, which its names do not call so")
    if background is None and ids:
        raise _malformed("background", f"is null, but its names call column {ids[0]} so")
    found = None
    if f"{_PREFIX}map" in metadata:
        try:
            found = ClassMap.from_json(_entry(metadata, "map"), names)
        except ValueError as error:
            raise _malformed("map", str(error)) from None
        if found.order != tuple(keep):
            raise _malformed("map", "names other columns than the entry 'keep'")
    return CutRecord(
        version=_entry(metadata, "version"),
        source_sha256=_entry(metadata, "source_sha256"),
        keep=tuple(keep),
        names=tuple(names),
        background=ids[0] if ids else None,
        map=found,
        exact=bool(fronts_of(metadata)),
        original_ids=metadata.get(IDS) == "original",
    )


def fronts_of(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Where a former cut picks its columns behind whole heads; nowhere, if it cut these.

    Raises InputError for entries that say neither.
    """
    said = metadata.get(_SCORES)
    if said is None:
        return ()
    fronts = _list(metadata, "fronts")
    if said != "exact" or not fronts or not all(isinstance(name, str) for name in fronts):
        raise _malformed("scores", f"is {said!r}, for tensors {fronts!r}")
    return tuple(fronts)


def _entry(metadata: Mapping[str, str], key: str) -> str:
    try:
        return metadata[_PREFIX + key]
    except KeyError:
        raise _malformed(key, "is missing") from None


def _decoded(metadata: Mapping[str, str], key: str) -> Any:
    try:
        return json.loads(_entry(metadata, key))
    except (ValueError, RecursionError):
        raise _malformed(key, "is not JSON") from None


def _list(metadata: Mapping[str, str], key: str) -> list[Any]:
    data = _decoded(metadata, key)
    if not isinstance(data, list):
        raise _malformed(key, "is no list")
    return data


def _is_column(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _malformed(key: str, problem: str) -> InputError:
    return InputError(f"the model's metadata entry {_PREFIX + key!r} {problem}", advice=_ADVICE)
