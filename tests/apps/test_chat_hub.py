"""Hubs that answer nonsense, and devices as the chat's page shows them."""

import asyncio
import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

pytest.importorskip("httpx2")
pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from edgekit.apps import chat_devices, chat_hub
from edgekit.apps.chat_local import reached
from edgekit.errors import DeviceError, InputError

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


def test_who_answers_and_is_no_hub():
    with hub_that_says(OK + b"[]") as url, pytest.raises(InputError, match="nonsense"):
        reached(url, "")


def test_a_server_that_does_not_count_is_counted():
    answer = OK + event(role="assistant", content="") + event(content="a") + event(content="b")
    with hub_that_says(answer + b"data: [DONE]\n\n") as url:
        found = asyncio.run(said(url))
    assert [(piece.text, piece.tokens) for piece in found] == [("", 0), ("a", 1), ("b", 2)]


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
