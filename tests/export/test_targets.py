"""The five targets, end to end on a tiny network: what is emitted, and how it is proved."""

import importlib.util
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgekit.errors import InputError, UnsupportedError, UsageError
from edgekit.export import export
from edgekit.export.targets import TARGETS, choose
from edgekit.export.targets.onnx import OnnxTarget, check_onnx, save_onnx
from edgekit.export.targets.onnx_graph import to_onnx
from edgekit.manifest import TARGETS as NAMES
from edgekit.models.spec import GraphSpec, InputSpec, LoadedModel
from edgekit.runtimes import available, load

from .nets import CLASSES, SIDE, Around, Through, settle, tiny

pytest.importorskip("openvino")
pytest.importorskip("executorch")
pytest.importorskip("coremltools")
pytest.importorskip("tensorrt_rtx")

REPOSITORY = Path(__file__).resolve().parent.parent.parent
LEVELS = {
    "onnx": "ran",
    "openvino": "ran",
    "executorch": "ran",
    "coreml": "interpreted",
    "tensorrt": "compiled",
}
ONNX_BASED = ("onnx", "openvino", "tensorrt")
RUNNING = {"onnx": "onnxruntime", "openvino": "openvino", "executorch": "executorch"}


def gpu() -> bool:
    return importlib.util.find_spec("cuda") is not None and torch.cuda.is_available()


def judged(artifact):
    """How an artifact was verified, leaving out a GPU that most machines lack."""
    return "compiled" if artifact.target == "tensorrt" and gpu() else artifact.verify.level


@pytest.mark.parametrize("target", NAMES)
def test_every_target_is_ok_and_proved_as_far_as_it_can_be(everywhere, target):
    artifact = everywhere.artifact(target)
    assert (artifact.status, artifact.reason, artifact.exit_code) == ("ok", None, 0)
    assert judged(artifact) == LEVELS[target]
    check = artifact.verify
    assert check.passed
    if target in (*RUNNING, "coreml"):
        assert check.metrics.nmse < 1e-9
        assert check.samples[0] == "random seed 0"
        assert artifact.effective_precision == "fp32"
    elif check.level != "ran":
        assert check.metrics is None
        assert any("no numbers were compared" in note for note in check.notes)


@pytest.mark.parametrize("target", NAMES)
def test_every_file_is_there_and_counted(everywhere, target):
    artifact = everywhere.artifact(target)
    folder = everywhere.path / "graphs" / "forward" / target
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert artifact.bytes == sum(path.stat().st_size for path in files) > 0
    listed = {everywhere.path / name for name in (artifact.file, *artifact.extra)}
    assert all(path in listed or any(p in listed for p in path.parents) for path in files)
    assert all(count > 0 for count in artifact.operators.values())
    assert artifact.operators


def test_batch_norm_is_gone_and_the_operators_are_counted(everywhere):
    onnx = everywhere.artifact("onnx").operators
    assert (onnx["Conv"], onnx["Softmax"]) == (1, 1)
    for target in NAMES:
        names = " ".join(everywhere.artifact(target).operators).lower()
        assert "norm" not in names
    details = everywhere.artifact("executorch").details
    assert details["delegated"] + sum(details["undelegated"].values()) == details["total"]
    assert 0.5 < details["delegated_share"] <= 1
    assert details["partitions"] >= 1
    coreml = everywhere.artifact("coreml")
    assert (coreml.operators["conv"], coreml.operators["softmax"]) == (1, 1)
    assert coreml.details["specification"] == 9
    assert set(coreml.details["precision_ops"]) == {"FLOAT32"}


def test_engines_are_compiled_for_named_gpus_with_a_recipe_for_others(everywhere):
    artifact = everywhere.artifact("tensorrt")
    (engine,) = artifact.details["engines"]
    assert (everywhere.path / engine["file"]).stat().st_size > 1000
    assert engine["compute_capabilities"] == ["8.0", "8.6", "8.9", "12.0"]
    recipe = json.loads((everywhere.path / artifact.details["recipe"]).read_text())
    assert recipe["inputs"] == [{"name": "image", "dtype": "float32", "shape": [1, 3, SIDE, SIDE]}]
    assert (recipe["onnx"], recipe["precision"]) == ("model.onnx", "fp32")


def test_the_contract_is_the_networks_own(everywhere):
    graph = everywhere.manifest.graphs[0]
    (image,), (output,) = graph.inputs, graph.outputs
    assert (image.name, image.dtype, image.shape) == ("image", "float32", (1, 3, SIDE, SIDE))
    assert (output.name, output.dtype, output.shape) == ("output", "float32", (1, CLASSES))
    model = everywhere.manifest.model
    assert model.parameters == sum(p.numel() for p in tiny().parameters())
    assert model.macs > 8 * 8 * 8 * 27
    assert model.weights == "as tiny made them (seed 0)"


@pytest.mark.parametrize("runtime", RUNNING.values())
def test_the_bundle_answers_as_the_network_does(everywhere, runtime):
    image = np.random.default_rng(7).standard_normal((1, 3, SIDE, SIDE)).astype(np.float32)
    with torch.no_grad():
        wanted = tiny()(torch.from_numpy(image)).numpy()
    assert set(RUNNING.values()) <= set(available(everywhere.path))
    with load(everywhere.path, runtime) as session:
        found = session.run({"image": image})["output"]
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_no_file_says_where_it_was_made(everywhere):
    packages = os.path.dirname(os.path.dirname(torch.__file__))
    places = [str(REPOSITORY), packages, "site-packages", str(Path.home()), "/tmp", 'nets.py"']
    for path in everywhere.path.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            found = [place for place in places if place.encode() in content]
            assert not found, path
            # In Core ML's and TensorRT's own formats, too.
            assert not [p for p in places if p.encode("utf-16-le") in content], path
    assert everywhere.manifest.model.source == "tests/export/nets.py:tiny"


@pytest.fixture(scope="module")
def half(exported):
    return exported(precision="fp16")


@pytest.mark.parametrize("target", NAMES)
def test_every_target_takes_fp16(half, target):
    artifact = half.artifact(target)
    assert (artifact.status, artifact.reason) == ("ok", None)
    assert artifact.precision == "fp16"
    assert "fp16" in artifact.effective_precision
    if target in RUNNING:
        # Not fp32 in disguise, and not further away than fp16 explains.
        assert 1e-12 < artifact.verify.metrics.nmse < 1e-4


def test_fp16_takes_half_the_bytes_and_the_contract_stays(half, everywhere):
    assert half.manifest.graphs[0].inputs == everywhere.manifest.graphs[0].inputs
    assert half.manifest.graphs[0].outputs == everywhere.manifest.graphs[0].outputs
    types = half.artifact("coreml").details["precision_ops"]
    assert types["FLOAT16"] > 5 * types.get("FLOAT32", 0)
    import onnx

    for target in ("onnx", "tensorrt"):
        model = onnx.load(half.path / half.artifact(target).file)
        weights = {w.data_type for w in model.graph.initializer if len(w.dims) > 1}
        assert weights == {onnx.TensorProto.FLOAT16}


@pytest.fixture(scope="module")
def brain(exported):
    return exported(precision="bf16")


@pytest.mark.parametrize("target", ["openvino", "executorch", "tensorrt"])
def test_bf16_where_it_is_supported(brain, target):
    artifact = brain.artifact(target)
    assert (artifact.status, artifact.reason) == ("ok", None)
    assert "bf16" in artifact.effective_precision
    if target in RUNNING:
        assert artifact.verify.metrics.nmse < 5e-3


@pytest.mark.parametrize("target", ["onnx", "coreml"])
def test_bf16_is_refused_where_it_is_not(brain, target):
    artifact = brain.artifact(target)
    assert (artifact.status, artifact.exit_code) == ("failed", 4)
    assert artifact.file is None or artifact.file.endswith(".rejected")
    assert {"onnx": "Conv", "coreml": "bf16"}[target] in artifact.reason
    assert brain.result.exit_code == 4


@pytest.fixture(scope="module")
def dynamic(exported):
    return exported(dynamic={"image": {"batch": (1, 4)}})


def test_a_dynamic_batch_is_in_the_contract_and_judged_at_both_ends(dynamic):
    assert dynamic.result.ok
    graph = dynamic.manifest.graphs[0]
    assert graph.inputs[0].shape == ("image_0", 3, SIDE, SIDE)
    assert graph.outputs[0].shape == ("image_0", CLASSES)
    assert (graph.dynamic["image_0"].min, graph.dynamic["image_0"].max) == (1, 4)
    for target in RUNNING:
        assert len(dynamic.artifact(target).verify.samples) == 3
    recipe = json.loads((dynamic.path / dynamic.artifact("tensorrt").details["recipe"]).read_text())
    assert recipe["dynamic"] == {"image_0": {"min": 1, "max": 4}}


@pytest.mark.parametrize("runtime", RUNNING.values())
def test_a_dynamic_batch_runs_at_every_size(dynamic, runtime):
    network = tiny()
    with load(dynamic.path, runtime) as session:
        for batch in (1, 4, 3):
            image = torch.randn(batch, 3, SIDE, SIDE)
            with torch.no_grad():
                wanted = network(image).numpy()
            found = session.run({"image": image.numpy()})["output"]
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
        with pytest.raises(InputError, match=r"image_0=1\.\.4"):
            session.run({"image": np.zeros((5, 3, SIDE, SIDE), np.float32)})


def test_core_ml_has_a_range_for_a_dynamic_batch(dynamic):
    from coremltools.proto import Model_pb2

    package = dynamic.path / dynamic.artifact("coreml").file
    spec = Model_pb2.Model()
    spec.ParseFromString((package / "Data/com.apple.CoreML/model.mlmodel").read_bytes())
    (feature,) = spec.description.input
    ranges = feature.type.multiArrayType.shapeRange.sizeRanges
    batch, *rest = [(size.lowerBound, size.upperBound) for size in ranges]
    assert batch == (1, 4)
    assert rest == [(3, 3), (SIDE, SIDE), (SIDE, SIDE)]


def sort(x):
    return torch.sort(x, -1).values


def scatter_add(x):
    return torch.zeros_like(x).scatter_add(1, torch.zeros_like(x, dtype=torch.int64), x)


def cumprod(x):
    return torch.cumprod(x, 1)


def det(x):
    return x * torch.linalg.det(x.reshape(4, 8, 1) @ x.reshape(4, 1, 8) + torch.eye(8))[:, None]


def linalg_inv(x):
    return torch.linalg.inv(x.reshape(-1, 8, 1) @ x.reshape(-1, 1, 8) + torch.eye(8)).sum(1)


@pytest.mark.parametrize(
    ("function", "refusing", "taking"),
    [
        (sort, "executorch", None),
        (scatter_add, "tensorrt", "onnx"),
        (cumprod, "onnx", "coreml"),
        (det, "openvino", "onnx"),
        (linalg_inv, "coreml", None),
    ],
    ids=["executorch", "tensorrt", "onnx", "openvino", "coreml"],
)
def test_an_operator_that_a_target_lacks_is_named_with_its_module(
    tmp_path, capfd, function, refusing, taking
):
    targets = [refusing, *([taking] if taking else [])]
    result = export(settle(Through(function)), targets, tmp_path / "b", report=False)
    refused = result.targets[0]
    assert (refused.status, refused.exit_code) == ("failed", 4)
    assert function.__name__ in refused.reason
    assert " in inner" in refused.reason
    assert "\n" not in refused.reason
    assert not any(t.reason for t in result.targets[1:])
    with pytest.raises(UnsupportedError, match=refusing):
        result.raise_for_status()
    assert capfd.readouterr() == ("", "")


@torch.library.custom_op("edgekit_tests::twice", mutates_args=())
def twice(x: torch.Tensor) -> torch.Tensor:
    return x * 2


@twice.register_fake
def _(x):
    return torch.empty_like(x)


def test_an_operator_of_the_users_own_is_refused_by_every_target(tmp_path):
    result = export(settle(Through(twice)), ["all"], tmp_path / "b", report=False)
    assert [target.target for target in result.targets] == list(NAMES)
    for target in result.targets:
        assert (target.status, target.exit_code, target.graphs) == ("failed", 4, ())
        assert "edgekit_tests" in target.reason
        assert " in inner" in target.reason
    assert result.exit_code == 4


def test_what_is_not_installed_is_unavailable_and_says_what_to_install(tmp_path, monkeypatch):
    hidden = {"onnxscript"}
    real = importlib.util.find_spec
    monkeypatch.setattr(
        "edgekit.export.targets.need.find_spec",
        lambda name: None if name in hidden else real(name),
    )

    def reasons():
        result = export(tiny(), ["all"], tmp_path / "b", report=False)
        absent = {t.target: t.reason for t in result.targets if t.status == "unavailable"}
        assert {(t.exit_code, t.graphs) for t in result.targets if t.target in absent} == {(3, ())}
        assert result.exit_code == 3
        return absent

    monkeypatch.setattr("edgekit.export.targets.TARGETS", {n: TARGETS[n] for n in ONNX_BASED})
    assert {name: "edgekit-toolkit[export]" in why for name, why in reasons().items()} == {
        "onnx": True,
        "openvino": True,
        "tensorrt": True,
    }
    monkeypatch.undo()
    hidden = {"openvino", "executorch", "coremltools"}
    monkeypatch.setattr(
        "edgekit.export.targets.need.find_spec",
        lambda name: None if name in hidden else real(name),
    )
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    found = reasons()
    assert sorted(found) == ["coreml", "executorch", "openvino", "tensorrt"]
    assert all("pip install" in reason and name in reason.lower() for name, reason in found.items())


def test_weights_beyond_one_file_lie_beside_it(tmp_path, captured):
    import onnxruntime

    program = captured(tiny())
    assert save_onnx(to_onnx(program), tmp_path / "whole.onnx") == ()
    assert save_onnx(to_onnx(program), tmp_path / "split.onnx", limit=100) == ("split.onnx.data",)
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert set(sizes) == {"whole.onnx", "split.onnx", "split.onnx.data"}
    assert sizes["split.onnx"] < sizes["whole.onnx"]
    image = np.random.default_rng(0).standard_normal((1, 3, SIDE, SIDE)).astype(np.float32)
    answers = []
    for name in ("whole.onnx", "split.onnx"):
        check_onnx(tmp_path / name)
        session = onnxruntime.InferenceSession(tmp_path / name)
        answers.append(session.run(None, {"image": image})[0])
    assert np.array_equal(*answers)


def test_a_split_model_goes_through_the_whole_pipeline(tmp_path, monkeypatch):
    monkeypatch.setattr(save_onnx, "__defaults__", (100,))
    targets = ["onnx", "openvino", "tensorrt"]
    result = export(tiny(), targets, tmp_path / "b.edgekit", report=False)
    assert [(t.status, t.reason) for t in result.targets] == [("ok", None)] * 3
    with load(tmp_path / "b.edgekit", "onnxruntime") as session:
        assert session.run({"image": np.zeros((1, 3, SIDE, SIDE), np.float32)})


def test_a_model_of_several_graphs(tmp_path):
    class Steps(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def encode(self, x):
            return self.linear(x)

        def decode(self, y):
            return torch.relu(y)

    graphs = (
        GraphSpec("encode", (InputSpec("x", "float32", (2, 3)),), ("code",), "encode"),
        GraphSpec("decode", (InputSpec("y", "float32", (2, 3)),), (), "decode"),
    )
    model = LoadedModel("steps", "steps", settle(Steps()), graphs, "random")
    result = export(model, ["onnx"], tmp_path / "b", report=False)
    assert result.ok
    assert [graph.name for graph in result.targets[0].graphs] == ["encode", "decode"]
    x = np.ones((2, 3), np.float32)
    with load(tmp_path / "b", graph="encode") as session:
        code = session.run({"x": x})["code"]
    with load(tmp_path / "b", graph="decode") as session:
        assert np.array_equal(session.run({"y": code})["output"], np.maximum(code, 0))


def test_targets_are_chosen_by_name_once():
    assert [target.name for target in choose(["openvino", "all", "onnx"])] == [
        "openvino",
        *(name for name in NAMES if name != "openvino"),
    ]
    own = OnnxTarget()
    assert choose([own, "onnx"]) == [own]
    assert tuple(TARGETS) == NAMES
    with pytest.raises(UsageError, match="no target tflite: targets: onnx, openvino"):
        choose(["tflite"])


def test_integers_and_booleans_go_in_and_come_out(tmp_path):
    class Looked(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(10, 4)

        def forward(self, ids, mask):
            return self.table(ids) * mask[..., None], (ids * 2).sum()

    inputs = {"ids": torch.tensor([[1, 2, 3]]), "mask": torch.tensor([[True, False, True]])}
    targets = ["executorch"]
    result = export(settle(Looked()), targets, tmp_path / "b", inputs=inputs, report=False)
    assert [(t.status, t.reason) for t in result.targets] == [("ok", None)]
    for runtime in targets:
        with load(tmp_path / "b", runtime) as session:
            found = session.run({name: tensor.numpy() for name, tensor in inputs.items()})
        assert found["output_0"].dtype == np.float32
        assert found["output_0"][0, 1].tolist() == [0, 0, 0, 0]
        assert (found["output_1"].dtype, found["output_1"].item()) == (np.int64, 12)


def test_a_precision_that_is_not_there_is_refused_at_once(tmp_path):
    with pytest.raises(UsageError, match="precision int3 is not available: this version"):
        export(Around(torch.relu), ["onnx"], tmp_path / "b", precision="int3")
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_fit_into_memory_stops_no_other_target(tmp_path, monkeypatch):
    from edgekit.export import artifacts

    real = artifacts.verify_artifact

    def short_of_memory(files, graph, artifact, *rest, **options):
        if artifact.target == "openvino":
            raise MemoryError
        return real(files, graph, artifact, *rest, **options)

    monkeypatch.setattr(artifacts, "verify_artifact", short_of_memory)
    result = export(tiny(), ["openvino", "onnx"], tmp_path / "b", report=False)
    assert [(t.status, t.exit_code) for t in result.targets] == [("failed", 4), ("ok", 0)]
    assert "runs out of memory on forward" in result.targets[0].reason
