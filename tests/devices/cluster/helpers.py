"""Small seeded models of every family, and a cluster within one process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.devices.cluster.engine import Engine

VOCABULARY = 256
SIZES = {
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 128,
}


class Threads:
    """A collective whose ranks are threads of this process."""

    def __init__(self, rank: int, size: int, room: dict[str, Any], barrier: Any) -> None:
        self.rank, self.size, self._room, self._barrier = rank, size, room, barrier

    def all_reduce(self, values: np.ndarray) -> None:
        self._room[self.rank] = values
        self._barrier.wait()
        total = sum(self._room[rank].copy() for rank in range(self.size))
        self._barrier.wait()
        values[...] = total
        self._barrier.wait()

    def broadcast(self, values: np.ndarray) -> None:
        if self.rank == 0:
            self._room["root"] = values
        self._barrier.wait()
        if self.rank:
            values[...] = self._room["root"]
        self._barrier.wait()


def group(size: int) -> list[Threads]:
    """The ranks of a cluster of threads; a rank that waits for long breaks them all."""
    room: dict[str, Any] = {}
    barrier = threading.Barrier(size, timeout=60)
    return [Threads(rank, size, room, barrier) for rank in range(size)]


def on_all(folders: list[Path], use: Callable[[Engine], Any], **options: Any) -> Any:
    """What ``use`` makes of rank 0's engine, while the other ranks follow it."""
    ranks = group(len(folders))
    failures: list[BaseException] = []

    def follow(rank: int) -> None:
        try:
            with Engine.open(folders[rank], rank, ranks[rank], threads=1, **options) as engine:
                engine.serve()
        except BaseException as error:
            failures.append(error)
            ranks[rank]._barrier.abort()

    others = [threading.Thread(target=follow, args=(rank,)) for rank in range(1, len(folders))]
    for one in others:
        one.start()
    try:
        with Engine.open(folders[0], 0, ranks[0], threads=1, **options) as engine:
            try:
                return use(engine)
            finally:
                if len(folders) > 1 and not failures:
                    engine.stop()
    finally:
        for one in others:
            one.join(60)
        if failures:
            raise failures[0]


def save_model(folder: Path, family: str, **changes: Any) -> Any:
    """A seeded model of transformers' in ``folder``, every weight and norm different from its
    start, and the model itself."""
    import torch

    from edgekit.models.sources.vision_operators import declare_vision_operators

    declare_vision_operators()  # transformers imports torchvision where it is
    import transformers

    options = dict(SIZES) | {"tie_word_embeddings": False} | changes
    if family == "mistral":
        options.setdefault("sliding_window", 24)
    config = transformers.AutoConfig.for_model(family, **options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                scale = 0.3 if "norm" in name or name.endswith("bias") else 0.12
                weight.add_(torch.randn_like(weight) * scale)
    model.eval().save_pretrained(folder)
    return model


def reference(model: Any, ids: list[int]) -> np.ndarray:
    """transformers' logits of every token, (tokens, vocabulary)."""
    import torch

    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0].numpy()
