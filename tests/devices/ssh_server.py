"""A real OpenSSH server on loopback, and behind it another user with edgekit's core alone."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from edgekit.devices.core_wheel import DISTRIBUTION, core_wheel

USER = "edgekit-ssh-test"
START_S = 10

CONFIG = """
Port {port}
ListenAddress 127.0.0.1
HostKey {root}/host_key
PidFile {root}/sshd.pid
AuthorizedKeysFile {root}/authorized_keys
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
AcceptEnv none
SetEnv PATH={root}/bin:/usr/bin:/bin
"""


@dataclass
class Server:
    """``root`` is readable to the user; ``home`` is the user's own, ``bin`` first on its path."""

    root: Path
    home: Path
    user: str
    port: int

    @property
    def bin(self) -> Path:
        return self.root / "bin"

    @property
    def key(self) -> Path:
        return self.root / "user_key"

    def address(self, folder: str, port: int | None = None) -> str:
        """Where to deploy to, in the user's home."""
        return f"ssh://{self.user}@127.0.0.1:{port or self.port}{self.home / folder}"

    def known_hosts(self, path: Path, *ports: int, key: str = "host_key") -> Path:
        """Write a file that knows this host, at its port and these, by a key."""
        public = (self.root / f"{key}.pub").read_text().strip()
        lines = [f"[127.0.0.1]:{port} {public}\n" for port in (self.port, *ports)]
        path.write_text("".join(lines))
        return path


@contextlib.contextmanager
def serve() -> Iterator[Server]:
    """Start a server; skip the test where there can be none."""
    sshd = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if sshd is None or not shutil.which("ssh-keygen"):
        pytest.skip("no OpenSSH server: apt-get install openssh-server")
    # Not pytest's folder, which is closed to other users.
    with tempfile.TemporaryDirectory(prefix="edgekit-sshd-") as folder, _user() as user:
        root = Path(folder)
        root.chmod(0o755)
        server = Server(root, root / "home", user, _free_port())
        _furnish(server)
        (root / "sshd_config").write_text(CONFIG.format(port=server.port, root=root))
        Path("/run/sshd").mkdir(exist_ok=True) if os.getuid() == 0 else None
        with (root / "log").open("wb") as log:
            process = subprocess.Popen([sshd, "-D", "-e", "-f", root / "sshd_config"], stderr=log)
            try:
                _wait(server, process)
                yield server
            finally:
                process.terminate()
                process.wait()


@contextlib.contextmanager
def _user() -> Iterator[str]:
    """Another user, made for this where we may; else ourselves."""
    if os.getuid() != 0 or not shutil.which("useradd"):
        yield pwd.getpwuid(os.getuid()).pw_name
        return
    # "*" for a password: none fits, and the account is not locked, which sshd would refuse.
    made = subprocess.run(
        ["useradd", "--system", "--no-create-home", "-s", "/bin/sh", "-p", "*", USER], check=False
    )
    if made.returncode not in (0, 9):  # 9: it is there, from a run that was killed
        pytest.skip(f"useradd cannot make {USER}")
    try:
        yield USER
    finally:
        subprocess.run(["userdel", USER], check=False, stderr=subprocess.DEVNULL)


def _furnish(server: Server) -> None:
    server.home.mkdir()
    server.bin.mkdir()
    for name in ("host_key", "other_key", "user_key", "stranger_key"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f"]
        subprocess.run([*command, server.root / name], check=True)
    shutil.copy(server.root / "user_key.pub", server.root / "authorized_keys")
    site = server.root / "site"
    _core_only(site)
    python = _python(server.user)
    script = server.bin / "edgekit"
    script.write_text(
        f"#!/bin/sh\nexport PYTHONPATH={site} EDGEKIT_HOME={server.home}/edgekit\n"
        "export PYTHONDONTWRITEBYTECODE=1 HOME=/nonexistent\n"
        f"exec {python} -S -P -c 'import sys; from edgekit.cli import main; sys.exit(main())'"
        ' "$@"\n'
    )
    script.chmod(0o755)
    if os.getuid() == 0:
        shutil.chown(server.home, server.user)


def _core_only(site: Path) -> None:
    """What a device has: edgekit's wheel, and links to what its core needs."""
    site.mkdir()
    with zipfile.ZipFile(core_wheel().write(site.parent)) as wheel:
        wheel.extractall(site)
    waiting, seen = [DISTRIBUTION], {DISTRIBUTION}
    while waiting:
        found = importlib.metadata.distribution(waiting.pop())
        for text in found.requires or ():
            need = Requirement(text)
            if need.name not in seen and (not need.marker or need.marker.evaluate({"extra": ""})):
                seen.add(need.name)
                waiting.append(need.name)
                _link(importlib.metadata.distribution(need.name), site)


def _link(found: importlib.metadata.Distribution, site: Path) -> None:
    tops = {file.parts[0] for file in found.files or ()}
    for top in tops - {"..", "__pycache__", "bin"}:
        if not (site / top).exists():
            (site / top).symlink_to(Path(str(found.locate_file(top))))


def _python(user: str) -> str:
    """A Python of our version that the user may run: ours may lie in a closed home."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    ours = os.path.realpath(sys.executable)
    for python in (ours, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        as_user = ["runuser", "-u", user, "--"] if os.getuid() == 0 else []
        done = subprocess.run([*as_user, python, "-c", "0"], check=False, capture_output=True)
        if done.returncode == 0:
            return python
    pytest.skip(f"the other user may run no {version}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait(server: Server, process: subprocess.Popen) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", server.port), 1):
            return
        if process.poll() is not None:
            pytest.skip(f"sshd does not start: {(server.root / 'log').read_text().strip()[-200:]}")
        time.sleep(0.05)
    pytest.skip("sshd does not answer")


class CutAfter:
    """A port in front of a server that passes so many bytes to it and then drops the line."""

    def __init__(self, port: int, limit: int) -> None:
        self._to, self._limit = port, limit
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            client, _ = self._listener.accept()
            server = socket.create_connection(("127.0.0.1", self._to))
            back = threading.Thread(target=self._pass, args=(server, client, 1 << 60), daemon=True)
            back.start()
            self._pass(client, server, self._limit)

    @staticmethod
    def _pass(source: socket.socket, sink: socket.socket, limit: int) -> None:
        with contextlib.suppress(OSError):
            while limit > 0 and (data := source.recv(min(limit, 1 << 14))):
                sink.sendall(data)
                limit -= len(data)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> CutAfter:
        return self

    def __exit__(self, *exc: object) -> None:
        self._listener.close()
