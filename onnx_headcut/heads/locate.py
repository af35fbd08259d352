"""Find the class axis and the heads, by data flow from candidate heads to where scores end.

The result is a list of sites (tensors in which classes are defined, before their activation) and
the labels of each head's channels. What may be the classes is in `groups`, the choice among it in
`choice`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from onnx_headcut.errors import GraphRefused, NoHead
from onnx_headcut.heads.choice import choose
from onnx_headcut.heads.groups import (
    describe,
    ends,
    groups_of,
    is_activated_later,
    on_sure_axes,
    read_whole,
    selecting,
    widest,
)
from onnx_headcut.heads.provenance import Flow
from onnx_headcut.heads.pull import pull
from onnx_headcut.heads.seen import Seen
from onnx_headcut.labels import NONE, Labels, Site

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx_headcut.graph.analysis import Analysis
    from onnx_headcut.heads.groups import Group
    from onnx_headcut.heads.layout import Layout
    from onnx_headcut.labels import Activation


@dataclass(frozen=True)
class Located:
    """Where the classes are: sites, labels of heads' channels by node number, and the evidence.

    ``values`` names each head's output, by node number; ``fronts`` are the sites behind their
    activations.
    """

    count: int
    sites: tuple[Site, ...]
    heads: dict[int, Labels]
    activation: Activation
    evidence: str
    values: dict[int, str]
    fronts: tuple[Site, ...] = ()
    boxes: bool = False
    """Whether boxes of the classes are among the sites, which no map may mix."""
    weighed: bool = False
    """Whether a softmax is multiplied behind, as by an objectness."""
    of_rows: bool = False
    """Whether layers over rows make the scores (R-CNN, DETR), or there is one row for a picture."""
    own_boxes: tuple[int, ...] = ()
    """Layers over the same rows that give as many columns as boxes of each class have, by number."""


def locate(
    analysis: Analysis,
    *,
    count: int | None = None,
    heads: Sequence[str] = (),
    layout: Layout | None = None,
) -> Located:
    """Find sites and heads.

    ``count``: number of names, where known (columns may be one more: a background); ``heads``:
    names of nodes (or their outputs) that the user says are the heads; ``layout``: how anchors and
    classes share an axis.
    """
    flow = Flow(analysis.main, analysis.interpreter)
    flow.run()
    if not flow.leaves:
        raise NoHead(
            "no head was found: no Conv, Gemm or MatMul with stored weights leads to scores",
            advice="if the model is a detector, name its class layers with --head NODE",
        )
    groups = widest(on_sure_axes([g for value in ends(flow) for g in groups_of(flow, value)]))
    groups = read_whole(flow, groups)
    seen = Seen(analysis, flow, groups, count, heads, layout)
    chosen, boxes = choose(seen)
    chosen += selecting(flow, groups, chosen)  # behind the others: the first say the activation
    return _pull_all(seen, chosen, boxes)


def _pull_all(seen: Seen, groups: list[Group], boxes: list[Group]) -> Located:
    """Label the columns of each group and pull the labels back to sites and heads."""
    heads: dict[int, Labels] = {}
    sites: list[Site] = []
    fronts: list[Site] = []
    behind: list[Site] = []
    count = groups[0].size
    analysis, layout = seen.analysis, seen.layout
    if layout is None:
        pulled = [seen.pulled(g) for g in groups]
    else:
        count = layout.classes(count)
        pulled = [pull(analysis, g.value, _laid_out(g, layout)) for g in groups]
        pulled += [pull(analysis, g.value, Labels(g.axis, np.arange(g.extent) // 4))
                   for g in boxes]  # fmt: skip
    wider = [w for p in pulled for w in p.wider if layout is None]
    if wider and len({w[2] for w in wider}) == 1 and all(p.wider for p in pulled):
        # ids are the head's own columns, with the one that the graph drops behind the head
        count, narrow = wider[0][2], [site for p in pulled for site in p.sites]
        pulled = [pull(analysis, value, Labels(axis, np.arange(count))) for value, axis, _ in wider]
        behind = _behind_softmax(narrow, [site for p in pulled for site in p.sites])
    for result in pulled:
        for node, labels in result.heads.items():
            known = heads.setdefault(node, labels)
            if not known.same(labels):
                bad = analysis.main.graph.node[node]
                raise GraphRefused(
                    "its channels would be different classes for different outputs",
                    node=bad.name, op=bad.op_type,
                    advice="the model shares one head for two purposes, which cannot be cut",
                )  # fmt: skip
        sites += [s for s in result.sites if s not in sites]
        fronts += [s for s in result.fronts if s not in fronts]
    sites += [s for s in behind if s not in sites]
    activation = sites[0].activation
    if activation == "none" and is_activated_later(seen.flow, sites[0].value):
        activation = "sigmoid"
    said = "" if layout is None else ", as --layout says"
    evidence = describe(seen.flow, groups[0]) + said
    values = {i: analysis.main.graph.node[i].output[0] for i in heads}
    return Located(count, tuple(sites), heads, activation, evidence, values, tuple(fronts),
                   bool(boxes), any(g.is_weighed for g in groups),
                   seen.is_of_pictures or any(map(seen.is_of_queries, groups)),
                   seen.own_boxes(heads, count) if layout is None else ())  # fmt: skip


def _behind_softmax(narrow: Sequence[Site], wide: Sequence[Site]) -> list[Site]:
    """Sites behind the column that a softmax has more: what calibrates its shares, numbered as it."""
    pairs = [(a.ids, b.ids) for a in narrow for b in wide if a.value == b.value]
    number = {old: new for olds, news in pairs for old, new in zip(olds, news, strict=True)}
    known = {site.value for site in wide}
    return [replace(s, ids=tuple(NONE if i == NONE else number[i] for i in s.ids)) for s in narrow
            if s.value not in known and all(i == NONE or i in number for i in s.ids)]  # fmt: skip


def _laid_out(group: Group, layout: Layout) -> Labels:
    """The columns of ``group`` numbered as ``layout`` says, the rest of the axis as none."""
    ids = np.full(group.extent, NONE)
    ids[group.start : group.stop] = layout.ids(group.size)
    return Labels(group.axis, ids)
