"""Rearrangements between channels, places and batch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .table import integer, integers, operator


@operator("pixel_shuffle")
def pixel_shuffle(x: Tensor, upscale_factor: Tensor) -> Tensor:
    """PyTorch's PixelShuffle: (n, C f^2, H, W) to (n, C, H f, W f)."""
    return F.pixel_shuffle(x, integer(upscale_factor))


@operator("pixel_unshuffle")
def pixel_unshuffle(x: Tensor, downscale_factor: Tensor) -> Tensor:
    """The reverse: (n, C, H f, W f) to (n, C f^2, H, W)."""
    return F.pixel_unshuffle(x, integer(downscale_factor))


@operator("depth_to_space")
def depth_to_space(x: Tensor, block_size: Tensor) -> Tensor:
    """As pixel_shuffle, but the block's place is the slow part of the channel's number."""
    n, c, h, w = x.shape
    b = integer(block_size)
    blocks = x.reshape(n, b, b, c // b**2, h, w)
    return blocks.permute(0, 3, 4, 1, 5, 2).reshape(n, c // b**2, h * b, w * b)


@operator("space_to_depth")
def space_to_depth(x: Tensor, block_size: Tensor) -> Tensor:
    """The reverse of depth_to_space."""
    n, c, h, w = x.shape
    b = integer(block_size)
    blocks = x.reshape(n, c, h // b, b, w // b, b)
    return blocks.permute(0, 3, 5, 1, 2, 4).reshape(n, c * b**2, h // b, w // b)


@operator("space_to_batch")
def space_to_batch(x: Tensor, block_shape: Tensor, paddings: Tensor) -> Tensor:
    """Blocks of the padded picture become samples, the place in the block the slow part."""
    (top, bottom), (left, right) = paddings.reshape(2, 2).tolist()
    x = F.pad(x, (left, right, top, bottom))
    n, c, h, w = x.shape
    bh, bw = integers(block_shape)
    blocks = x.reshape(n, c, h // bh, bh, w // bw, bw)
    return blocks.permute(3, 5, 0, 1, 2, 4).reshape(n * bh * bw, c, h // bh, w // bw)


@operator("batch_to_space")
def batch_to_space(x: Tensor, block_shape: Tensor, crops: Tensor) -> Tensor:
    """The reverse of space_to_batch."""
    (top, bottom), (left, right) = crops.reshape(2, 2).tolist()
    bh, bw = integers(block_shape)
    n, c, h, w = x.shape
    blocks = x.reshape(bh, bw, n // (bh * bw), c, h, w).permute(2, 3, 4, 0, 5, 1)
    whole = blocks.reshape(n // (bh * bw), c, h * bh, w * bw)
    return whole[..., top : h * bh - bottom, left : w * bw - right]


@operator("crop")
def crop(x: Tensor, crop_height: Tensor, crop_width: Tensor) -> Tensor:
    """Without this many rows and columns at each side."""
    (top, bottom), (left, right) = integers(crop_height), integers(crop_width)
    return x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]
