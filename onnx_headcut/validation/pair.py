"""Both models on one input: the masked original, and the cut, with the same patterns."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from contextlib import suppress
from copy import copy as shallow
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
import onnx

from onnx_headcut.errors import HeadcutError, ProviderError
from onnx_headcut.labels import NONE
from onnx_headcut.validation import probe
from onnx_headcut.validation.excite import Exciter, places
from onnx_headcut.validation.fixed import WANTED, Fixed
from onnx_headcut.validation.half import halves
from onnx_headcut.validation.integers import quantizes
from onnx_headcut.validation.reference import (
    Runner,
    State,
    Twin,
    as_probabilities,
    is_probability,
    never,
    raw_name,
)
from onnx_headcut.validation.runtime import open_session, read_placement
from onnx_headcut.validation.verdict import Where

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from onnx_headcut.labels import Site
    from onnx_headcut.validation.inputs import NamedFeed
    from onnx_headcut.validation.mapped import Chunk

Array = npt.NDArray[Any]
Values = dict[str, Array]
T = TypeVar("T")


@dataclass(frozen=True)
class Model:
    """A model to validate: its protobuf, what a session is opened from, and its data's folder.

    ``stored`` is the model as it lies there, where another one is run in its place.
    """

    proto: onnx.ModelProto
    source: onnx.ModelProto | Path
    folder: Path | None
    stored: onnx.ModelProto | None = None

    @property
    def as_stored(self) -> onnx.ModelProto:
        """The protobuf whose tensors are those that lie there."""
        return self.proto if self.stored is None else self.stored


def load(model: onnx.ModelProto | Path | Model, folder: Path | None) -> Model:
    """Take a model as it is given. External data stay where they are."""
    if isinstance(model, Model):
        return model
    if isinstance(model, onnx.ModelProto):
        return Model(model, model, folder)
    proto = onnx.load(model, load_external_data=False)
    return Model(proto, model, folder or model.parent)


class CutBroken(Exception):
    """The cut model cannot be loaded or run."""


class Watched:
    """A session whose first run is profiled, so that it is known on what each node ran."""

    def __init__(
        self, model: onnx.ModelProto | Path, provider: str, external_data_dir: Path | None
    ) -> None:
        folder = tempfile.mkdtemp(prefix="onnx-headcut-")
        self._remove = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self._session = open_session(
            model,
            provider=provider,
            external_data_dir=external_data_dir,
            profile_to=Path(folder),
        )
        self.where = Where(self._session.provider, {}, self._session.note)

    def run(self, feed: Mapping[str, Any]) -> dict[str, Any]:
        """Run; after the first time, ``where`` tells the placement.

        Raises ProviderError where the provider that was asked for ran none of the nodes.
        """
        profiled = self._remove.alive
        try:
            outputs = self._session.run(feed)
        finally:
            if profiled:
                counts = read_placement(self._session.end_profile())
                self.where = replace(self.where, placement=counts)
                self._remove()
        if profiled:
            self._took_part()
        return outputs

    def _took_part(self) -> None:
        where = self.where
        if not where.placement or where.provider in where.placement:
            return
        others = ", ".join(f"{count} on {name}" for name, count in where.placement.items())
        if not where.note:  # it was asked for by name
            raise ProviderError(
                f"{where.provider} was asked for, and took none of the model's nodes: {others}",
                advice="It has no kernels for them, or none for their type. Use --provider cpu.",
            )
        self.where = replace(where, note=f"{where.note}, but took none of the nodes")


@dataclass
class _Opener:
    """Opens a model's sessions; where ``watched``, the first, which runs the whole model, is.

    It does not know who opens: in a circle, sessions would stay in memory until that is looked for.
    """

    model: Model
    provider: str
    watched: bool = False
    whole: Watched | None = None

    def __call__(self, proto: onnx.ModelProto) -> Runner:
        if self.watched and self.whole is None:
            self.whole = Watched(proto, self.provider, self.model.folder)
            return self.whole
        return self._open(proto) if self.provider not in WANTED else Fixed(proto, self._open)

    def _open(self, proto: onnx.ModelProto) -> Runner:
        return open_session(proto, provider=self.provider, external_data_dir=self.model.folder)


class Pair:
    """Both models on one input, with the same patterns on the same classes."""

    def __init__(  # noqa: PLR0913, PLR0917  (two models with their sites)
        self,
        original: Model,
        cut: Model,
        sites: Sequence[Site],
        cut_sites: Sequence[Site],
        columns: probe.Columns,
        provider: str,
        seed: int,
        chunk: Chunk | None = None,
    ) -> None:
        self.columns, self._seed, self.chunk = columns, seed, chunk
        self.deployed: Watched | None = None
        self._cut_model, self._provider = cut, provider
        self._opener = _Opener(original, provider, watched=True)
        self.original = Twin(original.proto, sites, self._opener)
        self.cut = guard(lambda: Twin(cut.proto, cut_sites, _Opener(cut, provider)))
        self.state = State({}, {})
        self.cut_state = State({}, {})
        self.deployed_outputs: Values = {}
        self.rounds = True
        self._unrounded: tuple[Twin, Twin] | None = None
        self._asked = False
        self.narrowed: dict[str, tuple[int, tuple[int, ...]]] = {}
        """Of outputs with a class axis in rows that are picked: the axis, and what stays of it."""
        self.cut_narrowed: dict[str, tuple[int, tuple[int, ...]]] = {}
        """The same of the cut, where a map is looked at in parts."""

    def narrow(self, values: Values) -> Values:
        """Give outputs of the original with the kept positions of such a class axis."""
        chosen = {
            name: np.take(values[name], take, axis)
            for name, (axis, take) in self.narrowed.items()
            if name in values
        }
        return values | chosen

    @property
    def whole(self) -> Watched | None:
        """The session that runs the whole original, once it is open."""
        return self._opener.whole

    def start(self, feed: NamedFeed) -> bool:
        """Run both models as they are; False where the original does not take an optional size."""
        try:
            self.state = self.original.base(feed.feed)
        except HeadcutError:
            if feed.may_fail:
                return False
            raise
        if self.deployed is None:
            model = self._cut_model
            self.deployed = guard(lambda: Watched(model.source, self._provider, model.folder))
        deployed = self.deployed
        self.deployed_outputs = guard(lambda: deployed.run(feed.feed))
        self.cut_state = guard(lambda: self.cut.base(feed.feed))
        for site, own in zip(self.original.sites, self.cut.sites, strict=True):
            there = places(site, self.state.scores[site.value]).others
            here = places(own, self.cut_state.scores[own.value]).others
            if here != there:
                raise CutBroken(f"{own.value!r}: scores at {here} places in the cut, not at {there}")
        return True

    @property
    def provider(self) -> str:
        """Where the models run: what was asked for, and for ``auto`` what was chosen."""
        return self._provider if self.deployed is None else self.deployed.where.provider

    @property
    def never(self) -> float:
        """What masks a class."""
        return never(self.state.scores)

    @property
    def precision(self) -> list[np.dtype[Any]]:
        """The dtypes that scores pass through."""
        return [*(scores.dtype for scores in self.state.scores.values()), *self._halves]

    @cached_property
    def _halves(self) -> set[np.dtype[Any]]:
        return halves(self.original.model.graph)

    @property
    def halves_behind(self) -> list[np.dtype[Any]]:
        """The types of half precision behind the scores, which alone matter where these are set."""
        behind = self.original.behind
        return [] if behind is None or not self.rounds else [*halves(behind.graph)]

    def steps(self, *, deployed: bool = False) -> float:
        """Give the share of values that rounding to steps may move by one.

        None without quantization; few where both models are run in the same parts; any where the
        cut is run as it is, for runtimes fuse a softmax with the quantizers around it.
        """
        nodes = self.original.model.graph.node
        if not (self.rounds and quantizes(nodes)):
            return 0.0
        behind = quantizes(nodes[index] for index in self.original.flow.nodes)
        return 1.0 if deployed and behind else 0.01

    def without_rounding(self) -> Pair | None:
        """Give the same pair, on the same input, with the rounding behind the scores taken out.

        None where nothing rounds there, or the rounding cannot be taken out of both models alike:
        the cut's steps have to be among the original's.
        """
        if not self._asked:
            self._asked = True
            with suppress(HeadcutError):  # what does not run without its integers
                twins = [twin.without_rounding() for twin in (self.original, self.cut)]
                before, after = (twin or (None, frozenset()) for twin in twins)
                if before[0] is not None and after[0] is not None and after[1] <= before[1]:
                    self._unrounded = before[0], after[0]
        if self._unrounded is None:
            return None
        pair = shallow(self)
        pair.original, pair.cut = self._unrounded
        pair.rounds = False
        return pair

    def run(self, patterns: Sequence[Array], gain: float = 0.0) -> tuple[Values, Values]:
        """Run both tails with a pattern per site; the original's dropped classes are masked."""
        patterns = self._felt(patterns)
        got = self._run_cut(*self._mask_cut(patterns, gain))
        if gain and self.chunk is not None:
            reference, _ = self._made(patterns, self._cut_scores(got))
        else:
            reference = self._run_original(*self._mask(patterns, gain))
        return reference, got

    def run_original(self, patterns: Sequence[Array], *, masked: bool = False) -> Values:
        """Run the original's tail alone."""
        patterns = self._felt(patterns)
        fed = self._mask(patterns, 0.0) if masked else (patterns, 0.0)
        return self._run_original(*fed)

    def _run_original(
        self, patterns: Sequence[Array], gain: float | Array | list[float | Array]
    ) -> Values:
        return self.narrow(self.original.run(self.state, patterns, gain))

    def _run_cut(self, patterns: Sequence[Array], gain: float | Array) -> Values:
        """Run the cut's tail, and leave out what is not in the part that is looked at."""
        values = guard(lambda: self.cut.run(self.cut_state, patterns, gain))
        left = {
            name: np.take(values[name], take, axis)
            for name, (axis, take) in self.cut_narrowed.items()
            if name in values
        }
        return values | left

    def run_cut(self, patterns: Sequence[Array]) -> Values:
        """Run the cut's tail alone."""
        return self._run_cut(*self._mask_cut(self._felt(patterns), 0.0))

    def masked(self, cut_scores: Sequence[Array]) -> tuple[Values, list[Array]]:
        """Run the reference: outputs, and the scores at the sites (behind masked ones, too).

        ``cut_scores`` are the cut's at its sites, for classes of which only the cut knows.
        """
        patterns = [self.columns.pattern() for _ in self.original.sites]
        if self.chunk is not None:
            return self._made(patterns, cut_scores)
        values = self._run_original(*self._mask(patterns, 1.0))
        return values, self._scores(values)

    def _scores(self, values: Values) -> list[Array]:
        return [
            values.get(raw_name(site.value), self.state.scores[site.value])
            for site in self.original.sites
        ]

    def _cut_scores(self, values: Values) -> list[Array]:
        return [
            values.get(raw_name(site.value), self.cut_state.scores[site.value])
            for site in self.cut.sites
        ]

    @cached_property
    def derived(self) -> frozenset[str]:
        """Sites whose scores are those of sites before them, and so are mapped with these.

        There a class is "never" once it is so before; scores of a head of its own are not.
        """
        nested = self.original.flow.nested
        if not nested:
            return frozenset()
        zero = self.columns.pattern()
        patterns = [zero if site.value in nested else zero + self.never for site in self.original.sites]
        values = self._run_original(patterns, 1.0)
        found = []
        for site in self.original.sites:
            if site.value in nested:
                raw = np.moveaxis(values[raw_name(site.value)], site.axis, -1)
                classes = raw[..., np.array(site.ids) != NONE].astype(np.float64)
                found += [site.value] if (classes <= self.never / 100).all() else []
        return frozenset(found)

    def _made(
        self, patterns: Sequence[Array], cut_scores: Sequence[Array]
    ) -> tuple[Values, list[Array]]:
        """Run the original with the class map's scores in place of its own, plus patterns.

        A site behind another one has other scores once the first are replaced: those are mapped in
        turn, until all are, unless they are the first ones' scores.
        """
        assert self.chunk is not None  # noqa: S101  (the callers looked)
        scores = self._scores({})
        values: Values = {}
        for _ in range(len(self.original.flow.nested) + 1):
            made, gain = self.chunk.written(self.original.sites, scores, self.cut.sites, cut_scores)
            own = [site.value not in self.derived for site in self.original.sites]
            summed = [p + m if o else p for p, m, o in zip(patterns, made, own, strict=True)]
            total, kept = self._mask(summed, gain)
            values = self._run_original(total, [kept if o else 1.0 for o in own])
            scores = self._scores(values)
        return values, scores

    def cut_as_it_is(self) -> tuple[Values, list[Array]]:
        """The cut's outputs on its own scores, and these.

        Of its part alone, where a map is looked at in parts.
        """
        if not self.columns.extra:
            return self.deployed_outputs, self._cut_scores({})
        fed = self._mask([self.columns.pattern() for _ in self.cut.sites], 1.0)
        values = self._run_cut(*fed)
        return values, self._cut_scores(values)

    def _mask_cut(
        self, patterns: Sequence[Array], gain: float
    ) -> tuple[Sequence[Array], float | Array]:
        return self._mask(patterns, gain) if self.columns.extra else (patterns, gain)

    def exciter(self, background: int | None, *, low: bool = False) -> Exciter:
        """Make patterns for the sites as large as they are on this input."""
        sizes = [places(s, self.state.scores[s.value]) for s in self.original.sites]
        return Exciter(sizes, self.columns, background=background, seed=self._seed, low=low)

    def noise(self, seed: int) -> tuple[Values, Values]:
        """Run both tails with noise in place of all scores."""
        return self.run(self.exciter(None).noise(seed))

    def _felt(self, patterns: Sequence[Array]) -> list[Array]:
        """Patterns that are meant for scores before an activation, as each site has its scores."""
        pairs = zip(self.original.sites, patterns, strict=True)
        return [as_probabilities(p) if is_probability(s) else p for s, p in pairs]

    def _mask(
        self, patterns: Sequence[Array], gain: float | Array
    ) -> tuple[list[Array], float | Array]:
        """Patterns and gains that make dropped classes "never"."""
        dropped = list(self.columns.dropped)
        masked = [pattern.copy() for pattern in patterns]
        for site, pattern in zip(self.original.sites, masked, strict=True):
            pattern[..., dropped] = 0 if is_probability(site) else self.never
        if any(site.exact for site in self.original.sites):
            gain = np.full(self.columns.width, 1, np.float32) * gain
            gain[dropped] = 0
        return masked, gain

    def meanings(
        self, names: Sequence[str]
    ) -> tuple[dict[str, probe.Meaning], dict[str, probe.Meaning]]:
        """Probe both models for what the elements of their outputs mean."""
        count = len(self.original.sites)
        noise = [self.noise(seed) for seed in (0, 1)]
        before = probe.meanings(
            lambda pattern: self.run_original([pattern] * count),
            lambda seed: noise[seed][0],
            names,
            self.columns,
            masked=self.never,
        )
        after = probe.meanings(
            lambda pattern: guard(
                lambda: self.cut.run(self.cut_state, self._felt([pattern] * count), 0.0)
            ),
            lambda seed: noise[seed][1],
            names,
            self.columns,
            masked=self.never if self.columns.extra else None,
        )
        return before, after

    def singled(self, name: str) -> tuple[probe.Meaning | None, probe.Meaning | None]:
        """Probe both models for the places of classes in an output that says the best one's."""
        count = len(self.original.sites)
        before = probe.singled(
            lambda pattern: self.run_original([pattern] * count), name, self.columns, masked=self.never
        )
        if before is None:
            return None, None
        after = probe.singled(
            lambda pattern: guard(
                lambda: self.cut.run(self.cut_state, self._felt([pattern] * count), 0.0)
            ),
            name,
            self.columns,
            masked=self.never if self.columns.extra else None,
        )
        return before, after


def guard(work: Callable[[], T]) -> T:
    """Turn an error of the cut model into a finding."""
    try:
        return work()
    except ProviderError:
        raise
    except HeadcutError as error:
        raise CutBroken(f"the cut model cannot be run: {error.what}") from error
