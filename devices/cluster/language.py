"""What a language model of the Llama family is: its sizes, and the angles of its positions.

Llama 2 and 3 (arXiv:2307.09288, arXiv:2407.21783), Mistral, Qwen 2 and 3, Yi and SmolLM2 are one
architecture with few switches: grouped queries, biases on queries, keys and values (Qwen 2),
queries and keys normalised per head (Qwen 3), a sliding window (Mistral), a tied head, and how
positions beyond those of the training are scaled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edgekit.errors import InputError, UnsupportedError

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
_SCALINGS = ("default", "linear", "llama3")
_LIMIT = 1 << 24  # no size of a real model is larger; a damaged file's may be


@dataclass(frozen=True)
class Language:
    """The sizes and switches of one model.

    Attributes:
        inverse_frequencies: Of the rotary embedding, (head_size / 2,), scaling included.
        window: How many positions a query sees, its own included; None: all.
        stop: The ids that end an answer.
    """

    family: str
    layers: int
    hidden: int
    feed_forward: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    epsilon: float
    positions: int
    inverse_frequencies: tuple[float, ...]
    tied: bool = False
    qkv_bias: bool = False
    qk_norm: bool = False
    window: int | None = None
    start: int | None = None
    stop: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        sizes = ("layers", "hidden", "feed_forward", "heads", "kv_heads", "head_size", "vocabulary")
        for name in sizes:
            value = getattr(self, name)
            if not isinstance(value, int) or not 0 < value < _LIMIT:
                raise InputError(f"the model's {name} cannot be {value!r}")
        if self.heads % self.kv_heads:
            raise InputError(
                f"{self.heads} query heads do not share {self.kv_heads} key-value heads evenly"
            )
        if self.head_size % 2 or len(self.inverse_frequencies) != self.head_size // 2:
            raise InputError(f"heads of {self.head_size} do not fit the rotary embedding")

    @property
    def group(self) -> int:
        """Query heads that share one key-value head."""
        return self.heads // self.kv_heads

    @property
    def parameters(self) -> int:
        """Weights of the matrices, a tied head counted once."""
        attention = 2 * self.hidden * self.head_size * (self.heads + self.kv_heads)
        layer = attention + 3 * self.hidden * self.feed_forward
        return self.layers * layer + self.vocabulary * self.hidden * (1 if self.tied else 2)

    def document(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        return asdict(self)


def from_document(document: Mapping[str, Any]) -> Language:
    """The inverse of :meth:`Language.document`.

    Raises:
        InputError: a field is missing, unknown or out of range.
    """
    try:
        fields = dict(document)
        fields["inverse_frequencies"] = tuple(map(float, fields["inverse_frequencies"]))
        fields["stop"] = tuple(map(int, fields["stop"]))
        return Language(**fields)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError("the description of a model is damaged", str(error)) from error


def from_config(config: Mapping[str, Any], generation: Mapping[str, Any] | None = None) -> Language:
    """A model as its ``config.json`` describes it, in transformers' older or newer spelling.

    Args:
        config: ``config.json``.
        generation: ``generation_config.json``, whose stop ids go before the configuration's.

    Raises:
        InputError: a size is missing or damaged.
        UnsupportedError: another architecture, or a way of scaling positions that is not known.
    """
    family = config.get("model_type")
    if family not in FAMILIES:
        raise UnsupportedError(
            f"a cluster does not run models of type {family!r}", f"it runs {', '.join(FAMILIES)}"
        )
    for name in ("mlp_bias", "attention_bias"):
        if config.get(name):
            raise UnsupportedError(f"a cluster runs no {family} model with {name}")
    try:
        return _from_config(family, config, generation or {})
    except (KeyError, TypeError, ValueError) as error:
        raise InputError("the model's config.json is damaged", repr(error)) from error


def _from_config(family: str, config: Mapping[str, Any], generation: Mapping[str, Any]) -> Language:
    heads = config["num_attention_heads"]
    head_size = config.get("head_dim") or config["hidden_size"] // heads
    windowed = config.get("use_sliding_window", family == "mistral")
    stop = generation.get("eos_token_id", config.get("eos_token_id"))
    return Language(
        family=family,
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        feed_forward=config["intermediate_size"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_size=head_size,
        vocabulary=config["vocab_size"],
        epsilon=float(config.get("rms_norm_eps", 1e-6)),
        positions=config.get("max_position_embeddings", 2048),
        inverse_frequencies=rotary(head_size, *_rotary_settings(config)),
        tied=bool(config.get("tie_word_embeddings", False)),
        qkv_bias=family == "qwen2",
        qk_norm=family == "qwen3",
        window=_window(family, config) if windowed else None,
        start=config.get("bos_token_id"),
        stop=tuple(stop) if isinstance(stop, list) else () if stop is None else (stop,),
    )


def _window(family: str, config: Mapping[str, Any]) -> int | None:
    kinds = set(config.get("layer_types") or ())
    if len(kinds) > 1:
        raise UnsupportedError(f"a cluster runs no {family} model whose layers differ", str(kinds))
    if kinds == {"full_attention"}:
        return None
    if not kinds and config.get("max_window_layers", 0):
        raise UnsupportedError(f"a cluster runs no {family} model whose layers differ")
    return config.get("sliding_window")


def _rotary_settings(config: Mapping[str, Any]) -> tuple[float, Mapping[str, Any]]:
    newer = config.get("rope_parameters") or {}
    scaling = config.get("rope_scaling") or newer
    theta = newer.get("rope_theta", config.get("rope_theta", 10000.0))
    return float(theta), scaling


def rotary(size: int, theta: float, scaling: Mapping[str, Any] | None = None) -> tuple[float, ...]:
    """Inverse frequencies of the rotary embedding (arXiv:2104.09864), (size / 2,).

    Args:
        size: of a head.
        theta: the base.
        scaling: ``rope_type`` ``linear`` (all divided by ``factor``), ``llama3`` (low frequencies
            divided, high ones kept, those between blended) or none.

    Raises:
        UnsupportedError: another way of scaling.

    >>> rotary(4, 100.0)
    (1.0, 0.1)
    """
    scaling = scaling or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind not in _SCALINGS:
        raise UnsupportedError(f"a cluster does not scale positions by {kind!r}")
    inverse = 1.0 / theta ** (np.arange(0, size, 2, dtype=np.float64) / size)
    if kind == "linear":
        inverse = inverse / float(scaling["factor"])
    elif kind == "llama3":
        inverse = _as_llama3(inverse, scaling)
    return tuple(float(value) for value in inverse)


def _as_llama3(inverse: np.ndarray, scaling: Mapping[str, Any]) -> np.ndarray:
    factor = float(scaling["factor"])
    low, high = float(scaling["low_freq_factor"]), float(scaling["high_freq_factor"])
    trained = float(scaling["original_max_position_embeddings"])
    turns = trained * inverse / (2 * math.pi)  # of each frequency over the trained positions
    blend = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return inverse * (blend + (1 - blend) / factor)
