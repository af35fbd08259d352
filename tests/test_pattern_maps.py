"""Class maps behind every pattern of exporters: repeated, merged and new classes, all validated."""

from __future__ import annotations

import pytest
from patterns import PATTERNS
from test_patterns import CUT

import onnx_headcut as hc

OWN = {"repeated": "a branch of its own", "grown": "a branch of its own"}
TABLE = {"grown": "cannot be computed for the kept classes"}
REFUSED = {
    **{name: OWN for name in CUT if name.startswith("branches")},
    "class_constant_as_lower_bound": OWN,
    "a_function_called_for_each_class": OWN,
    "loop_over_classes_with_codes": TABLE,
    "loop_over_classes_in_another_order": TABLE,
    "loop_over_classes_with_gains": TABLE,
}
"""A class of which branches or a table know one: it cannot stand twice, or be more than there were."""


def specs(name: str) -> dict[str, list[int | str]]:
    first, *_, last = known = PATTERNS[name]().foreground
    return {
        "repeated": [known[1], known[1], first],
        "all three": [known[1], known[1], f"m={first}|{last}", f"d=new(copy {known[2]})"],
        "merged and new": [known[1], f"m={first}|{last}", f"d=new(copy {known[2]})"],
        "grown": [*known, "d=new"],
    }


KINDS = [
    (name, kind)
    for name in CUT
    for kind in (*(("repeated", "merged and new") if name in REFUSED else ("all three",)), "grown")
]
"""What one cut can hold is proved by one."""


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_a_map_behind_a_pattern(name: str, kind: str) -> None:
    pattern, spec = PATTERNS[name](), specs(name)[kind]
    twice = REFUSED.get(name, {}).get(kind)
    if twice:
        with pytest.raises(hc.GraphRefused, match=twice):
            hc.cut(pattern.model(), spec, validation=False, **pattern.told)
        return

    found = hc.cut(pattern.model(), spec, provider="cpu", **pattern.told)

    assert found.exit_code == 0, found.verdict
