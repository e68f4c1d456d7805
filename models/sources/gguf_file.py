"""``PATH.gguf``: a language model in llama.cpp's file format, its weights dequantised once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from edgekit.errors import InputError, MissingBackendError, UnsupportedError
from edgekit.quiet import quiet

from ..spec import GraphSpec, InputSpec, LoadedModel
from . import SourceOptions, refuse_resolution, refuse_weights
from .vision_operators import declare_vision_operators

if TYPE_CHECKING:
    from torch import nn

MAGIC = b"GGUF"
BATCH = (1, 8)
EXAMPLE = (2, 16)  # sequences and tokens that a graph is traced with
LONGEST = 2048  # tokens, where the model itself takes more


def load_gguf(text: str, options: SourceOptions) -> LoadedModel:
    """The causal language model in a GGUF file, in fp32, without a cache.

    transformers makes the network that the file's metadata describe. Weights that are stored
    in blocks of few bits become the fp32 numbers that they stand for: these, not those of the
    checkpoint that the file was made from, are the reference that artifacts are held against.

    Inputs are ``input_ids`` and ``attention_mask``, int64 of shape (sequences, tokens), both
    axes dynamic; the output is ``logits`` (sequences, tokens, vocabulary).

    Raises:
        MissingBackendError: transformers or gguf is not installed.
        InputError: there is no such file, it is damaged, or tensors are missing.
        UnsupportedError: transformers does not know its architecture.
    """
    refuse_weights(text, options)
    refuse_resolution(text, options)
    path = Path(text)
    _check_file(path)
    transformers = _library()
    with quiet(stderr=True):
        config = _read_config(transformers, path)
        module = _with_weights(transformers, path, config)
    inputs = tuple(options.inputs)
    graph = GraphSpec(inputs=inputs) if inputs else _graph(config)
    return LoadedModel(path.stem, text, module.eval(), (graph,), f"{path.name} (GGUF)")


def _check_file(path: Path) -> None:
    try:
        with open(path, "rb") as stream:
            start = stream.read(len(MAGIC))
    except OSError as error:
        raise InputError(f"cannot read {path}", error.strerror or str(error)) from error
    if start != MAGIC:
        raise InputError(f"{path} is no GGUF file", f"it starts with {start!r}")


def _library() -> Any:
    try:
        import gguf  # noqa: F401
        import transformers
    except ImportError as error:
        raise MissingBackendError(
            "what reads GGUF files is not installed",
            str(error),
            'pip install "edgekit-toolkit[gguf]"',
        ) from error
    declare_vision_operators()  # transformers imports torchvision where it is
    return transformers


def _read_config(transformers: Any, path: Path) -> Any:
    try:
        config = transformers.AutoConfig.from_pretrained(
            str(path.parent), gguf_file=path.name, local_files_only=True
        )
    except Exception as error:
        if "not supported yet" in str(error):
            raise UnsupportedError(f"cannot make the model in {path}", str(error)) from error
        raise InputError(f"cannot read the model in {path}", str(error)) from error
    config.use_cache = False  # a cache is a state; streaming graphs state theirs
    return config


def _with_weights(transformers: Any, path: Path, config: Any) -> nn.Module:
    """The network with the file's tensors in it.

    transformers' own ``from_pretrained`` would do both, but asks for a further package.
    """
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    try:
        with torch.random.fork_rng(devices=[]):
            module = transformers.AutoModelForCausalLM.from_config(
                config, dtype=torch.float32, attn_implementation="eager"
            )
    except ValueError as error:
        raise UnsupportedError(
            f"{path} is no language model that transformers makes", str(error)
        ) from error
    try:
        found = load_gguf_checkpoint(
            str(path), return_tensors=True, model_to_load=module, torch_dtype=torch.float32
        )
        state = found["tensors"]
        absent, unknown = module.load_state_dict(state, strict=False, assign=True)
    except Exception as error:
        raise InputError(f"cannot read the weights in {path}", str(error)) from error
    module.tie_weights()
    tied = {name for name in absent if _is_tied(module, name, state)}
    if left := sorted(set(absent) - tied):
        raise InputError(
            f"{path} lacks {len(left)} of the network's tensors", f"the first is {left[0]}"
        )
    if unknown:
        raise InputError(f"{path} has tensors of another network", f"the first is {unknown[0]}")
    return module


def _is_tied(module: nn.Module, name: str, state: dict[str, torch.Tensor]) -> bool:
    """Whether a tensor that the file lacks is another one that it has."""
    everything = dict(module.named_parameters(remove_duplicate=False))
    own = everything.get(name)
    return own is not None and any(everything.get(other) is own for other in state)


def _graph(config: Any) -> GraphSpec:
    most = min(LONGEST, getattr(config, "max_position_embeddings", LONGEST))
    axes = {0: BATCH, 1: (1, most)}
    return GraphSpec(
        inputs=(
            InputSpec("input_ids", "int64", EXAMPLE, high=config.vocab_size),
            InputSpec("attention_mask", "int64", EXAMPLE, low=1, high=2),
        ),
        outputs=("logits",),
        dynamic={"input_ids": axes, "attention_mask": axes},
    )
