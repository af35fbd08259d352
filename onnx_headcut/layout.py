"""How anchors and classes share an axis that the graph never splits: said by the user."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnx_headcut.errors import UsageError

if TYPE_CHECKING:
    from onnx_headcut.labels import Ints


@dataclass(frozen=True)
class Layout:
    """How anchors and classes share an axis that the graph never splits."""

    anchors: int
    class_major: bool = False

    @classmethod
    def parse(cls, text: str) -> Layout:
        """``anchors=9`` or ``anchors=9,class-major``; raises UsageError."""
        number, _, order = text.removeprefix("anchors=").partition(",")
        good = text.startswith("anchors=") and number.isdigit() and int(number) > 0
        if not good or order not in {"", "anchor-major", "class-major"}:
            raise UsageError(
                f"--layout {text}: not understood",
                advice="say anchors=9 (a·C + k) or anchors=9,class-major (k·A + a)",
            )
        return cls(int(number), order == "class-major")

    def ids(self, size: int) -> Ints:
        """The class of each of ``size`` channels."""
        if size % self.anchors:
            raise UsageError(f"--layout: {size} channels are no multiple of {self.anchors} anchors")
        channels = np.arange(size)
        return channels // self.anchors if self.class_major else channels % (size // self.anchors)
