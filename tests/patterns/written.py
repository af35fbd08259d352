"""Suppression written out in arithmetic or over all classes, and tables padded behind it."""

from __future__ import annotations

from patterns.frame import FLAT, OUTPUTS, Pattern, changed, front, graph, pattern
from patterns.suppression import LIMITS


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
def soft_nms_in_a_loop() -> Pattern:
    """A Loop takes the best of all, and what is like it and of its class loses some of its score"""
    weights, body, heads = front()
    body += """
      probs = Sigmoid (logits)
      flat = Flatten <axis = 0> (probs)
      line = Squeeze (flat, c0)
      start, index = TopK (line, twelve)
      box_at = Div (index, c)
      ids = Mod (index, c)
      rect = Squeeze (rects, c0)
      own = Gather (rect, box_at)
      rest, at, scores = Loop (five, yes, start) <body = step (int64 i, bool go, float[12] left) => (
        bool on, float[12] less, int64 best, float score) {
        on = Identity (go)
        best = ArgMax <axis = 0, keepdims = 0> (left)
        score = Gather (left, best)
        id = Gather (ids, best)
        same = Equal (ids, id)
        box = Gather (own, best)
        apart = Sub (own, box)
        wide = Abs (apart)
        widest = ReduceMax <axes = [1], keepdims = 0> (wide)
        closer = Neg (widest)
        like = Exp (closer)
        same_float = Cast <to = 1> (same)
        near = Mul (like, same_float)
        minus = Neg (near)
        factor = Exp (minus)
        weighed = Mul (left, factor)
        best_1 = Unsqueeze (best, c0)
        less = ScatterElements <axis = 0> (weighed, best_1, nothing)
      }>
      labels = Gather (ids, at)
      boxes = Gather (own, at)"""
    weights += (
        ", int64[1] c0 = {0}, int64[1] twelve = {12}, int64 c = {6}, int64 five = {5}, bool yes = {1}, "
        "float[1] nothing = {0}"
    )
    return Pattern(graph(OUTPUTS, weights, body), heads, background=None, some=2)


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
