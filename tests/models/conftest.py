"""The rule by which the golden data fill a network and its input."""

import zlib
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _stream(key: str) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(zlib.crc32(key.encode())))


def _tensor(key: str, shape: torch.Size) -> torch.Tensor:
    stream, last = _stream(key), key.rpartition(".")[2]
    if last == "num_batches_tracked":
        return torch.zeros(shape, dtype=torch.int64)
    if last in ("running_mean", "bias"):
        values = 0.1 * stream.standard_normal(shape)
    elif last == "running_var" or len(shape) == 1:
        values = 0.5 + stream.random(shape)
    else:
        gains = {".point_conv.": 0.25, ".upsampling.": 0.5, ".pwise.": 1.0}
        gain = next((g for part, g in gains.items() if part in key), 2.0)
        if key.endswith(".main.3.weight"):
            gain = 0.25
        values = stream.standard_normal(shape) * np.sqrt(gain / np.prod(shape[1:]))
    return torch.from_numpy(values.astype(np.float32))


def _fill(module: nn.Module) -> nn.Module:
    state = {key: _tensor(key, value.shape) for key, value in module.state_dict().items()}
    module.load_state_dict(state)
    return module


def _input(key: str, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.from_numpy(_stream(key).standard_normal(shape).astype(np.float32))


@pytest.fixture(scope="session")
def golden() -> SimpleNamespace:
    """``fill(module) -> module`` and ``input(key, shape)``, as the golden data were made."""
    return SimpleNamespace(fill=_fill, input=_input)
