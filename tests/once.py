"""Bundles that several test files use are exported once, by whichever process needs one first."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest


def exported_once(
    factory: pytest.TempPathFactory, name: str, export: Callable[[Path], object]
) -> Path:
    """The folder ``name``, which ``export`` writes where no other test of this run has yet.

    Args:
        factory: of the run. export: is given the folder to write, which is not there.
    """
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # each worker has a folder of its own in that of the run
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = root / name
        if not found.exists():
            export(made := root / f"{name}.part")
            made.rename(found)
    return found
