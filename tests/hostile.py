"""What tests of hostile models share: changes to the tiny SSD, and that they are refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import onnx_headcut as hc

if TYPE_CHECKING:
    from pathlib import Path

    import onnx
    from onnx import TensorProto


KEEP = "dog,hen"


def tensor(model: onnx.ModelProto, name: str) -> TensorProto:
    return next(t for t in model.graph.initializer if t.name == name)


def node(model: onnx.ModelProto, output: str) -> onnx.NodeProto:
    return next(n for n in model.graph.node if output in n.output)


def refused(model: onnx.ModelProto, folder: Path) -> str:
    """The message of the error that a model gets; nothing else may come of it."""
    path = folder / "hostile.onnx"
    path.write_bytes(model.SerializeToString())
    before = set(folder.iterdir())
    with pytest.raises(hc.HeadcutError) as caught:
        hc.cut(path, KEEP, folder / "out.onnx", validation=False)
    assert caught.value.exit_code in {2, 3}
    assert set(folder.iterdir()) == before
    return str(caught.value)
