"""Which provider runs models here, and what keeps the others from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onnx_headcut.errors import ProviderError, UsageError
from onnx_headcut.validation import cuda
from onnx_headcut.validation.cuda import Finding
from onnx_headcut.validation.providers import (
    FULL_NAMES,
    PROVIDERS,
    how_to_get,
    import_runtime,
    probe,
    short_name,
)

if TYPE_CHECKING:
    from collections.abc import Sequence


def usable(provider: str) -> str:
    """Name the provider that ``provider`` stands for here; raises ProviderError, UsageError."""
    return choose(import_runtime(), provider)[0]


def choose(ort: Any, provider: str) -> tuple[str, str]:
    """Choose the provider: its short name, and for ``auto`` why."""
    if provider not in PROVIDERS:
        raise UsageError(
            f"there is no provider {provider!r}", advice=f"Providers: {', '.join(PROVIDERS)}."
        )
    if provider == "cpu":
        return "cpu", ""
    if provider == "auto":
        broken = cuda.findings()
        if not broken:
            return "cuda", "auto: CUDA works"
        return "cpu", f"auto: the CPU, as CUDA is not usable ({broken[0].what})"
    if provider in ("cuda", "tensorrt"):
        broken = cuda.findings()
        asked = "CUDA was"
        if provider == "tensorrt":
            broken, asked = (*broken, *cuda.tensorrt_findings()), "TensorRT was"
        if broken:
            raise ProviderError(
                f"{asked} asked for and cannot be used: {_sentence(broken)}", advice=_advice(broken)
            )
        if provider == "cuda":
            return "cuda", ""
    if FULL_NAMES[provider] not in ort.get_available_providers():
        raise ProviderError(
            f"{provider} was asked for, and this build of onnxruntime {ort.__version__} has"
            f" {', '.join(short_name(name) for name in ort.get_available_providers())} only",
            advice=how_to_get(provider),
        )
    problem = probe(provider)
    if problem:
        raise ProviderError(
            f"{provider} was asked for and cannot be used: {problem}",
            advice=how_to_get(provider),
        )
    return provider, ""


def _sentence(findings: Sequence[Finding]) -> str:
    return "; ".join(finding.what for finding in findings)


def _advice(findings: Sequence[Finding]) -> str:
    """Say what to do, line by line; not a line that another one begins with."""
    lines = list(dict.fromkeys(item.advice for item in findings if item.advice))
    return "\n".join(x for x in lines if not any(y != x and y.startswith(x) for y in lines))


def diagnose() -> list[Finding]:
    """Say what there is to run models on, and what keeps the rest from working.

    Levels: "error" where nothing can run, "warning" where an installed build cannot use CUDA,
    "note" for what is merely absent. Never raises for a broken installation: that is a finding.
    """
    try:
        ort = import_runtime()
    except ProviderError as error:
        return [Finding("error", "onnxruntime", error.what, error.advice), *cuda.package_findings()]
    built = f", built for CUDA {cuda.built_for(ort)}" if cuda.built_for(ort) else ""
    available = [short_name(name) for name in ort.get_available_providers()]
    findings = [
        Finding("ok", "onnxruntime", f"version {ort.__version__}{built}"),
        Finding("ok", "providers in this build", ", ".join(available)),
        *cuda.package_findings(),
    ]
    for name in available:
        if name == "cuda":
            findings += cuda.report(ort)
        elif name in FULL_NAMES:
            problem = probe(name)
            if problem and name == "tensorrt" and cuda.tensorrt_findings():
                problem = _sentence(cuda.tensorrt_findings())
            findings.append(
                Finding("note", name, f"not usable: {problem}", how_to_get(name))
                if problem
                else Finding("ok", name, "runs a test model")
            )
    if "cuda" not in available:
        findings.append(Finding("note", "cuda", "not in this build", how_to_get("cuda")))
    return findings
