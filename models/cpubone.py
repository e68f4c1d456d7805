"""CPUBone: a vision backbone for CPUs, from few but large operations.

Nottebaum, Dunnhofer, Micheloni: "CPUBone: Efficient Vision Backbone Design for Devices with
Low Parallelization Capabilities", CVPR Findings 2026, arXiv:2603.26425. Convolutions are
grouped and shrunk to 2x2, which lowers the operations without starving the CPU.

The state dict has the official keys and shapes, so official checkpoints load unmodified.
Unlike the official code, every input size works: where ``ceil(H / 16)`` or ``ceil(W / 16)``
is odd, the stride 2 attention of stage 3 pads the map by one zero row or column and crops
what comes back; at all other sizes nothing differs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from .backbone import Classifier, Layout
from .dense_heads import assemble
from .heads import CLASSIFICATION
from .layers import (
    ConvAttention,
    ConvLayer,
    FusedMBConv,
    MBConv,
    TransformerBlock,
    attention_and_mlp,
)

# From this width on, the local part of a transformer block is depthwise: a fused block's
# spatial convolution would hold most of the parameters.
_FUSED_BELOW = 256


@dataclass(frozen=True)
class CPUBoneConfig(Layout):
    """What tells one CPUBone from another, beside its sizes (see :class:`.backbone.Layout`).

    Attributes:
        grouping: groups of the expanding convolutions.
        small_kernels: 2x2 instead of 3x3 and 5x5 kernels in the transformer blocks.
        nearest_upsampling: enlarge attention maps by repeating pixels, else with a
            transposed convolution.
        fused: fused blocks in the convolution stages, and attention without ``o_proj``.
    """

    grouping: int = 2
    small_kernels: bool = True
    nearest_upsampling: bool = True
    fused: bool = True

    @property
    def downsampling_groups(self) -> int:
        return self.grouping

    @staticmethod
    def checkpoint_key(key: str) -> str:
        key = key.replace(".conv_proj.0.", ".conv_proj.conv.")
        return key.replace(".conv_proj.1.", ".conv_proj.norm.")

    def local_block(self, inputs: int, outputs: int, stride: int, expansion: int) -> nn.Module:
        block = FusedMBConv if self.fused else MBConv
        return block(inputs, outputs, 3, stride, expansion, self.grouping)

    def transformer_block(self, width: int, stride: int) -> nn.Module:
        kernel = 2 if self.small_kernels else (5 if stride > 1 else 3)
        attention = ConvAttention(
            width,
            stride,
            ConvLayer(width, width, kernel, stride, groups=width, act=False),
            transposed=not self.nearest_upsampling,
            fused=self.fused,
        )
        block = FusedMBConv if self.fused and width < _FUSED_BELOW else MBConv
        kernel = 2 if self.small_kernels else 3
        local = block(width, width, kernel, 1, 4, self.grouping, bias=True)
        return TransformerBlock(attention_and_mlp(width, attention, dropout=0.1), local)


def _config(w: int, depths: tuple[int, int, int, int, int], **flags: bool) -> CPUBoneConfig:
    """A configuration whose widths double from ``w`` on."""
    return CPUBoneConfig((w, 2 * w, 4 * w, 8 * w, 16 * w), depths, **flags)


_B0 = _config(16, (0, 1, 1, 3, 4))
_B1 = _config(16, (0, 1, 1, 5, 5), big_inverted_expansion=True)

# By the names of the official configuration files, which are not always the published ones
# (the published B2 is b15); the registry has the published names. The last four are ablations
# of the paper and LowFormer-B0 in CPUBone's code.
CONFIGS: dict[str, CPUBoneConfig] = {
    "nano": _config(12, (0, 1, 1, 1, 2)),
    "t0": _config(12, (0, 1, 1, 2, 3)),
    "s0": _config(14, (0, 1, 1, 2, 3)),
    "b0": _B0,
    "b1": _B1,
    "b15": _config(20, (0, 1, 1, 6, 6), big_inverted_expansion=True, big_head=True),
    "b2": _config(24, (0, 1, 1, 6, 6), big_inverted_expansion=True, big_head=True),
    "b25": _config(24, (0, 2, 3, 6, 6), big_inverted_expansion=True, big_head=True),
    "b3": _config(32, (1, 2, 3, 6, 6), big_inverted_expansion=True, huge=True),
    "b1_grouping4_smklstag_notrans": replace(_B1, grouping=4),
    "b1_grouping_smk_laststages": replace(_B1, nearest_upsampling=False),
    "b1_grouping_smklstag_notrans_justmbconv": replace(_B1, grouping=1, fused=False),
    "lowformer_b0": replace(_B0, grouping=1, small_kernels=False, nearest_upsampling=False),
}


class CPUBone(Classifier):
    """The backbone with its ImageNet head.

    Args:
        config: one of :data:`CONFIGS`, or your own.
    """

    def __init__(self, config: CPUBoneConfig) -> None:
        super().__init__(config)


def build(variant: str, head: str = CLASSIFICATION, classes: int | None = None) -> nn.Module:
    """A CPUBone with random weights, in eval mode.

    Args:
        variant: a name of :data:`CONFIGS` (the official configuration's, e.g. ``"b15"``).
        head: what stands on the backbone; see :mod:`.heads`.
        classes: how many are told apart; None: as many as the head's data set has.

    Raises:
        UsageError: there is no such variant.

    >>> build("nano").config.widths
    (12, 24, 48, 96, 192)
    """
    return assemble(CPUBone, CONFIGS, variant, head, classes)
