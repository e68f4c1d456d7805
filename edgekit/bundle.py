"""Bundles: what a device receives, as a folder or as one ``.edgekit`` file.

:class:`Bundle` reads and trusts nothing: names, sizes, links and the manifest's own
consistency are checked on opening, the content of a file against its sha256 when it is
first used. :class:`~edgekit.bundle_writer.BundleWriter` makes one, beside its place and
then renamed.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from edgekit.archive import Archive
from edgekit.bundle_writer import BundleWriter, update_report
from edgekit.containment import open_beneath, scan
from edgekit.errors import BundleError, UsageError
from edgekit.manifest import MANIFEST_NAME, FileEntry, Graph, Manifest
from edgekit.manifest_reader import (
    MAX_MANIFEST,
    manifest_digest,
    parse_manifest,
    read_manifest,
)

__all__ = ["Bundle", "BundleWriter", "Files", "update_report"]

_DEFAULT_GRAPH: Final = "forward"
_CHUNK: Final = 1 << 20


class Files(Protocol):
    """Where a session finds the files of an artifact: a bundle, or one being written."""

    def file(self, rel: str) -> Path:
        """The path of one file."""

    def folder(self, rel: str) -> Path:
        """The path of a folder, all of whose files may be used."""


class Bundle:
    """An open bundle. Use :meth:`open`; close it, or use it in a ``with`` statement.

    Checks are made when a bundle is opened and when a file is first read. Whoever can
    write to the folder of an open bundle can still change a file between the check and
    the moment a runtime loads it: keep bundles where only you can write.

    Attributes:
        path: as given to :meth:`open`.
        root: the folder that holds the files (of a zip, a private temporary one).
        manifest: what the bundle holds.
        digest: sha256 of the manifest without the report; names the bundle's content.
    """

    def __init__(self, path: Path, root: Path, manifest: Manifest) -> None:
        self.path, self.root, self.manifest = path, root, manifest
        self.digest = manifest_digest(manifest)
        entries = [*manifest.files, *([manifest.report] if manifest.report else [])]
        self._entries = {entry.path: entry for entry in entries}
        self._checked: set[str] = set()
        self._release = lambda: None

    @classmethod
    def open(cls, path: str | Path) -> Bundle:
        """Open the bundle at ``path``, a folder or a zip (which is unpacked to a private place).

        Raises:
            UsageError: there is nothing at ``path``, or no bundle.
            BundleError: it is damaged, truncated, or not to be trusted.
        """
        path = Path(path)
        if path.is_dir():
            return cls._open_folder(path)
        if path.is_file():
            return cls._open_archive(path)
        why = "it is neither a folder nor a file" if path.exists() else "it does not exist"
        raise UsageError(f"no bundle at {path}", why)

    @classmethod
    def _open_folder(cls, path: Path) -> Bundle:
        found = scan(path)
        bundle = cls(path, path, read_manifest(path))
        bundle._check_listing(found)
        return bundle

    @classmethod
    def _open_archive(cls, path: Path) -> Bundle:
        with closing(Archive(path)) as archive:
            manifest = parse_manifest(archive.read(MANIFEST_NAME, MAX_MANIFEST), str(path))
            root = Path(tempfile.mkdtemp(prefix="edgekit-"))
            try:
                bundle = cls(path, root, manifest)
                bundle._check_listing(archive.sizes)
                expected: dict[str, tuple[int, str | None]] = {
                    name: (entry.bytes, entry.sha256) for name, entry in bundle._entries.items()
                }
                expected[MANIFEST_NAME] = (archive.sizes[MANIFEST_NAME], None)
                archive.unpack(root, expected)
            except BaseException:
                shutil.rmtree(root, ignore_errors=True)
                raise
        bundle._checked.update(bundle._entries)
        bundle._release = weakref.finalize(bundle, shutil.rmtree, root, ignore_errors=True)
        return bundle

    def _check_listing(self, found: Mapping[str, int]) -> None:
        expected = {*self._entries, MANIFEST_NAME}
        if missing := sorted(expected - found.keys()):
            raise BundleError(
                f"the bundle {self.path} is truncated", f"{missing[0]} is missing", "copy it again"
            )
        if unlisted := sorted(found.keys() - expected):
            raise BundleError(
                f"the bundle {self.path} holds {unlisted[0]!r}, which its manifest does not list",
                "nothing may be added to a bundle",
                "remove that file, or export again",
            )
        for name, entry in self._entries.items():
            if found[name] != entry.bytes:
                raise BundleError(
                    f"{name} in the bundle {self.path} is damaged or truncated",
                    f"it has {found[name]} bytes instead of {entry.bytes}",
                    "copy the bundle again",
                )

    def file(self, rel: str) -> Path:
        """The path of the listed file ``rel``, whose content has been checked.

        Raises:
            BundleError: it is not listed, cannot be read, or its content has changed.
        """
        entry = self._entry(rel)
        if rel not in self._checked:
            with _open_checked(self.root, rel) as source:
                digest = hashlib.sha256()
                while chunk := source.read(_CHUNK):
                    digest.update(chunk)
            self._compare(entry, digest.hexdigest())
        return self.root / rel

    def read(self, rel: str) -> bytes:
        """The content of the listed file ``rel``, checked; errors as in :meth:`file`."""
        entry = self._entry(rel)
        with _open_checked(self.root, rel) as source:
            data = source.read(entry.bytes + 1)
        self._compare(entry, hashlib.sha256(data).hexdigest())
        return data

    def folder(self, rel: str) -> Path:
        """The path of the folder ``rel``, all of whose files have been checked.

        Raises:
            BundleError: no listed file lies beneath it, or one has changed.
        """
        beneath = [name for name in self._entries if name.startswith(rel + "/")]
        if not beneath:
            raise BundleError(f"the bundle {self.path} has no folder {rel!r}")
        for name in beneath:
            self.file(name)
        return self.root / rel

    def check_all(self) -> None:
        """Read every file and compare it with its checksum; errors as in :meth:`file`."""
        self._checked.clear()
        for name in self._entries:
            self.file(name)

    def graph(self, name: str | None = None) -> Graph:
        """The graph ``name``; by default the task's ``graph``, the only one, or ``forward``.

        Raises:
            UsageError: there is no such graph, or no default one.
        """
        graphs = {graph.name: graph for graph in self.manifest.graphs}
        main = self.manifest.task.params.get("graph")
        name = name or (main if isinstance(main, str) else None)
        if name is None and len(graphs) == 1:
            return next(iter(graphs.values()))
        if (found := graphs.get(name or _DEFAULT_GRAPH)) is not None:
            return found
        what = f"no graph {name!r} in {self.path}" if name else f"{self.path} has several graphs"
        raise UsageError(what, f"it has {', '.join(graphs) or 'none'}", "name one of them")

    def close(self) -> None:
        """Remove what a zip was unpacked to; a folder stays as it is."""
        self._release()

    def __enter__(self) -> Bundle:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _entry(self, rel: str) -> FileEntry:
        if rel not in self._entries:
            raise BundleError(f"the bundle {self.path} lists no file {rel!r}")
        return self._entries[rel]

    def _compare(self, entry: FileEntry, sha256: str) -> None:
        if sha256 != entry.sha256:
            raise BundleError(
                f"{entry.path} in the bundle {self.path} is damaged",
                "its content does not have the checksum in the manifest",
                "copy the bundle or export the model again",
            )
        self._checked.add(entry.path)


def _open_checked(root: Path, rel: str) -> BinaryIO:
    try:
        return open_beneath(root, rel)
    except OSError as e:
        raise BundleError(f"{rel} in {root} cannot be read", e.strerror or str(e)) from e
