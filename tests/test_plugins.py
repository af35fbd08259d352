"""Detection plugins of other runtimes: cut by rule, and what does not fit together is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from patterns import pictures
from plugin_patterns import PLUGINS, changed, run
from test_patterns import SUBSETS, cut_of, same

import onnx_headcut as hc

if TYPE_CHECKING:
    from plugin_patterns import PluginPattern


@pytest.mark.parametrize("subset", SUBSETS)
@pytest.mark.parametrize("name", PLUGINS)
def test_the_cut_finds_what_the_original_finds(name: str, subset: str) -> None:
    pattern = PLUGINS[name]()
    keep = SUBSETS[subset](pattern.foreground)

    cut = cut_of(pattern, keep).model

    found: set[float] = set()
    for feeds in pictures():
        wanted, got = pattern.expected(keep, feeds), pattern.given(run(cut, feeds))
        found |= same(pattern, got[0], wanted[0])
    assert len(found) >= min(pattern.some, len(keep))


@pytest.mark.parametrize("name", PLUGINS)
def test_ids_can_stay_those_of_the_original(name: str) -> None:
    pattern = PLUGINS[name]()
    keep = SUBSETS["reordered"](pattern.foreground)

    cut = cut_of(pattern, keep, ids="original").model

    for feeds in pictures():
        wanted = pattern.found(run(pattern.masked(keep), feeds))
        same(pattern, pattern.found(run(cut, feeds)), wanted)


@pytest.mark.parametrize("name", PLUGINS)
def test_keeping_all_changes_nothing(name: str) -> None:
    pattern = PLUGINS[name]()
    cut = cut_of(pattern, pattern.foreground).model
    assert cut.graph.SerializeToString() == pattern.model().graph.SerializeToString()


@pytest.mark.parametrize("name", PLUGINS)
def test_the_attributes_tell_the_background_and_the_ids(name: str) -> None:
    pattern = PLUGINS[name]()
    shown = hc.inspect(pattern.model())
    if "background_class" in pattern.text or "Label" in pattern.text or "label" in pattern.text:
        said = shown.classes.background if not shown.classes.background_assumed else None
        assert said == pattern.background
    conventions = {o.convention for o in shown.outputs} - {""}
    assert conventions == {"column - 1" if pattern.offset else "column"}


STRANGE = {
    "a class count that is not the scores'": (
        changed("batched_nms", "numClasses = 6", "numClasses = 5"), "'numClasses' is 5"),
    "no class count": (
        changed("batched_nms", "numClasses = 6, ", ""), "'numClasses' is missing"),
    "a background that is no column": (
        changed("efficient_nms", "background_class = 0", "background_class = 6"), "none of its 6"),
    "a background that the cut drops": (
        changed("efficient_nms", "background_class = 0", "background_class = 3"), "would drop it"),
    "no background": (
        changed("efficient_nms", "background_class = 0, ", ""), "'background_class' is missing"),
    "a background that is no number": (
        changed("efficient_nms", "background_class = 0", "background_class = 0.5"), "whole number"),
    "shared boxes that are not": (
        changed("batched_nms_with_copied_boxes", "shareLocation = 0", "shareLocation = 1"), "boxes"),
    "fewer classes than columns": (
        changed("tflite", "num_classes = 5", "num_classes = 4"), "'num_classes' is 4"),
    "more classes than columns": (
        changed("tflite", "num_classes = 5", "num_classes = 7"), "'num_classes' is 7"),
    "scores of another count": (
        changed("detection_output", "num_classes = 6", "num_classes = 12"), "12 columns side by side"),
    "ids without a background": (
        changed("detection_output_without_class_count", "decrease_label_id = 1",
                "decrease_label_id = 1, background_label_id = -1"), "counts classes from 1"),
    "classes before boxes": (
        changed("efficient_nms", "= 0.05> (rects, probs)", "= 0.05> (rects, turned)"), "on axis 1"),
}  # fmt: skip


@pytest.mark.parametrize("what", STRANGE)
def test_what_does_not_fit_together_is_refused(what: str) -> None:
    pattern, reason = STRANGE[what]
    with pytest.raises(hc.GraphRefused, match=reason) as caught:
        cut_of(turned(pattern), [1, 2])
    assert caught.value.op in pattern.text
    assert caught.value.advice


def turned(pattern: PluginPattern) -> PluginPattern:
    """With scores [batch, classes, boxes], where it reads them."""
    if "turned" not in pattern.text:
        return pattern
    node = "turned = Transpose <perm = [0, 2, 1]> (probs)\n      n, boxes"
    text = pattern.text.replace("n, boxes", node, 1)
    return type(pattern)(text, pattern.heads, read=pattern.read, background=pattern.background)


def test_a_plugin_that_takes_classes_as_one_is_told_of() -> None:
    pattern = changed("efficient_nms", "box_coding", "class_agnostic = 1, box_coding")
    assert "whatever their classes" in cut_of(pattern, [1, 2]).plan.notes[0]


def test_fewer_rows_are_told_of() -> None:
    result = cut_of(PLUGINS["tflite_with_classes_of_each_box"](), [1, 2])
    assert "only 2 are left" in result.plan.notes[0]
    dims = {o.name: [d.dim_value for d in o.type.tensor_type.shape.dim]
            for o in result.model.graph.output}  # fmt: skip
    assert dims["n"] == [1]
