"""Activations."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .table import along, integer, operator, unknown_form


@operator("relu")
def relu(x: Tensor) -> Tensor:
    """max(x, 0)."""
    return torch.clamp(x, min=0)


@operator("relu6")
def relu6(x: Tensor) -> Tensor:
    """min(max(x, 0), 6)."""
    return torch.clamp(x, 0, 6)


@operator("clamped_relu")
def clamped_relu(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """min(x, beta) where x >= 0, elsewhere min(alpha x, beta)."""
    return torch.minimum(torch.where(x >= 0, x, alpha * x), beta)


@operator("leaky_relu")
def leaky_relu(x: Tensor, alpha: Tensor) -> Tensor:
    """x where x >= 0, elsewhere alpha x."""
    return torch.where(x >= 0, x, alpha * x)


@operator("prelu")
def prelu(x: Tensor, alpha: Tensor) -> Tensor:
    """x where x > 0, elsewhere alpha x, with one ``alpha`` for each channel (axis 1)."""
    return torch.where(x > 0, x, along(alpha, 1, x.ndim) * x)


@operator("thresholded_relu")
def thresholded_relu(x: Tensor, alpha: Tensor) -> Tensor:
    """x where x >= alpha, elsewhere 0."""
    return torch.where(x >= alpha, x, torch.zeros_like(x))


@operator("elu")
def elu(x: Tensor, alpha: Tensor) -> Tensor:
    """x where x > 0, elsewhere alpha (e^x - 1)."""
    return torch.where(x > 0, x, alpha * torch.expm1(x))


@operator("gelu")
def gelu(x: Tensor, mode: str = "EXACT") -> Tensor:
    """x times the normal distribution's cumulative function, or one of two approximations."""
    if mode == "EXACT":
        return F.gelu(x)
    if mode == "TANH_APPROXIMATION":
        return F.gelu(x, approximate="tanh")
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    raise unknown_form("gelu", f"the mode {mode}")


@operator("linear_activation")
def linear_activation(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """alpha x + beta."""
    return alpha * x + beta


@operator("scaled_tanh")
def scaled_tanh(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """alpha tanh(beta x)."""
    return alpha * torch.tanh(beta * x)


@operator("sigmoid")
def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + e^-x)."""
    return torch.sigmoid(x)


@operator("sigmoid_hard")
def sigmoid_hard(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """min(max(alpha x + beta, 0), 1)."""
    return torch.clamp(alpha * x + beta, 0, 1)


@operator("silu")
def silu(x: Tensor) -> Tensor:
    """x sigmoid(x)."""
    return F.silu(x)


@operator("softplus")
def softplus(x: Tensor) -> Tensor:
    """log(1 + e^x), without overflow."""
    return torch.logaddexp(x, torch.zeros_like(x))


@operator("softplus_parametric")
def softplus_parametric(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """alpha log(1 + e^(beta x)), with one of each for every channel (axis 1)."""
    return along(alpha, 1, x.ndim) * softplus(along(beta, 1, x.ndim) * x)


@operator("softsign")
def softsign(x: Tensor) -> Tensor:
    """x / (1 + |x|)."""
    return x / (1 + torch.abs(x))


@operator("softmax")
def softmax(x: Tensor, axis: Tensor | int = -1) -> Tensor:
    """e^x over its sum along ``axis``."""
    return torch.softmax(x, integer(axis))
