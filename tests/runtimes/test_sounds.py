"""Sound files as people have them."""

import sys

import numpy as np
import pytest

pytest.importorskip("soundfile")
pytest.importorskip("soxr")

import soundfile

from edgekit.errors import InputError, MissingBackendError
from edgekit.runtimes.sounds import read_sound
from tests.emotion_micro import RATE, voice


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
def test_formats(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, voice(1.0), RATE)
    found = read_sound(path, RATE)
    assert (found.shape, found.dtype) == ((RATE,), np.float32)
    assert np.corrcoef(found, voice(1.0))[0, 1] > 0.99


@pytest.mark.parametrize("rate", [8_000, 22_050, 48_000])
def test_other_rates_are_converted(tmp_path, rate):
    time = np.arange(rate) / rate
    soundfile.write(tmp_path / "a.wav", 0.5 * np.sin(2 * np.pi * 440 * time), rate)
    found = read_sound(tmp_path / "a.wav", RATE)
    assert abs(len(found) - RATE) <= 1
    wanted = 0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
    inner = slice(500, RATE - 500)
    assert np.abs(found[inner] - wanted[inner]).max() < 2e-3


def test_channels_are_averaged(tmp_path):
    both = np.stack([voice(0.5), -0.5 * voice(0.5)], axis=1)
    soundfile.write(tmp_path / "a.wav", both, RATE, subtype="FLOAT")
    assert np.allclose(read_sound(tmp_path / "a.wav", RATE), 0.25 * voice(0.5), atol=1e-6)


def test_what_is_no_sound_is_refused(tmp_path):
    def refuses(source, why):
        with pytest.raises(InputError, match=why):
            read_sound(source, RATE)

    refuses(tmp_path / "none.wav", "no such file")
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF\x10\x00\x00\x00WAVEjunk")
    refuses(broken, "cannot be read as sound")
    broken.write_text("a text that is called sound")
    refuses(broken, "cannot be read as sound")
    soundfile.write(broken, np.zeros(0, np.float32), RATE)
    refuses(broken, "holds no sample")
    soundfile.write(broken, np.full(100, np.nan, np.float32), RATE, subtype="FLOAT")
    refuses(broken, "not finite")
    soundfile.write(broken, np.zeros(100, np.float32), 100)
    refuses(broken, "100 samples a second")
    refuses(np.zeros((2, 5), np.float32), "is no sound")
    refuses(np.zeros(5, np.int16), "is no sound")


@pytest.mark.parametrize("missing", ["soundfile", "soxr"])
def test_what_is_not_installed_is_named(tmp_path, monkeypatch, missing):
    soundfile.write(tmp_path / "a.wav", voice(0.5, rate=8000), 8000)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingBackendError, match=r"edgekit-toolkit\[audio\]"):
        read_sound(tmp_path / "a.wav", RATE)
