"""The training loop of a classifier: AdamW, warm-up and cosine decay, smoothed labels.

What happens in an epoch follows from the seed and the number of the epoch alone, so that a run
that was interrupted after an epoch goes on as if nothing had happened. PyTorch's CPU kernels
add in an order that depends on the number of threads: the same result needs the same number
(and the same machine and version of PyTorch), and was then found to come out bit by bit.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from edgekit.errors import InputError

from .training_pictures import Normalisation, PictureSet, batches
from .training_state import restore_state, state_of

_EVALUATION_BATCH: Final = 256
_PROBE_STEPS: Final = 12  # how many steps are timed to tell how long an epoch takes

Advance = Callable[[float, float], None]


@dataclass(frozen=True)
class Hyperparameters:
    """What is chosen about a run, beside the network and the data.

    Attributes:
        epochs: passes over the data. batch: pictures a step.
        peak_rate: learning rate after warm-up; it then falls to zero along a cosine.
        warm_up: share of all steps in which the rate rises from zero.
        weight_decay: decoupled, of matrices and kernels only (AdamW, arXiv:1711.05101).
        smoothing: of labels (arXiv:1512.00567). clip: largest norm of the gradient.
        shift, flip: how pictures are varied, see :func:`.training_pictures.batches`.
        seed: of order, variation and dropout.
    """

    epochs: int = 12
    batch: int = 128
    peak_rate: float = 2e-3
    warm_up: float = 0.15
    weight_decay: float = 0.05
    smoothing: float = 0.05
    clip: float = 1.0
    shift: int = 1
    flip: bool = True
    seed: int = 0


class Rates(Protocol):
    """What a schedule of learning rates follows from."""

    peak_rate: float
    warm_up: float


class Trainer:
    """A network in training.

    Attributes:
        epoch: how many epochs are done.
    """

    def __init__(
        self,
        network: nn.Module,
        data: PictureSet,
        normalise: Normalisation,
        chosen: Hyperparameters,
    ) -> None:
        self.network, self.data, self.normalise, self.chosen = network, data, normalise, chosen
        self.epoch = 0
        # Batch norm on a map of one pixel has no variance within a single picture.
        if len(data) < 2:
            raise InputError(f"{len(data)} pictures are too few to train on")
        self.batch = min(chosen.batch, len(data))
        # Dense convolutions are trained in half the time so (measured), the others in the same.
        network.to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.AdamW(_groups(network, chosen.weight_decay), fused=True)

    @property
    def steps_an_epoch(self) -> int:
        """Batches in an epoch."""
        return len(self.data) // self.batch

    def run_epoch(self, advance: Advance = lambda loss, accuracy: None) -> tuple[float, float]:
        """Train for one epoch; the caller's random state is left alone.

        Args:
            advance: called after each step with the means so far.

        Returns:
            mean loss, and the share of right answers on the varied pictures, over the epoch.

        Raises:
            InputError: the loss is not finite any more.
        """
        self.network.train()
        step = self.epoch * self.steps_an_epoch
        seen, losses, right = 0, 0.0, 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(self.chosen.seed, self.epoch, 0))  # dropout
            order = torch.Generator().manual_seed(seed_of(self.chosen.seed, self.epoch, 1))
            chosen = self.chosen
            for pixels, classes in batches(self.data, self.batch, order, chosen.shift, chosen.flip):
                loss, correct = self._step(pixels, classes, step)
                step, seen = step + 1, seen + len(classes)
                losses, right = losses + loss * len(classes), right + correct
                advance(losses / seen, right / seen)
        self.epoch += 1
        return losses / seen, right / seen

    def epochs_in(self, seconds: float) -> int:
        """How many epochs fit into a time, by a few steps that are timed and thrown away."""
        twin = copy.deepcopy(self, {id(self.data): self.data})  # the pictures are not changed
        twin.network.train()
        with torch.random.fork_rng(devices=[]):
            order = torch.Generator().manual_seed(0)
            samples = list(zip(range(_PROBE_STEPS), self._probe(order), strict=False))
            times = []
            for step, (pixels, classes) in samples:
                start = time.perf_counter()
                twin._step(pixels, classes, step)
                times.append(time.perf_counter() - start)
        # The first steps choose kernels and fill caches.
        settled = sorted(times[len(times) // 3 :])
        return int(seconds / (settled[len(settled) // 2] * self.steps_an_epoch))

    def state(self) -> dict[str, Tensor]:
        """Everything that the next epoch depends on: tensors by name."""
        return state_of(self.network, self.optimizer)

    def restore(self, tensors: dict[str, Tensor], epoch: int) -> None:
        """Go on from where :meth:`state` was taken, after ``epoch`` epochs.

        Raises:
            InputError: the tensors are not those of this network.
        """
        restore_state(self.network, self.optimizer, tensors)
        self.epoch = epoch

    def accuracy(self, data: PictureSet, advance: Callable[[], None] = lambda: None) -> float:
        """The share of pictures whose class has the highest score, in eval mode."""
        self.network.eval()
        right = 0
        with torch.no_grad():
            for start in range(0, len(data), _EVALUATION_BATCH):
                part = slice(start, start + _EVALUATION_BATCH)
                right += int(
                    (self._scores(data.pixels[part]).argmax(1) == data.classes[part]).sum()
                )
                advance()
        return right / len(data)

    def _probe(self, order: torch.Generator) -> Any:
        return batches(self.data, self.batch, order, self.chosen.shift, self.chosen.flip)

    def _step(self, pixels: Tensor, classes: Tensor, step: int) -> tuple[float, int]:
        """One step of the optimiser: its loss, and how many answers were right."""
        rate = learning_rate(step, self.chosen.epochs * self.steps_an_epoch, self.chosen)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        scores = self._scores(pixels)
        loss = nn.functional.cross_entropy(scores, classes, label_smoothing=self.chosen.smoothing)
        value = loss.item()
        if not math.isfinite(value):
            raise InputError(
                f"the loss became {value} in epoch {self.epoch + 1}",
                f"the learning rate was {rate:.2g}",
                "choose a lower --rate",
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), self.chosen.clip)
        self.optimizer.step()
        return value, int((scores.detach().argmax(1) == classes).sum())

    def _scores(self, pixels: Tensor) -> Tensor:
        return self.network(self.normalise(pixels).contiguous(memory_format=torch.channels_last))


def learning_rate(step: int, steps: int, chosen: Rates) -> float:
    """The rate of one step: it rises linearly, then falls to zero along a cosine."""
    rising = max(1, round(chosen.warm_up * steps))
    if step < rising:
        return chosen.peak_rate * (step + 1) / rising
    done = (step - rising) / max(1, steps - rising)
    return chosen.peak_rate * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def settings(chosen: Hyperparameters) -> dict[str, Any]:
    """The choices as plain values, to be written beside a state."""
    return asdict(chosen)


def _groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    parameters = list(network.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def seed_of(seed: int, epoch: int, use: int) -> int:
    """A seed of its own for each epoch and use, none near another's."""
    return int(np.random.SeedSequence((seed, epoch, use)).generate_state(1, np.uint64)[0] >> 1)
