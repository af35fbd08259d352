"""Feeds: what the model declares is what it gets, whatever it declares."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper, parser
from PIL import Image

from onnx_headcut.errors import InputError, UsageError
from onnx_headcut.validation.arrays import from_npz
from onnx_headcut.validation.image_inputs import image_input
from onnx_headcut.validation.preprocess import PRESETS, default_for, from_images, parse
from onnx_headcut.validation.synthetic import synthetic

if TYPE_CHECKING:
    from pathlib import Path

FLOAT_IMAGE = "float[1,3,8,6] x"
CONSTANT = "c = Constant <value = float"
QUANTIZE = (
    f"{CONSTANT} {{0.0078125}}> () z = Constant <value = uint8 {{128}}> () y = QuantizeLinear(x, c, z)"
)


def graph(inputs: str, body: str = "y = Identity(x)") -> onnx.ModelProto:
    head = '<ir_version: 8, opset_import: ["": 17]>'
    return parser.parse_model(f"{head} g ({inputs}) => (float y) {{ {body} }}")


def dims_of(model: onnx.ModelProto) -> dict[str, list[Any]]:
    return {
        value.name: [dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim]
        for value in model.graph.input
    }


side = st.one_of(st.integers(5, 40), st.sampled_from(["S", "H", "W", ""]))


@settings(deadline=None, max_examples=50)  # large pictures take their time
@given(
    batch=st.sampled_from([1, 2, "N", ""]),
    sides=st.tuples(side, side),
    channels=st.sampled_from([1, 3, 4]),
    first=st.booleans(),
    elem=st.sampled_from(["FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE", "UINT8", "INT8"]),
    count=st.integers(1, 6),
)
def test_every_feed_has_the_declared_types_shapes_and_one_value_per_dim_param(
    *,
    batch: int | str,
    sides: tuple[int | str, int | str],
    channels: int,
    first: bool,
    elem: str,
    count: int,
) -> None:
    dims = [batch, channels, *sides] if first else [batch, *sides, channels]
    kind = TensorProto.DataType.Value(elem)
    values = [
        helper.make_tensor_value_info("x", kind, [dim or None for dim in dims]),
        helper.make_tensor_value_info("orig_target_sizes", TensorProto.INT64, ["N", 2]),
        helper.make_tensor_value_info("iou_threshold", TensorProto.FLOAT, []),
    ]
    model = helper.make_model(helper.make_graph([], "g", values, []))
    feeds = synthetic(model, count=count, seed=5)
    again = synthetic(model, count=count, seed=5)
    assert len(feeds) == count
    assert len({feed.name for feed in feeds}) == count
    assert not feeds[0].may_fail
    for named, same in zip(feeds, again, strict=True):
        bound: dict[str, int] = {}
        for name, declared in dims_of(model).items():
            array = named.feed[name]
            assert array.tobytes() == same.feed[name].tobytes()
            for extent, dim in zip(array.shape, declared, strict=True):
                if dim != "":
                    known = bound.setdefault(dim, extent) if isinstance(dim, str) else dim
                    assert extent == known
        x = named.feed["x"]
        assert x.dtype == helper.tensor_dtype_to_np_dtype(kind)
        assert x.astype(np.float64).std() > 0
        width, height = (x.shape[3], x.shape[2]) if first else (x.shape[2], x.shape[1])
        assert (named.feed["orig_target_sizes"] == [width, height]).all()
        assert named.feed["iou_threshold"] == np.float32(0.5)


def test_dynamic_batch_and_size_are_both_tried_and_marked() -> None:
    feeds = synthetic(graph("float[N,3,H,W] x"))
    shapes = [feed.feed["x"].shape for feed in feeds]
    assert shapes == [(1, 3, 320, 320)] * 2 + [(2, 3, 320, 320), (1, 3, 256, 384)]
    assert [feed.may_fail for feed in feeds] == [False, False, True, True]
    assert "shapes, 1x3x256x384" in feeds[-1].name


@pytest.mark.parametrize(
    ("body", "low", "high"),
    [
        ("c = Constant <value = float {255.0}> () y = Div(x, c)", 0, 255),
        (f"t = Transpose <perm = [0,2,3,1]> (x) {CONSTANT} {{0.0039}}> () y = Mul(t, c)", 0, 255),
        ("c = Constant <value = float {0.485}> () y = Sub(x, c)", 0, 1),
        ("c = Constant <value = float[3,1,1] {123.7, 116.3, 103.5}> () y = Sub(x, c)", 0, 255),
        # A step that says nothing does not hide the one behind it.
        (f"{CONSTANT} {{127.5}}> () z = Sub(c, c) s = Sub(x, z) y = Div(s, c)", 0, 255),
        (QUANTIZE, -1, 0.9921875),
    ],
)  # fmt: skip
def test_the_range_is_what_the_graph_expects(body: str, low: float, high: float) -> None:
    model = graph("float[1,3,32,32] x", body)
    image = image_input(model)
    assert image is not None
    assert (image.low, image.high) == (low, high)
    noise = synthetic(model, count=1)[0].feed["x"]
    assert low <= noise.min() < low + 0.1 * (high - low)
    assert high >= noise.max() > high - 0.1 * (high - low)


def test_where_nothing_tells_the_range_noise_is_as_wide_as_normalised_pictures() -> None:
    model = graph("float[1,3,32,32] x", "y = Relu(x)")
    image = image_input(model)
    assert image is not None
    assert (image.low, image.high, image.told) == (0, 1, False)
    noise, blobs = (named.feed["x"] for named in synthetic(model, count=2))
    assert -2.1 <= noise.min() < -2
    assert 2.6 >= noise.max() > 2.5
    assert 0 <= blobs.min() < blobs.max() <= 1


@pytest.mark.parametrize(
    ("body", "axes"),
    [
        (
            "t = Transpose <perm = [0,3,1,2]> (x) y = Relu(t)",
            ("batch", "height", "width", "channel"),
        ),
        ("y = Conv(x, w)", ("batch", "channel", "height", "width")),
    ],
)
def test_the_layout_of_wholly_dynamic_inputs_comes_from_the_graph(
    body: str, axes: tuple[str, ...]
) -> None:
    model = graph("float[a,b,c,d] x", body)
    model.graph.initializer.append(numpy_helper.from_array(np.ones((2, 3, 1, 1), "f4"), "w"))
    image = image_input(model)
    assert image is not None
    assert (image.axes, image.channels) == (axes, 3)


def test_inputs_without_batch_and_listed_initializers() -> None:
    model = graph("float[3,5,7] x, float[3] w")
    model.graph.initializer.append(numpy_helper.from_array(np.ones(3, "f4"), "w"))
    (named,) = synthetic(model, count=1)
    assert {name: array.shape for name, array in named.feed.items()} == {"x": (3, 5, 7)}


def test_shapes_can_be_given_and_must_fit() -> None:
    model = graph("float[N,3,H,W] x")
    feeds = synthetic(model, shapes={"x": [2, 3, 64, 96]})
    usual, others = feeds[:2], feeds[2:]
    assert {feed.feed["x"].shape for feed in usual} == {(2, 3, 64, 96)}
    # what the model leaves open is moved all the same: a cut may be right in the example alone
    assert [feed.feed["x"].shape for feed in others] == [(3, 3, 64, 96), (2, 3, 32, 128)]
    assert all(feed.may_fail for feed in others)
    assert not any(feed.may_fail for feed in usual)
    for wrong in ({"x": [2, 4, 64, 96]}, {"x": [2, 3]}, {"z": [1]}):
        with pytest.raises(UsageError):
            synthetic(model, shapes=wrong)


def test_an_input_of_unknown_rank_is_left_to_the_user() -> None:
    model = graph(FLOAT_IMAGE)
    model.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(UsageError, match="--input"):
        synthetic(model)


# ------------------------------------------------------------------ arrays


def test_all_ways_to_write_several_samples_are_read_alike(tmp_path: Path) -> None:
    model = graph(f"{FLOAT_IMAGE}, float t")
    arrays = np.random.default_rng(0).random((3, 1, 3, 8, 6), np.float32)
    threshold = np.float32(0.25)
    ways: list[dict[str, Any]] = [
        {"x": arrays},
        {"x": arrays[:, 0]},
        {f"x/{index}": array for index, array in enumerate(arrays)},
        {"x": arrays, "t/0": threshold, "t/1": threshold, "t/2": threshold},
    ]
    for index, way in enumerate(ways):
        path = tmp_path / f"{index}.npz"
        np.savez(path, **({"t": threshold} | way if index < 3 else way))
        feeds = from_npz(path, model)
        assert [feed.name for feed in feeds] == [f"{index}.npz {sample}" for sample in range(3)]
        for feed, array in zip(feeds, arrays, strict=True):
            assert (feed.feed["x"] == array).all()
            assert feed.feed["t"] == threshold


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**32 - 1))
def test_what_synthetic_makes_from_npz_takes(seed: int, tmp_path_factory: Any) -> None:
    model = graph("bfloat16[1,3,4,H] x, int64[N,2] orig_target_sizes")
    (named,) = synthetic(model, count=1, seed=seed)
    path = tmp_path_factory.mktemp("npz") / "a.npz"
    np.savez(
        path,
        x=named.feed["x"].astype(np.float32),
        orig_target_sizes=named.feed["orig_target_sizes"],
    )
    (read,) = from_npz(path, model)
    assert read.feed["x"].tobytes() == named.feed["x"].tobytes()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((1, 3, 8, 6))}, "float64"),
        ({"x": np.zeros((1, 8, 6, 3), "f4")}, "1x8x6x3"),
        ({"y": np.zeros((1, 3, 8, 6), "f4")}, "nothing for input"),
        ({"x": np.zeros((1, 3, 8, 6), "f4"), "xx": np.zeros(1)}, "do you mean 'x'"),
        ({"x": np.array([{}], object)}, "plain arrays"),
    ],
)
def test_arrays_that_are_not_the_models_are_refused(
    arrays: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, **arrays)
    with pytest.raises(InputError, match=message) as caught:
        from_npz(path, graph(FLOAT_IMAGE))
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"text", None])
def test_files_that_are_not_numpys_are_refused(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError):
        from_npz(path, graph(FLOAT_IMAGE))


def test_samples_must_agree_in_number(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((3, 3, 8, 6), "f4"), t=np.zeros((2,), "f4"))
    with pytest.raises(InputError, match="2 samples"):
        from_npz(tmp_path / "a.npz", graph(f"{FLOAT_IMAGE}, float t"))


# ------------------------------------------------------------------ pictures


def picture(path: Path, colour: tuple[int, int, int] = (200, 100, 50), **save: Any) -> Path:
    Image.new("RGB", (12, 6), colour).save(path, **save)
    return path


@pytest.mark.parametrize("preset", sorted(set(PRESETS) - {"int8"}))
@pytest.mark.parametrize("layout", ["1,3,6,12", "1,6,12,3"])
def test_a_picture_of_one_colour_shows_the_arithmetic(preset: str, layout: str, tmp_path: Path) -> None:
    chosen = parse(preset)
    (named,) = from_images([picture(tmp_path / "a.png")], graph(f"float[{layout}] x"), chosen)
    x = named.feed["x"].transpose(0, 2, 3, 1) if layout == "1,3,6,12" else named.feed["x"]
    colour = np.array([200, 100, 50][:: -1 if chosen.order == "bgr" else 1])
    want = (colour * chosen.scale - chosen.mean) / chosen.std
    assert x.dtype == np.float32
    assert np.allclose(x, want, atol=1e-5)
    assert named.name == "a.png"


def test_settings_say_the_same_as_presets() -> None:
    long = parse("mean=0.485,0.456,0.406; std=.229,.224,.225")
    assert replace(long, name="imagenet") == parse("imagenet")
    mixed = parse("imagenet;order=bgr;size=64x32;letterbox=114;align=topleft;layout=nchw")
    assert (mixed.order, mixed.size, mixed.resize, mixed.pad) == ("bgr", (64, 32), "letterbox", 114)
    assert parse("scale=1/255") == replace(parse("unit"), name="scale=1/255")
    assert parse("mean=123.7,116.3,103.5;std=58.4,57.1,57.4").scale == 1


@pytest.mark.parametrize(
    "text",
    ["", "imagnet", "mean=a", "std=0", "std=1,2", "scale=1/0", "scale=nan", "order=gbr", "men=1",
     "letterbox=300", "size=0", "size=axb", "dtype=float31", "imagenet;unit"],
)  # fmt: skip
def test_a_specification_that_is_not_understood_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="Presets"):
        parse(text)


def test_letterbox_keeps_the_ratio_and_pads(tmp_path: Path) -> None:
    model = graph("uint8[1,12,12,3] x")
    path = picture(tmp_path / "a.png", (255, 255, 255))
    for align, top in (("center", 3), ("topleft", 0)):
        x = from_images([path], model, parse(f"letterbox=114;align={align}"))[0].feed["x"]
        rows = x[0, :, 0, 0]
        assert (rows == [114] * top + [255] * 6 + [114] * (6 - top)).all()


def test_orientation_is_applied_and_sizes_are_those_of_the_upright_picture(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter
    path = picture(tmp_path / "a.png", exif=exif)
    sizes = "int64[N,2] orig_target_sizes, float[N,2] im_shape, float[N,2] scale_factor"
    feed = from_images([path], graph(f"uint8[N,H,W,3] x, {sizes}"), parse("uint8;size=3x24"))[0].feed
    assert feed["x"].shape == (1, 24, 3, 3)
    assert feed["orig_target_sizes"].tolist() == [[6, 12]]
    assert feed["im_shape"].tolist() == [[24, 3]]
    assert feed["scale_factor"].tolist() == [[2, 0.5]]


@pytest.mark.parametrize(
    ("inputs", "body", "name"),
    [
        ("uint8[1,8,8,3] x", "y = Cast <to = 1> (x)", "uint8"),
        ("int8[1,8,8,3] x", "y = Cast <to = 1> (x)", "int8"),
        (FLOAT_IMAGE, "y = Relu(x)", "unit"),
        (FLOAT_IMAGE, "c = Constant <value = float {255.0}> () y = Div(x, c)", "uint8"),
    ],
)
def test_without_a_specification_the_model_gives_evidence(
    inputs: str, body: str, name: str, tmp_path: Path
) -> None:
    model = graph(inputs, body)
    assert default_for(model).name == name
    assert len(from_images([picture(tmp_path / "a.png")], model)) == 1


def test_one_preset_for_a_model_in_float_and_in_integers(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png")
    whole = from_images([path], graph("uint8[1,6,12,3] x"), parse("ssd_mobilenet"))[0].feed["x"]
    assert whole[0, 0, 0].tolist() == [200, 100, 50]


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ("uint8[1,8,8,3] x", "imagenet"),
        ("float[1,3,8,8] x", "size=9"),
        ("float[1,3,8,8] x", "resize=none"),
        ("float[1,1,8,8] x", "imagenet"),
        ("float[1,16,8,8] x", "unit"),
        ("float[1,3,8,8] x", "unit;dtype=float64"),
        ("float[1,3,8,8] x", "unit;layout=nhwc"),
        ("float[1,3] x", "unit"),
    ],
)
def test_preprocessing_that_does_not_suit_the_model_is_refused(
    inputs: str, text: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError):
        from_images([picture(tmp_path / "a.png")], graph(inputs), parse(text))


@pytest.mark.parametrize("content", [b"", b"GIF89a cut off", b"text", None])
def test_files_that_are_no_pictures_are_refused(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.png"):
        from_images([path], graph(FLOAT_IMAGE))
