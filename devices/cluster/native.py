"""The compiled kernel: built once with this machine's own compiler, kept, and called.

A wheel cannot hold one: what makes it fast are instructions that the next machine may lack. The
name of the built file says what it was built from and for, so that a changed source or another
processor builds anew. A machine without a compiler computes with NumPy instead.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.errors import MissingBackendError
from edgekit.paths import cache_dir

from .packing import PRECISIONS
from .shard import Block, Shard

COMPILER_VARIABLE = "CC"
ARCHITECTURE_VARIABLE = "EDGEKIT_CLUSTER_ARCH"  # for -march, in place of this processor's own
_FLAGS = (
    "-O3",
    "-std=gnu11",
    "-shared",
    "-fPIC",
    "-pthread",
    # Sums may be reordered; unlike -ffast-math this does not change the process's rounding of
    # the smallest numbers when the library is loaded.
    "-fassociative-math",
    "-fno-signed-zeros",
    "-fno-trapping-math",
    "-fno-math-errno",
)
_SECONDS = 120


class _Sizes(ctypes.Structure):
    """``struct sizes`` of kernel.c."""

    _fields_ = [
        *(
            (name, ctypes.c_int32)
            for name in (
                "hidden",
                "heads",
                "kv_heads",
                "head_size",
                "columns",
                "group",
                "phase",
                "context",
                "window",
                "tokens",
                "half_cache",
            )
        ),
        ("epsilon", ctypes.c_float),
        ("turns", ctypes.c_void_p),
    ]


class _AttentionAt(ctypes.Structure):
    _names = ("norm", "qkv", "bias", "query_norm", "key_norm", "out")
    _fields_ = [(name, ctypes.c_int64) for name in _names]


class _FeedForwardAt(ctypes.Structure):
    _names = ("norm", "gate_up", "down")
    _fields_ = [(name, ctypes.c_int64) for name in _names]


@cache
def library() -> Any:
    """The compiled kernel, built if it is not there yet.

    Raises:
        MissingBackendError: there is no compiler, or it fails.
    """
    source = resources.files(__package__).joinpath("kernel.c").read_bytes()
    wanted = os.environ.get(ARCHITECTURE_VARIABLE)
    flags = [*_FLAGS, f"-march={wanted}" if wanted else _native_flag()]
    name = hashlib.sha256(repr((source, flags, _processor())).encode()).hexdigest()[:20]
    path = cache_dir() / "cluster" / f"kernel-{name}.so"
    if not path.is_file():
        _build(source, flags, path)
    return _declared(ctypes.CDLL(str(path)))


def _native_flag() -> str:
    return "-mcpu=native" if platform.machine() in ("aarch64", "arm64") else "-march=native"


def _processor() -> str:
    """What the compiler's ``native`` depends on: two machines may share a home folder."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join(dict.fromkeys(line for line in lines if line.startswith(wanted)))


def _build(source: bytes, flags: list[str], path: Path) -> None:
    compiler = os.environ.get(COMPILER_VARIABLE) or next(
        (found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None
    )
    if compiler is None:
        raise MissingBackendError(
            "there is no C compiler for the cluster's kernel", "", "apt-get install gcc"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        code, made = Path(folder, "kernel.c"), Path(folder, "kernel.so")
        code.write_bytes(source)
        try:
            done = subprocess.run(
                [compiler, *flags, str(code), "-o", str(made), "-lm"],
                capture_output=True,
                text=True,
                check=False,
                timeout=_SECONDS,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise MissingBackendError(f"cannot run {compiler}", str(error)) from error
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise MissingBackendError(f"{compiler} cannot build the cluster's kernel", last)
        os.replace(made, path)


def _declared(built: Any) -> Any:
    pointer, whole, integer = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32
    built.team_open.restype, built.team_open.argtypes = pointer, [integer]
    built.team_close.restype, built.team_close.argtypes = None, [pointer]
    built.scratch_bytes.restype, built.scratch_bytes.argtypes = whole, [pointer, integer]
    built.attention.restype = None
    built.attention.argtypes = [pointer] * 3 + [integer] + [pointer] * 6 + [integer] * 2
    built.feed_forward.restype = None
    built.feed_forward.argtypes = [pointer] * 3 + [integer] + [pointer] * 4 + [integer]
    built.head.restype = None
    built.head.argtypes = [pointer, pointer, integer, pointer, integer] + [pointer] * 3
    return built


def sizes_of(shard: Shard, context: int, tokens: int, half_cache: bool) -> _Sizes:
    """A rank's sizes as the kernel takes them, without angles."""
    language = shard.language
    heads, kv_heads, columns = shard.share.sizes
    return _Sizes(
        language.hidden,
        heads,
        kv_heads,
        language.head_size,
        columns,
        language.group,
        shard.share.heads[0] % language.group,
        context,
        language.window or 0,
        tokens,
        int(half_cache),
        language.epsilon,
        None,
    )


def scratch_bytes(shard: Shard, context: int, tokens: int, threads: int) -> int:
    """What :class:`NativeKernel` works in, in bytes."""
    sizes = sizes_of(shard, context, tokens, False)
    return library().scratch_bytes(ctypes.byref(sizes), threads)


class NativeKernel:
    """Blocks of one shard, computed by the compiled kernel with a team of threads."""

    name = "compiled"

    def __init__(
        self,
        shard: Shard,
        keys: np.ndarray,
        values: np.ndarray,
        turns: np.ndarray,
        tokens: int,
        threads: int,
    ) -> None:
        """
        Args:
            shard: Whose blocks.
            keys: The cache, (layers, key-value heads, context, head size), float32 or float16.
            values: Likewise.
            turns: (context, head size / 2, 2): cosines and sines, float32.
            tokens: At most in one call.
            threads: Of the team, the caller's included.
        """
        self._library = library()
        self._arrays = (keys, values, turns)  # the kernel has their addresses
        self._sizes = sizes_of(shard, keys.shape[2], tokens, keys.dtype == np.float16)
        self._sizes.turns = turns.ctypes.data
        self._at_sizes = ctypes.addressof(self._sizes)
        self._keys, self._values = keys.ctypes.data, values.ctypes.data
        self._layer_bytes = keys[0].nbytes
        self._scratch_array = np.zeros(
            self._library.scratch_bytes(self._at_sizes, threads) + 64, np.uint8
        )
        self._scratch = -(-self._scratch_array.ctypes.data // 64) * 64
        self._calls = {id(block): _Call(block) for block in shard.blocks}
        self._team = self._library.team_open(threads)

    def attention(
        self, block: Block, base: int, hidden: np.ndarray, out: np.ndarray, position: int
    ) -> None:
        """``out`` (tokens, hidden) from ``hidden``, of this rank's heads; fills the cache."""
        call = self._calls[id(block)]
        skip = block.index * self._layer_bytes
        self._library.attention(
            self._team,
            self._at_sizes,
            call.at,
            call.kind,
            base,
            self._scratch,
            hidden.ctypes.data,
            out.ctypes.data,
            self._keys + skip,
            self._values + skip,
            len(hidden),
            position,
        )

    def feed_forward(self, block: Block, base: int, hidden: np.ndarray, out: np.ndarray) -> None:
        """``out`` (tokens, hidden) from ``hidden``, of this rank's columns."""
        call = self._calls[id(block)]
        self._library.feed_forward(
            self._team,
            self._at_sizes,
            call.at,
            call.kind,
            base,
            self._scratch,
            hidden.ctypes.data,
            out.ctypes.data,
            len(hidden),
        )

    def head(self, block: Block, base: int, hidden: np.ndarray, out: np.ndarray) -> None:
        """A slice of the logits, (rows,), from one token's normed state (hidden,)."""
        matrix = block.tensors["head"]
        self._library.head(
            self._team,
            self._at_sizes,
            self._calls[id(block)].kind,
            base + matrix.offset,
            matrix.rows,
            self._scratch,
            hidden.ctypes.data,
            out.ctypes.data,
        )

    def close(self) -> None:
        """End the team's threads."""
        if self._team:
            self._library.team_close(self._team)
            self._team = None


class _Call:
    """What does not change from call to call of a block."""

    def __init__(self, block: Block) -> None:
        form = {"attention": _AttentionAt, "feed_forward": _FeedForwardAt}.get(block.kind)
        self.kind, self.at = -1, 0
        for one in block.tensors.values():
            if one.kind != "vector":
                self.kind = PRECISIONS.index(one.kind)
        if form is not None:
            found = (block.tensors.get(name) for name in form._names)
            self._offsets = form(*(-1 if one is None else one.offset for one in found))
            self.at = ctypes.addressof(self._offsets)
