"""What is counted of outputs beside their reference, and what counts as lost."""

import numpy as np
import pytest

from edgekit.manifest import Fidelity, PrecisionRow, QuantisationInfo, SamplesInfo
from edgekit.quant.comparison import compare_precisions
from edgekit.quant.fidelity import FidelityTally, drop_of, drop_unit


def test_agreement_accuracy_and_distance():
    tally = FidelityTally("y")
    tally.add({"y": np.array([[1.0, 2.0]])}, {"y": np.array([[0.0, 2.0]])}, 1)
    tally.add({"y": np.array([[3.0, 0.0]])}, {"y": np.array([[0.0, 2.0]])}, 1)
    found = tally.fidelity()
    assert (found.samples, found.agreement, found.top1) == (2, 50.0, 50.0)
    assert found.nmse == pytest.approx((1 + 9 + 4) / 8)


def test_the_worst_output_counts_and_nothing_is_no_answer():
    tally = FidelityTally()
    tally.add({"a": np.ones(2), "b": np.zeros(2)}, {"a": np.ones(2), "b": np.ones(2)})
    found = tally.fidelity()
    assert found.nmse == 1.0
    assert found.agreement is None
    with pytest.raises(ValueError, match="no sample"):
        FidelityTally().fidelity()


def test_silence_and_infinity():
    tally = FidelityTally()
    tally.add({"a": np.zeros(2)}, {"a": np.zeros(2)})
    assert tally.fidelity().nmse == 0.0
    tally.add({"a": np.array([np.nan, 0.0])}, {"a": np.zeros(2)})
    assert tally.fidelity().nmse == np.inf


@pytest.mark.parametrize(
    ("found", "reference", "lost", "unit"),
    [
        ({"agreement": 90, "top1": 70}, {"agreement": 100, "top1": 71.5}, 1.5, "points of top-1"),
        ({"agreement": 90}, {"agreement": 100, "top1": 71.5}, 10.0, "points of agreement"),
        ({}, {}, 2.0, "% of the signal (NMSE)"),
    ],
)
def test_what_is_lost_is_counted_in_the_best_unit_there_is(found, reference, lost, unit):
    one = Fidelity(samples=1, nmse=0.02, **found)
    assert drop_of(one, Fidelity(samples=1, nmse=0, **reference)) == lost
    assert drop_unit(one) == unit


def info(*rows):
    truth = Fidelity(samples=9, nmse=0, agreement=100)
    return QuantisationInfo(
        precision="int8",
        evaluation=SamplesInfo(title="photos", samples=9, sha256="0" * 64),
        labelled=False,
        reference=truth,
        rows=rows,
    )


def timed(variant, runtime, p50):
    return {
        "variant": variant,
        "runtime": runtime,
        "engine_ms": {"p50": p50},
        "peak_rss_mb": 10 * p50,
    }


def test_the_faster_precision_is_recommended_where_ours_is_slower():
    good = Fidelity(samples=9, nmse=1e-3, agreement=90)
    rows = [
        PrecisionRow(target=target, variant=variant, status="ok", bytes=size, fidelity=good)
        for variant, size in (("fp32", 400), ("int8", 100))
        for target in ("onnx", "openvino")
    ]
    timings = {
        "rows": [
            timed("fp32", "onnxruntime", 8.0),
            timed("chosen", "onnxruntime", 4.0),
            timed("fp32", "openvino", 5.0),
            timed("chosen", "openvino", 10.0),
        ]
    }
    found = compare_precisions(info(*rows), timings, "net")
    assert found["recommended"] == {"onnxruntime": "int8", "openvino": "fp32"}
    (remark,) = found["remarks"]
    assert remark.startswith("int8 is 2.00 times slower than fp32 on openvino here")
    assert remark.endswith("edgekit export net --target openvino")
    by_key = {(row["target"], row["variant"]): row for row in found["rows"]}
    assert by_key["onnx", "int8"]["speedup"] == 2.0
    assert by_key["openvino", "int8"]["speedup"] == 0.5
    assert by_key["onnx", "int8"]["size_ratio"] == 0.25
    assert by_key["onnx", "int8"]["drop"] == 10.0


def test_without_timings_nothing_is_recommended():
    row = PrecisionRow(target="onnx", variant="int8", status="ok", bytes=4)
    found = compare_precisions(info(row), None, "net")
    assert found["recommended"] == {}
    assert found["rows"][0]["p50_ms"] is None
