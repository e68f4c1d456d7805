"""Which state each graph carries from frame to frame: names, shapes, and how it is fed back.

All state begins as zeros. Nothing here needs torch: the registry lists it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from edgekit.manifest import StatePair

from ..spec import InputSpec
from .config import Cache, LanguageConfig, MimiConfig, TransformerConfig

POSITION = "position"  # steps so far
SLOT = "slot"  # where the ring is written next; position modulo its length, without a division
NEXT = "_next"  # of the output that becomes the input of that name
RING_AXIS = 2  # of (1, heads, slots, features)


@dataclass(frozen=True)
class State:
    """One tensor that a graph carries.

    Attributes:
        steps: for a ring, how many of its slots one frame writes; None: no ring.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    steps: int | None = None

    def input(self) -> InputSpec:
        """The graph's input; counters are small in examples, as at the beginning."""
        return InputSpec(self.name, self.dtype, self.shape, high=1)

    def pair(self, cache: Cache) -> StatePair:
        """How the session feeds it back."""
        if self.steps is None or cache == "ring":
            return StatePair(input=self.name, output=self.name + NEXT)
        return StatePair(
            input=self.name, output=self.name + NEXT, ring_axis=RING_AXIS, ring_slot=SLOT
        )


def _counters() -> tuple[State, State]:
    return State(POSITION, (1,), "int32"), State(SLOT, (1,), "int32")


def ring_names(prefix: str, layers: int) -> list[tuple[str, str]]:
    """Names of the keys and values of each layer."""
    return [(f"{prefix}_layers_{i}_k", f"{prefix}_layers_{i}_v") for i in range(layers)]


def _rings(prefix: str, config: TransformerConfig, steps: int) -> Iterator[State]:
    shape = (1, config.heads, config.context, config.head_width)
    for pair in ring_names(prefix, config.layers):
        yield from (State(name, shape, steps=steps) for name in pair)


def encoder_states(config: MimiConfig) -> tuple[State, ...]:
    """Of sound to codes: the end of each convolution's input, keys and values, counters."""
    found = [State("encoder_model_0_prev", (1, 1, config.kernel - 1))]
    width, number = config.filters, 1
    for ratio in reversed(config.ratios):
        found.append(_residual(f"encoder_model_{number}", width, config))
        found.append(State(f"encoder_model_{number + 2}_prev", (1, width, ratio)))
        width, number = 2 * width, number + 3
    found.append(State(f"encoder_model_{number + 1}_prev", (1, width, config.last_kernel - 1)))
    found += _rings("encoder_transformer_transformer", config.transformer, config.steps)
    found.append(State("downsample_prev", (1, config.latent, config.steps)))
    return (*found, *_counters())


def decoder_states(config: MimiConfig) -> tuple[State, ...]:
    """Of codes to sound; ``partial`` is what a transposed convolution owes the next frame."""
    found = [State("upsample_partial", (1, config.latent, config.steps))]
    found += _rings("decoder_transformer_transformer", config.transformer, config.steps)
    width, number = config.filters * 2 ** len(config.ratios), 2
    found.append(State("decoder_model_0_prev", (1, config.latent, config.kernel - 1)))
    for ratio in config.ratios:
        width //= 2
        found.append(State(f"decoder_model_{number}_partial", (1, width, ratio)))
        found.append(_residual(f"decoder_model_{number + 1}", width, config))
        number += 3
    found.append(State(f"decoder_model_{number}_prev", (1, width, config.last_kernel - 1)))
    return (*found, *_counters())


def _residual(name: str, width: int, config: MimiConfig) -> State:
    return State(f"{name}_block_1_prev", (1, width, config.residual_kernel - 1))


def temporal_states(config: LanguageConfig) -> tuple[State, ...]:
    """Of tokens to text: keys and values, counters."""
    return (*_rings("transformer", config.temporal, 1), *_counters())
