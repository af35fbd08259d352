"""Test models against a policy."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from onnx_headcut.check.catalogue import RULES
from onnx_headcut.check.subject import NotTested, Subject
from onnx_headcut.check.table import TESTS
from onnx_headcut.errors import HeadcutError, InputError
from onnx_headcut.report.results import Result, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from onnx_headcut.check.policy import Chosen, Policy

_HOMES = {"runs": "running", "providers": "running"} | dict.fromkeys(
    ["head", "head-clear", "head-finite", "head-dead", "head-duplicate", "names", "names-agree",
     "classes", "recipe"], "meaning",
)  # fmt: skip


@dataclass(frozen=True)
class Report:
    """What a check found. True where no rule is broken whose severity is an error."""

    results: tuple[Result, ...]
    strict: bool = False

    def __bool__(self) -> bool:
        return self.exit_code == 0

    @property
    def exit_code(self) -> int:
        """0 passed; 1 a rule is broken (with ``strict`` also a warning); 2 a file is no model."""
        if any(r.bad and r.topic.id == "readable" for r in self.results):
            return 2
        failed = [r for r in self.results if r.status == "failed"]
        return int(any(r.bad or (self.strict and r.severity == "warning") for r in failed))

    def to_json(self) -> list[dict[str, Any]]:
        """Plain data with stable keys, a model each."""
        names = dict.fromkeys(r.model for r in self.results)
        return [
            {"model": name, "results": [r.to_json() for r in self.results if r.model == name]}
            for name in names
        ]


def check(
    models: Sequence[Path],
    policy: Policy,
    *,
    strict: bool = False,
    plugins: Sequence[str] = (),
    progress: Callable[[str], None] = lambda step: None,  # noqa: ARG005
) -> Report:
    """Test each model against the policy; ``plugins`` hold rules for ops of your own.

    A file that is no model is a result, too. Raises ProviderError where a rule asks for a provider
    that cannot be used, and InputError for labels in the policy that cannot be read.
    """
    results: list[Result] = []
    for path in models:
        progress(f"checking {path.name}")
        results += _check(path, policy, plugins)
    return Report(tuple(results), strict)


def _check(path: Path, policy: Policy, plugins: Sequence[str]) -> Iterator[Result]:
    name = shown(path)
    try:
        subject = Subject(path, policy, plugins)
    except InputError as error:
        rule = RULES["readable"]
        what = error.what.replace(str(path), path.name)
        yield Result(name, rule, "failed", what, "error")
        return
    for chosen in policy.chosen:
        yield from _test(subject, chosen, name)


def _test(subject: Subject, chosen: Chosen, name: str) -> Iterator[Result]:
    rule, severity = chosen.rule, chosen.severity
    import_module(f"onnx_headcut.check.{_HOMES.get(rule.id, 'artifact')}")
    found = []
    try:
        for message, where in TESTS[rule.id](subject, chosen.parameters):
            found.append(Result(name, rule, "failed", _tidy(message, subject), severity, where))
    except NotTested as reason:
        yield Result(name, rule, "skipped", str(reason), severity)
        return
    except HeadcutError as error:
        if error.exit_code == 4:
            raise
        found.append(Result(name, rule, "failed", _tidy(error.what, subject), severity))
    yield from found or [Result(name, rule, "passed", rule.sentence, severity)]


def _tidy(message: str, subject: Subject) -> str:
    """Without the folder that the model lies in."""
    for text in (f"{subject.path.absolute().parent}/", f"{subject.path.parent}/"):
        if text != "./":
            message = message.replace(text, "")
    return message
