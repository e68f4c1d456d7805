"""The same utterance, as others might have spoken it elsewhere: what a few speakers cannot teach.

Some hundred recordings of eight speakers say little about a ninth. So each is also learnt from
at other speeds (higher and faster, as of another throat), from another moment on, through another
microphone and room, and with noise. All of this is ours to choose: a **decision**.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from ...runtimes.sounds import resample

#: How many variants there are of a recording; the first is the recording itself.
VARIANTS: Final = 16

_SPEEDS: Final = (1.0, 0.9, 10 / 9, 0.95, 20 / 19)  # of the first variants, which have no more
_SPREAD: Final = 0.16  # the others are spoken at speeds of exp(+-this)
_LATER: Final = 0.5  # seconds that they start later at most; what is cut off comes last
_TONE_POINTS, _TONE_DEVIATION = 8, 3.0  # dB, at points on the frequency axis
_NOISE: Final = (20.0, 40.0)  # dB that white noise is below the speech


def variants_of(samples: np.ndarray, rate: int, seed: int) -> Iterator[np.ndarray]:
    """Each variant of ``samples`` (N,), as many samples long, and the same for the same seed.

    Raises:
        MissingBackendError: soxr is not installed.
    """
    random = np.random.default_rng(seed)
    size = len(samples)
    for number in range(VARIANTS):
        if number < len(_SPEEDS):
            yield np.resize(_spoken_at(samples, rate, _SPEEDS[number]), size)
            continue
        speed = float(np.exp(random.uniform(-_SPREAD, _SPREAD)))
        spoken = np.resize(_spoken_at(samples, rate, speed), size)
        spoken = np.roll(spoken, random.integers(0, round(_LATER * rate)))
        yield _with_noise(_through_another_room(spoken, random), random)


def _spoken_at(samples: np.ndarray, rate: int, speed: float) -> np.ndarray:
    return samples if speed == 1 else resample(samples, rate, round(rate / speed))


def _through_another_room(samples: np.ndarray, random: np.random.Generator) -> np.ndarray:
    spectrum = np.fft.rfft(samples)
    points = random.normal(0.0, _TONE_DEVIATION, _TONE_POINTS)
    places = np.linspace(0, _TONE_POINTS - 1, len(spectrum))
    gain = 10 ** (np.interp(places, np.arange(_TONE_POINTS), points) / 20)
    return np.fft.irfft(spectrum * gain, len(samples))


def _with_noise(samples: np.ndarray, random: np.random.Generator) -> np.ndarray:
    below = 10 ** (-random.uniform(*_NOISE) / 20)
    loudness = float(np.sqrt(np.mean(samples * samples)))
    noise = random.normal(0.0, below * loudness, len(samples))
    return (samples + noise).astype(np.float32)
