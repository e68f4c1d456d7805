"""The state of a run between two epochs, as one safetensors file: written, and read again.

Tensors are in the file's body, plain values as JSON in its header. Nothing is pickled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from edgekit.errors import InputError, UsageError

_KEY: Final = "training"


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """A safetensors file, whole or not at all.

    Raises:
        UsageError: nothing can be written there.
    """
    from safetensors.torch import save_file

    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({key: t.contiguous() for key, t in tensors.items()}, part, dict(metadata))
        part.replace(path)
    except OSError as error:
        raise UsageError(f"cannot write {path}", error.strerror or str(error)) from error
    finally:
        part.unlink(missing_ok=True)


def save_state(path: Path, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Keep a run's tensors and plain values.

    Raises:
        UsageError: nothing can be written there.
    """
    write_tensors(path, tensors, {_KEY: json.dumps(values)})


def load_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What :func:`save_state` wrote.

    Raises:
        InputError: it is damaged, or something else.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            values = json.loads((file.metadata() or {})[_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except KeyError as error:
        raise InputError(f"{path} holds no training state", "", "leave --resume out") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read", str(error), "leave --resume out") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} holds no training state", "", "leave --resume out")
    return tensors, values


def state_of(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The weights and the optimiser's moments, by name."""
    tensors = {f"network/{key}": t for key, t in network.state_dict().items()}
    for number, entries in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{number}/{key}": t for key, t in entries.items()}
    return tensors


def restore_state(
    network: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]
) -> None:
    """Put :func:`state_of` back.

    Raises:
        InputError: the tensors are not those of this network.
    """
    weights: dict[str, Tensor] = {}
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition("/")
        if kind == "network":
            weights[rest] = tensor
        else:
            number, _, key = rest.partition("/")
            moments.setdefault(int(number), {})[key] = tensor
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    try:
        network.load_state_dict(weights)
        for number, entries in moments.items():
            moments[number] = {k: _laid_out(t, parameters[number]) for k, t in entries.items()}
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": moments, "param_groups": groups})
    except (IndexError, RuntimeError, ValueError) as error:
        raise InputError("the training state is not of this network", str(error)) from error


def _laid_out(tensor: Tensor, parameter: nn.Parameter) -> Tensor:
    """A moment in memory as its parameter is: the fused optimiser walks both as they lie."""
    if tensor.shape != parameter.shape:
        return tensor  # the number of steps
    return torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)
