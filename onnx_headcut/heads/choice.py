"""Which groups of columns are the classes; what stays ambiguous is refused with the choices.

Evidence, strongest first: a softmax over exactly these columns; a sigmoid; plain scores beside
boxes. Names of classes and of heads, where they are given, decide between what looks alike.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING

from onnx_headcut.errors import GraphRefused, NoHead
from onnx_headcut.heads import said
from onnx_headcut.heads.groups import loses_its_columns
from onnx_headcut.heads.roles import Beside, is_box_of_queries, is_part_of_boxes, may_hold_objectness

if TYPE_CHECKING:
    from onnx_headcut.heads.groups import Group
    from onnx_headcut.heads.seen import Seen


def choose(seen: Seen) -> tuple[list[Group], list[Group]]:
    """One group or, where levels stay apart, one for each; and boxes of each class, to be cut, too.

    Raises GraphRefused where nothing, or more than one thing, could be the classes, and NoHead
    where no columns were seen.
    """
    if seen.layout is not None and seen.layout.is_shared:
        return said.whole_axes(seen, seen.layout), []
    if seen.layout is not None and seen.layout.class_boxes:
        return said.with_boxes(seen)
    candidates = seen.of_heads([g for g in seen.groups if _may_be_classes(seen, g)])
    for kind in ("softmax", "sigmoid", "raw"):
        found = [g for g in candidates if g.kind == kind]
        if kind == "raw":
            found = [g for g in found if not seen.is_inner(g)] or found
        if all(is_box_of_queries(seen, g) for g in found):
            continue
        named = [g for g in found if seen.is_named(g)]
        if named or (found and (seen.count is None or kind == "softmax")):
            return _checked(seen, kind, _one_size(seen, kind, named or found), named=bool(named)), []
    what = "no class scores were found"
    advice = "name the class layers with --head NODE, or give names with --labels"
    if seen.count is not None and seen.groups:
        what = f"no columns go with {seen.count} class names, nor with these and a background"
        advice = "give names that fit with --labels, or --labels none to go by ids"
    refused = GraphRefused if seen.groups else NoHead
    raise refused(
        f"{what}; columns seen behind candidate heads: {seen.listing(seen.groups)}",
        advice=seen.layout_advice() or advice,
    )


def _may_be_classes(seen: Seen, group: Group) -> bool:
    """Whether there are several of them until the scores end, or a person says that there are."""
    if group.kind == "softmax":
        return True
    return group.size > 1 and (seen.layout is not None or not loses_its_columns(seen.flow, group.value))


def _one_size(seen: Seen, kind: str, groups: list[Group]) -> list[Group]:
    """Levels of one detector have one size; four columns more are boxes."""
    if kind != "softmax" and len({seen.full(g) for g in groups}) > 1:
        groups = [g for g in groups if not is_part_of_boxes(seen, g)] or groups
    if len({seen.full(g) for g in groups}) > 1:
        if kind == "raw":
            said.refuse_anchors(seen, max(groups, key=lambda g: g.size), groups)
        seen.refuse(groups)
    return groups


def _checked(seen: Seen, kind: str, chosen: list[Group], *, named: bool) -> list[Group]:
    """Refuse where these columns could as well be something else, or something else the classes."""
    if not seen.heads and any(seen.alike(a, b) for a, b in combinations(chosen, 2)):
        seen.refuse(chosen)
    beside = Beside(seen, kind, chosen, named=named)
    beside.refuse_unclear_axes()
    if levels := beside.levels():
        seen.refuse([*chosen, *levels])
    if not seen.heads:
        beside.refuse_unexplained()
    if kind == "softmax":
        return chosen
    classifies = seen.heads and seen.is_of_pictures
    if beside.is_alone and not named and not classifies:  # nothing shows that they are no boxes
        seen.refuse(chosen)
    if named:
        return [_without_objectness(seen, g, beside.rest) for g in chosen]
    if kind == "raw" and not seen.heads and beside.rivals():
        seen.refuse([*chosen, *beside.rest])
    for group in chosen:
        beside.refuse_objectness(group)
        said.refuse_anchors(seen, group, beside.groups)
    return chosen


def _without_objectness(seen: Seen, group: Group, rest: list[Group]) -> Group:
    """YOLO's columns as they are named: without the objectness before them."""
    extra = group.size - (seen.count or 0)
    if group.kind == "sigmoid" and extra == 1 and may_hold_objectness(group, rest):
        return replace(group, start=group.start + 1)
    return group
