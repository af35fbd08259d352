"""Policies: which rules are tested, with which parameters; a TOML file with a table for each rule.

What a policy does not mention is as without one. Unknown rules, keys and wrong types are refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnx_headcut import toml
from onnx_headcut.check.catalogue import RULES, Parameter, Rule
from onnx_headcut.errors import InputError, UsageError

if TYPE_CHECKING:
    from onnx_headcut.report.results import Severity

_LEVELS = ("error", "warning", "note", "off")
_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20,
          "gib": 2**30}  # fmt: skip
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([a-zA-Z]*)")
_MODEL = (
    Parameter("labels", "text", "class names: a preset or a file, as --labels takes them"),
    Parameter("background", "text", "the background's column, as --background takes it"),
    Parameter("heads", "names", "nodes that make class scores, as --head takes them"),
    Parameter("layout", "text", "how anchors and classes share channels, as --layout takes it"),
    Parameter("input_shapes", "shapes", "shapes of inputs whose size is left open"),
)


@dataclass(frozen=True)
class Chosen:
    """A rule that is tested, how bad a breach is, and its parameters by name."""

    rule: Rule
    severity: Severity
    parameters: dict[str, Any]


@dataclass(frozen=True)
class Policy:
    """The rules that are tested, and how models are read; ``folder`` is where paths start."""

    chosen: tuple[Chosen, ...]
    model: dict[str, Any] = field(default_factory=dict)
    folder: Path = Path()


def read(path: Path | None) -> Policy:
    """Read a policy, or give the default one; raises InputError with the nearest right words."""
    if path is None:
        return parse({}, Path(), "the default policy")
    return parse(toml.read(path), path.parent, str(path))


def parse(data: dict[str, Any], folder: Path, name: str) -> Policy:
    """Check a policy's tables and fill in what they leave open."""
    toml.demand_known(data, [*RULES, "model"], name, "rule")
    for key, table in data.items():
        if not isinstance(table, dict):
            raise InputError(f"{name}: {key} is no table", advice=f"Write [{key}] above its keys.")
    model = _values(data.get("model", {}), _MODEL, f"{name}, [model]")
    chosen = [c for rule in RULES.values() if (c := _choose(rule, data.get(rule.id), name))]
    if model["layout"] is not None:
        from onnx_headcut.heads.layout import Layout  # noqa: PLC0415  (numpy)

        try:
            Layout.parse(model["layout"])
        except UsageError as error:
            raise InputError(f"{name}, [model]: {error.what}", advice=error.advice) from None
    return Policy(tuple(chosen), {k: v for k, v in model.items() if v is not None}, folder)


def _choose(rule: Rule, table: dict[str, Any] | None, name: str) -> Chosen | None:
    where = f"{name}, [{rule.id}]"
    if table is None:
        defaults = {p.name: p.default for p in rule.parameters}
        return Chosen(rule, rule.severity, defaults) if rule.always else None
    level = table.get("severity", rule.severity)
    if level not in _LEVELS:
        raise InputError(f"{where}: severity {level!r}", advice=f"Say {', '.join(_LEVELS)}.")
    rest = {key: value for key, value in table.items() if key != "severity"}
    values = _values(rest, rule.parameters, where)
    return None if level == "off" else Chosen(rule, level, values)


def _values(table: dict[str, Any], parameters: tuple[Parameter, ...], where: str) -> dict[str, Any]:
    toml.demand_known(table, [*(p.name for p in parameters), "severity"], where, "key")
    return {
        p.name: _value(p, table[p.name], where) if p.name in table else p.default for p in parameters
    }


_NEEDED = {
    "names": "a list of strings",
    "flag": "true or false",
    "text": "a string",
    "shapes": "a table, such as {images = [1, 3, 320, 320]}",
    "count": "a whole number",
    "size": 'bytes, or such as "5 MB"',
}


def _is_shape(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(type(n) is int and n > 0 for n in value)


def _value(parameter: Parameter, value: object, where: str) -> object:
    kind, fits = parameter.kind, False
    if kind == "names":
        fits = isinstance(value, list) and all(isinstance(item, str) for item in value)
    elif kind == "flag":
        fits = isinstance(value, bool)
    elif kind == "text":
        fits = isinstance(value, str)
    elif kind == "shapes":
        fits = isinstance(value, dict) and all(map(_is_shape, value.values()))
    elif isinstance(value, int) and not isinstance(value, bool):
        fits = value >= 0
    elif kind == "size" and isinstance(value, str):
        match = _SIZE.fullmatch(value.strip())
        if match and match[2].lower() in _UNITS:
            return int(float(match[1]) * _UNITS[match[2].lower()])
    if not fits:
        raise InputError(
            f"{where}: {parameter.name} is {value!r}", advice=f"It has to be {_NEEDED[kind]}."
        )
    return value
