"""Dense scores whose background the graph cuts off."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from patterns.frame import Pattern, changed, front, graph, pattern

if TYPE_CHECKING:
    from collections.abc import Sequence


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


@pattern
def scores_times_one_less_the_background() -> Pattern:
    """Each class's score times one less the background's"""
    return dense(
        "int64[2] parts = {1, 5}, float one = {1}",
        """
      probs = Softmax <axis = 2> (logits)
      nothing, objects = Split <axis = 2> (probs, parts)
      something = Sub (one, nothing)
      scores = Mul (objects, something)""",
        [1, 2, 3, 4, 5],
    )


@pattern
def classes_taken_apart_and_joined() -> Pattern:
    """Split into single columns (unbind), which are stacked again without the background"""
    single = [f"p{k}" for k in range(6)]
    squeezed = "".join(f"\n      q{k} = Squeeze (p{k}, c2)" for k in range(1, 6))
    wide = "".join(f"\n      r{k} = Unsqueeze (q{k}, c2)" for k in range(1, 6))
    return dense(
        "int64[6] ones = {1, 1, 1, 1, 1, 1}",
        f"""
      probs = Softmax <axis = 2> (logits)
      {", ".join(single)} = Split <axis = 2> (probs, ones){squeezed}{wide}
      scores = Concat <axis = 2> (r1, r2, r3, r4, r5)""",
        [1, 2, 3, 4, 5],
    )


@pattern
def masks_weighed_by_class_probabilities() -> Pattern:
    """A map of each class: all queries' masks by their probabilities, in an Einsum (Mask2Former)"""
    weights, body, heads = front()
    weights += (
        ", int64[1] c0 = {0}, int64[1] minus = {-1}, int64[1] c2 = {2}, int64[4] square = {1,16,2,2}"
    )
    body += """
      probs = Softmax <axis = 2> (logits)
      objects = Slice (probs, c0, minus, c2)
      mask_logits = Reshape (rects, square)
      masks = Sigmoid (mask_logits)
      maps = Einsum <equation = "bqc,bqhw->bchw"> (objects, masks)"""
    axes = ((1, (0, 1, 2, 3, 4)),)
    text = graph("float[1,K,2,2] maps", weights, body)
    return Pattern(text, heads, "dense", background=5, dense=axes)


@pattern
def masks_multiplied_by_class_probabilities() -> Pattern:
    """The same as a MatMul of classes x queries and queries x places"""
    return changed(
        masks_weighed_by_class_probabilities(),
        (
            'maps = Einsum <equation = "bqc,bqhw->bchw"> (objects, masks)',
            """by_class = Transpose <perm = [0, 2, 1]> (objects)
      maps = MatMul (by_class, masks)""",
        ),
        ("int64[4] square = {1,16,2,2}", "int64[3] square = {1,16,4}"),
        ("float[1,K,2,2] maps", "float[1,K,4] maps"),
    )
