"""Workers that are killed, that hang and whose link is cut, at random tokens: is the text the same?

``python tests/bench/bench_faults.py [--model FOLDER_OR_GGUF] [--trials 20] [--tokens 60]``; without
a model a small seeded one. A hub and two workers on this machine, each in a process of its own.
Prints a table and exits 1 if a text differed or a trial took longer than 30 s to resume.
"""

import argparse
import json
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from tests.devices.cluster.processes import Cluster, Relay, tiny_model, wait  # noqa: E402

LIMIT = 30.0  # seconds until the cluster computes again
HANG = 20.0  # seconds of SIGSTOP
CUT = 12.0  # seconds without a byte: longer than the hub's deadline
NAMES = ("kitchen", "bedroom")


class Trials:
    """A cluster whose workers' links can be cut, and the text without a fault."""

    def __init__(self, cluster: Cluster, prompt: list[int], tokens: int) -> None:
        self.cluster, self._prompt, self._tokens = cluster, prompt, tokens
        self._relays = {name: Relay(cluster.hub.door.address) for name in NAMES}
        for name in NAMES:
            self.start(name)
        self.due = self.text({})

    def start(self, name: str) -> None:
        self.cluster.start(name, address=self._relays[name].address)

    def text(self, faults: dict[int, Callable[[], None]]) -> list[int]:
        return self.cluster.generate(self._prompt, self._tokens, faults)

    def kill(self, name: str) -> None:
        self.cluster.signal(name, signal.SIGKILL)
        self.start(name)

    def hang(self, name: str) -> None:
        self.cluster.signal(name, signal.SIGSTOP)
        threading.Timer(HANG, self.cluster.signal, (name, signal.SIGCONT)).start()

    def cut(self, name: str) -> None:
        self._relays[name].open.clear()
        threading.Timer(CUT, self._relays[name].open.set).start()

    def trial(self, way: str) -> dict:
        """One fault at a random token of a random worker."""
        name, at = random.choice(NAMES), random.randrange(1, self._tokens - 1)
        roster, happened = self.cluster.hub.roster, []

        def fault() -> None:
            happened.append(time.time())
            getattr(self, way)(name)

        before = len(roster.told())
        same = self.text({at: fault}) == self.due
        faults = roster.told()[before:]
        resumed = [one["at"] + one["resumed"] - happened[0] for one in faults if one["resumed"]]
        wait(lambda: len(roster.members()) == len(NAMES), 60)
        return {
            "worker": name,
            "token": at,
            "same": same,
            "named": [one["name"] for one in faults],
            "noticed": round(min(one["at"] for one in faults) - happened[0], 2),
            "resumed": round(max(resumed), 2),
        }


def judge(way: str, trials: list[dict]) -> bool:
    """Print a line; whether it is as it has to be."""
    same = sum(one["same"] for one in trials)
    named = sum(set(one["named"]) == {one["worker"]} for one in trials)
    resumed = [one["resumed"] for one in trials]
    noticed = statistics.median(one["noticed"] for one in trials)
    print(
        f"| {way} | {len(trials)} | {same} | {named} | {noticed:.2f} s "
        f"| {statistics.median(resumed):.2f} s | {max(resumed):.2f} s |",
        flush=True,
    )
    return same == len(trials) and max(resumed) < LIMIT


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=60)
    parser.add_argument("--deadline", type=float, default=5.0)
    parser.add_argument("--ways", nargs="*", default=["kill", "hang", "cut"])
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    random.seed(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = options.model or tiny_model(folder / "model", layers=4)
        form = {"seconds": options.deadline, "patience": 90.0, "context": 256}
        with Cluster(folder, model, kernel=None, **form) as cluster:
            trials = Trials(cluster, [5, 99, 17, 203, 44, 8], options.tokens)
            print("| fault | trials | same text | named | noticed | resumed, median | most |")
            print("| --- " * 7 + "|")
            good, every = True, {}
            for way in options.ways:
                every[way] = [trials.trial(way) for _ in range(options.trials)]
                good &= judge(way, every[way])
    print(json.dumps(every))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
