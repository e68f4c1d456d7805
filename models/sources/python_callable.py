"""A model of the user's own: ``PATH.py:CALLABLE`` or ``package.module:CALLABLE``."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from edgekit.errors import EdgekitError, InputError, UsageError

from ..spec import GraphSpec, InputSpec, LoadedModel
from . import RANDOM, SEED, SourceOptions, refuse_resolution

EXAMPLE_ATTRIBUTES = ("example_inputs", "example_input_array")


def load_callable(text: str, options: SourceOptions) -> LoadedModel:
    """Import, call without arguments, and take the ``nn.Module`` that comes back.

    Example inputs are those of ``options``, else the module's ``example_inputs`` (a tensor,
    a tuple, a dictionary, or a method that returns one of them).

    Raises:
        UsageError: there is no such file, module or callable, it does not return a module,
            or nothing says what its inputs are.
    """
    refuse_resolution(text, options)
    place, _, name = text.rpartition(":")
    with _nearby(place):
        function = _find(place, name, text)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            module = _call(function, text)
    return from_module(module, name, text, options, f"as {name} made them (seed {SEED})")


def from_module(
    module: nn.Module,
    name: str,
    source: str,
    options: SourceOptions,
    weights: str = "as given",
) -> LoadedModel:
    """A network that somebody made, with a checkpoint if ``options`` names one.

    Raises:
        UsageError: nothing says what its inputs are.
        InputError: the checkpoint does not fit.
    """
    if options.weights == "random":
        weights = RANDOM
    elif options.weights:
        from ..weights import apply_checkpoint, load_checkpoint

        apply_checkpoint(module, load_checkpoint(options.weights), options.weights)
        weights = Path(options.weights).name
    inputs = tuple(options.inputs) or _examples(module, source)
    if not isinstance(module, torch.fx.GraphModule):
        module = module.eval()
    return LoadedModel(name, source, module, (GraphSpec(inputs=inputs),), weights)


@contextmanager
def _nearby(place: str) -> Iterator[None]:
    """Let the file import its neighbours, and a module be found in the working directory."""
    folder = str(Path(place).resolve().parent) if place.endswith(".py") else str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _find(place: str, name: str, text: str) -> Any:
    if place.endswith(".py") and not Path(place).is_file():
        raise UsageError(f"no file {place}", f"{text} is read as PATH.py:CALLABLE")
    try:
        module = (
            _load_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
        )
    except EdgekitError:
        raise
    except ModuleNotFoundError as error:
        raise UsageError(f"cannot import {place}", str(error)) from error
    except Exception as error:
        raise InputError(f"{place} fails on import", f"{type(error).__name__}: {error}") from error
    function = getattr(module, name, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if callable(value) and key[0] != "_"]
        raise UsageError(f"no callable {name} in {place}", f"there are {', '.join(known[:12])}")
    return function


def _load_file(path: Path) -> ModuleType:
    # Under a name of its own, so that the user's `json.py` does not become json.
    name = f"edgekit_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"cannot import {path}", "it is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickling look their module up here
    spec.loader.exec_module(module)
    return module


def _call(function: Any, text: str) -> nn.Module:
    try:
        module = function()
    except EdgekitError:
        raise
    except Exception as error:
        raise InputError(
            f"{text} fails when called without arguments", f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(module, nn.Module):
        raise UsageError(f"{text} returns {type(module).__name__}", "it must return an nn.Module")
    return module


def _examples(module: nn.Module, text: str) -> tuple[InputSpec, ...]:
    for attribute in EXAMPLE_ATTRIBUTES:
        found = getattr(module, attribute, None)
        if found is not None:
            return describe_inputs(found() if callable(found) else found)
    raise UsageError(
        f"nothing says what {text} takes",
        "it has no example_inputs",
        "edgekit export … --input x:float32[1,3,224,224]",
    )


def describe_inputs(value: Any) -> tuple[InputSpec, ...]:
    """Input specs of example inputs: one tensor, several in order or by name, or specs."""
    if isinstance(value, torch.Tensor | InputSpec):
        value = (value,)
    if isinstance(value, Mapping):
        return tuple(_spec(name, tensor) for name, tensor in value.items())
    names = ["x"] if len(value) == 1 else [f"x{index}" for index in range(len(value))]
    return tuple(_spec(name, item) for name, item in zip(names, value, strict=True))


def _spec(name: str, value: Any) -> InputSpec:
    if isinstance(value, InputSpec):
        return value
    if not isinstance(value, torch.Tensor):
        raise UsageError(
            f"the example input {name} is {type(value).__name__}", "a tensor is needed"
        )
    return InputSpec(name, str(value.dtype).removeprefix("torch."), tuple(value.shape))
