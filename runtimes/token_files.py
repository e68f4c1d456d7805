"""Files of a codec's codes: safetensors with ``codes`` (codebooks, frames) uint16.

Its header says which codec made them: to another one they would be noise.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from edgekit.errors import InputError

SUFFIX: Final = ".safetensors"
_NAME: Final = "codes"
_KEY: Final = "edgekit.codec"
MAX_BYTES: Final = 64 << 20


@dataclass(frozen=True)
class Tokens:
    """Codes (codebooks, frames), and how many samples they stand for.

    ``codec`` is the sha256 of the codec's weights; None where the file does not say.
    """

    codes: np.ndarray
    samples: int | None = None
    codec: str | None = None


def write_tokens(path: Path, tokens: Tokens) -> None:
    """Write a file of codes."""
    from safetensors.numpy import save

    said = {"samples": tokens.samples, "weights_sha256": tokens.codec}
    codes = np.ascontiguousarray(tokens.codes, np.uint16)
    path.write_bytes(save({_NAME: codes}, metadata={_KEY: json.dumps(said)}))


def read_tokens(path: Path, codebooks: int, count: int, codec: str | None = None) -> Tokens:
    """Read a file of codes.

    Args:
        codebooks: how many there must be. count: of codes in each. codec: whose they must be,
            where the file says it.

    Raises:
        InputError: there is no such file, it is damaged, too large, or of another codec.
    """
    from safetensors import SafetensorError, safe_open

    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path} is larger than {MAX_BYTES >> 20} MiB", "no file of codes is")
        with safe_open(path, framework="numpy") as file:
            codes = file.get_tensor(_NAME)
            said = json.loads((file.metadata() or {}).get(_KEY, "{}"))
        found = Tokens(codes, said.get("samples"), said.get("weights_sha256"))
    except (SafetensorError, OSError, ValueError, AttributeError, TypeError) as error:
        raise InputError(f"{path} cannot be read as codes", str(error)) from error
    _check(path, found, codebooks, count, codec)
    return found


def _check(path: Path, tokens: Tokens, codebooks: int, count: int, codec: str | None) -> None:
    codes, samples = tokens.codes, tokens.samples
    if codes.ndim != 2 or codes.dtype.kind not in "iu" or codes.shape[0] != codebooks:
        raise InputError(
            f"{path} does not fit this codec",
            f"its codes are {codes.dtype}{list(codes.shape)}, of {codebooks} codebooks expected",
        )
    if codes.shape[1] == 0:
        raise InputError(f"{path} is empty", "it holds no frame")
    if codes.min() < 0 or codes.max() >= count:
        raise InputError(f"{path} does not fit this codec", f"a codebook has 0 to {count - 1}")
    if samples is not None and (not isinstance(samples, int) or samples < 1):
        raise InputError(f"{path} cannot be read as codes", f"it stands for {samples} samples")
    if codec and tokens.codec and tokens.codec != codec:
        raise InputError(
            f"{path} is of another codec",
            "it was made with other weights",
            "decode it with the bundle that encoded it",
        )
