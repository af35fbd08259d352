"""One tiny detector in ONNX text for each pattern that exporters put behind the head.

A `Pattern` says what its author knows and the cutter has to find out: which class each channel of
the head belongs to, and how to read its outputs. From that alone comes the oracle: in the original
graph the dropped classes' channels get no weights and a bias of ``NEVER``, so that their scores
are as good as zero; what that graph finds, with ids translated, is what the cut has to find.

`frame` says what a pattern is; the other files hold them, in the order of the table in docs/support.md.
"""

from __future__ import annotations

# ruff: noqa: I001  (imported in the order of the table: each file enters its patterns)
from patterns.frame import (
    Array,
    CELLS,
    CLASSES,
    FLAT,
    Head,
    OUTPUTS,
    PATTERNS,
    Pattern,
    REFUSED,
    changed,
    front,
    graph,
    made,
    pictures,
    run,
)
from patterns import (
    branched,  # noqa: F401
    suppression,  # noqa: F401
    written,  # noqa: F401
    loops,  # noqa: F401
    scans,  # noqa: F401
    flattened,  # noqa: F401
    backgrounds,  # noqa: F401
    own_boxes,  # noqa: F401
    channels,  # noqa: F401
    shared,  # noqa: F401
    flow,  # noqa: F401
)
from patterns.branched import GATHER, SHAPED, branches
from patterns.suppression import LIMITS, PLAIN

__all__ = [
    "CELLS",
    "CLASSES",
    "FLAT",
    "GATHER",
    "LIMITS",
    "OUTPUTS",
    "PATTERNS",
    "PLAIN",
    "REFUSED",
    "SHAPED",
    "Array",
    "Head",
    "Pattern",
    "branches",
    "changed",
    "front",
    "graph",
    "made",
    "pictures",
    "run",
]
