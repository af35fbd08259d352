"""Validation where no runtime has all the ops: at the tensors that enter those.

A detection plugin of another runtime cannot be run here. So it is taken out of both models, with
all that depends on it, and what it reads becomes an output: the dense scores and boxes are compared
as any outputs are, the reference masked as ever. What is left is held against plain statements
about the two nodes (see `statements`) and against the bytes of what follows them. The verdict says
that no detections were compared.

Which ops these are, onnxruntime itself says when it opens a model.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnx_headcut.errors import HeadcutError, InputError
from onnx_headcut.validation import proof
from onnx_headcut.validation.extents import of_kept
from onnx_headcut.validation.lookups import lookup_problems
from onnx_headcut.validation.pair import Model, load
from onnx_headcut.validation.reference import expose, flow
from onnx_headcut.validation.runtime import RuntimeFailure, open_session
from onnx_headcut.validation.statements import Columns, attribute_problems, numbers_a_box
from onnx_headcut.validation.structure import structural
from onnx_headcut.validation.synthetic import synthetic
from onnx_headcut.validation.verdict import Settings, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from onnx_headcut.labels import Site
    from onnx_headcut.validation.claims import Claims
    from onnx_headcut.validation.inputs import Feed, NamedFeed

    Array = npt.NDArray[Any]

_LACKING = re.compile(
    r"(?:([^\s:]*):)?(\w+)\(-?\d+\) is not a registered function/op"
    r"|No Op registered for (\w+) with domain_version"
    r"|Could not find an implementation for (\w+)\(\d+\) node"
)
"""How onnxruntime says that it has no code for an op."""


def validate(  # noqa: PLR0913  (as `proof.validate`)
    original: onnx.ModelProto | Path | Model,
    cut: onnx.ModelProto | Path | Model,
    *,
    claims: Claims | None = None,
    settings: Settings | None = None,
    original_dir: Path | None = None,
    cut_dir: Path | None = None,
    provider: str = "auto",
    feeds: Sequence[NamedFeed] | None = None,
    **known: Any,
) -> Verdict:
    """Hold a cut model against its original, as `proof.validate`; without ops that cannot be run."""
    given = {"settings": settings, "original_dir": original_dir, "cut_dir": cut_dir,
             "provider": provider, "feeds": feeds, **known}  # fmt: skip
    try:
        return proof.validate(original, cut, claims=claims, **given)
    except (InputError, RuntimeFailure):
        before, after = load(original, original_dir), load(cut, cut_dir)
        sites: Sequence[Site] = known["sites"]
        ops = lacking(before, sites, provider)
        if not ops:
            raise
    total = max((label for site in sites for label in site.ids), default=-1) + 1
    columns = Columns(total, tuple(known["order"]), known.get("background"))
    parts = _Parts(before, after, ops, columns, sites)
    settings = settings or Settings()
    given["settings"] = replace(settings, tolerances=_left(settings, parts.old.proto, sites))
    parts.open(provider, feeds, settings)
    given |= {"original_dir": before.folder, "cut_dir": after.folder}
    verdict = proof.validate(parts.old.proto, parts.new.proto, claims=None, **given)
    problems, doubts = parts.problems(settings.ids)
    structure = None
    if claims is not None:
        structure = structural(before.as_stored, after.as_stored, claims,
                               original_dir=before.folder, cut_dir=after.folder)  # fmt: skip
        problems += [f"structure: {problem}" for problem in structure.problems]
    names = tuple(dict.fromkeys(_say(n) for n in parts.taken))
    note = (
        f"no kernel here runs {', '.join(names)}: compared were the tensors that enter "
        f"{'it' if len(names) == 1 else 'them'}, and attributes and what follows by what they say; "
        "no detections were"
    )
    return replace(
        verdict,
        status="failed" if problems else "inconclusive" if doubts and verdict else verdict.status,
        reasons=(*verdict.reasons, *problems, *doubts),
        notes=(note, *verdict.notes),
        structure=structure,
        not_run=names,
    )


def _left(settings: Settings, model: onnx.ModelProto, sites: Sequence[Site]) -> dict[str, Any]:
    """The tolerances of what is still compared."""
    names = {v.name for v in model.graph.output} | {site.value for site in sites}
    return {name: t for name, t in settings.tolerances.items() if name in names}


def lacking(model: Model, sites: Sequence[Site], provider: str) -> frozenset[tuple[str, str]]:
    """Ops (domain and name, the domain "" where it is not said) that no kernel runs.

    None where the model does not open for another reason, or cannot do without them.
    """
    ops: set[tuple[str, str]] = set()
    while True:
        part, _ = without(model.proto, frozenset(ops))
        made = {name for node in part.graph.node for name in node.output}
        if not made.issuperset(site.value for site in sites):
            return frozenset()
        try:
            source = expose(part, [site.value for site in sites]) if ops else model.source
            open_session(source, provider=provider, external_data_dir=model.folder)
        except HeadcutError as error:
            said = _LACKING.search(error.what)
            if said is None:
                return frozenset()
            found = (said[1] or "", said[2] or said[3] or said[4])
            if found in ops:
                return frozenset()
            ops.add(found)
        else:
            return frozenset(ops)


def without(
    model: onnx.ModelProto, ops: frozenset[tuple[str, str]]
) -> tuple[onnx.ModelProto, list[onnx.NodeProto]]:
    """A model without these ops and what depends on them; and the nodes that are gone, in order."""
    calls = _calls(model, ops)
    gone: list[onnx.NodeProto] = []
    names: set[str] = set()
    part = onnx.ModelProto()
    part.CopyFrom(model)
    del part.graph.node[:]
    for node in model.graph.node:
        if _holds(node, ops | calls) or not names.isdisjoint(_reads(node)):
            gone.append(node)
            names.update(name for name in node.output if name)
        else:
            part.graph.node.append(node)
    kept = [output for output in part.graph.output if output.name not in names]
    del part.graph.output[:]
    part.graph.output.extend(kept)
    # functions that nobody calls are checked all the same when a model is opened
    left = [f for f in part.functions if (f.domain, f.name) not in calls]
    del part.functions[:]
    part.functions.extend(left)
    return part, gone


def _calls(model: onnx.ModelProto, ops: frozenset[tuple[str, str]]) -> frozenset[tuple[str, str]]:
    """Local functions with one of these ops in them, or in what they call."""
    found: frozenset[tuple[str, str]] = frozenset()
    while True:
        more = frozenset((f.domain, f.name) for f in model.functions
                         if any(_holds(n, ops | found) for n in f.node))  # fmt: skip
        if more == found:
            return found
        found = more


def _holds(node: onnx.NodeProto, ops: frozenset[tuple[str, str]]) -> bool:
    if (node.domain, node.op_type) in ops or ("", node.op_type) in ops:
        return True
    graphs = [g for a in node.attribute for g in (a.g, *a.graphs)]
    return any(_holds(inner, ops) for graph in graphs for inner in graph.node)


def _likeness(a: onnx.NodeProto, b: onnx.NodeProto) -> tuple[bool, bool, bool]:
    """How sure it is that two nodes are the same one; an output's name may go to a lookup."""
    return bool(a.name) and a.name == b.name, a.input == b.input, a.output[0] == b.output[0]


def _reads(node: onnx.NodeProto) -> list[str]:
    """Names that a node reads, and names in its bodies."""
    names = list(node.input)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            names += [name for inner in graph.node for name in _reads(inner)]
            names += [output.name for output in graph.output]
    return names


def _say(node: onnx.NodeProto) -> str:
    op = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
    return f"{op} node {node.name or node.output[0]!r}"


@dataclass(frozen=True)
class _Entrance:
    """A value that a node which is gone reads, in both models, and the output that shows it."""

    name: str
    old: str
    new: str
    each: int
    """Numbers of a box that stand side by side, where the node has boxes of each class."""


class _Parts:
    """Both models without what cannot be run, and with what enters it as outputs."""

    def __init__(
        self,
        before: Model,
        after: Model,
        ops: frozenset[tuple[str, str]],
        columns: Columns,
        sites: Sequence[Site],
    ) -> None:
        self.columns, self.sites = columns, sites
        self.graphs = (before.proto.graph, after.proto.graph)
        old, self.gone = without(before.proto, ops)
        new, self.left = without(after.proto, ops)
        self.old, self.new = Model(old, old, before.folder), Model(new, new, after.folder)
        calls = ops | _calls(before.proto, ops)
        self.taken = [node for node in self.gone if _holds(node, calls)]
        self._doubts: list[str] = []
        self._problems: list[str] = []
        self.pairs = self._paired(calls)
        self.entrances = list(self._entrances())
        for entrance in self.entrances:
            _show(old, entrance.old, entrance.name)
            _show(new, entrance.new, entrance.name)

    def _paired(self, calls: frozenset[tuple[str, str]]) -> list[tuple[onnx.NodeProto, onnx.NodeProto]]:
        """Nodes of both that correspond: those not run by their order, others by their output."""
        taken = [node for node in self.left if _holds(node, calls)]
        if [n.op_type for n in taken] != [n.op_type for n in self.taken]:
            self._problems.append(f"the cut has {len(taken)} nodes that cannot be run, of "
                                  f"{len(self.taken)}")  # fmt: skip
            return []
        pairs = list(zip(self.taken, taken, strict=True))
        there = [node for node in self.left if not _holds(node, calls)]
        for node in [node for node in self.gone if not _holds(node, calls)]:
            twin = max((n for n in there if n.op_type == node.op_type),
                       key=lambda n: _likeness(node, n), default=None)  # fmt: skip
            if twin is None or not any(_likeness(node, twin)):
                self._doubts.append(f"{_say(node)} lies behind what cannot be run, and is gone")
            else:
                there.remove(twin)
                pairs.append((node, twin))
        self.added = there
        return pairs

    def _entrances(self) -> Iterator[_Entrance]:
        made = [{o for n in part.proto.graph.node for o in n.output} |
                {v.name for v in part.proto.graph.input} for part in (self.old, self.new)]  # fmt: skip
        outputs = {v.name for v in self.old.proto.graph.output}
        seen: set[tuple[str, str]] = set()
        for node, twin in self.pairs:
            for old, new in zip(_reads(node), _reads(twin), strict=False):
                both = (old in made[0], new in made[1])
                if not any(both) or (old, new) in seen:
                    continue
                seen.add((old, new))
                if not all(both):
                    self._doubts.append(f"{_say(node)} reads {new!r} instead of {old!r}")
                    continue
                name = f"{old} → {node.op_type}"
                while name in outputs:
                    name += "'"
                outputs.add(name)
                yield _Entrance(name, old, new, numbers_a_box(node))

    def open(self, provider: str, feeds: Sequence[NamedFeed] | None, settings: Settings) -> None:
        """Run both once: what has an entry for each class without scores in it is selected.

        Boxes of each class are made by a head of their own, or are copies: no score reaches them,
        so the original's are restricted to the kept classes here.
        """
        feed = (feeds or synthetic(self.old.proto, count=1, seed=settings.seed,
                                   shapes=settings.shapes))[0].feed  # fmt: skip
        values = []
        for model in (self.old, self.new):
            if not model.proto.graph.output:
                return
            try:
                session = open_session(model.proto, provider=provider, external_data_dir=model.folder)
                values.append(session.run(feed))
            except HeadcutError:
                if model is self.old:
                    raise
                return  # the cut is broken, and will be found so
        scored = flow(self.old.proto.graph, self.sites).reached
        for entrance in self.entrances:
            old, new = (v[entrance.name] for v in values)
            if entrance.name not in scored and old.shape != new.shape:
                self._restrict(entrance, old.shape, new.shape)
            elif entrance.name in scored and old.dtype.kind in "iu" and old.shape == new.shape:
                self._reckon(entrance, provider, feed)

    def _reckon(self, entrance: _Entrance, provider: str, feed: Feed) -> None:
        """Show what extents of the kept classes' scores would give, where it is reckoned from these."""
        part = of_kept(self.old.proto, entrance.name, self.sites, self.columns.order)
        if part is not None:
            with suppress(HeadcutError):  # a stored shape counts all classes
                session = open_session(part, provider=provider, external_data_dir=self.old.folder)
                session.run(feed)
                self.old.proto.CopyFrom(part)

    def _restrict(self, entrance: _Entrance, old: tuple[int, ...], new: tuple[int, ...]) -> None:
        differing = [a for a in range(len(old)) if len(old) == len(new) and old[a] != new[a]]
        for axis in differing if len(differing) == 1 else []:
            kept = self.columns.selected(old[axis], entrance.each)
            if kept is not None and len(kept) == new[axis]:
                _select(self.old.proto, entrance.name, axis, kept)

    def problems(self, ids: str) -> tuple[list[str], list[str]]:
        """What is wrong with the nodes themselves and with what follows them, and what is unclear."""
        problems, doubts = list(self._problems), list(self._doubts)
        for node, twin in self.pairs:
            if node in self.taken:
                found = attribute_problems(node, twin, self.columns)
                problems += [f"{_say(node)}: {p}" for p in found]
            elif [a.SerializeToString() for a in node.attribute] != [
                a.SerializeToString() for a in twin.attribute
            ]:
                doubts.append(f"{_say(node)} lies behind what cannot be run, and is changed")
            problems += [f"{_say(node)}: {p}" for p in self._constants(node, twin)]
        if self.added:
            follows = lookup_problems(self.graphs, self.added, self.columns, self.taken, ids)
            problems += follows[0]
            doubts += follows[1]
        return problems, doubts

    def _constants(self, node: onnx.NodeProto, twin: onnx.NodeProto) -> Iterator[str]:
        """What both read that is stored: the same, or its entries for the kept classes."""
        stores = [{t.name: t for t in graph.initializer} for graph in self.graphs]
        if len(node.input) != len(twin.input):
            yield f"it reads {len(twin.input)} inputs in the cut instead of {len(node.input)}"
            return
        for was, now in zip(node.input, twin.input, strict=True):
            if was not in stores[0] or now not in stores[1]:
                continue
            old, new = (numpy_helper.to_array(s[n]) if not s[n].external_data else None
                        for s, n in zip(stores, (was, now), strict=True))  # fmt: skip
            if old is None or new is None:
                if was != now:
                    yield f"it reads {now!r} instead of {was!r}"
            elif not same_constant(old, new, self.columns):
                yield f"its stored input {was!r} is neither what it was nor its kept classes"


def same_constant(old: Array, new: Array, columns: Columns) -> bool:
    """Whether ``new`` is ``old``, or its entries for the kept classes along one axis."""
    same_kind = old.dtype == new.dtype and old.shape == new.shape
    if same_kind and np.array_equal(old, new, equal_nan=old.dtype.kind == "f"):
        return True
    return any(
        np.array_equal(old.take(columns.order, axis), new)
        for axis in range(old.ndim) if old.shape[axis] == columns.total
    )  # fmt: skip


def _show(model: onnx.ModelProto, value: str, name: str) -> None:
    """Make a value an output of this name."""
    model.graph.node.append(helper.make_node("Identity", [value], [name]))
    model.graph.output.append(onnx.ValueInfoProto(name=name))


def _select(model: onnx.ModelProto, name: str, axis: int, kept: Sequence[int]) -> None:
    """Restrict what an output shows."""
    maker = next(node for node in model.graph.node if name in node.output)
    maker.output[0] = f"{name}/all"
    index = numpy_helper.from_array(np.array(kept, np.int64), f"{name}/kept")
    model.graph.initializer.append(index)
    model.graph.node.append(helper.make_node("Gather", [f"{name}/all", index.name], [name], axis=axis))
