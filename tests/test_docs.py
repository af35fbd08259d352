"""The reference agrees with the program: docs/cli.md is made from it, and README holds its codes.

``make docs`` (or ``HEADCUT_WRITE_DOCS=1 pytest tests/test_docs.py``) writes it anew.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import typer

import onnx_headcut
from onnx_headcut import cli, console, errors
from onnx_headcut.recipe import keys

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "docs" / "cli.md"
HEADER = """# Command line

<!-- Made by `make docs` from the program itself; a test fails where the two differ. -->

`onnx-headcut COMMAND …`, or `python -m onnx_headcut COMMAND …`. `onnx-headcut --help` and
`onnx-headcut COMMAND --help` say the same in the terminal.
"""


def usage(name: str, command: Any) -> str:
    arguments = [p.written() for p in map(Described, command.params) if p.is_argument]
    required = [f"{p.flag} {p.value}" for p in map(Described, command.params) if p.is_needed]
    return " ".join(["onnx-headcut", name, *arguments, *required, "[OPTIONS]"])


class Described:
    """A parameter of a command, as Typer and click of several versions agree to tell."""

    def __init__(self, parameter: Any) -> None:
        self.inner = parameter
        self.is_argument = parameter.param_type_name == "argument"
        self.is_needed = not self.is_argument and parameter.required
        self.flag = max(parameter.opts, key=len)
        self.value = parameter.metavar or ""
        self.help = parameter.help or ""

    def written(self) -> str:
        return self.value if self.inner.required else f"[{self.value}]"

    def row(self) -> str:
        flag = self.value if self.is_argument else f"{self.flag} {self.value}".strip()
        default = self.inner.default
        notes = " Required." if self.is_needed else ""
        if isinstance(default, str) and default:
            notes = f" Default: `{default}`."
        text = " ".join(self.help.split()).replace("|", "\\|")
        return f"| `{flag}` | {text}{notes} |"


def reference() -> str:
    group: Any = typer.main.get_command(cli.app)
    parts = [HEADER]
    for name, command in group.commands.items():
        shown = [Described(p) for p in command.params if not getattr(p, "hidden", False)]
        rows = [p.row() for p in shown if p.flag != "--help"]
        table = "\n".join(["| | |", "|---|---|", *rows])
        about = command.help.strip()
        parts.append(f"## {name}\n\n{about}\n\n```\n{usage(name, command)}\n```\n\n{table}\n")
    return "\n".join(parts)


def test_the_reference_is_what_the_program_says() -> None:
    if os.environ.get("HEADCUT_WRITE_DOCS"):
        REFERENCE.write_text(reference(), encoding="utf-8")
    assert REFERENCE.read_text(encoding="utf-8") == reference(), "stale: run `make docs`"


def keys_of_recipes() -> str:
    both = "At the top for all variants, or in a variant"
    groups = (
        ("At the top", (*keys.SOURCE, keys.PREPROCESS)),
        (both, (keys.MAP, keys.OUTPUT, *keys.CUT, keys.FIT)),
        (f"`[validation]`: {both[0].lower()}{both[1:]}", (*keys.VALIDATION, *keys.FEEDS)),
        (f"`[report]`: {both[0].lower()}{both[1:]}", keys.REPORT),
        ("`[report]`: at the top", keys.FILES),
    )
    parts = []
    for title, group in groups:
        rows = [f"| `{k.name}` | {k.kind.need} | {k.meaning} |" for k in group]
        parts.append("\n".join([f"### {title}", "", "| key | takes | |", "|---|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def test_the_page_of_recipes_has_every_key() -> None:
    page = ROOT / "docs" / "recipe.md"
    text = page.read_text(encoding="utf-8")
    start = text.index("-->") + len("-->")
    wanted = f"{text[:start]}\n\n{keys_of_recipes()}"
    if os.environ.get("HEADCUT_WRITE_DOCS"):
        page.write_text(wanted, encoding="utf-8")
    assert page.read_text(encoding="utf-8") == wanted, "stale: run `make docs`"


def test_every_exit_code_is_documented() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)}
    known = {e.exit_code for e in vars(errors).values() if isinstance(e, type)}
    assert documented == known | {0, console.BUG, console.INTERRUPTED, console.TERMINATED,
                                  console.BROKEN_PIPE}  # fmt: skip


def test_the_api_is_listed_for_who_looks_around() -> None:
    assert dir(onnx_headcut) == sorted(onnx_headcut.__all__)


@pytest.mark.parametrize("name", onnx_headcut.__all__)
def test_every_public_name_can_be_had_and_says_what_it_is(name: str) -> None:
    value = getattr(onnx_headcut, name)
    assert name == "__version__" or value.__doc__


def test_links_between_the_documents_lead_somewhere() -> None:
    pages = [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")]
    for page in pages:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
