"""The one-file form of a bundle: a zip that is the same bytes for the same content.

Reading trusts nothing: the whole table of contents is judged before the first byte is
unpacked (:class:`Archive`), and what is unpacked must have the size and checksum that
the manifest states. Entries are stored, not compressed: weights do not shrink, and the
output of a compressor depends on its version. Compressed entries are read all the same,
since other tools pack bundles, too.
"""

import hashlib
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from edgekit.containment import MAX_FILES, check_names
from edgekit.errors import BundleError

MAX_TOTAL: Final = 64 << 30  # bytes, unpacked
MAX_RATIO: Final = 100  # unpacked over packed; overlapping entries count, too
_CHUNK: Final = 1 << 20
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip can state
_ENCRYPTED: Final = 0x1 | 0x40 | 0x2000  # flag bits: plain, strong, masked headers

# What zipfile and zlib raise on malformed bytes, found by fuzzing.
_DAMAGE: Final = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    OverflowError,
    OSError,
)


class Archive:
    """The checked table of contents of a zip: ``sizes`` by name, and their content.

    Raises:
        BundleError: the file is no zip, is truncated, or an entry is encrypted, a link, a
            device, repeated, colliding, outside of the bundle, or blown up beyond measure.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _damage(path):
            packed = path.stat().st_size
            self._zip = zipfile.ZipFile(path)
        try:
            with _damage(path):
                self._entries = _checked_entries(self._zip, packed)
        except BaseException:
            self._zip.close()
            raise
        self.sizes = {name: info.file_size for name, info in self._entries.items()}

    def read(self, name: str, limit: int) -> bytes:
        """One small entry whole; larger than ``limit`` bytes it is refused."""
        if name not in self._entries:
            raise BundleError(f"{self.path} is no edgekit bundle", f"it holds no {name}")
        if self.sizes[name] > limit:
            raise BundleError(f"{name} in {self.path} is larger than {limit} bytes")
        with _damage(self.path):
            return b"".join(self._chunks(name))

    def unpack(self, root: Path, expected: Mapping[str, tuple[int, str | None]]) -> None:
        """Write every entry beneath ``root``, which is empty and private.

        Args:
            expected: per name its size in bytes and its sha256 (None: not checked).
        """
        for name, (size, sha256) in expected.items():
            target = root / name
            with _damage(self.path):
                target.parent.mkdir(parents=True, exist_ok=True)
                digest, written = hashlib.sha256(), 0
                with open(target, "xb") as out:
                    for chunk in self._chunks(name):
                        digest.update(chunk)
                        written += out.write(chunk)
            if written != size or (sha256 is not None and digest.hexdigest() != sha256):
                raise BundleError(
                    f"{name} in {self.path} is damaged", "its content is not what was packed"
                )

    def close(self) -> None:
        """Close the file."""
        self._zip.close()

    def _chunks(self, name: str) -> Iterator[bytes]:
        left = self.sizes[name]
        with self._zip.open(self._entries[name]) as source:
            # One byte more than stated is asked for, so that the checksum is verified.
            while chunk := source.read(min(_CHUNK, left + 1)):
                left -= len(chunk)
                if left < 0:
                    raise zipfile.BadZipFile(f"{name} is larger than its entry says")
                yield chunk


def _checked_entries(archive: zipfile.ZipFile, packed: int) -> dict[str, zipfile.ZipInfo]:
    infos = archive.infolist()
    if len(infos) > MAX_FILES:
        raise BundleError(f"{archive.filename} has more than {MAX_FILES} entries")
    for info in infos:
        if fault := _entry_fault(info):
            raise BundleError(f"{info.orig_filename[:80]!r} in {archive.filename} {fault}")
    files = [info for info in infos if not info.is_dir()]
    check_names(info.filename for info in files)
    check_names(info.filename.removesuffix("/") for info in infos if info.is_dir())
    total = sum(info.file_size for info in files)
    if total > MAX_TOTAL:
        raise BundleError(f"{archive.filename} would unpack to {total} bytes", "that is too much")
    if total > MAX_RATIO * packed:
        raise BundleError(
            f"{archive.filename} would unpack to {total // max(packed, 1)} times its size",
            f"a bundle grows {MAX_RATIO} times at most",
        )
    return {info.filename: info for info in files}


def _entry_fault(info: zipfile.ZipInfo) -> str:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if info.filename != info.orig_filename:
        return "has a name that is not allowed"
    if kind not in (0, stat.S_IFDIR if info.is_dir() else stat.S_IFREG):
        return "is a link or a device" if kind != stat.S_IFDIR else "is not what its name says"
    if info.flag_bits & _ENCRYPTED:
        return "is encrypted"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is compressed in a way that edgekit does not read"
    return "is a folder with content" if info.is_dir() and info.file_size else ""


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Turn whatever malformed bytes cause into one clear line."""
    try:
        yield
    except _DAMAGE as e:
        if isinstance(e, OSError) and e.errno is not None:
            raise BundleError(f"{path} cannot be unpacked", e.strerror or str(e)) from e
        raise BundleError(
            f"{path} is damaged or truncated", str(e), "copy or export it again"
        ) from e


def write_archive(root: Path, names: list[str], out: IO[bytes]) -> None:
    """Pack the files ``names`` beneath ``root`` into ``out``, sorted and without times."""
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name in sorted(names):
            info = zipfile.ZipInfo(name, _EPOCH)
            info.create_system = 3  # Unix: it says how to read the mode below
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            info.file_size = os.stat(root / name).st_size
            with open(root / name, "rb") as source, archive.open(info, "w") as target:
                while chunk := source.read(_CHUNK):
                    target.write(chunk)
