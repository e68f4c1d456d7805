"""The chat in front of a cluster of two processes: what viewers are told, and who is refused."""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from urllib.parse import urlsplit

import psutil
import pytest

pytest.importorskip("cryptography")
pytest.importorskip("httpx2")
pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("tokenizers")

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from edgekit.apps import chat_hub
from edgekit.apps.chat_local import local_hub, reached
from edgekit.cli import main
from edgekit.errors import DeviceError, InputError, UsageError

from .browser import claim, farewell, fetch, wait
from .chat_cluster import HELLO, SYSTEM, cut, due, requests, served, started


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return cut(tmp_path_factory.mktemp("chat"))


@pytest.fixture(scope="module")
def cluster(parts, tmp_path_factory):
    with started(parts, tmp_path_factory.mktemp("ranks")) as found:
        found.wait()
        yield found


@pytest.fixture(scope="module")
def serving(cluster):
    with served(cluster) as found:
        yield found


def question(number=1, content=HELLO, **changes):
    turns = [{"role": "user", "content": content}]
    asked = {"type": "ask", "id": number, "turns": turns, "temperature": 0, "most": 8}
    return asked | changes


class Page:
    """A viewer without a browser."""

    def __init__(self, serving):
        self._connecting = connect(serving.socket, max_size=None, max_queue=None)

    def __enter__(self):
        self._socket = self._connecting.__enter__()
        return self

    def __exit__(self, *exc):
        self._connecting.__exit__(*exc)

    def say(self, message):
        self._socket.send(message if isinstance(message, bytes | str) else json.dumps(message))

    def told(self, kind, true=lambda message: True):
        """The next message of a kind, of which something is true."""
        while True:
            message = json.loads(self._socket.recv(timeout=20))
            if message["type"] == kind and true(message):
                return message

    def answer(self):
        """All pieces of an answer, to its end."""
        pieces = [self.told("answer")]
        while pieces[-1]["state"] in ("waiting", "coming"):
            pieces.append(self.told("answer"))
        return pieces

    def vanish(self):
        """Without a goodbye."""
        self._socket.socket.shutdown(socket.SHUT_RDWR)


def text(pieces):
    return "".join(piece["text"] for piece in pieces)


# ---- answers ---------------------------------------------------------------------------------


def test_what_a_page_is_told_is_what_the_hub_says(serving, cluster):
    expected = due(cluster, 24, ("system", SYSTEM), ("user", HELLO))
    with Page(serving) as page:
        assert page.told("state", lambda state: state["model"])["model"] == "tiny"
        page.say(question(7, system=SYSTEM, most=24))
        pieces = page.answer()
    assert text(pieces) == expected
    assert {piece["id"] for piece in pieces} == {7}
    last = pieces[-1]
    assert (last["state"], last["why"], last["tokens"]) == ("done", "length", 24)
    assert last["first"] > 0
    assert last["rate"] > 0
    figures = serving.demo.meter.read()
    assert figures.frames > 16  # all but the first piece, whose wait is another thing
    assert figures.p50 > 0


def test_each_has_a_conversation_and_its_turn(serving, cluster):
    expected = [due(cluster, 12, ("user", word)) for word in ("one", "two", "three")]
    assert len(set(expected)) == 3
    with contextlib.ExitStack() as held:
        pages = [held.enter_context(Page(serving)) for _ in expected]
        for page, word in zip(pages, ("one", "two", "three"), strict=True):
            page.say(question(1, word, most=12))
        assert [text(page.answer()) for page in pages] == expected


def test_stopping_stops_the_hub(serving, cluster):
    before = requests(cluster)["cancelled"]
    with Page(serving) as page:
        page.say(question(most=380))
        page.told("answer", lambda answer: answer["tokens"] > 3)
        page.say({"type": "stop"})
        last = page.answer()[-1]
        assert (last["state"], last["id"]) == ("stopped", 1)
        assert last["tokens"] < 200
        wait(lambda: requests(cluster)["cancelled"] == before + 1)
        assert requests(cluster)["waiting"] == 0
        page.say(question(2))
        assert page.answer()[-1]["state"] == "done"


def test_a_viewer_who_vanishes_stops_its_generation(serving, cluster):
    before = requests(cluster)["cancelled"]
    with contextlib.suppress(ConnectionClosed), Page(serving) as page:
        page.say(question(most=380))
        page.told("answer", lambda answer: answer["tokens"] > 3)
        page.vanish()
    wait(lambda: requests(cluster)["cancelled"] == before + 1)
    assert requests(cluster)["waiting"] == 0
    wait(lambda: not serving.demo.viewers)


def test_more_than_may_wait_are_refused(serving, cluster):
    with contextlib.ExitStack() as held:
        pages = [held.enter_context(Page(serving)) for _ in range(10)]
        *most, last = pages
        for page in most:
            page.say(question(most=380))
        wait(lambda: requests(cluster)["waiting"] == 9)
        last.say(question(most=380))
        last = last.answer()[-1]
        assert last["state"] == "failed"
        assert last["why"].startswith("the hub is busy: 9 requests wait")
        assert serving.demo.meter.dropped == 1
    wait(lambda: requests(cluster)["waiting"] == 0)


# ---- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (b"\x01\x00", "a message makes no sense"),
        (b"\x01\x00\x00\x00\x00\x00\x00\x00jpeg", "chat takes no frames"),
        ("{", "a message makes no sense"),
        ({"type": "choose", "choice": 0}, "chat knows no message 'choose'"),
        (question(True), "id: input should be a valid integer"),
        (question(-1), "id: "),
        (question(turns=[]), "turns: "),
        (question(turns="Hello"), "turns: "),
        (question(turns=[{"role": "system", "content": "x"}]), "turns.0.role: "),
        (question(turns=[{"role": "user"}]), "turns.0.content: "),
        (question(turns=[{"role": "user", "content": 5}]), "turns.0.content: "),
        (
            question(turns=[{"role": "assistant", "content": "x"}]),
            "the last message is no question",
        ),
        (question(content=" \n "), "the last message is no question"),
        (question(content="\ud800"), "turns.0.content: "),
        (question(content="x" * 20_001), "turns.0.content: string should have at most 20000"),
        (question(turns=[{"role": "user", "content": "x"}] * 201), "turns: "),
        (question(turns=[{"role": "user", "content": "x" * 20_000}] * 11), "more than 200000"),
        (question(system="x" * 20_001), "system: "),
        (question(temperature=2.1), "temperature: "),
        (question(temperature=float("nan")), "temperature: "),
        (question(most=0), "most: "),
        (question(most=10**9), "most: "),
        (question(model="another"), "model: extra inputs are not permitted"),
    ],
)
def test_what_makes_no_sense_is_said(serving, message, words):
    with Page(serving) as page:
        page.say(message)
        assert words in page.told("error")["words"]
        if isinstance(message, dict) and message["type"] == "ask":
            page.say(question(5))
            assert text(page.answer())  # which is taken after what was refused


def test_what_does_not_fit_is_told_in_the_hubs_words(serving):
    with Page(serving) as page:
        page.say(question(content="x" * 1000))
        last = page.answer()[-1]
        assert last["state"] == "failed"
        assert "the prompt has" in last["why"]
        page.say(question(2, most=300))
        page.say(question(3))
        assert "one answer is on its way" in page.told("error")["words"]


def test_only_who_has_the_token_and_a_page_of_ours(serving):
    bare = serving.socket.replace(urlsplit(serving.socket).path, "/live")
    with pytest.raises(InvalidStatus) as refused, connect(bare):
        pass
    assert refused.value.response.status_code == 403
    with pytest.raises(InvalidStatus), connect(serving.socket, origin="https://evil.example"):
        pass
    with connect(serving.socket) as asked:
        claim(asked, 5 << 20)
        assert farewell(asked) == 1009
    assert serving.status()["demo"] == "chat"


# ---- the command ----------------------------------------------------------------------------


def test_addresses_and_hubs_that_are_not_there(cluster):
    for wrong in ("ftp://x", "http://", "http://u:p@h", "http://h/else", "http://h:99999", "h?q=1"):
        with pytest.raises(UsageError, match="no address of a hub"):
            chat_hub.HubClient(wrong)
    assert chat_hub.HubClient("hub.local:8710/v1/").url == "http://hub.local:8710"
    with pytest.raises(DeviceError, match=r"no hub at http://127.0.0.1:1.*edgekit cluster serve"):
        reached("127.0.0.1:1", "")
    with pytest.raises(InputError, match=r"API key.*--api-key"):
        reached(cluster.url, "wrong")
    assert reached(cluster.url, cluster.key).url == cluster.url


def test_what_the_command_refuses(tmp_path, capfd):
    assert main(["demo", "chat", "http://127.0.0.1:1"]) == 9
    assert main(["demo", "chat", "http://127.0.0.1:1", "--local", "x"]) == 2
    assert main(["demo", "chat", "--local", str(tmp_path), "--memory", "much"]) == 2
    assert main(["demo", "chat", "--local", str(tmp_path / "none")]) == 8
    assert capfd.readouterr().err.count("error: ") == 4


def test_a_local_hub_is_cut_and_begun_and_leaves_nothing(parts, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKIT_HOME", str(tmp_path))
    left = tmp_path / "state" / "cluster" / f"local-{2**22 + 1}-x"  # no process has that number
    left.mkdir(parents=True)
    lines = []
    how = {"collective": "star", "engine": {"kernel": "numpy"}}
    with local_hub(str(parts.parent / "model"), 3, "bf16", lines.append, **how) as hub:
        told = asyncio.run(looked(hub))
    assert [node["share"]["heads"] for node in told["nodes"]] == [2, 2, 2]
    assert (told["model"], told["precision"]) == ("model", "bf16")
    assert lines[0] == "rank 0 of 3"
    assert list((tmp_path / "state" / "cluster").iterdir()) == []


def test_the_command_from_a_model_to_ctrl_c(parts, tmp_path):
    command = [sys.executable, "-c", "import sys; from edgekit.cli import main; sys.exit(main())"]
    command += ["demo", "chat", "--local", str(parts), "--memory-budget", "300MiB", "--port", "0"]
    running = subprocess.Popen(
        [*command, "--context", "64", "--quiet"],
        stderr=subprocess.PIPE,
        text=True,
        # Without a compiler NumPy computes: compiling the kernel takes seconds.
        env=os.environ | {"EDGEKIT_HOME": str(tmp_path), "PATH": str(tmp_path)},
    )
    try:
        line = running.stderr.readline()  # of --quiet, the address alone
        url = re.fullmatch(r"open (\S+) in a browser; Ctrl\+C ends it\n", line)[1]
        status, _, page = fetch(url)
        assert (status, b"edgekit chat" in page) == (200, True)
        assert json.loads(fetch(url + "status")[2])["demo"] == "chat"
        ranks = psutil.Process(running.pid).children(recursive=True)
        assert len(ranks) == 2
        running.send_signal(signal.SIGINT)
        assert running.wait(30) == 0
        assert not any(rank.is_running() for rank in ranks)
        assert list((tmp_path / "state" / "cluster").iterdir()) == []
    finally:
        running.kill()
        running.communicate()


async def looked(hub):
    async with hub:
        return await hub.cluster()
