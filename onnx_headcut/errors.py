"""The exceptions, each with the exit code that the command line ends with.

::

    HeadcutError
    ├── UsageError         2   wrong usage: options, class names, files that may not be written
    ├── InputError         2   a file that cannot be read as what it should be
    ├── GraphRefused       3   a graph that cannot be cut safely: unsupported or ambiguous
    │   ├── NoHead         3   nothing makes class scores, or not what is named as a head
    │   ├── TooFew         3   of a picture of this size, too few candidates are left
    │   └── CallReached    3   class scores reach local functions (met inside: these are inlined)
    ├── ProviderError      4   an execution provider that was asked for and cannot be used
    └── ValidationFailed   1   the cut model differs from the reference, or nothing was compared

Every message says what is wrong, where (file, node, op, axis), and what to do next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class HeadcutError(Exception):
    """Base of all errors that are meant for the person at the command line."""

    exit_code = 1

    def __init__(self, what: str, *, advice: str = "") -> None:
        self.what = what
        self.advice = advice
        super().__init__(f"{what}\n{advice}" if advice else what)


class UsageError(HeadcutError):
    """Wrong usage: an option, a class name or an output path that cannot be taken."""

    exit_code = 2


class InputError(HeadcutError):
    """A file that cannot be read as what it should be."""

    exit_code = 2


class GraphRefused(HeadcutError):
    """A graph that cannot be cut safely; names the node where that was found.

    ``node``, ``op`` and ``path`` (names of the nodes from the head to here) are there for
    machine-readable reports; the message says them too.
    """

    exit_code = 3

    def __init__(
        self,
        what: str,
        *,
        node: str = "",
        op: str = "",
        path: tuple[str, ...] = (),
        advice: str = "",
    ) -> None:
        self.node, self.op, self.path = node, op, path
        where = f"{op} node {node!r}: " if node or op else ""
        route = f" (reached by {' → '.join(path)})" if path else ""
        super().__init__(f"{where}{what}{route}", advice=advice)


class NoHead(GraphRefused):
    """Nothing in the graph makes class scores, or not what is named; it may be no detector."""


class TooFew(GraphRefused):
    """Of a picture of this size, fewer candidates are left than the graph takes the best of."""


class CallReached(GraphRefused):
    """Class scores reach calls of local functions, at ``places``; they can be inlined."""

    def __init__(
        self,
        what: str,
        places: Sequence[tuple[int, ...]],
        *,
        node: str = "",
        op: str = "",
        path: tuple[str, ...] = (),
    ) -> None:
        self.places = tuple(places)
        advice = "inline it first with onnx.inliner.inline_local_functions"
        super().__init__(what, node=node, op=op, path=path, advice=advice)


class ProviderError(HeadcutError):
    """An execution provider that was asked for and cannot be used."""

    exit_code = 4


class ValidationFailed(HeadcutError):
    """The cut model differs from the reference, or nothing was compared."""

    exit_code = 1


KINDS = frozenset({"UsageError", "InputError", "GraphRefused", "ProviderError", "ValidationFailed",
                   "HeadcutError"})  # fmt: skip
"""Names of the errors that documents tell; what is told apart within the tool goes by its base."""
