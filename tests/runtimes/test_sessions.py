"""What every session promises, on every runtime that runs here."""

import numpy as np
import pytest

from edgekit.bundle import Bundle
from edgekit.errors import BundleError, InputError, UsageError
from edgekit.manifest import Artifact, TensorSpec
from edgekit.runtimes import load

from .conftest import RUNNING, SIDE


@pytest.fixture(params=RUNNING)
def runtime(request) -> str:
    return request.param


@pytest.fixture
def session(runtime, runtime_bundle):
    with load(runtime_bundle(runtime), runtime, threads=1) as opened:
        yield opened


def test_it_computes_the_model(session, runtime, classifier, image):
    assert session.runtime == runtime
    assert session.threads == 1
    assert session.effective_precision == "fp32"
    outputs = session.run({"image": image})
    assert list(outputs) == ["logits"]
    assert outputs["logits"].dtype == np.float32
    np.testing.assert_allclose(outputs["logits"], classifier(image), rtol=1e-4, atol=1e-5)


def test_an_output_survives_the_next_run(session, classifier, image):
    first = session.run({"image": image})["logits"]
    kept = first.copy()
    session.run({"image": -image})
    np.testing.assert_array_equal(first, kept)
    first[:] = 0  # and is the caller's to change
    np.testing.assert_array_equal(session.run({"image": image})["logits"], kept)


def test_any_memory_layout_is_taken(session, classifier, image):
    read_only = image.copy()
    read_only.flags.writeable = False
    channels_last = np.ascontiguousarray(image.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    for array in (read_only, channels_last, image[:, :, ::-1], image[..., ::-1].copy()[..., ::-1]):
        outputs = session.run({"image": array})
        np.testing.assert_allclose(outputs["logits"], classifier(array), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda x: {}, "missing image"),
        (lambda x: {"image": x, "mask": x}, "unknown mask"),
        (lambda x: {"picture": x}, "missing image; unknown picture"),
        (lambda x: {"image": x.astype(np.float64)}, "is float64: the graph takes float32"),
        (lambda x: {"image": x[0]}, r"shape \[3, 32, 32\]: the graph takes \[1, 3, 32, 32\]"),
        (lambda x: {"image": x[..., :-1]}, r"shape \[1, 3, 32, 31\]"),
        (lambda x: {"image": x.tolist()}, "is list"),
        (lambda x: {"image": x.astype(">f4")}, "the graph takes float32"),
    ],
)
def test_wrong_inputs_are_told_before_the_runtime_sees_them(session, image, change, reason):
    with pytest.raises(InputError, match=reason):
        session.run(change(image))


def test_a_subclass_of_an_array_is_an_array(session, classifier, image, tmp_path):
    np.save(tmp_path / "x.npy", image)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    outputs = session.run({"image": mapped})
    np.testing.assert_allclose(outputs["logits"], classifier(image), rtol=1e-4, atol=1e-5)


def test_a_closed_session_says_so(session, image):
    session.close()
    session.close()
    with pytest.raises(UsageError, match="closed"):
        session.run({"image": image})


@pytest.mark.parametrize("damage", [lambda d: b"", lambda d: d[: len(d) // 2], lambda d: b"?" * 99])
def test_a_graph_that_the_runtime_refuses(runtime, artifacts, make_bundle, damage, capfd):
    files, artifact = artifacts(runtime)
    path = make_bundle({**files, artifact.file: damage(files[artifact.file])}, artifact)
    capfd.readouterr()
    with pytest.raises(BundleError, match=f"{runtime} refuses graphs/forward") as caught:
        load(path, runtime)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_a_changed_byte_is_told_before_the_runtime_sees_it(runtime, artifacts, runtime_bundle):
    path = runtime_bundle(runtime)
    files, _ = artifacts(runtime)
    for name, data in files.items():
        changed = bytearray(data)
        changed[len(data) // 2] ^= 1
        (path / name).write_bytes(changed)
        with Bundle.open(path) as bundle, pytest.raises(BundleError, match="checksum"):
            load(bundle, runtime)
        (path / name).write_bytes(data)


def test_a_graph_with_another_contract_is_refused(runtime, artifacts, make_bundle):
    files, artifact = artifacts(runtime)
    image = TensorSpec(name="image", dtype="float32", shape=(1, 3, SIDE, SIDE))
    path = make_bundle(files, artifact, inputs=(image, image.model_copy(update={"name": "b"})))
    with pytest.raises(BundleError, match="does not fit the manifest"):
        load(path, runtime)


def test_a_rejected_artifact_is_never_loaded(runtime, artifacts, make_bundle):
    files, artifact = artifacts(runtime)
    rejected = Artifact(
        target=artifact.target,
        status="failed",
        reason="logits depart",
        file=artifact.file + ".rejected",
    )
    files[rejected.file] = files.pop(artifact.file)
    path = make_bundle(files, rejected)
    with pytest.raises(UsageError, match=r"not accepted \(logits depart\).*edgekit export"):
        load(path, runtime)
    with pytest.raises(UsageError, match="no accepted artifact"):
        load(path)
