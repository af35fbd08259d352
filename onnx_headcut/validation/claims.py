"""What a plan claims to change, and what the structural comparison finds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from onnx_headcut.validation.mapped import NewColumn
    from onnx_headcut.validation.mixture import Beginning, Mixture


@dataclass(frozen=True)
class Claims:
    """What a plan says that it changes; everything else has to be byte-identical.

    ``nodes``: first outputs of nodes that were changed, added or removed; ``initializers`` by name
    likewise. ``rewritten`` are new initializers (or outputs of Constant nodes) that are larger than
    a small constant and no selection of the old one, such as a table of label ids. ``values`` are
    graph inputs and outputs whose declaration changes, ``metadata`` keys of metadata_props,
    ``functions`` local functions (``name`` or ``domain::name``), ``fields`` other fields of the
    model (``producer_name``) or of its graph (``graph.doc_string``). value_info is exempt unless
    ``value_info`` is False: it is inferred anew. ``mixtures`` are the heads' tensors that a class
    map of ``rows`` blends, and ``begin`` is where new classes begin: they are worked out anew.
    ``whole``: names of scores that were left whole, and the names that they had, which now stand
    for what a class map picks of them; without the nodes between, nothing else of them is new.
    """

    nodes: frozenset[str] = frozenset()
    initializers: frozenset[str] = frozenset()
    rewritten: frozenset[str] = frozenset()
    values: frozenset[str] = frozenset()
    metadata: frozenset[str] = frozenset()
    functions: frozenset[str] = frozenset()
    fields: frozenset[str] = frozenset()
    value_info: bool = True
    whole: Mapping[str, str] = field(default_factory=dict)
    mixtures: tuple[Mixture, ...] = ()
    rows: tuple[NewColumn, ...] = ()
    begin: Beginning | None = None


@dataclass(frozen=True)
class Selection:
    """A changed weight ``name``: ``source`` restricted to ``rows`` of ``axis``, in that order."""

    name: str
    source: str
    axis: int
    rows: tuple[int, ...]


@dataclass(frozen=True)
class Findings:
    """What the structural comparison found; true where nothing was changed beyond the claims."""

    problems: tuple[str, ...] = ()
    selections: tuple[Selection, ...] = ()
    same_nodes: int = 0
    same_initializers: int = 0
    made: int = 0

    def __bool__(self) -> bool:
        return not self.problems

    @property
    def line(self) -> str:
        """Say it in one line."""
        text = f"{self.same_nodes} nodes and {self.same_initializers} initializers byte-identical"
        text += f", {len(self.selections)} weights are selections of the original's"
        text += f", {self.made} are made of its rows as the class map says" if self.made else ""
        return text + (f", {len(self.problems)} unclaimed changes" if self.problems else "")


@dataclass
class Found:
    """What was found so far; ``folders`` are those of both models' external data."""

    folders: tuple[Path | None, Path | None]
    problems: list[str] = field(default_factory=list)
    selections: list[Selection] = field(default_factory=list)
    nodes: int = 0
    initializers: int = 0
    made: set[str] = field(default_factory=set)
