"""Labels backward: from a tensor whose class axis is known to the heads that made it.

The mirror image of the trace, with the same principle: a movement op is run on element numbers,
and each element takes its label from where it ended up. It stops at nodes with stored weights
(the heads) and notes the tensors before activations on its way (the sites).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from onnx_headcut.classes.record import fronts_of
from onnx_headcut.errors import CallReached, GraphRefused
from onnx_headcut.graph.model import metadata_of
from onnx_headcut.graph.ops import ACTIVATIONS, BROADCASTING, MOVING, WEIGHTED
from onnx_headcut.graph.plain import simple
from onnx_headcut.graph.scope import is_fixed
from onnx_headcut.heads.front import behind
from onnx_headcut.labels import NONE, Labels, Site
from onnx_headcut.rules import elementwise
from onnx_headcut.rules.heads import HEAD_OPS, channel_axis
from onnx_headcut.rules.movement import varying
from onnx_headcut.rules.scores import POOLING, shares_among

if TYPE_CHECKING:
    import onnx

    from onnx_headcut.graph.analysis import Analysis
    from onnx_headcut.graph.facts import Array
    from onnx_headcut.labels import Activation, Ints

UNSEEN = -2

REPEATING = frozenset({"Gather", "Expand", "Tile"})
"""Movement ops that may read an element twice."""

SAME_ELEMENTS = frozenset({"Identity", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze"})
"""Movement ops that leave none out and read none twice."""

KEEPING_PLACES = frozenset({*elementwise.RULES, "Softmax", "LogSoftmax", "Sigmoid", *POOLING})
"""Ops whose outputs have the classes where their first input has them."""


_NAME_THEM = "name the class layers with --head NODE, or report the model's exporter"


@dataclass
class Pulled:
    """Heads by node number with the labels of their output, and the sites on the way.

    ``fronts`` are the same sites behind their activations.
    """

    heads: dict[int, Labels] = field(default_factory=dict)
    sites: list[Site] = field(default_factory=list)
    fronts: list[Site] = field(default_factory=list)
    wider: list[tuple[str, int, int]] = field(default_factory=list)
    """Tensors (value, axis, extent) of which the graph drops one outer column: a background."""


def pull(analysis: Analysis, value: str, labels: Labels) -> Pulled:
    """Follow ``labels`` of ``value`` back; refuses where that cannot be done."""
    walk = _Walk(analysis)
    walk.back(value, labels, activated=False)
    walk.note_unread()
    walk.join_branches()
    walk.refuse_lost(value, labels)
    if not walk.result.sites:
        value, labels = walk.shared(value, labels)
        walk.result.sites.append(site_of(value, labels, "none"))
        walk.result.fronts.append(behind(*(walk.pick or (value, labels)), ""))
    return walk.result


def site_of(value: str, labels: Labels, activation: Activation) -> Site:
    """The `Site` of ``labels``: what nobody read on the way back belongs to no class."""
    ids = np.where(labels.ids < 0, NONE, labels.ids)
    return Site(value, labels.axis, tuple(ids.tolist()), activation)


class _Walk:
    def __init__(self, analysis: Analysis) -> None:
        self.scope, self.interpreter = analysis.main, analysis.interpreter
        self.result = Pulled()
        props = metadata_of(analysis.source.proto)
        self.picks = fronts_of(props)
        """Where a former cut picks its columns behind whole heads; the others are no background."""
        self.pick: tuple[str, Labels] | None = None
        self.seen: dict[str, Labels] = {}
        self.softmaxes: dict[tuple[str, int], tuple[onnx.NodeProto, Ints]] = {}
        """By result and class axis: the node, and what is read of its columns, by all ways together."""

    def refuse_lost(self, value: str, labels: Labels) -> None:
        """Refuse where classes have no channel of their own in any head: their scores are mixed."""
        found = {c for head in self.result.heads.values() for c in head.ids.tolist()}
        lost = sorted(set(labels.ids.tolist()) - found - {NONE, UNSEEN})
        at = self.scope.index.producer.get(value)
        if lost and at is not None:
            self._refuse(self.scope.graph.node[at], f"its columns {', '.join(map(str, lost))} have no "
                         "channel of their own in any layer, so they are no classes")  # fmt: skip

    def shared(self, value: str, labels: Labels) -> tuple[str, Labels]:
        """Find the earliest tensor of the same elements that others read too, such as a best score.

        An output is often an Identity or a Transpose of it, of which those others know nothing.
        """
        at, found = self.scope.index.producer.get(value), (value, labels)
        while at is not None:
            node = simple(self.scope.graph.node[at])
            name = node.input[0] if node.op_type in SAME_ELEMENTS else ""
            if name not in self.seen:
                break
            if len(self.scope.index.consumers[name]) > 1 or name in self.scope.index.outputs:
                found = name, self.seen[name]
            at = self.scope.index.producer.get(name)
        return found

    def back(self, value: str, labels: Labels, *, activated: bool) -> None:
        if (labels.ids < 0).all():
            return
        known = self.seen.get(value)
        if known is not None and known.same(labels):
            return
        self.seen[value] = labels
        if value in self.picks:
            self.pick = value, labels
        at = self.scope.index.producer.get(value)
        if at is None:
            return  # a constant part: anchors beside scores
        node = simple(self.scope.graph.node[at])
        if node.op_type in WEIGHTED:
            self._head(at, node, labels)
        elif node.op_type in ACTIVATIONS and (not activated or self._mixes(node, labels)):
            (self._normalisation if activated else self._activation)(node, value, labels)
        elif node.op_type == "Concat":
            self._concat(node, labels, activated=activated)
        elif node.op_type in MOVING:
            self._move(node, value, labels, activated=activated)
        elif node.op_type in BROADCASTING:
            self._combine(node, labels, activated=activated)
        elif node.op_type in KEEPING_PLACES:
            self.back(node.input[0], labels, activated=activated)
        elif not is_fixed(self.scope, value):
            self._refuse(node, "the way back from the class scores to their head ends here")

    def _activation(self, node: onnx.NodeProto, value: str, labels: Labels) -> None:
        kind: Activation = "softmax" if "max" in node.op_type else "sigmoid"
        if kind == "softmax":
            _, known = self.softmaxes.get((value, labels.axis), (node, labels.ids))
            self.softmaxes[value, labels.axis] = node, np.maximum(known, labels.ids)
        site = site_of(self._before_its_best(node.input[0], labels), labels, kind)
        self._note(self.result.sites, site, node)
        self._note(self.result.fronts, behind(*(self.pick or (value, labels)), node.op_type), node)
        self.pick = None
        self.back(node.input[0], labels, activated=True)

    def _mixes(self, node: onnx.NodeProto, labels: Labels) -> bool:
        """Whether a node makes each class's share of all of them."""
        if node.op_type not in {"Softmax", "LogSoftmax"}:
            return False
        rank = len(self.scope.old(node.output[0]).shape or ())
        return shares_among(node, labels.axis, rank, self.interpreter.opsets[""])

    def _normalisation(self, node: onnx.NodeProto, _: str, labels: Labels) -> None:
        """Note a softmax whose shares are calibrated, say, by a sigmoid: classes compete before it."""
        site = site_of(self._before_its_best(node.input[0], labels), labels, "softmax")
        self._note(self.result.sites, site, node)
        self.result.sites.sort(key=lambda s: s.activation != "softmax")  # the first says the kind
        self.back(node.input[0], labels, activated=True)

    def _before_its_best(self, value: str, labels: Labels) -> str:
        """Step over ``x - max(x)``, of which the best class is to be a kept one, too."""
        sub = self._maker(value)
        if sub is None or sub.op_type != "Sub":
            return value
        best = self._maker(sub.input[1])
        if best is None or best.op_type != "ReduceMax" or best.input[0] != sub.input[0]:
            return value
        shape, lowest = (self.scope.old(name).shape for name in sub.input[:2])
        same = shape and lowest and len(shape) == len(lowest) and lowest[labels.axis] == 1
        return sub.input[0] if same else value

    def _maker(self, value: str) -> onnx.NodeProto | None:
        at = self.scope.index.producer.get(value)
        return None if at is None else self.scope.graph.node[at]

    def _note(self, sites: list[Site], site: Site, node: onnx.NodeProto) -> None:
        """Add a site; one that was met before, by other columns of it, is completed."""
        at = next((k for k, s in enumerate(sites) if s == replace(site, ids=s.ids)), None)
        if at is None:
            sites.append(site)
            return
        known, new = np.array(sites[at].ids), np.array(site.ids)
        if ((known != NONE) & (new != NONE) & (known != new)).any():
            self._refuse(node, "one of its columns would belong to two classes")
        sites[at] = replace(site, ids=tuple(np.where(known == NONE, new, known).tolist()))

    def _head(self, at: int, node: onnx.NodeProto, labels: Labels) -> None:
        rank = len(self.scope.old(node.output[0]).shape or ())
        first = node.op_type == "MatMul" and is_fixed(self.scope, node.input[0])
        axis = channel_axis(self.scope.graph.node[at], rank, weight_first=first)
        if node.op_type not in HEAD_OPS:
            self._refuse(node, f"class scores come from {node.op_type}, which is not supported yet")
        channels = (self.scope.old(node.output[0]).shape or ())[axis]
        if channels is not None and len(set(labels.ids.tolist())) == 1:
            labels = Labels(axis, np.resize(labels.ids, channels))  # wherever that is said to lie
        if axis != labels.axis:
            self._refuse(node, f"classes lie on axis {labels.axis} of its output, not its channels")
        ids = np.where(labels.ids == UNSEEN, NONE, labels.ids)
        known = self.result.heads.setdefault(at, Labels(axis, ids))
        if not np.array_equal(known.ids, ids):
            merged = np.where(known.ids == NONE, ids, known.ids)
            if ((known.ids != NONE) & (ids != NONE) & (known.ids != ids)).any():
                self._refuse(node, "one of its channels would belong to two classes")
            self.result.heads[at] = Labels(axis, merged)

    def _concat(self, node: onnx.NodeProto, labels: Labels, *, activated: bool) -> None:
        rank = len(self.scope.old(node.output[0]).shape or ())
        axis = next(a.i for a in node.attribute if a.name == "axis") % rank
        at = 0
        parts: list[tuple[str, Labels]] = []
        for name in node.input:
            if axis != labels.axis:
                parts.append((name, labels))
                continue
            shape = self.scope.old(name).static
            if shape is None:
                self._refuse(node, f"the shape of {name!r} is not known")
            parts.append((name, Labels(axis, labels.ids[at : at + shape[axis]])))
            at += shape[axis]
        for name, part in parts if axis != labels.axis else self._put_together(parts):
            self.back(name, part, activated=activated)

    def _put_together(self, parts: list[tuple[str, Labels]]) -> list[tuple[str, Labels]]:
        """What single classes were taken from (Split, unbind), as one tensor of them all."""
        found: dict[tuple[str, int], Labels] = {}
        for name, part in parts:
            single = len(set(part.ids.tolist())) == 1
            value, labels = self._source(name, part) if single else (name, part)
            known = found.setdefault((value, labels.axis), labels)
            if ((known.ids >= 0) & (labels.ids >= 0) & (known.ids != labels.ids)).any():
                return parts
            found[value, labels.axis] = Labels(labels.axis, np.maximum(known.ids, labels.ids))
        return [(value, labels) for (value, _), labels in found.items()]

    def _source(self, value: str, labels: Labels) -> tuple[str, Labels]:
        """Where elements come from, as far back as ops only move them."""
        while (at := self.scope.index.producer.get(value)) is not None:
            node = simple(self.scope.graph.node[at])
            if node.op_type not in MOVING - {"Concat"} or value in self.picks:
                break
            value, labels = node.input[0], self._before(node, value, labels)
        return value, labels

    def _combine(self, node: onnx.NodeProto, labels: Labels, *, activated: bool) -> None:
        rank = len(self.scope.old(node.output[0]).shape or ())
        for name in node.input:
            fact = self.scope.old(name)
            if not name or is_fixed(self.scope, name) or fact.shape is None:
                continue
            axis = labels.axis - (rank - len(fact.shape))
            if axis < 0 or (fact.shape[axis] == 1 and len(labels.ids) > 1):
                continue  # stretched over the classes: objectness, a quality score
            self.back(name, Labels(axis, labels.ids), activated=activated)

    def _move(self, node: onnx.NodeProto, value: str, labels: Labels, *, activated: bool) -> None:
        before = self._before(node, value, labels)
        self._note_dropped(node, before)
        self.back(node.input[0], before, activated=activated)

    def _before(self, node: onnx.NodeProto, value: str, labels: Labels) -> Labels:
        """Labels of what a movement op reads, where ``value`` that it makes has ``labels``."""
        shape = self.scope.old(node.input[0]).static
        if shape is None:
            self._refuse(node, f"the shape of its input {node.input[0]!r} is not known")
        facts = [self.scope.old(n) for n in node.input]
        if any(f.value is None and n for n, f in list(zip(node.input, facts, strict=True))[1:]):
            self._refuse(node, "it moves class scores by what it finds in the picture")
        at = list(node.output).index(value)
        classes = np.full(shape, UNSEEN, np.int32)
        seen = self.interpreter.run(node, [classes, *(f.value for f in facts[1:])])[at]
        ids = labels.ids.astype(np.int32)
        spread = ids.reshape([-1 if a == labels.axis else 1 for a in range(seen.ndim)])
        if node.op_type not in REPEATING and np.may_share_memory(seen, classes):
            seen[...] = spread  # a view, mostly: what is written there is written here
            return self._along(node, classes)
        out = self.interpreter.moved(node, facts)[0][at]
        classes = classes.reshape(-1)
        classes[out] = spread
        if node.op_type in REPEATING:
            # an element that several classes read (boxes copied for each class) belongs to none
            lowest = classes.copy()
            np.minimum.at(lowest, out, np.broadcast_to(spread, out.shape))
            classes[lowest != classes] = NONE
        return self._along(node, classes.reshape(shape))

    def note_unread(self) -> None:
        """Note each softmax of which one outer column goes nowhere: it is over that column, too."""
        for (value, axis), (node, ids) in self.softmaxes.items() if not self.picks else ():
            unread, n = np.flatnonzero(ids < 0), len(ids)
            if len(unread) == 1 and unread[0] in {0, n - 1} and n > 2:
                self.result.wider.append((value, axis, n))
            elif len(unread) and len(np.unique(ids)) > 2:
                self._refuse(
                    node,
                    f"it is over {n} columns, of which {len(unread)} come out as no class: the "
                    "background may be among them, and nothing shows which it is",
                    f"cut a model exported with all {n} columns (COCO's 91, say, where 80 of them were "
                    "picked); a cut leaves out what is not wanted",
                )

    def join_branches(self) -> None:
        """Note classes where they were taken apart, if each goes through a sigmoid of its own.

        The branch of a class goes with it, and a site in it would: validation has to find them all.
        """
        sites = self.result.sites
        if len(sites) < 2 or any(s.activation != "sigmoid" or len(set(s.ids)) > 1 for s in sites):
            return
        joined: list[Site] = []
        for site in sites:
            node = self.scope.graph.node[self.scope.index.producer[site.value]]
            try:
                source = self._source(site.value, Labels(site.axis, np.array(site.ids)))
            except GraphRefused:  # a shape on the way is not known
                return
            self._note(joined, site_of(*source, "sigmoid"), node)
        if len(joined) < len(sites):
            self.result.sites = joined

    def _note_dropped(self, node: onnx.NodeProto, labels: Labels) -> None:
        """Note a tensor of which nobody reads its first or its last class column."""
        unseen = np.flatnonzero(labels.ids == UNSEEN)
        n = len(labels.ids)
        maker = self.scope.index.node_of(node.input[0])
        least = 2 if maker is not None and "max" in maker.op_type else 3
        outer = not self.picks and len(unseen) == 1 and unseen[0] in {0, n - 1} and n >= least
        if not outer or (labels.ids == NONE).any() or len(set(labels.ids.tolist())) != n:
            return
        readers = [self.scope.graph.node[i] for i in self.scope.index.consumers[node.input[0]]]
        same = all(r.op_type == "Shape" or (r.op_type, r.input, r.attribute)
                   == (node.op_type, node.input, node.attribute) for r in readers)  # fmt: skip
        read = {o for o in node.output if self.scope.index.consumers.get(o)}
        same &= node.op_type != "Split" or len(read | self.scope.index.outputs & {*node.output}) == 1
        if same and node.input[0] not in self.scope.index.outputs:
            self.result.wider.append((node.input[0], labels.axis, n))

    def _along(self, node: onnx.NodeProto, classes: Array) -> Labels:
        """Labels of the one axis along which ``classes`` vary (unseen elements agree with all)."""
        if (classes == UNSEEN).any():
            fewest, found = classes.size + 1, None
            for axis in range(classes.ndim):
                others = tuple(a for a in range(classes.ndim) if a != axis)
                top = classes.max(axis=others)
                spread = top.reshape([-1 if a == axis else 1 for a in range(classes.ndim)])
                filled = int((top != UNSEEN).sum()) * (classes.size // len(top))
                if filled < fewest and ((classes == UNSEEN) | (classes == spread)).all():
                    fewest, found = filled, Labels(axis, top.astype(np.int64))
            if found is not None:
                return found
        axes = varying(classes)
        if not axes and classes.ndim:
            axes = [int(np.argmin(classes.shape))]  # all of one class: any axis tells that
        if len(axes) != 1:
            self._refuse(node, f"classes lie on axes {axes} of its input at once")
        along = classes[tuple(slice(None) if a == axes[0] else 0 for a in range(classes.ndim))]
        return Labels(axes[0], along.astype(np.int64))

    def _refuse(self, node: onnx.NodeProto, what: str, advice: str = _NAME_THEM) -> NoReturn:
        if (node.domain, node.op_type) in self.interpreter.functions:
            raise CallReached(
                "class scores come through a local function",
                [(self.scope.index.producer[node.output[0]],)],
                node=node.name or node.output[0],
                op=node.op_type,
            )
        raise GraphRefused(
            what,
            node=node.name or node.output[0],
            op=node.op_type,
            advice=advice,
        )
