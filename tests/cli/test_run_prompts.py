"""``edgekit run`` with a detector that is told what to look for."""

import numpy as np
import pytest
from PIL import Image

from ..dart_micro import AT_ONCE, dart_bundle, dart_model, frames  # noqa: F401 -- fixtures


@pytest.fixture
def photo(tmp_path, frames, monkeypatch):  # noqa: F811
    monkeypatch.setenv("EDGEKIT_HOME", str(tmp_path / "home"))
    path = tmp_path / "photo.png"
    Image.fromarray(frames(1)[0]).save(path)
    return path


@pytest.fixture
def run(edgekit, dart_bundle, photo):  # noqa: F811
    def go(*arguments, runtime="onnxruntime"):
        return edgekit("run", dart_bundle, photo, "--runtime", runtime, *arguments)

    return go


def test_boxes_are_drawn_into_the_picture(run, photo, tmp_path):
    out = tmp_path / "drawn.png"
    done = run("--classes", "person, car,traffic  light", "--threshold", "0.05", "-o", out)
    assert done.code == 0, done.err
    assert "random weights" in done.out
    assert "random weights" in done.err
    before, after = (np.asarray(Image.open(path)) for path in (photo, out))
    assert before.shape == after.shape
    assert (before != after).any(axis=-1).mean() > 0.02


def test_the_document_names_what_was_asked_for(run):
    done = run("--classes", "person,car", "--threshold", "0", "--masks", "--json", runtime="all")
    assert done.code == 0, done.err
    results = done.document["results"]
    assert [one["runtime"] for one in results] == ["openvino", "onnxruntime"]
    for one in results:
        found = one["result"]["detections"]
        assert {(d["label"], d["index"]) for d in found} == {("person", 0), ("car", 1)}
        assert all(d["area"] >= 0 for d in found)
        assert one["result"]["weights"] == "random (seed 0)"


def test_many_classes_from_a_file(run, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("\n".join([*(f"thing {n}" for n in range(500)), "", "ünïcödé"]))
    done = run("--classes", names, "--threshold", "0.05", "--json")
    assert done.code == 0, done.err
    assert len(done.document["results"][0]["result"]["detections"]) == 100


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--classes", ""], 2, "no name"),
        (["--classes", "a,,b"], 2, "class 2 has no name"),
        (["--classes", "none.txt"], 8, "cannot read the classes"),
        (["--classes", "x" * 100], 2, "too long"),
        (["--classes", "a,\udcff"], 2, "class 2 is no text"),
        (["--memory", "0"], 2, "--memory"),
        (["--threshold", "1.5"], 2, "no share"),
    ],
)
def test_what_cannot_be_looked_for_is_refused(run, arguments, code, said):
    done = run(*arguments)
    assert (done.code, done.err.count("\n")) == (code, 1)
    assert said in done.err


def test_a_file_as_windows_writes_it(run, tmp_path):
    names = tmp_path / "names.txt"
    names.write_bytes("\ufeffperson\r\n\r\ncar\r\n".encode())
    done = run("--classes", names, "--threshold", "0", "--json")
    assert done.code == 0, done.err
    found = done.document["results"][0]["result"]["detections"]
    assert {(d["label"], d["index"]) for d in found} == {("person", 0), ("car", 1)}


def test_doubles_of_all_classes_by_option(run):
    asked = ("--classes", "person,car,dog,kite", "--threshold", "0", "--json")
    within, across = (
        done.document["results"][0]["result"]["detections"]
        for done in (run(*asked), run(*asked, "--class-agnostic"))
    )
    assert 0 < len(across) < len(within)


def test_memory_in_mib_makes_chunks(dart_bundle):  # noqa: F811
    from edgekit.bundle import Bundle
    from edgekit.cli.run_prompts import Wishes
    from edgekit.runtimes import load, tasks

    with Bundle.open(dart_bundle) as bundle, load(bundle, "onnxruntime", threads=1) as session:
        task = tasks.for_bundle(bundle, session)
        task.params = task.params.model_copy(update={"class_bytes": 400_000})
        for memory, chunk in ((1, 2), (100, AT_ONCE)):
            Wishes(memory=memory).tell(task)
            assert task.head.chunk == chunk


def test_other_tasks_take_no_classes(edgekit, bundle, photo):
    done = edgekit("run", bundle, photo, "--classes", "cat")
    assert done.code == 2
    assert "does not apply" in done.err
