"""Frames: what is sent arrives, and what is no frame is refused before it costs anything."""

import contextlib
import socket
import struct
import threading
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.devices.cluster import wire
from edgekit.devices.cluster.wire import Channel, DType, Header, Kind, PeerLost, ProtocolError
from edgekit.errors import DeviceError


@pytest.fixture
def pair():
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
    channels = Channel(ours, "the other"), Channel(theirs, "the one")
    yield channels
    for channel in channels:
        channel.close()


def header_bytes(**changes) -> bytearray:
    """A frame's header as somebody else might write it."""
    fields = {
        "magic": b"EKCL",
        "version": wire.VERSION,
        "kind": Kind.ARRAY,
        "dtype": DType.FLOAT32,
        "exponent": 0,
        "dimensions": 1,
        "reserved": 0,
        "epoch": 0,
        "step": 0,
        "sequence": 0,
        "length": 16,
        "shape": (4, 0, 0, 0),
    } | changes
    *rest, shape = fields.values()
    return bytearray(wire.HEADER.pack(*rest, *shape))


def test_a_header_says_the_same_after_reading():
    told = Header(Kind.ARRAY, 48, DType.FLOAT16, -3, (2, 3, 4), 7, 8, 9)
    buffer = bytearray(wire.HEADER.size)
    told.pack_into(buffer)
    assert Header.parse(buffer) == told
    assert wire.HEADER.size == 44


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"magic": b"GET "}, "no frame"),
        ({"version": 0}, "protocol version 0"),
        ({"version": 2}, "protocol version 2"),
        ({"kind": 9}, "makes no sense"),
        ({"dtype": 99}, "makes no sense"),
        ({"reserved": 1}, "makes no sense"),
        ({"dimensions": 5}, "makes no sense"),
        ({"shape": (4, 1, 0, 0)}, "makes no sense"),
        ({"shape": (5, 0, 0, 0)}, "contradict"),
        ({"dtype": 0}, "contradict"),
        ({"kind": Kind.MESSAGE}, "only arrays"),
        ({"length": 2**31, "shape": (2**29, 0, 0, 0)}, "claims 2147483648 bytes"),
        ({"length": 0, "dimensions": 4, "shape": (2**31, 2**31, 2**31, 2**31)}, "contradict"),
    ],
)
def test_a_header_that_makes_no_sense_is_refused(changes, why):
    with pytest.raises(ProtocolError, match=why):
        Header.parse(header_bytes(**changes))


@given(st.binary(min_size=44, max_size=44))
def test_no_bytes_do_more_than_be_refused(data):
    with contextlib.suppress(ProtocolError):
        Header.parse(b"EKCL" + struct.pack("!H", wire.VERSION) + data[6:], limit=1 << 20)


@pytest.mark.parametrize("dtype", ["f4", "f2", "i4", "i8", "u1", "f8", "?", "i1"])
def test_arrays_arrive(pair, dtype):
    ours, theirs = pair
    values = np.arange(12).astype(dtype).reshape(3, 4)
    code = wire.array_type(values)
    ours.send(Header(Kind.ARRAY, values.nbytes, code, 0, values.shape), values, 1)
    header, content = theirs.receive(1)
    np.testing.assert_array_equal(wire.array_of(header, content), values)
    assert wire.array_of(header, content).dtype == values.dtype


def test_a_frame_is_one_send(pair, monkeypatch):
    ours, theirs = pair
    calls = []

    class Counting:
        def __init__(self, inner):
            self._inner = inner

        def sendall(self, data):
            calls.append(len(data))
            self._inner.sendall(data)

        def __getattr__(self, name):
            return getattr(self._inner, name)

    monkeypatch.setattr(ours, "_socket", Counting(ours._socket))
    ours.send_message("hello", 1, name="a")
    assert theirs.receive_message(1, "hello") == {"type": "hello", "name": "a"}
    assert len(calls) == 1
    assert theirs._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_frame_that_claims_two_gigabytes_costs_no_memory(pair):
    ours, theirs = pair
    ours._socket.sendall(header_bytes(length=2**31, shape=(2**29, 0, 0, 0)))
    tracemalloc.start()
    with pytest.raises(ProtocolError, match="claims 2147483648 bytes"):
        theirs.receive(1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20
    assert theirs.closed


def test_half_a_frame_is_waited_for_until_the_deadline_however_it_trickles(pair):
    ours, theirs = pair
    data = header_bytes()

    def trickle():
        for i in range(20):
            ours._socket.sendall(data[i : i + 1])
            time.sleep(0.03)

    thread = threading.Thread(target=trickle)
    thread.start()
    began = time.monotonic()
    with pytest.raises(PeerLost, match=r"silent for 0.3 s"):
        theirs.receive(0.3)
    assert time.monotonic() - began < 0.5
    thread.join()


def test_half_a_frame_and_then_the_end(pair):
    ours, theirs = pair
    ours._socket.sendall(header_bytes()[:20])
    ours.close()
    with pytest.raises(PeerLost, match="the one is lost: it closed the connection"):
        theirs.receive(1)


def test_who_reads_nothing_is_not_waited_for(pair):
    ours, _ = pair
    values = np.zeros(4 << 20, np.float32)
    header = Header(Kind.ARRAY, values.nbytes, DType.FLOAT32, 0, values.shape)
    with pytest.raises(PeerLost, match=r"silent for 0.2 s"):
        ours.send(header, values, 0.2)


def test_messages_are_of_the_type_that_is_due(pair):
    ours, theirs = pair
    ours.send_message("hello", 1)
    with pytest.raises(ProtocolError, match="'hello': welcome is due"):
        theirs.receive_message(1, "welcome")
    ours.send_message("refused", 1, why="because")
    with pytest.raises(DeviceError, match="refused: because"):
        theirs.receive_message(1, "welcome")
    for content in (b"[1]", b"{}", b"{", b"\xff", b"[" * 100000):
        ours.send(Header(Kind.MESSAGE, len(content)), content, 1)
        with pytest.raises(ProtocolError, match="a message that is none"):
            theirs.receive_message(1)


def test_objects_cannot_be_sent():
    with pytest.raises(ProtocolError, match="object cannot be sent"):
        wire.array_type(np.array([None]))
