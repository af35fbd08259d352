"""Ops that move elements without computing: the op itself is the rule.

The op is run on the numbers of its input's elements, once as it stands on the original's numbers
and once, with its constants put right, on the numbers of those elements that stay. The second
result must be the first one restricted to the kept positions of one axis. So a rule here cannot
mix up classes or anchors: it only proposes how a constant might have to change, and the elements
themselves decide whether that was right.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from onnx_headcut.editing import edits as ed
from onnx_headcut.graph import limits
from onnx_headcut.graph.arranging import numbers
from onnx_headcut.graph.scope import is_fixed
from onnx_headcut.labels import NONE, Labels, Rows, Whole, copies, told_apart
from onnx_headcut.rules.elementwise import shorten
from onnx_headcut.tracing.view import GENERIC_ADVICE, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from onnx_headcut.graph.facts import Array
    from onnx_headcut.labels import Ints, Mark
    from onnx_headcut.tracing.view import View


class PicksByIteration(Exception):
    """A class is picked out of the scores by the number of a Loop's iteration."""


NOTHING = np.zeros(0, np.int32)

IN_ORDER = "keep the classes in the order in which they are in the model"

FILL = -1
"""Number of an element that the op itself puts in (Pad)."""


def movement(view: View) -> Outcome:
    """Labels through any op that only moves elements; see the module's note."""
    labelled = view.labelled()
    if labelled != [0]:
        view.refuse("its indices or sizes depend on classes")
    labels = view.labels(0)
    shape = view.shape(0)
    for name in view.node.output:
        limits.check(view.node, view.scope.old(name).static or ())
    before, marks = _before(view, labels, shape)
    if view.sel.identity or all(isinstance(m, Whole) and m.cls not in view.sel.column for m in marks):
        return Outcome(marks)
    size = math.prod(shape)
    wanted = [kept(view, o, m, size) for o, m in zip(before, marks, strict=True)]
    left = told_apart(numbers(shape), view.take(labels.ids), labels.axis, size)
    if all(w is None or w.size or not o.size for w, o in zip(wanted, before, strict=True)):
        proposals = [[], *PROPOSALS.get(view.op, nothing)(view, labels, before, marks)]
        if not any(o.size for o in before):
            proposals.reverse()  # nothing stays nothing, but bounds of old extents are misleading
        for proposal in proposals:
            node, facts = ed.edited(view.node, view.new, proposal)
            try:
                view.trace.interpreter.infer(node, facts)  # the reference takes more than it should
                after = run(view, node, [f.value for f in facts], left)
            except Exception:  # noqa: BLE001  the reference refuses what does not fit
                continue
            made = dict(zip(node.output, after, strict=True))
            if all(w is None or np.array_equal(w, made.get(o, NOTHING))
                   for o, w in zip(view.node.output, wanted, strict=True)):  # fmt: skip
                if (proposal or _at_stored_places(view, labels.axis)) and _follows(view, labels.axis):
                    view.refuse("its constants would have to follow the size of the picture")
                return Outcome(marks, realise(view, proposal))
    moves = list(view.sel.order) != sorted(view.sel.order)
    view.refuse("the kept classes cannot be moved as the original moves them",
                IN_ORDER if moves else GENERIC_ADVICE)  # fmt: skip


def _follows(view: View, axis: int) -> bool:
    """Whether it picks places of an axis whose extent depends on the picture."""
    return view.op in {"Slice", "Gather"} and view.varies(0, axis)


def _at_stored_places(view: View, axis: int) -> bool:
    """Whether the places are stored, and not all of them: other pictures have others there."""
    rank = view.rank(0)
    if view.op == "Gather":
        picked = view.attrs.get("axis", 0) % rank == axis
        return picked and is_fixed(view.scope, view.node.input[1])
    if view.op != "Slice":
        return False
    values = [view.attrs.get(name) for name in ("starts", "ends", "axes")]
    if values[0] is None:
        if not all(is_fixed(view.scope, name) for name in view.node.input[1:3]):
            return False
        values = [f.value for f in view.old[1:4]]
    starts, ends, axes = (None if v is None else np.asarray(v).tolist() for v in [*values, None][:3])
    at = list(range(rank)) if axes is None else [a % rank for a in axes]
    bounds = dict(zip(at, zip(starts or (), ends or (), strict=True), strict=False))
    start, end = bounds.get(axis, (0, np.iinfo(np.int64).max))
    return bool(start != 0 or end < np.iinfo(np.int32).max)


def _before(
    view: View, labels: Labels, shape: tuple[int, ...]
) -> tuple[list[Array], list[Mark | None]]:
    """Where the elements go in the original, and the marks that this gives its outputs."""
    values = [f.value for f in view.old]
    if view.op == "Pad":
        before, kind = run(view, view.node, values, numbers(shape)), None
    else:
        check_sources(view, view.node, values)
        before, kind = view.trace.interpreter.moved(view.node, view.old)
    # a trace that keeps everything comes before the others, and says the same
    key = kind, labels.axis, labels.ids.tobytes()
    known: dict[object, list[Mark | None]] = view.trace.interpreter.memory
    marks = known.get(key) if kind is not None else None
    if marks is None and view.op == "Pad":
        marks = [mark_of(view, o, labels, shape) for o in before]
    elif marks is None:  # the op itself on the classes: a Transpose of numpy's moves no bytes
        found = run(view, view.node, values, spread(labels, shape))
        marks = [mark_along(view, classes) for classes in found]
        if kind is not None:
            known[key] = marks
    return before, marks


def run(view: View, node: Any, values: Sequence[Array | None], data: Array) -> list[Array]:
    """The op on ``data``, with its other inputs as they are known."""
    check_sources(view, node, values)
    if view.op == "Pad":
        return [padded(view, node, values, data)]
    return view.trace.interpreter.run(node, [data, *values[1:]])


def check_sources(view: View, node: Any, values: Sequence[Array | None]) -> None:
    """Refuse where what says how elements move is not known before the picture is."""
    for i, name in enumerate(node.input):
        if i and name and name in view.scope.tables:
            raise PicksByIteration
        if i and name and values[i] is None:
            view.refuse(f"its input {name!r} is computed from the picture's contents")


def padded(view: View, node: Any, values: Sequence[Array | None], data: Array) -> Array:
    """Pad with a number of its own, whatever the graph pads with."""
    if view.attrs.get("mode", b"constant") != b"constant":
        return view.trace.interpreter.run(node, [data, *values[1:]])[0]
    pads = np.asarray(view.attrs["pads"] if "pads" in view.attrs else values[1]).reshape(2, -1)
    axes = list(values[3]) if len(values) > 3 and values[3] is not None else range(data.ndim)
    widths = [(0, 0)] * data.ndim
    for k, axis in enumerate(axes):
        widths[axis] = (int(pads[0, k]), int(pads[1, k]))
    return np.pad(data, widths, constant_values=FILL)


def mark_of(view: View, came: Array, labels: Labels, shape: tuple[int, ...]) -> Mark | None:
    """The mark of an output, from the numbers of the elements that came there."""
    classes = spread(labels, shape).ravel().take(came)
    if came.size and (came == FILL).any():
        classes = beside_padding(np.where(came == FILL, NONE - 1, classes))
    return mark_along(view, classes)


def spread(labels: Labels, shape: tuple[int, ...]) -> Array:
    """The class of every element, in few bytes; read-only."""
    dtype = np.promote_types(np.int8, np.min_scalar_type(labels.ids.max(initial=0)))
    along = [-1 if a == labels.axis else 1 for a in range(len(shape))]
    return np.broadcast_to(labels.ids.astype(dtype).reshape(along), shape)


def mark_along(view: View, classes: Array) -> Mark | None:
    """The mark of a tensor, from the classes of its elements."""
    if not classes.size:
        return None
    axes = varying(classes)
    if not axes:
        cls = int(classes.flat[0])
        return None if cls == NONE else Whole(cls)
    if len(axes) > 1:
        view.refuse(f"classes would lie on axes {axes} of its output at once")
    line = classes[tuple(slice(None) if a == axes[0] else 0 for a in range(classes.ndim))]
    return Labels(axes[0], line.astype(np.int64))


def beside_padding(classes: Array) -> Array:
    """Give what was filled in the classes beside it, if so they lie along one axis; else none."""
    for axis in range(classes.ndim):
        others = tuple(a for a in range(classes.ndim) if a != axis)
        top = classes.max(axis=others, keepdims=True)
        if ((classes < NONE) | (classes == top)).all():
            return np.broadcast_to(np.maximum(top, NONE), classes.shape)
    return np.maximum(classes, NONE)


def varying(classes: Array) -> list[int]:
    """Axes along which ``classes`` changes anywhere."""
    ndim = classes.ndim
    if not classes.size:
        return []
    lines = [classes[tuple(slice(None) if a == b else 0 for b in range(ndim))] for a in range(ndim)]
    seen = [a for a, line in enumerate(lines) if (line != line[0]).any()]
    if len(seen) <= 1:  # mostly the lines through one corner tell all
        along = [-1 if [a] == seen else 1 for a in range(ndim)]
        corner = lines[seen[0]].reshape(along) if seen else classes.flat[0]
        if (classes == corner).all():
            return seen
    return [a for a in range(ndim) if a in seen or _varies(classes, a)]


def _varies(classes: Array, axis: int) -> bool:
    first = classes[(slice(None),) * axis + (slice(0, 1),)]
    return bool((classes != first).any())


def kept(view: View, numbers: Array, mark: Mark | None, size: int) -> Array | None:
    """The elements of an output that stay, in their new order; None where the output goes.

    ``numbers`` are below ``size``; where a class is repeated, those of its copies are above.
    """
    if isinstance(mark, Labels):
        return told_apart(numbers, view.take(mark.ids), mark.axis, size)
    if isinstance(mark, Whole) and mark.cls not in view.sel.column:
        return None
    if isinstance(mark, Whole) and mark.cls in view.sel.repeated:
        view.refuse(
            f"class {mark.cls} has a branch of its own here, which several new classes would need",
            "name each class of this model once, and let new classes take the place of dropped "
            "ones: drone=new(copy dropped_class); or export it without a branch for each class",
        )
    return numbers


def realise(view: View, proposal: list[ed.Edit]) -> list[ed.Edit]:
    """A tried proposal as edits of what is stored: computed vectors are patched by element."""
    edits: list[ed.Edit] = []
    for edit in proposal:
        if isinstance(edit, ed.Replace) and edit.value.dtype.kind in "iu":
            edits += view.patch(edit.input, edit.value)
        else:
            edits.append(edit)
    return edits


# ------------------------------------------------------------------ how constants might change


def nothing(_: View, __: Labels, ___: list[Array], ____: list[Mark | None]) -> Iterator[Any]:
    """No constant of this op knows the class count."""
    return iter(())


def sizes(view: View, _: Labels, before: list[Array], marks: list[Mark | None]) -> Iterator[Any]:
    """Reshape and Expand: the class axis's element of the target."""
    mark = marks[0]
    if not isinstance(mark, Labels):
        return
    extent = len(view.take(mark.ids))
    stored = "shape" in view.attrs
    target = np.array(view.attrs["shape"] if stored else view.new[1].value)
    at = mark.axis - (before[0].ndim - len(target))
    if at < 0:
        return
    target[at] = extent
    yield [view.set("shape", target.tolist())] if stored else [view.replace(1, target)]


def indices(view: View, labels: Labels, _: list[Array], marks: list[Mark | None]) -> Iterator[Any]:
    """Gather along the class axis: the new places of the kept elements."""
    axis = view.attrs.get("axis", 0) % view.rank(0)
    value = view.old[1].value
    if axis != labels.axis or value is None:
        return
    flat = np.where(value < 0, value + len(labels.ids), value)
    place, mark = places(view.take(labels.ids)), marks[0]
    ranks = np.zeros(flat.size, np.int64)
    if isinstance(mark, Labels) and value.ndim == 1:
        take = view.take(mark.ids)
        flat, ranks = flat[take], copies(take)
    wanted = [(int(v), int(k)) for v, k in zip(flat.flat, ranks, strict=True)]
    if all(w in place for w in wanted):
        new = np.array([place[w] for w in wanted]).reshape(flat.shape)
        yield [view.replace(1, new)]


def places(take: Ints) -> dict[tuple[int, int], int]:
    """The new position of an old one and the number of its copy."""
    keys = zip(take.tolist(), copies(take).tolist(), strict=True)
    return {key: q for q, key in enumerate(keys)}


def bounds(view: View, labels: Labels, _: list[Array], marks: list[Mark | None]) -> Iterator[Any]:
    """Slice along the class axis: bounds that enclose the kept elements, signs kept."""
    mark = marks[0]
    rank, extent = view.rank(0), len(labels.ids)
    by_attribute = "starts" in view.attrs
    if by_attribute:
        starts, ends = list(view.attrs["starts"]), list(view.attrs["ends"])
        axes = list(view.attrs.get("axes", range(len(starts))))
    else:
        known = [np.asarray(f.value).tolist() for f in view.old[1:3]]
        starts, ends = known
        given = view.new[3].value if len(view.new) > 3 else None
        axes = list(range(len(starts))) if given is None else given.tolist()
    axes = [a % rank for a in axes]
    if labels.axis not in axes:
        return
    k = axes.index(labels.axis)
    steps = view.new[4].value if len(view.new) > 4 else None
    step = 1 if steps is None else int(steps[k])
    window = np.arange(extent)[slice(starts[k], ends[k], step)]
    if not window.size and (starts[k], ends[k]) == (extent, extent):  # what comes behind the classes
        starts[k] = ends[k] = len(view.take(labels.ids))
        yield _sliced(view, starts, ends)
        return
    take = view.take(labels.ids)
    place, ranks = places(take), np.zeros(len(window), np.int64)
    if isinstance(mark, Labels):
        inside = view.take(mark.ids)
        window, ranks = window[inside], copies(inside)
    wanted = [(int(p), int(k)) for p, k in zip(window, ranks, strict=True)]
    if not all(w in place for w in wanted):
        return
    new = [place[w] for w in wanted]
    if not new or step < 0 or any(b - a != 1 for a, b in pairwise(new)):
        return
    left = len(take)
    starts[k] = new[0] - left if starts[k] < 0 else new[0]
    past = new[-1] + 1
    if ends[k] < 0:
        ends[k] = past - left if past < left else np.iinfo(np.int64).max
    elif ends[k] <= extent or past < left:
        ends[k] = past
    if step > 1:
        return
    yield _sliced(view, starts, ends)


def _sliced(view: View, starts: list[int], ends: list[int]) -> list[ed.Edit]:
    if "starts" in view.attrs:
        return [view.set("starts", starts), view.set("ends", ends)]
    return [view.replace(1, np.array(starts)), view.replace(2, np.array(ends))]


def parts(view: View, labels: Labels, before: list[Array], marks: list[Mark | None]) -> Iterator[Any]:
    """Split along the class axis: the sizes of the parts, and those that stay in their new order."""
    axis = view.attrs.get("axis", 0) % view.rank(0)
    if axis != labels.axis:
        return
    place = places(view.take(labels.ids))
    start, new = 0, dict[int, int]()
    order: list[tuple[int, int]] = []
    for j, (o, mark) in enumerate(zip(before, marks, strict=True)):
        inside = view.take(mark.ids) if isinstance(mark, Labels) else np.arange(o.shape[axis])
        if kept(view, o, mark, math.prod(view.shape(0))) is not None:
            if not inside.size:
                return
            new[j] = len(inside)
            order.append((place.get((start + int(inside[0]), 0), 0), j))
        start += o.shape[axis]
    keep = tuple(j for _, j in sorted(order))
    edits: list[ed.Edit] = []
    if keep != tuple(range(len(marks))):
        edits.append(ed.KeepOutputs(view.place, keep))
    sizes = [new[j] for j in keep]
    if view.opset < 13:
        yield [*edits, view.set("split", sizes)]
        return
    edits.append(view.replace(1, np.array(sizes, np.int64)))
    if "num_outputs" in view.attrs:
        edits.append(view.set("num_outputs", None))
    yield edits


def concat(view: View) -> Outcome:
    """Concat: labels side by side, or of one layout on another axis than the one joined.

    Beside the classes may stand what was made of all of them, as the best of their scores: a column
    of no class, whose values follow by themselves.
    """
    rank = max(view.rank(i) for i in view.labelled())
    axis = view.attrs.get("axis", 1) % rank
    first = view.labels(view.labelled()[0])
    beside = None if first.axis != axis else Rows()
    if any(m not in {None, beside} and not isinstance(m, Labels) for m in view.marks):
        view.refuse("classes along an axis are joined with classes of another kind")
    if first.axis != axis:
        return _stack(view, first)
    ids = []
    for i, mark in enumerate(view.marks):
        if isinstance(mark, Labels):
            if mark.axis != axis:
                view.refuse("its inputs carry classes on different axes")
            ids.append(mark.ids)
        else:
            shape = view.old[i].shape or view.shape(i)
            ids.append(np.full(view.shape(i)[axis] if shape[axis] is None else shape[axis], NONE))
    return Outcome([Labels(axis, np.concatenate(ids))], _in_order(view, ids))


def _in_order(view: View, ids: Sequence[Ints]) -> list[ed.Edit]:
    """Inputs in the order of the classes that they hold, each in its own; refused where none does."""
    starts = np.cumsum([0, *map(len, ids)]).tolist()
    left = [view.take(part) + start for part, start in zip(ids, starts, strict=False)]
    wanted = view.take(np.concatenate(ids))
    if np.array_equal(np.concatenate(left), wanted):
        return []
    place = places(wanted)
    order = tuple(sorted((i for i, part in enumerate(left) if len(part)),
                         key=lambda i: place.get((int(left[i][0]), 0), 0)))  # fmt: skip
    if not np.array_equal(np.concatenate([left[i] for i in order]), wanted):
        view.refuse(
            "kept classes would have to change places from one of its inputs to another", IN_ORDER
        )
    return [ed.KeepInputs(view.place, order)]


def _stack(view: View, labels: Labels) -> Outcome:
    edits: list[ed.Edit] = []
    for i, mark in enumerate(view.marks):
        if mark is None:
            edits += shorten(view, i, labels.axis, labels.ids)
        elif not labels.same(mark):
            view.refuse("its inputs carry different classes at the same positions")
    return Outcome([labels], edits)


PROPOSALS: dict[str, Callable[[View, Labels, list[Array], list[Mark | None]], Iterator[Any]]] = {
    "Reshape": sizes,
    "Expand": sizes,
    "Gather": indices,
    "Slice": bounds,
    "Split": parts,
}

RULES: dict[str, Callable[[View], Outcome]] = {
    **dict.fromkeys(
        [
            "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Split", "Gather",
            "Expand", "Tile", "Pad", "DepthToSpace", "SpaceToDepth",
        ],
        movement,
    ),
    "Concat": concat,
}  # fmt: skip
