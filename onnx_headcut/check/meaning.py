"""Tests of what a model means: its head, its classes and names, and where it comes from."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from itertools import combinations
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from onnx_headcut.check.subject import Finding, NotTested
from onnx_headcut.check.table import tests
from onnx_headcut.classes import find_names, read_cut_metadata
from onnx_headcut.classes.names import names_in_metadata
from onnx_headcut.errors import HeadcutError, NoHead, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnx_headcut.check.subject import HeadRows, Subject


T = TypeVar("T")


@tests("head")
def _head(subject: Subject, _: dict[str, Any]) -> Iterator[Finding]:
    error = subject.complaint
    if isinstance(error, NoHead):
        yield error.what, error.node


@tests("head-clear")
def _clear(subject: Subject, _: dict[str, Any]) -> Iterator[Finding]:
    error = subject.complaint
    if error is not None and not isinstance(error, NoHead | UsageError):
        yield error.what, getattr(error, "node", "")


@tests("head-finite")
def _finite(subject: Subject, _: dict[str, Any]) -> Iterator[Finding]:
    for head in _heads(subject):
        bad = ~np.isfinite(head.rows).all(axis=1)
        if bad.any():
            classes = _classes(subject, head.ids[bad])
            yield f"{int(bad.sum())} channels are not finite: {classes}", head.node


@tests("head-dead")
def _dead(subject: Subject, _: dict[str, Any]) -> Iterator[Finding]:
    signs = [_signs(head) for head in _heads(subject)]
    found = [{k for k, sign in each.items() if not any(sign)} for each in signs]
    for head, dead in _told(subject, signs, found):
        yield f"all weights are zero: {_classes(subject, np.array(sorted(dead)))}", head


@tests("head-duplicate")
def _duplicate(subject: Subject, _: dict[str, Any]) -> Iterator[Finding]:
    signs = [_signs(head) for head in _heads(subject)]
    found = []
    for each in signs:
        alike: dict[bytes, list[int]] = defaultdict(list)
        for k, sign in each.items():
            if any(sign):
                alike[sign].append(k)
        found.append({pair for same in alike.values() for pair in combinations(same, 2)})
    for head, pairs in _told(subject, signs, found):
        for pair in sorted(pairs):
            one, other = (_classes(subject, np.array([k])) for k in pair)
            yield f"{one} and {other} have the same weights", head


def _signs(head: HeadRows) -> dict[int, bytes]:
    """Map each class to its weights and bias at all anchors of a head."""
    present = np.unique(head.ids[head.ids >= 0]).tolist()
    return {k: (head.rows[head.ids == k] + 0.0).tobytes() for k in present}


def _told(
    subject: Subject, signs: list[dict[int, bytes]], found: list[set[T]]
) -> Iterator[tuple[str, set[T]]]:
    """Give what is to be told of each head: a level that was hardly trained is no mistake.

    Told is what holds in all heads, and what holds in one where it is the exception.
    """
    everywhere = set.intersection(*found)
    for head, each, these in zip(subject.heads, signs, found, strict=True):
        members = {k for item in these for k in (item if isinstance(item, tuple) else (item,))}
        telling = these if 2 * len(members) <= len(each) else everywhere
        if telling:
            yield head.node, telling


def _heads(subject: Subject) -> list[HeadRows]:
    if not subject.heads:
        raise NotTested("the weights of the heads are computed, not stored")
    return subject.heads


def _classes(subject: Subject, ids: Any) -> str:
    names = subject.known.classes
    found = [names.name(int(k)) if k >= 0 else "no class" for k in np.unique(ids)]
    return ", ".join(found[:8]) + (f" and {len(found) - 8} more" if len(found) > 8 else "")


@tests("names")
def _names(subject: Subject, wanted: dict[str, Any]) -> Iterator[Finding]:
    try:
        given = wanted["labels"]
        found = find_names(given, subject.metadata) if given else subject.names
    except HeadcutError as error:
        yield error.what, ""
        return
    if found is None or not any(found.entries):
        yield "the metadata have no class names", ""


@tests("names-agree")
def _names_agree(subject: Subject, _: dict[str, Any]) -> Iterator[Finding]:
    try:
        if subject.names is None:
            raise NotTested("there are no names")
    except HeadcutError as error:
        yield error.what, ""
        return
    known = subject.known  # first, for where the head was not found
    if isinstance(subject.complaint, UsageError):
        yield subject.complaint.what, ""
        return
    count = known.located.count
    record, stated = subject.record, names_in_metadata(subject.metadata)
    if record is not None and len(record.keep) != count:
        yield f"the record of the cut has {len(record.keep)} columns, the head {count}", ""
    if record is not None and stated is not None:
        ours = [n for k, n in enumerate(record.names) if k != record.background]
        if [n for n in stated.entries if n not in ("background", None)] != [n for n in ours if n]:
            yield "the metadata's names are not those of the record of the cut", ""


@tests("classes")
def _wanted_classes(subject: Subject, wanted: dict[str, Any]) -> Iterator[Finding]:
    try:
        classes = subject.known.classes
    except NotTested as reason:  # what a policy demands is not met by what nobody can tell
        yield str(reason), ""
        return
    if not classes.names:
        yield "the classes have no names", ""
        return
    have = [n for k, n in enumerate(classes.names) if n and k != classes.background]
    have += [f"class {k}" for k, n in enumerate(classes.names)
             if n is None and k != classes.background]  # fmt: skip
    exactly, least = wanted["exactly"], wanted["at_least"] or []
    for missing in [n for n in exactly or least if n not in have]:
        yield f"class {missing!r} is missing", ""
    for extra in [n for n in have if exactly is not None and n not in exactly]:
        yield f"class {extra!r} is not wanted", ""
    for present in [n for n in wanted["none_of"] or () if n in have]:
        yield f"class {present!r} is there, and must not be", ""
    if wanted["ordered"] and exactly and sorted(have) == sorted(exactly) and have != exactly:
        yield f"the order is {', '.join(have)}", ""


@tests("recipe")
def _recipe(subject: Subject, wanted: dict[str, Any]) -> Iterator[Finding]:
    try:
        record = read_cut_metadata(subject.metadata)
    except HeadcutError as error:
        yield error.what, ""
        return
    if record is None:
        if not any(wanted.values()):
            raise NotTested("the model has no record of a cut, and need not have one")
        yield "the metadata have no record of a cut", ""
        return
    for sha256 in filter(None, [wanted["sha256"], _digest(subject, wanted["source"])]):
        if record.source_sha256 != sha256.lower():
            yield f"it was cut from {record.source_sha256[:12]}…, not from {sha256[:12]}…", ""
    if wanted["file"]:
        from onnx_headcut.recipe import proving  # noqa: PLC0415  (it cuts, and few ask for that)

        try:
            why = proving.why_not(subject.policy.folder / wanted["file"], subject.path, record)
        except proving.NotComparable as reason:
            raise NotTested(str(reason)) from None
        if why:
            yield why, ""


def _digest(subject: Subject, source: str | None) -> str | None:
    """Give the sha256 of the source where it is at hand: it may be on another machine."""
    path = subject.policy.folder / (source or "")
    if not source or not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
