"""Python processes of our own, for work that must not share ours.

A broken library can kill its process, and two engines in one process share memory, thread
pools and OpenMP runtimes. So each probe and each benchmarked row has a process to itself.
It talks JSON lines over its stdin and stdout; what libraries print goes to its stderr.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import Any, TextIO

from edgekit.errors import DeviceError


def claim_stdout() -> TextIO:
    """For the child: keep stdout for answers, and send what libraries print to stderr."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def answer(stream: TextIO, document: Mapping[str, Any]) -> None:
    """For the child: send one JSON line."""
    stream.write(json.dumps(document) + "\n")
    stream.flush()


class Child:
    """One Python process that runs ``module`` with ``arguments``.

    Its stderr is kept in a file: an engine that dies says why there, and a pipe that nobody
    reads would block it.
    """

    def __init__(self, module: str, *arguments: str) -> None:
        self._stderr = tempfile.TemporaryFile(  # noqa: SIM115 - close() does
            "w+", encoding="utf-8", errors="replace"
        )
        self._process = subprocess.Popen(
            # -P: a stray numpy.py in the working directory is not what we want to import.
            [sys.executable, "-P", "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            encoding="utf-8",
        )

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Send one request and wait for its answer.

        Raises:
            DeviceError: the process died; says how.
        """
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError):
            raise DeviceError("a measuring process died", self.epitaph()) from None
        return self.listen()

    def listen(self) -> dict[str, Any]:
        """Wait for the next answer.

        Raises:
            DeviceError: the process died; says how.
        """
        line = self._process.stdout.readline()
        if not line:
            raise DeviceError("a measuring process died", self.epitaph())
        return json.loads(line)

    def finish(self, timeout: float) -> str:
        """Close its stdin, wait for its end and return what it still had to say.

        Raises:
            TimeoutError: it did not end in ``timeout`` seconds (and was killed).
        """
        try:
            return self._process.communicate(timeout=timeout)[0]
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise TimeoutError(f"no answer in {timeout:.0f} s") from None

    def epitaph(self) -> str:
        """How it ended: the signal or exit code, and the last line on its stderr."""
        code = self._process.wait()
        how = f"killed by {_signal_name(-code)}" if code < 0 else f"exit code {code}"
        self._stderr.seek(0)
        lines = [line.strip() for line in self._stderr if line.strip()]
        return f"{how}: {lines[-1]}" if lines else how

    def close(self) -> None:
        """End the process, if it still runs, and release its pipes."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._stderr):
            try:
                stream.close()
            except BrokenPipeError:
                continue  # a request that it did not live to read


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
