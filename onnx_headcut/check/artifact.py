"""Tests of a model as a file: format, operators, shapes, sizes. None of them runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import checker, defs, helper, shape_inference

from onnx_headcut.check.subject import Finding, NotTested, title
from onnx_headcut.check.table import tests
from onnx_headcut.errors import InputError
from onnx_headcut.graph import model as files
from onnx_headcut.graph.facts import of_type
from onnx_headcut.graph.walking import all_nodes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnx_headcut.check.subject import Subject

_PLAIN = ("", "ai.onnx")
_SMALL = 4096
"""Bytes up to which a tensor's data may matter to shapes."""


@tests("readable")
def _readable(_: Subject, __: dict[str, Any]) -> Iterator[Finding]:
    yield from ()  # a subject that exists was read


@tests("valid")
def _valid(subject: Subject, _: dict[str, Any]) -> Iterator[Finding]:
    try:
        checker.check_model(str(subject.path))
    except (checker.ValidationError, ValueError, RuntimeError) as error:
        yield " ".join(str(error).split())[:300], ""


@tests("external-data")
def _external_data(subject: Subject, _: dict[str, Any]) -> Iterator[Finding]:
    try:
        subject.look_outside()
    except InputError as error:
        yield error.what, ""


@tests("opset")
def _opset(subject: Subject, wanted: dict[str, Any]) -> Iterator[Finding]:
    versions = [o.version for o in subject.proto.opset_import if o.domain in _PLAIN]
    low, high = wanted["min"], wanted["max"] or defs.onnx_opset_version()
    for version in versions:
        if not low <= version <= high:
            yield f"the opset is {version}, and {low} to {high} is allowed", ""
    if not versions:
        yield "no opset of the default domain is stated", ""


@tests("ir")
def _ir(subject: Subject, wanted: dict[str, Any]) -> Iterator[Finding]:
    version, low = subject.proto.ir_version, wanted["min"]
    high = wanted["max"] or onnx.IR_VERSION
    if not low <= version <= high:
        yield f"the IR version is {version}, and {low} to {high} is allowed", ""


@tests("domains")
def _domains(subject: Subject, wanted: dict[str, Any]) -> Iterator[Finding]:
    local = {f.domain for f in subject.proto.functions}
    allowed = {*_PLAIN, *local, *(wanted["allowed"] or ())}
    seen: set[str] = set()
    for node in all_nodes(subject.proto):
        if node.domain not in allowed | seen:
            seen.add(node.domain)
            yield f"operator {node.op_type} is of domain {node.domain}", title(node)


@tests("ops")
def _ops(subject: Subject, wanted: dict[str, Any]) -> Iterator[Finding]:
    first: dict[str, str] = {}
    for node in all_nodes(subject.proto):
        first.setdefault(node.op_type, title(node))
    denied = set(wanted["denied"] or ())
    if wanted["allowed"] is not None:
        denied |= first.keys() - set(wanted["allowed"])
    for op in sorted(denied & first.keys()):
        yield f"operator {op} is not allowed", first[op]


@tests("file-size")
def _file_size(subject: Subject, wanted: dict[str, Any]) -> Iterator[Finding]:
    limit = _limit(wanted)
    if subject.size > limit:
        yield f"{subject.size:,} bytes, and {limit:,} are allowed", ""


@tests("parameters")
def _parameters(subject: Subject, wanted: dict[str, Any]) -> Iterator[Finding]:
    limit = _limit(wanted)
    tensors = files.all_tensors(subject.proto)
    count = sum(int(np.prod(t.dims)) for t in tensors if len(t.dims))
    if count > limit:
        yield f"{count:,} parameters, and {limit:,} are allowed", ""


def _limit(wanted: dict[str, Any]) -> int:
    if wanted["max"] is None:
        raise NotTested("the policy says no max")
    return int(wanted["max"])


@tests("shapes")
def _shapes(subject: Subject, _: dict[str, Any]) -> Iterator[Finding]:
    graph = subject.proto.graph
    declared = {v.name: of_type(v.type).shape for v in [*graph.value_info, *graph.output]}
    try:
        inferred = shape_inference.infer_shapes(_bare(subject.proto), data_prop=True).graph
    except (shape_inference.InferenceError, RuntimeError, ValueError) as error:
        raise NotTested(f"shapes cannot be inferred: {str(error)[:200]}") from None
    for value in [*inferred.value_info, *inferred.output]:
        was, now = declared.get(value.name), of_type(value.type).shape
        if was is None or now is None:
            continue
        differ = len(was) != len(now) or any(
            None not in (a, b) and a != b for a, b in zip(was, now, strict=True)
        )
        if differ:
            yield f"{_dims(was)} is declared, and the graph gives {_dims(now)}", value.name


def _bare(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Copy the model without declared shapes behind its inputs and without weights' data."""
    graph = onnx.GraphProto(name=proto.graph.name or "graph")
    graph.node.extend(proto.graph.node)
    graph.input.extend(proto.graph.input)
    for output in proto.graph.output:
        new = graph.output.add(name=output.name)
        new.type.tensor_type.elem_type = output.type.tensor_type.elem_type
    for tensor in proto.graph.initializer:
        if tensor.ByteSize() <= _SMALL:
            graph.initializer.append(tensor)
        else:
            kind = helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))
            graph.input.add(name=tensor.name).type.CopyFrom(kind)
    bare = onnx.ModelProto(ir_version=proto.ir_version, graph=graph)
    bare.opset_import.extend(proto.opset_import)
    bare.functions.extend(proto.functions)
    return bare


def _dims(shape: tuple[int | None, ...]) -> str:
    return f"[{', '.join('?' if d is None else str(d) for d in shape)}]"
