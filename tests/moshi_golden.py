"""The golden Moshi: the weights that its hash rule gives, and its streams."""

import json
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import nn

_STEP = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def hashed(key: str, count: int) -> np.ndarray:
    """The 24 random bits of each element (count,), as the golden data's README has the rule."""
    with np.errstate(over="ignore"):
        start = np.uint64(zlib.crc32(key.encode()) << 32)
        x = start + np.arange(count, dtype=np.uint64) + _STEP
        x = (x ^ (x >> np.uint64(30))) * _FIRST
        x = (x ^ (x >> np.uint64(27))) * _SECOND
        return (x ^ (x >> np.uint64(31))) >> np.uint64(40)


def offset_and_scale(key: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """Mean and half width of a tensor's values; the first rule that matches holds."""
    last, first = key.rpartition(".")[2], key.partition(".")[0]
    by_name = {
        "_initialized": (1.0, 0.0),
        "cluster_usage": (2.0, 1.0),
        "embedding_sum": (0.0, 1.5),
        "alpha": (1.0, 0.1),
        "scale": (0.3, 0.1),
        "bias": (0.0, 0.05),
    }
    if last in by_name:
        return by_name[last]
    if last == "weight" and "norm" in key:
        return 1.0, 0.1
    if "emb" in first:
        return 0.0, 0.5
    if "convtr" in key:
        fan = shape[0] * shape[2] / 2 if shape[1] > 1 else shape[2] / 2
        return 0.0, math.sqrt(3 / fan)
    gain = 1.0
    if key.startswith(("encoder.model.", "decoder.model.")):
        gain = 1.2
    if key.startswith(("linears.", "text_linear")):
        gain = 2.0
    return 0.0, gain * math.sqrt(3 / math.prod(shape[1:]))


def fill(module: nn.Module) -> nn.Module:
    """Give every tensor of a network its golden value."""
    for key, tensor in module.state_dict().items():
        shape = tuple(tensor.shape)
        offset, scale = offset_and_scale(key, shape)
        unit = hashed(key, tensor.numel()).astype(np.float64) / 2**23 - 1
        values = (offset + scale * unit).astype(np.float32).reshape(shape)
        tensor.copy_(torch.from_numpy(values))
    return module


def checks(shared: Path, name: str) -> dict[str, dict]:
    """What the golden data say of every tensor's values."""
    return json.loads((shared / f"golden/moshi/{name}_fill_check.json").read_text())


def golden(shared: Path, name: str) -> dict[str, np.ndarray]:
    """The arrays of one golden stream."""
    with np.load(shared / f"golden/moshi/{name}.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def zeros(states) -> tuple[torch.Tensor, ...]:
    """The state at the beginning."""
    return tuple(torch.zeros(s.shape, dtype=getattr(torch, s.dtype)) for s in states)


def advance(states, old, new, cache: str):
    """The state after a step, as whoever runs a graph has to make it of the outputs."""
    if cache == "ring":
        return new
    slot = int(dict(zip((s.name for s in states), old, strict=True))["slot"])
    found = []
    for state, before, after in zip(states, old, new, strict=True):
        if state.steps is not None:
            whole = before.clone()
            whole[:, :, slot : slot + state.steps] = after
            after = whole
        found.append(after)
    return tuple(found)
