"""Training PhysioSER on features that are computed once, and judging it speaker by speaker.

What the network's fixed parts make of a recording (the quartet, the statistics of the speech
network's layers) does not change while it learns, so they are given here; see
:mod:`.emotion_speech` for where they come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from edgekit.errors import InputError

from ..physioser.network import PhysioSER
from .emotion_guide import Guide
from .training import learning_rate, seed_of

_LEAST_DEVIATION: Final = 1e-3


@dataclass(frozen=True)
class SpeechSet:
    """Windows of recordings, each in several variants (the first is the recording itself).

    Attributes:
        quartets: (windows, variants, 4, bands, frames), not standardised.
        statistics: (windows, variants, size), likewise; None without a speech network.
        classes: (windows,) indices. speakers, utterances: of each window, by name.
    """

    quartets: Tensor
    statistics: Tensor | None
    classes: Tensor
    speakers: tuple[str, ...]
    utterances: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.classes)

    def of(self, speakers: Sequence[str]) -> Tensor:
        """Indices of the windows of these speakers."""
        return torch.tensor([i for i, one in enumerate(self.speakers) if one in speakers])


@dataclass(frozen=True)
class EmotionHyperparameters:
    """What is chosen about a run, beside the network and the data; all **decisions** of ours.

    Attributes:
        epochs, batch, peak_rate, warm_up, weight_decay, smoothing, clip: as for pictures.
        mixup: both parameters of the beta distribution (arXiv:1710.09412).
        shift: frames that a window is rolled by at most. time_masks, band_masks: how many
            (arXiv:1904.08779), each of up to ``longest`` frames or ``widest`` bands.
        gain: deviation of the log-energy's offset, in its own deviations.
        branches: weight of each branch's own cross-entropy. contrast: of the contrastive loss,
            at ``temperature``. guidance: of what a vocal branch alone tells of the speech
            network (see :mod:`.emotion_guide`).
    """

    epochs: int = 200
    batch: int = 32
    peak_rate: float = 3e-3
    warm_up: float = 0.1
    weight_decay: float = 0.05
    smoothing: float = 0.1
    clip: float = 2.0
    mixup: float = 0.3
    shift: int = 30
    time_masks: int = 2
    longest: int = 30
    band_masks: int = 2
    widest: int = 10
    gain: float = 0.3
    branches: float = 0.5
    contrast: float = 0.1
    temperature: float = 0.1
    guidance: float = 1.0
    seed: int = 0


class Fitting:
    """A network that learns from some windows.

    What happens in an epoch follows from the seed and the epoch's number alone, so that a run
    that was interrupted goes on as if nothing had happened (with the same number of threads).

    Attributes:
        epoch: how many are done.
        learner: all that learns: the network, and what only guides it.
    """

    def __init__(
        self,
        network: PhysioSER,
        data: SpeechSet,
        chosen: EmotionHyperparameters,
        indices: Tensor,
    ) -> None:
        if len(indices) < 2:
            raise InputError(f"{len(indices)} windows are too few to learn from")
        self.network, self.data, self.chosen, self.indices = network, data, chosen, indices
        self.epoch = 0
        measure(network, data, indices)
        self._guide = self._make_guide()
        self.learner = nn.ModuleList([network] if self._guide is None else [network, self._guide])
        self._batch = min(chosen.batch, len(indices))
        self._learnt = [one for one in self.learner.parameters() if one.requires_grad]
        self.optimizer = torch.optim.AdamW(self._learnt, weight_decay=chosen.weight_decay)
        counts = torch.bincount(data.classes[indices], minlength=network.config.classes)
        balance = counts.clamp(min=1).float().rsqrt()
        self._balance = balance / balance.mean()

    def _make_guide(self) -> Guide | None:
        vocal = self.network.config.vocal
        # A network with both branches has the contrast between them, and was no better guided, too.
        alone = vocal is not None and self.network.latent is None
        if not alone or self.data.statistics is None or not self.chosen.guidance:
            return None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(self.chosen.seed, 0, 1))
            return Guide(2 * vocal.widths[-1], self.data.statistics[self.indices, 0])

    @property
    def done(self) -> bool:
        """Whether all epochs are over."""
        return self.epoch >= self.chosen.epochs

    def run_epoch(self) -> float:
        """One pass over the windows: the mean loss."""
        steps = len(self.indices) // self._batch
        total = 0.0
        self.network.train()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(self.chosen.seed, self.epoch, 0))
            order = self.indices[torch.randperm(len(self.indices))]
            for step, part in enumerate(order[: steps * self._batch].split(self._batch)):
                rate = learning_rate(
                    self.epoch * steps + step, self.chosen.epochs * steps, self.chosen
                )
                total += self._step(part, rate)
        self.epoch += 1
        self.network.eval()
        return total / steps

    def _step(self, part: Tensor, rate: float) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = self._loss(part)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self._learnt, self.chosen.clip)
        self.optimizer.step()
        return float(loss.detach())

    def _loss(self, part: Tensor) -> Tensor:
        network, chosen = self.network, self.chosen
        variants = torch.randint(0, self.data.quartets.shape[1], (len(part),))
        mix = Mix.draw(len(part), chosen.mixup)
        heard = hear(network, self.data, part, variants, mix, chosen)
        classes = self.data.classes[part]

        def judged(logits: Tensor) -> Tensor:
            each = [
                cross_entropy(logits, wanted, self._balance, label_smoothing=chosen.smoothing)
                for wanted in (classes, classes[mix.other])
            ]
            return mix.share * each[0] + (1 - mix.share) * each[1]

        found = heard.embeddings
        loss = judged(network.classify(found))
        if len(found) == 2:
            loss = loss + chosen.branches * sum(judged(network.classify([one])) for one in found)
            loss = loss + chosen.contrast * contrastive(*found, chosen.temperature)
        if self._guide is not None:
            statistics = mix.of(self.data.statistics[part, variants])
            loss = loss + chosen.guidance * self._guide(heard.summary, statistics)
        return loss


def measure(network: PhysioSER, data: SpeechSet, indices: Tensor) -> None:
    """Put what the features are standardised by into the network."""
    if network.config.vocal is not None:
        whole = data.quartets[indices, 0].float()
        network.quartet.mean.copy_(whole.mean(dim=(0, 3))[..., None])
        deviation = whole.std(dim=(0, 3)).clamp(min=_LEAST_DEVIATION)
        network.quartet.deviation.copy_(deviation[..., None])
    if network.latent is not None:
        whole = data.statistics[indices, 0]
        network.latent.mean.copy_(whole.mean(0))
        network.latent.deviation.copy_(whole.std(0).clamp(min=_LEAST_DEVIATION))


@torch.no_grad()
def predict(network: PhysioSER, data: SpeechSet, indices: Tensor) -> Tensor:
    """Probabilities (windows, classes) of the recordings themselves."""
    found = []
    for part in indices.split(64):
        zero = torch.zeros(len(part), dtype=torch.long)
        found.append(network.classify(hear(network, data, part, zero).embeddings).softmax(-1))
    return torch.cat(found)


def contrastive(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Symmetric InfoNCE of two views (batch, width) of the same utterances (arXiv:2103.00020)."""
    alike = normalize(first) @ normalize(second).T / temperature
    own = torch.arange(len(alike))
    return (cross_entropy(alike, own) + cross_entropy(alike.T, own)) / 2


@dataclass(frozen=True)
class Mix:
    """Windows mixed in pairs: each takes ``share`` of itself, the rest of the ``other`` one."""

    other: Tensor
    share: Tensor

    @classmethod
    def draw(cls, count: int, alpha: float) -> Mix:
        """At random, ``share`` from a beta distribution with ``alpha`` twice."""
        other = torch.randperm(count)
        return cls(other, torch.distributions.Beta(alpha, alpha).sample())

    def of(self, values: Tensor) -> Tensor:
        """Values (batch, ...), mixed."""
        return self.share * values + (1 - self.share) * values[self.other]


@dataclass(frozen=True)
class Heard:
    """What the branches make of some windows.

    Attributes:
        embeddings: (batch, embedding) of each branch. summary: of the vocal one, see
            :meth:`~..physioser.vocal.VocalEncoder.summary`; None without it.
    """

    embeddings: list[Tensor]
    summary: Tensor | None


def hear(
    network: PhysioSER,
    data: SpeechSet,
    part: Tensor,
    variants: Tensor,
    mix: Mix | None = None,
    varied: EmotionHyperparameters | None = None,
) -> Heard:
    """What each branch makes of some windows; in training varied, and mixed in pairs."""
    mixed = mix.of if mix is not None else lambda values: values
    embeddings, summary = [], None
    if network.config.vocal is not None:
        front = network.quartet
        x = (data.quartets[part, variants].float() - front.mean) / front.deviation
        x = x.clamp(-8, 8) if varied is None else vary(x.clamp(-8, 8), varied)
        # Four times as fast in halves where the processor has them (AMX); fp32 to judge by.
        quick = varied is not None and torch.cpu._is_avx512_bf16_supported()
        with torch.autocast("cpu", torch.bfloat16, enabled=quick):
            x = (mixed(x) * network.gates).contiguous(memory_format=torch.channels_last)
            summary = network.vocal.summary(x)
        summary = summary.float()
        embeddings.append(network.vocal.embed(summary))
    if network.latent is not None:
        embeddings.append(network.latent.embed(mixed(data.statistics[part, variants])))
    return Heard(embeddings, summary)


def vary(quartets: Tensor, chosen: EmotionHyperparameters) -> Tensor:
    """Standardised quartets (batch, 4, bands, frames): moved, made louder, masked with zeros."""
    count, _, bands, frames = quartets.shape
    if chosen.shift:
        by = torch.randint(-chosen.shift, chosen.shift + 1, (count, 1))
        moved = ((torch.arange(frames) + by) % frames)[:, None, None]
        quartets = quartets.gather(3, moved.expand_as(quartets))
    offset = torch.zeros(count, 4, 1, 1)
    offset[:, 0] = chosen.gain * torch.randn(count, 1, 1)
    quartets = quartets + offset
    hidden = torch.zeros(count, 1, bands, frames, dtype=torch.bool)
    for _ in range(chosen.time_masks):
        hidden |= _stretch(count, frames, chosen.longest)[:, None, None, :]
    for _ in range(chosen.band_masks):
        hidden |= _stretch(count, bands, chosen.widest)[:, None, :, None]
    return quartets.masked_fill(hidden, 0.0)


def _stretch(count: int, length: int, longest: int) -> Tensor:
    """(count, length): in each row one stretch of random length and place."""
    size = torch.randint(0, min(longest, length) + 1, (count, 1))
    start = (torch.rand(count, 1) * (length - size + 1)).long()
    place = torch.arange(length)[None]
    return (place >= start) & (place < start + size)
