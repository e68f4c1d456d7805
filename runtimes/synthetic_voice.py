"""A made-up voice: something like vowels with pauses between them.

Where nobody gave a recording this is what a speech bundle is judged by beside random numbers.
Those are loud everywhere; a voice is loud in a few bands at a time and leaves the others, and its
pauses, to the noise of the room, where what divides by energy goes wrong first.
"""

from __future__ import annotations

from typing import Final

import numpy as np

_PITCH: Final = 120.0  # Hz, in the middle of its glides
_FORMANTS: Final = ((700.0, 130.0), (1200.0, 160.0), (2600.0, 250.0))  # Hz: centres and widths
_ROOM: Final = 1e-4  # deviation of the noise beside the voice: -80 dB
_SYLLABLES: Final = 2.5  # a second


def synthetic_voice(samples: int, rate: int, seed: int = 0) -> np.ndarray:
    """Sound (samples,) float32 within [-1, 1]; the same for the same arguments.

    Args:
        rate: samples a second. seed: of the room's noise.
    """
    random = np.random.Generator(np.random.PCG64(seed))
    time = np.arange(samples) / rate
    beat = np.sin(2 * np.pi * _SYLLABLES * time)
    glide = 2 * np.pi * _PITCH * (time + 0.02 * np.sin(2 * np.pi * 1.1 * time))
    voice = np.zeros(samples)
    for number in range(1, int(min(rate / 2, 4000.0) / (1.3 * _PITCH)) + 1):
        voice += _loudness(number * _PITCH) / number * np.sin(number * glide)
    voice *= np.maximum(beat, 0.0)  # half of the time it is silent
    voice *= 0.5 / np.abs(voice).max(initial=1e-9)
    return (voice + _ROOM * random.standard_normal(samples)).astype(np.float32)


def _loudness(hertz: float) -> float:
    return 0.05 + sum(1 / (1 + ((hertz - centre) / width) ** 2) for centre, width in _FORMANTS)
