"""Official checkpoints of Mimi and Moshi: both key forms, one file or a folder of them.

A released folder has the language model and the codec in files of their own. In the language
model's file the weights of attention are packed: those of all steps in one tensor, one after the
other, under the names that PyTorch's own attention has. Older files of the codec name the parts of
a codebook as another library did.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from torch import Tensor

from edgekit.errors import InputError

from ..weights import load_checkpoint

_PACKED: Final = re.compile(r"(.*\.self_attn)\.(?:(in)_proj_weight|(out)_proj\.weight)")
_OLD_CODEBOOK: Final = {
    "inited": "_initialized",
    "cluster_size": "cluster_usage",
    "embed_sum": "embedding_sum",
    "embed_avg": "embedding_sum",
    "embed": None,  # follows from the two
}
_LANGUAGE_FILES: Final = ("model.safetensors", "lm.safetensors")
_CODEC_PATTERNS: Final = ("tokenizer-*.safetensors", "mimi*.safetensors")
_VOCABULARY_PATTERN: Final = "tokenizer_spm_*.model"


def read_moshi(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by the keys of :class:`.build.Moshi`.

    Args:
        path: a ``.safetensors`` file with all of them, or an official folder, whose codec and
            language model are read together.

    Raises:
        InputError: there is none, it is damaged, or two files hold one key.
    """
    if not path.is_dir():
        return unpack(load_checkpoint(path))
    found: dict[str, Tensor] = {}
    for part in _parts(path):
        tensors = unpack(load_checkpoint(part))
        if both := sorted(set(found) & set(tensors)):
            raise InputError(f"two checkpoints in {path} hold {both[0]}", f"one is {part.name}")
        found |= tensors
    return found


def read_mimi(path: Path) -> dict[str, Tensor]:
    """The codec's tensors, of its own file or out of an official folder; errors as above."""
    if path.is_dir():
        path = _only(path, _CODEC_PATTERNS, "the codec's weights")
    return unpack(load_checkpoint(path))


def unpack(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict in the form of the modules, whichever form it has.

    Raises:
        InputError: it has a tensor in both forms.
    """
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        for name, tensor in _modules_form(key, value):
            if name in found:
                raise InputError("the checkpoint is ambiguous", f"it has {name} in two forms")
            found[name] = tensor
    return found


def pack(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The packed form of a state dict: the inverse of :func:`unpack`."""
    import torch

    single = re.compile(r"(.*\.self_attn)\.(in|out)_projs\.(\d+)\.weight")
    parts: dict[str, dict[int, Tensor]] = {}
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        if (match := single.fullmatch(key)) is None:
            found[key] = value
            continue
        end = "in_proj_weight" if match[2] == "in" else "out_proj.weight"
        parts.setdefault(f"{match[1]}.{end}", {})[int(match[3])] = value
    for key, steps in parts.items():
        found[key] = torch.cat([steps[index] for index in sorted(steps)])
    return found


def vocabulary(checkpoint: Path | None) -> bytes | None:
    """The text pieces beside an official checkpoint, one a line in the order of their tokens.

    Written out here, where SentencePiece may be installed, so that a device needs it not.

    Returns:
        None where there is no such file beside it, or no SentencePiece to read it with.
    """
    if checkpoint is None:
        return None
    folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
    files = sorted(folder.glob(_VOCABULARY_PATTERN))
    if not files:
        return None
    try:
        import sentencepiece
    except ImportError:
        return None
    model = sentencepiece.SentencePieceProcessor(model_file=str(files[0]))
    pieces = (model.id_to_piece(index) for index in range(model.get_piece_size()))
    return "".join(piece.replace("\n", " ") + "\n" for piece in pieces).encode()


def _modules_form(key: str, value: Tensor) -> list[tuple[str, Tensor]]:
    start, _, last = key.rpartition(".")
    if start.endswith("._codebook") and last in _OLD_CODEBOOK:
        new = _OLD_CODEBOOK[last]
        return [] if new is None else [(f"{start}.{new}", value)]
    if (match := _PACKED.fullmatch(key)) is None:
        return [(key, value)]
    # Queries, keys and values of one step are 3 * width rows of width numbers; outputs width.
    rows = value.shape[-1] * (3 if match[2] else 1)
    if value.dim() != 2 or value.shape[0] % rows:
        raise InputError(f"{key} is no packed attention", f"it is {list(value.shape)}")
    kind = match[2] or match[3]
    steps = value.split(rows)
    return [(f"{match[1]}.{kind}_projs.{i}.weight", step) for i, step in enumerate(steps)]


def _parts(folder: Path) -> list[Path]:
    language = next((folder / name for name in _LANGUAGE_FILES if (folder / name).is_file()), None)
    if language is None:
        raise InputError(f"no checkpoint in {folder}", f"it has no {_LANGUAGE_FILES[0]}")
    codecs = [one for pattern in _CODEC_PATTERNS for one in folder.glob(pattern)]
    return [language, *([_only(folder, _CODEC_PATTERNS, "the codec's weights")] if codecs else [])]


def _only(folder: Path, patterns: tuple[str, ...], what: str) -> Path:
    found = sorted({one for pattern in patterns for one in folder.glob(pattern)})
    if len(found) != 1:
        raise InputError(
            f"{len(found)} files in {folder} may be {what}",
            f"one is looked for by the name {' or '.join(patterns)}",
            "give the file itself",
        )
    return found[0]
