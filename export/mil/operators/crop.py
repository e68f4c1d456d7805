"""Boxes cut out of pictures and brought to one size."""

from __future__ import annotations

import torch
from torch import Tensor

from .table import integer, operator, unknown_form

_ORDERS = {
    # Which of the four numbers of a box are top, left, bottom and right.
    "CORNERS_HEIGHT_FIRST": (0, 1, 2, 3),
    "CORNERS_WIDTH_FIRST": (1, 0, 3, 2),
}


@operator("crop_resize")
def crop_resize(
    x: Tensor,
    boxes: Tensor,
    box_indices: Tensor | None = None,
    target_height: Tensor | int = 1,
    target_width: Tensor | int = 1,
    normalized_coordinates: Tensor | bool = False,
    spatial_scale: Tensor | float = 1.0,
    box_coordinate_mode: str = "CORNERS_HEIGHT_FIRST",
    sampling_mode: str = "DEFAULT",
    pad_value: Tensor | float = 0.0,
) -> Tensor:
    """``x`` (B, C, H, W) cut by ``boxes`` (N, 4) to (N, C, target height, target width).

    Only the modes that put the outermost samples on a box's corners are known: those are
    TensorFlow's ``crop_and_resize``, for the others the documentation leaves the grid open.
    """
    if sampling_mode not in ("ALIGN_CORNERS", "STRICT_ALIGN_CORNERS"):
        raise unknown_form("crop_resize", f"the sampling mode {sampling_mode}")
    height, width = x.shape[2:]
    corners = _corners(boxes.double() * float(spatial_scale), box_coordinate_mode)
    if normalized_coordinates:
        corners = corners * torch.tensor([height - 1, width - 1] * 2, dtype=torch.float64)
    chosen = box_indices.long() if box_indices is not None else torch.arange(len(boxes))
    strict = sampling_mode == "STRICT_ALIGN_CORNERS"
    crops = []
    for picture, (top, left, bottom, right) in zip(x[chosen], corners.tolist(), strict=True):
        rows = _grid(top, bottom, integer(target_height), strict)
        columns = _grid(left, right, integer(target_width), strict)
        crops.append(_read(picture, rows, columns, float(pad_value)))
    return torch.stack(crops)


def _corners(boxes: Tensor, mode: str) -> Tensor:
    if mode in _ORDERS:
        return boxes[:, list(_ORDERS[mode])]
    if mode not in ("CENTER_SIZE_HEIGHT_FIRST", "CENTER_SIZE_WIDTH_FIRST"):
        raise unknown_form("crop_resize", f"boxes given as {mode}")
    order = [0, 1] if mode == "CENTER_SIZE_HEIGHT_FIRST" else [1, 0]
    centre, half = boxes[:, :2][:, order], boxes[:, 2:][:, order] / 2
    return torch.cat([centre - half, centre + half], 1)


def _grid(first: float, last: float, count: int, strict: bool) -> Tensor:
    if count == 1 and not strict:
        return torch.tensor([(first + last) / 2], dtype=torch.float64)
    spacing = (last - first) / (count - 1) if count > 1 else 0.0
    return first + spacing * torch.arange(count, dtype=torch.float64)


def _read(picture: Tensor, rows: Tensor, columns: Tensor, outside: float) -> Tensor:
    """Linearly between the elements of (C, H, W); ``outside`` where there are none."""
    known = torch.ones(len(rows), len(columns), dtype=torch.bool)
    for axis, places in ((1, rows), (2, columns)):
        size = picture.shape[axis]
        inside = (places >= 0) & (places <= size - 1)
        known &= inside[:, None] if axis == 1 else inside
        places = places.clamp(0, size - 1)
        low = places.floor().long()
        share = (places - low).to(picture.dtype)
        share = share[:, None] if axis == 1 else share
        above = picture.index_select(axis, (low + 1).clamp(max=size - 1))
        picture = picture.index_select(axis, low) * (1 - share) + above * share
    return torch.where(known, picture, torch.full_like(picture, outside))
