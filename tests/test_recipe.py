"""Recipes: many cuts of one model from one load, each as a single run makes it."""

from __future__ import annotations

import inspect
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from conftest import Done, some, tiny
from patterns import PATTERNS, REFUSED
from PIL import Image

import onnx_headcut as hc
from onnx_headcut import workers
from onnx_headcut.cutting import Options, open_model
from onnx_headcut.recipe import keys
from onnx_headcut.recipe.reading import parse

if TYPE_CHECKING:
    from collections.abc import Callable

SHAPES = Path(__file__).parent.parent / "models" / "shapes"
PAGE = Path(__file__).parent.parent / "docs" / "recipe.md"
CUT = [name for name in PATTERNS if name not in REFUSED]
KEPT = {"one": "hen, dog", "two": "1-3", "three": "fox", "four": "cat, cow, dog"}


@pytest.fixture
def folder(tmp_path: Path, model_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "tiny.onnx").write_bytes(model_path.read_bytes())
    return tmp_path


def write(folder: Path, text: str, variants: dict[str, str] | None = None) -> Path:
    tables = [f'[variants.{name}]\nkeep = "{keep}"\n' for name, keep in (variants or {}).items()]
    path = folder / "headcut.toml"
    path.write_text("\n".join(['source = "models/tiny.onnx"', text, *tables]))
    return path


def test_each_variant_is_the_single_run_byte_for_byte(
    folder: Path, tmp_path: Path, run_here: Callable[..., Done]
) -> None:
    recipe = write(folder, 'output = "{variant}.onnx"\n[validation]\nprovider = "cpu"', KEPT)
    done = run_here("cut", "--recipe", recipe, "--json", "--jobs", "2")
    assert done.code == 0, done.err
    said = json.loads(done.out)
    assert [v["variant"] for v in said["variants"]] == list(KEPT)
    source = folder / "models" / "tiny.onnx"
    for variant in said["variants"]:
        alone = tmp_path / "alone.onnx"
        result = hc.cut(source, KEPT[variant["variant"]], alone, provider="cpu", force=True)
        assert alone.read_bytes() == (folder / f"{variant['variant']}.onnx").read_bytes()
        assert result.verdict is not None
        assert variant["validation"] == json.loads(result.verdict.to_json())


@pytest.mark.parametrize("name", some(CUT, step=4))
def test_a_model_that_was_opened_once_is_cut_as_if_for_the_first_time(name: str) -> None:
    pattern = PATTERNS[name]()
    model, classes = pattern.model(), pattern.foreground
    opened = open_model(model, Options(**pattern.told))
    few, turned = [classes[2]], classes[::-1]
    first, second, third = (
        hc.cut(opened, keep, validation=False).model.SerializeToString() for keep in (few, turned, few)
    )
    assert first == third
    alone = hc.cut(model, turned, validation=False, **pattern.told).model
    assert second == alone.SerializeToString()


def test_paths_are_relative_to_the_recipe(
    folder: Path, tmp_path: Path, run_here: Callable[..., Done]
) -> None:
    (folder / "names.txt").write_text("background\nA\nB\nC\nD\nE\n")
    (folder / "few.txt").write_text("B\nE\n")
    (folder / "out").mkdir()
    np.savez(folder / "a.npz", images=np.zeros((1, 3, 32, 32), np.float32))
    recipe = write(
        folder,
        'labels = "names.txt"\noutput = "out/{variant}.onnx"\n[validation]\narrays = "a.npz"',
        {"few": "@few.txt"},
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = run_here("cut", "--recipe", os.path.relpath(recipe, elsewhere), "--json", cwd=elsewhere)
    assert done.code == 0, done.err
    (variant,) = json.loads(done.out)["variants"]
    assert variant["keep"] == [0, 2, 5]
    assert variant["validation"]["feeds"][0] == "a.npz"
    assert (elsewhere / variant["output"]).samefile(folder / "out" / "few.onnx")
    assert not list(elsewhere.iterdir())


def test_the_example_of_the_page_is_made(tmp_path: Path, run_here: Callable[..., Done]) -> None:
    text = re.search(r"```toml\n(source.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert text is not None
    (tmp_path / "headcut.toml").write_text(text[1])
    (tmp_path / "red.txt").write_text("stop sign\nheart  # mostly\n")
    shipped = SHAPES / "ssd_shapes_ts_softmax.onnx"
    (tmp_path / shipped.name).write_bytes(shipped.read_bytes())
    for folder, seed in (("street", 1), ("ward", 2)):
        (tmp_path / folder).mkdir()
        pixels = np.random.default_rng(seed).integers(0, 256, (128, 128, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / folder / "a.png")

    done = run_here("cut", "--recipe", tmp_path / "headcut.toml")

    assert done.code == 0, done.out + done.err
    assert done.out in PAGE.read_text(encoding="utf-8")
    made = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert {"cut/crossing.onnx", "cut/hospital.html", "cut/junit.xml", "red.onnx"} <= made


def test_the_recipe_of_the_readme_is_made(tmp_path: Path, run_here: Callable[..., Done]) -> None:
    page = (PAGE.parent.parent / "README.md").read_text(encoding="utf-8")
    text = re.search(r"```toml\n(source.*?)```", page, re.DOTALL)
    assert text is not None
    (tmp_path / "headcut.toml").write_text(text[1])
    shipped = SHAPES / "ssd_shapes_ts_softmax.onnx"
    (tmp_path / shipped.name).write_bytes(shipped.read_bytes())
    done = run_here("cut", "--recipe", tmp_path / "headcut.toml")
    assert done.code == 0, done.out + done.err
    assert done.out in page


def test_the_recipe_that_ships_is_made(tmp_path: Path) -> None:
    here = tmp_path / "models" / "shapes"
    here.mkdir(parents=True)
    for name in ("headcut.toml", "ssd_shapes_ts_softmax.onnx"):
        (here / name).write_bytes((SHAPES / name).read_bytes())
    built = hc.build(hc.read_recipe(here / "headcut.toml"))
    assert built, [v.document for v in built.variants if not v]
    assert {p.stem for p in (tmp_path / "demo").iterdir()} == {v.name for v in built.variants}


def test_a_refused_variant_does_not_end_the_others(folder: Path, run_here: Callable[..., Done]) -> None:
    recipe = write(folder, "[validation]\nenabled = false", {"bad": "dgo", "good": "dog"})
    done = run_here("cut", "--recipe", recipe)
    assert done.code == 2
    assert "The nearest names: dog" in " ".join(done.out.split())
    assert "1 of 2 variants cut" in done.out
    assert (folder / "good.onnx").exists()
    assert not (folder / "bad.onnx").exists()


def test_what_the_command_line_may_add(folder: Path, run_here: Callable[..., Done]) -> None:
    recipe = write(folder, "", {"a": "cat", "b": "dog"})
    dry = run_here("cut", "--recipe", recipe, "--dry-run")
    assert dry.code == 0, dry.err
    assert "edits planned, nothing written" in dry.out
    assert sorted(p.name for p in folder.iterdir()) == ["headcut.toml", "models"]
    one = run_here("cut", "--recipe", recipe, "--variant", "b", "--no-validate")
    assert one.code == 0, one.err
    assert not (folder / "a.onnx").exists()
    again = run_here("cut", "--recipe", recipe, "--no-validate")
    assert again.code == 2
    assert "b.onnx exists" in again.out
    assert run_here("cut", "--recipe", recipe, "--no-validate", "--force").code == 0
    wrong = run_here(
        "cut", "--recipe", recipe, "--force", "--provider", "nonsense", "--variant", "a", "--jobs", "1"
    )
    assert wrong.code != 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--keep", "dog"], "--keep has no place beside --recipe"),
        (["--ids", "compact"], "--ids has no place beside --recipe"),
        (["model.onnx"], "MODEL has no place beside --recipe"),
        (["--variant", "c"], "no variant 'c'"),
    ],
)
def test_what_it_may_not(
    folder: Path, arguments: list[str], words: str, run_here: Callable[..., Done]
) -> None:
    done = run_here("cut", "--recipe", write(folder, "", {"a": "cat"}), *arguments)
    assert done.code == 2
    assert words in done.err


def test_a_recipe_without_variants_is_one_cut(folder: Path) -> None:
    recipe = hc.read_recipe(write(folder, 'keep = ["dog", 1]\noutput = "few.onnx"'))
    built = hc.build(recipe, validation=False)
    assert built
    assert [v.name for v in built.variants] == ["few"]
    assert built.variants[0].output == folder / "few.onnx"
    assert built.variants[0].document["keep"] == [0, 2, 1]


def test_what_is_wrong_with_the_source_is_said_once(
    folder: Path, run_here: Callable[..., Done]
) -> None:
    recipe = write(folder, "", {"a": "cat", "b": "dog"})
    (folder / "models" / "tiny.onnx").unlink()
    done = run_here("cut", "--recipe", recipe)
    assert done.code == 2
    assert done.err.count("does not exist") == 1
    assert done.out == ""


WRONG = {
    "sorce = 'x'": "Is it source",
    "source = 'x'\nkeep = 'a'\nprovider = 'cpu'": "It stands in [validation]",
    "source = 'x'\nkeep = 'a'\nids = 'new'": '"compact" or "original"',
    "source = 'x'\nkeep = 'a'\nseed = -1": "a whole number",
    "source = 'x'\nkeep = 'a'\nseed = true": "a whole number",
    "source = 'x'\nkeep = [1.5]": "a list of names and ids",
    "source = 'x'\noutput = 'y'": "which classes to keep",
    "keep = 'a'": "the source is not said",
    "source = 'x'\nvariants = 3": "no table",
    "source = 'x'\nvariants.a = 3": "[variants.a]",
    "source = 'x'\n[variants]": "no variant",
    "source = 'x'\n[variants.'a/b']\nkeep = 'a'": "no name for a variant",
    "source = 'x'\n[variants.a]\nkep = 'a'": "[variants.a]: there is no key 'kep'",
    "source = 'x'\n[variants.a]\nkeep = 'a'\nlabels = 'voc'": "at the top",
    "source = 'x'\nkeep = 'a'\n[validation]\nprovidr = 'cpu'": "Is it provider",
    "source = 'x'\nkeep = 'a'\n[validation.tolerances]\ny = [-1]": "a table of pairs",
    "source = 'x'\nkeep = 'a'\n[validation]\nimages = 'no/*.png'": "no picture matches",
    "source = 'x'\nkeep = 'a'\n[validation]\nenabled = false\n[report]\npage = 'p'": "switched off",
    "source = 'x'\nkeep = 'a'\n[input_shapes]\nx = [0]": "images = [1, 3, 320, 320]",
    "source = 'x'\nkeep = 'a'\noutput = 'x'": "is of the source",
    "source = 'x'\nkeep = 'a'\noutput = 'o'\n[variants.a]\n[variants.b]": "of variant 'a'",
    "source = 'x'\nkeep = ": "not TOML",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_recipe_with_a_mistake_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "headcut.toml"
    path.write_text(text)
    with pytest.raises(hc.InputError, match=re.escape(WRONG[text])):
        hc.read_recipe(path)


def test_a_mistake_ends_with_2_before_any_work(folder: Path, run_here: Callable[..., Done]) -> None:
    done = run_here("cut", "--recipe", write(folder, "kepe = 'dog'"), "--json")
    assert done.code == 2
    assert json.loads(done.out)["error"]["advice"] == "Is it keep or seed?"
    assert run_here("cut", "--recipe", folder / "none.toml").code == 2


def test_every_keyword_of_cut_can_be_said_in_a_recipe() -> None:
    alone = (keys.MAP, keys.OUTPUT, keys.FIT)
    known = {k.keyword for k in (*keys.SOURCE, *alone, *keys.CUT, *keys.VALIDATION)}
    aside = {"model", "source", "feeds", "force", "dry_run", "progress"}
    assert set(inspect.signature(hc.cut).parameters) - aside == known - aside
    feeds = {k.name for k in (*keys.FEEDS, keys.PREPROCESS)}
    assert feeds == set(inspect.signature(hc.Feeds).parameters)


def test_a_variant_says_otherwise_than_the_top() -> None:
    data = {
        "source": "x", "ids": "original", "validation": {"provider": "cpu", "arrays": "a"},
        "variants": {
            "a": {"keep": "1"},
            "b": {"keep": "1", "ids": "compact", "validation": {"provider": "cuda"}},
        },
    }  # fmt: skip
    a, b = parse(data, Path(), "it").variants
    assert a.settings == {"ids": "original", "provider": "cpu"}
    assert b.settings == {"ids": "compact", "provider": "cuda"}
    assert a.feeds == b.feeds == {"arrays": "a"}


def test_maps_and_modes_are_those_of_single_runs(tmp_path: Path, run_here: Callable[..., Done]) -> None:
    shipped = SHAPES / "ssd_shapes_ts_softmax.onnx"
    for seed in range(3):
        pixels = np.random.default_rng(seed).integers(0, 256, (128, 128, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{seed}.png")
    text = f"""
        source = "{shipped.as_posix()}"
        validation.enabled = false
        [variants.grown]
        keep = "heart, star, comet=new(normal 0.01), moon=new"
        seed = 5
        [variants.merged]
        keep = "sign=stop sign|hexagon, heart"
        scores = "exact"
        merge = "max"
        [variants.any]
        keep = "random 4"
        seed = 2
        """
    (tmp_path / "headcut.toml").write_text(text)
    assert hc.build(hc.read_recipe(tmp_path / "headcut.toml"))
    alone = tmp_path / "alone.onnx"
    singles = {
        "grown": ("--keep", "heart, star, comet=new(normal 0.01), moon=new", "--seed", "5"),
        "merged": ("--keep", "sign=stop sign|hexagon, heart", "--scores", "exact", "--merge", "max"),
        "any": ("--keep", "random 4", "--seed", "2"),
    }
    for name, arguments in singles.items():
        done = run_here("cut", shipped, *arguments, "--no-validate", "--force", "--output", alone)
        assert done.code == 0, done.err
        assert alone.read_bytes() == (tmp_path / f"{name}.onnx").read_bytes()


def test_a_background_is_fitted_to_pictures_of_the_recipe(tmp_path: Path) -> None:
    data = {
        "source": "x", "keep": "1", "output": "o", "fit_background": ["a.png", "b.npz"],
        "preprocess": "uint8", "validation": {"images": "c.png"},
    }  # fmt: skip
    (variant,) = parse(data, tmp_path, "it").variants
    assert variant.fit == {"images": ("a.png", "b.npz"), "preprocess": "uint8"}
    assert variant.feeds == {"images": ("c.png",), "preprocess": "uint8"}


def test_reports_of_all_variants(folder: Path, run_here: Callable[..., Done]) -> None:
    recipe = write(
        folder, '[report]\njunit = "all.xml"\npage = "{variant}.html"', {"a": "cat", "bad": "dgo"}
    )
    done = run_here("cut", "--recipe", recipe)
    assert done.code == 2, done.err
    junit = (folder / "all.xml").read_text()
    assert "a.onnx" in junit
    assert "no class &#x27;dgo&#x27;" in junit or "no class 'dgo'" in junit
    assert (folder / "a.html").exists()
    assert not (folder / "bad.html").exists()


def test_a_worker_that_dies_takes_one_variant_with_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dying = (
        "import os, sys; sys.path[:] = {}; from onnx_headcut import cutting, workers\n"
        "real = cutting.cut\n"
        "cutting.cut = lambda m, k, *a, **b: os.kill(os.getpid(), 9) if k == 'dog' else "
        "real(m, k, *a, **b)\n"
        "workers.main()"
    )
    monkeypatch.setattr(workers, "_START", dying)
    recipe = hc.read_recipe(write(folder, "", {"a": "cat", "b": "dog", "c": "hen", "d": "fox"}))
    done = hc.build(recipe, validation=False, jobs=1)
    assert [v.exit_code for v in done.variants] == [0, 70, 0, 0]
    failure = done.variants[1].failure
    assert failure is not None
    assert failure.what == "the process died of signal 9"
    assert done.exit_code == 70


def processes_of(group: int) -> list[str]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(stat.parent.name)
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at Linux' processes")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_end_in_the_middle_leaves_nothing_half_written(folder: Path, how: signal.Signals) -> None:
    recipe = write(folder, "", {f"v{k}": "cat, dog, hen" for k in range(40)})
    process = subprocess.Popen(
        [sys.executable, "-m", "onnx_headcut", "cut", "--recipe", str(recipe)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    until = time.monotonic() + 60
    while not list(folder.glob("v*.onnx")) and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(how)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == {2: 130, 15: 143, 9: -9}[how]
    assert "Traceback" not in errors
    while processes_of(process.pid) and time.monotonic() < until:
        time.sleep(0.05)
    assert not processes_of(process.pid)
    made = [p for p in folder.iterdir() if p.name not in {"headcut.toml", "models"}]
    assert 0 < len(made) < 40
    assert all(re.fullmatch(r"v\d+\.onnx", p.name) for p in made)
    for path in made:
        onnx.checker.check_model(path)


def test_a_model_is_held_against_its_recipe(folder: Path, run_here: Callable[..., Done]) -> None:
    write(folder, "seed = 3", {"a": "cat, dog", "b": "hen"})
    assert run_here("cut", "--recipe", folder / "headcut.toml", "--no-validate").code == 0
    policy = folder / "policy.toml"
    policy.write_text('[recipe]\nfile = "headcut.toml"\n[head-dead]\nseverity = "off"')

    def broken(model: Path) -> str:
        done = run_here("check", model, "--policy", policy)
        assert done.code in {0, 1}, done.err
        assert (done.code == 1) == ("error recipe" in done.out)
        return " ".join(done.out.split()) if done.code else ""

    assert broken(folder / "a.onnx") == ""
    (folder / "shipped.onnx").write_bytes((folder / "b.onnx").read_bytes())
    assert broken(folder / "shipped.onnx") == ""
    cut = onnx.load(folder / "a.onnx")
    weight = next(t for t in cut.graph.initializer if t.name == "stem_w")
    weight.raw_data = bytes(len(weight.raw_data))
    onnx.save(cut, folder / "a.onnx")
    assert "variant 'a' of headcut.toml makes another file" in broken(folder / "a.onnx")
    hc.cut(folder / "models" / "tiny.onnx", "fox", folder / "b.onnx", validation=False, force=True)
    assert "variant 'b' of headcut.toml keeps other columns" in broken(folder / "b.onnx")
    onnx.save(tiny(), folder / "models" / "tiny.onnx")
    other = onnx.load(folder / "models" / "tiny.onnx")
    other.producer_name = "another"
    onnx.save(other, folder / "models" / "tiny.onnx")
    assert "another model than the source" in broken(folder / "b.onnx")
