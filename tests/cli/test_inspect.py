"""``edgekit inspect``: facts of a real bundle, and no damaged one gets through."""

import pytest


def test_the_manifest_is_told_whole(edgekit, bundle):
    document = edgekit("inspect", bundle, "--json").document
    assert document["checksums"] == "ok"
    assert document["model"]["name"] == "tiny"
    (artifact,) = document["graphs"][0]["artifacts"]
    assert artifact["operators"] == {"ReduceMean": 1, "MatMul": 1}
    assert document["bytes"] == sum(entry["bytes"] for entry in document["files"])
    people = edgekit("inspect", bundle).out
    for fact in ("image float32[1, 3, 16, 16]", "MatMul 1", "1.0e-15", "classification"):
        assert fact in people


def test_a_zip_is_as_good_as_a_folder(edgekit, make_bundle):
    folder = edgekit("inspect", make_bundle(), "--json").document
    packed = edgekit("inspect", make_bundle(name="tiny.edgekit"), "--json").document
    assert packed["digest"] == folder["digest"]


@pytest.mark.parametrize("command", ["inspect", "run", "bench"])
def test_a_changed_byte_is_code_7(edgekit, bundle, picture, command):
    graph = bundle / "graphs/forward/onnx/model.onnx"
    data = bytearray(graph.read_bytes())
    data[-1] ^= 1
    graph.write_bytes(data)
    done = edgekit(command, bundle, *([picture] if command == "run" else []))
    assert (done.code, done.out) == (7, "")
    assert "checksum" in done.err
    assert done.err.count("\n") == 1


def test_a_truncated_bundle_is_code_7(edgekit, make_bundle):
    packed = make_bundle(name="tiny.edgekit")
    packed.write_bytes(packed.read_bytes()[:-40])
    done = edgekit("inspect", packed, "--json")
    assert done.code == 7
    assert done.document["error"]["code"] == 7


def test_no_bundle_is_code_2(edgekit, tmp_path):
    done = edgekit("inspect", tmp_path / "nothing")
    assert done.code == 2
    assert "does not exist" in done.err
