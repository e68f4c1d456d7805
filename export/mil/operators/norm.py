"""Normalisations."""

from __future__ import annotations

import torch
from torch import Tensor

from .table import along, integer, integers, operator
from .windows import padded


@operator("batch_norm")
def batch_norm(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: Tensor | float = 1e-5,
) -> Tensor:
    """gamma (x - mean) / sqrt(variance + epsilon) + beta; one of each for every channel."""
    centred = x - along(mean, 1, x.ndim)
    return _affine(centred / torch.sqrt(along(variance, 1, x.ndim) + epsilon), gamma, beta)


@operator("instance_norm")
def instance_norm(
    x: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: Tensor | float = 1e-5,
) -> Tensor:
    """Each channel of each sample by its own mean and variance over the spatial axes."""
    return _affine(_standard(x, list(range(2, x.ndim)), epsilon), gamma, beta)


def _affine(x: Tensor, gamma: Tensor | None, beta: Tensor | None) -> Tensor:
    if gamma is not None:
        x = x * along(gamma, 1, x.ndim)
    return x if beta is None else x + along(beta, 1, x.ndim)


def _standard(x: Tensor, axes: list[int], epsilon: Tensor | float) -> Tensor:
    variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
    return (x - mean) / torch.sqrt(variance + epsilon)


@operator("layer_norm")
def layer_norm(
    x: Tensor,
    axes: Tensor | None = None,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: Tensor | float = 1e-5,
) -> Tensor:
    """By mean and variance over ``axes`` (all, if not given); ``gamma`` has their sizes."""
    over = sorted(axis % x.ndim for axis in (integers(axes) if axes is not None else range(x.ndim)))
    shape = [size if axis in over else 1 for axis, size in enumerate(x.shape)]
    result = _standard(x, over, epsilon)
    if gamma is not None:
        result = result * gamma.reshape(shape)
    return result if beta is None else result + beta.reshape(shape)


@operator("l2_norm")
def l2_norm(x: Tensor, epsilon: Tensor | float = 1e-6) -> Tensor:
    """x / sqrt(sum of squares over the last three axes + epsilon)."""
    return x / torch.sqrt(x.square().sum((-3, -2, -1), keepdim=True) + epsilon)


@operator("local_response_norm")
def local_response_norm(
    x: Tensor,
    size: Tensor,
    alpha: Tensor | float = 1e-4,
    beta: Tensor | float = 0.75,
    k: Tensor | float = 1.0,
) -> Tensor:
    """x / (k + alpha / size * sum of the squares of ``size`` neighbouring channels)^beta.

    An even number of neighbours has one more before the channel than after it, as PyTorch.
    """
    near = integer(size)
    squares = x.square().movedim(1, -1)
    around = padded(squares, [(near // 2, (near - 1) // 2)])
    sums = around.unfold(-1, near, 1).sum(-1).movedim(-1, 1)
    return x / (k + alpha / near * sums) ** beta
