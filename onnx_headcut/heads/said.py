"""Columns as ``--layout`` says: anchors, boxes and classes on one axis that no graph splits."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, product
from typing import TYPE_CHECKING

from onnx_headcut.errors import GraphRefused
from onnx_headcut.heads.groups import describe

if TYPE_CHECKING:
    from onnx_headcut.heads.groups import Group
    from onnx_headcut.heads.layout import Layout
    from onnx_headcut.heads.seen import Seen


def whole_axes(seen: Seen, layout: Layout) -> list[Group]:
    """Whole axes that hold boxes and classes of every anchor, one for each level."""
    whole = {(g.value, g.axis): replace(g, start=0, stop=g.extent) for g in seen.groups}
    found = seen.of_heads([g for g in whole.values() if layout.classes(g.extent)])
    sizes = {g.size for g in found}
    if len(sizes) > 1 and seen.count is not None:
        counts = {seen.count, seen.count + 1}
        found = [g for g in found if layout.classes(g.size) in counts]
        sizes = {g.size for g in found}
    if not found:
        raise GraphRefused(
            "no axis of channels holds as many columns as --layout says; seen behind candidate "
            f"heads: {seen.listing(list(whole.values()))}",
            advice="an anchor's columns are those before its classes, its classes, and those "
            "after; their number times the anchors is the axis' extent",
        )
    if len(sizes) > 1 or any(seen.alike(a, b) for a, b in combinations(found, 2)):
        seen.refuse(found)
    columns = found[0].size // layout.anchors
    forgotten = [g for g in whole.values() if g not in found and g.extent % columns == 0]
    if forgotten and not seen.heads:  # a level with another number of anchors
        seen.refuse([*found, *forgotten])
    return found


def with_boxes(seen: Seen) -> tuple[list[Group], list[Group]]:
    """Groups of scores beside which there are four columns for each, and those columns."""
    pairs = [(g, b) for g, b in product(seen.groups, seen.groups) if seen.has_boxes(g, b)]
    wanted = seen.of_heads([g for g, _ in pairs])
    pairs = [(g, b) for g, b in pairs if g in wanted]
    groups = [g for p in pairs for g in p]
    if not pairs:
        raise GraphRefused(
            "no maps of scores with four columns for each beside them were found, as --layout "
            f"says; seen: {seen.listing(seen.groups)}",
        )
    forgotten = [g for g in seen.groups if g not in groups and g.size == groups[0].size]
    if forgotten or len({g.size for g in wanted}) > 1 or len(set(groups)) < len(groups):
        seen.refuse([*groups, *forgotten])
    return wanted, [b for _, b in pairs]


def refuse_anchors(seen: Seen, group: Group, beside: list[Group]) -> None:
    """Refuse where anchors lie on one axis with the classes, and nobody said how."""
    for g in beside:
        if g is group or seen.layout is not None:
            continue
        anchors = g.size // 4
        alike = len(group.shape) > 3 and len(g.shape) == len(group.shape)
        if alike and g.size > 4 and g.size % 4 == 0 and group.size % anchors == 0:
            raise GraphRefused(
                "anchors and classes lie on one axis that the graph never splits: "
                + describe(seen.flow, group),
                advice=seen.layout_advice()
                or f"say how: --layout anchors={anchors} where the {group.size // anchors} "
                f"columns of an anchor stand side by side (a·C + k), as {describe(seen.flow, g)} "
                f"suggests, or --layout anchors={anchors},class-major (k·A + a); --layout anchors=1 "
                "where they are one anchor's, as distances in bins (DFL) or coefficients of masks are",
            )
