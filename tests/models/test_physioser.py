"""PhysioSER: the front end against known signals, the algebra, and networks of other people."""

import struct

import numpy as np
import pytest
import torch

from edgekit.errors import InputError, UsageError
from edgekit.models import load
from edgekit.models.physioser.config import COMPONENTS, FrontEndConfig, PhysioSERConfig
from edgekit.models.physioser.ctranslate2_file import read_whisper_encoder, settings_of
from edgekit.models.physioser.front_end import FourierFrames, VocalQuartet, hann, mel_bands
from edgekit.models.physioser.network import PhysioSER, level
from edgekit.models.physioser.quaternion import QuaternionConv2d
from edgekit.models.physioser.speech import speech_network
from tests.emotion_micro import RATE, TINY, micro_network, voice

FRONT = FrontEndConfig()
TIME = torch.arange(2 * RATE) / RATE


@pytest.fixture(scope="module")
def quartet():
    return VocalQuartet(FRONT)


@pytest.mark.parametrize(
    ("window", "size", "hop"), [(400, 512, 160), (400, 400, 160), (300, 512, 7)]
)
def test_frames_are_those_of_torch_stft(window, size, hop):
    sound = torch.from_numpy(voice(0.7))[None]
    wanted = torch.stft(
        sound, size, hop, window, torch.hann_window(window), center=False, return_complex=True
    )
    found = FourierFrames(hann(window)[None], size, hop)(sound)[:, 0]
    error = (torch.complex(found[:, 0], found[:, 1]) - wanted).abs().max()
    assert error < 1e-5 * wanted.abs().max()


@pytest.mark.parametrize("hertz", [200.0, 1000.0, 1017.0, 3000.0])
def test_a_tone_is_found_between_the_bins(quartet, hertz):
    found = quartet.components(0.3 * torch.sin(2 * torch.pi * hertz * TIME)[None])[0, :, :, 100]
    _, centres, widths = mel_bands(FRONT)
    band = int(found[0].argmax())
    assert centres[band] + float(found[2, band]) * widths[band] == pytest.approx(hertz, abs=0.2)
    # A low tone beats a little with its mirror image at negative frequencies.
    assert abs(float(found[1, band])) < 5e-3
    assert abs(float(found[3, band])) < 5e-3


@pytest.mark.parametrize("growth", [-4.0, 3.0])
def test_a_growing_tone_shows_its_rate(quartet, growth):
    sound = 0.05 * torch.sin(2 * torch.pi * 1000 * TIME) * torch.exp(growth * (TIME - 1))
    found = quartet.components(sound[None])[0, :, :, 100]
    band = int(found[0].argmax())
    assert float(found[1, band]) == pytest.approx(growth * FRONT.hop / RATE, rel=0.02)


def test_a_click_shows_how_late_it_is(quartet):
    sound = torch.zeros(1, 2 * RATE)
    sound[0, 16000] = 30
    found = quartet.components(sound)[0, 3, 40]
    for frame in (98, 99):
        middle = frame * FRONT.hop + FRONT.size / 2
        assert float(found[frame]) == pytest.approx((16000 - middle) / 200, abs=0.01)


def test_silence_and_noise_floor_have_no_phase(quartet):
    found = quartet.components(1e-6 * torch.randn(1, RATE))
    assert found[:, 1:].abs().max() < 1e-3
    assert torch.isfinite(quartet(torch.zeros(1, RATE))).all()


def test_a_quaternion_convolution_is_the_hamilton_product():
    torch.manual_seed(0)
    layer = QuaternionConv2d(8, 12, kernel=1)
    x = torch.randn(1, 8, 1, 1)

    def times(a, b):
        (r, i, j, k), (s, x, y, z) = a, b
        return (
            r * s - i * x - j * y - k * z,
            r * x + i * s + j * z - k * y,
            r * y - i * z + j * s + k * x,
            r * z + i * y - j * x + k * s,
        )

    inputs = x.reshape(4, 2)  # component, quaternion
    wanted = torch.zeros(4, 3)
    for out in range(3):
        for one in range(2):
            product = times(layer.weight[:, out, one, 0, 0], inputs[:, one])
            wanted[:, out] += torch.stack(product)
    assert torch.allclose(layer(x).reshape(4, 3), wanted, atol=1e-6)
    assert layer.weight.numel() == layer.real_weight().numel() // 4
    with pytest.raises(ValueError, match="four components"):
        QuaternionConv2d(6, 8)


def test_loudness_of_the_microphone_says_nothing():
    network = micro_network()
    sound = torch.from_numpy(voice(0.5))[None]
    assert torch.allclose(network(sound), network(0.05 * sound), atol=1e-5)
    assert float(level(torch.zeros(1, 9)).abs().max()) == 0


def test_explain_tells_what_forward_tells_and_what_is_missed():
    network = micro_network()
    sound = torch.from_numpy(voice(0.5))[None]
    chances, quartet, without = network.explain(sound)
    assert torch.allclose(chances, network(sound), atol=1e-6)
    assert quartet.shape == (1, 4, 64, 47)
    for index in range(len(COMPONENTS)):
        shut = quartet.clone()
        shut[:, index] = 0
        wanted = network.classify([network.vocal(shut), network.latent(level(sound))]).softmax(-1)
        assert torch.allclose(without[index], wanted[0], atol=1e-6)
        assert not torch.allclose(without[index], chances[0], atol=1e-6)


def test_components_that_are_left_out_do_not_matter():
    torch.manual_seed(0)
    network = PhysioSER(PhysioSERConfig(components=("M", "rho"), speech=None)).eval()
    assert network.gates.ravel().tolist() == [1, 1, 0, 0]
    with pytest.raises(ValueError, match="without a branch"):
        PhysioSER(PhysioSERConfig(vocal=None))


def test_whisper_hears_what_transformers_lets_it_hear():
    transformers = pytest.importorskip("transformers")
    layers = speech_network("whisper", {**TINY, "num_mel_bins": 80})
    sound = voice(2.0)
    extractor = transformers.WhisperFeatureExtractor(feature_size=80)
    wanted = extractor(
        sound, sampling_rate=RATE, padding=False, truncation=False, return_tensors="np"
    )
    found = layers.log_mel(torch.from_numpy(sound)[None])
    assert np.abs(found[0].numpy() - wanted["input_features"][0]).max() < 1e-4


SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "conv_dim": (16, 16),
    "conv_stride": (5, 4),
    "conv_kernel": (10, 8),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}


@pytest.mark.parametrize("kind", ["wav2vec2", "hubert", "wavlm"])
def test_networks_that_take_waveforms_are_heard_layer_by_layer(kind):
    pytest.importorskip("transformers")
    layers = speech_network(kind, SMALL).eval()
    sound = torch.from_numpy(voice(0.5))[None]
    with torch.no_grad():
        found = layers(sound)
        assert [one.shape[-1] for one in found] == [layers.width] * layers.layers
        for louder, one in zip(layers(3 * sound), found, strict=True):
            assert torch.allclose(louder, one, atol=1e-4)


def test_an_unknown_speech_network_is_refused():
    with pytest.raises(UsageError, match="no speech network mockingjay"):
        speech_network("mockingjay", {})


def test_the_frozen_network_does_not_learn():
    network = micro_network().train()
    assert not network.latent.speech.training
    assert not any(one.requires_grad for one in network.latent.speech.parameters())
    assert network.classifier.weight.requires_grad


def written(path, network, **changed):
    """A CTranslate2 file of a Whisper encoder, written as that library does."""
    state = {key: tensor.numpy() for key, tensor in network.encoder.state_dict().items()}
    names = {}
    for conv in ("conv1", "conv2"):
        names |= {f"{conv}/{part}": state[f"{conv}.{part}"] for part in ("weight", "bias")}
    names["position_encodings/encodings"] = state["embed_positions.weight"]
    names["layer_norm/gamma"] = state["layer_norm.weight"]
    names["layer_norm/beta"] = state["layer_norm.bias"]
    for index in range(network.layers):
        here, there = f"layer_{index}", f"layers.{index}"
        width = network.width
        bias = state[f"{there}.self_attn.q_proj.bias"]
        stacked = [state[f"{there}.self_attn.{one}_proj.weight"] for one in "qkv"]
        biases = [bias, np.zeros(width, np.float32), state[f"{there}.self_attn.v_proj.bias"]]
        names[f"{here}/self_attention/linear_0/weight"] = np.concatenate(stacked)
        names[f"{here}/self_attention/linear_0/bias"] = np.concatenate(biases)
        for old, new in (
            ("self_attention/linear_1", "self_attn.out_proj"),
            ("ffn/linear_0", "fc1"),
            ("ffn/linear_1", "fc2"),
        ):
            for part in ("weight", "bias"):
                names[f"{here}/{old}/{part}"] = state[f"{there}.{new}.{part}"]
        for old, new in (
            ("self_attention/layer_norm", "self_attn_layer_norm"),
            ("ffn/layer_norm", "final_layer_norm"),
        ):
            names[f"{here}/{old}/gamma"] = state[f"{there}.{new}.weight"]
            names[f"{here}/{old}/beta"] = state[f"{there}.{new}.bias"]

    def text(value):
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    with open(path, "wb") as stream:
        version, spec = changed.get("version", 6), changed.get("spec", "WhisperSpec")
        stream.write(struct.pack("<I", version) + text(spec) + struct.pack("<II", 3, len(names)))
        for name, values in names.items():
            stream.write(text(f"encoder/{name}") + bytes([values.ndim]))
            stream.write(struct.pack(f"<{values.ndim}I", *values.shape))
            content = values.astype(np.float16)
            stream.write(bytes([changed.get("kind", 4)]) + struct.pack("<I", content.nbytes))
            stream.write(content.tobytes())
        stream.write(struct.pack("<I", 0))
    return path


def test_whisper_comes_out_of_a_ctranslate2_file(tmp_path):
    pytest.importorskip("transformers")
    network = speech_network("whisper", {**TINY, "d_model": 64, "encoder_attention_heads": 1})
    state = read_whisper_encoder(written(tmp_path / "model.bin", network))
    assert settings_of(state) == {**TINY, "d_model": 64, "encoder_attention_heads": 1}
    for key, wanted in network.encoder.state_dict().items():
        assert torch.equal(state[key], wanted.half().float()), key


def test_a_file_that_is_no_whisper_is_refused(tmp_path):
    pytest.importorskip("transformers")
    network = speech_network("whisper", TINY)
    whole = written(tmp_path / "model.bin", network)
    content = whole.read_bytes()
    cut = tmp_path / "cut.bin"
    for length in (0, 3, 20, 60, len(content) // 2):
        cut.write_bytes(content[:length])
        with pytest.raises(InputError, match=r"damaged|no Whisper"):
            read_whisper_encoder(cut)
    with pytest.raises(InputError, match="no Whisper of CTranslate2"):
        read_whisper_encoder(written(cut, network, spec="TransformerSpec"))
    with pytest.raises(InputError, match="damaged"):
        read_whisper_encoder(written(cut, network, kind=0))
    with pytest.raises(InputError, match="is quantised"):
        read_whisper_encoder(written(cut, network, kind=2))
    with pytest.raises(InputError, match="cannot read"):
        read_whisper_encoder(tmp_path / "none.bin")


def test_the_registry_has_both():
    for name in ("physioser", "physioser-vocal"):
        model = load(name, "random")
        with torch.no_grad():
            found = model.module(torch.from_numpy(voice(2.0))[None])
        assert found.shape == (1, 7)
        assert float(found.sum()) == pytest.approx(1, abs=1e-5)
