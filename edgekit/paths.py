"""Where edgekit keeps what is not the user's: rebuilt engines and saved measurements.

Follows the XDG Base Directory Specification; ``EDGEKIT_HOME`` puts both in one place.
"""

import os
from pathlib import Path


def cache_dir() -> Path:
    """The folder for what can be made again (``$EDGEKIT_HOME/cache``); not created here."""
    return _folder("cache", "XDG_CACHE_HOME", ".cache")


def state_dir() -> Path:
    """The folder for records of this host (``$EDGEKIT_HOME/state``); not created here."""
    return _folder("state", "XDG_STATE_HOME", ".local/state")


def _folder(kind: str, variable: str, fallback: str) -> Path:
    if home := os.environ.get("EDGEKIT_HOME"):
        return Path(home).expanduser() / kind
    base = os.environ.get(variable, "")
    # The specification says that a relative value is invalid and to be ignored.
    root = Path(base) if os.path.isabs(base) else Path.home() / fallback
    return root / "edgekit"
