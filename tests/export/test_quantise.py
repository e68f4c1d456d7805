"""Quantised exports: what leaves says what it cost, and a budget is a promise."""

import importlib.util
import json

import numpy as np
import pytest

pytest.importorskip("nncf")

import torch
from torch import nn

from edgekit.bundle import Bundle
from edgekit.errors import InputError, UnsupportedError, UsageError
from edgekit.export import export
from edgekit.export.layers import linear_share, weight_layers
from edgekit.export.round_weights import find_corrections, round_weights
from edgekit.export.sensitivity import Simulation, rank_layers
from edgekit.export.targets import onnx_int8
from edgekit.export.targets.onnx_graph import to_onnx
from edgekit.manifest import TaskInfo
from edgekit.models.spec import GraphSpec, InputSpec, LoadedModel
from edgekit.quant.options import QuantOptions
from edgekit.quant.plan import QuantPlan
from edgekit.runtimes import load

from .nets import settle

RUNNING = ["onnx", "openvino", "executorch"]


class Convolutions(nn.Module):
    """Three convolutions with something between them; the second has one wild channel."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.wild = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.last = nn.Conv2d(16, 160, 1)
        self.head = nn.Linear(160, 6)

    def example_inputs(self) -> dict[str, torch.Tensor]:
        return {"image": torch.zeros(1, 3, 12, 12)}

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(image))
        x = torch.relu(self.wild(x)) + x
        return self.head(torch.relu(self.last(x)).mean((2, 3)))


def convolutions() -> nn.Module:
    """Seeded; biased inputs, so that rounding shifts means."""
    module = settle(Convolutions())
    with torch.no_grad():
        module.first.bias.add_(1.0)
    return module


def pictures(count, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((1, 3, 12, 12), np.float32) for _ in range(count)]


def quantised(tmp_path, targets=("onnx",), module=None, precision="int8", **asked):
    asked = {"calibration": pictures(40), "compare": ("fp32",), **asked}
    return export(
        module or convolutions(),
        targets,
        tmp_path / "net",
        precision=precision,
        quantisation=QuantOptions(**asked),
        report=False,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """int8 on every target, with the table and the report."""
    folder = tmp_path_factory.mktemp("int8")
    return export(
        convolutions(),
        [*RUNNING, "coreml", "tensorrt"],
        folder / "net",
        precision="int8",
        quantisation=QuantOptions(
            calibration=pictures(40),
            evaluation=pictures(20, 1),
            max_drop=1.0,
            compare=("fp32",),
            sensitivity=True,
        ),
    )


def test_every_target_leaves_with_its_cost(whole):
    assert {t.target: t.status for t in whole.targets} == dict.fromkeys(
        [*RUNNING, "coreml", "tensorrt"], "ok"
    )
    rows = {(row["target"], row["variant"]): row for row in whole.comparison["rows"]}
    for target in RUNNING:
        row = rows[target, "int8"]
        assert 0 < row["nmse"] < 1e-2
        assert row["samples"] == 20
        assert row["drop"] == pytest.approx(100 * row["nmse"])
        assert row["p50_ms"] > 0
        assert row["peak_rss_mb"] > 0
        assert rows[target, "fp32"]["nmse"] < 1e-9
    assert rows["tensorrt", "int8"]["judged_by"] == "onnxruntime"
    assert rows["tensorrt", "int8"]["p50_ms"] is None
    levels = {t.target: t.graphs[0].verify["level"] for t in whole.targets}
    assert levels["tensorrt"] == "compiled"
    json.dumps(whole.to_json())


def test_the_manifest_says_with_what_it_was_calibrated(whole):
    with Bundle.open(whole.bundle) as bundle:
        info = bundle.manifest.quantisation
        assert info.calibration.samples == 40
        assert info.evaluation.samples == 20
        assert info.calibration.sha256 != info.evaluation.sha256
        assert [layer.node for layer in info.sensitivity] == [
            layer["node"] for layer in whole.comparison["sensitivity"]
        ]
        assert len(info.sensitivity) == 4
        artifact = bundle.graph().artifacts[0]
        assert artifact.quantisation.scheme == "static"
        assert artifact.quantisation.kept == ()


def test_the_bundle_runs_in_integers(whole):
    (image,) = pictures(1, 2)
    with torch.no_grad():
        wanted = convolutions()(torch.from_numpy(image)).numpy()
    for runtime in ("onnxruntime", "openvino", "executorch"):
        with Bundle.open(whole.bundle) as bundle, load(bundle, runtime=runtime) as session:
            (given,) = session.run({"image": image}).values()
        error = np.square(given - wanted).sum() / np.square(wanted).sum()
        assert 1e-9 < error < 1e-2, runtime


def test_the_report_draws_the_table(whole):
    page = (whole.bundle / "report.html").read_text()
    assert 'id="precisions"' in page
    assert "Layer sensitivity" in page
    assert "Peak MB" in page


def test_a_budget_that_holds_by_keeping_layers(tmp_path):
    plain = quantised(tmp_path / "a", evaluation=pictures(20, 1))
    lost = plain.comparison["rows"][-1]["drop"]
    result = quantised(tmp_path / "b", evaluation=pictures(20, 1), max_drop=0.6 * lost)
    assert result.exit_code == 0
    rows = result.comparison["rows"]
    assert [row["variant"] for row in rows] == ["fp32", "int8", "mixed"]
    assert rows[1]["status"] == "failed"
    assert rows[2]["drop"] <= 0.6 * lost
    with Bundle.open(result.bundle) as bundle:
        record = bundle.graph().artifacts[0].quantisation
        ranked = bundle.manifest.quantisation.sensitivity
    assert 1 <= len(record.kept) <= 2
    assert record.kept == ranked[: len(record.kept)]


def test_a_budget_that_cannot_hold_is_exit_6_and_nothing_is_lost(tmp_path):
    result = quantised(tmp_path, evaluation=pictures(20, 1), max_drop=1e-9)
    assert result.exit_code == 6
    (target,) = result.targets
    assert "the budget is 1e-09" in target.reason
    assert target.graphs[0].file.endswith("model.onnx.rejected")
    best = min(row["drop"] for row in result.comparison["rows"] if row["variant"] != "fp32")
    with Bundle.open(result.bundle) as bundle:
        assert bundle.graph().artifacts[0].quantisation.drop == best


def test_mixed_keeps_the_most_sensitive_from_the_start(tmp_path):
    result = quantised(tmp_path, precision="mixed", evaluation=pictures(20, 1))
    rows = {row["variant"]: row for row in result.comparison["rows"]}
    assert rows["mixed"]["kept"] == 1
    assert rows["mixed"]["nmse"] < rows["int8"]["nmse"]


def test_mixed_with_a_back_end_that_is_missing(tmp_path, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        "edgekit.export.targets.need.find_spec",
        lambda name: None if name == "executorch" else real(name),
    )
    result = quantised(tmp_path, ("executorch", "onnx"), precision="mixed", compare=())
    assert [(t.status, t.exit_code) for t in result.targets] == [("unavailable", 3), ("ok", 0)]
    assert "edgekit-toolkit[executorch]" in result.targets[0].reason


def test_what_a_library_does_in_place_of_entropy_is_noted(tmp_path):
    result = quantised(tmp_path, ("openvino", "onnx"), method="entropy", compare=())
    notes = {t.target: t.graphs[0].verify["notes"] for t in result.targets}
    assert any("NNCF has no entropy" in note for note in notes["openvino"])
    assert not any("entropy" in note for note in notes["onnx"])


class Several(nn.Module):
    """A graph with an operator that ExecuTorch refuses, one that stands in, and another."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 3)
        self.linear = nn.Linear(64, 64)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.split(image).sort(dim=-1).values

    def split(self, image: torch.Tensor) -> torch.Tensor:
        return self.convolution(image)

    def other(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.linear(tokens)


def several():
    image = (InputSpec("image", "float32", (1, 3, 12, 12)),)
    tokens = (InputSpec("tokens", "float32", (1, 4, 64)),)
    return LoadedModel(
        name="several",
        source="several",
        module=settle(Several()),
        graphs=(
            GraphSpec("other", tokens, ("features",), method="other"),
            GraphSpec("whole", image, ("scores",), alternative="split"),
            GraphSpec("split", image, ("scores",), method="split"),
        ),
        weights="random",
        task=TaskInfo(kind="tensors", params={"graph": "whole"}),
    )


def schemes(result):
    """Per target and graph, how it is quantised."""
    return {
        target.target: {g.name: (g.quantisation or {}).get("scheme") for g in target.graphs}
        for target in result.targets
    }


def test_of_several_graphs_the_tasks_own_and_its_alternative_are_quantised(tmp_path):
    result = quantised(tmp_path, ("onnx", "executorch"), several(), compare=("fp32",))
    assert schemes(result) == {
        "onnx": {"other": None, "whole": "static", "split": "static"},
        "executorch": {"other": None, "split": "static"},
    }
    rows = {(row["target"], row["variant"]): row for row in result.comparison["rows"]}
    for target in ("onnx", "executorch"):
        assert rows[target, "fp32"]["nmse"] < 1e-9 < rows[target, "int8"]["nmse"] < 1e-2


def test_with_weights_alone_every_graph_is_quantised(tmp_path):
    result = quantised(
        tmp_path, ("openvino",), several(), scheme="weights", calibration=None, compare=()
    )
    assert set(schemes(result)["openvino"].values()) == {"weights"}
    for graph in result.targets[0].graphs:
        assert graph.quantisation["fidelity"]["nmse"] > 1e-9


@pytest.mark.parametrize("method", ["entropy", "percentile"])
@pytest.mark.parametrize("target", RUNNING)
def test_every_method_on_every_runtime(tmp_path, method, target):
    result = quantised(tmp_path, (target,), method=method, evaluation=pictures(20, 1), compare=())
    assert result.exit_code == 0, result.targets[0].reason
    assert result.comparison["rows"][-1]["nmse"] < 5e-2


def test_without_an_evaluation_a_part_is_held_back(tmp_path):
    result = quantised(tmp_path)
    assert result.comparison["evaluation"]["samples"] == 8
    assert result.comparison["calibration"]["samples"] == 32
    assert result.comparison["evaluation"]["title"].startswith("held back of ")


def test_refusals_come_before_any_lowering(tmp_path):
    same = pictures(20)
    with pytest.raises(InputError, match="evaluation samples, too"):
        quantised(tmp_path, calibration=same, evaluation=same[:5])
    with pytest.raises(UsageError, match=r"needs samples.*give --calib"):
        quantised(tmp_path, calibration=None)
    with pytest.raises(InputError, match=r"shape \[1, 3, 9, 9\]"):
        quantised(tmp_path, calibration=[np.zeros((1, 3, 9, 9), np.float32)] * 9)
    with pytest.raises(UnsupportedError, match=r"dynamic int8 is refused.*many times slower"):
        quantised(tmp_path, scheme="dynamic")
    with pytest.raises(UsageError, match="int4 is for weights"):
        quantised(tmp_path, precision="int4", scheme="static")
    with pytest.raises(UsageError, match="--max-drop is -1"):
        quantised(tmp_path, max_drop=-1)
    with pytest.raises(UsageError, match="fp32 is not quantised"):
        quantised(tmp_path, precision="fp32")
    assert not (tmp_path / "net").exists()


def test_random_samples_only_where_they_are_asked_for(tmp_path):
    result = quantised(tmp_path, calibration="random", count=16)
    assert result.comparison["calibration"]["title"].endswith("random numbers")


class Products(nn.Module):
    """Nothing but linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(64, 128)
        self.outer = nn.Linear(128, 32)

    def example_inputs(self) -> dict[str, torch.Tensor]:
        return {"x": torch.zeros(1, 4, 64)}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.outer(torch.relu(self.inner(x)))


@pytest.mark.parametrize("target", ["onnx", "executorch"])
def test_dynamic_int8_of_linear_layers(tmp_path, target):
    rng = np.random.default_rng(0)
    samples = [rng.standard_normal((1, 4, 64), np.float32) for _ in range(8)]
    result = quantised(
        tmp_path,
        (target,),
        settle(Products()),
        calibration=None,
        evaluation=samples,
        scheme="dynamic",
    )
    assert result.exit_code == 0, result.targets[0].reason
    assert 1e-9 < result.comparison["rows"][-1]["nmse"] < 1e-3


def test_linear_layers_without_calibration_are_weights_alone(tmp_path):
    rng = np.random.default_rng(0)
    samples = [rng.standard_normal((1, 4, 64), np.float32) for _ in range(8)]
    result = quantised(
        tmp_path, ("onnx",), settle(Products()), calibration=None, evaluation=samples
    )
    assert result.targets[0].graphs[0].quantisation["scheme"] == "weights"


def test_corrected_biases_keep_means_where_rounding_moves_them(captured):
    program = captured(convolutions(), {"image": torch.zeros(1, 3, 12, 12)})
    samples = [{"image": one} for one in pictures(16)]
    plan = QuantPlan(samples=samples)
    corrections = find_corrections(program, plan, samples)
    assert set(corrections) == {layer.node for layer in weight_layers(program)}

    def means(one):
        network = one.exported.module()
        with torch.no_grad():
            return torch.stack([network(torch.from_numpy(s["image"]))[0] for s in samples]).mean(0)

    bare = {name: type(c)(c.weight, None) for name, c in corrections.items()}
    wanted = means(program)
    with_bias = (means(round_weights(program, corrections, ())) - wanted).abs().mean()
    without = (means(round_weights(program, bare, ())) - wanted).abs().mean()
    assert with_bias < 0.5 * without


def test_kept_layers_are_bit_for_bit_the_networks_own(captured):
    program = captured(convolutions(), {"image": torch.zeros(1, 3, 12, 12)})
    samples = [{"image": one} for one in pictures(4)]
    layers = weight_layers(program)
    kept = layers[1].node
    corrections = find_corrections(program, QuantPlan(), samples)
    plan = QuantPlan(samples=samples, kept=(kept,))
    model = onnx_int8.quantise(to_onnx(round_weights(program, corrections, plan.kept)), plan)
    weights = [t.const_value.numpy() for t in model.graph.initializers.values()]
    own = convolutions().wild.weight.detach().numpy()
    assert any(w.dtype == own.dtype and w.shape == own.shape and (w == own).all() for w in weights)
    first = convolutions().first.weight.shape
    assert all(w.shape != first or w.dtype == np.int8 for w in weights)


def test_a_layer_that_is_spoilt_by_rounding_ranks_first(captured):
    module = convolutions()
    with torch.no_grad():
        # One weight a thousand times the rest, on a channel that is always zero: with 8 bits
        # the rest, which does the work, becomes zero.
        module.first.weight[1] = 0.0
        module.first.bias[1] = -100.0
        module.wild.bias[1] = -100.0
        module.last.weight[:, 1] = 1000.0
    program = captured(module, {"image": torch.zeros(1, 3, 12, 12)})
    ranked = rank_layers(program, QuantPlan(), [{"image": one} for one in pictures(4)])
    assert ranked[0].layer.module == "last"
    assert ranked[0].nmse > 10 * ranked[1].nmse
    assert sorted(one.nmse for one in ranked)[::-1] == [one.nmse for one in ranked]
    simulation = Simulation(program, QuantPlan(), [{"image": one} for one in pictures(4)])
    assert simulation.nmse(()) == 0.0
    assert simulation.nmse({ranked[0].layer.node}) == pytest.approx(ranked[0].nmse)


def test_linear_share(captured):
    assert linear_share(captured(settle(Products()), {"x": torch.zeros(1, 4, 64)})) == 1.0
    share = linear_share(captured(convolutions(), {"image": torch.zeros(1, 3, 12, 12)}))
    assert share == pytest.approx(960 / (432 + 144 + 2560 + 960))


def test_executorch_takes_a_layer_and_its_rectifier_as_one():
    """torchao takes both or none: without the ReLU, such a layer stayed in floating point."""
    pytest.importorskip("executorch")
    from edgekit.export.captured import capture_graph
    from edgekit.export.options import ExportOptions
    from edgekit.export.targets.executorch_int8 import quantise
    from edgekit.models.sources import SourceOptions
    from edgekit.models.sources.python_callable import from_module

    model = from_module(convolutions(), "net", "net", SourceOptions())
    captured = capture_graph(model, model.graphs[0], ExportOptions())
    samples = [{"image": one} for one in pictures(3)]
    graph = quantise(captured.program, QuantPlan(scheme="static", samples=tuple(samples))).graph
    layers = [node for node in graph.nodes if str(node.target) in ("aten.conv2d.default",)]
    assert len(layers) == 3
    for layer in layers:
        taken = [str(source.target) for source in layer.args[:2]]
        assert all("dequantize" in name for name in taken), (layer.name, taken)
