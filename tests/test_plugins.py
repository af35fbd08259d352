"""Detection plugins of other runtimes: cut by rule, and what does not fit together is refused."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from onnx import helper, numpy_helper
from patterns import pictures
from plugin_ops import run
from plugin_patterns import PLUGINS, changed
from test_patterns import SUBSETS, cut_of, same

import onnx_headcut as hc

if TYPE_CHECKING:
    import onnx
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


def test_deltas_and_other_names_on_the_way_are_followed() -> None:
    """As Detectron2 exports them for Caffe2: BBoxTransform decodes, AliasWithName does nothing."""
    pattern = PLUGINS["box_with_nms_limit"]()
    text = pattern.text.replace("(flat, each)", "(alias, decoded)").replace(
        "scores, boxes, labels = org",
        """alias = org.pytorch._caffe2.AliasWithName <name = "cls_prob"> (flat)
      rois = Squeeze (rects, zero_axis)
      decoded, splits = org.pytorch._caffe2.BBoxTransform <rotated = 0> (rois, each, x)
      scores, boxes, numbers = org""",
    )
    text = text.replace(
        "score_thresh = 0.05> (alias, decoded)",
        """score_thresh = 0.05> (alias, decoded)
      labels = org.pytorch._caffe2.AliasWithName <name = "class_nms"> (numbers)""",
    )
    found = cut_of(replace(pattern, text=text), [3, 1])
    sizes = {t.name: t.dims[0] for t in found.model.graph.initializer if t.name[-2:] in {"_w", "_b"}}
    assert (sizes["cls_w"], sizes["each_w"], sizes["each_b"]) == (3, 8, 8)
    assert {o.convention for o in found.plan.outputs} - {""} == {"column"}


def test_a_plugin_without_inputs_is_refused() -> None:
    pattern = changed("efficient_nms", "(rects, probs)", "()")
    with pytest.raises(hc.GraphRefused, match="shapes cannot be used"):
        cut_of(pattern, [1, 2])


def test_a_plugin_that_takes_classes_as_one_is_told_of() -> None:
    pattern = changed("efficient_nms", "box_coding", "class_agnostic = 1, box_coding")
    assert "whatever their classes" in cut_of(pattern, [1, 2]).plan.notes[0]


def test_fewer_rows_are_told_of() -> None:
    result = cut_of(PLUGINS["tflite_with_classes_of_each_box"](), [1, 2])
    assert "only 2 are left" in result.plan.notes[0]
    dims = {o.name: [d.dim_value for d in o.type.tensor_type.shape.dim]
            for o in result.model.graph.output}  # fmt: skip
    assert dims["n"] == [1]


# ------------------------------------------------------------------------------------- validation


def keep_of(pattern: PluginPattern) -> list[int]:
    return SUBSETS["reordered"](pattern.foreground)


@pytest.mark.parametrize("ids", ["compact", "original"])
@pytest.mark.parametrize("name", PLUGINS)
def test_validation_compares_what_enters_and_says_so(name: str, ids: str) -> None:
    pattern = PLUGINS[name]()

    verdict = hc.cut(pattern.model(), keep_of(pattern), ids=ids, provider="cpu", **pattern.told).verdict

    assert verdict, verdict.reasons
    assert len(verdict.not_run) == 1
    assert "no detections were" in verdict.notes[0]
    assert {row.kind for row in verdict.outputs} == {"scores", "dense", "apart"}
    assert not any(row.detections for row in verdict.classes)
    assert verdict.to_dict()["not_run"] == verdict.not_run


@dataclass(frozen=True)
class Says:
    """An attribute says something else, or is not there."""

    attribute: str
    value: Any

    def __call__(self, model: onnx.ModelProto) -> None:
        node = next(n for n in model.graph.node if n.domain)
        old = [a for a in node.attribute if a.name != self.attribute]
        assert [a for a in node.attribute if a.name == self.attribute] != [self.value]
        del node.attribute[:]
        node.attribute.extend(old)
        if self.value is not None:
            node.attribute.append(helper.make_attribute(self.attribute, self.value))


@dataclass(frozen=True)
class Turns:
    """The rows of a stored tensor stand in another order."""

    tensor: str

    def __call__(self, model: onnx.ModelProto) -> None:
        tensor = next(t for t in model.graph.initializer if t.name == self.tensor)
        array = np.roll(numpy_helper.to_array(tensor), 1, axis=0)
        tensor.CopyFrom(numpy_helper.from_array(array, self.tensor))


@dataclass(frozen=True)
class Reads:
    """The plugin reads another value."""

    slot: int
    value: str

    def __call__(self, model: onnx.ModelProto) -> None:
        next(n for n in model.graph.node if n.domain).input[self.slot] = self.value


WRONG = [
    ("efficient_nms", Turns("cls_w"), {}),
    ("efficient_nms", Says("background_class", 1), {}),
    ("efficient_nms", Says("background_class", None), {}),
    ("efficient_nms", Says("max_output_boxes", 50), {}),
    ("efficient_nms", Says("class_agnostic", 1), {}),
    ("efficient_nms", Reads(1, "logits"), {}),
    ("efficient_nms", Turns("labels_ids"), {"ids": "original"}),
    ("efficient_nms_with_boxes_of_each_class", Turns("each_w"), {}),
    ("efficient_nms_of_tensorflow", Says("max_total_size", 48), {}),
    ("efficient_nms_indices", Turns("cls_b"), {}),
    ("efficient_nms_indices", Turns("labels_ids"), {"ids": "original"}),
    ("batched_nms", Says("numClasses", 6), {}),
    ("batched_nms", Says("backgroundLabelId", 5), {}),
    ("batched_nms", Says("backgroundLabelId", -1), {}),
    ("batched_nms", Turns("labels_ids"), {"ids": "original"}),
    ("batched_nms_with_copied_boxes", Says("shareLocation", 1), {}),
    ("batched_nms_of_mmdeploy", Says("num_classes", 6), {}),
    ("batched_nms_of_mmdeploy", Says("background_label_id", 0), {}),
    ("batched_nms_of_mmdeploy", Says("keep_topk", 48), {}),
    ("rotated_nms_of_mmdeploy", Turns("cls_b"), {}),
    ("tflite", Says("num_classes", 5), {}),
    ("tflite", Says("num_classes", 4), {}),
    ("tflite", Turns("anchors"), {}),
    ("tflite", Turns("labels_ids"), {"ids": "original"}),
    ("tflite_with_classes_of_each_box", Says("max_classes_per_detection", 5), {}),
    ("detection_output", Says("num_classes", 6), {}),
    ("detection_output", Says("share_location", 0), {}),
    ("detection_output", Turns("table_ids"), {"ids": "original"}),
    ("detection_output_without_class_count", Says("decrease_label_id", 0), {}),
    ("detection_output_with_boxes_of_each_class", Turns("each_b"), {}),
    ("box_with_nms_limit", Turns("each_w"), {}),
    ("box_with_nms_limit", Turns("cls_b"), {}),
    ("box_with_nms_limit", Says("output_classes_include_bg_cls", 1), {}),
    ("box_with_nms_limit", Turns("labels_ids"), {"ids": "original"}),
    ("nms_of_tensorrt", Says("backgroundLabelId", 3), {}),
    ("nms_of_tensorrt", Says("inputOrder", [0, 1, 2]), {}),
]


@pytest.mark.parametrize(("name", "mistake", "options"), WRONG, ids=[f"{n}-{m}" for n, m, _ in WRONG])
def test_validation_sees_planted_mistakes(
    name: str, mistake: Says | Turns | Reads, options: dict[str, Any]
) -> None:
    pattern = PLUGINS[name]()
    keep = keep_of(pattern)
    cut = cut_of(pattern, keep, **options).model
    del cut.metadata_props[:]  # so that nothing but what both graphs compute and say can tell
    assert hc.validate(pattern.model(), cut, keep, provider="cpu", **pattern.told, **options)

    mistake(cut)

    assert not hc.validate(pattern.model(), cut, keep, provider="cpu", **pattern.told, **options)
