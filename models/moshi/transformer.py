"""Transformers that are called step by step, with the official parameter names."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import TransformerConfig
from .ring import Carried, Window
from .states import ring_names

LAYER_NORM_EPSILON = 1e-5
RMS_NORM_EPSILON = 1e-8


class RMSNorm(nn.Module):
    """Root-mean-square normalisation; its arithmetic is in fp32, whatever the network's is."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        exact = x.to(torch.float32)
        mean = exact.square().mean(-1, keepdim=True)
        scale = self.alpha.to(torch.float32) * torch.rsqrt(mean + RMS_NORM_EPSILON)
        return (exact * scale).to(x.dtype)


def norm(config: TransformerConfig) -> nn.Module:
    """The normalisation that a configuration names."""
    if config.norm == "rms_norm_f32":
        return RMSNorm(config.width)
    return nn.LayerNorm(config.width, eps=LAYER_NORM_EPSILON)


class LayerScale(nn.Module):
    """A factor per channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((width,), 0.01))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x


class Gating(nn.Module):
    """A feed-forward part whose one half gates the other."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.linear_in = nn.Linear(width, 2 * hidden, bias=False)
        self.linear_out = nn.Linear(hidden, width, bias=False)
        self.hidden = hidden

    def forward(self, x: Tensor) -> Tensor:
        both = self.linear_in(x)
        return self.linear_out(F.silu(both[..., : self.hidden]) * both[..., self.hidden :])


def linears(count: int, inside: int, outside: int) -> nn.ModuleList:
    """``count`` linear layers without biases."""
    return nn.ModuleList(nn.Linear(inside, outside, bias=False) for _ in range(count))


class SelfAttention(nn.Module):
    """The projections of attention; ``count`` sets of them, where each step has its own."""

    def __init__(self, config: TransformerConfig, count: int = 1) -> None:
        super().__init__()
        self.in_projs = linears(count, config.width, 3 * config.width)
        self.out_projs = linears(count, config.width, config.width)
        self.heads, self.head_width = config.heads, config.head_width

    def project(self, x: Tensor, which: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """(1, steps, width) to queries, keys and values (1, heads, steps, features)."""
        steps = x.shape[1]
        shape = (1, steps, 3, self.heads, self.head_width)
        q, k, v = self.in_projs[which](x).reshape(shape).permute(2, 0, 3, 1, 4).unbind(0)
        return q, k, v

    def merge(self, x: Tensor, which: int = 0) -> Tensor:
        """(1, heads, steps, features) back to (1, steps, width)."""
        flat = x.transpose(1, 2).reshape(1, x.shape[2], self.heads * self.head_width)
        return self.out_projs[which](flat)


class Layer(nn.Module):
    """One layer; with ``count`` weights per step, all but the norms are a step's own."""

    def __init__(self, config: TransformerConfig, count: int | None = None) -> None:
        super().__init__()
        self.self_attn = SelfAttention(config, count or 1)
        self.norm1, self.norm2 = norm(config), norm(config)
        if not config.gated:
            self.linear1 = nn.Linear(config.width, config.hidden, bias=False)
            self.linear2 = nn.Linear(config.hidden, config.width, bias=False)
        elif count is None:
            self.gating = Gating(config.width, config.hidden)
        else:
            self.gating = nn.ModuleList(Gating(config.width, config.hidden) for _ in range(count))
        if config.layer_scale:
            self.layer_scale_1 = LayerScale(config.width)
            self.layer_scale_2 = LayerScale(config.width)
        self._config = config

    def add_attention(self, x: Tensor, attended: Tensor, which: int = 0) -> Tensor:
        """``x`` and what attention found."""
        found = self.self_attn.merge(attended, which)
        return x + (self.layer_scale_1(found) if self._config.layer_scale else found)

    def add_feed_forward(self, x: Tensor, which: int | None = None) -> Tensor:
        """``x`` and its feed-forward part."""
        inside = self.norm2(x)
        if not self._config.gated:
            found = self.linear2(F.gelu(self.linear1(inside)))
        else:
            found = (self.gating if which is None else self.gating[which])(inside)
        return x + (self.layer_scale_2(found) if self._config.layer_scale else found)


class StreamingTransformer(nn.Module):
    """A stack of layers over the last ``context`` steps.

    Args:
        prefix: of its states' names.
    """

    def __init__(self, config: TransformerConfig, prefix: str) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self._config = config
        self._names = ring_names(prefix, config.layers)

    def forward(self, x: Tensor, window: Window, carried: Carried) -> Tensor:
        """(1, steps, width) of new steps to the same shape."""
        config, positions = self._config, window.positions()
        rotation = None
        if config.positions == "sin":
            x = x + sinusoids(positions, config.width, config.max_period)
        elif config.positions == "rope":
            rotation = rotary(positions, config.head_width, config.max_period)
        for layer, names in zip(self.layers, self._names, strict=True):
            q, k, v = layer.self_attn.project(layer.norm1(x))
            if rotation is not None:
                q, k = rotate(q, rotation), rotate(k, rotation)
            x = layer.add_attention(x, window.attend(q, k, v, carried, names))
            x = layer.add_feed_forward(x)
        return x


def rotary(positions: Tensor, width: int, max_period: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines (steps, width / 2, 1) of rotary positions, in fp32.

    Half precision could not tell apart angles of more than 2048 radians, which are two minutes.
    """
    pairs = torch.arange(width // 2, dtype=torch.float32)
    frequencies = torch.exp(pairs * (-math.log(max_period) * 2 / width))
    angles = (positions[:, None] * frequencies)[..., None]
    return torch.cos(angles), torch.sin(angles)


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """(1, heads, steps, features) turned; features 2i and 2i + 1 are the two axes of a plane."""
    cosines, sines = rotation
    shape = x.shape
    planes = x.reshape(*shape[:-1], shape[-1] // 2, 2)
    real, imaginary = planes[..., :1], planes[..., 1:]
    turned = (real * cosines - imaginary * sines, real * sines + imaginary * cosines)
    return torch.cat(turned, -1).reshape(shape)


def sinusoids(positions: Tensor, width: int, max_period: float) -> Tensor:
    """(1, steps, width): cosines, then sines, of the positions at decreasing frequencies."""
    half = width // 2
    exponents = torch.arange(half, dtype=torch.float32) / (half - 1)
    phases = positions[None, :, None] / max_period**exponents
    return torch.cat([torch.cos(phases), torch.sin(phases)], -1)
