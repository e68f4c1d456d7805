"""Each ONNX operator as a torch function, against ONNX Runtime."""

# One case a line: a table is easier to read and to complete than folded calls.
# ruff: noqa: E501

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

import ml_dtypes  # noqa: E402
from onnx import TensorProto, numpy_helper  # noqa: E402

from edgekit.models.sources.onnx_module import OnnxModule  # noqa: E402
from edgekit.models.sources.onnx_ops import OPERATORS  # noqa: E402

from .onnx_graphs import (  # noqa: E402
    Case,
    arrays,
    assert_close,
    capture,
    f32,
    i64,
    make_model,
    positive,
    random,
    run_reference,
    tensors,
    unit,
    whole,
)

X = random(2, 3, 4, 5)
IMAGE = random(1, 4, 9, 11)
UNARY = [
    *[
        (op, X)
        for op in ("Abs", "Ceil", "Cos", "Cosh", "Erf", "Exp", "Floor", "HardSwish", "IsNaN")
    ],
    *[(op, X) for op in ("Mish", "Neg", "Relu", "Round", "Sigmoid", "Sign", "Sin", "Sinh", "Elu")],
    *[(op, X) for op in ("Softplus", "Softsign", "Tan", "Tanh", "LeakyRelu", "Celu", "Selu")],
    *[(op, X) for op in ("HardSigmoid", "ThresholdedRelu", "Shrink", "Identity", "IsInf")],
    *[(op, X) for op in ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool", "Hardmax")],
    *[(op, positive(3, 4)) for op in ("Log", "Sqrt", "Reciprocal")],
    *[(op, unit(3, 4)) for op in ("Acos", "Asin", "Atan", "Atanh", "Asinh")],
    ("Acosh", positive(3, 4) + 1),
    ("Not", X > 0),
    ("Flatten", X),
    ("Transpose", X),
    ("Shape", X),
    ("Size", X),
    ("MeanVarianceNormalization", X),  # defined by the specification as a graph
]
FIRST, SECOND = random(2, 3, 4), random(3, 1, seed=1)
BINARY = [
    *[(op, FIRST, SECOND) for op in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean")],
    *[(op, FIRST, SECOND) for op in ("Less", "LessOrEqual", "Greater", "GreaterOrEqual")],
    ("PRelu", FIRST, SECOND),
    ("Pow", positive(2, 3, 4), SECOND),
    ("Equal", whole(3, 4), whole(3, 4)),
    *[(op, FIRST > 0, SECOND > 0) for op in ("And", "Or", "Xor")],
    *[(op, whole(3, 4), whole(4)) for op in ("BitwiseAnd", "BitwiseOr", "BitwiseXor")],
    ("Div", whole(3, 4), whole(3, 4, low=1)),
    ("Mod", whole(5, 5), np.where(whole(5) == 0, 3, whole(5))),
]
REDUCTIONS = [op for op in OPERATORS if op.startswith("Reduce")]

# fmt: off
CASES = [
    *[Case(op, *a) for op, *a in UNARY],
    *[Case(op, a, b, tag="tensors") for op, a, b in BINARY],
    *[Case(op, a, constants=[b], tag="constant") for op, a, b in BINARY],
    *[
        Case(
            op, a, constants=[np.asarray(abs(b.flat[0]) if b.dtype != bool else b.flat[0])], tag="n"
        )
        for op, a, b in BINARY
        if op not in ("Sum", "Mean")
    ],
    Case("Sub", constants=[f32(2)[0:1], FIRST], tag="foldable"),
    Case("Mod", FIRST, SECOND, fmod=1),
    Case(
        "BitShift",
        np.arange(5, dtype=np.uint8),
        np.array([1, 2, 1, 0, 3], np.uint8),
        direction="LEFT",
    ),
    Case("Pow", FIRST, constants=[np.float32(2)], tag="square"),
    Case("Elu", X, alpha=0.5, tag="alpha"),
    Case("Celu", X, alpha=2.0, tag="alpha"),
    Case("Selu", X, alpha=1.2, gamma=0.9, tag="alpha"),
    Case("HardSigmoid", X, alpha=1 / 6, tag="torch"),
    Case("Gelu", X, opset=20),
    Case("Gelu", X, opset=20, approximate="tanh", tag="tanh"),
    Case("PRelu", X, constants=[random(3, 1, 1)], tag="channel"),
    Case("PRelu", X, constants=[random(1)], tag="one"),
    Case("Clip", X, constants=[np.float32(-0.5), np.float32(0.5)]),
    Case("Clip", constants=[i64(-3, 4, 9), np.array(0), np.array(5)], tag="host"),
    Case("ReduceMean", constants=[f32(1, 4, 9)], keepdims=0, tag="host"),
    Case("Clip", X, constants=[None, np.float32(0.5)], tag="high"),
    Case("Clip", X, constants=[np.float32(-0.1)], tag="low"),
    Case("Clip", X, np.array(-0.2, np.float32), np.array(0.3, np.float32), tag="tensors"),
    Case("Dropout", X, opset=13),
    Case("Where", FIRST > 0, FIRST, SECOND),
    Case("Where", FIRST > 0, FIRST, constants=[np.float32(-1e9)], tag="n"),
    Case("Where", FIRST > 0, constants=[f32(1), f32(-1)], tag="two"),
    Case("Cast", FIRST * 3, to=TensorProto.INT32),
    Case("Cast", FIRST, to=TensorProto.BOOL, tag="bool"),
    Case("Cast", whole(4), to=TensorProto.FLOAT, tag="float"),
    Case("Cast", constants=[X.astype(ml_dtypes.bfloat16)], to=TensorProto.FLOAT, tag="bfloat16"),
    Case("MatMul", FIRST.astype(np.float16), constants=[random(4, 5).astype(np.float16)], tag="half"),
    Case("CastLike", whole(4), constants=[f32(1)], opset=19),
    # products
    Case("MatMul", random(2, 3, 4), random(2, 4, 5)),
    Case("MatMul", random(2, 3, 4), constants=[random(4, 5)], tag="linear"),
    Case("MatMul", random(4), constants=[random(4, 5)], tag="vector"),
    Case("Gemm", random(3, 4), constants=[random(5, 4), random(5)], transB=1),
    Case("Gemm", random(3, 4), constants=[random(4, 5), random(5)], tag="plain"),
    Case("Gemm", random(3, 4), constants=[random(4, 5)], tag="no-bias"),
    Case(
        "Gemm", random(4, 3), constants=[random(4, 5), random(3, 1)], transA=1, alpha=0.5, beta=2.0
    ),
    Case("Gemm", random(3, 4), constants=[random(5, 4), f32(2.0)], transB=1, tag="one-bias"),
    Case("Einsum", random(2, 3, 4), random(2, 4, 5), equation="bij, bjk -> bik"),
    # reductions
    *[
        Case(op, positive(2, 3, 4), constants=[i64(1, -1)], opset=18, keepdims=keep, tag=f"{keep}")
        for op in REDUCTIONS
        for keep in (0, 1)
    ],
    *[Case(op, positive(2, 3, 4), opset=11, axes=[0, 2], keepdims=0) for op in REDUCTIONS],
    *[Case(op, positive(2, 3), opset=18, tag="all") for op in REDUCTIONS],
    Case("ReduceSum", X, constants=[np.zeros(0, np.int64)], noop_with_empty_axes=1, tag="noop"),
    Case(
        "ReduceSumSquare", X, constants=[np.zeros(0, np.int64)], noop_with_empty_axes=1, tag="noop"
    ),
    Case("ArgMax", X, axis=2, keepdims=0),
    Case("ArgMin", np.round(X), axis=-1, select_last_index=1),
    Case("ArgMax", np.round(X), axis=1, select_last_index=1),
    Case("TopK", X, constants=[i64(2)], outputs=2, axis=-2),
    Case("TopK", X, constants=[i64(3)], outputs=2, largest=0, tag="smallest"),
    Case("CumSum", X, constants=[np.array(2)]),
    Case("CumSum", X, constants=[np.array(-1)], exclusive=1, reverse=1, tag="both"),
    # softmax before and since opset 13
    *[
        Case(op, X, opset=opset, axis=axis, tag=f"axis{axis}")
        for op in ("Softmax", "LogSoftmax", "Hardmax")
        for opset in (11, 13)
        for axis in (1, -1)
    ],
    Case("Softmax", X, opset=11),
    Case("Softmax", X, opset=13),
]
CASES += [
    # convolutions
    Case("Conv", IMAGE, constants=[random(6, 4, 3, 3), random(6)], pads=[1, 1, 1, 1], strides=[2, 2]),
    Case("Conv", IMAGE, constants=[random(6, 4, 3, 2)], pads=[2, 0, 1, 1], strides=[3, 1], tag="uneven"),
    Case("Conv", IMAGE, constants=[random(8, 2, 3, 3), random(8)], group=2, dilations=[2, 3], tag="groups"),
    Case("Conv", IMAGE, constants=[random(4, 1, 5, 5)], group=4, auto_pad="SAME_UPPER", strides=[2, 2], tag="upper"),
    Case("Conv", IMAGE, constants=[random(4, 1, 4, 4)], group=4, auto_pad="SAME_LOWER", strides=[2, 3], tag="lower"),
    Case("Conv", IMAGE, constants=[random(4, 4, 4, 4)], auto_pad="VALID", tag="valid"),
    Case("Conv", random(2, 3, 17), constants=[random(4, 3, 5), random(4)], pads=[4, 0], dilations=[2], tag="1d"),
    Case("Conv", random(1, 2, 5, 6, 7), constants=[random(4, 2, 3, 3, 3)], pads=[1, 1, 1, 1, 1, 1], tag="3d"),
    Case("Conv", IMAGE, random(6, 4, 3, 3), tag="computed"),
    Case("ConvTranspose", IMAGE, constants=[random(4, 5, 3, 3), random(5)], strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1]),
    Case("ConvTranspose", IMAGE, constants=[random(4, 3, 4, 4), random(6)], group=2, strides=[3, 2], pads=[0, 1, 2, 1], output_padding=[2, 0], tag="uneven"),
    Case("ConvTranspose", IMAGE, constants=[random(4, 5, 3, 3), random(5)], strides=[2, 2], auto_pad="SAME_UPPER", tag="upper"),
    Case("ConvTranspose", IMAGE, constants=[random(4, 5, 3, 3)], strides=[2, 2], auto_pad="SAME_LOWER", tag="lower"),
    Case("ConvTranspose", IMAGE, constants=[random(4, 5, 3, 3)], strides=[2, 2], output_shape=[18, 22], tag="shape"),
    Case("ConvTranspose", IMAGE, constants=[random(4, 5, 3, 3)], dilations=[2, 2], tag="dilated"),
    Case("ConvTranspose", random(2, 3, 7), constants=[random(3, 4, 4), random(4)], strides=[2], pads=[1, 1], tag="1d"),
    # pooling
    *[
        Case(op, IMAGE, kernel_shape=kernel, strides=strides, pads=pads, ceil_mode=ceil, tag=f"{kernel}{strides}{pads}{ceil}".replace(" ", ""), **more)
        for op, more in (("MaxPool", {}), ("AveragePool", {}), ("AveragePool", {"count_include_pad": 1}))
        for kernel, strides, pads in (
            ([2, 2], [2, 2], [0, 0, 0, 0]), ([3, 3], [2, 2], [1, 1, 1, 1]), ([3, 2], [2, 3], [1, 0, 0, 1]),
            ([2, 3], [3, 2], [0, 2, 1, 2]), ([3, 3], [3, 3], [0, 0, 1, 1]), ([5, 3], [4, 2], [2, 1, 2, 1]),
        )
        for ceil in (0, 1)
    ],
    *[
        Case(op, IMAGE, kernel_shape=[3, 3], strides=[2, 2], auto_pad=auto, tag=auto)
        for op in ("MaxPool", "AveragePool") for auto in ("SAME_UPPER", "SAME_LOWER", "VALID")
    ],
    Case("MaxPool", IMAGE, kernel_shape=[3, 2], dilations=[2, 3], pads=[1, 1, 1, 1], tag="dilated"),
    Case("MaxPool", IMAGE, kernel_shape=[3, 2], dilations=[2, 3], pads=[1, 0, 2, 0], strides=[2, 2], ceil_mode=1, tag="dilated-uneven"),
    Case("MaxPool", random(2, 4, 6, 6), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], outputs=2, tag="indices"),
    Case("MaxPool", random(1, 2, 9), kernel_shape=[3], strides=[2], ceil_mode=1, tag="1d"),
    Case("MaxPool", random(1, 2, 5, 6, 7), kernel_shape=[2, 3, 2], strides=[2, 1, 2], tag="3d"),
    Case("AveragePool", IMAGE, kernel_shape=[3, 2], dilations=[2, 2], pads=[1, 1, 1, 1], opset=19, tag="dilated"),
    Case("AveragePool", random(1, 2, 9), kernel_shape=[3], strides=[2], pads=[1, 1], ceil_mode=1, tag="1d"),
    Case("AveragePool", random(1, 2, 9), kernel_shape=[3], strides=[2], pads=[0, 2], ceil_mode=1, tag="1d-uneven"),
    Case("LpPool", IMAGE, kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 0], p=2),
    # normalisation
    Case("BatchNormalization", X, constants=[positive(3), random(3), random(3), positive(3)], epsilon=1e-3, opset=15),
    Case("BatchNormalization", random(4, 3), constants=[positive(3), random(3), random(3), positive(3)], opset=15, tag="rank2"),
    Case("BatchNormalization", X, constants=[positive(3), random(3), random(3), positive(3)], training_mode=1, outputs=3, momentum=0.7, opset=15, tag="training"),
    Case("InstanceNormalization", X, constants=[positive(3), random(3)]),
    Case("GroupNormalization", IMAGE, constants=[positive(4), random(4)], num_groups=2, opset=21),
    Case("LayerNormalization", X, constants=[positive(5), random(5)], epsilon=1e-3),
    Case("LayerNormalization", X, constants=[positive(4, 5)], axis=2, tag="axes"),
    Case("LayerNormalization", X, constants=[positive(5), random(1)], tag="broadcast"),
    Case("LayerNormalization", X, constants=[positive(5), random(5)], outputs=3, tag="moments"),
    Case("RMSNormalization", X, constants=[positive(5)], opset=23),
    Case("LpNormalization", X, axis=1, p=1),
    Case("LRN", IMAGE, size=3, alpha=0.1, bias=2.0),
    # shapes
    Case("Shape", X, start=1, end=-1, tag="part"),
    Case("Reshape", X, constants=[i64(0, -1, 5)]),
    Case("Flatten", X, axis=3, tag="3"),
    Case("Flatten", X, axis=0, tag="0"),
    Case("Flatten", X, axis=-2, tag="-2"),
    Case("Squeeze", random(1, 3, 1), opset=11, axes=[2]),
    Case("Squeeze", random(1, 3, 1), constants=[i64(0, -1)]),
    Case("Squeeze", random(1, 3, 1), tag="all"),
    Case("Unsqueeze", X, opset=11, axes=[0, 5]),
    Case("Unsqueeze", X, constants=[i64(-1, 1)]),
    Case("Transpose", X, perm=[0, 2, 3, 1], tag="perm"),
    Case("Concat", X, X * 2, axis=-1),
    Case("Concat", X, constants=[X * 2], axis=1, tag="constant"),
    Case("Split", X, opset=11, outputs=2, axis=1, split=[1, 2]),
    Case("Split", X, opset=13, outputs=2, axis=2),
    Case("Split", X, constants=[i64(1, 4)], outputs=2, axis=-1),
    Case("Split", random(7), outputs=3, num_outputs=3, tag="rest"),
    Case("Slice", X, constants=[i64(1, -3), i64(3, 2**62), i64(2, 3), i64(1, 2)]),
    Case("Slice", X, constants=[i64(-1, 3), i64(-(2**62), 0), i64(3, -2), i64(-2, -1)], tag="backward"),
    Case("Slice", X, constants=[i64(1), i64(9)], tag="no-axes"),
    Case("Slice", X, constants=[i64(-1), i64(-9), i64(3), i64(-3)], tag="backward3"),
    Case("Gather", X, constants=[i64(2, 0)], axis=2),
    Case("Gather", X, constants=[np.array(-1)], axis=3, tag="scalar"),
    Case("Gather", X, constants=[whole(2, 2, low=-3, high=3)], axis=1, tag="grid"),
    Case("Gather", random(7, 4), whole(2, 3, low=0, high=7), tag="embedding"),
    Case("Gather", X, whole(2, 2, low=0, high=3), axis=1, tag="computed"),
    Case("GatherElements", X, constants=[whole(2, 2, 4, 5, low=-3, high=3)], axis=1),
    Case("GatherND", X, constants=[np.array([[0, 1], [1, -1]])]),
    Case("GatherND", X, constants=[np.array([[[0, 1]], [[2, 1]]])], batch_dims=1, tag="batch"),
    Case("ScatterElements", X, whole(2, 1, 4, 5, low=0, high=3), random(2, 1, 4, 5), axis=1),
    *[
        Case("ScatterElements", X, constants=[whole(2, 2, 4, 5, low=-3, high=3), random(2, 2, 4, 5)], axis=1, reduction=how, tag=how)
        for how in ("add", "mul", "max", "min")
    ],
    *[
        Case("ScatterND", X, constants=[np.array([[0, 1], [1, 2], [0, 1]]), np.stack([random(4, 5)] * 3)], reduction=how, tag=how)
        for how in ("none", "add", "mul", "max", "min")
    ],
    Case("Expand", random(3, 1), constants=[i64(2, 1, 4)]),
    Case("Expand", random(2, 3, 4), constants=[i64(3, 1)], tag="keep"),
    Case("Tile", random(2, 3), constants=[i64(2, 3)]),
    Case("ConstantOfShape", constants=[i64(2, 3)], value=numpy_helper.from_array(f32(2.5))),
    Case("Range", constants=[np.array(2), np.array(9), np.array(3)]),
    Case("EyeLike", X[0, 0], k=1),
    Case("NonZero", constants=[np.array([[1, 0], [1, 1]])]),
    Case("Compress", X, constants=[np.array([True, False, True])], axis=1),
    Case("OneHot", whole(2, 3, low=-4, high=6), constants=[np.array(4), f32(-1, 2)], axis=1),
    Case("OneHot", constants=[np.array([[1, -1], [3, 7]]), np.array(4), i64(2, 5)], axis=1, tag="host"),
    Case("Trilu", random(2, 4, 5), upper=0),
    Case("Trilu", random(2, 4, 5), constants=[np.array(1)], tag="upper"),
    Case("DepthToSpace", random(2, 8, 3, 4), blocksize=2),
    Case("DepthToSpace", random(2, 8, 3, 4), blocksize=2, mode="CRD"),
    Case("SpaceToDepth", random(2, 2, 4, 6), blocksize=2),
    Case("Pad", X, constants=[i64(0, 0, 1, 2, 0, 0, 3, 0), np.float32(1.5)]),
    Case("Pad", X, constants=[i64(0, 1, -1, 2, 1, 0, 0, -2)], tag="crop"),
    Case("Pad", X, constants=[i64(1, 2), None, i64(1)], opset=18, tag="axes"),
    *[
        Case("Pad", X, constants=[i64(*pads)], mode=mode, opset=19, tag=f"{mode}{k}")
        for mode in ("reflect", "edge", "wrap")
        for k, pads in enumerate(((0, 0, 1, 2, 0, 0, 2, 1), (1, 2, 0, 0, 0, 1, 0, 0), (0, 0, -1, 2, 0, 0, 0, -1)))
    ],
    # quantisation
    Case("QuantizeLinear", X, constants=[np.float32(0.05), np.uint8(128)]),
    Case("QuantizeLinear", X, constants=[f32(0.1, 0.2, 0.3), np.array([0, 1, -2], np.int8)], axis=1, tag="axis"),
    Case("DequantizeLinear", whole(2, 3, 4).astype(np.int8), constants=[f32(0.1, 0.2, 0.3), np.array([0, 1, -2], np.int8)], axis=1),
    Case("DequantizeLinear", constants=[whole(4, 3).astype(np.uint8), np.float32(0.1)], tag="weight"),
    Case("DynamicQuantizeLinear", X, outputs=3),
    # sampling
    Case("Col2Im", random(2, 3 * 6, 12), constants=[i64(7, 8), i64(3, 2)], dilations=[1, 2], pads=[1, 0, 1, 0], strides=[2, 2], opset=18),
    Case("GridSample", IMAGE, unit(1, 5, 6, 2), opset=16),
    Case("GridSample", IMAGE, unit(1, 5, 6, 2) * 1.4, opset=20, mode="nearest", padding_mode="border", align_corners=1),
    Case("GridSample", IMAGE, unit(1, 5, 6, 2) * 1.4, opset=20, mode="cubic", padding_mode="reflection"),
    # sequences
    *[
        Case("LSTM", random(5, 2, 3), constants=[random(d, 16, 3), random(d, 16, 4), random(d, 32)], outputs=3, hidden_size=4, direction=name, tag=name, opset=14)
        for d, name in ((1, "forward"), (1, "reverse"), (2, "bidirectional"))
    ],
    Case("GRU", random(5, 2, 3), constants=[random(2, 12, 3), random(2, 12, 4), random(2, 24)], outputs=2, hidden_size=4, direction="bidirectional", linear_before_reset=1, opset=14),
    Case("Attention", random(1, 4, 5, 8), random(1, 4, 6, 8), random(1, 4, 6, 8), opset=23),
    Case("Attention", random(1, 5, 32), random(1, 5, 16), random(1, 5, 16), opset=23, q_num_heads=4, kv_num_heads=2, is_causal=1, scale=0.3, tag="groups"),
    Case("Attention", random(1, 2, 3, 8), random(1, 2, 3, 8), random(1, 2, 3, 8), random(3, 6), random(1, 2, 3, 8), random(1, 2, 3, 8), opset=23, outputs=3, tag="cache"),
    Case("RotaryEmbedding", random(1, 4, 5, 8), random(9, 4), random(9, 4), whole(1, 5, low=0, high=9), opset=23),
    Case("RotaryEmbedding", random(1, 5, 32), random(1, 5, 2), random(1, 5, 2), opset=23, interleaved=1, num_heads=4, rotary_embedding_dim=4, tag="part"),
]


RESIZES = [
    (mode, transform, kind, values, more)
    for mode, mores in (
        ("nearest", [{"nearest_mode": n} for n in ("round_prefer_floor", "floor", "ceil")]),
        ("linear", [{}, {"antialias": 1}]),
        ("cubic", [{}, {"antialias": 1, "exclude_outside": 1, "cubic_coeff_a": -0.5}]),
    )
    for more in mores
    for transform in ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")
    for kind, values in (("scales", (2, 2)), ("scales", (0.5, 1.7)), ("sizes", (5, 13)))
]
CASES += [
    Case(
        "Resize", random(1, 3, 7, 10), opset=19, mode=mode, coordinate_transformation_mode=transform,
        constants=[None, f32(1, 1, *values)] if kind == "scales" else [None, None, i64(1, 3, *values)],
        tag=f"{mode}-{transform}-{values[1]}-{len(more)}", **more,
    )
    for mode, transform, kind, values, more in RESIZES
]
CASES += [
    Case("Resize", random(1, 3, 7, 10), constants=[None, f32(2, 3)], axes=[3, 2], mode="linear", tag="axes"),
    Case("Resize", random(1, 3, 7, 10), constants=[None, None, i64(20, 20)], axes=[2, 3], keep_aspect_ratio_policy="not_larger", tag="aspect"),
    Case("Resize", random(1, 3, 7), constants=[None, f32(1, 1, 2)], mode="linear", tag="1d"),
    Case("Resize", random(1, 2, 3, 4, 5), constants=[None, f32(1, 1, 2, 1, 2)], mode="linear", tag="3d"),
    Case("Resize", random(2, 3, 4, 5), constants=[None, f32(1, 2, 1, 3)], mode="nearest", tag="channels"),
    Case("Resize", random(1, 3, 7, 10), constants=[np.zeros(0, np.float32), f32(1, 1, 2, 2)], opset=11, coordinate_transformation_mode="tf_half_pixel_for_nn"),
    Case("Resize", random(1, 3, 7, 10), constants=[None, f32(1, 1, 1.5, 1.5)], opset=19, mode="linear", coordinate_transformation_mode="half_pixel_symmetric", tag="symmetric"),
]
# fmt: on


@pytest.mark.parametrize("case", CASES, ids=str)
def test_operator(case: Case) -> None:
    model = case.model()
    expected = run_reference(model, case.feeds)
    assert_close(arrays(OnnxModule(model)(*tensors(case.feeds))), expected)


@pytest.mark.parametrize("opset", sorted({case.opset for case in CASES}))
def test_operators_are_captured(opset: int) -> None:
    """One graph with every operator of an operator set: captured, it gives what eager gives."""
    nodes, feeds, constants, outputs = [], {}, {}, []
    chosen = {case.op: case for case in CASES if case.opset == opset}
    for number, case in enumerate(chosen.values()):
        node = onnx.NodeProto()
        node.CopyFrom(case.nodes[0])
        node.name = f"{number} {case}"
        for names in (node.input, node.output):
            names[:] = [f"c{number}_{name}" if name else "" for name in names]
        nodes.append(node)
        feeds |= {f"c{number}_{name}": array for name, array in case.feeds.items()}
        constants |= {f"c{number}_{name}": array for name, array in case.constants.items()}
        outputs += list(node.output)
    module = OnnxModule(make_model(nodes, feeds, constants, outputs, opset))
    with torch.no_grad():
        expected = arrays(module(*tensors(feeds)))
        assert_close(arrays(capture(module, feeds).module()(*tensors(feeds))), expected)
