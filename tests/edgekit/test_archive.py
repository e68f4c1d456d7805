"""Zips that somebody else made, with the intent to do harm or without."""

import io
import stat
import zipfile
from pathlib import Path

import pytest

from edgekit.archive import MAX_RATIO, write_archive
from edgekit.bundle import Bundle
from edgekit.errors import BundleError

from .conftest import FILES

ONNX = "graphs/forward/onnx/model.onnx"


def repack(path: Path, change=lambda infos: infos, compression=zipfile.ZIP_STORED) -> Path:
    """Write the zip anew with its entries (ZipInfo, content) passed through ``change``."""
    with zipfile.ZipFile(path) as old:
        entries = [(info, old.read(info)) for info in old.infolist()]
    for info, _ in entries:
        info.compress_type = compression
    with zipfile.ZipFile(path, "w") as new:
        for info, data in change(entries):
            new.writestr(info, data)
    return path


def entry(name: str, data: bytes = b"x", mode: int = stat.S_IFREG | 0o644):
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, mode << 16
    return info, data


def refused(path: Path, reason: str) -> None:
    with pytest.raises(BundleError, match=reason) as caught:
        Bundle.open(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_packed_by_another_tool_is_read(write, compression):
    """Compressed, in another order, with times and entries for folders."""

    def change(entries):
        folders = [entry("graphs/", b"", stat.S_IFDIR | 0o755)]
        return [*folders, *reversed(entries)]

    with Bundle.open(repack(write("b.edgekit"), change, compression)) as bundle:
        assert {name: bundle.read(name) for name in FILES} == FILES


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        (entry("../evil"), "leaves"),
        (entry("/etc/evil"), "absolute"),
        (entry("a\\..\\evil"), "backslash"),
        (entry("C:evil"), "colon"),
        (entry("link", b"/etc/passwd", stat.S_IFLNK | 0o777), "link or a device"),
        (entry("dev", b"", stat.S_IFCHR | 0o666), "link or a device"),
        (entry("fifo", b"", stat.S_IFIFO | 0o666), "link or a device"),
        (entry("folder", b"", stat.S_IFDIR | 0o755), "not what its name says"),
        (entry("../up/", b"", stat.S_IFDIR | 0o755), "leaves"),
        (entry("folder/", b"data", stat.S_IFDIR | 0o755), "folder with content"),
        (entry(ONNX, b"twice"), "twice"),
        (entry(ONNX.upper(), b"collides"), "collide"),
        (entry(ONNX + "/below", b"x"), "both a file and a folder"),
        (entry("unlisted.so"), "does not list"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_harmful_entry_is_refused_before_anything_is_unpacked(
    write, tmp_path, monkeypatch, extra, reason
):
    path = repack(write("b.edgekit"), lambda entries: [*entries, extra])
    monkeypatch.setattr("edgekit.archive.Archive.unpack", lambda *_: pytest.fail("unpacked"))
    refused(path, reason)
    assert [p.name for p in tmp_path.iterdir()] == ["b.edgekit"]


def test_a_name_with_a_hidden_end(write):
    path = repack(write("b.edgekit"), lambda e: [*e, entry("unlisted-zeroX.so")])
    path.write_bytes(path.read_bytes().replace(b"zeroX", b"zero\0"))
    refused(path, "not allowed")


def test_an_encrypted_entry(write):
    path = write("b.edgekit")
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 1
    path.write_bytes(data)
    refused(path, "encrypted")


def test_an_unknown_compression(write):
    refused(repack(write("b.edgekit"), compression=zipfile.ZIP_LZMA), "compressed in a way")


def test_a_bomb(write):
    """Deflate reaches a thousandfold; it is refused by the table of contents alone."""
    path = write("b.edgekit", {**FILES, "zeros.bin": bytes(16 << 20)})
    Bundle.open(path).close()
    refused(repack(path, compression=zipfile.ZIP_DEFLATED), "times its size")


def test_overlapping_entries_count_as_a_bomb(tmp_path):
    """Many entries in the table that share one piece of the file."""
    names = [f"f{i}" for i in range(3 * MAX_RATIO)]
    (tmp_path / "f").write_bytes(b"x" * 100_000)
    stream = io.BytesIO()
    write_archive(tmp_path, ["f"], stream)
    with zipfile.ZipFile(stream, "a") as archive:
        first = archive.infolist()[0]
        for name in names:
            info = zipfile.ZipInfo(name)
            for field in ("header_offset", "file_size", "compress_size", "CRC"):
                setattr(info, field, getattr(first, field))
            archive.filelist.append(info)
        archive._didModify = True
    (tmp_path / "b.edgekit").write_bytes(stream.getvalue())
    refused(tmp_path / "b.edgekit", "times its size")


def test_content_that_is_not_what_the_manifest_says(write, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()

    def change(entries):
        return [(i, d.replace(b"not", b"NOT") if i.filename == ONNX else d) for i, d in entries]

    refused(repack(write("b.edgekit"), change), "damaged")
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_missing_entry(write):
    path = repack(write("b.edgekit"), lambda e: [x for x in e if x[0].filename != ONNX])
    refused(path, "truncated: .*missing")


@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, 0.9, -1])
def test_a_truncated_zip(write, kept):
    path = write("b.edgekit")
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data)) if isinstance(kept, float) else kept])
    refused(path, "damaged or truncated")


def test_a_zip_without_a_manifest(tmp_path):
    with zipfile.ZipFile(tmp_path / "b.edgekit", "w") as archive:
        archive.writestr("holiday.jpg", b"")
    refused(tmp_path / "b.edgekit", "no edgekit bundle")


def test_a_manifest_that_is_too_large(write, monkeypatch):
    path = write("b.edgekit")
    monkeypatch.setattr("edgekit.bundle.MAX_MANIFEST", 100)
    refused(path, "larger than 100 bytes")
