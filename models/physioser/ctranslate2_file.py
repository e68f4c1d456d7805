"""Whisper's encoder out of a CTranslate2 model file, without CTranslate2.

The layout (CTranslate2's model specification, binary version 6): little-endian; version, name of
the specification, its revision, number of variables; for each its name, rank (1 byte), sizes,
type (1 byte) and number of bytes, then the values; aliases at the end, which the encoder has
none of.
Names have their length before them and a zero after.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from edgekit.errors import InputError

_VERSION, _SPECIFICATION = 6, "WhisperSpec"
_TYPES = {0: "<f4", 1: "<i1", 2: "<i2", 3: "<i4", 4: "<f2"}
_LONGEST_NAME, _MOST_AXES, _MOST_VARIABLES = 512, 8, 100_000

# A layer's parts: here -> in transformers. q, k and v are stacked; k has no bias.
_LAYER = {
    "self_attention/layer_norm": "self_attn_layer_norm",
    "self_attention/linear_1": "self_attn.out_proj",
    "ffn/layer_norm": "final_layer_norm",
    "ffn/linear_0": "fc1",
    "ffn/linear_1": "fc2",
}
_PARTS = {"weight": "weight", "bias": "bias", "gamma": "weight", "beta": "bias"}


def read_whisper_encoder(path: Path) -> dict[str, Tensor]:
    """The encoder's tensors (float32) by the keys of transformers' ``WhisperEncoder``.

    Raises:
        InputError: there is no such file, it is cut off, or it is another kind of model.
    """
    try:
        with open(path, "rb") as stream:
            return _translated(dict(_variables(stream, path)), path)
    except OSError as error:
        raise InputError(f"cannot read {path}", error.strerror or str(error)) from error


def settings_of(state: dict[str, Tensor], heads: int | None = None) -> dict[str, Any]:
    """The configuration of the ``WhisperEncoder`` that these tensors are of.

    Heads are 64 wide in every published Whisper.
    """
    width, bands, _ = state["conv1.weight"].shape
    layers = len({key.split(".")[1] for key in state if key.startswith("layers.")})
    return {
        "d_model": width,
        "encoder_layers": layers,
        "encoder_attention_heads": heads or width // 64,
        "encoder_ffn_dim": state["layers.0.fc1.weight"].shape[0],
        "num_mel_bins": bands,
    }


def _variables(stream: BinaryIO, path: Path) -> Iterator[tuple[str, np.ndarray]]:
    version, name = _number(stream, "<I", path), _name(stream, path)
    if version != _VERSION or name != _SPECIFICATION:
        raise InputError(
            f"{path} is no Whisper of CTranslate2",
            f"it says version {version}, {name!r}; known is {_VERSION}, {_SPECIFICATION!r}",
        )
    _number(stream, "<I", path)  # the specification's revision
    count = _number(stream, "<I", path)
    if count > _MOST_VARIABLES:
        raise InputError(f"{path} is damaged", f"it says that it has {count} variables")
    for _ in range(count):
        name, rank = _name(stream, path), _number(stream, "<B", path)
        if rank > _MOST_AXES:
            raise InputError(f"{path} is damaged", f"{name} has {rank} axes")
        shape = tuple(_number(stream, "<I", path) for _ in range(rank))
        kind, size = _number(stream, "<B", path), _number(stream, "<I", path)
        content = stream.read(size)
        wanted = int(np.prod(shape, dtype=np.int64)) * np.dtype(_TYPES.get(kind, "V1")).itemsize
        if kind not in _TYPES or len(content) != size or size != wanted:
            raise InputError(f"{path} is damaged", f"{name} is cut off or of no known type")
        yield name, np.frombuffer(content, _TYPES[kind]).reshape(shape)


def _number(stream: BinaryIO, layout: str, path: Path) -> int:
    content = stream.read(struct.calcsize(layout))
    if len(content) != struct.calcsize(layout):
        raise InputError(f"{path} is damaged", "it ends too early")
    return struct.unpack(layout, content)[0]


def _name(stream: BinaryIO, path: Path) -> str:
    length = _number(stream, "<H", path)
    content = stream.read(length)
    if not 0 < length <= _LONGEST_NAME or len(content) != length:
        raise InputError(f"{path} is damaged", "a name is cut off")
    return content.rstrip(b"\0").decode("utf-8", "replace")


def _translated(variables: dict[str, np.ndarray], path: Path) -> dict[str, Tensor]:
    def take(name: str) -> Tensor:
        if (found := variables.get(f"encoder/{name}")) is None:
            raise InputError(f"{path} has no encoder/{name}", "another version wrote it")
        if found.dtype.kind != "f":
            raise InputError(
                f"{path} is quantised", f"encoder/{name} is {found.dtype}; float is needed"
            )
        return torch.from_numpy(found.astype(np.float32))

    state = {
        f"{name}.{part}": take(f"{name}/{part}")
        for name in ("conv1", "conv2")
        for part in ("weight", "bias")
    }
    state["embed_positions.weight"] = take("position_encodings/encodings")
    state |= {f"layer_norm.{_PARTS[p]}": take(f"layer_norm/{p}") for p in ("gamma", "beta")}
    count = len({name.split("/")[1] for name in variables if name.startswith("encoder/layer_")})
    for index in range(count - ("encoder/layer_norm/gamma" in variables)):
        here, there = f"layer_{index}", f"layers.{index}"
        for old, new in _LAYER.items():
            for part in ("gamma", "beta") if "norm" in old else ("weight", "bias"):
                state[f"{there}.{new}.{_PARTS[part]}"] = take(f"{here}/{old}/{part}")
        for part in ("weight", "bias"):
            stacked = take(f"{here}/self_attention/linear_0/{part}").chunk(3)
            for letter, values in zip("qkv", stacked, strict=True):
                if (letter, part) != ("k", "bias"):
                    state[f"{there}.self_attn.{letter}_proj.{part}"] = values.clone()
    return state
