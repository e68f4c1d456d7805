"""Text to ids and back, conversations, how tokens are chosen, and text as it grows."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

from edgekit.devices.cluster.generate import Sampler, Sampling, generate, generate_ids
from edgekit.devices.cluster.gguf_tokenizer import tokenizer_files
from edgekit.devices.cluster.tokens import Stream, Tokens
from edgekit.errors import InputError, UnsupportedError, UsageError

LOGITS = np.log(np.array([0.5, 0.25, 0.15, 0.1], np.float32))
TEMPLATE = (
    "{% for m in messages %}<s>{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant: {% endif %}"
)


def bytes_tokenizer() -> dict[str, str]:
    """Every byte is a token, as the byte-level tokenizers spell them."""
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    return tokenizer_files(Described({
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": [*letters, "<s>"],
        "merges": [],
        "token_type": [1] * len(letters) + [3],
        "bos_token_id": len(letters),
    }))  # fmt: skip


class Described:
    """What a GGUF file says of its tokenizer."""

    path = "a.gguf"

    def __init__(self, fields):
        self._fields = {f"tokenizer.ggml.{name}": value for name, value in fields.items()}
        self._fields["tokenizer.chat_template"] = TEMPLATE

    def field(self, name, default=None):
        return self._fields.get(name, default)


@pytest.fixture
def tokens(tmp_path):
    for name, text in bytes_tokenizer().items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return Tokens(tmp_path)


class Speaks:
    """An engine that says given ids one after another."""

    context, position = 64, 0

    def __init__(self, ids):
        self._ids = iter(ids)

    def prefill(self, ids):
        self.position += len(ids)
        logits = np.zeros(300, np.float32)
        logits[next(self._ids)] = 1
        return logits

    def decode(self, token):
        return self.prefill([token])


def test_text_comes_back(tokens):
    for text in ("plain", "naïve 🎉 日本", "<s>"):
        assert tokens.decode(tokens.encode(text)) == text.replace("<s>", "")


@pytest.mark.parametrize("text", ["naïve 🎉 日本語", "a b  c", " leading"])
def test_streamed_text_is_whole_characters(tokens, text):
    stream, pieces = Stream(tokens), []
    for token in tokens.encode(text):
        pieces.append(stream.add(token))
        assert "\ufffd" not in pieces[-1]
    assert "".join(pieces) + stream.end() == text


def test_a_conversation(tokens):
    messages = [{"role": "user", "content": "Hi"}]
    assert tokens.render(messages) == "<s>user: Hi\n<s>assistant: "
    assert tokens.chat(messages)[0] == tokens.encode("<s>")[0]


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ raise_exception('no') }}",
        "{% for %}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
    ],
)
def test_a_hostile_template_is_refused(tokens, template):
    tokens._template = template
    with pytest.raises(InputError):
        tokens.render([{"role": "user", "content": "Hi"}])


def test_sentence_pieces_from_scores(tmp_path):
    pieces = ["<unk>", "<s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words = ["▁", "a", "b", "ab", "▁ab", "▁a", "ba"]
    scores = [0.0] * len(pieces) + [-9.0, -9.0, -9.0, -1.0, -2.0, -3.0, -0.5]
    said = {
        "model": "llama",
        "tokens": pieces + words,
        "scores": scores,
        "token_type": [2, 3] + [6] * 256 + [1] * len(words),
        "bos_token_id": 1,
        "unknown_token_id": 0,
    }
    for name, text in tokenizer_files(Described(said)).items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    tokens = Tokens(tmp_path)
    vocabulary = {piece: index for index, piece in enumerate(pieces + words)}
    assert tokens.encode("ab") == [1, vocabulary["▁ab"]]
    # "ba" is the better pair, and so comes first.
    assert tokens.encode("aba", specials=False) == [vocabulary["▁a"], vocabulary["ba"]]
    assert tokens.decode(tokens.encode("é ab")) == "é ab"


def test_unknown_tokenizers_are_refused():
    with pytest.raises(UnsupportedError):
        tokenizer_files(Described({"model": "bert", "tokens": ["a"]}))
    with pytest.raises(UnsupportedError):
        tokenizer_files(Described({"model": "gpt2", "pre": "odd", "tokens": ["a"]}))
    with pytest.raises(InputError):
        tokenizer_files(Described({"model": "llama", "tokens": ["a"], "scores": []}))


def counts(**how) -> Counter:
    sampler = Sampler(Sampling(seed=4, **how))
    return Counter(sampler.choose(LOGITS) for _ in range(4000))


def test_sampling_follows_the_probabilities():
    found = counts(temperature=1.0)
    assert [round(found[i] / 4000, 1) for i in range(4)] == [0.5, 0.2, 0.2, 0.1] or all(
        abs(found[i] / 4000 - p) < 0.03 for i, p in enumerate((0.5, 0.25, 0.15, 0.1))
    )
    assert set(counts(temperature=0.0)) == {0}
    assert set(counts(temperature=1.0, top_k=2)) == {0, 1}
    assert set(counts(temperature=1.0, top_p=0.6)) == {0, 1}
    assert counts(temperature=0.5)[0] > found[0]
    assert counts(temperature=1.0) == found


@pytest.mark.parametrize("how", [{"temperature": -1}, {"top_k": -1}, {"top_p": 0}, {"top_p": 2}])
def test_impossible_sampling(how):
    with pytest.raises(UsageError):
        Sampling(**how)


def test_generating_stops(tokens):
    said = tokens.encode("hello")
    stop = tokens.encode("<s>")
    assert list(generate_ids(Speaks([*said, *stop, 1]), [1], 50, stop=stop)) == said
    assert list(generate_ids(Speaks(said), [1], 3)) == said[:3]
    assert list(generate_ids(Speaks(said), [1], 0)) == []
    assert len(list(generate_ids(Speaks([1] * 99), [1] * 60, 99))) == 5
    assert "".join(generate(Speaks([*said, *stop]), tokens, [1], 50, stop=stop)) == "hello"


def test_no_tokenizer(tmp_path):
    with pytest.raises(InputError, match=r"tokenizer\.json"):
        Tokens(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": 3}))
    with pytest.raises(InputError):
        Tokens(tmp_path)
