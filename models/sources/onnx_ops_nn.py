"""ONNX operators of neural networks: convolutions, products, normalisations, softmax.

Semantics: the ONNX operator specification, opset 11 to 24. Constant matrices reach
``Linear``, an operator of our own: see :mod:`.onnx_linear`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .onnx_ops import Node, axis_of, integers, operator, product
from .onnx_ops_shape import flat_pads

Pads = list[tuple[Any, Any]]

# --- windows -----------------------------------------------------------------------------


def spatial(node: Node, key: str, rank: int, default: int = 1) -> list[int]:
    """A per-axis attribute (strides, dilations …) of a sliding window."""
    return list(node.get(key) or [default] * rank)


def window_pads(node: Node, sizes: Sequence[Any], kernel: Sequence[int]) -> Pads:
    """(before, after) for each spatial axis, from ``pads`` or ``auto_pad``."""
    rank = len(kernel)
    auto = node.get("auto_pad", "NOTSET")
    if auto in ("NOTSET", ""):
        pads = spatial(node, "pads", 2 * rank, 0)
        return list(zip(pads[:rank], pads[rank:], strict=True))
    if auto == "VALID":
        return [(0, 0)] * rank
    strides, dilations = spatial(node, "strides", rank), spatial(node, "dilations", rank)
    pairs: Pads = []
    for length, k, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        steps = -(-length // stride)
        total = max((steps - 1) * stride + (k - 1) * dilation + 1 - length, 0)
        small, large = total // 2, total - total // 2
        pairs.append((small, large) if auto == "SAME_UPPER" else (large, small))
    return pairs


def symmetric(pads: Pads) -> bool:
    """Whether torch's one number per axis can say it."""
    return all(before == after and before >= 0 for before, after in pads)


CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


@operator("Conv")
def conv(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    kernel = list(weight.shape[2:])
    rank = len(kernel)
    pads = window_pads(node, x.shape[2:], kernel)
    if symmetric(pads):
        padding = [before for before, _ in pads]
    else:
        x, padding = F.pad(x, flat_pads(pads)), [0] * rank
    strides, dilations = spatial(node, "strides", rank), spatial(node, "dilations", rank)
    return CONV[rank](x, weight, bias, strides, padding, dilations, node.get("group", 1))


def transposed_pads(node: Node, sizes: Sequence[Any], kernel: Sequence[int]) -> Pads:
    """(before, after) that ConvTranspose cuts off, given or derived from an output shape."""
    rank = len(kernel)
    auto = node.get("auto_pad", "NOTSET")
    strides, dilations = spatial(node, "strides", rank), spatial(node, "dilations", rank)
    wanted = node.get("output_shape")
    if wanted is None and auto in ("NOTSET", "", "VALID"):
        return window_pads(node, sizes, kernel)
    if wanted is None:
        wanted = [n * s for n, s in zip(sizes, strides, strict=True)]
    extra = spatial(node, "output_padding", rank, 0)
    pairs: Pads = []
    for i in range(rank):
        full = (sizes[i] - 1) * strides[i] + (kernel[i] - 1) * dilations[i] + 1
        total = full + extra[i] - wanted[-rank:][i]
        small, large = total // 2, total - total // 2
        pairs.append((small, large) if auto == "SAME_UPPER" else (large, small))
    return pairs


@operator("ConvTranspose")
def conv_transpose(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    kernel = list(weight.shape[2:])
    rank = len(kernel)
    pads = transposed_pads(node, x.shape[2:], kernel)
    strides, dilations = spatial(node, "strides", rank), spatial(node, "dilations", rank)
    extra, groups = spatial(node, "output_padding", rank, 0), node.get("group", 1)
    function = CONV_TRANSPOSE[rank]
    # torch wants output_padding below the stride or the dilation.
    small = all(e < max(s, d) for e, s, d in zip(extra, strides, dilations, strict=True))
    if symmetric(pads) and small:
        padding = [before for before, _ in pads]
        return function(x, weight, bias, strides, padding, extra, groups, dilations)
    full = function(x, weight, None, strides, 0, 0, groups, dilations)
    cut = [(-before, e - after) for (before, after), e in zip(pads, extra, strict=True)]
    full = F.pad(full, flat_pads(cut))
    return full if bias is None else full + bias.reshape(-1, *[1] * rank)


# --- products ----------------------------------------------------------------------------


@operator("MatMul")
def matmul(node: Node, a: Tensor, b: Tensor) -> Tensor:
    return torch.matmul(a, b)


@operator("Linear")
def linear(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (…, K) by a constant matrix: weight is (N, K), or (K, N) with ``transpose``."""
    return F.linear(x, weight.t() if node.get("transpose", 0) else weight, bias)


@operator("Gemm")
def gemm(node: Node, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    a = a.t() if node.get("transA", 0) else a
    b = b.t() if node.get("transB", 0) else b
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    result = torch.matmul(a, b)
    result = result if alpha == 1.0 else result * alpha
    if c is None or beta == 0.0:
        return result
    return result + (c if beta == 1.0 else c * beta)


@operator("Einsum")
def einsum(node: Node, *operands: Tensor) -> Tensor:
    return torch.einsum(node.get("equation"), *operands)


# --- normalisation -----------------------------------------------------------------------


@operator("BatchNormalization")
def batch_norm(
    node: Node, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor
) -> Tensor | tuple[Tensor, Tensor, Tensor]:
    """With ``training_mode`` the batch's own moments count: weight standardisation is
    exported so, with the weights as the batch."""
    epsilon = node.get("epsilon", 1e-5)
    if not node.get("training_mode", 0):
        if node.wants(1):
            raise node.refuse("it is in training mode", "export the model in eval mode")
        return F.batch_norm(x, mean, variance, scale, bias, False, 0.0, epsilon)
    y = F.batch_norm(x, None, None, scale, bias, True, 0.0, epsilon)
    if not (node.wants(1) or node.wants(2)):
        return y
    keep, axes = node.get("momentum", 0.9), [0, *range(2, x.ndim)]
    now = x.mean(axes), x.var(axes, correction=0)
    return y, mean * keep + now[0] * (1 - keep), variance * keep + now[1] * (1 - keep)


@operator("InstanceNormalization")
def instance_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    # One group a channel: the same sums, and an operator that more targets know.
    return F.group_norm(x, x.shape[1], scale, bias, node.get("epsilon", 1e-5))


@operator("GroupNormalization")
def group_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    groups = node.get("num_groups")
    if node.opset < 21:  # one scale a group in the operator's first version
        each = x.shape[1] // groups
        scale, bias = scale.repeat_interleave(each), bias.repeat_interleave(each)
    return F.group_norm(x, groups, scale, bias, node.get("epsilon", 1e-5))


@operator("LayerNormalization")
def layer_norm(
    node: Node, x: Tensor, scale: Tensor, bias: Tensor | None = None
) -> Tensor | tuple[Tensor, Tensor, Tensor]:
    axis, epsilon = axis_of(node.get("axis", -1), x.ndim), node.get("epsilon", 1e-5)
    shape = list(x.shape[axis:])
    if list(scale.shape) == shape and (bias is None or list(bias.shape) == shape):
        result = F.layer_norm(x, shape, scale, bias, epsilon)
    else:
        result = F.layer_norm(x, shape, eps=epsilon) * scale
        result = result if bias is None else result + bias
    if not (node.wants(1) or node.wants(2)):
        return result
    axes = list(range(axis, x.ndim))
    mean = x.mean(axes, keepdim=True)
    variance = (x - mean).square().mean(axes, keepdim=True)
    return result, mean, torch.rsqrt(variance + epsilon)


@operator("RMSNormalization")
def rms_norm(node: Node, x: Tensor, scale: Tensor) -> Tensor:
    axis, epsilon = axis_of(node.get("axis", -1), x.ndim), node.get("epsilon", 1e-5)
    shape = list(x.shape[axis:])
    if list(scale.shape) == shape:
        return F.rms_norm(x, shape, scale, epsilon)
    return F.rms_norm(x, shape, eps=epsilon) * scale


@operator("LpNormalization")
def lp_norm(node: Node, x: Tensor) -> Tensor:
    norm = torch.linalg.vector_norm(x, node.get("p", 2), node.get("axis", -1), keepdim=True)
    return x / norm


@operator("LRN")
def local_response_norm(node: Node, x: Tensor) -> Tensor:
    """x / (bias + alpha/size · Σ of squares over ``size`` channels around) ** beta."""
    if x.ndim < 3:
        raise node.refuse("its input has no spatial axes")
    size = node.get("size")
    before, after = (size - 1) // 2, size - 1 - (size - 1) // 2
    squares = (x * x).reshape(x.shape[0], 1, x.shape[1], -1)
    means = F.avg_pool2d(F.pad(squares, [0, 0, before, after]), (size, 1), stride=1)
    scaled = node.get("bias", 1.0) + node.get("alpha", 1e-4) * means.reshape(x.shape)
    return x / torch.pow(scaled, node.get("beta", 0.75))


# --- softmax -----------------------------------------------------------------------------

SOFTMAX = {"Softmax": F.softmax, "LogSoftmax": F.log_softmax}


def hardmax_last(x: Tensor, dim: int) -> Tensor:
    """1 at the first largest element along the axis, 0 elsewhere."""
    first = torch.argmax(x, dim, keepdim=True)
    return torch.scatter(torch.zeros_like(x), dim, first, 1.0)


@operator("Softmax", "LogSoftmax", "Hardmax")
def softmax(node: Node, x: Tensor) -> Tensor:
    """Before opset 13 all axes from ``axis`` on are one; since then it is one axis."""
    function = SOFTMAX.get(node.op, hardmax_last)
    old = node.opset < 13
    axis = axis_of(node.get("axis", 1 if old else -1), x.ndim)
    if not old or axis == x.ndim - 1:
        return function(x, dim=axis)
    sizes = list(x.shape)
    flat = x.reshape(product(sizes[:axis]), product(sizes[axis:]))
    return function(flat, dim=1).reshape(sizes)


# --- sliding blocks and sampling ---------------------------------------------------------


@operator("Col2Im", host=(1, 2))
def fold_blocks(node: Node, x: Tensor, image: np.ndarray, block: np.ndarray) -> Tensor:
    """Columns (batch, channels · block, places) summed back into pictures."""
    kernel = integers(block)
    rank = len(kernel)
    pads = window_pads(node, integers(image), kernel)
    if rank != 2 or not symmetric(pads):
        raise node.refuse("only pictures with the same padding on both sides are supported")
    return F.fold(
        x,
        integers(image),
        kernel,
        dilation=spatial(node, "dilations", rank),
        padding=[before for before, _ in pads],
        stride=spatial(node, "strides", rank),
    )


GRID_MODES = {"linear": "bilinear", "cubic": "bicubic"}


@operator("GridSample")
def grid_sample(node: Node, x: Tensor, grid: Tensor) -> Tensor:
    mode = node.get("mode", "linear")
    return F.grid_sample(
        x,
        grid,
        mode=GRID_MODES.get(mode, mode),
        padding_mode=node.get("padding_mode", "zeros"),
        align_corners=bool(node.get("align_corners", 0)),
    )
