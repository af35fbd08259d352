"""docs/support.md says what is supported: made from the rules, the patterns and the pairs.

``HEADCUT_WRITE_DOCS=1 pytest tests/test_support.py`` writes it anew.
"""

from __future__ import annotations

import gzip
import os
import textwrap
from typing import TYPE_CHECKING

import exported
import onnx
import patterns
from exported import OTHERWISE, PAIRS, ROOT, Pair
from patterns import PATTERNS
from plugin_patterns import PLUGINS

from onnx_headcut.graph import plain
from onnx_headcut.graph.ops import CONTROL
from onnx_headcut.rules import (
    detections,
    elementwise,
    heads,
    indexing,
    movement,
    plugins,
    products,
    scores,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

PAGE = ROOT / "docs" / "support.md"
TOP = """# What is supported

<!-- Made by `make docs` from the rules and the tests; a test fails where they differ. -->

A detector can be cut when every class can be followed from the heads to the outputs. What cannot be
followed is refused with exit code 3 and the name of the node; nothing is cut in part.

* **Heads**: Conv, Gemm and MatMul whose output channels are class scores, with bias or without, one
  per level or one for all. They are found by data flow from the outputs, never by names or channel
  counts.
* **Class axis**: one column a class, anchors times classes (in either order), boxes and scores side by
  side on one axis, permutations of these.
* **Scores**: raw, softmax or sigmoid; the background first, last or absent.
* **Beside detectors**: an image classifier is cut where `--background` says what its softmax has
  (`--head`, too, for raw scores). Detectors of one class (faces with landmarks), maps of segmentation
  behind a Resize, and scores against texts that are an input are refused: there is no column to cut.
* **Exporters**: `models/exported/` holds graphs of real exporters, each with the graph that its
  framework exports for the kept classes.
"""
RULES = """## Operators

What lies on the way of class scores; ops that no class reaches may be any. An op that is not here
is refused when class scores reach it. Detections that were found may go through any op.
"""
PATTERN_ROWS = """## Patterns behind the head

Each is a tiny detector in the tests, cut to several sets of classes and held against the original.
"""
PAIR_ROWS = """## Graphs of real exporters

Each was exported twice, with many classes and with few, and the first is cut to the second. *Same
graph*: every output is computed by the same ops on the same constants as in the second, to the last
bit. *Same outputs*: it gives the same numbers in another way.
"""
FAMILIES: dict[str, Iterable[str]] = {
    "heads": heads.HEAD_OPS,
    "moving elements": movement.RULES,
    "element by element": elementwise.RULES,
    "over classes": scores.RULES,
    "products of computed tensors": products.RULES,
    "choosing detections": detections.RULES,
    "reading by index": indexing.RULES,
    "control flow": CONTROL,
    "detection plugins, in any domain": plugins.KNOWN,
    "quantized and fused": [f"{d}:{op}" if d else op for d, op in plain.FORMS],
}
SHOWN = ("NonMaxSuppression", "TopK", "ArgMax", "NonZero", "Loop", "If")


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines) + "\n"


def operators() -> str:
    rows = [(name, " ".join(f"`{op}`" for op in sorted(ops))) for name, ops in FAMILIES.items()]
    return table(["family", "operators"], rows)


def behind_the_head() -> str:
    rows = []
    for name, make in {**PATTERNS, **PLUGINS}.items():
        text = (make.__doc__ or "").strip()
        refused = patterns.REFUSED.get(name)
        rows.append((text, "cut" if refused is None else f"refused at {refused[0]}"))
    return table(["pattern", ""], rows)


def real_graphs() -> str:
    head = ["exported", "detector", "opset", "classes", "in the graph", "to be said", "the cut is"]
    return table(head, [row(pair) for pair in PAIRS.values()])


def row(pair: Pair) -> tuple[object, ...]:
    name = pair["name"]
    ops = operators_of(name)
    shown = " ".join(op for op in SHOWN if op in ops) or "scores alone"
    told = exported.arguments(pair)
    said = " ".join(f"`--{key} {value}`" for key, value in told.items())
    status = "same outputs" if name in OTHERWISE else "same graph"
    if name in exported.REFUSED:
        status = f"refused at {exported.REFUSED[name][0]}"
    maker = pair["exporter"].split(",")[-1].strip().removesuffix(" exporter")
    count = f"{pair['classes']} → {pair['native_classes']}"
    return (f"`{name}`", f"{pair['architecture']}, {maker}", pair["opset"], count, shown, said, status)


def operators_of(name: str) -> set[str]:
    path = ROOT / "models" / "exported" / f"{name}.native.onnx.gz"
    model = onnx.load_from_string(gzip.decompress(path.read_bytes()))
    return {node.op_type for node in exported.each_node(model.graph)}


def page() -> str:
    parts = [TOP, RULES, operators(), PATTERN_ROWS, behind_the_head(), PAIR_ROWS, real_graphs()]
    return "\n".join(parts)


def test_the_page_is_what_the_rules_and_tests_say() -> None:
    if os.environ.get("HEADCUT_WRITE_DOCS"):
        PAGE.write_text(page(), encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == page(), "stale: run `make docs`"


def test_every_pattern_says_what_it_is() -> None:
    for make in [*PATTERNS.values(), *PLUGINS.values()]:
        assert make.__doc__
        assert len(textwrap.dedent(make.__doc__).splitlines()) == 1
