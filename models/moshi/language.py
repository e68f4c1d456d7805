"""Moshi's language model: the temporal transformer, and the depth transformer in each frame."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .config import Cache, LanguageConfig
from .ring import HIDDEN, Carried, Window
from .states import temporal_states
from .transformer import Layer, StreamingTransformer, linears, norm, sinusoids


class TokenEmbedding(nn.Embedding):
    """An embedding in which a negative token is nothing: a row of zeros.

    Args:
        low_rank: width of the table, which a linear layer widens to ``width``; or None.
    """

    def __init__(self, count: int, width: int, low_rank: int | None = None) -> None:
        super().__init__(count, low_rank or width)
        if low_rank is not None:
            self.low_rank = nn.Linear(low_rank, width, bias=False)
        self._widens = low_rank is not None

    def forward(self, tokens: Tensor) -> Tensor:
        rows = super().forward(tokens.clamp(min=0))
        rows = torch.where((tokens >= 0)[..., None], rows, torch.zeros(1))
        return self.low_rank(rows) if self._widens else rows


class _DepthTransformer(nn.Module):
    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        depth, count = config.depth, max(config.depth_weights) + 1
        self.layers = nn.ModuleList(Layer(depth, count) for _ in range(depth.layers))


class LanguageModel(nn.Module):
    """Two graphs: :meth:`temporal` once a frame, then :meth:`depformer` for its own codes.

    Args:
        cache: how keys and values are given back (see :data:`.config.Cache`).
    """

    def __init__(self, config: LanguageConfig, cache: Cache = "slice") -> None:
        super().__init__()
        temporal, depth = config.temporal, config.depth
        weights, count = max(config.depth_weights) + 1, config.audio_cards + 1
        low = config.low_rank
        self.emb = _embeddings(config.streams, count, temporal.width)
        self.text_emb = TokenEmbedding(config.text_cards + 1, temporal.width)
        self.text_linear = nn.Linear(temporal.width, config.text_cards, bias=False)
        self.transformer = StreamingTransformer(temporal, "transformer")
        self.out_norm = norm(temporal)
        self.depformer_in = linears(weights, temporal.width, depth.width)
        self.depformer_emb = _embeddings(config.generated - 1, count, depth.width, low)
        self.depformer_text_emb = TokenEmbedding(config.text_cards + 1, depth.width, low)
        self.depformer = _DepthTransformer(config)
        self.linears = linears(config.generated, depth.width, config.audio_cards)
        self._config, self._cache = config, cache
        self._names = tuple(state.name for state in temporal_states(config))

    def temporal_step(self, tokens: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """One frame of all streams to what follows from it.

        Args:
            tokens: (1, 1 + streams, 1) int32: text, own codes, the user's; -1 is no token.
            state: as :func:`.states.temporal_states`.

        Returns:
            hidden (1, 1, width); text logits (1, 1, vocabulary); the state's successors.
        """
        config, carried = self._config.temporal, Carried(self._names, state)
        window = Window.of(carried, 1, config.context, self._cache)
        x = sum(table(tokens[:, 1 + stream]) for stream, table in enumerate(self.emb))
        x = x + self.text_emb(tokens[:, 0])
        hidden = self.out_norm(self.transformer(x, window, carried))
        return (hidden, self.text_linear(hidden), *carried.outputs())

    def depth_steps(
        self, hidden: Tensor, text_token: Tensor, noise: Tensor, top_k: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The own codes of one frame, one after the other, each sampled before the next.

        A code is where ``logits + noise`` is largest among the ``top_k`` largest logits. Noise
        of 0 is greedy; temperature times Gumbel noise is sampling at that temperature; noise
        that towers over all logits at one code dictates that code.

        Args:
            hidden: (1, 1, width) of :meth:`temporal_step`. text_token: (1, 1) int32.
            noise: (codebooks, codes). top_k: (1,) int32; 0 or less: all.

        Returns:
            codes (1, codebooks) int32; their logits (1, codebooks, codes).
        """
        past: list[list[tuple[Tensor, Tensor]]] = [[] for _ in self.depformer.layers]
        token, tokens, logits = text_token, [], []
        for step, which in enumerate(self._config.depth_weights):
            table = self.depformer_emb[step - 1] if step else self.depformer_text_emb
            x = self.depformer_in[which](hidden) + table(token)
            x = self._depth_step(x, step, which, past)
            logits.append(self.linears[step](x))
            token = _sample(logits[-1], noise[step], top_k)
            tokens.append(token)
        return torch.cat(tokens, 1), torch.cat(logits, 1)

    def _depth_step(
        self, x: Tensor, step: int, which: int, past: list[list[tuple[Tensor, Tensor]]]
    ) -> Tensor:
        config = self._config.depth
        if config.positions == "sin":
            here = torch.full((1,), float(step))
            x = x + sinusoids(here, config.width, config.max_period)
        for layer, seen in zip(self.depformer.layers, past, strict=True):
            q, k, v = layer.self_attn.project(layer.norm1(x), which)
            seen.append((k, v))
            keys, values = (torch.cat(parts, 2) for parts in zip(*seen, strict=True))
            scores = (q * config.head_width**-0.5) @ keys.transpose(-1, -2)
            x = layer.add_attention(x, scores.softmax(-1) @ values, which)
            x = layer.add_feed_forward(x, which)
        return x


def _embeddings(count: int, rows: int, width: int, low: int | None = None) -> nn.ModuleList:
    return nn.ModuleList(TokenEmbedding(rows, width, low) for _ in range(count))


def _sample(logits: Tensor, noise: Tensor, top_k: Tensor) -> Tensor:
    """(1, 1, codes) to (1, 1) int32."""
    count = logits.shape[-1]
    ranks = torch.arange(1, count + 1, dtype=torch.int32)
    # The k-th largest as a masked sum: a gather whose index is an input suits few runtimes.
    ranked = torch.topk(logits, count).values
    least = torch.where(ranks == top_k, ranked, torch.zeros(1)).sum(-1, keepdim=True)
    hidden = (logits < least) & (top_k > 0) & (top_k < count)
    lowered = torch.where(hidden, torch.full((1,), HIDDEN), torch.zeros(1))
    return (logits + noise + lowered).argmax(-1).to(torch.int32)
