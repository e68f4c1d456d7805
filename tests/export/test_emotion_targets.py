"""PhysioSER on every target, from waveform to probabilities, and in integers."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("transformers")
pytest.importorskip("soundfile")
pytest.importorskip("coremltools")
pytest.importorskip("tensorrt_rtx")

import soundfile

from edgekit.bundle import Bundle
from edgekit.export import export
from edgekit.quant.options import QuantOptions
from edgekit.runtimes import load, tasks

from ..emotion_micro import RATE, micro_emotion, voice
from .test_targets import LEVELS


@pytest.mark.parametrize("target", LEVELS)
def test_the_whole_way_is_one_graph(target, tmp_path):
    model = micro_emotion()
    alone = replace(model, graphs=model.graphs[:1])
    result = export(alone, [target], tmp_path / "b", report=False)
    result.raise_for_status()
    ((graph,),) = (one.graphs for one in result.targets)
    assert graph.verify["level"] == LEVELS[target]
    if target != "tensorrt":
        assert graph.verify["metrics"]["nmse"] < 1e-8
        assert graph.verify["samples"] == ["random seed 0", "silence", "a made-up voice"]


@pytest.mark.parametrize("target", ["onnx", "openvino", "coreml"])
def test_in_half_precision_silence_is_a_number_too(target, tmp_path):
    model = micro_emotion()
    alone = replace(model, graphs=model.graphs[:1])
    result = export(alone, [target], tmp_path / "b", precision="fp16", report=False)
    result.raise_for_status()
    ((graph,),) = (one.graphs for one in result.targets)
    assert "silence" in graph.verify["samples"]


def test_quaternions_are_plain_convolutions(tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    model = micro_emotion(speech=False)
    alone = replace(model, graphs=model.graphs[:1])
    export(alone, ["onnx"], tmp_path / "b", report=False).raise_for_status()
    graph = onnx.load(tmp_path / "b/graphs/forward/onnx/model.onnx").graph
    weights = {one.name: tuple(one.dims) for one in graph.initializer}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    shapes = [weights[node.input[1]] for node in convolutions if len(weights[node.input[1]]) == 4]
    assert (8, 4, 3, 3) in shapes
    assert (12, 12, 3, 3) in shapes
    normalised = {n.input[0] for n in graph.node if n.op_type == "BatchNormalization"}
    assert not normalised & {node.output[0] for node in convolutions}


def test_in_integers_the_answer_is_and_what_explains_it_is_not(tmp_path):
    pytest.importorskip("onnxscript")
    folder = tmp_path / "sounds"
    folder.mkdir()
    for number in range(12):
        sound = voice(0.6, 90 + 20 * number, seed=number)
        soundfile.write(folder / f"{number}.wav", sound, RATE)
    result = export(
        micro_emotion(speech=False),
        ["onnx"],
        tmp_path / "b",
        precision="int8",
        quantisation=QuantOptions(calibration=folder, compare=()),
        report=False,
    )
    result.raise_for_status()
    ((answers, explains),) = (one.graphs for one in result.targets)
    assert answers.quantisation["scheme"] == "static"
    assert explains.quantisation is None
    with Bundle.open(tmp_path / "b") as bundle, load(bundle, "onnxruntime") as session:
        found = tasks.for_bundle(bundle, session)(voice(0.5))
        own = session.run({"waveform": voice(0.5)[None]})["probabilities"][0]
    np.testing.assert_array_equal(found.chances, own.astype(np.float64))
    network = micro_emotion(speech=False).module
    import torch

    with torch.no_grad():
        wanted = network(torch.from_numpy(voice(0.5))[None])[0].numpy()
    assert np.abs(np.array(found.chances) - wanted).max() < 0.1


def test_a_network_with_a_speech_network_says_how_it_is_quantised(tmp_path):
    pytest.importorskip("transformers")
    model = micro_emotion(speech=True)
    sounds = [voice(0.5, 90 + 20 * number, seed=number)[None] for number in range(4)]
    result = export(
        replace(model, graphs=model.graphs[:1]),
        ["onnx"],
        tmp_path / "b",
        precision="int8",
        quantisation=QuantOptions(calibration=sounds, compare=()),
        report=False,
    )
    result.raise_for_status()
    ((answers,),) = (one.graphs for one in result.targets)
    assert answers.quantisation["scheme"] == "weights"
    assert answers.quantisation["fidelity"]["nmse"] < 1e-3
