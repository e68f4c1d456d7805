"""One SSH connection to a device: who may be trusted, and what is run there.

Host keys are those of known_hosts; an unknown or another key ends the connection, and nobody is
asked. The user is let in by a key (a file, or the agent), never by a password.
"""

from __future__ import annotations

import asyncio
import contextlib
import shlex
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from edgekit.errors import DeviceError, EdgekitError, InputError, MissingBackendError

from .destination import Destination

if TYPE_CHECKING:
    import asyncssh

CONNECT_S: Final = 20
_ALIVE_S, _ALIVE_COUNT = 15, 4  # a device that is silent for a minute is gone
_PORT: Final = 22
_CHUNK: Final = 1 << 18
_KNOWN: Final = ("~/.ssh/known_hosts", "/etc/ssh/ssh_known_hosts")
_LONGEST: Final = 240


@dataclass(frozen=True)
class Access:
    """How to get in: ``identity`` is a private key's file, None for the agent and the usual
    files; ``known_hosts`` a file, None for the user's own and the system's."""

    identity: Path | None = None
    known_hosts: Path | None = None


@dataclass(frozen=True)
class Finished:
    """How a command ended there: exit status (negative: a signal, or unknown) and what it said."""

    status: int
    out: str
    err: str

    @property
    def reason(self) -> str:
        """The last line on its stderr."""
        lines = [line.strip() for line in self.err.splitlines() if line.strip()]
        return lines[-1][:_LONGEST] if lines else f"exit status {self.status}"


class Remote:
    """An open connection; :func:`connect` makes one."""

    def __init__(self, connection: asyncssh.SSHClientConnection, name: str) -> None:
        self._connection, self.name = connection, name

    async def shell(self, program: str, *arguments: str) -> Finished:
        """Run a program of the POSIX shell there, with these positional arguments."""
        return await self.run("sh", "-c", program, "sh", *arguments)

    async def run(self, *words: str) -> Finished:
        """Run a command there, without input.

        Raises:
            DeviceError: the connection was lost.
        """
        with _lost(self.name):
            done = await self._connection.run(shlex.join(words), errors="replace", input="")
        status = done.exit_status if done.exit_status is not None else -1
        return Finished(status, str(done.stdout), str(done.stderr))

    async def send(self, source: BinaryIO, path: str, advance: Callable[[int], None]) -> Finished:
        """Write a file there; ``advance`` is told of every part that was taken.

        Raises:
            DeviceError: the connection was lost.
        """
        with _lost(self.name):
            command = shlex.join(("sh", "-c", 'umask 022; exec cat >"$1"', "sh", path))
            process = await self._connection.create_process(command, encoding=None)
            # The command may end before it has read everything (a full disk): it says why.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                while chunk := source.read(_CHUNK):
                    process.stdin.write(chunk)
                    await process.stdin.drain()
                    advance(len(chunk))
                process.stdin.write_eof()
            done = await process.wait()
        if self._connection.is_closed():
            raise DeviceError(f"the connection to {self.name} was lost", "it was closed")
        status = done.exit_status if done.exit_status is not None else -1
        return Finished(status, "", bytes(done.stderr or b"").decode(errors="replace"))


@contextlib.asynccontextmanager
async def connect(to: Destination, access: Access) -> AsyncIterator[Remote]:
    """Connect, and disconnect in the end.

    Raises:
        MissingBackendError: asyncssh is not installed.
        DeviceError: nobody answers, the host key is not the known one, or the key is refused.
        InputError: the file of the key or of the known hosts cannot be used.
    """
    library = _library()
    known = _known_hosts(library, access.known_hosts)
    options: dict[str, Any] = {
        "known_hosts": known,
        "preferred_auth": "publickey",
        "connect_timeout": CONNECT_S,
        "login_timeout": CONNECT_S,
        "keepalive_interval": _ALIVE_S,
        "keepalive_count_max": _ALIVE_COUNT,
    }
    if to.user:
        options["username"] = to.user
    if to.port:
        options["port"] = to.port
    if access.identity is not None:
        options |= {"client_keys": [str(access.identity)], "agent_path": None}
        _check_identity(library, access.identity)
    try:
        connection = await library.connect(to.host, **options)
    except library.HostKeyNotVerifiable as error:
        raise _untrusted(to, known, error) from error
    except library.PermissionDenied as error:
        raise DeviceError(
            f"{to.name} does not let us in",
            f"no key that it takes ({error.reason})",
            f"ssh-copy-id to {to.name}, or give --identity FILE",
        ) from error
    except (OSError, TimeoutError, library.Error) as error:
        raise DeviceError(f"{to.name} cannot be reached", _reason(error), "") from error
    try:
        yield Remote(connection, to.name)
    finally:
        connection.close()
        with contextlib.suppress(Exception):  # whatever it ends with: what counts was said
            await asyncio.wait_for(connection.wait_closed(), CONNECT_S)


def _library() -> Any:
    try:
        import asyncssh
    except ImportError as error:
        raise MissingBackendError(
            "nothing can be deployed", str(error), 'pip install "edgekit-toolkit[deploy]"'
        ) from error
    return asyncssh


def _known_hosts(library: Any, path: Path | None) -> Any:
    """The known hosts of a file, or of all that are usual and there."""
    places = [path] if path else [Path(place).expanduser() for place in _KNOWN]
    texts = []
    for place in places:
        try:
            texts.append(place.read_text(encoding="utf-8", errors="replace"))
        except OSError as error:
            if path is not None:
                reason = error.strerror or str(error)
                raise InputError(f"the known hosts in {path} cannot be read", reason) from error
    try:
        return library.import_known_hosts("\n".join(texts))
    except ValueError as error:
        place = path or "known_hosts"
        raise InputError(f"the known hosts in {place} cannot be used", str(error)) from error


def _check_identity(library: Any, path: Path) -> None:
    try:
        library.read_private_key(str(path))
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"the key {path} cannot be read", reason) from error
    except (library.KeyImportError, library.KeyEncryptionError) as error:
        raise InputError(
            f"the key {path} cannot be used",
            str(error),
            f"if it has a passphrase: ssh-add {path}, and leave --identity out",
        ) from error


def _untrusted(to: Destination, known: Any, error: Exception) -> DeviceError:
    # Whatever key is known for it, it has shown another one now.
    keys: Sequence[Any] = known.match(to.host, "", to.port or _PORT)[0]
    port = f"-p {to.port} " if to.port else ""
    if keys:
        return DeviceError(
            f"the host key of {to.name} is not the one in known_hosts",
            "somebody may be between you and it, or it was set up anew",
            "ask whoever runs it; then ssh-keygen -R, and connect once with ssh",
        )
    return DeviceError(
        f"the host key of {to.name} is not known",
        _reason(error),
        f"ssh {port}{to.user + '@' if to.user else ''}{to.host} once, and compare its fingerprint",
    )


@contextlib.contextmanager
def _lost(name: str) -> Iterator[None]:
    """What asyncssh raises when a connection ends, as one error of ours."""
    library = _library()
    try:
        yield
    except EdgekitError:
        raise
    except (OSError, TimeoutError, library.Error) as error:
        raise DeviceError(f"the connection to {name} was lost", _reason(error)) from error


def _reason(error: BaseException) -> str:
    text = getattr(error, "reason", "") or getattr(error, "strerror", None) or str(error)
    return str(text) or type(error).__name__
