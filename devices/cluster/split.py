"""Cut a checkpoint into the shards of a cluster's ranks.

A matrix is read a few rows at a time, so that a model larger than memory can be cut; each rank's
shard is written in turn, under another name beside its place, and renamed when all are whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from edgekit.errors import InputError, UsageError

from .checkpoint import EMBEDDING, FINAL_NORM, HEAD, Checkpoint, layer, open_checkpoint
from .language import Language
from .layout import head_kind, head_rows
from .packing import PANEL, PRECISIONS, narrowed, pack
from .partition import Share, partition
from .shard import PAGE, WEIGHTS, Block, Shard, Tensor, read_shard, write_shard

CLUSTER = "cluster.json"
_ROWS = 512  # read and packed at a time; a multiple of PANEL


def split(
    model: Path | str,
    out: Path | str,
    ratio: Sequence[float] = (1,),
    precision: str = "fp32",
    notify: Callable[[str], None] = lambda line: None,
) -> tuple[Path, ...]:
    """Write ``out/rank-0``, ``out/rank-1``, … and ``out/cluster.json``.

    Args:
        model: A folder with ``config.json`` and safetensors, or a GGUF file.
        out: A folder that is not there yet, or that an earlier split wrote.
        ratio: One positive number a rank: its part of heads and feed-forward.
        precision: fp32, bf16, int8 or int4 (the head and the embedding of int4 are int8 and
            bf16: they decide between near words).
        notify: Told in a line what is done.

    Returns:
        The ranks' folders.

    Raises:
        InputError: the checkpoint cannot be read, or something else is at ``out``.
        UsageError: an unknown precision, or more ranks than the model has heads.
        UnsupportedError: a model that a cluster does not run.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"no precision {precision!r}", f"there is {', '.join(PRECISIONS)}")
    out = Path(out)
    if out.exists() and not (out / CLUSTER).is_file():
        raise InputError(f"{out} is there already", "and it is not a split model")
    checkpoint = open_checkpoint(model)
    shares = partition(checkpoint.language, ratio)
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        for rank in range(len(shares)):
            notify(f"rank {rank} of {len(shares)}")
            _write_rank(checkpoint, work / f"rank-{rank}", rank, shares, tuple(ratio), precision)
        _write_cluster(work, shares)
        _replace(work, out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return tuple(out / f"rank-{rank}" for rank in range(len(shares)))


def _replace(work: Path, out: Path) -> None:
    """Put the finished folder in its place; an earlier one is there until then."""
    os.chmod(work, 0o755)  # noqa: S103 - mkdtemp's is its maker's alone; a folder is not secret
    if out.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{out.name}.old.", dir=out.parent))
        os.rename(out, old / out.name)
        os.rename(work, out)
        shutil.rmtree(old, ignore_errors=True)
    else:
        os.rename(work, out)


def _write_cluster(folder: Path, shares: Sequence[Share]) -> None:
    """Every rank's files with their sizes and sha256: what a hub serves, and a worker checks."""
    ranks = []
    for rank in range(len(shares)):
        part = folder / f"rank-{rank}"
        files = {}
        for path in sorted(part.iterdir()):
            with open(path, "rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            files[path.name] = {"bytes": path.stat().st_size, "sha256": digest}
        ranks.append({"folder": part.name, "files": files})
    first = read_shard(folder / "rank-0")
    document = {
        "format": 1,
        "precision": first.precision,
        "ratio": first.ratio,
        "language": first.language.document(),
        "ranks": ranks,
    }
    (folder / CLUSTER).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _write_rank(
    checkpoint: Checkpoint,
    folder: Path,
    rank: int,
    shares: Sequence[Share],
    ratio: tuple[float, ...],
    precision: str,
) -> None:
    folder.mkdir()
    language, share = checkpoint.language, shares[rank]
    with open(folder / WEIGHTS, "wb") as stream:
        writer = _Writer(stream)
        for index in range(language.layers):
            writer.block("attention", index, _attention(checkpoint, share, index, precision))
            writer.block("feed_forward", index, _feed_forward(checkpoint, share, index, precision))
        embedding = None
        if rank == 0:
            writer.block("norm", 0, [("norm", _vector(checkpoint.read(FINAL_NORM)))])
            _write_head(writer, checkpoint, head_kind(precision))
            embedding = _write_embedding(writer, checkpoint, precision)
            for name, text in checkpoint.tokenizer().items():
                (folder / name).write_text(text, encoding="utf-8")
        size = stream.tell()
        stream.flush()
        os.fsync(stream.fileno())
    shard = Shard(
        rank,
        len(shares),
        ratio,
        precision,
        language,
        share,
        tuple(writer.blocks),
        embedding,
        size,
        writer.digest.hexdigest(),
    )
    write_shard(folder, shard)


class _Writer:
    """Blocks one after another, and the digest of all."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.digest = hashlib.sha256()
        self.blocks: list[Block] = []

    def write(self, data: bytes | np.ndarray) -> None:
        data = memoryview(np.ascontiguousarray(data)).cast("B") if len(data) else b""
        self._stream.write(data)
        self.digest.update(data)

    def align(self, step: int) -> None:
        self.write(bytes(-self._stream.tell() % step))

    def block(self, kind: str, index: int, parts: Sequence[tuple[str, _Part]]) -> None:
        """Append one block of named tensors."""
        self.align(PAGE)
        start, tensors = self._stream.tell(), {}
        for name, part in parts:
            self.align(64)
            offset = self._stream.tell() - start
            tensors[name] = Tensor(offset, part.kind, part.rows, part.columns)
            for piece in part.pieces:
                self.write(piece)
        self.align(PAGE)
        self.blocks.append(Block(kind, index, start, self._stream.tell() - start, tensors))


class _Part:
    """A tensor to be written: what it is, and its bytes piece by piece."""

    def __init__(self, kind: str, rows: int, columns: int, pieces: Iterator[np.ndarray]) -> None:
        self.kind, self.rows, self.columns, self.pieces = kind, rows, columns, pieces


def _vector(values: np.ndarray) -> _Part:
    return _Part("vector", len(values), 1, iter([values.astype(np.float32)]))


class _Rows:
    """Some rows and columns of a tensor of the checkpoint, as a part of a packed matrix."""

    def __init__(self, checkpoint: Checkpoint, name: str, rows: slice, columns: slice) -> None:
        self._read = lambda part: checkpoint.read(name, part, columns)
        self.start, self.count = rows.start, rows.stop - rows.start

    def read(self, first: int, last: int) -> np.ndarray:
        return self._read(slice(self.start + first, self.start + last))


def _matrix(kind: str, columns: int, parts: Sequence[_Rows]) -> _Part:
    """Rows of several tensors below one another, packed."""
    total = sum(part.count for part in parts)
    return _Part(kind, total, columns, _packed(kind, parts))


def _packed(kind: str, parts: Sequence[_Rows]) -> Iterator[np.ndarray]:
    waiting = np.zeros((0, 0), np.float32)
    for part in parts:
        for first in range(0, part.count, _ROWS):
            rows = part.read(first, min(first + _ROWS, part.count))
            waiting = np.concatenate([waiting, rows]) if len(waiting) else rows
            whole = len(waiting) // PANEL * PANEL
            if whole:
                yield pack(waiting[:whole], kind)
            waiting = waiting[whole:]
    if len(waiting):
        yield pack(waiting, kind)


def _attention(
    checkpoint: Checkpoint, share: Share, index: int, kind: str
) -> list[tuple[str, _Part]]:
    language = checkpoint.language
    size, hidden = language.head_size, language.hidden

    def name(rest: str) -> str:
        return layer(index, rest)

    queries = slice(*(one * size for one in share.heads))
    keys = slice(*(one * size for one in share.kv_heads))
    cuts = (("q", queries), ("k", keys), ("v", keys))
    rows = [
        _Rows(checkpoint, name(f"self_attn.{letter}_proj.weight"), cut, slice(None))
        for letter, cut in cuts
    ]
    out = _Rows(checkpoint, name("self_attn.o_proj.weight"), slice(0, hidden), queries)
    parts = [("norm", _vector(checkpoint.read(name("input_layernorm.weight"))))]
    parts.append(("qkv", _matrix(kind, hidden, rows)))
    if language.qkv_bias:
        biases = [checkpoint.read(name(f"self_attn.{one}_proj.bias"), cut) for one, cut in cuts]
        parts.append(("bias", _vector(np.concatenate(biases))))
    if language.qk_norm:
        for mine, theirs in (("query_norm", "q_norm"), ("key_norm", "k_norm")):
            parts.append((mine, _vector(checkpoint.read(name(f"self_attn.{theirs}.weight")))))
    parts.append(("out", _matrix(kind, queries.stop - queries.start, [out])))
    return parts


def _feed_forward(
    checkpoint: Checkpoint, share: Share, index: int, kind: str
) -> list[tuple[str, _Part]]:
    hidden = checkpoint.language.hidden
    cut = slice(*share.feed_forward)
    gate, up = (
        _Rows(checkpoint, layer(index, f"mlp.{name}_proj.weight"), cut, slice(None))
        for name in ("gate", "up")
    )
    down = _Rows(checkpoint, layer(index, "mlp.down_proj.weight"), slice(0, hidden), cut)
    norm = checkpoint.read(layer(index, "post_attention_layernorm.weight"))
    return [
        ("norm", _vector(norm)),
        ("gate_up", _matrix(kind, hidden, [gate, up])),
        ("down", _matrix(kind, cut.stop - cut.start, [down])),
    ]


def _write_head(writer: _Writer, checkpoint: Checkpoint, kind: str) -> None:
    language: Language = checkpoint.language
    step = head_rows(language, kind)
    for first in range(0, language.vocabulary, step):
        last = min(first + step, language.vocabulary)
        rows = _Rows(checkpoint, HEAD, slice(first, last), slice(None))
        writer.block("head", first, [("head", _matrix(kind, language.hidden, [rows]))])


def _write_embedding(writer: _Writer, checkpoint: Checkpoint, precision: str) -> tuple[int, str]:
    kind = "fp32" if precision == "fp32" else "bf16"
    writer.align(PAGE)
    start = writer.blocks[-1].offset + writer.blocks[-1].bytes
    for first in range(0, checkpoint.language.vocabulary, _ROWS):
        last = min(first + _ROWS, checkpoint.language.vocabulary)
        rows = checkpoint.read(EMBEDDING, slice(first, last))
        writer.write(narrowed(rows) if kind == "bf16" else rows)
    writer.align(PAGE)
    return start, kind
