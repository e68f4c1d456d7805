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

from torch import Tensor, nn

from edgekit.errors import UsageError

from .layers import (
    Chain,
    ConvAttention,
    ConvLayer,
    FusedMBConv,
    MBConv,
    Residual,
    TransformerBlock,
    attention_and_mlp,
    classifier_head,
)

STAGES = ("stage0", "stage1", "stage2", "stage3", "stage_final")

# From this width on, the local part of a transformer block is depthwise: a fused block's
# spatial convolution would hold most of the parameters.
_FUSED_BELOW = 256


@dataclass(frozen=True)
class CPUBoneConfig:
    """What tells one CPUBone from another.

    Attributes:
        widths: channels of the five stages (strides 2, 4, 8, 16, 32).
        depths: blocks per stage; the downsampling block of the last two comes on top.
        grouping: groups of the expanding convolutions.
        small_kernels: 2x2 instead of 3x3 and 5x5 kernels in the transformer blocks.
        nearest_upsampling: enlarge attention maps by repeating pixels, else with a
            transposed convolution.
        fused: fused blocks in the convolution stages, and attention without ``o_proj``.
        big_inverted_expansion: expansion 6 instead of 4 in downsampling blocks.
        huge: expansion 4 instead of 2 in stage 0, and 6 in the downsampling of stages 1 to 3.
        big_head: a head of 2304 and 2560 features instead of 1536 and 1600.
        classes: number of logits.
    """

    widths: tuple[int, int, int, int, int]
    depths: tuple[int, int, int, int, int]
    grouping: int = 2
    small_kernels: bool = True
    nearest_upsampling: bool = True
    fused: bool = True
    big_inverted_expansion: bool = False
    huge: bool = False
    big_head: bool = False
    classes: int = 1000


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


class CPUBone(nn.Module):
    """The backbone with its ImageNet head.

    Args:
        config: one of :data:`CONFIGS`, or your own.
    """

    def __init__(self, config: CPUBoneConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config)
        features, hidden = (2304, 2560) if config.big_head else (1536, 1600)
        self.head = classifier_head(config.widths[-1], features, hidden, config.classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits.

        Args:
            x: ``(N, 3, H, W)`` float32, RGB in [0, 1] normalised by ImageNet's mean and
                standard deviation, of any size.

        Returns:
            ``(N, classes)``.
        """
        return self.head(self.features(x)["stage_final"])

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Feature maps of the five stages, for detection and segmentation.

        Returns:
            ``stage0``, ``stage1``, ``stage2``, ``stage3``, ``stage_final``, each
            ``(N, widths[i], ceil(H / s), ceil(W / s))`` at the strides s = 2, 4, 8, 16, 32.
        """
        return self.backbone(x)

    @staticmethod
    def checkpoint_key(key: str) -> str:
        """The key that a tensor of an older official checkpoint has today."""
        key = key.replace(".conv_proj.0.", ".conv_proj.conv.")
        return key.replace(".conv_proj.1.", ".conv_proj.norm.")


class Backbone(nn.Module):
    """The five stages without the head; gives a dict from stage name to feature map."""

    def __init__(self, config: CPUBoneConfig) -> None:
        super().__init__()
        widths, depths = config.widths, config.depths
        stem: list[nn.Module] = [ConvLayer(3, widths[0], stride=2)]
        expansion = 4 if config.huge else 2
        for _ in range(depths[0]):
            stem.append(Residual(_local(config, widths[0], widths[0], 1, expansion)))
        self.input_stem = Chain(stem)
        stages, channels = [], widths[0]
        for index in range(1, 5):
            make = _convolution_stage if index < 3 else _transformer_stage
            stages.append(make(config, index, channels))
            if depths[index] or index >= 3:  # an empty convolution stage passes its input on
                channels = widths[index]
        self.stages = nn.ModuleList(stages)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.input_stem(x)
        maps = {STAGES[0]: x}
        for name, stage in zip(STAGES[1:], self.stages, strict=True):
            x = maps[name] = stage(x)
        return maps


def _local(
    config: CPUBoneConfig, inputs: int, outputs: int, stride: int, expansion: int
) -> nn.Module:
    """A 3x3 convolution block of the first three stages."""
    block = FusedMBConv if config.fused else MBConv
    return block(inputs, outputs, 3, stride, expansion, config.grouping)


def _convolution_stage(config: CPUBoneConfig, index: int, inputs: int) -> Chain:
    """Stage 1 or 2: ``depth`` convolution blocks, the first of which halves the map."""
    width = config.widths[index]
    expansion = 6 if config.big_inverted_expansion or config.huge else 4
    blocks: list[nn.Module] = []
    for block in range(config.depths[index]):
        if block == 0:
            down = _local(config, inputs, width, 2, expansion)
            blocks.append(Residual(down, shortcut=False))
        else:
            blocks.append(Residual(_local(config, width, width, 1, 4)))
    return Chain(blocks)


def _transformer_stage(config: CPUBoneConfig, index: int, inputs: int) -> Chain:
    """Stage 3 or 4: a block that halves the map, then ``depth`` transformer blocks."""
    width = config.widths[index]
    bigger = config.big_inverted_expansion or (config.huge and index == 3)
    # Fused in every variant, also in those that have no other fused block.
    down = FusedMBConv(inputs, width, 3, 2, 6 if bigger else 4, config.grouping)
    attention_stride = 2 if index == 3 else 1
    blocks = [
        _transformer_block(config, width, attention_stride) for _ in range(config.depths[index])
    ]
    return Chain([Residual(down, shortcut=False), *blocks])


def _transformer_block(config: CPUBoneConfig, width: int, stride: int) -> TransformerBlock:
    kernel = 2 if config.small_kernels else (5 if stride > 1 else 3)
    attention = ConvAttention(
        width,
        stride,
        ConvLayer(width, width, kernel, stride, groups=width, act=False),
        transposed=not config.nearest_upsampling,
        fused=config.fused,
    )
    block = FusedMBConv if config.fused and width < _FUSED_BELOW else MBConv
    kernel = 2 if config.small_kernels else 3
    local = block(width, width, kernel, 1, 4, config.grouping, bias=True)
    return TransformerBlock(attention_and_mlp(width, attention, dropout=0.1), local)


def build(variant: str) -> CPUBone:
    """A CPUBone with random weights, in eval mode.

    Args:
        variant: a name of :data:`CONFIGS` (the official configuration's, e.g. ``"b15"``).

    Raises:
        UsageError: there is no such variant.

    >>> build("nano").config.widths
    (12, 24, 48, 96, 192)
    """
    if variant not in CONFIGS:
        raise UsageError(f"no CPUBone variant {variant!r}", f"there are {', '.join(CONFIGS)}")
    return CPUBone(CONFIGS[variant]).eval()
