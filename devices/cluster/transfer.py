"""A rank's files from the hub to a worker: in pieces, resumable, checked, whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edgekit.containment import check_name
from edgekit.errors import BundleError, DeviceError, InputError

from .wire import PIECE_LIMIT, Channel, Header, Kind, PeerLost, ProtocolError

MANIFEST: Final = "cluster.json"
_SPARE: Final = 64 << 20  # bytes that a worker's disk keeps free


@dataclass(frozen=True)
class FileEntry:
    """A file's size in bytes and SHA-256 in hexadecimal."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class SplitModel:
    """What ``edgekit cluster split`` wrote, as the hub serves it.

    Attributes:
        folder: of the whole.
        key: names its content, and so the folder in which a worker keeps its part.
        precision: of the weights.
        ranks: every rank's folder and files.
    """

    folder: Path
    key: str
    precision: str
    ranks: tuple[tuple[Path, Mapping[str, FileEntry]], ...]

    @property
    def nodes(self) -> int:
        """How many ranks there are."""
        return len(self.ranks)


def open_split(folder: Path | str) -> SplitModel:
    """Read a split model's table of files.

    Raises:
        InputError: there is none.
        BundleError: it is damaged, or a file has another size.
    """
    folder = Path(folder)
    try:
        text = (folder / MANIFEST).read_bytes()
        document = json.loads(text)
        ranks = tuple(_rank(folder, entry) for entry in document["ranks"])
        found = SplitModel(
            folder, hashlib.sha256(text).hexdigest()[:24], str(document["precision"]), ranks
        )
    except FileNotFoundError as error:
        next_step = f"edgekit cluster split MODEL -o {folder}"
        raise InputError(f"{folder} is no split model", "", next_step) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(f"{folder / MANIFEST} is damaged", repr(error)) from error
    for place, files in found.ranks:
        for name, entry in files.items():
            path = place / name
            if not path.is_file() or path.stat().st_size != entry.bytes:
                raise BundleError(f"{path} is not the file that was split", "", "split it again")
    return found


def _rank(folder: Path, entry: Mapping[str, Any]) -> tuple[Path, dict[str, FileEntry]]:
    return folder / check_name(entry["folder"]), parse_files(entry["files"])


def parse_files(document: Mapping[str, Any]) -> dict[str, FileEntry]:
    """A table of files: plain names without folders, sizes, SHA-256.

    Raises:
        BundleError: a name would leave its folder.
        ValueError, KeyError, TypeError: it is malformed.
    """
    files = {}
    for name, entry in document.items():
        if "/" in check_name(name) or name.startswith("."):
            raise BundleError(f"the name {name!r} is not allowed in a shard")
        found = FileEntry(int(entry["bytes"]), str(entry["sha256"]))
        if found.bytes < 0 or len(bytes.fromhex(found.sha256)) != 32:
            raise ValueError(f"{name}: no size, or no SHA-256")
        files[name] = found
    return files


def send_file(
    channel: Channel, request: Mapping[str, Any], split: SplitModel, rank: int, seconds: float
) -> None:
    """The hub's side: the rest of a file, from an offset on, piece by piece.

    Raises:
        ProtocolError: it is no file of this rank, or the offset is outside.
        PeerLost: the worker took nothing for so many seconds.
    """
    folder, files = split.ranks[rank]
    name, offset = request.get("file"), request.get("offset")
    if name not in files or not isinstance(offset, int) or not 0 <= offset <= files[name].bytes:
        raise ProtocolError(f"{channel.peer} asks for what is not its", str(name)[:80])
    with open(folder / name, "rb") as file:
        file.seek(offset)
        while piece := file.read(PIECE_LIMIT):
            channel.send(Header(Kind.PIECE, len(piece)), piece, seconds)


def fetch(
    channel: Channel,
    folder: Path,
    files: Mapping[str, FileEntry],
    seconds: float,
    notify: Callable[[int, int], None] = lambda have, total: None,
) -> int:
    """The worker's side: get what is missing of its files.

    What was got before a connection broke is kept beside its place, and the next call goes on
    from there. A file takes its name when its SHA-256 is right.

    Args:
        seconds: for each piece.
        notify: told how many bytes are there, and of how many.

    Returns:
        Bytes that came over the channel.

    Raises:
        PeerLost: the hub is gone. BundleError: a file is not what it should be.
        DeviceError: the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    total = sum(entry.bytes for entry in files.values())
    missing = [name for name in files if not _there(folder / name, files[name])]
    have = total - sum(files[name].bytes for name in missing)
    came = 0
    for name in missing:
        part = folder / f".{name}.part"
        digest, got = _resumed(part, files[name].bytes)
        _check_room(folder, files[name].bytes - got)
        channel.send_message("fetch", seconds, file=name, offset=got)
        with _writing(part) as file:
            while got < files[name].bytes:
                piece = _piece(channel, files[name].bytes - got, seconds)
                file.write(piece)
                digest.update(piece)
                got += len(piece)
                came += len(piece)
                notify(have + got, total)
            file.flush()
            os.fsync(file.fileno())
        have += got
        _settle(part, folder / name, digest.hexdigest(), files[name].sha256)
    return came


def _piece(channel: Channel, most: int, seconds: float) -> memoryview:
    header, content = channel.receive(seconds)
    if header.kind != Kind.PIECE or not 0 < header.length <= most:
        raise ProtocolError(f"{channel.peer} sent {header.kind.name.lower()}", "a piece is due")
    return content


def _there(path: Path, entry: FileEntry) -> bool:
    """Whether a file has its size; its content was checked when it took its name."""
    return path.is_file() and path.stat().st_size == entry.bytes


def _resumed(part: Path, most: int) -> tuple[Any, int]:
    digest, got = hashlib.sha256(), 0
    with contextlib.suppress(FileNotFoundError), open(part, "r+b") as file:
        if os.fstat(file.fileno()).st_size > most:
            file.truncate(0)
        while data := file.read(PIECE_LIMIT):
            digest.update(data)
            got += len(data)
    return digest, got


@contextlib.contextmanager
def _writing(part: Path) -> Any:
    try:
        with open(part, "ab") as file:
            yield file
    except OSError as error:
        if isinstance(error, PeerLost):
            raise
        raise DeviceError(f"{part} cannot be written", error.strerror or str(error)) from error


def _check_room(folder: Path, need: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < need + _SPARE:
        raise DeviceError(
            f"no room for {need} bytes in {folder}", f"{free} are free", "give another --state"
        )


def _settle(part: Path, path: Path, found: str, due: str) -> None:
    if found != due:
        part.unlink()
        raise BundleError(f"{path.name} arrived damaged", f"its sha256 is {found}", "try again")
    os.replace(part, path)
