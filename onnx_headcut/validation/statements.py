"""What must be true of a node that cannot be run, stated apart from the rules that cut it.

For plugins that are known: which attribute counts the classes, which names the background. For any
other op: an attribute may change only as numbers of classes do, and one that is named for classes
must not go on saying what is no longer so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnx import helper

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx


@dataclass(frozen=True)
class Columns:
    """How many columns the class axis had, and which of them are left, in their new order."""

    total: int
    order: tuple[int, ...]
    background: int | None = None

    def selected(self, extent: int, each: int = 1) -> list[int] | None:
        """Positions that stay on an axis of ``each`` numbers for every class of every box.

        Boxes may leave the background out.
        """
        for left_out in (None, self.background) if each > 1 else (None,):
            columns = [c for c in range(self.total) if c != left_out]
            order = [columns.index(c) for c in self.order if c != left_out]
            block = len(columns) * each
            if extent % block == 0:
                return [start + column * each + k for start in range(0, extent, block)
                        for column in order for k in range(each)]  # fmt: skip
        return None


@dataclass(frozen=True)
class Statement:
    """A known plugin: attributes that count classes, name the background, or limit by classes.

    ``besides``: the count may leave the background out. ``each``: numbers of a box that stand side
    by side where each class has boxes of its own.
    """

    count: str = ""
    background: str = ""
    limit: str = ""
    besides: bool = False
    each: int = 1


_NMS = Statement("numClasses", "backgroundLabelId", each=4)
_BATCHED = Statement("numClasses", "backgroundLabelId")
_MMDEPLOY = Statement("num_classes", "background_label_id")
_TFLITE = Statement("num_classes", limit="max_classes_per_detection", besides=True)
_STATEMENTS = {
    "EfficientNMS_TRT": Statement(background="background_class"),
    "EfficientNMS_ONNX_TRT": Statement(),
    "EfficientNMS_Explicit_TF_TRT": Statement(),
    "EfficientNMS_Implicit_TF_TRT": Statement(),
    "BatchedNMS_TRT": _BATCHED,
    "BatchedNMSDynamic_TRT": _BATCHED,
    "TRTBatchedNMS": _MMDEPLOY,
    "TRTBatchedRotatedNMS": _MMDEPLOY,
    "NMSRotated": Statement(),
    "TFLite_Detection_PostProcess": _TFLITE,
    "TFL_TFLite_Detection_PostProcess": _TFLITE,
    "DetectionOutput": Statement("num_classes", "background_label_id", each=4),
    "BoxWithNMSLimit": Statement(each=4),
    "NMS_TRT": _NMS,
    "NMSDynamic_TRT": _NMS,
}


def numbers_a_box(node: onnx.NodeProto) -> int:
    """How many numbers of a box stand side by side among what ``node`` reads."""
    return _STATEMENTS.get(node.op_type, Statement()).each


def attribute_problems(old: onnx.NodeProto, new: onnx.NodeProto, columns: Columns) -> list[str]:
    """What is wrong with the attributes of a node in the cut."""
    before, after = ({a.name: helper.get_attribute_value(a) for a in n.attribute} for n in (old, new))
    problems = [f"attribute {name!r} is gone" for name in before.keys() - after.keys()]
    problems += [f"attribute {name!r} is new" for name in after.keys() - before.keys()]
    if (old.domain, old.op_type) != (new.domain, new.op_type):
        problems.append(f"it is {new.domain}::{new.op_type} in the cut")
    said = _STATEMENTS.get(old.op_type)
    for name in [name for name in before if name in after]:
        was, now = before[name], after[name]
        wanted = list(_expected(said, name, before, columns)) if said else _possible(name, was, columns)
        if now not in wanted:
            some = " or ".join(dict.fromkeys(repr(_plain(w)) for w in wanted)) or "another"
            problems.append(f"attribute {name!r} is {_plain(now)!r} in the cut, and has to be {some}")
    return problems


def _expected(said: Statement, name: str, before: dict[str, Any], columns: Columns) -> Iterator[Any]:
    """What a known plugin's attribute has to be."""
    was, left = before[name], len(columns.order)
    if name == said.count:
        for missing in (0, 1) if said.besides else (0,):
            if was == columns.total - missing:
                yield left - missing
    elif name == said.background and isinstance(was, int) and was >= 0:
        if was in columns.order:
            yield columns.order.index(was)
    elif name == said.limit:
        yield min(was, left - (before.get(said.count) == columns.total - 1))
    else:
        yield was


def _possible(name: str, was: Any, columns: Columns) -> list[Any]:
    """What an unknown op's attribute may be."""
    wanted: list[Any] = []
    left = len(columns.order)
    if isinstance(was, int):
        counts = {columns.total: left, columns.total - 1: left - 1}
        if was in counts:
            wanted.append(counts[was])
        if was in columns.order:
            wanted.append(columns.order.index(was))
        if was in counts and "class" in name.lower():
            return wanted
    if isinstance(was, (list, tuple)) and len(was) == columns.total:
        return [[was[column] for column in columns.order]]
    return [*wanted, was]


def _plain(value: Any) -> Any:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def offset_of(op: str, attributes: dict[str, Any], columns: Columns) -> int | None:
    """What an op's class numbers are more than columns; None for an op that is not known."""
    if op not in _STATEMENTS:
        return None
    if op == "BoxWithNMSLimit":  # without the background's boxes, the background is the last column
        first, counted = (attributes.get(f"{name}_include_bg_cls", 1)
                          for name in ("input_boxes", "output_classes"))  # fmt: skip
        return int(not first) - int(not counted)
    if op.endswith("TFLite_Detection_PostProcess"):
        return -int(attributes.get("num_classes") == columns.total - 1)
    return -1 if attributes.get("decrease_label_id") else 0
