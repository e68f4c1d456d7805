"""CPU time of ``edgekit --help``, beside that of a Python that does nothing.

Run: ``python tests/bench/bench_help.py [REPEATS]``. User and system time of the child
processes, the two interleaved; the median and the least of each are printed.
"""

import resource
import statistics
import subprocess
import sys

LIMIT_S = 0.3
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "edgekit --help": [sys.executable, "-c", "from edgekit.cli import main; main(['--help'])"],
}


def cpu_seconds(command: list[str]) -> float:
    """User plus system time of one run of ``command``."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main(repeats: int = 20) -> int:
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for command in COMMANDS.values():  # byte code is compiled once, not in the figures
        cpu_seconds(command)
    for _ in range(repeats):
        for name, command in COMMANDS.items():
            times[name].append(cpu_seconds(command))
    for name, values in times.items():
        print(f"{name:16s} median {statistics.median(values):.3f} s  min {min(values):.3f} s CPU")
    median = statistics.median(times["edgekit --help"])
    verdict = "within" if median < LIMIT_S else "OVER"
    print(f"edgekit --help: {median:.3f} s of CPU, {verdict} {LIMIT_S} s")
    return 0 if median < LIMIT_S else 1


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
