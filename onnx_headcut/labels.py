"""Labels: which source class each position of an axis carries. numpy only.

A *label* is the source class's column on the class axis (an int >= 0), or ``NONE`` for a position
that belongs to no class: a box coordinate, an objectness score, an anchor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

NONE = -1

Activation = Literal["softmax", "sigmoid", "none"]


@dataclass(frozen=True)
class Site:
    """A tensor of the main graph where classes are *defined*: the scores before their activation.

    ``ids[i]`` is the source class at position ``i`` of ``axis`` (non-negative), or ``NONE``.
    A site says nothing of how the scores came there nor of what happens behind: validation masks
    and excites classes here, and shares nothing else with the cutter.
    """

    value: str
    axis: int
    ids: tuple[int, ...]
    activation: Activation
