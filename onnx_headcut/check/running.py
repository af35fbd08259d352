"""Tests that run the model; only these import onnxruntime."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from onnx_headcut.check.subject import Finding, NotTested
from onnx_headcut.check.table import tests
from onnx_headcut.errors import HeadcutError, ProviderError
from onnx_headcut.validation import runtime
from onnx_headcut.validation.synthetic import synthetic

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnx_headcut.check.subject import Subject


@tests("runs")
def _runs(subject: Subject, wanted: dict[str, Any]) -> Iterator[Finding]:
    seen: set[str] = set()
    try:
        session = runtime.open_session(subject.path, provider=wanted["provider"])
        for feed in synthetic(subject.proto, count=wanted["inputs"]):
            try:
                outputs = session.run(feed.feed)
            except HeadcutError as error:
                if not feed.may_fail:
                    yield error.what, ""
                continue
            for name, value in outputs.items():
                if value.dtype.kind == "f" and np.isnan(value).any() and name not in seen:
                    seen.add(name)
                    yield f"NaN on {feed.name}", name
    except ProviderError:
        raise
    except HeadcutError as error:
        yield error.what, ""


@tests("providers")
def _providers(subject: Subject, wanted: dict[str, Any]) -> Iterator[Finding]:
    allowed = wanted["allowed"]
    if not allowed:
        raise NotTested("the policy allows no provider by name")
    feed = synthetic(subject.proto, count=1)[0].feed
    try:
        counts = runtime.placement(subject.path, feed, provider=allowed[0])
    except ProviderError:
        raise
    except HeadcutError as error:
        yield error.what, ""
        return
    for provider, count in counts.items():
        if provider not in allowed:
            yield f"{count} nodes run on {provider}", ""
