"""Class maps behind every pattern of exporters: repeated, merged and new classes, all validated."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from conftest import dealt, some
from onnx import numpy_helper
from patterns import PATTERNS, changed
from test_patterns import CUT

import onnx_headcut as hc

CODES = {"grown": "would come out with one number at output 'labels'"}
OWN = {"repeated": "a branch of its own", "grown": "a branch of its own"}
REFUSED = {
    **{name: OWN for name in CUT if name.startswith("branches")},
    "class_constant_as_lower_bound": OWN,
    "a_function_called_for_each_class": OWN,
    "classes_taken_apart_and_joined": OWN,
    "loop_over_classes_with_codes": CODES,
    "top_k_with_names": CODES,
    "top_k_with_names_by_a_label_encoder": CODES,
    "top_k_with_codes_by_a_label_encoder": CODES,
}
"""A class of which branches or codes know one: it cannot stand twice, or be more than there were."""


def specs(name: str) -> dict[str, list[int | str]]:
    first, *_, last = known = PATTERNS[name]().foreground
    return {
        "repeated": [known[1], known[1], first],
        "all three": [known[1], known[1], f"m={first}|{last}", f"d=new(copy {known[2]})"],
        "merged and new": [known[1], f"m={first}|{last}", f"d=new(copy {known[2]})"],
        "grown": [*known, "d=new"],
    }


KINDS = dealt([name for name in some(CUT, 1) if name not in REFUSED], ["all three", "grown"]) + [
    (name, kind) for name in REFUSED for kind in ("repeated", "merged and new", "grown")
]
"""What one cut can hold is proved by one. By default, test_planted has plain cuts of the others."""


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_a_map_behind_a_pattern(name: str, kind: str) -> None:
    pattern, spec = PATTERNS[name](), specs(name)[kind]
    twice = REFUSED.get(name, {}).get(kind)
    if twice:
        with pytest.raises(hc.HeadcutError, match=twice):
            hc.cut(pattern.model(), spec, validation=False, **pattern.told)
        return

    found = hc.cut(pattern.model(), spec, provider="cpu", **pattern.told)

    assert found.exit_code == 0, found.verdict


CODED = changed(
    PATTERNS["nms_columns_gathered"](),
    ("labels = Add (class_at, one)", "labels = Gather (codes, class_at)"),
    ("int64 most = {3}", "int64 most = {3}, int64[5] codes = {11, 22, 44, 43, 90}"),
    own_ids=True,
)


IN_PART = "{1, 2, 3, 7, 9}"
"""Codes of which the first are in a row, as those of COCO are."""


@pytest.mark.parametrize("spec", ["2", "3", "5", "2, 3", "3, 2", "2, 2, 3"])
@pytest.mark.parametrize("codes", ["{11, 22, 44, 43, 90}", IN_PART])
def test_codes_stay_whichever_classes_are_kept(codes: str, spec: str) -> None:
    pattern = changed(CODED, ("{11, 22, 44, 43, 90}", codes))
    found = hc.cut(pattern.model(), spec, provider="cpu", **pattern.told)
    assert found.exit_code == 0, found.verdict
    wrong = onnx.ModelProto.FromString(found.model.SerializeToString())
    table = next(t for t in wrong.graph.initializer if t.name.startswith("codes"))
    value = numpy_helper.to_array(table).copy()
    table.CopyFrom(numpy_helper.from_array(np.arange(1, len(value) + 1), table.name))
    if not np.array_equal(value, np.arange(1, len(value) + 1)):
        verdict = hc.validate(pattern.model(), wrong, provider="cpu", **pattern.told)
        assert verdict.status == "failed"


@pytest.mark.parametrize("scores", ["renormalized", "exact"])
def test_codes_of_the_model_s_own_tell_classes_apart(scores: str) -> None:
    how = {"provider": "cpu", "scores": scores, **CODED.told}
    for spec in ("3, 3, 1", "2, m=4|3", "m=4|3, 2, 2"):
        found = hc.cut(CODED.model(), spec, **how)
        assert found.exit_code == 0, found.verdict
    with pytest.raises(hc.UsageError, match="3 and m would come out with one number") as caught:
        hc.cut(CODED.model(), "3=3, m=3|4", **how)
    assert "take a dropped one's place" in caught.value.advice
    if scores == "renormalized":
        assert hc.cut(CODED.model(), "2, d=new(copy 3)", **how).exit_code == 0
        with pytest.raises(hc.UsageError, match="1 and d would come out with one number"):
            hc.cut(CODED.model(), "1-5, d=new", **how)
