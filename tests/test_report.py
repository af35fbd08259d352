"""Reports: planted mistakes in every format, and a page that people can read."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import numpy as np
import onnx
import pytest
from browser import CHROMIUM, Page, browser
from conftest import Done, run_cli
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper
from PIL import Image
from tiny import FULL, KEPT, Tiny, check

from onnx_headcut import cut
from onnx_headcut.report import formats, graph, html, of_verdict, pictures, plots
from onnx_headcut.report.style import CSS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from onnx_headcut.validation import Verdict

CUT = replace(FULL, columns=KEPT)
NMS = replace(CUT, nms=True)
PLANTED = {
    "swapped classes": (FULL, replace(CUT, level_columns={1: (0, 1, 3)}), CUT),
    "one level forgotten": (FULL, replace(CUT, level_columns={0: (0, 1, 2)}), CUT),
    "a branch of NMS lost": (replace(FULL, nms=True), replace(NMS, background=2), NMS),
    "ids shifted": (replace(FULL, nms=True), replace(NMS, labels=2), NMS),
}


@pytest.fixture(scope="module", params=PLANTED)
def broken(request: pytest.FixtureRequest) -> Verdict:
    whole, wrong, claimed = PLANTED[request.param]
    if wrong.background == 2:  # the slice behind the softmax starts too late
        wrong = _late(wrong)
    return check(whole, wrong, claimed=claimed)


class _Late(Tiny):
    def _nms_weights(self) -> dict[str, object]:
        return super()._nms_weights() | {"first": np.array([2])}


def _late(tiny: Tiny) -> Tiny:
    return _Late(**{name: getattr(tiny, name) for name in tiny.__dataclass_fields__})


def test_planted_mistakes_are_in_every_format(broken: Verdict) -> None:
    assert broken.exit_code == 1
    results = of_verdict.results(broken, "cut.onnx")
    assert any(r.bad for r in results)
    suite = ET.fromstring(formats.junit(results, "validate")).find("testsuite")  # noqa: S314  (ours)
    assert suite is not None
    assert suite.get("failures") != "0"
    run = json.loads(formats.sarif(results))["runs"][0]
    assert {r["level"] for r in run["results"]} >= {"error"}
    assert formats.github(results)[0].startswith("::error file=cut.onnx,")


def test_a_pass_is_told_as_such() -> None:
    results = of_verdict.results(check(FULL, CUT), "cut.onnx")
    assert [r.status for r in results if r.severity == "error"] == ["passed"] * 2
    drift = next(r for r in results if r.topic is of_verdict.DRIFT)
    assert (drift.severity, drift.bad) == ("note", False)


# --------------------------------------------------------------------------------- the commands


def test_validate_writes_every_report_of_a_broken_cut(
    model_path: Path, tmp_path: Path, run_here: Callable[..., Done]
) -> None:
    path = tmp_path / "cut.onnx"
    cut(model_path, "fox,cat", path, validation=False)
    model = onnx.load(path)
    bias = next(t for t in model.graph.initializer if t.name.startswith("cls1_b"))
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias)[::-1].copy(), bias.name))
    onnx.save(model, path)
    files = ("--report", "r.html", "--junit", "j.xml", "--sarif", "s.json", "--github")
    done = run_here("validate", model_path, path, *files, "--json")
    assert done.code == 1
    assert json.loads(done.out)["validation"]["status"] == "failed"
    assert "::error file=cut.onnx,title=onnx-headcut equal::" in done.err
    page = (tmp_path / "r.html").read_text()
    assert "✗ Failed" in page
    assert "differs" in page
    for name in ("r.html", "j.xml", "s.json"):
        assert str(tmp_path) not in (tmp_path / name).read_text()
    assert 'failures="1"' in (tmp_path / "j.xml").read_text()


@pytest.mark.parametrize("mistake", PLANTED)
def test_the_command_tells_each_planted_mistake_in_every_format(
    mistake: str, tmp_path: Path, run_here: Callable[..., Done]
) -> None:
    whole, wrong, right = PLANTED[mistake]
    for name, made in {"whole": whole, "wrong": wrong, "right": right}.items():
        late = _late(made) if made.background == 2 else made
        onnx.save(late.model(), tmp_path / f"{name}.onnx")
    files = ("--report", "r.html", "--junit", "j.xml", "--sarif", "s.json", "--github")
    said = ("--keep", "3,1", "--background", "0", "--provider", "cpu")
    assert run_here("validate", "whole.onnx", "right.onnx", *said).code == 0
    text = run_here("validate", "whole.onnx", "wrong.onnx", *said)
    done = run_here("validate", "whole.onnx", "wrong.onnx", *said, *files, "--json")
    assert (text.code, done.code) == (1, 1)
    assert "Validated" in text.out
    assert "failed" in text.out
    document = json.loads(done.out)["validation"]
    assert document["status"] == "failed"
    reason = document["reasons"][0]
    assert not any("nothing was compared" in r for r in document["reasons"])
    assert "::error file=wrong.onnx,title=onnx-headcut equal::" in done.err
    suites = ET.fromstring((tmp_path / "j.xml").read_text())  # noqa: S314  (ours)
    assert any(reason in f"{each.get('message')}{each.text}" for each in suites.iter("failure"))
    results = json.loads((tmp_path / "s.json").read_text())["runs"][0]["results"]
    assert (results[0]["level"], results[0]["message"]["text"]) == ("error", reason)
    page = (tmp_path / "r.html").read_text()
    assert "✗ Failed" in page
    assert html.inside(reason) in page


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--no-validate", "--report", "r.html"], "switched off"),
        (["--annotations", "a.json"], "--images"),
        (["--report", "nowhere/r.html"], "does not exist"),
        (["--images", "nowhere"], "no folder"),
    ],
)
def test_reports_that_cannot_be_are_refused(
    options: list[str], words: str, model_path: Path, run_here: Callable[..., Done]
) -> None:
    done = run_here("cut", model_path, "--keep", "cat", "--output", "out.onnx", *options)
    assert done.code == 2
    assert words in done.err


# --------------------------------------------------------------------------------- the page


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole page: the shapes detector, cut, with drawn pictures and their annotations."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "pictures").mkdir()
    shapes = Path(__file__).parent.parent / "models" / "shapes"
    code = f"import sys; sys.path.insert(0, {str(shapes.parent.parent)!r})"
    rng = np.random.default_rng(0)
    for k in range(2):
        pixels = rng.integers(0, 255, (96, 128, 3), np.uint8)
        pixels[20:70, 30:80] = 255 * k
        Image.fromarray(pixels).save(folder / "pictures" / f"<{k}>.png")
    source = shapes / "ssd_shapes_ts_softmax.onnx"
    done = run_cli("cut", source, "--keep", "square,star,heart", "--output", "small.onnx",
                   "--report", "r.html", "--images", "pictures", "--provider", "cpu",
                   cwd=folder, code=code)  # fmt: skip
    assert done.code == 0, done.err
    return folder / "r.html"


class _Outline(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_speaks_to_screen_readers(page: Path) -> None:
    text = page.read_text()
    outline = _Outline(text)
    assert outline.open == []
    tags = [tag for tag, _ in outline.tags]
    assert tags.count("h1") == 1
    assert tags.count("caption") == tags.count("table") > 4
    assert all(a.get("scope") for tag, a in outline.tags if tag == "th")
    assert all(a.get("aria-label") for tag, a in outline.tags if tag == "svg")
    assert dict(outline.tags)["html"] == {"lang": "en"}
    titles = re.findall(r"<h2[^>]*>(.*?)</h2>", text)
    assert titles == ["Before and after", "The head", "What was compared", "Evidence by class",
                      "Drift", "Pictures", "Speed", "The plan"]  # fmt: skip
    assert text.index("✓ Passed") < text.index("<h2")
    ids = [a["id"] for _, a in outline.tags if "id" in a]
    assert len(ids) == len(set(ids))


def test_the_page_fetches_nothing_and_names_no_folder(page: Path) -> None:
    text = unescape(page.read_text())
    assert "<script" not in text
    assert "default-src 'none'" in text
    links = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert all(link.startswith(("data:image/jpeg", "#")) for link in links)
    assert str(page.parent) not in text
    assert "<0>.png" in text
    assert "<0>.png" not in page.read_text()


@pytest.fixture(scope="module")
def opened(page: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    if not CHROMIUM:
        pytest.skip("chromium is not installed")
    with browser(tmp_path_factory.mktemp("profile")) as found:
        found.open(page)
        yield found


@pytest.mark.parametrize(
    ("width", "dark", "phone"), [(1000, False, False), (1000, True, False), (360, True, True)]
)
def test_the_page_shows_in_a_browser(
    width: int,
    dark: bool,  # noqa: FBT001
    phone: bool,  # noqa: FBT001
    opened: Page,
    tmp_path: Path,
) -> None:
    opened.size(width, phone=phone)
    opened.media(dark=dark)
    opened.shot(tmp_path / "shot.png")
    with Image.open(tmp_path / "shot.png") as image:
        pixels = np.asarray(image.convert("L")).astype(int)
    paper = int(np.median(pixels))
    assert (paper < 64) == dark
    assert (np.abs(pixels - paper) > 60).mean() > 0.01  # there is something on it
    assert (np.abs(pixels[:, -6:] - paper) < 8).all()  # and nothing runs over its edge
    assert opened.value("document.documentElement.scrollWidth") == width
    if phone:  # fingers need room
        labels = "[...document.querySelectorAll('.switch label')]"
        assert opened.value(f"Math.min(...{labels}.map(l => l.offsetHeight))") >= 32


def test_a_switch_shows_either_model_by_keyboard_and_aloud(opened: Page) -> None:
    opened.size(1000)
    opened.media()
    opened.value("document.querySelector('.switch input').focus()")

    def seen() -> list[bool]:
        shown = "!!document.querySelector('figure .%s').getClientRects().length"
        return [opened.value(shown % who) for who in ("original", "cut")]

    def place() -> list[int]:
        box = "[...document.querySelectorAll('.pair svg')].find(e => e.getClientRects().length)"
        return opened.value(f"(r => [r.x, r.y, r.width])({box}.getBoundingClientRect())")

    assert seen() == [True, True]
    half = place()[2]
    opened.press("ArrowRight", 39)
    assert seen() == [True, False]
    before = place()
    opened.press("ArrowRight", 39)
    assert seen() == [False, True]
    assert place() == before  # at one place, so that the eye sees what moves
    assert before[2] > 1.3 * half
    spoken = opened.spoken()
    assert ("radio", "cut") in spoken
    assert any(role == "group" and "<0>.png" in name for role, name in spoken)
    images = [name for role, name in spoken if role in {"image", "img"} and "<0>.png" in name]
    assert len(images) == 1
    assert images[0].startswith("<0>.png, cut: ")
    # On paper, both are there again, and nothing to press.
    opened.media("print")
    assert seen() == [True, True]
    assert not opened.value("document.querySelector('.switch').getClientRects().length")
    assert opened.paper().startswith(b"%PDF")
    opened.media()
    # The other picture has a switch of its own, which no key has touched.
    both = "document.querySelectorAll('.switch')[1].querySelector('[value=both]').checked"
    assert opened.value(both) is True


def test_the_page_asks_for_nothing(opened: Page) -> None:
    asked = [e["params"]["request"]["url"] for e in opened.events
             if e.get("method") == "Network.requestWillBeSent"]  # fmt: skip
    assert asked
    assert all(url.startswith(("file:", "data:")) for url in asked)
    assert sum(url.startswith("file:") for url in asked) == 1  # itself
    complaints = [e for e in opened.events if e.get("method") == "Log.entryAdded"]
    assert complaints == []


def test_what_is_written_is_escaped() -> None:
    assert html.h("p", "<b>\x1b", title='"') == '<p title="&quot;">&lt;b&gt;\\x1b</p>'
    assert html.h("p", html.h("b", "x"), None, ["y", "z"]) == "<p><b>x</b>yz</p>"


def test_columns_that_say_nothing_are_left_out() -> None:
    made = html.table("c", ("a", "b", "d"), [("1", "", "3")])
    assert ">b<" not in made
    assert ">d<" in made


def test_plots_take_the_pages_colours() -> None:
    if not plots.available():
        pytest.skip("matplotlib is not installed")
    drawn = plots.scatter(np.array([[0.2, 0.4], [0.5, 0.5]]))
    assert "var(--accent)" in drawn
    assert "#0405" not in drawn
    assert drawn == plots.scatter(np.array([[0.2, 0.4], [0.5, 0.5]]))


def test_paper_holds_the_plan_and_every_column(opened: Page) -> None:
    opened.size(700)
    opened.media("print")
    plan = "[...document.querySelectorAll('details th[scope=row]')]"
    assert opened.value(f"{plan}.every(e => e.getClientRects().length)")
    assert opened.value("document.documentElement.scrollWidth") == 700
    opened.media()


def test_the_page_says_which_files_it_is_about(page: Path) -> None:
    cut_file = page.with_name("small.onnx")
    digest = hashlib.sha256(cut_file.read_bytes()).hexdigest()
    assert f"<code>{digest}</code>" in page.read_text()


def _contrast(one: str, other: str) -> float:
    def light(colour: str) -> float:
        parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    low, high = sorted([light(one), light(other)])
    return (high + 0.05) / (low + 0.05)


def test_words_stand_out_from_what_they_stand_on() -> None:
    assert min(_contrast("#ffffff", c) for c in (*pictures.COLOURS, pictures.DROPPED)) >= 4.5
    for block in re.findall(r"\{ :root \{([^}]*)\}|^:root \{([^}]*)\}", CSS, re.MULTILINE):
        colour = dict(re.findall(r"--(\w+): (#\w+)", "".join(block)))
        colour = {k: v if len(v) > 4 else re.sub(r"(\w)", r"\1\1", v) for k, v in colour.items()}
        for name in ("ink", "faint", "accent", "good", "bad", "doubt"):
            assert min(_contrast(colour[name], colour[p]) for p in ("paper", "soft")) >= 4.5, name


@given(st.lists(st.tuples(*[st.floats(0, 400)] * 4), max_size=6))
def test_names_on_a_picture_do_not_cover_each_other(corners: list[tuple[float, ...]]) -> None:
    boxes = [[min(a, c), min(b, d), max(a, c), max(b, d)] for a, b, c, d in corners]
    found = pictures._places(boxes, ["star 0.50"] * len(boxes), 14, (480, 480))
    assert all(min(x, y) >= 0 and max(x + w, y + t) <= 480 for x, y, w, t in found)
    for box in boxes:  # six on one spot have room enough
        same = pictures._places([box] * 6, ["star 0.50"] * 6, 14, (480, 480))
        assert not any(pictures._meet(a, b) for a, b in combinations(same, 2))


def test_changes_of_nothing_look_like_nothing() -> None:
    if not plots.available():
        pytest.skip("matplotlib is not installed")
    assert "1e" not in "".join(re.findall(r">([^<]*)<", plots.histogram(np.full(9, 1e-8), "change")))


@pytest.mark.parametrize(
    "names",
    [
        [f"Extractor/Predictor_{k}/ClassPredictor/BiasAdd_prequantized" for k in range(6)],
        ["TFLite_Detection_PostProcess", "TFLite_Detection_PostProcess:1"],
        ["a", "b" * 50],
    ],
)
def test_names_are_cut_where_they_are_alike(names: list[str]) -> None:
    short = graph._short(names, 22)
    assert len(set(short)) == len(names)
    assert max(map(len, short)) <= 22


def test_long_names_and_many_heads_fit_the_graph(model_path: Path) -> None:
    from onnx_headcut import inspect  # noqa: PLC0415

    plan = cut(model_path, "cat", validation=False).plan
    head = replace(inspect(model_path).heads[0], node="a" * 90)
    drawn = graph.draw([head] * 14, plan)
    assert "and 4 more heads" in drawn
    assert "a" * 40 not in drawn
