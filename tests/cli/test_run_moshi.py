"""``edgekit run`` on a speech codec and on a dialogue."""

import numpy as np
import pytest

pytest.importorskip("onnxscript")
pytest.importorskip("soundfile")

import soundfile
from safetensors.numpy import load_file, save_file

from edgekit.bundle import Bundle
from edgekit.runtimes import load, tasks
from edgekit.runtimes.tasks.speech_dialogue import Sampling

from ..moshi_micro import (  # noqa: F401 -- fixtures
    PIECES,
    codec_bundle,
    dialogue_bundle,
    tone,
)

RATE = 24_000


@pytest.fixture
def recording(tmp_path):
    """A second and a bit in stereo at 48 kHz."""
    path = tmp_path / "speech.flac"
    sound = tone(1.13, rate=2 * RATE)
    soundfile.write(path, np.stack([sound, sound], axis=1), 2 * RATE)
    return path


@pytest.fixture(autouse=True)
def _home(monkeypatch, tmp_path):
    monkeypatch.setenv("EDGEKIT_HOME", str(tmp_path / "home"))


def test_there_and_back(edgekit, codec_bundle, recording, tmp_path):  # noqa: F811
    done = edgekit("run", codec_bundle, recording, "-o", tmp_path / "out.wav", "--json")
    assert done.code == 0, done.err
    (found,) = done.document["results"]
    assert found["result"]["frames"] == 15
    assert found["result"]["codebooks"] == 3
    assert found["result"]["bits_per_second"] == pytest.approx(3 * 4 * 15 / 1.13, rel=1e-3)
    sound, rate = soundfile.read(tmp_path / "out.wav")
    assert (rate, sound.shape) == (RATE, (round(1.13 * RATE),))
    assert np.abs(sound).max() > 0.01


def test_through_a_file_of_codes(edgekit, codec_bundle, recording, tmp_path):  # noqa: F811
    at_once, codes, later = (tmp_path / n for n in ("a.wav", "codes.safetensors", "b.wav"))
    for source, out in ((recording, at_once), (recording, codes), (codes, later)):
        done = edgekit("run", codec_bundle, source, "-o", out)
        assert done.code == 0, done.err
    assert "kbit/s" in done.out
    assert load_file(codes)["codes"].shape == (3, 15)
    assert load_file(codes)["codes"].dtype == np.uint16
    assert codes.stat().st_size < 600
    assert np.array_equal(soundfile.read(at_once)[0], soundfile.read(later)[0])


def test_files_of_codes_that_are_none(edgekit, codec_bundle, tmp_path):  # noqa: F811
    good = np.zeros((3, 4), np.uint16)
    meta = {"edgekit.codec": '{"samples": 7680, "weights_sha256": "%s"}' % ("0" * 64)}
    cases = [
        ({"codes": good[:2]}, None, "3 codebooks expected"),
        ({"codes": good + 16}, None, "0 to 15"),
        ({"codes": good[:, :0]}, None, "no frame"),
        ({"other": good}, None, "cannot be read as codes"),
        ({"codes": good.astype(np.float32)}, None, "does not fit"),
        ({"codes": good}, meta, "another codec"),
        ({"codes": good}, {"edgekit.codec": '{"samples": 99999}'}, "do not stand for"),
        ({"codes": good}, {"edgekit.codec": "[]"}, "cannot be read as codes"),
    ]
    for tensors, metadata, told in cases:
        save_file(tensors, tmp_path / "c.safetensors", metadata)
        done = edgekit("run", codec_bundle, tmp_path / "c.safetensors")
        assert done.code == 8
        assert told in done.err
    (tmp_path / "c.safetensors").write_bytes(b"\x08")
    assert edgekit("run", codec_bundle, tmp_path / "c.safetensors").code == 8


def test_what_cannot_be_written(edgekit, codec_bundle, recording, tmp_path):  # noqa: F811
    done = edgekit("run", codec_bundle, recording, "-o", tmp_path / "a.png")
    assert done.code == 2
    assert "cannot be drawn" in done.err
    done = edgekit("run", codec_bundle, recording, "--graph", "decode")
    assert done.code == 2
    assert "leave --graph out" in done.err


def test_a_folder_of_sounds(edgekit, codec_bundle, recording, tmp_path):  # noqa: F811
    done = edgekit("run", codec_bundle, recording, "-o", f"{tmp_path}/found/")
    assert done.code == 0, done.err
    names = {path.name for path in (tmp_path / "found").iterdir()}
    assert names == {"speech.onnxruntime.wav", "results.json"}


def test_a_dialogue(edgekit, dialogue_bundle, recording, tmp_path):  # noqa: F811
    done = edgekit("run", dialogue_bundle, recording, "-o", tmp_path / "said.wav", "--json")
    assert done.code == 0, done.err
    (found,) = done.document["results"]
    sound, rate = soundfile.read(tmp_path / "said.wav")
    assert rate == RATE
    assert len(sound) == round(1.13 * RATE)
    tokens = found["result"]["tokens"]
    assert len(tokens) == 15
    said = "".join(PIECES[t].replace("▁", " ") for t in tokens if t not in (0, 3))
    assert found["result"]["text"] == said


def test_a_dialogue_is_drawn_by_its_seed(dialogue_bundle):  # noqa: F811
    sound = tone(0.9)
    with Bundle.open(dialogue_bundle) as bundle, load(bundle) as session:
        task = tasks.for_bundle(bundle, session)
        answers = []
        for seed in (1, 1, 2):
            task.configure(Sampling(seed=seed, text_temperature=2.0, text_top_k=0))
            answers.append(task(sound))
    assert answers[0].tokens == answers[1].tokens
    assert np.array_equal(answers[0].sound, answers[1].sound)
    assert answers[0].tokens != answers[2].tokens
