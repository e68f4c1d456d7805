"""Residual vector quantisation: the latent to codes and back."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import MimiConfig

LEAST_USAGE = 1e-5


class Codebook(nn.Module):
    """Codes as the mean of what was assigned to them in training: a sum over a count.

    What follows from the two is kept as long as they do not change, so that PyTorch does not
    divide a megabyte for each frame; in a graph it is a constant.
    """

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.register_buffer("_initialized", torch.ones(1))
        self.register_buffer("cluster_usage", torch.ones(count))
        self.register_buffer("embedding_sum", torch.randn(count, width))
        self._kept: tuple[object, Tensor, Tensor] | None = None

    def table(self) -> tuple[Tensor, Tensor]:
        """The codes (count, width), and half their squared lengths (count,)."""
        if torch.compiler.is_exporting():
            return self._compute()
        parts = (self.embedding_sum, self.cluster_usage)
        now = tuple((part.data_ptr(), part._version, part.dtype) for part in parts)
        if self._kept is None or self._kept[0] != now:
            self._kept = (now, *self._compute())
        return self._kept[1:]

    def _compute(self) -> tuple[Tensor, Tensor]:
        codes = self.embedding_sum / self.cluster_usage.clamp(min=LEAST_USAGE)[:, None]
        return codes, codes.square().sum(-1) / 2

    def forward(self, x: Tensor) -> Tensor:
        """(1, steps, width) to (1, steps): the nearest code by Euclidean distance.

        |x - c|² is |x|² - 2 (x·c - |c|² / 2), so it is least where the bracket is largest.
        """
        codes, lengths = self.table()
        return (F.linear(x, codes) - lengths).argmax(-1)

    def lookup(self, indices: Tensor) -> Tensor:
        """(1, steps) to (1, steps, width)."""
        return F.embedding(indices, self.table()[0])


class _VectorQuantiser(nn.Module):
    def __init__(self, config: MimiConfig) -> None:
        super().__init__()
        self._codebook = Codebook(config.code_count, config.code_width)


class _Residual(nn.Module):
    def __init__(self, config: MimiConfig, count: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_VectorQuantiser(config) for _ in range(count))


class ResidualQuantiser(nn.Module):
    """Codebooks, each for what the ones before it left.

    Args:
        count: of the checkpoint; used: of the first of them.
    """

    def __init__(self, config: MimiConfig, count: int, used: int) -> None:
        super().__init__()
        self.vq = _Residual(config, count)
        self.input_proj = nn.Conv1d(config.latent, config.code_width, 1, bias=False)
        self.output_proj = nn.Conv1d(config.code_width, config.latent, 1, bias=False)
        self._used = used

    def _codebooks(self) -> list[Codebook]:
        return [layer._codebook for layer in self.vq.layers[: self._used]]

    def encode(self, x: Tensor) -> list[Tensor]:
        """(1, latent, steps) to codes (1, steps) of each codebook."""
        left = self.input_proj(x).transpose(1, 2)
        found = []
        for codebook in self._codebooks():
            found.append(codebook(left))
            left = left - codebook.lookup(found[-1])
        return found

    def decode(self, codes: list[Tensor]) -> Tensor:
        """The inverse, as far as there is one."""
        pairs = zip(self._codebooks(), codes, strict=True)
        total = sum(codebook.lookup(indices) for codebook, indices in pairs)
        return self.output_proj(total.transpose(1, 2))


class SplitQuantiser(nn.Module):
    """One semantic codebook and the acoustic ones, which all start from the same latent."""

    def __init__(self, config: MimiConfig) -> None:
        super().__init__()
        self.rvq_first = ResidualQuantiser(config, 1, 1)
        acoustic = config.trained_codebooks - 1
        self.rvq_rest = ResidualQuantiser(config, acoustic, config.codebooks - 1)

    def encode(self, x: Tensor) -> Tensor:
        """(1, latent, steps) to codes (1, codebooks, steps) int32."""
        codes = [*self.rvq_first.encode(x), *self.rvq_rest.encode(x)]
        return torch.stack(codes, 1).to(torch.int32)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (1, codebooks, steps) to (1, latent, steps)."""
        each = [codes[:, i] for i in range(codes.shape[1])]
        return self.rvq_first.decode(each[:1]) + self.rvq_rest.decode(each[1:])
