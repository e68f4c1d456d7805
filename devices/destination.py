"""Where a bundle is deployed: ``ssh://user@host:port/path``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from edgekit.errors import InputError, UsageError

SCHEME: Final = "ssh://"
_FORM: Final = "ssh://USER@HOST:PORT/FOLDER, where USER@ and :PORT may be left out"
_HOME: Final = "/~/"


@dataclass(frozen=True)
class Destination:
    """A folder on a device. ``user`` and ``port`` None: as OpenSSH's configuration says.

    ``path`` is absolute, or relative to the user's home (written ``ssh://HOST/~/FOLDER``).
    """

    user: str | None
    host: str
    port: int | None
    path: str

    @property
    def name(self) -> str:
        """``user@host:port``, as far as it was said."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        user, port = f"{self.user}@" if self.user else "", f":{self.port}" if self.port else ""
        return f"{user}{host}{port}"

    def __str__(self) -> str:
        path = self.path if self.path.startswith("/") else _HOME + self.path
        return f"{SCHEME}{self.name}{path}"


def parse(text: str) -> Destination:
    """The destination in an address.

    Raises:
        UsageError: it is none, or has a password in it.
    """
    wrong = f"{text!r} is no place to deploy to"
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError(wrong, str(error), f"give {_FORM}") from error
    if parts.scheme != "ssh" or not host or parts.query or parts.fragment:
        raise UsageError(wrong, "", f"give {_FORM}")
    if parts.password is not None:
        raise UsageError(
            f"the address of {host} has a password in it",
            "it would be seen by everybody here",
            "use a key: ssh-copy-id",
        )
    path = unquote(parts.path)
    path = path.removeprefix(_HOME) if path.startswith(_HOME) else path
    if not path.strip("/") or not path.isprintable() or host.startswith("-"):
        raise UsageError(wrong, "it names no folder", f"give {_FORM}")
    user = unquote(parts.username) if parts.username else None
    return Destination(user, host, port, path.rstrip("/"))


def read_hosts(path: Path) -> list[Destination]:
    """The destinations in a file: one a line; empty lines and those that begin with # are none.

    Raises:
        InputError: it cannot be read.
        UsageError: a line is no destination, or none is.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"the hosts in {path} cannot be read", reason) from error
    wanted = (line.strip() for line in lines)
    found = [parse(line) for line in wanted if line and not line.startswith("#")]
    if not found:
        raise UsageError(f"there is no host in {path}", "", f"write one a line: {_FORM}")
    return found
