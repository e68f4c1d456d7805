"""From a file to an answer, with a real session in between."""

import json

import numpy as np
import pytest
from PIL import Image

from edgekit.bundle import Bundle
from edgekit.errors import BundleError, InputError, ParityError, UnsupportedError
from edgekit.manifest import TaskInfo
from edgekit.runtimes import load, tasks
from edgekit.runtimes.tasks.inputs import expand

from .conftest import CLASSES, SIDE

LABELS = "assets/labels.txt"
PARAMS = {
    "resolution": SIDE,
    "resize": 40,
    "interpolation": "bilinear",
    "mean": [0.5, 0.4, 0.3],
    "std": [0.2, 0.3, 0.4],
    "top_k": 3,
    "labels": LABELS,
    "input": "image",
    "output": "logits",
}


@pytest.fixture
def open_task(runtime_bundle):
    """``open_task(**changed parameters)``: a classification task on ONNX Runtime."""
    opened = []

    def make(label_file: bytes = b"cat\ndog\nhorse\nfly\n", **changes):
        params = {**PARAMS, **changes}
        task = TaskInfo(kind="classification", params=params)
        path = runtime_bundle("onnxruntime", task=task, files={LABELS: label_file})
        bundle = Bundle.open(path)
        session = load(bundle, "onnxruntime", threads=1)
        opened.append(session)
        return tasks.for_bundle(bundle, session)

    yield make
    for session in opened:
        session.close()


@pytest.fixture
def photo(tmp_path):
    rng = np.random.default_rng(2)
    array = rng.integers(0, 256, (50, 80, 3), np.uint8)
    Image.fromarray(array).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_classification_end_to_end(open_task, photo, classifier):
    task = open_task()
    inputs = task.prepare(photo)
    scores = classifier(inputs["image"])[0].astype(np.float64)
    chances = np.exp(scores) / np.exp(scores).sum()
    order = np.argsort(-chances)[:3]
    result = task(photo)
    assert [p.index for p in result.top] == order.tolist()
    assert [p.label for p in result.top] == [["cat", "dog", "horse", "fly"][i] for i in order]
    np.testing.assert_allclose([p.score for p in result.top], chances[order], rtol=1e-5)
    assert json.loads(json.dumps(result.to_json()))["top"][0]["label"] == result.top[0].label
    assert result.describe().splitlines()[0].endswith(f"%  {result.top[0].label}")
    assert len(result.describe().splitlines()) == 3


def test_preparation_step_by_step(open_task, photo):
    """Resize the shorter side, cut the middle out, scale, normalise, channels first."""
    small = Image.open(photo).resize((64, 40), Image.Resampling.BILINEAR)
    middle = np.asarray(small.crop((16, 4, 48, 36))).astype(np.float64) / 255
    expected = ((middle - PARAMS["mean"]) / PARAMS["std"]).transpose(2, 0, 1)[None]
    prepared = open_task().prepare(photo)["image"]
    assert prepared.dtype == np.float32
    assert prepared.flags.c_contiguous
    np.testing.assert_allclose(prepared, expected, atol=1e-5)
    bgr = open_task(channels="BGR").prepare(photo)["image"]
    flipped = ((middle[..., ::-1] - PARAMS["mean"]) / PARAMS["std"]).transpose(2, 0, 1)[None]
    np.testing.assert_allclose(bgr, flipped, atol=1e-5)


def test_ways_to_resize(open_task, photo):
    def pixels(**changes) -> np.ndarray:
        plain = {"mean": [0, 0, 0], "std": [1, 1, 1], "scale": 1.0}
        return open_task(**plain, **changes).prepare(photo)["image"][0].transpose(1, 2, 0)

    source = Image.open(photo)
    squeezed = source.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(pixels(crop=False), squeezed)
    exact = source.resize((36, 34), Image.Resampling.BILINEAR).crop((2, 1, 34, 33))
    np.testing.assert_array_equal(pixels(resize=[34, 36]), exact)
    covering = source.resize((51, SIDE), Image.Resampling.BILINEAR).crop((10, 0, 42, SIDE))
    np.testing.assert_array_equal(pixels(resize=None, resolution=[SIDE, SIDE]), covering)


def test_labels_are_optional(open_task, photo):
    top = open_task(labels=None).finish({"logits": np.array([[0.0, 3, 1, 2]], np.float32)}).top
    assert [p.label for p in top] == ["class 1", "class 3", "class 2"]


def test_equal_scores_keep_their_order(open_task):
    top = open_task(top_k=9).finish({"logits": np.zeros((1, CLASSES), np.float32)}).top
    assert [p.index for p in top] == [0, 1, 2, 3]
    assert [p.score for p in top] == [0.25] * 4


def test_huge_scores_do_not_overflow(open_task):
    top = open_task().finish({"logits": np.array([[60000, 1, -60000, 0]], np.float32)}).top
    assert top[0].score == 1.0


def test_scores_that_make_no_sense(open_task):
    for bad in (np.nan, np.inf):
        with pytest.raises(ParityError, match=r"not finite.*edgekit verify"):
            open_task().finish({"logits": np.array([[bad, 0, 0, 0]], np.float32)})
    with pytest.raises(BundleError, match="4 scores do not fit 2 labels"):
        open_task(label_file=b"cat\ndog\n").finish({"logits": np.zeros((1, 4), np.float32)})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"resolution": 0}, "resolution"),
        ({"resolution": 10**6}, "resolution"),
        ({"resolution": [64, 64]}, r"the task gives float \[1, 3, 64, 64\]"),
        ({"interpolation": "magic"}, "interpolation"),
        ({"std": [0, 1, 1]}, "std"),
        ({"mean": [0, 1]}, "mean"),
        ({"mean": ["Infinity", 0, 0]}, "mean"),
        ({"top_k": 0}, "top_k"),
        ({"input": "picture"}, "input 'picture' is not one"),
        ({"output": "boxes"}, "output 'boxes' is not one"),
        ({"labels": "../labels.txt"}, "lists no file"),
    ],
)
def test_parameters_that_make_no_sense(open_task, changes, reason):
    with pytest.raises(BundleError, match=reason) as caught:
        open_task(**changes)
    assert "\n" not in str(caught.value)


def test_labels_must_be_text(open_task):
    with pytest.raises(BundleError, match="not UTF-8"):
        open_task(label_file=b"\xff\xfe\n")


def test_a_text_file_is_no_picture(open_task, tmp_path):
    (tmp_path / "photo.jpg").write_text("just text")
    with pytest.raises(InputError, match=r"photo\.jpg is no picture"):
        open_task()(tmp_path / "photo.jpg")


def test_a_task_of_the_future(runtime_bundle):
    path = runtime_bundle("onnxruntime", task=TaskInfo(kind="telepathy"))
    with (
        Bundle.open(path) as bundle,
        load(bundle) as session,
        pytest.raises(UnsupportedError, match=r"'telepathy'.*classification, tensors"),
    ):
        tasks.for_bundle(bundle, session)


class TestTensors:
    @pytest.fixture
    def task(self, runtime_bundle):
        bundle = Bundle.open(runtime_bundle("onnxruntime"))
        with load(bundle, "onnxruntime", threads=1) as session:
            yield tasks.for_bundle(bundle, session)

    @pytest.mark.parametrize("save", ["npz", "npy", "mapping"])
    def test_arrays_in_arrays_out(self, task, classifier, image, tmp_path, save):
        if save == "npz":
            np.savez(source := tmp_path / "x.npz", image=image)
        elif save == "npy":
            np.save(source := tmp_path / "x.npy", image)
        else:
            source = {"image": image}
        result = task(source)
        np.testing.assert_allclose(result.outputs["logits"], classifier(image), rtol=1e-4)
        facts = result.to_json()["outputs"]["logits"]
        assert facts["shape"] == [1, CLASSES]
        assert facts["max"] == pytest.approx(float(classifier(image).max()), rel=1e-4)
        json.dumps(result.to_json())
        assert result.describe().startswith("logits  float32 [1, 4]  ")
        result.save(tmp_path / "out")
        with np.load(tmp_path / "out") as kept:
            np.testing.assert_array_equal(kept["logits"], result.outputs["logits"])

    def test_what_holds_no_arrays(self, task, image, tmp_path):
        np.save(tmp_path / "evil.npy", np.array([print], dtype=object), allow_pickle=True)
        (tmp_path / "text.npz").write_text("text")
        np.savez_compressed(tmp_path / "whole.npz", image=image)
        data = bytearray((tmp_path / "whole.npz").read_bytes())
        data[200:260] = bytes(60)
        (tmp_path / "damaged.npz").write_bytes(data)
        for name in ("evil.npy", "text.npz", "damaged.npz", "absent.npz"):
            with pytest.raises(InputError, match=f"{name} holds no arrays") as caught:
                task(tmp_path / name)
            assert "\n" not in str(caught.value)

    def test_not_finite_is_not_averaged(self, task):
        result = task.finish({"a": np.array([np.nan, 1]), "b": np.zeros(0), "c": np.array(True)})
        facts = result.to_json()["outputs"]
        assert "mean" not in facts["a"]
        assert "mean" not in facts["b"]
        assert facts["c"] == {"dtype": "bool", "shape": [], "min": 1.0, "max": 1.0, "mean": 1.0}
        json.dumps(facts, allow_nan=False)


class TestExpand:
    @pytest.fixture
    def folder(self, tmp_path):
        for name in ("b.JPG", "a.png", "notes.txt", ".hidden.png", "sub/c.jpeg", ".git/d.png"):
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True)
            path.touch()
        return tmp_path

    def test_a_folder_gives_its_sorted_pictures(self, folder):
        found = [str(p.relative_to(folder)) for p in expand([folder], (".jpg", ".jpeg", ".png"))]
        assert found == ["a.png", "b.JPG", "sub/c.jpeg"]
        assert [p.name for p in expand([folder])] == ["a.png", "b.JPG", "c.jpeg"]

    def test_files_keep_their_order_and_occur_once(self, folder):
        named = [folder / "notes.txt", str(folder / "b.JPG"), folder, folder / "notes.txt"]
        names = [p.name for p in expand(named, (".jpg", ".png"))]
        assert names == ["notes.txt", "b.JPG", "a.png"]

    def test_nothing_to_run(self, folder):
        with pytest.raises(InputError, match=r"no file ends in \.wav"):
            expand([folder], (".wav",))
        with pytest.raises(InputError, match="does not exist"):
            expand([folder / "absent.png"])
