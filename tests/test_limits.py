"""Limits that moved a little: noise whose best scores lie anywhere, and slots that are all filled."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from test_planted import Reads, cut_of, plus, to, verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx

MISTAKES: dict[str, tuple[str, Callable[[onnx.ModelProto], None]]] = {
    "a threshold is a little higher": ("nms_class_agnostic", Reads("found", 4, to(0.12))),
    "boxes may share more": ("nms_class_agnostic", Reads("found", 3, plus(0.1))),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_limit_that_moved_a_little_does_not_pass(mistake: str) -> None:
    name, make = MISTAKES[mistake]
    cut = cut_of(name)
    make(cut)
    assert verdict(name, cut).status == "failed"


def test_scores_at_other_places_fail_without_an_error() -> None:
    """Another level's scores, of another extent, in place of a level's own."""
    name = "weights_shared_through_identity"
    cut = cut_of(name)
    nodes = {node.output[0]: node for node in cut.graph.node}
    nodes["cls_rows_0"].input[0] = "cls_last_1"
    last = next(i for i, node in enumerate(cut.graph.node) if node.output[0] == "cls_last_1")
    first = next(i for i, node in enumerate(cut.graph.node) if node.output[0] == "cls_rows_0")
    if first < last:  # its maker has to come before
        node = cut.graph.node[first]
        cut.graph.node.insert(last + 1, node)
        del cut.graph.node[first]
    assert verdict(name, cut).status == "failed"


def test_outputs_whose_rows_do_not_correspond_fail_without_an_error() -> None:
    name = "loop_over_classes_by_slice"
    cut = cut_of(name)
    cut.graph.node.extend([node for node in cut.graph.node if node.output[0] == "boxes"])
    del cut.graph.node[next(i for i, n in enumerate(cut.graph.node) if n.output[0] == "boxes")]
    cut.graph.node[-1].input[0] = "box_last"
    assert verdict(name, cut).status == "failed"
