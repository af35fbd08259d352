"""Small networks with the heads of the YOLO family, and what may follow them in a graph.

The backbones are tiny; the heads and what follows them are laid out as the real exports are.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn

SIDE = 256
STRIDES = [8, 16, 32]
WIDTHS = [32, 64, 96]


def block(inside: int, outside: int, stride: int = 1) -> nn.Sequential:
    """Build a convolution with its batch normalization already folded in, and SiLU."""
    return nn.Sequential(nn.Conv2d(inside, outside, 3, stride, 1), nn.SiLU())


def cells(side: int, stride: int) -> Tensor:
    """Centres of the cells of a map, in cells: ``[2, cells]``."""
    axis = torch.arange(side // stride) + 0.5
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([x, y]).reshape(2, -1)


class Backbone(nn.Module):
    """Three maps, of strides 8, 16 and 32."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(block(3, 16, 2), block(16, 24, 2), block(24, WIDTHS[0], 2))
        self.down = nn.ModuleList(block(a, b, 2) for a, b in itertools.pairwise(WIDTHS))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images to maps."""
        maps = [self.stem(images)]
        for down in self.down:
            maps.append(down(maps[-1]))
        return maps


class V8(nn.Module):
    """Separate box and class branches; distances as distributions: ``[N, 4 + C, cells]``.

    The hidden layers of the class branch are 80 wide, whatever the number of classes.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.backbone, self.classes, self.bins = Backbone(), classes, 16
        self.cv2 = nn.ModuleList(nn.Sequential(block(w, 64), nn.Conv2d(64, 64, 1)) for w in WIDTHS)
        self.cv3 = nn.ModuleList(
            nn.Sequential(block(w, 80), block(80, 80), nn.Conv2d(80, classes, 1)) for w in WIDTHS
        )
        self.register_buffer("project", torch.arange(16.0)[None, :, None, None])
        self.register_buffer("anchors", torch.cat([cells(SIDE, s) for s in STRIDES], 1))
        steps = [torch.full((1, (SIDE // s) ** 2), float(s)) for s in STRIDES]
        self.register_buffer("strides", torch.cat(steps, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Boxes (cx, cy, w, h) and class scores."""
        levels = zip(self.backbone(images), self.cv2, self.cv3, strict=True)
        maps = [torch.cat([box(x), score(x)], 1) for x, box, score in levels]
        joined = torch.cat([x.view(x.shape[0], self.classes + 64, -1) for x in maps], 2)
        box, scores = joined.split((64, self.classes), 1)
        bins = box.view(box.shape[0], 4, self.bins, -1).transpose(1, 2).softmax(1)
        left_top, right_bottom = (bins * self.project).sum(1).chunk(2, 1)
        start, end = self.anchors - left_top, self.anchors + right_bottom
        boxes = torch.cat([(start + end) / 2, end - start], 1) * self.strides
        return torch.cat([boxes, scores.sigmoid()], 1)


class V5(nn.Module):
    """One convolution of 3 * (5 + C) channels a level, with objectness: ``[N, boxes, 5 + C]``."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.backbone, self.width = Backbone(), 5 + classes
        self.m = nn.ModuleList(nn.Conv2d(w, 3 * self.width, 1) for w in WIDTHS)
        self.register_buffer("sizes", torch.tensor([[10, 13], [16, 30], [33, 23]]).float())

    def forward(self, images: Tensor) -> Tensor:
        """Boxes (cx, cy, w, h), objectness and class scores."""
        found = []
        for x, head, stride in zip(self.backbone(images), self.m, STRIDES, strict=True):
            batch, _, height, width = (y := head(x)).shape
            y = y.view(batch, 3, self.width, height, width).permute(0, 1, 3, 4, 2).sigmoid()
            grid = cells(SIDE, stride).T.reshape(1, 1, height, width, 2) - 1
            sizes = (self.sizes * stride / 8).view(1, 3, 1, 1, 2)
            xy, wh, rest = y.split((2, 2, self.width - 4), 4)
            y = torch.cat(((xy * 2 + grid) * stride, (wh * 2) ** 2 * sizes, rest), 4)
            found.append(y.view(batch, -1, self.width))
        return torch.cat(found, 1)


class X(nn.Module):
    """Decoupled branches joined as box, objectness, classes, undecoded: ``[N, cells, 5 + C]``."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.stems = nn.ModuleList(block(w, 64) for w in WIDTHS)
        self.cls_preds = nn.ModuleList(
            nn.Sequential(block(64, 64), nn.Conv2d(64, classes, 1)) for _ in WIDTHS
        )
        self.reg_preds = nn.ModuleList(nn.Conv2d(64, 4, 1) for _ in WIDTHS)
        self.obj_preds = nn.ModuleList(nn.Conv2d(64, 1, 1) for _ in WIDTHS)

    def forward(self, images: Tensor) -> Tensor:
        """Box, objectness and class scores."""
        found = []
        branches = zip(
            self.backbone(images),
            self.stems,
            self.reg_preds,
            self.obj_preds,
            self.cls_preds,
            strict=True,
        )
        for x, stem, reg, obj, cls in branches:
            y = stem(x)
            found.append(torch.cat([reg(y), obj(y).sigmoid(), cls(y).sigmoid()], 1).flatten(2))
        return torch.cat(found, 2).permute(0, 2, 1)


class OnnxNms(torch.autograd.Function):
    """ONNX' own suppression, class by class: rows of (batch, class, box)."""

    @staticmethod
    def forward(_: Any, boxes: Tensor, scores: Tensor) -> Tensor:
        """Make something of the right shape, for the trace."""
        return torch.zeros((5 + 0 * len(boxes), 3), dtype=torch.int64) + 0 * scores[0, 0, 0].long()

    @staticmethod
    def symbolic(g: Any, boxes: Any, scores: Any) -> Any:
        """Write the node that is meant."""
        limit, iou, least = (
            g.op("Constant", value_t=torch.tensor([value])) for value in (20, 0.45, 0.25)
        )
        return g.op("NonMaxSuppression", boxes, scores, limit, iou, least)


def corners(boxes: Tensor) -> Tensor:
    """(cx, cy, w, h) to (x1, y1, x2, y2)."""
    centre, size = boxes.split((2, 2), -1)
    return torch.cat([centre - size / 2, centre + size / 2], -1)


class WithNms(nn.Module):
    """Suppression by class in the graph; rows of (batch, box, class, score)."""

    def __init__(self, net: V8 | V5) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        """Images to detections."""
        out = self.net(images)
        if isinstance(self.net, V8):
            boxes, scores = out.transpose(1, 2).split((4, self.net.classes), 2)
        else:
            boxes, scores = out[..., :4], out[..., 5:] * out[..., 4:5]
        boxes, scores = corners(boxes), scores.transpose(1, 2)
        batch, label, place = OnnxNms.apply(boxes, scores).unbind(1)
        parts = [
            batch[:, None],
            boxes[batch, place],
            label[:, None],
            scores[batch, label, place][:, None],
        ]
        return torch.cat([p.float() for p in parts], 1)


class WithOffsets(nn.Module):
    """The best class of each box; boxes moved apart by class, then one suppression."""

    def __init__(self, net: V8 | V5) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Turn the only image into boxes, scores and labels."""
        out = self.net(images)[0]
        if isinstance(self.net, V8):
            out = out.T
            boxes, scores = out[:, :4], out[:, 4:]
        else:
            boxes, scores = out[:, :4], out[:, 5:] * out[:, 4:5]
        best, labels = scores.max(1)
        sure = best > 0.25
        boxes, best, labels = corners(boxes[sure]), best[sure], labels[sure]
        kept = torch.ops.torchvision.nms(boxes + labels[:, None].float() * 4096, best, 0.45)[:100]
        return boxes[kept], best[kept], labels[kept]


class EndToEnd(nn.Module):
    """No suppression: the best of all (box, class) scores, twice top-k: ``[N, 100, 6]``."""

    def __init__(self, net: V8) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        """Images to rows of (box, score, class)."""
        classes, most = self.net.classes, 100
        boxes, scores = self.net(images).transpose(1, 2).split((4, classes), 2)
        place = scores.amax(2).topk(most)[1][..., None]
        boxes, scores = (
            boxes.gather(1, place.repeat(1, 1, 4)),
            scores.gather(1, place.repeat(1, 1, classes)),
        )
        best, index = scores.flatten(1).topk(most)
        boxes = boxes.gather(1, (index // classes)[..., None].repeat(1, 1, 4))
        label = (index % classes)[..., None].float()
        return torch.cat([corners(boxes), best[..., None], label], 2)
