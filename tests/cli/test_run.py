"""``edgekit run``: the whole way from files to answers, on real runtimes."""

import json

import numpy as np
import pytest
from PIL import Image

from ..runtimes.dense_graphs import STRIDES, dense_bundle, detector, pyramid, segmenter


def labels(result):
    return [one["label"] for one in result["result"]["top"]]


def test_a_picture_gets_its_labels(program, bundle, picture):
    done = program("run", bundle, picture, "--json")
    assert (done.code, done.err) == (0, "")
    (result,) = done.document["results"]
    assert (result["input"], result["runtime"]) == (str(picture), "onnxruntime")
    assert labels(result)[0] == "green"
    assert len(labels(result)) == 3


def test_answers_of_random_weights_are_called_so(edgekit, make_bundle, picture):
    done = edgekit("run", make_bundle(weights="random (seed 0)"), picture)
    assert done.code == 0
    assert "tiny has random weights: its answers mean nothing" in done.err


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


@pytest.fixture
def detection(tmp_path):
    params = {"anchors": {"strides": list(STRIDES)}}
    return dense_bundle(tmp_path / "detection", "detection", detector, (64, 64), params)


@pytest.fixture
def segmentation(tmp_path):
    return dense_bundle(tmp_path / "segmentation", "segmentation", segmenter, (64, 64))


@pytest.fixture
def scene(tmp_path):
    """Black, 128 x 128, with one red square of a cell of the detector."""
    pixels = np.zeros((128, 128, 3), np.uint8)
    pixels[32:48, 64:80] = 255, 0, 0
    Image.fromarray(pixels).save(tmp_path / "scene.png")
    return tmp_path / "scene.png"


@pytest.mark.parametrize("suffix", ["png", "jpg", "JPEG"])
def test_boxes_are_drawn_into_a_picture(edgekit, detection, scene, tmp_path, suffix):
    out = tmp_path / f"drawn.{suffix}"
    done = edgekit("run", detection, scene, "-o", out)
    assert (done.code, done.err) == (0, f"wrote {out}\n")
    assert "  red  64,32 to 80,48" in done.out
    with Image.open(out) as drawn, Image.open(scene) as plain:
        assert drawn.format == ("PNG" if suffix == "png" else "JPEG")
        assert drawn.size == (128, 128)
        changed = np.abs(np.asarray(drawn).astype(int) - np.asarray(plain)).max(2) > 60
    # The label stands above the box; far from both nothing changes.
    assert changed[18:32, 64:80].mean() > 0.5
    assert not changed[60:].any()


def test_pictures_of_a_folder_go_into_a_folder(edgekit, detection, scene, tmp_path):
    other = tmp_path / "more"
    other.mkdir()
    Image.new("RGB", (50, 30)).save(other / "scene.jpg")
    out = tmp_path / "new" / "drawn"
    done = edgekit("run", detection, scene, other, "-o", f"{out}/", "--json")
    assert done.code == 0, done.err
    assert sorted(path.name for path in out.iterdir()) == [
        "results.json",
        "scene-2.onnxruntime.png",
        "scene.onnxruntime.png",
    ]
    assert json.loads((out / "results.json").read_text()) == done.document
    first, second = done.document["results"]
    assert first["result"]["size"] == [128, 128]
    (best, *_) = first["result"]["detections"]
    assert (best["label"], best["box"]) == ("red", [64, 32, 80, 48])
    assert second["result"] == {"size": [30, 50], "detections": []}
    with Image.open(out / "scene-2.onnxruntime.png") as drawn:
        assert drawn.size == (50, 30)


def test_masks_are_drawn_and_kept(edgekit, segmentation, tmp_path):
    halves = np.zeros((96, 128, 3), np.uint8)
    halves[:, :64, 2], halves[:, 64:, 1] = 255, 255
    Image.fromarray(halves).save(scene := tmp_path / "scene.png")
    done = edgekit("run", segmentation, scene, "-o", tmp_path)  # a folder that is there
    assert done.code == 0, done.err
    assert done.out.splitlines()[1:] == [" 50.00 %  green", " 50.00 %  blue"]
    with Image.open(tmp_path / "scene.onnxruntime.mask.png") as mask:
        classes = np.asarray(mask)
    assert classes.shape == (96, 128)
    assert (classes[:, :64] == 2).all()
    assert (classes[:, 64:] == 1).all()
    document = json.loads((tmp_path / "results.json").read_text())
    assert document["results"][0]["result"] == {
        "size": [96, 128],
        "classes": [
            {"label": "green", "index": 1, "share": 0.5},
            {"label": "blue", "index": 2, "share": 0.5},
        ],
    }
    assert (tmp_path / "scene.onnxruntime.png").is_file()
    assert edgekit("run", segmentation, scene, "-o", tmp_path / "x.png").code == 0
    assert not list(tmp_path.glob(".*part*"))


def test_feature_maps_are_arrays(edgekit, tmp_path, scene):
    bundle = dense_bundle(tmp_path / "pyramid", "features", pyramid, (64, 64), labels=None)
    done = edgekit("run", bundle, scene, "-o", tmp_path / "maps.npz")
    assert done.code == 0, done.err
    assert "stride4  float32 [1, 3, 16, 16]  mean" in done.out
    with np.load(tmp_path / "maps.npz", allow_pickle=False) as maps:
        assert sorted(maps.files) == ["stride4", "stride8"]
        assert np.unravel_index(maps["stride8"].argmax(), (1, 3, 8, 8)) == (0, 0, 2, 4)


@pytest.mark.parametrize("name", ["x.png", "x.npz"])
def test_several_answers_are_not_one_file(edgekit, detection, scene, picture, tmp_path, name):
    out = tmp_path / name
    done = edgekit("run", detection, scene, picture, "-o", out)
    assert (done.code, done.out) == (2, "")
    assert "there are 2" in done.err
    assert not out.exists()


def test_what_cannot_be_drawn_or_written(edgekit, bundle, detection, picture, scene, tmp_path):
    done = edgekit("run", bundle, picture, "-o", tmp_path / "x.png")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "cannot be drawn" in done.err
    done = edgekit("run", detection, scene, "-o", tmp_path / "x.npz")
    assert (done.code, "no arrays" in done.err) == (2, True)
    done = edgekit("run", detection, scene, "-o", tmp_path / "nowhere" / "x.png")
    assert (done.code, done.err.count("\n")) == (2, 1)
    (tmp_path / "file").write_text("in the way")
    done = edgekit("run", detection, scene, "-o", f"{tmp_path}/file/")
    assert (done.code, "cannot make the folder" in done.err) == (2, True)
