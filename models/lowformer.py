"""LowFormer: a vision backbone whose attention runs on a map that is kept small.

Nottebaum, Dunnhofer, Micheloni: "LowFormer: Hardware Efficient Design for Convolutional
Transformer Backbones", WACV 2025, arXiv:2409.03460; the edge variants E1 to E3 come with its
official code. Convolutions are plain 3x3 ones, which keep a GPU busy; attention is fed by a
strided convolution and enlarged again by a transposed one.

The state dict has the official keys and shapes, so official checkpoints load unmodified.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from torch import nn

from .backbone import Classifier, Layout
from .dense_heads import assemble
from .heads import CLASSIFICATION
from .layers import (
    ConvAttention,
    FusedMBConv,
    MBConv,
    Residual,
    TransformerBlock,
    attention_and_mlp,
)

# From this width on, the local part of a transformer block is depthwise.
_FUSED_BELOW = 256


@dataclass(frozen=True)
class LowFormerConfig(Layout):
    """What tells one LowFormer from another, beside its sizes (see :class:`.backbone.Layout`).

    Attributes:
        mixer: what mixes the pixels in a transformer block: ``full`` (attention and
            perceptron, each normalised), ``attention`` (attention alone, without a norm:
            E3), or ``none`` (E1 and E2).
        small_attention: attention in stage 3 sees the map at half its resolution.
    """

    mixer: Literal["full", "attention", "none"] = "full"
    small_attention: bool = True

    @staticmethod
    def checkpoint_key(key: str) -> str:
        return key.replace("head.opseq.", "head.")

    def local_block(self, inputs: int, outputs: int, stride: int, expansion: int) -> nn.Module:
        return FusedMBConv(inputs, outputs, 3, stride, expansion)

    def transformer_block(self, width: int, stride: int) -> nn.Module:
        block = FusedMBConv if width < _FUSED_BELOW else MBConv
        local = block(width, width, 3, 1, 4, bias=True)
        return TransformerBlock(self._mixer(width, stride if self.small_attention else 1), local)

    def _mixer(self, width: int, stride: int) -> nn.Module:
        if self.mixer == "none":
            return nn.Identity()
        kernel = 5 if stride > 1 else 3
        projection = nn.Sequential(
            nn.Conv2d(width, width, kernel, stride, kernel // 2, groups=width, bias=False),
            nn.BatchNorm2d(width),
        )
        attention = ConvAttention(width, stride, projection, transposed=True)
        return (
            Residual(attention)
            if self.mixer == "attention"
            else attention_and_mlp(width, attention)
        )


def _config(w: int, depths: tuple[int, int, int, int, int], **flags: object) -> LowFormerConfig:
    """A configuration whose widths double from ``w`` on."""
    return LowFormerConfig((w, 2 * w, 4 * w, 8 * w, 16 * w), depths, **flags)


_B1 = _config(16, (0, 1, 1, 5, 5), big_inverted_expansion=True)
_B3 = _config(32, (1, 2, 3, 6, 6), big_inverted_expansion=True, huge=True)

# By the names of the official configuration files. b2 is as published there, with stages 1
# and 2 empty: its last map has a stride of 8. The ablations are b1 without attention, with
# full-size attention in stage 3, and b1 itself (the official code ignores ablation 3's flag).
CONFIGS: dict[str, LowFormerConfig] = {
    "b0": _config(16, (0, 1, 1, 3, 4)),
    "b1": _B1,
    "b15": _config(20, (0, 1, 1, 6, 6), big_inverted_expansion=True, big_head=True),
    "b2": _config(24, (0, 0, 0, 6, 6), big_inverted_expansion=True, big_head=True),
    "b3": _B3,
    "E1": _config(20, (0, 1, 1, 4, 4), big_inverted_expansion=True, big_head=True, mixer="none"),
    "E2": replace(_B3, depths=(1, 2, 3, 4, 4), mixer="none"),
    "E3": replace(_B3, mixer="attention"),
    "b1_ablation2": replace(_B1, mixer="none"),
    "b1_ablation3": _B1,
    "b1_ablation4": replace(_B1, small_attention=False),
}


class LowFormer(Classifier):
    """The backbone with its ImageNet head.

    Args:
        config: one of :data:`CONFIGS`, or your own.
    """

    def __init__(self, config: LowFormerConfig) -> None:
        super().__init__(config)


def build(variant: str, head: str = CLASSIFICATION, classes: int | None = None) -> nn.Module:
    """A LowFormer with random weights, in eval mode.

    Args:
        variant: a name of :data:`CONFIGS` (the official configuration's, e.g. ``"b15"``).
        head: what stands on the backbone; see :mod:`.heads`.
        classes: how many are told apart; None: as many as the head's data set has.

    Raises:
        UsageError: there is no such variant.

    >>> build("E1").config.widths
    (20, 40, 80, 160, 320)
    """
    return assemble(LowFormer, CONFIGS, variant, head, classes)
