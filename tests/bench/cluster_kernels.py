"""What computes a block: the compiled kernel, ONNX Runtime or NumPy, on SmolLM2's feed-forwards.

    python tests/bench/cluster_kernels.py

One token through the feed-forwards of all 30 layers, each with its own weights, one thread, in
turns. ONNX
Runtime has a session for each block, as it must if blocks are to come and go: with its weights
inside (packed by the runtime, which a window cannot do for every token) and fed as inputs through
an IO binding (what a window would do). MatMulNBits has accuracy level 4: activations in int8.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

HIDDEN, WIDE, LAYERS, ROUNDS, THREADS = 576, 1536, 30, 9, 1
RANDOM = np.random.default_rng(0)


def graph(bits: int, inside: bool) -> tuple[bytes, dict[str, np.ndarray]]:
    """A gated feed-forward as ONNX, and the weights that are fed to it."""
    from onnx import TensorProto, helper, numpy_helper

    nodes, weights = [], {}
    for name, rows, columns, source in (
        ("gate", WIDE, HIDDEN, "x"),
        ("up", WIDE, HIDDEN, "x"),
        ("down", HIDDEN, WIDE, "mixed"),
    ):
        if bits == 32:
            weights[name] = RANDOM.standard_normal((columns, rows), np.float32) * 0.05
            nodes.append(helper.make_node("MatMul", [source, name], [f"{name}_out"]))
            continue
        shape = rows, columns // 32, 32 * bits // 8
        weights[name] = RANDOM.integers(0, 256, shape, np.uint8)
        weights[f"{name}_scale"] = np.full((rows, columns // 32), 0.01, np.float32)
        nodes.append(
            helper.make_node(
                "MatMulNBits",
                [source, name, f"{name}_scale"],
                [f"{name}_out"],
                domain="com.microsoft",
                K=columns,
                N=rows,
                bits=bits,
                block_size=32,
                accuracy_level=4,
            )
        )
    order = [
        *nodes[:2],
        helper.make_node("Sigmoid", ["gate_out"], ["open"]),
        helper.make_node("Mul", ["gate_out", "open"], ["silu"]),
        helper.make_node("Mul", ["silu", "up_out"], ["mixed"]),
        nodes[2],
    ]
    kinds = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.uint8): TensorProto.UINT8}
    fed = [
        helper.make_tensor_value_info(name, kinds[one.dtype], one.shape)
        for name, one in weights.items()
    ]
    made = helper.make_graph(
        order,
        "feed_forward",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, HIDDEN))]
        + ([] if inside else fed),
        [helper.make_tensor_value_info("down_out", TensorProto.FLOAT, (1, HIDDEN))],
        [numpy_helper.from_array(one, name) for name, one in weights.items()] if inside else [],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(made, opset_imports=opsets, ir_version=10)
    return model.SerializeToString(), weights


def onnxruntime(bits: int, inside: bool) -> Callable[[], Any]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = THREADS
    x, runs = RANDOM.standard_normal((1, HIDDEN), np.float32), []
    for _ in range(LAYERS):
        model, weights = graph(bits, inside)
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        binding = session.io_binding()
        binding.bind_cpu_input("x", x)
        for name, one in {} if inside else weights.items():
            binding.bind_cpu_input(name, one)
        binding.bind_output("down_out")
        runs.append((session, binding, weights))
    return lambda: [session.run_with_iobinding(binding) for session, binding, _ in runs]


def numpy_fp32() -> Callable[[], Any]:
    shape = (WIDE, HIDDEN)
    layers = [
        tuple(
            RANDOM.standard_normal(one, np.float32) * 0.05 for one in (shape, shape, (HIDDEN, WIDE))
        )
        for _ in range(LAYERS)
    ]
    x = RANDOM.standard_normal(HIDDEN, np.float32)

    def run() -> None:
        for gate, up, down in layers:
            opened = gate @ x
            down @ (opened / (1 + np.exp(-opened)) * (up @ x))

    return run


def compiled(folder: Path, precision: str) -> Callable[[], Any]:
    from edgekit.devices.cluster.collective import Alone
    from edgekit.devices.cluster.engine import Engine
    from edgekit.devices.cluster.split import split
    from tests.bench.cluster_parity import wheel_model

    (part,) = split(wheel_model(), folder / precision, [1], precision)
    engine = Engine.open(part, 0, Alone(), context=64, threads=THREADS)
    blocks = enumerate(engine.shard.blocks)
    wanted = [(i, block) for i, block in blocks if block.kind == "feed_forward"]
    x = RANDOM.standard_normal((1, HIDDEN), np.float32)
    out, window, kernel = np.zeros_like(x), engine._window, engine._kernel

    def run() -> None:
        for index, block in wanted:
            kernel.feed_forward(block, window.take(index), x, out)

    return run


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        cases: dict[str, Callable[[], Any]] = {"NumPy fp32": numpy_fp32()}
        for precision in ("fp32", "bf16", "int8", "int4"):
            cases[f"compiled {precision}"] = compiled(Path(folder), precision)
        for bits in (32, 8, 4):
            for inside in (True, False):
                where = "inside" if inside else "fed"
                cases[f"ONNX Runtime {bits} bits, weights {where}"] = onnxruntime(bits, inside)
        times: dict[str, list[float]] = {name: [] for name in cases}
        for _ in range(ROUNDS):
            for name, run in cases.items():
                run()  # what another left in the caches is gone
                start = time.perf_counter()
                run()
                times[name].append(time.perf_counter() - start)
        for name, found in times.items():
            print(
                f"{name:38} {statistics.median(found) * 1e3:7.2f} ms, least {min(found) * 1e3:.2f}"
            )


if __name__ == "__main__":
    main()
