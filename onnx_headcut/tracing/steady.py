"""A plan has to hold for every batch, every picture and every size of it, not for the example alone.

What is known of a dynamic graph is known of an example of its inputs: a width, or how many rows are
found, may happen to be the class count there, a batch of one be squeezed away. So a trace is made again
for other extents, and has to find the same edits; what differs is refused.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from onnx_headcut.editing import edits as ed
from onnx_headcut.errors import GraphRefused, TooFew

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from onnx_headcut.graph.analysis import Analysis
    from onnx_headcut.graph.scope import Scope
    from onnx_headcut.tracing.plan import Found, OutputClasses

ADVICE = (
    "give the model the batch and the picture size that it is used with, and cut that: python -m "
    "onnxruntime.tools.make_dynamic_shape_fixed; where the example is a special case, give another "
    "one with --input-shape NAME=1x3x320x320"
)


def hold(here: Analysis, found: Found, again: Callable[[Analysis], Found]) -> None:
    """Raise GraphRefused where what was ``found`` for an example is not found ``again`` for another.

    Where a smaller picture leaves the graph too little to choose from, that is told, and a larger
    one taken.
    """
    other = here.smaller
    while other is not None:
        try:
            with _elsewhere(here, other):
                _check(here.main, found, again(other))
        except TooFew as error:
            found.trace.notes.append(f"with {_told(other)}: {error.what}")
            other = here.larger if other is here.smaller else None
        else:
            return


@contextmanager
def _elsewhere(here: Analysis, there: Analysis) -> Iterator[None]:
    """Refusals inside say for which inputs the cut would be right, and for which it would not."""
    try:
        yield
    except TooFew:
        raise
    except GraphRefused as error:
        told = f"the cut would be right for {_told(here)} only. With {_told(there)}, "
        refused = GraphRefused(told + error.what, advice=ADVICE)
        refused.node, refused.op, refused.path = error.node, error.op, error.path
        raise refused from error


def _check(scope: Scope, here: Found, there: Found) -> None:
    """Raise GraphRefused where two traces of one cut differ in their edits or their outputs."""
    edits, others = here.trace.edits, there.trace.edits
    for key in [*edits, *(k for k in others if k not in edits)]:
        edit, other = edits.get(key), others.get(key)
        if edit is None or other is None or not ed.alike(edit, other):
            raise _differing(scope, edit, other)
    for first, second in zip(here.outputs, there.outputs, strict=True):
        if _kind(first) != _kind(second):
            raise GraphRefused(f"output {first.name!r} would depend on the classes in another way")


def _kind(output: OutputClasses) -> tuple[object, ...]:
    return output.kind, output.axis, output.convention


def _differing(scope: Scope, edit: ed.Edit | None, other: ed.Edit | None) -> GraphRefused:
    place = (edit or other or ed.Edit(())).place
    _, node = ed.node_at(scope.graph, place)
    wanted, made = (e.describe() if e is not None else "nothing" for e in (other, edit))
    return GraphRefused(
        f"it would need another change ({wanted}) than the one found ({made})",
        node=node.name or node.output[0],
        op=node.op_type,
    )


def _told(example: Analysis) -> str:
    shapes = example.shapes.items()
    return ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes)
