"""Shards over the channel: resumed, checked, and nobody else's."""

import hashlib
import json
import socket
import threading

import numpy as np
import pytest

from edgekit.devices.cluster import transfer
from edgekit.devices.cluster.transfer import FileEntry, fetch, open_split, parse_files, send_file
from edgekit.devices.cluster.wire import PIECE_LIMIT, Channel, PeerLost, ProtocolError
from edgekit.errors import BundleError, DeviceError, InputError

SIZES = {"shard.json": 300, "weights.bin": 3 * PIECE_LIMIT + 17}


@pytest.fixture
def parts(tmp_path):
    """A split over two ranks, of random bytes."""
    random = np.random.default_rng(0)
    ranks = []
    for rank in range(2):
        folder = tmp_path / "parts" / f"rank-{rank}"
        folder.mkdir(parents=True)
        files = {}
        for name, size in SIZES.items():
            data = random.bytes(size)
            (folder / name).write_bytes(data)
            files[name] = {"bytes": size, "sha256": hashlib.sha256(data).hexdigest()}
        ranks.append({"folder": folder.name, "files": files})
    (tmp_path / "parts/cluster.json").write_text(json.dumps({"precision": "x", "ranks": ranks}))
    return tmp_path / "parts"


class Hub:
    """Serves rank 1 in a thread; ends the connection after so many bytes of content."""

    def __init__(self, split, breaks_after=1 << 40, damage=False):
        ours, theirs = socket.socketpair()
        self.channel = Channel(ours, "the hub")
        self._theirs, self._split = Channel(theirs, "kitchen"), split
        self._left, self._damage = breaks_after, damage
        self.requests, self.error = [], None
        plain = self._theirs.send
        self._theirs.send = lambda header, content, seconds: self._send(plain, header, content)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _send(self, plain, header, content):
        self._left -= len(content)
        if self._left < 0:
            self._theirs.close()
            raise PeerLost("kitchen", "cut")
        if self._damage:
            content = bytes([content[0] ^ 1]) + content[1:]
        plain(header, content, 5)

    def _serve(self):
        try:
            while True:
                request = self._theirs.receive_message(5, "fetch")
                self.requests.append((request["file"], request["offset"]))
                send_file(self._theirs, request, self._split, 1, 5)
        except DeviceError as error:
            self.error = error

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.channel.close()
        self._thread.join(10)
        self._theirs.close()


def test_everything_arrives_once(parts, tmp_path):
    split = open_split(parts)
    files, shown = split.ranks[1][1], []
    with Hub(split) as hub:
        came = fetch(hub.channel, tmp_path / "w", files, 5, lambda *bytes_: shown.append(bytes_))
        assert came == sum(SIZES.values())
        assert fetch(hub.channel, tmp_path / "w", files, 5) == 0
    assert hub.requests == [("shard.json", 0), ("weights.bin", 0)]
    assert shown[-1] == (came, came)
    for name in SIZES:
        assert (tmp_path / "w" / name).read_bytes() == (parts / "rank-1" / name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "w").iterdir()) == sorted(SIZES)


def test_what_broke_off_goes_on(parts, tmp_path):
    split = open_split(parts)
    files = split.ranks[1][1]
    with Hub(split, breaks_after=300 + 2 * PIECE_LIMIT) as hub, pytest.raises(PeerLost):
        fetch(hub.channel, tmp_path / "w", files, 5)
    assert not (tmp_path / "w/weights.bin").exists()
    with Hub(split) as hub:
        assert fetch(hub.channel, tmp_path / "w", files, 5) == PIECE_LIMIT + 17
    assert hub.requests == [("weights.bin", 2 * PIECE_LIMIT)]
    found = (tmp_path / "w/weights.bin").read_bytes()
    assert found == (parts / "rank-1/weights.bin").read_bytes()


@pytest.mark.parametrize("junk", [b"\0" * PIECE_LIMIT, b"\0" * 5 * PIECE_LIMIT])
def test_a_beginning_that_is_wrong_is_noticed_and_thrown_away(parts, tmp_path, junk):
    split = open_split(parts)
    files = split.ranks[1][1]
    (tmp_path / "w").mkdir()
    (tmp_path / "w/.weights.bin.part").write_bytes(junk)
    with Hub(split) as hub:
        if len(junk) < SIZES["weights.bin"]:
            with pytest.raises(BundleError, match=r"weights\.bin arrived damaged"):
                fetch(hub.channel, tmp_path / "w", files, 5)
        fetch(hub.channel, tmp_path / "w", files, 5)
    assert hub.requests[-1] == ("weights.bin", 0)


def test_damage_under_way_is_noticed(parts, tmp_path):
    split = open_split(parts)
    with Hub(split, damage=True) as hub, pytest.raises(BundleError, match="arrived damaged"):
        fetch(hub.channel, tmp_path / "w", split.ranks[1][1], 5)
    assert list((tmp_path / "w").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "offset"),
    [
        ("tokenizer.json", 0),
        ("../rank-0/weights.bin", 0),
        ("/etc/passwd", 0),
        ("weights.bin", -1),
        ("weights.bin", 1 << 40),
        ("weights.bin", "0"),
        (None, 0),
    ],
)
def test_what_is_not_the_workers_is_not_sent(parts, name, offset):
    with Hub(open_split(parts)) as hub:
        hub.channel.send_message("fetch", 5, file=name, offset=offset)
        hub._thread.join(5)
        assert isinstance(hub.error, ProtocolError)
        assert "asks for what is not its" in str(hub.error)


@pytest.mark.parametrize("name", ["../x", "/x", "a/b", ".weights.bin.part", "", "a\\b"])
def test_a_hub_cannot_write_elsewhere(name):
    with pytest.raises(BundleError):
        parse_files({name: {"bytes": 1, "sha256": "00" * 32}})


@pytest.mark.parametrize("entry", [{"bytes": -1, "sha256": "00" * 32}, {"bytes": 1, "sha256": "0"}])
def test_tables_of_files_are_checked(entry):
    with pytest.raises(ValueError, match=r"no size|hexadecimal"):
        parse_files({"x": entry})


def test_a_full_disk_is_said_before_anything_comes(parts, tmp_path, monkeypatch):
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 9}))
    split = open_split(parts)
    with Hub(split) as hub, pytest.raises(DeviceError, match="no room for 300 bytes"):
        fetch(hub.channel, tmp_path / "w", split.ranks[1][1], 5)
    assert hub.requests == []


def test_a_split_is_checked_when_it_is_opened(parts, tmp_path):
    with pytest.raises(InputError, match="no split model"):
        open_split(tmp_path)
    (parts / "rank-1/weights.bin").write_bytes(b"x")
    with pytest.raises(BundleError, match="not the file that was split"):
        open_split(parts)
    (parts / "cluster.json").write_text('{"ranks": [{"folder": "../x", "files": {}}]}')
    with pytest.raises(BundleError):
        open_split(parts)
    (parts / "cluster.json").write_text("{")
    with pytest.raises(BundleError, match="damaged"):
        open_split(parts)
    assert FileEntry(1, "").bytes == 1
