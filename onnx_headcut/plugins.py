"""What a rule for an op of your own is written with; docs/rules.md tells how.

::

    from onnx_headcut.plugins import Fact, Outcome, Rows, Rule, View, class_numbers

    def decode(view: View) -> Outcome: ...

    RULES = [Rule("Decode", decode, domain="Acme")]
"""

from onnx_headcut.extensions import Extensions, Plugin, Rule, load
from onnx_headcut.graph.facts import UNKNOWN, Fact, attributes
from onnx_headcut.labels import NONE, Columns, Labels, Lookup, Rows, Whole
from onnx_headcut.rules.plugin_parts import class_numbers
from onnx_headcut.tracing.view import Outcome, View

__all__ = [
    "NONE",
    "UNKNOWN",
    "Columns",
    "Extensions",
    "Fact",
    "Labels",
    "Lookup",
    "Outcome",
    "Plugin",
    "Rows",
    "Rule",
    "View",
    "Whole",
    "attributes",
    "class_numbers",
    "load",
]
