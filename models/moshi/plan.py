"""What a stream costs a memory: bytes that are kept, and bytes that each frame reads.

One frame reads every weight once, but of an embedding one row, and the whole ring of keys and
values; nothing is read twice within a frame, so no cache of a processor helps. Arithmetic is
hardly the limit: 7 G multiply-accumulates a frame are a hundredth of what reading 7 G weights
takes. Nothing here needs torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from edgekit.errors import UsageError

from .config import CODECS, LANGUAGES, LanguageConfig, MimiConfig, TransformerConfig

FLOATING: Final = {"fp32": 32.0, "bf16": 16.0}
#: Bits of a scale, and over how many weights it is shared, of each integer format.
SCALE_BITS: Final = {"onnx": 32, "openvino": 16, "executorch": 16, "coreml": 16, "tensorrt": 16}
GROUP: Final = {"int8": 128, "int4": 32}
PRECISIONS: Final = ("fp32", "bf16", "int8", "int4")
CACHES: Final = {"fp32": 4, "bf16": 2, "fp16": 2}


@dataclass(frozen=True)
class Cost:
    """Bytes.

    Attributes:
        weights: read in a frame. cache: keys and values, read in a frame as a whole.
        resident: all that is kept: weights, embeddings, keys and values.
    """

    weights: float
    cache: float
    resident: float

    @property
    def frame(self) -> float:
        """Read in a frame."""
        return self.weights + self.cache

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.weights + other.weights,
            self.cache + other.cache,
            self.resident + other.resident,
        )


def weight_bits(precision: str, target: str | None = None) -> float:
    """Bits that a weight of a linear layer takes, its share of a scale included.

    Args:
        target: whose integer format; None: a scale of 16 bits per 32 weights with 4 bits, and
            nothing beside the weights with 8, as tables of this kind are usually made.

    Raises:
        UsageError: there is no such precision.
    """
    if precision in FLOATING:
        return FLOATING[precision]
    if precision not in GROUP:
        raise UsageError(f"no precision {precision!r}", f"there is {', '.join(PRECISIONS)}")
    bits = float(precision.removeprefix("int"))
    if target is None:
        return bits + (16 / GROUP["int4"] if precision == "int4" else 0.0)
    return bits + SCALE_BITS[target] / GROUP[precision]


def temporal_weights(config: LanguageConfig) -> int:
    """Weights of the temporal transformer's linear layers, its head included."""
    temporal = config.temporal
    return temporal.layers * layer_weights(temporal) + temporal.width * config.text_cards


def depth_weights(config: LanguageConfig) -> int:
    """Weights that the depth transformer reads in a frame: of every step its own."""
    depth = config.depth
    step = config.temporal.width * depth.width + depth.layers * layer_weights(depth)
    return config.generated * (step + depth.width * config.audio_cards)


def layer_weights(config: TransformerConfig) -> int:
    """Weights of one layer: attention's four matrices, and two or three of the rest."""
    matrices = 3 if config.gated else 2
    return 4 * config.width**2 + matrices * config.width * config.hidden


def embeddings(config: LanguageConfig) -> int:
    """Weights of all embeddings, of which a frame reads a row each."""
    depth = config.low_rank or config.depth.width
    audio = config.streams * config.temporal.width + (config.generated - 1) * depth
    text = config.temporal.width + depth
    return audio * (config.audio_cards + 1) + text * (config.text_cards + 1)


def ring_bytes(config: TransformerConfig, cache: str, context: int | None = None) -> int:
    """Keys and values of all layers over ``context`` steps."""
    steps = config.context if context is None else context
    return 2 * config.layers * config.width * steps * CACHES[cache]


def language_cost(
    config: LanguageConfig,
    precision: str,
    target: str | None = None,
    cache: str = "fp32",
    context: int | None = None,
) -> Cost:
    """Of the language model's two graphs.

    Args:
        precision: of its weights. target: whose format (see :func:`weight_bits`).
        cache: of keys and values. context: how many steps of the ring; None: all.
    """
    each = weight_bits(precision, target) / 8
    read = (temporal_weights(config) + depth_weights(config)) * each
    ring = float(ring_bytes(config.temporal, cache, context))
    return Cost(read, ring, read + embeddings(config) * each + ring)


def codec_cost(config: MimiConfig, parameters: int) -> Cost:
    """Of the codec's two graphs in fp32; the decoder reads one row of each codebook.

    Args:
        parameters: of the network, without codebooks.
    """
    tables = config.codebooks * config.code_count * config.code_width
    ring = float(2 * ring_bytes(config.transformer, "fp32"))
    read = 4.0 * (parameters + tables)
    return Cost(read, ring, read + ring)


def plan(
    name: str,
    precision: str,
    parameters: dict[str, int],
    target: str | None = None,
    cache: str = "fp32",
    context: int | None = None,
) -> tuple[Cost, Cost]:
    """The cost of a model of the registry: of its language model, and of its codec.

    Args:
        parameters: of the codecs in the registry, by name.

    Raises:
        UsageError: it is no streaming speech model, or has no such context.
    """
    nothing = Cost(0.0, 0.0, 0.0)
    if name in CODECS:
        return nothing, codec_cost(CODECS[name], parameters[name])
    if name not in LANGUAGES:
        raise UsageError(
            f"there is no plan for {name}",
            "what a frame reads is known of streaming speech models only",
            f"edgekit plan {next(iter(LANGUAGES))}",
        )
    language, codec = LANGUAGES[name]
    most = language.temporal.context
    if context is not None and not 1 <= context <= most:
        raise UsageError(f"no context of {context} steps", f"{name} looks back 1 to {most}")
    own = next((key for key, config in CODECS.items() if config is codec), None)
    below = codec_cost(codec, parameters[own]) if codec and own else nothing
    return language_cost(language, precision, target, cache, context), below
