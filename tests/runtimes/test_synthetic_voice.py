"""The voice that speech bundles are judged by where nobody gave one."""

import numpy as np
import pytest

from edgekit.runtimes.synthetic_voice import synthetic_voice


@pytest.mark.parametrize("rate", [8_000, 16_000, 48_000])
def test_it_has_a_pitch_formants_and_pauses(rate):
    sound = synthetic_voice(2 * rate, rate)
    assert (sound.shape, sound.dtype) == ((2 * rate,), np.float32)
    assert 0.4 < np.abs(sound).max() < 0.6
    blocks = np.abs(sound.reshape(-1, rate // 50)).max(1)  # of 20 ms
    assert 0.3 < np.mean(blocks < 1e-3) < 0.6
    assert 0.3 < np.mean(blocks > 1e-2) < 0.7
    energy = np.abs(np.fft.rfft(sound * np.hanning(len(sound)))) ** 2
    hertz = np.fft.rfftfreq(len(sound), 1 / rate)
    share = lambda low, high: energy[(hertz >= low) & (hertz < high)].sum() / energy.sum()  # noqa: E731
    assert share(500, 900) > 3 * share(1700, 2100)
    assert share(60, 4000) > 0.999


def test_it_is_the_same_again_and_short_ones_are_sound_too():
    np.testing.assert_array_equal(synthetic_voice(1600, 16_000), synthetic_voice(1600, 16_000))
    assert not np.array_equal(synthetic_voice(1600, 16_000), synthetic_voice(1600, 16_000, seed=1))
    for count in (0, 1, 5):
        assert np.isfinite(synthetic_voice(count, 16_000)).all()
