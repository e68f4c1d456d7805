"""Sound files in: one channel, at the rate that a network hears."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np

from edgekit.errors import InputError, MissingBackendError

SUFFIXES: Final = (".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif")
RATES: Final = (4_000, 384_000)  # samples a second, of what is taken for sound
LONGEST: Final = 3600  # seconds of a file; what is longer is streamed
_INSTALL: Final = 'pip install "edgekit-toolkit[audio]"'


def read_sound(source: str | Path | np.ndarray, rate: int) -> np.ndarray:
    """A file's sound, or samples that are in memory already.

    Channels are averaged; another rate is converted with soxr's ``HQ``, whose pass band ends at
    91 % of the lower half rate.

    Args:
        source: a file (WAV, FLAC, Ogg, MP3, AIFF), or an array (samples,) at ``rate``.
        rate: samples a second that are wanted.

    Returns:
        (samples,) float32, within [-1, 1] where the file is.

    Raises:
        InputError: it is no sound, cannot be read, is empty, too long, or not finite.
        MissingBackendError: soundfile, or the converter that this file needs, is not installed.
    """
    if isinstance(source, np.ndarray):
        return _checked(source, "the sound")
    found, own = _read(Path(source))
    mono = found.mean(axis=1, dtype=np.float32) if found.shape[1] > 1 else found[:, 0]
    return _checked(mono if own == rate else resample(mono, own, rate), str(source))


def resample(samples: np.ndarray, own: int, rate: int) -> np.ndarray:
    """Samples (N,) from one rate to another, float32.

    Raises:
        MissingBackendError: soxr is not installed.
    """
    try:
        import soxr
    except ImportError as error:
        raise MissingBackendError(
            f"the sound has {own} samples a second, the network takes {rate}",
            "soxr, which converts it, is not installed",
            _INSTALL,
        ) from error
    return soxr.resample(samples, own, rate, quality="HQ").astype(np.float32, copy=False)


def _read(path: Path) -> tuple[np.ndarray, int]:
    """(samples, channels) and the file's rate."""
    if not path.is_file():
        raise InputError(f"no sound at {path}", "there is no such file")
    soundfile = _soundfile()
    try:
        with soundfile.SoundFile(path) as file:
            if not RATES[0] <= file.samplerate <= RATES[1]:
                raise InputError(
                    f"{path} is no sound", f"it has {file.samplerate} samples a second"
                )
            if file.frames > LONGEST * file.samplerate:
                raise InputError(
                    f"{path} is longer than an hour", "it would be read whole", "cut it into parts"
                )
            return file.read(dtype="float32", always_2d=True), file.samplerate
    except (soundfile.SoundFileError, RuntimeError, OSError) as error:
        why = str(error).rpartition(": ")[2] or type(error).__name__
        raise InputError(f"{path} cannot be read as sound", why) from error


def _soundfile() -> Any:
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: the system's libsndfile is not there
        raise MissingBackendError(
            "soundfile, which reads sound, is not installed", str(error), _INSTALL
        ) from error
    return soundfile


def _checked(samples: np.ndarray, name: str) -> np.ndarray:
    if samples.ndim != 1 or samples.dtype.kind != "f":
        raise InputError(f"{name} is no sound", f"it is {samples.dtype}{list(samples.shape)}")
    if not samples.size:
        raise InputError(f"{name} is empty", "it holds no sample")
    if not np.isfinite(samples).all():
        raise InputError(f"{name} is no sound", "it holds values that are not finite")
    return np.ascontiguousarray(samples, np.float32)


#: Formats that sound is written in: of 16-bit numbers, whatever the file's own are.
WRITTEN: Final = {".wav": "WAV", ".flac": "FLAC"}


def write_sound(path: Path, samples: np.ndarray, rate: int, kind: str) -> None:
    """Write sound as 16-bit numbers; what is beyond [-1, 1] is clipped.

    Args:
        samples: (samples,) float32. rate: samples a second. kind: an ending in :data:`WRITTEN`.

    Raises:
        MissingBackendError: soundfile is not installed.
        OSError: it cannot be written.
    """
    soundfile = _soundfile()
    clipped = np.clip(samples, -1.0, 1.0)
    soundfile.write(path, clipped, rate, format=WRITTEN[kind], subtype="PCM_16")
