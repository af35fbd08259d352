"""Planted mistakes: validation sees each of them, by numbers alone.

A right cut passes; with one mistake of the kind that a cutter makes (a class count that stayed, a
label of another class, a box of a neighbour) it must not. The cut's record of itself is taken off,
so that nothing but what both graphs compute can tell.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from conftest import some
from exported import each_node
from onnx import NodeProto, helper, numpy_helper
from patterns import CLASSES, PATTERNS, REFUSED, Array

import onnx_headcut as hc

if TYPE_CHECKING:
    from collections.abc import Callable


def kept(name: str) -> list[int]:
    """Three classes in another order than before."""
    classes = PATTERNS[name]().foreground
    return [classes[-2], classes[0], classes[2]]


def cut_of(name: str) -> onnx.ModelProto:
    """The right cut, without a record of what was done."""
    return onnx.ModelProto.FromString(right(name))


@cache
def right(name: str) -> bytes:
    """Cut once for all mistakes that are made in it."""
    pattern = PATTERNS[name]()
    model = hc.cut(pattern.model(), kept(name), validation=False, **pattern.told).model
    del model.metadata_props[:]
    return bytes(model.SerializeToString())


def verdict(name: str, cut: onnx.ModelProto) -> hc.Verdict:
    pattern = PATTERNS[name]()
    return hc.validate(pattern.model(), cut, kept(name), provider="cpu", **pattern.told)


# ------------------------------------------------------------------------------ ways to go wrong


def maker(model: onnx.ModelProto, value: str) -> NodeProto:
    return next(n for n in each_node(model.graph) if value in n.output)


@dataclass(frozen=True)
class Reads:
    """The node that makes ``value`` reads something else as its input ``i``, and no other does."""

    value: str
    i: int
    change: Callable[[Array], Array]

    def __call__(self, model: onnx.ModelProto) -> None:
        node = maker(model, self.value)
        old = stored(model, node.input[self.i])
        new = np.asarray(self.change(old), old.dtype)
        assert new.shape != old.shape or (new != old).any(), "that is no mistake"
        name = f"mistaken_{self.value}"
        model.graph.initializer.append(numpy_helper.from_array(new, name))
        node.input[self.i] = name


def stored(model: onnx.ModelProto, name: str) -> Array:
    for tensor in model.graph.initializer:
        if tensor.name == name:
            return numpy_helper.to_array(tensor)
    return numpy_helper.to_array(maker(model, name).attribute[0].t)


@dataclass(frozen=True)
class Says:
    """A ConstantOfShape fills in another number."""

    value: str
    number: float

    def __call__(self, model: onnx.ModelProto) -> None:
        node = maker(model, self.value)
        old = numpy_helper.to_array(node.attribute[0].t)
        assert old != self.number, "that is no mistake"
        del node.attribute[:]
        new = np.full(1, self.number, old.dtype)
        node.attribute.append(helper.make_attribute("value", numpy_helper.from_array(new)))


@dataclass(frozen=True)
class Loses:
    """Concats lose their last input."""

    values: tuple[str, ...]

    def __call__(self, model: onnx.ModelProto) -> None:
        for value in self.values:
            maker(model, value).input.pop()


@dataclass(frozen=True)
class Joins:
    """A Concat joins the same in another order."""

    value: str
    order: tuple[int, ...]

    def __call__(self, model: onnx.ModelProto) -> None:
        node = maker(model, self.value)
        names = [node.input[i] for i in self.order]
        del node.input[:]
        node.input.extend(names)


@dataclass(frozen=True)
class Ignores:
    """A node reads zero as its input ``i``."""

    value: str
    i: int

    def __call__(self, model: onnx.ModelProto) -> None:
        zero = numpy_helper.from_array(np.zeros((), np.float32), "mistaken_zero")
        model.graph.initializer.append(zero)
        maker(model, self.value).input[self.i] = zero.name


@dataclass(frozen=True)
class Encodes:
    """A LabelEncoder gives each key the value of the one before."""

    value: str

    def __call__(self, model: onnx.ModelProto) -> None:
        for attribute in maker(model, self.value).attribute:
            if attribute.name.startswith("values_"):
                values = attribute.floats or attribute.strings
                values[:] = [values[-1], *values[:-1]]


def to(value: float) -> Callable[[Array], Array]:
    return lambda old: np.full(old.shape, value)


def plus(value: float) -> Callable[[Array], Array]:
    return lambda old: old + value


def rolled(axis: int, first: int, stop: int) -> Callable[[Array], Array]:
    """Positions ``first`` to ``stop`` of an axis, each in the place of the one before."""

    def change(old: Array) -> Array:
        places = np.arange(old.shape[axis])
        places[first:stop] = np.roll(places[first:stop], 1)
        return old.take(places, axis)

    return change


C = CLASSES
THREE = ("labels", "scores", "boxes")

MISTAKES: dict[str, tuple[str, Callable[[onnx.ModelProto], None]]] = {
    # branches
    "a label is that of the original": ("branches_with_constant_of_shape", Says("l_4", 4)),
    "a branch reads another class": ("branches_with_constant_of_shape", Reads("s_1", 1, plus(1))),
    "a branch is lost": ("branches_by_slice", Loses(THREE)),
    "a slice reads another class": ("branches_by_slice", Reads("wide_1", 1, plus(1))),
    "boxes of another class behind a Split": ("branches_by_split", Joins("boxes", (1, 0, 2))),
    "an expanded label stays": ("branches_with_expand", Reads("l_4", 0, to(4))),
    "an added number stays": ("branches_with_added_number", Reads("l_4", 1, to(4))),
    "a factor stays": ("branches_with_ones_times_number", Reads("numbers_4", 1, to(4))),
    "a number taken off stays": ("branches_with_negative_number_taken_off", Reads("l_4", 1, to(-4))),
    "a number added to nothing stays": (
        "branches_with_number_added_to_nothing",
        Reads("l_4", 1, to(4)),
    ),
    "a number stays that one branch is filled with": (
        "branches_with_a_number_left_out",
        Says("l_1", 4),
    ),
    "a factor stays that one branch lacks": (
        "branches_with_a_factor_left_out",
        Reads("ones_1", 0, to(1)),
    ),
    "a table has another class where it is an index": (
        "branches_with_index_table",
        Reads("s_4", 1, plus(1)),
    ),
    "a folded table is sliced elsewhere": (
        "branches_with_folded_labels",
        Reads("labels", 0, lambda old: np.roll(old, 3)),
    ),
    "scores and boxes of branches stand in another order": (
        "branches_with_folded_labels",
        Joins("all_boxes", (2, 0, 1)),
    ),
    "a row's label stays": ("branches_of_row_tables", Says("id_4", 4)),
    # NonMaxSuppression
    "ids are off by one": ("nms_columns_gathered", Reads("labels", 1, plus(1))),
    "a sum is clipped elsewhere": ("sums_and_best_scores_beside_scores", Reads("sums", 2, to(1.0))),
    "another class is left out": ("nms_rows_of_the_background_left_out", Reads("from_last", 1, to(1))),
    "ids count from zero": ("nms_columns_sliced_and_cast", Reads("ids", 1, to(0))),
    "ids are scaled in a table": (
        "table_scaled_by_column",
        Reads("rows", 1, lambda a: a * np.array([2, 1, 1, 1, 1, 1], a.dtype)),
    ),
    "boxes of another row": ("nms_columns_sliced_and_cast", Reads("box_at", 1, to(1))),
    "sorted ids are off by one": ("nms_rows_filled_up_and_sorted", Reads("labels", 1, to(0))),
    "a peak's class by another area": ("peaks_of_a_heat_map", Reads("label_row", 1, to(8))),
    "more is a peak than peaks are": ("peaks_by_a_small_difference", Reads("same", 1, to(9.0))),
    "rounded ids are off by one": ("ids_rounded_by_a_quantizer", Reads("ids", 1, to(2))),
    "sizes of other classes behind a OneHot": (
        "one_hot_of_the_best_class",
        Reads("own_sizes", 1, lambda old: np.roll(old, 1)),
    ),
    "thresholds as they stood": (
        "threshold_of_each_class",
        Reads("least_of", 0, lambda _: [0.6, 0.1, 0.3]),
    ),
    "scattered ids are off by one": ("nms_scattered", Reads("ids", 1, to(2))),
    "scores are read by the old class count": ("nms_scores_by_flat_index", Reads("before", 1, to(5))),
    "scores are written for the class before": (
        "nms_scores_scattered",
        Reads("labels", 1, to(0)),
    ),
    "a cap is smaller": ("nms_with_total_cap", Reads("limit", 1, to(3))),
    "a class gives fewer detections": ("nms_capped_by_the_class_count", Reads("per_all", 1, to(1))),
    "classes are not moved apart": ("nms_batched_trick", Ignores("moved", 1)),
    "centres are not moved apart": ("nms_of_rotated_boxes_written_out", Ignores("moved_centres", 1)),
    "corners are not moved apart": ("nms_of_corners_written_out", Ignores("moved", 1)),
    "boxes of two classes hide one another": (
        "nms_written_out_within_a_class",
        Reads("hidden", 1, to(-1)),
    ),
    "ids in a loop by the old class count": ("soft_nms_in_a_loop", Reads("ids", 1, to(C))),
    "the best of all columns, background included": (
        "nms_class_agnostic",
        Reads("objects", 1, to(0)),
    ),
    "a table is read up to the class before": (
        "rows_padded_to_a_full_table",
        Reads("objects", 2, to(6)),
    ),
    "rows are cut short": ("rows_padded_to_a_full_table", Reads("missing", 1, to(3))),
    "rows are wide by the old class count": (
        "rows_as_wide_as_what_is_beside_classes",
        Reads("extra", 1, plus(1)),
    ),
    "another column is the background": ("argmax_over_classes", Reads("same", 1, to(1))),
    "ids are off by one in a loop": ("nms_in_a_loop_over_the_batch", Reads("some_ids", 1, to(0))),
    "ids are off by one where an If adds rows": (
        "nms_in_a_loop_over_the_batch_that_collects",
        Reads("ids", 1, to(0)),
    ),
    "a loop ends too early": ("loop_over_classes_by_slice", Reads("go", 1, to(2))),
    "a loop runs once too few": ("loop_over_classes_by_slice", Reads("last", 0, to(2))),
    "a loop reads another class": ("loop_over_classes_by_slice", Reads("to_at", 1, to(2))),
    "codes as they stood": (
        "loop_over_classes_with_codes",
        Reads("code", 0, lambda _: [11, 22, 33]),
    ),
    "a table of the order with a class twice": (
        "loop_over_classes_in_another_order",
        Reads("class_at", 0, lambda _: [1, 1, 2]),
    ),
    "factors as they stood": (
        "loop_over_classes_with_gains",
        Reads("gain", 0, lambda _: [0.5, 1.5, 0.7]),
    ),
    "limits as they stood": ("loop_over_classes_with_limits", Reads("most_of", 0, lambda _: [1, 4, 2])),
    "rows of a matrix as they stood": (
        "loop_over_classes_with_rows_of_a_matrix",
        Reads("wide_row", 0, lambda old: old[:, [1, 0, 2]]),
    ),
    "rows by the old count": ("loop_over_classes_told_by_place", Reads("turn", 1, to(5))),
    "rows joined with another class's label": (
        "loop_over_classes_with_rows_joined",
        Reads("class_at", 1, to(0)),
    ),
    "a label of another class is collected": (
        "loop_over_classes_that_collects",
        Reads("class_at", 1, to(2)),
    ),
    "the condition ends it as before": (
        "loop_over_classes_without_a_trip_count",
        Reads("go", 1, to(2)),
    ),
    "an If leaves out classes with few rows": ("loop_over_classes_with_an_if", Reads("some", 1, to(3))),
    "another class is treated in its own way": (
        "loop_over_classes_with_a_case",
        Reads("case", 1, to(2)),
    ),
    "a scanned table of labels as it stood": (
        "scan_over_classes",
        Reads("all_ids", 1, lambda _: [4, 1, 3]),
    ),
    "a count of classes starts one later": ("scan_over_classes_that_counts", Reads("last", 0, to(1))),
    "a class is scanned twice": ("scan_over_class_numbers", Reads("all_ids", 0, lambda _: [1, 1, 2])),
    "ids are off by one in a scan": ("scan_over_boxes", Reads("id", 1, to(0))),
    "a state starts high for a class": (
        "scan_with_a_state_for_each_class",
        Reads("best", 0, lambda _: [0, 0, 5]),
    ),
    # flattened top-k
    "boxes by the old class count": ("top_k_div_mod", Reads("box_at", 1, to(C))),
    "labels by the old class count": ("top_k_div_mod", Reads("label_row", 1, to(C))),
    "a product by the old class count": ("top_k_div_mul_sub", Reads("whole", 1, to(C))),
    "a ratio by the old class count": ("top_k_in_floats", Reads("ratio", 1, to(C))),
    "the old reciprocal": ("top_k_by_reciprocal", Reads("ratio", 1, to(1 / C))),
    "k as it was": ("top_k_of_more_than_is_left", Reads("top", 1, to(90))),
    "k smaller than it was": ("top_k_div_mod", Reads("top", 1, to(9))),
    "a row of labels is read as it stood": (
        "top_k_with_a_table_of_labels",
        Reads("label_row", 0, lambda old: np.arange(old.size).reshape(old.shape) % C),
    ),
    "sizes of other classes": (
        "top_k_with_sizes_of_each_class",
        Reads("own_sizes", 0, lambda old: np.roll(old, 1, axis=0)),
    ),
    "labels of an order as they stood": (
        "top_k_over_classes_in_another_order",
        Reads("label_row", 0, lambda old: np.roll(old, 1)),
    ),
    "names of classes as they stood": (
        "top_k_with_names",
        Reads("label_row", 0, lambda _: ["ant", "bee", "cat"]),
    ),
    "the name of the class before": ("top_k_with_names_by_a_label_encoder", Encodes("label_row")),
    "the code of the class before": ("top_k_with_codes_by_a_label_encoder", Encodes("label_row")),
    "boxes copied by the old class count": ("top_k_with_gather_elements", Reads("box_at", 1, to(C))),
    "the second head has its classes in another order": (
        "queries_picked_by_their_best_score",
        Reads("multiplied", 1, rolled(1, 0, 3)),
    ),
    "a query head lost a class": (
        "queries_picked_by_their_best_score",
        Reads("cls_map", 2, lambda old: np.where(np.arange(3) == 1, -50, old)),
    ),
    "rows of queries have two classes swapped": (
        "queries_with_scores_of_all_classes",
        Reads("multiplied", 1, rolled(1, 0, 2)),
    ),
    "the head that picks lost a class": (
        "queries_with_scores_of_all_classes",
        Reads("cls_map", 2, lambda old: np.where(np.arange(3) == 1, -50, old)),
    ),
    "queries are picked by another column": ("queries_picked_by_one_column", Reads("best", 1, to(1))),
    # the background
    "the background is still there": ("background_sliced_off_the_front", Reads("scores", 1, to(0))),
    "the last class is cut off": (
        "background_sliced_off_by_its_count",
        Reads("scores", 2, to(2)),
    ),
    "the negative start as it was": (
        "background_sliced_off_from_a_negative_start",
        Reads("scores", 1, to(-5)),
    ),
    "the background is taken for a class": (
        "background_sliced_off_the_back",
        Reads("cls_map", 1, rolled(0, 0, 4)),
    ),
    "split one column later": ("background_split_off", Reads("nothing", 1, lambda _: [2, 2])),
    "the background takes nothing off": (
        "scores_times_one_less_the_background",
        Ignores("something", 1),
    ),
    "single columns are joined in another order": (
        "classes_taken_apart_and_joined",
        Joins("scores", (1, 0, 2)),
    ),
    "masks weighed for the class before": (
        "masks_weighed_by_class_probabilities",
        Reads("cls_map", 1, rolled(0, 0, 3)),
    ),
    "masks multiplied for the class before": (
        "masks_multiplied_by_class_probabilities",
        Reads("cls_map", 1, rolled(0, 0, 3)),
    ),
    # boxes and masks of each class
    "an output without classes is cut as well": (
        "class_specific_boxes_that_are_given_out",
        Reads("features", 2, to(4)),
    ),
    "boxes of the neighbouring class": ("class_specific_boxes", Reads("object_boxes", 1, to(0))),
    "deltas of two classes have changed places": (
        "class_specific_boxes",
        Reads("deltas", 1, lambda old: old.reshape(4, 4, -1)[[0, 2, 1, 3]].reshape(old.shape)),
    ),
    "width and height have changed places": (
        "class_specific_boxes_in_strides",
        Joins("cube", (0, 1, 3, 2)),
    ),
    "masks of two classes have changed places": (
        "masks_picked_by_label",
        Reads("planes", 1, rolled(0, 1, 4)),
    ),
    # layouts
    "two classes of one anchor have changed places": (
        "anchor_major_channels",
        Reads("cls_map", 1, rolled(0, 3, 5)),
    ),
    "two classes between boxes have changed places": (
        "interleaved_channels",
        Reads("maps", 1, rolled(0, 4, 6)),
    ),
    "channels in the other order of anchors and classes": (
        "class_major_channels",
        Reads("cls_map", 1, lambda old: old.reshape(4, 2, -1).swapaxes(0, 1).reshape(old.shape)),
    ),
    "a mask coefficient in the place of another": (
        "mask_coefficients_beside_classes",
        Reads("mask_map", 1, rolled(0, 3, 5)),
    ),
    "the best score is behind the others": ("best_score_beside_classes", Joins("scores", (0, 2, 1))),
    "weights in order, biases not": ("matmul_with_bias_first", Reads("logits", 0, rolled(0, 0, 3))),
    # shared constants
    "one level has its classes in another order": (
        "shared_reshape_and_weights",
        Reads("cls_1", 1, rolled(0, 1, 4)),
    ),
    "a shared weight was cut to other classes for one of its heads": (
        "weights_shared_through_identity",
        Reads("cls_1", 1, rolled(0, 1, 4)),
    ),
    "scores beside a shape of their own are of other classes": (
        "shape_computed_once_for_scores_and_boxes",
        Reads("cls_map", 1, rolled(0, 0, 3)),
    ),
    "a hidden layer was taken for the head": (
        "hidden_layer_as_wide_as_the_classes",
        Reads("hidden", 1, rolled(0, 0, 3)),
    ),
    "a limit followed a shared constant": (
        "one_constant_as_limit_bound_and_class",
        Reads("found", 2, to(2)),
    ),
    "a bound followed a shared label": ("class_constant_as_lower_bound", Reads("clipped", 1, to(2))),
    # control flow
    "ids are off by one in a body": ("if_body_that_sees_classes", Reads("some_ids", 1, to(0))),
    # local functions
    "a slice behind a function starts elsewhere": ("local_function", Reads("scores", 1, to(0))),
    "classes in a function have changed places": (
        "one_function_for_scores_and_boxes",
        Reads("rows", 1, rolled(0, 1, 4)),
    ),
    "labels of two calls have changed places": (
        "a_function_called_for_each_class",
        Joins("labels", (1, 0, 2)),
    ),
}


@pytest.mark.parametrize("name", some(n for n in PATTERNS if n not in REFUSED))
def test_the_right_cut_passes(name: str) -> None:
    found = verdict(name, cut_of(name))

    assert found.status == "passed", found.reasons


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_does_not_pass(mistake: str) -> None:
    name, make = MISTAKES[mistake]
    cut = cut_of(name)
    make(cut)

    found = verdict(name, cut)

    assert found.status == "failed", found.reasons
    assert found.exit_code == 1


def test_every_pattern_has_its_mistake() -> None:
    planted = {name for name, _ in MISTAKES.values()}
    alike = {"loop_over_classes_with_known_labels", "loop_over_classes_by_gather"}
    assert planted | alike | set(REFUSED) >= set(PATTERNS)
