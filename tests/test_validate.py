"""Right cuts pass, planted wrong ones do not: tiny detectors in ONNX text."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import numpy_helper, parser

from onnx_headcut.errors import GraphRefused
from onnx_headcut.labels import NONE, Site
from onnx_headcut.validation import Settings, Tolerance, Verdict, validate
from onnx_headcut.validation import detections as d
from onnx_headcut.validation.compare import difference, tolerance_for
from onnx_headcut.validation.probe import DROPPED, in_column_order, natural_cut
from onnx_headcut.validation.reference import occurrences, site_feed

SIZES = (6, 3)  # of the two feature maps
CHANNELS = 8


@dataclass(frozen=True)
class Tiny:
    """A two-level SSD; ``columns`` are the classes it has, of ``total`` that weights are made for.

    The planted mistakes: ``level_columns`` gives one level other classes than it says, ``shift``
    starts its rows that many channels late, ``target`` is the class count in the reshapes, and
    ``labels`` the number added to class indices behind NMS.
    """

    columns: tuple[int, ...]
    total: int = 5
    anchors: int = 3
    activation: str = "softmax"
    layout: str = "anchor"
    joined: bool = False
    nms: bool = False
    fixed_slots: bool = False
    background: int | None = 0
    dtype: type = np.float32
    level_columns: dict[int, tuple[int, ...]] = field(default_factory=dict)
    shift: dict[int, int] = field(default_factory=dict)
    target: int | None = None
    labels: int = 1
    table: tuple[int, ...] | None = None
    seed: int = 0

    def model(self) -> onnx.ModelProto:
        """Build it: its weights are the same selection of the same seeded ones, whatever it has."""
        kind = {np.float32: "float", np.float16: "float16", np.float64: "double"}[self.dtype]
        outputs = f"{kind}[n,c,d] joined" if self.joined else f"{kind}[n,c,d] scores"
        outputs += "" if self.joined else f", {kind}[n,b,4] boxes"
        if self.nms:
            outputs = "float[k,4] out_boxes, int64[k] out_labels, float[k] out_scores"
        if self.fixed_slots:
            outputs = "float[1,5,4] out_boxes, float[1,5] out_labels, float[1,5] out_scores"
        text = (
            f'<ir_version: 8, opset_import: ["": 17]> tiny ({kind}[1,3,12,12] image)'
            f" => ({outputs}) {{\n{self._body()}}}"
        )
        model = parser.parse_model(text)
        for name, value in self._weights().items():
            model.graph.initializer.append(numpy_helper.from_array(value, name))
        onnx.checker.check_model(model)
        return model

    def sites(self) -> list[Site]:
        """Give the sites with the columns as they ought to be."""
        ids = tuple(np.tile(self.columns, self.anchors))
        if self.layout == "class":
            ids = tuple(np.repeat(self.columns, self.anchors))
        ids = tuple(map(int, ids))
        return [Site(f"cls{level}", 1, ids, self.activation) for level in range(len(SIZES))]  # type: ignore[arg-type]

    def _body(self) -> str:
        lines = ["f0 = Conv <strides=[2,2]> (image, wf0)", "r0 = Relu(f0)"]
        lines += ["f1 = Conv <strides=[2,2]> (r0, wf1)", "r1 = Relu(f1)"]
        for level in range(len(SIZES)):
            lines.append(f"cls{level} = Conv(r{level}, wc{level}, bc{level})")
            lines.append(f"loc{level} = Conv(r{level}, wl{level})")
            lines.append(f"lt{level} = Transpose <perm=[0,2,3,1]> (loc{level})")
            lines.append(f"lr{level} = Reshape(lt{level}, four)")
            if self.layout == "anchor":
                lines.append(f"ct{level} = Transpose <perm=[0,2,3,1]> (cls{level})")
                lines.append(f"cr{level} = Reshape(ct{level}, target)")
            else:
                lines.append(f"ct{level} = Reshape(cls{level}, target)")
                lines.append(f"cr{level} = Transpose <perm=[0,2,1]> (ct{level})")
        lines.append("logits = Concat <axis=1> (cr0, cr1)")
        act = {"softmax": "Softmax <axis=2>", "sigmoid": "Sigmoid", "none": "Identity"}
        inner = self.nms or self.joined
        lines.append(f"{'p' if inner else 'scores'} = {act[self.activation]} (logits)")
        boxes = "locations" if inner else "boxes"
        lines.append(f"{boxes} = Concat <axis=1> (lr0, lr1)")
        if self.joined:
            lines.append("joined = Concat <axis=2> (locations, p)")
        if self.nms:
            lines += _NMS_LINES + (_SLOT_LINES if self.fixed_slots else _ALL_LINES)
            if self.table is not None:
                lines = [
                    "labels64 = Gather(table, index)" if x.startswith("labels64") else x
                    for x in lines
                ]
        return "\n".join(lines) + "\n"

    def _weights(self) -> dict[str, Any]:
        rng = np.random.default_rng(self.seed)
        count = self.target or len(self.columns)
        made = {
            "wf0": rng.normal(0, 0.4, (CHANNELS, 3, 2, 2)),
            "wf1": rng.normal(0, 0.4, (CHANNELS, CHANNELS, 2, 2)),
            "four": np.array([1, -1, 4]),
            "target": np.array([1, -1, count] if self.layout == "anchor" else [1, count, -1]),
        }
        for level in range(len(SIZES)):
            full = (self.anchors, self.total)
            weight = rng.normal(0, 0.7, (*full, CHANNELS, 1, 1))
            bias = rng.normal(0, 0.7, full)
            columns = list(self.level_columns.get(level, self.columns))
            picked, offset = weight[:, columns], bias[:, columns]
            if self.layout == "class":
                picked, offset = picked.swapaxes(0, 1), offset.swapaxes(0, 1)
            picked, offset = picked.reshape(-1, CHANNELS, 1, 1), offset.reshape(-1)
            turn = self.shift.get(level, 0)
            made[f"wc{level}"] = np.roll(picked, turn, 0)
            made[f"bc{level}"] = np.roll(offset, turn, 0)
            made[f"wl{level}"] = rng.normal(0, 0.4, (self.anchors * 4, CHANNELS, 1, 1))
        made |= self._nms_weights() if self.nms else {}
        return {
            name: np.asarray(v, self.dtype if np.asarray(v).dtype.kind == "f" else np.int64)
            for name, v in made.items()
        }

    def _nms_weights(self) -> dict[str, Any]:
        count = sum(size * size for size in SIZES) * self.anchors
        rng = np.random.default_rng(5)
        corner = rng.random((1, count, 2)) * 100
        made = {
            "priors": np.concatenate([corner, corner + 4 + 8 * rng.random((1, count, 2))], 2),
            "most": np.array([20]),
            "iou": np.array([0.5]),
            "least": np.array([0.3]),
            "first": np.array([0 if self.background is None else 1]),
            "end": np.array([1000]),
            "axis1": np.array([1]),
            "add": np.array(self.labels),
            "col1": np.array(1),
            "col2": np.array(2),
            "minus1": np.array([-1]),
            "five": np.array([5]),
            "zero": np.array([0]),
            "pads": np.array([0, 5]),
            "boxpads": np.array([0, 0, 5, 0]),
            "fivefour": np.array([1, 5, 4]),
            "onefive": np.array([1, 5]),
        }
        return made | ({"table": np.array(self.table)} if self.table else {})


_NMS_LINES = [
    "b = Add(locations, priors)",
    "pt = Transpose <perm=[0,2,1]> (p)",
    "pk = Slice(pt, first, end, axis1)",
    "chosen = NonMaxSuppression(b, pk, most, iou, least)",
    "index = Gather <axis=1> (chosen, col1)",
    "which = Gather <axis=1> (chosen, col2)",
    "b2 = Squeeze(b, zero)",
    "found_boxes = Gather(b2, which)",
    "iu = Unsqueeze(index, minus1)",
    "wu = Unsqueeze(which, minus1)",
    "pair = Concat <axis=1> (iu, wu)",
    "pk2 = Squeeze(pk, zero)",
    "found_scores = GatherND(pk2, pair)",
    "labels64 = Add(index, add)",
    "size = Shape(found_scores)",
    "top, order = TopK(found_scores, size)",
]
_ALL_LINES = [
    "out_boxes = Gather(found_boxes, order)",
    "out_labels = Gather(labels64, order)",
    "out_scores = Identity(top)",
]
_SLOT_LINES = [
    "lf = Cast <to=1> (labels64)",
    "sb = Gather(found_boxes, order)\nsl = Gather(lf, order)",
    "pb = Pad(sb, boxpads)\npl = Pad(sl, pads)\nps = Pad(top, pads)",
    "cb = Slice(pb, zero, five, zero)\ncl = Slice(pl, zero, five)\ncs = Slice(ps, zero, five)",
    "out_boxes = Reshape(cb, fivefour)",
    "out_labels = Reshape(cl, onefive)\nout_scores = Reshape(cs, onefive)",
]

FULL = Tiny((0, 1, 2, 3, 4))
KEPT = (0, 3, 1)


def check(whole: Tiny, cut: Tiny, *, claimed: Tiny | None = None, **more: object) -> Verdict:
    options: dict[str, Any] = {"provider": "cpu", "background": whole.background, **more}
    kept = claimed or cut
    return validate(
        whole.model(),
        cut.model(),
        sites=whole.sites(),
        cut_sites=kept.sites(),
        order=kept.columns,
        **options,
    )


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


# ------------------------------------------------------------------ the parts


@given(st.lists(st.integers(-1, 3), max_size=12))
def test_occurrences_count(ids: list[int]) -> None:
    assert list(occurrences(ids)) == [ids[:at].count(x) for at, x in enumerate(ids)]


@pytest.mark.parametrize(
    ("ids", "order", "take"),
    [
        ((0, 1, 2), (2, 0), [2, 0]),
        ((0, 1, 2, 0, 1, 2), (2, 0), [2, 0, 5, 3]),  # anchor-major
        ((0, 0, 1, 1, 2, 2), (2, 0), [4, 5, 0, 1]),  # class-major
        ((NONE, NONE, 0, 1, NONE, NONE, 0, 1), (1, 0), [0, 1, 3, 2, 4, 5, 7, 6]),  # interleaved
        ((1, 2, 3, NONE), (0, 3, 1), [2, 0, 3]),  # background sliced off
        ((0, 1, 1, 0), (1, 0), [1, 0, 3, 2]),
        ((2, 3, 1, 0), (0, 1), [2, 3]),  # a graph's own order stays
        ((2, 3, 1, 0), (3, 0), [3, 1]),
        ((0, 1, 0), (1, 0), None),
        ((0, 1, 1, 0), (0, 1), [0, 1, 2, 3]),
    ],
)
def test_natural_cut(ids: tuple[int, ...], order: tuple[int, ...], take: list[int] | None) -> None:
    assert natural_cut(ids, order) == take


def test_column_order() -> None:
    assert in_column_order((NONE, 1, 2, 1, 2))
    assert in_column_order((0, DROPPED, 2, 3, 0, DROPPED, 2, 3))
    assert in_column_order((0, 0, DROPPED, DROPPED, 2, 2))
    assert not in_column_order((2, 1))
    assert not in_column_order((0, DROPPED, 1, 3))


def test_pattern_is_laid_out_by_class_and_time() -> None:
    pattern = np.arange(2 * 2 * 3, dtype=np.float32).reshape(2, 2, 3)
    site = Site("s", 1, (2, NONE, 0, 2), "none")
    multiply, add = site_feed(site, (2, 4), pattern, 0.0)
    assert multiply.tolist() == [[0, 1, 0, 0]]
    assert add.tolist() == [[2, 0, 0, 5], [8, 0, 6, 11]]


def test_differences_count_what_is_not_finite() -> None:
    nan, inf = np.nan, np.inf
    a = np.array([1.0, nan, inf, 2.0], np.float32)
    same = difference(a, a.copy(), tolerance_for(a.dtype))
    assert (same.values, same.outside, same.max_abs) == (4, 0, 0.0)
    other = difference(a, np.array([nan, nan, inf, 2.1], np.float32), tolerance_for(a.dtype))
    assert other.outside == 2
    assert other.where == (0,)
    assert difference(a, a[::-1], Tolerance(0, 0)).outside == 4


def test_whole_numbers_are_exact() -> None:
    a = np.array([1, 2], np.int64)
    assert difference(a, a + np.array([0, 1]), tolerance_for(a.dtype)).outside == 1


def test_rows_match_one_to_one_in_any_order() -> None:
    rng = np.random.default_rng(0)
    rows = rng.random((50, 6))
    allowed = np.full_like(rows, 1e-9)
    shuffled = rng.permutation(rows)
    assert d.match(rows, shuffled, allowed).matched == 50
    doubled = np.concatenate([shuffled[:-1], shuffled[:1]])
    found = d.match(rows, doubled, allowed)
    assert (found.matched, len(found.missing), len(found.extra)) == (49, 1, 1)
    assert d.match(rows, rows[:0], allowed).missing == tuple(range(50))


@pytest.mark.parametrize(
    ("shapes", "axis", "outputs", "counts"),
    [
        ([{"b": (3, 4), "l": (3,), "s": (3,)}, {"b": (0, 4), "l": (0,), "s": (0,)}], 0, "bls", ""),
        ([{"b": (1, 10, 4), "c": (1, 10), "s": (1, 10), "n": (1,)}], 1, "bcs", "n"),
        ([{"b": (2, 9, 4), "c": (2, 9), "n": (2, 1)}], 1, "bc", "n"),
        ([{"x": (1, 100, 6)}], 1, "x", ""),
        ([{"x": (7, 7)}, {"x": (5, 7)}], 0, "x", ""),
        ([{"b": (3, 4), "m": (3, 1, 28, 28), "l": (3,)}], 0, "bml", ""),
    ],
)
def test_grouping(shapes: list[dict[str, Any]], axis: int, outputs: str, counts: str) -> None:
    runs = [{name: np.zeros(shape) for name, shape in run.items()} for run in shapes]
    groups = d.group_outputs(list(shapes[0]), runs)
    assert len(groups) == 1
    assert (groups[0].axis, groups[0].outputs) == (axis, tuple(outputs))
    assert groups[0].counts == tuple(counts)
