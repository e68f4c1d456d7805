"""Convolutions of one, two and three spatial axes."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .table import along, integer, integers, operator
from .windows import padded, pads

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


@operator("conv")
def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    strides: Tensor | None = None,
    pad_type: str = "valid",
    pad: Tensor | None = None,
    dilations: Tensor | None = None,
    groups: Tensor | int = 1,
) -> Tensor:
    """``x`` is (n, C_in, *D), ``weight`` (C_out, C_in / groups, *K)."""
    kernel = weight.shape[2:]
    steps = integers(strides) if strides is not None else [1] * len(kernel)
    spread = integers(dilations) if dilations is not None else [1] * len(kernel)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, spread, strict=True)]
    around = pads("conv", pad_type, pad, x.shape[2:], reach, steps)
    return _CONV[len(kernel)](padded(x, around), weight, bias, steps, 0, spread, integer(groups))


@operator("conv_transpose")
def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    pad: Tensor | None = None,
    output_shape: Tensor | None = None,
    pad_type: str = "valid",
    strides: Tensor | None = None,
    dilations: Tensor | None = None,
    groups: Tensor | int = 1,
) -> Tensor:
    """``x`` is (n, C_in, *D), ``weight`` (C_in, C_out / groups, *K).

    The padding is cut off the full result. ``same`` keeps D * stride of it;
    ``output_shape`` says how much is kept, which may reach past the end: no input
    reaches there, so only the bias is.
    """
    kernel = weight.shape[2:]
    steps = integers(strides) if strides is not None else [1] * len(kernel)
    spread = integers(dilations) if dilations is not None else [1] * len(kernel)
    full = _TRANSPOSED[len(kernel)](x, weight, None, steps, 0, 0, integer(groups), spread)
    sizes = [size * step for size, step in zip(x.shape[2:], steps, strict=True)]
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, spread, strict=True)]
    around = pads("conv_transpose", pad_type, pad, sizes, reach, steps)
    if output_shape is not None:
        kept = integers(output_shape)[2:]
    elif pad_type in ("same", "same_lower"):
        kept = sizes
    else:
        kept = [n - sum(cut) for n, cut in zip(full.shape[2:], around, strict=True)]
    result = padded(
        full,
        [
            (-before, keep + before - size)
            for (before, _), keep, size in zip(around, kept, full.shape[2:], strict=True)
        ],
    )
    return result if bias is None else result + along(bias, 1, x.ndim)
