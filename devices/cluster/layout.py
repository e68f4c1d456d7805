"""The blocks that a split would write, worked out from a model's sizes alone."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.errors import UsageError

from .language import Language, rotary
from .packing import PANEL, packed_bytes, panel_bytes
from .partition import Share
from .shard import PAGE, Block, Tensor

SLICE = 2 << 20  # bytes of a slice of the head, about: it has to fit a slot

# hidden, feed-forward, layers, query heads, key-value heads, vocabulary, tied. From the models'
# own config.json; what TPI-LLM's table calls Llama 2-3B is taken to be OpenLLaMA 3B.
_KNOWN = {
    "smollm2-135m": (576, 1536, 30, 9, 3, 49152, True),
    "open-llama-3b": (3200, 8640, 26, 32, 32, 32000, False),
    "llama-2-7b": (4096, 11008, 32, 32, 32, 32000, False),
    "llama-3.1-8b": (4096, 14336, 32, 32, 8, 128256, False),
    "llama-2-13b": (5120, 13824, 40, 40, 40, 32000, False),
    "yi-34b": (7168, 20480, 60, 56, 8, 64000, False),
    "llama-2-70b": (8192, 28672, 80, 64, 8, 32000, False),
}


def known() -> tuple[str, ...]:
    """Models whose sizes need no file."""
    return tuple(_KNOWN)


def language_of(name: str) -> Language:
    """A known model's sizes.

    Raises:
        UsageError: the name is none of :func:`known`.
    """
    if name not in _KNOWN:
        raise UsageError(
            f"no model {name!r}", f"there is {', '.join(_KNOWN)}", "or give a folder or a .gguf"
        )
    hidden, wide, layers, heads, kv_heads, vocabulary, tied = _KNOWN[name]
    size = hidden // heads
    return Language(
        "llama", layers, hidden, wide, heads, kv_heads, size, vocabulary, 1e-5, 8192,
        rotary(size, 1e4), tied,
    )  # fmt: skip


def head_kind(precision: str) -> str:
    """The precision of the head: that of int4 is int8, for it decides between near words."""
    return "int8" if precision == "int4" else precision


def head_rows(language: Language, kind: str) -> int:
    """Rows of one slice of the head."""
    return max(1, SLICE // panel_bytes(kind, language.hidden)) * PANEL


def blocks_of(language: Language, share: Share, rank: int, precision: str) -> tuple[Block, ...]:
    """One rank's blocks as :func:`.split.split` writes them: order, offsets, tensors, bytes."""
    hidden, size = language.hidden, language.head_size
    heads, kv_heads, columns = share.sizes
    rows = (heads + 2 * kv_heads) * size
    attention = [("norm", "vector", hidden, 1), ("qkv", precision, rows, hidden)]
    if language.qkv_bias:
        attention.append(("bias", "vector", rows, 1))
    if language.qk_norm:
        attention += [("query_norm", "vector", size, 1), ("key_norm", "vector", size, 1)]
    attention.append(("out", precision, hidden, heads * size))
    feed_forward = [
        ("norm", "vector", hidden, 1),
        ("gate_up", precision, 2 * columns, hidden),
        ("down", precision, hidden, columns),
    ]
    wanted = []
    for index in range(language.layers):
        wanted += [("attention", index, attention), ("feed_forward", index, feed_forward)]
    if rank == 0:
        wanted.append(("norm", 0, [("norm", "vector", hidden, 1)]))
        kind, step = head_kind(precision), head_rows(language, head_kind(precision))
        for first in range(0, language.vocabulary, step):
            count = min(step, language.vocabulary - first)
            wanted.append(("head", first, [("head", kind, count, hidden)]))
    return _placed(wanted)


def _placed(wanted: Sequence[tuple[str, int, Sequence[tuple]]]) -> tuple[Block, ...]:
    blocks, start = [], 0
    for kind, index, parts in wanted:
        at, tensors = 0, {}
        for name, precision, rows, columns in parts:
            at = -(-at // 64) * 64
            tensors[name] = Tensor(at, precision, rows, columns)
            at += 4 * rows if precision == "vector" else packed_bytes(precision, rows, columns)
        size = -(-at // PAGE) * PAGE
        blocks.append(Block(kind, index, start, size, tensors))
        start += size
    return tuple(blocks)
