"""How anchors and classes share an axis that the graph never splits: said by the user."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnx_headcut.errors import UsageError
from onnx_headcut.labels import NONE

if TYPE_CHECKING:
    from onnx_headcut.labels import Ints


@dataclass(frozen=True)
class Layout:
    """How anchors and classes share an axis that the graph never splits.

    ``before`` and ``after``: how many columns of each anchor lie before its classes (a box and its
    objectness: 5) and behind them (mask coefficients). ``class_boxes``: beside the scores there are
    four columns for each class, class by class (DetectNet).
    """

    anchors: int
    class_major: bool = False
    before: int = 0
    after: int = 0
    class_boxes: bool = False

    @classmethod
    def parse(cls, text: str) -> Layout:
        """``anchors=9``, ``anchors=3,before=5``, ``anchors=9,class-major``; raises UsageError."""
        words = text.split(",")
        orders = [w for w in words if w in {"anchor-major", "class-major", "class-boxes"}]
        pairs = [w.partition("=")[::2] for w in words if w not in orders]
        numbers = {key: int(n) for key, n in pairs if n.isdecimal() and n.isascii() and len(n) < 7}
        known = {"anchors", "before", "after"}
        whole = len(numbers) == len(pairs) and numbers.keys() <= known and len(orders) < 2
        if not whole or numbers.get("anchors", 0) < 1:
            raise UsageError(
                f"--layout {text}: not understood",
                advice="say anchors=9 (a·C + k), anchors=9,class-major (k·A + a), or "
                "anchors=3,before=5 where each anchor's box and objectness lie before its classes, or "
                "anchors=1,class-boxes where every class has a box of its own",
            )
        layout = cls(
            numbers["anchors"], orders == ["class-major"],
            numbers.get("before", 0), numbers.get("after", 0), orders == ["class-boxes"],
        )  # fmt: skip
        if layout.class_boxes and (layout.is_shared or layout.anchors > 1):
            raise UsageError(
                f"--layout {text}: class-boxes goes with anchors=1 alone",
                advice="every class has one score and one box at each place",
            )
        if layout.class_major and layout.is_shared:
            raise UsageError(
                f"--layout {text}: class-major goes with neither before= nor after=",
                advice="they count columns of one anchor, whose classes lie side by side",
            )
        return layout

    @property
    def is_shared(self) -> bool:
        """Whether an anchor has other columns beside its classes."""
        return self.before + self.after > 0

    def classes(self, size: int) -> int:
        """Number of classes among ``size`` channels; 0 where the layout does not fit them."""
        columns, rest = divmod(size, self.anchors)
        return 0 if rest else max(columns - self.before - self.after, 0)

    def ids(self, size: int) -> Ints:
        """The class of each of ``size`` channels, NONE beside the classes."""
        count = self.classes(size)
        if not count:
            said = f"{self.anchors} anchors" + (" with more columns" if self.is_shared else "")
            raise UsageError(f"--layout: {size} channels do not hold {said} and a class each")
        if self.class_major:
            return np.arange(size) // self.anchors
        column = np.arange(size) % (size // self.anchors) - self.before
        ids: Ints = np.where((column >= 0) & (column < count), column, NONE)
        return ids
