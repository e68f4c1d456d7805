"""Making a bundle: beside its place, then renamed, so that nothing half-written remains.

The same files and manifest give the same bytes, as a folder and as a zip.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from edgekit import __version__
from edgekit.archive import Archive, write_archive
from edgekit.containment import check_name, open_beneath, scan
from edgekit.errors import BundleError, UsageError
from edgekit.manifest import MANIFEST_NAME, REPORT_NAME, FileEntry, Manifest
from edgekit.manifest_reader import (
    MAX_MANIFEST,
    check_contract,
    manifest_bytes,
    parse_manifest,
    read_manifest,
)

SUFFIX: Final = ".edgekit"


class BundleWriter:
    """Collects the files of a bundle in a temporary folder beside ``out``.

    Use it in a ``with`` statement and call :meth:`finish` at the end; otherwise, or on an
    error, everything is removed and what stood at ``out`` before is untouched.

    Args:
        out: the place of the bundle; a name ending in ``.edgekit`` makes one zip file,
            any other a folder. What is there already is replaced if it is a bundle or an
            empty folder.

    Attributes:
        root: the folder to put files into, also by hand.

    Raises:
        UsageError: there is something else at ``out``, or its folder cannot be written.
    """

    def __init__(self, out: str | Path) -> None:
        self.out = Path(out)
        self._place = Path(os.path.abspath(out))  # so that "." has a name, too
        _check_replaceable(self._place)
        self.root = _beside(self._place)
        try:
            self.root.parent.mkdir(parents=True, exist_ok=True)
            # Not tempfile.mkdtemp: the folder becomes the bundle and gets the user's umask.
            self.root.mkdir()
        except OSError as e:
            raise UsageError(f"cannot write to {self.out.parent}", e.strerror or str(e)) from e

    def __enter__(self) -> BundleWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        _remove(self.root)

    def add(self, rel: str, data: bytes | Path) -> Path:
        """Add one file, given its content or a file to copy; returns its path.

        Raises:
            BundleError: the name is not allowed or taken.
        """
        target = self.root / check_name(rel)
        if target.exists() or rel in (MANIFEST_NAME, REPORT_NAME):
            raise BundleError(f"{rel} cannot be added to the bundle", "that name is taken")
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(data, Path):
            shutil.copyfile(data, target)
        else:
            target.write_bytes(data)
        return target

    def file(self, rel: str) -> Path:
        """The path of a file put here before: a session can load it while it is judged."""
        return self.root / check_name(rel)

    def folder(self, rel: str) -> Path:
        """The path of a folder put here before."""
        return self.root / check_name(rel)

    def finish(self, manifest: Manifest | Mapping[str, Any], report: str | None = None) -> Path:
        """Write the manifest and the report, and put the bundle in its place.

        Args:
            manifest: its fields; ``files`` and ``report`` are filled in here, ``edgekit``
                (the version) if it is absent.
            report: the content of ``report.html``.

        Returns:
            ``out``.

        Raises:
            BundleError: the manifest contradicts itself or the files.
        """
        given = dict(manifest)  # a mapping, or a model, which iterates over its fields
        fields: dict[str, Any] = {"edgekit": __version__, **given}
        fields["files"] = tuple(self._entries())
        fields["report"] = None
        if report is not None:
            fields["report"] = _put_report(self.root, report)
        whole = Manifest.model_validate(fields)
        check_contract(whole)
        (self.root / MANIFEST_NAME).write_bytes(manifest_bytes(whole))
        if self._place.suffix == SUFFIX:
            _pack(self.root, self._place)
        else:
            _remove_empty_folders(self.root)
            _put_in_place(self.root, self._place)
        return self.out

    def _entries(self) -> Iterable[FileEntry]:
        for name, size in sorted(scan(self.root).items()):
            if name in (MANIFEST_NAME, REPORT_NAME):
                raise BundleError(f"{name} is written by finish() alone")
            with open_beneath(self.root, name) as source:
                sha256 = hashlib.file_digest(source, "sha256").hexdigest()
            yield FileEntry(path=name, bytes=size, sha256=sha256)


def update_report(path: str | Path, html: str) -> None:
    """Replace the report of the bundle at ``path``; its digest stays the same.

    In a folder, report and manifest are renamed into place one after the other: a crash
    between the two leaves a bundle that is refused for its report until this is run again.

    Raises:
        BundleError: there is no intact bundle (of a folder, the manifest alone is read).
    """
    path = Path(os.path.abspath(path))
    if path.is_dir():
        manifest = read_manifest(path)
        staging = _beside(path)
        staging.mkdir()
        try:
            entry = _put_report(staging, html)
            whole = manifest.model_copy(update={"report": entry})
            (staging / MANIFEST_NAME).write_bytes(manifest_bytes(whole))
            os.replace(staging / REPORT_NAME, path / REPORT_NAME)
            os.replace(staging / MANIFEST_NAME, path / MANIFEST_NAME)
        finally:
            _remove(staging)
        return
    from edgekit.bundle import Bundle  # it reads with what is written here

    with Bundle.open(path) as bundle:
        entry = _put_report(bundle.root, html)
        whole = bundle.manifest.model_copy(update={"report": entry})
        (bundle.root / MANIFEST_NAME).write_bytes(manifest_bytes(whole))
        _pack(bundle.root, path)


def _put_report(root: Path, html: str) -> FileEntry:
    data = html.encode()
    (root / REPORT_NAME).write_bytes(data)
    sha256 = hashlib.sha256(data).hexdigest()
    return FileEntry(path=REPORT_NAME, bytes=len(data), sha256=sha256)


def _pack(root: Path, out: Path) -> None:
    part = _beside(out)
    try:
        with open(part, "xb") as stream:
            write_archive(root, list(scan(root)), stream)
        _put_in_place(part, out)
    finally:
        _remove(part)


def _put_in_place(new: Path, out: Path) -> None:
    """Rename ``new`` to ``out``; what is at ``out`` is kept until that has worked."""
    if not out.exists() or (new.is_file() and out.is_file()):
        os.replace(new, out)
        return
    old = _beside(out)
    os.rename(out, old)
    try:
        os.rename(new, out)
    except BaseException:
        os.rename(old, out)
        raise
    _remove(old)


def _beside(out: Path) -> Path:
    return out.parent / f".{out.name}.part-{secrets.token_hex(4)}"


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _remove_empty_folders(root: Path) -> None:
    for folder, _, _ in sorted(os.walk(root), reverse=True):
        if folder != str(root) and not os.listdir(folder):
            os.rmdir(folder)


def _check_replaceable(out: Path) -> None:
    try:
        mode = out.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as e:
        raise UsageError(f"cannot write to {out}", e.strerror or str(e)) from e
    reason = "it is a link or a device"
    if stat.S_ISDIR(mode):
        reason = _foreign_in_folder(out)
    elif stat.S_ISREG(mode):
        reason = _foreign_archive(out)
    if reason:
        raise UsageError(
            f"{out} would be overwritten", reason, "choose another -o, or remove it yourself"
        )


def _foreign_in_folder(out: Path) -> str:
    """Why the folder ``out`` is not ours to replace; empty if it is."""
    try:
        found = scan(out)
        if not found:
            return ""
        manifest = read_manifest(out)
    except BundleError as e:
        return str(e)
    listed = {entry.path for entry in manifest.files} | {MANIFEST_NAME, REPORT_NAME}
    foreign = sorted(found.keys() - listed)
    return f"it holds {foreign[0]!r}, which is not part of the bundle" if foreign else ""


def _foreign_archive(out: Path) -> str:
    """Why the file ``out`` is not ours to replace; empty if it is."""
    try:
        archive = Archive(out)
        try:
            parse_manifest(archive.read(MANIFEST_NAME, MAX_MANIFEST), str(out))
        finally:
            archive.close()
    except BundleError as e:
        return str(e)
    return ""
