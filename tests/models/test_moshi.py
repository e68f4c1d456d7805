"""Mimi and Moshi against the official implementation's golden streams, frame by frame."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from edgekit.errors import InputError
from edgekit.models.moshi import config as sizes
from edgekit.models.moshi.build import build, build_codec
from edgekit.models.moshi.checkpoint import pack, read_mimi, read_moshi, unpack
from edgekit.models.moshi.states import decoder_states, encoder_states, temporal_states
from edgekit.models.weights import apply_checkpoint

from ..moshi_golden import advance, checks, fill, golden, zeros

CACHES = sizes.CACHES


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module", params=CACHES)
def tiny(request):
    with torch.no_grad():
        return request.param, fill(build("moshi-tiny", request.param)).eval()


def test_the_fill_is_the_golden_one(shared_data):
    known = checks(shared_data, "mimi_tiny") | checks(shared_data, "lm_tiny")
    network = fill(build("moshi-tiny"))
    found = network.state_dict()
    assert set(found) == set(known)
    for key, tensor in found.items():
        assert list(tensor.shape) == known[key]["shape"]
        first = tensor.flatten()[:3].tolist()
        assert first == pytest.approx(known[key]["first3"][: len(first)], abs=1e-7)
        assert float(tensor.double().sum()) == pytest.approx(known[key]["sum"], abs=1e-4)


def test_codes_and_sound_are_golden_through_the_rings_wrap(tiny, shared_data):
    cache, network = tiny
    wanted = golden(shared_data, "mimi_tiny")
    frames = torch.from_numpy(wanted["pcm_in"]).reshape(-1, 1, 1, 1920)
    coding, decoding = (f(sizes.MIMI_TINY) for f in (encoder_states, decoder_states))
    ears, mouth = zeros(coding), zeros(decoding)
    latents, sound = [], []
    for number, pcm in enumerate(frames):
        codes, latent, *new = network.encode(pcm, *ears)
        ears = advance(coding, ears, new, cache)
        assert codes[0, :, 0].tolist() == wanted["codes"][:, number].tolist()
        latents.append(latent[0, :, 0].numpy())
        out, *new = network.decode(codes, *mouth)
        mouth = advance(decoding, mouth, new, cache)
        sound.append(out.flatten().numpy())
    assert len(frames) * 2 > sizes.MIMI_TINY.transformer.context
    assert np.abs(np.stack(latents, 1) - wanted["latent"]).max() < 1e-5
    assert np.abs(np.concatenate(sound) - wanted["pcm_out"]).max() < 1e-5


def stream(network, config, cache, tokens, greedy):
    """Both graphs over given inputs (1 + streams, frames): logits of text and codes, tokens."""
    states = temporal_states(config)
    state = zeros(states)
    noise = torch.zeros(config.generated, config.audio_cards)
    every = torch.zeros(1, dtype=torch.int32)
    found = {"text_logits": [], "depformer_logits": [], "hidden": [], "sampled_audio": []}
    for number, column in enumerate(tokens.T):
        given = torch.from_numpy(column.astype(np.int32)).reshape(1, -1, 1)
        hidden, text, *new = network.temporal_step(given, *state)
        state = advance(states, state, new, cache)
        token = torch.full((1, 1), int(greedy[number]), dtype=torch.int32)
        codes, logits = network.depth_steps(hidden, token, noise, every)
        found["text_logits"].append(text.flatten().numpy())
        found["depformer_logits"].append(logits[0].numpy())
        found["hidden"].append(hidden.flatten().numpy())
        found["sampled_audio"].append(codes[0].numpy())
    return {name: np.stack(values) for name, values in found.items()}


def assert_golden(found, wanted):
    for name in ("text_logits", "depformer_logits"):
        assert np.abs(found[name] - wanted[name]).max() < 1e-4
    assert (found["text_logits"].argmax(-1) == wanted["sampled_text"]).all()
    assert (found["sampled_audio"] == wanted["sampled_audio"]).all()


def test_tokens_and_logits_are_golden_through_the_rings_wrap(tiny, shared_data):
    cache, network = tiny
    wanted = golden(shared_data, "lm_tiny")
    found = stream(network, sizes.MOSHI_TINY, cache, wanted["model_input"], wanted["sampled_text"])
    assert len(found["hidden"]) > 2 * sizes.MOSHI_TINY.temporal.context
    assert_golden(found, wanted)
    assert np.abs(found["hidden"] - wanted["hidden"]).max() < 1e-4


@pytest.mark.parametrize("cache", CACHES)
def test_the_official_test_model_streams_as_officially(cache, shared_data):
    network = build("moshi-testlm", cache).eval()
    path = shared_data / "data/moshi_test_lm/test_lm_model.safetensors"
    apply_checkpoint(network, read_moshi(path), path)
    wanted = golden(shared_data, "upstream_test_lm_stream")
    found = stream(
        network, sizes.MOSHI_TESTLM, cache, wanted["model_input"], wanted["sampled_text"]
    )
    assert_golden(found, wanted)


def test_the_official_test_models_own_outputs(shared_data):
    """Its whole-sequence outputs, where they are valid: frame by frame, with dictated codes."""
    folder = shared_data / "data/moshi_test_lm"
    path, config = folder / "test_lm_model.safetensors", sizes.MOSHI_TESTLM
    network = build("moshi-testlm").eval()
    apply_checkpoint(network, read_moshi(path), path)
    wanted = load_file(folder / "test_lm_out.safetensors")
    states = temporal_states(config)
    for item, codes in enumerate(load_file(folder / "test_lm_codes.safetensors")["codes"]):
        frames = codes.shape[1]
        beginning = torch.tensor([config.text_cards, *[config.audio_cards] * config.streams])
        delayed = beginning[:, None].repeat(1, frames + max(config.delays) + 1)
        for row, delay in enumerate(config.delays):
            delayed[row, 1 + delay : 1 + delay + frames] = codes[row]
        state = zeros(states)
        for call in range(frames):
            given = delayed[:, call].int().reshape(1, -1, 1)
            hidden, text, *new = network.temporal_step(given, *state)
            state = advance(states, state, new, "slice")
            after = delayed[:, call + 1]
            noise = torch.zeros(config.generated, config.audio_cards)
            for row in range(config.generated):
                if after[1 + row] < config.audio_cards:
                    noise[row, after[1 + row]] = 1e6
            _, logits = network.depth_steps(
                hidden, after[:1, None].int(), noise, torch.zeros(1, dtype=torch.int32)
            )
            assert torch.allclose(text[0, 0], wanted["text_logits"][item, 0, call], atol=1e-5)
            for row, delay in enumerate(config.delays[1:]):
                # Before that, the official sequence has a beginning where a stream has codes.
                time = call - delay
                if time >= 0 and call >= max(config.delays):
                    expected = wanted["logits"][item, row, time]
                    assert torch.allclose(logits[0, row], expected, atol=1e-5)


def test_states_are_those_of_the_official_size(shared_data):
    known = json.loads((shared_data / "golden/moshi/full_state_shapes.json").read_text())

    def found(states):
        shapes = {s.name: list(s.shape) for s in states if s.name != "slot"}
        return {name.replace("position", "pos"): shape for name, shape in shapes.items()}

    def wanted(kind):
        return {name.replace(".", "_"): shape for name, shape in known[kind].items()}

    assert found(encoder_states(sizes.MIMI)) == wanted("enc")
    assert found(decoder_states(sizes.MIMI)) == wanted("dec")
    assert found(temporal_states(sizes.MOSHI_7B)) == wanted("lm")


@pytest.mark.parametrize("form", ["module", "packed"])
def test_the_full_size_has_the_official_keys(form, shared_data):
    folder = shared_data / "golden/moshi"
    with torch.device("meta"):
        language, codec = build("moshi-7b").state_dict(), build_codec().state_dict()
    shapes = {key: list(value.shape) for key, value in language.items()}
    ours = {key: list(value.shape) for key, value in codec.items()}
    assert ours == {
        key: value[0] if isinstance(value[0], list) else value
        for key, value in json.loads((folder / "mimi_full_keys.json").read_text()).items()
    }
    wanted = {
        key: value[0]
        for key, value in json.loads((folder / f"moshi7b_keys_{form}.json").read_text()).items()
    }
    if form == "packed":
        empty = {key: torch.empty(shape, device="meta") for key, shape in wanted.items()}
        wanted = {key: list(value.shape) for key, value in unpack(empty).items()}
        assert {key: list(value.shape) for key, value in pack(language).items()} == {
            **{key: list(value.shape) for key, value in empty.items()},
            **{key: list(value.shape) for key, value in pack(codec).items()},
        }
    assert shapes == wanted | ours


def test_both_key_forms_load_and_give_the_same(tmp_path):
    state = build("moshi-tiny").state_dict()
    codec = set(build_codec("mimi-tiny").state_dict())
    packed = {key: value.contiguous() for key, value in pack(state).items()}
    assert "transformer.layers.0.self_attn.in_proj_weight" in packed
    save_file(packed, tmp_path / "whole.safetensors")
    found = read_moshi(tmp_path / "whole.safetensors")
    assert set(found) == set(state)
    assert all(torch.equal(found[key], state[key]) for key in state)
    # As a release has it: a folder with the language model and the codec in files of their own.
    ours = {key: value for key, value in state.items() if key in codec}
    language = {key: value for key, value in pack(state).items() if key not in pack(ours)}
    for name, part in (("tokenizer-1", pack(ours)), ("model", language)):
        whole = {key: value.contiguous() for key, value in part.items()}
        save_file(whole, tmp_path / f"{name}.safetensors")
    (tmp_path / "whole.safetensors").unlink()
    assert set(read_moshi(tmp_path)) == set(state)
    assert set(read_mimi(tmp_path)) == codec


def test_older_names_of_codebooks():
    old = {
        "quantizer.rvq_first.vq.layers.0._codebook.inited": torch.ones(1),
        "quantizer.rvq_first.vq.layers.0._codebook.cluster_size": torch.ones(4),
        "quantizer.rvq_first.vq.layers.0._codebook.embed_avg": torch.ones(4, 2),
        "quantizer.rvq_first.vq.layers.0._codebook.embed": torch.ones(4, 2),
    }
    assert {key.rpartition(".")[2] for key in unpack(old)} == {
        "_initialized",
        "cluster_usage",
        "embedding_sum",
    }


def test_checkpoints_that_are_not_to_be_understood(tmp_path):
    with pytest.raises(InputError, match=r"no model\.safetensors"):
        read_moshi(tmp_path)
    with pytest.raises(InputError, match="0 files"):
        read_mimi(tmp_path)
    both = {
        "x.self_attn.in_proj_weight": torch.ones(6, 2),
        "x.self_attn.in_projs.0.weight": torch.ones(6, 2),
    }
    with pytest.raises(InputError, match="two forms"):
        unpack(both)
    with pytest.raises(InputError, match="no packed attention"):
        unpack({"x.self_attn.in_proj_weight": torch.ones(7, 2)})


def test_noise_dictates_and_top_k_holds():
    network = fill(build("moshi-tiny")).eval()
    config = sizes.MOSHI_TINY
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(1, 1, config.temporal.width, generator=generator)
    text = torch.tensor([[5]], dtype=torch.int32)
    wanted = torch.randint(config.audio_cards, (config.generated,), generator=generator)
    noise = torch.zeros(config.generated, config.audio_cards)
    noise[torch.arange(config.generated), wanted] = 1e6
    every = torch.tensor([0], dtype=torch.int32)
    codes, _ = network.depth_steps(hidden, text, noise, every)
    assert codes[0].tolist() == wanted.tolist()
    gumbel = -torch.log(-torch.log(torch.rand(noise.shape, generator=generator)))
    for count in (1, 3, 20):
        top = torch.tensor([count], dtype=torch.int32)
        codes, logits = network.depth_steps(hidden, text, 10 * gumbel, top)
        ranks = (logits > logits.gather(-1, codes[..., None].long())).sum(-1)
        assert ranks.max() < count
    assert ranks.max() > 2
