"""``export --eval``: accuracy in PyTorch and on every runtime, printed, recorded, reported."""

import gzip
import json
import struct
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from torch import nn  # noqa: E402

from edgekit.bundle import Bundle  # noqa: E402
from edgekit.cli import main  # noqa: E402
from edgekit.errors import InputError, ParityError, UsageError  # noqa: E402
from edgekit.export import evaluate, export, refresh_report  # noqa: E402
from edgekit.export.capture import FlatGraph  # noqa: E402
from edgekit.export.pipeline import _judged  # noqa: E402
from edgekit.manifest import Accuracy, Artifact, Graph, TensorSpec  # noqa: E402
from edgekit.models import load  # noqa: E402
from edgekit.models.registry import classification_task  # noqa: E402
from edgekit.models.spec import GraphSpec, InputSpec, LoadedModel  # noqa: E402
from edgekit.quant.evaluation import Evaluation, Row, evaluate_bundle  # noqa: E402

FASHION = Path("/usr/share/datasets/fashion-mnist")
SIDE = 16
CLASSES = 7
COUNT = 150
RUNNING = ("onnxruntime", "openvino", "executorch")


class Net(nn.Module):
    """Enough of a network that answers depend on the picture."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 2, 1)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, image):
        return self.head(torch.relu(self.conv(image)).amax((2, 3)))


def model(classes=CLASSES, labels=None):
    torch.manual_seed(3)
    module = Net().eval()
    module.head = nn.Linear(8, classes)
    image = InputSpec("image", "float32", (1, 3, SIDE, SIDE))
    task = classification_task(SIDE, SIDE, (0.3,) * 3, (0.2,) * 3)
    params = {key: value for key, value in task.params.items() if key != "labels" or labels}
    return LoadedModel(
        name="net",
        source="net",
        module=module,
        graphs=(GraphSpec(inputs=(image,), outputs=("logits",)),),
        weights="seeded",
        task=task.model_copy(update={"params": params}),
        assets={"assets/labels.txt": "\n".join(labels).encode()} if labels else {},
    )


def idx(array):
    head = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return gzip.compress(head + array.tobytes())


@pytest.fixture(scope="module")
def blobs(tmp_path_factory):
    """Idx files of noise, each class brighter than the one before."""
    rng = np.random.default_rng(0)
    classes = (np.arange(COUNT) % CLASSES).astype(np.uint8)
    pictures = rng.integers(0, 70, (COUNT, 10, 10)) + 30 * classes[:, None, None]
    folder = tmp_path_factory.mktemp("data") / "blobs"
    folder.mkdir()
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(idx(pictures.clip(0, 255).astype(np.uint8)))
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(idx(classes))
    return folder


@pytest.fixture(scope="module")
def measured(blobs, tmp_path_factory):
    """The network on three runtimes: the result, and where the bundle is."""
    for package in ("openvino", "executorch"):
        pytest.importorskip(package)
    out = tmp_path_factory.mktemp("measured") / "net"
    told = []
    targets = ["onnx", "openvino", "executorch"]
    result = export(model(), targets, out, evaluation=blobs, progress=told.append)
    return result, out, told


def by_hand(blobs):
    """Top-1 of the eager network in plain torch, in percent."""
    from edgekit.models.recipes.training_pictures import task_alone
    from edgekit.runtimes.labelled_pictures import open_labelled

    loaded = model()
    task = task_alone({**loaded.task.params, "input": None, "output": None})
    right = 0
    with torch.no_grad():
        for source, truth in open_labelled(blobs):
            (image,) = task.prepare(source).values()
            right += int(loaded.module(torch.from_numpy(image)).argmax()) == truth
    return round(100 * right / COUNT, 4)


def test_every_runtime_is_as_accurate_as_pytorch(measured, blobs):
    result, _, told = measured
    found = result.evaluation
    assert result.ok
    eager, *others = found["rows"]
    assert (eager["runtime"], eager["target"], eager["bytes"]) == ("pytorch", None, None)
    assert eager["top1"] == by_hand(blobs)
    assert 100 / CLASSES < eager["top1"] < 100  # so that it says something
    assert eager["top1"] < eager["top5"] < 100
    assert tuple(row["runtime"] for row in others) == RUNNING
    for row in others:
        assert (row["top1"], row["top5"]) == (eager["top1"], eager["top5"])
        assert (row["disagreements"], row["reason"]) == (0, None)
        assert row["p50_ms"] > 0
        assert row["precision"] == "fp32"
    assert (found["dataset"], found["samples"], found["threads"]) == ("blobs, test", COUNT, 1)
    assert "accuracy: 150 of 150 pictures" in told


def test_the_manifest_has_the_figures_and_no_timing(measured):
    result, out, _ = measured
    with Bundle.open(out) as bundle:
        manifest = bundle.manifest
        text = bundle.root.joinpath("manifest.json").read_text()
    eager = result.evaluation["rows"][0]
    assert manifest.evaluation.dataset == "blobs, test"
    assert manifest.evaluation.sha256 == result.evaluation["sha256"]
    assert manifest.evaluation.pytorch == Accuracy(
        top1=eager["top1"], top5=eager["top5"], samples=COUNT, disagreements=0
    )
    for artifact in manifest.graphs[0].artifacts:
        assert artifact.accuracy == manifest.evaluation.pytorch
    assert "p50" not in text
    assert str(out.parent) not in text


def test_the_report_shows_them(measured):
    result, out, _ = measured
    html = (out / "report.html").read_text()
    section = html[html.index('<section id="accuracy"') : html.index('<section id="size"')]
    top1 = f"{result.evaluation['rows'][0]['top1']:.2f} %"
    assert section.count(f'<span class="value">{top1}</span>') == 4
    for name in ("PyTorch", "ONNX Runtime", "OpenVINO", "ExecuTorch"):
        assert f"<bdi>{name}</bdi>" in section
    assert "blobs, test" in section
    assert '<a href="#accuracy">' in html
    refresh_report(out)
    assert (out / "report.html").read_text() == html


def test_a_report_without_accuracy_has_no_such_section(tmp_path):
    assert export(model(), ["onnx"], tmp_path / "b").ok
    html = (tmp_path / "b" / "report.html").read_text()
    assert "accuracy" not in html.lower()
    with Bundle.open(tmp_path / "b") as bundle:
        assert b"accuracy" not in (bundle.root / "manifest.json").read_bytes()
        assert b"evaluation" not in (bundle.root / "manifest.json").read_bytes()


def test_the_same_pictures_give_the_same_bytes(blobs, tmp_path):
    for name in ("a", "b"):
        export(model(), ["onnx"], tmp_path / f"{name}.edgekit", evaluation=blobs, report=False)
    assert (tmp_path / "a.edgekit").read_bytes() == (tmp_path / "b.edgekit").read_bytes()


def test_the_bundle_can_be_evaluated_again(measured, blobs):
    result, out, _ = measured
    with Bundle.open(out) as bundle:
        again = evaluate_bundle(bundle, blobs)
    assert again.sha256 == result.evaluation["sha256"]
    before = {row["runtime"]: row["top1"] for row in result.evaluation["rows"][1:]}
    assert {row.runtime: row.accuracy.top1 for row in again.rows} == before


def test_sixteen_bits_are_measured_too(blobs, tmp_path):
    pytest.importorskip("openvino")
    result = export(
        model(), ["openvino"], tmp_path / "b", precision="bf16", evaluation=blobs, report=False
    )
    eager, openvino = result.evaluation["rows"]
    assert eager["precision"] == "fp32"
    assert openvino["precision"] != "fp32"
    assert abs(openvino["top1"] - eager["top1"]) < 5


def test_other_classes_are_refused_before_anything_is_lowered(blobs, tmp_path):
    told = []
    with pytest.raises(InputError, match="has 7 classes: the network has 9"):
        export(model(9), ["onnx"], tmp_path / "b", evaluation=blobs, progress=told.append)
    assert not [step for step in told if "lowering" in step]
    labels = [f"label {number}" for number in range(9)]
    with pytest.raises(InputError, match="has 7 classes: the network has 9"):
        export(model(9, labels), ["onnx"], tmp_path / "b", evaluation=blobs)
    with pytest.raises(InputError, match="no labelled pictures at"):
        export(model(), ["onnx"], tmp_path / "b", evaluation=tmp_path / "nowhere")
    assert not (tmp_path / "b").exists()


def test_other_tasks_are_refused(blobs, tmp_path):
    module = nn.Linear(3, 2)
    inputs = {"x": torch.zeros(1, 3)}
    with pytest.raises(UsageError, match="its task is tensors") as caught:
        export(module, ["onnx"], tmp_path / "b", inputs=inputs, evaluation=blobs)
    assert "\n" not in str(caught.value)


def test_a_batch_answers_as_single_pictures_do():
    loaded = load("cpubone-nano", "random", classes=CLASSES)
    spec = TensorSpec(name="image", dtype="float32", shape=(1, 3, 32, 32))
    graph = Graph(
        name="forward",
        inputs=(spec,),
        outputs=(TensorSpec(name="logits", dtype="float32", shape=(1, CLASSES)),),
    )
    network = FlatGraph(loaded.module, loaded.graphs[0])
    before = torch.get_num_threads()
    session = evaluate.EagerSession(network, graph, threads=1)
    rng = np.random.default_rng(0)
    many = [{"image": rng.standard_normal((1, 3, 32, 32), np.float32)} for _ in range(5)]
    for batched, inputs in zip(session.run_many(many), many, strict=True):
        np.testing.assert_allclose(
            batched["logits"], session.run(inputs)["logits"], rtol=1e-4, atol=1e-5
        )
    assert torch.get_num_threads() == before


def test_a_network_that_answers_nan_is_refused(blobs, tmp_path):
    broken = model()
    broken.module.head.bias.data[0] = float("nan")
    with pytest.raises(ParityError, match="not finite"):
        export(broken, ["onnx"], tmp_path / "b", evaluation=blobs, allow_drift=True)
    assert not (tmp_path / "b").exists()


def test_an_artifact_that_answers_nan_is_rejected(tmp_path):
    folder = tmp_path / "graphs" / "forward" / "onnx"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"x")
    good = Artifact(target="openvino", status="ok", file="graphs/forward/openvino/model.xml")
    bad = Artifact(target="onnx", status="ok", file="graphs/forward/onnx/model.onnx")
    accuracy = Accuracy(top1=50, top5=100, samples=2, disagreements=1)
    rows = (
        Row("pytorch", None, "fp32", accuracy, 1.0, None),
        Row("onnxruntime", "onnx", "fp16", None, None, 1, ParityError("the scores are not finite")),
        Row("openvino", "openvino", "fp32", accuracy, 1.0, 1),
    )
    graph = Graph(name="forward", inputs=(), outputs=(), artifacts=(bad, good))
    judged = _judged(tmp_path, graph, Evaluation("d", "0" * 64, 2, 1, 2, rows))
    first, second = judged.artifacts
    assert (first.status, first.exit_code) == ("failed", 5)
    assert first.file.endswith("model.onnx.rejected")
    assert (tmp_path / first.file).is_file()
    assert (second.status, second.accuracy) == ("ok", accuracy)


def test_the_command_prints_a_table_and_a_document(tmp_path, monkeypatch, capfd):
    if not FASHION.is_dir():
        pytest.skip("not installed: apt-get install dataset-fashion-mnist")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("edgekit.quant.evaluation.TIMED", 20)
    from edgekit.runtimes import labelled_pictures

    whole = labelled_pictures.open_labelled

    def some(*arguments, **options):
        found = whole(*arguments, **options)
        return labelled_pictures.LabelledPictures(
            found.name,
            found.split,
            found.labels,
            found.sources[:40],
            found.classes[:40],
            found.names[:40],
        )

    monkeypatch.setattr(evaluate, "open_labelled", some)
    options = ["--weights", "random", "--classes", "10", "--resolution", "32", "--no-report"]
    command = ["export", "cpubone-nano", *options, "--eval", str(FASHION)]
    assert main([*command, "-o", "a", "--json", "--quiet"]) == 0
    document = json.loads(capfd.readouterr().out)
    rows = document["evaluation"]["rows"]
    assert [row["runtime"] for row in rows] == ["pytorch", "onnxruntime"]
    assert main([*command, "-o", "b", "--quiet"]) == 0
    said = capfd.readouterr().out
    assert "accuracy on 40 pictures of fashion-mnist, test" in said
    (line,) = (line for line in said.splitlines() if line.strip().startswith("PyTorch, eager"))
    assert f"{rows[0]['top1']:.2f}" in line


def test_inspect_tells_the_accuracy(measured, capfd):
    result, out, _ = measured
    capfd.readouterr()
    assert main(["inspect", str(out)]) == 0
    top1 = f"{result.evaluation['rows'][0]['top1']:.2f} %"
    said = capfd.readouterr().out
    assert f"PyTorch {top1}, onnx {top1}, openvino {top1}, executorch {top1}" in said
