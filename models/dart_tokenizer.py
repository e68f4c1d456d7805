"""The tokenizer that a DART bundle carries: CLIP's byte pairs, as a ``tokenizer.json``.

A device reads it with the ``tokenizers`` library, which needs no torch. The vocabulary comes
from where the weights come from. Random weights have none: they get CLIP's vocabulary without
its merges, in which every byte is a token, so that any text is a prompt.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekit.errors import InputError

_START, _END = "<|startoftext|>", "<|endoftext|>"
_END_OF_WORD = "</w>"
# CLIP's own rule: contractions, words, single digits, runs of other signs.
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"

_BYTES = {"type": "ByteLevel", "trim_offsets": True, "use_regex": True}
_SPLITTING: dict[str, Any] = {
    "normalizer": {
        "type": "Sequence",
        "normalizers": [
            {"type": "NFC"},
            {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
            {"type": "Lowercase"},
        ],
    },
    "pre_tokenizer": {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": _WORDS}, "behavior": "Removed", "invert": True},
            {**_BYTES, "add_prefix_space": False},
        ],
    },
    "decoder": {**_BYTES, "add_prefix_space": True},
}


def tokenizer_of(checkpoint: Path | None, vocabulary: int) -> bytes:
    """The ``tokenizer.json`` that belongs to a checkpoint.

    Args:
        checkpoint: a Hugging Face folder, or a file with the tokenizer's files beside it;
            None: random weights, and so a token for every byte.
        vocabulary: number of token ids of the text tower.

    Raises:
        InputError: there is no tokenizer beside the weights, it cannot be read, or it has more
            tokens than the text tower.

    >>> len(json.loads(tokenizer_of(None, 514))["model"]["vocab"])
    514
    """
    if checkpoint is None:
        return byte_tokenizer(vocabulary)
    folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
    found = _read(folder)
    if found is None:
        raise InputError(
            f"no tokenizer in {folder}",
            "trained weights mean nothing without the vocabulary they were trained with",
            "put tokenizer.json (or vocab.json and merges.txt) beside the checkpoint",
        )
    most = max(found["model"]["vocab"].values(), default=-1)
    if most >= vocabulary:
        raise InputError(
            f"the tokenizer in {folder} is of another network",
            f"it has token {most}, the text tower has {vocabulary}",
        )
    return json.dumps(found, ensure_ascii=False).encode()


def byte_tokenizer(vocabulary: int) -> bytes:
    """CLIP's vocabulary without merges: 256 bytes, 256 that end a word, start and end."""
    letters = _byte_letters()
    tokens = [*letters, *(letter + _END_OF_WORD for letter in letters)]
    vocab = {token: index for index, token in enumerate(tokens)}
    vocab |= {_START: vocabulary - 2, _END: vocabulary - 1}
    return json.dumps(_document(vocab, ()), ensure_ascii=False).encode()


def _read(folder: Path) -> dict[str, Any] | None:
    whole, vocab, merges = (folder / n for n in ("tokenizer.json", "vocab.json", "merges.txt"))
    try:
        if whole.is_file():
            document = json.loads(whole.read_text("utf-8"))
            if not isinstance(document["model"]["vocab"], dict):
                raise KeyError("vocab")
            return document
        if vocab.is_file() and merges.is_file():
            lines = merges.read_text("utf-8").splitlines()
            pairs = [line for line in lines if line and not line.startswith("#version")]
            return _document(json.loads(vocab.read_text("utf-8")), pairs)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"cannot read the tokenizer in {folder}", str(error)) from error
    return None


def _document(vocab: Mapping[str, int], merges: Sequence[str]) -> dict[str, Any]:
    return {
        "version": "1.0",
        "added_tokens": [_special(token, vocab[token]) for token in (_START, _END)],
        **_SPLITTING,
        "post_processor": {
            "type": "RobertaProcessing",
            "sep": [_END, vocab[_END]],
            "cls": [_START, vocab[_START]],
            "trim_offsets": False,
            "add_prefix_space": False,
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": _END,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": _END_OF_WORD,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": dict(vocab),
            "merges": list(merges),
        },
    }


def _special(token: str, index: int) -> dict[str, Any]:
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": index, "content": token, "special": True, **plain}


def _byte_letters() -> list[str]:
    """A printable letter for every byte, in the order of GPT-2's and CLIP's vocabularies."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + n) for n in range(len(others))]
