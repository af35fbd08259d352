"""What a model is fed with: seeded synthetic inputs, or the user's own arrays.

A *feed* maps the name of each graph input to an array of its declared dtype and shape. Initializers
that are listed as graph inputs too (IR version 3, some exporters still do it) are not inputs.
"""

from __future__ import annotations

import difflib
import zipfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnx_headcut.errors import InputError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

Array = npt.NDArray[Any]
Feed = dict[str, Array]

AxisName = Literal["batch", "height", "width", "channel"]
Pattern = Literal["noise", "blobs", "shapes", "grey"]
_PATTERNS: tuple[Pattern, ...] = ("noise", "blobs", "shapes", "grey")

_BASE_SIZE = 320  # of images whose size is dynamic: a multiple of every usual stride
_OTHER_SIZE = {"height": 256, "width": 384}  # of one feed more, and not square
_OTHER_BATCH = 2
_PER_IMAGE = ("target_size", "orig", "im_shape", "image_shape", "scale_factor", "im_info")
_RAW = (0.0, 255.0)
_UNIT = (0.0, 1.0)


@dataclass(frozen=True)
class NamedFeed:
    """One feed and what to call it in reports (no folder names).

    ``may_fail``: dimensions that the model declares dynamic were moved away from the first feed's.
    Many exporters declare dimensions dynamic that the graph behind cannot take: an original that
    refuses such a feed is no fault of a cut, and the feed is to be skipped.
    """

    name: str
    feed: Feed
    may_fail: bool = False


@dataclass(frozen=True)
class InputSpec:
    """A graph input: ``dims`` holds an int per static axis, a dim_param or "" per dynamic one."""

    name: str
    elem_type: int
    dims: tuple[int | str, ...]

    @property
    def dtype(self) -> np.dtype[Any]:
        """The numpy dtype of its elements (bfloat16 is ml_dtypes' where onnx knows that)."""
        return np.dtype(helper.tensor_dtype_to_np_dtype(self.elem_type))

    @property
    def text(self) -> str:
        """Name, dtype and shape as messages give them, such as ``images uint8[N,300,300,3]``."""
        dims = ",".join(str(dim) if dim != "" else "?" for dim in self.dims)
        return f"{self.name} {self.dtype}[{dims}]"


@dataclass(frozen=True)
class ImageInput:
    """The graph input that takes pictures: its axes, channel count and range of values."""

    spec: InputSpec
    axes: tuple[AxisName, ...]
    channels: int
    low: float
    high: float

    def size(self, axis: AxisName) -> int | None:
        """Return the static extent of an axis; None where it is dynamic or absent."""
        if axis not in self.axes:
            return None
        dim = self.spec.dims[self.axes.index(axis)]
        return dim if isinstance(dim, int) else None

    def from_nhwc(self, pictures: Array) -> Array:
        """Bring ``[N, H, W, C]`` into the input's own layout, without changing values or dtype.

        An input without a batch axis takes the first picture.
        """
        order: tuple[AxisName, ...] = ("batch", "height", "width", "channel")
        if "batch" not in self.axes:
            pictures, order = pictures[0], order[1:]
        return np.ascontiguousarray(pictures.transpose([order.index(axis) for axis in self.axes]))


@dataclass(frozen=True)
class Picture:
    """Sizes in pixels that auxiliary inputs speak of: as fed, and of the picture it came from."""

    batch: int
    height: int
    width: int
    original_height: int
    original_width: int


def input_specs(model: onnx.ModelProto) -> list[InputSpec]:
    """List the graph inputs that a caller has to feed.

    Raises UsageError for an input of unknown rank, and for one that is no tensor of numbers.
    """
    initialized = {tensor.name for tensor in model.graph.initializer}
    initialized |= {tensor.values.name for tensor in model.graph.sparse_initializer}
    return [_spec(value) for value in model.graph.input if value.name not in initialized]


def image_input(model: onnx.ModelProto) -> ImageInput | None:
    """Find the input that takes pictures, with its layout and the range that the graph expects.

    The layout comes from a static dimension of 3, 1 or 4, then from the first Conv or Transpose
    behind the input. None where no input has three or four dimensions.
    """
    specs = input_specs(model)
    consumers = _consumers(model)
    for rank in (4, 3):
        for spec in specs:
            if len(spec.dims) == rank and not _is_auxiliary(spec):
                axes, channels = _layout(model, spec, consumers)
                low, high = _value_range(model, spec, consumers)
                return ImageInput(spec, axes, channels, low, high)
    return None


def synthetic(
    model: onnx.ModelProto,
    *,
    count: int = 4,
    seed: int = 0,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> list[NamedFeed]:
    """Make ``count`` feeds of the declared shapes and dtypes; the same arguments, the same values.

    ``shapes`` sets whole shapes by input name. Dynamic dimensions get one value per dim_param in
    a feed. The last feeds take another batch and another image size where these are dynamic.
    Raises UsageError where a shape cannot be known or ``shapes`` contradicts the model.
    """
    specs = _with_shapes(input_specs(model), shapes or {})
    image = image_input(model)
    if image is not None:
        spec = next(spec for spec in specs if spec.name == image.spec.name)
        image = ImageInput(spec, image.axes, image.channels, image.low, image.high)
    variants = _variants(image, count)
    return [
        _synthetic_feed(specs, image, index, np.random.default_rng([seed, index]), variants[index])
        for index in range(count)
    ]


def from_npz(path: Path, model: onnx.ModelProto) -> list[NamedFeed]:
    """Read feeds from an ``.npz`` with arrays by input name (``.npy`` where there is one input).

    Several samples: keys ``name/0``, ``name/1`` …, or one axis more in front, or a first axis that
    is a multiple of the declared batch. An input that has one sample goes with all samples.
    Raises InputError for a file that is not numpy's, and for names, dtypes and shapes that are not
    the model's. Pickled objects are never loaded.
    """
    specs = input_specs(model)
    arrays = _load_arrays(path, specs)
    samples = {spec.name: _samples(path, spec, arrays) for spec in specs}
    _refuse_strangers(path, specs, arrays)
    count = max((len(found) for found in samples.values()), default=0)
    for name, found in samples.items():
        if len(found) not in (1, count):
            raise InputError(
                f"{path.name}: {len(found)} samples for input {name!r}, {count} for others",
                advice="Give each input one sample, or as many as the others have.",
            )
    return [
        NamedFeed(
            path.name if count == 1 else f"{path.name} {index}",
            {name: found[index if len(found) > 1 else 0] for name, found in samples.items()},
        )
        for index in range(count)
    ]


def auxiliary(spec: InputSpec, picture: Picture) -> Array:
    """Fill an input beside the image: sizes, scale factors, thresholds, masks.

    What an input means is told by its name and type only, as exporters write it:
    ``orig_target_sizes`` is (width, height), Paddle's ``im_shape`` (height, width).
    """
    shape = tuple(_resolve(spec, None, picture, {}))
    name = spec.name.lower()
    if any(word in name for word in _PER_IMAGE) and shape and shape[-1] in (2, 3):
        row = _size_row(name, picture)[: shape[-1]]
        return np.broadcast_to(np.array(row), shape).astype(spec.dtype)
    if "mask" in name and spec.dtype != np.bool_:
        return np.ones(shape, spec.dtype)  # pixel_mask: every pixel is real
    if np.prod(shape, dtype=int) == 1:
        return np.full(shape, _scalar(name, spec.dtype), spec.dtype)
    if spec.dtype == np.bool_:
        return np.zeros(shape, spec.dtype)  # a padding mask: nothing is padded
    rng = np.random.default_rng(0)
    if np.issubdtype(spec.dtype, np.integer):
        return np.ones(shape, spec.dtype)
    return rng.random(shape).astype(spec.dtype)


# ------------------------------------------------------------------ what the model declares


def _spec(value: onnx.ValueInfoProto) -> InputSpec:
    kind = value.type.WhichOneof("value")
    tensor = value.type.tensor_type
    if kind != "tensor_type" or tensor.elem_type in (TensorProto.UNDEFINED, TensorProto.STRING):
        raise UsageError(
            f"input {value.name!r} is not a tensor of numbers ({kind or 'no type'})",
            advice="Validation cannot feed such a model: export it with tensor inputs.",
        )
    if not tensor.HasField("shape"):
        raise UsageError(
            f"the model does not say how many dimensions input {value.name!r} has",
            advice="Pass arrays of your own with --input FILE.npz.",
        )
    return InputSpec(value.name, tensor.elem_type, tuple(_dim(dim) for dim in tensor.shape.dim))


def _dim(dim: onnx.TensorShapeProto.Dimension) -> int | str:
    # Some exporters write 0 or -1 for "any".
    return dim.dim_value if dim.dim_value > 0 else dim.dim_param


def _is_auxiliary(spec: InputSpec) -> bool:
    return spec.dtype in (np.bool_, np.int64) or "mask" in spec.name.lower()


def _with_shapes(
    specs: Sequence[InputSpec], shapes: Mapping[str, Sequence[int]]
) -> list[InputSpec]:
    known = {spec.name: spec for spec in specs}
    for name, shape in shapes.items():
        if name not in known:
            raise UsageError(
                f"a shape is given for {name!r}, which is no input", advice=_offer(specs)
            )
        dims = known[name].dims
        if len(shape) != len(dims) or any(
            given < 1 or (isinstance(dim, int) and dim != given)
            for given, dim in zip(shape, dims, strict=False)
        ):
            text = "x".join(map(str, shape))
            raise UsageError(f"shape {text} does not fit input {known[name].text}")
        known[name] = InputSpec(name, known[name].elem_type, tuple(int(dim) for dim in shape))
    return list(known.values())


def _offer(specs: Sequence[InputSpec]) -> str:
    return f"The model's inputs are {', '.join(spec.text for spec in specs) or 'none'}."


# ------------------------------------------------------------------ what the graph expects

_MOVES = {"Concat", "Flatten", "Gather", "Reshape", "Slice", "Split", "Squeeze", "Unsqueeze"}
_KEEPS_VALUES = frozenset(_MOVES | {"Cast", "Identity", "Pad", "Resize", "Transpose", "Upsample"})


def _consumers(model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            found.setdefault(name, []).append(node)
    return found


def _behind(
    name: str, consumers: Mapping[str, Sequence[onnx.NodeProto]], passing: frozenset[str]
) -> Iterator[tuple[onnx.NodeProto, str]]:
    """Walk the nodes next behind a value, and through those that are in ``passing``."""
    queue, seen = [name], {name}
    while queue and len(seen) < 64:  # the stem of a network; no more is meant here
        value = queue.pop(0)
        for node in consumers.get(value, ()):
            yield node, value
            if node.op_type in passing:
                fresh = [out for out in node.output if out not in seen]
                queue += fresh
                seen.update(fresh)


def _constant(model: onnx.ModelProto, name: str) -> npt.NDArray[np.float64] | None:
    """Return a small constant of the main graph; None for anything else."""
    tensors = [tensor for tensor in model.graph.initializer if tensor.name == name]
    for node in model.graph.node:
        if node.op_type == "Constant" and name in node.output:
            tensors += [attr.t for attr in node.attribute if attr.name == "value"]
    if not tensors or tensors[0].data_location == TensorProto.EXTERNAL:
        return None
    value = numpy_helper.to_array(tensors[0]) if np.prod(tensors[0].dims) <= 64 else np.zeros(0)
    return value.astype(np.float64) if value.size else None


def _value_range(
    model: onnx.ModelProto, spec: InputSpec, consumers: Mapping[str, Sequence[onnx.NodeProto]]
) -> tuple[float, float]:
    """Guess the values that an image input takes: by dtype, then by the arithmetic behind it."""
    if spec.dtype == np.int8:
        return -128.0, 127.0
    if np.issubdtype(spec.dtype, np.integer):
        return _RAW
    passing = _KEEPS_VALUES | {"Add", "Sub", "Mul", "Div"}
    for node, value in _behind(spec.name, consumers, passing):
        if node.op_type not in _KEEPS_VALUES:
            found = _evidence(model, node, value)
            if found is not None:
                return found
    return _UNIT


def _evidence(
    model: onnx.ModelProto, node: onnx.NodeProto, value: str
) -> tuple[float, float] | None:
    """Say what range a node tells of; None where it tells nothing (a sum with 0, a Conv)."""
    if node.op_type == "QuantizeLinear":
        return _quantized_range(model, node)
    others = [name for name in node.input if name != value]
    if node.op_type == "BatchNormalization" and len(node.input) >= 5:
        others = [node.input[3]]
    operand = _constant(model, others[0]) if others else None
    if operand is None:
        return None
    size = float(np.abs(operand).max())
    match node.op_type:
        # Means of pixel values are about 100 in 0..255 and 0.5 in 0..1; deviations 58 and 0.2.
        case "Sub" | "Add" | "BatchNormalization" if size > 0:
            return _RAW if size > 2 else _UNIT
        case "Div" if size != 1:
            return _RAW if size >= 16 else _UNIT
        case "Mul" if size != 1:
            return _RAW if size <= 1 / 16 else _UNIT
    return None


def _quantized_range(model: onnx.ModelProto, node: onnx.NodeProto) -> tuple[float, float] | None:
    """Say what an 8-bit QuantizeLinear with one scale can hold: more would be clipped."""
    constants = [_constant(model, name) for name in node.input[1:]]
    if len(constants) != 2 or any(value is None or value.size != 1 for value in constants):
        return None
    scale, zero = (float(value.flat[0]) for value in constants if value is not None)
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    lowest = -128 if types.get(node.input[2]) == TensorProto.INT8 else 0
    return (lowest - zero) * scale, (lowest + 255 - zero) * scale


def _layout(
    model: onnx.ModelProto, spec: InputSpec, consumers: Mapping[str, Sequence[onnx.NodeProto]]
) -> tuple[tuple[AxisName, ...], int]:
    first: tuple[AxisName, ...] = ("channel", "height", "width")
    last: tuple[AxisName, ...] = ("height", "width", "channel")
    batch: tuple[AxisName, ...] = ("batch",) if len(spec.dims) == 4 else ()
    front, back = spec.dims[len(batch)], spec.dims[-1]
    for channels in (3, 1, 4):
        for axes, dim in ((first, front), (last, back)):
            if dim == channels:
                return batch + axes, channels
    for node, _ in _behind(spec.name, consumers, _KEEPS_VALUES - {"Transpose"}):
        perm = [list(attr.ints) for attr in node.attribute if attr.name == "perm"]
        if node.op_type == "Transpose" and perm == [[0, 3, 1, 2]]:
            return batch + last, back if isinstance(back, int) else 3
        if node.op_type == "Conv":
            return batch + first, front if isinstance(front, int) else _conv_channels(model, node)
    if isinstance(back, int) and (not isinstance(front, int) or back < front):
        return batch + last, back
    if isinstance(front, int):
        return batch + first, front
    return batch + (last if spec.dtype == np.uint8 else first), 3


def _conv_channels(model: onnx.ModelProto, node: onnx.NodeProto) -> int:
    group = next((attr.i for attr in node.attribute if attr.name == "group"), 1)
    weights = [tensor for tensor in model.graph.initializer if tensor.name == node.input[1]]
    return int(weights[0].dims[1] * group) if weights else 3


# ------------------------------------------------------------------ synthetic values


def _variants(image: ImageInput | None, count: int) -> list[tuple[AxisName, ...]]:
    """Say for each feed which dynamic axes of the image move away from their usual extent."""
    groups: list[tuple[AxisName, ...]] = [("batch",), ("height", "width")]
    moved = [
        group
        for group in groups
        if image is not None
        and any(axis in image.axes and image.size(axis) is None for axis in group)
    ][: max(count - 1, 0)]
    return [()] * (count - len(moved)) + moved


def _usual(image: ImageInput, axis: AxisName) -> int:
    """Choose the extent of a dynamic axis: a square picture where one side is known."""
    if axis == "batch":
        return 1
    if axis == "channel":
        return image.channels
    return image.size("width" if axis == "height" else "height") or _BASE_SIZE


def _resolve(
    spec: InputSpec,
    extents: Mapping[AxisName, int] | None,
    picture: Picture,
    bound: dict[str, int],
    axes: Sequence[AxisName] = (),
) -> Iterator[int]:
    """Give each axis an extent, the same for the same dim_param: ``bound`` remembers them."""
    rank = len(spec.dims)
    for index, dim in enumerate(spec.dims):
        if isinstance(dim, int):
            yield dim
            continue
        if extents is not None and axes:
            guess = extents[axes[index]]
        elif index == 0:
            guess = picture.batch
        elif rank >= 3 and index >= rank - 2:
            guess = picture.height if index == rank - 2 else picture.width
        else:
            guess = 1
        yield bound.setdefault(dim, guess) if dim else guess


def _synthetic_feed(
    specs: Sequence[InputSpec],
    image: ImageInput | None,
    index: int,
    rng: np.random.Generator,
    moved: tuple[AxisName, ...],
) -> NamedFeed:
    bound: dict[str, int] = {}
    feed: Feed = {}
    picture = Picture(1, _BASE_SIZE, _BASE_SIZE, _BASE_SIZE, _BASE_SIZE)
    pattern = "shapes" if moved else _PATTERNS[index % len(_PATTERNS)]
    if image is not None:
        extents = {axis: _usual(image, axis) for axis in image.axes}
        extents |= {axis: _OTHER_SIZE.get(axis, _OTHER_BATCH) for axis in moved}
        shape = tuple(_resolve(image.spec, extents, picture, bound, image.axes))
        sizes = dict(zip(image.axes, shape, strict=True))
        height, width = sizes["height"], sizes["width"]
        picture = Picture(sizes.get("batch", 1), height, width, height, width)
        values = _paint(pattern, rng, (picture.batch, height, width, sizes["channel"]))
        values = image.low + (image.high - image.low) * values
        feed[image.spec.name] = image.from_nhwc(as_dtype(values, image.spec.dtype))
    for spec in specs:
        if spec.name in feed:
            continue
        dims = tuple(_resolve(spec, None, picture, bound))
        known = InputSpec(spec.name, spec.elem_type, dims)
        plain = image is None and np.issubdtype(spec.dtype, np.floating) and np.prod(dims) > 1
        feed[spec.name] = (
            rng.random(dims).astype(spec.dtype) if plain else auxiliary(known, picture)
        )
    # Only what is fed as an image is worth naming; other inputs follow from it.
    main = feed[image.spec.name] if image is not None else next(iter(feed.values()), np.zeros(0))
    shown = "x".join(map(str, main.shape)) or "scalar"
    label = pattern if image is not None else "noise"
    return NamedFeed(f"synthetic {index} ({label}, {shown})", feed, may_fail=bool(moved))


def as_dtype(values: Array, dtype: np.dtype[Any]) -> Array:
    """Convert to a dtype; integers are rounded and clipped, never wrapped."""
    if np.issubdtype(dtype, np.integer):
        info = np.iinfo(dtype)
        return np.clip(np.rint(values), info.min, info.max).astype(dtype)
    return values.astype(dtype)


def _paint(pattern: Pattern, rng: np.random.Generator, shape: tuple[int, int, int, int]) -> Array:
    """Draw pictures ``[N, H, W, C]``, float64 in 0..1."""
    painters: dict[Pattern, Callable[[np.random.Generator, tuple[int, int, int, int]], Array]] = {
        "noise": lambda rng, shape: rng.random(shape),
        "blobs": _blobs,
        "shapes": _shapes,
        "grey": lambda rng, shape: np.clip(rng.normal(rng.random(), 0.05, shape), 0, 1),
    }
    return painters[pattern](rng, shape)


def _blobs(rng: np.random.Generator, shape: tuple[int, int, int, int]) -> Array:
    """Sum smooth noise of several scales: large soft forms and some detail, as pictures have."""
    batch, height, width, channels = shape
    total = np.zeros(shape)
    for cells in (2, 4, 8, 16):
        coarse = rng.random((batch, cells + 1, cells + 1, channels))
        total += _stretch(_stretch(coarse, height, 1), width, 2) / cells
    low, high = total.min(), total.max()
    scaled: Array = (total - low) / max(high - low, 1e-9)
    return scaled


def _stretch(values: Array, extent: int, axis: int) -> Array:
    """Interpolate linearly along one axis to ``extent`` positions."""
    place = np.linspace(0, values.shape[axis] - 1, extent)
    left = np.minimum(place.astype(int), values.shape[axis] - 2)
    weight = (place - left).reshape([-1 if index == axis else 1 for index in range(values.ndim)])
    mixed: Array = values.take(left, axis) * (1 - weight) + values.take(left + 1, axis) * weight
    return mixed


def _shapes(rng: np.random.Generator, shape: tuple[int, int, int, int]) -> Array:
    """Draw rectangles and discs of one colour each on a gradient: edges that detectors react to."""
    _, height, width, channels = shape
    rows, columns = np.linspace(0, 1, height)[:, None], np.linspace(0, 1, width)[None, :]
    canvas = np.empty(shape)
    for picture in canvas:
        ends = rng.random((2, channels))
        picture[:] = ends[0] + (ends[1] - ends[0]) * (rows + columns)[..., None] / 2
        for _ in range(12):
            (y, x), size, colour = rng.random(2), rng.uniform(0.03, 0.25), rng.random(channels)
            away = np.abs(rows - y), np.abs(columns - x)
            inside = np.hypot(*away) < size if rng.random() < 0.5 else np.maximum(*away) < size
            picture[inside] = colour
    return canvas


def _size_row(name: str, picture: Picture) -> tuple[float, ...]:
    """Give what one picture's row of a size input says, the usual third column included."""
    height, width = picture.height, picture.width
    scale = height / picture.original_height, width / picture.original_width
    if "scale_factor" in name:
        return (*scale, 1.0)
    if "im_info" in name:
        return height, width, scale[0]
    if "orig" in name or "target" in name:
        return picture.original_width, picture.original_height, 1.0
    return height, width, 1.0


def _scalar(name: str, dtype: np.dtype[Any]) -> float:
    """Guess a lone number: a threshold low enough to leave detections, a limit high enough."""
    if dtype == np.bool_:
        return 0  # "training" and its like
    if np.issubdtype(dtype, np.integer):
        return 100 if any(word in name for word in ("max", "top", "num", "detections")) else 1
    return 0.05 if "score" in name or "conf" in name else 0.5


# ------------------------------------------------------------------ the user's arrays


@dataclass
class _Arrays:
    """Arrays of a file by key, and which of them were taken."""

    found: dict[str, Array]
    taken: set[str] = field(default_factory=set)


def _load_arrays(path: Path, specs: Sequence[InputSpec]) -> _Arrays:
    try:
        # numpy leaves a file of its own open where the zip inside is broken
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                found = {"arr_0": loaded}
            else:
                found = {key: loaded[key] for key in loaded.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        reason = getattr(error, "strerror", None) or "not an .npz file of plain arrays"
        raise InputError(
            f"{path.name}: {reason}",
            advice=f"Write it with numpy.savez(FILE, name=array). {_offer(specs)}",
        ) from error
    if len(specs) == 1 and list(found) == ["arr_0"]:
        found = {specs[0].name: found["arr_0"]}  # an unnamed array can only mean the one input
    return _Arrays(found)


def _samples(path: Path, spec: InputSpec, arrays: _Arrays) -> list[Array]:
    prefix = f"{spec.name}/"
    numbered = [
        key for key in arrays.found if key.startswith(prefix) and key[len(prefix) :].isdigit()
    ]
    keys = sorted(numbered, key=lambda key: int(key[len(prefix) :]))
    if spec.name in arrays.found:
        keys = [spec.name]
    if not keys:
        raise InputError(
            f"{path.name}: nothing for input {spec.text}",
            advice=f"The file holds {', '.join(map(repr, arrays.found)) or 'no arrays'}.",
        )
    arrays.taken.update(keys)
    return [sample for key in keys for sample in _split(path, spec, arrays.found[key])]


def _split(path: Path, spec: InputSpec, array: Array) -> list[Array]:
    """Cut an array into samples of the declared shape, or refuse it."""
    widened = spec.elem_type in (TensorProto.BFLOAT16, *_FLOAT8) and array.dtype == np.float32
    if widened:
        array = array.astype(spec.dtype)  # numpy's files cannot hold these types
    if array.dtype != spec.dtype:
        raise InputError(
            f"{path.name}: {array.dtype} for input {spec.text}",
            advice=f"Convert it with array.astype({str(spec.dtype)!r}), if that is what it means.",
        )
    if _fits(array.shape, spec.dims):
        return [array]
    if _fits(array.shape[1:], spec.dims) and len(array):
        return list(array)
    batch = spec.dims[0] if spec.dims else ""
    rest = isinstance(batch, int) and _fits(array.shape[1:], spec.dims[1:]) and len(array) > 0
    if isinstance(batch, int) and rest and len(array) % batch == 0:
        return np.split(array, len(array) // batch)
    shape = "x".join(map(str, array.shape)) or "scalar"
    raise InputError(f"{path.name}: shape {shape} does not fit input {spec.text}")


_FLOAT8 = tuple(value for name, value in TensorProto.DataType.items() if name.startswith("FLOAT8"))


def _fits(shape: Sequence[int], dims: Sequence[int | str]) -> bool:
    return len(shape) == len(dims) and all(
        given == dim if isinstance(dim, int) else given > 0
        for given, dim in zip(shape, dims, strict=True)
    )


def _refuse_strangers(path: Path, specs: Sequence[InputSpec], arrays: _Arrays) -> None:
    """Refuse keys that no input took: a misspelled name must not pass unnoticed."""
    for key in arrays.found.keys() - arrays.taken:
        near = difflib.get_close_matches(key.split("/")[0], [spec.name for spec in specs], 1)
        hint = f" (do you mean {near[0]!r}?)" if near else ""
        raise InputError(
            f"{path.name}: {key!r} is no input of the model{hint}", advice=_offer(specs)
        )
