"""ONNX operators that compute element by element, reduce, compare or cast.

Semantics: the ONNX operator specification, opset 11 to 24.
"""

from __future__ import annotations

import functools
import math
import operator as python
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .onnx_ops import (
    ALL,
    NUMPY_TYPES,
    TORCH_TYPES,
    Node,
    Value,
    align,
    axis_of,
    host_operator,
    host_value,
    integers,
    literal,
    operator,
    to_type,
)

# --- one input ---------------------------------------------------------------------------

UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Abs": torch.abs,
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "Asin": torch.asin,
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Atanh": torch.atanh,
    "BitwiseNot": torch.bitwise_not,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "HardSwish": F.hardswish,
    "IsNaN": torch.isnan,
    "Log": torch.log,
    "Mish": F.mish,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Reciprocal": torch.reciprocal,
    "Relu": F.relu,
    "Round": torch.round,  # both round halves to even
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Softplus": F.softplus,
    "Softsign": F.softsign,
    "Sqrt": torch.sqrt,
    "Tan": torch.tan,
    "Tanh": torch.tanh,
}
HOST_UNARY: dict[str, Callable[[np.ndarray], Any]] = {
    "Abs": np.abs,
    "Ceil": np.ceil,
    "Exp": np.exp,
    "Floor": np.floor,
    "Log": np.log,
    "Neg": np.negative,
    "Not": np.logical_not,
    "Reciprocal": np.reciprocal,
    "Round": np.round,
    "Sign": np.sign,
    "Sqrt": np.sqrt,
}


@operator(*UNARY)
def unary(node: Node, x: Tensor) -> Tensor:
    return UNARY[node.op](x)


@host_operator(*HOST_UNARY)
def host_unary(node: Node, x: np.ndarray) -> Any:
    if x.dtype == object and node.op not in {"Neg", "Abs"}:
        return NotImplemented
    return HOST_UNARY[node.op](x)


@operator("Identity", raw=ALL)
def identity(node: Node, x: Value) -> Value:
    return x


@operator("IsInf")
def is_inf(node: Node, x: Tensor) -> Tensor:
    negative, positive = node.get("detect_negative", 1), node.get("detect_positive", 1)
    if negative and positive:
        return torch.isinf(x)
    if positive:
        return x == math.inf
    return x == -math.inf if negative else torch.zeros_like(x, dtype=torch.bool)


@operator("LeakyRelu")
def leaky_relu(node: Node, x: Tensor) -> Tensor:
    return F.leaky_relu(x, node.get("alpha", 0.01))


@operator("Elu")
def elu(node: Node, x: Tensor) -> Tensor:
    return F.elu(x, node.get("alpha", 1.0))


@operator("Celu")
def celu(node: Node, x: Tensor) -> Tensor:
    return F.celu(x, node.get("alpha", 1.0))


@operator("Selu")
def selu(node: Node, x: Tensor) -> Tensor:
    alpha = node.get("alpha", 1.6732632423543772)
    gamma = node.get("gamma", 1.0507009873554805)
    if math.isclose(alpha, 1.6732632423543772, rel_tol=1e-6) and math.isclose(
        gamma, 1.0507009873554805, rel_tol=1e-6
    ):
        return F.selu(x)
    return gamma * F.elu(x, alpha)


@operator("ThresholdedRelu")
def thresholded_relu(node: Node, x: Tensor) -> Tensor:
    return torch.where(x > node.get("alpha", 1.0), x, 0.0)


@operator("Swish")
def swish(node: Node, x: Tensor) -> Tensor:
    alpha = node.get("alpha", 1.0)
    return F.silu(x) if alpha == 1.0 else x * torch.sigmoid(alpha * x)


@operator("HardSigmoid")
def hard_sigmoid(node: Node, x: Tensor) -> Tensor:
    alpha, beta = node.get("alpha", 0.2), node.get("beta", 0.5)
    if math.isclose(alpha, 1 / 6, rel_tol=1e-6) and beta == 0.5:
        return F.hardsigmoid(x)
    return torch.clamp(x * alpha + beta, 0.0, 1.0)


@operator("Gelu")
def gelu(node: Node, x: Tensor) -> Tensor:
    return F.gelu(x, approximate=node.get("approximate", "none"))


@operator("Shrink")
def shrink(node: Node, x: Tensor) -> Tensor:
    bias, limit = node.get("bias", 0.0), node.get("lambd", 0.5)
    shrunk = torch.where(x > limit, x - bias, torch.zeros_like(x))
    return torch.where(x < -limit, x + bias, shrunk)


@operator("PRelu")
def prelu(node: Node, x: Tensor, slope: Tensor) -> Tensor:
    per_channel = x.ndim > 1 and tuple(slope.shape) == (x.shape[1], *[1] * (x.ndim - 2))
    if slope.numel() == 1 or per_channel:
        return F.prelu(x, slope.reshape(-1))
    return torch.where(x < 0, x * slope, x)


@operator("Clip", raw=(1, 2))
def clip(node: Node, x: Tensor, low: Value | None = None, high: Value | None = None) -> Tensor:
    bounds = [b.item() if isinstance(b, np.ndarray) else b for b in (low, high)]
    if bounds == [None, None]:
        return x
    if any(isinstance(b, Tensor) for b in bounds):
        bounds = [b if b is None else torch.as_tensor(b, dtype=x.dtype) for b in bounds]
    return torch.clamp(x, bounds[0], bounds[1])


@host_operator("Clip")
def host_clip(
    node: Node, x: np.ndarray, low: np.ndarray | None = None, high: np.ndarray | None = None
) -> Any:
    return NotImplemented if x.dtype == object else np.clip(x, low, high)


@operator("Dropout", host=(1, 2))
def dropout(
    node: Node, x: Tensor, ratio: np.ndarray | None = None, training: np.ndarray | None = None
) -> tuple[Tensor, Tensor] | Tensor:
    if training is not None and bool(training) and (ratio is None or float(ratio) > 0):
        raise node.refuse("it is in training mode", "export the model in eval mode")
    return (x, torch.ones_like(x, dtype=torch.bool)) if node.wants(1) else x


# --- two or more inputs ------------------------------------------------------------------

BINARY: dict[str, Callable[[Any, Any], Tensor]] = {
    "Add": python.add,
    "Sub": python.sub,
    "Mul": python.mul,
    "Equal": python.eq,
    "Less": python.lt,
    "LessOrEqual": python.le,
    "Greater": python.gt,
    "GreaterOrEqual": python.ge,
    "BitwiseAnd": python.and_,
    "BitwiseOr": python.or_,
    "BitwiseXor": python.xor,
}
COMPARISONS = {"Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"}
LOGIC: dict[str, tuple[Callable, Callable]] = {
    "And": (torch.logical_and, np.logical_and),
    "Or": (torch.logical_or, np.logical_or),
    "Xor": (torch.logical_xor, np.logical_xor),
}


@operator(*BINARY, raw=ALL)
def binary(node: Node, a: Value, b: Value) -> Tensor:
    return BINARY[node.op](*align(a, b))


@host_operator(*BINARY)
def host_binary(node: Node, a: np.ndarray, b: np.ndarray) -> Any:
    result = BINARY[node.op](a, b)
    # A comparison of symbolic sizes becomes a guard of the captured program.
    return np.asarray(result).astype(bool) if node.op in COMPARISONS else result


@operator(*LOGIC)
def logic(node: Node, a: Tensor, b: Tensor) -> Tensor:
    return LOGIC[node.op][0](a, b)


@host_operator(*LOGIC)
def host_logic(node: Node, a: np.ndarray, b: np.ndarray) -> Any:
    return LOGIC[node.op][1](a, b)


@operator("Div", raw=ALL)
def divide(node: Node, a: Value, b: Value) -> Tensor:
    x, y = align(a, b)
    whole = not (x if isinstance(x, Tensor) else y).is_floating_point()
    if not whole:
        return x / y
    if not isinstance(x, Tensor):
        x = torch.full_like(y, x)
    return torch.div(x, y, rounding_mode="trunc")  # ONNX divides integers as C does


@host_operator("Div")
def host_divide(node: Node, a: np.ndarray, b: np.ndarray) -> Any:
    if a.dtype == object or b.dtype == object:
        return a // b  # sizes: not negative, so floor and truncation agree
    if a.dtype.kind == "f":
        return a / b
    return (np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b))).astype(a.dtype)


@operator("Mod", raw=ALL)
def modulo(node: Node, a: Value, b: Value) -> Tensor:
    x, y = align(a, b)
    return torch.fmod(literal_like(x, y), y) if node.get("fmod", 0) else x % y


def literal_like(value: Any, other: Any) -> Tensor:
    """``value`` as a tensor, where the function beside it takes no plain number."""
    return value if isinstance(value, Tensor) else torch.full_like(other, value)


@host_operator("Mod")
def host_modulo(node: Node, a: np.ndarray, b: np.ndarray) -> Any:
    return np.fmod(a, b) if node.get("fmod", 0) and a.dtype != object else a % b


@operator("Pow", raw=ALL)
def power(node: Node, a: Value, b: Value) -> Tensor:
    dtype = a.dtype if isinstance(a, Tensor) else literal(a).dtype
    x, y = align(a, b)
    if isinstance(y, float) and y.is_integer():
        y = int(y)  # so that x ** 2.0 is recognised as a square
    return to_type(torch.pow(x, y), dtype)  # the result has the base's type


@host_operator("Pow")
def host_power(node: Node, a: np.ndarray, b: np.ndarray) -> Any:
    return NotImplemented if a.dtype == object else np.power(a, b).astype(a.dtype)


@operator("BitShift")
def bit_shift(node: Node, a: Tensor, b: Tensor) -> Tensor:
    left = node.get("direction") == "LEFT"
    return torch.bitwise_left_shift(a, b) if left else torch.bitwise_right_shift(a, b)


def extremum(largest: bool, a: Value, b: Value) -> Value:
    x, y = align(a, b)
    if isinstance(x, Tensor) and isinstance(y, Tensor):
        return torch.maximum(x, y) if largest else torch.minimum(x, y)
    tensor, number = (x, y) if isinstance(x, Tensor) else (y, x)
    return torch.clamp(tensor, min=number) if largest else torch.clamp(tensor, max=number)


@operator("Max", "Min", raw=ALL)
def max_min(node: Node, *values: Value) -> Value:
    return functools.reduce(functools.partial(extremum, node.op == "Max"), values)


@host_operator("Max", "Min")
def host_max_min(node: Node, *values: np.ndarray) -> Any:
    if any(v.dtype == object for v in values):
        return NotImplemented
    return functools.reduce(np.maximum if node.op == "Max" else np.minimum, values)


@operator("Sum", "Mean")
def sum_mean(node: Node, *values: Tensor) -> Tensor:
    total = functools.reduce(python.add, values)
    return total / len(values) if node.op == "Mean" else total


@operator("Where", raw=ALL)
def where(node: Node, condition: Value, a: Value, b: Value) -> Tensor:
    return torch.where(literal(condition), *align(a, b))


@host_operator("Where")
def host_where(node: Node, condition: np.ndarray, a: np.ndarray, b: np.ndarray) -> Any:
    return np.where(condition, a, b)


# --- types and quantisation --------------------------------------------------------------


@operator("Cast")
def cast(node: Node, x: Tensor) -> Tensor:
    if node.get("to") not in TORCH_TYPES:
        raise node.refuse(f"torch has no tensors of ONNX type {node.get('to')}")
    return to_type(x, TORCH_TYPES[node.get("to")])


@host_operator("Cast")
def host_cast(node: Node, x: np.ndarray) -> Any:
    dtype = NUMPY_TYPES.get(node.get("to"))
    if x.dtype == object:  # symbolic sizes are whole numbers already
        return x if dtype is not None and dtype.kind in "iu" else NotImplemented
    return NotImplemented if dtype is None else x.astype(dtype)


@operator("CastLike")
def cast_like(node: Node, x: Tensor, like: Tensor) -> Tensor:
    return to_type(x, like.dtype)


@host_operator("CastLike")
def host_cast_like(node: Node, x: np.ndarray, like: np.ndarray) -> Any:
    return NotImplemented if x.dtype == object else x.astype(like.dtype)


def along_axis(node: Node, x: Tensor, parameter: Tensor) -> Tensor:
    """A scale or zero point per axis, shaped to broadcast against ``x``."""
    if node.get("block_size", 0):
        raise node.refuse("quantisation in blocks is not supported")
    if parameter.numel() == 1:
        return parameter.reshape(())
    axis = axis_of(node.get("axis", 1), x.ndim)
    return parameter.reshape([-1 if i == axis else 1 for i in range(x.ndim)])


@operator("DequantizeLinear")
def dequantize(node: Node, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    steps = x.to(scale.dtype)
    if zero is not None:
        steps = steps - along_axis(node, x, zero).to(scale.dtype)
    return steps * along_axis(node, x, scale)


@operator("QuantizeLinear")
def quantize(node: Node, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    dtype = torch.uint8 if zero is None else zero.dtype
    if zero is None and node.get("output_dtype", 0):
        dtype = TORCH_TYPES.get(node.get("output_dtype"))
    if dtype not in (torch.uint8, torch.int8, torch.int16, torch.int32):
        raise node.refuse("its output type is not 8, 16 or 32 bits of integer")
    steps = torch.round(x / along_axis(node, x, scale))
    if zero is not None:
        steps = steps + along_axis(node, x, zero).to(steps.dtype)
    info = torch.iinfo(dtype)
    return torch.clamp(steps, info.min, info.max).to(dtype)


# --- reductions --------------------------------------------------------------------------


def reduce_product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = torch.prod(x, axis, keepdim=keep)
    return x


def total(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return torch.sum(x, axes, keepdim=keep, dtype=x.dtype)  # torch widens small integers


REDUCTIONS: dict[str, Callable[[Tensor, list[int], bool], Tensor]] = {
    "ReduceSum": total,
    "ReduceMean": lambda x, axes, keep: torch.mean(x, axes, keepdim=keep),
    "ReduceMax": lambda x, axes, keep: torch.amax(x, axes, keepdim=keep),
    "ReduceMin": lambda x, axes, keep: torch.amin(x, axes, keepdim=keep),
    "ReduceProd": reduce_product,
    "ReduceL1": lambda x, axes, keep: total(torch.abs(x), axes, keep),
    "ReduceL2": lambda x, axes, keep: torch.sqrt(total(x * x, axes, keep)),
    "ReduceSumSquare": lambda x, axes, keep: total(x * x, axes, keep),
    "ReduceLogSum": lambda x, axes, keep: torch.log(total(x, axes, keep)),
    "ReduceLogSumExp": lambda x, axes, keep: torch.logsumexp(x, axes, keepdim=keep),
}
HOST_REDUCTIONS: dict[str, Callable[..., Any]] = {
    "ReduceSum": np.sum,
    "ReduceMean": np.mean,
    "ReduceMax": np.max,
    "ReduceMin": np.min,
    "ReduceProd": np.prod,
}


def reduced_axes(node: Node, rank: int, axes: np.ndarray | None) -> list[int]:
    """The axes of a reduction: an attribute in old opsets, then an input; none means all."""
    given = node.get("axes") if axes is None else integers(axes)
    if not given:
        return [] if node.get("noop_with_empty_axes", 0) else list(range(rank))
    return [axis_of(int(axis), rank) for axis in given]


@operator(*REDUCTIONS, host=(1,))
def reduce(node: Node, x: Tensor, axes: np.ndarray | None = None) -> Tensor:
    chosen = reduced_axes(node, x.ndim, axes)
    if not chosen:  # no axis to reduce, but what is done per element remains
        return REDUCTIONS[node.op](x.unsqueeze(0), [0], False)
    return REDUCTIONS[node.op](x, chosen, bool(node.get("keepdims", 1)))


@host_operator(*HOST_REDUCTIONS)
def host_reduce(node: Node, x: np.ndarray, axes: np.ndarray | None = None) -> Any:
    if x.dtype == object and node.op not in {"ReduceSum", "ReduceProd"}:
        return NotImplemented
    chosen = tuple(reduced_axes(node, x.ndim, axes))
    keep = bool(node.get("keepdims", 1))
    result = HOST_REDUCTIONS[node.op](x, axis=chosen, keepdims=keep)
    return result if x.dtype == object else host_value(result).astype(x.dtype)


@operator("ArgMax", "ArgMin")
def arg_extremum(node: Node, x: Tensor) -> Tensor:
    axis, keep = axis_of(node.get("axis", 0), x.ndim), bool(node.get("keepdims", 1))
    find = torch.argmax if node.op == "ArgMax" else torch.argmin
    if not node.get("select_last_index", 0):
        return find(x, axis, keepdim=keep)
    return x.shape[axis] - 1 - find(x.flip(axis), axis, keepdim=keep)


@operator("TopK", host=(1,))
def top_k(node: Node, x: Tensor, k: np.ndarray) -> tuple[Tensor, Tensor]:
    largest, ordered = bool(node.get("largest", 1)), bool(node.get("sorted", 1))
    result = torch.topk(x, integers(k)[0], node.get("axis", -1), largest, ordered)
    return result.values, result.indices


@operator("CumSum", host=(1,))
def cumulative_sum(node: Node, x: Tensor, axis: np.ndarray) -> Tensor:
    dim = axis_of(int(axis.item()), x.ndim)
    reverse = bool(node.get("reverse", 0))
    ordered = x.flip(dim) if reverse else x
    result = torch.cumsum(ordered, dim, dtype=x.dtype)
    if node.get("exclusive", 0):
        before = result.narrow(dim, 0, result.shape[dim] - 1)
        result = torch.cat([torch.zeros_like(ordered.narrow(dim, 0, 1)), before], dim)
    return result.flip(dim) if reverse else result


@host_operator("CumSum")
def host_cumulative_sum(node: Node, x: np.ndarray, axis: np.ndarray) -> Any:
    if node.get("reverse", 0) or node.get("exclusive", 0):
        return NotImplemented
    return np.cumsum(x, axis=int(axis.item()), dtype=x.dtype)
