"""SEANet: convolutions that keep the end of their input for the next frame."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import MimiConfig
from .ring import Carried
from .states import POSITION


class _Held(nn.Module):
    """A layer one level down, where the official parameter names have it."""

    def __init__(self, name: str, layer: nn.Module) -> None:
        super().__init__()
        self.add_module(name, layer)


class StreamingConv(nn.Module):
    """A causal convolution: the last ``kernel - stride`` samples of its input come before it.

    Args:
        state: name of what it keeps, or None for a kernel of one. replicate: begin with the
            first sample in place of zeros.
    """

    def __init__(
        self,
        inside: int,
        outside: int,
        kernel: int,
        stride: int = 1,
        *,
        state: str | None = None,
        bias: bool = True,
        replicate: bool = False,
    ) -> None:
        super().__init__()
        self.conv = _Held("conv", nn.Conv1d(inside, outside, kernel, stride, bias=bias))
        self._state, self._kept, self._replicate = state, kernel - stride, replicate

    def forward(self, x: Tensor, carried: Carried) -> Tensor:
        """(1, channels, samples) of a multiple of the stride."""
        if self._state is not None:
            before = carried[self._state]
            if self._replicate:
                before = torch.where(carried[POSITION] == 0, x[..., :1], before)
            x = torch.cat([before, x], -1)
            carried[self._state] = x[..., -self._kept :]
        return self.conv.conv(x)


class StreamingConvTranspose(nn.Module):
    """A transposed convolution whose kernel is twice its stride.

    Each input step gives two strides of output: one now, and one that is added to what the next
    step gives. So it is a linear layer and a sum, which every runtime computes well, and what
    is owed to the next frame is the last step's second half (without the bias).

    Args:
        depthwise: each channel has its own kernel.
    """

    def __init__(
        self,
        inside: int,
        outside: int,
        stride: int,
        *,
        state: str,
        bias: bool = True,
        depthwise: bool = False,
    ) -> None:
        super().__init__()
        groups = inside if depthwise else 1
        layer = nn.ConvTranspose1d(inside, outside, 2 * stride, stride, groups=groups, bias=bias)
        self.convtr = _Held("convtr", layer)
        self._state, self._stride, self._depthwise = state, stride, depthwise

    def forward(self, x: Tensor, carried: Carried) -> Tensor:
        """(1, channels, steps) to (1, channels, steps * stride)."""
        layer = self.convtr.convtr
        steps, stride = x.transpose(1, 2), self._stride
        if self._depthwise:
            both = steps[..., None] * layer.weight[:, 0]
        else:
            flat = layer.weight.reshape(layer.in_channels, -1)
            both = F.linear(steps, flat.t())
            both = both.reshape(1, x.shape[2], layer.out_channels, 2 * stride)
        now, later = both[..., :stride], both[..., stride:]
        owed = torch.cat([carried[self._state][:, None], later], 1)
        carried[self._state] = owed[:, -1]
        whole = (now + owed[:, :-1]).transpose(1, 2).reshape(1, layer.out_channels, -1)
        return whole if layer.bias is None else whole + layer.bias[:, None]


class ResidualBlock(nn.Module):
    """Two convolutions, the first over time, around which the input goes unchanged."""

    def __init__(self, width: int, config: MimiConfig, name: str) -> None:
        super().__init__()
        state = f"{name}_block_1_prev"
        first = StreamingConv(width, width // 2, config.residual_kernel, state=state)
        second = StreamingConv(width // 2, width, 1)
        self.block = nn.ModuleList([nn.ELU(), first, nn.ELU(), second])

    def forward(self, x: Tensor, carried: Carried) -> Tensor:
        return x + run_in_order(self.block, x, carried)


def run_in_order(layers: nn.ModuleList, x: Tensor, carried: Carried) -> Tensor:
    """Run layers one after the other; all but activations keep something for the next frame."""
    for layer in layers:
        x = layer(x) if isinstance(layer, nn.ELU) else layer(x, carried)
    return x


class SEANetEncoder(nn.Module):
    """Sound (1, 1, samples) to (1, latent, steps)."""

    def __init__(self, config: MimiConfig) -> None:
        super().__init__()
        width, number = config.filters, 1
        layers = [StreamingConv(1, width, config.kernel, state="encoder_model_0_prev")]
        for ratio in reversed(config.ratios):
            state = f"encoder_model_{number + 2}_prev"
            layers += [
                ResidualBlock(width, config, f"encoder_model_{number}"),
                nn.ELU(),
                StreamingConv(width, 2 * width, 2 * ratio, ratio, state=state),
            ]
            width, number = 2 * width, number + 3
        state = f"encoder_model_{number + 1}_prev"
        last = StreamingConv(width, config.latent, config.last_kernel, state=state)
        self.model = nn.ModuleList([*layers, nn.ELU(), last])

    def forward(self, x: Tensor, carried: Carried) -> Tensor:
        return run_in_order(self.model, x, carried)


class SEANetDecoder(nn.Module):
    """(1, latent, steps) to sound (1, 1, samples)."""

    def __init__(self, config: MimiConfig) -> None:
        super().__init__()
        width, number = config.filters * 2 ** len(config.ratios), 2
        first = StreamingConv(config.latent, width, config.kernel, state="decoder_model_0_prev")
        layers: list[nn.Module] = [first]
        for ratio in config.ratios:
            state = f"decoder_model_{number}_partial"
            layers += [
                nn.ELU(),
                StreamingConvTranspose(width, width // 2, ratio, state=state),
                ResidualBlock(width // 2, config, f"decoder_model_{number + 1}"),
            ]
            width, number = width // 2, number + 3
        last = StreamingConv(width, 1, config.last_kernel, state=f"decoder_model_{number}_prev")
        self.model = nn.ModuleList([*layers, nn.ELU(), last])

    def forward(self, x: Tensor, carried: Carried) -> Tensor:
        return run_in_order(self.model, x, carried)
