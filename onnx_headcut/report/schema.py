"""A JSON Schema of what ``--json`` prints, made from the very classes that are printed.

docs/report-schema.json is written from it; a test fails where the two differ.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, Literal, get_args, get_origin

from onnx_headcut.console import SCHEMA

_PLAIN: dict[object, dict[str, Any]] = {
    int: {"type": "integer"},
    # Numbers that JSON does not know are written as strings.
    float: {"anyOf": [{"type": "number"}, {"enum": ["nan", "inf", "-inf"]}]},
    str: {"type": "string"},
    bool: {"type": "boolean"},
    Any: {},
    type(None): {"type": "null"},
}


def of_type(kind: Any) -> dict[str, Any]:
    """Describe a type: plain data, tuples, dicts, unions, literals and dataclasses of them."""
    if kind in _PLAIN:
        return _PLAIN[kind]
    if dataclasses.is_dataclass(kind):
        return of_dataclass(kind)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (types.UnionType, typing.Union):
        return {"anyOf": [of_type(argument) for argument in arguments]}
    if origin in (list, tuple, frozenset):
        return {"type": "array", "items": of_type(arguments[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": of_type(arguments[1])}
    raise TypeError(f"no schema for {kind}")


def of_dataclass(kind: Any) -> dict[str, Any]:
    """Describe a dataclass: all its fields are there; further keys may come."""
    hints = typing.get_type_hints(kind, localns=_names())
    fields = {field.name: of_type(hints[field.name]) for field in dataclasses.fields(kind)}
    return _object(fields)


def _object(properties: dict[str, Any], optional: tuple[str, ...] = ()) -> dict[str, Any]:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required}


def document() -> dict[str, Any]:
    """Give the schema of every document, by its ``command``; an ``error`` has its own."""
    drift = {"$ref": "#/$defs/drift_on_pictures"}
    commands = {
        "validate": _object({"validation": _verdict(), "drift_on_pictures": drift},
                            ("drift_on_pictures",)),
        "check": _check(),
        "bench": _object({"feed": _WORD, **_bench()["properties"]}),
        "doctor": _object({"findings": _list(_object({
            "level": {"enum": ["ok", "note", "warning", "error"]},
            **_words("subject", "what", "advice")}))}),
        "cut": {"anyOf": [{"$ref": "#/$defs/cut"}, _many("models", "model"),
                          _many("variants", "variant", "recipe", "source")]},
        "inspect": _inspection(),
    }  # fmt: skip
    error = _object(_words("kind", "message", "advice", "node", "op") | {
        "path": _list(_WORD), "exit_code": _WHOLE}, ("node", "op", "path"))  # fmt: skip
    answers = [
        {"if": {"properties": {"command": {"const": name}}, "required": ["command"]}, "then": rest}
        for name, rest in commands.items()
    ]
    head = {
        "schema": {"const": SCHEMA}, "tool": _WORD, "command": {"enum": list(commands)},
        "exit_code": _WHOLE,
    }  # fmt: skip
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "What onnx-headcut prints with --json",
        "anyOf": [_object(head), {"$ref": "#/$defs/failure"}],
        "allOf": answers,
        "$defs": {
            "failure": _object({"schema": {"const": SCHEMA}, "error": error}),
            "drift_on_pictures": _drift(),
            "cut": _cut(),
            "class_map": _class_map(),
        },
    }


_WORD, _WHOLE, _NUMBER, _FLAG = (_PLAIN[kind] for kind in (str, int, float, bool))


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _or_null(kind: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [kind, {"type": "null"}]}


def _words(*names: str) -> dict[str, Any]:
    return dict.fromkeys(names, _WORD)


def _many(key: str, name: str, *beside: str) -> dict[str, Any]:
    """Many cuts in one document: each has its name, and is that of its cut or of its error."""
    each = {"anyOf": [{"$ref": "#/$defs/cut"}, {"$ref": "#/$defs/failure"}]}
    return _object(_words(*beside) | {key: _list({**_object({name: _WORD}), **each})})


def _check() -> dict[str, Any]:
    result = _object(_words("message", "where", "rule", "fix") | {
        "status": {"enum": ["passed", "failed", "skipped"]}, "severity": _SEVERITY})  # fmt: skip
    parameter = _object(_words("name", "kind", "meaning") | {"default": {}})
    rule = _object(_words("id", "sentence", "why", "fix") | {
        "severity": _SEVERITY, "needs_policy": _FLAG, "parameters": _list(parameter)})  # fmt: skip
    models = _object({"model": _WORD, "results": _list(result)})
    return {"anyOf": [_object({"models": _list(models)}), _object({"rules": _list(rule)})]}


_SEVERITY = {"enum": ["error", "warning", "note"]}


def _inspection() -> dict[str, Any]:
    from onnx_headcut.classes import Classes  # noqa: PLC0415  (onnx)
    from onnx_headcut.figures import Figures, Head  # noqa: PLC0415
    from onnx_headcut.tracing.plan import OutputClasses  # noqa: PLC0415

    share = {"parameters": _NUMBER, "macs": _NUMBER}
    return _object({
        "heads": _list(of_dataclass(Head)), "activation": _WORD, "evidence": _WORD,
        "classes": of_dataclass(Classes), "outputs": _list(of_dataclass(OutputClasses)),
        "figures": of_dataclass(Figures), "head_share": _object(share),
        "savings": _list(_object({"classes": _WHOLE} | share)),
        "example_shapes": {"type": "object", "additionalProperties": _list(_WHOLE)},
    })  # fmt: skip


def _cut() -> dict[str, Any]:
    from onnx_headcut.classes import Classes  # noqa: PLC0415  (onnx)
    from onnx_headcut.figures import Figures  # noqa: PLC0415
    from onnx_headcut.tracing.plan import Step  # noqa: PLC0415

    classes, figures = of_dataclass(Classes), of_dataclass(Figures)
    return _object({
        "schema": {"const": SCHEMA}, "tool": _WORD, "command": {"const": "cut"}, "exit_code": _WHOLE,
        "dry_run": _FLAG, "output": _or_null(_WORD), "keep": _list(_WHOLE),
        "scores": {"enum": ["renormalized", "exact"]}, "merge": {"enum": ["sum", "max", None]},
        "map": _or_null({"$ref": "#/$defs/class_map"}),
        "classes": _object({"before": classes, "after": classes}),
        "figures": _object({"before": figures, "after": _or_null(figures)}),
        "plan": _list(of_dataclass(Step)), "notes": _list(_WORD), "fitted": _or_null(_fitted()),
        "validation": _or_null(_verdict()),
        "drift_on_pictures": {"$ref": "#/$defs/drift_on_pictures"},
    }, ("drift_on_pictures",))  # fmt: skip


def _class_map() -> dict[str, Any]:
    term = {"type": "array", "prefixItems": [_WHOLE, _NUMBER], "minItems": 2, "maxItems": 2}
    row = _object({
        "template": _WHOLE, "terms": _list(term), "merged": _FLAG, "grown": _FLAG,
        "start": _object({"kind": _WORD, "std": _NUMBER}),
    }, ("merged", "grown", "start"))  # fmt: skip
    return _object({
        "count": _WHOLE, "background": _or_null(_WHOLE), "rows": _list(row), "seed": _WHOLE,
        "prior": _NUMBER, "merge": {"enum": ["sum", "max", None]},
    })  # fmt: skip


def _fitted() -> dict[str, Any]:
    errors = _object(dict.fromkeys(("rms", "most", "background"), _NUMBER))
    return _object({
        "ridge": _or_null(_NUMBER), "pictures": _WHOLE, "held_out": _WHOLE,
        "shown": {"type": "object", "additionalProperties": _WHOLE}, "before": errors,
        "after": errors, "combined": _list(_WORD), "sha256": _WORD,
    })  # fmt: skip


def _verdict() -> dict[str, Any]:
    from onnx_headcut.validation.verdict import Verdict  # noqa: PLC0415  (numpy)

    found = of_dataclass(Verdict)
    found["properties"] |= {"schema": {"type": "integer"}, "passed": {"type": "boolean"}}
    return found


def _bench() -> dict[str, Any]:
    from onnx_headcut.bench.measure import Bench  # noqa: PLC0415

    return of_dataclass(Bench)


def _drift() -> dict[str, Any]:
    from onnx_headcut.drift.measure import ClassDrift  # noqa: PLC0415

    number, whole = _PLAIN[float], _PLAIN[int]
    part = {"anyOf": [number, {"type": "null"}]}
    names = {"type": "array", "items": {"type": "string"}}
    return _object({
        "pictures": names, "annotated": whole, "threshold": number,
        "score_change": _object({"mean": number, "largest": number}),
        "detections": {"type": "object", "additionalProperties": whole},
        "precision": {"type": "object", "additionalProperties": part},
        "classes": {"type": "array", "items": of_dataclass(ClassDrift)}, "notes": names,
    })  # fmt: skip


def _names() -> dict[str, Any]:
    """Give names that annotations use and that are imported for type checkers only."""
    from onnx_headcut.validation.claims import Findings  # noqa: PLC0415

    return {"Findings": Findings}
