"""``edgekit run``: the whole way from files to answers, on real runtimes."""

import json

import numpy as np
import pytest


def labels(result):
    return [one["label"] for one in result["result"]["top"]]


def test_a_picture_gets_its_labels(program, bundle, picture):
    done = program("run", bundle, picture, "--json")
    assert (done.code, done.err) == (0, "")
    (result,) = done.document["results"]
    assert (result["input"], result["runtime"]) == (str(picture), "onnxruntime")
    assert labels(result)[0] == "green"
    assert len(labels(result)) == 3


def test_people_read_the_labels(edgekit, bundle, picture):
    done = edgekit("run", bundle, picture)
    assert done.code == 0
    first = done.out.splitlines()[1]
    assert first.endswith("green")
    assert "%" in first


def test_folders_and_several_inputs(edgekit, bundle, picture, tmp_path):
    from PIL import Image

    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.new("RGB", (20, 20), (220, 0, 0)).save(folder / "a.jpg")
    Image.new("RGB", (20, 20), (0, 0, 220)).save(folder / "b.png")
    (folder / "notes.txt").write_text("no picture")
    results = edgekit("run", bundle, picture, folder, "--json").document["results"]
    assert [labels(result)[0] for result in results] == ["green", "red", "blue"]


def test_every_runtime_side_by_side(edgekit, make_bundle, picture):
    bundle = make_bundle(openvino=True)
    document = edgekit("run", bundle, picture, "--runtime", "all", "--json").document
    found = {result["runtime"]: labels(result) for result in document["results"]}
    assert found["onnxruntime"] == found["openvino"]
    assert "coreml" in {missing["runtime"] for missing in document["unavailable"]}
    people = edgekit("run", bundle, picture, "--runtime", "all")
    line = next(line for line in people.out.splitlines() if "%" in line)
    assert line.count("green") == 2
    assert "coreml did not run" in people.out


def test_results_are_written_whole(edgekit, bundle, picture, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    assert edgekit("run", bundle, picture, "-o", out).code == 0
    assert [path.name for path in out.iterdir()] == ["results.json"]
    assert edgekit("run", bundle, picture, "-o", tmp_path / "r.json", "--quiet").err == ""
    written = json.loads((tmp_path / "r.json").read_text())
    assert labels(written["results"][0])[0] == "green"
    done = edgekit("run", bundle, picture, "-o", tmp_path / "no" / "r.json")
    assert (done.code, done.out) == (2, "")


def test_arrays_in_and_arrays_out(edgekit, make_bundle, tmp_path):
    bundle = make_bundle("tensors")
    image = np.zeros((1, 3, 16, 16), np.float32)
    image[:, 2] = 1
    np.savez(tmp_path / "in.npz", image=image)
    done = edgekit("run", bundle, tmp_path / "in.npz", "-o", tmp_path / "out.npz")
    assert done.code == 0, done.err
    with np.load(tmp_path / "out.npz", allow_pickle=False) as written:
        np.testing.assert_allclose(written["logits"], [[-2, -2, 4, 0]])


def test_labels_are_no_arrays(edgekit, bundle, picture, tmp_path):
    done = edgekit("run", bundle, picture, "-o", tmp_path / "out.npz")
    assert done.code == 2
    assert not (tmp_path / "out.npz").exists()


def test_text_as_a_picture_is_code_8_and_nothing_is_written(edgekit, bundle, tmp_path):
    text = tmp_path / "text.jpg"
    text.write_text("this is no picture")
    done = edgekit("run", bundle, text, "-o", tmp_path / "out.json", "--json")
    assert done.code == 8
    assert done.document["error"]["code"] == 8
    assert done.err.count("\n") == 1
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--runtime", "coreml"], 2),  # the bundle has nothing for it
        (["--runtime", "abacus"], 2),
        (["--graph", "backward"], 2),
        (["--threads", "0"], 2),
    ],
)
def test_what_is_not_there_is_one_line(edgekit, bundle, picture, arguments, code):
    done = edgekit("run", bundle, picture, *arguments)
    assert (done.code, done.out) == (code, "")
    assert done.err.count("\n") == 1


def test_a_missing_input_is_code_8(edgekit, bundle, tmp_path):
    assert edgekit("run", bundle, tmp_path / "no.jpg").code == 8


def test_a_missing_back_end_is_code_3(bundle, picture, program, tmp_path, monkeypatch):
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('not here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = program("run", bundle, picture, "--runtime", "onnxruntime")
    assert done.code == 3
    assert "pip install" in done.err
    assert done.err.count("\n") == 1
