"""``onnx-headcut doctor``: what there is to run models on. Typer reads annotations at run time."""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onnx_headcut import __version__
from onnx_headcut.console import SCHEMA, Answer, printable, steps

if TYPE_CHECKING:
    from rich.console import Console

_STYLES = {"ok": "green", "note": "", "warning": "yellow", "error": "bold red"}


def doctor(
    provider: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="End with exit code 4 if this one cannot be used."),
    ] = None,
    json: Annotated[  # noqa: FBT002
        bool, typer.Option("--json", help="Print one JSON document, also for errors.")
    ] = False,
) -> Answer:
    """Say on which providers models truly run here, and what would mend the others."""
    with steps() as step:
        step("trying providers")
        from onnx_headcut.errors import ProviderError  # noqa: PLC0415
        from onnx_headcut.validation import choosing  # noqa: PLC0415  (not for --help)

        findings = [*_surroundings(), *map(_plain, choosing.diagnose())]
        broken = any(finding["level"] == "error" for finding in findings)
        if provider is not None:
            try:
                chosen = choosing.usable(provider)
                findings.append(_finding("ok", f"--provider {provider}", f"runs on {chosen}"))
            except ProviderError as error:
                broken = True
                found = _finding("error", f"--provider {provider}", error.what, error.advice)
                findings.append(found)
    code = 4 if broken else 0
    document = {
        "schema": SCHEMA, "tool": f"onnx-headcut {__version__}", "command": "doctor",
        "exit_code": code, "findings": findings,
    }  # fmt: skip
    return Answer(document, lambda to: _show(to, findings), code, json)


def _surroundings() -> list[dict[str, str]]:
    import platform  # noqa: PLC0415  (30 ms that --help need not take)
    from importlib import metadata  # noqa: PLC0415

    python = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    found = [_finding("ok", "python", python)]
    packages = ("onnx", "numpy")
    found += [_finding("ok", name, f"version {metadata.version(name)}") for name in packages]
    if sys.maxsize < 2**32:
        found.append(_finding("warning", "python", "is 32-bit", "Install a 64-bit Python."))
    return found


def _plain(finding: Any) -> dict[str, str]:
    return _finding(finding.level, finding.subject, finding.what, finding.advice)


def _finding(level: str, subject: str, what: str, advice: str = "") -> dict[str, str]:
    return {"level": level, "subject": subject, "what": what, "advice": advice}


def _show(to: "Console", findings: list[dict[str, str]]) -> None:
    for finding in findings:
        text = printable(f"{finding['level']:8}{finding['subject']}: {finding['what']}")
        to.print(text, style=_STYLES[finding["level"]])
        for line in finding["advice"].splitlines():
            to.print(f"        {printable(line)}")
