"""Measure a fitted background, and write the tables of docs/fitted-background.md.

``python benchmarks/background.py [--only SECTION]``

On held-out pictures of the shipped detector (seeds 0 to 399), against its own scores: the original,
a plain cut, cuts with a background fitted to 20 to 500 pictures (seeds from 10,000 on: neither
trained on nor measured on), and exact scores. Then other kinds of head, made of the shipped detector:
a single level of it, rows combined instead of features weighed, and a Gemm that classifies regions,
trained here by gradient descent on pooled features. Last, other weights of the places.

FP and TP count detections of kept classes with a score of 0.5 and more in a picture, after
suppression class by class: TP where an object of the class overlaps by an IoU of 0.5, else FP.
Errors are those of the kept classes' scores against the original's, over all anchors: the root mean
square, and the mean absolute error where either score is 0.05 and more.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
import onnx_headcut as hc  # noqa: E402
from models.shapes.evaluate import average_precision, detections, overlaps  # noqa: E402
from models.shapes.pictures import NAMES, picture  # noqa: E402
from onnx_headcut.fitting import background, heads  # noqa: E402
from onnx_headcut.validation.inputs import NamedFeed  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Sequence

Array = np.ndarray[Any, np.dtype[Any]]
SOURCE = HERE.parent / "models" / "shapes" / "ssd_shapes_ts_softmax.onnx"
PAGE = HERE.parent / "docs" / "fitted-background.md"
SETS = {
    "4 of 14": ("stop sign", "heart", "star", "lightning"),
    "1 of 14": ("circle",),
    "10 of 14": NAMES[1:11],
}
FIRST, SURE, SOME = 10_000, 0.5, 0.05


@cache
def images(first: int, count: int) -> Array:
    return np.stack([picture(first + k)[0] for k in range(count)]).transpose(0, 3, 1, 2)


def fed(first: int, count: int) -> Array:
    return images(first, count).astype(np.float32) / 255


def run(model: onnx.ModelProto, feed: dict[str, Array], batch: int = 40) -> tuple[Array, Array]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (name, values) = next(iter(feed.items()))
    found = [session.run(["scores", "boxes"], {name: values[at : at + batch]})
             for at in range(0, len(values), batch)]  # fmt: skip
    scores, boxes = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return scores, boxes


def measured(scores: Array, boxes: Array, true: Array, keep: Sequence[int]) -> tuple[str, ...]:
    """The figures of a table's row; ``true`` are the original's scores of the kept classes."""
    found: list[list[Any]] = [[] for _ in keep]
    truth: list[list[Array]] = [[] for _ in keep]
    sure = [0, 0]
    for n, some in enumerate(detections(scores, boxes, 0.02)):
        _, places, labels = picture(n)
        for j, c in enumerate(keep):
            truth[j].append(places[labels == c])
        for box, column, score in zip(*some, strict=True):
            found[column - 1].append((float(score), n, box))
            if score >= SURE:
                same = places[labels == keep[column - 1]]
                sure[int(len(same) > 0 and bool(overlaps(box, same).max() >= 0.5))] += 1
    precision = np.mean([average_precision(f, t) for f, t in zip(found, truth, strict=True)])
    wrong, right = (f"{number / len(scores):.3f}" for number in sure)
    return (wrong, right, f"{precision:.3f}", *errors(scores[..., 1:], true))


def errors(scores: Array, true: Array) -> tuple[str, str]:
    off = np.abs(scores - true)
    near = off[np.maximum(scores, true) >= SOME].mean() if off.any() else 0
    return f"{np.sqrt((off**2).mean()):.4f}", f"{near:.3f}"


def cut(model: onnx.ModelProto, keep: Sequence[int], **how: Any) -> onnx.ModelProto:
    result = hc.cut(model, list(keep), provider="cpu", validation=False, labels=list(NAMES), **how)
    return result.model


def shown(count: int, name: str = "images") -> list[NamedFeed]:
    return [NamedFeed("pictures", {name: fed(FIRST, count)})]


def detector(model: onnx.ModelProto, names: Sequence[str], counts: Sequence[int], pictures: int,
             *, only_fit: bool = False) -> list[tuple[str, ...]]:  # fmt: skip
    """Rows of one detector and one set of classes."""
    keep = [NAMES.index(name) for name in names]
    test = {model.graph.input[0].name: fed(0, pictures)}
    whole, boxes = run(model, test)
    true = whole[..., keep]
    rows = []
    if not only_fit:
        columns = np.concatenate([whole[..., :1], true], axis=-1)
        rows.append(("original", *measured(columns, boxes, true, keep)))
        rows.append(("plain cut", *measured(*run(cut(model, keep), test), true, keep)))
    for count in counts:
        fitted = cut(model, keep, fit_background=shown(count, model.graph.input[0].name))
        rows.append((f"fitted to {count} pictures", *measured(*run(fitted, test), true, keep)))
    if not only_fit:
        exact = cut(model, keep, scores="exact")
        rows.append(("exact scores", *measured(*run(exact, test), true, keep)))
    return rows


def single_level(model: onnx.ModelProto) -> onnx.ModelProto:
    """The detector with its second level alone: 8 x 8 places of 6 anchors, one head."""
    new = onnx.ModelProto()
    new.CopyFrom(model)
    for node in new.graph.node:
        wide = len(node.input) == 4 and [a.i for a in node.attribute] == [1]
        if node.op_type == "Concat" and wide:
            one = node.input[1]
            del node.input[:]
            node.input.append(one)
    first = 16 * 16 * 4
    places = np.arange(first, first + 8 * 8 * 6)
    for node in new.graph.node:  # anchors are stored for all levels
        for name in node.input:
            stored = next((t for t in new.graph.initializer if t.name == name), None)
            made = next((n for n in new.graph.node if n.op_type == "Constant"
                         and name in n.output), None)  # fmt: skip
            tensor = stored if stored is not None else made and made.attribute[0].t
            value = None if tensor is None else numpy_helper.to_array(tensor)
            if value is not None and 1520 in value.shape:
                axis = value.shape.index(1520)
                tensor.CopyFrom(numpy_helper.from_array(value.take(places, axis), tensor.name))
    for output in new.graph.output:
        output.type.tensor_type.shape.dim[1].dim_value = len(places)
    del new.graph.value_info[:]
    return new


# ------------------------------------------------------------------ a Gemm head of regions


def regions(first: int, count: int) -> tuple[Array, Array]:
    """Pooled features of objects and of places without one: [n, features], classes [n]."""
    model = onnx.load(SOURCE)
    values = [n.input[0] for n in model.graph.node if n.op_type == "Conv" and "predict" in n.name
              and "cls_heads" in n.name][:2]  # fmt: skip
    model.graph.output.extend(helper.make_empty_tensor_value_info(v) for v in values)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    rows, classes = [], []
    rng = np.random.default_rng(first)
    for k in range(count):
        maps = session.run(values, {"images": fed(first + k, 1)})
        _, boxes, labels = picture(first + k)
        corner = rng.uniform(0, 80, (2, 2)).astype(np.float32)
        empty = np.concatenate([corner, corner + rng.uniform(16, 48, (2, 2))], 1)
        free = [e for e in empty if not len(boxes) or overlaps(e, boxes).max() < 0.1]
        for box, label in [*zip(boxes, labels, strict=True), *((e, 0) for e in free)]:
            rows.append(np.concatenate([pooled(m[0], box) for m in maps]))
            classes.append(int(label))
    return np.array(rows, np.float32), np.array(classes)


def pooled(features: Array, box: Array) -> Array:
    """The mean and the maximum of a feature map [C, size, size] within a box."""
    scale = features.shape[-1] / 128
    x0, y0 = np.floor(box[:2] * scale).astype(int)
    x1, y1 = np.maximum(np.ceil(box[2:] * scale).astype(int), (x0 + 1, y0 + 1))
    part = features[:, y0:y1, x0:x1]
    return np.concatenate([part.mean((1, 2)), part.max((1, 2))])


def classifier(features: Array, classes: Array) -> onnx.ModelProto:
    """A Gemm and a softmax, trained by gradient descent with momentum on standardised features."""
    mean, deviation = features.mean(0), features.std(0) + 1e-6
    x = np.c_[(features - mean) / deviation, np.ones(len(features))]
    aims = np.eye(len(NAMES))[classes]
    weight = np.zeros((x.shape[1], len(NAMES)))
    speed = np.zeros_like(weight)
    for _ in range(1500):
        raised = np.exp(x @ weight - (x @ weight).max(1, keepdims=True))
        off = raised / raised.sum(1, keepdims=True) - aims
        speed = 0.9 * speed - 0.05 * (x.T @ off / len(x) + 1e-4 * weight)
        weight += speed
    slopes = weight[:-1] / deviation[:, None]
    bias = weight[-1] - mean @ slopes
    nodes = [
        helper.make_node("Gemm", ["regions", "w", "b"], ["logits"], "head"),
        helper.make_node("Softmax", ["logits"], ["scores"], "softmax", axis=-1),
        helper.make_node("Identity", ["places"], ["boxes"], "boxes"),
    ]
    real, n = onnx.TensorProto.FLOAT, features.shape[1]
    inputs = [helper.make_tensor_value_info("regions", real, ["n", n]),
              helper.make_tensor_value_info("places", real, ["n", 4])]  # fmt: skip
    outputs = [helper.make_tensor_value_info("scores", real, ["n", len(NAMES)]),
               helper.make_tensor_value_info("boxes", real, ["n", 4])]  # fmt: skip
    stored = [numpy_helper.from_array(slopes.astype(np.float32), "w"),
              numpy_helper.from_array(bias.astype(np.float32), "b")]  # fmt: skip
    graph = helper.make_graph(nodes, "regions", inputs, outputs, stored)
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


def of_regions(names: Sequence[str], counts: Sequence[int]) -> list[tuple[str, ...]]:
    """Rows of the Gemm head: a false positive is a sure kept class where there is another."""
    model = classifier(*regions(20_000, 1500))
    keep = [NAMES.index(name) for name in names]
    x, classes = regions(0, 400)
    places = np.zeros((len(x), 4), np.float32)

    def scored(made: onnx.ModelProto) -> Array:
        session = ort.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
        scores: Array = session.run(["scores"], {"regions": x, "places": places})[0]
        return scores

    def row(what: str, scores: Array) -> tuple[str, ...]:
        sure, best = scores[:, 1:].max(1) >= SURE, np.array(keep)[scores[:, 1:].argmax(1)]
        wrong, right = (sure & (best != classes)).sum(), (sure & (best == classes)).sum()
        figures = f"{wrong / 400:.3f}", f"{right / 400:.3f}", ""
        return (what, *figures, *errors(scores[:, 1:], scored(model)[:, keep]))

    whole = scored(model)
    rows = [row("original", np.c_[whole[:, :1], whole[:, keep]]),
            row("plain cut", scored(cut(model, keep)))]  # fmt: skip
    for count in counts:
        seen = regions(FIRST, count)[0]
        feed = {"regions": seen, "places": np.zeros((len(seen), 4), np.float32)}
        fitted = cut(model, keep, fit_background=[NamedFeed("regions", feed)])
        rows.append(row(f"fitted to {count} pictures", scored(fitted)))
    return [*rows, row("exact scores", scored(cut(model, keep, scores="exact")))]


# ------------------------------------------------------------------ the tables


def table(rows: Sequence[tuple[str, ...]]) -> str:
    head = ("", "FP a picture", "TP a picture", "mAP", "error, RMS", "error where 0.05 and more")
    lines = [head, ("---", *["--:"] * (len(head) - 1)), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def kept(model: onnx.ModelProto, counts: Sequence[int], pictures: int) -> list[str]:
    text = []
    for what, names in SETS.items():
        rows = detector(model, names, counts, pictures)
        text += [f"**{what} classes kept** ({', '.join(names)})", table(rows)]
    return text


def rows_combined(model: onnx.ModelProto, counts: Sequence[int], pictures: int) -> list[str]:
    most, heads.MOST_FEATURES = heads.MOST_FEATURES, 0
    try:
        return [table(detector(model, DEMO, few(counts), pictures, only_fit=True))]
    finally:
        heads.MOST_FEATURES = most


def one_level(model: onnx.ModelProto, counts: Sequence[int], pictures: int) -> list[str]:
    return [table(detector(single_level(model), DEMO, few(counts), pictures))]


def gemm(model: onnx.ModelProto, counts: Sequence[int], pictures: int) -> list[str]:
    del model, pictures
    return [table(of_regions(DEMO, few(counts)))]


def gradient(scores: Array, columns: Any) -> Array:
    """How much the kept scores move with the background's logit, squared and summed."""
    raised = np.exp(scores - scores.max(-1, keepdims=True))
    shares = raised / raised.sum(-1, keepdims=True)
    some = shares[..., list(columns.kept)]
    return (1 - some.sum(-1)) ** 2 * (some**2).sum(-1) + 1e-4


def weights(model: onnx.ModelProto, counts: Sequence[int], pictures: int) -> list[str]:
    own, count = background.importance, few(counts)[-1:]
    ways = {
        "1 - p(background)": own,
        "all places alike": lambda scores, _: np.ones(scores.shape[:-1]),
        "the gradient of the kept scores": gradient,
        "(1 - p(background)) squared": lambda scores, columns: own(scores, columns) ** 2,
    }
    rows = []
    for what, way in ways.items():
        background.importance = way
        (row,) = detector(model, DEMO, count, pictures, only_fit=True)
        rows.append((what, *row[1:]))
    background.importance = own
    return [table(rows)]


SECTIONS = {"kept": kept, "weights": weights, "rows": rows_combined, "level": one_level, "gemm": gemm}
DEMO = SETS["4 of 14"]


def few(counts: Sequence[int]) -> list[int]:
    return [c for c in counts if c in {50, 500}] or list(counts[-1:])


def write(section: str, text: Sequence[str], pictures: int) -> None:
    """Put the tables of a section between its marks in the page."""
    day = f"{dt.datetime.now(dt.UTC):%Y-%m-%d}"
    measured_on = f"Measured {day} on {pictures} pictures."
    begin, end = f"<!-- measured: {section} -->", f"<!-- end: {section} -->"
    before, _, rest = PAGE.read_text().partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise SystemExit(f"{PAGE.name} has no place for {section}")
    PAGE.write_text("\n\n".join([before + begin, *text, measured_on, end + after]))


def main() -> None:
    parser = argparse.ArgumentParser(description="measure fitted backgrounds")
    parser.add_argument("--pictures", type=int, default=400)
    parser.add_argument("--counts", type=int, nargs="+", default=[20, 50, 200, 500])
    parser.add_argument("--only", choices=SECTIONS, action="append")
    options = parser.parse_args()
    model = onnx.load(SOURCE)
    for section in options.only or SECTIONS:
        text = SECTIONS[section](model, options.counts, options.pictures)
        print(section, *text, sep="\n", flush=True)
        write(section, text, options.pictures)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
