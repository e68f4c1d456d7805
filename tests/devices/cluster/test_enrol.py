"""Introductions: who has the code comes in, once; whoever else comes is refused in one line."""

import logging
import os
import socket
import ssl
import threading
import time

import pytest

pytest.importorskip("cryptography")

from edgekit.devices.cluster import door as doors
from edgekit.devices.cluster import secure, wire
from edgekit.devices.cluster.door import Door, Introducer, join
from edgekit.devices.cluster.identity import Identity, Pins
from edgekit.devices.cluster.join_code import JoinCode, JoinCodes
from edgekit.devices.cluster.wire import PeerLost
from edgekit.errors import DeviceError, UsageError


class House:
    """A hub's door, and what came through."""

    def __init__(self, folder):
        self.identity = Identity.open(folder / "hub", "hub")
        self.pins = Pins(folder / "hub" / "devices.json")
        self.codes = JoinCodes(folder / "hub" / "codes.json", self.identity.fingerprint)
        self.met = []
        introducer = Introducer(self.identity, self.codes, self.pins)
        self.door = Door(self.identity, self.pins.all, self._admit, introducer)

    def _admit(self, channel, name, key):
        channel.send_message("hello", 1, name=name)
        self.met.append((channel, name, key))

    def enters(self, identity):
        """The name under which a device is known; raises where it is not let in."""
        channel = secure.call(self.door.address, identity, self.identity.der, "hub", 3)
        try:
            return channel.receive_message(3, "hello")["name"]
        finally:
            channel.close()


@pytest.fixture
def house(tmp_path):
    made = House(tmp_path)
    yield made
    made.door.close()
    for channel, *_ in made.met:
        channel.close()


@pytest.fixture
def device(tmp_path):
    return Identity.open(tmp_path / "device", "kitchen")


@pytest.fixture
def stranger(tmp_path):
    return Identity.open(tmp_path / "stranger", "stranger")


def test_a_code_survives_being_typed():
    code = JoinCode(os.urandom(16), os.urandom(10))
    text = str(code)
    assert JoinCode.parse(text) == code
    assert JoinCode.parse(f" {text.lower().replace('-', ' ').replace('0', 'o')} ") == code
    for wrong in ("", text[:-1], text + "A", "U" * len(text), "Z" * 45):
        with pytest.raises(UsageError, match="no join code"):
            JoinCode.parse(wrong)
    swapped = ("B" if text[0] != "B" else "C") + text[1:]
    with pytest.raises(UsageError, match="a letter of it is wrong"):
        JoinCode.parse(swapped)


def test_the_key_is_the_owners_alone_and_stays(tmp_path, device):
    assert device.key.stat().st_mode & 0o777 == 0o600
    assert device.key.parent.stat().st_mode & 0o777 == 0o700
    assert Identity.open(tmp_path / "device", "other").der == device.der


def test_who_has_the_code_is_introduced_and_both_know_each_other(house, device):
    hub = join(house.door.address, house.codes.issue(), device)
    assert hub == house.identity.der
    assert house.enters(device) == "kitchen"


def test_a_code_is_good_for_one_device(house, device, stranger):
    code = house.codes.issue()
    join(house.door.address, code, device)
    with pytest.raises(DeviceError, match="this join code was used"):
        join(house.door.address, code, stranger)
    # The one that was cut off before it heard the answer may ask again.
    assert join(house.door.address, code, device) == house.identity.der
    with pytest.raises(PeerLost):
        house.enters(stranger)


def test_two_devices_of_one_name_are_told_apart(house, device, tmp_path):
    other = Identity.open(tmp_path / "second", "kitchen")
    for one in (device, other):
        join(house.door.address, house.codes.issue(), one)
    assert (house.enters(device), house.enters(other)) == ("kitchen", "kitchen-2")
    assert house.pins.remove("kitchen") == 1
    with pytest.raises(PeerLost):
        house.enters(device)


def test_a_wrong_code_is_refused(house, device):
    good = house.codes.issue()
    wrong = JoinCode(good.hub, os.urandom(10))
    with pytest.raises(DeviceError, match="refused: no such join code"):
        join(house.door.address, wrong, device)
    assert house.pins.all() == {}


def test_a_code_ends_with_its_time(house, device):
    code = house.codes.issue(lifetime=-1)
    with pytest.raises(DeviceError, match="no such join code"):
        join(house.door.address, code, device)


def test_a_device_says_nothing_to_another_hub(house, device, tmp_path):
    """Somebody in between, with a certificate of his own, learns nothing to join with."""
    (tmp_path / "false").mkdir()
    false = House(tmp_path / "false")
    try:
        with pytest.raises(DeviceError, match="not the device that it should be"):
            join(false.door.address, house.codes.issue(), device)
        join(house.door.address, house.codes.issue(), device)
        with pytest.raises(PeerLost, match="TLS"):
            secure.call(false.door.address, device, house.identity.der, "hub", 3)
    finally:
        false.door.close()


def test_a_proof_is_worth_nothing_for_another_certificate(house, device, stranger):
    """Who overhears a proof cannot put a certificate of his own in its place."""
    code = house.codes.issue()
    channel = secure.call_as_stranger(house.door.address, code.hub, 3)
    nonce = bytes.fromhex(channel.receive_message(3, "challenge")["nonce"])
    ours = (nonce, house.identity.fingerprint, device.fingerprint)
    shown = doors.proof(code.secret, "device", *ours)
    fields = {"name": "x", "certificate": stranger.pem, "proof": shown.hex()}
    channel.send_message("join", 3, **fields)
    with pytest.raises(DeviceError, match="no such join code"):
        channel.receive_message(3, "welcome")
    assert house.pins.all() == {}


def test_a_hub_that_only_pretends_to_know_the_code_is_noticed(house, device, monkeypatch):
    monkeypatch.setattr(house.codes, "redeem", lambda *_: os.urandom(32))
    with pytest.raises(DeviceError, match="does not know the join code"):
        join(house.door.address, house.codes.issue(), device)


def test_an_old_protocol_version_is_told_so(house, monkeypatch):
    code = house.codes.issue()
    channel = secure.call_as_stranger(house.door.address, code.hub, 3)
    channel.receive_message(3, "challenge")
    header = wire.HEADER.pack(b"EKCL", 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0)
    channel._socket.sendall(header + b"{}")
    with pytest.raises(DeviceError, match=r"protocol version 0: this is version 1"):
        channel.receive_message(3, "welcome")


def raw(house, data: bytes, *, tls: bool = True) -> bytes:
    """Send bytes to the door; what it says until it closes."""
    plain = socket.create_connection(house.door.address, timeout=10)
    context = secure.stranger_context()
    connection = context.wrap_socket(plain) if tls else plain
    said = b""
    try:
        connection.sendall(data)
        while part := connection.recv(4096):
            said += part
    except OSError:
        pass
    finally:
        connection.close()
    return said


TWO_GIGABYTES = wire.HEADER.pack(b"EKCL", 1, 1, 0, 0, 0, 0, 0, 0, 0, 2**31, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("data", "tls", "line"),
    [
        (b"GET / HTTP/1.1\r\nHost: hub\r\n\r\n", False, "TLS"),
        (os.urandom(4000), False, "TLS"),
        (os.urandom(4000), True, "no frame"),
        (TWO_GIGABYTES, True, "claims 2147483648 bytes"),
        (wire.HEADER.pack(b"EKCL", 1, 1, 0, 0, 0, 0, 0, 0, 0, 2, *[0] * 4) + b"{}", True, "none"),
    ],
    ids=["http", "junk", "junk-in-tls", "two-gigabytes", "no-type"],
)
def test_what_is_no_request_is_refused_in_one_line(house, device, caplog, data, tls, line):
    with caplog.at_level(logging.WARNING, "edgekit.cluster"):
        raw(house, data, tls=tls)
        wait(lambda: caplog.records)
    assert [line in record.getMessage() for record in caplog.records] == [True]
    assert all(record.exc_info is None for record in caplog.records)
    join(house.door.address, house.codes.issue(), device)
    assert house.enters(device) == "kitchen"


@pytest.mark.parametrize("tls", [False, True])
def test_half_a_frame_is_not_waited_for(house, device, monkeypatch, tls):
    monkeypatch.setattr(doors, "SECONDS", 0.5)
    began = time.monotonic()
    raw(house, b"\x16\x03\x01\x02" if not tls else TWO_GIGABYTES[:20], tls=tls)
    assert time.monotonic() - began < 2
    wait(lambda: house.door.refusals.count == 1)


def test_a_flood_leaves_room_for_those_who_are_known(house, device, caplog):
    join(house.door.address, house.codes.issue(), device)
    stop = threading.Event()

    def flood():
        while not stop.is_set():
            raw(house, os.urandom(64), tls=False)

    floods = [threading.Thread(target=flood) for _ in range(4)]
    with caplog.at_level(logging.WARNING, "edgekit.cluster"):
        for thread in floods:
            thread.start()
        assert [house.enters(device) for _ in range(5)] == ["kitchen"] * 5
        stop.set()
        for thread in floods:
            thread.join()
    assert house.door.refusals.count > 10
    assert len(caplog.records) <= 2
    assert threading.active_count() < 40


def test_callers_who_say_nothing_are_few(house):
    silent = [socket.create_connection(house.door.address) for _ in range(doors.PER_ADDRESS)]
    try:
        wait(lambda: house.door._waiting.total() == doors.PER_ADDRESS)
        one_more = socket.create_connection(house.door.address, timeout=2)
        assert one_more.recv(1) == b""
        one_more.close()
    finally:
        for connection in silent:
            connection.close()


def test_a_certificate_made_by_a_known_device_is_not_known(house, device, tmp_path):
    """A pinned certificate vouches for itself alone."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    join(house.door.address, house.codes.issue(), device)
    issuer = x509.load_pem_x509_certificate(device.certificate.read_bytes())
    signer = serialization.load_pem_private_key(device.key.read_bytes(), None)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        x509.CertificateBuilder(issuer.subject, issuer.subject, key.public_key())
        .serial_number(5)
        .not_valid_before(issuer.not_valid_before_utc)
        .not_valid_after(issuer.not_valid_after_utc)
        .sign(signer, hashes.SHA256())
    )
    (tmp_path / "forged").mkdir()
    forged = Identity.open(tmp_path / "forged", "forged")
    pem = serialization.Encoding.PEM
    forged.certificate.write_bytes(certificate.public_bytes(pem))
    private = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    forged.key.write_bytes(key.private_bytes(pem, *private))
    with pytest.raises(PeerLost):
        house.enters(Identity.open(tmp_path / "forged", "forged"))


def test_old_tls_is_refused(house):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError), socket.create_connection(house.door.address) as plain:
        context.wrap_socket(plain)


def test_a_strangers_frames_are_small(house):
    code = house.codes.issue()
    channel = secure.call_as_stranger(house.door.address, code.hub, 3)
    channel.receive_message(3, "challenge")
    channel.send_message("join", 3, name="x" * 20000)
    with pytest.raises(DeviceError, match=r"claims|lost"):
        channel.receive_message(3, "welcome")


def wait(true, seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
