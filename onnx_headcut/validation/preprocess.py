"""From picture files to feeds: the preprocessing that a detector was trained with.

The arithmetic, for a pixel ``x`` in 0..255 after resizing and channel order::

    y = (x * scale - mean) / std

``mean`` and ``std`` are in the order of the model's channels: for BGR, blue comes first.
Pillow is imported only where a picture is read.
"""

from __future__ import annotations

import difflib
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np

from onnx_headcut.errors import InputError, UsageError
from onnx_headcut.validation.auxiliary import Picture, auxiliary
from onnx_headcut.validation.image_inputs import ImageInput, image_input
from onnx_headcut.validation.inputs import Array, NamedFeed, input_specs
from onnx_headcut.validation.synthetic import as_dtype

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import onnx
    from PIL import Image

Layout = Literal["auto", "nchw", "nhwc"]
Order = Literal["rgb", "bgr"]
Resize = Literal["stretch", "letterbox", "none"]
Align = Literal["center", "topleft"]

_LONGEST = 640  # of a picture for a model that takes any size: more only costs time
_STRIDE = 32
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


@dataclass(frozen=True)
class Preprocess:
    """How a picture becomes an input; ``name`` is what to call it in reports.

    ``mean`` and ``std`` have one value for all channels or one per channel. ``size`` is
    (width, height) in pixels; without it the model's own static size, or for a model of dynamic
    size the picture's, limited and rounded. ``dtype``, where given, must be the input's.
    ``raw_if_integer``: an input of an integer type gets plain pixels, for a graph that holds the
    arithmetic itself.
    """

    name: str = "custom"
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    scale: float = 1.0
    layout: Layout = "auto"
    order: Order = "rgb"
    resize: Resize = "stretch"
    pad: int = 0
    align: Align = "center"
    size: tuple[int, int] | None = None
    dtype: str = ""
    raw_if_integer: bool = False


_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_IMAGENET = Preprocess("imagenet", _MEAN, _STD, scale=1 / 255)
_UNIT = Preprocess("unit", scale=1 / 255)
_RAW = Preprocess("uint8")
_TF = Preprocess("tf", (127.5,), (127.5,))
_CAFFE = Preprocess("caffe", (103.939, 116.779, 123.68), order="bgr")
_YOLO = Preprocess("yolo", scale=1 / 255, resize="letterbox", pad=114)

PRESETS: dict[str, Preprocess] = {
    "imagenet": _IMAGENET,
    "torchvision": _IMAGENET,
    "unit": _UNIT,
    "uint8": _RAW,
    "raw": _RAW,
    "int8": Preprocess("int8", (128.0,)),
    "tf": _TF,
    "inception": _TF,
    "caffe": _CAFFE,
    "vgg": _CAFFE,
    "yolo": _YOLO,
    "ultralytics": _YOLO,
    "yolox": Preprocess("yolox", order="bgr", resize="letterbox", pad=114, align="topleft"),
    "nanodet": Preprocess("nanodet", (103.53, 116.28, 123.675), (57.375, 57.12, 58.395), order="bgr"),
    "detr": replace(_IMAGENET, name="detr"),
    "rtdetr": replace(_UNIT, name="rtdetr"),
    "ssd_mobilenet": replace(_TF, name="ssd_mobilenet", raw_if_integer=True),
}


def parse(text: str) -> Preprocess:
    """Read a preset's name, ``key=value`` settings, or a preset and settings, split by ``;``.

    Keys: mean, std (one value or one per channel), scale (a number, ``1/255`` too), layout
    (auto|nchw|nhwc), order (rgb|bgr), resize (stretch|letterbox|none), letterbox (the pad value),
    pad, align (center|topleft), size (``WIDTHxHEIGHT`` or one number), dtype. Without a scale,
    means and deviations all within 0..1 are those of pixels in 0..1, and the scale is 1/255.
    Raises UsageError for anything else.
    """
    parts = [part.strip() for part in text.split(";") if part.strip()]
    base = Preprocess(name=text.strip())
    if parts and "=" not in parts[0]:
        base = replace(_preset(parts.pop(0)), name=text.strip())
    elif not parts:
        raise UsageError("--preprocess is empty", advice=_known())
    settings: dict[str, Any] = {}
    for part in parts:
        settings |= _setting(part)
    if "scale" not in settings and ("mean" in settings or "std" in settings):
        values = (*settings.get("mean", ()), *settings.get("std", ()))
        if all(0 <= value <= 1 for value in values) and any(0 < value < 1 for value in values):
            settings["scale"] = 1 / 255
    return replace(base, **settings)


def default_for(model: onnx.ModelProto) -> Preprocess:
    """Choose where nothing is said: plain pixels where dtype or graph tell of them, else 0..1.

    Raises UsageError for a model without an image input.
    """
    image = _image(model)
    if np.issubdtype(image.spec.dtype, np.integer):
        chosen = PRESETS["int8"] if image.low < 0 else _RAW
    elif image.low < -0.25:  # a quantizer behind the input that holds -1..1, say
        deviation = 255 / (image.high - image.low)
        chosen = Preprocess("range", (-image.low * deviation,), (deviation,))
    else:
        chosen = _RAW if image.high > 16 else _UNIT
    return chosen


def from_images(
    paths: Sequence[Path], model: onnx.ModelProto, preprocess: Preprocess | None = None
) -> list[NamedFeed]:
    """Read pictures and make one feed of each, named after its file.

    EXIF orientation is applied. Inputs beside the image (sizes, scale factors, thresholds) are
    filled to match. A static batch above one gets the same picture in every place.
    Raises InputError for a file that is no readable picture, UsageError where the preprocessing
    does not suit the model's input.
    """
    chosen = preprocess or default_for(model)
    image = _lay_out(_image(model), chosen)
    if chosen.raw_if_integer and np.issubdtype(image.spec.dtype, np.integer):
        chosen = replace(chosen, mean=(0.0,), std=(1.0,), scale=1.0)
    _check(image, chosen)
    others = [spec for spec in input_specs(model) if spec.name != image.spec.name]
    assumed = "" if preprocess else chosen.name
    feeds = []
    for path in paths:
        pixels, picture = _pixels(path, image, chosen)
        pixels = np.repeat(_arithmetic(pixels, chosen)[None], picture.batch, axis=0)
        feed = {image.spec.name: image.from_nhwc(as_dtype(pixels, image.spec.dtype))}
        feed |= {spec.name: auxiliary(spec, picture) for spec in others}
        feeds.append(NamedFeed(path.name, feed, assumed=assumed))
    return feeds


# ------------------------------------------------------------------ reading the specification


def _known() -> str:
    return (
        f"Presets: {', '.join(PRESETS)}. Keys: {', '.join(_KEYS)}; "
        "such as 'imagenet', or 'mean=123.7,116.3,103.5;std=58.4,57.1,57.4;order=bgr;letterbox=114'"
        "."
    )


def _nearest(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, 1)
    return f" (do you mean {near[0]!r}?)" if near else ""


def _preset(name: str) -> Preprocess:
    found = PRESETS.get(name.lower().replace("-", "_"))
    if found is None:
        hint = _nearest(name, list(PRESETS))
        raise UsageError(f"no preprocessing is called {name!r}{hint}", advice=_known())
    return found


def _setting(part: str) -> dict[str, Any]:
    key, _, value = (piece.strip().lower() for piece in part.partition("="))
    if key not in _KEYS:
        raise UsageError(f"preprocessing has no {key!r}{_nearest(key, list(_KEYS))}", advice=_known())
    try:
        return _KEYS[key](value)
    except (ValueError, ZeroDivisionError, TypeError) as error:
        raise UsageError(f"preprocessing cannot take {part!r}", advice=_known()) from error


def _number(text: str) -> float:
    over, _, under = text.partition("/")
    value = float(over) / float(under or 1)
    if not np.isfinite(value):
        raise ValueError(text)
    return value


def _numbers(text: str) -> tuple[float, ...]:
    values = tuple(_number(part) for part in text.split(","))
    if len(values) not in _MODES:
        raise ValueError(text)
    return values


def _deviations(text: str) -> tuple[float, ...]:
    values = _numbers(text)
    if 0 in values:
        raise ValueError(text)
    return values


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    size = int(width), int(height or width)
    if min(size) < 1:
        raise ValueError(text)
    return size


def _byte(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 255:
        raise ValueError(text)
    return value


def _one_of(key: str, kind: object) -> Callable[[str], dict[str, Any]]:
    def read(text: str) -> dict[str, Any]:
        if text not in get_args(kind):
            raise ValueError(text)
        return {key: text}

    return read


_KEYS: dict[str, Callable[[str], dict[str, Any]]] = {
    "mean": lambda text: {"mean": _numbers(text)},
    "std": lambda text: {"std": _deviations(text)},
    "scale": lambda text: {"scale": _number(text)},
    "layout": _one_of("layout", Layout),
    "order": _one_of("order", Order),
    "resize": _one_of("resize", Resize),
    "letterbox": lambda text: {"resize": "letterbox", "pad": _byte(text)},
    "pad": lambda text: {"pad": _byte(text)},
    "align": _one_of("align", Align),
    "size": lambda text: {"size": _size(text)},
    "dtype": lambda text: {"dtype": np.dtype(text).name},
}


# ------------------------------------------------------------------ fitting it to the model


def _image(model: onnx.ModelProto) -> ImageInput:
    image = image_input(model)
    if image is None:
        raise UsageError(
            "the model has no input that looks like a picture",
            advice="Pass arrays of your own with --input FILE.npz.",
        )
    return image


def _lay_out(image: ImageInput, chosen: Preprocess) -> ImageInput:
    """Take the layout that is asked for, where the declared dimensions leave it open."""
    if chosen.layout == "auto" or len(image.axes) != 4:
        return image
    axes = ("batch", "height", "width", "channel")
    if chosen.layout == "nchw":
        axes = ("batch", "channel", "height", "width")
    channels = image.spec.dims[axes.index("channel")]
    return replace(
        image,
        axes=cast("Any", axes),
        channels=channels if isinstance(channels, int) else image.channels,
    )


def _check(image: ImageInput, chosen: Preprocess) -> None:
    """Refuse what cannot be meant: values that the dtype does not hold, other channel counts."""
    spec, channels = image.spec, image.channels
    if channels not in _MODES:
        raise UsageError(
            f"input {spec.text} has {channels} channels in layout {'/'.join(image.axes)}",
            advice="Pictures give 1, 3 or 4. Set layout=nchw or layout=nhwc, or pass --input.",
        )
    for key, values in (("mean", chosen.mean), ("std", chosen.std)):
        if len(values) not in (1, channels):
            raise UsageError(f"{key} has {len(values)} values, input {spec.text} {channels} channels")
    if chosen.dtype and np.dtype(chosen.dtype) != spec.dtype:
        raise UsageError(f"dtype={chosen.dtype} does not fit input {spec.text}")
    ends = _arithmetic(np.array([[[0.0] * channels, [255.0] * channels]]), chosen)
    if np.issubdtype(spec.dtype, np.integer):
        info = np.iinfo(spec.dtype)
        if ends.min() < info.min or ends.max() > info.max or np.ptp(ends) < 16:
            raise UsageError(
                f"preprocessing {chosen.name!r} gives {ends.min():g} to {ends.max():g},"
                f" which input {spec.text} cannot hold",
                advice="Such a model takes plain pixels: --preprocess uint8.",
            )
    _target(image, chosen, (1, 1))


def _target(image: ImageInput, chosen: Preprocess, original: tuple[int, int]) -> tuple[int, int]:
    """Decide (width, height) of what is fed, from the model, the setting and the picture."""
    width, height = image.size("width"), image.size("height")
    if chosen.size is not None:
        given_width, given_height = chosen.size
        if width not in (None, given_width) or height not in (None, given_height):
            raise UsageError(f"size={given_width}x{given_height} does not fit input {image.spec.text}")
        return chosen.size
    if chosen.resize == "none":
        return original
    shrink = min(1.0, _LONGEST / max(original))
    free = [max(_STRIDE, round(side * shrink / _STRIDE) * _STRIDE) for side in original]
    return width or free[0], height or free[1]


# ------------------------------------------------------------------ pictures


def _open(path: Path, mode: str) -> Image.Image:
    from PIL import Image, ImageOps  # noqa: PLC0415  (only where a picture is read)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            file = Image.open(path)
        with file:
            if file.mode.startswith(("I", "F")):
                raise InputError(f"{path.name}: not a picture of 8 bits per channel")
            upright = ImageOps.exif_transpose(file)
            return upright.convert(mode)
    except Image.DecompressionBombError as error:
        raise InputError(f"{path.name}: more pixels than Pillow reads") from error
    except (OSError, ValueError, SyntaxError) as error:
        reason = getattr(error, "strerror", None) or "not a picture that Pillow can read"
        raise InputError(f"{path.name}: {reason}") from error


def _pixels(path: Path, image: ImageInput, chosen: Preprocess) -> tuple[Array, Picture]:
    """Read and resize one picture: uint8 ``[H, W, C]`` in the channel order that is asked for."""
    from PIL import Image  # noqa: PLC0415

    source = _open(path, _MODES[image.channels])
    width, height = _target(image, chosen, source.size)
    if chosen.resize == "none" and (
        image.size("width") not in (None, source.width)
        or image.size("height") not in (None, source.height)
    ):
        raise UsageError(
            f"{path.name} is {source.width}x{source.height}, which input {image.spec.text} does not"
            " take with resize=none"
        )
    scaled = (width, height)
    if chosen.resize == "letterbox":
        ratio = min(width / source.width, height / source.height)
        scaled = (max(1, round(source.width * ratio)), max(1, round(source.height * ratio)))
    # "none" keeps every pixel; a stated size that is the picture's own is no resizing either.
    if scaled != source.size and chosen.resize != "none":
        resized = source.resize(scaled, Image.Resampling.BILINEAR)
    else:
        resized, scaled = source, source.size
    pixels = np.asarray(resized).reshape(scaled[1], scaled[0], image.channels)
    if chosen.resize == "letterbox":
        pixels = _letterbox(pixels, (height, width), chosen)
    if chosen.order == "bgr" and image.channels >= 3:
        pixels = pixels[..., [2, 1, 0, *range(3, image.channels)]]
    batch = image.size("batch") or 1
    return pixels, Picture(batch, *pixels.shape[:2], source.height, source.width)


def _letterbox(pixels: Array, target: tuple[int, int], chosen: Preprocess) -> Array:
    """Place a picture on a plain ground of ``target`` (height, width)."""
    canvas = np.full((*target, pixels.shape[2]), chosen.pad, np.uint8)
    room = [whole - part for whole, part in zip(target, pixels.shape[:2], strict=True)]
    top, left = (0, 0) if chosen.align == "topleft" else (room[0] // 2, room[1] // 2)
    canvas[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return canvas


def _arithmetic(pixels: Array, chosen: Preprocess) -> Array:
    """Compute ``(x * scale - mean) / std`` in float64, channels last."""
    result: Array = (pixels.astype(np.float64) * chosen.scale - chosen.mean) / chosen.std
    return result
