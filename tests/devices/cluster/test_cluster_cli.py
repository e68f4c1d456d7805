"""``edgekit cluster serve``, ``worker`` and the rest, as a user types them."""

import json
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

pytest.importorskip("cryptography")
pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("tokenizers")

from edgekit.cli import cluster_serve, main
from edgekit.devices.cluster.split import split
from edgekit.errors import UsageError

from .processes import tiny_model

PROGRAM = [sys.executable, "-c", "import sys; from edgekit.cli import main; sys.exit(main())"]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKIT_HOME", str(tmp_path / "home"))


@pytest.fixture
def ports():
    with socket.create_server(("127.0.0.1", 0)) as a, socket.create_server(("127.0.0.1", 0)) as b:
        return a.getsockname()[1], b.getsockname()[1]


def start(*arguments, folder):
    return subprocess.Popen(
        [*PROGRAM, "cluster", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=open(folder / f"{arguments[0]}.err", "w"),
        text=True,
    )


def until(path, pattern, seconds=30):
    end = time.monotonic() + seconds
    while not (found := re.search(pattern, path.read_text())):
        assert time.monotonic() < end, path.read_text()
        time.sleep(0.05)
    return found


def run(capfd, *arguments):
    capfd.readouterr()
    code = main(["cluster", *map(str, arguments)])
    return code, *capfd.readouterr()


def test_from_split_to_chat(tmp_path, ports, capfd):
    split(tiny_model(tmp_path / "model"), tmp_path / "parts", [1, 1])
    web, inner = ports
    serve = start(
        *("serve", tmp_path / "parts", "--listen", f"127.0.0.1:{inner}", "--json"),
        *("--http", f"127.0.0.1:{web}", "--context", 64, "--threads", 1, "--name", "tiny"),
        folder=tmp_path,
    )
    join = ["worker", "--join", f"127.0.0.1:{inner}", "--threads", 1, "--name", "kitchen"]
    workers = []
    try:
        code = until(tmp_path / "serve.err", r"--code (\S+)")[1]
        until(tmp_path / "serve.err", r"clients: http://127.0.0.1:\d+/v1, model tiny")
        workers.append(start(*join, "--code", code, "--json", folder=tmp_path))
        until(tmp_path / "serve.err", r"epoch 1: 2 nodes")
        url = f"http://127.0.0.1:{web}"
        said = run(capfd, "chat", "Hello", "--url", url, "--temperature", 0, "--max-tokens", 5)
        assert (said[0], said[2]) == (0, "")
        again = run(
            *(capfd, "chat", "Hello", "--url", url, "--temperature", 0, "--max-tokens", 5, "--json")
        )
        messages = json.loads(again[1])["messages"]
        assert messages[1]["content"] + "\n" == said[1]
        status = run(capfd, "status", "--url", url)
        assert "complete, epoch 1, 0 faults" in status[1]
        assert re.search(r"1 +kitchen +ready", status[1])
        # The device is known now: the code, though used, does no harm in a service's command.
        workers[0].send_signal(signal.SIGKILL)
        workers.append(start(*join, "--code", code, "--json", folder=tmp_path))
        until(tmp_path / "serve.err", r"epoch 2: 2 nodes")
        serve.send_signal(signal.SIGTERM)
        out, _ = serve.communicate(timeout=20)
        assert serve.returncode == 0
        told = json.loads(out)
        assert [fault["name"] for fault in told["faults"]] == ["kitchen"]
        assert told["requests"]["done"] == 2
        out, _ = workers[1].communicate(timeout=20)
        assert (workers[1].returncode, json.loads(out)) == (0, {"ended": "by the hub"})
    finally:
        for process in [serve, *workers]:
            process.kill()
            process.communicate()


def test_devices_are_listed_and_forgotten(tmp_path, capfd):
    code, out, _ = run(capfd, "invite", "--json")
    assert code == 0
    assert len(json.loads(out)["code"]) == 45 + 8
    assert json.loads(run(capfd, "devices", "--json")[1]) == {"devices": []}
    code, _, err = run(capfd, "devices", "--remove", "kitchen")
    assert (code, err) == (
        *(9, "error: no device is called kitchen. Next: edgekit cluster devices\n"),
    )


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["worker", "--join", "h:1:2"], 2, "'h:1:2' is no address"),
        (["worker", "--join", "h", "--code", "abc"], 2, "this is no join code"),
        (["worker", "--join", "127.0.0.1:1"], 9, "this device knows no hub"),
        (["worker", "--join", "h", "--memory-budget", "much"], 2, "'much' is no number of bytes"),
        (["serve", "nowhere"], 8, "nowhere is no split model"),
        (["serve", "nowhere", "--wire", "float8"], 2, "--wire float8 is not known"),
        (["chat", "hi", "--url", "http://127.0.0.1:1"], 9, "no hub at 127.0.0.1:1"),
        (["status", "--url", "http://127.0.0.1:1"], 9, "no hub at 127.0.0.1:1"),
    ],
)
def test_what_goes_wrong_is_one_line(capfd, arguments, code, line):
    found, _, err = run(capfd, *arguments)
    assert found == code
    assert line in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "count"),
    [("256MiB", 256 << 20), ("3GB", 3 * 10**9), ("800", 800), ("1.5 kb", 1500), (None, None)],
)
def test_numbers_of_bytes(text, count):
    assert cluster_serve._bytes(text) == count
    with pytest.raises(UsageError):
        cluster_serve._bytes("1XB")
