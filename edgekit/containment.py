"""Paths that may not leave a folder, and files that may not be something else.

A bundle comes from somewhere else. Its names are checked as text (:func:`check_names`),
the folder on disk is walked without following anything (:func:`scan`), and each file is
opened beneath the folder one component at a time (:func:`open_beneath`), so that a link
put in place afterwards is refused by the system itself.
"""

import os
import stat
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, Final

from edgekit.errors import BundleError

MAX_FILES: Final = 100_000
_MAX_DEPTH: Final = 32
_MAX_NAME: Final = 1024


def check_name(name: str) -> str:
    """Return ``name`` if it is a plain relative path with forward slashes.

    Raises:
        BundleError: it is absolute, has ``..``, ``.`` or empty parts, a backslash, a colon
            (a drive or an alternate stream on Windows), control characters, a part that
            Windows would trim, or is longer than any file system takes.
    """
    if reason := _fault(name):
        raise BundleError(f"the path {name[:80]!r} is not allowed in a bundle", reason)
    return name


def _fault(name: str) -> str:
    if not name or len(name) > _MAX_NAME:
        return "it is empty" if not name else "it is too long"
    if name.startswith("/"):
        return "it is absolute"
    if any(c in "\\:" or not c.isprintable() for c in name):
        return "it has a backslash, a colon or a control character"
    parts = name.split("/")
    if ".." in parts:
        return "it leaves the bundle"
    if any(part in ("", ".") or part[-1] in " ." for part in parts):
        return "a part of it is empty, or ends in a dot or a space"
    return "" if len(parts) <= _MAX_DEPTH else "it is too deep"


def check_names(names: Iterable[str]) -> None:
    """Check each name, and that all of them can stand beside each other everywhere.

    Raises:
        BundleError: a name is not allowed (see :func:`check_name`), occurs twice, differs
            from another only in case or Unicode form, or is a file here and a folder there.
    """
    files: set[str] = set()
    folders: set[str] = set()
    spelling: dict[str, str] = {}
    for name in names:
        check_name(name)
        if name in files:
            raise BundleError(f"the path {name!r} occurs twice in the bundle")
        files.add(name)
        if len(files) > MAX_FILES:
            raise BundleError(f"the bundle has more than {MAX_FILES} files")
        parts = name.split("/")
        prefixes = ["/".join(parts[: i + 1]) for i in range(len(parts))]
        folders.update(prefixes[:-1])
        for prefix in prefixes:
            known = spelling.setdefault(unicodedata.normalize("NFC", prefix).casefold(), prefix)
            if known != prefix:
                raise BundleError(
                    f"the paths {known!r} and {prefix!r} of the bundle collide",
                    "they are the same where file names ignore case",
                )
    if clash := sorted(files & folders):
        raise BundleError(f"the path {clash[0]!r} is both a file and a folder of the bundle")


def scan(root: Path) -> dict[str, int]:
    """Every file beneath ``root`` by relative path, with its size in bytes.

    Raises:
        BundleError: something is neither a folder nor a plain file with one name, or
            cannot be read.
    """
    found: dict[str, int] = {}
    try:
        _scan_into(found, root, "", 0)
    except OSError as e:
        raise BundleError(f"the bundle {root} cannot be read", e.strerror or str(e)) from e
    return found


def _scan_into(found: dict[str, int], folder: Path, prefix: str, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise BundleError(f"the folder {prefix!r} of the bundle is too deep")
    with os.scandir(folder) as entries:
        for entry in entries:
            name = prefix + entry.name
            info = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(info.st_mode):
                _scan_into(found, folder / entry.name, name + "/", depth + 1)
                continue
            _check_plain(name, info)
            found[name] = info.st_size
            if len(found) > MAX_FILES:
                raise BundleError(f"the bundle has more than {MAX_FILES} files")


def _check_plain(name: str, info: os.stat_result) -> None:
    if stat.S_ISLNK(info.st_mode):
        raise BundleError(f"{name!r} in the bundle is a link", "links may lead outside of it")
    if not stat.S_ISREG(info.st_mode):
        raise BundleError(f"{name!r} in the bundle is not a plain file")
    if info.st_nlink > 1:
        raise BundleError(
            f"{name!r} in the bundle is a hard link",
            "the same file has another name, through which it can be changed",
            "copy the bundle without links (cp -r)",
        )


def open_beneath(root: Path, name: str) -> BinaryIO:
    """Open a plain file beneath ``root`` for reading, following no link on the way.

    Where the system has no directory descriptors (Windows), the last component alone is
    protected.

    Raises:
        BundleError: ``name`` is not allowed, a component is a link, or it is no plain file.
        OSError: it cannot be opened for another reason.
    """
    *folders, last = check_name(name).split("/")
    # A pipe would block on opening; O_NONBLOCK lets fstat see it first.
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    flags |= getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    if os.open not in os.supports_dir_fd:
        handle = os.open(root.joinpath(*folders, last), flags)
    else:
        handle = _open_through(root, folders, last, flags)
    try:
        _check_plain(name, os.fstat(handle))
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def _open_through(root: Path, folders: list[str], last: str, flags: int) -> int:
    at = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for folder in folders:
            below = os.open(folder, flags | os.O_DIRECTORY, dir_fd=at)
            os.close(at)
            at = below
        return os.open(last, flags, dir_fd=at)
    finally:
        os.close(at)
