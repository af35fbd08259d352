"""Which function tests which rule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onnx_headcut.check.catalogue import RULES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from onnx_headcut.check.subject import Subject

    Test = Callable[[Subject, dict[str, Any]], Iterator[tuple[str, str]]]

TESTS: dict[str, Test] = {}


def tests(rule: str) -> Callable[[Test], Test]:
    """Register a function that yields what breaks ``rule``: (message, node or tensor)."""
    if rule not in RULES:
        raise KeyError(rule)

    def register(test: Test) -> Test:
        TESTS[rule] = test
        return test

    return register
