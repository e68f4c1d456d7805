"""Putting a bundle on a device, and judging and measuring it there.

A deployment is a folder on the device: ``current.edgekit`` is what runs, ``previous.edgekit`` what
ran before (``NAME.edgekit`` and ``NAME.previous.edgekit``, where the address names a file). A new
bundle is written beside them under a name of its own, read back as a sha256, verified there
against PyTorch's answers, and only then renamed. So whatever goes wrong before that leaves what
runs untouched, and a rename is whole or not at all.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from edgekit.bundle import Bundle
from edgekit.errors import (
    BundleError,
    DeviceError,
    EdgekitError,
    MissingBackendError,
    ParityError,
    UsageError,
)

from .destination import Destination
from .remote_edgekit import RemoteEdgekit
from .ssh import Access, Remote, connect

SUFFIX: Final = ".edgekit"
CURRENT: Final = "current.edgekit"
PREVIOUS: Final = "previous.edgekit"

# Each is given the folder and the name of the current bundle; then that of the previous one and a
# new one's. What an upload left a day ago is of nobody any more.
_PREPARE: Final = """
set -eu
mkdir -p -- "$1"
cd -- "$1"
find . -maxdepth 1 -name ".$2.part-*" -mtime +0 -exec rm -f {} + 2>/dev/null || :
pwd -P
"""
_SUM: Final = 'if [ -f "$1" ]; then exec sha256sum <"$1"; fi'
_ACTIVATE: Final = """
set -eu
cd -- "$1"
sync
if [ -f "$2" ]; then
    ln -- "$2" "$4.old" 2>/dev/null || cp -p -- "$2" "$4.old"
    mv -f -- "$4.old" "$3"
fi
mv -f -- "$4" "$2"
sync
"""
_SWAP: Final = """
set -eu
cd -- "$1"
ln -- "$2" "$4" 2>/dev/null || cp -p -- "$2" "$4"
mv -f -- "$3" "$2"
mv -f -- "$4" "$3"
sync
"""
Accepted = frozenset[tuple[str, str]]

_GRAVITY: Final = (ParityError.exit_code, BundleError.exit_code, 1, 4, 8, 9)


@dataclass(frozen=True)
class Wishes:
    """What was asked for.

    Attributes:
        edgekit: where the command is on the device; None: look for it.
        bench: whether to measure it there, with ``repeat`` samples and ``threads`` if they are
            given, fed with ``input`` (a file here, which is copied there).
    """

    access: Access = field(default_factory=Access)
    edgekit: str | None = None
    bench: bool = True
    repeat: int | None = None
    threads: tuple[int, ...] = ()
    input: Path | None = None


@dataclass(frozen=True)
class Parcel:
    """What is sent: a bundle's file, its sha256, and which graphs it has for which targets."""

    file: Path
    sha256: str
    bytes: int
    accepted: Accepted

    @classmethod
    def of(cls, bundle: Bundle, file: Path) -> Parcel:
        """The parcel of a bundle, which :func:`.sealed.sealed` made ``file`` of."""
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        graphs = bundle.manifest.model_dump(mode="json")["graphs"]
        return cls(file, digest, file.stat().st_size, accepted_of(graphs))


def accepted_of(graphs: list[dict[str, Any]]) -> Accepted:
    """What of a manifest's graphs may run, by graph and target."""
    return frozenset(
        (graph["name"], artifact["target"])
        for graph in graphs
        for artifact in graph["artifacts"]
        if artifact["status"] == "ok"
    )


@dataclass(frozen=True)
class Place:
    """A deployment on a device: its absolute folder, and the names of the two bundles in it."""

    folder: str
    current: str
    previous: str

    @classmethod
    def named(cls, path: str) -> Place:
        """The one at a path: a folder, or a bundle's file if it ends in ``.edgekit``."""
        if not path.endswith(SUFFIX):
            return cls(path, CURRENT, PREVIOUS)
        folder, _, name = path.rpartition("/")
        stem = name.removesuffix(SUFFIX)
        # At the root of the file system a folder's name is empty, and "." would be the home.
        root = "/" if path.startswith("/") else "."
        return cls(folder or root, name, f"{stem}.previous{SUFFIX}")

    def path(self, name: str) -> str:
        """A file in the folder."""
        return f"{self.folder.rstrip('/')}/{name}"

    def part(self) -> str:
        """A name beside the current bundle that nothing has."""
        return f".{self.current}.part-{secrets.token_hex(6)}"


@dataclass
class Report:
    """What became of one device; fields are filled in as they become known.

    Attributes:
        host, path: where. activated: whether the bundle is ``current.edgekit`` now.
        sent: bytes that arrived whole; 0 where the same bundle was there already.
        sha256: of the file. previous: whether there is one to roll back to.
        device: the device's description. backends, verify, bench: what its doctor, verify and
            bench said, as their own documents. notes: what its user should know.
        error: why it failed; None if it did not.
    """

    host: str
    path: str
    activated: bool = False
    sent: int = 0
    sha256: str | None = None
    previous: bool = False
    device: dict[str, Any] | None = None
    backends: list[dict[str, Any]] = field(default_factory=list)
    verify: dict[str, Any] | None = None
    bench: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)
    error: EdgekitError | None = None


async def deploy(
    parcel: Parcel,
    to: Destination,
    wishes: Wishes,
    report: Report,
    advance: Callable[[int], None] = lambda sent: None,
) -> None:
    """Send a bundle to one device, verify it there, put it in its place, and measure it.

    Args:
        report: filled in, also where this raises.
        advance: told of every number of bytes that was handed over.

    Raises:
        DeviceError: the device, its disk or the connection failed.
        BundleError: what arrived is not what was sent.
        ParityError, UnsupportedError, MissingBackendError: the bundle does not run there, or
            is not the same model there.
    """
    async with connect(to, wishes.access) as remote:
        edgekit = await _meet(remote, wishes, report)
        place = await _prepare(remote, to.path)
        report.sha256 = parcel.sha256
        part = place.part()
        there = await _sum(remote, place.path(place.current)) == parcel.sha256
        subject = place.path(place.current if there else part)
        try:
            if not there:
                await _upload(remote, parcel, subject, report, advance)
            await _build(edgekit, parcel, subject, report)
            await _verify(edgekit, subject, parcel.accepted, report)
            if not there:
                await _exchange(remote, _ACTIVATE, place, part)
        except BaseException:
            await _forget(remote, place.path(part))
            raise
        report.activated = True
        report.previous = await _sum(remote, place.path(place.previous)) is not None
        if wishes.bench:
            await _bench(remote, edgekit, place, wishes, report)


async def roll_back(to: Destination, wishes: Wishes, report: Report) -> None:
    """Verify the previous bundle of a device and swap it with the current one.

    Raises:
        UsageError: there is no previous one. The rest as of :func:`deploy`.
    """
    async with connect(to, wishes.access) as remote:
        edgekit = await _meet(remote, wishes, report)
        place = await _prepare(remote, to.path)
        previous = place.path(place.previous)
        report.sha256 = await _sum(remote, previous)
        if report.sha256 is None:
            raise UsageError(
                f"there is nothing to roll back to on {remote.name}", f"there is no {previous}"
            )
        manifest = await edgekit.need("inspect", previous)
        await _verify(edgekit, previous, accepted_of(manifest["graphs"]), report)
        await _exchange(remote, _SWAP, place, place.part())
        report.activated = report.previous = True
        if wishes.bench:
            await _bench(remote, edgekit, place, wishes, report)


async def _meet(remote: Remote, wishes: Wishes, report: Report) -> RemoteEdgekit:
    """Find edgekit and what works there."""
    edgekit = await RemoteEdgekit.find(remote, wishes.edgekit)
    found = await edgekit.need("doctor")
    report.device, report.backends = found.get("host"), found.get("backends", [])
    return edgekit


async def _prepare(remote: Remote, path: str) -> Place:
    """Make the folder."""
    place = Place.named(path)
    doing = f"make the folder {place.folder}"
    said = await _must(remote, _PREPARE, place.folder, place.current, doing=doing)
    return replace(place, folder=said.strip())


async def _exchange(remote: Remote, program: str, place: Place, part: str) -> None:
    names = (place.folder, place.current, place.previous, part)
    await _must(remote, program, *names, doing="put the bundle in its place")


async def _must(remote: Remote, program: str, *arguments: str, doing: str) -> str:
    done = await remote.shell(program, *arguments)
    if done.status:
        raise DeviceError(f"{remote.name} could not {doing}", done.reason)
    return done.out


async def _sum(remote: Remote, path: str) -> str | None:
    """The sha256 of a file there; None if there is none."""
    said = await _must(remote, _SUM, path, doing=f"read {path}")
    return said.split()[0] if said.strip() else None


async def _upload(
    remote: Remote, parcel: Parcel, part: str, report: Report, advance: Callable[[int], None]
) -> None:
    with parcel.file.open("rb") as source:
        done = await remote.send(source, part, advance)
    if done.status:
        raise DeviceError(f"the bundle cannot be written on {remote.name}", done.reason)
    if await _sum(remote, part) != parcel.sha256:
        raise BundleError(
            f"what arrived on {remote.name} is not what was sent",
            "its sha256 differs",
            "deploy again; if it happens again, look at that device's disk and memory",
        )
    report.sent = parcel.bytes


async def _build(edgekit: RemoteEdgekit, parcel: Parcel, path: str, report: Report) -> None:
    """Make TensorRT's engines where there is a TensorRT that can run them."""
    here = {one["name"] for one in report.backends if one["status"] == "ok"}
    recipes = any(target == "tensorrt" for _, target in parcel.accepted)
    if recipes and here & {"tensorrt", "tensorrt-rtx"}:
        answer = await edgekit.ask("build", path)
        if "error" in answer.document:
            report.notes.append(str(edgekit.error(answer.document["error"])))


async def _verify(edgekit: RemoteEdgekit, path: str, accepted: Accepted, report: Report) -> None:
    """Judge the bundle there: what was accepted here must run there, or not be runnable at all."""
    report.verify = await edgekit.need("verify", path)
    judged = [
        one for one in report.verify["artifacts"] if (one["graph"], one["target"]) in accepted
    ]
    if failed := [one for one in judged if one["status"] == "failed"]:
        worst = min(failed, key=lambda one: _gravity(one["exit_code"]))
        raise edgekit.error({"what": worst["reason"], "code": worst["exit_code"]})
    if "ran" not in [(one["verify"] or {}).get("level") for one in judged]:
        raise MissingBackendError(
            f"nothing of the bundle runs on {report.host}",
            "none of the runtimes that it has artifacts for works there",
            "edgekit doctor there says what to install",
        )


def _gravity(code: int) -> int:
    return _GRAVITY.index(code) if code in _GRAVITY else len(_GRAVITY)


async def _bench(
    remote: Remote, edgekit: RemoteEdgekit, place: Place, wishes: Wishes, report: Report
) -> None:
    """Measure it; that this fails does not undo the deployment, and is a note.

    The device remembers the figures, too: ``auto`` follows them there. Its bundle stays as it
    was sent, without a report.
    """
    arguments = ["bench", place.path(place.current), "--save", "--no-report"]
    if wishes.repeat:
        arguments += ["--repeat", str(wishes.repeat)]
    for count in wishes.threads:
        arguments += ["--threads", str(count)]
    suffix = wishes.input.suffix if wishes.input else ""
    fed = place.path(f"{place.part()}{suffix}")
    try:
        if wishes.input is not None:
            with wishes.input.open("rb") as source:
                done = await remote.send(source, fed, lambda sent: None)
            if done.status:
                raise DeviceError(f"the input cannot be written on {remote.name}", done.reason)
            arguments += ["--input", fed]
        report.bench = await edgekit.need(*arguments)
    except EdgekitError as error:
        report.notes.append(f"not measured: {error}")
    finally:
        if wishes.input is not None:
            await _forget(remote, fed)


async def _forget(remote: Remote, path: str) -> None:
    """Remove a file there if the connection still stands; a later deployment does it if not."""
    try:
        await remote.run("rm", "-f", "--", path, f"{path}.old")
    except EdgekitError:
        return
