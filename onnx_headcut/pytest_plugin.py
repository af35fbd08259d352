"""A fixture for pytest: ``headcut_validate`` proves in a test that a cut equals its original.

It is there wherever onnx-headcut is installed::

    def test_the_model_that_ships(headcut_validate):
        headcut_validate("models/coco.onnx", "models/shipped.onnx")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    import os

    import onnx

    from onnx_headcut.validation.verdict import Verdict

    ModelLike = onnx.ModelProto | str | os.PathLike[str]


class Validate(Protocol):
    """What the fixture gives."""

    def __call__(
        self,
        original: ModelLike,
        cut: ModelLike,
        keep: Any = None,
        **options: Any,
    ) -> Verdict:
        """Hold ``cut`` against ``original``; options as `onnx_headcut.validate` takes them.

        The test fails with the verdict's lines where it is not a pass. Gives the verdict.
        """


@pytest.fixture(scope="session")
def headcut_validate() -> Validate:
    """Fail the test where a cut model does not equal its original on the kept classes."""

    def run(
        original: ModelLike,
        cut: ModelLike,
        keep: Any = None,
        **options: Any,
    ) -> Verdict:
        __tracebackhide__ = True
        from onnx_headcut import validate  # noqa: PLC0415  (only where a test asks for it)

        verdict = validate(original, cut, keep, **options)
        if not verdict:
            pytest.fail("\n".join(verdict.lines()), pytrace=False)
        return verdict

    return run
