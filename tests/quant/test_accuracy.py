"""Accuracy: what is counted, and how a bundle is shown labelled pictures without torch."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from edgekit.bundle import Bundle, BundleWriter
from edgekit.errors import InputError, MissingBackendError, ParityError, UsageError
from edgekit.quant import evaluation
from edgekit.quant.accuracy import Tally
from edgekit.quant.evaluation import Contender, evaluate_bundle, task_around
from edgekit.runtimes.labelled_pictures import open_labelled
from edgekit.runtimes.sessions.base import Session

from ..cli.conftest import CLASSIFICATION, LABELS, make_bundle, onnx_model  # noqa: F401

COLOURS = {"red": (220, 30, 20), "green": (10, 200, 30), "blue": (20, 30, 240), "grey": (90,) * 3}


@pytest.fixture
def colours(tmp_path):
    """``colours({"red": ["red", "blue"]})``: a folder red with a red and a blue picture."""

    def make(folders, name="colours"):
        for label, pictures in folders.items():
            (tmp_path / name / label).mkdir(parents=True)
            for number, colour in enumerate(pictures):
                shade = np.array(COLOURS[colour]) + number % 7
                Image.new("RGB", (20, 20), tuple(shade.tolist())).save(
                    tmp_path / name / label / f"{number:03}.png"
                )
        return tmp_path / name

    return make


@pytest.fixture
def bundle(make_bundle):  # noqa: F811
    """A classifier of mean colours: right on red, green and blue, and never sure of grey."""
    with Bundle.open(make_bundle()) as opened:
        yield opened


def test_a_tally_counts_the_first_and_the_first_five():
    tally = Tally()
    for ranked, truth in (
        ([0, 1, 2, 3, 4], 0),
        ([1, 0, 2, 3, 4], 0),
        ([1, 2, 3, 4, 5, 0], 0),
        ([2, 1], 2),
    ):
        tally.add(ranked, truth)
    found = tally.accuracy(reference=[0, 1, 9, 9])
    assert (found.top1, found.top5, found.samples, found.disagreements) == (50, 75, 4, 2)
    assert tally.accuracy().disagreements is None
    with pytest.raises(ValueError, match=r"shorter|longer"):
        tally.accuracy(reference=[0])
    with pytest.raises(ValueError, match="no picture"):
        Tally().accuracy()


def test_the_figures_are_those_one_counts_by_hand(bundle, colours):
    # Six pictures; the blue one that lies in the red folder is told wrong.
    path = colours({"red": ["red", "red", "blue"], "green": ["green"], "blue": ["blue", "blue"]})
    done = []
    found = evaluate_bundle(bundle, path, ["onnxruntime"], advance=done.append)
    assert sum(done) == found.samples == found.timed == 6
    assert (found.dataset, found.threads) == ("colours", 1)
    assert found.sha256 == open_labelled(path, LABELS).sha256
    (row,) = found.rows
    assert (row.runtime, row.target, row.precision) == ("onnxruntime", "onnx", "fp32")
    assert row.accuracy.top1 == round(100 * 5 / 6, 4)
    # Four classes are fewer than five, though the bundle itself answers with three.
    assert CLASSIFICATION["top_k"] == 3
    assert row.accuracy.top5 == 100
    assert row.accuracy.disagreements is None
    assert row.p50_ms > 0
    assert row.bytes == bundle.graph().artifacts[0].bytes
    json.dumps(found.to_json(), allow_nan=False)


def test_more_pictures_than_are_timed(bundle, colours, monkeypatch):
    monkeypatch.setattr(evaluation, "TIMED", 5)
    monkeypatch.setattr(evaluation, "TURN", 2)
    monkeypatch.setattr(evaluation, "CHUNK", 4)
    path = colours({"red": ["red"] * 9 + ["green"], "green": ["green"] * 7})
    found = evaluate_bundle(bundle, path)
    assert (found.samples, found.timed) == (17, 5)
    assert found.rows[0].accuracy.top1 == round(100 * 16 / 17, 4)
    assert found.rows[0].accuracy.samples == 17


def test_two_runtimes_give_the_same_figures(make_bundle, colours):  # noqa: F811
    pytest.importorskip("openvino")
    path = colours({"red": ["red", "green"], "blue": ["blue"] * 3})
    with Bundle.open(make_bundle(openvino=True)) as bundle:
        found = evaluate_bundle(bundle, path)
        named = evaluate_bundle(bundle, path, ["openvino"])
    assert [row.runtime for row in found.rows] == ["onnxruntime", "openvino"]
    assert [row.accuracy.top1 for row in found.rows] == [80, 80]
    assert [row.runtime for row in named.rows] == ["openvino"]


def test_torch_is_not_needed(bundle, colours):
    path = colours({"red": ["red"], "green": ["green"]})
    program = (
        "import sys; sys.modules['torch'] = sys.modules['onnx'] = None\n"
        "from edgekit.bundle import Bundle\n"
        "from edgekit.quant.evaluation import evaluate_bundle\n"
        f"with Bundle.open({str(bundle.path)!r}) as bundle:\n"
        f"    print(evaluate_bundle(bundle, {str(path)!r}).rows[0].accuracy.top1)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "100.0"


class Scripted(Session):
    """Answers with what it is told to, and writes down that it was asked."""

    runtime = "scripted"

    def __init__(self, bundle, name, asked, answer):
        graph = bundle.graph()
        super().__init__(graph.inputs, graph.outputs, graph.dynamic, 1)
        self._name, self._asked, self._answer = name, asked, answer

    def _run(self, inputs):
        self._asked.append(self._name)
        return {"logits": np.array([self._answer], np.float32)}


def compete(bundle, path, answers):
    """Rows of scripted sessions; the order in which they were asked."""
    asked, task = [], bundle.manifest.task
    contenders = []
    for name, answer in answers.items():
        session = Scripted(bundle, name, asked, answer)
        contenders.append(Contender(name, session, task_around(session, task)))
    pictures = open_labelled(path, LABELS)
    evaluation._show_all(contenders, pictures, lambda count: None)
    return [contender.row(contenders[0]) for contender in contenders], asked


def test_runtimes_take_turns(bundle, colours, monkeypatch):
    monkeypatch.setattr(evaluation, "TURN", 2)
    path = colours({"red": ["red"] * 4})
    rows, asked = compete(bundle, path, {"a": [1, 0, 0, 0], "b": [0, 1, 0, 0]})
    # In each turn one run settles and two are timed; the next turn begins with another.
    assert "".join(asked) == "aaabbb" + "bbbaaa"
    assert [row.accuracy.top1 for row in rows] == [100, 0]
    assert [row.accuracy.disagreements for row in rows] == [0, 4]


def test_what_is_not_finite_has_no_accuracy(bundle, colours):
    path = colours({"red": ["red"] * 2})
    rows, _ = compete(bundle, path, {"a": [1, 0, 0, 0], "b": [np.nan, 1, 0, 0]})
    assert rows[0].accuracy.top1 == 100
    assert rows[1].accuracy is None
    assert isinstance(rows[1].error, ParityError)
    assert rows[1].to_json()["reason"].startswith("the scores are not finite")
    assert rows[1].to_json()["top1"] is None


def test_ties_go_to_the_first_class_as_in_edgekit_run(bundle, colours):
    rows, _ = compete(bundle, colours({"red": ["red"], "green": ["green"]}), {"a": [1, 1, 0, 0]})
    assert rows[0].accuracy.top1 == 50


def test_a_runtime_that_is_not_here_is_named(bundle, colours, tmp_path):
    artifacts = bundle.manifest.graphs[0].artifacts
    coreml = artifacts[0].model_copy(update={"target": "coreml"})
    rejected = artifacts[0].model_copy(update={"target": "openvino", "status": "failed"})
    graph = bundle.manifest.graphs[0].model_copy(
        update={"artifacts": (*artifacts, coreml, rejected)}
    )
    manifest = bundle.manifest.model_copy(update={"graphs": (graph,)})
    with BundleWriter(tmp_path / "more") as writer:
        for entry in bundle.manifest.files:
            writer.add(entry.path, bundle.read(entry.path))
        writer.finish(manifest)
    with Bundle.open(tmp_path / "more") as more:
        found = evaluate_bundle(more, colours({"red": ["red"]}))
    assert [row.runtime for row in found.rows] == ["onnxruntime", "coreml"]
    assert found.rows[0].accuracy.top1 == 100
    assert isinstance(found.rows[1].error, MissingBackendError)


def test_other_tasks_and_other_classes_are_refused(make_bundle, bundle, colours):  # noqa: F811
    path = colours({"red": ["red"], "purple": ["blue"]})
    with pytest.raises(InputError, match="1 of 2 match no label, or several: purple"):
        evaluate_bundle(bundle, path)
    with (
        Bundle.open(make_bundle("tensors", "t")) as tensors,
        pytest.raises(UsageError, match="its task is tensors"),
    ):
        evaluate_bundle(tensors, path)
    unlabelled = make_bundle(name="u", params={"labels": None})
    with (
        Bundle.open(unlabelled) as opened,
        pytest.raises(InputError, match="has 2 classes: the network has 4"),
    ):
        evaluate_bundle(opened, path)


def test_a_broken_picture_is_named(bundle, colours):
    path = colours({"red": ["red", "red"]})
    (path / "red" / "001.png").write_bytes(b"not a picture")
    with pytest.raises(InputError, match=r"001\.png is no picture"):
        evaluate_bundle(bundle, path)
