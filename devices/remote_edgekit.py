"""edgekit on another device, driven over SSH: its commands, and the JSON that they answer with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from edgekit.errors import DeviceError, EdgekitError, MissingBackendError

from .ssh import Finished, Remote

#: Where the command is looked for: on the path, and where kits and pip put it.
PLACES: Final = (
    "edgekit",
    "/opt/edgekit/venv/bin/edgekit",
    "~/.local/share/edgekit/venv/bin/edgekit",
    "~/.local/bin/edgekit",
)

_FIND: Final = """
for place in "$@"; do
    case $place in "~/"*) place=$HOME/${place#"~/"} ;; esac
    if found=$(command -v "$place"); then printf '%s\\n' "$found"; exit 0; fi
done
exit 127
"""


@dataclass(frozen=True)
class Answer:
    """What a command said: its exit code and its document."""

    code: int
    document: dict[str, Any]


class RemoteEdgekit:
    """The command ``edgekit`` of a device; :meth:`find` looks for it."""

    def __init__(self, remote: Remote, command: str) -> None:
        self._remote, self._command = remote, command

    @classmethod
    async def find(cls, remote: Remote, command: str | None = None) -> RemoteEdgekit:
        """The command at a given place, else at one of :data:`PLACES`.

        Raises:
            DeviceError: there is none.
        """
        places = (command,) if command else PLACES
        found = await remote.shell(_FIND, *places)
        if found.status:
            raise DeviceError(
                f"edgekit is not installed on {remote.name}",
                f"there is no {' and no '.join(places)}",
                "edgekit pack BUNDLE --for DEVICE, and sh install.sh there; or give --edgekit PATH",
            )
        return cls(remote, found.out.strip())

    async def ask(self, *arguments: str) -> Answer:
        """Run a command there with ``--json``.

        Raises:
            DeviceError: it ended without a document.
        """
        done = await self._remote.run(self._command, *arguments, "--json", "--quiet")
        try:
            document = json.loads(done.out)
        except ValueError:
            raise self._silent(arguments[0], done) from None
        return Answer(done.status, document)

    async def need(self, *arguments: str) -> dict[str, Any]:
        """As :meth:`ask`, where only a document that is no error will do.

        Raises:
            EdgekitError: the error that it reports, as its kind, naming the device.
        """
        answer = await self.ask(*arguments)
        if "error" in answer.document:
            raise self.error(answer.document["error"])
        return answer.document

    def error(self, said: dict[str, Any]) -> EdgekitError:
        """An error of there, as one of here."""
        kinds = {kind.exit_code: kind for kind in EdgekitError.__subclasses__()}
        kind = kinds.get(said.get("code", 1), EdgekitError)
        return kind(
            f"on {self._remote.name}: {said.get('what', '')}",
            str(said.get("why", "")),
            str(said.get("next", "")),
        )

    def _silent(self, command: str, done: Finished) -> EdgekitError:
        if "No such command" in done.err or "there is no command" in done.err:
            return MissingBackendError(
                f"edgekit on {self._remote.name} is too old", done.reason, "install it again"
            )
        return DeviceError(f"edgekit {command} failed on {self._remote.name}", done.reason)
