"""What every test folder shares."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of golden and real data (``EDGEKIT_DATA``, default ``../shared``)."""
    folder = Path(os.environ.get("EDGEKIT_DATA", REPOSITORY.parent / "shared"))
    if not (folder / "golden").is_dir():
        pytest.skip(f"no shared data at {folder} (set EDGEKIT_DATA)")
    return folder
