"""What a rank's whole process takes, by the kernel's counters, under a limit that it sets.

    python tests/bench/cluster_memory.py small          SmolLM2, weights budget 15 % of fp32
    python tests/bench/cluster_memory.py large [WORK]   1.1 billion seeded weights, 400 MiB each

Every rank is a process in a memory cgroup of its own (version 1; as root), so that what it reads
from disk counts too. It joins before it imports anything. The large model is written to WORK
(by default a temporary folder; 6 GB) tensor by tensor, cut to int8 for two ranks, and removed.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from edgekit.devices.cluster.collectives import Group

ROOT = Path(__file__).resolve().parents[2]
CGROUPS = Path("/sys/fs/cgroup/memory")
LARGE = {
    "model_type": "llama",
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 22,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "eos_token_id": 2,
}


def rank_main(said: dict) -> None:
    """One rank: join the cgroup, connect, generate or follow, report."""
    if said["cgroup"]:
        Path(said["cgroup"], "cgroup.procs").write_text(str(os.getpid()))
    import numpy as np

    from edgekit.devices.cluster.collectives import Group
    from edgekit.devices.cluster.engine import Engine
    from edgekit.devices.cluster.wire import Channel

    rank, size, channels = said["rank"], said["size"], {}
    if rank == 0:
        with socket.create_server(("127.0.0.1", said["port"])) as door:
            for _ in range(1, size):
                link, _ = door.accept()
                channels[link.recv(1)[0]] = Channel(link, "a rank")
    else:
        for _ in range(600):
            try:
                link = socket.create_connection(("127.0.0.1", said["port"]))
                break
            except OSError:
                time.sleep(0.1)
        link.sendall(bytes([rank]))
        channels[0] = Channel(link, "rank 0")
    group = Delayed(Group(rank, size, channels, seconds=300.0), said.get("delay", 0.0))
    link = link_seconds(group)
    with Engine.open(said["folder"], rank, group, **said["engine"]) as engine:
        times = []
        if rank:
            engine.serve()
        else:
            random = np.random.default_rng(11)
            vocabulary = engine.shard.language.vocabulary
            ids = [int(one) for one in random.integers(3, vocabulary, said["prompt"])]
            start = time.perf_counter()
            logits = engine.prefill(ids)
            first = time.perf_counter() - start
            text = []
            for _ in range(said["tokens"]):
                text.append(int(np.argmax(logits)))
                start = time.perf_counter()
                logits = engine.decode(text[-1])
                times.append(time.perf_counter() - start)
            engine.stop()
        report = engine.report()
    report["sum_seconds"] = link
    if rank == 0:
        report |= {"prefill_ms": first * 1e3, "token_ms": float(np.median(times)) * 1e3}
        report["finite"] = bool(np.isfinite(logits).all())
        report["text"] = text
    if said["cgroup"]:
        for name in ("memory.max_usage_in_bytes", "memory.failcnt"):
            report[name] = int(Path(said["cgroup"], name).read_text())
    print(json.dumps(report), flush=True)


def link_seconds(group: Delayed) -> float:
    """One sum of a token's size, as it is here with everything that delays it."""
    import numpy as np

    values, times = np.zeros(576, np.float32), []
    for _ in range(41):
        start = time.perf_counter()
        group.all_reduce(values)
        times.append(time.perf_counter() - start)
    return sorted(times)[20]


class Delayed:
    """A collective with a link that takes longer, one way."""

    def __init__(self, inner: Group, delay: float) -> None:
        self.rank, self.size, self._inner, self._delay = inner.rank, inner.size, inner, delay

    def all_reduce(self, values: np.ndarray) -> None:
        self._inner.all_reduce(values)
        hops = 0 if self.size == 1 else 1 if self.size == 2 else 2
        if self._delay and hops:
            time.sleep(hops * self._delay)

    def broadcast(self, values: np.ndarray) -> None:
        self._inner.broadcast(values)
        if self._delay and self.rank:
            time.sleep(self._delay)


def run_ranks(
    folders: list[Path],
    limit: int | None,
    tokens: int,
    prompt: int = 32,
    delay: float = 0.0,
    **engine: object,
) -> list[dict]:
    """Start all ranks, each under ``limit`` bytes, and gather what they say."""
    import subprocess

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    processes, cgroups = [], []
    try:
        for rank, folder in enumerate(folders):
            place = ""
            if limit is not None:
                place = CGROUPS / f"edgekit-{os.getpid()}-{rank}"
                place.mkdir()
                cgroups.append(place)
                (place / "memory.limit_in_bytes").write_text(str(limit))
            said = {
                "rank": rank,
                "size": len(folders),
                "folder": str(folder),
                "cgroup": str(place),
                "port": port,
                "tokens": tokens,
                "prompt": prompt,
                "delay": delay,
                "engine": engine,
            }
            command = [sys.executable, str(Path(__file__).resolve()), "--rank", json.dumps(said)]
            environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
            processes.append(
                subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
            )
        said = [process.communicate(timeout=1800)[0] for process in processes]
        return [json.loads(one) for one in said]
    finally:
        for process in processes:
            process.kill()
            process.wait()
        for place in cgroups:
            place.rmdir()


def show(title: str, reports: list[dict]) -> None:
    first = reports[0]
    print(
        f"{title}: {first['token_ms']:.1f} ms a token, prompt {first['prefill_ms']:.0f} ms,"
        f" finite: {first['finite']}, stall"
        f" {first['last_step']['stall'] * 1e3:.1f} ms of the last"
    )
    for one in reports:
        memory = {name: round(size / (1 << 20), 1) for name, size in one["memory"].items()}
        cgroup = one.get("memory.max_usage_in_bytes", 0) / (1 << 20)
        print(
            f"  rank {one['rank']}: process peak {memory['peak']} MiB, cgroup peak {cgroup:.1f} MiB"
            f" (at the limit {one.get('memory.failcnt', 0)} times), plan {memory}"
        )
    sys.stdout.flush()


def small(folder: Path) -> None:
    from edgekit.devices.cluster.split import split
    from tests.bench.cluster_parity import wheel_model

    budget = int(0.15 * 4 * 134_515_008)
    for precision in ("int8", "int4", "bf16", "fp32"):
        for nodes in (1, 2):
            parts = split(wheel_model(), folder / f"{precision}-{nodes}", [1] * nodes, precision)
            threads = 2 if nodes == 1 else 1
            options = {"weights_budget": budget, "context": 1024, "threads": threads}
            reports = run_ranks(list(parts), 200 << 20, 24, **options)
            show(f"SmolLM2 {precision}, {nodes} ranks, weights {budget >> 20} MiB", reports)


def write_large(folder: Path) -> None:
    """A seeded Llama in bfloat16, one tensor in memory at a time."""
    import numpy as np

    from edgekit.devices.cluster.packing import narrowed

    hidden, wide, layers = 2048, 5632, LARGE["num_hidden_layers"]
    shapes = {"model.embed_tokens.weight": (32000, hidden)}
    for index in range(layers):
        base = f"model.layers.{index}."
        shapes |= {
            f"{base}input_layernorm.weight": (hidden,),
            f"{base}post_attention_layernorm.weight": (hidden,),
            f"{base}self_attn.q_proj.weight": (hidden, hidden),
            f"{base}self_attn.k_proj.weight": (256, hidden),
            f"{base}self_attn.v_proj.weight": (256, hidden),
            f"{base}self_attn.o_proj.weight": (hidden, hidden),
            f"{base}mlp.gate_proj.weight": (wide, hidden),
            f"{base}mlp.up_proj.weight": (wide, hidden),
            f"{base}mlp.down_proj.weight": (hidden, wide),
        }
    shapes |= {"model.norm.weight": (hidden,), "lm_head.weight": (32000, hidden)}
    header, at = {}, 0
    for name, shape in shapes.items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    (folder / "config.json").write_text(json.dumps(LARGE))
    text = json.dumps(header).encode()
    random = np.random.default_rng(2024)
    with open(folder / "model.safetensors", "wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for shape in shapes.values():
            if len(shape) == 1:
                values = np.ones(shape, np.float32)
            else:
                values = random.standard_normal(shape, np.float32) * np.float32(0.02)
            stream.write(narrowed(values).data)
    print(f"{sum(int(np.prod(shape)) for shape in shapes.values()):,} weights written", flush=True)


def large(folder: Path) -> None:
    import shutil

    from edgekit.devices.cluster.split import split

    parts = [folder / "parts" / f"rank-{rank}" for rank in (0, 1)]
    if not (folder / "parts").exists():
        (folder / "model").mkdir(parents=True)
        write_large(folder / "model")
        split(folder / "model", folder / "parts", [1, 1], "int8", lambda line: print(line))
        shutil.rmtree(folder / "model")
    options = {"memory_budget": 370 << 20, "context": 1024, "threads": 1}
    show("1.1 billion, int8, 2 ranks", run_ranks(parts, 400 << 20, 8, **options))


def main() -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as temporary:
        if sys.argv[1] == "small":
            small(Path(temporary))
        else:
            large(Path(sys.argv[2] if len(sys.argv) > 2 else temporary))


if __name__ == "__main__":
    if sys.argv[1] == "--rank":
        rank_main(json.loads(sys.argv[2]))
    else:
        sys.path.insert(0, str(ROOT))
        main()
