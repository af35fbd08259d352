"""A model with a handle on its class scores: the reference of validation, and its probes.

A *twin* of a model computes every class site as ``scores * gain + pattern``, both fed from outside.
Gain 1 with a pattern of 0 is the model itself. A large negative pattern on the dropped classes is
the reference that a cut is held against. Gain 0 leaves nothing but the pattern, whatever the
weights and the picture are.

Only what lies behind the sites is run again: a *base* run of the whole model is made once a feed,
and the *tail* takes the rest of what it needs from there. Both are found by plain reachability;
no knowledge of operators, and none of the cutter's rules, is involved.

With exact scores, sites lie behind the activation. Of several such sites, none is changed by what
another one is set to: whatever leads to a site stays out of the tail. A probability is "never" 0.
"""

from __future__ import annotations

from copy import copy as shallow
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from onnx_headcut.errors import GraphRefused
from onnx_headcut.labels import NONE, Site
from onnx_headcut.validation.half import Wide
from onnx_headcut.validation.integers import TYPES, Integers
from onnx_headcut.validation.unrounded import Steps, unrounded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

Array = npt.NDArray[Any]
Values = dict[str, Array]

# Added to a dropped class's score, it makes the score "never": softmax and sigmoid give exactly 0.
# For float16 it stays finite together with any score of up to 3.5e4 (the type ends at 65504).
NEVER = {"float16": -3e4, "float32": -1e9, "float64": -1e9} | dict.fromkeys(TYPES, -1e9)

# Ops that pick rows by score. What they give is a set of rows, as many as were found or as there
# are slots. This list decides how outputs are *compared*, never what they should contain.
_CHOOSING = {"ArgMax", "ArgMin", "Compress", "NonMaxSuppression", "NonZero", "TopK", "Unique"}
_CHOOSING_NAMES = ("NMS", "NonMaxSuppression", "Detection", "Proposal")


class Runner(Protocol):
    """What validation needs of a session."""

    def run(self, feed: Mapping[str, Any]) -> dict[str, Any]:
        """Return every graph output by name."""


@dataclass(frozen=True)
class Flow:
    """What lies behind the sites of a graph.

    ``nodes`` are the indices of the tail's nodes, in order; ``boundary`` the values that it takes
    from a base run; ``nested`` the sites that lie behind other sites; ``reached`` the graph outputs
    that depend on a site; ``chosen`` those of them that lie behind an op which picks rows by score.
    """

    nodes: tuple[int, ...]
    boundary: tuple[str, ...]
    nested: frozenset[str]
    reached: frozenset[str]
    chosen: frozenset[str]


@dataclass
class State:
    """A base run: the graph's outputs, what the tail takes from it, and the sites' own scores."""

    outputs: Values
    boundary: Values
    scores: Values = field(default_factory=dict)


class Twin:
    """A model whose class scores can be set.

    ``opener`` opens a session for a ModelProto. Sessions are opened at the first run, because the
    tail's input types are known only from there. Raises GraphRefused for sites that cannot be set.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        sites: Sequence[Site],
        opener: Callable[[onnx.ModelProto], Runner],
    ) -> None:
        self.model, self.sites = model, tuple(sites)
        self.flow = flow(model.graph, self.sites)
        self._open = opener
        self._base: Runner | None = None
        self._tail: Runner | None = None
        self.behind: onnx.ModelProto | None = None
        self.outputs = [value.name for value in model.graph.output]

    def base(self, feed: Mapping[str, Any]) -> State:
        """Run the whole model once; its graph outputs are those of the model as it is."""
        site_values = [site.value for site in self.sites]
        wanted = [*self.flow.boundary, *site_values]
        if self._base is None:
            self._base = self._open(expose(self.model, [n for n in wanted if n not in feed]))
        found = {**feed, **self._base.run(feed)}
        state = State(
            {name: found[name] for name in self.outputs},
            {name: found[name] for name in self.flow.boundary},
            {name: found[name] for name in site_values},
        )
        for site in self.sites:
            _check_site(site, state.scores[site.value])
        if self._tail is None:
            self.behind = tail(self.model, self.sites, self.flow, found)
            self._tail = self._open(self.behind)
        return state

    def run(
        self,
        state: State,
        patterns: Sequence[Array],
        gain: float | Array | list[float | Array] = 1.0,
    ) -> Values:
        """Run the tail with a pattern per site (see ``site_feed``) and a gain, or one per site.

        Returns all graph outputs by name: those that no site reaches as the base run gave them.
        Scores of nested sites come back too, under ``raw_name(value)``.
        """
        if self._tail is None:
            raise RuntimeError("a base run comes first")
        feed = dict(state.boundary)
        for index, (site, pattern) in enumerate(zip(self.sites, patterns, strict=True)):
            scores = state.scores[site.value]
            if site.value not in self.flow.nested:
                feed[raw_name(site.value)] = scores
            own = gain[index] if isinstance(gain, list) else gain
            multiply, add = site_feed(site, scores.shape, pattern, own)
            feed |= {f"headcut/mul{index}": multiply, f"headcut/add{index}": add}
        feed = {name: value for name, value in feed.items() if name in self._inputs()}
        return {name: state.outputs[name] for name in self.outputs} | dict(self._tail.run(feed))

    def without_rounding(self) -> tuple[Twin, Steps] | None:
        """Give the same with the rounding taken out of its tail, and what steps that had."""
        own = {raw_name(value) for value in self.flow.nested}
        found = None if self.behind is None else unrounded(self.behind, own)
        if found is None:
            return None
        twin = shallow(self)
        twin._tail = Wide(self._open(found[0]))  # noqa: SLF001  (a copy of its own)
        return twin, found[1]

    def _inputs(self) -> set[str]:
        names = set(self.flow.boundary)
        names |= {raw_name(s.value) for s in self.sites if s.value not in self.flow.nested}
        for index in range(len(self.sites)):
            names |= {f"headcut/mul{index}", f"headcut/add{index}"}
        return names


def raw_name(value: str) -> str:
    """Name a site's own scores in a tail, where the site's name belongs to what is read."""
    return f"headcut/raw/{value}"


def site_feed(
    site: Site, shape: Sequence[int], pattern: Array, gain: float | Array
) -> tuple[Array, Array]:
    """Lay a pattern out as a site has its classes.

    ``pattern`` is float32 ``[others, occurrences, columns]``: positions of all other axes together
    (row-major), which time a class occurs along the class axis (an anchor, mostly), and the class's
    source column. The first two may be 1, for "everywhere". The same pattern thus says the same of
    the same class in an original and in its cut, wherever each has it. ``gain`` is one for all
    classes, or one for each source column.
    Returns float32 factors and addends that broadcast to ``shape``; positions without a class
    keep their values.
    """
    ids, times = _numbered(site.ids)
    axis = site.axis % len(shape)
    classes = ids != NONE
    occurrence = np.minimum(times, pattern.shape[1] - 1)
    laid = np.where(classes, pattern[:, occurrence, np.maximum(ids, 0)], 0).astype(np.float32)
    others = [size for at, size in enumerate(shape) if at != axis]
    sizes = others if pattern.shape[0] > 1 else [1] * len(others)
    add = np.moveaxis(laid.reshape(*sizes, len(ids)), -1, axis)
    ones = [1] * len(shape)
    ones[axis] = len(ids)
    own = np.asarray(gain)[np.maximum(ids, 0)] if np.ndim(gain) else gain
    multiply = np.where(classes, own, 1).astype(np.float32).reshape(ones)
    return multiply, np.ascontiguousarray(add)


@lru_cache(maxsize=16)
def _numbered(ids: tuple[int, ...]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Labels and their occurrences, counted once for all the runs of a site."""
    labels = np.array(ids, np.int64)
    times = occurrences(labels)
    labels.flags.writeable = times.flags.writeable = False
    return labels, times


def occurrences(ids: Sequence[int] | npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Count, for each position, how often its label came before: ``[3, 5, 3] -> [0, 0, 1]``."""
    if len(ids) == 0:
        return np.zeros(0, np.int64)
    labels = np.asarray(ids)
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[order], prepend=labels[order][0] - 1))
    lengths = np.diff(np.append(starts, len(labels)))
    result = np.empty(len(labels), np.int64)
    result[order] = np.arange(len(labels)) - np.repeat(starts, lengths)
    return result


def is_probability(site: Site) -> bool:
    """Say whether a site's scores lie behind an activation, between 0 and 1."""
    return site.exact and site.activation != "none"


def as_probabilities(pattern: Array) -> Array:
    """Lay scores as they are before an activation out in the same order between 0 and 1."""
    return np.asarray(1 / (1 + np.exp(-np.maximum(pattern.astype(np.float64), -700))), np.float32)


def never(sites_scores: Mapping[str, Array]) -> float:
    """Choose the addend that makes a class "never", for the narrowest type among the sites."""
    return max(NEVER[value.dtype.name] for value in sites_scores.values())


# ------------------------------------------------------------------ what lies behind the sites


def flow(graph: onnx.GraphProto, sites: Sequence[Site]) -> Flow:
    """Find what depends on the sites, by names alone.

    Raises GraphRefused for a site whose value no node of the main graph makes.
    """
    initializers = {tensor.name for tensor in graph.initializer}
    initializers |= {tensor.values.name for tensor in graph.sparse_initializer}
    variable = {value.name for value in graph.input} - initializers
    made = {name for node in graph.node for name in node.output}
    values = {site.value for site in sites}
    for value in sorted(values - made):
        raise GraphRefused(
            f"no node of the main graph makes the score tensor {value!r}",
            advice="Validation cannot mask classes there; please report the model.",
        )
    reached, chosen, nested = set(values), set[str](), set[str]()
    whole = _upstream(graph, {site.value for site in sites if site.exact})
    dependent = []
    for index, node in enumerate(graph.node):
        used = set(uses(node))
        behind = bool(used & reached) and index not in whole
        dependent.append(behind)
        if used & variable:
            variable.update(node.output)
        if behind:
            reached.update(node.output)
            nested |= values & set(node.output)
            if used & chosen or _chooses(node):
                chosen.update(node.output)
    nodes, needed = _tail_nodes(graph, dependent, variable, reached)
    names = {value.name for value in graph.output}
    boundary = (needed & variable) - reached - {""}
    return Flow(
        tuple(nodes),
        tuple(sorted(boundary)),
        frozenset(nested),
        frozenset(names & reached),
        frozenset(names & chosen),
    )


def leading(graph: onnx.GraphProto, values: Iterable[str]) -> set[str]:
    """List the values that lead to any of ``values``, these included."""
    found = set(values)
    for index in _upstream(graph, set(values)):
        found.update(uses(graph.node[index]))
    return found


def _upstream(graph: onnx.GraphProto, values: set[str]) -> set[int]:
    """List the nodes that lead to any of the values."""
    needed, found = set(values), set[int]()
    for index in reversed(range(len(graph.node))):
        if needed.intersection(graph.node[index].output):
            found.add(index)
            needed.update(uses(graph.node[index]))
    return found


def _tail_nodes(
    graph: onnx.GraphProto, dependent: Sequence[bool], variable: set[str], reached: set[str]
) -> tuple[list[int], set[str]]:
    """List the dependent nodes and the constants that they need, and all names that these read.

    Constants come along as nodes, since some kernels want to know them when a session is opened.
    """
    needed: set[str] = set()
    nodes = []
    for index in reversed(range(len(graph.node))):
        node = graph.node[index]
        constant = not variable.intersection(node.output) and not reached.intersection(node.output)
        if dependent[index] or (constant and needed.intersection(node.output)):
            nodes.append(index)
            needed.update(uses(node))
    return nodes[::-1], needed


def uses(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the names that a node reads, its subgraphs' included (and their inner names too)."""
    yield from node.input
    for graph in _subgraphs(node):
        for inner in graph.node:
            yield from uses(inner)
        for value in graph.output:
            yield value.name


def _subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == onnx.AttributeProto.GRAPHS:
            yield from attribute.graphs


def _chooses(node: onnx.NodeProto) -> bool:
    if node.op_type in _CHOOSING or any(word in node.op_type for word in _CHOOSING_NAMES):
        return True
    return any(_chooses(inner) for graph in _subgraphs(node) for inner in graph.node)


def _check_site(site: Site, scores: object) -> None:
    """Refuse scores that no pattern can be added to."""
    if not isinstance(scores, np.ndarray) or scores.dtype.name not in NEVER:
        kind = getattr(scores, "dtype", type(scores).__name__)
        raise GraphRefused(
            f"class scores {site.value!r} are of type {kind}: validation can mask classes in"
            f" {', '.join(sorted(NEVER))} only",
            advice="Validate the float model that this one was quantized from, or cut with "
            "--no-validate.",
        )
    axis = site.axis if site.axis >= 0 else site.axis + scores.ndim
    if not 0 <= axis < scores.ndim or scores.shape[axis] != len(site.ids):
        raise GraphRefused(
            f"class scores {site.value!r} have shape {list(scores.shape)}, and {len(site.ids)}"
            f" labels on axis {site.axis}",
            advice="The plan does not fit the model; please report it.",
        )


# ------------------------------------------------------------------ the two models to run


def expose(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """Copy a model and make values of its main graph outputs too."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    known = {value.name for value in copy.graph.output}
    # Names without a type are enough: the runtime infers it.
    fresh = [name for name in dict.fromkeys(names) if name not in known]
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in fresh)
    return copy


def tail(
    model: onnx.ModelProto, sites: Sequence[Site], what: Flow, samples: Mapping[str, Array]
) -> onnx.ModelProto:
    """Build the model of what lies behind the sites, with ``scores * gain + pattern`` at each.

    ``samples`` are the boundary's and the sites' values in one base run, for their types. The
    maker of a nested site gives its value a new name; everything that reads the old one, in
    subgraphs and among the graph's outputs too, then reads the sum.
    """
    graph = model.graph
    copy = onnx.ModelProto(
        ir_version=model.ir_version,
        opset_import=model.opset_import,
        functions=model.functions,
        producer_name="onnx-headcut",
    )
    copy.graph.name = "tail"
    copy.graph.input.extend(_declared(name, samples[name]) for name in what.boundary)
    integers = Integers(graph, sites)
    site_nodes = {
        site.value: integers.site_nodes(index, site, samples[site.value], raw_name(site.value))
        if samples[site.value].dtype.name in TYPES
        else _site_nodes(index, site, samples[site.value])
        for index, site in enumerate(sites)
    }
    for index, site in enumerate(sites):
        scores = samples[site.value]
        if site.value not in what.nested:
            copy.graph.input.append(_declared(raw_name(site.value), scores))
            copy.graph.node.extend(site_nodes[site.value])
        for name in (f"headcut/mul{index}", f"headcut/add{index}"):
            copy.graph.input.append(
                helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * scores.ndim)
            )
    for index in what.nodes:
        for node in integers.spelled_out(graph.node[index]):
            _append(copy.graph, node, site_nodes)
    used = {name for node in copy.graph.node for name in uses(node)}
    copy.graph.initializer.extend(t for t in graph.initializer if t.name in used)
    copy.graph.initializer.extend(integers.constants.values())
    copy.graph.sparse_initializer.extend(t for t in graph.sparse_initializer if t.values.name in used)
    outputs = [value.name for value in graph.output if value.name in what.reached]
    outputs += [raw_name(site.value) for site in sites if site.value in what.nested]
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    return copy


def _append(
    graph: onnx.GraphProto, node: onnx.NodeProto, site_nodes: Mapping[str, list[onnx.NodeProto]]
) -> None:
    added = graph.node.add()
    added.CopyFrom(node)
    for position, name in enumerate(node.output):
        if name in site_nodes:
            added.output[position] = raw_name(name)
            graph.node.extend(site_nodes[name])


def _declared(name: str, sample: Array) -> onnx.ValueInfoProto:
    if not isinstance(sample, np.ndarray):
        raise GraphRefused(
            f"value {name!r} is not a tensor, and what lies behind the scores reads it",
            advice="Validation cannot run this graph in two parts; please report the model.",
        )
    # Other feeds may have other sizes: only type and rank are declared.
    elem_type = helper.np_dtype_to_tensor_dtype(sample.dtype)
    return helper.make_tensor_value_info(name, elem_type, [None] * sample.ndim)


def _site_nodes(index: int, site: Site, scores: Array) -> list[onnx.NodeProto]:
    elem_type = helper.np_dtype_to_tensor_dtype(scores.dtype)
    multiply, add, product = f"headcut/mul{index}", f"headcut/add{index}", f"headcut/scaled{index}"
    nodes: list[onnx.NodeProto] = []
    if elem_type != TensorProto.FLOAT:
        nodes += [
            helper.make_node("Cast", [name], [f"{name}/cast"], to=elem_type) for name in (multiply, add)
        ]
        multiply, add = f"{multiply}/cast", f"{add}/cast"
    nodes.append(helper.make_node("Mul", [raw_name(site.value), multiply], [product]))
    nodes.append(helper.make_node("Add", [product, add], [site.value]))
    return nodes
