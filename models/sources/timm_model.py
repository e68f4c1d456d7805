"""``timm:NAME``: any image model of timm."""

from __future__ import annotations

import inspect
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch

from edgekit.errors import InputError, MissingBackendError, UsageError
from edgekit.manifest import TaskInfo

from ..spec import GraphSpec, InputSpec, LoadedModel
from . import RANDOM, SEED, SourceOptions, refuse_resolution
from .vision_operators import declare_vision_operators

IMAGENET_CLASSES = 1000
ZERO_FILL_STD = 0.02  # as transformers initialise what they do not set to zero


def load_timm(text: str, options: SourceOptions) -> LoadedModel:
    """A timm model; random weights unless ``options.weights`` says otherwise.

    ``pretrained`` lets timm fetch its own weights from its hub.

    Raises:
        MissingBackendError: timm is not installed, or not beside a torchvision that loads.
        UsageError: timm has no model of that name (suggests the nearest).
        InputError: the weights cannot be had or do not fit.
    """
    timm = import_timm()
    name = text.removeprefix("timm:")
    if not timm.is_model(name.partition(".")[0]):
        near = timm.list_models(f"*{name.partition('.')[0].split('_')[0]}*")[:5]
        raise UsageError(f"timm has no model {name}", f"it has {', '.join(near) or 'others'}")
    module, weights = _create(timm, name, options)
    task, shape, assets = _describe(timm, module, options)
    if options.inputs:
        refuse_resolution(text, options)
    inputs = tuple(options.inputs) or (InputSpec("image", "float32", shape),)
    outputs = ("logits",) if task.kind == "classification" else ()
    graph = GraphSpec(inputs=inputs, outputs=outputs)
    return LoadedModel(name, text, module, (graph,), weights, task=task, assets=assets)


def import_timm() -> ModuleType:
    """timm, also where torchvision's compiled part does not fit the torch that is here.

    Raises:
        MissingBackendError: timm is absent, or cannot be imported all the same.
    """
    if find_spec("timm") is None:
        raise MissingBackendError("timm is not installed", "no module timm", "pip install timm")
    declare_vision_operators()
    try:
        import timm
    except Exception as error:
        raise MissingBackendError(
            "timm cannot be imported",
            f"the installed torchvision does not fit torch {torch.__version__} ({error})",
            "install the torchvision that belongs to this torch",
        ) from error
    return timm


def _create(timm: ModuleType, name: str, options: SourceOptions) -> tuple[Any, str]:
    arguments: dict[str, Any] = {}
    if options.resolution and _takes_image_size(timm, name):
        arguments["img_size"] = options.resolution
    pretrained = options.weights == "pretrained"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        try:
            module = timm.create_model(name, pretrained=pretrained, **arguments).eval()
        except Exception as error:
            what = f"timm cannot make {name}" + (" with its own weights" if pretrained else "")
            raise InputError(what, f"{type(error).__name__}: {error}") from error
    if pretrained:
        return module, "pretrained (timm)"
    if options.weights in (None, "random"):
        _fill_zeros(module)
        return module, RANDOM
    from ..weights import apply_checkpoint, load_checkpoint

    apply_checkpoint(module, load_checkpoint(options.weights), options.weights)
    return module, options.weights.replace("\\", "/").rsplit("/", 1)[-1]


def _fill_zeros(module: torch.nn.Module) -> None:
    """Give every parameter that is all zero seeded random values.

    For training, many networks start with heads, biases and residual scales of zero; such
    a network answers zero to everything, and comparing zeros would prove nothing.
    """
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for parameter in module.parameters():
            if not parameter.any():
                values = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(ZERO_FILL_STD * values)


def _takes_image_size(timm: ModuleType, name: str) -> bool:
    """Whether the network's own shapes depend on the picture's (transformers with positions)."""
    entry = timm.model_entrypoint(name.partition(".")[0])
    source = inspect.getmodule(entry)
    config = timm.models.get_pretrained_cfg(name)
    return bool(config and config.fixed_input_size) or (
        source is not None and "swin" in source.__name__
    )


def _describe(
    timm: ModuleType, module: Any, options: SourceOptions
) -> tuple[TaskInfo, tuple[int, ...], dict[str, str]]:
    config = timm.data.resolve_model_data_config(module)
    channels, *native = config["input_size"]
    size = list(options.resolution or native)
    params: dict[str, Any] = {
        "resolution": size,
        "resize": round(min(size) / config["crop_pct"]),
        "interpolation": config["interpolation"] if _known(config) else "bicubic",
        "crop": True,
        "mean": [float(value) for value in config["mean"]],
        "std": [float(value) for value in config["std"]],
        "channels": "RGB",
        "scale": 1 / 255,
        "top_k": 5,
        "input": "image",
        "output": "logits",
    }
    shape = (1, channels, *size)
    if getattr(module, "num_classes", 0) != IMAGENET_CLASSES or options.inputs or channels != 3:
        return TaskInfo(), shape, {}
    labels = {"assets/labels.txt": "imagenet1k.txt"}
    params["labels"] = "assets/labels.txt"
    return TaskInfo(kind="classification", params=params), shape, labels


def _known(config: dict[str, Any]) -> bool:
    return config["interpolation"] in ("bicubic", "bilinear")
