"""From what the user named to a list of files."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from edgekit.errors import InputError


def expand(paths: Iterable[str | Path], suffixes: Iterable[str] | None = None) -> list[Path]:
    """Files as they were named; folders as the sorted files of these suffixes beneath them.

    Args:
        paths: a file that is named is taken whatever its suffix.
        suffixes: lower case with the dot; None: those of every task.

    Returns:
        each file once, in the order named.

    Raises:
        InputError: a path does not exist, or a folder holds no such file.
    """
    wanted = tuple(_all_suffixes() if suffixes is None else suffixes)
    found: dict[Path, None] = {}
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(files_beneath(path, wanted))
            if not inside:
                raise InputError(f"nothing to run in {path}", f"no file ends in {' '.join(wanted)}")
            found.update(dict.fromkeys(inside))
        elif path.exists():
            found[path] = None
        else:
            raise InputError(f"no file {path}", "it does not exist")
    return list(found)


def files_beneath(folder: Path, suffixes: tuple[str, ...]) -> Iterable[Path]:
    """The files beneath a folder that end in ``suffixes``, in no order; hidden ones left out."""
    for where, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if name.lower().endswith(suffixes) and not name.startswith("."):
                yield Path(where, name)


def _all_suffixes() -> list[str]:
    from . import TASKS  # which imports the tasks

    return sorted({suffix for task in TASKS.values() for suffix in task.suffixes})
