"""Scan over classes, boxes and numbers."""

from __future__ import annotations

from typing import Any

from patterns.frame import FLAT, OUTPUTS, Pattern, front, graph, pattern
from patterns.suppression import LIMITS


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
