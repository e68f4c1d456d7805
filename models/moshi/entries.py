"""What the registry has of Mimi and Moshi; nothing here needs torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from edgekit.manifest import TaskInfo

from ..spec import GraphSpec, InputSpec, ModelSpec
from .config import (
    MIMI,
    MIMI_TINY,
    MOSHI_7B,
    MOSHI_TESTLM,
    MOSHI_TINY,
    Cache,
    LanguageConfig,
    MimiConfig,
)
from .states import NEXT, State, decoder_states, encoder_states, temporal_states

ENCODE, DECODE, TEMPORAL, DEPTH = "encode", "decode", "temporal", "depformer"
CODEC_KIND, DIALOGUE_KIND = "speech-codec", "speech-dialogue"


def _graph(
    name: str,
    method: str,
    fed: InputSpec,
    given: Sequence[str],
    states: Sequence[State],
    cache: Cache,
    answer: str | None = None,
    exact: bool = False,
) -> GraphSpec:
    """A graph that takes one tensor and its state."""
    return GraphSpec(
        name,
        inputs=(fed, *(state.input() for state in states)),
        outputs=(*given, *(state.name + NEXT for state in states)),
        method=method,
        states=tuple(state.pair(cache) for state in states),
        answer=answer,
        exact=exact,
    )


def codec_graphs(config: MimiConfig, cache: Cache = "slice") -> tuple[GraphSpec, GraphSpec]:
    """Sound to codes, and codes to sound."""
    pcm = InputSpec("pcm", "float32", (1, 1, config.frame))
    codes = InputSpec("codes", "int32", (1, config.codebooks, 1), high=config.code_count)
    heard = ("codes", "latent")
    return (
        _graph(ENCODE, "encode", pcm, heard, encoder_states(config), cache, exact=True),
        _graph(DECODE, "decode", codes, ("pcm",), decoder_states(config), cache),
    )


def language_graphs(config: LanguageConfig, cache: Cache = "slice") -> tuple[GraphSpec, GraphSpec]:
    """Tokens to what follows, and that to the own codes of a frame."""
    every = min(config.audio_cards, config.text_cards)  # what text and codes both have
    tokens = InputSpec("tokens", "int32", (1, 1 + config.streams, 1), high=every)
    temporal = _graph(
        TEMPORAL,
        "temporal_step",
        tokens,
        ("hidden", "text_logits"),
        temporal_states(config),
        cache,
        answer="text_logits",
    )
    depth = GraphSpec(
        DEPTH,
        inputs=(
            InputSpec("hidden", "float32", (1, 1, config.temporal.width)),
            InputSpec("text_token", "int32", (1, 1), high=config.text_cards),
            InputSpec("noise", "float32", (config.generated, config.audio_cards)),
            InputSpec("top_k", "int32", (1,), high=1),
        ),
        outputs=("audio_tokens", "audio_logits"),
        method="depth_steps",
        answer="audio_logits",
    )
    return temporal, depth


def codec_params(config: MimiConfig) -> dict[str, Any]:
    """The task's parameters of a codec (see edgekit.runtimes.tasks.speech_codec)."""
    return {
        "graph": ENCODE,
        "input": "pcm",
        "decoder": DECODE,
        "rate": config.rate,
        "frame": config.frame,
        "codebooks": config.codebooks,
        "codes": config.code_count,
    }


def dialogue_params(config: LanguageConfig, codec: MimiConfig | None) -> dict[str, Any]:
    """The task's parameters of a dialogue (see edgekit.runtimes.tasks.speech_dialogue)."""
    return {
        "graph": ENCODE if codec else TEMPORAL,
        "input": "pcm" if codec else "tokens",
        "temporal": TEMPORAL,
        "depth": DEPTH,
        "codec": codec_params(codec) if codec else None,
        "generated": config.generated,
        "audio_cards": config.audio_cards,
        "text_cards": config.text_cards,
        "width": config.temporal.width,
        "delays": list(config.delays),
        "text_padding": config.text_padding,
        "text_end_padding": config.text_end_padding,
    }


_PAPER = "Moshi, 2024, arXiv:2410.00037"
# Of the weights that Kyutai publishes; the networks are written anew here.
_LICENCE = "CC-BY-4.0 (weights)"
_READER = "edgekit.models.moshi.checkpoint"


def _codec(name: str, config: MimiConfig, parameters: int, macs: int) -> ModelSpec:
    return ModelSpec(
        name=name,
        builder="edgekit.models.moshi.build:build_codec",
        builder_args=(name,),
        graphs=codec_graphs(config),
        task=TaskInfo(kind=CODEC_KIND, params=codec_params(config)),
        parameters=parameters,
        macs=macs,
        paper=_PAPER,
        licence=_LICENCE,
        heads=(CODEC_KIND,),
        reader=f"{_READER}:read_mimi",
    )


def _language(
    name: str, config: LanguageConfig, codec: MimiConfig | None, parameters: int, macs: int
) -> ModelSpec:
    return ModelSpec(
        name=name,
        builder="edgekit.models.moshi.build:build",
        builder_args=(name,),
        graphs=(*(codec_graphs(codec) if codec else ()), *language_graphs(config)),
        task=TaskInfo(kind=DIALOGUE_KIND, params=dialogue_params(config, codec)),
        parameters=parameters,
        macs=macs,
        paper=_PAPER,
        licence=_LICENCE,
        heads=(DIALOGUE_KIND,),
        reader=f"{_READER}:read_moshi",
    )


ENTRIES: Final = (
    _codec("mimi", MIMI, 79_308_609, 440_975_360),
    _codec("mimi-tiny", MIMI_TINY, 147_125, 1_437_696),
    _language("moshi-7b", MOSHI_7B, MIMI, 7_767_037_761, 8_602_746_880),
    _language("moshi-tiny", MOSHI_TINY, MIMI_TINY, 628_917, 1_839_232),
    _language("moshi-testlm", MOSHI_TESTLM, None, 15_864, 16_256),
)
