"""Figures of a model: parameters, multiply-adds, nodes, bytes, and its heads in detail."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from onnx import helper

from onnx_headcut.graph.facts import Fact, attributes
from onnx_headcut.graph.model import all_tensors
from onnx_headcut.graph.ops import WEIGHTED
from onnx_headcut.graph.plain import plain, simple
from onnx_headcut.storage.lean import size

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx

    from onnx_headcut.classes import Classes
    from onnx_headcut.graph.analysis import Analysis
    from onnx_headcut.graph.scope import Scope
    from onnx_headcut.heads.locate import Located
    from onnx_headcut.labels import Labels
    from onnx_headcut.tracing.plan import OutputClasses, Plan


@dataclass(frozen=True)
class Head:
    """One head: a node whose output channels are class scores; ``weight`` and ``dtype`` are stored."""

    node: str
    op: str
    weight: str
    shape: tuple[int, ...]
    dtype: str
    anchors: int
    classes: int
    channels: int
    parameters: int
    macs: int


@dataclass(frozen=True)
class Figures:
    """Sizes of a model; ``bytes`` is that of the serialized protobuf, without external data."""

    heads: int
    channels: int
    parameters: int
    macs: int
    nodes: int
    bytes: int


@dataclass(frozen=True)
class Inspection:
    """What `inspect` found."""

    heads: tuple[Head, ...]
    outputs: tuple[OutputClasses, ...]
    classes: Classes
    activation: str
    evidence: str
    figures: Figures
    shapes: dict[str, tuple[int, ...]]
    """Of inputs that leave theirs open: what multiply-adds are counted for."""

    @property
    def head_parameters(self) -> int:
        """Parameters of all heads; what several share counts once."""
        return sum({h.weight: h.parameters for h in self.heads}.values())

    @property
    def head_macs(self) -> int:
        """Multiply-adds of all heads."""
        return sum(h.macs for h in self.heads)

    def savings(self, kept: int) -> tuple[float, float]:
        """Share of all parameters and multiply-adds that a cut to ``kept`` columns saves (0..1)."""
        share = 1 - kept / self.classes.count
        labelled = [h.anchors * h.classes / h.channels for h in self.heads]
        once = {h.weight: h.parameters * s for h, s in zip(self.heads, labelled, strict=True)}
        parameters = sum(once.values())
        macs = sum(h.macs * s for h, s in zip(self.heads, labelled, strict=True))
        return (
            share * parameters / max(self.figures.parameters, 1),
            share * macs / max(self.figures.macs, 1),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data with stable keys."""
        return {
            "schema": 1,
            "heads": [asdict(h) for h in self.heads],
            "activation": self.activation,
            "evidence": self.evidence,
            "classes": asdict(self.classes),
            "outputs": [asdict(o) for o in self.outputs],
            "figures": asdict(self.figures),
            "head_share": {
                "parameters": self.head_parameters / max(self.figures.parameters, 1),
                "macs": self.head_macs / max(self.figures.macs, 1),
            },
            "example_shapes": {k: list(v) for k, v in self.shapes.items()},
        }


def inspection(analysis: Analysis, located: Located, classes: Classes, plan: Plan) -> Inspection:
    """Put together what was found."""
    heads = tuple(_head(analysis, i, m) for i, m in sorted(located.heads.items()))
    # an extent that goes with the batch, the size or what is found is none of the model's own
    outputs = tuple(replace(o, shape=analysis.main.exact(o.name).shape) for o in plan.outputs)
    return Inspection(
        heads,
        outputs,
        classes,
        located.activation,
        located.evidence,
        figures(analysis, located),
        dict(analysis.counted),
    )


def _head(analysis: Analysis, i: int, labels: Labels) -> Head:
    scope = analysis.main
    node = scope.graph.node[i]
    weight, bias_name = _stored(scope, simple(node))
    stored = _root(scope, weight)
    shape = scope.old(weight).static or ()
    present = labels.ids[labels.ids >= 0]
    bias = scope.old(bias_name).static if bias_name else None
    parameters = int(math.prod(shape)) + (int(math.prod(bias)) if bias else 0)
    classes = len(set(present.tolist()))
    return Head(
        node.name or node.output[0],
        node.op_type,
        stored,
        shape,
        helper.tensor_dtype_to_string(scope.old(stored).elem_type).removeprefix("TensorProto.").lower(),
        len(present) // max(classes, 1),
        classes,
        len(labels.ids),
        parameters,
        _counted(analysis, node_macs(node, scope.old)),
    )


def _stored(scope: Scope, node: onnx.NodeProto) -> tuple[str, str]:
    """Names of a plain head's weight and bias ("" where it has none)."""
    first = node.op_type == "MatMul" and node.input[0] in scope.index.initializers
    return str(node.input[0 if first else 1]), str(node.input[2]) if len(node.input) > 2 else ""


def _root(scope: Scope, name: str) -> str:
    """Name of what is stored behind a weight's Casts, Transposes and DequantizeLinears."""
    while (at := scope.index.producer.get(name)) is not None and scope.graph.node[at].input:
        name = scope.graph.node[at].input[0]
    return name


def node_macs(node: onnx.NodeProto, fact: Callable[[str], Fact]) -> int:
    """Multiply-adds of one node; 0 where shapes are not known or the op has no weights."""
    form = plain(node)
    if form is not None:
        node = form.node
    if node.op_type not in WEIGHTED or len(node.input) < 2:
        return 0
    out, data, weight = (fact(n).static for n in (node.output[0], *node.input[:2]))
    if out is None or weight is None or data is None:
        return 0
    if node.op_type == "Conv":
        return int(math.prod(out)) * int(math.prod(weight[1:]))
    if node.op_type == "ConvTranspose":
        return int(math.prod(data)) * int(math.prod(weight[1:]))
    inner = data[0] if attributes(node).get("transA", 0) else data[-1]
    return int(math.prod(out)) * inner


def _counted(analysis: Analysis, macs: int) -> int:
    """Multiply-adds for the shapes that are told: the graph was followed with more pictures.

    How many went through it shows at its first layer: a Loop over pictures may make others of them.
    """
    told = [shape[0] for shape in analysis.counted.values() if len(shape) == 4]
    first = next((n for n in analysis.main.graph.node if node_macs(n, analysis.main.old)), None)
    if not told or first is None:
        return macs
    followed = (analysis.main.old(first.output[0]).static or (1,))[0]
    return macs * told[0] // max(followed, 1)


def figures(analysis: Analysis, located: Located, cut: onnx.ModelProto | None = None) -> Figures:
    """Sizes of the analysed model or, after `make_plan`, of its ``cut``."""
    scope = analysis.main
    proto = cut or analysis.source.proto
    stored = {t.name: Fact(tuple(t.dims), t.data_type) for t in proto.graph.initializer}

    def fact(name: str) -> Fact:
        return stored.get(name) or (scope.new(name) if cut is not None else scope.old(name))

    channels = 0
    for i, labels in located.heads.items():
        shape = fact(located.values[i]).shape
        channels += (shape[labels.axis] or 0) if shape else len(labels.ids)
    return Figures(
        heads=len(located.heads),
        channels=channels,
        parameters=sum(math.prod(t.dims) for t in all_tensors(proto) if len(t.dims)),
        macs=_counted(analysis, sum(node_macs(n, fact) for n in proto.graph.node)),
        nodes=sum(1 for n in proto.graph.node if n.op_type != "Constant"),
        bytes=analysis.source.size if cut is None else size(cut),
    )
