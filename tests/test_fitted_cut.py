"""Cuts with a fitted background: what is written, what validation catches, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import Done, from_text, tiny
from onnx import numpy_helper
from PIL import Image

import onnx_headcut as hc
from models.shapes.pictures import NAMES, picture
from onnx_headcut.classes import Given
from onnx_headcut.errors import GraphRefused, UsageError
from onnx_headcut.fitting import calibration
from onnx_headcut.validation.inputs import NamedFeed
from onnx_headcut.validation.runtime import open_session

SHAPES = Path(__file__).parents[1] / "models" / "shapes"
SOURCE = SHAPES / "ssd_shapes_ts_softmax.onnx"
KEEP = ["stop sign", "heart", "star", "lightning"]
COLUMNS = [NAMES.index(name) for name in KEEP]


def shown(first: int, count: int) -> np.ndarray[Any, np.dtype[Any]]:
    images = np.stack([picture(first + k)[0] for k in range(count)])
    return images.transpose(0, 3, 1, 2).astype(np.float32) / 255


@pytest.fixture(scope="module")
def calibration_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "shapes.npz"
    np.savez(path, images=shown(10_000, 24))
    return path


@pytest.fixture(scope="module")
def fitted(calibration_file: Path) -> hc.Cut:
    return hc.cut(SOURCE, KEEP, fit_background=hc.Feeds(calibration_file), provider="cpu")


def scores_of(model: onnx.ModelProto) -> np.ndarray[Any, np.dtype[Any]]:
    scores = open_session(model, provider="cpu").run({"images": shown(500, 30)})["scores"]
    return np.asarray(scores)


# ------------------------------------------------------------------ the shipped detector


def test_kept_scores_come_nearer_to_the_original_s(fitted: hc.Cut) -> None:
    assert fitted.verdict
    assert fitted.fit is not None
    plain = hc.cut(SOURCE, KEEP, validation=False).model
    true = scores_of(onnx.load(SOURCE))[..., COLUMNS]
    off = [np.square(scores_of(m)[..., 1:] - true).mean() ** 0.5 for m in (plain, fitted.model)]
    assert off[1] < 0.9 * off[0]
    assert fitted.fit.after.rms < fitted.fit.before.rms
    assert fitted.after.parameters == hc.cut(SOURCE, KEEP, validation=False).after.parameters


def test_kept_rows_are_the_original_s_bit_for_bit(fitted: hc.Cut) -> None:
    before, after = (
        {t.name: numpy_helper.to_array(t) for t in m.graph.initializer}
        for m in (onnx.load(SOURCE), fitted.model)
    )
    changed = [n for n in after if n in before and "predict" in n and before[n].shape != after[n].shape]
    assert len(changed) == 8
    for name in changed:
        old = before[name].reshape(-1, len(NAMES), *before[name].shape[1:])
        new = after[name].reshape(-1, 1 + len(KEEP), *after[name].shape[1:])
        assert np.array_equal(new[:, 1:], old[:, COLUMNS])
        assert not np.array_equal(new[:, 0], old[:, 0])


def test_the_verdict_says_how_near_scores_stay(fitted: hc.Cut) -> None:
    assert fitted.verdict is not None
    said = " ".join(fitted.verdict.notes)
    assert "on 4 of 24 pictures, held out, kept scores" in said
    assert "without the fit" in said


def test_the_metadata_say_what_it_was_fitted_to(fitted: hc.Cut) -> None:
    props = {p.key: p.value for p in fitted.model.metadata_props}
    record = json.loads(props["onnx_headcut.fitted"])
    assert (record["pictures"], record["held_out"]) == (24, 4)
    assert len(record["sha256"]) == 64
    again = hc.cut(fitted.model, ["heart"], validation=False).model
    assert "onnx_headcut.fitted" not in {p.key for p in again.metadata_props}


def test_validate_needs_no_pictures(fitted: hc.Cut) -> None:
    assert hc.validate(SOURCE, fitted.model, provider="cpu")


def _swapped(given: Given) -> Given:
    return Given(given.weights[::-1], given.bias[::-1])


MISTAKES = {
    "anchors in another order": _swapped,
    "a bias that is off": lambda g: Given(g.weights, g.bias + 0.5),
    "weights that are not written": lambda g: Given(np.zeros_like(g.weights), g.bias),
    "weights of twice the size": lambda g: Given(2 * g.weights, g.bias),
}


@pytest.mark.parametrize("validation", ["validated", "not validated"])
def test_pictures_without_a_dropped_class_are_inconclusive(validation: str, tmp_path: Path) -> None:
    empty = NamedFeed("grey", {"images": np.full((3, 3, 128, 128), 0.5, np.float32)})
    out = tmp_path / "cut.onnx"
    result = hc.cut(SOURCE, KEEP, out, fit_background=[empty], provider="cpu",
                    validation=validation == "validated")  # fmt: skip
    assert result.exit_code == 1
    assert result.verdict is not None
    assert result.verdict.status == "inconclusive"
    assert "none of them shows a class that is dropped (circle" in result.verdict.reasons[0]
    assert not out.exists()


# ------------------------------------------------------------------ other heads

BIG = "cls0 = Conv <pads = [1, 1, 1, 1]> (level0, cls0_w, cls0_b)"
ROWS = """cls0_last = Transpose <perm = [0, 2, 3, 1]> (cls0)
  cls0_rows = Reshape (cls0_last, to_scores)"""
LAST = "cls0_last = Transpose <perm = [0, 2, 3, 1]>"
BARE = f"""{LAST} (cls0)
  biased = Add (cls0_last, NAME)
  cls0_rows = Reshape (biased, to_scores)"""
PRODUCT = """level0_last = Transpose <perm = [0, 2, 3, 1]> (level0)
  product = MatMul (level0_last, cls0_w)
  cls0_last = Add (product, cls0_b)"""
DEEP = """deep = Conv <pads = [1, 1, 1, 1], group = 8> (level0, deep_w)
  cls0 = Conv (deep, cls0_w, cls0_b)"""
WIDE = "cls0 = Conv <pads = [2, 1, 2, 3], dilations = [2, 2]> (level0, cls0_w, cls0_b)"
SCALED = f"""{LAST} (cls0)
  scaled = Mul (cls0_last, factors)
  cls0_rows = Reshape (scaled, to_scores)"""
INTEGERS = """cls0_f = DequantizeLinear <axis = 0> (cls0_w, cls0_s)
  cls0 = Conv <pads = [1, 1, 1, 1]> (level0, cls0_f, cls0_b)"""
NO_BIAS = (BIG, BIG.replace(", cls0_b", ""))
BIAS, WEIGHT = "float[12] cls0_b,", "float[12,8,3,3] cls0_w"

HEADS = {
    "3x3 convolutions": (),
    "a convolution without a bias": (NO_BIAS,),
    "dilations and uneven pads": ((BIG, WIDE),),
    "a bias that is added behind": (NO_BIAS, (ROWS, BARE.replace("NAME", "cls0_b"))),
    "several biases": (
        (ROWS, BARE.replace("NAME", "more_b")),
        (BIAS, f"{BIAS} float[12] more_b,"),
    ),
    "a matrix product": (
        (BIG, PRODUCT),
        (f"{LAST} (cls0)\n", ""),
        (WEIGHT, "float[8,12] cls0_w"),
    ),
    "a matrix product without a bias": (
        (BIG, PRODUCT.replace("product = ", "cls0_last = ").partition("\n  cls0_last = Add")[0]),
        (f"{LAST} (cls0)\n", ""),
        (WEIGHT, "float[8,12] cls0_w"),
    ),
    "depthwise, then 1x1": (
        (BIG, DEEP),
        (WEIGHT, "float[12,8,1,1] cls0_w, float[8,1,3,3] deep_w"),
    ),
}


def softened(model: onnx.ModelProto, scale: float = 0.05) -> onnx.ModelProto:
    """Weights so small that scores are not all 0 or 1."""
    for tensor in model.graph.initializer:
        if tensor.name.startswith(("cls", "more")) and tensor.name.endswith(("_w", "_b")):
            value = numpy_helper.to_array(tensor) * np.float32(scale)
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    return model


def noise(count: int, seed: int = 0) -> list[NamedFeed]:
    values = np.random.default_rng(seed).normal(size=(count, 3, 32, 32)).astype(np.float32)
    return [NamedFeed("noise", {"images": values})]


@pytest.mark.parametrize("head", HEADS)
def test_every_kind_of_head_is_fitted_and_proved(head: str) -> None:
    model = softened(tiny(*HEADS[head]))
    result = hc.cut(model, ["dog", "fox"], fit_background=noise(12), provider="cpu")
    assert result.verdict, result.verdict
    assert result.fit is not None
    assert result.fit.after.rms < 0.8 * result.fit.before.rms


@pytest.mark.parametrize("mistake", MISTAKES)
def test_validation_catches_another_row_than_the_fitted_one(
    mistake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = calibration.given_rows
    monkeypatch.setattr(
        calibration, "given_rows",
        lambda *args: {k: MISTAKES[mistake](g) for k, g in right(*args).items()},
    )  # fmt: skip
    out = tmp_path / "cut.onnx"
    model = softened(tiny())
    result = hc.cut(model, ["dog", "fox"], out, fit_background=noise(12), provider="cpu")
    assert result.verdict is not None
    assert result.verdict.status == "failed"
    assert "not the one that was fitted" in " ".join(result.verdict.reasons)
    assert not out.exists()


GEMM = """
<ir_version: 8, opset_import: ["": 17]>
regions (float[N,24] features, float[N,4] places) => (float[N,6] scores, float[N,4] boxes)
<float[6,24] cls_w, float[6] cls_b>
{
  logits = Gemm <transB = 1> (features, cls_w, cls_b)
  scores = Softmax <axis = 1> (logits)
  boxes = Identity (places)
}
"""


@pytest.mark.parametrize("gemm", [GEMM, GEMM.replace(", cls_b)", ")").replace(", float[6] cls_b", "")])
def test_a_gemm_of_regions_is_fitted_and_proved(gemm: str) -> None:
    rng = np.random.default_rng(0)
    feed = {"features": rng.normal(size=(200, 24)), "places": rng.normal(size=(200, 4))}
    feeds = [NamedFeed("regions", {k: v.astype(np.float32) for k, v in feed.items()})]
    model = softened(from_text(gemm), 0.3)
    result = hc.cut(model, [2, 5], background=0, fit_background=feeds, provider="cpu")
    assert result.verdict, result.verdict
    assert result.fit is not None
    assert result.fit.after.rms < 0.8 * result.fit.before.rms


def test_the_same_pictures_give_the_same_bytes() -> None:
    model = softened(tiny())
    one, two = (hc.cut(model, "dog, fox", fit_background=noise(12), validation=False) for _ in "ab")
    assert one.model.SerializeToString() == two.model.SerializeToString()


def test_merged_classes_are_no_part_of_what_the_background_stands_for() -> None:
    model = softened(tiny())
    result = hc.cut(model, "pet=cat|dog, fox", fit_background=noise(12), provider="cpu")
    assert result.verdict, result.verdict
    assert result.fit is not None
    assert set(result.fit.shown) == {3, 4}


# ------------------------------------------------------------------ what is refused

SIGMOID = (("Softmax <axis = 2>", "Sigmoid"),)


@pytest.mark.parametrize(
    ("changes", "how", "message"),
    [
        (SIGMOID, {"labels": "none"}, "nothing to fit behind sigmoids"),
        ((), {"background": "none", "labels": "none"}, "no background"),
        ((), {"scores": "exact"}, "exact scores stay what they are"),
        ((), {"keep": "1-5"}, "no class is dropped"),
        ((), {"feeds": noise(1)}, "there is one"),
    ],
)
def test_what_there_is_nothing_to_fit_for_is_wrong_usage(
    changes: tuple[tuple[str, str], ...], how: dict[str, Any], message: str
) -> None:
    model, how = tiny(*changes), dict(how)
    keep, feeds = how.pop("keep", "2,5"), how.pop("feeds", noise(4))
    with pytest.raises(UsageError, match=message):
        hc.cut(model, keep, fit_background=feeds, provider="cpu", **how)


def test_what_stands_between_head_and_softmax_is_refused() -> None:
    model = tiny((ROWS, SCALED), (BIAS, f"{BIAS} float[12] factors,"))
    with pytest.raises(GraphRefused, match="--scores exact"):
        hc.cut(model, "2,5", fit_background=noise(4), provider="cpu")


def test_a_quantized_head_is_refused_with_the_way_out() -> None:
    model = tiny((BIG, INTEGERS), (WEIGHT, "float[12] cls0_s, int8[12,8,3,3] cls0_w"))
    with pytest.raises(GraphRefused, match="--scores exact"):
        hc.cut(model, "2,5", fit_background=noise(4), provider="cpu")


# ------------------------------------------------------------------ the command line


def test_pictures_of_a_folder_fit_a_cut_that_is_written_and_told(
    tmp_path: Path, run_here: Callable[..., Done]
) -> None:
    source, folder, out = tmp_path / "tiny.onnx", tmp_path / "pictures", tmp_path / "few.onnx"
    onnx.save(softened(tiny(), 0.2), source)
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), np.uint8)
    for k, pixel in enumerate(pixels):
        Image.fromarray(pixel).save(folder / f"{k:02}.png")
    asked = ("cut", source, "--keep", "dog,fox", "--provider", "cpu", "--fit-background")
    done = run_here(*asked, folder, "--output", out, "--json")
    assert done.code == 0, done.err
    document = json.loads(done.out)
    assert document["fitted"]["pictures"] == 12
    assert document["validation"]["status"] == "passed"
    assert document["map"]["rows"][0]["start"]["kind"] == "given"
    again = run_here("validate", source, out, "--provider", "cpu")
    assert again.code == 0, again.err
    arrays = tmp_path / "same.npz"
    np.savez(arrays, images=pixels.transpose(0, 3, 1, 2).astype(np.float32) / 255)
    other = run_here(*asked, arrays, "--output", tmp_path / "same.onnx", "--no-validate")
    assert "0 background (fitted)" in other.out
    assert (tmp_path / "same.onnx").read_bytes() == out.read_bytes()


def test_a_recipe_fits_what_the_single_run_fits(tmp_path: Path, run_here: Callable[..., Done]) -> None:
    onnx.save(softened(tiny(), 0.2), tmp_path / "tiny.onnx")
    pixels = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)
    for folder, some in (("street", pixels[:5]), ("ward", pixels[5:])):
        (tmp_path / folder).mkdir()
        for k, pixel in enumerate(some):
            Image.fromarray(pixel).save(tmp_path / folder / f"{k}.png")
    recipe = tmp_path / "headcut.toml"
    recipe.write_text("""
source = "tiny.onnx"
keep = "dog, fox"
validation.provider = "cpu"
[variants.street]
fit_background = "street/*.png"
[variants.ward]
fit_background = ["ward/*.png", "street/0.png"]
[variants.plain]
""")
    done = run_here("cut", "--recipe", recipe, "--json")
    assert done.code == 0, done.out + done.err
    variants = {v["variant"]: v for v in json.loads(done.out)["variants"]}
    fits = [v["fitted"] and v["fitted"]["pictures"] for v in variants.values()]
    assert fits == [5, 4, None]
    pictures = {"street": ["street"], "ward": ["ward", "street/0.png"]}
    for name, given in pictures.items():
        fit = [w for p in given for w in ("--fit-background", tmp_path / p)]
        alone = tmp_path / f"{name}-alone.onnx"
        made = run_here("cut", tmp_path / "tiny.onnx", "--keep", "dog, fox", *fit, "--output", alone,
                        "--provider", "cpu")  # fmt: skip
        assert made.code == 0, made.err
        assert alone.read_bytes() == (tmp_path / f"{name}.onnx").read_bytes()
    policy = tmp_path / "policy.toml"
    policy.write_text('[recipe]\nfile = "headcut.toml"\n[head-dead]\nseverity = "off"')
    again = run_here("check", tmp_path / "street.onnx", "--policy", policy)
    assert again.code == 0, again.out + again.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--fit-background", "missing.png"], "missing.png: no such file or folder"),
        (["--fit-background", "empty"], "empty: no pictures in this folder"),
        (["--fit-background", "text.png"], "text.png"),
        (["--fit-background", "other.npz"], "other.npz: nothing for input images"),
        (["--fit-background", "few.npz", "--scores", "exact"], "exact scores stay what they are"),
        (["--fit-background", "few.npz", "--background", "none"], "has no background"),
    ],
)
def test_bad_calibration_is_wrong_usage(
    arguments: list[str], message: str, model_path: Path, run_here: Callable[..., Done]
) -> None:
    Path("empty").mkdir()
    Path("text.png").write_text("no picture")
    values = np.zeros((2, 3, 32, 32), np.float32)
    np.savez("other.npz", pixels=values)
    np.savez("few.npz", images=values)
    labels = ["--labels", "none"] if "none" in arguments else []
    done = run_here("cut", model_path, "--keep", "2,5", "--output", "few.onnx", *arguments, *labels)
    assert done.code == 2, done.err
    assert message in " ".join(done.err.split())
    assert not Path("few.onnx").exists()
