"""``edgekit export`` and ``build``: documents, exit codes, and nothing left behind."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from edgekit.bundle import Bundle

from ..conftest import REPOSITORY

pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from ..export.graphs import remember_translations

NETS = REPOSITORY / "tests" / "export" / "nets.py"
TINY, LINEAR = f"{NETS}:tiny", f"{NETS}:linear"

REFUSED = """
import torch
class Product(torch.nn.Module):
    def example_inputs(self):
        return torch.ones(2, 3)
    def forward(self, x):
        return torch.cumprod(x, 1)
"""


@pytest.fixture(scope="module", autouse=True)
def _light():
    with pytest.MonkeyPatch.context() as patch:
        remember_translations(patch)
        yield


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """The working directory; afterwards nothing half-written lies in it."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert [path for path in tmp_path.rglob("*") if ".part" in path.name] == []


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One bundle that several tests read."""
    from edgekit.cli import main

    out = tmp_path_factory.mktemp("made") / "linear"
    assert main(["export", LINEAR, "--quiet", "--no-report", "-o", str(out)]) == 0
    return out


def test_the_document(edgekit, place):
    done = edgekit("export", LINEAR, "--target", "onnx", "-o", "b", "--json", "--no-report")
    assert done.code == 0
    document = done.document
    assert {key: document[key] for key in ("bundle", "model", "precision")} == {
        "bundle": "b",
        "model": "linear",
        "precision": "fp32",
    }
    (target,) = document["targets"]
    assert (target["target"], target["status"], target["reason"]) == ("onnx", "ok", None)
    (graph,) = target["graphs"]
    assert graph["name"] == "forward"
    assert graph["file"] == str(place / "b" / "graphs" / "forward" / "onnx" / "model.onnx")
    assert graph["bytes"] == os.path.getsize(graph["file"])
    assert (graph["verify"]["level"], graph["verify"]["passed"]) == ("ran", True)
    assert set(graph["verify"]["metrics"]) == {"max_abs", "rel_range", "nmse", "cosine"}
    assert graph["verify"]["metrics"]["nmse"] < 1e-9
    steps = done.err.splitlines()
    assert steps[0] == "loading the model"
    assert "onnx: lowering to fp32 and verifying" in steps


def test_people_read_a_table_and_quiet_leaves_out_the_steps(edgekit, place):
    done = edgekit("export", LINEAR, "-o", "b", "--quiet", "--no-report")
    assert (done.code, done.err) == (0, "")
    assert done.out.split()[:2] == ["target", "status"]
    assert "ran here, compared with PyTorch" in done.out
    assert done.out.splitlines()[-1] == "bundle: b"


def test_options_reach_the_bundle_and_its_name_says_the_precision(edgekit, place):
    done = edgekit(
        *("export", LINEAR, "--precision", "fp16", "--dynamic", "x:batch=1..3"),
        *("--input", "x:float32[2,8]", "--tolerance", '{"nmse": 1e-3}', "--json", "--no-report"),
    )
    assert done.code == 0, done.err
    assert (done.document["bundle"], done.document["precision"]) == ("linear-fp16", "fp16")
    verify = done.document["targets"][0]["graphs"][0]["verify"]
    assert verify["thresholds"]["nmse"] == 1e-3
    assert len(verify["samples"]) == 3
    with Bundle.open("linear-fp16") as bundle:
        (graph,) = bundle.manifest.graphs
        assert graph.inputs[0].shape == ("x_0", 8)
        assert (graph.dynamic["x_0"].min, graph.dynamic["x_0"].max) == (1, 3)
        assert bundle.manifest.model.recipe["inputs"][0]["shape"] == [2, 8]


def test_the_report_has_timings_of_this_host(edgekit, place):
    done = edgekit("export", LINEAR, "-o", "b", "--quiet")
    assert (done.code, done.err) == (0, "")
    assert "report: b/report.html" in done.out
    html = (place / "b" / "report.html").read_text()
    assert "onnxruntime" in html
    assert edgekit("inspect", "b", "--json").code == 0


def test_one_file_in_place_of_a_folder(edgekit, place):
    done = edgekit("export", LINEAR, "-o", "one.edgekit", "--json", "--quiet")
    assert (done.code, done.err) == (0, "")
    assert [path.name for path in place.iterdir() if path.name != "home"] == ["one.edgekit"]
    (graph,) = done.document["targets"][0]["graphs"]
    assert graph["file"] == "graphs/forward/onnx/model.onnx"
    with Bundle.open("one.edgekit") as bundle:
        bundle.check_all()
        assert bundle.manifest.report is not None


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["cpubone-b00"], 2, "cpubone-b0"),
        (["nowhere.py:net"], 2, "no file nowhere.py"),
        ([LINEAR, "--target", "tflite"], 2, "no target tflite"),
        ([LINEAR, "--precision", "fp8"], 2, "precision fp8 is not available"),
        ([LINEAR, "--input", "x"], 2, "--input x is not NAME:DTYPE[SHAPE]"),
        ([LINEAR, "--input", "x:float32[4,9]"], 2, "does not run on inputs of shape [4, 9]"),
        ([LINEAR, "--dynamic", "y:batch=1..2"], 2, "no input y"),
        ([LINEAR, "--dynamic", "x:1=4..8"], 4, "cannot capture the network"),
        ([LINEAR, "--tolerance", "3"], 2, "--tolerance is not a JSON object"),
        ([LINEAR, "--resolution", "8"], 2, "states its own input sizes"),
        ([LINEAR, "--weights", "damaged.safetensors"], 8, "damaged.safetensors"),
        ([LINEAR, "--weights", "gone.pt"], 8, "gone.pt"),
        ([LINEAR, "--samples", "damaged.npz"], 8, "cannot read damaged.npz"),
        ([LINEAR, "-o", "file.txt"], 2, "file.txt would be overwritten"),
        ([LINEAR, "-o", "file.txt/b"], 2, "file.txt/b: not a directory"),
        (["gone.pt2"], 8, "no file gone.pt2"),
        (["damaged.onnx"], 8, "damaged.onnx"),
        ([], 2, "missing argument 'MODEL'"),
        ([LINEAR, "--targets", "onnx"], 2, "no such option"),
    ],
)
def test_what_cannot_be_done_is_one_line(edgekit, place, arguments, code, words):
    for name in ("damaged.safetensors", "damaged.npz", "damaged.onnx", "file.txt"):
        (place / name).write_bytes(b"not what it says")
    before = sorted(path for path in place.rglob("*"))
    done = edgekit("export", *arguments, "--quiet", "--no-report")
    assert (done.code, done.out) == (code, "")
    assert words.lower() in done.err.lower()
    assert len(done.err.splitlines()) == 1
    assert done.err.startswith("error: ")
    assert sorted(path for path in place.rglob("*")) == before


def test_an_error_is_a_document_too(edgekit, place):
    done = edgekit("export", "cpubone-b00", "--json", "--quiet")
    assert done.code == 2
    assert done.document["error"]["code"] == 2
    assert "cpubone-b0" in done.out


def test_a_target_that_refuses_is_told_with_the_rest(edgekit, place):
    (place / "net.py").write_text(REFUSED)
    done = edgekit("export", "net.py:Product", "-o", "b", "--json", "--quiet", "--no-report")
    assert done.code == 4
    (target,) = done.document["targets"]
    assert (target["status"], target["graphs"]) == ("failed", [])
    assert "cumprod" in target["reason"]
    assert done.err == f"warning: onnx failed: {target['reason']}\n"


def test_a_departure_exits_5_and_is_kept_aside(edgekit, place):
    strict = '{"nmse": -1}'  # which nothing keeps: this network may well be equal bit for bit
    options = ("--tolerance", strict, "--json", "--quiet", "--no-report")
    done = edgekit("export", TINY, "-o", "b", *options)
    assert done.code == 5
    (graph,) = done.document["targets"][0]["graphs"]
    assert graph["file"].endswith("model.onnx.rejected")
    assert graph["verify"]["passed"] is False
    assert len(done.err.splitlines()) == 1
    np.savez("x.npz", image=np.zeros((1, 3, 16, 16), np.float32))
    refused = edgekit("run", "b", "x.npz")
    assert (refused.code, refused.out) == (2, "")
    kept = edgekit("export", TINY, "-o", "b", "--allow-drift", *options)
    assert kept.code == 0
    with Bundle.open("b") as bundle:
        assert bundle.manifest.drift_allowed


def test_what_is_not_installed_exits_3_and_the_rest_is_made(edgekit, place, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        "edgekit.export.targets.need.find_spec",
        lambda name: None if name == "openvino" else real(name),
    )
    arguments = ("-t", "openvino", "-t", "onnx", "-o", "b", "--json", "--quiet", "--no-report")
    done = edgekit("export", LINEAR, *arguments)
    assert done.code == 3
    assert [t["status"] for t in done.document["targets"]] == ["unavailable", "ok"]
    assert "edgekit-toolkit[openvino]" in done.document["targets"][0]["reason"]
    assert len(done.err.splitlines()) == 1


def test_without_the_exporter_it_says_what_to_install(edgekit, place, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "torch" else real(name)
    )
    done = edgekit("export", LINEAR, "-o", "b")
    assert (done.code, done.out) == (3, "")
    assert "edgekit-toolkit[export]" in done.err


def test_what_is_not_ours_is_refused_before_the_model_is_loaded(edgekit, place):
    (place / "mine").mkdir()
    (place / "mine" / "thesis.txt").write_text("years of work")
    (place / "slow.py").write_text("open('loaded', 'w').close()\nmade = None\n")
    done = edgekit("export", "slow.py:made", "-o", "mine", "--quiet")
    assert (done.code, done.out) == (2, "")
    assert "mine would be overwritten" in done.err
    assert not (place / "loaded").exists()
    assert (place / "mine" / "thesis.txt").read_text() == "years of work"


def test_a_bundle_is_replaced_by_one_that_succeeds_alone(edgekit, place):
    def digest():
        with Bundle.open("b") as bundle:
            return bundle.digest

    options = ("-o", "b", "--quiet", "--no-report")
    assert edgekit("export", LINEAR, *options).code == 0
    first = digest()
    assert edgekit("export", LINEAR, "--input", "x:float32[4,9]", *options).code == 2
    assert digest() == first
    assert edgekit("export", LINEAR, "--input", "x:float32[1,8]", *options).code == 0
    assert digest() != first


def test_ctrl_c_leaves_nothing_behind(place, made):
    program = "import sys; from edgekit.cli import main; sys.exit(main())"
    started = subprocess.Popen(
        [sys.executable, "-c", program, "export", TINY, "-t", "all", "-o", "b", "--quiet"],
        cwd=place,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        # A suite that a shell put into the background hands on that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        until = time.monotonic() + 100
        # Under way: the first artifact is being written into the folder beside "b".
        while not list(place.glob(".b.part-*/graphs/*/*")) and time.monotonic() < until:
            assert started.poll() is None, started.stderr.read()
            time.sleep(0.05)
        started.send_signal(signal.SIGINT)
        out, err = started.communicate(timeout=60)
    finally:
        started.kill()
    assert (started.returncode, out) == (130, "")
    assert err.splitlines()[-1] == "error: interrupted"
    assert "Traceback" not in err
    assert [path.name for path in place.iterdir() if path.name != "home"] == []


def test_a_bundle_is_judged_on_the_command_line(edgekit, place, made):
    done = edgekit("verify", made, "--json")
    assert (done.code, done.document["passed"], done.err) == (0, True, "")
    (artifact,) = done.document["artifacts"]
    assert (artifact["target"], artifact["verify"]["level"]) == ("onnx", "ran")
    people = edgekit("verify", made)
    assert (people.code, people.err) == (0, "")
    assert "ran here, compared with PyTorch" in people.out
    assert edgekit("verify", made, "--target", "coreml").code == 2
    assert edgekit("verify", place / "gone").code == 2
    assert edgekit("verify", made, "--samples", place / "gone").code == 8


def test_a_changed_byte_exits_7(edgekit, place, made):
    import shutil

    shutil.copytree(made, place / "b")
    path = place / "b" / "graphs" / "forward" / "onnx" / "model.onnx"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    done = edgekit("verify", "b")
    assert (done.code, done.out) == (7, "")
    assert len(done.err.splitlines()) == 1


def test_engines_are_built_where_there_is_a_gpu(edgekit, place, made):
    pytest.importorskip("tensorrt_rtx")
    nothing = edgekit("build", made)
    assert (nothing.code, nothing.out) == (2, "")
    assert "has nothing to build" in nothing.err
    options = ("-o", "b", "--quiet", "--no-report")
    assert edgekit("export", LINEAR, "-t", "tensorrt", *options).code == 0
    done = edgekit("build", "b", "--json")
    if json.loads(done.out).get("engines"):
        assert done.code == 0
        return
    assert done.code == 3
    assert len(done.err.splitlines()) == 1
    assert done.document["error"]["code"] == 3


def test_a_head_goes_from_the_command_line_to_the_drawn_answer(edgekit, place):
    """What a bundle of a dense network is, and that it is judged again with its head."""
    shape = ("--resolution", "64", "--no-report", "--json")
    done = edgekit("export", "cpubone-nano", "--head", "retinanet", "--classes", "3", *shape)
    assert done.code == 0
    assert done.document["bundle"] == "cpubone-nano-retinanet"
    with Bundle.open("cpubone-nano-retinanet") as bundle:
        assert bundle.manifest.task.kind == "detection"
        assert bundle.manifest.model.recipe == {
            "resolution": [64, 64],
            "head": "retinanet",
            "classes": 3,
        }
        assert [spec.shape[-1] for spec in bundle.graph().outputs] == [3, 4]
    np.savez("seen.npz", image=np.random.default_rng(5).normal(size=(1, 3, 64, 64)).astype("f4"))
    again = edgekit("verify", "cpubone-nano-retinanet", "--samples", "seen.npz", "--json")
    assert again.code == 0
    assert "seen.npz" in again.document["artifacts"][0]["verify"]["samples"]


def test_an_unknown_head_is_wrong_usage(edgekit, place):
    done = edgekit("export", "cpubone-nano", "--head", "yolo")
    assert done.code == 2
    assert "it has classification, features, retinanet, semantic-fpn" in done.err
    assert list(place.iterdir()) == []
