"""How many scores are followed at most: a few bytes of a file can declare billions.

Following takes a number for each element, and time and memory for each number.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from onnx_headcut.errors import GraphRefused

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx

ONE, ALL = 3 << 24, 1 << 29
"""Elements of one tensor, and of all together: EfficientDet-D7 has 40 million scores a picture."""


def check(node: onnx.NodeProto, shape: Sequence[int]) -> None:
    """Raise GraphRefused where a tensor that ``node`` makes has too many elements to be followed."""
    if math.prod(shape) > ONE:
        raise _too_many(node, math.prod(shape))


def check_all(node: onnx.NodeProto, count: int) -> None:
    """Raise GraphRefused where all tensors up to ``node`` have together."""
    if count > ALL:
        raise _too_many(node, count)


def _too_many(node: onnx.NodeProto, count: int) -> GraphRefused:
    return GraphRefused(
        f"up to here there are {count:,} scores, which are too many to be followed",
        node=node.name or next(iter(node.output), ""),
        op=node.op_type,
        advice="take smaller pictures (--input-shape NAME=1x3x320x320), or export for such",
    )
