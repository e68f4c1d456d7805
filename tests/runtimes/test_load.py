"""Choosing a runtime."""

import importlib.util

import pytest

from edgekit import measurements
from edgekit.bundle import Bundle, BundleWriter
from edgekit.cores import usable_cores
from edgekit.errors import MissingBackendError, UsageError
from edgekit.manifest import Artifact, DeviceHint, Graph
from edgekit.runtimes import RUNTIMES, available, load, open_artifact, registry

from .conftest import SIDE


@pytest.fixture(autouse=True)
def no_measurements(monkeypatch, tmp_path):
    monkeypatch.setenv("EDGEKIT_HOME", str(tmp_path / "home"))


def hide(monkeypatch, *packages: str) -> None:
    """Let these packages look as if they were not installed."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name in packages else find(name, *a)
    )


def test_the_order_is_the_stated_one():
    assert RUNTIMES == ("tensorrt", "coreml", "openvino", "onnxruntime", "executorch")
    assert [r.target for r in registry.RUNTIMES.values()] == [
        "tensorrt",
        "coreml",
        "openvino",
        "onnx",
        "executorch",
    ]


def test_auto_takes_the_first_that_works_here(runtime_bundle, monkeypatch):
    path = runtime_bundle("onnxruntime", "openvino")
    assert available(path) == ["openvino", "onnxruntime"]
    with load(path) as session:
        assert session.runtime == "openvino"
    hide(monkeypatch, "openvino")
    assert available(path) == ["onnxruntime"]
    with load(path) as session:
        assert session.runtime == "onnxruntime"


def test_auto_takes_what_was_measured_to_be_fastest(runtime_bundle):
    path = runtime_bundle("onnxruntime", "openvino")
    with Bundle.open(path) as bundle:
        rows = [
            {"runtime": r, "threads": t, "precision": "fp32", "latency_ms": {"p50": ms}}
            for r, t, ms in [("openvino", 1, 9.0), ("onnxruntime", 2, 3.0), ("onnxruntime", 1, 5.0)]
        ]
        measurements.save(bundle.digest, rows, {"machine": "this one"})
        with load(bundle) as session:
            assert (session.runtime, session.threads) == ("onnxruntime", 2)
        with load(bundle, threads=1) as session:
            assert (session.runtime, session.threads) == ("onnxruntime", 1)
        with load(bundle, "openvino") as session:
            assert (session.runtime, session.threads) == ("openvino", None)


def test_auto_does_as_the_device_says_that_the_bundle_was_made_for(runtime_bundle, monkeypatch):
    monkeypatch.setattr("edgekit.runtimes.usable_cores", lambda: 8)
    hint = DeviceHint(name="board", runtimes=("onnxruntime", "openvino"), threads=2)
    path = runtime_bundle("onnxruntime", "openvino", device=hint)
    with load(path) as session:
        assert (session.runtime, session.threads) == ("onnxruntime", 2)
    with load(path, threads=1) as session:  # what is asked for wins
        assert (session.runtime, session.threads) == ("onnxruntime", 1)
    with load(path, "openvino") as session:  # a runtime that is named is taken as it is
        assert (session.runtime, session.threads) == ("openvino", None)
    assert available(path) == ["openvino", "onnxruntime"]


def test_the_threads_of_a_device_are_no_more_than_the_cores_here(runtime_bundle):
    hint = DeviceHint(name="board", runtimes=("onnxruntime",), threads=usable_cores() + 1)
    with load(runtime_bundle("onnxruntime", device=hint)) as session:
        assert session.threads == usable_cores()


def test_what_a_device_prefers_and_is_not_here_is_passed_over(runtime_bundle, monkeypatch):
    order = ("npu-of-next-year", "tensorrt", "openvino", "openvino")
    hint = DeviceHint(name="board", runtimes=order, threads=None)
    path = runtime_bundle("onnxruntime", "openvino", device=hint)
    with load(path) as session:
        assert (session.runtime, session.threads) == ("openvino", None)
    hide(monkeypatch, "openvino")
    with load(path) as session:
        assert session.runtime == "onnxruntime"


def test_a_measurement_is_worth_more_than_what_a_device_prefers(runtime_bundle):
    hint = DeviceHint(name="board", runtimes=("openvino", "onnxruntime"), threads=1)
    with Bundle.open(runtime_bundle("onnxruntime", "openvino", device=hint)) as bundle:
        row = {"runtime": "onnxruntime", "threads": 2, "precision": "fp32"}
        measurements.save(bundle.digest, [{**row, "latency_ms": {"p50": 3.0}}], {})
        with load(bundle) as session:
            assert (session.runtime, session.threads) == ("onnxruntime", 2)


def test_auto_passes_over_what_cannot_be_loaded(runtime_bundle, monkeypatch):
    """Installed but broken: found only by loading it."""
    path = runtime_bundle("onnxruntime", "openvino")
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with load(path) as session:
        assert session.runtime == "onnxruntime"
    with pytest.raises(MissingBackendError, match=r'pip install "edgekit-toolkit\[openvino\]"'):
        load(path, "openvino")


def test_auto_keeps_to_the_precision_of_the_bundle(artifacts, make_bundle):
    files, onnx = artifacts("onnxruntime")
    more, openvino = artifacts("openvino")
    openvino = openvino.model_copy(update={"precision": "int8"})
    path = make_bundle(files | more, onnx, openvino)
    with load(path) as session:
        assert session.runtime == "onnxruntime"
    path = make_bundle(files | more, onnx, openvino, name="int8", precision="int8")
    with load(path) as session:
        assert session.runtime == "openvino"
        assert session.effective_precision == "int8 + fp32"
    path = make_bundle(files, onnx, name="bf16", precision="bf16")
    with pytest.raises(UsageError, match="no accepted artifact in bf16"):
        load(path)


def test_nothing_works_here(runtime_bundle, monkeypatch):
    path = runtime_bundle("openvino")
    hide(monkeypatch, "openvino")
    with pytest.raises(MissingBackendError, match=r"no runtime.*openvino \(.*not installed\)"):
        load(path)
    with pytest.raises(MissingBackendError, match=r'pip install "edgekit-toolkit\[openvino\]"'):
        load(path, "openvino")


@pytest.mark.parametrize("runtime", ["coreml", "tensorrt"])
def test_a_runtime_whose_hardware_is_elsewhere(runtime, artifacts, make_bundle):
    lacking = registry.missing(registry.get(runtime))
    if lacking is None:
        pytest.skip(f"{runtime} works here")
    files, onnx = artifacts("onnxruntime")
    file = f"graphs/forward/{runtime}/model"
    path = make_bundle(files | {file: b"x"}, onnx, Artifact(target=runtime, status="ok", file=file))
    with pytest.raises(MissingBackendError, match="Next: ") as caught:
        load(path, runtime)
    assert str(caught.value) == str(lacking)
    with load(path) as session:
        assert session.runtime == "onnxruntime"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"runtime": "tflite"}, "no runtime 'tflite': there are tensorrt,"),
        ({"runtime": "executorch"}, r"it runs on onnxruntime\. Next: edgekit export tiny\.py:net"),
        ({"threads": 0}, "0 threads"),
        ({"graph": "decoder"}, "no graph 'decoder'.*it has forward"),
    ],
)
def test_what_cannot_be_asked(runtime_bundle, arguments, reason):
    with pytest.raises(UsageError, match=reason):
        load(runtime_bundle("onnxruntime"), **arguments)


def test_a_zip_lives_as_long_as_its_session(runtime_bundle, tmp_path, monkeypatch, image):
    path = runtime_bundle("onnxruntime", "openvino", name="b.edgekit")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    with load(path, "openvino") as session:
        assert len(list(scratch.iterdir())) == 1
        session.run({"image": image})
    assert list(scratch.iterdir()) == []
    with pytest.raises(UsageError):
        load(path, "executorch")
    assert list(scratch.iterdir()) == []
    with Bundle.open(path) as bundle:
        load(bundle).close()
        assert bundle.root.exists()


def test_an_artifact_can_be_judged_before_its_bundle_is_finished(
    artifacts, tmp_path, classifier, image
):
    from edgekit.manifest import TensorSpec

    files, artifact = artifacts("onnxruntime")
    graph = Graph(
        name="forward",
        inputs=(TensorSpec(name="image", dtype="float32", shape=(1, 3, SIDE, SIDE)),),
        outputs=(TensorSpec(name="logits", dtype="float32", shape=(1, 4)),),
    )
    with BundleWriter(tmp_path / "b") as writer:
        for name, data in files.items():
            writer.add(name, data)
        with open_artifact(writer, graph, artifact, threads=1, spinning=False) as session:
            assert session.run({"image": image})["logits"].shape == (1, 4)
