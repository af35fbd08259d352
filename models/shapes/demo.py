"""What the tool does, in one minute: cut the shapes detector, prove it, and look at both.

From the repository's root, ``make demo`` or::

    python -m models.shapes.demo
"""

import argparse
import itertools
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageDraw, ImageFont

from models.shapes.evaluate import Detections, detections, evaluate
from models.shapes.pictures import NAMES, picture

SOURCE = Path(os.path.relpath(Path(__file__).parent)) / "ssd_shapes_ts_softmax.onnx"
KEEP = ("stop sign", "heart", "star", "lightning")
COLOURS = ("#e4572e", "#d6338a", "#c98a00", "#2f6fde")
OTHER, INK, FAINT, PAPER = "#7d8590", "#1f2328", "#656d76", "#ffffff"

SIDE, GAP, MARGIN = 288, 12, 28
HEADER, CAPTION = 96, 34
PAIRS_PER_ROW, ROWS = 2, 3


def main() -> None:
    """Cut, evaluate, draw; print the path of the drawing."""
    parser = argparse.ArgumentParser(description="cut the shapes detector and look at both")
    parser.add_argument("--source", type=Path, default=SOURCE)
    parser.add_argument("--folder", type=Path, default=Path("demo"))
    parser.add_argument("--pictures", type=int, default=200, help="to measure accuracy on")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    cut = options.folder / "shapes_cut.onnx"
    arguments = ["cut", str(options.source), "--keep", ",".join(KEEP), "--output", str(cut)]
    print("$ onnx-headcut", " ".join(f'"{a}"' if " " in a else a for a in arguments), "--force")
    command = [sys.executable, "-m", "onnx_headcut", *arguments, "--force"]
    subprocess.run(command, check=True)  # noqa: S603  (its own arguments)

    before, after = (
        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        for path in (options.source, cut)
    )
    accuracy = _accuracy(before, after, options.pictures)
    drawing = options.folder / "before_after.png"
    _draw(before, after, accuracy).save(drawing)
    print(f"\nDetections before and after, side by side: {drawing}")
    print(f"Four cuts at once: onnx-headcut cut --recipe {SOURCE.parent / 'headcut.toml'}")


def _accuracy(
    before: onnxruntime.InferenceSession, after: onnxruntime.InferenceSession, count: int
) -> dict[str, tuple[float, float]]:
    """Mean average precision of the kept classes, before and after; printed class by class."""
    only = itertools.islice(filter(_all_kept, itertools.count()), count // 2)
    sights = {"kept shapes only": list(only), "all shapes": list(range(count))}
    print("\nAverage precision at IoU 0.5 on pictures that were not trained on:")
    means: dict[str, tuple[float, float]] = {}
    for sight, seeds in sights.items():
        whole, kept = evaluate(before, seeds), evaluate(after, seeds, keep=KEEP)
        print(f"\n  {f'{sight} ({len(seeds)} pictures)':34} before   after")
        for name in KEEP:
            print(f"  {name:34} {whole[name]:6.3f}  {kept[name]:6.3f}")
        old, new = (float(np.mean([result[name] for name in KEEP])) for result in (whole, kept))
        means[sight] = old, new
        print(f"  {'mean':34} {old:6.3f}  {new:6.3f}")
    print(
        "\nA softmax over fewer classes: kept scores rise, and a shape of a dropped class can turn"
        "\nup as a kept one: that costs precision where dropped shapes are in sight."
    )
    return means


def _all_kept(seed: int) -> bool:
    return {NAMES[label] for label in picture(seed)[2]} <= set(KEEP)


def _draw(
    before: onnxruntime.InferenceSession,
    after: onnxruntime.InferenceSession,
    accuracy: dict[str, tuple[float, float]],
) -> Image.Image:
    """Pairs of one picture each: what the original finds beside what the cut finds."""
    pair = 2 * SIDE + GAP
    width = 2 * MARGIN + PAIRS_PER_ROW * pair + (PAIRS_PER_ROW - 1) * 3 * GAP
    height = HEADER + ROWS * (SIDE + CAPTION) + MARGIN
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    title = f"{len(NAMES) - 1} classes, cut to {len(KEEP)}: {', '.join(KEEP)}"
    draw.text((MARGIN, 20), title, INK, ImageFont.load_default(26))
    facts = "; ".join(f"{s} {b:.3f}, then {a:.3f}" for s, (b, a) in accuracy.items())
    facts = f"mAP of the kept classes: {facts}.  Grey: classes that go."
    draw.text((MARGIN, 58), facts, FAINT, ImageFont.load_default(17))
    for i, seed in enumerate(_telling_seeds(PAIRS_PER_ROW * ROWS)):
        row, column = divmod(i, PAIRS_PER_ROW)
        top = HEADER + row * (SIDE + CAPTION)
        for j, (model, names) in enumerate(((before, NAMES[1:]), (after, KEEP))):
            left = MARGIN + column * (pair + 3 * GAP) + j * (SIDE + GAP)
            found = _found(model, seed)
            sheet.paste(_panel(seed, found, names), (left, top))
            word = "before" if j == 0 else "after"
            caption = f"{word}: {len(found.scores)} found"
            draw.text((left, top + SIDE + 4), caption, FAINT, ImageFont.load_default(15))
    return sheet


def _telling_seeds(count: int) -> list[int]:
    """Held-out pictures with kept and other shapes in them, that show every kept one."""
    chosen: list[int] = []
    kept = {NAMES.index(name) for name in KEEP}
    missing = set(kept)
    seed = 0
    while len(chosen) < count:
        labels = set(picture(seed)[2].tolist())
        if len(labels) >= 3 and labels & (missing or kept) and labels - kept:
            chosen.append(seed)
            missing -= labels
        seed += 1
    return chosen


def _found(model: onnxruntime.InferenceSession, seed: int) -> Detections:
    pixels = picture(seed)[0].transpose(2, 0, 1)[None].astype(np.float32) / 255
    scores, boxes = model.run(["scores", "boxes"], {model.get_inputs()[0].name: pixels})
    return detections(scores, boxes, threshold=0.5)[0]


def _panel(seed: int, found: Detections, names: Sequence[str]) -> Image.Image:
    """One picture, enlarged, with its detections; other than kept ones in grey."""
    pixels = picture(seed)[0]
    scale = SIDE / pixels.shape[0]
    panel = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(panel)
    for box, column, score in reversed(list(zip(*found, strict=True))):
        name = names[int(column) - 1]
        colour = COLOURS[KEEP.index(name)] if name in KEEP else OTHER
        x0, y0, x1, y1 = (float(edge) for edge in np.clip(box * scale, 1, SIDE - 2))
        draw.rectangle((x0, y0, x1, y1), outline=colour, width=3)
        _label(draw, (x0, y0), f"{name} {score:.2f}", colour)
    return panel


def _label(draw: ImageDraw.ImageDraw, corner: tuple[float, float], text: str, colour: str) -> None:
    """Write a tag above a box's corner, or inside where there is no room above."""
    font = ImageFont.load_default(15)
    width, height = draw.textlength(text, font) + 8, 19
    x = min(corner[0] - 1, SIDE - width)
    y = corner[1] - height + 1 if corner[1] >= height else corner[1]
    draw.rectangle((x, y, x + width, y + height), fill=colour)
    draw.text((x + 4, y + 1), text, PAPER, font)


if __name__ == "__main__":
    main()
