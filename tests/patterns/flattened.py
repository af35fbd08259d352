"""One TopK over (box, class), and queries that are picked by their scores."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from patterns.frame import (
    CELLS,
    CLASSES,
    OUTPUTS,
    Array,
    Head,
    Pattern,
    changed,
    front,
    graph,
    pattern,
    table,
)

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
def top_k_with_sizes_of_each_class() -> Pattern:
    """A row of four numbers of each class, read by the label and added to the box"""
    return flat_top_k(
        INTEGERS,
        """
      label_flat = Squeeze (label_row, c0)
      own_sizes = Gather <axis = 0> (sizes, label_flat)
      places = Gather <axis = 0> (flat_rects, box_row)
      boxes = Add (places, own_sizes)""",
        more=f", float[{CLASSES},4] sizes",
    )


@pattern
def top_k_over_classes_in_another_order() -> Pattern:
    """Objects picked behind a softmax in an order of their own, which says the labels, too"""
    return changed(
        flat_top_k(
            """
      box_at = Div (index, five)
      number = Mod (index, five)
      label_row = Gather (order, number)""",
            more=", int64 five = {5}, int64[5] order = {3, 1, 5, 2, 4}",
        ),
        (
            "squashed = Sigmoid (logits)",
            """probs = Softmax <axis = 2> (logits)
      squashed = Gather <axis = 2> (probs, order)""",
        ),
        background=0,
    )


NAMES = ("ant", "bee", "cat", "dog", "eel", "fox")
CODES = (7, 3, 9, 1, 12, 5)


def named(outputs: list[Array]) -> Array:
    """Rows with the place of each class's name among all of them."""
    places = [NAMES.index(str(name)) for name in outputs[0].ravel()]
    return table([np.array(places), *outputs[1:]])


def of_names(found: Pattern) -> Pattern:
    """Its labels are names, and operators for such things are there."""
    text = found.text.replace("int64[K] labels", "string[K] labels")
    text = text.replace('["": 17]', '["": 17, "ai.onnx.ml": 3]')
    return replace(found, text=text, own_ids=True, read=named)


@pattern
def top_k_with_names() -> Pattern:
    """Names of classes read from a table of strings"""
    names = ", ".join(f'"{name}"' for name in NAMES)
    return of_names(
        flat_top_k(
            """
      box_at = Div (index, c)
      number = Mod (index, c)
      label_row = Gather (names, number)""",
            more=f", string[{CLASSES}] names = {{{names}}}",
        )
    )


def encoded(values: str) -> Pattern:
    """Class numbers through a LabelEncoder."""
    keys = ", ".join(map(str, range(CLASSES)))
    return flat_top_k(f"""
      box_at = Div (index, c)
      number = Mod (index, c)
      label_row = ai.onnx.ml.LabelEncoder <keys_int64s = [{keys}], {values}> (number)""")


@pattern
def top_k_with_names_by_a_label_encoder() -> Pattern:
    """Names of classes by a LabelEncoder"""
    names = ", ".join(f'"{name}"' for name in NAMES)
    return of_names(encoded(f"values_strings = [{names}]"))


@pattern
def top_k_with_codes_by_a_label_encoder() -> Pattern:
    """Codes of the model's own by a LabelEncoder"""
    codes = ", ".join(f"{code}.0" for code in CODES)
    found = of_names(encoded(f"values_floats = [{codes}]"))
    text = found.text.replace("string[K] labels", "float[K] labels")
    return replace(found, text=text, read=table)


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
