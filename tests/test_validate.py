"""Right cuts pass, planted wrong ones do not: tiny detectors in ONNX text."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import numpy_helper, parser
from tiny import FULL, KEPT, Tiny, check

from onnx_headcut.errors import GraphRefused
from onnx_headcut.labels import Site
from onnx_headcut.validation import Settings, Verdict, validate

ALL_KINDS = [
    FULL,
    replace(FULL, activation="sigmoid", background=None),
    replace(FULL, activation="none"),
    replace(FULL, layout="class"),
    replace(FULL, joined=True),
    replace(FULL, joined=True, activation="none"),
    Tiny((0, 1, 2, 3), total=4),  # as many columns as a box has values
    replace(FULL, nms=True),
    replace(FULL, nms=True, activation="sigmoid", background=None, labels=0),
    replace(FULL, nms=True, fixed_slots=True),
    replace(FULL, nms=True, activation="sigmoid", background=None, fixed_slots=True, labels=0),
]


def kind(tiny: Tiny) -> str:
    where = "slots" if tiny.fixed_slots else "nms" if tiny.nms else "raw"
    joined = "-joined" if tiny.joined else ""
    return f"{where}-{tiny.activation}-{tiny.layout}{joined}-{tiny.total}"


@pytest.mark.parametrize("whole", ALL_KINDS, ids=kind)
class TestEveryKind:
    def test_right_cut_passes(self, whole: Tiny) -> None:
        verdict = check(whole, replace(whole, columns=KEPT))
        assert verdict, verdict.lines()
        assert verdict.exit_code == 0
        assert verdict.values > 0
        seen = {row.column: row.values + row.detections for row in verdict.classes}
        assert all(seen[column] for column in KEPT if column != whole.background)

    def test_without_the_background_being_told(self, whole: Tiny) -> None:
        verdict = check(whole, replace(whole, columns=KEPT), background=None)
        assert verdict, verdict.lines()

    def test_identity_and_reordering_pass(self, whole: Tiny) -> None:
        assert check(whole, whole)
        others = tuple(column for column in reversed(whole.columns) if column)
        assert check(whole, replace(whole, columns=(0, *others)))

    @pytest.mark.parametrize("level", [0, 1])
    def test_classes_swapped_in_one_level(self, whole: Tiny, level: int) -> None:
        right = replace(whole, columns=KEPT)
        wrong = replace(right, level_columns={level: (0, 1, 3)})
        verdict = check(whole, wrong, claimed=right)
        assert verdict.status == "failed", verdict.lines()

    def test_classes_swapped_everywhere(self, whole: Tiny) -> None:
        right = replace(whole, columns=KEPT)
        wrong = replace(right, level_columns={0: (0, 1, 3), 1: (0, 1, 3)})
        assert check(whole, wrong, claimed=right).status == "failed"

    def test_cutter_and_plan_agree_on_swapped_classes(self, whole: Tiny) -> None:
        wrong = replace(whole, columns=(0, 1, 3))
        model, cut = whole.model(), wrong.model()
        verdict = validate(
            model,
            cut,
            sites=whole.sites(),
            cut_sites=wrong.sites(),
            order=KEPT,
            provider="cpu",
            background=whole.background,
        )
        assert verdict.status == "failed"

    def test_off_by_one_channel(self, whole: Tiny) -> None:
        right = replace(whole, columns=KEPT)
        wrong = replace(right, shift={1: 1})
        assert check(whole, wrong, claimed=right).status == "failed"

    def test_background_at_the_wrong_column(self, whole: Tiny) -> None:
        right = replace(whole, columns=KEPT)
        wrong = replace(right, columns=(3, 1, 0))
        assert check(whole, wrong, claimed=right).status == "failed"

    def test_wrong_layout_believed_in_both(self, whole: Tiny) -> None:
        # Planned as if class-major where it is anchor-major: other channels than those of classes.
        right = replace(whole, columns=KEPT)
        other = "class" if whole.layout == "anchor" else "anchor"
        model = whole.model()
        verdict = validate(
            model,
            right.model(),
            sites=replace(whole, layout=other).sites(),
            cut_sites=replace(right, layout=other).sites(),
            order=KEPT,
            provider="cpu",
        )
        assert not verdict

    def test_permuted_numbering_believed_in_both(self, whole: Tiny) -> None:
        def renumbered(sites: list[Site]) -> list[Site]:
            turn = {0: 0, 1: 2, 2: 1, 3: 3, 4: 4}
            return [replace(s, ids=tuple(turn[i] for i in s.ids)) for s in sites]

        verdict = validate(
            whole.model(),
            replace(whole, columns=(0, 3, 2)).model(),
            sites=renumbered(whole.sites()),
            cut_sites=renumbered(replace(whole, columns=(0, 3, 2)).sites()),
            order=(0, 3, 1),
            provider="cpu",
        )
        assert not verdict

    def test_lost_class(self, whole: Tiny) -> None:
        right = replace(whole, columns=KEPT)
        wrong = replace(whole, columns=KEPT[:2])
        assert not check(whole, wrong, claimed=right)

    def test_stale_reshape(self, whole: Tiny) -> None:
        right = replace(whole, columns=KEPT)
        wrong = replace(right, target=whole.total)
        assert not check(whole, wrong, claimed=right)


def forgotten(whole: Tiny, columns: tuple[int, ...]) -> onnx.ModelProto:
    """A cut whose second level still has all classes, folded into more rows."""
    model = replace(whole, columns=columns).model()
    other = whole.model()
    for name in ("wc1", "bc1"):
        old = next(t for t in model.graph.initializer if t.name == name)
        old.CopyFrom(next(t for t in other.graph.initializer if t.name == name))
    return model


@pytest.mark.parametrize("whole", ALL_KINDS[:6], ids=kind)
def test_forgotten_level(whole: Tiny) -> None:
    wide = replace(whole, total=6, columns=tuple(range(6)))
    kept = replace(wide, columns=KEPT)
    verdict = validate(
        wide.model(),
        forgotten(wide, KEPT),
        sites=wide.sites(),
        cut_sites=kept.sites(),
        order=KEPT,
        provider="cpu",
    )
    assert verdict.status == "failed"


def test_site_that_was_forgotten_in_both() -> None:
    right = replace(FULL, columns=KEPT)
    for order in (KEPT, FULL.columns):
        cut = replace(right, columns=order)
        verdict = validate(
            FULL.model(),
            cut.model(),
            sites=FULL.sites()[:1],
            cut_sites=cut.sites()[:1],
            order=order,
            provider="cpu",
        )
        assert not verdict


def test_nothing_to_mask_is_no_pass() -> None:
    verdict = validate(FULL.model(), FULL.model(), sites=[], cut_sites=[], order=KEPT)
    assert verdict.status == "inconclusive"
    assert verdict.exit_code == 1
    assert "nothing was compared" in verdict.reasons


NMS = replace(FULL, nms=True)


def test_ids_that_are_shifted_fail() -> None:
    right = replace(NMS, columns=KEPT)
    verdict = check(NMS, replace(right, labels=2), claimed=right)
    assert verdict.status == "failed"
    assert any("class id" in reason for reason in verdict.reasons)


def test_original_ids_pass_only_where_they_are_asked_for() -> None:
    right = replace(NMS, columns=KEPT)
    table = replace(right, table=(3, 1))
    assert check(NMS, table, settings=Settings(ids="original"))
    assert not check(NMS, table)
    assert not check(NMS, right, settings=Settings(ids="original"))


def test_swapped_ids_fail() -> None:
    right = replace(NMS, columns=KEPT)
    verdict = check(NMS, replace(right, table=(2, 1)), claimed=right)
    assert verdict.status == "failed"


def test_table_of_ids_keeps_its_entries() -> None:
    whole = replace(NMS, table=(10, 13, 17, 44))
    assert check(whole, replace(whole, columns=KEPT, table=(17, 10)))
    assert not check(whole, replace(whole, columns=KEPT, table=(10, 17)))


def test_ids_of_original_and_cut_are_told() -> None:
    verdict = check(NMS, replace(NMS, columns=KEPT))
    told = {row.column: (row.label, row.cut_label) for row in verdict.classes}
    assert told == {0: (None, None), 3: (3.0, 1.0), 1: (1.0, 2.0)}


def test_one_kept_class() -> None:
    whole = replace(NMS, activation="sigmoid", background=None, labels=0)
    assert check(whole, replace(whole, columns=(2,)))
    wrong = replace(whole, columns=(2,), labels=1)
    assert check(whole, wrong, claimed=replace(whole, columns=(2,))).status == "failed"


def test_detections_that_can_never_be_seen_are_no_pass() -> None:
    def deaf(tiny: Tiny) -> onnx.ModelProto:
        model = tiny.model()
        for tensor in model.graph.initializer:
            if tensor.name == "least":
                tensor.CopyFrom(numpy_helper.from_array(np.array([2.0], np.float32), "least"))
        return model

    cut = replace(NMS, columns=KEPT)
    verdict = validate(
        deaf(NMS),
        deaf(cut),
        sites=NMS.sites(),
        cut_sites=cut.sites(),
        order=KEPT,
        provider="cpu",
        background=0,
    )
    assert verdict.status == "inconclusive"
    assert any("never seen" in reason for reason in verdict.reasons)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "none"])
def test_float16(activation: str) -> None:
    whole = replace(FULL, dtype=np.float16, activation=activation)
    right = replace(whole, columns=KEPT)
    assert check(whole, right), check(whole, right).lines()
    wrong = replace(right, level_columns={1: (0, 1, 3)})
    assert check(whole, wrong, claimed=right).status == "failed"


def test_site_that_is_an_output_keeps_its_name() -> None:
    def raw(tiny: Tiny) -> onnx.ModelProto:
        model = tiny.model()
        del model.graph.output[:]
        model.graph.output.extend(onnx.ValueInfoProto(name=f"cls{level}") for level in (0, 1))
        return model

    for layout in ("anchor", "class"):
        whole = replace(FULL, layout=layout)
        cut = replace(whole, columns=KEPT)
        verdict = validate(
            raw(whole),
            raw(cut),
            sites=whole.sites(),
            cut_sites=cut.sites(),
            order=KEPT,
            provider="cpu",
        )
        assert verdict, verdict.lines()
        assert [row.name for row in verdict.outputs if row.kind == "dense"] == ["cls0", "cls1"]


def test_integer_scores_are_refused() -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
    g (float[1,4] x) => (int64[1,4] y) { y = Cast <to=7> (x) }"""
    site = Site("y", 1, (0, 1, 2, 3), "none")
    model = parser.parse_model(text)
    with pytest.raises(GraphRefused, match="float16, float32, float64, int16, int8, uint16, uint8"):
        validate(model, model, sites=[site], cut_sites=[site], order=(0, 1, 2, 3))


@pytest.mark.parametrize(("kind", "dtype"), [("float", np.float32), ("double", np.float64)])
def test_scores_read_inside_a_subgraph_are_masked_there(kind: str, dtype: type) -> None:
    text = f"""<ir_version: 8, opset_import: ["": 17]>
    g ({kind}[1,4] x, bool flag) => ({kind}[1,{{n}}] y) {{{{
        s = MatMul(x, w)
        y = If (flag) <
            then_branch = a () => ({kind}[1,{{n}}] t) {{{{ t = Softmax(s) }}}},
            else_branch = b () => ({kind}[1,{{n}}] e) {{{{ e = Sigmoid(s) }}}}
        >
    }}}}"""
    weight = np.random.default_rng(0).normal(size=(4, 4)).astype(dtype)

    def made(columns: list[int]) -> onnx.ModelProto:
        model = parser.parse_model(text.format(n=len(columns)))
        model.graph.initializer.append(numpy_helper.from_array(weight[:, columns], "w"))
        return model

    def verdict(columns: list[int], said: tuple[int, ...]) -> Verdict:
        return validate(
            made([0, 1, 2, 3]),
            made(columns),
            sites=[Site("s", 1, (0, 1, 2, 3), "none")],
            cut_sites=[Site("s", 1, said, "none")],
            order=said,
            provider="cpu",
        )

    assert verdict([2, 0], (2, 0))
    assert verdict([0, 2], (2, 0)).status == "failed"


def test_not_a_number_in_the_cut_only_fails() -> None:
    right = replace(FULL, columns=KEPT, activation="none")
    model = right.model()
    bias = next(t for t in model.graph.initializer if t.name == "bc1")
    values = numpy_helper.to_array(bias).copy()
    values[2] = np.nan
    bias.CopyFrom(numpy_helper.from_array(values, "bc1"))
    whole = replace(FULL, activation="none")
    verdict = validate(
        whole.model(),
        model,
        sites=whole.sites(),
        cut_sites=right.sites(),
        order=KEPT,
        provider="cpu",
    )
    assert verdict.status == "failed"


def test_drift_of_softmax_is_told_and_no_failure() -> None:
    verdict = check(FULL, replace(FULL, columns=KEPT))
    assert verdict
    assert verdict.drift[0].max_change > 0
    calm = replace(FULL, activation="sigmoid", background=None)
    assert check(calm, replace(calm, columns=KEPT)).drift[0].max_change == 0


def test_json_is_stable_and_has_no_times_or_places() -> None:
    texts = {check(NMS, replace(NMS, columns=KEPT)).to_json() for _ in range(2)}
    assert len(texts) == 1
    data = json.loads(texts.pop())
    assert list(data)[:3] == ["schema", "passed", "status"]
    assert data["original"]["provider"] == "cpu"
    assert data["original"]["placement"]["cpu"] > 0


def test_lines_tell_reasons_and_figures() -> None:
    right = replace(FULL, columns=KEPT)
    text = "\n".join(check(FULL, replace(right, shift={0: 1}), claimed=right).lines())
    assert text.startswith("failed: ")
    assert "differ from the reference" in text
    assert "cpu" in text


def test_renamed_output_fails() -> None:
    model = replace(FULL, columns=KEPT).model()
    model.graph.output[0].name = "other"
    model.graph.node[-2].output[0] = "other"
    cut = replace(FULL, columns=KEPT)
    verdict = validate(
        FULL.model(), model, sites=FULL.sites(), cut_sites=cut.sites(), order=KEPT, provider="cpu"
    )
    assert verdict.status == "failed"
    assert "outputs" in verdict.reasons[0]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_cut_passes_and_any_swap_fails(data: st.DataObject) -> None:
    total = data.draw(st.integers(3, 7))
    whole = Tiny(
        tuple(range(total)),
        total=total,
        anchors=data.draw(st.integers(1, 4)),
        activation=data.draw(st.sampled_from(["softmax", "sigmoid", "none"])),
        layout=data.draw(st.sampled_from(["anchor", "class"])),
        joined=data.draw(st.booleans()),
        background=data.draw(st.sampled_from([None, 0, total - 1])),
        seed=data.draw(st.integers(0, 99)),
    )
    columns = data.draw(st.permutations(range(total)))[: data.draw(st.integers(2, total))]
    right = replace(whole, columns=tuple(columns))
    assert check(whole, right)
    swapped = (columns[1], columns[0], *columns[2:])
    wrong = replace(right, level_columns={data.draw(st.integers(0, 1)): swapped})
    assert check(whole, wrong, claimed=right).status == "failed"
