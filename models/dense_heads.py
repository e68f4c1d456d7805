"""What stands on a backbone for dense tasks: feature pyramid, detection, segmentation.

The two downstream heads are those of both papers (CPUBone: arXiv:2603.26425; LowFormer:
arXiv:2409.03460), as MMDetection 3 and MMSegmentation 1 configure them, under the keys of
those two libraries (``neck``, ``bbox_head``, ``decode_head``), in which such networks are
trained:

* RetinaNet: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, arXiv:1708.02002.
* Semantic FPN: Kirillov et al., "Panoptic Feature Pyramid Networks", CVPR 2019,
  arXiv:1901.02446.

All work at every input size, and with dynamic height and width: a map that is enlarged is cut
to the size of the one it is added to. (The libraries stretch it instead. Both are the same
where height and width are multiples of 32, and for RetinaNet everywhere.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekit.errors import UsageError

from .backbone import PYRAMID, STAGES, Backbone, Classifier, Layout, OnBackbone
from .heads import CLASSIFICATION
from .layers import NearestUpsample, crop

PYRAMID_CHANNELS = 256
ANCHORS = 9  # per pixel: three ratios of the sides, three scales
SEGMENTATION_CHANNELS = 128
_PRIOR = 0.01  # an untrained detector's score: RetinaNet, section 4.1


def channels_of(backbone: Backbone, names: Sequence[str] = PYRAMID) -> list[int]:
    """Channels of the backbone's feature maps called ``names``."""
    return [backbone.channels[STAGES.index(name)] for name in names]


def _require_pyramid(backbone: Backbone) -> None:
    if backbone.strides != [2, 4, 8, 16, 32]:
        raise UsageError(
            f"feature maps at strides {', '.join(map(str, backbone.strides[1:]))} are no pyramid",
            "a stage of this backbone is empty",
            "take another variant",
        )


class FeaturePyramid(OnBackbone):
    """A backbone alone: a picture to its four feature maps.

    A checkpoint of the classifier loads as well; what belongs to its head is left out.
    """

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Feature maps ``stage1``, ``stage2``, ``stage3`` and ``stage_final``.

        Args:
            x: ``(N, 3, H, W)``.

        Returns:
            each ``(N, channels, ceil(H / s), ceil(W / s))`` at strides s = 4, 8, 16, 32.
        """
        maps = self.backbone(x)
        return {name: maps[name] for name in PYRAMID}

    def checkpoint_key(self, key: str) -> str | None:
        """As of the classifier, without its head."""
        return None if key.startswith("head.") else super().checkpoint_key(key)


class ConvBlock(nn.Module):
    """Convolution, optionally batch norm, optionally ReLU; ``conv`` has a bias without norm."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 3,
        stride: int = 1,
        norm: bool = False,
        act: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=not norm)
        self.bn = nn.BatchNorm2d(outputs) if norm else None
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.bn is not None:
            x = self.bn(x)
        return F.relu(x) if self.act else x


class FeaturePyramidNetwork(nn.Module):
    """Give every level the same channels, and each the coarser one's content.

    Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017, arXiv:1612.03144.

    Args:
        inputs: channels of the levels, finest first.
        extra: further levels, each a strided convolution of the one before; the first of the
            coarsest input.
    """

    def __init__(self, inputs: Sequence[int], extra: int = 0) -> None:
        super().__init__()
        width = PYRAMID_CHANNELS
        self.lateral_convs = nn.ModuleList(ConvBlock(n, width, 1) for n in inputs)
        self.fpn_convs = nn.ModuleList(ConvBlock(width, width) for _ in inputs)
        for index in range(extra):
            self.fpn_convs.append(ConvBlock(width if index else inputs[-1], width, stride=2))
        self.enlarge = NearestUpsample(2)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        levels = [conv(x) for conv, x in zip(self.lateral_convs, maps, strict=True)]
        for index in range(len(levels) - 1, 0, -1):
            finer = levels[index - 1]
            levels[index - 1] = finer + crop(self.enlarge(levels[index]), *finer.shape[-2:])
        found = [conv(x) for conv, x in zip(self.fpn_convs, levels, strict=False)]
        extra = maps[-1]
        for conv in self.fpn_convs[len(levels) :]:
            extra = conv(extra)
            found.append(extra)
        return found


class RetinaHead(nn.Module):
    """Two towers of four convolutions over every level: classes, and boxes beside anchors."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        width, self.classes = PYRAMID_CHANNELS, classes
        self.cls_convs = nn.ModuleList(ConvBlock(width, width, act=True) for _ in range(4))
        self.reg_convs = nn.ModuleList(ConvBlock(width, width, act=True) for _ in range(4))
        self.retina_cls = nn.Conv2d(width, ANCHORS * classes, 3, padding=1)
        self.retina_reg = nn.Conv2d(width, ANCHORS * 4, 3, padding=1)
        nn.init.constant_(self.retina_cls.bias, -math.log((1 - _PRIOR) / _PRIOR))

    def forward(self, levels: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        logits, deltas = [], []
        for level in levels:
            logits.append(_by_anchor(self.retina_cls(_tower(self.cls_convs, level)), self.classes))
            deltas.append(_by_anchor(self.retina_reg(_tower(self.reg_convs, level)), 4))
        return torch.cat(logits, 1), torch.cat(deltas, 1)


def _tower(convs: nn.ModuleList, x: Tensor) -> Tensor:
    for conv in convs:
        x = conv(x)
    return x


def _by_anchor(x: Tensor, values: int) -> Tensor:
    """``(N, anchors * values, H, W)`` to ``(N, H * W * anchors, values)``.

    The copy is made by name: a reshape would have the capture ask whether the map has a single
    pixel, which a map of dynamic size may have or not.
    """
    ordered = x.permute(0, 2, 3, 1).clone(memory_format=torch.contiguous_format)
    return ordered.view(x.shape[0], -1, values)


class RetinaNet(OnBackbone):
    """One-stage detection on five levels.

    Args:
        layout: of the backbone.
        classes: that are told apart (COCO: 80).

    Raises:
        UsageError: the backbone has empty stages, so that its levels are no pyramid.
    """

    def __init__(self, layout: Layout, classes: int = 80) -> None:
        super().__init__(layout)
        _require_pyramid(self.backbone)
        self.neck = FeaturePyramidNetwork(channels_of(self.backbone, PYRAMID[1:]), extra=2)
        self.bbox_head = RetinaHead(classes)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """What every anchor says; boxes are decoded on the device (``runtimes.tasks``).

        Args:
            x: ``(N, 3, H, W)``.

        Returns:
            ``class_logits`` ``(N, A, classes)``, to be squashed by a sigmoid, and
            ``box_deltas`` ``(N, A, 4)``: shift of the centre in units of the anchor's sides,
            and logarithm of the sides' ratio (dx, dy, dw, dh). A counts the levels one after
            the other, in each the pixels by row, at each pixel nine anchors.
        """
        maps = self.backbone(x)
        levels = self.neck([maps[name] for name in PYRAMID[1:]])
        logits, deltas = self.bbox_head(levels)
        return {"class_logits": logits, "box_deltas": deltas}


class BilinearUpsample(nn.Module):
    """Twice the size, bilinear between pixel centres."""

    def forward(self, x: Tensor) -> Tensor:
        size = [n * 2 for n in x.shape[-2:]]
        return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


class SemanticHead(nn.Module):
    """Bring every level to the finest one's resolution, add, and classify the pixels."""

    def __init__(self, classes: int, levels: int = 4) -> None:
        super().__init__()
        self.scale_heads = nn.ModuleList(_scale_head(level) for level in range(levels))
        self.conv_seg = nn.Conv2d(SEGMENTATION_CHANNELS, classes, 1)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        total = self.scale_heads[0](levels[0])
        for head, level in zip(self.scale_heads[1:], levels[1:], strict=True):
            total = total + crop(head(level), *total.shape[-2:])
        return self.conv_seg(total)


def _scale_head(halvings: int) -> nn.Sequential:
    """Convolutions that double a map ``halvings`` times (none for the finest level)."""
    layers: list[nn.Module] = []
    for index in range(max(1, halvings)):
        inputs = SEGMENTATION_CHANNELS if index else PYRAMID_CHANNELS
        layers.append(ConvBlock(inputs, SEGMENTATION_CHANNELS, norm=True, act=True))
        if halvings:
            layers.append(BilinearUpsample())
    return nn.Sequential(*layers)


class SemanticFPN(OnBackbone):
    """Segmentation by a feature pyramid.

    Args:
        layout: of the backbone.
        classes: that are told apart (ADE20K: 150).

    Raises:
        UsageError: as for :class:`RetinaNet`.
    """

    def __init__(self, layout: Layout, classes: int = 150) -> None:
        super().__init__(layout)
        _require_pyramid(self.backbone)
        self.neck = FeaturePyramidNetwork(channels_of(self.backbone))
        self.decode_head = SemanticHead(classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits at a quarter of the resolution.

        Args:
            x: ``(N, 3, H, W)``.

        Returns:
            ``(N, classes, ceil(H / 4), ceil(W / 4))``.
        """
        maps = self.backbone(x)
        return self.decode_head(self.neck([maps[name] for name in PYRAMID]))


_DENSE = {"features": FeaturePyramid, "retinanet": RetinaNet, "semantic-fpn": SemanticFPN}


def assemble(
    classifier: type[Classifier],
    configs: Mapping[str, Layout],
    variant: str,
    head: str,
    classes: int | None,
) -> nn.Module:
    """A network of a family with one of its heads, in eval mode.

    Args:
        classifier: the family's own class, for ``classification``.
        configs: of the family, by variant.
        head: ``classification`` or one of :data:`.heads.HEADS`.
        classes: None: as many as the head's data set has.

    Raises:
        UsageError: there is no such variant or head.
    """
    if variant not in configs:
        raise UsageError(
            f"no {classifier.__name__} variant {variant!r}", f"there are {', '.join(configs)}"
        )
    layout = configs[variant]
    if head == CLASSIFICATION:
        return classifier(replace(layout, classes=classes) if classes else layout).eval()
    if head not in _DENSE:
        raise UsageError(f"no head {head}", f"there are {', '.join((CLASSIFICATION, *_DENSE))}")
    network = _DENSE[head](layout, classes) if classes else _DENSE[head](layout)
    return network.eval()
