"""``hf:FOLDER_OR_ID``: a transformers model, from a local folder or the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekit.errors import InputError, MissingBackendError, UsageError

from ..spec import GraphSpec, InputSpec, LoadedModel
from . import RANDOM, SEED, SourceOptions, refuse_resolution
from .vision_operators import declare_vision_operators

TEXT_LENGTH = 16
SAMPLES = 16000  # one second of speech at 16 kHz


def load_hf(text: str, options: SourceOptions) -> LoadedModel:
    """A transformers model: the class its configuration names, without caches.

    Attention is exported in its plain form, which every target has operators for. Weights
    come from the folder's safetensors; ``--weights random`` builds from the configuration.

    Raises:
        MissingBackendError: transformers is not installed.
        InputError: there is no such model, or it cannot be read.
        UsageError: its inputs are not known: state them with ``--input``.
    """
    try:
        import transformers
    except ImportError as error:
        raise MissingBackendError(
            "transformers is not installed", str(error), 'pip install "edgekit-toolkit[hf]"'
        ) from error
    declare_vision_operators()
    refuse_resolution(text, options)
    place = text.removeprefix("hf:")
    config = _read_config(transformers, place)
    module, weights = _build(transformers, place, config, options)
    inputs = tuple(options.inputs) or _inputs(module, config, text)
    name = Path(place).name or place
    return LoadedModel(name, text, module.eval(), (GraphSpec(inputs=inputs),), weights)


def _read_config(transformers: Any, place: str) -> Any:
    if place.startswith((".", "/")) and not (Path(place) / "config.json").is_file():
        raise InputError(f"no model at {place}", "there is no config.json")
    try:
        config = transformers.AutoConfig.from_pretrained(
            place, local_files_only=Path(place).is_dir()
        )
    except Exception as error:
        raise InputError(f"cannot read the model {place}", str(error)) from error
    if hasattr(config, "use_cache"):
        config.use_cache = False  # a cache is a state; streaming graphs state theirs
    return config


def _build(transformers: Any, place: str, config: Any, options: SourceOptions) -> tuple[Any, str]:
    import torch

    kind = _class_of(transformers, config)
    arguments = {"config": config, "attn_implementation": "eager"}
    if options.weights == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            build = kind._from_config if hasattr(kind, "_from_config") else kind.from_config
            return build(config, attn_implementation="eager"), RANDOM
    if options.weights:
        raise UsageError("--weights does not apply to hf: models", "the folder has its weights")
    try:
        model = kind.from_pretrained(
            place,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=Path(place).is_dir(),
            **arguments,
        )
    except Exception as error:
        raise InputError(
            f"cannot load the weights of {place}",
            str(error),
            "give a folder with model.safetensors, or --weights random",
        ) from error
    return model, f"{Path(place).name} (safetensors)"


def _class_of(transformers: Any, config: Any) -> Any:
    names = config.architectures or []
    try:
        kind = getattr(transformers, names[0], None) if names else None
    except ImportError as error:
        raise MissingBackendError(
            f"transformers cannot import {names[0]}", str(error.__cause__ or error)
        ) from error
    return kind or transformers.AutoModel


def _inputs(module: Any, config: Any, text: str) -> tuple[InputSpec, ...]:
    main = getattr(module, "main_input_name", "")
    if main == "input_ids" and not getattr(config, "is_encoder_decoder", False):
        shape = (1, TEXT_LENGTH)
        return (
            InputSpec("input_ids", "int64", shape, high=config.vocab_size),
            InputSpec("attention_mask", "int64", shape, low=1, high=2),
        )
    if main == "pixel_values" and hasattr(config, "image_size"):
        size = config.image_size
        sides = tuple(size) if isinstance(size, list | tuple) else (size, size)
        return (InputSpec(main, "float32", (1, getattr(config, "num_channels", 3), *sides)),)
    if main == "input_values":
        return (InputSpec(main, "float32", (1, SAMPLES)),)
    raise UsageError(
        f"the inputs of {text} are not known",
        f"its main input is {main or 'not named'}",
        "edgekit export … --input NAME:DTYPE[SHAPE]",
    )
