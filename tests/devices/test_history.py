"""Measurements over time: lines, what changed between points, and a page that is well formed."""

import sqlite3
from html.parser import HTMLParser

import pytest

from edgekit import measurements
from edgekit.devices.history import series
from edgekit.devices.history_page import page, percent

OLD, NEW = "ab" * 32, "cd" * 32


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKIT_HOME", str(tmp_path))


def save(digest, p50, runtime="onnxruntime", threads=1, host=None, model="net", **tools):
    row = {
        "runtime": runtime,
        "threads": threads,
        "precision": "fp32",
        "latency_ms": {"min": p50, "p50": p50, "p90": p50 + 1, "p99": p50},
    }
    machine = {"cpu": "a processor", "tools": {"edgekit": "0.1", **tools}}
    if host:
        machine["name"] = f"a board, over SSH to {host}"
    measurements.save(digest, [row], machine, host=host, model=model)


def test_lines_by_model_machine_runtime_and_threads():
    save(OLD, 10.0, onnxruntime="1.31")
    save(NEW, 12.5, onnxruntime="1.32")
    save(NEW, 7.0, threads=2)
    save(NEW, 90.0, host="board")
    save("ef" * 32, 1.0, model=None)
    found = series(measurements.history())
    assert [(one.model, one.machine, one.threads) for one in found] == [
        ("ef" * 6, "a processor", 1),
        *[("net", name, n) for name, n in sorted_hosts()],
    ]
    line = next(one for one in found if len(one.points) == 2)
    assert line.label == "onnxruntime, 1 thread, fp32"
    first, second = line.points
    assert (first.changed, first.ratio) == ((), None)
    assert second.changed == ("bundle abababab → cdcdcdcd", "onnxruntime 1.31 → 1.32")
    assert second.ratio == 1.25
    assert percent(second.ratio) == "+25.0 %"
    assert [one.model for one in series(measurements.history(), "net")] == ["net"] * 3
    assert len(series(measurements.history(), NEW)) == 3
    assert series(measurements.history(), "nothing") == []


def sorted_hosts():
    """In the order of their fingerprints, as the lines are."""
    here = measurements.host_fingerprint()
    lines = [(here, "a processor", 1), (here, "a processor", 2)]
    lines.append(("board", "a board, over SSH to board", 1))
    return [(name, threads) for _, name, threads in sorted(lines)]


def test_a_store_of_before_has_no_names():
    save(OLD, 3.0)
    with sqlite3.connect(measurements.store_path()) as connection:
        connection.execute("DROP TABLE bundle")
    connection.close()
    (row,) = measurements.history()
    assert (row["digest"], row["model"]) == (OLD, None)
    save(NEW, 3.0)  # and gets them when it is written
    assert [row["model"] for row in measurements.history()] == [None, "net"]


class Balance(HTMLParser):
    """Complains where an element is closed that is not open."""

    VOID = ("meta", "br", "line", "circle", "polyline")

    def __init__(self):
        super().__init__()
        self.open, self.text = [], []

    def handle_starttag(self, tag, attributes):
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_is_whole_and_says_only_what_was_said():
    for p50 in (10.0, 11.0, 5.0):
        save(OLD, p50, model='<script>alert("x")</script>')
    save(OLD, 4.0, runtime="openvino", model='<script>alert("x")</script>')
    text = page(series(measurements.history()))
    parser = Balance()
    parser.feed(text)
    assert parser.open == []
    assert "<script>alert" not in text
    assert '<script>alert("x")</script>' in "".join(parser.text)
    assert text.count("<polyline") == 2
    assert text.count("<circle") == 4
    assert 'class="n better">-54.5 %' in text
    assert 'class="n worse">+10.0 %' in text
    assert page(series(measurements.history())) == text
    assert "Nothing was saved" in page([])
