"""NonMaxSuppression and its index triples, and what reads class numbers behind them."""

from __future__ import annotations

from typing import Any

import numpy as np

from patterns.frame import CELLS, CLASSES, FLAT, OUTPUTS, Pattern, changed, front, graph, pattern, table

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
def table_scaled_by_column() -> Pattern:
    """Rows [id, score, box], each column times a stored number, which is 1 for ids"""
    return changed(
        nms_columns_sliced_and_cast(),
        (
            "rows = Concat <axis = 1> (ids, score_col, boxes)",
            """joined = Concat <axis = 1> (ids, score_col, boxes)
      extents = Shape (found)
      some = Slice (extents, c0, c2, c0)
      many = Gather (some, c0)
      shape = Concat <axis = 0> (many, width)
      shaped = Reshape (joined, shape)
      rows = Mul (shaped, scale)""",
        ),
        ("int64 col = {1}", "int64 col = {1}, int64[1] width = {6}, float[6] scale = {1,1,4,4,4,4}"),
    )


@pattern
def table_whose_ids_are_scaled() -> Pattern:
    """Rows [id, score, box], each column times a stored number, which is 2 for ids"""
    return changed(table_scaled_by_column(), ("{1,1,4,4,4,4}", "{2,1,4,4,4,4}"))


@pattern
def nms_rows_of_the_background_left_out() -> Pattern:
    """Rows of the background left out by NonZero over `class - background`, the last one (Paddle)"""
    weights, start, heads = front()
    weights += LIMITS + f", int64 last = {{{CLASSES - 1}}}"
    body = """
      probs = Softmax <axis = 2> (logits)
      class_first = Transpose <perm = [0, 2, 1]> (probs)
      all_found = NonMaxSuppression (rects, class_first, most, iou, least)
      every_class = Gather <axis = 1> (all_found, col)
      from_last = Sub (every_class, last)
      real = NonZero (from_last)
      real_rows = Squeeze (real, c0)
      found = Gather <axis = 0> (all_found, real_rows)
      labels = Gather <axis = 1> (found, col)"""
    return Pattern(graph(OUTPUTS, weights, start + body + READ), heads, background=CLASSES - 1, some=4)


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


@pattern
def peaks_by_a_small_difference() -> Pattern:
    """Peaks chosen by Where, as they differ little from the MaxPool's (TensorFlow's CenterNet)"""
    return changed(
        peaks_of_a_heat_map(),
        ("same = Equal (around, heat)", "apart = Sub (heat, around)\n      size = Abs (apart)"),
        ("peak = Cast <to = 1> (same)", "same = Less (size, little)"),
        ("peaks = Mul (heat, peak)", "peaks = Where (same, heat, none)"),
        ("int64 area = {16}", "int64 area = {16}, float little = {0.000001}, float none = {0.0}"),
    )


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
def nms_scores_by_flat_index() -> Pattern:
    """Scores read by `box * C + class` out of all, laid flat with classes last"""
    return after_nms(
        """
      class_at = Gather <axis = 1> (found, col)
      box_at = Gather <axis = 1> (found, row)
      line = Reshape (object_probs, flat_line)
      before = Mul (box_at, objects)
      index = Add (before, class_at)
      scores = Gather <axis = 0> (line, index)
      labels = Add (class_at, one)
      flat = Squeeze (rects, c0)
      boxes = Gather <axis = 0> (flat, box_at)""",
        more=f", int64[1] flat_line = {{-1}}, int64 objects = {{{CLASSES - 1}}}",
    )


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
