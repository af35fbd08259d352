"""What tests of the runtime run: two nodes, and what they are fed."""

from __future__ import annotations

import numpy as np
from onnx import parser

from onnx_headcut.errors import ProviderError
from onnx_headcut.validation.runtime import open_session

HEAD = '<ir_version: 8, opset_import: ["": 17]>'
RELU = parser.parse_model(f"{HEAD} g (float[1,3] x) => (float[1,3] y) {{ a = Neg(x) y = Relu(a) }}")
FEED = {"x": np.array([[1, -2, 3]], np.float32)}


def cuda_works() -> bool:
    try:
        return open_session(RELU, provider="cuda").provider == "cuda"
    except ProviderError:
        return False
