"""Layouts of a head's channels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from patterns.frame import CLASSES, Head, Pattern, front, graph, pattern

if TYPE_CHECKING:
    from collections.abc import Sequence


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
def best_score_beside_classes() -> Pattern:
    """Box, the best of the classes' scores and these on one axis of a map (Luxonis)"""
    weights = "float[4,8,1,1] box_w, float[4] box_b, float[6,8,1,1] cls_w, float[6] cls_b"
    body = """
      box_map = Conv (x, box_w, box_b)
      cls_map = Conv (x, cls_w, cls_b)
      squashed = Sigmoid (cls_map)
      best = ReduceMax <axes = [1], keepdims = 1> (squashed)
      scores = Concat <axis = 1> (box_map, best, squashed)"""
    ids = (*[-1] * 5, *range(6))
    return Pattern(
        graph("float[1,C,4,4] scores", weights, body),
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


@pattern
def sums_and_best_scores_beside_scores() -> Pattern:
    """The sum of all classes' scores, clipped, and the best of them beside all (RKNN's maps)"""
    weights, body, heads = front()
    weights += ", int64[1] last = {2}, float least = {0.0}, float most = {1.5}"
    body += """
      probs = Sigmoid (logits)
      total = ReduceSum (probs, last)
      sums = Clip (total, least, most)
      bests = ReduceMax <axes = [2]> (probs)"""
    outputs = "float[1,16,4] rects, float[1,16,L] probs, float[1,16,1] sums, float[1,16,1] bests"
    axes = (2, ()), (2, tuple(range(CLASSES))), (2, ()), (2, ())
    text = graph(outputs, weights, body)
    return Pattern(text, heads, "dense", background=None, dense=axes)
