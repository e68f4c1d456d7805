"""Layers over quaternions: four maps that are rotated and scaled together.

A quaternion layer has a quarter of a real layer's weights: each of its (out / 4) x (in / 4)
weights is one quaternion, which multiplies an input quaternion by the Hamilton product
(Parcollet et al., Quaternion Recurrent Neural Networks, ICLR 2019, section 3). Channels are
ordered component by component: all real parts, then all i, all j, all k.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

# Row: component of the output; column: of the input. (which part of the weight, sign)
_HAMILTON = (
    ((0, 1), (1, -1), (2, -1), (3, -1)),
    ((1, 1), (0, 1), (3, -1), (2, 1)),
    ((2, 1), (3, 1), (0, 1), (1, -1)),
    ((3, 1), (2, -1), (1, 1), (0, 1)),
)


class QuaternionConv2d(nn.Module):
    """A convolution by the Hamilton product ``W (x) input``, computed as one real convolution.

    The weight (4, out / 4, in / 4, kh, kw) is laid out to (out, in, kh, kw) where it is used; on
    export that is folded to a constant, so that a target sees a plain convolution.

    Args:
        inputs, outputs: channels, multiples of 4.

    Raises:
        ValueError: they are not.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 3, stride: tuple[int, int] = (1, 1)
    ) -> None:
        super().__init__()
        if inputs % 4 or outputs % 4:
            raise ValueError(f"quaternions have four components, not {inputs} to {outputs}")
        self.stride, self.padding = stride, kernel // 2
        self.weight = nn.Parameter(torch.empty(4, outputs // 4, inputs // 4, kernel, kernel))
        # Each output sums 4 (in / 4) k^2 products of independent parts.
        nn.init.normal_(self.weight, std=math.sqrt(2 / (inputs * kernel * kernel)))

    def real_weight(self) -> Tensor:
        """The weight of the real convolution, (outputs, inputs, kernel, kernel)."""
        rows = [torch.cat([self.weight[p] * s for p, s in row], dim=1) for row in _HAMILTON]
        return torch.cat(rows, dim=0)

    def forward(self, x: Tensor) -> Tensor:
        return conv2d(x, self.real_weight(), None, self.stride, self.padding)
