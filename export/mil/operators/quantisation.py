"""Compressed constants and quantised activations."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ..blobs import unpack
from .table import along, integer, integers, operator, unknown_form

_RANGES = {"int8": (-128, 127), "uint8": (0, 255)}


def _spread(factor: Tensor, axis: Tensor | None, rank: int) -> Tensor:
    return along(factor, integer(axis), rank) if factor.ndim and axis is not None else factor


def _dequantised(
    data: Tensor, scale: Tensor, zero_point: Tensor | None, axis: Tensor | None
) -> Tensor:
    values = data.to(torch.float32)
    if zero_point is not None:
        values = values - _spread(zero_point.to(torch.float32), axis, data.ndim)
    return values * _spread(scale, axis, data.ndim)


@operator("constexpr_affine_dequantize")
def constexpr_affine_dequantize(
    quantized_data: Tensor, zero_point: Tensor, scale: Tensor, axis: Tensor
) -> Tensor:
    """scale (data - zero_point), each a scalar or one for every place along ``axis``."""
    return _dequantised(quantized_data, scale, zero_point, axis)


@operator("constexpr_blockwise_shift_scale")
def constexpr_blockwise_shift_scale(
    data: Tensor, scale: Tensor, offset: Tensor | None = None
) -> Tensor:
    """scale (data - offset), one of each for every block; their shapes say how large."""
    values = data.to(torch.float32)
    if offset is not None:
        values = values - _blocks(offset.to(torch.float32), data)
    return values * _blocks(scale, data)


def _blocks(factors: Tensor, data: Tensor) -> Tensor:
    for axis, (size, count) in enumerate(zip(data.shape, factors.shape, strict=True)):
        factors = factors.repeat_interleave(size // count, axis)
    return factors


@operator("constexpr_cast")
def constexpr_cast(source_val: Tensor, output_dtype: str) -> Tensor:
    """fp16 to fp32: the same values."""
    return source_val


@operator("constexpr_lut_to_dense")
def constexpr_lut_to_dense(
    indices: Tensor,
    lut: Tensor,
    shape: Tensor | None = None,
    vector_axis: Tensor | None = None,
) -> Tensor:
    """A palette's values by their indices.

    With ``shape`` (iOS 16): one palette, and indices packed into bytes. Without (iOS 18):
    ``lut`` is (*groups, palette, vector); the groups divide the axes of ``indices``, and a
    vector's elements follow each other along ``vector_axis``.
    """
    if shape is not None:
        bits = round(math.log2(lut.numel()))
        sizes = tuple(integers(shape))
        packed = unpack(indices.numpy().tobytes(), f"uint{bits}", sizes)
        return lut.reshape(-1)[torch.from_numpy(packed.astype(np.int64))]
    *groups, _, length = lut.shape
    places = []
    for axis, (size, count) in enumerate(zip(indices.shape, groups, strict=True)):
        places.append(along(torch.arange(size) // (size // count), axis, indices.ndim))
    values = lut[(*places, indices.long())]
    if length == 1:
        return values.squeeze(-1)
    axis = integer(vector_axis) % indices.ndim
    return values.movedim(-1, axis + 1).flatten(axis, axis + 1)


@operator("constexpr_sparse_to_dense")
def constexpr_sparse_to_dense(
    nonzero_data: Tensor, mask: Tensor, shape: Tensor | None = None
) -> Tensor:
    """Values where a bit of ``mask`` is set, elsewhere zero; iOS 16 packs the bits."""
    if shape is not None:
        packed = unpack(mask.numpy().tobytes(), "uint1", tuple(integers(shape)))
        mask = torch.from_numpy(packed)
    dense = torch.zeros(mask.shape, dtype=nonzero_data.dtype)
    dense[mask != 0] = nonzero_data
    return dense


@operator("quantize")
def quantize(
    input: Tensor,
    scale: Tensor,
    output_dtype: str,
    zero_point: Tensor | None = None,
    axis: Tensor | None = None,
) -> Tensor:
    """clip(round(input / scale) + zero_point), halves rounded to even."""
    if output_dtype not in _RANGES:
        raise unknown_form("quantize", f"the type {output_dtype}")
    values = torch.round(input / _spread(scale, axis, input.ndim))
    if zero_point is not None:
        values = values + _spread(zero_point.to(torch.float32), axis, input.ndim)
    low, high = _RANGES[output_dtype]
    return values.clamp(low, high).to(getattr(torch, output_dtype))


@operator("dequantize")
def dequantize(
    input: Tensor,
    scale: Tensor,
    zero_point: Tensor | None = None,
    axis: Tensor | None = None,
) -> Tensor:
    """scale (input - zero_point)."""
    return _dequantised(input, scale, zero_point, axis)
