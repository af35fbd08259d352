"""What growing a detector costs its old classes: mAP of the shipped one before and after.

From the repository's root::

    python -m benchmarks.growing [PICTURES]

*Renormalised* is the original with one more column in its softmax, as numpy computes it: a column
that says no more than the prior, at every anchor the background's bias less log((1-p)/p). What a
grown model loses beyond that would be the new weights' doing.
"""

import sys
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import numpy_helper

import onnx_headcut as hc
from models.shapes.evaluate import average_precision, detections
from models.shapes.pictures import NAMES, picture

SHAPES = Path(__file__).parents[1] / "models" / "shapes"
OLD = len(NAMES)
CELLS = (256, 64, 16, 4)
GROWN = {
    "drone=new": "1-14, drone=new",
    "drone=new(zeros)": "1-14, drone=new(zeros)",
    "drone=new(copy circle)": "1-14, drone=new(copy circle)",
    "drone=new(mean circle|ring)": "1-14, drone=new(mean circle|ring)",
    "five new classes": "1-14, a=new, b=new, c=new, d=new, e=new",
}

Array = npt.NDArray[np.float32]
Scores = Callable[[Array], tuple[Array, Array]]


def of(model: onnx.ModelProto) -> Scores:
    """Scores of the old classes and boxes that a model gives."""
    data = model.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    entry = session.get_inputs()[0].name

    def run(images: Array) -> tuple[Array, Array]:
        scores, boxes = session.run(["scores", "boxes"], {entry: images})
        return np.asarray(scores[..., :OLD], np.float32), np.asarray(boxes, np.float32)

    return run


def renormalised(raw: onnx.ModelProto, prior: float = 0.01) -> Scores:
    """The original's with one more column in the softmax, which starts at its prior."""
    logits = of(raw)
    biases = [numpy_helper.to_array(t) for t in raw.graph.initializer
              if "cls_heads" in t.name and t.name.endswith("bias")]  # fmt: skip
    background = np.concatenate(
        [np.tile(b.reshape(-1, OLD)[:, 0], n) for b, n in zip(biases, CELLS, strict=True)]
    )

    def run(images: Array) -> tuple[Array, Array]:
        scores, boxes = logits(images)
        new = background + np.log(prior / (1 - prior))
        raised = np.exp(scores - scores.max(-1, keepdims=True))
        more = np.exp(new[None, :, None] - scores.max(-1, keepdims=True))
        shares = raised / (raised.sum(-1, keepdims=True) + more)
        return np.asarray(shares, np.float32), boxes

    return run


def mean_ap(run: Scores, seeds: Iterable[int]) -> float:
    """MAP at IoU 0.5 of the old classes on the pictures of ``seeds``."""
    found: list[list[tuple[float, int, Array]]] = [[] for _ in range(OLD)]
    truth: list[list[Array]] = [[] for _ in range(OLD)]
    for done, seed in enumerate(seeds):
        image, true_boxes, labels = _picture(seed)
        images = image.transpose(2, 0, 1)[None].astype(np.float32) / 255
        some = detections(*run(images), threshold=0.02)[0]
        for c in range(OLD):
            truth[c].append(true_boxes[labels == c])
        for box, column, score in zip(*some, strict=True):
            found[column].append((float(score), done, box))
    pairs = zip(found[1:], truth[1:], strict=True)
    return float(np.nanmean([average_precision(f, t) for f, t in pairs]))


_picture = lru_cache(picture)  # drawing one takes longer than a detection in it


def grown(spec: str) -> onnx.ModelProto:
    """The shipped detector with more classes."""
    model = SHAPES / "ssd_shapes_ts_softmax.onnx"
    return hc.cut(model, spec, labels=SHAPES / "names.txt", validation=False).model


def main() -> None:
    """Print the table."""
    pictures = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    seeds = range(pictures)
    print(f"| model | mAP of the old classes, {pictures} pictures |\n|---|---|")
    print(f"| original | {mean_ap(of(onnx.load(SHAPES / 'ssd_shapes_ts_softmax.onnx')), seeds):.4f} |")
    raw = onnx.load(SHAPES / "ssd_shapes_ts_raw.onnx")
    print(f"| original, renormalised with a new column | {mean_ap(renormalised(raw), seeds):.4f} |")
    for name, spec in GROWN.items():
        print(f"| `{name}` | {mean_ap(of(grown(spec)), seeds):.4f} |", flush=True)


if __name__ == "__main__":
    main()
