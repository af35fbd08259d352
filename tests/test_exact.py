"""Exact scores: heads stay whole, a class map is applied behind the activation.

The oracle is the original itself: each kept score is what it was, bit for bit, and detections are
those of the original whose dropped classes are multiplied by 0 right behind the activation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from conftest import LONG, some
from exactly import exact, same_bits, told
from exported import PAIRS, arguments, load_pair, pictures, rows_of, run, unmatched
from onnx import TensorProto, helper, numpy_helper
from patterns import PATTERNS, REFUSED, Array
from ssd_graphs import generate
from test_generated import outputs_of
from variants import COLUMNS, KEEP, ORDER, picture, retyped, shapes

import onnx_headcut as hc

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from conftest import Done

    Run = Callable[..., Done]

CUT = [name for name in PATTERNS if name not in REFUSED]


LARGE = ("keras_ssd300_combined_op13", "tv_ssd300_full_ts17", "tv_maskrcnn_resnet50_full_ts17")


# ---------------------------------------------------------------------------- each kept score


@pytest.mark.parametrize("first", range(0, 80 if LONG else 20, 10))
def test_scores_of_generated_graphs_are_the_original_s_bit_for_bit(first: int) -> None:
    cut = 0
    for seed in range(first, first + 10):
        sample = generate(seed)
        keep = sample.keep()
        try:
            model = exact(sample.model, keep, validation=False, **sample.told).model
        except hc.HeadcutError:
            continue
        cut += 1
        order, feed = sample.order(keep), sample.feed()
        pairs = zip(outputs_of(sample.model, feed), outputs_of(model, feed), strict=True)
        for output, (before, after) in zip(model.graph.output, pairs, strict=True):
            meaning = sample.outputs[output.name]
            wanted = before.take(meaning.columns(order), meaning.axis)
            assert same_bits(np.ascontiguousarray(wanted), after), (seed, output.name)
    assert cut >= 7


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "raw"])
@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_the_shipped_detector(activation: str, dtype: int) -> None:
    model = retyped(shapes(activation), dtype)
    options = {"labels": COLUMNS, "background": "first"}

    result = exact(model, KEEP, **options)

    assert result.verdict, result.verdict and result.verdict.lines()
    assert {row.max_abs for row in result.verdict.outputs} == {0.0}
    assert result.verdict.structure
    assert result.verdict.structure.selections == ()
    assert result.verdict.structure.same_initializers == len(model.graph.initializer)
    assert result.after.channels == result.before.channels
    feed = picture(3, helper.tensor_dtype_to_np_dtype(dtype))
    before, after = outputs_of(model, feed), outputs_of(result.model, feed)
    assert same_bits(np.ascontiguousarray(before[0][..., list(ORDER)]), after[0])
    assert same_bits(before[1], after[1])
    onnx.checker.check_model(result.model, full_check=True)


def test_the_same_cut_makes_the_same_file() -> None:
    one, other = (exact(shapes(), KEEP, **told(shapes()), validation=False).model for _ in range(2))
    assert one.SerializeToString(deterministic=True) == other.SerializeToString(deterministic=True)


def test_names_that_are_taken_are_not_taken_again() -> None:
    model = shapes()
    node = next(n for n in model.graph.node if n.name.endswith("Conv"))
    taken = node.output[0]
    for user in model.graph.node:
        for names in (user.input, user.output):
            for i, name in enumerate(names):
                names[i] = "scores_whole" if name == taken else name
    assert exact(model, KEEP, **told(model)).verdict


# ------------------------------------------------------------------ what lies behind the front


UNPROVED = {"scores_times_one_less_the_background"}
"""Where every score moves with the background's, so that no place is seen to be of one class."""


@pytest.mark.parametrize("name", some(CUT, step=3))
def test_validation_proves_every_pattern(name: str) -> None:
    pattern = PATTERNS[name]()
    classes = pattern.foreground
    keep = [classes[-2], classes[0], classes[2]]

    result = exact(pattern.model(), keep, **pattern.told)

    if name in UNPROVED:
        assert result.verdict is not None
        assert result.verdict.status == "inconclusive"
        return
    assert result.verdict, result.verdict and result.verdict.lines()
    stored = {t.name: t for t in result.model.graph.initializer}
    score_heads = {h.weight for h in pattern.heads} if len(pattern.heads) == 1 else set()
    for tensor in pattern.model().graph.initializer:
        if tensor.name in score_heads:
            assert stored[tensor.name] == tensor, "the head is whole"


def masked(result: hc.Cut, original: onnx.ModelProto) -> onnx.ModelProto:
    """The original, its dropped classes multiplied by 0 where the cut picks its columns."""
    model = onnx.ModelProto()
    model.CopyFrom(original)
    graph, order = model.graph, result.plan.selection.order
    for k, site in enumerate(result.plan.sites):
        assert site.activation != "none"
        at = next(i for i, n in enumerate(graph.node) if site.value in n.output)
        for node in list(graph.node)[at:]:
            for names in (node.input, node.output):
                for i, name in enumerate(names):
                    names[i] = f"whole{k}" if name == site.value and names is node.output else name
        rank = len(next(v for v in result.plan.changed[site.value] if v.shape).shape or ())
        mask = np.isin(site.ids, [-1, *order]).astype(np.float32)
        mask = mask.reshape([-1] + [1] * (rank - site.axis - 1))
        graph.initializer.append(numpy_helper.from_array(mask, f"mask{k}"))
        graph.node.insert(at + 1, helper.make_node("Mul", [f"whole{k}", f"mask{k}"], [site.value]))
    return model


@pytest.mark.parametrize(
    "name",
    ["mlperf_ssd_nms_ts13", "yolov5_nms_ts11", "yolov8_nms_batch_ts12", "efficientdet_topk_ts13",
     "yolov10_topk_ts13", "tv_ssdlite320_full_ts17", *(LARGE if LONG else ())],
)  # fmt: skip
def test_detections_are_those_of_the_masked_original(name: str) -> None:
    pair = PAIRS[name]
    model, _ = load_pair(name)
    result = exact(model, pair["keep"], validation=False, ids="original", **arguments(pair))
    if any(site.activation == "none" for site in result.plan.sites):
        pytest.skip("raw scores are chosen from: 0 says nothing there")
    feed = pictures(pair)
    got, wanted = run(result.model, feed), run(masked(result, model), feed)
    got, wanted = ([o.reshape(-1, *o.shape[2:]) if o.ndim > 2 else o for o in found]
                   for found in (got, wanted))  # fmt: skip
    lengths = {len(o) for o in got if o.ndim}
    if len(lengths) == 1:
        table, other = rows_of(got, None), rows_of(wanted, None)
        found = other[(other > 1e-6).sum(axis=1) > 1]
        assert unmatched(found, table) == 0
        return
    for one, two in zip(got, wanted, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)


# ------------------------------------------------------------------------- planted mistakes


def pick(model: onnx.ModelProto, k: int = 0) -> TensorProto:
    """The positions that the k-th front picks."""
    found = [n for n in model.graph.node if n.op_type == "Gather" and n.input[0].endswith("_whole")]
    return next(t for t in model.graph.initializer if t.name == found[k].input[1])


def change(tensor: TensorProto, value: Array) -> None:
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value), tensor.name))


def swapped(model: onnx.ModelProto) -> None:
    """Two classes have changed places."""
    value = numpy_helper.to_array(pick(model)).copy()
    value[[1, 2]] = value[[2, 1]]
    change(pick(model), value)


def another(model: onnx.ModelProto) -> None:
    """One column is a neighbour's."""
    value = numpy_helper.to_array(pick(model)).copy()
    value[-1] += 1
    change(pick(model), value)


def scaled(model: onnx.ModelProto) -> None:
    """Scores are larger by a millionth: within every tolerance but none."""
    node = next(n for n in model.graph.node if "scores" in n.output)
    node.output[0] = "almost"
    model.graph.initializer.append(
        numpy_helper.from_array(np.array(1 + 1e-6, np.float32), "a_little_more")
    )
    model.graph.node.append(helper.make_node("Mul", ["almost", "a_little_more"], ["scores"]))


def moved(model: onnx.ModelProto) -> None:
    """The cut was made in front of the softmax."""
    pair = [n for n in model.graph.node if "scores" in n.output or "scores_whole" in n.output]
    softmax, gather = pair
    gather.input[0], softmax.input[0] = softmax.input[0], "picked"
    gather.output[0], softmax.output[0] = "picked", "scores"
    nodes = list(model.graph.node)
    at = nodes.index(softmax)
    del model.graph.node[at]
    model.graph.node.append(softmax)


@pytest.mark.parametrize("mistake", [swapped, another, scaled, moved], ids=lambda m: m.__doc__)
@pytest.mark.parametrize("recorded", [True, False])
def test_a_mistake_at_the_front_is_found(
    mistake: Callable[[onnx.ModelProto], None], *, recorded: bool
) -> None:
    model = shapes()
    cut = exact(model, KEEP, validation=False, **told(model)).model
    mistake(cut)
    if not recorded:
        del cut.metadata_props[:]
    found = hc.validate(model, cut, KEEP, scores="exact", provider="cpu", **told(model))
    assert found.status == "failed", found.lines()


def test_a_forgotten_level_is_found() -> None:
    name = "yolov5_dense_ts12"
    model, _ = load_pair(name)
    options = arguments(PAIRS[name])
    keep: Sequence[Any] = PAIRS[name]["keep"]
    cut = exact(model, keep, validation=False, **options).model
    del cut.metadata_props[:]
    assert hc.validate(model, cut, keep, scores="exact", provider="cpu", **options)
    value = numpy_helper.to_array(pick(cut, 1)).copy()
    value[5:] = np.sort(value[5:])[::-1]
    change(pick(cut, 1), value)
    found = hc.validate(model, cut, keep, scores="exact", provider="cpu", **options)
    assert found.status == "failed"


def test_a_changed_head_is_no_exact_cut() -> None:
    model = shapes()
    cut = exact(model, KEEP, validation=False, **told(model)).model
    head = next(t for t in cut.graph.initializer if t.dims[:2] == [60, 64])
    change(head, numpy_helper.to_array(head) * np.float32(1.5))
    found = hc.validate(model, cut, provider="cpu", **told(model))
    assert found.status == "failed"
    assert any("structure" in reason for reason in found.reasons)


# --------------------------------------------------------------------------- again, and said


def test_a_cut_model_is_inspected_and_cut_again() -> None:
    model = shapes()
    first = exact(model, [9, 7, 1, 2], **told(model)).model
    assert hc.inspect(first).classes.count == 5
    second = exact(first, [3, 1])
    assert second.verdict, second.verdict and second.verdict.lines()
    before, after = outputs_of(model, picture(1))[0], outputs_of(second.model, picture(1))[0]
    assert same_bits(np.ascontiguousarray(before[..., [0, 1, 9]]), after)
    assert hc.validate(first, second.model, provider="cpu")
    with pytest.raises(hc.UsageError, match="heads still hold the classes"):
        hc.cut(first, [3, 1], validation=False)


def test_a_cut_model_that_merges_is_refused_with_the_reason() -> None:
    model = shapes()
    merged = exact(model, "x=1|5,one=1", validation=False, **told(model)).model
    with pytest.raises(hc.GraphRefused) as caught:
        hc.inspect(merged)
    assert "original" in caught.value.advice


def test_keeping_all_changes_nothing() -> None:
    model = shapes()
    cut = exact(model, list(range(1, 15)), **told(model)).model
    assert cut.graph.SerializeToString() == model.graph.SerializeToString()


def test_the_command_line_says_and_reads_the_mode(run_here: Run, tmp_path: Path) -> None:
    source, target = tmp_path / "a.onnx", tmp_path / "b.onnx"
    onnx.save(shapes(), source)
    said = ["--background", "first", "--provider", "cpu"]
    done = run_here("cut", source, "--keep", "5,1,9", "--scores", "exact", "--output", target, *said)
    assert done.code == 0, done.err
    assert "heads stay whole" in done.out
    assert run_here("validate", source, target, *said).code == 0
    assert run_here("validate", source, target, "--scores", "renormalized", *said).code == 1
    assert run_here("cut", source, "--keep", "5", "--scores", "exakt", "--dry-run").code == 2
    assert run_here("cut", source, "--keep", "5", "--merge", "mean", "--dry-run").code == 2
