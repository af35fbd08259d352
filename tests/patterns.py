"""One tiny detector in ONNX text for each pattern that exporters put behind the head.

A `Pattern` says what its author knows and the cutter has to find out: which class each channel of
the head belongs to, and how to read its outputs. From that alone comes the oracle: in the original
graph the dropped classes' channels get no weights and a bias of ``NEVER``, so that their scores
are as good as zero; what that graph finds, with ids translated, is what the cut has to find.
"""

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
    "ids_rounded_to_others_by_a_quantizer": ("QuantizeLinear", "rounds class numbers"),
    "extent_less_a_number_of_two_meanings": ("Sub", "the first or the last"),
}
"""Patterns that are refused: the op, and a part of the reason."""


def pattern(make: Callable[[], Pattern]) -> Callable[[], Pattern]:
    """Enter it in the table."""
    PATTERNS[make.__name__] = make
    return make


# ------------------------------------------------------------------- one branch a class, unrolled


def branches(entry: str, label: str, *, tables: str = "", fill: str = "int64") -> Pattern:
    """Branches as torchvision writes them; ``entry`` picks a class, ``label`` fills its labels."""
    weights, body, heads = front()
    body += FLAT + "\n      threshold = Constant <value = float {0.1}> ()"
    for k in range(1, CLASSES):
        body += entry.replace("@", str(k))
        body += """
      m_@ = Greater (s_@, threshold)
      nz_@ = NonZero (m_@)
      at_@ = Transpose <perm = [1, 0]> (nz_@)
      v_@ = GatherND (s_@, at_@)
      b_@ = GatherND (rect, at_@)
      n_@ = Shape (v_@)
      five_@ = Constant <value = int64[1] {5}> ()
      least_@ = Min (n_@, five_@)
      tv_@, ti_@ = TopK (v_@, least_@)
      tb_@ = Gather (b_@, ti_@)
      size_@ = Shape (tv_@)""".replace("@", str(k))
        body += label.replace("@", str(k))
    for name, part in (("labels", "l"), ("scores", "tv"), ("boxes", "tb")):
        parts = ", ".join(f"{part}_{k}" for k in range(1, CLASSES))
        body += f"\n      {name} = Concat <axis = 0> ({parts})"
    outputs = OUTPUTS.replace("int64[K] labels", f"{fill}[K] labels")
    return Pattern(graph(outputs, weights + tables, body), heads, some=3)


GATHER = """
      i_@ = Constant <value = int64 {@}> ()
      s_@ = Gather <axis = 1> (table, i_@)"""
SLICE = """
      from_@ = Constant <value = int64[1] {@}> ()
      one_@ = Constant <value = int64[1] {1}> ()
      to_@ = Add (from_@, one_@)
      wide_@ = Slice (table, from_@, to_@, one_@)
      s_@ = Squeeze (wide_@, one_@)"""
SHAPED = """
      l_@ = ConstantOfShape <value = int64[1] {@}> (size_@)"""


@pattern
def branches_with_constant_of_shape() -> Pattern:
    """Gather per class; labels from ConstantOfShape values"""
    return branches(GATHER, SHAPED)


@pattern
def branches_by_slice() -> Pattern:
    """Slice per class"""
    return branches(SLICE, SHAPED)


@pattern
def branches_with_expand() -> Pattern:
    """Labels from Expand of a constant"""
    return branches(
        GATHER,
        """
      k_@ = Constant <value = int64 {@}> ()
      l_@ = Expand (k_@, size_@)""",
    )


@pattern
def branches_with_added_number() -> Pattern:
    """Labels from zeros and an added `k.0`"""
    return branches(
        GATHER,
        """
      k_@ = Constant <value = float {@.0}> ()
      zeros_@ = ConstantOfShape (size_@)
      l_@ = Add (zeros_@, k_@)""",
        fill="float",
    )


@pattern
def branches_with_ones_times_number() -> Pattern:
    """Labels from ones times `k`, cast to integers"""
    return branches(
        GATHER,
        """
      k_@ = Constant <value = float {@.0}> ()
      ones_@ = ConstantOfShape <value = float[1] {1.0}> (size_@)
      numbers_@ = Mul (ones_@, k_@)
      l_@ = Cast <to = 7> (numbers_@)""",
    )


@pattern
def branches_with_negative_number_taken_off() -> Pattern:
    """Labels from zeros less a stored `-k`"""
    return branches(
        GATHER,
        """
      k_@ = Constant <value = int64 {-@}> ()
      zeros_@ = ConstantOfShape <value = int64[1] {0}> (size_@)
      l_@ = Sub (zeros_@, k_@)""",
    )


@pattern
def branches_with_number_added_to_nothing() -> Pattern:
    """Labels from `k` and what was found times zero"""
    return branches(
        GATHER,
        """
      k_@ = Constant <value = float {@.0}> ()
      nought_@ = Constant <value = float {0.0}> ()
      zeros_@ = Mul (tv_@, nought_@)
      l_@ = Add (zeros_@, k_@)""",
        fill="float",
    )


@pattern
def branches_with_a_number_left_out() -> Pattern:
    """Labels from zeros and an added `k.0`, but for one branch that is filled with it (onnxslim)"""
    added = "l_1 = Add (zeros_1, k_1)"
    filled = "l_1 = ConstantOfShape <value = float[1] {1.0}> (size_1)"
    return changed(branches_with_added_number(), (added, filled))


@pattern
def branches_with_index_table() -> Pattern:
    """A table that is at once column index and emitted id"""
    found = branches(
        """
      place_@ = Constant <value = int64 {#}> ()
      c_@ = Gather <axis = 0> (numbers, place_@)
      s_@ = Gather <axis = 1> (table, c_@)""",
        """
      l_@ = Expand (c_@, size_@)""",
        tables=", int64[5] numbers = {1,2,3,4,5}",
    )
    text = found.text
    for k in range(1, CLASSES):
        text = text.replace(
            f"place_{k} = Constant <value = int64 {{#}}>",
            f"place_{k} = Constant <value = int64 {{{k - 1}}}>",
        )
    return Pattern(text, found.heads, some=3)


@pattern
def branches_with_folded_labels() -> Pattern:
    """One folded constant of slots x class ids"""
    weights, body, heads = front()
    slots = [k for k in range(1, CLASSES) for _ in range(3)]
    weights += f", int64[{len(slots)}] folded = {{{','.join(map(str, slots))}}}"
    weights += ", int64[1] three = {3}, int64[1] eight = {8}"
    body += FLAT
    for k in range(1, CLASSES):
        body += (GATHER + """
      tv_@, ti_@ = TopK (s_@, three)
      tb_@ = Gather (rect, ti_@)""").replace("@", str(k))  # fmt: skip
    body += f"""
      all_scores = Concat <axis = 0> ({", ".join(f"tv_{k}" for k in range(1, CLASSES))})
      all_boxes = Concat <axis = 0> ({", ".join(f"tb_{k}" for k in range(1, CLASSES))})
      scores, best = TopK (all_scores, eight)
      labels = Gather (folded, best)
      boxes = Gather (all_boxes, best)"""
    return Pattern(graph(OUTPUTS, weights, body), heads, some=2)


@pattern
def branches_of_row_tables() -> Pattern:
    """A table of rows [label, score, box] for each class"""
    weights, body, heads = front()
    weights += ", int64[1] last = {1}, int64[1] three = {3}"
    body += FLAT
    for k in range(1, CLASSES):
        body += (GATHER + """
      tv_@, ti_@ = TopK (s_@, three)
      tb_@ = Gather (rect, ti_@)
      score_@ = Unsqueeze (tv_@, last)
      size_@ = Shape (score_@)
      id_@ = ConstantOfShape <value = float[1] {@.0}> (size_@)
      rows_@ = Concat <axis = 1> (id_@, score_@, tb_@)""").replace("@", str(k))  # fmt: skip
    body += f"""
      rows = Concat <axis = 0> ({", ".join(f"rows_{k}" for k in range(1, CLASSES))})"""
    return Pattern(graph("float[K,6] rows", weights, body), heads, read=lambda o: o[0], some=5)


# ------------------------------------------------------------------------------ NonMaxSuppression

CORNERS = """
      class_first = Transpose <perm = [0, 2, 1]> (probs)"""
LIMITS = (
    ", int64 most = {3}, float iou = {0.3}, float least = {0.05}, int64[1] c0 = {0}, "
    "int64[1] c1 = {1}, int64[1] c2 = {2}, int64[1] c3 = {3}, int64 col = {1}, int64 row = {2}, "
    "int64 one = {1}"
)
PLAIN = """
      probs = Softmax <axis = 2> (logits)
      object_probs = Slice (probs, c1, beyond, c2)
      class_first = Transpose <perm = [0, 2, 1]> (object_probs)
      found = NonMaxSuppression (rects, class_first, most, iou, least)"""


def after_nms(body: str, outputs: str = OUTPUTS, more: str = "", **known: Any) -> Pattern:
    """Background cut off the front, NonMaxSuppression by class, then ``body`` on ``found``."""
    weights, start, heads = front()
    weights += LIMITS + ", int64[1] beyond = {9223372036854775807}" + more
    known = {"some": 4, **known}
    return Pattern(graph(outputs, weights, start + PLAIN + body), heads, **known)


READ = """
      scores = GatherND (class_first, found)
      box_at = Gather <axis = 1> (found, row)
      flat = Squeeze (rects, c0)
      boxes = Gather <axis = 0> (flat, box_at)"""


@pattern
def nms_columns_gathered() -> Pattern:
    """Index triples read by Gather, ids offset by +1"""
    return after_nms("""
      class_at = Gather <axis = 1> (found, col)
      labels = Add (class_at, one)
      triple = Concat <axis = 1> (found)
      part_b, part_c, part_r = Split <axis = 1> (triple)
      read = Concat <axis = 1> (part_b, part_c, part_r)
      scores = GatherND (class_first, read)
      box_at = Squeeze (part_r, c1)
      flat = Squeeze (rects, c0)
      boxes = Gather <axis = 0> (flat, box_at)""")


@pattern
def nms_columns_sliced_and_cast() -> Pattern:
    """Index triples sliced, cast to float, offset, into one table of rows"""
    return after_nms(
        """
      class_col = Slice (found, c1, c2, c1)
      wide = Cast <to = 1> (class_col)
      one_float = Constant <value = float {1.0}> ()
      ids = Add (wide, one_float)"""
        + READ
        + """
      score_col = Unsqueeze (scores, c1)
      rows = Concat <axis = 1> (ids, score_col, boxes)""",
        "float[K,6] rows",
        read=lambda o: o[0],
    )


@pattern
def nms_rows_filled_up_and_sorted() -> Pattern:
    """Rows of one picture and a filler of -1 behind them, sorted by their scores"""
    return after_nms(
        """
      class_at = Gather <axis = 1> (found, col)
      a_class = Unsqueeze (class_at, c0)
      of = Gather <axis = 1> (found, picture)
      mine = Equal (of, picture)
      its_class = Where (mine, a_class, nobody)
      filled = Concat <axis = -1> (its_class, filler)"""
        + READ.replace("scores =", "found_scores =").replace("boxes =", "found_boxes =")
        + """
      a_score = Unsqueeze (found_scores, c0)
      its_scores = Concat <axis = 1> (a_score, zero)
      size = Shape (its_scores)
      all = Gather <axis = 0> (size, c1)
      sorted, order = TopK <axis = 1> (its_scores, all)
      places = Flatten <axis = 0> (order)
      row_order = Squeeze (places, c0)
      line = Squeeze (filled, c0)
      ids = Gather <axis = 0> (line, row_order)
      labels = Add (ids, one)
      scores = Squeeze (sorted, c0)
      more_boxes = Concat <axis = 0> (found_boxes, no_box)
      boxes = Gather <axis = 0> (more_boxes, row_order)""",
        more=", int64 picture = {0}, int64[1,1] nobody = {-1}, int64[1,1] filler = {-1}, "
        "float[1,1] zero = {0}, float[1,4] no_box = {0, 0, 0, 0}",
    )


@pattern
def peaks_of_a_heat_map() -> Pattern:
    """Peaks found by MaxPool, the best of all places and classes by one TopK (CenterNet)"""
    weights, body, heads = front()
    weights += ", int64[1] k = {6}, int64[2] as_row = {1,-1}, int64 area = {16}, int64[1] c0 = {0}"
    body += """
      heat = Sigmoid (cls_map)
      around = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (heat)
      same = Equal (around, heat)
      peak = Cast <to = 1> (same)
      peaks = Mul (heat, peak)
      flat = Reshape (peaks, as_row)
      top, index = TopK (flat, k)
      label_row = Div (index, area)
      at = Mod (index, area)
      at_row = Squeeze (at, c0)
      flat_rects = Squeeze (rects, c0)
      boxes = Gather <axis = 0> (flat_rects, at_row)
      scores = Squeeze (top, c0)
      labels = Squeeze (label_row, c0)"""
    return Pattern(graph(OUTPUTS, weights, body), heads, background=None, some=2)


def rounded_ids(step: float) -> Pattern:
    """Class numbers through a quantizer of this scale, as a static quantizer leaves them."""
    return after_nms(
        f"""
      class_at = Gather <axis = 1> (found, col)
      wide = Cast <to = 1> (class_at)
      one_float = Constant <value = float {{1.0}}> ()
      ids = Add (wide, one_float)
      step = Constant <value = float {{{step}}}> ()
      nil = Constant <value = uint8 {{0}}> ()
      steps = QuantizeLinear (ids, step, nil)
      labels = DequantizeLinear (steps, step, nil)"""
        + READ,
        OUTPUTS.replace("int64[K] labels", "float[K] labels"),
        read=lambda o: table([np.rint(o[0]), *o[1:]]),
    )


@pattern
def ids_rounded_by_a_quantizer() -> Pattern:
    """Class numbers through a quantizer of a scale of 0.3, which say 2.1 for 2"""
    return rounded_ids(0.3)


@pattern
def ids_rounded_to_others_by_a_quantizer() -> Pattern:
    """Class numbers through a quantizer of a scale of 2.0, which says 4 for 3 and for 5"""
    return rounded_ids(2.0)


@pattern
def one_hot_of_the_best_class() -> Pattern:
    """OneHot of each box's best class reads a size of each class from a stored table"""
    weights, body, heads = front()
    weights += (
        ", int64 count = {6}, float[2] off_on = {0.0, 1.0}, int64[1] last = {1}, "
        "float[6] sizes = {0.5, 1.5, 0.7, 2.9, 1.1, 3.2}, float half = {0.5}"
    )
    body += FLAT.replace("Softmax <axis = 2>", "Sigmoid")
    body += """
      best = ReduceMax <axes = [1], keepdims = 0> (table)
      which = ArgMax <axis = 1, keepdims = 0> (table)
      hot = Greater (best, half)
      spots = NonZero (hot)
      at = Transpose <perm = [1, 0]> (spots)
      scores = GatherND (best, at)
      labels = GatherND (which, at)
      own = GatherND (rect, at)
      places = OneHot (labels, count, off_on)
      own_sizes = Mul (places, sizes)
      size = ReduceSum <keepdims = 1> (own_sizes, last)
      boxes = Mul (own, size)"""
    return Pattern(graph(OUTPUTS, weights, body), heads, background=None, some=3)


@pattern
def threshold_of_each_class() -> Pattern:
    """A stored threshold of each class, read by the class that was found"""
    return after_nms(
        """
      all_scores = GatherND (class_first, found)
      class_of = Gather <axis = 1> (found, col)
      least_of = Gather <axis = 0> (thresholds, class_of)
      hot = Greater (all_scores, least_of)
      spots = NonZero (hot)
      at = Squeeze (spots, c0)
      chosen = Gather <axis = 0> (found, at)
      scores = Gather <axis = 0> (all_scores, at)
      class_at = Gather <axis = 1> (chosen, col)
      labels = Add (class_at, one)
      box_at = Gather <axis = 1> (chosen, row)
      flat = Squeeze (rects, c0)
      boxes = Gather <axis = 0> (flat, box_at)""",
        more=", float[5] thresholds = {0.6, 0.1, 0.3, 0.05, 0.2}",
        some=2,
    )


@pattern
def nms_scattered() -> Pattern:
    """Detections scattered into a padded table"""
    return after_nms(
        """
      class_at = Gather <axis = 1> (found, col)
      ids = Add (class_at, one)"""
        + READ.replace("scores =", "raw_scores =").replace("boxes =", "raw_boxes =")
        + """
      size = Shape (ids)
      count = Squeeze (size)
      zero = Constant <value = int64 {0}> ()
      order = Range (zero, count, one)
      place = Unsqueeze (order, c1)
      no_ids = ConstantOfShape <value = int64[1] {0}> (slots)
      no_scores = ConstantOfShape (slots)
      no_boxes = ConstantOfShape (box_slots)
      labels = ScatterND (no_ids, place, ids)
      scores = ScatterND (no_scores, place, raw_scores)
      boxes = ScatterND (no_boxes, place, raw_boxes)""",
        "int64[40] labels, float[40] scores, float[40,4] boxes",
        ", int64[1] slots = {40}, int64[2] box_slots = {40, 4}",
    )


@pattern
def nms_capped_by_the_class_count() -> Pattern:
    """As many rows as the class count times a number, filled up to 12 (combined NMS of TensorFlow)"""
    scattered = nms_scattered()
    return changed(
        scattered,
        ("labels = ScatterND", "some_ids = ScatterND"),
        ("scores = ScatterND", "some_scores = ScatterND"),
        (
            "boxes = ScatterND (no_boxes, place, raw_boxes)",
            """some_boxes = ScatterND (no_boxes, place, raw_boxes)
      extents = Shape (class_first)
      classes = Gather <axis = 0> (extents, c1)
      per_all = Mul (classes, each)
      k = Min (cap, per_all)
      best, at = TopK (some_scores, k)
      its_ids = Gather <axis = 0> (some_ids, at)
      its_boxes = Gather <axis = 0> (some_boxes, at)
      lacking = Sub (cap, k)
      behind = Concat <axis = 0> (c0, lacking)
      below = Concat <axis = 0> (c0, c0, lacking, c0)
      labels = Pad (its_ids, behind)
      scores = Pad (best, behind)
      boxes = Pad (its_boxes, below)""",
        ),
        ("int64[40] labels, float[40] scores, float[40,4] boxes",
         "int64[12] labels, float[12] scores, float[12,4] boxes"),
        ("int64[1] slots = {40}", "int64[1] each = {4}, int64[1] cap = {12}, int64[1] slots = {40}"),
    )  # fmt: skip


@pattern
def nms_scores_scattered() -> Pattern:
    """Scores written by index triples into zeros of all boxes and classes, the best of them taken"""
    return after_nms(
        """
      chosen = GatherND (class_first, found)
      size = Shape (class_first)
      zeros = ConstantOfShape (size)
      written = ScatterND (zeros, found, chosen)
      line = Reshape (written, flat_line)
      scores, index = TopK (line, eight)
      turn = Div (index, cells)
      labels = Add (turn, one)
      box_at = Mod (index, cells)
      flat = Squeeze (rects, c0)
      boxes = Gather <axis = 0> (flat, box_at)""",
        more=f", int64[1] flat_line = {{-1}}, int64[1] eight = {{8}}, int64 cells = {{{CELLS}}}",
    )


@pattern
def nms_with_total_cap() -> Pattern:
    """A cap over all classes behind NonMaxSuppression"""
    return after_nms(
        """
      all_scores = GatherND (class_first, found)
      size = Shape (all_scores)
      limit = Min (size, cap)
      scores, best = TopK (all_scores, limit)
      chosen = Gather <axis = 0> (found, best)
      class_at = Gather <axis = 1> (chosen, col)
      labels = Add (class_at, one)
      box_at = Gather <axis = 1> (chosen, row)
      flat = Squeeze (rects, c0)
      boxes = Gather <axis = 0> (flat, box_at)""",
        more=", int64[1] cap = {6}",
        some=2,
    )


@pattern
def nms_batched_trick() -> Pattern:
    """Boxes moved apart by label x extent for one NonMaxSuppression"""
    weights, body, heads = front()
    body += (
        FLAT
        + """
      objects = Slice (table, c1, beyond, c1)
      hot = Greater (objects, least)
      spots = NonZero (hot)
      box_at = Gather <axis = 0> (spots, zero)
      class_at = Gather <axis = 0> (spots, one)
      pairs = Transpose <perm = [1, 0]> (spots)
      values = GatherND (objects, pairs)
      ids = Add (class_at, one)
      own = Gather <axis = 0> (rect, box_at)
      widest = ReduceMax <keepdims = 0> (own)
      step = Add (widest, ten)
      ids_float = Cast <to = 1> (ids)
      shift = Mul (ids_float, step)
      shift_col = Unsqueeze (shift, c1)
      moved = Add (own, shift_col)
      moved_all = Unsqueeze (moved, c0)
      two_axes = Constant <value = int64[2] {0, 1}> ()
      value_all = Unsqueeze (values, two_axes)
      found = NonMaxSuppression (moved_all, value_all, most, iou)
      kept = Gather <axis = 1> (found, row)
      labels = Gather <axis = 0> (ids, kept)
      scores = Gather <axis = 0> (values, kept)
      boxes = Gather <axis = 0> (own, kept)"""
    )
    weights += LIMITS.replace("most = {3}", "most = {40}") + (
        ", int64[1] beyond = {9223372036854775807}, int64 zero = {0}, float ten = {10}"
    )
    return Pattern(graph(OUTPUTS, weights, body), heads, some=4)


def written_out(overlap: str, table: str, more: str = "") -> Pattern:
    """NonMaxSuppression as arithmetic: ``overlap`` of every pair of boxes, the best score first.

    ``ids`` [n] are the boxes' best classes, ``own`` [n, 4] their rectangles, ``moved`` [n, 4] the
    same, their centres or corners moved apart by class (``table`` says which columns).
    """
    weights, body, heads = front()
    body += FLAT
    body += """
      objects = Slice (table, c1, beyond, c1)
      values_all = ReduceMax <axes = [1], keepdims = 0> (objects)
      which = ArgMax <axis = 1, keepdims = 0> (objects)
      values, best = TopK (values_all, all)
      zero_based = Gather <axis = 0> (which, best)
      ids = Add (zero_based, one)
      own = Gather <axis = 0> (rect, best)
      id_col = Unsqueeze (zero_based, c1)
      ids_float = Cast <to = 1> (id_col)
      shift = Mul (ids_float, hundred)"""
    body += table + overlap
    body += """
      above = Trilu <upper = 1> (near, one)
      hidden = Greater (above, limit)
      hidden_int = Cast <to = 7> (hidden)
      times = ReduceSum <keepdims = 0> (hidden_int, c0)
      alone = Equal (times, zero)
      spots = NonZero (alone)
      kept = Squeeze (spots, c0)
      labels = Gather <axis = 0> (ids, kept)
      scores = Gather <axis = 0> (values, kept)
      boxes = Gather <axis = 0> (own, kept)"""
    weights += LIMITS + (
        ", int64[1] beyond = {9223372036854775807}, int64 zero = {0}, float hundred = {100}, "
        "int64[1] all = {16}, float limit = {0.3}"
    )
    return Pattern(graph(OUTPUTS, weights + more, body), heads, some=3)


@pattern
def nms_of_rotated_boxes_written_out() -> Pattern:
    """Centres moved apart by class, every pair's likeness in arithmetic, Trilu and a threshold"""
    return written_out(
        """
      u, v, w, h = Split <axis = 1> (moved)
      u_row = Transpose <perm = [1, 0]> (u)
      v_row = Transpose <perm = [1, 0]> (v)
      dx = Sub (u, u_row)
      dy = Sub (v, v_row)
      dx2 = Mul (dx, dx)
      dy2 = Mul (dy, dy)
      far = Add (dx2, dy2)
      ww = Mul (w, w)
      hh = Mul (h, h)
      spread = Add (ww, hh)
      spread_row = Transpose <perm = [1, 0]> (spread)
      spreads = Add (spread, spread_row)
      some = Add (spreads, limit)
      ratio = Div (far, some)
      less = Neg (ratio)
      near = Exp (less)""",
        """
      centres = Slice (own, c0, c2, c1)
      extents = Slice (own, c2, beyond, c1)
      moved_centres = Add (centres, shift)
      moved = Concat <axis = 1> (moved_centres, extents)""",
    )


@pattern
def nms_of_corners_written_out() -> Pattern:
    """Corners moved apart by class, intersections of every pair by Max and Min (fast NMS)"""
    return written_out(
        """
      rows = Unsqueeze (moved, c1)
      columns = Unsqueeze (moved, c0)
      from_row = Slice (rows, c0, c2, c2)
      from_column = Slice (columns, c0, c2, c2)
      to_row = Slice (rows, c2, beyond, c2)
      to_column = Slice (columns, c2, beyond, c2)
      from = Max (from_row, from_column)
      to = Min (to_row, to_column)
      sides = Sub (to, from)
      common = Relu (sides)
      shared = ReduceMin <axes = [2], keepdims = 0> (common)
      own_sides = Sub (to_row, from_row)
      own_side = ReduceMax <axes = [2], keepdims = 0> (own_sides)
      near = Div (shared, own_side)""",
        """
      corner = Slice (own, c0, c2, c1)
      extents = Slice (own, c2, beyond, c1)
      wide = Abs (extents)
      opposite = Add (corner, wide)
      corners = Concat <axis = 1> (corner, opposite)
      moved = Add (corners, shift)""",
    )


@pattern
def nms_written_out_within_a_class() -> Pattern:
    """Likeness of every pair of boxes, counted where an Equal says that they are of one class"""
    return written_out(
        """
      rows = Unsqueeze (moved, c1)
      columns = Unsqueeze (moved, c0)
      apart = Sub (rows, columns)
      wide = Abs (apart)
      widest = ReduceMax <axes = [2], keepdims = 0> (wide)
      closer = Neg (widest)
      like = Exp (closer)
      id_row = Unsqueeze (ids, c0)
      own_ids = Unsqueeze (ids, c1)
      same = Equal (own_ids, id_row)
      same_float = Cast <to = 1> (same)
      near = Mul (like, same_float)""",
        """
      moved = Identity (own)""",
    )


@pattern
def nms_class_agnostic() -> Pattern:
    """One NonMaxSuppression for all classes, over each box's best score"""
    weights, body, heads = front()
    body += """
      probs = Softmax <axis = 2> (logits)
      objects = Slice (probs, c1, beyond, c2)
      best = ReduceMax <axes = [2], keepdims = 0> (objects)
      which = ArgMax <axis = 2, keepdims = 0> (objects)
      best_row = Unsqueeze (best, c1)
      found = NonMaxSuppression (rects, best_row, most, iou, least)
      box_at = Gather <axis = 1> (found, row)
      flat_best = Squeeze (best, c0)
      flat_which = Squeeze (which, c0)
      flat = Squeeze (rects, c0)
      class_at = Gather <axis = 0> (flat_which, box_at)
      labels = Add (class_at, one)
      scores = Gather <axis = 0> (flat_best, box_at)
      boxes = Gather <axis = 0> (flat, box_at)"""
    weights += LIMITS.replace("most = {3}", "most = {40}")
    weights += ", int64[1] beyond = {9223372036854775807}"
    return Pattern(graph(OUTPUTS, weights, body), heads, some=3)


@pattern
def rows_padded_to_a_full_table() -> Pattern:
    """Boxes, scores and classes in one table, laid flat, padded to 40 rows, written into zeros"""
    weights, body, heads = front()
    body += """
      probs = Sigmoid (logits)
      all = Concat <axis = 2> (rects, probs)
      corners = Slice (all, c0, four, c2)
      objects = Slice (all, four, ten, c2)
      beyond = Slice (all, ten, ten, c2)
      best = ReduceMax <axes = [2], keepdims = 0> (objects)
      which = ArgMax <axis = 2, keepdims = 0> (objects)
      best_row = Unsqueeze (best, c1)
      found = NonMaxSuppression (corners, best_row, most, iou, half)
      box_at = Gather <axis = 1> (found, row)
      flat_best = Squeeze (best, c0)
      flat_which = Squeeze (which, c0)
      flat_beyond = Squeeze (beyond, c0)
      flat = Squeeze (corners, c0)
      class_at = Gather <axis = 0> (flat_which, box_at)
      class = Cast <to = 1> (class_at)
      a_class = Unsqueeze (class, c1)
      score = Gather <axis = 0> (flat_best, box_at)
      a_score = Unsqueeze (score, c1)
      box = Gather <axis = 0> (flat, box_at)
      more = Gather <axis = 0> (flat_beyond, box_at)
      rows = Concat <axis = 1> (a_class, a_score, box, more)
      size = Shape (rows)
      n = Gather <axis = 0> (size, zero)
      left = Sub (forty, n)
      missing = Mul (left, six)
      behind = Unsqueeze (missing, c0)
      pads = Concat <axis = 0> (c0, behind)
      long = Reshape (rows, minus)
      padded = Pad (long, pads)
      square = Reshape (padded, to_square)
      picture = Unsqueeze (square, c0)
      empty = ConstantOfShape <value = float[1] {0.0}> (to_all)
      table = ScatterND (empty, first, picture)"""
    weights += LIMITS.replace("most = {3}", "most = {40}")
    weights += (
        ", int64[1] four = {4}, int64[1] ten = {10}, float[1] half = {0.6}, int64 zero = {0}, "
        "int64 forty = {40}, int64 six = {6}, int64[1] minus = {-1}, int64[2] to_square = {40,6}, "
        "int64[3] to_all = {1,40,6}, int64[1,1] first = {0}"
    )
    outputs = "float[1,40,6] table"
    text = graph(outputs, weights, body)
    return Pattern(text, heads, read=lambda o: o[0][0], background=None, some=3)


@pattern
def rows_as_wide_as_what_is_beside_classes() -> Pattern:
    """The width of rows, and what lies behind the classes, by the extent less boxes and classes"""
    return changed(
        rows_padded_to_a_full_table(),
        ("Concat <axis = 2> (rects, probs)", "Concat <axis = 2> (rects, probs, rects)"),
        (
            "beyond = Slice (all, ten, ten, c2)",
            """all_size = Shape (all)
      extent = Gather <axis = 0> (all_size, c2)
      extra = Sub (extent, ten)
      end = Add (ten, extra)
      beyond = Slice (all, ten, end, c2)
      width = Add (six_1, extra)""",
        ),
        ("missing = Mul (left, six)", "missing = Mul (left, width)"),
        ("behind = Unsqueeze (missing, c0)", "behind = Identity (missing)"),
        (
            "square = Reshape (padded, to_square)",
            """square_size = Concat <axis = 0> (forty_1, width)
      square = Reshape (padded, square_size)
      all_rows = Concat <axis = 0> (c1, square_size)""",
        ),
        ("> (to_all)", "> (all_rows)"),
        ("float[1,40,6] table", "float[1,40,W] table"),
        ("int64 six = {6}", "int64[1] six_1 = {6}, int64[1] forty_1 = {40}"),
    )


@pattern
def extent_less_a_number_of_two_meanings() -> Pattern:
    """An axis of 4 numbers of a box, 6 classes and 10 others: its extent less 10 may be either"""
    return changed(
        rows_as_wide_as_what_is_beside_classes(),
        (
            "all = Concat <axis = 2> (rects, probs, rects)",
            """pair = Slice (rects, c0, c2, c2)
      all = Concat <axis = 2> (rects, probs, rects, rects, pair)""",
        ),
    )


@pattern
def argmax_over_classes() -> Pattern:
    """ArgMax over all columns, the background's boxes left out"""
    weights, body, heads = front()
    body += (
        FLAT
        + """
      best = ReduceMax <axes = [1], keepdims = 0> (table)
      which = ArgMax <axis = 1, keepdims = 0> (table)
      none = Constant <value = int64 {0}> ()
      same = Equal (which, none)
      object = Not (same)
      spots = NonZero (object)
      at = Transpose <perm = [1, 0]> (spots)
      labels = GatherND (which, at)
      scores = GatherND (best, at)
      boxes = GatherND (rect, at)"""
    )
    return Pattern(graph(OUTPUTS, weights, body), heads, some=3)


@pattern
def nms_in_a_loop_over_the_batch() -> Pattern:
    """A Loop over pictures holds NonMaxSuppression"""
    weights, body, heads = front()
    for name, width in (("to_cls", CLASSES), ("to_box", 4)):
        old, new = f"{name} = {{1,-1,{width}}}", f"{name} = {{-1,{CELLS},{width}}}"
        assert old in weights
        weights = weights.replace(old, new)
    weights += LIMITS + ", int64[1] beyond = {9223372036854775807}, int64[1] slots = {12}"
    body += """
      probs = Softmax <axis = 2> (logits)
      objects = Slice (probs, c1, beyond, c2)
      class_first = Transpose <perm = [0, 2, 1]> (objects)
      batch = Shape <start = 0, end = 1> (x)
      times = Squeeze (batch)
      true = Constant <value = bool {1}> ()
      labels, scores, boxes = Loop (times, true) <body = each (int64 i, bool go_in) =>
          (bool go, int64[12] ids, float[12] values, float[12,4] places) {
        go = Identity (go_in)
        at = Unsqueeze (i, c0)
        own_scores = Gather <axis = 0> (class_first, at)
        own_rects = Gather <axis = 0> (rects, at)
        found = NonMaxSuppression (own_rects, own_scores, most, iou, least)
        all_values = GatherND (own_scores, found)
        size = Shape (all_values)
        limit = Min (size, slots)
        some_values, best = TopK (all_values, limit)
        chosen = Gather <axis = 0> (found, best)
        class_at = Gather <axis = 1> (chosen, col)
        some_ids = Add (class_at, one)
        box_at = Gather <axis = 1> (chosen, row)
        flat = Squeeze (own_rects, c0)
        some_places = Gather <axis = 0> (flat, box_at)
        rest = Sub (slots, limit)
        pads = Concat <axis = 0> (c0, rest)
        box_pads = Concat <axis = 0> (c0, c0, rest, c0)
        ids = Pad (some_ids, pads)
        values = Pad (some_values, pads)
        places = Pad (some_places, box_pads)
      }>"""
    outputs = "int64[N,12] labels, float[N,12] scores, float[N,12,4] boxes"

    def read(outputs: list[Array]) -> Array:
        labels, scores, boxes = outputs
        image = np.repeat(np.arange(len(labels)), 12)[:, None]
        columns = [labels.reshape(-1, 1), scores.reshape(-1, 1), boxes.reshape(-1, 4), image]
        return np.concatenate(columns, axis=1)

    return Pattern(graph(outputs, weights, body, batch="N"), heads, read=read, batch=2, some=3)


def loop_over_classes(
    pick: str,
    rows: str = """
        size = Shape (values)
        ids = Expand (class_at, size)""",
) -> Pattern:
    """A Loop over classes as tf2onnx writes it; ``pick`` reads the scores of one class."""
    weights, body, heads = front()
    weights += LIMITS + ", int64[1] three = {3}, float bound = {5.0}, int64 times = {5}"
    weights += ", int64 start = {0}, int64[1] line = {-1}, int64[2] box_rows = {-1, 4}"
    body += (
        FLAT
        + """
      true = Constant <value = bool {1}> ()
      last, all_ids, all_values, all_places = Loop (times, true, start)
          <body = each (int64 i, bool go_in, int64 n) =>
          (bool go, int64 next, int64[3] ids, float[3] values, float[3,4] places) {
        next = Add (n, one)
        next_float = Cast <to = 1> (next)
        go = Less (next_float, bound)
        class_at = Add (n, one)"""
        + pick
        + """
        values, best = TopK (own, three)
        places = Gather <axis = 0> (rect, best)"""
        + rows
        + """
      }>
      labels = Reshape (all_ids, line)
      scores = Reshape (all_values, line)
      boxes = Reshape (all_places, box_rows)"""
    )
    return Pattern(graph(OUTPUTS, weights, body), heads, some=5)


SLICE_BY_NUMBER = """
        from_at = Unsqueeze (class_at, c0)
        to_at = Add (from_at, c1)
        wide = Slice (table, from_at, to_at, c1)
        own = Squeeze (wide, c1)"""


@pattern
def loop_over_classes_by_slice() -> Pattern:
    """A Loop over classes: trip count, float bound of Less, Slice by number, scan output"""
    return loop_over_classes(SLICE_BY_NUMBER)


@pattern
def loop_over_classes_with_known_labels() -> Pattern:
    """A Loop over classes whose labels are filled to a stored shape"""
    return loop_over_classes(
        SLICE_BY_NUMBER,
        """
        ids = Expand (class_at, three)""",
    )


@pattern
def loop_over_classes_by_gather() -> Pattern:
    """A Loop over classes that reads its scores by Gather"""
    return loop_over_classes("""
        own = Gather <axis = 1> (table, class_at)""")


@pattern
def loop_over_classes_with_rows_joined() -> Pattern:
    """A Loop over classes that joins label, score and box to rows of one table"""
    found = loop_over_classes(
        SLICE_BY_NUMBER,
        """
        ids = Expand (class_at, three)
        id_floats = Cast <to = 1> (ids)
        id_col = Unsqueeze (id_floats, c1)
        value_col = Unsqueeze (values, c1)
        rows = Concat <axis = 1> (id_col, value_col, places)""",
    )
    text = found.text.replace(
        "int64[3] ids, float[3] values, float[3,4] places) {", "float[3,6] rows) {"
    )
    text = text.replace("last, all_ids, all_values, all_places", "last, tables")
    text = text[: text.index("      labels = Reshape")] + "      rows = Reshape (tables, table_rows)}\n"
    text = text.replace(OUTPUTS, "float[K,6] rows").replace(
        "int64[2] box_rows = {-1, 4}", "int64[2] table_rows = {-1, 6}"
    )
    return Pattern(text, found.heads, read=lambda o: o[0], some=5)


def changed(found: Pattern, *changes: tuple[str, str], weights: str = "", **known: Any) -> Pattern:
    """A pattern with parts of its text replaced, and more weights."""
    text = found.text
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    if weights:
        text = text.replace("int64[1] three = {3}", f"int64[1] three = {{3}}, {weights}")
    return replace(found, text=text, **known)


@pattern
def loop_over_classes_with_codes() -> Pattern:
    """A Loop over classes that emits codes of the model's own, read from a table"""
    rows = """
        code = Gather <axis = 0> (codes, n)
        ids = Expand (code, three)"""
    found = loop_over_classes(SLICE_BY_NUMBER, rows)
    return changed(found, weights="int64[5] codes = {11, 22, 33, 44, 55}", own_ids=True)


@pattern
def loop_over_classes_in_another_order() -> Pattern:
    """A Loop over classes that reads their order from a table"""
    return changed(
        loop_over_classes(SLICE_BY_NUMBER),
        ("class_at = Add (n, one)", "class_at = Gather <axis = 0> (order, n)"),
        weights="int64[5] order = {3, 1, 5, 2, 4}",
    )


@pattern
def loop_over_classes_with_gains() -> Pattern:
    """A Loop over classes with a stored factor for each, read by its number"""
    return changed(
        loop_over_classes(SLICE_BY_NUMBER),
        ("TopK (own, three)", "TopK (weighted, three)"),
        (
            "        values, best",
            """        gain = Gather <axis = 0> (gains, n)
        weighted = Mul (own, gain)
        values, best""",
        ),
        weights="float[5] gains = {0.5, 1.5, 0.7, 0.9, 1.1}",
    )


@pattern
def loop_over_classes_with_rows_of_a_matrix() -> Pattern:
    """A Loop over classes with a stored row for each, sliced out of a matrix by its number"""
    return changed(
        loop_over_classes(SLICE_BY_NUMBER),
        ("TopK (own, three)", "TopK (weighted, three)"),
        (
            "        values, best",
            """        row_at = Unsqueeze (n, c0)
        row_to = Add (row_at, c1)
        wide_row = Slice (matrix, row_at, row_to, c1)
        gains = Squeeze (wide_row, c1)
        gain = ReduceSum <keepdims = 0> (gains, c0)
        weighted = Mul (own, gain)
        values, best""",
        ),
        weights="float[2,5] matrix = {0.5, 1.5, 0.7, 0.9, 1.1, 0.1, 0.2, 0.3, 0.4, 0.6}",
    )


@pattern
def loop_over_classes_told_by_place() -> Pattern:
    """A Loop over classes that emits no labels: `index // rows` says the class"""
    return changed(
        loop_over_classes(SLICE_BY_NUMBER, ""),
        ("int64[3] ids, ", ""),
        ("last, all_ids, all_values", "last, all_values"),
        (
            "labels = Reshape (all_ids, line)",
            """flat = Reshape (all_values, line)
      top, index = TopK (flat, eight)
      turn = Div (index, rows)
      labels = Add (turn, one)""",
        ),
        ("scores = Reshape (all_values, line)", "scores = Identity (top)"),
        (
            "boxes = Reshape (all_places, box_rows)",
            """flat_boxes = Reshape (all_places, box_rows)
      boxes = Gather <axis = 0> (flat_boxes, index)""",
        ),
        weights="int64 rows = {3}, int64[1] eight = {8}",
        some=2,
    )


@pattern
def loop_over_classes_whose_count_is_used() -> Pattern:
    """A Loop over classes whose number of iterations weighs the scores"""
    return changed(
        loop_over_classes(SLICE_BY_NUMBER),
        (
            "scores = Reshape (all_values, line)",
            """times_run = Cast <to = 1> (last)
      flat = Reshape (all_values, line)
      scores = Mul (flat, times_run)""",
        ),
    )


def collecting(body: str, weights: str = "", trips: str = "times") -> Pattern:
    """A Loop over classes that carries what it has found, and adds to it; ``body`` says what."""
    known, start, heads = front()
    known += LIMITS + ", int64[1] none = {0}, int64[2] no_boxes = {0, 4}, int64 start = {0}"
    known += ", float threshold = {0.2}, int64 times = {5}" + weights
    start += (
        FLAT
        + f"""
      true = Constant <value = bool {{1}}> ()
      ids_0 = ConstantOfShape <value = int64[1] {{0}}> (none)
      values_0 = ConstantOfShape (none)
      places_0 = ConstantOfShape (no_boxes)
      last, labels, scores, boxes = Loop ({trips}, true, start, ids_0, values_0, places_0)
          <body = each (int64 i, bool go_in, int64 n, int64[A] ids_in, float[A] values_in,
          float[A,4] places_in) => (bool go, int64 next, int64[B] ids_out, float[B] values_out,
          float[B,4] places_out) {{
        next = Add (n, one)
        class_at = Add (n, one)
        own = Gather <axis = 1> (table, class_at)"""
        + body
        + """
        ids_out = Concat <axis = 0> (ids_in, ids)
        values_out = Concat <axis = 0> (values_in, values)
        places_out = Concat <axis = 0> (places_in, places)
      }>"""
    )
    return Pattern(graph(OUTPUTS, known, start), heads, some=2)


ABOVE = """
        hits = Greater (own, threshold)
        rows = NonZero (hits)
        at = Squeeze (rows, c0)"""
HITS = """
        values = Gather <axis = 0> (own, at)
        places = Gather <axis = 0> (rect, at)
        size = Shape (values)
        ids = Expand (class_at, size)"""


@pattern
def loop_over_classes_with_limits() -> Pattern:
    """A Loop over classes with a limit and a threshold of each for its NonMaxSuppression"""
    return collecting(
        """
        go = Identity (go_in)
        own_3d = Reshape (own, as_scores)
        most_of = Gather <axis = 0> (limits, n)
        least_of = Gather <axis = 0> (thresholds, n)
        found = NonMaxSuppression (rects, own_3d, most_of, iou, least_of)
        at = Gather <axis = 1> (found, row)"""
        + HITS,
        ", int64[3] as_scores = {1, 1, -1}, int64[5] limits = {1, 4, 2, 3, 2}, "
        "float[5] thresholds = {0.05, 0.1, 0.3, 0.02, 0.2}",
    )


@pattern
def loop_over_classes_that_collects() -> Pattern:
    """A Loop over classes that carries all detections so far"""
    body = """
        go = Identity (go_in)"""
    return collecting(body + ABOVE + HITS)


@pattern
def loop_over_classes_without_a_trip_count() -> Pattern:
    """A Loop over classes that its condition alone ends"""
    body = """
        go = Less (next, five)"""
    return collecting(body + ABOVE + HITS, ", int64 five = {5}", trips="")


@pattern
def loop_over_classes_with_an_if() -> Pattern:
    """An If in a Loop over classes: rows of the class, or none"""
    body = """
        go = Identity (go_in)"""
    choice = """
        count = Size (at)
        some = Greater (count, start)
        values, places, ids = If (some) <then_branch = read () =>
            (float[F] yes_values, float[F,4] yes_places, int64[F] yes_ids) {
          yes_values = Gather <axis = 0> (own, at)
          yes_places = Gather <axis = 0> (rect, at)
          size = Shape (yes_values)
          yes_ids = Expand (class_at, size)
        }, else_branch = nothing () => (float[G] no_values, float[G,4] no_places, int64[G] no_ids) {
          no_values = ConstantOfShape (none)
          no_places = ConstantOfShape (no_boxes)
          no_ids = ConstantOfShape <value = int64[1] {0}> (none)
        }>"""
    return collecting(body + ABOVE + choice)


@pattern
def loop_over_classes_with_a_case() -> Pattern:
    """A Loop over classes that treats one of them in its own way"""
    body = """
        go = Identity (go_in)
        case = Equal (class_at, four)
        less = Mul (own, most_of)
        weighed = Where (case, less, own)
        hits = Greater (weighed, threshold)
        rows = NonZero (hits)
        at = Squeeze (rows, c0)"""
    return collecting(body + HITS, ", int64 four = {4}, float most_of = {0.5}")


# -------------------------------------------------------------------------------------------- scans


def scan(text: str, weights: str = "", ends: str | None = None, **known: Any) -> Pattern:
    """A Scan; ``by_class`` holds a row of scores for each class but the background."""
    known_weights, start, heads = front()
    known_weights += LIMITS + ", int64[1] beyond = {9223372036854775807}, int64[1] three = {3}"
    known_weights += ", int64[1] line = {-1}, int64[2] box_rows = {-1, 4}" + weights
    start += (
        FLAT
        + """
      objects = Slice (table, c1, beyond, c1)
      by_class = Transpose <perm = [1, 0]> (objects)"""
    )
    ends = (
        ends
        or """
      labels = Reshape (all_ids, line)
      scores = Reshape (all_values, line)
      boxes = Reshape (all_places, box_rows)"""
    )
    return Pattern(graph(OUTPUTS, known_weights, start + text + ends), heads, **{"some": 4, **known})


BEST = """
        values, best = TopK (own, three)
        places = Gather <axis = 0> (rect, best)"""


@pattern
def scan_over_classes() -> Pattern:
    """A Scan along the class axis, beside a table of labels"""
    text = """
      all_ids, all_values, all_places = Scan <num_scan_inputs = 2, scan_input_axes = [1, 0], body =
          each (float[16] own, int64 id) => (int64[3] ids, float[3] values, float[3,4] places) {"""
    text += (
        BEST
        + """
        ids = Expand (id, three)
      }> (objects, numbers)"""
    )
    return scan(text, ", int64[5] numbers = {1, 2, 3, 4, 5}")


@pattern
def scan_over_classes_that_counts() -> Pattern:
    """A Scan along the class axis whose state counts the classes"""
    text = """
      last, all_ids, all_values, all_places = Scan <num_scan_inputs = 1, body =
          each (int64 n, float[16] own) =>
          (int64 next, int64[3] ids, float[3] values, float[3,4] places) {
        next = Add (n, one)"""
    text += (
        BEST
        + """
        ids = Expand (next, three)
      }> (zero, by_class)"""
    )
    return scan(text, ", int64 zero = {0}")


@pattern
def scan_over_class_numbers() -> Pattern:
    """A Scan over a table of class numbers, by which its body reads the scores"""
    text = """
      all_ids, all_values, all_places = Scan <num_scan_inputs = 1, body =
          each (int64 id) => (int64[3] ids, float[3] values, float[3,4] places) {
        own = Gather <axis = 1> (table, id)"""
    text += (
        BEST
        + """
        ids = Expand (id, three)
      }> (numbers)"""
    )
    return scan(text, ", int64[5] numbers = {3, 1, 5, 2, 4}")


@pattern
def scan_over_boxes() -> Pattern:
    """A Scan over boxes whose body sees the classes of each"""
    text = """
      labels, scores, boxes = Scan <num_scan_inputs = 2, scan_input_axes = [1, 0], body =
          each (float[5] own, float[4] rect_in) => (int64 id, float value, float[4] rect_out) {
        at = ArgMax <axis = 0, keepdims = 0> (own)
        id = Add (at, one)
        value = ReduceMax <axes = [0], keepdims = 0> (own)
        rect_out = Identity (rect_in)
      }> (by_class, rect)"""
    return scan(text, ends="\n", some=2)


@pattern
def scan_with_a_state_for_each_class() -> Pattern:
    """A Scan over boxes whose state holds the best score of each class"""
    text = """
      best = Scan <num_scan_inputs = 1, body = each (float[5] so_far, float[5] own) => (float[5] now) {
        now = Max (own, so_far)
      }> (zeros, objects)"""
    ends = """
      scores, index = TopK (best, c1)
      labels = Add (index, one)
      boxes = Slice (rect, c0, c1, c0)"""
    return scan(text, ", float[5] zeros = {0, 0, 0, 0, 0}", ends, some=1)


# ---------------------------------------------------------------------------------- flattened top-k

TOP = 10


def flat_top_k(arithmetic: str, reads: str = "", *, k: int = TOP, more: str = "") -> Pattern:
    """Sigmoid scores, flattened (box, class); ``arithmetic`` gives ``box_at`` and ``labels``."""
    c = CLASSES
    weights, body, heads = front()
    weights += f", int64[1] k = {{{k}}}, int64[2] as_row = {{1,-1}}, int64 c = {{{c}}}" + more
    weights += ", int64[1] c0 = {0}, int64[1] c1 = {1}"
    body += (
        """
      squashed = Sigmoid (logits)
      flat = Reshape (squashed, as_row)
      top, index = TopK (flat, k)"""
        + arithmetic
        + """
      flat_rects = Squeeze (rects, c0)
      box_row = Squeeze (box_at, c0)"""
        + (reads or ROWS)
        + """
      scores = Squeeze (top, c0)
      labels = Squeeze (label_row, c0)"""
    )
    return Pattern(graph(OUTPUTS, weights, body), heads, background=None, some=2)


ROWS = """
      boxes = Gather <axis = 0> (flat_rects, box_row)"""
INTEGERS = """
      box_at = Div (index, c)
      label_row = Mod (index, c)"""


@pattern
def top_k_div_mod() -> Pattern:
    """`index // C` and `index % C` on integers"""
    return flat_top_k(INTEGERS)


@pattern
def top_k_div_mul_sub() -> Pattern:
    """`index - index // C * C`"""
    return flat_top_k("""
      box_at = Div (index, c)
      whole = Mul (box_at, c)
      label_row = Sub (index, whole)""")


@pattern
def top_k_in_floats() -> Pattern:
    """Division in floats, Floor, Cast"""
    return flat_top_k(
        """
      index_float = Cast <to = 1> (index)
      ratio = Div (index_float, c_float)
      whole = Floor (ratio)
      box_at = Cast <to = 7> (whole)
      back = Mul (whole, c_float)
      rest = Sub (index_float, back)
      label_row = Cast <to = 7> (rest)""",
        more=f", float c_float = {{{CLASSES}.0}}",
    )


@pattern
def top_k_by_reciprocal() -> Pattern:
    """Multiplication by a stored reciprocal of the class count"""
    return flat_top_k(
        """
      index_float = Cast <to = 1> (index)
      moved = Add (index_float, half)
      ratio = Mul (moved, reciprocal)
      whole = Floor (ratio)
      box_at = Cast <to = 7> (whole)
      label_row = Mod (index, c)""",
        more=f", float reciprocal = {{{1 / CLASSES:.9f}}}, float half = {{0.5}}",
    )


@pattern
def top_k_of_more_than_is_left() -> Pattern:
    """A stored `k` above the number of candidates that are left is clamped"""
    return flat_top_k(INTEGERS, k=90)


@pattern
def top_k_with_a_table_of_labels() -> Pattern:
    """Labels read by GatherElements from a stored row of boxes x classes, 0 to C - 1 again and again"""
    row = ",".join(str(i % CLASSES) for i in range(CELLS * CLASSES))
    return flat_top_k(
        """
      box_at = Div (index, c)
      label_row = GatherElements <axis = 1> (numbers, index)""",
        more=f", int64[1,{CELLS * CLASSES}] numbers = {{{row}}}",
    )


@pattern
def top_k_with_gather_elements() -> Pattern:
    """Boxes read by GatherElements over indices that were expanded"""
    return flat_top_k(
        INTEGERS,
        """
      box_col = Unsqueeze (box_row, c1)
      wide = Expand (box_col, four)
      boxes = GatherElements <axis = 0> (flat_rects, wide)""",
        more=", int64[2] four = {1, 4}",
    )


def queries(decoding: str, outputs: str, more: str = "", **known: Any) -> Pattern:
    """One head's best scores pick queries, a second head gives each its scores ``squashed``."""
    c = CLASSES
    weights, body, heads = front()
    weights += (
        f", float[8,{c}] second_w, float[{c}] second_b, int64[1] k = {{6}}, "
        f"int64[1] c0 = {{0}}, int64[3] cells = {{1,8,16}}{more}"
    )
    body += """
      best = ReduceMax <axes = [2], keepdims = 0> (logits)
      best_values, picked = TopK (best, k)
      rows = Squeeze (picked, c0)
      grid = Reshape (x, cells)
      places = Transpose <perm = [0, 2, 1]> (grid)
      memory = Gather <axis = 1> (places, rows)
      own_rects = Gather <axis = 1> (rects, rows)
      multiplied = MatMul (memory, second_w)
      second = Add (second_b, multiplied)
      squashed = Sigmoid (second)"""
    heads = (*heads, Head("second_w", "second_b", tuple(range(c)), axis=1))
    return Pattern(graph(outputs, weights, body + decoding), heads, background=None, **known)


@pattern
def queries_picked_by_their_best_score() -> Pattern:
    """ReduceMax over one head's classes picks queries, a second head scores them"""
    c = CLASSES
    return queries(
        """
      flat = Reshape (squashed, as_row)
      values, index = TopK (flat, top)
      at = Div (index, c)
      label_row = Mod (index, c)
      at_row = Squeeze (at, c0)
      flat_rects = Squeeze (own_rects, c0)
      boxes = Gather <axis = 0> (flat_rects, at_row)
      scores = Squeeze (values, c0)
      labels = Squeeze (label_row, c0)""",
        OUTPUTS,
        f", int64[2] as_row = {{1,-1}}, int64 c = {{{c}}}, int64[1] top = {{8}}",
        some=2,
    )


@pattern
def queries_with_scores_of_all_classes() -> Pattern:
    """Queries are picked by their best score, and each comes out with the scores of all classes"""
    return queries(
        """
      boxes = Identity (own_rects)
      scores = Identity (squashed)""",
        "float[1,6,K] scores, float[1,6,4] boxes",
        kind="dense",
        dense=((2, tuple(range(CLASSES))), (2, ())),
    )


@pattern
def queries_picked_by_one_column() -> Pattern:
    """Queries are picked by the first column of a head of their own, which stays (Deformable DETR)"""
    found = queries_with_scores_of_all_classes()
    return changed(
        found,
        (
            "best = ReduceMax <axes = [2], keepdims = 0> (logits)",
            "best = Gather <axis = 2> (logits, first)",
        ),
        ("int64[1] k = {6}", "int64 first = {0}, int64[1] k = {6}"),
        heads=found.heads[1:],
    )


# --------------------------------------------------------------------------- background, cut off


def dense(output: str, body: str, ids: Sequence[int], **known: Any) -> Pattern:
    """Boxes and a tensor [1, n, classes] made from logits by ``body``."""
    weights, start, heads = front()
    weights += ", int64[1] c0 = {0}, int64[1] c1 = {1}, int64[1] c2 = {2}, " + output
    outputs = "float[1,16,4] rects, float[1,16,K] scores"
    known = {"dense": ((2, ()), (2, tuple(ids))), **known}
    return Pattern(graph(outputs, weights, start + body), heads, kind="dense", **known)


@pattern
def background_sliced_off_the_front() -> Pattern:
    """Softmax over all columns, then `[:, 1:]`"""
    return dense(
        "int64[1] beyond = {9223372036854775807}",
        """
      probs = Softmax <axis = 2> (logits)
      scores = Slice (probs, c1, beyond, c2)""",
        [1, 2, 3, 4, 5],
    )


@pattern
def background_sliced_off_the_back() -> Pattern:
    """Softmax over all columns, then `[:, :-1]`"""
    return dense(
        "int64[1] minus = {-1}",
        """
      probs = Softmax <axis = 2> (logits)
      scores = Slice (probs, c0, minus, c2)""",
        [0, 1, 2, 3, 4],
        background=5,
    )


@pattern
def background_sliced_off_by_its_count() -> Pattern:
    """The last column cut off by a stored stop that is the class count"""
    return dense(
        "int64[1] stop = {5}",
        """
      probs = Softmax <axis = 2> (logits)
      scores = Slice (probs, c0, stop, c2)""",
        [0, 1, 2, 3, 4],
        background=5,
    )


@pattern
def background_sliced_off_from_a_negative_start() -> Pattern:
    """`[:, -5:]` of 6 columns"""
    return dense(
        "int64[1] start = {-5}, int64[1] beyond = {9223372036854775807}",
        """
      probs = Softmax <axis = 2> (logits)
      scores = Slice (probs, start, beyond, c2)""",
        [1, 2, 3, 4, 5],
    )


@pattern
def background_split_off() -> Pattern:
    """Split into background and objects"""
    return dense(
        "int64[2] parts = {1, 5}",
        """
      probs = Softmax <axis = 2> (logits)
      nothing, scores = Split <axis = 2> (probs, parts)""",
        [1, 2, 3, 4, 5],
    )


# ----------------------------------------------------------------- boxes and masks of each class

PER_CLASS = tuple(c for c in range(CLASSES) for _ in range(4))


def regions(body: str, outputs: str, more: str = "", **known: Any) -> Pattern:
    """Gemm heads over rows [16, 8], as behind RoI pooling: scores and 4 C deltas."""
    c = CLASSES
    weights = (
        f"int64[3] cells = {{1,8,16}}, int64[2] as_rows = {{16,8}}, float[{c},8] cls_w, "
        f"float[{c}] cls_b, float[{4 * c},8] delta_w, float[{4 * c}] delta_b, int64[1] c0 = {{0}}, "
        "int64[1] c1 = {1}" + more
    )
    start = """
      grid = Reshape (x, cells)
      turned = Transpose <perm = [0, 2, 1]> (grid)
      rois = Reshape (turned, as_rows)
      logits = Gemm <transB = 1> (rois, cls_w, cls_b)
      deltas = Gemm <transB = 1> (rois, delta_w, delta_b)
      probs = Softmax <axis = 1> (logits)"""
    head = Head("cls_w", "cls_b", tuple(range(c)))
    return Pattern(graph(outputs, weights, start + body), (head,), **{"some": 3, **known})


FOUND = """
      objects = Slice (probs, c1, beyond, c1)
      hot = Greater (objects, least)
      spots = NonZero (hot)
      pairs = Transpose <perm = [1, 0]> (spots)
      scores = GatherND (objects, pairs)
      class_at = Gather <axis = 0> (spots, one)
      labels = Add (class_at, one)"""
FOUND_CONSTANTS = ", float least = {0.1}, int64 one = {1}, int64[1] beyond = {9223372036854775807}"


@pattern
def class_specific_boxes() -> Pattern:
    """4 C box deltas beside the scores, read for the class that was found"""
    return regions(
        """
      cube = Reshape (deltas, as_cube)
      object_boxes = Slice (cube, c1, beyond, c1)""" + FOUND + """
      boxes = GatherND (object_boxes, pairs)""",
        OUTPUTS,
        FOUND_CONSTANTS + ", int64[3] as_cube = {16, -1, 4}",
    )  # fmt: skip


@pattern
def class_specific_boxes_in_strides() -> Pattern:
    """dx, dy, dw, dh taken from 4 C deltas with a stride of 4, as torchvision decodes them"""
    parts = "".join(
        f"""
      part_{k} = Slice (deltas, from_{k}, beyond, c1, four)
      tall_{k} = Unsqueeze (part_{k}, c2)"""
        for k in range(4)
    )
    return regions(
        parts + """
      cube = Concat <axis = 2> (tall_0, tall_1, tall_2, tall_3)
      object_boxes = Slice (cube, c1, beyond, c1)""" + FOUND + """
      boxes = GatherND (object_boxes, pairs)""",
        OUTPUTS,
        FOUND_CONSTANTS + ", int64[1] four = {4}, int64[1] c2 = {2}"
        + "".join(f", int64[1] from_{k} = {{{k}}}" for k in range(4)),
    )  # fmt: skip


@pattern
def masks_picked_by_label() -> Pattern:
    """A mask plane of each class, picked by the label that was found"""
    c = CLASSES
    weights = f", float[{c},8] mask_w, float[{c}] mask_b, int64 zero = {{0}}, int64[1] minus = {{-1}}"
    return regions(
        """
      cube = Reshape (deltas, as_cube)
      object_boxes = Slice (cube, c1, beyond, c1)""" + FOUND + """
      boxes = GatherND (object_boxes, pairs)
      roi_at = Gather <axis = 0> (spots, zero)
      own = Gather <axis = 0> (rois, roi_at)
      planes = Gemm <transB = 1> (own, mask_w, mask_b)
      size = Shape (labels)
      count = Squeeze (size)
      order = Range (zero, count, one)
      order_col = Unsqueeze (order, c1)
      label_col = Unsqueeze (labels, c1)
      at = Concat <axis = 1> (order_col, label_col)
      plane = GatherND (planes, at)
      masks = Sigmoid (plane)""",
        OUTPUTS + ", float[K] masks",
        FOUND_CONSTANTS + ", int64[3] as_cube = {16, -1, 4}" + weights,
    )  # fmt: skip


# ------------------------------------------------------------------------------ layouts of channels


def layout(
    weights: str, body: str, head: Head, axis: int, ids: Sequence[int], scores: str, **known: Any
) -> Pattern:
    """Dense boxes and scores from maps of a layout."""
    outputs = f"float[1,K,4] rects, {scores}"
    known = {"background": None, "dense": ((2, ()), (axis, tuple(ids))), **known}
    return Pattern(graph(outputs, weights, body), (head,), kind="dense", **known)


BOXES = """
      box_map = Conv (x, box_w, box_b)
      box_last = Transpose <perm = [0, 2, 3, 1]> (box_map)
      rects = Reshape (box_last, to_box)"""
BOX_WEIGHTS = "float[8,8,1,1] box_w, float[8] box_b, int64[3] to_box = {1,-1,4}"


@pattern
def anchor_major_channels() -> Pattern:
    """Channels `a * C + k`"""
    weights = f"{BOX_WEIGHTS}, float[12,8,1,1] cls_w, float[12] cls_b, int64[3] to_cls = {{1,-1,6}}"
    body = (
        BOXES
        + """
      cls_map = Conv (x, cls_w, cls_b)
      cls_last = Transpose <perm = [0, 2, 3, 1]> (cls_map)
      rows = Reshape (cls_last, to_cls)
      scores = Sigmoid (rows)"""
    )
    head = Head("cls_w", "cls_b", tuple(range(6)) * 2)
    return layout(weights, body, head, 2, range(6), "float[1,K,C] scores")


@pattern
def class_major_channels() -> Pattern:
    """Channels `k * A + a`, classes on axis 1"""
    weights = f"{BOX_WEIGHTS}, float[12,8,1,1] cls_w, float[12] cls_b, int64[3] to_cls = {{1,6,-1}}"
    body = (
        BOXES
        + """
      cls_map = Conv (x, cls_w, cls_b)
      rows = Reshape (cls_map, to_cls)
      scores = Softmax <axis = 1> (rows)"""
    )
    head = Head("cls_w", "cls_b", tuple(k for k in range(6) for _ in range(2)))
    known = {"background": 0}
    return layout(weights, body, head, 1, range(6), "float[1,C,K] scores", **known)


@pattern
def interleaved_channels() -> Pattern:
    """Channels `A * (5 + C)`: box, objectness and classes of each anchor"""
    weights = (
        "float[22,8,1,1] cls_w, float[22] cls_b, int64[5] split = {1,2,11,4,4}, "
        "int64[3] flat = {1,-1,11}, int64[3] parts = {2,2,7}, float two = {2}"
    )
    body = """
      maps = Conv (x, cls_w, cls_b)
      grid = Reshape (maps, split)
      last = Transpose <perm = [0, 1, 3, 4, 2]> (grid)
      squashed = Sigmoid (last)
      xy, wh, rest = Split <axis = 4> (squashed, parts)
      wh_two = Mul (wh, two)
      wh_squared = Pow (wh_two, two)
      joined = Concat <axis = 4> (xy, wh_squared, rest)
      scores = Reshape (joined, flat)"""
    ids = (-1, -1, -1, -1, -1, *range(6))
    return Pattern(
        graph("float[1,K,C] scores", weights, body),
        (Head("cls_w", "cls_b", ids * 2),),
        kind="dense",
        background=None,
        dense=((2, ids),),
        arguments={"labels": ["ant", "bee", "cat", "dog", "eel", "fox"]},
    )


@pattern
def mask_coefficients_beside_classes() -> Pattern:
    """Box, classes and 32 mask coefficients on one axis, `C + 32`"""
    weights = (
        "float[4,8,1,1] box_w, float[4] box_b, float[6,8,1,1] cls_w, float[6] cls_b, "
        "float[32,8,1,1] mask_w, float[32] mask_b, int64[3] flat = {1,-1,16}"
    )
    body = """
      box_map = Conv (x, box_w, box_b)
      cls_map = Conv (x, cls_w, cls_b)
      mask_map = Conv (x, mask_w, mask_b)
      squashed = Sigmoid (cls_map)
      joined = Concat <axis = 1> (box_map, squashed, mask_map)
      flat_shape = Constant <value = int64[3] {1, 42, 16}> ()
      scores = Reshape (joined, flat_shape)"""
    ids = (*[-1] * 4, *range(6), *[-1] * 32)
    return Pattern(
        graph("float[1,C,16] scores", weights.replace(", int64[3] flat = {1,-1,16}", ""), body),
        (Head("cls_w", "cls_b", tuple(range(6))),),
        kind="dense",
        background=None,
        dense=((1, ids),),
    )


@pattern
def matmul_with_bias_first() -> Pattern:
    """MatMul weights with classes last, the bias as the first input of Add"""
    weights = (
        "float[8,6] cls_w, float[6] cls_b, float[8,4] box_w, float[4] box_b, int64[3] cells = {1,8,16}"
    )
    body = """
      grid = Reshape (x, cells)
      rows = Transpose <perm = [0, 2, 1]> (grid)
      multiplied = MatMul (rows, cls_w)
      logits = Add (cls_b, multiplied)
      scores = Sigmoid (logits)
      box_raw = MatMul (rows, box_w)
      rects = Add (box_b, box_raw)"""
    head = Head("cls_w", "cls_b", tuple(range(6)), axis=1)
    return layout(weights, body, head, 2, range(6), "float[1,K,C] scores")


# ------------------------------------------------------------------- one constant for several uses


def two_levels(shape: str, weights: str, hidden: str = "", second: str = "cls_w, cls_b") -> Pattern:
    """Two levels, the second a pooled copy of the first."""
    body = f"""{hidden}
      low = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (x)
      cls_0 = Conv (x, cls_w, cls_b)
      cls_1 = Conv (low, {second})
      box_0 = Conv (x, box_w, box_b)
      box_1 = Conv (low, box_w, box_b)
      cls_last_0 = Transpose <perm = [0, 2, 3, 1]> (cls_0)
      cls_last_1 = Transpose <perm = [0, 2, 3, 1]> (cls_1)
      box_last_0 = Transpose <perm = [0, 2, 3, 1]> (box_0)
      box_last_1 = Transpose <perm = [0, 2, 3, 1]> (box_1)
      cls_rows_0 = Reshape (cls_last_0, {shape})
      cls_rows_1 = Reshape (cls_last_1, {shape})
      box_rows_0 = Reshape (box_last_0, to_box)
      box_rows_1 = Reshape (box_last_1, to_box)
      rows = Concat <axis = 1> (cls_rows_0, cls_rows_1)
      rects = Concat <axis = 1> (box_rows_0, box_rows_1)
      scores = Softmax <axis = 2> (rows)"""
    head = Head("cls_w", "cls_b", tuple(range(6)) * 2)
    known = {"background": 0}
    return layout(weights, body, head, 2, range(6), "float[1,K,C] scores", **known)


@pattern
def shared_reshape_and_weights() -> Pattern:
    """One reshape target, one class weight and one bias for both levels"""
    weights = f"{BOX_WEIGHTS}, float[12,8,1,1] cls_w, float[12] cls_b, int64[3] to_cls = {{1,-1,6}}"
    return two_levels("to_cls", weights)


@pattern
def shape_computed_once_for_scores_and_boxes() -> Pattern:
    """Four classes: a shape put together once reshapes scores and boxes"""
    body = """
      batch = Shape <start = 0, end = 1> (x)
      to = Concat <axis = 0> (batch, rest, four)
      cls_map = Conv (x, cls_w, cls_b)
      cls_last = Transpose <perm = [0, 2, 3, 1]> (cls_map)
      logits = Reshape (cls_last, to)
      box_map = Conv (x, box_w, box_b)
      box_last = Transpose <perm = [0, 2, 3, 1]> (box_map)
      boxes = Reshape (box_last, to)
      scores = Sigmoid (logits)"""
    weights = (
        "float[4,8,1,1] cls_w, float[4] cls_b, float[4,8,1,1] box_w, float[4] box_b, "
        "int64[1] rest = {-1}, int64[1] four = {4}"
    )
    return Pattern(
        graph("float[N,K,C] scores, float[N,K,4] boxes", weights, body, batch="N"),
        (Head("cls_w", "cls_b", (0, 1, 2, 3)),),
        kind="dense",
        classes=4,
        background=None,
        dense=((2, (0, 1, 2, 3)), (2, ())),
        arguments={"labels": ["ant", "bee", "cat", "dog"], "heads": ["make_cls_map"]},
        batch=2,
    )


@pattern
def hidden_layer_as_wide_as_the_classes() -> Pattern:
    """A hidden layer of C channels, and boxes of 6 x 4 numbers, that only look like classes"""
    weights = (
        "float[24,6,1,1] box_w, float[24] box_b, int64[3] to_box = {1,-1,4}, float[6,8,3,3] hid_w, "
        "float[6] hid_b, float[36,6,1,1] cls_w, float[36] cls_b, int64[3] to_cls = {1,-1,6}"
    )
    body = """
      hidden = Conv <pads = [1, 1, 1, 1]> (x, hid_w, hid_b)
      warm = Relu (hidden)
      cls_map = Conv (warm, cls_w, cls_b)
      cls_last = Transpose <perm = [0, 2, 3, 1]> (cls_map)
      rows = Reshape (cls_last, to_cls)
      scores = Softmax <axis = 2> (rows)
      box_map = Conv (warm, box_w, box_b)
      box_last = Transpose <perm = [0, 2, 3, 1]> (box_map)
      rects = Reshape (box_last, to_box)"""
    head = Head("cls_w", "cls_b", tuple(range(6)) * 6)
    known = {"background": 0}
    return layout(weights, body, head, 2, range(6), "float[1,K,C] scores", **known)


@pattern
def one_constant_as_limit_bound_and_class() -> Pattern:
    """An initializer `[1]` that is NMS' limit, a slice bound and an axis"""
    weights, body, heads = front()
    weights += ", int64[1] c0 = {0}, int64[1] c1 = {1}, int64[1] c2 = {2}, float iou = {0.3}"
    weights += ", float least = {0.05}, int64[1] beyond = {9223372036854775807}"
    body += """
      probs = Softmax <axis = 2> (logits)
      objects = Slice (probs, c1, beyond, c2)
      class_first = Transpose <perm = [0, 2, 1]> (objects)
      found = NonMaxSuppression (rects, class_first, c1, iou, least)
      scores = GatherND (class_first, found)
      class_col = Slice (found, c1, c2, c1)
      class_at = Squeeze (class_col, c1)
      labels = Add (class_at, c1)
      row_col = Gather <axis = 1> (found, c2)
      box_at = Squeeze (row_col, c1)
      flat = Squeeze (rects, c0)
      boxes = Gather <axis = 0> (flat, box_at)"""
    return Pattern(graph(OUTPUTS, weights, body), heads, some=4)


@pattern
def class_constant_as_lower_bound() -> Pattern:
    """One `0.0` and one `1.0` that are labels of branches and bounds of a Clip"""
    weights, body, heads = front()
    weights += ", float k0 = {0.0}, float k1 = {1.0}, float k2 = {2.0}, float k3 = {3.0}"
    weights += ", float k4 = {4.0}, float k5 = {5.0}, int64[1] three = {3}, int64[1] c0 = {0}"
    body = (
        body.replace("Conv (x,", "Conv (clipped,")
        + """
      squashed = Sigmoid (logits)
      table = Squeeze (squashed, c0)
      rect = Squeeze (rects, c0)"""
    )
    body = "\n      clipped = Clip (x, k0, k1)" + body
    for k in range(CLASSES):
        body += (GATHER + """
      tv_@, ti_@ = TopK (s_@, three)
      tb_@ = Gather (rect, ti_@)
      size_@ = Shape (tv_@)
      l_@ = Expand (k@, size_@)""").replace("@", str(k))  # fmt: skip
    for name, part in (("labels", "l"), ("scores", "tv"), ("boxes", "tb")):
        parts = ", ".join(f"{part}_{k}" for k in range(CLASSES))
        body += f"\n      {name} = Concat <axis = 0> ({parts})"
    outputs = OUTPUTS.replace("int64[K] labels", "float[K] labels")
    return Pattern(graph(outputs, weights, body), heads, background=None, some=5)


# ---------------------------------------------------------------------------------- control flow


@pattern
def if_body_that_sees_classes() -> Pattern:
    """An If whose body reads the class scores of the graph around it"""
    weights, body, heads = front()
    weights += LIMITS + ", int64[1] beyond = {9223372036854775807}, int64 zero = {0}"
    body += """
      probs = Softmax <axis = 2> (logits)
      objects = Slice (probs, c1, beyond, c2)
      class_first = Transpose <perm = [0, 2, 1]> (objects)
      found = NonMaxSuppression (rects, class_first, most, iou, least)
      size = Size (found)
      some = Greater (size, zero)
      labels, scores, boxes = If (some) <then_branch = read () =>
          (int64[A] some_ids, float[A] some_values, float[A,4] some_boxes) {
        some_values = GatherND (class_first, found)
        class_at = Gather <axis = 1> (found, col)
        some_ids = Add (class_at, one)
        box_at = Gather <axis = 1> (found, row)
        flat = Squeeze (rects, c0)
        some_boxes = Gather <axis = 0> (flat, box_at)
      }, else_branch = nothing () => (int64[B] no_ids, float[B] no_values, float[B,4] no_boxes) {
        no_ids = Constant <value = int64[1] {0}> ()
        no_values = Constant <value = float[1] {0.0}> ()
        no_boxes = Constant <value = float[1,4] {0.0, 0.0, 0.0, 0.0}> ()
      }>"""
    return Pattern(graph(OUTPUTS, weights, body), heads, some=4)


@pattern
def local_function() -> Pattern:
    """A function of the model's own that class scores go through"""
    found = dense(
        "int64[1] beyond = {9223372036854775807}",
        """
      probs = own.Squash (logits)
      scores = Slice (probs, c1, beyond, c2)""",
        [1, 2, 3, 4, 5],
    )
    function = """
<domain: "own", opset_import: ["": 17]>
Squash (a) => (b)
{
  b = Softmax <axis = 2> (a)
}
"""
    text = found.text.replace('opset_import: ["": 17]', 'opset_import: ["": 17, "own": 1]')
    return replace(found, text=text + function)


def with_functions(found: Pattern, functions: str) -> Pattern:
    """The pattern with functions of the domain "own"."""
    text = found.text.replace('opset_import: ["": 17]', 'opset_import: ["": 17, "own": 1]')
    head = '<domain: "own", opset_import: ["": 17, "own": 1]>'
    parts = [f"\n{head}\n{part.strip()}\n" for part in functions.split("---")]
    return replace(found, text=text + "".join(parts))


@pattern
def one_function_for_scores_and_boxes() -> Pattern:
    """Heads in functions inside functions; one function for scores and for boxes"""
    weights = (
        "float[6,8,1,1] cls_w, float[6] cls_b, float[4,8,1,1] box_w, float[4] box_b, "
        "int64[3] to_cls = {1,-1,6}, int64[3] to_box = {1,-1,4}"
    )
    body = """
      warm = own.Warm <slope = 0.1> (x)
      rows = own.Level (warm, cls_w, cls_b, to_cls)
      scores = Softmax <axis = 2> (rows)
      rects = own.Level (warm, box_w, box_b, to_box)"""
    functions = """
Warm <slope> (a) => (b) { b = LeakyRelu <alpha: float = @slope> (a) }
---
Level (a, w, b, to) => (c) { m = Conv (a, w, b)  c = own.Flat (m, to) }
---
Flat (a, to) => (b) { last = Transpose <perm = [0, 2, 3, 1]> (a)  b = Reshape (last, to) }"""
    text = graph("float[1,K,C] scores, float[1,K,4] rects", weights, body)
    found = Pattern(text, (Head("cls_w", "cls_b", tuple(range(6))),), "dense",
                    dense=((2, tuple(range(6))), (0, ())))  # fmt: skip
    return with_functions(found, functions)


@pattern
def a_function_called_for_each_class() -> Pattern:
    """A function called for each class, which knows its class by an attribute"""
    weights, body, heads = front()
    body += FLAT
    for k in range(1, CLASSES):
        body += f"\n      l_{k}, tv_{k}, tb_{k} = own.Best <cls = {k}> (table, rect)"
    for name, part in (("labels", "l"), ("scores", "tv"), ("boxes", "tb")):
        parts = ", ".join(f"{part}_{k}" for k in range(1, CLASSES))
        body += f"\n      {name} = Concat <axis = 0> ({parts})"
    functions = """
Best <cls> (table, rect) => (label, value, box) {
  k = Constant <value_int: int = @cls> ()
  s = Gather <axis = 1> (table, k)
  three = Constant <value = int64[1] {3}> ()
  value, at = TopK (s, three)
  box = Gather (rect, at)
  size = Shape (value)
  label = Expand (k, size)
}"""
    return with_functions(Pattern(graph(OUTPUTS, weights, body), heads, some=3), functions)
