"""ONNX pooling operators.

torch's own pooling is used where it can say the same (one padding per axis, at most half
the kernel); elsewhere the input is padded first. How many windows fit follows the
specification since opset 22, which ONNX Runtime applies to older graphs, too: a last
window that would start behind the input and its leading padding is left out.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .onnx_ops import Node, literal, operator, to_type
from .onnx_ops_nn import CONV, Pads, spatial, symmetric, window_pads
from .onnx_ops_shape import flat_pads

MAX_POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
AVG_POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


@dataclass(frozen=True)
class Windows:
    """A pooling node's windows over the spatial axes."""

    kernel: list[int]
    strides: list[int]
    dilations: list[int]
    pads: Pads
    ceil: bool

    @classmethod
    def of(cls, node: Node, sizes: Sequence[Any]) -> Windows:
        kernel = list(node.get("kernel_shape"))
        rank = len(kernel)
        return cls(
            kernel,
            spatial(node, "strides", rank),
            spatial(node, "dilations", rank),
            window_pads(node, sizes, kernel),
            bool(node.get("ceil_mode", 0)) and node.get("auto_pad", "NOTSET") in ("NOTSET", ""),
        )

    @property
    def native(self) -> bool:
        """Whether torch's pooling functions take these paddings."""
        halves = all(2 * p[0] <= k for p, k in zip(self.pads, self.kernel, strict=True))
        return symmetric(self.pads) and halves

    def counts(self, sizes: Sequence[Any]) -> list[Any]:
        """The number of windows along each axis."""
        return [self.count(i, length) for i, length in enumerate(sizes)]

    def count(self, axis: int, length: Any) -> Any:
        """The number of windows along one spatial axis of ``length`` places."""
        before, after = self.pads[axis]
        stride, reach = self.strides[axis], (self.kernel[axis] - 1) * self.dilations[axis] + 1
        room = length + before + after - reach
        if not self.ceil:
            return room // stride + 1
        count = -(-room // stride) + 1
        return count - 1 if (count - 1) * stride >= length + before else count

    def full_pads(self, sizes: Sequence[Any]) -> Pads:
        """The paddings, with what windows hanging over the end need in addition."""
        pads: Pads = []
        for i, (length, count) in enumerate(zip(sizes, self.counts(sizes), strict=True)):
            reach = (count - 1) * self.strides[i] + (self.kernel[i] - 1) * self.dilations[i] + 1
            before, after = self.pads[i]
            pads.append((before, max(after, reach - length - before)))
        return pads


def trimmed(x: Tensor, counts: Sequence[Any]) -> Tensor:
    """``x`` without windows beyond ``counts`` on its spatial axes."""
    for axis, count in enumerate(counts, start=2):
        if x.shape[axis] != count:
            x = x.narrow(axis, 0, count)
    return x


@operator("MaxPool")
def max_pool(node: Node, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
    windows = Windows.of(node, x.shape[2:])
    function = MAX_POOL[len(windows.kernel)]
    kernel, strides, dilations = windows.kernel, windows.strides, windows.dilations
    if windows.native:
        padding = [before for before, _ in windows.pads]
        if node.wants(1):
            return pooled_with_indices(node, x, windows, padding)
        return function(x, kernel, strides, padding, dilations, ceil_mode=windows.ceil)
    if node.wants(1):
        raise node.refuse("its indices are used and its paddings differ from side to side")
    lowest = -math.inf if x.is_floating_point() else torch.iinfo(x.dtype).min
    padded = F.pad(x, flat_pads(windows.full_pads(x.shape[2:])), value=lowest)
    return trimmed(function(padded, kernel, strides, 0, dilations), windows.counts(x.shape[2:]))


def pooled_with_indices(
    node: Node, x: Tensor, windows: Windows, padding: list[int]
) -> tuple[Tensor, Tensor]:
    """Max pooling and where the maxima are: ONNX counts through the whole tensor, torch
    within one channel's plane."""
    if node.get("storage_order", 0):
        raise node.refuse("its indices are used in column-major order")
    function = MAX_POOL[len(windows.kernel)]
    values, places = function(
        x,
        windows.kernel,
        windows.strides,
        padding,
        windows.dilations,
        ceil_mode=windows.ceil,
        return_indices=True,
    )
    n, c, plane = x.shape[0], x.shape[1], math.prod(x.shape[2:])
    starts = np.arange(n * c, dtype=np.int64).reshape(n, c, *[1] * len(windows.kernel)) * plane
    return values, places + literal(starts)


@operator("AveragePool")
def average_pool(node: Node, x: Tensor) -> Tensor:
    windows = Windows.of(node, x.shape[2:])
    include = bool(node.get("count_include_pad", 0))
    if windows.native and all(d == 1 for d in windows.dilations):
        padding = [before for before, _ in windows.pads]
        function = AVG_POOL[len(windows.kernel)]
        return function(x, windows.kernel, windows.strides, padding, windows.ceil, include)
    sizes = x.shape[2:]
    means = window_means(x, windows)
    shares = functools.reduce(
        np.multiply.outer, [shares_inside(windows, i, n, include) for i, n in enumerate(sizes)]
    )
    if np.all(shares == 1.0):
        return means
    return means / to_type(literal(shares.astype(np.float32)), x.dtype)


def window_means(x: Tensor, windows: Windows) -> Tensor:
    """The mean of each window over all its places, those in the padding counted as zero."""
    rank, channels = len(windows.kernel), x.shape[1]
    padded = F.pad(x, flat_pads(windows.full_pads(x.shape[2:])))
    if all(d == 1 for d in windows.dilations):
        means = AVG_POOL[rank](padded, windows.kernel, windows.strides)
    else:  # torch's average pooling has no dilation: a convolution of each channel has
        weight = torch.full(
            (channels, 1, *windows.kernel), 1.0 / math.prod(windows.kernel), dtype=x.dtype
        )
        means = CONV[rank](padded, weight, None, windows.strides, 0, windows.dilations, channels)
    return trimmed(means, windows.counts(x.shape[2:]))


def shares_inside(windows: Windows, axis: int, length: int, include: bool) -> np.ndarray:
    """The share of each window's places along one axis that its mean counts: those of the
    input, and with ``include`` those of the paddings (not of the overhang of ceil_mode)."""
    before, after = windows.pads[axis]
    count = windows.count(axis, length)
    starts = np.arange(count) * windows.strides[axis] - before
    places = starts[:, None] + np.arange(windows.kernel[axis]) * windows.dilations[axis]
    first, last = (-before, length + after) if include else (0, length)
    return ((places >= first) & (places < last)).mean(axis=1)


@operator("LpPool")
def lp_pool(node: Node, x: Tensor) -> Tensor:
    windows = Windows.of(node, x.shape[2:])
    p = node.get("p", 2)
    sums = window_means(torch.pow(torch.abs(x), p), windows) * math.prod(windows.kernel)
    return torch.pow(sums, 1.0 / p)


@operator("GlobalAveragePool")
def global_average_pool(node: Node, x: Tensor) -> Tensor:
    return x.mean(list(range(2, x.ndim)), keepdim=True)


@operator("GlobalMaxPool")
def global_max_pool(node: Node, x: Tensor) -> Tensor:
    return x.amax(list(range(2, x.ndim)), keepdim=True)


@operator("GlobalLpPool")
def global_lp_pool(node: Node, x: Tensor) -> Tensor:
    axes = list(range(2, x.ndim))
    return torch.linalg.vector_norm(x, node.get("p", 2), axes, keepdim=True)
