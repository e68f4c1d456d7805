"""The whole network: two embeddings of an utterance, brought together and weighed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .config import COMPONENTS, PhysioSERConfig
from .front_end import VocalQuartet
from .latent import LatentBranch
from .vocal import VocalEncoder


class AttentionFusion(nn.Module):
    """Weighs the branches' embeddings by one learned query, for each utterance anew.

    (batch, branches, width) to (batch, width). **Decision**: the embeddings are aligned by the
    contrastive loss, so their weighted mean means something, and one classifier reads all three.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.key = nn.Linear(width, width)
        self.query = nn.Linear(width, 1, bias=False)
        nn.init.zeros_(self.query.weight)  # at first both weigh the same

    def forward(self, embeddings: Tensor) -> Tensor:
        tokens = self.norm(embeddings)
        scores = self.query(self.key(tokens)) / math.sqrt(tokens.shape[-1])
        return (scores.softmax(dim=1) * tokens).sum(dim=1)


class PhysioSER(nn.Module):
    """Waveform (batch, samples) at 16 kHz to probabilities (batch, classes).

    Args:
        config: what it is made of. speech: the frozen speech network, see :mod:`.speech`; None
            for the vocal branch alone.

    Raises:
        ValueError: it would have no branch.
    """

    def __init__(self, config: PhysioSERConfig, speech: nn.Module | None = None) -> None:
        super().__init__()
        if config.vocal is None and speech is None:
            raise ValueError("a network without a branch hears nothing")
        self.config = config
        if config.vocal is not None:
            self.quartet = VocalQuartet(config.vocal.front_end)
            self.vocal = VocalEncoder(config.vocal, config.embedding)
            gates = torch.tensor([float(name in config.components) for name in COMPONENTS])
            self.register_buffer("gates", gates[:, None, None], persistent=False)
        self.latent = None if speech is None else LatentBranch(config, speech)
        self.fusion = AttentionFusion(config.embedding)
        self.classifier = nn.Linear(config.embedding, config.classes)

    #: Never quantised: spectra span more decades than 8 bits have.
    floating_modules = ("quartet", "latent.speech.log_mel")

    @property
    def integer_scheme(self) -> str | None:
        """How to quantise it where nobody says: a speech network's activations have outliers, and
        the latent branch measures small differences of them, so its weights alone."""
        return None if self.latent is None else "weights"

    def forward(self, waveform: Tensor) -> Tensor:
        """Probabilities (batch, classes)."""
        levelled = level(waveform)
        found = []
        if self.config.vocal is not None:
            found.append(self.vocal(self.quartet(levelled) * self.gates))
        if self.latent is not None:
            found.append(self.latent(levelled))
        return self.classify(found).softmax(-1)

    def explain(self, waveform: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Probabilities, the quartet, and the probabilities without each of its components.

        Args:
            waveform: (1, samples).

        Returns:
            (1, classes); (1, 4, bands, frames); (4, classes), row by row with one component
            set to its mean.
        """
        levelled = level(waveform)
        quartet = self.quartet(levelled) * self.gates
        shut = torch.cat([torch.ones(1, 4), 1 - torch.eye(4)])[:, :, None, None]
        found = [self.vocal(quartet * shut)]
        if self.latent is not None:
            found.append(self.latent(levelled).expand(5, -1))
        chances = self.classify(found).softmax(-1)
        return chances[:1], quartet, chances[1:]

    def classify(self, embeddings: Sequence[Tensor]) -> Tensor:
        """Logits (batch, classes) of the branches' embeddings, each (batch, width)."""
        return self.classifier(self.fusion(torch.stack(list(embeddings), dim=1)))


def level(waveform: Tensor) -> Tensor:
    """The waveform at its own full scale: how far a microphone was away says nothing.

    **Decision**. What is quieter than 1e-3 is left as quiet as it is, relatively.
    """
    peak = waveform.abs().amax(dim=-1, keepdim=True)
    return waveform / torch.clamp(peak, min=1e-3)
