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
    verdict = _verdict()
    drift = {"$ref": "#/$defs/drift_on_pictures"}
    commands = {
        "validate": _object({"validation": verdict, "drift_on_pictures": drift},
                            ("drift_on_pictures",)),
        "check": _object({"models": {"type": "array", "items": _object({
            "model": {"type": "string"}, "results": {"type": "array", "items": _result()}})},
            "rules": {"type": "array"}}, ("models", "rules")),
        "bench": _bench(),
        "doctor": _object({"findings": {"type": "array", "items": _object({
            "level": {"enum": ["ok", "note", "warning", "error"]},
            **{name: {"type": "string"} for name in ("subject", "what", "advice")}})}}),
        "cut": _object({"validation": {"anyOf": [verdict, {"type": "null"}]},
                        "drift_on_pictures": drift}, ("drift_on_pictures",)),
        "inspect": {"type": "object"},
    }  # fmt: skip
    head = {
        "schema": {"const": SCHEMA}, "tool": {"type": "string"}, "exit_code": {"type": "integer"},
        "command": {"enum": list(commands)},
    }  # fmt: skip
    error = {name: {"type": "string"} for name in ("kind", "message", "advice")}
    failure = _object({"schema": {"const": SCHEMA},
                       "error": _object(error | {"exit_code": {"type": "integer"}})})  # fmt: skip
    answers = [
        {"if": {"properties": {"command": {"const": name}}, "required": ["command"]}, "then": rest}
        for name, rest in commands.items()
    ]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "What onnx-headcut prints with --json",
        "anyOf": [_object(head), failure],
        "allOf": answers,
        "$defs": {"drift_on_pictures": _drift()},
    }


def _verdict() -> dict[str, Any]:
    from onnx_headcut.validation.verdict import Verdict  # noqa: PLC0415  (numpy)

    found = of_dataclass(Verdict)
    found["properties"] |= {"schema": {"type": "integer"}, "passed": {"type": "boolean"}}
    return found


def _bench() -> dict[str, Any]:
    from onnx_headcut.bench.measure import Bench  # noqa: PLC0415

    return of_dataclass(Bench)


def _result() -> dict[str, Any]:
    words = {name: {"type": "string"} for name in ("message", "where", "rule", "fix")}
    return _object(words | {"status": {"enum": ["passed", "failed", "skipped"]},
                            "severity": {"enum": ["error", "warning", "note"]}})  # fmt: skip


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
