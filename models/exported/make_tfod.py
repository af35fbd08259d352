"""A tiny SSD followed as in TensorFlow's object detection API: one branch for each class.

make_tfod.py

Sigmoid scores of 91 columns, the background sliced off; for every class a threshold, a suppression
and a constant that is its label; then the best hundred of all, labels counted from one.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import itertools

import numpy as np
import onnx
import tensorflow as tf
import tf2onnx
from make_keras import VERSIONS, declare_counters, step_of
from making import KEEP_91, add
from skeleton import Pair

CLASSES, NATIVE = 91, 1 + len(KEEP_91)
SIDE, ANCHORS, MOST = 128, 6, 100
WIDTHS = [3, 24, 32, 48, 64]
NAME = "tfod_ssd_branches_op13"


def weights(classes: int) -> dict[str, Any]:
    """Draw the same weights for both, the classifiers' on the grid (anchor, class)."""
    rng = np.random.default_rng(0)
    columns = [0, *KEEP_91] if classes == NATIVE else list(range(CLASSES))
    drawn = {}
    for k, (inside, outside) in enumerate(itertools.pairwise(WIDTHS)):
        kernel = rng.normal(0, (2 / 9 / inside) ** 0.5, (3, 3, inside, outside))
        drawn[f"conv{k}"] = kernel - kernel.mean((0, 1, 2))
    for k, width in enumerate(WIDTHS[-2:]):
        kernel = rng.normal(0, 2 * (2 / 9 / width) ** 0.5, (3, 3, width, ANCHORS, CLASSES))
        kernel -= kernel.mean((0, 1, 2))
        drawn[f"class{k}"] = kernel[..., columns].reshape(3, 3, width, -1)
        drawn[f"bias{k}"] = rng.normal(-2, 0.5, (ANCHORS, CLASSES))[:, columns].reshape(-1)
        drawn[f"box{k}"] = rng.normal(0, 0.3 * (2 / 9 / width) ** 0.5, (3, 3, width, ANCHORS * 4))
    return {name: value.astype(np.float32) for name, value in drawn.items()}


def anchors() -> Any:
    """Give the corners of all anchors, relative to the image: ymin, xmin, ymax, xmax."""
    found = []
    for cells, size in ((SIDE // 8, 0.15), (SIDE // 16, 0.3)):
        centre = (np.arange(cells) + 0.5) / cells
        y, x = np.meshgrid(centre, centre, indexing="ij")
        for ratio in (0.5, 0.7, 1, 1.4, 2, 3):
            half = size * ratio**0.5 / 2, size / ratio**0.5 / 2
            found.append(np.stack([y - half[0], x - half[1], y + half[0], x + half[1]], -1))
    levels = [np.stack(found[:ANCHORS], 2), np.stack(found[ANCHORS:], 2)]
    return np.concatenate([a.reshape(-1, 4) for a in levels]).astype(np.float32)


def detector(classes: int) -> Any:
    """Build the function from the only image to detections."""
    drawn, boxes_of_anchors = weights(classes), anchors()

    def branch(scores: Any, boxes: Any, label: int) -> tuple[Any, Any, Any]:
        one = tf.reshape(tf.slice(scores, [0, label], [-1, 1]), [-1])
        high = tf.reshape(tf.where(tf.greater(one, 0.3)), [-1])
        one, own = tf.gather(one, high), tf.gather(boxes, high)
        best = tf.image.non_max_suppression(own, one, MOST, 0.6)
        one = tf.gather(one, best)
        return tf.gather(own, best), one, tf.zeros_like(one) + float(label)

    def detect(images: Any) -> tuple[Any, ...]:
        x, maps = images * 4 - 2, []
        for k in range(len(WIDTHS) - 1):
            x = tf.nn.relu(tf.nn.conv2d(x, drawn[f"conv{k}"], 2, "SAME")) * 1.2
            maps.append(x)
        scores, boxes = [], []
        for k, x in enumerate(maps[-2:]):
            raw = tf.nn.conv2d(x, drawn[f"class{k}"], 1, "SAME") + drawn[f"bias{k}"]
            scores.append(tf.reshape(raw, (1, -1, classes)))
            raw = tf.nn.conv2d(x, drawn[f"box{k}"], 1, "SAME")
            boxes.append(tf.reshape(raw, (1, -1, 4)))
        every = tf.sigmoid(tf.concat(scores, 1))[0, :, 1:]
        places = boxes_of_anchors + tf.concat(boxes, 1)[0] * 0.1
        found = [branch(every, places, label) for label in range(classes - 1)]
        box, score, label = (tf.concat(part, 0) for part in zip(*found, strict=True))
        best, index = tf.math.top_k(score, tf.minimum(MOST, tf.shape(score)[0]))
        count = tf.shape(best)[0]
        pad = [[0, MOST - count]]
        return (
            tf.pad(tf.gather(box, index), [*pad, [0, 0]])[None],
            tf.pad(tf.gather(label, index) + 1, pad)[None],
            tf.pad(best, pad)[None],
            tf.cast(count, tf.float32)[None],
        )

    return tf.function(detect)


def export(classes: int, path: str) -> None:
    """Write one graph."""
    signature = [tf.TensorSpec((1, SIDE, SIDE, 3), tf.float32, name="images")]
    tf2onnx.convert.from_function(detector(classes), signature, 13, output_path=path)


def main() -> None:
    """Make the pair."""
    if len(sys.argv) > 1:
        return export(int(sys.argv[1]), sys.argv[2])
    print(NAME)
    graphs = []
    with tempfile.TemporaryDirectory() as temporary:
        for classes in (CLASSES, NATIVE):
            path = Path(temporary, f"{classes}.onnx")
            step_of(__file__, classes, path)
            graphs.append(onnx.load(path))
    for graph in graphs:
        declare_counters(graph.graph)
    pair = Pair(
        name=NAME,
        architecture="SSD-like, tiny",
        exporter=VERSIONS,
        opset=13,
        kind="pipeline",
        classes=CLASSES,
        native_classes=NATIVE,
        background=0,
        activation="sigmoid",
        keep=KEEP_91,
        inputs=[{"name": "images", "shape": [1, SIDE, SIDE, 3], "dtype": "float32"}],
        scores=[],
        labels={"output": 1, "column": None},
        args=["--background", "first"],
        note="the background is sliced off after the sigmoid; one branch for each class",
    )
    add(pair, *graphs)
    return None


if __name__ == "__main__":
    main()
