"""Mimi and Moshi on three runtimes: golden frame by frame, state saved, restored, kept apart."""

import gc
import os
from dataclasses import replace

import numpy as np
import psutil
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxscript")

import torch

from edgekit import models
from edgekit.bundle import Bundle
from edgekit.errors import InputError, UnsupportedError, UsageError
from edgekit.export import export
from edgekit.models.moshi.build import build
from edgekit.models.moshi.config import MIMI_TINY, MOSHI_TINY
from edgekit.models.moshi.entries import codec_graphs, language_graphs
from edgekit.models.spec import LoadedModel
from edgekit.runtimes import load, registry, stream
from edgekit.runtimes.dialogue import GREEDY, Dialogue, Sampling
from edgekit.runtimes.tasks.speech_dialogue import DialogueParams

from ..moshi_golden import fill, golden

# The codec and the dialogue take ExecuTorch minutes to lower; the official test model, which runs
# there in any case, does not.
MINUTES = pytest.mark.skipif(
    not os.environ.get("EDGEKIT_SLOW"), reason="lowers for minutes: run it with EDGEKIT_SLOW=1"
)
RUNTIMES = ("onnxruntime", "openvino", pytest.param("executorch", marks=MINUTES))


def golden_model(name: str, cache: str, shared) -> LoadedModel:
    official = shared / "data/moshi_test_lm/test_lm_model.safetensors"
    with torch.no_grad():
        model = models.load(name, official if name == "moshi-testlm" else "random")
        if cache == "ring":
            # What differs: two graphs tell it all.
            graphs = (codec_graphs(MIMI_TINY, cache)[0], language_graphs(MOSHI_TINY, cache)[0])
            model = replace(model, module=build(name, cache).eval(), graphs=graphs)
        if name == "moshi-tiny":
            fill(model.module)
    return model


@pytest.fixture(scope="module")
def bundles(tmp_path_factory, shared_data):
    """The golden networks, exported when a runtime first asks for them."""
    folder, made = tmp_path_factory.mktemp("moshi"), {}

    def bundle(name: str, runtime: str, cache: str = "slice"):
        if registry.missing(registry.get(runtime)) is not None:
            pytest.skip(f"{runtime} is not here")
        # ExecuTorch takes a minute to lower; the other two share a capture.
        targets = ["executorch"] if runtime == "executorch" else ["onnx", "openvino"]
        key = (name, targets[0], cache)
        if key not in made:
            out = folder / "-".join(key)
            model = golden_model(name, cache, shared_data)
            export(model, targets, out, report=False).raise_for_status()
            made[key] = out
        return made[key]

    return bundle


def open_streams(bundle, runtime, *graphs):
    return [stream(bundle, runtime, threads=1, graph=graph) for graph in graphs]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_codes_and_sound_are_golden(runtime, bundles, shared_data):
    wanted = golden(shared_data, "mimi_tiny")
    path = bundles("moshi-tiny", runtime)
    encoder, decoder = open_streams(path, runtime, "encode", "decode")
    sound = []
    with encoder, decoder:
        for number, pcm in enumerate(wanted["pcm_in"].reshape(-1, 1, 1, 1920)):
            found = encoder.step({"pcm": pcm})
            assert found["codes"][0, :, 0].tolist() == wanted["codes"][:, number].tolist()
            assert np.abs(found["latent"][0, :, 0] - wanted["latent"][:, number]).max() < 1e-5
            sound.append(decoder.step({"codes": found["codes"]})["pcm"].ravel())
    assert np.abs(np.concatenate(sound) - wanted["pcm_out"]).max() < 1e-5


def assert_golden_dialogue(path, runtime, wanted, heard):
    """The whole loop, greedy: what the model is given, what it gives, and what comes out."""
    with Bundle.open(path) as bundle:
        params = DialogueParams.model_validate(bundle.manifest.task.params)
        temporal = stream(bundle, runtime, threads=1, graph=params.temporal)
        with temporal, load(bundle, runtime, threads=1, graph=params.depth) as depth:
            dialogue = Dialogue(temporal, depth, params.layout, GREEDY)
            outputs = []
            for call, codes in enumerate(heard):
                said = dialogue.step(codes)
                last = dialogue.last
                assert last.tokens.tolist() == wanted["model_input"][:, call].tolist()
                assert np.abs(last.text_logits - wanted["text_logits"][call]).max() < 1e-4
                assert np.abs(last.audio_logits - wanted["depformer_logits"][call]).max() < 1e-4
                assert last.text == wanted["sampled_text"][call]
                assert last.codes.tolist() == wanted["sampled_audio"][call].tolist()
                assert (said is None) == (call < int(wanted["first_output_call"]))
                if said is not None:
                    outputs.append([said.text, *said.codes.tolist()])
    assert np.array_equal(np.array(outputs).T, wanted["step_output"])


@pytest.mark.parametrize("runtime", RUNTIMES[:2])
def test_graphs_that_give_the_whole_ring_are_golden(runtime, bundles, shared_data):
    sound, language = (golden(shared_data, name) for name in ("mimi_tiny", "lm_tiny"))
    path = bundles("moshi-tiny", runtime, "ring")
    encoder, temporal = open_streams(path, runtime, "encode", "temporal")
    assert all(pair.ring_axis is None for pair in encoder.session.states)
    with encoder, temporal:
        for number, pcm in enumerate(sound["pcm_in"].reshape(-1, 1, 1, 1920)):
            codes = encoder.step({"pcm": pcm})["codes"]
            assert codes[0, :, 0].tolist() == sound["codes"][:, number].tolist()
        for number, tokens in enumerate(language["model_input"].T.astype(np.int32)):
            found = temporal.step({"tokens": tokens.reshape(1, -1, 1)})["text_logits"]
            assert np.abs(found.ravel() - language["text_logits"][number]).max() < 1e-4


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_dialogue_is_golden(runtime, bundles, shared_data):
    wanted = golden(shared_data, "lm_tiny")
    path = bundles("moshi-tiny", runtime)
    assert_golden_dialogue(path, runtime, wanted, wanted["user_codes"].T.astype(np.int32))


@pytest.mark.parametrize(
    "runtime", [*RUNTIMES[:2], pytest.param("executorch", marks=pytest.mark.slow)]
)
def test_the_official_test_model_is_golden(runtime, bundles, shared_data):
    wanted = golden(shared_data, "upstream_test_lm_stream")
    nobody = np.zeros((len(wanted["sampled_text"]), 0), np.int32)
    assert_golden_dialogue(bundles("moshi-testlm", runtime), runtime, wanted, nobody)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_state_goes_on_to_the_bit_and_streams_do_not_disturb_each_other(
    runtime, bundles, shared_data
):
    frames = golden(shared_data, "mimi_tiny")["pcm_in"].reshape(-1, 1, 1, 1920)
    one, other = open_streams(bundles("moshi-tiny", runtime), runtime, "encode", "encode")
    with one, other:
        whole = [one.step({"pcm": pcm})["latent"] for pcm in frames]
        one.reset()
        for number, pcm in enumerate(frames):
            if number == 15:  # beyond the ring's wrap
                saved = one.state()
            found = one.step({"pcm": pcm})["latent"]
            assert np.array_equal(found, whole[number])
            other.step({"pcm": frames[-1 - number]})  # another stream in between
        one.restore(saved)
        again = [one.step({"pcm": pcm})["latent"] for pcm in frames[15:]]
        assert all(map(np.array_equal, again, whole[15:]))
        other.restore(saved)
        moved = [other.step({"pcm": pcm})["latent"] for pcm in frames[15:]]
        assert all(map(np.array_equal, moved, whole[15:]))


def test_a_state_moves_to_another_runtime(bundles, shared_data):
    wanted = golden(shared_data, "mimi_tiny")
    frames = wanted["pcm_in"].reshape(-1, 1, 1, 1920)
    (one,) = open_streams(bundles("moshi-tiny", "onnxruntime"), "onnxruntime", "encode")
    (other,) = open_streams(bundles("moshi-tiny", "openvino"), "openvino", "encode")
    with one, other:
        for pcm in frames[:13]:
            one.step({"pcm": pcm})
        other.restore(one.state())
        for number in range(13, len(frames)):
            codes = other.step({"pcm": frames[number]})["codes"]
            assert codes[0, :, 0].tolist() == wanted["codes"][:, number].tolist()


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_ten_thousand_frames_take_no_memory(runtime, bundles):
    (session,) = open_streams(bundles("moshi-testlm", runtime), runtime, "temporal")
    tokens, process = np.zeros((1, 4, 1), np.int32), psutil.Process()
    out = {spec.name: np.zeros(spec.shape, spec.dtype) for spec in session.outputs}
    with session:
        for _ in range(1000):
            session.step({"tokens": tokens}, out)
        gc.collect()
        before = process.memory_info().rss
        for _ in range(10_000):
            session.step({"tokens": tokens}, out)
        gc.collect()
        assert process.memory_info().rss - before < 1 << 20
        assert int(session.state()["position"][0]) == session.steps == 11_000
        assert np.isfinite(out["text_logits"]).all()


def test_a_dialogue_goes_on_from_a_saved_state(bundles):
    path = bundles("moshi-tiny", "onnxruntime")
    random = np.random.default_rng(0)
    heard = random.integers(0, 64, (24, 8)).astype(np.int32)
    with Bundle.open(path) as bundle:
        params = DialogueParams.model_validate(bundle.manifest.task.params)
        (temporal,) = open_streams(bundle, "onnxruntime", params.temporal)
        with temporal, load(bundle, "onnxruntime", 1, params.depth) as depth:
            dialogue = Dialogue(temporal, depth, params.layout, Sampling(seed=3))
            first = []
            for number, codes in enumerate(heard):
                if number == 11:
                    saved = dialogue.state()
                dialogue.step(codes)
                first.append((dialogue.last.text, *dialogue.last.codes.tolist()))
            dialogue.restore(saved)
            again = []
            for codes in heard[11:]:
                dialogue.step(codes)
                again.append((dialogue.last.text, *dialogue.last.codes.tolist()))
            assert again == first[11:]
            dialogue.reset()
            dialogue.step(heard[0])
            assert (dialogue.last.text, *dialogue.last.codes.tolist()) == first[0]
            for wrong in (heard[0][:5], heard[0] + 64, heard[0].astype(np.float32)):
                with pytest.raises(InputError, match="code"):
                    dialogue.step(wrong)


def test_what_a_stream_refuses(bundles, tmp_path):
    path = bundles("moshi-testlm", "onnxruntime")
    with pytest.raises(UnsupportedError, match="no state"):
        stream(path, graph="depformer")
    (session,) = open_streams(path, "onnxruntime", "temporal")
    tokens = np.zeros((1, 4, 1), np.int32)
    with session:
        session.step({"tokens": tokens})
        before = session.state()
        for wrong in ({}, {"x": tokens}, {"tokens": tokens[0]}, {"tokens": tokens.astype(float)}):
            with pytest.raises(InputError):
                session.step(wrong)
        with pytest.raises(InputError, match="no output"):
            session.step({"tokens": tokens}, {"other": tokens})
        session.restore(before)
        for name, value in (("slot", 4), ("slot", -1)):
            odd = {**before, name: np.array([value], np.int32)}
            with pytest.raises(InputError, match="no state"):
                session.restore(odd)
        with pytest.raises(InputError, match="another graph"):
            session.restore({})
        with pytest.raises(InputError, match="shape"):
            session.restore({**before, "position": np.zeros(2, np.int32)})
        assert all(map(np.array_equal, session.state().values(), before.values()))
    with pytest.raises(UsageError, match="closed"):
        session.step({"tokens": tokens})
