"""The dialogue server over loopback, with real Opus both ways, and clients that misbehave."""

import contextlib
import json
import threading
import time

import numpy as np
import pytest

pytest.importorskip("onnxscript")
pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("av")

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from edgekit.apps import ogg_opus, talk
from edgekit.apps import talk_protocol as protocol
from edgekit.apps.talk_protocol import Kind
from edgekit.cli import main
from edgekit.errors import InputError, UsageError

from ..moshi_micro import PIECES, codec_bundle, dialogue_bundle, tone  # noqa: F401 -- fixtures
from .browser import Serving, claim, farewell, fetch, wait

FRAME = 1920


class Running(Serving):
    """The demo, served."""

    def __init__(self, demo: talk.TalkDemo) -> None:
        super().__init__(demo, demo.largest)

    @property
    def address(self) -> str:
        """Where Moshi's clients connect."""
        return self.url.replace("http", "ws", 1).rstrip("/") + protocol.PATH

    def connect(self, query: str = ""):
        wait(lambda: not self.demo.busy)
        return connect(self.address + query, max_size=None)

    def last(self) -> talk.Told:
        wait(lambda: not self.demo.busy)
        return self.demo.sessions[-1]


@pytest.fixture(scope="module")
def running(dialogue_bundle):  # noqa: F811
    with talk.opened([dialogue_bundle], threads=1) as demo, Running(demo) as found:
        yield found


def greeted(socket) -> None:
    assert socket.recv(timeout=10) == protocol.handshake()


def converse(socket, sound: np.ndarray, pace: float = 0.02) -> dict[Kind, list[bytes]]:
    """Send sound at about the server's own pace, and collect what comes until it is silent."""
    encoder = ogg_opus.OpusEncoder()
    for start in range(0, len(sound), 480):
        socket.send(protocol.audio(encoder.encode(sound[start : start + 480])))
        time.sleep(pace / 4)
    return collect(socket)


def collect(socket, seconds: float = 1.0) -> dict[Kind, list[bytes]]:
    found: dict[Kind, list[bytes]] = {kind: [] for kind in Kind}
    try:
        while True:
            message = socket.recv(timeout=seconds)
            found[Kind(message[0])].append(message[1:])
    except (TimeoutError, ConnectionClosed):
        return found


def heard(stream: bytes) -> np.ndarray:
    """What an Ogg/Opus stream sounds like."""
    parts, faults = [], []
    decoder = ogg_opus.OpusDecoder(parts.append, faults.append)
    for start in range(0, len(stream), 97):  # cut anywhere
        decoder.feed(stream[start : start + 97])
        time.sleep(0.001)
    time.sleep(0.3)
    decoder.close()
    assert faults == []
    return np.concatenate(parts)


def test_opus_there_and_back():
    sound = tone(1.0)
    encoder = ogg_opus.OpusEncoder()
    pieces = [encoder.encode(sound[i : i + FRAME]) for i in range(0, len(sound), FRAME)]
    assert pieces[0].startswith(b"OggS")
    assert b"OpusHead" in pieces[0]
    assert all(pieces)  # each frame leaves at once
    back = heard(b"".join(pieces))
    # The encoder looks ahead for 6.5 ms, which a decoder skips; the end has not been flushed.
    assert len(sound) - len(back) < 0.05 * 24_000
    count = len(back) - 200
    best = max(
        float(np.corrcoef(sound[200:count], back[200 + lag : count + lag])[0, 1])
        for lag in range(-200, 200)
    )
    assert best > 0.95


def test_a_conversation(running):
    sound = tone(1.6)
    with running.connect() as socket:
        greeted(socket)
        found = converse(socket, sound)
    answer = heard(b"".join(found[Kind.AUDIO]))
    assert len(answer) > 0.3 * len(sound)
    assert np.abs(answer).max() > 1e-3
    said = b"".join(found[Kind.TEXT]).decode()
    for piece in PIECES:
        said = said.replace(piece.replace("▁", " "), "")
    assert said == ""
    assert found[Kind.ERROR] == []
    told = running.last()
    assert told.heard >= 5
    assert told.sent >= 4
    assert told.faults == []


def test_status(running):
    wait(lambda: not running.demo.busy)
    assert json.loads(fetch(running.url + "api/status")[2]) == {
        "model": "micro-moshi",
        "busy": False,
    }


def test_a_second_client_is_told_that_it_is_busy(running):
    with running.connect() as first:
        greeted(first)
        with connect(running.address) as second:
            message = second.recv(timeout=10)
            assert message[0] == Kind.ERROR
            assert b"busy" in message
            assert farewell(second) == protocol.BUSY
        found = converse(first, tone(0.8))  # which the first does not notice
        assert found[Kind.AUDIO]
        assert found[Kind.ERROR] == []


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (b"", b"empty"),
        ("words", b"binary"),
        (bytes([Kind.CONTROL]), b"no known action"),
        (bytes([Kind.CONTROL, 77]), b"no known action"),
        (bytes([Kind.HANDSHAKE]), b"only a server"),
        (bytes([Kind.AUDIO]) + b"no Ogg at all" * 40, b"no Ogg/Opus"),
    ],
)
def test_what_makes_no_sense_is_said_and_survived(message, told, running):
    with running.connect() as socket:
        greeted(socket)
        socket.send(message)
        answer = socket.recv(timeout=10)
        assert answer[0] == Kind.ERROR
        assert told in answer
        found = converse(socket, tone(0.8))
        assert found[Kind.AUDIO]
    assert len(running.last().faults) == 1


def test_unknown_kinds_are_discarded(running):
    with running.connect() as socket:
        greeted(socket)
        for message in (b"\x63hello", b"\x09", bytes([Kind.PING]), bytes([Kind.METADATA]) + b"{"):
            socket.send(message)
        assert converse(socket, tone(0.6))[Kind.ERROR] == []
    assert running.last().unknown == 2


def test_too_many_faults_end_a_session(running):
    with running.connect() as socket:
        greeted(socket)
        for _ in range(talk.FAULTS):
            socket.send(b"")
            assert b"empty" in socket.recv(timeout=10)
        assert farewell(socket) == protocol.REFUSED
    assert len(running.last().faults) == talk.FAULTS


def test_an_oversized_message_ends_a_session(running):
    with running.connect() as socket:
        greeted(socket)
        claim(socket, protocol.LARGEST + 1)
        assert farewell(socket) == 1009
    test_status(running)


def test_sound_before_the_handshake_and_pages_out_of_order(running):
    encoder = ogg_opus.OpusEncoder()
    pieces = [encoder.encode(tone(0.08)) for _ in range(6)]
    with running.connect() as socket:
        socket.send(protocol.audio(pieces[0]))  # before what it should wait for
        greeted(socket)
        for piece in (pieces[3], pieces[1], pieces[5], pieces[2]):
            socket.send(protocol.audio(piece))
        collect(socket, 0.5)
    with running.connect() as socket:
        greeted(socket)
        socket.send(protocol.audio(pieces[4]))  # a page without its stream's beginning
        collect(socket, 0.5)
    test_status(running)


def test_a_client_that_vanishes(running):
    with contextlib.suppress(ConnectionClosed), running.connect() as socket:
        greeted(socket)
        encoder = ogg_opus.OpusEncoder()
        socket.send(protocol.audio(encoder.encode(tone(0.4))))
        socket.socket.shutdown(2)  # no goodbye
    with running.connect() as other:  # as soon as the server has noticed
        greeted(other)
        assert converse(other, tone(0.6))[Kind.AUDIO]


def test_what_is_too_old_is_dropped(running):
    """A minute of sound at once is no live sound: what is heard is the newest 160 ms."""
    encoder = ogg_opus.OpusEncoder()
    pieces = [encoder.encode(tone(0.08)) for _ in range(100)]
    with running.connect() as socket:
        greeted(socket)
        for piece in pieces:
            socket.send(protocol.audio(piece))
        collect(socket, 0.5)
    told = running.last()
    assert told.dropped_in > 0
    assert told.heard + told.dropped_in >= 90


def test_the_address_says_how_tokens_are_drawn(running):
    given = {"text_temperature": "0.5", "audio_topk": "7", "text_seed": "-1", "pad_mult": "0"}
    found = protocol.sampling(given)
    assert (found.text_temperature, found.audio_top_k, found.seed) == (0.5, 7, 0)
    with pytest.raises(InputError, match="text_top_k"):
        protocol.sampling({"text_topk": "many"})
    with running.connect("?audio_temperature=99") as socket:
        assert b"audio_temperature" in socket.recv(timeout=10)
        with pytest.raises(ConnectionClosed):
            socket.recv(timeout=10)


def test_a_bundle_without_a_dialogue(codec_bundle):  # noqa: F811
    with pytest.raises(UsageError, match="speech-dialogue"), talk.opened([codec_bundle]):
        pass


def test_nobody_talks_without_the_token_or_from_elsewhere(running):
    root = running.url.split("/", 3)
    without = f"ws://{root[2]}{protocol.PATH}"
    for address, origin in (
        (without, None),
        (without.replace("/api", "/wrong-token-of-22-chars/api"), None),
        (running.address, "https://elsewhere.example"),
    ):
        with pytest.raises(InvalidStatus) as refused:
            connect(address, origin=origin)
        assert refused.value.response.status_code == 403
    assert not running.demo.busy


def test_a_runtime_is_changed_between_conversations_alone(running):
    with connect(running.socket) as viewer:
        with running.connect() as socket:
            greeted(socket)
            viewer.send(json.dumps({"type": "choose", "choice": 0}))
            assert "between conversations" in told(viewer, "error")["words"]
            converse(socket, tone(0.8))
            progress = told(viewer, "progress")
            assert progress["heard"] >= 1
            assert 0 < progress["factor"] < 20
        running.last()
        viewer.send(json.dumps({"type": "choose", "choice": 0}))
        while told(viewer, "state")["busy"]:
            pass


def told(viewer, kind: str) -> dict:
    """The next message of a type to somebody who looks on."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        message = json.loads(viewer.recv(timeout=10))
        if message["type"] == kind:
            return message
    raise AssertionError(f"no {kind} was told")


def test_the_command_tells_what_became_of_its_sessions(
    dialogue_bundle,  # noqa: F811
    monkeypatch,
    capfd,
):
    from edgekit.apps.web import show

    def briefly(listening, say, browser=False):
        thread = threading.Thread(target=listening.run)
        thread.start()
        wait(lambda: listening.server.started)
        with connect(listening.url.replace("http", "ws", 1)[:-1] + protocol.PATH) as socket:
            greeted(socket)
            socket.send(b"")
            assert b"empty" in socket.recv(timeout=10)
        listening.server.should_exit = True
        thread.join(20)

    monkeypatch.setattr(show, "serve", briefly)
    code = main(["demo", "talk", str(dialogue_bundle), "--port", "0", "--json"])
    out, err = capfd.readouterr()
    assert code == 0, err
    (session,) = json.loads(out)["sessions"]
    assert (session["heard"], len(session["faults"])) == (0, 1)
