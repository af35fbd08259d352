"""What ``--json`` prints, as plain data with stable keys; docs/json.md describes it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from onnx_headcut import __version__
from onnx_headcut.console import SCHEMA

if TYPE_CHECKING:
    from onnx_headcut.cutting import Cut, Inspection
    from onnx_headcut.validation.verdict import Verdict


def of_inspection(found: Inspection) -> dict[str, Any]:
    """Say what `inspect` found."""
    rows = savings(found)
    saved = [{"classes": n, "parameters": p, "macs": m} for n, p, m in rows]
    return _head("inspect", 0) | found.to_json() | {"savings": saved}


def of_cut(result: Cut, *, dry_run: bool) -> dict[str, Any]:
    """Say what `cut` did, or with ``dry_run`` would do."""
    return _head("cut", result.exit_code) | {
        "dry_run": dry_run,
        "output": str(result.output) if written(result) else None,
        "keep": list(result.class_map.order),
        "scores": "exact" if result.class_map.exact else "renormalized",
        "merge": result.class_map.merge,
        "map": None if result.class_map.plain else json.loads(result.class_map.to_json()),
        "classes": {"before": asdict(result.classes), "after": asdict(result.kept)},
        "figures": {
            "before": asdict(result.before),
            "after": None if dry_run else asdict(result.after),
        },
        "plan": [] if result.class_map.identity else result.plan.to_json(),
        "notes": list(result.plan.notes),
        "fitted": None if result.fit is None else result.fit.to_dict(),
        "validation": None if result.verdict is None else json.loads(result.verdict.to_json()),
    }


def of_verdict(verdict: Verdict) -> dict[str, Any]:
    """Say what `validate` found."""
    validation = json.loads(verdict.to_json())
    return _head("validate", verdict.exit_code) | {"validation": validation}


def written(result: Cut) -> bool:
    """Whether a cut has written its file."""
    return result.output is not None and result.exit_code == 0


def savings(found: Inspection) -> list[tuple[int, float, float]]:
    """Classes kept, share of parameters saved, share of multiply-adds saved; for a few counts."""
    background = found.classes.background is not None
    most = found.classes.count - background
    counts = sorted({n for n in (1, 4, 8, 20) if n < most} or {1})
    return [(n, *found.savings(n + background)) for n in counts]


def _head(command: str, exit_code: int) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "tool": f"onnx-headcut {__version__}",
        "command": command,
        "exit_code": exit_code,
    }
