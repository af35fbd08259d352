"""Keras SSD300 as in ssd_keras: the training graph and inference graphs, by tf2onnx.

make_keras.py [NAME PART ...]   makes all pairs, or those with a part in their name
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import onnx
import tensorflow as tf
import tf2onnx
from making import KEEP_81, add
from skeleton import Labels, Pair
from tensorflow import keras
from tensorflow.keras import layers

CLASSES, NATIVE = 81, 1 + len(KEEP_81)
COLUMNS = [0, *KEEP_81]
VERSIONS = f"tensorflow {tf.__version__}, tf2onnx {tf2onnx.__version__}"
SIDE = 300
MAPS = [38, 19, 10, 5, 3, 1]
STEPS = [8, 16, 32, 64, 100, 300]
SCALES = [0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05]
RATIOS = [[1, 2, 0.5], *[[1, 2, 0.5, 3, 1 / 3]] * 3, *[[1, 2, 0.5]] * 2]
VARIANCES = [0.1, 0.1, 0.2, 0.2]


class L2Normalization(layers.Layer):
    """Scale every position to length ``scale``, with a learnt factor for each channel."""

    def build(self, shape: Any) -> None:
        """One factor for each channel."""
        self.gamma = self.add_weight("gamma", (shape[-1],), initializer=keras.initializers.Constant(20))

    def call(self, x: Any) -> Any:
        """Normalize over channels."""
        return tf.math.l2_normalize(x, -1) * self.gamma


class AnchorBoxes(layers.Layer):
    """Anchor boxes (cx, cy, w, h) with their variances, for one feature map, repeated by batch."""

    def __init__(self, level: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.level = level

    def call(self, x: Any) -> Any:
        """``[N, h, w, anchors, 8]``, whatever ``x`` holds."""
        side, level = MAPS[self.level], self.level
        sizes = [(SCALES[level] * r**0.5, SCALES[level] / r**0.5) for r in RATIOS[level]]
        sizes.insert(1, ((SCALES[level] * SCALES[level + 1]) ** 0.5,) * 2)
        centre = (np.arange(side) + 0.5) * STEPS[level] / SIDE
        boxes = np.zeros((side, side, len(sizes), 8), np.float32)
        boxes[..., 0], boxes[..., 1] = centre[None, :, None], centre[:, None, None]
        boxes[..., 2:4] = sizes
        boxes[..., 4:] = VARIANCES
        return tf.tile(tf.constant(boxes[None]), (tf.shape(x)[0], 1, 1, 1, 1))


def conv(name: str, filters: int, size: int = 3, *, padding: str = "same", **kwargs: Any) -> Any:
    """Build a convolution with ReLU and He's initialization."""
    return layers.Conv2D(
        filters,
        size,
        padding=padding,
        activation="relu",
        kernel_initializer="he_normal",
        name=name,
        **kwargs,
    )


def ssd300(classes: int) -> Any:
    """Build the training graph, of ``[N, 8732, scores | offsets | anchors | variances]``."""
    image = x = layers.Input((SIDE, SIDE, 3), name="images")
    x = layers.Lambda(lambda t: t * 255.0 - tf.constant([123.0, 117.0, 104.0]), name="mean")(x)
    x = layers.Lambda(lambda t: t[..., ::-1] / 64.0, name="swap")(x)
    maps = []
    for block, (filters, count) in enumerate([(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)], 1):
        for i in range(1, count + 1):
            x = conv(f"conv{block}_{i}", filters)(x)
        if block == 4:
            maps.append(L2Normalization(name="conv4_3_norm")(x))
        last = block == 5
        x = layers.MaxPooling2D(3 if last else 2, 1 if last else 2, "same", name=f"pool{block}")(x)
    x = conv("fc6", 1024, dilation_rate=6)(x)
    x = conv("fc7", 1024, 1)(x)
    maps.append(x)
    for level, (narrow, wide, pad) in enumerate(
        [(256, 512, True), (128, 256, True), (128, 256, False), (128, 256, False)], 6
    ):
        x = conv(f"conv{level}_1", narrow, 1)(x)
        if pad:
            x = layers.ZeroPadding2D(1, name=f"conv{level}_padding")(x)
        x = conv(f"conv{level}_2", wide, strides=2 if pad else 1, padding="valid")(x)
        maps.append(x)
    parts: list[list[Any]] = [[], [], []]
    for level, x in enumerate(maps):
        anchors = len(RATIOS[level]) + 1
        for part, (name, width) in zip(parts, (("conf", classes), ("loc", 4)), strict=False):
            raw = layers.Conv2D(anchors * width, 3, padding="same", name=f"{name}{level}")(x)
            part.append(layers.Reshape((-1, width), name=f"{name}{level}_reshape")(raw))
        boxes = AnchorBoxes(level, name=f"priorbox{level}")(parts[1][-1])
        parts[2].append(layers.Reshape((-1, 8), name=f"priorbox{level}_reshape")(boxes))
    conf, loc, boxes = (
        layers.Concatenate(1, name=n)(p)
        for n, p in zip(("conf", "loc", "priorbox"), parts, strict=True)
    )
    conf = layers.Activation("softmax", name="conf_softmax")(conf)
    return keras.Model(image, layers.Concatenate(2, name="predictions")([conf, loc, boxes]))


ANCHORS = sum(side**2 * (len(ratios) + 1) for side, ratios in zip(MAPS, RATIOS, strict=True))


def corners(predictions: Any) -> Any:
    """Offsets, anchors and variances (the last 12 columns) to xmin, ymin, xmax, ymax in pixels."""
    centre = (
        predictions[..., -12:-10] * predictions[..., -4:-2] * predictions[..., -6:-4]
        + predictions[..., -8:-6]
    )
    size = tf.exp(predictions[..., -10:-8] * predictions[..., -2:]) * predictions[..., -6:-4]
    return tf.concat([centre - size / 2, centre + size / 2], -1) * SIDE


class DecodeDetections(layers.Layer):
    """Threshold and suppress each class by itself, then keep the best: ``[N, top_k, 6]``."""

    def __init__(
        self,
        classes: int,
        threshold: float = 0.05,
        iou: float = 0.45,
        top_k: int = 200,
        most: int = 400,
    ) -> None:
        super().__init__(name="decoded_predictions")
        self.classes, self.threshold, self.iou, self.top_k, self.most = (
            classes,
            threshold,
            iou,
            top_k,
            most,
        )

    def suppress(self, scores: Any, boxes: Any, index: Any) -> Any:
        """Give the best of one class, padded to ``most`` rows of (class, score, box)."""
        above = scores > self.threshold

        def some() -> Any:
            kept, kept_boxes = tf.boolean_mask(scores, above), tf.boolean_mask(boxes, above)
            best = tf.image.non_max_suppression(kept_boxes, kept, self.most, self.iou)
            label = tf.fill([tf.shape(best)[0], 1], tf.cast(index, tf.float32))
            return tf.concat([label, tf.gather(kept, best)[:, None], tf.gather(kept_boxes, best)], 1)

        found = tf.cond(tf.reduce_any(above), some, lambda: tf.zeros((1, 6)))
        padded = tf.pad(found, [[0, self.most - tf.shape(found)[0]], [0, 0]])
        return tf.ensure_shape(padded, (self.most, 6))

    def best(self, rows: Any) -> Any:
        """Take the ``top_k`` rows of highest score."""
        missing = tf.maximum(self.top_k - tf.shape(rows)[0], 0)
        rows = tf.pad(rows, [[0, missing], [0, 0]])
        return tf.gather(rows, tf.math.top_k(rows[:, 1], self.top_k).indices)

    def one(self, item: Any) -> Any:
        """Decode one image of the batch."""

        def of_class(index: Any) -> Any:
            rows = tf.reshape(item, (ANCHORS, self.classes + 4))
            return self.suppress(rows[:, index], rows[:, -4:], index)

        found = tf.map_fn(of_class, tf.range(1, self.classes), fn_output_signature=tf.float32)
        return self.best(tf.reshape(found, (-1, 6)))

    def call(self, predictions: Any) -> Any:
        """Decode every image."""
        rows = tf.concat([predictions[..., :-12], corners(predictions)], -1)
        decoded = tf.map_fn(self.one, rows, fn_output_signature=tf.float32)
        return tf.ensure_shape(decoded, (None, self.top_k, 6))


class DecodeDetectionsFast(DecodeDetections):
    """Only the best class of each anchor counts, and one suppression is for all classes."""

    def one(self, item: Any) -> Any:
        """Decode one image of the batch."""
        item = tf.reshape(item, (ANCHORS, self.classes + 4))
        labels = tf.argmax(item[:, :-4], -1)
        scores = tf.reduce_max(item[:, :-4], -1)
        rows = tf.concat([tf.cast(labels, tf.float32)[:, None], scores[:, None], item[:, -4:]], 1)
        rows = tf.boolean_mask(rows, labels != 0)
        rows = tf.boolean_mask(rows, rows[:, 1] > self.threshold)

        def some() -> Any:
            best = tf.image.non_max_suppression(rows[:, 2:], rows[:, 1], self.most, self.iou)
            return tf.gather(rows, best)

        return self.best(tf.cond(tf.shape(rows)[0] > 0, some, lambda: tf.zeros((1, 6))))


class DecodeDetectionsUnrolled(DecodeDetections):
    """As in exports that unroll: a Python loop, one branch in the graph for each class."""

    def one(self, item: Any) -> Any:
        """Decode the only image."""
        found = [self.suppress(item[:, k], item[:, -4:], k) for k in range(1, self.classes)]
        return self.best(tf.concat(found, 0))

    def call(self, predictions: Any) -> Any:
        """Decode the only image."""
        return self.one(tf.concat([predictions[0, :, :-12], corners(predictions[0])], -1))[None]


class DecodeCombined(layers.Layer):
    """TensorFlow's own combined suppression, padded per class."""

    def call(self, predictions: Any) -> Any:
        """Boxes, scores, classes and count."""
        boxes = corners(predictions)[:, :, None]
        return tf.image.combined_non_max_suppression(
            boxes, predictions[..., 1:-12], 50, 100, 0.45, 0.05, clip_boxes=False
        )


def liven(model: Any, spread: float = 2.0) -> None:
    """Scale every layer's weights to outputs of spread one; classifiers get biases of their own."""
    rng = np.random.default_rng(0)
    images = rng.random((1, SIDE, SIDE, 3), dtype=np.float32)
    for layer in model.layers:
        if not isinstance(layer, layers.Conv2D):
            continue
        kernel, bias = layer.get_weights()
        is_score = layer.name.startswith("conf")
        out = keras.Model(model.input, layer.output)(images).numpy()
        kernel *= (spread if is_score else 1.0) / max(out.std(), 1e-6)
        layer.set_weights([kernel, rng.normal(0, 0.5, bias.shape) if is_score else bias])


def share(many: Any, native: Any) -> None:
    """Copy all weights; where sizes differ, take the kept columns of every anchor."""
    for source, layer in zip(many.layers, native.layers, strict=True):
        taken = []
        for weights, own in zip(source.get_weights(), layer.get_weights(), strict=True):
            selected = weights
            if weights.shape != own.shape:
                grid = np.arange(weights.shape[-1]).reshape(-1, CLASSES)
                selected = weights.take(grid[:, COLUMNS].reshape(-1), -1)
            taken.append(selected)
        layer.set_weights(taken)


Decoder = Callable[[int], Any]
PAIRS: list[tuple[str, int, int | None, Decoder | None, str]] = [
    (
        "keras_ssd300_training_op13",
        13,
        None,
        None,
        "scores | offsets | anchors | variances in one tensor",
    ),
    (
        "keras_ssd300_training_op17",
        17,
        1,
        None,
        "scores | offsets | anchors | variances in one tensor",
    ),
    (
        "keras_ssd300_loops_op13",
        13,
        None,
        DecodeDetections,
        "a Loop over the batch holds a Loop over classes",
    ),
    (
        "keras_ssd300_fast_op13",
        13,
        None,
        DecodeDetectionsFast,
        "argmax, then one suppression for all classes",
    ),
    ("keras_ssd300_unrolled_op15", 15, 1, DecodeDetectionsUnrolled, "one branch for each class"),
    (
        "keras_ssd300_combined_op13",
        13,
        1,
        lambda _: DecodeCombined(),
        "combined_non_max_suppression",
    ),
]


def save_weights(folder: Path) -> None:
    """Weights of the many and of the native, made once for all pairs."""
    keras.utils.set_random_seed(0)
    many, native = ssd300(CLASSES), ssd300(NATIVE)
    liven(many)
    share(many, native)
    for kind, model in (("many", many), ("native", native)):
        np.savez(folder / f"{kind}.npz", *model.get_weights())


def export(name: str, kind: str, folder: Path) -> None:
    """Write one graph; tf2onnx folds and optimizes on the way."""
    _, opset, batch, decoder, _ = next(row for row in PAIRS if row[0] == name)
    classes = CLASSES if kind == "many" else NATIVE
    model = ssd300(classes)
    with np.load(folder / f"{kind}.npz") as weights:
        model.set_weights(list(weights.values()))
    if decoder:
        model = keras.Model(model.input, decoder(classes)(model.output))
    signature = [tf.TensorSpec((batch, SIDE, SIDE, 3), tf.float32, name="images")]
    tf2onnx.convert.from_keras(model, signature, opset, output_path=str(folder / f"{kind}.onnx"))


def declare_counters(graph: Any) -> None:
    """Loop counters and conditions are scalars; onnxruntime wants that said in nested loops too."""
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name == "body" and node.op_type == "Loop":
                for value in attribute.g.input[:2]:
                    value.type.tensor_type.shape.SetInParent()
            declare_counters(attribute.g)


def step_of(script: str, *args: object) -> None:
    """Call a script: a process of its own, as TensorFlow keeps every function it ever saw."""
    command = [sys.executable, script, *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])


def main() -> None:
    """Make what the command line names."""
    match sys.argv[1:]:
        case ["--weights", folder]:
            return save_weights(Path(folder))
        case ["--export", name, kind, folder]:
            return export(name, kind, Path(folder))
    wanted = sys.argv[1:] or [""]
    with tempfile.TemporaryDirectory() as temporary:
        step_of(__file__, "--weights", temporary)
        for name, opset, batch, decoder, note in PAIRS:
            if not any(part in name for part in wanted):
                continue
            print(name)
            for kind in ("many", "native"):
                step_of(__file__, "--export", name, kind, temporary)
            combined = "combined" in name
            labels: Labels = {"output": 2, "column": None} if combined else {"output": 0, "column": 0}
            pair = Pair(
                name=name,
                architecture="SSD300 with VGG16, as in ssd_keras",
                exporter=VERSIONS,
                opset=opset,
                kind="pipeline" if decoder else "raw",
                classes=CLASSES,
                native_classes=NATIVE,
                background=0,
                activation="softmax",
                keep=KEEP_81,
                inputs=[{"name": "images", "shape": [batch or 2, SIDE, SIDE, 3], "dtype": "float32"}],
                scores=[] if decoder else [{"output": 0, "axis": 2, "anchors": 0, "first": 0}],
                labels=labels if decoder else None,
                args=[],
                note=note,
            )
            graphs = [onnx.load(Path(temporary, f"{kind}.onnx")) for kind in ("many", "native")]
            for graph in graphs:
                declare_counters(graph.graph)
            add(pair, *graphs)
    return None


if __name__ == "__main__":
    main()
