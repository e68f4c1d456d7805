"""Deliberately broken lowerings are caught, and the first node that departs is named."""

import linecache
import re
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from edgekit.bundle import Bundle
from edgekit.errors import ParityError, UsageError
from edgekit.export import export
from edgekit.export.captured import capture_graph
from edgekit.export.locate import locate
from edgekit.export.options import ExportOptions
from edgekit.export.passes.surgery import copy_graph, rebuild
from edgekit.export.targets.executorch import ExecuTorchTarget
from edgekit.export.targets.onnx import OnnxTarget
from edgekit.export.targets.openvino import OpenVinoTarget
from edgekit.runtimes import available, load

from .nets import settle


class Net(nn.Module):
    """Layers whose place in the source the tests know by the word at the end of the line."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, bias=False), nn.BatchNorm2d(8))
        self.mix = Mix()
        self.head = nn.Linear(8, 5)

    def example_inputs(self):
        return {"image": torch.zeros(1, 3, 9, 9)}

    def forward(self, image):
        x = torch.relu(self.stem(image))  # stem
        x = self.mix(x.flatten(2).transpose(1, 2))
        return self.head(x.mean(1))  # head


class Mix(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def forward(self, x):
        x = self.inner(x)  # inner
        return nn.functional.gelu(x)  # gelu


class Short(Net):
    """Three nodes: ExecuTorch takes seconds for each prefix."""

    def forward(self, image):
        x = self.mix(image.flatten(1)[:, :8])
        return self.head(x)  # head


def net(kind=Net):
    module = settle(kind())
    with torch.no_grad():
        module.mix.inner.weight.mul_(8)  # so that GELU works where its two forms differ
    return module


def perturb(array):
    """One value of a weight changed by a tenth of the largest."""
    array = array.copy()
    array.flat[0] += 0.1 * np.abs(array).max()
    return array


def transpose(array):
    """The weight of a square layer with its axes exchanged."""
    return np.ascontiguousarray(array.swapaxes(0, 1))


class BrokenOnnx(OnnxTarget):
    """Emits one weight that is not the network's."""

    def __init__(self, part, how=perturb):
        self.part, self.how = part, how

    def lower(self, program, precision, folder):
        return super().lower(weakened(program, self.part, self.how), precision, folder)


class Blind(BrokenOnnx):
    """The same, of a runtime that shows no values inside."""

    def tap(self, files, artifact, names, inputs):
        return {}


class TanhGelu(OnnxTarget):
    """Takes the cheaper form of GELU without being asked."""

    def lower(self, program, precision, folder):
        module = copy_graph(program.exported)
        for node in module.graph.find_nodes(op="call_function", target=torch.ops.aten.gelu.default):
            node.kwargs = {"approximate": "tanh"}
        changed = program.with_exported(rebuild(program.exported, module))
        return super().lower(changed, precision, folder)


class BrokenOpenVino(OpenVinoTarget):
    """Reads ONNX with a weight that is not the network's."""

    def __init__(self, part):
        self.part = part

    def convert(self, program):
        return super().convert(weakened(program, self.part))


class BrokenExecuTorch(ExecuTorchTarget):
    """Lowers a program, or a prefix of it, with a weight that is not the network's."""

    def __init__(self, part):
        self.part = part

    def lower(self, program, precision, folder):
        return super().lower(weakened(program, self.part), precision, folder)


def weakened(program, part, how=perturb):
    """The program with ``how`` done to one weight, if that is in it (a prefix may lack it)."""
    state = {
        name: nn.Parameter(torch.from_numpy(how(tensor.detach().numpy())))
        if part in name
        else tensor
        for name, tensor in program.exported.state_dict.items()
    }
    module = copy_graph(program.exported)
    return program.with_exported(rebuild(program.exported, module, state=state))


# Which weight, and the node, module and source line that must be named.
PLACES = {
    "stem.0.weight": ("aten.conv2d.default", "stem.0", "# stem"),
    "mix.inner.weight": ("aten.linear.default", "mix.inner", "# inner"),
    "head.weight": ("aten.linear.default", "head", "# head"),
}


def assert_located(artifact_or_reason, details, place):
    operator, module, mark = place
    located = details["located"]
    assert (located["operator"], located["module"]) == (operator, module), located["how"]
    assert located["metrics"]["nmse"] > 1e-9
    named = f"first departure: {operator} ({located['node']}) in {module} at "
    assert named in artifact_or_reason
    path, line = re.search(r" at (\S+\.py):(\d+)", artifact_or_reason).groups()
    assert path == __file__
    assert linecache.getline(path, int(line)).rstrip().endswith(mark)


def assert_rejected(out, result, target, others=()):
    """Caught with code 5, kept aside, and never run."""
    assert "departs from PyTorch" in result.targets[0].reason
    assert (result.targets[0].status, result.exit_code) == ("failed", 5)
    with pytest.raises(ParityError, match=f"{target} failed: {target} departs from PyTorch"):
        result.raise_for_status()
    with Bundle.open(out) as bundle:
        artifact = bundle.manifest.graphs[0].artifacts[0]
        assert artifact.file.endswith(".rejected")
        for name in (artifact.file, *artifact.extra):
            assert name.endswith(".rejected")
            assert bundle.file(name).is_file()
    assert available(out) == list(others)
    own = {"onnx": "onnxruntime"}.get(target, target)
    for runtime in (own,) if others else (own, "auto"):
        with pytest.raises(UsageError):
            load(out, runtime)
    return artifact


@pytest.mark.parametrize("part", PLACES)
def test_a_changed_weight_is_located_by_looking_inside(tmp_path, part):
    out = tmp_path / "b"
    result = export(net(), [BrokenOnnx(part)], out, report=False, locate=True)
    artifact = assert_rejected(out, result, "onnx")
    assert_located(artifact.reason, artifact.details, PLACES[part])
    assert artifact.details["located"]["how"] == "read from the artifact"


def test_a_changed_weight_is_located_by_bisection(tmp_path):
    part, out = "stem.0.weight", tmp_path / "b"
    result = export(net(), [Blind(part)], out, report=False, locate=True)
    artifact = assert_rejected(out, result, "onnx")
    assert_located(artifact.reason, artifact.details, PLACES[part])
    assert "bisected" in artifact.details["located"]["how"]


def test_exchanged_axes_are_located(tmp_path):
    target = BrokenOnnx("mix.inner.weight", transpose)
    result = export(net(), [target], tmp_path / "b", report=False, locate=True)
    artifact = assert_rejected(tmp_path / "b", result, "onnx")
    assert_located(artifact.reason, artifact.details, PLACES["mix.inner.weight"])


def test_another_formula_is_located(tmp_path):
    result = export(net(), [TanhGelu()], tmp_path / "b", report=False, locate=True)
    artifact = assert_rejected(tmp_path / "b", result, "onnx")
    assert_located(artifact.reason, artifact.details, ("aten.gelu.default", "mix", "# gelu"))


def test_openvino_is_located_by_looking_inside_and_others_are_left_alone(tmp_path):
    pytest.importorskip("openvino")
    out = tmp_path / "b"
    targets = [BrokenOpenVino("mix.inner"), "onnx"]
    result = export(net(), targets, out, report=False, locate=True)
    artifact = assert_rejected(out, result, "openvino", others=["onnxruntime"])
    assert [name.rpartition("/")[2] for name in (artifact.file, *artifact.extra)] == [
        "model.xml.rejected",
        "model.bin.rejected",
    ]
    assert_located(artifact.reason, artifact.details, PLACES["mix.inner.weight"])
    assert (result.targets[1].status, result.targets[1].reason) == ("ok", None)
    with load(out) as session:
        assert session.runtime == "onnxruntime"


def test_executorch_is_located_by_bisection(tmp_path):
    pytest.importorskip("executorch")
    out = tmp_path / "b"
    dynamic = {"image": {"batch": (1, 3)}}
    target = BrokenExecuTorch("mix.inner")
    result = export(net(Short), [target], out, dynamic=dynamic, report=False, locate=True)
    artifact = assert_rejected(out, result, "executorch")
    assert_located(artifact.reason, artifact.details, PLACES["mix.inner.weight"])


def test_without_being_asked_nothing_is_located(tmp_path):
    result = export(net(), [BrokenOnnx("head")], tmp_path / "b", report=False)
    artifact = assert_rejected(tmp_path / "b", result, "onnx")
    assert "located" not in artifact.details
    assert re.search(r"nmse \S+ is above 1e-09", artifact.reason)


def test_drift_that_is_allowed_is_kept_and_stamped(tmp_path):
    out = tmp_path / "b"
    result = export(net(), [BrokenOnnx("head")], out, report=False, allow_drift=True)
    assert (result.exit_code, result.targets[0].status) == (0, "ok")
    with Bundle.open(out) as bundle:
        artifact = bundle.manifest.graphs[0].artifacts[0]
        assert bundle.manifest.drift_allowed
        assert not artifact.verify.passed
        assert "departs from PyTorch" in artifact.reason
    with load(out) as session:
        assert session.run({"image": np.zeros((1, 3, 9, 9), np.float32)})


def test_a_tolerance_of_the_users_own_decides(tmp_path):
    loose = {"nmse": 1, "cosine": 0, "rel_range": 1}
    broken = [BrokenOnnx("head")]
    result = export(net(), broken, tmp_path / "c", report=False, tolerance=loose)
    assert result.ok
    assert result.targets[0].graphs[0].verify["thresholds"] == loose
    assert result.targets[0].graphs[0].verify["metrics"]["nmse"] > 1e-9


def test_a_network_that_is_not_the_same_twice_is_told_from_a_broken_target(tmp_path):
    class Noisy(nn.Module):
        def forward(self, x):
            return x * torch.rand_like(x)

    inputs = {"x": torch.zeros(4, 4)}
    result = export(Noisy(), ["onnx"], tmp_path / "b", inputs=inputs, report=False, locate=True)
    assert result.exit_code == 5
    assert "the common graph departs before any target, at output output" in (
        result.targets[0].reason
    )


def change(path, part, how=perturb):
    """Change the initializer of an ONNX file whose name holds ``part``."""
    model = onnx.load(path)
    (weight,) = [weight for weight in model.graph.initializer if part in weight.name]
    array = how(numpy_helper.to_array(weight))
    weight.CopyFrom(numpy_helper.from_array(array, weight.name))
    onnx.save(model, path)


@pytest.fixture
def emitted(tmp_path, loaded):
    """A sound ONNX artifact, and what ``locate`` needs to look into it."""
    model = loaded(net())
    captured = capture_graph(model, model.graphs[0], ExportOptions())
    result = export(net(), ["onnx"], tmp_path / "b", report=False)
    assert result.ok
    with Bundle.open(tmp_path / "b") as bundle:
        graph = bundle.manifest.graphs[0]
    return captured, tmp_path / "b", graph, graph.artifacts[0]


class Folder:
    """Files of a bundle, unchecked."""

    def __init__(self, root):
        self.root = root

    def file(self, rel):
        return self.root / rel


def test_a_file_changed_afterwards_is_located_where_values_can_be_read(emitted):
    captured, root, graph, artifact = emitted
    change(root / artifact.file, "stem.0.weight")
    found = locate(OnnxTarget(), captured, Folder(root), graph, artifact)
    assert (found.operator, found.module) == ("aten.conv2d.default", "stem.0")
    assert found.line.startswith(f"{__file__}:")
    # Where they cannot, a fresh lowering is sound, and the answer says so.
    blind = locate(Blind("nothing"), captured, Folder(root), graph, artifact)
    assert blind.node == ""
    assert "a fresh lowering of the same program does not depart" in blind.describe()


def test_a_sound_artifact_has_no_departure(emitted):
    captured, root, graph, artifact = emitted
    found = locate(OnnxTarget(), captured, Folder(root), graph, artifact)
    assert found.node == ""
    assert replace(found, how="") == type(found)()
