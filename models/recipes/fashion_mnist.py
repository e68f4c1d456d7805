"""Train a classifier of the registry on Fashion-MNIST, or on class folders of pictures.

Run: ``python -m edgekit.models.recipes.fashion_mnist --model cpubone-nano -o nano.safetensors``.

The data are Debian's ``dataset-fashion-mnist`` (Xiao, Rasul, Vollgraf, arXiv:1708.07747: 60,000
pictures of clothes to train on and 10,000 to test on, 28x28 in grey), any other idx files, or a
folder with ``train`` and ``test`` that hold a folder of pictures for each class. The test
pictures are looked at once in a run, when training is done.

The same seed, number of threads, machine and version of PyTorch give the same checkpoint; another
number of threads adds in another order, and after some epochs gives another one that is as good.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch

from edgekit.errors import EdgekitError, UsageError

from ...runtimes.labelled_pictures import TEST, TRAIN, LabelledPictures, open_labelled
from ..checkpoint_info import CheckpointInfo, PictureInfo, info_metadata
from ..heads import CLASSIFICATION
from ..loading import load
from .training import Hyperparameters, Trainer, settings
from .training_pictures import measure_normalisation, read_pictures
from .training_state import load_state, save_state, write_tensors

DATA: Final = Path("/usr/share/datasets/fashion-mnist")  # where Debian's package puts it
MINUTES: Final = 19.0  # by default
EPOCHS: Final = 18  # at most by default: more bring little
INTERRUPTED: Final = 130
_RESERVE: Final = 0.9  # share of --minutes that is planned: a machine is not always as fast


@dataclass(frozen=True)
class Run:
    """What a run is of; a state is taken up only by the same run.

    Attributes:
        model: a name of the registry. labels: of the classes. data: sha256 of the training
            list. pictures: how they become the input. chosen: the hyperparameters.
    """

    model: str
    labels: tuple[str, ...]
    data: str
    pictures: PictureInfo
    chosen: Hyperparameters

    def values(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "model": self.model,
            "labels": list(self.labels),
            "data": self.data,
            "pictures": self.pictures.model_dump(mode="json", exclude_none=True),
            "chosen": settings(self.chosen),
        }


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, test, and write the checkpoint; returns the exit code.

    Args:
        arguments: what follows the program's name; by default the process's own.
    """
    options = _parser().parse_args(arguments)
    try:
        train(options)
    except EdgekitError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("\ninterrupted; --resume goes on after the last whole epoch", file=sys.stderr)
        return INTERRUPTED
    return 0


def train(options: argparse.Namespace) -> float:
    """The whole run; returns the share of right answers on the test pictures.

    Raises:
        UsageError: no such model, or ``--resume`` finds the state of another run.
        InputError: the data cannot be read.
    """
    _check(options)
    if options.epochs is None and options.minutes is None:
        options.minutes = MINUTES
    torch.set_num_threads(options.threads)
    started = time.monotonic()
    trainer, run = _prepare(options)
    state = options.out.with_suffix(".training.safetensors")
    if options.resume and state.is_file():
        trainer, run = _resumed(trainer, run, state, options)
    elif options.minutes is not None:
        trainer, run = _within(trainer, run, options.minutes, options.epochs or EPOCHS)
    _announce(trainer, run, options)
    _epochs(trainer, run, state)
    _write(options.out, trainer, run)
    state.unlink(missing_ok=True)
    minutes = (time.monotonic() - started) / 60
    test = _read(_open(options, TEST, run.labels), run.pictures, "Reading the test pictures")
    share = trainer.accuracy(test)
    print(f"test accuracy: {100 * share:.2f} % of {len(test):,} pictures, after {minutes:.1f} min")
    print(f"checkpoint: {options.out}")
    print(f"next: edgekit export {run.model} --weights {options.out} --eval {options.data}")
    return share


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m edgekit.models.recipes.fashion_mnist",
        description="Train a classifier of the registry on labelled pictures.",
    )
    add = parser.add_argument
    defaults = Hyperparameters()
    add("--model", default="cpubone-nano", help="a name of `edgekit models`")
    add("--data", type=Path, default=DATA, help="idx files, or train/ and test/ of class folders")
    add("-o", "--out", type=Path, required=True, help="the checkpoint, a .safetensors file")
    add(
        "--epochs",
        type=int,
        help=f"passes over the data; with --minutes, at most ({EPOCHS})",
    )
    add("--minutes", type=float, help=f"as many epochs as fit ({MINUTES:g}, without --epochs)")
    add("--resolution", type=int, default=32, help="height and width in pixels (32)")
    add("--batch", type=int, default=defaults.batch, help=f"pictures a step ({defaults.batch})")
    add(
        "--rate",
        type=float,
        default=defaults.peak_rate,
        help=f"learning rate at its highest ({defaults.peak_rate})",
    )
    add("--no-flip", dest="flip", action="store_false", help="do not mirror pictures (digits)")
    add("--seed", type=int, default=0, help="of order, variation and dropout (0)")
    add("--threads", type=int, default=2, help="of PyTorch (2)")
    add("--resume", action="store_true", help="go on where an interrupted run ended")
    return parser


def _check(options: argparse.Namespace) -> None:
    if options.out.suffix != ".safetensors":
        raise UsageError(f"{options.out} is no .safetensors file", "", "name it so")
    for name in ("epochs", "minutes", "resolution", "batch", "threads", "rate"):
        value = getattr(options, name)
        if value is not None and not value > 0:
            raise UsageError(f"--{name} {value} is not above 0")
    if options.seed < 0:
        raise UsageError(f"--seed {options.seed} is below 0")


def _prepare(options: argparse.Namespace) -> tuple[Trainer, Run]:
    """The network and its training pictures, before the first epoch."""
    pictures = _open(options, TRAIN)
    model = load(options.model, "random", head=CLASSIFICATION, classes=len(pictures.labels))
    plan = PictureInfo(
        resolution=options.resolution,
        resize=options.resolution,
        crop=True,
        interpolation="bilinear",
        scale=1 / 255,
        channels="RGB",
    )
    data = _read(pictures, plan, "Reading the training pictures")
    found = measure_normalisation(data)
    chosen = Hyperparameters(
        epochs=options.epochs or EPOCHS,
        batch=options.batch,
        peak_rate=options.rate,
        flip=options.flip,
        seed=options.seed,
    )
    plan = plan.model_copy(update={"mean": found.mean, "std": found.std})
    run = Run(options.model, pictures.labels, pictures.sha256, plan, chosen)
    return Trainer(model.module, data, found, chosen), run


def _open(
    options: argparse.Namespace, split: str, labels: Sequence[str] | None = None
) -> LabelledPictures:
    pictures = open_labelled(options.data, labels, split)
    if pictures.split != split:
        raise UsageError(
            f"{options.data} has no pictures set apart for testing",
            "what a network was trained on says nothing of how good it is",
            "give a folder with the folders train and test in it",
        )
    return pictures


def _read(pictures: LabelledPictures, plan: PictureInfo, text: str) -> Any:
    params = plan.model_dump(exclude_none=True)
    with _progress(text, len(pictures)) as advance:
        return read_pictures(pictures, params, lambda: advance(""))


def _resumed(
    trainer: Trainer, run: Run, state: Path, options: argparse.Namespace
) -> tuple[Trainer, Run]:
    """The run that a state was kept of, if it is this one."""
    tensors, values = load_state(state)
    kept = values.get("run", {})
    # How many epochs fitted into --minutes was found out when the run began.
    if options.epochs is None or options.minutes is not None:
        epochs = kept.get("chosen", {}).get("epochs", run.chosen.epochs)
        run = replace(run, chosen=replace(run.chosen, epochs=int(epochs)))
    wanted = {**run.values(), "threads": torch.get_num_threads()}
    kept = {**kept, "threads": values.get("threads")}
    if differing := [key for key in wanted if wanted[key] != kept.get(key)]:
        raise UsageError(
            f"{state} is the state of another run",
            f"it differs in {', '.join(differing)}",
            "give the same options, or leave --resume out",
        )
    trainer.chosen = run.chosen
    trainer.restore(tensors, int(values["epoch"]))
    return trainer, run


def _within(trainer: Trainer, run: Run, minutes: float, most: int) -> tuple[Trainer, Run]:
    """The same run with as many epochs as fit into the time, up to ``most``."""
    fitting = max(1, trainer.epochs_in(60 * minutes * _RESERVE))
    epochs = min(fitting, most)
    chosen = replace(run.chosen, epochs=epochs)
    trainer.chosen = chosen
    print(f"{fitting} epochs fit into {minutes:g} minutes here; {epochs} are made")
    return trainer, replace(run, chosen=chosen)


def _announce(trainer: Trainer, run: Run, options: argparse.Namespace) -> None:
    parameters = sum(p.numel() for p in trainer.network.parameters())
    print(
        f"{run.model}: {parameters:,} parameters, {len(run.labels)} classes, "
        f"{len(trainer.data):,} pictures of {options.resolution}x{options.resolution}, "
        f"{trainer.steps_an_epoch} steps of {trainer.batch} an epoch"
    )
    if trainer.epoch:
        print(f"resumed after epoch {trainer.epoch} of {run.chosen.epochs}")


def _epochs(trainer: Trainer, run: Run, state: Path) -> None:
    """The epochs that are left, each followed by keeping the state."""
    total = run.chosen.epochs
    while trainer.epoch < total:
        text = f"Epoch {trainer.epoch + 1}/{total}"
        start = time.monotonic()
        left = (total - trainer.epoch) * trainer.steps_an_epoch
        with _progress(text, left, trainer.steps_an_epoch) as advance:
            loss, share = trainer.run_epoch(
                lambda loss, share, advance=advance: advance(f"loss {loss:.3f}, {share:.1%} right")
            )
        seconds = time.monotonic() - start
        print(
            f"{text}: loss {loss:.4f}, {share:.2%} right in training, {seconds:.0f} s", flush=True
        )
        values = {
            "run": run.values(),
            "epoch": trainer.epoch,
            "threads": torch.get_num_threads(),
        }
        save_state(state, trainer.state(), values)


def _write(out: Path, trainer: Trainer, run: Run) -> None:
    info = CheckpointInfo(
        model=run.model,
        head=CLASSIFICATION,
        classes=len(run.labels),
        labels=run.labels,
        task=run.pictures,
    )
    write_tensors(out, trainer.network.state_dict(), info_metadata(info))


@contextmanager
def _progress(text: str, total: int, shown: int | None = None) -> Iterator[Callable[[str], None]]:
    """A bar on a terminal with what is left of the whole; the function it gives advances it."""
    if not sys.stderr.isatty():
        yield lambda said: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[said]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(text, total=shown or total, said="")
        yield lambda said: bar.update(task, advance=1, said=said)


if __name__ == "__main__":
    sys.exit(main())
