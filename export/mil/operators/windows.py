"""What convolutions and poolings share: the padding that a window needs."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from .table import integers, unknown_form

Pads = list[tuple[int, int]]


def pads(
    kind: str,
    pad_type: str,
    pad: Tensor | None,
    sizes: Sequence[int],
    windows: Sequence[int],
    strides: Sequence[int],
) -> Pads:
    """Padding before and after each spatial axis.

    Args:
        kind: the operator, for the error. pad_type: ``valid``, ``custom``, ``same`` or
            ``same_lower``.
        pad: before and after each axis in turn; used where ``pad_type`` is ``custom``.
        sizes: of the input. windows: how far a kernel reaches, dilation included.

    ``same`` gives ceil(size / stride) outputs and needs just enough padding for that, the
    odd one after the end (``same_lower``: before the start). That is TensorFlow's rule, from
    which coremltools takes the word as it is; the formula in its documentation of ``conv``
    splits the padding of even kernels the other way round, and disregards the stride.

    Raises:
        UnknownOperatorError: another ``pad_type``.
    """
    if pad_type == "valid":
        return [(0, 0)] * len(sizes)
    if pad_type == "custom":
        given = integers(pad) if pad is not None else [0] * 2 * len(sizes)
        return list(zip(given[::2], given[1::2], strict=True))
    if pad_type not in ("same", "same_lower"):
        raise unknown_form(kind, f"the padding {pad_type}")
    found = []
    for size, window, stride in zip(sizes, windows, strides, strict=True):
        total = max(0, (-(-size // stride) - 1) * stride + window - size)
        small, large = total // 2, total - total // 2
        found.append((small, large) if pad_type == "same" else (large, small))
    return found


def padded(x: Tensor, pads: Pads, value: float = 0.0) -> Tensor:
    """``x`` with ``value`` around its last axes; negative padding cuts off."""
    flat = [amount for pair in reversed(pads) for amount in pair]
    return F.pad(x, flat, value=value) if any(flat) else x
