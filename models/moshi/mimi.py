"""Mimi: 80 ms of sound to eight codes, and back."""

from __future__ import annotations

from torch import Tensor, nn

from .config import Cache, MimiConfig, TransformerConfig
from .convolutions import SEANetDecoder, SEANetEncoder, StreamingConv, StreamingConvTranspose
from .quantiser import SplitQuantiser
from .ring import Carried, Window
from .states import decoder_states, encoder_states
from .transformer import StreamingTransformer


class _Projected(nn.Module):
    """A transformer between (1, channels, steps) tensors; no projection is needed in Mimi."""

    def __init__(self, config: TransformerConfig, name: str) -> None:
        super().__init__()
        self.transformer = StreamingTransformer(config, f"{name}_transformer")

    def forward(self, x: Tensor, window: Window, carried: Carried) -> Tensor:
        return self.transformer(x.transpose(1, 2), window, carried).transpose(1, 2)


class _Downsample(nn.Module):
    def __init__(self, config: MimiConfig) -> None:
        super().__init__()
        width, stride = config.latent, config.steps
        self.conv = StreamingConv(
            width, width, 2 * stride, stride, state="downsample_prev", bias=False, replicate=True
        )


class _Upsample(nn.Module):
    def __init__(self, config: MimiConfig) -> None:
        super().__init__()
        width, stride = config.latent, config.steps
        self.convtr = StreamingConvTranspose(
            width, width, stride, state="upsample_partial", bias=False, depthwise=True
        )


class Mimi(nn.Module):
    """The codec's two directions, each a function of one frame and its state.

    Args:
        cache: how keys and values are given back (see :data:`.config.Cache`).
    """

    def __init__(self, config: MimiConfig, cache: Cache = "slice") -> None:
        super().__init__()
        self.encoder, self.decoder = SEANetEncoder(config), SEANetDecoder(config)
        self.encoder_transformer = _Projected(config.transformer, "encoder_transformer")
        self.decoder_transformer = _Projected(config.transformer, "decoder_transformer")
        self.quantizer = SplitQuantiser(config)
        self.downsample, self.upsample = _Downsample(config), _Upsample(config)
        self._config, self._cache = config, cache
        self._encoder_names = tuple(state.name for state in encoder_states(config))
        self._decoder_names = tuple(state.name for state in decoder_states(config))

    def encode(self, pcm: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """One frame of sound to its codes.

        Args:
            pcm: (1, 1, 1920) at 24 kHz, in [-1, 1]. state: as :func:`.states.encoder_states`.

        Returns:
            codes (1, codebooks, 1) int32; the latent (1, channels, 1) that they stand for; the
            state's successors.
        """
        carried = Carried(self._encoder_names, state)
        window = self._window(carried)
        x = self.encoder(pcm, carried)
        x = self.encoder_transformer(x, window, carried)
        latent = self.downsample.conv(x, carried)
        return (self.quantizer.encode(latent), latent, *carried.outputs())

    def decode(self, codes: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """One frame's codes to sound.

        Args:
            codes: (1, codebooks, 1) int32. state: as :func:`.states.decoder_states`.

        Returns:
            sound (1, 1, 1920); the state's successors.
        """
        carried = Carried(self._decoder_names, state)
        window = self._window(carried)
        x = self.upsample.convtr(self.quantizer.decode(codes), carried)
        x = self.decoder_transformer(x, window, carried)
        return (self.decoder(x, carried), *carried.outputs())

    def _window(self, carried: Carried) -> Window:
        return Window.of(carried, self._config.steps, self._config.transformer.context, self._cache)
