"""The store of measurements, against a real SQLite file."""

import sqlite3

import pytest

from edgekit import measurements
from edgekit.errors import DeviceError

DIGEST = "ab" * 32
MACHINE = {"cpu": "a processor", "cores": 2}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKIT_HOME", str(tmp_path))


def row(runtime, threads, p50):
    return {
        "runtime": runtime,
        "threads": threads,
        "precision": "fp32",
        "latency_ms": {"min": p50, "p50": p50, "p90": p50, "p99": p50},
    }


def test_nothing_is_known_before_anything_is_saved():
    assert measurements.fastest(DIGEST) is None
    assert measurements.rows_for(DIGEST) == []
    assert not measurements.store_path().exists()  # asking leaves no trace


def test_fastest_is_the_least_median():
    measurements.save(DIGEST, [row("openvino", 1, 9.0), row("onnxruntime", 2, 5.0)], MACHINE)
    assert measurements.fastest(DIGEST) == ("onnxruntime", 2)
    assert measurements.fastest(DIGEST, threads=1) == ("openvino", 1)
    assert measurements.fastest(DIGEST, threads=7) is None
    assert measurements.fastest("cd" * 32) is None


def test_a_later_measurement_replaces_an_earlier_one():
    measurements.save(DIGEST, [row("openvino", 1, 1.0), row("onnxruntime", 1, 5.0)], MACHINE)
    measurements.save(DIGEST, [row("openvino", 1, 9.0)], MACHINE)
    assert measurements.fastest(DIGEST) == ("onnxruntime", 1)
    found = measurements.rows_for(DIGEST)
    assert [(r["runtime"], r["latency_ms"]["p50"]) for r in found] == [
        ("onnxruntime", 5.0),
        ("openvino", 9.0),
    ]
    assert all(r["host"] == MACHINE for r in found)


def test_threads_none_is_a_number_of_its_own():
    measurements.save(DIGEST, [row("coreml", None, 3.0), row("coreml", None, 2.0)], MACHINE)
    assert measurements.fastest(DIGEST) == ("coreml", None)
    assert len(measurements.rows_for(DIGEST)) == 1


def test_another_machine_does_not_decide_here(monkeypatch):
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(measurements, "host_fingerprint", lambda: "elsewhere")
        measurements.save(DIGEST, [row("tensorrt", 1, 0.1)], MACHINE)
    assert len(measurements.rows_for(DIGEST)) == 1
    assert measurements.fastest(DIGEST) is None


def test_a_damaged_store_reads_as_empty_and_refuses_to_save(caplog):
    path = measurements.store_path()
    path.parent.mkdir(parents=True)
    path.write_bytes(b"this is no database, " * 100)
    assert measurements.fastest(DIGEST) is None
    assert measurements.rows_for(DIGEST) == []
    assert str(path) in caplog.text
    with pytest.raises(DeviceError, match="remove that file"):
        measurements.save(DIGEST, [row("onnxruntime", 1, 1.0)], MACHINE)


def test_a_row_that_is_no_json_reads_as_empty():
    measurements.save(DIGEST, [row("onnxruntime", 1, 1.0)], MACHINE)
    with sqlite3.connect(measurements.store_path()) as connection:
        connection.execute("UPDATE measurement SET figures = '{'")
    connection.close()
    assert measurements.rows_for(DIGEST) == []


def test_a_locked_store_says_so_in_one_line(monkeypatch):
    monkeypatch.setattr(measurements, "LOCK_WAIT_S", 0.05)
    measurements.save(DIGEST, [row("onnxruntime", 1, 1.0)], MACHINE)
    other = sqlite3.connect(measurements.store_path(), isolation_level=None)
    try:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(DeviceError, match="locked") as caught:
            measurements.save(DIGEST, [row("onnxruntime", 1, 1.0)], MACHINE)
        assert "\n" not in str(caught.value)
        assert measurements.fastest(DIGEST) is None
    finally:
        other.close()


def test_the_fingerprint_is_steady():
    assert measurements.host_fingerprint() == measurements.host_fingerprint()
    assert measurements.processor_name()
