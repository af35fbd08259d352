"""What the scripts that export from PyTorch share.

Import it before torchvision: there is no build of torchvision for the CPU alone in every registry,
and nothing here needs its compiled operators beyond two that are traced, so plain ones stand in.
"""

# ruff: noqa: E402 - torchvision can be imported once the operators are declared
# ruff: noqa: SLF001 - as much as torchvision hides and the exporter asks for
from __future__ import annotations

import io
import re
import sys
import warnings
from typing import TYPE_CHECKING

import onnx
import torch
from onnx import ModelProto
from torch import Tensor, nn

warnings.filterwarnings("ignore")

LIBRARY = torch.library.Library("torchvision", "FRAGMENT")
for schema in (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    (
        "roi_align(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, "
        "SymInt pooled_width, int sampling_ratio, bool aligned) -> Tensor"
    ),
):
    LIBRARY.define(schema)

import torchvision
from torchvision.ops import boxes as box_ops
from torchvision.ops._register_onnx_ops import _register_custom_op

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

roi_ops = sys.modules["torchvision.ops.roi_align"]  # its parent holds a function of the same name
VERSIONS = f"torch {torch.__version__.split('+')[0]}, torchvision {torchvision.__version__}"


def _nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    order, kept = scores.argsort(descending=True, stable=True)[:1000], []  # enough for a trace
    while len(order):
        kept.append(order[0])
        overlap = box_ops.box_iou(boxes[order[:1]], boxes[order])[0]
        overlap[0] = 1  # a box without an area overlaps not even itself
        order = order[overlap <= iou_threshold]
    return torch.stack(kept) if kept else order


def _has_ops() -> bool:  # compiled by torch.jit, so no lambda
    return True


def _assert_has_ops() -> None:
    return


LIBRARY.impl("nms", _nms, "CPU")
LIBRARY.impl("roi_align", roi_ops._roi_align.__wrapped__, "CPU")
for module in (box_ops, roi_ops):
    vars(module).update(_has_ops=_has_ops, _assert_has_ops=_assert_has_ops)
_register_custom_op()


def liven(
    model: nn.Module,
    run: Callable[[], object],
    scores: str,
    prior: float = 0.0,
    spread: float = 2.0,
) -> None:
    """Random weights that do not die out: every layer's outputs get a spread of one.

    Every filter sums to zero. Otherwise what is common to all places grows from layer to layer,
    and a deep random network ends with the same scores everywhere.

    The layers that ``scores`` matches are the classifiers: theirs spread by ``spread`` around
    ``prior``, and every class has its own bias, so that one taken from the wrong class shows.
    """

    def scale(name: str) -> Callable[[nn.Module, object, Tensor], Tensor]:
        def hook(layer: nn.Conv2d, _: object, out: Tensor) -> Tensor:
            if id(layer) in seen:
                return out
            seen.add(id(layer))
            is_score = re.search(scores, name)
            factor = (spread if is_score else 1.0) / out.std().clamp_min(1e-6)
            layer.weight.data *= factor
            out = out * factor
            if is_score and layer.bias is not None:
                layer.bias.data = torch.randn_like(layer.bias) * 0.5 + prior
                out = out + prior
            return out

        return hook

    seen: set[int] = set()
    layers = (nn.Conv2d, nn.Linear, nn.ConvTranspose2d)
    for layer in model.modules():
        if isinstance(layer, layers) and layer.weight[0].numel() > 1:
            dims = tuple(range(1, layer.weight.ndim))
            layer.weight.data -= layer.weight.data.double().mean(dims, keepdim=True).float()
    handles = [
        layer.register_forward_hook(scale(name))
        for name, layer in model.named_modules()
        if isinstance(layer, layers)
    ]
    with torch.no_grad():
        run()
    for handle in handles:
        handle.remove()


def share(
    many: nn.Module,
    native: nn.Module,
    columns: Sequence[int],
    classes: int,
    inner: Mapping[str, int] | None = None,
) -> None:
    """Copy all weights; where sizes differ, take ``columns`` of every anchor.

    The channels form a grid: (anchor, class), or (class, ``inner``) for tensors whose name matches
    one of ``inner``, such as four box coordinates for each class.
    """
    source = many.state_dict()
    taken = {}
    for name, tensor in native.state_dict().items():
        weights = source[name]
        if weights.shape != tensor.shape:
            size = next((n for key, n in (inner or {}).items() if re.search(key, name)), 1)
            axis = next(i for i, n in enumerate(weights.shape) if n != tensor.shape[i])
            grid = torch.arange(weights.shape[axis]).reshape(-1, classes, size)
            weights = weights.index_select(axis, grid[:, list(columns)].reshape(-1))
        taken[name] = weights
    native.load_state_dict(taken)


def torchscript(
    model: nn.Module,
    args: tuple[object, ...],
    opset: int,
    outputs: Sequence[str],
    dynamic: Mapping[str, Mapping[int, str]] | None = None,
    inputs: Sequence[str] = ("images",),
) -> ModelProto:
    """Export by tracing."""
    buffer = io.BytesIO()
    torch.onnx.export(
        model.eval(),
        args,
        buffer,
        dynamo=False,
        opset_version=opset,
        input_names=list(inputs),
        output_names=list(outputs),
        dynamic_axes=dynamic,
    )
    return onnx.load_from_string(buffer.getvalue())


def dynamo(
    model: nn.Module,
    args: tuple[Tensor, ...],
    opset: int,
    outputs: Sequence[str],
    dynamic: tuple[object, ...] | None = None,
    inputs: Sequence[str] = ("images",),
) -> ModelProto:
    """Export by torch.export and onnxscript."""
    program = torch.onnx.export(
        model.eval(),
        args,
        dynamo=True,
        opset_version=opset,
        input_names=list(inputs),
        output_names=list(outputs),
        dynamic_shapes=dynamic,
        verbose=False,
    )
    assert program is not None
    return program.model_proto
