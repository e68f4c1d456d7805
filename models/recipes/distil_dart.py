"""Teach a small backbone to see as SAM 3's does, so that the rest of the detector can stay.

Run: ``python -m edgekit.models.recipes.distil_dart --pictures FOLDER -o student.safetensors``.

The teacher's backbone and neck are frozen; the student (any backbone of timm with feature maps,
a CPUBone or a LowFormer, with an adapter a level) is trained to give the teacher's feature
pyramid. No labels are needed: any pictures do. The text tower and the detection part are the
teacher's own and are written with the student, so that ``edgekit export MODEL --weights
student.safetensors`` is all that is left to do.

After the DART project's README: mean squared error a level, the coarsest weighted most, AdamW
with a cosine schedule. The loss is given as the share of the teacher's variance that is missed: 1
is what a student that always gives the mean reaches.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from edgekit.errors import EdgekitError, InputError, UsageError

from ...runtimes.tasks import pictures
from ...runtimes.tasks.inputs import expand
from ..checkpoint_info import CheckpointInfo, info_metadata
from ..dart import Dart
from ..dart_graphs import KIND, TOKENIZER
from ..dart_student import make_student
from ..loading import load
from .training_state import write_tensors

# Of the levels at 4, 2 and 1 times the token grid; only the last takes part in detection.
WEIGHTS: Final = {True: (0.15, 0.20, 0.65), False: (0.0, 0.0, 1.0)}
_HELD_BACK: Final = 4  # every fourth picture is not trained on
_LEAST_CROP: Final = 0.4  # of a picture's sides
_MOST_PIXELS: Final = 1 << 20  # of a picture in memory; larger ones are shrunk
_GRADIENT: Final = 1.0  # norm at which gradients are clipped


@dataclass(frozen=True)
class Hyperparameters:
    """How the student is trained.

    Attributes:
        steps: of the optimiser. batch: pictures a step. rate: the highest learning rate, which
            falls to a hundredth of it. decay: of the weights.
    """

    steps: int = 1000
    batch: int = 4
    rate: float = 1e-3
    decay: float = 0.01


@dataclass(frozen=True)
class Outcome:
    """Missed shares of the teacher's variance on pictures that were not trained on."""

    before: float
    after: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, measure and write; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        distil(options)
    except EdgekitError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def distil(options: argparse.Namespace) -> Outcome:
    """The whole run.

    Raises:
        UsageError: no such model or backbone, or too few pictures.
        InputError: a picture or the teacher's checkpoint cannot be read.
    """
    torch.set_num_threads(options.threads)
    teacher = load(options.model, options.weights)
    if not isinstance(teacher.module, Dart) or teacher.module.student is not None:
        raise UsageError(f"{options.model} is no teacher", "", "give sam3 or sam3-tiny")
    training, held_back = read_pictures(options.pictures)
    torch.manual_seed(options.seed)
    dart: Dart = teacher.module
    student = make_student(options.student, dart.size, options.pretrained)
    chosen = Hyperparameters(options.steps, options.batch, options.rate, options.decay)
    run = Distillation(dart, student, chosen, options.seed)
    before = run.missed(held_back)
    print(
        f"{options.student} learns from {options.model} ({teacher.weights}) on {len(training)} "
        f"pictures; on {len(held_back)} others it misses {before:.3f} of the variance"
    )
    for step, loss in run.train(training):
        if step % max(chosen.steps // 10, 1) == 0:
            print(f"step {step}/{chosen.steps}: loss {loss:.4f}", flush=True)
    after = run.missed(held_back)
    print(f"on the {len(held_back)} pictures that were held back it misses {after:.3f}")
    write_student(options, dart, student, teacher.weights)
    vocabulary = options.out.with_name("tokenizer.json")
    vocabulary.write_bytes(teacher.assets[TOKENIZER])
    print(f"checkpoint: {options.out}, with its vocabulary beside it")
    print(f"next: edgekit export {options.model} --weights {options.out}")
    return Outcome(before, after)


class Distillation:
    """A student that learns what a teacher sees.

    Args:
        teacher: frozen. student: what is trained. chosen: how. seed: of crops.
    """

    def __init__(
        self, teacher: Dart, student: torch.nn.Module, chosen: Hyperparameters, seed: int = 0
    ) -> None:
        self.teacher, self.student, self.chosen = teacher.eval(), student, chosen
        self._random = np.random.default_rng(seed)
        weights = WEIGHTS[teacher.with_masks]
        self._levels = [level for level, weight in enumerate(weights) if weight]
        self._weights = [weight for weight in weights if weight]

    def train(self, training: Sequence[Image.Image]) -> Iterator[tuple[int, float]]:
        """Step after step: its number from 1 on, and its loss."""
        chosen = self.chosen
        optimiser = torch.optim.AdamW(
            self.student.parameters(), lr=chosen.rate, weight_decay=chosen.decay
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
            optimiser, chosen.steps, eta_min=chosen.rate / 100
        )
        self.student.train()
        for step in range(1, chosen.steps + 1):
            places = self._random.integers(0, len(training), chosen.batch)
            batch = torch.cat([self._crop(training[place]) for place in places])
            loss = self._loss(batch)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.student.parameters(), _GRADIENT)
            optimiser.step()
            schedule.step()
            yield step, float(loss.detach())
        self.student.eval()

    @torch.no_grad()
    def missed(self, held_back: Sequence[Image.Image]) -> float:
        """The share of the teacher's variance that the student misses, whole pictures seen."""
        self.student.eval()
        losses = [float(self._loss(self._tensor(picture))) for picture in held_back]
        return math.fsum(losses) / len(losses)

    def _loss(self, batch: Tensor) -> Tensor:
        with torch.no_grad():
            theirs = [self._look(picture) for picture in batch.split(1)]
        mine = self.student(batch, self._levels)
        total = batch.new_zeros(())
        for place, weight in enumerate(self._weights):
            wanted = torch.cat([maps[place] for maps in theirs])
            total = total + weight * (mine[place] - wanted).square().mean() / wanted.var()
        return total

    def _look(self, picture: Tensor) -> list[Tensor]:
        return self.teacher.pyramid(picture, self._levels)

    def _crop(self, picture: Image.Image) -> Tensor:
        """A part of a picture, stretched to the input's size, every second one mirrored."""
        share = self._random.uniform(_LEAST_CROP, 1, 2)
        size = np.maximum((np.array(picture.size) * share).astype(int), 1)
        left, top = self._random.integers(0, np.array(picture.size) - size + 1)
        part = picture.crop((left, top, left + size[0], top + size[1]))
        tensor = self._tensor(part)
        return tensor.flip(3) if self._random.random() < 0.5 else tensor

    def _tensor(self, picture: Image.Image) -> Tensor:
        return picture_tensor(picture, self.teacher.size.image)


def picture_tensor(picture: Image.Image, size: tuple[int, int]) -> Tensor:
    """A picture as the deployed task hands it to the network: (1, 3, *size), from -1 to 1."""
    pixels = np.asarray(pictures.resize(picture, size, "bilinear"))
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1


def read_pictures(folder: Path) -> tuple[list[Image.Image], list[Image.Image]]:
    """Pictures to train on, and every fourth to measure on.

    Raises:
        UsageError: there are fewer than two.
        InputError: one cannot be decoded.
    """
    found = []
    for path in expand([folder], pictures.SUFFIXES):
        picture = pictures.decode(path)
        if (much := picture.width * picture.height / _MOST_PIXELS) > 1:
            picture = picture.resize([round(side / much**0.5) for side in picture.size])
        found.append(picture)
    if len(found) < 2:
        raise UsageError(f"one picture in {folder} is not enough", "one is held back to measure")
    held_back = found[::_HELD_BACK]
    return [one for place, one in enumerate(found) if place % _HELD_BACK], held_back


def write_student(
    options: argparse.Namespace, dart: Dart, student: torch.nn.Module, weights: str
) -> None:
    """The detector with the student in it, as ``edgekit export --weights`` reads it."""
    if options.out.suffix != ".safetensors":
        raise InputError(f"{options.out} is no safetensors file", "", "give -o NAME.safetensors")
    whole = Dart(dart.sam3, dart.size, dart.with_masks, student=student)
    info = CheckpointInfo(model=options.model, head=KIND, student=options.student, origin=weights)
    write_tensors(options.out, whole.state_dict(), info_metadata(info))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m edgekit.models.recipes.distil_dart",
        description="Teach a small backbone to see as SAM 3's does.",
    )
    add, defaults = parser.add_argument, Hyperparameters()
    add("--model", default="sam3-tiny", help="the teacher: sam3, sam3-masks, sam3-tiny, …")
    add("--weights", help="its checkpoint; without one it is random")
    add("--student", default="cpubone-nano", help="timm:NAME, cpubone-…, lowformer-…")
    add("--pretrained", action="store_true", help="begin with timm's own weights")
    add("--pictures", type=Path, required=True, help="a folder; labels are not needed")
    add("-o", "--out", type=Path, required=True, help="a .safetensors file")
    add("--steps", type=int, default=defaults.steps)
    add("--batch", type=int, default=defaults.batch)
    add("--rate", type=float, default=defaults.rate)
    add("--decay", type=float, default=defaults.decay)
    add("--threads", type=int, default=torch.get_num_threads())
    add("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    sys.exit(main())
