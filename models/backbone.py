"""The five-stage layout that CPUBone and LowFormer share; the families differ in their blocks.

Stem and two stages of convolutions, two stages of transformer blocks, each stage at half the
resolution of the one before. CPUBone: arXiv:2603.26425; LowFormer: arXiv:2409.03460. The
attribute names are the keys of the official checkpoints.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn

from .layers import Chain, ConvLayer, FusedMBConv, Residual, classifier_head

STAGES = ("stage0", "stage1", "stage2", "stage3", "stage_final")
PYRAMID = STAGES[1:]  # what detection and segmentation take


@dataclass(frozen=True)
class Layout(ABC):
    """Sizes of a backbone and its head; a family adds what its blocks look like.

    Attributes:
        widths: channels of the five stages (strides 2, 4, 8, 16, 32).
        depths: blocks per stage; the downsampling block of the last two comes on top. A
            convolution stage of depth 0 passes its input on, so it does not halve the map.
        big_inverted_expansion: expansion 6 instead of 4 in downsampling blocks.
        huge: expansion 4 instead of 2 in stage 0, and 6 in the downsampling of stages 1 to 3.
        big_head: a head of 2304 and 2560 features instead of 1536 and 1600.
        classes: number of logits.
    """

    widths: tuple[int, int, int, int, int]
    depths: tuple[int, int, int, int, int]
    big_inverted_expansion: bool = False
    huge: bool = False
    big_head: bool = False
    classes: int = 1000

    @property
    def downsampling_groups(self) -> int:
        """Groups of the convolution that halves the map in front of transformer blocks."""
        return 1

    @staticmethod
    def checkpoint_key(key: str) -> str:
        """The key that a tensor of an older official checkpoint has today."""
        return key

    @abstractmethod
    def local_block(self, inputs: int, outputs: int, stride: int, expansion: int) -> nn.Module:
        """A 3x3 convolution block of the first three stages."""

    @abstractmethod
    def transformer_block(self, width: int, stride: int) -> nn.Module:
        """A block of the last two stages, whose attention shrinks the map by ``stride``."""


class Backbone(nn.Module):
    """The five stages without the head; gives a dict from stage name to feature map.

    Attributes:
        channels, strides: of each of :data:`STAGES`.
    """

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        widths, depths = layout.widths, layout.depths
        stem: list[nn.Module] = [ConvLayer(3, widths[0], stride=2)]
        expansion = 4 if layout.huge else 2
        for _ in range(depths[0]):
            stem.append(Residual(layout.local_block(widths[0], widths[0], 1, expansion)))
        self.input_stem = Chain(stem)
        self.channels, self.strides = [widths[0]], [2]
        stages = []
        for index in range(1, 5):
            before = self.channels[-1]
            if index < 3:
                stages.append(_convolution_stage(layout, index, before))
            else:
                stages.append(_transformer_stage(layout, index, before))
            halves = depths[index] > 0 or index >= 3
            self.channels.append(widths[index] if halves else before)
            self.strides.append(self.strides[-1] * (2 if halves else 1))
        self.stages = nn.ModuleList(stages)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.input_stem(x)
        maps = {STAGES[0]: x}
        for name, stage in zip(STAGES[1:], self.stages, strict=True):
            x = maps[name] = stage(x)
        return maps


def _convolution_stage(layout: Layout, index: int, inputs: int) -> Chain:
    """Stage 1 or 2: ``depth`` convolution blocks, the first of which halves the map."""
    width = layout.widths[index]
    expansion = 6 if layout.big_inverted_expansion or layout.huge else 4
    blocks: list[nn.Module] = []
    for block in range(layout.depths[index]):
        if block == 0:
            down = layout.local_block(inputs, width, 2, expansion)
            blocks.append(Residual(down, shortcut=False))
        else:
            blocks.append(Residual(layout.local_block(width, width, 1, 4)))
    return Chain(blocks)


def _transformer_stage(layout: Layout, index: int, inputs: int) -> Chain:
    """Stage 3 or 4: a block that halves the map, then ``depth`` transformer blocks."""
    width = layout.widths[index]
    bigger = layout.big_inverted_expansion or (layout.huge and index == 3)
    # Fused in every variant, also in those that have no other fused block.
    down = FusedMBConv(inputs, width, 3, 2, 6 if bigger else 4, layout.downsampling_groups)
    blocks = [
        layout.transformer_block(width, 2 if index == 3 else 1) for _ in range(layout.depths[index])
    ]
    return Chain([Residual(down, shortcut=False), *blocks])


class OnBackbone(nn.Module):
    """A network that stands on a backbone, under the key ``backbone``."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.config = layout
        self.backbone = Backbone(layout)

    def checkpoint_key(self, key: str) -> str | None:
        """The key here of a checkpoint's tensor; None for one that is not needed."""
        return self.config.checkpoint_key(key)


class Classifier(OnBackbone):
    """A backbone with its ImageNet head."""

    def __init__(self, layout: Layout) -> None:
        super().__init__(layout)
        features, hidden = (2304, 2560) if layout.big_head else (1536, 1600)
        self.head = classifier_head(layout.widths[-1], features, hidden, layout.classes)

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
        """Feature maps of the five stages.

        Returns:
            ``stage0``, ``stage1``, ``stage2``, ``stage3``, ``stage_final``, each
            ``(N, channels[i], ceil(H / s), ceil(W / s))`` at the backbone's strides s
            (2, 4, 8, 16, 32 where no stage is empty).
        """
        return self.backbone(x)
