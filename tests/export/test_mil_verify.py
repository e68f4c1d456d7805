"""Core ML packages judged without Core ML: from the exporter to the node that departs."""

import json
import linecache
import struct
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("coremltools")

from torch import nn  # noqa: E402

from edgekit.bundle import Bundle  # noqa: E402
from edgekit.cli import main  # noqa: E402
from edgekit.errors import BundleError, MissingBackendError, ParityError  # noqa: E402
from edgekit.export import export  # noqa: E402
from edgekit.export.captured import capture_graph  # noqa: E402
from edgekit.export.judge_bundle import judge_bundle  # noqa: E402
from edgekit.export.locate import locate, node_values  # noqa: E402
from edgekit.export.mil import InterpretedSession, UnknownOperatorError, values_inside  # noqa: E402
from edgekit.export.mil.operators import OPERATORS  # noqa: E402
from edgekit.export.options import ExportOptions  # noqa: E402
from edgekit.export.targets.coreml import CoreMLTarget  # noqa: E402
from edgekit.export.verify import open_to_judge, verify_artifact  # noqa: E402

from .nets import settle, tiny  # noqa: E402

pytestmark = pytest.mark.skipif(sys.platform == "darwin", reason="there Core ML itself runs it")

SPEC = "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"


class Net(nn.Module):
    """As many channels as places, so that exchanged axes keep every shape."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv1d(3, 8, 3, padding=1)
        self.inner = nn.Linear(8, 8)
        self.head = nn.Linear(8, 5)

    def example_inputs(self):
        return {"signal": torch.zeros(1, 3, 8)}

    def forward(self, signal):
        x = torch.relu(self.stem(signal))  # stem
        x = x.transpose(1, 2)  # transpose
        x = nn.functional.gelu(self.inner(x))  # inner
        return self.head(x.mean(1))  # head


def net():
    return settle(Net())


def edit_spec(package, change):
    """Change the operations of a package's program in place."""
    from coremltools.proto import Model_pb2

    model = Model_pb2.Model()
    model.ParseFromString((package / SPEC).read_bytes())
    function = model.mlProgram.functions["main"]
    change(function.block_specializations[function.opset].operations)
    (package / SPEC).write_bytes(model.SerializeToString(deterministic=True))


def constant(operations, kind, parameter):
    """The constant that the first operation of a kind takes as a parameter."""
    (first, *_) = (operation for operation in operations if operation.type == kind)
    name = first.inputs[parameter].arguments[0].name
    (found,) = (o for o in operations if o.type == "const" and o.outputs[0].name == name)
    return found.attributes["val"]


def exchange_axes(package):
    def change(operations):
        perm = constant(operations, "transpose", "perm").immediateValue.tensor.ints.values
        assert list(perm) == [0, 2, 1]
        perm[:] = [0, 1, 2]

    edit_spec(package, change)


def pad_on_one_side(package):
    def change(operations):
        pad = constant(operations, "conv", "pad").immediateValue.tensor.ints.values
        assert list(pad) == [1, 1]
        pad[:] = [2, 0]

    edit_spec(package, change)


def change_a_block(package, kind="linear"):
    """Sixty-four bytes of one weight, in the middle of the file."""
    found = []
    edit_spec(
        package,
        lambda operations: found.append(constant(operations, kind, "weight").blobFileValue.offset),
    )
    content = bytearray((package / WEIGHTS).read_bytes())
    (start,) = struct.unpack_from("<Q", content, found[0] + 16)
    block = np.frombuffer(content, np.float32, 16, start)
    content[start : start + 64] = (-block).tobytes()
    (package / WEIGHTS).write_bytes(content)


# What is done to a package, and the node, module and source line that must be named.
DAMAGES = {
    "a block of weights": (change_a_block, ("aten.linear.default", "inner", "# inner")),
    "exchanged axes": (exchange_axes, ("aten.transpose.int", "", "# transpose")),
    "other padding": (pad_on_one_side, ("aten.conv1d.default", "stem", "# stem")),
}


class BrokenCoreML(CoreMLTarget):
    """Emits a package that is not the network's."""

    def __init__(self, damage):
        self.damage = damage

    def lower(self, program, precision, folder):
        lowered = super().lower(program, precision, folder)
        self.damage(folder / lowered.file)
        return lowered


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_package_is_interpreted_and_compared(tmp_path, precision, capsys):
    result = export(tiny(), ["coreml"], tmp_path / "b", precision=precision, report=False)
    (target,) = result.targets
    check = target.graphs[0].verify
    assert (target.status, target.reason) == ("ok", None)
    assert (check["level"], check["passed"]) == ("interpreted", True)
    assert 0 < check["metrics"]["nmse"] < {"fp32": 1e-11, "fp16": 1e-5}[precision]
    assert check["samples"][0] == "random seed 0"
    assert "Core ML runs on Apple systems only" in check["notes"][0]
    assert "no numbers were compared" not in " ".join(check["notes"])
    assert main(["verify", str(tmp_path / "b"), "--json"]) == 0
    (again,) = json.loads(capsys.readouterr().out)["artifacts"]
    assert again["verify"] == check
    assert again["effective_precision"] == precision


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_wrong_package_is_caught_and_located(tmp_path, damage):
    how, (operator, module, mark) = DAMAGES[damage]
    out = tmp_path / "b"
    result = export(net(), [BrokenCoreML(how)], out, report=False, locate=True)
    assert (result.targets[0].status, result.exit_code) == ("failed", 5)
    assert "coreml departs from PyTorch: nmse" in result.targets[0].reason
    with Bundle.open(out) as bundle:
        (artifact,) = bundle.manifest.graphs[0].artifacts
        assert bundle.folder(artifact.file).name == "model.mlpackage.rejected"
    located = artifact.details["located"]
    assert located["how"] == "read from the artifact"
    assert (located["operator"], located["module"]) == (operator, module)
    line = int(artifact.reason.rpartition(f"{__file__}:")[2].split(",")[0])
    assert linecache.getline(__file__, line).rstrip().endswith(mark)
    with Bundle.open(out) as bundle:
        (verdict,) = judge_bundle(bundle)
    assert (verdict.status, verdict.exit_code, verdict.rejected) == ("failed", 5, True)


@pytest.fixture
def emitted(tmp_path, loaded):
    """A sound package, and what it takes to judge it and look into it."""
    model = loaded(net())
    captured = capture_graph(model, model.graphs[0], ExportOptions())
    assert export(net(), ["coreml"], tmp_path / "b", report=False).ok
    with Bundle.open(tmp_path / "b") as bundle:
        graph = bundle.manifest.graphs[0]
    return captured, Folder(tmp_path / "b"), graph, graph.artifacts[0]


class Folder:
    """Files of a bundle, unchecked."""

    def __init__(self, root):
        self.root = root

    def file(self, rel):
        return self.root / rel

    folder = file


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_package_changed_afterwards_is_caught_and_located(emitted, damage):
    captured, files, graph, artifact = emitted
    target = CoreMLTarget()
    how, (operator, module, mark) = DAMAGES[damage]
    how(files.folder(artifact.file))
    check, _ = verify_artifact(
        files, graph, artifact, captured.reference, interpret=target.interpret
    )
    assert (check.level, check.passed) == ("interpreted", False)
    found = locate(target, captured, files, graph, artifact)
    assert (found.operator, found.module) == (operator, module)
    path, _, line = found.line.rpartition(":")
    assert linecache.getline(path, int(line)).rstrip().endswith(mark)


def test_a_sound_package_has_no_departure(emitted):
    captured, files, graph, artifact = emitted
    found = locate(CoreMLTarget(), captured, files, graph, artifact)
    assert found.node == ""


def test_a_program_that_contradicts_itself_names_the_operation(emitted):
    """Exchanged axes that change a shape: Core ML would not load it."""
    captured, files, graph, artifact = emitted

    def change(operations):
        perm = constant(operations, "transpose", "perm").immediateValue.tensor.ints.values
        perm[:] = [2, 1, 0]

    edit_spec(files.folder(artifact.file), change)
    interpret = CoreMLTarget().interpret
    with pytest.raises(ParityError, match=r"shape \[8, 8, 1\] at transpose") as caught:
        verify_artifact(files, graph, artifact, captured.reference, interpret=interpret)
    assert caught.value.exit_code == 5


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_values_inside_are_those_of_the_common_graph(tmp_path, loaded, precision):
    model = loaded(net())
    captured = capture_graph(model, model.graphs[0], ExportOptions())
    lowered = CoreMLTarget().lower(captured.program, precision, tmp_path)
    sample = captured.reference.samples[0].inputs
    expected = node_values(captured.program, sample)
    outputs = captured.program.exported.graph_signature.user_outputs
    names = [name for name in expected if name not in outputs]
    found = values_inside(tmp_path / lowered.file, names, sample)
    # coremltools renames a linear layer when it makes it fp16.
    assert set(found) | ({"linear"} if precision == "fp16" else set()) == set(names)
    for name, value in found.items():
        tolerance = {"fp32": 1e-6, "fp16": 5e-3}[precision]
        np.testing.assert_allclose(value, expected[name], rtol=0, atol=tolerance)


def test_where_an_operator_is_not_known_no_value_is_shown(emitted, monkeypatch):
    captured, files, _, artifact = emitted
    sample = captured.reference.samples[0].inputs
    assert CoreMLTarget().tap(files, artifact, ["transpose"], sample).keys() == {"transpose"}
    monkeypatch.delitem(OPERATORS, "gelu")
    assert CoreMLTarget().tap(files, artifact, ["transpose"], sample) == {}


def test_an_operator_that_is_not_known_is_named_and_nothing_is_claimed(tmp_path, monkeypatch):
    monkeypatch.delitem(OPERATORS, "gelu")
    result = export(net(), ["coreml"], tmp_path / "b", report=False, locate=True)
    (target,) = result.targets
    check = target.graphs[0].verify
    assert (target.status, check["level"], check["metrics"]) == ("ok", "converted", None)
    assert "no numbers were compared" in check["notes"][0]
    assert check["notes"][-1].endswith("nor interpreted: the interpreter does not know gelu")
    monkeypatch.undo()
    with Bundle.open(tmp_path / "b") as bundle:  # where it is known, more can be said
        (verdict,) = judge_bundle(bundle)
    assert verdict.verify.level == "interpreted"


def test_a_form_that_is_not_known_is_found_when_it_is_run(emitted, monkeypatch):
    captured, files, graph, artifact = emitted

    def strange(*arguments, **parameters):
        raise UnknownOperatorError("the interpreter does not know gelu with the mode COARSE")

    monkeypatch.setitem(OPERATORS, "gelu", lambda x, mode: strange())
    check, precision = verify_artifact(
        files, graph, artifact, captured.reference, interpret=CoreMLTarget().interpret
    )
    assert (check.level, check.passed, precision) == ("converted", True, None)
    assert "gelu with the mode COARSE" in check.notes[-1]


def test_without_coremltools_nothing_is_interpreted(emitted, monkeypatch):
    captured, files, graph, artifact = emitted
    monkeypatch.setattr("edgekit.export.targets.need.find_spec", lambda name: None)
    with pytest.raises(MissingBackendError, match=r"Apple systems only; nor interpreted"):
        open_to_judge(files, graph, artifact, interpret=CoreMLTarget().interpret)
    check, _ = verify_artifact(
        files, graph, artifact, captured.reference, interpret=CoreMLTarget().interpret
    )
    assert (check.level, check.passed, check.metrics) == ("converted", True, None)


def test_a_target_without_an_interpreter_is_as_before(emitted):
    captured, files, graph, artifact = emitted
    for interpret in (None, lambda *arguments: None):
        check, _ = verify_artifact(
            files, graph, artifact, captured.reference, level="compiled", interpret=interpret
        )
        assert check.level == "compiled"
        assert check.notes == ("not run here: Core ML runs on Apple systems only",)


def test_a_package_that_does_not_fit_the_manifest_is_refused(emitted):
    _, files, graph, artifact = emitted
    other = graph.model_copy(update={"inputs": (*graph.inputs, *graph.inputs)})
    with pytest.raises(BundleError, match="does not fit the manifest"):
        InterpretedSession(files, other, artifact)


def test_sizes_that_vary_are_interpreted_at_both_ends(tmp_path):
    class Picture(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, 2, 1)

        def forward(self, image):
            small = self.conv(image)
            large = nn.functional.interpolate(small, scale_factor=2.0, mode="bilinear")
            return large.mean((2, 3)), small.flatten(2).softmax(-1)

    result = export(
        settle(Picture()),
        ["coreml"],
        tmp_path / "b",
        inputs={"image": torch.zeros(1, 3, 16, 16)},
        dynamic={"image": {"height": (8, 32), "width": (8, 24)}},
        report=False,
    )
    assert [(t.status, t.reason) for t in result.targets] == [("ok", None)]
    check = result.targets[0].graphs[0].verify
    assert (check["level"], len(check["samples"]) > 2) == ("interpreted", True)
    assert check["metrics"]["nmse"] < 1e-11


def test_integers_and_truth_values_go_in_and_come_out(tmp_path):
    class Looked(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(10, 4)

        def forward(self, ids):
            return self.table(ids).sum(1), ids * 2

    result = export(
        settle(Looked()),
        ["coreml"],
        tmp_path / "b",
        inputs={"ids": torch.tensor([[1, 2, 3]])},
        report=False,
    )
    assert result.targets[0].graphs[0].verify["level"] == "interpreted"
    with Bundle.open(tmp_path / "b") as bundle:
        graph = bundle.manifest.graphs[0]
        with InterpretedSession(bundle, graph, graph.artifacts[0]) as session:
            found = session.run({"ids": np.array([[4, 0, 9]])})
    assert found["output_1"].tolist() == [[8, 0, 18]]
    assert found["output_1"].dtype == np.int64


def test_reciprocals_of_small_numbers_are_what_they_are(tmp_path):
    """Core ML's own add 1e-4 and 1e-12 to what they invert."""

    class Inverting(nn.Module):
        def forward(self, x):
            guarded = torch.rsqrt(x + 1e-5)  # of a normalisation: stays
            return 1 / x, torch.rsqrt(x), guarded, (3 / (x * x))

    asked = {"inputs": {"x": torch.ones(1, 4)}, "report": False}
    export(settle(Inverting()), ["coreml"], tmp_path / "b", **asked).raise_for_status()
    x = np.array([[1e-9, 1e-5, 2e-3, 7.0]], np.float32)
    with Bundle.open(tmp_path / "b") as bundle:
        graph = bundle.manifest.graphs[0]
        operators = graph.artifacts[0].operators
        assert (operators.get("inverse"), operators["rsqrt"]) == (None, 1)
        with InterpretedSession(bundle, graph, graph.artifacts[0]) as session:
            found = session.run({"x": x})
    for one, wanted in zip(found.values(), Inverting()(torch.from_numpy(x)), strict=True):
        np.testing.assert_allclose(one, wanted.numpy(), rtol=1e-6)


def test_nothing_names_core_ml_where_it_need_not():
    """The verifier and the pipeline know of a hook, not of a target."""
    from edgekit.export import judge_bundle as judging
    from edgekit.export import pipeline, verify

    for module in (judging, pipeline, verify):
        with open(module.__file__, encoding="utf-8") as file:
            text = file.read().lower()
        assert "coreml" not in text.replace('"coremltools"', "")
        assert "core ml" not in text
