"""What tests of files share: what a model holds and where its data lie."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import onnx
import pytest
from onnx import numpy_helper

from onnx_headcut.graph import model as files
from onnx_headcut.storage import external

if TYPE_CHECKING:
    from pathlib import Path

linux = pytest.mark.skipif(sys.platform != "linux", reason="uses what Linux has")
KEEP = "dog,hen"


def weights(path: Path) -> dict[str, bytes]:
    model = onnx.load(path)
    return {t.name: numpy_helper.to_array(t).tobytes() for t in model.graph.initializer}


def locations(path: Path) -> set[str]:
    model = onnx.load(path, load_external_data=False)
    found = external.outside(files.all_tensors(model))
    return {e.value for t in found for e in t.external_data if e.key == "location"}


def values(model: onnx.ModelProto) -> list[bytes]:
    arrays = map(numpy_helper.to_array, files.all_tensors(model))
    return [repr(a.tolist()).encode() if a.dtype.hasobject else a.tobytes() for a in arrays]
