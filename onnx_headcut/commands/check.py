"""``onnx-headcut check``: models against a policy, for CI. Typer reads annotations at run time."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onnx_headcut import __version__
from onnx_headcut.commands.reading import Plugin
from onnx_headcut.console import SCHEMA, Answer, printable, steps
from onnx_headcut.errors import UsageError
from onnx_headcut.report.files import Wanted

if TYPE_CHECKING:
    from rich.console import Console

    from onnx_headcut.check.catalogue import Rule
    from onnx_headcut.check.run import Report

Junit = Annotated[Path | None, typer.Option(metavar="FILE", help="Write JUnit XML, too.")]
Sarif = Annotated[Path | None, typer.Option(metavar="FILE", help="Write SARIF 2.1.0, too.")]
Github = Annotated[
    bool, typer.Option("--github", help="Write annotations for GitHub's workflows to stderr.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document, also for errors.")]


def check(  # noqa: PLR0913, PLR0917  (options)
    models: Annotated[
        list[Path] | None, typer.Argument(metavar="MODEL…", help="Detectors, .onnx files.")
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What is demanded, a TOML file; see docs/check.md."),
    ] = None,
    explain: Annotated[
        str | None,
        typer.Option(metavar="RULE", help="Explain a rule, or all of them: all. Reads no model."),
    ] = None,
    plugin: Plugin = None,
    strict: Annotated[  # noqa: FBT002
        bool, typer.Option("--strict", help="Let warnings fail, too.")
    ] = False,
    junit: Junit = None,
    sarif: Sarif = None,
    github: Github = False,  # noqa: FBT002
    json: Json = False,  # noqa: FBT002
) -> Answer:
    """Check models for CI: classes, names, head, format, operators, budgets. Needs no original."""
    if explain is not None:
        rules = _explained(explain)
        document = _head(0) | {"rules": [_data(rule) for rule in rules]}
        return Answer(document, lambda to: _show_rules(to, rules), as_json=json)
    if not models:
        raise UsageError("no model is named", advice="Write: onnx-headcut check MODEL…")
    wanted = Wanted(junit, sarif, github)
    wanted.check()
    with steps() as step:
        step("reading")
        from onnx_headcut.check import policy as policies  # noqa: PLC0415  (not for --help)
        from onnx_headcut.check.run import check as test  # noqa: PLC0415

        report = test(models, policies.read(policy), strict=strict, plugins=tuple(plugin or ()),
                      progress=step)  # fmt: skip
    wanted.write(report.results, "check")
    document = _head(report.exit_code) | {"models": report.to_json()}
    return Answer(document, lambda to: _show(to, report), report.exit_code, json)


def _head(exit_code: int) -> dict[str, Any]:
    tool = f"onnx-headcut {__version__}"
    return {"schema": SCHEMA, "tool": tool, "command": "check", "exit_code": exit_code}


def _explained(name: str) -> "list[Rule]":
    from onnx_headcut.check.catalogue import RULES  # noqa: PLC0415  (a cut does not wait for it)

    if name == "all":
        return list(RULES.values())
    if name not in RULES:
        raise UsageError(f"there is no rule {name!r}", advice=f"Rules: {', '.join(RULES)}, or all.")
    return [RULES[name]]


def _data(rule: "Rule") -> dict[str, Any]:
    parameters = [
        {"name": p.name, "kind": p.kind, "meaning": p.meaning, "default": p.default}
        for p in rule.parameters
    ]
    return {
        "id": rule.id,
        "severity": rule.severity,
        "sentence": rule.sentence,
        "why": rule.why,
        "fix": rule.fix,
        "needs_policy": not rule.always,
        "parameters": parameters,
    }


def _show_rules(to: "Console", rules: "list[Rule]") -> None:
    for rule in rules:
        to.print(f"{rule.id} ({rule.severity}): {rule.sentence}", style="bold")
        to.print(f"  Why: {rule.why}")
        to.print(f"  Fix: {rule.fix}")
        when = "always" if rule.always else f"where a policy has [{rule.id}]"
        to.print(f"  Tested: {when}")
        for p in rule.parameters:
            default = "" if p.default is None else f" (default {p.default})"
            to.print(f"  {p.name} ({p.kind}): {p.meaning}{default}")
        to.print()


def _show(to: "Console", report: "Report") -> None:
    styles = {"error": "bold red", "warning": "yellow", "note": "dim"}
    for model in dict.fromkeys(r.model for r in report.results):
        found = [r for r in report.results if r.model == model]
        to.print(printable(model), style="bold")
        for r in [r for r in found if r.status == "failed"]:
            where = f" ({r.where})" if r.where else ""
            to.print(f"  {r.severity} {r.topic.id}: {printable(r.message + where)}",
                     style=styles[r.severity])  # fmt: skip
            to.print(f"    {r.topic.fix}")
        for r in [r for r in found if r.status == "skipped"]:
            to.print(f"  not tested {r.topic.id}: {printable(r.message)}", style="dim")
        passed = [r.topic.id for r in found if r.status == "passed"]
        if passed:
            to.print(f"  passed: {', '.join(passed)}", style="green")
