"""Pictures of another size: along each axis, which places are read and how they are mixed.

The grids are Apple's five sampling modes (documentation of ``resize_bilinear``).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .table import along, integer, integers, operator, unknown_form


def grid(kind: str, size: int, count: int, mode: str) -> Tensor:
    """The places in ``[0, size - 1]``, in float64, that ``count`` samples are read from."""
    steps = torch.arange(count, dtype=torch.float64)
    if mode == "UNALIGN_CORNERS":
        spacing = size / count
        places = steps * spacing + 0.5 * spacing - 0.5
    elif mode == "DEFAULT":
        places = steps * (size / count)
    elif mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        places = steps * ((size - 1) / (count - 1) if count > 1 else 0)
        if count == 1 and mode == "ALIGN_CORNERS":
            places = places + (size - 1) / 2
    elif mode == "OFFSET_CORNERS":
        delta = max(1, size - 1) / count
        places = 0.5 * delta + steps * delta
    else:
        raise unknown_form(kind, f"the sampling mode {mode}")
    return places.clamp(0, size - 1)


def interpolated(x: Tensor, axis: int, places: Tensor) -> Tensor:
    """``x`` read at ``places`` along ``axis``, linearly between its elements."""
    low = places.floor().long()
    high = (low + 1).clamp(max=x.shape[axis] - 1)
    share = along((places - low).to(x.dtype), axis, x.ndim)
    return x.index_select(axis, low) * (1 - share) + x.index_select(axis, high) * share


def _bilinear(kind: str, x: Tensor, height: int, width: int, mode: str) -> Tensor:
    for axis, count in ((x.ndim - 2, height), (x.ndim - 1, width)):
        x = interpolated(x, axis, grid(kind, x.shape[axis], count, mode))
    return x


def _nearest(x: Tensor, axis: int, count: int, spacing: float) -> Tensor:
    places = (torch.arange(count, dtype=torch.float64) * spacing).floor().long()
    return x.index_select(axis, places.clamp(max=x.shape[axis] - 1))


@operator("upsample_bilinear")
def upsample_bilinear(
    x: Tensor,
    scale_factor_height: Tensor | int = 1,
    scale_factor_width: Tensor | int = 1,
    align_corners: Tensor | bool = True,
    half_pixel_centers: Tensor | bool | None = None,
) -> Tensor:
    """The last two axes by factors; the grid follows from the sizes, not the factors."""
    centred = not align_corners if half_pixel_centers is None else bool(half_pixel_centers)
    if align_corners and centred:
        raise unknown_form("upsample_bilinear", "both corners and pixel centres aligned")
    free = "UNALIGN_CORNERS" if centred else "DEFAULT"
    mode = "STRICT_ALIGN_CORNERS" if align_corners else free
    height = _enlarged(x.shape[-2], scale_factor_height)
    width = _enlarged(x.shape[-1], scale_factor_width)
    return _bilinear("upsample_bilinear", x, height, width, mode)


def _enlarged(size: int, factor: Tensor | int) -> int:
    """floor(size * factor), where a factor in fp32 may be a hair below the one meant."""
    product = size * float(factor)
    near = round(product)
    return near if math.isclose(product, near, rel_tol=1e-6) else math.floor(product)


@operator("resize_bilinear")
def resize_bilinear(
    x: Tensor,
    target_size_height: Tensor | int = 1,
    target_size_width: Tensor | int = 1,
    sampling_mode: str = "DEFAULT",
) -> Tensor:
    """The last two axes to these sizes, linearly interpolated."""
    height, width = integer(target_size_height), integer(target_size_width)
    return _bilinear("resize_bilinear", x, height, width, sampling_mode)


@operator("upsample_nearest_neighbor")
def upsample_nearest_neighbor(
    x: Tensor, scale_factor_height: Tensor | int = 1, scale_factor_width: Tensor | int = 1
) -> Tensor:
    """The last two axes by factors, each element from the one below its place."""
    for axis, factor in ((x.ndim - 2, scale_factor_height), (x.ndim - 1, scale_factor_width)):
        count = _enlarged(x.shape[axis], factor)
        x = _nearest(x, axis, count, x.shape[axis] / count)
    return x


@operator("resize_nearest_neighbor")
def resize_nearest_neighbor(
    x: Tensor, target_size_height: Tensor, target_size_width: Tensor
) -> Tensor:
    """The last two axes to these sizes, each element from the one below its place."""
    for axis, size in ((x.ndim - 2, target_size_height), (x.ndim - 1, target_size_width)):
        count = integer(size)
        x = _nearest(x, axis, count, x.shape[axis] / count)
    return x


@operator("resize")
def resize(
    x: Tensor,
    shape: Tensor,
    resized_dims: Tensor,
    interpolation_mode: str = "LINEAR",
    sampling_mode: str = "DEFAULT",
) -> Tensor:
    """The last ``resized_dims`` axes to the last sizes of ``shape``; 0 leaves an axis.

    Which element is the nearest is defined for the default sampling mode only.
    """
    sizes = integers(shape)
    for back in range(integer(resized_dims), 0, -1):
        axis, count = x.ndim - back, sizes[len(sizes) - back]
        if count == 0:
            continue
        if interpolation_mode == "LINEAR":
            x = interpolated(x, axis, grid("resize", x.shape[axis], count, sampling_mode))
        elif interpolation_mode == "NEAREST_NEIGHBOR" and sampling_mode == "DEFAULT":
            x = _nearest(x, axis, count, x.shape[axis] / count)
        else:
            raise unknown_form("resize", f"{interpolation_mode} and {sampling_mode}")
    return x


_PADDINGS = {"constant": "zeros", "border": "border", "reflection": "reflection"}


@operator("resample")
def resample(
    x: Tensor,
    coordinates: Tensor,
    sampling_mode: str,
    padding_mode: str,
    padding_value: Tensor,
    coordinates_mode: str,
    align_corners: Tensor,
) -> Tensor:
    """``x`` (B, C, H, W) read at ``coordinates`` (B, H2, W2, 2), each (x, y)."""
    corners = bool(align_corners)
    places = coordinates.to(torch.float32)
    if coordinates_mode == "normalized_zero_to_one":
        places = 2 * places - 1
    elif coordinates_mode == "unnormalized":
        sizes = torch.tensor([x.shape[3], x.shape[2]], dtype=torch.float32)
        places = 2 * places / (sizes - 1).clamp(min=1) - 1
        corners = True  # whole numbers are the pixels themselves
    elif coordinates_mode != "normalized_minus_one_to_one":
        raise unknown_form("resample", f"coordinates that are {coordinates_mode}")
    if sampling_mode not in ("bilinear", "nearest") or padding_mode not in _PADDINGS:
        raise unknown_form("resample", f"{sampling_mode} and {padding_mode}")
    offset = padding_value if padding_mode == "constant" else torch.zeros(())
    return offset + F.grid_sample(
        x - offset, places, sampling_mode, _PADDINGS[padding_mode], align_corners=corners
    )
