"""Poolings over one, two and three spatial axes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .table import integers, operator
from .windows import Pads, padded, pads

_MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


@operator("max_pool")
def max_pool(
    x: Tensor,
    kernel_sizes: Tensor,
    strides: Tensor | None = None,
    pad_type: str = "valid",
    pad: Tensor | None = None,
    ceil_mode: Tensor | bool = False,
) -> Tensor:
    """The largest value of each window; padding is never the largest."""
    kernel, steps, around = _windows("max_pool", x, kernel_sizes, strides, pad_type, pad)
    past = _past(x, kernel, steps, around, bool(ceil_mode))
    full = padded(padded(x, around, -torch.inf), past, -torch.inf)
    return _MAX[len(kernel)](full, kernel, steps)


@operator("avg_pool")
def avg_pool(
    x: Tensor,
    kernel_sizes: Tensor,
    strides: Tensor | None = None,
    pad_type: str = "valid",
    pad: Tensor | None = None,
    exclude_padding_from_average: Tensor | bool = False,
    ceil_mode: Tensor | bool = False,
) -> Tensor:
    """The mean of each window.

    Padding counts as zeros, or not at all where it is excluded. What ``ceil_mode`` adds
    past the padding never counts, as in PyTorch.
    """
    kernel, steps, around = _windows("avg_pool", x, kernel_sizes, strides, pad_type, pad)
    past = _past(x, kernel, steps, around, bool(ceil_mode))
    counted = torch.ones(1, 1, *x.shape[2:], dtype=x.dtype)
    outside = 0.0 if exclude_padding_from_average else 1.0
    counted = padded(padded(counted, around, outside), past)
    sums = _sums(padded(padded(x, around), past), kernel, steps)
    return sums / _sums(counted, kernel, steps)


@operator("l2_pool")
def l2_pool(
    x: Tensor,
    kernel_sizes: Tensor,
    strides: Tensor | None = None,
    pad_type: str = "valid",
    pad: Tensor | None = None,
    ceil_mode: Tensor | bool = False,
) -> Tensor:
    """The root of the sum of squares of each window."""
    kernel, steps, around = _windows("l2_pool", x, kernel_sizes, strides, pad_type, pad)
    past = _past(x, kernel, steps, around, bool(ceil_mode))
    return torch.sqrt(_sums(padded(padded(x.square(), around), past), kernel, steps))


def _windows(
    kind: str,
    x: Tensor,
    kernel_sizes: Tensor,
    strides: Tensor | None,
    pad_type: str,
    pad: Tensor | None,
) -> tuple[list[int], list[int], Pads]:
    kernel = integers(kernel_sizes)
    steps = integers(strides) if strides is not None else [1] * len(kernel)
    return kernel, steps, pads(kind, pad_type, pad, x.shape[2:], kernel, steps)


def _past(x: Tensor, kernel: list[int], steps: list[int], around: Pads, ceil_mode: bool) -> Pads:
    """What the last window of each axis needs past the padding, if partial ones count.

    A last window that would start in the padding after the end is left out, where there is
    any padding (Apple's definition; PyTorch leaves it out always, and so do we).
    """
    found = []
    for size, k, s, (before, after) in zip(x.shape[2:], kernel, steps, around, strict=True):
        total = size + before + after
        count = (total - k) // s + 1
        if ceil_mode:
            count = -(-(total - k) // s) + 1
            if (count - 1) * s >= size + before:
                count -= 1
        found.append((0, max(0, (count - 1) * s + k - total)))
    return found


def _sums(x: Tensor, kernel: list[int], steps: list[int]) -> Tensor:
    if len(kernel) == 1:  # torch's one-dimensional pooling cannot be told what to divide by
        return _sums(x.unsqueeze(-2), [1, *kernel], [1, *steps]).squeeze(-2)
    pool = F.avg_pool2d if len(kernel) == 2 else F.avg_pool3d
    return pool(x, kernel, steps, divisor_override=1)
