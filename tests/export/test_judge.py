"""A finished bundle judged again, and the same bundle made again: byte for byte."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgekit.bundle import Bundle
from edgekit.cli import main
from edgekit.errors import BundleError, ParityError, UsageError
from edgekit.export import export
from edgekit.export.judge_bundle import judge_bundle
from edgekit.manifest import TARGETS as NAMES

from .nets import SIDE, settle, sorting, tiny
from .test_locate import BrokenOnnx

REPOSITORY = Path(__file__).resolve().parent.parent.parent
RUN = "import sys; from edgekit.cli import main; sys.exit(main())"


def command(*arguments, cwd=REPOSITORY, prelude="", **environment):
    """One command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", prelude + RUN, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


def content(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def again(tmp_path_factory):
    """The same export by the command line, in another process and another place."""
    out = tmp_path_factory.mktemp("elsewhere") / "another" / "name"
    arguments = ["export", "tests/export/nets.py:tiny", "--target", "all", "-o", out, "--json"]
    # Another order of every set; no timings, which belong to the host that made them.
    done = command(*arguments, "--no-report", PYTHONHASHSEED="123")
    return done, out


@pytest.mark.parametrize("target", NAMES)
def test_the_same_network_gives_the_same_bytes(everywhere, again, target):
    here, there = (
        content(root / "graphs/forward" / target) for root in (everywhere.path, again[1])
    )
    assert list(here) == list(there) != []
    assert [name for name in here if here[name] != there[name]] == []


def test_a_core_ml_package_knows_neither_the_day_nor_what_was_converted_before(everywhere):
    from coremltools.proto import Model_pb2

    package = everywhere.path / "graphs/forward/coreml/model.mlpackage"
    spec = Model_pb2.Model()
    spec.ParseFromString((package / "Data/com.apple.CoreML/model.mlmodel").read_bytes())
    assert not [key for key in spec.description.metadata.userDefined if "date" in key]
    (block,) = spec.mlProgram.functions["main"].block_specializations.values()
    # A pass numbers what it makes by how much it made before, in an order that varies.
    names = [
        (operation.attributes["name"].immediateValue.tensor.strings.values[0], operation.outputs[0])
        for operation in block.operations
        if operation.type != "const"
    ]
    assert len(names) > 10
    assert [name for name, output in names if name != output.name] == []


def test_the_same_network_gives_the_same_manifest(everywhere, again):
    def told(root):
        manifest = json.loads((root / "manifest.json").read_text())
        manifest["files"] = [f for f in manifest["files"] if "/openvino/" not in f["path"]]
        artifacts = manifest["graphs"][0]["artifacts"]
        del next(a for a in artifacts if a["target"] == "openvino")["bytes"]
        return manifest

    here, there = told(everywhere.path), told(again[1])
    # The report stands apart from the rest: here is one, there is none.
    assert here.pop("report")["path"] == "report.html"
    assert there == {**here, "report": None}


def test_the_report_is_the_same_bytes_too(everywhere, tmp_path):
    from edgekit.export import refresh_report

    shutil.copytree(everywhere.path, tmp_path / "b")
    refresh_report(tmp_path / "b")
    assert content(tmp_path / "b") == content(everywhere.path)


def test_the_command_prints_one_document_and_nothing_else(again):
    done, out = again
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["bundle"], document["model"]) == (str(out), "tiny")
    assert document["precision"] == "fp32"
    assert [target["target"] for target in document["targets"]] == list(NAMES)
    for target in document["targets"]:
        assert (target["status"], target["reason"]) == ("ok", None)
        (graph,) = target["graphs"]
        assert graph["name"] == "forward"
        assert Path(graph["file"]).exists()
        assert graph["bytes"] > 0
        assert graph["verify"]["passed"] is True
        if graph["verify"]["level"] in ("ran", "interpreted"):
            metrics = graph["verify"]["metrics"]
            assert set(metrics) == {"max_abs", "rel_range", "nmse", "cosine"}
            assert metrics["nmse"] < 1e-9
    levels = {t["target"]: t["graphs"][0]["verify"]["level"] for t in document["targets"]}
    assert [levels[name] for name in NAMES[:4]] == ["ran", "ran", "ran", "interpreted"]
    assert levels["tensorrt"] in ("compiled", "ran")
    assert "Traceback" not in done.stderr


def test_a_sound_bundle_is_judged_ok(everywhere):
    with Bundle.open(everywhere.path) as bundle:
        verdicts = judge_bundle(bundle)
    assert [verdict.target for verdict in verdicts] == list(NAMES)
    for verdict in verdicts:
        assert (verdict.status, verdict.exit_code, verdict.rejected) == ("ok", 0, False)
        before = everywhere.artifact(verdict.target).verify
        assert verdict.verify.level == before.level
        assert verdict.verify.metrics == before.metrics
        json.dumps(verdict.to_json())


def test_a_sound_bundle_bears_no_stamp(everywhere):
    assert not everywhere.manifest.drift_allowed


def test_one_target_alone_and_none_that_is_not_there(everywhere):
    with Bundle.open(everywhere.path) as bundle:
        assert [v.target for v in judge_bundle(bundle, ["onnx"])] == ["onnx"]
        with pytest.raises(UsageError, match="the bundle has no target tflite: it has coreml"):
            judge_bundle(bundle, ["onnx", "tflite"])


def test_bounds_can_be_drawn_anew(everywhere):
    with Bundle.open(everywhere.path) as bundle:
        (verdict,) = judge_bundle(bundle, ["onnx"], tolerance={"nmse": -1})
    assert (verdict.status, verdict.exit_code) == ("failed", 5)
    assert "nmse" in verdict.reason
    assert verdict.verify.thresholds["nmse"] == -1


def test_a_changed_byte_is_damage(everywhere, tmp_path):
    shutil.copytree(everywhere.path, tmp_path / "b")
    path = tmp_path / "b" / everywhere.artifact("onnx").file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    damaged = pytest.raises(BundleError, match=r"model\.onnx .* is damaged")
    with Bundle.open(tmp_path / "b") as bundle, damaged:
        # Whatever is asked about: nothing of such a bundle is believed.
        judge_bundle(bundle, ["openvino"])


def forge(root, rel, change):
    """Change a file of a bundle, and its entry in the manifest so that nobody can tell."""
    change(root / rel)
    manifest = json.loads((root / "manifest.json").read_text())
    data = (root / rel).read_bytes()
    (entry,) = [entry for entry in manifest["files"] if entry["path"] == rel]
    entry.update(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    (root / "manifest.json").write_text(json.dumps(manifest))


def weaken(path):
    model = onnx.load(path)
    (weight,) = [w for w in model.graph.initializer if "stem.conv" in w.name and len(w.dims) == 4]
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * 1.05, weight.name))
    onnx.save(model, path)


@pytest.fixture
def forged(everywhere, tmp_path):
    """A bundle whose ONNX file was changed after the export, with checksums that fit."""
    shutil.copytree(everywhere.path, tmp_path / "b")
    forge(tmp_path / "b", everywhere.artifact("onnx").file, weaken)
    return tmp_path / "b"


def test_a_forged_weight_is_found_and_located(forged, monkeypatch):
    monkeypatch.chdir(REPOSITORY)  # where the network's source is
    with Bundle.open(forged) as bundle:
        onnx_verdict, openvino = judge_bundle(bundle, ["onnx", "openvino"], locate=True)
    assert (onnx_verdict.status, onnx_verdict.exit_code) == ("failed", 5)
    assert onnx_verdict.located.startswith("aten.conv2d.default (conv2d) in stem.conv at ")
    assert "nets.py:" in onnx_verdict.located
    assert (openvino.status, openvino.located) == ("ok", None)


def test_the_command_says_where_it_departs(forged, monkeypatch, capsys):
    monkeypatch.chdir(REPOSITORY)
    assert main(["verify", str(forged), "--locate", "--json", "-t", "onnx", "-t", "coreml"]) == 5
    said = capsys.readouterr()
    document = json.loads(said.out)
    assert (document["passed"], document["model"]) == (False, "tiny")
    onnx_artifact, coreml = document["artifacts"]
    assert onnx_artifact["located"].startswith("aten.conv2d.default (conv2d) in stem.conv")
    assert (coreml["status"], coreml["verify"]["level"]) == ("ok", "interpreted")
    reason, located = said.err.splitlines()
    assert reason.startswith("warning: onnx failed: onnx departs from PyTorch: nmse")
    assert located.startswith("warning: onnx first departs at aten.conv2d.default")


def test_only_the_network_of_the_bundle_can_locate(forged, monkeypatch, tmp_path):
    monkeypatch.chdir(REPOSITORY)
    manifest = json.loads((forged / "manifest.json").read_text())
    manifest["model"]["source"] = "tests/export/nets.py:linear"
    (forged / "manifest.json").write_text(json.dumps(manifest))
    other = pytest.raises(ParityError, match="is not the network that the bundle was made from")
    with Bundle.open(forged) as bundle, other:
        judge_bundle(bundle, ["onnx"], locate=True)


def test_samples_of_the_users_own_are_judged_against_the_network(everywhere, tmp_path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    np.savez(tmp_path / "mine.npz", image=np.ones((1, 3, SIDE, SIDE), np.float32))
    with Bundle.open(everywhere.path) as bundle:
        (verdict,) = judge_bundle(bundle, ["onnx"], samples=tmp_path / "mine.npz")
    assert verdict.status == "ok"
    assert "mine.npz" in verdict.verify.samples


def test_a_rejected_artifact_is_judged_under_its_own_names(tmp_path):
    export(settle(tiny()), [BrokenOnnx("head")], tmp_path / "b", report=False)
    with Bundle.open(tmp_path / "b") as bundle:
        (verdict,) = judge_bundle(bundle)
    assert (verdict.status, verdict.exit_code, verdict.rejected) == ("failed", 5, True)
    assert verdict.verify.metrics.nmse > 1e-9


def test_what_a_runtime_refused_is_not_damage(tmp_path):
    pytest.importorskip("executorch")
    result = export(sorting(), ["executorch"], tmp_path / "b", report=False)
    assert result.exit_code == 4
    with Bundle.open(tmp_path / "b") as bundle:
        artifact = bundle.manifest.graphs[0].artifacts[0]
        (verdict,) = judge_bundle(bundle)
    assert artifact.file is None or artifact.file.endswith(".rejected")
    assert (verdict.status, verdict.exit_code) == ("failed", 4)


WITHOUT = """
import sys
class Hiding:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        hidden = name.partition(".")[0] in {names}
        return None if hidden else self.finder.find_spec(name, path, target)
sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
"""


def test_a_bundle_is_judged_without_torch(everywhere):
    names = {"torch", "onnx", "onnxscript", "executorch", "coremltools", "openvino", "tensorrt_rtx"}
    prelude = WITHOUT.format(names=sorted(names))
    done = command("verify", everywhere.path, "--json", prelude=prelude)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["passed"] is True
    levels = {a["target"]: a["verify"]["level"] for a in document["artifacts"]}
    assert levels["onnx"] == "ran"
    assert levels["executorch"] == levels["coreml"] == "converted"
    (coreml,) = (a for a in document["artifacts"] if a["target"] == "coreml")
    assert "nor interpreted: the exporter is not installed" in coreml["verify"]["notes"][-1]
    located = command("verify", everywhere.path, "--locate", prelude=prelude)
    assert (located.returncode, located.stdout) == (3, "")
    assert len(located.stderr.splitlines()) == 1
    assert "edgekit-toolkit[export]" in located.stderr
