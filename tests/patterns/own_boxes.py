"""Boxes and masks that each class has of its own."""

from __future__ import annotations

from typing import Any

from patterns.frame import CLASSES, OUTPUTS, Head, Pattern, graph, pattern, table

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
def class_specific_boxes_that_are_given_out() -> Pattern:
    """Boxes of each class, an output beside those of the class that was found (Mask R-CNN in Keras)"""
    return regions(
        """
      cube = Reshape (deltas, as_cube)
      object_boxes = Slice (cube, c1, beyond, c1)
      features = Slice (rois, c0, six, c1)""" + FOUND + """
      boxes = GatherND (object_boxes, pairs)""",
        OUTPUTS + f", float[16,B,4] cube, float[16,{CLASSES}] features",
        FOUND_CONSTANTS + f", int64[3] as_cube = {{16, -1, 4}}, int64[1] six = {{{CLASSES}}}",
        read=lambda outputs: table(outputs[:3]),
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
