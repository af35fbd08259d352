"""Real exporters' graphs: the cut is what the same framework exports for the kept classes.

Each pair is cut without help but the arguments listed for it, and its cut is held against the
native graph in three ways: it may be no bigger; it computes every output in the same way on the
same constants, which is proof whatever the input; and the small pairs are run, and all those that
compute an output in another way, of which numbers alone can tell.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from conftest import LONG, some
from exported import (
    OTHERWISE,
    PAIRS,
    REFUSED,
    Array,
    Pair,
    arguments,
    computation,
    declared,
    is_run,
    load_pair,
    nodes,
    pictures,
    rows_of,
    run,
    stored,
    unmatched,
)

import onnx_headcut as hc

ALIKE = {
    "tv_retinanet_full_any_ts11", "tv_ssd300_full_any_ts11", "tv_fasterrcnn_resnet50_full_ts17",
    "tv_ssd300_logits_dynamo18", "tv_ssd300_softmax_any_dynamo18", "tv_ssd300_softmax_batch_dynamo20",
}  # fmt: skip
"""Large ones of which a smaller, or another export of the same network, has all that they have."""


@pytest.mark.parametrize(
    "name", [name for name in PAIRS if name not in REFUSED and (LONG or name not in ALIKE)]
)
def test_the_cut_is_the_native_graph(name: str) -> None:
    pair = PAIRS[name]
    many, native = load_pair(name)

    result = hc.cut(many, pair["keep"], validation=False, **arguments(pair))

    cut = result.model
    onnx.checker.check_model(cut)
    assert nodes(cut) <= 1.02 * nodes(native)
    assert stored(cut) <= 1.02 * stored(native)
    assert result.kept.count == pair["native_classes"]
    for old, new in zip(declared(native), declared(cut), strict=True):
        assert [d for d in old if isinstance(d, int)] == [d for d in new if isinstance(d, int)]
    same = [a == b for a, b in zip(computation(cut), computation(native), strict=True)]
    assert all(same) != (name in OTHERWISE)
    if is_run(name):
        feeds = pictures(pair)
        assert_equal(pair, run(cut, feeds), run(native, feeds))


def assert_equal(pair: Pair, got: list[Array], wanted: list[Array]) -> None:
    assert [g.shape for g in got] == [w.shape for w in wanted]
    if pair["labels"] is None:
        for a, b in zip(got, wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
        return
    column = pair["labels"]["column"]
    labels = wanted[pair["labels"]["output"]]
    assert len(np.unique(labels if column is None else labels[..., column])) > 1
    batched = labels.ndim == (2 if column is None else 3)
    for image in range(len(labels)) if batched else [None]:
        found, expected = rows_of(got, image), rows_of(wanted, image)
        assert unmatched(found, expected) == unmatched(expected, found) == 0


TINY = [n for n, p in PAIRS.items() if "tiny" in p["architecture"] and n not in REFUSED]


@pytest.mark.parametrize("name", some(TINY))
def test_one_class_alone_is_cut_and_validated(name: str) -> None:
    pair = PAIRS[name]
    many, _ = load_pair(name)
    one = [column for column in pair["keep"] if column][-1:]

    verdict = hc.cut(many, one, provider="cpu", **arguments(pair)).verdict

    assert verdict is not None
    assert verdict, verdict.reasons


def test_what_is_not_cut_is_refused_with_the_reason() -> None:
    for name, (op, reason) in REFUSED.items():
        many, _ = load_pair(name)
        with pytest.raises(hc.GraphRefused, match=reason) as caught:
            hc.cut(many, PAIRS[name]["keep"], validation=False, **arguments(PAIRS[name]))
        assert caught.value.op == op


def test_a_pair_is_told_from_its_cut_to_other_classes() -> None:
    """The comparison itself: it sees two classes that have changed places."""
    pair = PAIRS["yolov10_topk_ts13"]
    many, native = load_pair(pair["name"])
    keep = [pair["keep"][1], pair["keep"][0], *pair["keep"][2:]]

    cut = hc.cut(many, keep, validation=False).model

    assert computation(cut) != computation(native)
    rows = [rows_of(run(model, pictures(pair)), 0) for model in (cut, native)]
    assert unmatched(*rows) > 0
