"""A rank's part of a model on disk: ``shard.json`` and ``weights.bin``.

``weights.bin`` is one block after another in the order in which a token needs them, each at a
multiple of 4096 bytes so that it can be read past the page cache. A block is what is computed
between two sums over the ranks (attention with its norm, feed-forward with its norm), or a slice
of the head. Rank 0 also has the embedding, row by row, which is never read whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from edgekit.errors import BundleError

from .checkpoint import read_json
from .language import Language, from_document
from .packing import PRECISIONS, packed_bytes
from .partition import Share

FORMAT: Final = 1
MANIFEST: Final = "shard.json"
WEIGHTS: Final = "weights.bin"
PAGE: Final = 4096
KINDS: Final = ("attention", "feed_forward", "norm", "head")


@dataclass(frozen=True)
class Tensor:
    """Where a tensor lies within its block; ``kind`` is a precision, or ``vector`` (fp32)."""

    offset: int
    kind: str
    rows: int
    columns: int = 1

    @property
    def bytes(self) -> int:
        """As stored."""
        if self.kind == "vector":
            return 4 * self.rows
        return packed_bytes(self.kind, self.rows, self.columns)


@dataclass(frozen=True)
class Block:
    """What is computed in one piece.

    Attributes:
        kind: One of :data:`KINDS`.
        index: The layer, or of a slice of the head its first row.
        offset: In ``weights.bin``.
        bytes: As read: a multiple of 4096.
    """

    kind: str
    index: int
    offset: int
    bytes: int
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Shard:
    """One rank's part.

    Attributes:
        embedding: Offset and kind (fp32 or bf16) of the rows; None but on rank 0.
        bytes: Of ``weights.bin``.
        sha256: Of ``weights.bin``.
    """

    rank: int
    nodes: int
    ratio: tuple[float, ...]
    precision: str
    language: Language
    share: Share
    blocks: tuple[Block, ...]
    embedding: tuple[int, str] | None
    bytes: int
    sha256: str

    def document(self) -> dict[str, Any]:
        """As ``shard.json`` has it."""
        return {"format": FORMAT} | asdict(self) | {"language": self.language.document()}

    @property
    def streamable(self) -> tuple[Block, ...]:
        """The blocks that may be read anew for each token: all with matrices."""
        return tuple(block for block in self.blocks if block.kind != "norm")


def read_shard(folder: Path | str) -> Shard:
    """The manifest in a folder, checked against itself and against the size of the weights.

    Raises:
        InputError: there is none.
        BundleError: it is damaged, of another version, or does not fit its weights.
    """
    folder = Path(folder)
    document = read_json(folder / MANIFEST)
    if document.pop("format", None) != FORMAT:
        raise BundleError(
            f"{folder / MANIFEST} is of another version", "", "edgekit cluster split it again"
        )
    try:
        shard = _parse(document)
        _check(shard)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BundleError(f"{folder / MANIFEST} is damaged", repr(error)) from error
    size = (folder / WEIGHTS).stat().st_size if (folder / WEIGHTS).is_file() else -1
    if size != shard.bytes:
        raise BundleError(
            f"{folder / WEIGHTS} does not belong to its manifest",
            f"it has {size} bytes, not {shard.bytes}" if size >= 0 else "it is not there",
        )
    return shard


def write_shard(folder: Path, shard: Shard) -> None:
    """Write ``shard.json``."""
    text = json.dumps(shard.document(), indent=1) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8")


def verify_shard(folder: Path | str) -> Shard:
    """Read every byte of the weights and compare.

    Raises:
        BundleError: the weights are not those that the manifest is of.
    """
    shard = read_shard(folder)
    with open(Path(folder) / WEIGHTS, "rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != shard.sha256:
        raise BundleError(f"{Path(folder) / WEIGHTS} is damaged", f"its sha256 is {found}")
    return shard


def _parse(document: dict[str, Any]) -> Shard:
    fields = dict(document)
    share = fields["share"]
    fields["language"] = from_document(fields["language"])
    fields["ratio"] = tuple(map(float, fields["ratio"]))
    fields["share"] = Share(**{name: (int(a), int(b)) for name, (a, b) in share.items()})
    fields["blocks"] = tuple(
        Block(**(one | {"tensors": {k: Tensor(**v) for k, v in one["tensors"].items()}}))
        for one in fields["blocks"]
    )
    if fields["embedding"] is not None:
        fields["embedding"] = (int(fields["embedding"][0]), str(fields["embedding"][1]))
    return Shard(**fields)


def _check(shard: Shard) -> None:
    """Raise ValueError where a number points outside, or a tensor is not of the model's size."""
    if shard.precision not in PRECISIONS or not 0 <= shard.rank < shard.nodes:
        raise ValueError(f"precision {shard.precision!r}, rank {shard.rank} of {shard.nodes}")
    for block in shard.blocks:
        if block.kind not in KINDS or block.offset % PAGE or block.bytes % PAGE:
            raise ValueError(f"a block of kind {block.kind!r} at {block.offset}")
        if not 0 <= block.offset <= shard.bytes - block.bytes or block.bytes < 0:
            raise ValueError(f"a block at {block.offset} leaves the file")
        wanted = shapes(shard, block)
        found = {name: (one.rows, one.columns) for name, one in block.tensors.items()}
        if found != wanted:
            raise ValueError(f"block {block.kind} {block.index} has {found}, not {wanted}")
        for one in block.tensors.values():
            if one.kind != "vector" and one.kind not in PRECISIONS:
                raise ValueError(f"a tensor of kind {one.kind!r}")
            if one.offset % 64 or not 0 <= one.offset <= block.bytes - one.bytes:
                raise ValueError(f"a tensor at {one.offset} leaves its block")
    if shard.embedding is not None:
        offset, kind = shard.embedding
        bytes_of_row = shard.language.hidden * {"fp32": 4, "bf16": 2}[kind]
        if not 0 <= offset <= shard.bytes - shard.language.vocabulary * bytes_of_row:
            raise ValueError("the embedding leaves the file")
    if [block.kind for block in shard.blocks] != _order(shard):
        raise ValueError("the blocks are not those of the model")


def shapes(shard: Shard, block: Block) -> dict[str, tuple[int, int]]:
    """The tensors that a block has to have, by name: (rows, columns)."""
    language = shard.language
    hidden, size = language.hidden, language.head_size
    heads, kv_heads, columns = shard.share.sizes
    if block.kind == "norm":
        return {"norm": (hidden, 1)}
    if block.kind == "head":
        return {"head": (block.tensors["head"].rows, hidden)}
    if block.kind == "feed_forward":
        return {"norm": (hidden, 1), "gate_up": (2 * columns, hidden), "down": (hidden, columns)}
    rows = (heads + 2 * kv_heads) * size
    wanted = {"norm": (hidden, 1), "qkv": (rows, hidden), "out": (hidden, heads * size)}
    if language.qkv_bias:
        wanted["bias"] = (rows, 1)
    if language.qk_norm:
        wanted |= {"query_norm": (size, 1), "key_norm": (size, 1)}
    return wanted


def _order(shard: Shard) -> list[str]:
    layers = ["attention", "feed_forward"] * shard.language.layers
    heads = [block for block in shard.blocks if block.kind == "head"]
    rows = 0
    for block in heads:
        if block.index != rows:
            raise ValueError(f"a slice of the head starts at row {block.index}, not {rows}")
        rows += block.tensors["head"].rows
    if rows != (shard.language.vocabulary if shard.rank == 0 else 0):
        raise ValueError(f"the head has {rows} rows")
    return layers + (["norm"] + ["head"] * len(heads) if shard.rank == 0 else [])
