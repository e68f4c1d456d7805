"""Who may connect to a demo, what a viewer may send, and what happens when one vanishes."""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from edgekit.apps.web.frames import Frame, Kind
from edgekit.apps.web.meter import Meter
from edgekit.apps.web.newest import Newest
from edgekit.apps.web.serve import Address, listen
from edgekit.apps.web.site import FAULTS, MOST_VIEWERS, WAITING, Demo
from edgekit.errors import DeviceError, InputError, UsageError

from ..devices.gain_bundle import colour_bundle
from .browser import Serving, claim, farewell, fetch, wait

TOKEN = "a-token-of-23-characters"  # noqa: S105 -- opens nothing


class Echo(Demo):
    """Sends every frame to everybody."""

    page, title = "classify.html", "echo"

    def details(self):
        return {"frames": self.meter.read().frames}

    async def on_frame(self, viewer, frame):
        self.meter.take(2.0)
        self.tell(frame.pack())


@pytest.fixture(scope="module")
def serving():
    with Serving(Echo(None), token=TOKEN, origins=("https://friend.example",)) as found:
        yield found


def said(client, kind: str) -> dict:
    """The next message of a type."""
    while True:
        message = client.recv(timeout=10)
        if isinstance(message, str) and (told := json.loads(message))["type"] == kind:
            return told


def heard(client) -> Frame:
    """The next binary message."""
    while True:
        message = client.recv(timeout=10)
        if isinstance(message, bytes):
            return Frame.parse(message)


def test_it_listens_on_this_machine_alone_and_the_address_holds_the_token(serving):
    assert serving.url.startswith("http://127.0.0.1:")
    assert serving.url.endswith(f"/{TOKEN}/")
    status, headers, page = fetch(serving.url)
    assert status == 200
    assert b"static/classify.js" in page
    assert "default-src 'self'" in headers["Content-Security-Policy"]
    assert headers["Referrer-Policy"] == "no-referrer"


@pytest.mark.parametrize("path", ["", "wrong-token-of-24-chars/", f"{TOKEN[:-1]}/", f"x{TOKEN}/"])
@pytest.mark.parametrize("rest", ["", "status", "static/common.css", "live"])
def test_nothing_is_served_without_the_token(serving, path, rest):
    root = serving.url.removesuffix(f"{TOKEN}/")
    assert fetch(root + path + rest)[0] == 403
    with pytest.raises(InvalidStatus) as refused:
        connect((root + path + rest).replace("http", "ws", 1))
    assert refused.value.response.status_code == 403


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://127.0.0.1:1", "file://"]
)
def test_a_page_from_elsewhere_is_refused_even_with_the_token(serving, origin):
    assert fetch(serving.url + "status", Origin=origin)[0] == 403
    with pytest.raises(InvalidStatus) as refused:
        connect(serving.socket, origin=origin)
    assert refused.value.response.status_code == 403


def test_its_own_page_and_one_that_was_named_may_connect(serving):
    own = serving.url.removesuffix(f"/{TOKEN}/")
    for origin in (own, "https://friend.example", None):
        with connect(serving.socket, origin=origin) as client:
            assert said(client, "state")["demo"] == "echo"


def test_files_beside_the_pages_are_out_of_reach(serving):
    assert fetch(serving.url + "static/../site.py")[0] == 404
    assert fetch(serving.url + "static/%2e%2e/site.py")[0] == 404
    assert fetch(serving.url + "static/common.css")[0] == 200


def test_a_frame_that_is_too_large_ends_its_connection_alone():
    with Serving(Echo(None), largest=10_000) as serving, connect(serving.socket) as other:
        with connect(serving.socket) as client:
            client.send(Frame(Kind.PICTURE, 1, b"x" * 9_000).pack())
            assert heard(client).number == 1
            claim(client, 10_001)
            assert farewell(client) == 1009  # message too big
        other.send(Frame(Kind.PICTURE, 2, b"small").pack())
        while heard(other).number != 2:
            pass


@pytest.mark.parametrize(
    "message",
    [b"", b"\1", b"\xff" * 8, "", "[]", "{}", "no json", '{"type": "unheard of"}', "[" * 9999],
)
def test_what_makes_no_sense_is_said_to_be_so(serving, message):
    with connect(serving.socket) as client:
        client.send(message)
        assert said(client, "error")["words"]
        client.send(Frame(Kind.PICTURE, 7, b"fine").pack())
        assert heard(client).content == b"fine"


def test_who_sends_nothing_else_is_sent_away(serving):
    with connect(serving.socket) as client:
        for _ in range(FAULTS - 1):
            client.send(b"")
            assert said(client, "error")
        client.send(b"")
        assert farewell(client) == 1008


def test_all_viewers_see_the_same_and_one_that_vanishes_is_counted_out(serving):
    with connect(serving.socket) as first, connect(serving.socket) as second:
        wait(lambda: serving.status()["viewers"] == 2)
        third = connect(serving.socket)
        wait(lambda: serving.status()["viewers"] == 3)
        third.socket.shutdown(socket.SHUT_RDWR)  # without a word, as a lost network
        wait(lambda: serving.status()["viewers"] == 2)
        first.send(Frame(Kind.PICTURE, 9, b"for all").pack())
        assert heard(first) == heard(second) == Frame(Kind.PICTURE, 9, b"for all")


def test_there_is_a_most_of_viewers(serving):
    with contextlib.ExitStack() as stack:
        for _ in range(MOST_VIEWERS):
            stack.enter_context(connect(serving.socket, close_timeout=0.1))
        wait(lambda: serving.status()["viewers"] == MOST_VIEWERS)
        with connect(serving.socket) as late:
            assert farewell(late) == 1013  # try again later
    wait(lambda: serving.status()["viewers"] == 0)


def test_who_reads_slowly_misses_frames_and_holds_up_nobody(serving):
    """More than all the buffers on the way hold is sent to one who does not read."""
    size, count = 1 << 20, 60
    with connect(serving.socket, max_size=None) as sender, socket.socket() as idle:
        port = int(serving.url.split(":")[2].split("/")[0])
        idle.connect(("127.0.0.1", port))
        idle.sendall(
            f"GET /{TOKEN}/live HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
        )
        wait(lambda: serving.status()["viewers"] == 2)
        for number in range(count):
            sender.send(Frame(Kind.PICTURE, number, bytes(size)).pack())
            assert heard(sender).number == number
        behind = [len(viewer._stream) for viewer in serving.demo.viewers]
        dropped = [viewer._stream.dropped for viewer in serving.demo.viewers]
    assert max(behind) <= WAITING
    assert max(dropped) > count // 2
    wait(lambda: serving.status()["viewers"] == 0)


def test_a_token_can_be_given_but_none_that_is_guessed():
    for token in ("short", "white space 123", "slash/slash/slash", "ümlaut-token"):
        with pytest.raises(UsageError, match="token"):
            listen(None, Address(token=token))
    listening = listen(None, Address(token="long-enough.~_1"))  # noqa: S106
    assert listening.url.endswith("/long-enough.~_1/")
    listening.close()


def test_an_address_that_is_taken_or_not_ours_is_said_to_be_so(serving):
    port = int(serving.url.split(":")[2].split("/")[0])
    with pytest.raises(DeviceError, match="cannot listen") as taken:
        listen(None, Address(port=port))
    assert "--port" in str(taken.value)
    with pytest.raises(DeviceError, match="cannot listen"):
        listen(None, Address(host="198.51.100.7"))
    with pytest.raises(DeviceError, match="cannot listen"):
        listen(None, Address(host="no such host"))


def test_with_a_certificate_it_is_https(tmp_path):
    pem, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    made += ["-nodes", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*made, "-keyout", key, "-out", pem], check=True, capture_output=True)
    with Serving(Echo(None), host="localhost", certificate=pem, key=key) as serving:
        assert serving.url.startswith("https://localhost:")
        trusting = ssl.create_default_context(cafile=pem)
        assert json.loads(fetch(serving.url + "status", trusting)[2])["demo"] == "echo"
        with connect(serving.socket, ssl=trusting) as client:
            assert said(client, "state")
    with pytest.raises(DeviceError, match="certificate"):
        listen(None, Address(certificate=key, key=pem))
    with pytest.raises(DeviceError, match="certificate"):
        listen(None, Address(certificate=tmp_path / "none.pem", key=key))


def test_frames_are_what_they_were():
    frame = Frame(Kind.PIXELS, 4_000_000_000, b"content", skipped=3)
    assert Frame.parse(frame.pack()) == frame
    assert Frame.parse(Frame(Kind.SOUND, 1, b"", skipped=70_000).pack()).skipped == 65535
    for broken in (b"", b"\1\0\0\0\0\0\0", b"\x63" + bytes(7)):
        with pytest.raises(InputError):
            Frame.parse(broken)


def test_the_meter_reads_the_last_ten_seconds():
    now = 100.0
    meter = Meter(lambda: now)
    assert meter.read().p50 is None
    for step in range(400):  # 20 s of a frame each 50 ms; the first half is slower
        now = 100.0 + 0.05 * step
        meter.take(30.0 if step < 200 else 10.0 + step % 2, wait=1.0)
    meter.dropped = 5
    read = meter.read()
    assert (read.frames, read.dropped, read.number) == (400, 5, 2)
    assert 10.0 <= read.p50 <= 11.0  # of the second half alone
    assert 11.0 <= read.p99 <= 30.0
    assert read.fps == pytest.approx(20, abs=0.2)
    now += 20
    assert (meter.read().p50, meter.read().fps) == (None, 0.0)


def test_the_newest_are_kept():
    async def story():
        queue = Newest(2)
        for item in range(5):
            queue.put(item)
        assert (len(queue), queue.dropped) == (2, 3)
        got = [await queue.get(), await queue.get()]
        late = asyncio.create_task(queue.get())
        await asyncio.sleep(0)
        queue.put("late")
        return [*got, await asyncio.wait_for(late, 5)]

    assert asyncio.run(story()) == [3, 4, "late"]


def test_it_ends_while_viewers_look_on():
    begun = time.monotonic()
    with Serving(Echo(None)) as serving, connect(serving.socket) as client:
        said(client, "state")
    assert time.monotonic() - begun < 20


def test_a_command_ends_with_ctrl_c_and_tells_what_was_seen(tmp_path):
    bundle = colour_bundle(tmp_path)
    command = Path(sys.executable).with_name("edgekit")
    running = subprocess.Popen(
        [command, "demo", "classify", bundle, "--port", "0", "--json", "--quiet"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "EDGEKIT_TOKEN": TOKEN},
    )
    url = re.search(rf"http://127.0.0.1:\d+/{TOKEN}/", running.stderr.readline())[0]
    with connect(url.replace("http", "ws", 1) + "live") as client:
        assert said(client, "state")["model"] == "colours"
        running.send_signal(signal.SIGINT)
        told, _ = running.communicate(timeout=30)
    assert running.returncode == 0
    assert json.loads(told)["address"] == url
    assert json.loads(told)["figures"]["frames"] == 0
