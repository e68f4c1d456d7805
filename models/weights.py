"""Checkpoints: read without trust, checked in full before anything is loaded.

A checkpoint is somebody else's file. Nothing in it is executed (safetensors, or PyTorch's
reader for tensors only), and a network receives all of it or nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgekit.errors import InputError

_TORCH_SUFFIXES = (".pt", ".pth")
_SHOWN = 3  # names in a message; the counts tell the rest


def load_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint file onto the CPU.

    Args:
        path: ``.safetensors``, or ``.pt`` / ``.pth`` holding a dict of tensors, or a dict with
            such a dict under ``state_dict`` (or, without one, under ``ema``); or a folder as
            Hugging Face keeps it, with ``model.safetensors`` whole or in parts.

    Raises:
        InputError: there is no such file, it is damaged or of another kind, it holds other
            things than dense tensors, or a value is NaN or infinite.
    """
    path = Path(path)
    if path.is_dir():
        state = _read_folder(path)
        _check_values(state, path)
        return state
    if not path.is_file():
        raise InputError(f"no checkpoint at {path}", "there is no such file")
    if path.suffix == ".safetensors":
        state = _read_safetensors(path)
    elif path.suffix in _TORCH_SUFFIXES:
        state = _state_dict(_read_torch(path), path)
    else:
        known = ", ".join((".safetensors", *_TORCH_SUFFIXES))
        raise InputError(f"checkpoint {path} is of no known kind", f"known are {known}")
    _check_values(state, path)
    return state


def apply_checkpoint(module: nn.Module, state: Mapping[str, Tensor], path: str | Path) -> None:
    """Load ``state`` into ``module``, all of it or nothing.

    A module with a ``checkpoint_key(key)`` method translates keys of older files first; what
    it gives None for is not needed.
    Floating-point tensors are converted to the module's dtype.

    Args:
        path: where the checkpoint came from, for the message.

    Raises:
        InputError: keys are missing or unexpected, or shapes or kinds of numbers differ; the
            module is unchanged.

    >>> layer = nn.Linear(2, 1)
    >>> apply_checkpoint(layer, {"weight": torch.ones(1, 2), "bias": torch.zeros(1)}, "a.pt")
    >>> layer(torch.ones(1, 2)).item()
    2.0
    """
    state = _translate_keys(module, state, path)
    expected = module.state_dict()
    problems = [
        _listing("missing", (key for key in expected if key not in state)),
        _listing("unexpected", (key for key in state if key not in expected)),
        _listing(
            "mismatched",
            (
                f"{key} is {_describe(state[key])} instead of {_describe(tensor)}"
                for key, tensor in expected.items()
                if key in state and not _fits(state[key], tensor)
            ),
        ),
    ]
    if any(problems):
        raise InputError(
            f"checkpoint {path} does not fit {type(module).__name__}",
            "; ".join(problem for problem in problems if problem),
            "give the checkpoint of exactly this model (`edgekit models` lists the names)",
        )
    module.load_state_dict(state, strict=True)


def _read_folder(folder: Path) -> dict[str, Tensor]:
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.is_file() or not index.is_file():
        if not whole.is_file():
            raise InputError(
                f"no checkpoint in {folder}", "there is no such file as model.safetensors"
            )
        return _read_safetensors(whole)
    try:
        parts = sorted({str(name) for name in json.loads(index.read_text())["weight_map"].values()})
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise InputError(f"cannot read {index}", str(error)) from error
    state: dict[str, Tensor] = {}
    for name in parts:
        if Path(name).name != name:
            raise InputError(f"{index} is not to be trusted", f"it names {name}")
        state |= _read_safetensors(folder / name)
    return state


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"cannot read checkpoint {path}", str(error)) from error


def _read_torch(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # Damaged bytes surface as almost any exception of the zip reader and the unpickler,
        # with pages of advice on turning the safety off. All mean the same to the user.
        raise InputError(
            f"cannot read checkpoint {path}",
            "it is damaged or cut off, is no PyTorch file, or holds code beside tensors",
            "download it again, or convert it to .safetensors where it was made",
        ) from error


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    """The dict of tensors in what a PyTorch file holds."""
    if isinstance(content, Mapping):
        for key in ("state_dict", "ema"):
            if isinstance(content.get(key), Mapping):
                content = content[key]
                break
    if not isinstance(content, Mapping) or not content:
        kind = "an empty dict" if isinstance(content, Mapping) else type(content).__name__
        raise InputError(f"checkpoint {path} is no dict of tensors", f"it holds {kind}")
    strange = [
        f"{key} ({type(value).__name__})"
        for key, value in content.items()
        if not (isinstance(key, str) and _is_dense(value))
    ]
    if strange:
        raise InputError(f"checkpoint {path} is no dict of tensors", _listing("other", strange))
    return dict(content)


def _is_dense(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_quantized


def _check_values(state: Mapping[str, Tensor], path: Path) -> None:
    bad = [key for key, value in state.items() if not torch.isfinite(value).all()]
    if bad:
        raise InputError(f"checkpoint {path} holds NaN or infinite values", _listing("in", bad))


def _translate_keys(
    module: nn.Module, state: Mapping[str, Tensor], path: str | Path
) -> dict[str, Tensor]:
    translate = getattr(module, "checkpoint_key", None)
    if translate is None:
        return dict(state)
    pairs = [(translate(key), value) for key, value in state.items()]
    needed = {key: value for key, value in pairs if key is not None}
    if len(needed) != sum(key is not None for key, _ in pairs):
        raise InputError(f"checkpoint {path} is ambiguous", "it has old and new names of one key")
    return needed


def _fits(given: Tensor, expected: Tensor) -> bool:
    # Integers in place of floating-point numbers are a quantised file: converting them would
    # succeed and give nonsense.
    same_kind = given.is_floating_point() == expected.is_floating_point()
    return given.shape == expected.shape and same_kind and not given.is_complex()


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"


def _listing(what: str, items: Iterable[str]) -> str:
    """``"5 missing (a, b, c, …)"``, or nothing where there are none."""
    items = list(items)
    if not items:
        return ""
    shown = ", ".join(items[:_SHOWN]) + (", …" if len(items) > _SHOWN else "")
    return f"{len(items)} {what} ({shown})"
