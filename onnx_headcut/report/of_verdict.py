"""A verdict as results, for JUnit, SARIF and annotations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx_headcut.report.results import Result, Topic

if TYPE_CHECKING:
    from onnx_headcut.console import Failure
    from onnx_headcut.validation.verdict import Drift, Verdict

EQUAL = Topic(
    "equal", "error",
    "The cut's outputs equal those of the original with the dropped classes masked.",
    "Cut the original again with onnx-headcut, and ship that file.",
)  # fmt: skip
EVIDENCE = Topic(
    "evidence", "error",
    "Every kept class was compared.",
    "Give inputs on which the classes named are found: --image FILE, or --input FILE.npz.",
)  # fmt: skip
STRUCTURE = Topic(
    "structure", "error",
    "What the cut does not concern is byte-identical, and changed weights are selections.",
    "Do not edit a cut model; change the original and cut it again.",
)  # fmt: skip
DRIFT = Topic(
    "drift", "note",
    "Scores mean the same as in the original with all its classes.",
    "Choose the score threshold anew on pictures: softmax scores rise when classes go.",
)  # fmt: skip
CUT = Topic(
    "cut", "error",
    "The cut can be made.",
    "Read the message: it names the node or the option, and the way out.",
)  # fmt: skip


def refused(failure: Failure, model: str) -> Result:
    """Turn a cut that could not be made into a result."""
    text = f"{failure.what}. {failure.advice}" if failure.advice else failure.what
    return Result(model, CUT, "failed", text, CUT.severity, str(failure.details.get("node", "")))


def results(verdict: Verdict, model: str) -> list[Result]:
    """Turn a verdict on ``model`` into results: one a reason, and what passed."""
    found = [
        Result(model, topic, "failed", reason.removeprefix("structure: "), topic.severity)
        for reason in verdict.reasons
        for topic in [_topic(reason, verdict)]
    ]
    told = {result.topic.id for result in found}
    rows = [row for row in verdict.outputs if row.runs]
    compared = f"{verdict.values:,} values in {verdict.runs} runs{verdict.widened}"
    if EQUAL.id not in told and rows:
        found.append(Result(model, EQUAL, "passed", f"{compared} are equal", "error"))
    if EVIDENCE.id not in told and verdict.status != "failed":
        classes = f"{len(verdict.classes)} kept columns were compared"
        found.append(Result(model, EVIDENCE, "passed", classes, "error"))
    if STRUCTURE.id not in told and verdict.structure is not None:
        found.append(Result(model, STRUCTURE, "passed", verdict.structure.line, "error"))
    for drift in verdict.drift:
        if drift.max_change or drift.gained or drift.lost:
            text = "; ".join(filter(None, [_moved(drift), drift.words]))
            found.append(Result(model, DRIFT, "failed", text, "note", drift.output))
    return found


def _moved(drift: Drift) -> str:
    return f"scores move by up to {drift.max_change:.3g}" if drift.max_change else ""


def _topic(reason: str, verdict: Verdict) -> Topic:
    if reason.startswith("structure: "):
        return STRUCTURE
    doubtful = verdict.status == "inconclusive" or "never seen" in reason
    return EVIDENCE if doubtful else EQUAL
