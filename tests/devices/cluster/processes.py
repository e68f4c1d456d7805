"""A cluster on this machine: the hub in this process, each worker in one of its own."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from edgekit.devices.cluster.formation import FormSettings
from edgekit.devices.cluster.hub import Hub, HubSettings
from edgekit.devices.cluster.split import split
from edgekit.devices.cluster.transfer import open_split

WORKER = """
import sys
from pathlib import Path
from edgekit.devices.cluster.join_code import JoinCode
from edgekit.devices.cluster.worker import Worker, WorkerSettings
from edgekit.errors import EdgekitError

host, port, state, name, code, patience, engine = sys.argv[1:]
settings = WorkerSettings(
    (host, int(port)), Path(state), name, threads=1, patience=float(patience),
    mesh_host=host, engine={"kernel": engine},
)
try:
    say = lambda line: print(line, flush=True)
    Worker(settings, JoinCode.parse(code) if code else None, say).run()
except EdgekitError as error:
    print(f"error: {error}", flush=True)
    raise SystemExit(error.exit_code)
"""


class Cluster:
    """Starts workers and ends them, in all the ways that happen.

    Args:
        model: a folder. nodes: sizes of the splits that the hub has.
    """

    def __init__(self, folder: Path, model: Path, nodes=(3,), kernel="numpy", **form):
        self.folder, self.kernel = folder, kernel
        for count in nodes:
            if not (folder / f"split-{count}").exists():
                split(model, folder / f"split-{count}", [1] * count)
        splits = [open_split(folder / f"split-{count}") for count in nodes]
        form = {"seconds": 3.0, "context": 128, "patience": 60.0, "collective": "star"} | form
        settings = HubSettings(
            folder / "hub",
            address=("127.0.0.1", 0),
            threads=1,
            form=FormSettings(**form),
            engine={"kernel": kernel},
        )
        self.hub = Hub(settings, splits)
        self.workers: dict[str, subprocess.Popen] = {}

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.hub.close()
        for worker in self.workers.values():
            worker.send_signal(signal.SIGCONT)
            worker.kill()
            worker.wait()

    def start(self, name: str, patience: float = 30.0, address=None) -> None:
        """Start a worker, again or for the first time."""
        state = self.folder / name
        known = (state / "hubs.json").exists()
        code = "" if known else str(self.hub.codes.issue())
        host, port = address or self.hub.door.address
        arguments = [host, port, state, name, code, patience, self.kernel]
        log = open(self.folder / f"{name}.log", "a")  # noqa: SIM115 - the process has it
        self.workers[name] = subprocess.Popen(
            [sys.executable, "-c", WORKER, *map(str, arguments)],
            stdout=log,
            stderr=log,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        log.close()

    def log(self, name: str) -> str:
        """What a worker said."""
        return (self.folder / f"{name}.log").read_text()

    def signal(self, name: str, number: int) -> None:
        """Send a worker a signal."""
        self.workers[name].send_signal(number)

    def generate(self, prompt, count, at=None) -> list[int]:
        """Greedy tokens; ``at[i]`` is called before the i-th is decided."""
        hub = self.hub
        hub.truncate(0)
        logits, made = hub.prefill(prompt), []
        for place in range(count):
            if at and place in at:
                at[place]()
            made.append(int(logits.argmax()))
            if place + 1 < count:
                logits = hub.decode(made[-1])
        hub.rest()
        return made


def wait(true, seconds: float = 20.0) -> None:
    """Until something is true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
