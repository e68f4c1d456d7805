"""A cluster of processes on this machine: begun, broken, mended, ended."""

import json
import os
import signal
import subprocess
import sys

import psutil
import pytest

pytest.importorskip("cryptography")
pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("tokenizers")

from edgekit.devices.cluster.local import _PROGRAM, LocalCluster, LocalSettings
from edgekit.devices.cluster.serving import Client
from edgekit.devices.cluster.split import split
from edgekit.errors import DeviceError, InputError

from .processes import tiny_model, wait

NUMPY = {"kernel": "numpy"}
ASK = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("local")
    split(tiny_model(folder / "model"), folder / "parts", [1, 1])
    return folder / "parts"


def test_from_the_beginning_to_the_end(parts, tmp_path):
    said = []
    settings = LocalSettings("tiny", 1 << 30, context=96, collective="star", engine=NUMPY)
    with LocalCluster(parts, tmp_path, settings, said.append) as cluster:
        cluster.wait()
        client = Client(cluster.url, cluster.key)
        with pytest.raises(DeviceError, match="API key"):
            Client(cluster.url).get("/cluster")
        hub, worker = client.get("/cluster")["nodes"]
        assert (hub["name"], worker["name"], worker["rank"]) == ("hub", "worker-1", 1)
        for node, name in ((hub, "hub"), (worker, "worker-1")):
            assert node["memory"]["budget"] == 1 << 30
            there = psutil.Process(cluster.processes[name]).memory_info().rss
            assert node["memory"]["now"] == pytest.approx(there, rel=0.25)
        text = "".join(client.chat(ASK, temperature=0, max_tokens=8))
        before = cluster.processes
        os.kill(before["worker-1"], signal.SIGKILL)
        wait(lambda: cluster.processes["worker-1"] != before["worker-1"])
        assert "".join(client.chat(ASK, temperature=0, max_tokens=8)) == text
        assert client.get("/cluster")["faults"][0]["name"] == "worker-1"
        known = [psutil.Process(number) for number in cluster.processes.values()]
    assert "worker-1 ended by SIGKILL; it is started again" in said
    assert said[-1] == "worker-1: the hub ended"
    assert not any(process.is_running() for process in known)


def test_what_cannot_begin_says_why(parts, tmp_path):
    settings = LocalSettings("tiny", 1 << 20, engine=NUMPY)
    with (
        LocalCluster(parts, tmp_path, settings) as cluster,
        pytest.raises(DeviceError, match=r"a memory budget of 1.0 MiB is too small"),
    ):
        cluster.wait()
    with pytest.raises(InputError, match="no split model"):
        LocalCluster(tmp_path, tmp_path, settings)


def test_a_rank_ends_with_whoever_started_it(tmp_path):
    about = {"role": "worker", "name": "w", "state": str(tmp_path), "port": 1, "code": "none"}
    about |= {"memory_budget": None, "threads": 1, "engine": {}}
    wrong = subprocess.run(
        [sys.executable, "-P", "-c", _PROGRAM],
        input=json.dumps(about) + "\n",
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    # Its input ends at once: either that, or the code that is none, was noticed first.
    assert wrong.returncode in (2, -signal.SIGTERM)
    slow = "import time; from edgekit.devices.cluster import local; "
    slow += "local._hub = lambda about: time.sleep(60); raise SystemExit(local.rank())"
    running = subprocess.Popen([sys.executable, "-P", "-c", slow], stdin=subprocess.PIPE, text=True)
    running.stdin.write(json.dumps({"role": "hub"}) + "\n")
    running.stdin.flush()
    with pytest.raises(subprocess.TimeoutExpired):
        running.wait(1.0)
    running.stdin.close()
    assert running.wait(20) == -signal.SIGTERM


def test_threads_tell_in_lines_of_their_own():
    """What one says is not broken by what another says at the same time."""
    program = """
import sys, threading
from edgekit.devices.cluster.local import _tell
sys.setswitchinterval(1e-6)
def work(name):
    for number in range(500):
        _tell(type="line", text=f"{name} {number}")
threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, timeout=60, check=True
    )
    told = [json.loads(line)["text"] for line in done.stdout.splitlines()]
    assert sorted(told) == sorted(f"{name} {number}" for name in "abcd" for number in range(500))
