"""``edgekit run`` on sound."""

import numpy as np
import pytest

pytest.importorskip("transformers")
pytest.importorskip("soundfile")

import soundfile
from PIL import Image

from ..emotion_micro import RATE, emotion_bundle, voice  # noqa: F401 -- a fixture


@pytest.fixture
def recording(tmp_path):
    """A second and a bit in stereo at 48 kHz."""
    path = tmp_path / "sound.wav"
    sound = voice(1.2, rate=3 * RATE)
    soundfile.write(path, np.stack([sound, sound], axis=1), 3 * RATE)
    return path


@pytest.fixture
def run(edgekit, emotion_bundle, monkeypatch, tmp_path):  # noqa: F811
    monkeypatch.setenv("EDGEKIT_HOME", str(tmp_path / "home"))
    return lambda *arguments: edgekit("run", emotion_bundle, *arguments)


def test_json_and_picture(run, recording, tmp_path):
    done = run(recording, "--json", "-o", tmp_path / "a.png")
    assert done.code == 0, done.err
    (found,) = done.document["results"]
    assert found["result"]["seconds"] == pytest.approx(1.2, abs=0.01)
    assert set(found["result"]["windows"][0]["contributions"]) == {"M", "rho", "f_inst", "tau_g"}
    assert Image.open(tmp_path / "a.png").height > 600
    assert "random weights: its answers mean nothing" in done.err


def test_words(run, recording):
    done = run(recording)
    assert done.code == 0, done.err
    assert " %  " in done.out
    assert "speaks most for it" in done.out


def test_what_is_no_sound(run, tmp_path):
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF")
    done = run(broken)
    assert done.code == 8
    assert "cannot be read as sound" in done.err
