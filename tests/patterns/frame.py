"""What a pattern is: its graph, its heads, how its outputs are read, and the table of them all."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime as ort
from conftest import from_text
from onnx import numpy_helper

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

Array = np.ndarray[Any, np.dtype[Any]]

NEVER = -1e4
ZERO = 1e-6
"""Rows with no higher score are padding, or were masked."""

CELLS = 16
CLASSES = 6
"""Columns of the class axis, with the background where there is one."""


@dataclass(frozen=True)
class Head:
    """A layer that makes scores: its weight and bias, and the class of each channel (or -1)."""

    weight: str
    bias: str
    ids: tuple[int, ...]
    axis: int = 0
    """The weight's axis of channels."""


@dataclass(frozen=True)
class Pattern:
    """A tiny detector and what is known of it."""

    text: str
    heads: tuple[Head, ...]
    kind: str = "rows"
    """``rows``: detections, compared as sets; ``dense``: scores, compared as they are."""
    read: Callable[[list[Array]], Array] = field(default=lambda outputs: table(outputs))  # noqa: PLW0108  (defined below)
    """Of ``rows``: a table with the id first, the score second, then all else."""
    classes: int = CLASSES
    background: int | None = 0
    offset: int = 0
    """An emitted id is the class's column plus this."""
    own_ids: bool = False
    """Emitted ids are numbers of the model's own, which no cut changes."""
    dense: tuple[tuple[int, tuple[int, ...]], ...] = ()
    """Of ``dense``: for each output its class axis and the class of each position (or -1)."""
    arguments: dict[str, Any] = field(default_factory=dict)
    some: int = 1
    """Classes that must be found on the pictures, at least."""
    seed: int = 0
    batch: int = 1

    @property
    def told(self) -> dict[str, Any]:
        """What the cutter is told: which column is the background, and little else."""
        known = "none" if self.background is None else self.background
        return {"background": known, **self.arguments}

    @property
    def foreground(self) -> list[int]:
        """Columns that can be kept."""
        return [c for c in range(self.classes) if c != self.background]

    def model(self) -> onnx.ModelProto:
        """The detector, with weights from its seed."""
        return onnx.ModelProto.FromString(made(self.text, self.seed))

    def order(self, keep: Sequence[int]) -> list[int]:
        """Columns of the cut's class axis: the kept ones, and the background at its end."""
        if self.background is None:
            return list(keep)
        return [self.background, *keep] if self.background == 0 else [*keep, self.background]

    def masked(self, keep: Sequence[int]) -> onnx.ModelProto:
        """The original with channels of dropped classes that can never win."""
        model = self.model()
        tensors = {t.name: t for t in model.graph.initializer}
        for head in self.heads:
            drop = [i for i, c in enumerate(head.ids) if c >= 0 and c not in self.order(keep)]
            for name, axis, value in ((head.weight, head.axis, 0), (head.bias, -1, NEVER)):
                array = np.moveaxis(numpy_helper.to_array(tensors[name]).copy(), axis, 0)
                array[drop] = value
                array = np.ascontiguousarray(np.moveaxis(array, 0, axis))
                tensors[name].CopyFrom(numpy_helper.from_array(array, name))
        return model

    def expected(self, keep: Sequence[int], feeds: dict[str, Array]) -> list[Array]:
        """What a cut has to give, computed from the original."""
        outputs = run(self.masked(keep), feeds)
        if self.kind == "rows":
            return [self.renumbered(self.found(outputs), keep)]
        return [o.take(self.places(ids, keep), axis) if ids else o
                for o, (axis, ids) in zip(outputs, self.dense, strict=True)]  # fmt: skip

    def places(self, ids: Sequence[int], keep: Sequence[int]) -> list[int]:
        """Positions that stay on an axis: kept classes where the first class was, in new order."""
        first = next(i for i, c in enumerate(ids) if c >= 0)
        chosen = [ids.index(c) for c in self.order(keep) if c in ids]
        plain = [i for i, c in enumerate(ids) if c < 0]
        return [i for i in plain if i < first] + chosen + [i for i in plain if i > first]

    def found(self, outputs: list[Array]) -> Array:
        """Detections that are no padding."""
        rows = self.read(outputs)
        return rows[rows[:, 1] > ZERO]

    def renumbered(self, rows: Array, keep: Sequence[int]) -> Array:
        """Rows with the ids that the cut must give them."""
        if self.own_ids:
            return rows
        order = self.order(keep)
        rows = rows.copy()
        rows[:, 0] = [order.index(round(i) - self.offset) + self.offset for i in rows[:, 0]]
        return rows

    def given(self, outputs: list[Array]) -> list[Array]:
        """A cut's outputs in the form of `expected`."""
        return [self.found(outputs)] if self.kind == "rows" else outputs


@cache
def made(text: str, seed: int) -> bytes:
    """A model from its text, checked."""
    model = from_text(text, seed)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def pictures(count: int = 3, batch: int = 1) -> Iterator[dict[str, Array]]:
    """Inputs."""
    rng = np.random.default_rng(7)
    for _ in range(count):
        yield {"x": rng.normal(size=(batch, 8, 4, 4)).astype(np.float32)}


def run(model: onnx.ModelProto, feeds: dict[str, Array]) -> list[Array]:
    """All outputs."""
    outputs: list[Array] = session(model.SerializeToString()).run(None, feeds)
    return outputs


@lru_cache(maxsize=4)
def session(model: bytes) -> ort.InferenceSession:
    """One for all pictures that are shown to a model."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model, options, ["CPUExecutionProvider"])


def table(outputs: list[Array]) -> Array:
    """Rows from outputs labels, scores, and others, each with one entry a detection."""
    parts = [o.reshape(-1) if o.ndim < 3 and o.shape[-1] != 4 else o for o in outputs]
    count = len(parts[0])
    return np.concatenate([p.reshape(count, -1).astype(np.float64) for p in parts], axis=1)


# ------------------------------------------------------------------------------- building blocks

OUTPUTS = "int64[K] labels, float[K] scores, float[K,4] boxes"


def graph(outputs: str, weights: str, body: str, *, opset: int = 17, batch: int | str = 1) -> str:
    """A model's text."""
    return (
        f'<ir_version: 8, opset_import: ["": {opset}]>\n'
        f"tiny (float[{batch},8,4,4] x) => ({outputs})\n<{weights}>\n{{{body}}}\n"
    )


def front(classes: int = CLASSES, anchors: int = 1) -> tuple[str, str, tuple[Head, ...]]:
    """Weights and nodes that give ``logits`` [1, n, C] and ``rects`` [1, n, 4], and the head."""
    c, a = classes, anchors
    weights = (
        f"float[{a * c},8,1,1] cls_w, float[{a * c}] cls_b, float[{a * 4},8,1,1] box_w, "
        f"float[{a * 4}] box_b, int64[3] to_cls = {{1,-1,{c}}}, int64[3] to_box = {{1,-1,4}}"
    )
    body = """
      cls_map = Conv (x, cls_w, cls_b)
      cls_last = Transpose <perm = [0, 2, 3, 1]> (cls_map)
      logits = Reshape (cls_last, to_cls)
      box_map = Conv (x, box_w, box_b)
      box_last = Transpose <perm = [0, 2, 3, 1]> (box_map)
      rects = Reshape (box_last, to_box)"""
    return weights, body, (Head("cls_w", "cls_b", tuple(range(c)) * a),)


FLAT = """
      probs = Softmax <axis = 2> (logits)
      first_axis = Constant <value = int64[1] {0}> ()
      table = Squeeze (probs, first_axis)
      rect = Squeeze (rects, first_axis)"""
"""``table`` [n, C] of scores and ``rect`` [n, 4], background first."""

PATTERNS: dict[str, Callable[[], Pattern]] = {}
"""By name: what the table in docs/support.md lists; the docstring says what it is."""


REFUSED: dict[str, tuple[str, str]] = {
    "loop_over_classes_whose_count_is_used": ("Mul", "class numbers"),
    "table_whose_ids_are_scaled": ("Mul", "class numbers in a table"),
    "ids_rounded_to_others_by_a_quantizer": ("QuantizeLinear", "rounds class numbers"),
    "extent_less_a_number_of_two_meanings": ("Sub", "the first or the last"),
}
"""Patterns that are refused: the op, and a part of the reason."""


def pattern(make: Callable[[], Pattern]) -> Callable[[], Pattern]:
    """Enter it in the table."""
    PATTERNS[make.__name__] = make
    return make


def changed(found: Pattern, *changes: tuple[str, str], weights: str = "", **known: Any) -> Pattern:
    """A pattern with parts of its text replaced, and more weights."""
    text = found.text
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    if weights:
        text = text.replace("int64[1] three = {3}", f"int64[1] three = {{3}}, {weights}")
    return replace(found, text=text, **known)
