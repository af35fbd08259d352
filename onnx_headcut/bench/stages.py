"""Which part of a detector a node belongs to, also after onnxruntime has fused and renamed it."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from onnx_headcut.understanding import Options, understand

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

BACKBONE, HEADS, BEHIND, BESIDE = "backbone", "heads", "behind the heads", "beside the heads"
STAGES = (BACKBONE, HEADS, BESIDE, BEHIND)
"""``beside``: what neither leads to the class heads nor comes from them, such as box heads."""


class Stages:
    """The stages of a model's values; raises the errors of `understand`."""

    def __init__(self, model: Path) -> None:
        known = understand(model, Options(labels="none", background="none"))
        index, located = known.analysis.main.index, known.located
        nodes = known.analysis.main.graph.node
        self.of: dict[str, str] = {}
        after = {name for i in located.heads for name in nodes[i].output}
        before = {name for i in located.heads for name in nodes[i].input}
        for node in reversed(nodes):
            if before.intersection(node.output):
                before.update(node.input)
        for i, node in enumerate(nodes):
            if i in located.heads:
                stage = HEADS
            elif after.intersection(node.input):
                stage = BEHIND
                after.update(node.output)
            else:
                stage = BACKBONE if before.intersection(node.output) else BESIDE
            self.of.update(dict.fromkeys(filter(None, node.output), stage))
        self._stored = frozenset(index.initializers)

    def shares(self, nodes: Sequence[tuple[str, list[str], list[str], float]]) -> dict[str, float]:
        """Add up seconds by stage, as shares of their sum.

        A node is its op, outputs, inputs and seconds, in running order. Fused and added nodes make
        values that the model does not have: a layer with weights belongs to what comes of it
        before the next such layer, all else to what it reads.
        """
        of, ahead = dict(self.of), self._ahead(nodes)
        total: dict[str, float] = defaultdict(float)
        for op, outputs, inputs, spent in nodes:
            known = [of[name] for name in outputs if name in of]
            if not known and _is_layer(op):
                found = [ahead[name] for name in outputs if name in ahead]
                known = [HEADS if stage == BEHIND else stage for stage in found]
            known = known or [of[name] for name in inputs if name in of] or [BACKBONE]
            total[known[0]] += spent
            for name in outputs:
                of.setdefault(name, known[0])
        whole = sum(total.values())
        return {stage: total[stage] / whole for stage in STAGES if total[stage]}

    def _ahead(self, nodes: Sequence[tuple[str, list[str], list[str], float]]) -> dict[str, str]:
        """Map values to the stage of the first known value that comes of them."""
        ahead: dict[str, str] = {}
        for op, outputs, inputs, _ in reversed(nodes):
            stages = [self.of[name] for name in outputs if name in self.of]
            stages = stages or [ahead[name] for name in outputs if name in ahead]
            if not _is_layer(op) and stages:
                ahead.update(dict.fromkeys(inputs, stages[0]))
        return ahead


def _is_layer(op: str) -> bool:
    """Whether an op, also a fused or quantized one, has weights."""
    return any(word in op for word in ("Conv", "Gemm", "MatMul"))
