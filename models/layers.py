"""Building blocks of the CPUBone and LowFormer backbones.

All blocks map ``(N, C, H, W)`` to ``(N, C', H', W')`` in floating point. The attribute
names (``conv``, ``norm``, ``main``, ``total``, ``op_list``, …) are the keys of the official
checkpoints and must not change. CPUBone: arXiv:2603.26425; LowFormer: arXiv:2409.03460.

No block branches on values, so every one can be captured with ``torch.export``, with fixed
or with dynamic height and width.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Channels that one attention head takes from the block's width, before halving.
_HEAD_WIDTH = 30


def pad_odd_sides(x: Tensor) -> Tensor:
    """Add a zero row below and a zero column to the right where a side is odd.

    A 2x2 convolution with stride 2 then covers the whole map. On an even side that
    convolution never reads an extra row, so a side of unknown parity (a symbolic size, while
    a graph is captured) is padded always, which needs no decision in the graph.
    """
    below, right = (n % 2 if isinstance(n, int) else 1 for n in x.shape[-2:])
    return F.pad(x, (0, right, 0, below)) if below or right else x


def crop(x: Tensor, height: int, width: int) -> Tensor:
    """The top left ``height`` x ``width`` of a map that is at least as large.

    Known sizes are sliced, or left alone where nothing is to be cut, so that a graph of fixed
    size has no needless node. Symbolic sizes are gathered by index: a slice would have the
    capture prove that the map is large enough, which it cannot for sizes rounded up twice,
    and it would then pin the graph to multiples of 32.
    """
    sizes = (*x.shape[-2:], height, width)
    if all(isinstance(n, int) for n in sizes):
        return x if sizes[:2] == sizes[2:] else x[..., :height, :width]
    rows = torch.arange(height, device=x.device)
    columns = torch.arange(width, device=x.device)
    return x.index_select(-2, rows).index_select(-1, columns)


class Chain(nn.Module):
    """Modules in a row, kept under ``op_list`` as the official checkpoints name them."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        super().__init__()
        self.op_list = nn.ModuleList(modules)

    def forward(self, x: Tensor) -> Tensor:
        for module in self.op_list:
            x = module(x)
        return x


class Residual(nn.Module):
    """``main(x) + x``, or ``main(x)`` alone where the block changes the shape."""

    def __init__(self, main: nn.Module, shortcut: bool = True) -> None:
        super().__init__()
        self.main = main
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x) + x if self.shortcut else self.main(x)


class ConvLayer(nn.Module):
    """Convolution, batch norm and activation, in this order.

    Odd kernels are padded on all sides. A 2x2 kernel is padded on the left and top at
    stride 1, which keeps the size; at stride 2 only an odd side is padded (the official
    code drops its last row instead, and then fails where the map is enlarged again).
    The output is ``ceil(H / stride)`` x ``ceil(W / stride)``.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 3,
        stride: int = 1,
        groups: int = 1,
        bias: bool = False,
        norm: bool = True,
        act: bool = True,
    ) -> None:
        super().__init__()
        padding = kernel // 2 if kernel % 2 else 0
        conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=bias)
        keeps_size = kernel == 2 and stride == 1
        self.conv = nn.Sequential(nn.ZeroPad2d((1, 0, 1, 0)), conv) if keeps_size else conv
        self.norm = nn.BatchNorm2d(outputs) if norm else None
        self.act = nn.Hardswish() if act else None
        self.cover_odd_sides = kernel == 2 and stride == 2

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(pad_odd_sides(x) if self.cover_odd_sides else x)
        if self.norm is not None:
            x = self.norm(x)
        return x if self.act is None else self.act(x)


class FusedMBConv(nn.Module):
    """Inverted bottleneck whose expansion is one grouped spatial convolution."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 3,
        stride: int = 1,
        expansion: float = 4,
        groups: int = 1,
        bias: bool = False,
    ) -> None:
        super().__init__()
        hidden = round(inputs * expansion)
        self.spatial_conv = ConvLayer(inputs, hidden, kernel, stride, groups, bias)
        self.point_conv = ConvLayer(hidden, outputs, 1, act=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.point_conv(self.spatial_conv(x))


class MBConv(nn.Module):
    """Inverted bottleneck: expand, depthwise, project. Only the projection is normalised.

    ``bias`` is of the first two convolutions; ``groups`` of the expansion and
    ``point_groups`` of the projection.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 3,
        stride: int = 1,
        expansion: float = 4,
        groups: int = 1,
        bias: bool = False,
        point_groups: int = 1,
    ) -> None:
        super().__init__()
        hidden = round(inputs * expansion)
        self.inverted_conv = ConvLayer(inputs, hidden, 1, groups=groups, bias=bias, norm=False)
        self.depth_conv = ConvLayer(hidden, hidden, kernel, stride, hidden, bias, norm=False)
        self.point_conv = ConvLayer(hidden, outputs, 1, groups=point_groups, act=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.point_conv(self.depth_conv(self.inverted_conv(x)))


class NearestUpsample(nn.Module):
    """Repeat every pixel ``factor`` times in both directions."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        # Sizes rather than scales: integers stay exact where height and width are symbolic.
        size = [n * self.factor for n in x.shape[-2:]]
        return F.interpolate(x, size=size, mode="nearest")


class ConvAttention(nn.Module):
    """Self-attention over a map that a convolution has shrunk, enlarged again afterwards.

    Args:
        channels: C of input and output.
        stride: by how much ``projection`` shrinks the map (1 or 2).
        projection: the depthwise convolution in front, ``ceil(H / stride)`` high.
        transposed: enlarge with a transposed convolution, else by repeating pixels.
        fused: the enlarging step also maps back to C channels; otherwise a 1x1 convolution
            (``o_proj``) does so before it.

    The map has no position encoding: the convolutions carry position.
    """

    def __init__(
        self,
        channels: int,
        stride: int,
        projection: nn.Module,
        transposed: bool = False,
        fused: bool = True,
    ) -> None:
        super().__init__()
        self.stride = stride
        self.heads = max(1, channels // 2 // _HEAD_WIDTH)
        self.width = channels // self.heads // 2
        self.scale = self.width**-0.5
        inner = self.heads * self.width
        self.conv_proj = projection
        self.pwise = nn.Sequential(nn.Conv2d(channels, 3 * inner, 1, bias=False))
        self.o_proj = nn.Identity() if fused else nn.Conv2d(inner, channels, 1)
        if transposed:
            self.upsampling: nn.Module = nn.ConvTranspose2d(
                inner if fused else channels,
                channels,
                kernel_size=4 if stride > 1 else 3,
                stride=stride,
                padding=1,
                groups=1 if fused else channels,
            )
        else:
            mix = [nn.Conv2d(inner, channels, 1)] if fused else []
            self.upsampling = nn.Sequential(
                *mix, NearestUpsample(stride) if stride > 1 else nn.Identity()
            )

    def forward(self, x: Tensor) -> Tensor:
        out = self.upsampling(self.o_proj(self._attend(self.conv_proj(x))))
        return crop(out, *x.shape[-2:]) if self.stride > 1 else out

    def _attend(self, x: Tensor) -> Tensor:
        """Mix the pixels of ``(N, C, H, W)``; returns ``(N, heads * width, H, W)``."""
        batch, _, height, width = x.shape
        # Channels are head-major: each head holds its queries, keys and values in a row.
        qkv = self.pwise(x).reshape(batch, self.heads, 3 * self.width, height * width)
        query, key, value = qkv.split(self.width, dim=2)
        weights = torch.softmax((query * self.scale).transpose(-1, -2) @ key, dim=-1)
        mixed = value @ weights.transpose(-1, -2)
        return mixed.reshape(batch, self.heads * self.width, height, width)


def attention_and_mlp(
    channels: int, attention: nn.Module, expansion: int = 4, dropout: float = 0.0
) -> nn.Sequential:
    """Attention and a pixelwise two-layer perceptron, each normalised and residual.

    The norm is over all channels and pixels of a sample (one group). ``dropout`` acts in
    training only.
    """
    hidden = channels * expansion
    mlp = [
        nn.GroupNorm(1, channels),
        nn.Conv2d(channels, hidden, 1),
        nn.GELU(),
        nn.Conv2d(hidden, channels, 1),
    ]
    if dropout:
        mlp.append(nn.Dropout(dropout))
    return nn.Sequential(
        Residual(nn.Sequential(nn.GroupNorm(1, channels), attention)),
        Residual(nn.Sequential(*mlp)),
    )


class TransformerBlock(nn.Module):
    """A mixer (see :func:`attention_and_mlp`), then a residual convolution block."""

    def __init__(self, mixer: nn.Module, local: nn.Module) -> None:
        super().__init__()
        self.total = nn.Sequential(mixer, Residual(local))

    def forward(self, x: Tensor) -> Tensor:
        return self.total(x)


class LinearLayer(nn.Module):
    """Flatten, linear map, and optionally layer norm with an activation."""

    def __init__(self, inputs: int, outputs: int, norm: bool = False) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs, bias=not norm)
        self.norm = nn.LayerNorm(outputs) if norm else None
        self.act = nn.Hardswish() if norm else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x.flatten(1))
        return x if self.norm is None else self.act(self.norm(x))


def classifier_head(channels: int, features: int, hidden: int, classes: int) -> Chain:
    """1x1 convolution to ``features``, global mean, ``hidden`` units, ``classes`` logits."""
    return Chain(
        [
            ConvLayer(channels, features, 1),
            nn.AdaptiveAvgPool2d(1),
            LinearLayer(features, hidden, norm=True),
            LinearLayer(hidden, classes),
        ]
    )
