"""What a device proves and what it gains: each cut validated there, then timed against its original.

``make gpu`` runs it after the checks; ``--provider cpu`` shows, on any machine, that it works.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
from latency import told

import onnx_headcut as hc
from onnx_headcut.bench import measure
from onnx_headcut.validation import choosing
from onnx_headcut.validation.synthetic import synthetic

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

sys.path.insert(0, str(Path(__file__).parent.parent / "models" / "exported"))
import skeleton

SHAPES = Path(__file__).parent.parent / "models" / "shapes" / "ssd_shapes_ts_softmax.onnx"
PAIRS = (
    "tfod_ssd_branches_op13", "tv_ssd300_softmax_any_ts17", "tv_ssd300_full_ts17",
    "efficientdet_topk_ts13", "yolov8_nms_batch_ts12", "detr_labels_ts13",
    "tv_fasterrcnn_resnet50_full_ts17",
)  # fmt: skip
"""A branch for each class, scores alone, NonMaxSuppression for each, top-k, and two stages."""
HEAD = ("model", "verdict", "nodes on", "max difference", "as deployed", "original ms", "cut ms",
        "times as fast", "MB on it", "behind the heads ms")  # fmt: skip


def named(provider: str) -> str:
    """Say what device a provider runs on; raises ProviderError with what keeps it from that."""
    chosen = choosing.usable(provider)
    known = {finding.subject: finding.what for finding in choosing.diagnose()}
    runtime = f"onnxruntime {known['onnxruntime'].removeprefix('version ')}"
    device = known.get("NVIDIA driver", "")
    return f"{chosen}: {f'{device}; ' if chosen in ('cuda', 'tensorrt') else ''}{runtime}"


def rows(folder: Path, provider: str, seconds: float) -> Iterator[tuple[str, ...]]:
    """Prove and time each model on a provider; a row each."""
    few = PAIRS[:1] if provider == "cpu" else PAIRS  # a rehearsal need not take long
    for name, path, keep, words in models(folder, few):
        small = folder / f"{name}-cut.onnx"
        hc.cut(path, keep, small, validation=False, **words)
        verdict = hc.validate(path, small, keep, provider=provider, **words)
        feed = synthetic(onnx.load(path), count=1)[0]
        settings = measure.Settings(provider, threads=0, seconds=seconds, warmup=10, rounds=1000)
        found = measure.bench(path, small, feed, settings)
        on = ", ".join(f"{where} {n}" for where, n in verdict.cut.placement.items())
        memory = (found.original.device_memory, found.cut.device_memory)
        behind = (t.stages.get("behind the heads") for t in (found.original, found.cut))
        yield (
            name, verdict.status, on,
            f"{max((row.max_rel for row in verdict.outputs), default=0.0):.1e}",
            "" if verdict.deployed is None else f"{verdict.deployed.max_rel:.1e}",
            f"{found.original.median * 1e3:.2f}", f"{found.cut.median * 1e3:.2f}",
            f"{found.ratio:.2f} ({found.ratio_low:.2f} to {found.ratio_high:.2f})",
            " → ".join("?" if size is None else f"{size / 1e6:.0f}" for size in memory),
            " → ".join("?" if t is None else f"{t * 1e3:.2f}" for t in behind),
        )  # fmt: skip


def models(folder: Path, names: Sequence[str]) -> Iterator[tuple[str, Path, Any, dict[str, Any]]]:
    """Give name, file, classes to keep and what else `cut` is told."""
    yield "shapes (trained)", SHAPES, "1-3", {}
    pairs = {pair["name"]: pair for pair in skeleton.pairs()}
    for name in names:
        path = folder / f"{name}.onnx"
        onnx.save(skeleton.load_pair(name)[0], path)
        yield name, path, pairs[name]["keep"], told(pairs[name])
