"""One constant for several uses, and layers that only look like heads."""

from __future__ import annotations

from patterns.branched import GATHER
from patterns.channels import BOX_WEIGHTS, layout
from patterns.frame import CLASSES, OUTPUTS, Head, Pattern, front, graph, pattern


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
def weights_shared_through_identity() -> Pattern:
    """The second level's class weight and bias are the first one's through Identity (TorchScript)"""
    weights = f"{BOX_WEIGHTS}, float[12,8,1,1] cls_w, float[12] cls_b, int64[3] to_cls = {{1,-1,6}}"
    again = """
      other_w = Identity (cls_w)
      other_b = Identity (cls_b)"""
    return two_levels("to_cls", weights, again, "other_w, other_b")


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
