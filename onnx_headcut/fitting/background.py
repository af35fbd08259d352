"""Fit a background row for each head and anchor: which places count, which ridge, how near it comes.

The pictures are run twice through the original, cut off behind its heads: once for the moments, and
the held-out ones again to choose the ridge. Everything is done in the order of the pictures and in
float64, so that the same pictures give the same rows.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper

from onnx_headcut.errors import UsageError
from onnx_headcut.fitting.moments import Moments
from onnx_headcut.validation.runtime import open_session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from onnx_headcut.classes import Given
    from onnx_headcut.fitting.heads import Head
    from onnx_headcut.fitting.pictures import Picture
    from onnx_headcut.validation.inputs import Feed

Array = np.ndarray[Any, np.dtype[Any]]
Floats = np.ndarray[Any, np.dtype[np.float64]]

RIDGES = tuple(10.0**k for k in range(-6, 3))
"""Ridges that are tried, in units of the features' own variance."""

HELD_OUT = 5
"""Every fifth picture is held out to choose the ridge and to say how good the fit is."""

EMPTY = 1e-3
"""What an empty place counts, where one with an object counts 1."""

SEEN = 0.5
"""Score of the original from which a dropped class counts as seen in a picture."""

GAIN = 1e-3
"""Share of the error that a fit has to take away, or the row stays the background's own."""

CHECKED = 4
"""Held-out pictures on which validation finds out by itself how far the rows are."""

MOST_PLACES = 4096
"""Places of one head in one run that are looked at; of more, as many are drawn (seeded)."""


@dataclass(frozen=True)
class Errors:
    """How far kept scores are from the original's on held-out pictures, over all places and anchors.

    ``rms`` and ``most``: of the scores (probabilities). ``background``: the background's logit
    against what it stands for, a root mean square weighted as in the fit.
    """

    rms: float
    most: float
    background: float


@dataclass(frozen=True)
class Fit:
    """Fitted background rows by head, and what they were fitted to.

    ``before`` is the error of a plain cut, ``after`` that of the fit, both on pictures that it did
    not see. ``ridge`` is None where no change did better than any: rows are the background's own.
    ``shown``: in how many pictures the original sees each dropped class. ``combined``: heads where
    rows were combined rather than features weighed. ``sha256`` is that of the pictures as fed.
    ``check`` is for validation: how far the rows' logits are from what they stand for on the
    pictures ``checked``, a root mean square over all places alike.
    """

    rows: dict[str, Given] = field(repr=False)
    ridge: float | None
    pictures: int
    held_out: int
    shown: dict[int, int]
    before: Errors
    after: Errors
    combined: tuple[str, ...]
    sha256: str
    checked: tuple[int, ...]
    check: float

    @property
    def conclusive(self) -> bool:
        """Whether the pictures show any dropped class; else there is nothing to learn from them."""
        return any(self.shown.values())

    @property
    def unseen(self) -> tuple[int, ...]:
        """Dropped classes that no picture shows."""
        return tuple(c for c, n in self.shown.items() if not n)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for reports; errors to three digits, which is what they are good for."""
        return {
            "ridge": self.ridge,
            "pictures": self.pictures,
            "held_out": self.held_out,
            "shown": {str(c): n for c, n in self.shown.items()},
            "before": _rounded(self.before),
            "after": _rounded(self.after),
            "combined": list(self.combined),
            "sha256": self.sha256,
        }

    def to_json(self) -> str:
        """What the cut model's metadata say of it: canonical JSON."""
        said = self.to_dict()
        kept = {k: said[k] for k in ("ridge", "pictures", "held_out", "before", "after", "sha256")}
        return json.dumps(kept, sort_keys=True, separators=(",", ":"))


def _rounded(errors: Errors) -> dict[str, float]:
    return {k: float(f"{v:.3g}") for k, v in vars(errors).items()}


def fit_background(  # noqa: PLR0913
    proto: onnx.ModelProto,
    heads: Sequence[Head],
    kept: Sequence[int],
    background: int,
    pictures: Sequence[Picture],
    *,
    folder: Path | None = None,
    provider: str = "cpu",
    progress: Callable[[str], None] = lambda step: None,  # noqa: ARG005
) -> Fit:
    """Fit the background of ``heads`` to what is dropped: all source columns but ``kept``.

    ``kept`` are source columns without the background. ``folder`` is where the model's external
    data are. Raises UsageError where nothing is dropped, or where there are fewer than two pictures
    (one to fit, one to hold out).
    """
    columns = Columns(tuple(kept), background, heads[0].grid.shape[1])
    if not columns.dropped:
        raise UsageError("nothing is dropped, so that there is no background to fit")
    if len(pictures) < 2:
        raise UsageError(
            f"a background is fitted to pictures, and there {'is one' if pictures else 'are none'}",
            advice="Give at least two; a few hundred that show the dropped classes are a good number.",
        )
    return _Fitting(proto, heads, columns, pictures, folder, provider).done(progress)


@dataclass(frozen=True)
class Columns:
    """Source columns by what becomes of them."""

    kept: tuple[int, ...]
    background: int
    count: int

    @cached_property
    def dropped(self) -> tuple[int, ...]:
        """Columns that go, without the background."""
        return tuple(c for c in range(self.count) if c not in {*self.kept, self.background})

    def target(self, scores: Floats) -> Floats:
        """The logit [places, anchors] that stands for the background and all that goes."""
        return _logsumexp(scores[..., [self.background, *self.dropped]])


def importance(scores: Floats, columns: Columns) -> Floats:
    """What each place counts [places, anchors]: ``1 - p(background)``, and a little."""
    weight: Floats = 1 - np.exp(scores[..., columns.background] - _logsumexp(scores)) + EMPTY
    return weight


def _logsumexp(scores: Floats) -> Floats:
    top = scores.max(-1, keepdims=True)
    summed: Floats = top[..., 0] + np.log(np.exp(scores - top).sum(-1))
    return summed


class _Fitting:
    """One fit under way."""

    def __init__(
        self,
        proto: onnx.ModelProto,
        heads: Sequence[Head],
        columns: Columns,
        pictures: Sequence[Picture],
        folder: Path | None,
        provider: str,
    ) -> None:
        self.heads, self.columns, self.pictures = heads, columns, pictures
        values = dict.fromkeys(v for h in heads for v in (h.features, h.value) if v is not None)
        self.session = open_session(
            _ending_at(proto, tuple(values)), provider=provider, external_data_dir=folder
        )
        self.shown = dict.fromkeys(columns.dropped, 0)
        self.digest = hashlib.sha256()

    def done(self, progress: Callable[[str], None]) -> Fit:
        """Both passes, and the solution for all pictures with the ridge that was chosen."""
        parts = [[Moments(h.anchors, h.size) for h in self.heads] for _ in range(2)]
        count = len(self.pictures)
        held = [n for n in range(count) if n % HELD_OUT == min(HELD_OUT, count) - 1]
        for n in range(count):
            progress(f"fitting the background: picture {n + 1} of {count}")
            self._count(n, parts[n in held])
        tried = [m.solve(RIDGES) for m in parts[0]]
        tally = _Tally(1 + len(RIDGES))
        for n in held:
            progress(f"choosing the ridge: picture {n + 1} of {count}")
            self._judge(n, tried, tally)
        best = tally.best
        rows, finals = {}, []
        for k, head in enumerate(self.heads):
            parts[0][k] += parts[1][k]
            change = np.zeros((head.anchors, head.size + 1))
            if best:
                change = parts[0][k].solve(RIDGES[best - 1 : best])[0]
            rows[head.value] = head.given(self.columns.background, change)
            finals.append(change)
        return Fit(
            rows,
            RIDGES[best - 1] if best else None,
            count,
            len(held),
            self.shown,
            tally.errors(0),
            tally.errors(best),
            tuple(h.value for h in self.heads if h.features is None),
            self.digest.hexdigest(),
            tuple(held[:CHECKED]),
            self._check(held[:CHECKED], finals),
        )

    def _check(self, numbers: Sequence[int], changes: Sequence[Floats]) -> float:
        """How far the logits are from what they stand for, on some pictures."""
        squares, count = 0.0, 0
        for n in numbers:
            places = self._places(n, self.pictures[n](), most=None)
            for (features, scores), change in zip(places, changes, strict=True):
                logit = np.asarray(features, np.float64) @ change[:, :-1].T + change[:, -1]
                logit += scores[..., self.columns.background]
                squares += float(((logit - self.columns.target(scores)) ** 2).sum())
                count += logit.size
        return float(np.sqrt(squares / max(count, 1)))

    def _places(
        self, n: int, feed: Feed, most: int | None = MOST_PLACES
    ) -> Iterator[tuple[Array, Floats]]:
        """Features and scores of picture ``n`` at each head, at ``most`` of the places."""
        values = self.session.run(feed)
        for k, head in enumerate(self.heads):
            features, scores = head.places(values)
            if most is not None and len(features) > most:
                drawn = np.random.default_rng([n, k]).choice(len(features), most, replace=False)
                features, scores = features[np.sort(drawn)], scores[np.sort(drawn)]
            yield features, scores

    def _count(self, n: int, moments: Sequence[Moments]) -> None:
        """Add picture ``n`` to the moments, and note which dropped classes it shows."""
        columns, seen = self.columns, np.zeros(len(self.columns.dropped), np.bool_)
        feed = self.pictures[n]()
        _digest(self.digest, feed)
        for (features, scores), sums in zip(self._places(n, feed), moments, strict=True):
            whole = _logsumexp(scores)
            change = columns.target(scores) - scores[..., columns.background]
            sums.add(features, change, importance(scores, columns))
            best = scores[..., list(columns.dropped)] - whole[..., None]
            seen |= (best.reshape(-1, len(seen)) > np.log(SEEN)).any(0)
        for c, there in zip(columns.dropped, seen, strict=True):
            self.shown[c] += int(there)

    def _judge(self, n: int, tried: Sequence[Floats], tally: _Tally) -> None:
        """Compare the kept scores of picture ``n`` with the original's, for each ridge and for none."""
        columns = self.columns
        places = self._places(n, self.pictures[n]())
        for (features, scores), solutions in zip(places, tried, strict=True):
            kept = scores[..., list(columns.kept)]
            own = scores[..., columns.background]
            wanted = columns.target(scores)
            weight = importance(scores, columns)
            true = _scores(kept, wanted)
            changes = np.concatenate([np.zeros_like(solutions[:1]), solutions])
            moved = np.asarray(features, np.float64) @ np.concatenate(changes[..., :-1]).T
            moved = moved.reshape(len(own), len(changes), -1) + changes[..., -1]
            for r in range(len(changes)):
                logit = own + moved[:, r]
                tally.add(r, _scores(kept, logit) - true, logit - wanted, weight)


def _scores(kept: Floats, background: Floats) -> Floats:
    """Softmax scores of the kept classes beside a background's logit."""
    joined = np.concatenate([background[..., None], kept], axis=-1)
    found: Floats = np.exp(kept - _logsumexp(joined)[..., None])
    return found


class _Tally:
    """Sums of squared errors, for no change and for each ridge."""

    def __init__(self, count: int) -> None:
        self.squares, self.most = np.zeros(count), np.zeros(count)
        self.logits, self.weights = np.zeros(count), np.zeros(count)
        self.values = np.zeros(count)

    def add(self, r: int, scores: Floats, logits: Floats, weight: Floats) -> None:
        """Count the errors of choice ``r`` in."""
        self.squares[r] += (scores**2).sum()
        self.most[r] = max(self.most[r], np.abs(scores).max(initial=0))
        self.values[r] += scores.size
        self.logits[r] += (weight * logits**2).sum()
        self.weights[r] += weight.sum()

    @property
    def best(self) -> int:
        """The choice with the smallest error of kept scores; none where that gains nothing."""
        found = int(self.squares.argmin())
        gain = self.errors(0).rms - self.errors(found).rms
        return found if gain > GAIN * self.errors(0).rms + np.finfo(np.float32).eps else 0

    def errors(self, r: int) -> Errors:
        """What choice ``r`` leaves."""
        return Errors(
            float(np.sqrt(self.squares[r] / max(self.values[r], 1))),
            float(self.most[r]),
            float(np.sqrt(self.logits[r] / max(self.weights[r], 1e-300))),
        )


def _ending_at(proto: onnx.ModelProto, values: Sequence[str]) -> onnx.ModelProto:
    """The model with ``values`` as its outputs; what lies behind is not run then."""
    ended = onnx.ModelProto()
    ended.CopyFrom(proto)
    del ended.graph.output[:]
    ended.graph.output.extend(helper.make_empty_tensor_value_info(v) for v in values)
    return ended


def _digest(digest: hashlib._Hash, feed: Feed) -> None:
    """Count a picture in as it is fed; the names of files play no part."""
    for name, value in sorted(feed.items()):
        digest.update(f"{name}:{value.dtype}:{value.shape};".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
