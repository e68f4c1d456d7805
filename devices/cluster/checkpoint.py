"""Where the weights of a language model come from: a Hugging Face folder or a GGUF file.

Both answer to the same names, those of transformers' Llama, and hand parts of matrices out in
float32, so that a model larger than memory can be cut.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edgekit.errors import InputError

from .language import Language, from_config
from .safetensors_folder import SafetensorsFolder

GGUF_MAGIC = b"GGUF"

EMBEDDING = "model.embed_tokens.weight"
FINAL_NORM = "model.norm.weight"
HEAD = "lm_head.weight"


class Checkpoint(Protocol):
    """A model's weights, by transformers' names.

    Attributes:
        language: What the model is.
    """

    language: Language

    def read(self, name: str, rows: Any = slice(None), columns: Any = slice(None)) -> np.ndarray:
        """Rows and columns (slices) of a tensor, in float32. InputError: it is not there."""

    def tokenizer(self) -> dict[str, str]:
        """The files that make text of ids and back, by name: ``tokenizer.json``, ``chat.json``."""


def layer(index: int, name: str) -> str:
    """The full name of a layer's tensor.

    >>> layer(3, "mlp.up_proj.weight")
    'model.layers.3.mlp.up_proj.weight'
    """
    return f"model.layers.{index}.{name}"


def open_checkpoint(path: Path | str) -> Checkpoint:
    """The model in a folder or a GGUF file.

    Raises:
        InputError: there is none, or it is damaged.
        UnsupportedError: it is of an architecture that a cluster does not run.
        MissingBackendError: a GGUF file needs the ``gguf`` package.
    """
    path = Path(path)
    if path.is_dir():
        return FolderCheckpoint(path)
    try:
        with open(path, "rb") as stream:
            start = stream.read(len(GGUF_MAGIC))
    except OSError as error:
        raise InputError(
            f"no model at {path}",
            error.strerror or str(error),
            "give a folder with config.json and model.safetensors, or a .gguf file",
        ) from error
    if start != GGUF_MAGIC:
        raise InputError(f"{path} is no GGUF file", f"it starts with {start!r}")
    from .gguf_checkpoint import GgufCheckpoint

    return GgufCheckpoint(path)


class FolderCheckpoint:
    """``config.json`` and ``.safetensors`` as transformers writes them."""

    def __init__(self, folder: Path) -> None:
        if not (folder / "config.json").is_file():
            raise InputError(f"no model at {folder}", "there is no config.json")
        self._folder = folder
        generation = folder / "generation_config.json"
        self.language = from_config(
            read_json(folder / "config.json"), read_json(generation) if generation.is_file() else {}
        )
        self._tensors = SafetensorsFolder(folder)

    def read(self, name: str, rows: Any = slice(None), columns: Any = slice(None)) -> np.ndarray:
        if name == HEAD and HEAD not in self._tensors and self.language.tied:
            name = EMBEDDING
        return self._tensors.read(name, rows, columns)

    def tokenizer(self) -> dict[str, str]:
        files = {}
        if (self._folder / "tokenizer.json").is_file():
            files["tokenizer.json"] = (self._folder / "tokenizer.json").read_text("utf-8")
        settings = self._folder / "tokenizer_config.json"
        chat = chat_document(read_json(settings)) if settings.is_file() else {}
        if (self._folder / "chat_template.jinja").is_file():
            chat["template"] = (self._folder / "chat_template.jinja").read_text("utf-8")
        return files | {"chat.json": json.dumps(chat, indent=2, ensure_ascii=False)}


def read_json(path: Path) -> dict[str, Any]:
    """A file that holds one JSON object.

    Raises:
        InputError: it cannot be read, or holds something else.
    """
    try:
        document = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}", str(error)) from error
    if not isinstance(document, dict):
        raise InputError(f"{path} is damaged", "it holds no JSON object")
    return document


def chat_document(settings: dict[str, Any]) -> dict[str, Any]:
    """What ``tokenizer_config.json`` says of conversations: the template and its special texts."""
    template = settings.get("chat_template")
    if isinstance(template, list):  # several, by name
        named = {one.get("name"): one.get("template") for one in template}
        template = named.get("default")
    specials = {}
    for name in ("bos_token", "eos_token", "unk_token", "pad_token"):
        value = settings.get(name)
        value = value.get("content") if isinstance(value, dict) else value
        if isinstance(value, str):
            specials[name] = value
    return {"template": template, "specials": specials, "add_bos": settings.get("add_bos_token")}
