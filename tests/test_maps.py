"""Class maps: from what a person says, through the graph, to validation."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_headcut.classes.mapping import ClassMap, Row, Start, row_of


def test_a_map_says_what_it_is() -> None:
    plain = ClassMap.of_columns([0, 3, 1], 4, 0)
    assert plain.plain
    assert not plain.identity
    assert plain.order == plain.selection.order == (0, 3, 1)
    assert ClassMap.of_columns(range(4), 4, 0).identity
    merged = Row(2, ((2, 0.5), (3, 0.5)), merged=True, name="vehicle")
    new = Row(1, (), Start("normal", 0.01), "drone")
    mixed = ClassMap((row_of(0), merged, new, row_of(1), row_of(1)), 4, 0)
    assert not mixed.plain
    assert mixed.repeats
    assert mixed.blended == (1, 2)
    assert np.array_equal(mixed.matrix[1], [0, 0, 0.5, 0.5])
    assert not mixed.matrix[2].any()
    assert [mixed.describe(j) for j in range(3)] == ["0", "2 + 3", "new (normal 0.01), like 1"]
    names = ("background", "vehicle", "drone", None, None)
    read = ClassMap.from_json(mixed.to_json(), names)
    assert read.to_json() == mixed.to_json()
    assert read.rows[1] == merged


@pytest.mark.parametrize("text", ["", "[]", '{"rows": 3}', '{"rows": [{}]}'])
def test_what_is_no_map_is_no_map(text: str) -> None:
    with pytest.raises(ValueError, match="is no class map"):
        ClassMap.from_json(text)
