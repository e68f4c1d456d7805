"""A tokenizer rebuilt from a GGUF file, as the ``tokenizer.json`` of the ``tokenizers`` library.

The file has the pieces, their scores or merges and their kinds, and the name of the rule that cuts
a text into words; the rules themselves are those of the models' own tokenizers.
"""

from __future__ import annotations

import json
from typing import Any

from edgekit.errors import InputError, UnsupportedError

_CONTROL, _USER, _BYTE = 3, 4, 6  # kinds of pieces
_TAIL = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# What cuts a text before byte pairs are merged, by llama.cpp's names.
_WORDS = {"llama-bpe": _TAIL % "{1,3}", "llama3": _TAIL % "{1,3}", "qwen2": _TAIL % ""}
_DIGITS = ("smollm", "smollm2")
_PLAIN = ("gpt-2", "default")
_SPACE = "▁"


def tokenizer_files(checkpoint: Any) -> dict[str, str]:
    """``tokenizer.json`` and ``chat.json`` of a :class:`.gguf_checkpoint.GgufCheckpoint`.

    Raises:
        InputError: the file has no tokenizer, or a damaged one.
        UnsupportedError: one of a kind that is not known.
    """
    field = _Fields(checkpoint)
    tokens = field("tokens")
    if not tokens:
        raise InputError(f"{checkpoint.path} has no tokenizer")
    kind = field("model")
    vocabulary = {token: index for index, token in enumerate(tokens)}
    if kind == "gpt2":
        parts = _byte_level(field, vocabulary)
    elif kind == "llama":
        parts = _sentence_pieces(field, tokens, vocabulary)
    else:
        raise UnsupportedError(f"a tokenizer of kind {kind!r} is not known")
    specials = {}
    for name, mine in (("bos", "bos_token"), ("eos", "eos_token"), ("unknown", "unk_token")):
        index = field(f"{name}_token_id")
        if index is not None and index < len(tokens):
            specials[mine] = tokens[index]
    adds = field("add_bos_token", kind == "llama")
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added(field, tokens),
        "post_processor": _starting(specials["bos_token"], vocabulary) if adds else None,
    } | parts
    chat = {
        "template": checkpoint.field("tokenizer.chat_template"),
        "specials": specials,
        "add_bos": adds,
    }
    return {
        "tokenizer.json": json.dumps(document, ensure_ascii=False),
        "chat.json": json.dumps(chat, indent=2, ensure_ascii=False),
    }


class _Fields:
    def __init__(self, checkpoint: Any) -> None:
        self._checkpoint = checkpoint

    def __call__(self, name: str, default: Any = None) -> Any:
        return self._checkpoint.field(f"tokenizer.ggml.{name}", default)


def _byte_level(field: _Fields, vocabulary: dict[str, int]) -> dict[str, Any]:
    rule = field("pre", "default")
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    if rule in _WORDS:
        cut = {"type": "Split", "pattern": {"Regex": _WORDS[rule]}}
        cut |= {"behavior": "Isolated", "invert": False}
        steps = [cut, byte_level | {"use_regex": False}]
    elif rule in _DIGITS:
        steps = [{"type": "Digits", "individual_digits": True}, byte_level | {"use_regex": True}]
    elif rule in _PLAIN:
        steps = [byte_level | {"use_regex": True}]
    else:
        raise UnsupportedError(f"a tokenizer that cuts words by {rule!r} is not known")
    merges = field("merges") or []
    model = _pairs(vocabulary, [merge.split(" ", 1) for merge in merges])
    model["ignore_merges"] = rule in ("llama-bpe", "llama3")
    return {
        "normalizer": {"type": "NFC"} if rule == "qwen2" else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "decoder": byte_level | {"use_regex": True},
        "model": model,
    }


def _sentence_pieces(
    field: _Fields, tokens: list[str], vocabulary: dict[str, int]
) -> dict[str, Any]:
    scores = field("scores") or []
    if len(scores) != len(tokens):
        raise InputError("the tokenizer's pieces lack their scores")
    model = _pairs(vocabulary, _merges(tokens, scores, vocabulary))
    unknown = field("unknown_token_id")
    model |= {"byte_fallback": True, "fuse_unk": True}
    model["unk_token"] = None if unknown is None else tokens[unknown]
    prefix = [{"type": "Prepend", "prepend": _SPACE}] if field("add_space_prefix", True) else []
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    back = {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "}
    decoders = [back, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip]
    return {
        "normalizer": {"type": "Sequence", "normalizers": [*prefix, spaces]},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": model,
    }


def _merges(tokens: list[str], scores: list[float], vocabulary: dict[str, int]) -> list[list[str]]:
    """Pairs of pieces whose union is a piece, the best first: what the scores mean for pairs."""
    found = []
    for index, token in enumerate(tokens):
        pairs = [
            (vocabulary[token[:cut]], vocabulary[token[cut:]], token[:cut], token[cut:])
            for cut in range(1, len(token))
            if token[:cut] in vocabulary and token[cut:] in vocabulary
        ]
        found += [(-scores[index], a, b, left, right) for a, b, left, right in sorted(pairs)]
    return [[left, right] for _, _, _, left, right in sorted(found, key=lambda one: one[0])]


def _pairs(vocabulary: dict[str, int], merges: list[list[str]]) -> dict[str, Any]:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "vocab": vocabulary,
        "merges": merges,
    }


def _added(field: _Fields, tokens: list[str]) -> list[dict[str, Any]]:
    kinds = field("token_type") or []
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return [
        {"id": index, "content": tokens[index], "special": kind == _CONTROL} | plain
        for index, kind in enumerate(kinds)
        if kind in (_CONTROL, _USER)
    ]


def _starting(token: str, vocabulary: dict[str, int]) -> dict[str, Any]:
    """What puts a sequence's first token before it."""
    special = {"SpecialToken": {"id": token, "type_id": 0}}
    one = {"Sequence": {"id": "A", "type_id": 0}}
    two = {"Sequence": {"id": "B", "type_id": 1}}
    entry = {"id": token, "ids": [vocabulary[token]], "tokens": [token]}
    return {
        "type": "TemplateProcessing",
        "single": [special, one],
        "pair": [special, one, {"SpecialToken": {"id": token, "type_id": 1}}, two],
        "special_tokens": {token: entry},
    }
