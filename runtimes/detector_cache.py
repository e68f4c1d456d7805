"""Embedded prompts on disk: one small file for each prompt of each checkpoint.

A prompt's embedding depends on the text tower's weights, its precision and the vocabulary, and
on nothing else: not on the picture, the resolution or the other classes. So a file is named by
the fingerprint of those and by the prompt. The folder can be copied to a device, which then
needs neither the text graph nor a tokenizer for these classes.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from edgekit.bundle import Bundle
from edgekit.manifest import Graph
from edgekit.paths import cache_dir

_NAME: Final = 32  # hexadecimal digits of a sha256 that make a name
_FEATURES, _MASK = "text_features", "attention_mask"


@dataclass(frozen=True, eq=False)
class Embedding:
    """One prompt: features (tokens, width) float32, mask (tokens,) int64, 1 for a token."""

    features: np.ndarray
    mask: np.ndarray


def fingerprint(bundle: Bundle, text: Graph, runtime_target: str, tokenizer: str) -> str:
    """sha256 of all that an embedding depends on beside the prompt.

    Args:
        text: the graph that embeds. runtime_target: whose artifact of it runs.
        tokenizer: the vocabulary's file in the bundle.
    """
    manifest = bundle.manifest
    weights = manifest.model.weights_sha256 or bundle.digest
    contents = {entry.path: entry.sha256 for entry in manifest.files}
    artifact = next((a for a in text.artifacts if a.target == runtime_target), None)
    precision = artifact.precision if artifact else manifest.precision
    # Runtimes round differently, but in fp32 by less than any detection shows. In lower
    # precisions they need not, and what was quantised depends on its calibration, too: there
    # each artifact has its own.
    own: list[str] = []
    if precision != "fp32":
        paths = (artifact.file or "", *artifact.extra) if artifact else ()
        own = [runtime_target, *(contents.get(path, bundle.digest) for path in paths)]
    parts = (weights, contents.get(tokenizer, ""), precision, *own)
    return hashlib.sha256("|".join(parts).encode()).hexdigest()


class TextCache:
    """Embeddings on disk.

    Args:
        fingerprint: see :func:`fingerprint`. folder: where; None: the user's cache.
        shape: (tokens, width) of an embedding; a file of another shape is passed over.
    """

    def __init__(self, fingerprint: str, folder: Path | None, shape: tuple[int, int]) -> None:
        self._fingerprint, self._shape = fingerprint, shape
        root = folder if folder is not None else cache_dir() / "text"
        self.folder = root / fingerprint[:_NAME]

    def read(self, prompt: str) -> Embedding | None:
        """What is kept of a prompt, bit for bit; None if nothing is, or the file is damaged."""
        from safetensors import SafetensorError, safe_open

        path = self._path(prompt)
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="numpy") as file:
                said = file.metadata() or {}
                found = Embedding(file.get_tensor(_FEATURES), file.get_tensor(_MASK))
        except (SafetensorError, OSError, ValueError, TypeError):
            return None
        return found if said == self._says(prompt) and self._fits(found) else None

    def write(self, prompt: str, embedding: Embedding) -> None:
        """Keep an embedding; where the folder cannot be written, nothing is kept."""
        from safetensors.numpy import save

        tensors = {
            _FEATURES: np.ascontiguousarray(embedding.features),
            _MASK: np.ascontiguousarray(embedding.mask),
        }
        data = save(tensors, metadata=self._says(prompt))
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self.folder, suffix=".part")
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
            os.replace(name, self._path(prompt))
        except OSError:
            return  # a read-only device embeds anew; that is slower, not wrong

    def _path(self, prompt: str) -> Path:
        name = hashlib.sha256(prompt.encode()).hexdigest()[:_NAME]
        return self.folder / f"{name}.safetensors"

    def _says(self, prompt: str) -> dict[str, str]:
        return {"prompt": prompt, "fingerprint": self._fingerprint}

    def _fits(self, found: Embedding) -> bool:
        return (
            found.features.shape == self._shape
            and found.features.dtype == np.float32
            and found.mask.shape == self._shape[:1]
            and found.mask.dtype == np.int64
            and bool(np.isfinite(found.features).all())
        )
