"""Graphs whose input sizes are open: a cut has to be right at every size, not in the example alone.

Each special case is right for the example's extents and another graph for others; the oracle is the
original with masked classes, run at several sizes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from patterns import PATTERNS, REFUSED, Array, Head, Pattern, run

import onnx_headcut as hc
from onnx_headcut.editing.edits import CopyInput, Redeclare, Replace, alike, same
from onnx_headcut.errors import GraphRefused
from onnx_headcut.graph.facts import Fact
from onnx_headcut.tracing import steady
from onnx_headcut.validation.inputs import NamedFeed

if TYPE_CHECKING:
    from collections.abc import Sequence

SIZES = ((1, 4, 4), (1, 3, 5), (1, 6, 5), (1, 8, 8))
"""Batch, height and width."""

WEIGHTS = (
    "float[6,8,1,1] cls_w, float[6] cls_b, int64[3] to_cls = {0,-1,6}, int64 one = {1}, "
    "int64 zero = {0}, int64 six = {6}, int64 third = {3}, int64[1] c0 = {0}, int64[1] c1 = {1}, "
    "int64[1] c2 = {2}, int64[1] c3 = {3}, int64[1] c6 = {6}, int64[1] less = {-1}, "
    "int64[1] beyond = {9223372036854775807}"
)

FRONT = """
  map = Conv (x, cls_w, cls_b)
  last = Transpose <perm = [0, 2, 3, 1]> (map)
  logits = Reshape (last, to_cls)
  probs = Sigmoid (logits)
  size = Shape (x)
  width = Gather (size, third)
  widths = Gather (size, c3)
  batch = Gather (size, c0)"""
"""``probs`` [n, cells, C], and numbers of the picture."""

BESIDE = """
  cells = Shape (probs)
  rows = Gather (cells, c1)
  filled = Concat <axis = 0> (batch, rows, widths)
  half = ConstantOfShape <value = float[1] {0.5}> (filled)"""
"""``half`` [n, cells, width]."""

BEST = """
  best = ReduceMax <axes = [2], keepdims = 0> (probs)
  cls = ArgMax <axis = 2, keepdims = 0> (probs)"""


@dataclass(frozen=True)
class Special:
    """A body behind `FRONT` that is what it seems in the ``example`` alone."""

    outputs: str
    body: str
    example: tuple[int, ...] = (1, 8, 4, 6)
    ids: str = "compact"

    def model(self) -> onnx.ModelProto:
        """The detector; six classes, no background."""
        text = (
            f'<ir_version: 8, opset_import: ["": 17]>\ntiny (float[N,8,H,W] x) => ({self.outputs})\n'
            f"<{WEIGHTS}>\n{{{FRONT}{self.body}}}\n"
        )
        return Pattern(text, (HEAD,)).model()

    def cut(self, *, validation: bool = False) -> hc.Cut:
        """Cut it, if not told otherwise without validation, which might find the mistake."""
        shapes = {"x": self.example}
        told: dict[str, Any] = {"ids": self.ids, "labels": list("abcdef"), "background": "none"}
        return hc.cut(self.model(), [4, 2], input_shapes=shapes, validation=validation, **told)


HEAD = Head("cls_w", "cls_b", tuple(range(6)))

SPECIAL = {
    "columns up to the width": Special(
        "float[N,K,C] scores", "\n  scores = Slice (probs, c0, widths, c2)"
    ),
    "the last six are those behind the classes": Special(
        "float[N,K,C] scores, float[N,K,E] extra",
        f"""{BESIDE}
  scores = Identity (probs)
  joined = Concat <axis = 2> (probs, half)
  back = Neg (c6)
  extra = Slice (joined, back, beyond, c2)""",
    ),
    "the classes stand behind the first six": Special(
        "float[N,K,C] scores",
        f"""{BESIDE}
  joined = Concat <axis = 2> (half, probs)
  scores = Slice (joined, c6, beyond, c2)""",
    ),
    "a batch of one is squeezed away": Special(
        "float[A,B] scores",
        """
  squeezed = Squeeze (probs)
  turned = Constant <value = int64[6] {5,4,3,2,1,0}> ()
  scores = Gather <axis = 1> (squeezed, turned)""",
        example=(1, 8, 4, 4),
    ),
    "a map of one cell needs no transposing": Special(
        "float[N,K,C] scores",
        "\n  wrong = Reshape (map, to_cls)\n  scores = Sigmoid (wrong)",
        example=(1, 8, 1, 1),
    ),
    "class numbers below the width": Special(
        "int64[A,B] labels, float[A,B] scores",
        f"""{BEST}
  narrow = Less (cls, width)
  nothing = Constant <value = float {{0.0}}> ()
  scores = Where (narrow, best, nothing)
  labels = Identity (cls)""",
    ),
    "class numbers and the width, less six": Special(
        "int64[A,B] labels, float[A,B] scores",
        f"""{BEST}
  more = Sub (width, six)
  labels = Add (cls, more)
  scores = Identity (best)""",
        ids="original",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SPECIAL)
def test_what_is_so_in_the_example_alone_is_refused(name: str) -> None:
    rule = "its constants would have to follow the size of the picture"
    with pytest.raises(GraphRefused, match=f"the cut would be right for x 1x8|{rule}") as refused:
        SPECIAL[name].cut()
    assert rule in str(refused.value) or "make_dynamic_shape_fixed" in refused.value.advice
    assert refused.value.exit_code == 3


def test_stored_places_of_an_axis_that_grows_with_what_is_found_are_refused() -> None:
    """Seven are found in the example, before the classes; what begins behind the seventh is theirs."""
    found = Special(
        "float[K,C] scores",
        """
  first = Slice (probs, c0, c1, c2)
  flat_first = Squeeze (first)
  level = Constant <value = float {0.5}> ()
  high = Greater (flat_first, level)
  places = NonZero (high)
  at = Squeeze (places, c0)
  picture = Squeeze (probs, c0)
  rows = Gather <axis = 0> (picture, at)
  size_of_rows = Shape (rows)
  count = Gather (size_of_rows, c0)
  square = Concat <axis = 0> (count, count)
  filler = ConstantOfShape <value = float[1] {0.5}> (square)
  joined = Concat <axis = 1> (filler, rows)
  seven = Constant <value = int64[1] {7}> ()
  scores = Slice (joined, seven, beyond, c1)""",
    )
    model = found.model()
    for axis, extent in ((0, 1), (2, 4), (3, 4)):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = extent
    told: dict[str, Any] = {"labels": list("abcdef"), "background": "none", "validation": False}
    with pytest.raises(GraphRefused, match="would have to follow the size of the picture"):
        hc.cut(model, [4, 2], **told)


def test_as_many_pictures_as_classes_are_no_special_case() -> None:
    many = Special(
        "float[N,K,C] scores",
        """
  go = Constant <value = bool {1}> ()
  count = Squeeze (batch)
  scores = Loop (count, go) <body = each (int64 i, bool c) => (bool on, float[K,C] one_picture) {
    on = Identity (c)
    one_picture = Gather <axis = 0> (probs, i)
  }>""",
        example=(6, 8, 4, 4),
    )
    cut = many.cut()
    for shape in ((6, 4, 4), (1, 3, 5)):
        feed = picture(shape)
        (before,), (after,) = run(many.model(), feed), run(cut.model, feed)
        np.testing.assert_allclose(after, before[..., [4, 2]], rtol=1e-5)


def picture(shape: Sequence[int]) -> dict[str, Array]:
    """Noise of a batch, height and width."""
    rng = np.random.default_rng(3)
    return {"x": rng.normal(size=(shape[0], 8, *shape[1:])).astype(np.float32)}


FALSE = {
    "nms_scores_scattered": "the cut would be right for x 1x8x4x4 only",
    "peaks_by_a_small_difference": "the cut would be right for x 1x8x4x4 only",
    "peaks_of_a_heat_map": "the cut would be right for x 1x8x4x4 only",
    "top_k_of_more_than_is_left": "of a picture of this size 32 candidates are left",
    "top_k_with_a_table_of_labels": "the cut would be right for x 1x8x4x4 only",
}
"""Patterns that store a number of the picture's size, and so are what they say at one size only."""


@pytest.mark.parametrize("name", PATTERNS)
def test_patterns_with_an_open_size_are_right_at_all_sizes(name: str) -> None:
    found = PATTERNS[name]()
    found = replace(found, text=found.text.replace("float[1,8,4,4] x", "float[1,8,H,W] x"))
    keep = [found.foreground[-1], found.foreground[1]]
    shapes = {"x": (1, 8, 4, 4)}
    told: dict[str, Any] = {**found.told, "input_shapes": shapes, "validation": False}
    if name in FALSE or name in REFUSED:
        reason = REFUSED[name][1] if name in REFUSED else FALSE[name]
        with pytest.raises(GraphRefused, match=reason):
            hc.cut(found.model(), keep, **told)
        return
    cut = hc.cut(found.model(), keep, **told)
    for shape in SIZES:
        feed = picture(shape)
        try:
            expected = found.expected(keep, feed)
        except Exception:  # noqa: BLE001  the original does not take this size
            assert shape != SIZES[0]
            continue
        for a, b in zip(found.given(run(cut.model, feed)), expected, strict=True):
            np.testing.assert_allclose(in_order(found, a), in_order(found, b), rtol=1e-4, atol=1e-5)


def in_order(found: Pattern, values: Array) -> Array:
    """Rows of detections in an order of their own."""
    return values[np.lexsort(np.round(values, 3).T)] if found.kind == "rows" else values


def test_a_small_picture_that_leaves_too_little_is_told() -> None:
    found = PATTERNS["top_k_div_mod"]()
    text = found.text.replace("float[1,8,4,4] x", "float[1,8,H,W] x")
    told: dict[str, Any] = {**found.told, "input_shapes": {"x": (1, 8, 4, 4)}}
    cut = hc.cut(replace(found, text=text).model(), [1, 3], validation=False, **told)
    assert any("with x 1x8x2x2" in note and "fewer than its" in note for note in cut.plan.notes)


def test_edits_are_alike_whatever_the_example_was() -> None:
    shape, other = Fact((4, 6), 1), Fact((8, 6), 1)
    first = Redeclare((3,), 0, {"a": (shape, shape)})
    second = Redeclare((3,), 0, {"a": (other, other)})
    assert alike(first, second)
    assert not same(first, second)
    assert not alike(first, Redeclare((3,), 1, {"a": (shape, shape)}))
    parts = {1: np.array([6])}
    copy = CopyInput((3,), 1, (2,), parts, np.array([4, 6]))
    assert alike(copy, CopyInput((3,), 1, (2,), dict(parts), np.array([8, 6])))
    assert not alike(copy, CopyInput((3,), 1, (2,), {1: np.array([3])}, np.array([4, 6])))
    assert not alike(copy, Replace((3,), 1, np.array([4, 6])))


# ------------------------------------------------------------------ validation, as the second net


@pytest.mark.parametrize(
    "name",
    [
        "a batch of one is squeezed away",
        "a map of one cell needs no transposing",
        "class numbers and the width, less six",
    ],
)
def test_validation_runs_at_other_sizes_than_the_given_one(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steady, "hold", lambda *_: None)  # a cut that is right for the example alone
    verdict = SPECIAL[name].cut(validation=True).verdict
    assert verdict is not None
    assert verdict.status == "failed", verdict


def shifted() -> tuple[Pattern, onnx.ModelProto, onnx.ModelProto]:
    """A detector that finds nothing by itself, a cut of it, and one whose labels follow the width."""
    found = PATTERNS["nms_columns_gathered"]()
    found = replace(found, text=found.text.replace("float[1,8,4,4] x", "float[1,8,H,W] x"))
    model = found.model()
    bias = next(t for t in model.graph.initializer if t.name == "cls_b")
    low = [0.0] + [-30.0] * 5
    bias.CopyFrom(numpy_helper.from_array(np.array(low, np.float32), "cls_b"))
    told: dict[str, Any] = {**found.told, "input_shapes": {"x": (1, 8, 4, 4)}}
    cut = hc.cut(model, [2, 4], validation=False, **told).model
    wrong = onnx.ModelProto.FromString(cut.SerializeToString())
    labels = next(n for n in wrong.graph.node if "labels" in n.output)
    labels.output[0] = "right"
    wrong.graph.initializer.append(numpy_helper.from_array(np.array(3), "at"))
    wrong.graph.initializer.append(numpy_helper.from_array(np.array(4), "usual"))
    wrong.graph.node.extend(
        [
            helper.make_node("Shape", ["x"], ["sizes"]),
            helper.make_node("Gather", ["sizes", "at"], ["wide"]),
            helper.make_node("Sub", ["wide", "usual"], ["more"]),
            helper.make_node("Add", ["right", "more"], ["labels"]),
        ]
    )
    return found, model, wrong


@pytest.mark.parametrize("given", ["synthetic", "the person's own"])
def test_detections_are_excited_at_other_sizes_too(given: str) -> None:
    found, model, wrong = shifted()
    feeds = None if given == "synthetic" else [NamedFeed("mine", picture((1, 4, 4)))]
    told: dict[str, Any] = {**found.told, "input_shapes": {"x": (1, 8, 4, 4)}, "feeds": feeds}
    verdict = hc.validate(model, wrong, [2, 4], **told)
    assert verdict.status == "failed", verdict
    assert "1x8x2x8" in verdict.reasons[0]


def test_what_a_cut_means_is_told_of_the_given_inputs_alone() -> None:
    plain = Special("float[N,K,C] scores", "\n  scores = Softmax <axis = 2> (logits)")
    feed = picture((1, 4, 6))
    told: dict[str, Any] = {"labels": list("abcdef"), "background": "none"}
    cut = hc.cut(plain.model(), [4, 2], feeds=[NamedFeed("mine", feed)], **told)
    assert cut.verdict is not None
    assert cut.verdict.status == "passed"
    assert len(cut.verdict.feeds) == 3  # and synthetic ones of another batch and another size
    (before,), (after,) = run(plain.model(), feed), run(cut.model, feed)
    moved = np.abs(after - before[..., [4, 2]]).max()
    assert cut.verdict.drift[0].max_change == pytest.approx(moved, rel=1e-4)
