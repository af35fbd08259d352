"""What surrounds the tool: pytest, pre-commit, GitHub's actions, and documents that are generated.

``make docs`` (or ``HEADCUT_WRITE_DOCS=1 pytest tests/test_ecosystem.py``) writes those anew.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import onnx
import pytest
import yaml
from conftest import Done, run_cli, tiny

from onnx_headcut import cut
from onnx_headcut.check import policy
from onnx_headcut.check.catalogue import RULES
from onnx_headcut.report.schema import document

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
HEADER = """# Checks of model files

<!-- Made by `make docs` from the rules themselves; a test fails where the two differ. -->

`onnx-headcut check MODEL… [--policy FILE]` tests models as files: it needs no original, and runs
them only where a rule demands it. `--explain RULE` says the same as this page. `--json`,
`--junit FILE`, `--sarif FILE` and `--github` tell machines; [ecosystem.md](ecosystem.md) has
examples.

Exit codes: 0 no rule with the severity of an error is broken (with `--strict`, no warning either);
1 one is; 2 wrong usage, a policy with a mistake, or a file that is no model; 4 a provider that the
policy asks for cannot be used.

## A policy

A TOML file with a table for each rule. What it does not mention is as without a policy; unknown
rules and keys are refused. Every rule takes `severity`: `error`, `warning`, `note`, or `off`.

```toml
[model]                     # how models are read
labels = "coco80"           # or a file; without it, what the metadata say

[classes]
exactly = ["person", "car"]
none_of = ["knife"]

[opset]
min = 13
max = 17

[file-size]
max = "5 MB"

[runs]
inputs = 2
provider = "cpu"

[names]
severity = "error"
```

`[model]` takes `labels`, `background`, `heads` and `layout`, as the options of `inspect` do, and
`input_shapes`, such as `{images = [1, 3, 320, 320]}`, for inputs whose size is left open.

## Rules
"""


def check_page() -> str:
    parts = [HEADER]
    for rule in RULES.values():
        when = "always" if rule.always else "where the policy has its table"
        tested = f"*{rule.severity.capitalize()}; tested {when}.*"
        words = (f"### {rule.id}", f"{rule.sentence} {tested}", rule.why, f"Fix: {rule.fix}\n")
        parts.append("\n\n".join(words))
        if rule.parameters:
            rows = [
                f"| `{p.name}` | {p.kind} | {p.meaning} | "
                f"{'' if p.default is None else f'`{json.dumps(p.default)}`'} |"
                for p in rule.parameters
            ]
            table = ["| key | kind | meaning | default |", "|---|---|---|---|", *rows]
            parts.append("\n".join(table) + "\n")
    return "\n".join(parts)


def generated(path: Path, text: str) -> None:
    if os.environ.get("HEADCUT_WRITE_DOCS"):
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text, "stale: run `make docs`"


def blocks(page: str, language: str) -> list[str]:
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_page_of_rules_is_what_the_catalogue_says() -> None:
    generated(DOCS / "check.md", check_page())


def test_the_policy_of_the_page_is_one() -> None:
    for text in blocks("check.md", "toml"):
        assert policy.parse(tomllib.loads(text), DOCS, "the example").chosen


def test_the_schema_is_that_of_the_classes() -> None:
    generated(DOCS / "report-schema.json", json.dumps(document(), indent=1) + "\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What users have: an original, its cut, and a policy."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "models").mkdir()
    onnx.save(tiny(), folder / "models" / "coco.onnx")
    cut(folder / "models" / "coco.onnx", "fox,cat", folder / "models" / "shipped.onnx",
        provider="cpu")  # fmt: skip
    (folder / "headcut.toml").write_text('[classes]\nat_least = ["cat", "fox"]\n')
    return folder


@pytest.mark.parametrize(
    "arguments",
    [
        ["inspect", "models/coco.onnx"],
        ["cut", "models/coco.onnx", "--keep", "cat", "--dry-run"],
        ["validate", "models/coco.onnx", "models/shipped.onnx", "--provider", "cpu"],
        ["check", "models/coco.onnx", "models/shipped.onnx"],
        ["check", "--explain", "runs"],
        ["doctor"],
        ["check", "missing.onnx", "--policy", "missing.toml"],
        ["cut", "models/coco.onnx", "--keep", "nobody", "--output", "o.onnx"],
    ],
)
def test_documents_keep_the_schema(
    arguments: list[str], folder: Path, run_here: Callable[..., Done]
) -> None:
    printed = json.loads(run_here(*arguments, "--json", cwd=folder).out)
    jsonschema.Draft202012Validator(document()).validate(printed)


# ------------------------------------------------------------------------------------ pytest


def run_pytest(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_models.py").write_text(text)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "onnx_headcut.pytest_plugin",
               "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:hypothesispytest",
               "test_models.py"]  # fmt: skip
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_the_fixture_of_the_example_passes_and_fails(folder: Path) -> None:
    [example] = blocks("ecosystem.md", "python")
    wrong = example.replace('provider="cpu"', 'keep="cat,fox", provider="cpu"')
    wrong = re.sub(r"def test_(\w+)", r"def test_wrong_\1", wrong)
    done = run_pytest(folder, f"{example}\n\n{wrong}")
    assert done.returncode == 1
    failed = re.findall(r"^FAILED \S+::(\w+)", done.stdout, re.MULTILINE)
    assert failed
    assert all(name.startswith("test_wrong_") for name in failed), done.stdout
    assert "failed: " in done.stdout
    assert "Traceback" not in done.stdout


def test_the_fixture_is_registered() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "onnx_headcut.pytest_plugin" in project["entry-points"]["pytest11"].values()


# ------------------------------------------------------------------------ pre-commit, actions


def in_path() -> dict[str, str]:
    """An environment in which the command is found, as after an installation."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def test_the_hook_runs_on_the_files_it_asks_for(folder: Path) -> None:
    [hook] = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    [example] = [yaml.safe_load(b) for b in blocks("ecosystem.md", "yaml") if "repos" in b]
    used = example["repos"][0]["hooks"][0]
    assert used["id"] == hook["id"]
    files = [f"models/{n}.onnx" for n in ("coco", "shipped")]
    assert all(re.search(hook["files"], name) for name in files)
    assert not re.search(hook["files"], "models/onnx.md")
    command = [*shlex.split(hook["entry"]), *used["args"], *files]
    done = subprocess.run(command, cwd=folder, env=in_path(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def action(folder: Path, **inputs: str) -> subprocess.CompletedProcess[str]:
    """The action's own step, as a runner would start it."""
    defined = yaml.safe_load((ROOT / "action.yml").read_text())
    step = next(s for s in defined["runs"]["steps"] if s["id"] == "check")
    defaults = {name: str(of.get("default", "")) for name, of in defined["inputs"].items()}
    values = defaults | inputs

    def filled(text: str) -> str:
        return re.sub(r"\$\{\{ inputs\.(\w+) \}\}", lambda m: values[m[1]], text)

    assert "${{" not in step["run"]
    env = {**in_path(), **{name: filled(text) for name, text in step["env"].items()}}
    return subprocess.run(["bash", "-c", step["run"]], cwd=folder, env=env, capture_output=True,
                          text=True, check=False)  # fmt: skip


def test_the_action_checks_annotates_and_leaves_sarif(folder: Path) -> None:
    done = action(folder, models="models/*.onnx", policy="headcut.toml")
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads((folder / "onnx-headcut.sarif").read_text())
    assert report["runs"][0]["results"] == []
    (folder / "strict.toml").write_text('[classes]\nexactly = ["cat"]\n')
    done = action(folder, models="models/shipped.onnx", policy="strict.toml")
    assert done.returncode == 1
    assert "::error file=models/shipped.onnx,title=onnx-headcut classes::" in done.stderr
    assert action(folder, models="none/*.onnx").returncode == 2
    assert action(folder, models="$(touch hacked)").returncode == 2
    assert not (folder / "hacked").exists()


@pytest.mark.parametrize(("version", "installed"), [("", "/source"), ("a==1", "a==1")])
def test_the_action_installs_itself_or_what_is_named(version: str, installed: str) -> None:
    defined = yaml.safe_load((ROOT / "action.yml").read_text())
    step = next(s for s in defined["runs"]["steps"] if s["id"] == "install")
    assert defined["inputs"]["version"]["default"] == ""
    assert set(step["env"]) == {"VERSION", "SOURCE"}
    shown = 'python() { echo "${@: -1}"; }\n' + step["run"]
    env = {**os.environ, "VERSION": version, "SOURCE": "/source"}
    done = subprocess.run(["bash", "-c", shown], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == installed


def test_the_shell_completes_commands() -> None:
    env = {"_ONNX_HEADCUT_COMPLETE": "complete_bash", "COMP_WORDS": "onnx-headcut ch",
           "COMP_CWORD": "1"}  # fmt: skip
    done = run_cli(env=env)
    assert (done.code, done.out.split(), done.err) == (0, ["check"], "")
