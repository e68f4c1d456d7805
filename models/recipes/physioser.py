"""PhysioSER from a folder of acted emotion: a checkpoint, or how good such checkpoints are.

``python -m edgekit.models.recipes.physioser FOLDER -o physioser.safetensors`` learns from all
recordings. With ``--evaluate REPORT/`` it learns once for each speaker, from all the others, and
is judged by the one who was left out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from edgekit.errors import EdgekitError, InputError, UsageError
from edgekit.paths import cache_dir

from ..checkpoint_info import CheckpointInfo, SpeechInfo, info_metadata
from ..physioser.config import EMOTIONS, PhysioSERConfig
from ..physioser.network import PhysioSER
from .emotion_report import describe, write_report
from .emotion_speech import Speech, find_recordings, open_speech, prepare
from .emotion_training import EmotionHyperparameters, Fitting, SpeechSet, predict
from .training_state import load_state, restore_state, save_state, state_of, write_tensors

#: What may be left out of the network, to see what it is worth: the branches that are left, and
#: the components that the vocal branch gets.
VARIANTS: Final[dict[str, dict[str, Any]]] = {
    "full": {},
    "vocal": {"speech": None},
    "amplitude": {"speech": None, "components": ("M", "rho")},
    "phase": {"speech": None, "components": ("f_inst", "tau_g")},
    "backbone": {"vocal": None},
    "full-amplitude": {"components": ("M", "rho")},
    "full-phase": {"components": ("f_inst", "tau_g")},
}
_MODELS: Final = {"full": "physioser", "vocal": "physioser-vocal"}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: its exit code."""
    options = _parser().parse_args(arguments)
    try:
        _check(options)
        torch.set_num_threads(options.threads)
        recordings = find_recordings(options.folder)
        guided = not options.unguided
        needed = guided or _has_latent(options.variant)
        speech = open_speech(options.speech) if needed else None
        data = prepare(recordings, speech, options.cache, _say)
        chosen = EmotionHyperparameters(
            epochs=options.epochs, seed=options.seed, guidance=float(guided)
        )
        if options.evaluate is not None:
            evaluate(data, speech, options.variant, chosen, options.evaluate)
        if options.out is not None:
            train(data, speech, options.variant, chosen, options.out)
    except EdgekitError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def make(variant: str, speech: Speech | None, seed: int) -> PhysioSER:
    """A network of this variant, with seeded weights where it learns."""
    config = replace(PhysioSERConfig(), **VARIANTS[variant])
    speech = speech if _has_latent(variant) else None
    if speech is not None:
        config = replace(config, speech=speech.kind)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return PhysioSER(config, speech.network if speech else None).eval()


def _has_latent(variant: str) -> bool:
    return VARIANTS[variant].get("speech", "whisper") is not None


def train(
    data: SpeechSet, speech: Speech | None, variant: str, chosen: EmotionHyperparameters, out: Path
) -> PhysioSER:
    """Learn from all windows and write the checkpoint; an interrupted run goes on.

    Raises:
        UsageError: nothing can be written there.
        InputError: what an interrupted run left behind is of another run.
    """
    network = make(variant, speech, chosen.seed)
    fitting = Fitting(network, data, chosen, torch.arange(len(data)))
    state = out.with_suffix(".training.safetensors")
    said = {"chosen": asdict(chosen), "variant": variant, "data": _digest(data)}
    if state.is_file():
        tensors, values = load_state(state)
        if {key: values.get(key) for key in said} != said:
            raise InputError(
                f"{state} is of another run", "its data or settings differ", "remove that file"
            )
        restore_state(fitting.learner, fitting.optimizer, tensors)
        fitting.epoch = values["epoch"]
        _say(f"going on after epoch {fitting.epoch}")
    started = time.monotonic()
    while not fitting.done:
        loss = fitting.run_epoch()
        _say(f"epoch {fitting.epoch} of {chosen.epochs}: loss {loss:.3f}")
        if fitting.epoch % 10 == 0 and not fitting.done:
            kept = state_of(fitting.learner, fitting.optimizer)
            save_state(state, kept, {**said, "epoch": fitting.epoch})
    speech = speech if _has_latent(variant) else None
    info = CheckpointInfo(
        model=_MODELS[variant],
        head="speech-emotion",
        classes=len(EMOTIONS),
        labels=EMOTIONS,
        speech=SpeechInfo(kind=speech.kind, settings=speech.settings) if speech else None,
        origin=speech.origin if speech else None,
    )
    write_tensors(out, network.state_dict(), info_metadata(info))
    state.unlink(missing_ok=True)
    print(f"checkpoint: {out} ({(time.monotonic() - started) / 60:.1f} min)")
    print(f"next: edgekit export {info.model} --weights {out}")
    return network


def evaluate(
    data: SpeechSet,
    speech: Speech | None,
    variant: str,
    chosen: EmotionHyperparameters,
    folder: Path,
) -> dict[str, Any]:
    """Leave one speaker out, in turn; what was found for a speaker is kept and not made again.

    Raises:
        InputError: there is one speaker only. UsageError: nothing can be written there.
    """
    speakers = sorted(set(data.speakers))
    if len(speakers) < 2:
        raise InputError("there is one speaker", "one is left out, and others are learnt from")
    chances = torch.zeros(len(data), len(EMOTIONS))
    key = hashlib.sha256(f"{_digest(data)}{variant}{asdict(chosen)}".encode()).hexdigest()[:16]
    for speaker in speakers:
        left_out = data.of([speaker])
        kept = folder / "folds" / f"{variant}-{key}-{speaker}.safetensors"
        if kept.is_file():
            found = load_state(kept)[0]["chances"]
        else:
            network = make(variant, speech, chosen.seed)
            rest = data.of([one for one in speakers if one != speaker])
            fitting = Fitting(network, data, chosen, rest)
            while not fitting.done:
                fitting.run_epoch()
            found = predict(network, data, left_out)
            save_state(kept, {"chances": found}, {"speaker": speaker})
        chances[left_out] = found
        right = (found.argmax(1) == data.classes[left_out]).float().mean()
        _say(f"{variant}: {speaker} left out, {100 * float(right):.1f} % of its windows right")
    report = write_report(folder, variant, data, chances.numpy())
    print(describe(report))
    return report


def _digest(data: SpeechSet) -> str:
    whole = hashlib.sha256(json.dumps([data.utterances, data.classes.tolist()]).encode())
    whole.update(data.quartets[:, 0].float().mean(dim=(2, 3)).numpy().astype(np.float32).tobytes())
    return whole.hexdigest()[:16]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m edgekit.models.recipes.physioser",
        description="Train PhysioSER on a folder of acted emotion, or judge it by speakers.",
    )
    add = parser.add_argument
    add("folder", type=Path, help="recordings named as EmoDB's are: SSTTTEv.wav or .flac")
    add("-o", "--out", type=Path, help="the checkpoint, a .safetensors file")
    add("--evaluate", type=Path, metavar="FOLDER", help="leave one speaker out, report here")
    add("--variant", choices=VARIANTS, default="full", help="what the network has (full)")
    add("--speech", type=Path, help="another speech network: a folder of Hugging Face's")
    add(
        "--unguided",
        action="store_true",
        help="a vocal branch alone does not learn from the speech network, and needs none",
    )
    add("--epochs", type=int, default=EmotionHyperparameters().epochs)
    add("--seed", type=int, default=0)
    add("--threads", type=int, default=2, help="of PyTorch (2)")
    add("--cache", type=Path, default=cache_dir() / "speech", help="where features are kept")
    return parser


def _check(options: argparse.Namespace) -> None:
    if options.out is None and options.evaluate is None:
        raise UsageError("nothing to do", "", "give -o CHECKPOINT.safetensors or --evaluate FOLDER")
    if options.out is not None and options.out.suffix != ".safetensors":
        raise UsageError(f"{options.out} is no .safetensors file", "", "name it so")
    if options.out is not None and options.variant not in _MODELS:
        raise UsageError(
            f"{options.variant} is for comparing", f"deployed are {', '.join(_MODELS)}"
        )
    for name in ("epochs", "threads"):
        if getattr(options, name) < 1:
            raise UsageError(f"--{name} {getattr(options, name)} is not above 0")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
