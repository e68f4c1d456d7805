"""``edgekit demo lidar``: what its viewers are sent, and what they may send."""

import json
import socket
import time
from contextlib import contextmanager
from urllib.parse import urlsplit

import numpy as np
import pytest

pytest.importorskip("onnxscript")
pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from websockets.sync.client import connect

from edgekit.apps import lidar
from edgekit.apps.lidar import KINDS, LidarDemo
from edgekit.apps.sweeps import open_sweeps
from edgekit.apps.web.engine import Engine
from edgekit.apps.web.frames import Frame, Kind
from edgekit.bundle import Bundle
from edgekit.cli import main
from edgekit.errors import UsageError
from edgekit.runtimes import load, tasks
from edgekit.runtimes.point_clouds import read_points

from ..lidar_micro import lidar_bundle, save_sweeps, write_bundle  # noqa: F401 -- a fixture
from .browser import Serving, claim, farewell, wait
from .test_demo_web import heard, said
from .test_sweeps import unpacked


@pytest.fixture
def folder(tmp_path):
    """Three sweeps and, between them, a file that is none."""
    save_sweeps(tmp_path / "drive", 3)
    (tmp_path / "drive" / "sweep1b.bin").write_bytes(b"seven b")
    (tmp_path / "drive" / "notes.txt").write_text("none of the sweeps")
    return tmp_path / "drive"


@contextmanager
def showing(bundle, source, rate=30.0, **options):
    """The demo served; ``options`` of :class:`LidarDemo`."""
    with Engine([bundle], KINDS, "onnxruntime", threads=1) as engine:
        demo = LidarDemo(engine, open_sweeps(source), rate, **options)
        with Serving(demo, demo.largest) as serving:
            yield serving


def answers(bundle, paths, runtime="onnxruntime"):
    """What the task says of each file, without any demo, by name."""
    opened_bundle = Bundle.open(bundle)
    with load(opened_bundle, runtime, threads=1) as session:
        task = tasks.for_bundle(opened_bundle, session)
        return {path.name: task(path) for path in paths}


def watching(serving):
    """A viewer who may leave without having read all."""
    return connect(serving.socket, close_timeout=0.2)


def tell(client, **message):
    client.send(json.dumps(message))


def test_a_viewer_gets_the_points_and_what_the_task_says(lidar_bundle, folder):  # noqa: F811
    results = answers(lidar_bundle, sorted(folder.glob("sweep[0-9].bin")))
    with showing(lidar_bundle, folder) as serving, watching(serving) as client:
        state = said(client, "state")
        assert state["reach"] == [-48, -48, -3, 48, 48, 5]
        assert (state["source"], state["sweeps"], state["threshold"]) == ("drive", 4, 0.3)
        names = []
        for _ in range(6):
            told, frame = said(client, "result"), heard(client)
            assert (frame.kind, frame.number) == (Kind.POINTS, told["number"])
            wanted = results[told["name"]].to_json()
            places, _, total = unpacked(frame.content)
            assert total == len(places) == told["points"] == wanted["points"]
            points = read_points(folder / told["name"])
            np.testing.assert_allclose(places, points[:, :3], atol=0.006)
            check_boxes(told["detections"], wanted["detections"])
            assert told["ms"]["model"] > 0
            names.append(told["name"])
        assert names == ["sweep0.bin", "sweep1.bin", "sweep2.bin"] * 2
        (fault,) = serving.status()["faults"]
        assert fault["name"] == "sweep1b.bin"
        assert fault["words"].startswith("sweep1b.bin is no sweep")
        figures = serving.demo.meter.read()
        assert figures.frames >= 6
        assert figures.p50 > 0


def check_boxes(told, wanted):
    assert len(told) == len(wanted) > 5
    for one, other in zip(told, wanted, strict=True):
        assert (one["label"], one["index"]) == (other["label"], other["index"])
        assert one["score"] == pytest.approx(other["score"], abs=1e-6)
        assert one["box"] == pytest.approx(other["box"], abs=1e-3)
        assert one["velocity"] == pytest.approx(other["velocity"], abs=1e-3)


def test_a_mended_file_is_forgiven(lidar_bundle, folder):  # noqa: F811
    with showing(lidar_bundle, folder) as serving, watching(serving) as client:
        wait(lambda: serving.status()["faults"])
        (folder / "sweep1b.bin").write_bytes((folder / "sweep1.bin").read_bytes())
        while said(client, "result")["name"] != "sweep1b.bin":
            pass
        assert serving.demo.summary()["passed_over"].keys() <= {"sweep1b.bin"}
        wait(lambda: not serving.status()["faults"])
        assert not serving.demo.summary()["passed_over"]


def test_a_sweep_that_the_task_refuses_is_passed_over(lidar_bundle, folder):  # noqa: F811
    np.full((50, 4), 300, np.float32).tofile(folder / "sweep1b.bin")
    with showing(lidar_bundle, folder) as serving, watching(serving) as client:
        names = [said(client, "result")["name"] for _ in range(5)]
        assert "sweep1b.bin" not in names
        assert names[3:] == names[:2]
        assert "outside the range" in serving.status()["faults"][0]["words"]


def test_one_may_pause_and_step_and_who_comes_sees_the_same(lidar_bundle, folder):  # noqa: F811
    with showing(lidar_bundle, folder) as serving, watching(serving) as client:
        said(client, "result")
        tell(client, type="step")
        wait(lambda: serving.status()["paused"])
        number = still(serving)
        with watching(serving) as other:
            assert said(other, "result")["number"] == heard(other).number == number
            tell(other, type="step")
            assert said(other, "result")["number"] == number + 1
            while said(client, "result")["number"] != number + 1:
                pass
            assert still(serving) == number + 1
            tell(other, type="pause", paused=False)
            assert said(client, "result")["number"] == number + 2


def still(serving) -> int:
    """How many sweeps were answered, once that does not change any more."""
    seen, frames = -1, serving.demo.meter.read().frames
    while seen != frames:
        time.sleep(0.3)  # far longer than a sweep takes
        seen, frames = frames, serving.demo.meter.read().frames
    return frames


def test_nothing_is_answered_while_nobody_looks_on(lidar_bundle, folder):  # noqa: F811
    with showing(lidar_bundle, folder) as serving:
        assert still(serving) == 0
        with watching(serving) as client:
            said(client, "result")
            client.socket.close()  # it vanishes
        wait(lambda: serving.status()["viewers"] == 0)
        frames = still(serving)
        assert frames >= 1
        with watching(serving) as client:
            assert said(client, "result")["number"] == frames
            assert said(client, "result")["number"] == frames + 1


def test_another_runtime_answers_what_is_paused(lidar_bundle, folder):  # noqa: F811
    pytest.importorskip("openvino")
    with showing(lidar_bundle, folder) as serving, watching(serving) as client:
        tell(client, type="step")
        number = still(serving)
        while (first := said(client, "result"))["number"] != number:
            pass
        names = [choice.runtime for choice in serving.demo.engine.choices]
        tell(client, type="choose", choice=names.index("openvino"))
        again = said(client, "result")
        assert again["number"] == number + 1
        assert serving.demo.engine.choice.runtime == "openvino"
        assert again["name"] == first["name"]
        assert len(again["detections"]) == len(first["detections"])


def test_who_reads_slowly_misses_whole_sweeps(lidar_bundle, tmp_path):  # noqa: F811
    save_sweeps(tmp_path, 1, rings=64)
    with showing(lidar_bundle, tmp_path, rate=100.0) as serving, reluctant(serving) as client:
        said(client, "result")
        last = heard(client).number
        answered = serving.demo.meter.read().frames
        wait(lambda: serving.demo.meter.read().frames > answered + 40)
        while (told := said(client, "result")["number"]) <= last + 2:
            last = told
        for _ in range(3):  # of those after the gap, each has its points
            assert heard(client).number == told
            told = said(client, "result")["number"]


@contextmanager
def reluctant(serving):
    """A viewer for whom the system keeps as little as it can."""
    host, port = urlsplit(serving.url).netloc.split(":")
    with socket.socket() as kept:
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        kept.connect((host, int(port)))
        with connect(serving.socket, sock=kept, close_timeout=0.1, max_queue=1) as client:
            yield client


@pytest.mark.parametrize(
    "message",
    [
        {"type": "pause"},
        {"type": "pause", "paused": 1},
        {"type": "clock"},
        {"type": "clock", "asked": "soon"},
        {"type": "clock", "asked": float("nan")},
        {"type": "clock", "asked": 10**40},
        {"type": "classes", "names": ["car"]},
        {"type": "choose", "choice": 9},
        Frame(Kind.POINTS, 1, b"0123456789").pack(),
        Frame(Kind.PICTURE, 1, b"").pack(),
    ],
)
def test_what_makes_no_sense_is_said_to_be_so(serving_one, message):
    with watching(serving_one) as client:
        client.send(message if isinstance(message, bytes) else json.dumps(message))
        assert said(client, "error")["words"]
        assert said(client, "result")["detections"]


@pytest.fixture(scope="module")
def serving_one(lidar_bundle, tmp_path_factory):  # noqa: F811
    """A single sweep, over and over."""
    (path,) = save_sweeps(tmp_path_factory.mktemp("one"), 1)
    with showing(lidar_bundle, path) as serving:
        yield serving


def test_a_single_sweep_is_answered_again_and_again(serving_one):
    with watching(serving_one) as client, watching(serving_one) as other:
        told = [said(client, "result") for _ in range(3)]
        assert len({one["number"] for one in told}) == 3
        assert {one["name"] for one in told} == {"sweep0.bin"}
        assert said(other, "result")["name"] == "sweep0.bin"
        claim(client, LidarDemo.largest + 1)
        assert farewell(client) == 1009
        assert said(other, "result")["detections"]


def test_the_clock_is_the_one_of_the_results(serving_one):
    with watching(serving_one) as client:
        tell(client, type="clock", asked=12.5)
        clock, result = said(client, "clock"), said(client, "result")
        assert clock["asked"] == 12.5
        assert abs(result["due"] - clock["now"]) < 10_000


def test_at_the_rate_and_no_faster(lidar_bundle, folder):  # noqa: F811
    with showing(lidar_bundle, folder, rate=4.0) as serving, watching(serving) as client:
        due = [said(client, "result")["due"] for _ in range(4)]
        assert min(np.diff(due)) >= 200  # 250 but for the timer


def test_without_a_sweep_the_command_ends_in_a_line(lidar_bundle, tmp_path, capfd):  # noqa: F811
    empty, torn = tmp_path / "empty", tmp_path / "torn"
    empty.mkdir(), torn.mkdir()
    (torn / "a.bin").write_bytes(b"seven b")
    for source, words in (
        (empty, "no sweeps in"),
        (torn, "none of 1 sweeps in"),
        (torn / "a.bin", "no sweep"),
        (tmp_path / "none.bin", "does not exist"),
    ):
        assert main(["demo", "lidar", str(lidar_bundle), "--source", str(source)]) == 8
        said_so = capfd.readouterr().err.strip()
        assert words in said_so
        assert "\n" not in said_so


def test_a_bundle_of_another_task_is_refused(lidar_bundle):  # noqa: F811
    with pytest.raises(UsageError, match="classification is shown"):
        Engine([lidar_bundle], ("classification",))


def test_files_that_vanish_leave_the_last_picture(lidar_bundle, folder, monkeypatch):  # noqa: F811
    monkeypatch.setattr(lidar, "_DEJECTED", 0.05)
    with showing(lidar_bundle, folder) as serving, watching(serving) as client:
        said(client, "result")
        kept = (folder / "sweep2.bin").read_bytes()
        for path in folder.glob("sweep*.bin"):
            path.unlink()
        wait(lambda: len(serving.status()["faults"]) == 4)
        frames = still(serving)
        (folder / "sweep2.bin").write_bytes(kept)
        wait(lambda: serving.demo.meter.read().frames > frames)


def test_the_view_begins_with_the_range_of_the_task(tmp_path):
    bundle = write_bundle(tmp_path / "near", reach=12.0, openvino=False)
    (path,) = save_sweeps(tmp_path / "one", 1)
    with showing(bundle, path, least=0.5) as serving, watching(serving) as client:
        state = said(client, "state")
        assert state["reach"][3:5] == [12, 12]
        assert (state["lowest"], state["threshold"]) == (0.1, 0.5)
        assert said(client, "result")["outside"] > 1000
