"""Validation, step by step: the cut model against the masked reference.

1. The labels at the score tensors are those that a cut has to leave, and so are the numbers.
2. What the outputs' positions mean is found by probing both models, and has to correspond.
3. On every input, the cut as it is equals the original with its dropped classes masked.
4. Where detections are picked inside the graph, each kept class is made to win somewhere, and the
   detections have to be the same set, with the right ids.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx

from onnx_headcut.errors import UsageError
from onnx_headcut.validation import forms, probe
from onnx_headcut.validation.beginning import complaints as badly_begun
from onnx_headcut.validation.companions import left_behind, same_numbers
from onnx_headcut.validation.deployed import as_deployed
from onnx_headcut.validation.mapped import chunks
from onnx_headcut.validation.pair import CutBroken, Model, Pair, load
from onnx_headcut.validation.reference import leading
from onnx_headcut.validation.searching import ranked
from onnx_headcut.validation.sets import Sets
from onnx_headcut.validation.structure import structural
from onnx_headcut.validation.synthetic import elsewhere, synthetic
from onnx_headcut.validation.tally import Layout, Ledger
from onnx_headcut.validation.verdict import Deployed, Settings, Verdict, decide, merged

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from onnx_headcut.labels import Site
    from onnx_headcut.validation.claims import Claims
    from onnx_headcut.validation.inputs import Feed, NamedFeed
    from onnx_headcut.validation.mapped import Chunk, NewColumn

Array = npt.NDArray[Any]


def validate(  # noqa: PLR0913  (what a cut is, and how to look at it)
    original: onnx.ModelProto | Path | Model,
    cut: onnx.ModelProto | Path | Model,
    *,
    sites: Sequence[Site],
    cut_sites: Sequence[Site],
    order: Sequence[int],
    background: int | None = None,
    rows: Sequence[NewColumn] | None = None,
    feeds: Sequence[NamedFeed] | None = None,
    provider: str = "auto",
    settings: Settings | None = None,
    claims: Claims | None = None,
    original_dir: Path | None = None,
    cut_dir: Path | None = None,
) -> Verdict:
    """Hold a cut model against its original.

    ``sites`` are the tensors of class scores of the original, ``cut_sites`` the same of the cut in
    the same order, with labels still in source columns. ``order`` are the source columns of the
    cut's class axis in their new order, with the background where the model has one.
    ``background`` is its source column where it is known: it need not be detected anywhere.
    ``rows`` say what the cut's columns are made of, where they are more than ``order``.
    ``claims`` adds the structural proof. The folders are those of external data, where the models
    are not given by their paths.

    Never raises for a cut that is wrong: the verdict says so. Raises UsageError for a tolerance of
    no output, GraphRefused for scores that cannot be masked, ProviderError for a provider that
    cannot be used, and InputError or RuntimeFailure where the original itself does not run.
    """
    settings = settings or Settings()
    before, after = load(original, original_dir), load(cut, cut_dir)
    _know(settings.tolerances, before, sites)
    total = max((label for site in sites for label in site.ids), default=-1) + 1
    total = max(total, max(order, default=-1) + 1)
    rounded = _rounded(after, claims)
    subject = _Subject(before, after, tuple(sites), tuple(cut_sites), feeds, provider, rounded)
    if rows is None:
        return _search(subject, probe.Columns(total, tuple(order), background), settings, claims)
    verdicts = []
    for number, chunk in enumerate(chunks(rows, total, background)):
        told = claims if number == 0 else None
        verdicts.append(_search(subject, chunk.as_columns(background), settings, told, chunk))
    return merged(verdicts)


@dataclass(frozen=True)
class _Subject:
    """Two models, their score tensors, and where and on what they are run."""

    original: Model
    cut: Model
    sites: tuple[Site, ...]
    cut_sites: tuple[Site, ...]
    feeds: Sequence[NamedFeed] | None
    provider: str
    rounded: tuple[np.dtype[Any], ...] = ()


def _rounded(cut: Model, claims: Claims | None) -> tuple[np.dtype[Any], ...]:
    """The types to which a class map rounded what it made: sums of rows in half precision."""
    made = {mixture.name for mixture in claims.mixtures} if claims is not None else set()
    kinds = {t.data_type for t in cut.as_stored.graph.initializer if t.name in made}
    return tuple(onnx.helper.tensor_dtype_to_np_dtype(kind) for kind in sorted(kinds))


def _search(
    subject: _Subject,
    columns: probe.Columns,
    settings: Settings,
    claims: Claims | None,
    chunk: Chunk | None = None,
) -> Verdict:
    """Validate on one seed's inputs, and on others where these show too little."""
    best: Verdict | None = None
    feeds, others = subject.feeds, None
    for attempt in range(settings.searches + 1):
        chosen = replace(settings, seed=settings.seed + attempt)
        proof = _Proof(subject, columns, chosen, chunk)
        cut_sites = proof.check_declared(subject.sites, subject.cut_sites)
        if not proof.ledger.failures:
            proof.run(subject.sites, cut_sites, feeds)
        verdict = proof.verdict(claims)
        if attempt and verdict.status != "inconclusive":
            note = f"other synthetic inputs showed what those of seed {settings.seed} did not"
            verdict = replace(verdict, notes=(*verdict.notes, note))
        if best is None or verdict.status != "inconclusive" or _seen(verdict) > _seen(best):
            best = verdict
        # Other inputs may show more, where it is inputs that showed too little.
        if not proof.ledger.unshown or verdict.status != "inconclusive":
            return best
        if subject.feeds:
            return _with_advice(best, "")
        others = proof.others(settings) if others is None else others[settings.count :]
        if not others:
            break
        feeds = others[: settings.count]
    if best is None:  # pragma: no cover  (there is always a first attempt)
        raise RuntimeError
    seeds = f"{settings.seed + 1} to {settings.seed + settings.searched}"
    return _with_advice(best, f"the synthetic inputs of seeds {seeds} showed no more; ")


def _with_advice(verdict: Verdict, searched: str) -> Verdict:
    advice = f"{searched}give pictures in which the original finds these classes (--image, --input)"
    return replace(verdict, notes=(*verdict.notes, advice))


def _know(tolerances: Iterable[str], model: Model, sites: Sequence[Site]) -> None:
    """Raise UsageError for a tolerance of something that is not compared."""
    names = [*(v.name for v in model.proto.graph.output), *(site.value for site in sites)]
    for name in tolerances:
        if name not in names:
            raise UsageError(
                f"a tolerance is set for {name!r}, which is no output of the model",
                advice=f"These are compared: {', '.join(map(repr, dict.fromkeys(names)))}.",
            )


def _seen(verdict: Verdict) -> int:
    """Count the classes that there is evidence for."""
    return sum(bool(row.values or row.detections) for row in verdict.classes)


class _Proof:
    """One validation under way."""

    def __init__(
        self,
        subject: _Subject,
        columns: probe.Columns,
        settings: Settings,
        chunk: Chunk | None = None,
    ) -> None:
        self.original, self.cut, self.provider = subject.original, subject.cut, subject.provider
        self.columns, self.settings, self.chunk = columns, settings, chunk
        self.rounded, self.given = subject.rounded, subject.feeds
        self.ledger = Ledger(columns, settings)
        self.pair: Pair | None = None
        self.used: list[str] = []
        self.first: Feed | None = None
        self.layout: Layout | None = None
        self.deployed: Deployed | None = None

    def check_declared(self, sites: Sequence[Site], cut_sites: Sequence[Site]) -> Sequence[Site]:
        """Hold names of inputs and outputs, and the labels of the sites, against each other.

        Returns the cut's sites; those of a class map with labels that tell all its columns apart.
        """
        ledger, graphs = self.ledger, (self.original.proto.graph, self.cut.proto.graph)
        stored = [{t.name for t in graph.initializer} for graph in graphs]
        inputs = [
            [v.name for v in graph.input if v.name not in names]
            for graph, names in zip(graphs, stored, strict=True)
        ]
        outputs = [[v.name for v in graph.output] for graph in graphs]
        for what, (old, new) in (("inputs", inputs), ("outputs", outputs)):
            if old != new:
                ledger.fail(f"the cut's {what} are {new}, the original's {old}")
        for what in forms.differing(self.original.as_stored, self.cut.as_stored, cut_sites):
            ledger.fail(what)
        if ledger.failures:
            ledger.note(forms.ADVICE)
        if len(set(self.columns.order)) < len(self.columns.order):
            ledger.fail("a column is kept twice")
        if not sites:
            ledger.doubt("no tensor of class scores is known, so that nothing can be masked")
        if self.chunk is None or len(sites) != len(cut_sites):
            for complaint in probe.site_complaints(sites, cut_sites, self.columns.order):
                ledger.fail(complaint)
            return cut_sites
        found = [self.chunk.cut_site(*pair) for pair in zip(sites, cut_sites, strict=True)]
        for wrong in [site for site in found if isinstance(site, str)]:
            ledger.fail(wrong)
        return [site for site in found if not isinstance(site, str)]

    def run(
        self,
        sites: Sequence[Site],
        cut_sites: Sequence[Site],
        feeds: Sequence[NamedFeed] | None,
    ) -> None:
        """Do all comparisons; what is found goes to the ledger."""
        if not sites:
            return
        settings = self.settings
        if feeds is None:
            feeds = synthetic(
                self.original.proto,
                count=settings.count,
                seed=settings.seed,
                shapes=settings.shapes,
            )
        elif not any(feed.may_fail for feed in feeds):
            feeds = [*feeds, *self._beside(feeds)]
        try:
            self._run(sites, cut_sites, feeds)
        except CutBroken as error:
            self.ledger.fail(str(error))

    def _beside(self, feeds: Sequence[NamedFeed]) -> list[NamedFeed]:
        """Synthetic inputs of other sizes than those that were given, where sizes are open."""
        shapes = {name: array.shape for feed in feeds[:1] for name, array in feed.feed.items()}
        try:
            return elsewhere(self.original.proto, seed=self.settings.seed, shapes=shapes)
        except UsageError:  # inputs that only their user can make
            return []

    def others(self, settings: Settings) -> list[NamedFeed]:
        """Synthetic inputs on which the original finds more than nothing, best first."""
        if self.pair is None or self.layout is None:
            return []
        twin = self.pair.original
        reached = [name for name in twin.outputs if name in twin.flow.reached]
        return ranked(self.pair, self.layout.rows or reached, settings)

    def _run(
        self, sites: Sequence[Site], cut_sites: Sequence[Site], feeds: Sequence[NamedFeed]
    ) -> None:
        pair = self.pair = Pair(
            self.original,
            self.cut,
            sites,
            cut_sites,
            self.columns,
            self.provider,
            self.settings.seed,
            self.chunk,
        )
        layout: Layout | None = None
        sets: Sets | None = None
        for feed in feeds:
            if not pair.start(feed):
                self.ledger.note(f"{feed.name}: the original does not take this size; left out")
                continue
            self.used.append(feed.name)
            self.first = feed.feed if self.first is None else self.first
            self.ledger.provider = pair.provider
            if layout is None:
                layout = self.layout = self._layout(pair, sites)
                sets = Sets(pair, layout, self.ledger, self.columns, self.settings)
                sets.prove()
                if layout.dense:
                    reference, got = pair.noise(0)
                    layout.compare("noise in place of all scores", reference, got)
            elif feed.may_fail and sets is not None:
                sets.prove_again(feed.name)
            if sets is not None:
                sets.scatter(feed.name)
            self._compare_feed(pair, feed, layout, sets)
            if self.deployed is None and self.cut.stored is None:
                outputs = pair.deployed_outputs
                groups = () if sets is None else sets.groups
                self.deployed = as_deployed(self.cut, pair.provider, feed, outputs, groups)

    def _layout(self, pair: Pair, sites: Sequence[Site]) -> Layout:
        """Find out what the outputs mean, in both models."""
        flow = pair.original.flow
        probed = [name for name in pair.original.outputs if name in flow.reached]
        before, after = pair.meanings(probed) if probed else ({}, {})
        precision = [*pair.precision, *self.rounded]
        layout = Layout(self.ledger, self.columns, precision, pair.steps())
        read = leading(self.original.proto.graph, flow.boundary)
        for name in pair.original.outputs:
            if name in flow.chosen:
                shapes = before[name].shape, after[name].shape
                one = len(shapes[0]) == len(shapes[1]) and shapes[0] != shapes[1]
                said = pair.singled(name) if one and before[name].kind == "rows" else (None, None)
                layout.add_chosen(name, said[0] or before[name], said[1] or after[name])
            elif name in before:
                layout.add(name, before[name], after[name])
            elif read.intersection(same_numbers(self.original.proto.graph, name)):
                layout.add_read(name, pair.state.outputs[name], pair.cut_state.outputs[name])
            else:
                layout.apart.append(name)
        layout.keep_places(set(probed) - flow.chosen)
        pair.narrowed, pair.cut_narrowed = layout.narrowed, layout.cut_narrowed
        layout.check_numbering([site.ids for site in sites])
        return layout

    def _compare_feed(self, pair: Pair, feed: NamedFeed, layout: Layout, sets: Sets | None) -> None:
        """Compare the cut with the masked original, and that with the original as it is."""
        name = feed.name
        outputs, cut_scores = pair.cut_as_it_is()
        reference, scores = pair.masked(cut_scores)
        for site, expected in zip(pair.original.sites, scores, strict=True):
            cut_site = pair.cut.sites[pair.original.sites.index(site)]
            got = cut_scores[pair.original.sites.index(site)]
            if self.chunk is None:
                layout.compare_site(name, site, expected, got)
            elif site.value in pair.derived:
                both = self.chunk.slots(site, expected), self.chunk.slots(cut_site, got)
                layout.compare_made(name, cut_site.value, *(s.astype(got.dtype) for s in both))
            else:
                self._compare_made(name, layout, (site, expected), (cut_site, got))
        layout.compare(name, reference, outputs, pair.steps(deployed=not self.columns.extra))
        graph = self.original.proto.graph
        for doubt in left_behind(graph, layout.apart, pair.state.outputs, outputs):
            self.ledger.doubt(doubt)
        if sets is not None:
            sets.compare_feed(name, reference, outputs)
        if feed.may_fail and self.given is not None:
            return  # what a cut changes in meaning is told of the inputs that were given
        layout.drift(pair.state.outputs, reference)
        if sets is not None:
            sets.drift(reference, pair.narrow(pair.state.outputs))

    def _compare_made(
        self, run: str, layout: Layout, original: tuple[Site, Array], cut: tuple[Site, Array]
    ) -> None:
        """Compare what a class map makes of the original's scores with the cut's own."""
        assert self.chunk is not None  # noqa: S101  (the caller looked)
        dtype, name = cut[1].dtype, cut[0].value
        expected, found = self.chunk.expected(*original), self.chunk.found(*cut)
        kept = self.chunk.plain
        for part, same in ((~kept, False), (kept, cut[0].exact)):
            both = expected[..., part].astype(dtype), found[..., part].astype(dtype)
            layout.compare_made(run, name, *both, same=same)
        fresh = self.chunk.fresh(*cut)
        if not np.isfinite(fresh).all():
            self.ledger.fail(f"{name}: scores of new classes are not finite ({run})")
        elif fresh.size and {self.chunk.rows[j].start for j in self.chunk.columns} - {"", "given"}:
            self.ledger.note("scores of new classes are the cut's own: nothing says what they "
                             "should be, but that their weights began as was said")  # fmt: skip

    def _badly_begun(self, claims: Claims) -> list[str]:
        """What is wrong with where new classes begin, on the first input."""
        pair, chunk, feed = self.pair, self.chunk, self.first
        if pair is None or chunk is None or feed is None or self.ledger.failures:
            return []
        return badly_begun(self.cut, pair.cut.sites, chunk, claims, feed, pair.provider)

    def verdict(self, claims: Claims | None) -> Verdict:
        """Put together what was found."""
        ledger = self.ledger
        structure = None
        if claims is not None:
            structure = structural(
                self.original.as_stored,
                self.cut.as_stored,
                claims,
                original_dir=self.original.folder,
                cut_dir=self.cut.folder,
            )
            for problem in [*structure.problems, *self._badly_begun(claims)]:
                ledger.fail(f"structure: {problem}")
        if not ledger.failures:
            ledger.demand_classes()
        status, reasons = decide(ledger.failures, ledger.doubts, ledger.values)
        return Verdict(
            status,
            reasons,
            tuple(dict.fromkeys(ledger.notes)),
            ledger.output_rows(),
            ledger.class_rows(),
            ledger.drift_rows(),
            tuple(self.used),
            ledger.runs,
            self.pair.whole.where if self.pair and self.pair.whole else None,
            self.pair.deployed.where if self.pair and self.pair.deployed else None,
            structure,
            self.deployed,
        )
