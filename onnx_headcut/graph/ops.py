"""Families of ops that several modules go by, by what they do to scores on their way from a head.

An op that works element by element on scores needs its name here, in `UNARY` or `BROADCASTING`, and no
rule of its own.
"""

from __future__ import annotations

CONTROL = frozenset({"If", "Loop", "Scan"})
"""Ops with bodies."""

UNARY = (
    "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitwiseNot", "Cast", "CastLike",
    "Ceil", "Celu", "Clip", "Cos", "Cosh", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid",
    "HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu", "Log", "Mish", "Neg", "Not",
    "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus",
    "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu", "Dropout",
)  # fmt: skip
"""Ops that work element by element on their first input; the others are parameters of theirs."""

BROADCASTING = (
    "Add", "And", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal", "Greater",
    "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul", "Or", "Pow",
    "PRelu", "Sub", "Sum", "Where", "Xor",
)  # fmt: skip
"""Ops that work element by element on all their inputs, which are stretched to one shape."""

WEIGHTED = frozenset(
    {"Conv", "ConvTranspose", "Gemm", "MatMul", "FusedConv", "FusedMatMul", "FusedGemm",
     "QLinearConv", "QLinearMatMul", "QGemm", "ConvInteger", "MatMulInteger", "DeformConv",
     "MatMulNBits", "MatMulBnb4", "MatMulFpQ4", "GemmFloat8", "NhwcConv"}
)  # fmt: skip
"""Ops whose second operand holds weights."""

MIXING = frozenset(
    {"LayerNormalization", "InstanceNormalization", "GroupNormalization", "LSTM", "GRU", "RNN",
     "Einsum", "GridSample", "Attention", "MultiHeadAttention", "Resize", "Upsample",
     "GlobalAveragePool", "LRN", "LpNormalization", "CumSum", "SimplifiedLayerNormalization",
     "SkipLayerNormalization", "SkipSimplifiedLayerNormalization", "QAttention"}
)  # fmt: skip
"""Ops behind which features are meant, not scores."""

MOVING = frozenset(
    {"Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Split", "Gather", "Expand",
     "Tile", "Concat", "DepthToSpace", "SpaceToDepth"}
)  # fmt: skip
"""Ops that move elements, or copy them."""

ACTIVATIONS = frozenset({"Softmax", "LogSoftmax", "Sigmoid", "HardSigmoid"})

PASSING = frozenset(
    [*UNARY, *BROADCASTING, "Softmax", "LogSoftmax",
     "BatchNormalization", "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"]
)  # fmt: skip
"""Ops that give one element for each, at its place."""

KEEPING = frozenset(
    {"Identity", "Cast", "Dropout", "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}
)
"""Ops behind which a score is the same score."""

REDUCING = frozenset(
    {"ReduceMax", "ReduceMin", "ReduceSum", "ReduceMean", "ReduceL2", "ReduceProd", "MaxPool",
     "AveragePool", "GlobalMaxPool"}
)  # fmt: skip
"""Ops that give one element for several."""
