"""Streaming graphs are verified on a walk that carries state, and quantised frame by frame."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("onnxscript")

import torch
from torch import nn

from edgekit.bundle import Bundle
from edgekit.errors import BundleError
from edgekit.export import export
from edgekit.export.captured import as_single_calls, capture_graph
from edgekit.export.judge_bundle import judge_bundle
from edgekit.export.options import ExportOptions
from edgekit.export.walk import FRAMES
from edgekit.manifest import Graph, StatePair, TensorSpec
from edgekit.manifest_reader import _check_states
from edgekit.models.spec import GraphSpec, InputSpec, LoadedModel
from edgekit.quant.options import QuantOptions
from edgekit.runtimes import stream

from ..moshi_micro import micro_moshi


class Echo(nn.Module):
    """What was heard two steps ago, by two states; and a ring of the last four steps' sums."""

    def forward(self, x, last, before, ring, slot):
        after = slot + 1
        total = (ring.sum(1, keepdim=True) + x) / 2
        return before + x, x, last, total, torch.where(after >= 4, after - 4, after)


WHOLE = (
    StatePair(input="last", output="last_next"),
    StatePair(input="before", output="before_next"),
    StatePair(input="slot", output="slot_next"),
)
RING = StatePair(input="ring", output="ring_next", ring_axis=1, ring_slot="slot")


def echo(states=(*WHOLE, RING)) -> LoadedModel:
    inputs = (
        *(InputSpec(name, "float32", (1, 1)) for name in ("x", "last", "before")),
        InputSpec("ring", "float32", (1, 4)),
        InputSpec("slot", "int32", (1,), high=1),
    )
    outputs = ("y", "last_next", "before_next", "ring_next", "slot_next")
    graph = GraphSpec("forward", inputs, outputs, states=states)
    return LoadedModel("echo", "echo", Echo().eval(), (graph,), weights="none")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    out = tmp_path_factory.mktemp("echo") / "b"
    export(echo(), ["onnx", "openvino"], out, report=False).raise_for_status()
    return out


def test_a_walk_is_what_the_network_does_step_by_step():
    model = echo()
    reference = capture_graph(model, model.graphs[0], ExportOptions()).reference
    assert len(reference.samples) == FRAMES
    assert all(set(sample.inputs) == {"x"} for sample in reference.samples)
    heard = [float(sample.inputs["x"][0, 0]) for sample in reference.samples]
    for number, outputs in enumerate(reference.outputs):
        before = heard[number - 2] if number >= 2 else 0.0
        assert outputs["y"][0, 0] == pytest.approx(before + heard[number], abs=1e-6)
        assert outputs["slot_next"][0] == (number + 1) % 4
    sums = [0.0] * 4
    for number, outputs in enumerate(reference.outputs):
        total = (sum(sums) + heard[number]) / 2
        assert outputs["ring_next"][0, 0] == pytest.approx(total, abs=1e-5)
        sums[number % 4] = total


def test_a_walk_as_single_calls():
    model = echo()
    captured = capture_graph(model, model.graphs[0], ExportOptions())
    alone = as_single_calls(captured)
    assert (alone.spec.states, alone.program.states) == ((), ())
    for sample, outputs in zip(alone.reference.samples, alone.reference.outputs, strict=True):
        assert list(sample.inputs) == ["x", "last", "before", "ring", "slot"]
        assert outputs["before_next"] == sample.inputs["last"]
    assert np.count_nonzero(alone.reference.samples[-1].inputs["ring"]) == 4


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_the_bundle_streams(runtime, bundle):
    with stream(bundle, runtime) as session:
        heard = [np.full((1, 1), value, np.float32) for value in (1, 2, 4, 8)]
        answers = [float(session.step({"x": x})["y"][0, 0]) for x in heard]
        assert answers == [1, 2, 5, 10]
        assert session.state()["ring"].ravel().tolist() == [0.5, 1.25, 2.875, 6.3125]
        assert [spec.name for spec in session.inputs] == ["x"]
        assert [spec.name for spec in session.outputs] == ["y"]


def test_what_is_fed_back_wrongly_is_found(bundle, tmp_path):
    """Two states of one shape that are exchanged: a single call could not tell."""
    with Bundle.open(bundle) as opened:
        assert {one.status for one in judge_bundle(opened)} == {"ok"}
        (graph,) = opened.manifest.graphs
        swapped = (
            StatePair(input="last", output="before_next"),
            StatePair(input="before", output="last_next"),
            *graph.states[2:],
        )
        wrong = graph.model_copy(update={"states": swapped})
        opened.manifest = opened.manifest.model_copy(update={"graphs": (wrong,)})
        verdicts = judge_bundle(opened)
    assert {(one.status, one.exit_code) for one in verdicts} == {("failed", 5)}


def specs(*entries):
    return tuple(TensorSpec(name=n, dtype=d, shape=s) for n, d, s in entries)


INPUTS = specs(("ring", "float32", (1, 4, 2)), ("slot", "int32", (1,)))
COUNTER = StatePair(input="slot", output="slot_next")


def contract(part=("float32", (1, 2, 2)), pair=None, counter=COUNTER):
    outputs = specs(("new", *part), ("slot_next", "int32", (1,)))
    pair = pair or StatePair(input="ring", output="new", ring_axis=1, ring_slot="slot")
    return Graph(name="g", inputs=INPUTS, outputs=outputs, states=(pair, counter))


@pytest.mark.parametrize(
    "graph",
    [
        contract(part=("float32", (1, 3, 2))),  # a part that would be cut by the ring's end
        contract(part=("float32", (1, 0, 2))),
        contract(part=("float32", (1, 2, 3))),
        contract(part=("float16", (1, 2, 2))),
        contract(part=("float32", (2, 2))),
        contract(pair=StatePair(input="ring", output="new", ring_axis=3, ring_slot="slot")),
        contract(pair=StatePair(input="ring", output="new", ring_axis=1)),
        contract(pair=StatePair(input="ring", output="new", ring_axis=1, ring_slot="ring")),
        contract(pair=StatePair(input="ring", output="new")),
        contract(counter=StatePair(input="ring", output="slot_next")),
    ],
)
def test_state_pairs_that_make_no_sense(graph):
    with pytest.raises(BundleError):
        _check_states(graph)


def test_a_state_pair_that_makes_sense():
    _check_states(contract())


def test_language_graphs_in_integers_and_the_codec_as_it_is(tmp_path):
    model = micro_moshi()
    kept = [graph for graph in model.graphs if graph.name in ("encode", "temporal", "depformer")]
    asked = QuantOptions(scheme="weights", compare=())
    result = export(
        replace(model, graphs=tuple(kept)),
        ["onnx"],
        tmp_path / "b",
        precision="int8",
        quantisation=asked,
        report=False,
    )
    result.raise_for_status()
    with Bundle.open(tmp_path / "b") as bundle:
        found = {graph.name: graph.artifacts[0] for graph in bundle.manifest.graphs}
        assert {name: one.precision for name, one in found.items()} == {
            "encode": "fp32",
            "temporal": "int8",
            "depformer": "int8",
        }
        for name, decisions in (("temporal", FRAMES), ("depformer", 3)):
            told = found[name].quantisation.fidelity
            assert told.samples == decisions
            assert told.agreement >= 50
            assert told.nmse < 1e-2
        assert all(one.status == "ok" for one in judge_bundle(bundle))


def test_in_half_precision_a_graph_that_answers_with_codes_stays_in_fp32(tmp_path):
    model = micro_moshi()
    codec = tuple(graph for graph in model.graphs if graph.name in ("encode", "decode"))
    said = []
    result = export(
        replace(model, graphs=codec),
        ["openvino"],
        tmp_path / "b",
        precision="bf16",
        report=False,
        progress=said.append,
    )
    result.raise_for_status()
    assert "encode has to be exact: it stays in fp32" in said
    with Bundle.open(tmp_path / "b") as bundle:
        found = {graph.name: graph.artifacts[0] for graph in bundle.manifest.graphs}
        assert {name: one.precision for name, one in found.items()} == {
            "encode": "fp32",
            "decode": "bf16",
        }
        assert all(one.status == "ok" for one in judge_bundle(bundle))
