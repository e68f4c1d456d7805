"""``edgekit bench`` on a real bundle and real runtimes."""

import pytest

from edgekit import measurements
from edgekit.devices import bench, sample_input

from ..runtimes.dense_graphs import STRIDES, dense_bundle, detector, pyramid, segmenter

QUANTILES = ("min", "p50", "p90", "p99")


def test_rows_hold_what_scripts_rely_on(edgekit, make_bundle, picture):
    done = edgekit(
        "bench", make_bundle(openvino=True), "--repeat", 7, "-t", 1, "--input", picture, "--json"
    )
    assert done.code == 0, done.err
    document = done.document
    assert {row["runtime"] for row in document["rows"]} == {"onnxruntime", "openvino"}
    for row in document["rows"]:
        assert (row["threads"], row["precision"], row["samples"]) == (1, "fp32", 7)
        whole, engine = ([row[key][q] for q in QUANTILES] for key in ("latency_ms", "engine_ms"))
        assert whole == sorted(whole)
        assert 0 < engine[0] < whole[0]
        assert row["throughput"] == pytest.approx(1000 / row["latency_ms"]["p50"], rel=1e-3)
        assert row["peak_rss_mb"] > row["base_rss_mb"] > 1
        assert row["load_ms"] > 0
    medians = [row["latency_ms"]["p50"] for row in document["rows"]]
    assert medians == sorted(medians)
    # What cannot be measured is told, never dropped.
    assert {one["runtime"] for one in document["unavailable"]} == {
        "tensorrt",
        "coreml",
        "executorch",
    }
    assert all(one["reason"] for one in document["unavailable"])
    assert {"cpu", "cores", "load_average_before", "tools"} <= set(document["host"])
    assert document["input"] == "green.png"


def test_saved_figures_are_remembered_and_shown_in_the_report(edgekit, bundle):
    done = edgekit("bench", bundle, "--repeat", 2, "-r", "onnxruntime", "-t", 1, "--save")
    assert done.code == 0, done.err
    digest = edgekit("inspect", bundle, "--json").document["digest"]
    assert measurements.fastest(digest) == ("onnxruntime", 1)
    (row,) = measurements.rows_for(digest)
    assert row["host"]["cpu"] == measurements.processor_name()
    pytest.importorskip("jinja2")
    assert "1 thread" in (bundle / "report.html").read_text()
    # The report is new, the bundle is the same.
    assert edgekit("inspect", bundle, "--json").document["digest"] == digest


def test_figures_are_saved_without_touching_the_bundle(edgekit, bundle):
    before = {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
    done = edgekit(
        "bench", bundle, "--repeat", 1, "-r", "onnxruntime", "-t", 1, "--save", "--no-report"
    )
    assert done.code == 0, done.err
    assert {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()} == before
    assert len(measurements.history()) == 1


def test_a_report_that_cannot_be_written_does_not_lose_the_figures(edgekit, bundle, monkeypatch):
    def refuse(path, html):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("edgekit.bundle.update_report", refuse)
    done = edgekit("bench", bundle, "--repeat", 1, "-r", "onnxruntime", "-t", 1, "--save")
    assert done.code == 0
    assert "report stays as it was" in done.err
    assert "onnxruntime" in done.out


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["-r", "abacus"], 2),
        (["-r", "coreml"], 2),  # the bundle has nothing for it
        (["--graph", "backward"], 2),
        (["-r", "onnxruntime", "-t", "1", "--input", "no_such_file.png"], 8),
    ],
)
def test_nothing_to_measure_is_an_error(edgekit, bundle, arguments, code):
    done = edgekit("bench", bundle, *arguments)
    assert (done.code, done.out) == (code, "")
    assert done.err.splitlines()[-1].startswith("error: ")


def test_an_engine_that_dies_is_a_row_with_its_reason(edgekit, bundle, tmp_path, monkeypatch):
    (tmp_path / "onnxruntime.py").write_text(
        "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = edgekit("bench", bundle, "-r", "onnxruntime", "-t", 1, "-t", 2, "--json")
    assert done.code == 9
    reasons = {row["threads"]: row["reason"] for row in done.document["unavailable"]}
    assert set(reasons) == {1, 2}
    assert all("SIGSEGV" in reason for reason in reasons.values())


def test_quantiles_are_measured_values():
    values = [float(v) for v in range(1, 101)]
    assert bench.Quantiles.of(values[::-1]) == bench.Quantiles(min=1, p50=50, p90=90, p99=99)
    assert bench.Quantiles.of([3.0]) == bench.Quantiles(3, 3, 3, 3)


def test_a_busy_machine_is_warned_about():
    quiet = {"load_average_before": 2.0, "logical_cores": 2, "governor": None}
    assert bench._warnings(quiet) == ()
    (warning,) = bench._warnings(quiet | {"load_average_before": 2.1})
    assert "unreliable" in warning


def test_without_a_photograph_a_picture_is_made(tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.setattr(sample_input, "_PHOTOGRAPHS", (("no_such_package", "a.jpg"),))
    made = sample_input.sample_input("classification", None, tmp_path)
    assert "synthetic" in made.what
    with Image.open(made.path) as image:
        assert image.size == (640, 480)


@pytest.mark.parametrize(
    ("kind", "network", "params"),
    [
        ("detection", detector, {"anchors": {"strides": list(STRIDES)}}),
        ("segmentation", segmenter, {"pad_multiple": 16}),
        ("features", pyramid, {}),
    ],
)
def test_dense_tasks_are_fed_with_a_picture(edgekit, tmp_path, kind, network, params):
    labels = {"labels": None} if kind == "features" else {}
    path = dense_bundle(tmp_path / kind, kind, network, (64, 64), params, **labels)
    done = edgekit("bench", path, "--repeat", 3, "-r", "onnxruntime", "-t", 1, "--json")
    assert done.code == 0, done.err
    (row,) = done.document["rows"]
    assert 0 < row["engine_ms"]["min"] < row["latency_ms"]["min"]
    assert "picture" in done.document["input"] or "photograph" in done.document["input"]
