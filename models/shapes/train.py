"""Train the shapes SSD with PyTorch and export it four times.

From the repository's root, in an environment with ``torch onnx onnxscript onnxruntime numpy``::

    python -m models.shapes.train

Everything is seeded; another machine or another torch still rounds differently, so the weights come
out close to those that ship, not equal.
"""

# Torch is no dependency of the project, and its types come and go with it.
# mypy: disable-error-code="import-not-found,import-untyped,misc,no-untyped-call,no-any-return"
# mypy: disable-error-code="call-overload"

import argparse
import math
import multiprocessing
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from models.shapes.evaluate import evaluate
from models.shapes.pictures import NAMES, picture

HERE = Path(__file__).parent
SIZE = 128
TRAIN_SEED = 1_000_000  # training pictures start here; held-out seeds are 0, 1, 2, ...
MOST = 4  # objects in a picture

# Per level: stride, and (side, width/height) of its anchors, in pixels.
LEVELS: tuple[tuple[int, tuple[tuple[float, float], ...]], ...] = (
    (8, ((20, 1), (28, 1), (24, 2), (24, 0.5))),
    (16, ((36, 1), (46, 1), (56, 1), (44, 2), (44, 0.5), (50, 1.5))),
    (32, ((64, 1), (76, 1), (90, 1), (72, 2), (72, 0.5), (84, 1.5))),
    (64, ((84, 1), (104, 1), (92, 1.6), (92, 0.625))),
)


def anchors() -> Tensor:
    """All anchors, float32 [anchors,4] as cx,cy,w,h in pixels, in (level, row, column, a) order."""
    rows: list[tuple[float, ...]] = []
    for stride, kinds in LEVELS:
        for y in range(SIZE // stride):
            for x in range(SIZE // stride):
                for side, ratio in kinds:
                    w, h = side * math.sqrt(ratio), side / math.sqrt(ratio)
                    rows.append(((x + 0.5) * stride, (y + 0.5) * stride, w, h))
    return torch.tensor(rows)


class Separable(nn.Module):
    """Depthwise 3x3 then pointwise 1x1, each with BatchNorm; residual where the shape stays."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.residual = stride == 1 and inputs == outputs
        self.depthwise = nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False)
        self.depthwise_norm = nn.BatchNorm2d(inputs)
        self.pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.pointwise_norm = nn.BatchNorm2d(outputs)
        self.act = nn.ReLU6(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N,inputs,h,w] to [N,outputs,h/stride,w/stride]."""
        y = self.act(self.depthwise_norm(self.depthwise(x)))
        y = self.act(self.pointwise_norm(self.pointwise(y)))
        return x + y if self.residual else y


class Head(nn.Module):
    """A depthwise 3x3 and a 1x1 convolution to ``anchors * width`` channels, as in SSDLite."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(inputs, inputs, 3, 1, 1, groups=inputs, bias=False)
        self.norm = nn.BatchNorm2d(inputs)
        self.act = nn.ReLU6(inplace=True)
        self.predict = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N,inputs,h,w] to [N,outputs,h,w]."""
        return self.predict(self.act(self.norm(self.depthwise(x))))


class SSD(nn.Module):
    """Images float32 [N,3,128,128] in 0..1 to class logits [N,anchors,C] and offsets [.., 4]."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.stem = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6(inplace=True)
        )
        self.stages = nn.ModuleList(
            [
                nn.Sequential(
                    Separable(16, 32, 2),
                    Separable(32, 32),
                    Separable(32, 64, 2),
                    Separable(64, 64),
                    Separable(64, 64),
                ),
                nn.Sequential(Separable(64, 96, 2), Separable(96, 96), Separable(96, 96)),
                nn.Sequential(Separable(96, 128, 2), Separable(128, 128)),
                nn.Sequential(Separable(128, 96, 2)),
            ]
        )
        widths = (64, 96, 128, 96)
        counts = [len(kinds) for _, kinds in LEVELS]
        self.cls_heads = nn.ModuleList(
            Head(w, a * classes) for w, a in zip(widths, counts, strict=True)
        )
        self.box_heads = nn.ModuleList(Head(w, a * 4) for w, a in zip(widths, counts, strict=True))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map images to logits and offsets."""
        scores, offsets = [], []
        x = self.stem(x)
        for stage, cls_head, box_head in zip(self.stages, self.cls_heads, self.box_heads, strict=True):
            x = stage(x)
            cls, box = cls_head(x), box_head(x)
            scores.append(cls.permute(0, 2, 3, 1).reshape(cls.shape[0], -1, self.classes))
            offsets.append(box.permute(0, 2, 3, 1).reshape(box.shape[0], -1, 4))
        return torch.cat(scores, 1), torch.cat(offsets, 1)


class Detector(nn.Module):
    """What is exported: the SSD with its boxes decoded to x0,y0,x1,y1 in pixels."""

    anchors: Tensor

    def __init__(self, ssd: SSD, *, softmax: bool) -> None:
        super().__init__()
        self.ssd = ssd
        self.softmax = softmax
        self.register_buffer("anchors", anchors())

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map images to scores and corners."""
        scores, offsets = self.ssd(images)
        if self.softmax:
            scores = scores.softmax(-1)
        centre = self.anchors[:, :2] + offsets[..., :2] * 0.1 * self.anchors[:, 2:]
        half = self.anchors[:, 2:] * torch.exp(offsets[..., 2:] * 0.2) / 2
        return scores, torch.cat([centre - half, centre + half], -1)


def targets(anchor: Tensor, boxes: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Match objects to anchors: IoU of a half, and every object's best anchor.

    ``boxes`` [N,4 objects,4] corners and ``labels`` [N,4 objects], 0 where there is none, give the
    class of every anchor int64 [N,anchors] (0: background) and its box offsets [N,anchors,4].
    """
    corners = torch.cat([anchor[:, :2] - anchor[:, 2:] / 2, anchor[:, :2] + anchor[:, 2:] / 2], 1)
    box, tile = boxes[:, :, None], corners[None, None]
    sides = torch.minimum(box[..., 2:], tile[..., 2:]) - torch.maximum(box[..., :2], tile[..., :2])
    shared = sides.clamp(min=0).prod(-1)
    iou = shared / (
        (box[..., 2:] - box[..., :2]).prod(-1) + (tile[..., 2:] - tile[..., :2]).prod(-1) - shared
    )
    iou = torch.where(labels[..., None] > 0, iou, -1.0)
    best = iou.argmax(-1)  # [N,objects]
    forced = nn.functional.one_hot(best, anchor.shape[0]) * (labels[..., None] > 0)
    overlap, chosen = (iou + 2 * forced).max(1)  # [N,anchors]
    classes = torch.where(overlap >= 0.5, labels.gather(1, chosen), 0)
    picked = boxes.gather(1, chosen[..., None].expand(-1, -1, 4))
    centre, extent = (picked[..., :2] + picked[..., 2:]) / 2, picked[..., 2:] - picked[..., :2]
    moved = (centre - anchor[:, :2]) / anchor[:, 2:] / 0.1
    grown = (extent.clamp(min=1) / anchor[:, 2:]).log() / 0.2
    return classes, torch.cat([moved, grown], -1)


def loss(scores: Tensor, offsets: Tensor, classes: Tensor, wanted: Tensor) -> Tensor:
    """Cross entropy over objects and the three times as many hardest negatives, and smooth L1."""
    positive = classes > 0
    entropy = nn.functional.cross_entropy(scores.transpose(1, 2), classes, reduction="none")
    hardness = torch.where(positive, -1.0, entropy.detach())
    rank = hardness.argsort(1, descending=True).argsort(1)
    hard = rank < (3 * positive.sum(1, keepdim=True)).clamp(min=3)
    count = positive.sum().clamp(min=1)
    place = nn.functional.smooth_l1_loss(offsets[positive], wanted[positive], reduction="sum")
    return (entropy[positive | hard].sum() + place) / count


def _padded(
    seed: int,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    image, boxes, classes = picture(seed, SIZE)
    missing = MOST - len(classes)
    return image, np.pad(boxes, ((0, missing), (0, 0))), np.pad(classes, (0, missing))


def pictures(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Training pictures: images uint8 [n,3,h,w], boxes [n,4,4] and classes [n,4] padded with 0."""
    images = torch.empty((count, 3, SIZE, SIZE), dtype=torch.uint8)
    boxes, labels = torch.empty((count, MOST, 4)), torch.empty((count, MOST), dtype=torch.int64)
    with multiprocessing.Pool(2) as pool:
        seeds = range(TRAIN_SEED, TRAIN_SEED + count)
        for i, (image, box, label) in enumerate(pool.imap(_padded, seeds, 64)):
            images[i] = torch.from_numpy(image).permute(2, 0, 1)
            boxes[i], labels[i] = torch.from_numpy(box), torch.from_numpy(label)
    return images, boxes, labels


def train(count: int, epochs: int, batch: int = 16, rate: float = 3e-3, seed: int = 0) -> SSD:
    """Train on ``count`` pictures, mirrored at random, with AdamW and one cycle of the rate."""
    torch.manual_seed(seed)
    start = time.time()
    images, boxes, labels = pictures(count)
    print(f"{count} pictures in {time.time() - start:.0f} s", flush=True)
    model = SSD(len(NAMES)).to(memory_format=torch.channels_last)
    anchor = anchors()
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=1e-3)
    steps = count // batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, total_steps=steps * epochs, pct_start=0.15
    )
    start = time.time()
    for epoch in range(epochs):
        model.train()
        total = 0.0
        for some in torch.randperm(count)[: steps * batch].reshape(steps, batch):
            image, box = images[some].float() / 255, boxes[some]
            if torch.rand(()) < 0.5:
                image, box = image.flip(-1), box.clone()
                box[..., [0, 2]] = SIZE - box[..., [2, 0]]
            scores, offsets = model(image.contiguous(memory_format=torch.channels_last))
            value = loss(scores, offsets, *targets(anchor, box, labels[some]))
            optimizer.zero_grad()
            value.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            optimizer.step()
            schedule.step()
            total += float(value.detach())
        print(f"epoch {epoch + 1}: loss {total / steps:.3f}, {time.time() - start:.0f} s", flush=True)
    return model.eval()


def export(ssd: SSD, folder: Path) -> None:
    """Write the four exports and hold each against torch in onnxruntime."""
    images = torch.stack([torch.from_numpy(picture(s, SIZE)[0]) for s in range(3)])
    images = images.permute(0, 3, 1, 2).float().contiguous() / 255
    for softmax in (False, True):
        model = Detector(ssd, softmax=softmax).eval()
        for dynamo in (False, True):
            kind = f"{'dynamo' if dynamo else 'ts'}_{'softmax' if softmax else 'raw'}"
            path = folder / f"ssd_shapes_{kind}.onnx"
            if dynamo:
                program = torch.onnx.export(
                    model,
                    (images,),
                    dynamo=True,
                    dynamic_shapes=({0: torch.export.Dim("batch")},),
                    input_names=["images"],
                    output_names=["scores", "boxes"],
                )
                assert program is not None
                proto = program.model_proto
            else:
                torch.onnx.export(
                    model,
                    (images,),
                    path,
                    dynamo=False,
                    opset_version=17,
                    dynamic_axes={name: {0: "batch"} for name in ("images", "scores", "boxes")},
                    input_names=["images"],
                    output_names=["scores", "boxes"],
                )
                proto = onnx.load(path)
            for node in proto.graph.node:  # stack traces hold the exporting machine's paths
                kept = [p for p in node.metadata_props if p.key != "pkg.torch.onnx.stack_trace"]
                del node.metadata_props[:]
                node.metadata_props.extend(kept)
            del proto.metadata_props[:]
            if softmax:  # as Ultralytics writes them: no background
                names = str(dict(enumerate(NAMES[1:])))
                onnx.helper.set_model_props(proto, {"names": names})
            onnx.checker.check_model(proto, full_check=True)
            onnx.save(proto, path)
            session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            for some in (images, images[:1]):
                with torch.no_grad():
                    expected = model(some)
                for want, got in zip(
                    expected, session.run(None, {"images": some.numpy()}), strict=True
                ):
                    np.testing.assert_allclose(got, want.numpy(), rtol=1e-3, atol=1e-3)
                    print(f"{path.name} {got.shape}: off by {np.abs(got - want.numpy()).max():.1e}")


def main() -> None:
    """Train, export, write the names and print the accuracy on held-out pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=6000)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--folder", type=Path, default=HERE)
    parser.add_argument("--weights", type=Path, help="state_dict to save to, or to export from")
    parser.add_argument("--threads", type=int, default=1, help="of torch; one is best if shared")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.weights and options.weights.exists():
        ssd = SSD(len(NAMES))
        ssd.load_state_dict(torch.load(options.weights))
        ssd.eval()
    else:
        ssd = train(options.pictures, options.epochs)
        if options.weights:
            torch.save(ssd.state_dict(), options.weights)
    export(ssd, options.folder)
    (options.folder / "names.txt").write_text("\n".join(NAMES) + "\n")
    result = evaluate(options.folder / "ssd_shapes_ts_softmax.onnx", range(500), NAMES)
    for name, value in result.items():
        print(f"{name}: {value:.3f}")
    print(f"mean: {np.mean(list(result.values())):.3f}")


if __name__ == "__main__":
    main()
