"""Products of matrices, and attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .table import operator, several


@operator("linear")
def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x weight^T + bias; ``weight`` is (D_out, D_in)."""
    return F.linear(x, weight, bias)


@operator("matmul")
def matmul(
    x: Tensor,
    y: Tensor,
    transpose_x: Tensor | bool = False,
    transpose_y: Tensor | bool = False,
) -> Tensor:
    """NumPy's matmul; either side's last two axes are swapped first where asked.

    A vector has nothing to swap.
    """
    if transpose_x and x.ndim > 1:
        x = x.mT
    if transpose_y and y.ndim > 1:
        y = y.mT
    return torch.matmul(x, y)


@operator("einsum")
def einsum(values: list[Tensor], equation: str) -> Tensor:
    """Two tensors by an equation; axes of size 1 broadcast."""
    terms = equation.replace(" ", "").split("->")[0].split(",")
    operands = several(values)
    sizes: dict[str, int] = {}
    for term, operand in zip(terms, operands, strict=True):
        for letter, size in zip(term, operand.shape, strict=True):
            sizes[letter] = max(sizes.get(letter, 1), size)
    spread = [
        operand.expand([sizes[letter] for letter in term])
        for term, operand in zip(terms, operands, strict=True)
    ]
    return torch.einsum(equation, *spread)


@operator("scaled_dot_product_attention")
def scaled_dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None
) -> Tensor:
    """softmax(query key^T / sqrt(E) + mask) value.

    ``query`` is (B, *, L, E), ``key`` (B, *, S, E), ``value`` (B, *, S, EV). A mask of
    truth values says what takes part; another is added to the scores.
    """
    scores = query @ key.mT / query.shape[-1] ** 0.5
    if attn_mask is not None:
        if attn_mask.dtype is torch.bool:
            scores = scores.masked_fill(~attn_mask, -torch.inf)
        else:
            scores = scores + attn_mask
    return torch.softmax(scores, -1) @ value
