"""If bodies and local functions."""

from __future__ import annotations

from dataclasses import replace

from patterns.backgrounds import dense
from patterns.frame import CLASSES, FLAT, OUTPUTS, Head, Pattern, front, graph, pattern
from patterns.suppression import LIMITS


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
