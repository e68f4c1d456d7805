"""The kernel in NumPy, for machines without a compiler, and to check the compiled one against.

It computes what :mod:`.native` computes, but widens each matrix when it is used: correct, and slow
for anything but fp32.
"""

from __future__ import annotations

import ctypes

import numpy as np

from .packing import PANEL, padded, unpack
from .shard import Block, Shard, Tensor


def scratch_bytes(shard: Shard, tokens: int) -> int:
    """What the widened matrix, its parts and the passing values take at most, in bytes."""
    most = max(one.rows * one.columns for block in shard.blocks for one in block.tensors.values())
    return 16 * most + 64 * tokens * (shard.language.hidden + shard.share.sizes[2])


class NumpyKernel:
    """As :class:`.native.NativeKernel`; ``threads`` is NumPy's own affair."""

    name = "numpy"

    def __init__(
        self,
        shard: Shard,
        keys: np.ndarray,
        values: np.ndarray,
        turns: np.ndarray,
        tokens: int,
        threads: int,
    ) -> None:
        self._shard, self._keys, self._values, self._turns = shard, keys, values, turns

    def attention(
        self, block: Block, base: int, hidden: np.ndarray, out: np.ndarray, position: int
    ) -> None:
        language, read = self._shard.language, _Reader(block, base)
        heads, kv_heads, _ = self._shard.share.sizes
        normed = _normed(hidden, read.vector("norm"), language.epsilon)
        rows = read.times("qkv", normed) + (read.vector("bias") if "bias" in block.tensors else 0)
        rows = rows.reshape(len(hidden), heads + 2 * kv_heads, language.head_size)
        q, k, v = np.split(rows, [heads, heads + kv_heads], axis=1)
        if "query_norm" in block.tensors:
            q = _normed(q, read.vector("query_norm"), language.epsilon)
            k = _normed(k, read.vector("key_norm"), language.epsilon)
        turns = self._turns[position : position + len(hidden), None]
        end = position + len(hidden)
        keys, values = self._keys[block.index], self._values[block.index]
        keys[:, position:end] = _turned(k, turns).transpose(1, 0, 2)
        values[:, position:end] = v.transpose(1, 0, 2)
        phase = self._shard.share.heads[0] % language.group
        mine = (np.arange(heads) + phase) // language.group
        mixed = _attend(_turned(q, turns), keys[mine, :end], values[mine, :end], language.window)
        out[...] = read.times("out", mixed.reshape(len(hidden), -1))

    def feed_forward(self, block: Block, base: int, hidden: np.ndarray, out: np.ndarray) -> None:
        read = _Reader(block, base)
        normed = _normed(hidden, read.vector("norm"), self._shard.language.epsilon)
        gate, up = np.split(read.times("gate_up", normed), 2, axis=1)
        with np.errstate(over="ignore"):  # a gate far below zero is closed
            out[...] = read.times("down", gate / (1 + np.exp(-gate)) * up)

    def head(self, block: Block, base: int, hidden: np.ndarray, out: np.ndarray) -> None:
        out[...] = _Reader(block, base).times("head", hidden[None])[0]

    def close(self) -> None:
        """Nothing is held."""


def vector(block: Block, base: int, name: str) -> np.ndarray:
    """A vector of a block that lies at the address ``base``, float32, without a copy."""
    return _Reader(block, base).vector(name)


class _Reader:
    """The tensors of one block in memory."""

    def __init__(self, block: Block, base: int) -> None:
        self._tensors, self._base = block.tensors, base

    def _bytes(self, tensor: Tensor) -> np.ndarray:
        kind = ctypes.c_uint8 * tensor.bytes
        return np.frombuffer(kind.from_address(self._base + tensor.offset), np.uint8)

    def vector(self, name: str) -> np.ndarray:
        return self._bytes(self._tensors[name]).view(np.float32)

    def times(self, name: str, x: np.ndarray) -> np.ndarray:
        tensor = self._tensors[name]
        data = self._bytes(tensor)
        if tensor.kind == "fp32":  # panels as they lie: (panels, columns, 16)
            panels = data.view(np.float32).reshape(-1, padded(tensor.columns), PANEL)
            panels = panels[:, : tensor.columns]
            found = np.matmul(x[None], panels).transpose(1, 0, 2).reshape(len(x), -1)
            return found[:, : tensor.rows]
        return x @ unpack(data, tensor.kind, tensor.rows, tensor.columns).T


def _normed(x: np.ndarray, weight: np.ndarray, epsilon: float) -> np.ndarray:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + np.float32(epsilon)) * weight


def _turned(x: np.ndarray, turns: np.ndarray) -> np.ndarray:
    """``x`` (tokens, heads, size) by angles (tokens, 1, size / 2, 2)."""
    a, b = np.split(x, 2, axis=-1)
    cosine, sine = turns[..., 0], turns[..., 1]
    return np.concatenate([a * cosine - b * sine, b * cosine + a * sine], -1)


def _attend(q: np.ndarray, keys: np.ndarray, values: np.ndarray, window: int | None) -> np.ndarray:
    """(tokens, heads, size) from queries and (heads, positions, size) keys and values."""
    keys, values = keys.astype(np.float32, copy=False), values.astype(np.float32, copy=False)
    scores = np.einsum("thd,hpd->thp", q, keys) / np.sqrt(np.float32(q.shape[-1]))
    tokens, positions = len(q), keys.shape[1]
    ages = np.arange(positions - tokens, positions)[:, None] - np.arange(positions)
    hidden = (ages < 0) | (ages >= (window or positions))
    scores = np.where(hidden[:, None], -np.inf, scores)
    parts = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("thp,hpd->thd", parts / parts.sum(-1, keepdims=True), values)
