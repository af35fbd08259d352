"""Loops over pictures and over classes."""

from __future__ import annotations

import numpy as np

from patterns.frame import (
    CELLS,
    CLASSES,
    FLAT,
    OUTPUTS,
    Array,
    Head,
    Pattern,
    changed,
    front,
    graph,
    pattern,
)
from patterns.suppression import LIMITS

FIND = """
        at = Unsqueeze (i, c0)
        own_scores = Gather <axis = 0> (class_first, at)
        own_rects = Gather <axis = 0> (rects, at)
        found = NonMaxSuppression (own_rects, own_scores, most, iou, least)"""


def pictures_one_by_one(loop: str, more: str = "") -> tuple[str, str, tuple[Head, ...]]:
    """Weights, nodes and heads with a Loop over pictures; ``loop`` begins where it finds boxes."""
    weights, body, heads = front()
    for name, width in (("to_cls", CLASSES), ("to_box", 4)):
        old, new = f"{name} = {{1,-1,{width}}}", f"{name} = {{-1,{CELLS},{width}}}"
        assert old in weights
        weights = weights.replace(old, new)
    weights += LIMITS + ", int64[1] beyond = {9223372036854775807}" + more
    body += """
      probs = Softmax <axis = 2> (logits)
      objects = Slice (probs, c1, beyond, c2)
      class_first = Transpose <perm = [0, 2, 1]> (objects)
      batch = Shape <start = 0, end = 1> (x)
      times = Squeeze (batch)
      true = Constant <value = bool {1}> ()
"""
    return weights, body + loop.replace("FIND", FIND), heads


@pattern
def nms_in_a_loop_over_the_batch() -> Pattern:
    """A Loop over pictures holds NonMaxSuppression"""
    weights, body, heads = pictures_one_by_one(
        """      labels, scores, boxes = Loop (times, true) <body = each (int64 i, bool go_in) =>
          (bool go, int64[12] ids, float[12] values, float[12,4] places) {
        go = Identity (go_in)FIND
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
      }>""",
        ", int64[1] slots = {12}",
    )
    outputs = "int64[N,12] labels, float[N,12] scores, float[N,12,4] boxes"

    def read(outputs: list[Array]) -> Array:
        labels, scores, boxes = outputs
        image = np.repeat(np.arange(len(labels)), 12)[:, None]
        columns = [labels.reshape(-1, 1), scores.reshape(-1, 1), boxes.reshape(-1, 4), image]
        return np.concatenate(columns, axis=1)

    return Pattern(graph(outputs, weights, body, batch="N"), heads, read=read, batch=2, some=3)


@pattern
def nms_in_a_loop_over_the_batch_that_collects() -> Pattern:
    """A Loop over pictures; an If adds the rows of those in which something was found"""
    weights, body, heads = pictures_one_by_one(
        """      rows = Loop (times, true, nothing) <body =
          each (int64 i, bool go_in, float[A,7] so_far) => (bool go, float[B,7] now) {
        go = Identity (go_in)FIND
        count = Size (found)
        some = Greater (count, none)
        now = If (some) <then_branch = add () => (float[B,7] more) {
          values = GatherND (own_scores, found)
          value_col = Unsqueeze (values, c1)
          class_at = Gather <axis = 1> (found, c1)
          ids = Add (class_at, one)
          id_col = Cast <to = 1> (ids)
          box_at = Gather <axis = 1> (found, row)
          flat = Squeeze (own_rects, c0)
          places = Gather <axis = 0> (flat, box_at)
          picture = Cast <to = 1> (i)
          size = Shape (id_col)
          picture_col = Expand (picture, size)
          table = Concat <axis = 1> (id_col, value_col, places, picture_col)
          more = Concat <axis = 0> (so_far, table)
        }, else_branch = keep () => (float[A,7] same) {
          same = Identity (so_far)
        }>
      }>""",
        ", float[0,7] nothing, int64 none = {0}",
    )
    text = graph("float[K,7] rows", weights, body, batch="N")
    return Pattern(text, heads, read=lambda o: o[0], batch=2, some=3)


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
