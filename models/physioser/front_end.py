"""From a waveform to the quartet of the voice, in plain convolutions that every target runs.

The four components of a time-frequency bin are the derivatives of its logarithm: with the
short-time Fourier transform ``X = exp(a + i b)``, the log-magnitude ``a``, its rate of change in
time, and of the phase ``b`` the rate of change in time (the instantaneous frequency) and in
frequency (the group delay, negative). **Decision**: the derivatives are taken exactly, by
transforms with the window's derivative and the time-weighted window (Auger and Flandrin, Improving
the Readability of Time-Frequency and Time-Scale Representations by the Reassignment Method, 1995):
``Re, Im of conj(X) X_dh`` and ``conj(X) X_th``, over ``|X|^2``. Differences of angles between
frames, the usual way, wrap at 50 Hz for a hop of 10 ms, and where an angle is near the cut no two
runtimes agree on its sign.

Sums over the bins of a band are taken of numerators and denominators apart, so each component is
the mean over the band weighted by energy, and what is below the noise floor counts for nothing.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from .config import FrontEndConfig


class FourierFrames(nn.Module):
    """Short-time Fourier transforms with several windows, as one convolution with fixed kernels.

    Frame ``t`` is what ``torch.stft(center=False)`` gives for the same window and hop, to rounding.

    Args:
        windows: (W, window) samples; each is centred in the transform, as torch.stft does.
        size: points of the transform. hop: samples between frames.
    """

    def __init__(self, windows: np.ndarray, size: int, hop: int) -> None:
        super().__init__()
        self.size, self.hop = size, hop
        count, length = windows.shape
        self.count, self.bins = count, size // 2 + 1
        self.margin = (size - length) // 2
        time = np.arange(length) + self.margin
        angles = 2 * math.pi * np.arange(self.bins)[:, None] * time / size
        waves = np.stack([np.cos(angles), -np.sin(angles)])  # (2, bins, window)
        kernels = (windows[:, None, None] * waves).reshape(-1, 1, length)
        self.register_buffer("kernels", constant(kernels), persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        """Waveform (batch, samples) to (batch, windows, real and imaginary, bins, frames)."""
        # What of the last frame lies under none of the window belongs to it all the same.
        end = waveform.shape[-1] - (self.size - self.kernels.shape[-1] - self.margin)
        inner = waveform[:, None, self.margin : end]
        frames = nn.functional.conv1d(inner, self.kernels, stride=self.hop)
        return frames.unflatten(1, (self.count, 2, self.bins))


class VocalQuartet(nn.Module):
    """Waveform to the four components per band and frame.

    Returns of :meth:`forward`: (batch, 4, bands, frames), standardised: log-energy ``M``, its rate
    of change ``rho``, the mean instantaneous frequency less the band's centre ``f_inst``, and the
    group delay ``tau_g`` from the frame's middle.
    """

    def __init__(self, config: FrontEndConfig) -> None:
        super().__init__()
        self.config = config
        length, rate = config.window, config.rate
        steps = np.arange(length)
        window = hann(length)
        slope = math.pi / length * np.sin(2 * math.pi * steps / length)  # per sample
        ramp = window * (steps - length / 2)  # in samples from the middle
        # Scaled to the size of the first, so that all outputs are equally well rounded.
        self.scales = (1.0, float(window.sum() / np.abs(slope).sum()), 4.0 / length)
        windows = np.stack([window, slope, ramp]) * np.array(self.scales)[:, None]
        self.frames = FourierFrames(windows, config.size, config.hop)
        filters, centres, widths = mel_bands(config)
        self.register_buffer("filters", constant(filters), persistent=False)
        bins = np.arange(config.size // 2 + 1) * rate / config.size
        # How far a bin is from its band's centre, in widths of the band.
        offsets = filters * (bins - centres[:, None]) / widths[:, None]
        self.register_buffer("offsets", constant(offsets), persistent=False)
        hertz = rate / (2 * math.pi) / self.scales[1] / widths
        self.register_buffer("per_width", constant(hertz[:, None]), persistent=False)
        shape = (4, config.bands, 1)
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("deviation", torch.ones(shape))

    def forward(self, waveform: Tensor) -> Tensor:
        return ((self.components(waveform) - self.mean) / self.deviation).clamp(-8, 8)

    def components(self, waveform: Tensor) -> Tensor:
        """The four components (batch, 4, bands, frames) in natural units.

        ``M`` in nepers, ``rho`` in nepers a hop, ``f_inst`` in widths of the band, ``tau_g`` in
        halves of the window; the latter three within [-limit, limit].
        """
        real, imaginary = self.frames(waveform).unbind(2)
        x_re, dh_re, th_re = real.unbind(1)
        x_im, dh_im, th_im = imaginary.unbind(1)
        power = x_re * x_re + x_im * x_im
        # conj(X) X_dh and conj(X) X_th; -X_dh / X is the logarithm's derivative in time.
        growth = x_re * dh_re + x_im * dh_im
        turning = x_re * dh_im - x_im * dh_re
        delay = x_re * th_re + x_im * th_im
        energy, growth, turning, delay = (
            pool_bins(one, self.filters) for one in (power, growth, turning, delay)
        )
        placed = pool_bins(power, self.offsets)
        floor = self.config.floor
        weight = 1 / (energy + floor)
        rho = growth * weight * (-self.config.hop / self.scales[1])
        frequency = (placed - turning * self.per_width) * weight
        delay = delay * weight * (2 / (self.config.window * self.scales[2]))
        limit = self.config.limit
        bounded = torch.stack([rho, frequency, delay], dim=1).clamp(-limit, limit)
        return torch.cat([0.5 * torch.log(energy + floor)[:, None], bounded], dim=1)


def pool_bins(spectrum: Tensor, filters: Tensor) -> Tensor:
    """Weighted sums over bins: (batch, bins, frames) by (bands, bins) to (batch, bands, frames).

    As a linear layer, which every exporter knows for one with a weight.
    """
    return nn.functional.linear(spectrum.transpose(1, 2), filters).transpose(1, 2)


def hann(length: int) -> np.ndarray:
    """The periodic Hann window, as ``torch.hann_window`` gives it."""
    return 0.5 - 0.5 * np.cos(2 * math.pi * np.arange(length) / length)


def constant(values: np.ndarray) -> Tensor:
    """Numbers computed in double precision, as a tensor of the network's."""
    # Of an axis that NumPy added PyTorch would keep the stride of 0.
    return torch.tensor(values, dtype=torch.float32).clone(memory_format=torch.contiguous_format)


def mel_bands(config: FrontEndConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Triangular bands, evenly spaced on the mel scale (HTK's): weights, centres and widths in Hz.

    Returns:
        weights (bands, bins), of height 1 at the centre and never all zero; centres and half
        widths (bands,).
    """
    low, high = (2595 * math.log10(1 + hertz / 700) for hertz in (config.lowest, config.highest))
    edges = 700 * (10 ** (np.linspace(low, high, config.bands + 2) / 2595) - 1)
    spacing = config.rate / config.size
    bins = np.arange(config.size // 2 + 1) * spacing
    centres = edges[1:-1]
    # A low band is narrower than the spacing of bins; it is widened so that it holds one.
    left = np.minimum(edges[:-2], centres - spacing)
    right = np.maximum(edges[2:], centres + spacing)
    rising = (bins - left[:, None]) / (centres - left)[:, None]
    falling = (right[:, None] - bins) / (right - centres)[:, None]
    return np.maximum(np.minimum(rising, falling), 0), centres, (right - left) / 2
