"""Text to ids and back, and conversations to text, as the model's own files say.

Needs the ``tokenizers`` library and, for conversations, jinja2; no torch and no transformers.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekit.errors import InputError, MissingBackendError

from .checkpoint import read_json

TOKENIZER, CHAT = "tokenizer.json", "chat.json"
_INSTALL = 'pip install "edgekit-toolkit[cluster]"'
_UNFINISHED = "\ufffd"  # what a decoder writes for bytes that are no whole character yet
_TEMPLATE_AT_MOST = 200_000  # characters; a real one has some thousand


class Tokens:
    """A model's tokenizer and its chat template.

    Attributes:
        has_template: Whether conversations are known.
    """

    def __init__(self, folder: Path | str) -> None:
        """
        Args:
            folder: With ``tokenizer.json`` and perhaps ``chat.json``: rank 0's.

        Raises:
            InputError: there is no tokenizer, or it is damaged.
            MissingBackendError: the ``tokenizers`` library is not installed.
        """
        folder = Path(folder)
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise MissingBackendError(
                "what makes ids of text is not installed", str(error), _INSTALL
            ) from error
        try:
            self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        except Exception as error:  # the library raises plain exceptions
            raise InputError(f"cannot read {folder / TOKENIZER}", str(error)) from error
        chat = read_json(folder / CHAT) if (folder / CHAT).is_file() else {}
        self._template, self._specials = chat.get("template"), chat.get("specials") or {}
        self.has_template = bool(self._template)

    def encode(self, text: str, specials: bool = True) -> list[int]:
        """The ids of a text; ``specials``: with the first token that the model was trained with."""
        return self._tokenizer.encode(text, add_special_tokens=specials).ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, without special tokens."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)

    def chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """The ids of a conversation that ends before the answer.

        Args:
            messages: Each with ``role`` and ``content``.

        Raises:
            InputError: the model has no template, or refuses these messages.
        """
        return self.encode(self.render(messages), specials=False)

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The text of a conversation that ends before the answer."""
        if not self._template:
            raise InputError("the model has no chat template", "", "give a plain prompt")
        if len(self._template) > _TEMPLATE_AT_MOST:
            raise InputError("the model's chat template is too long", f"{len(self._template)}")
        try:
            import jinja2
            from jinja2.sandbox import ImmutableSandboxedEnvironment
        except ImportError as error:
            raise MissingBackendError(
                "what fills chat templates is not installed", str(error), _INSTALL
            ) from error
        # A template is the model's, and so somebody else's program.
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
        values: dict[str, Any] = {"messages": [dict(one) for one in messages]}
        values |= self._specials | {"add_generation_prompt": True, "tools": None}
        try:
            return environment.from_string(self._template).render(**values)
        except jinja2.TemplateError as error:
            raise InputError("the chat template refuses this conversation", str(error)) from error
        except Exception as error:  # whatever a template's own program does
            why = f"{type(error).__name__}: {error}"
            raise InputError("the chat template fails", why) from error


def _refuse(message: str) -> None:
    import jinja2

    raise jinja2.TemplateError(message)


class Stream:
    """Text out of ids one by one: only whole characters, and each once."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens
        self._ids: list[int] = []
        self._start = 0  # ids before it are only what the decoder needs to know
        self._said = 0  # ids whose text has been given out

    def add(self, token: int) -> str:
        """What is new with this id; often nothing, if a character is not whole."""
        self._ids.append(token)
        return self._new(False)

    def end(self) -> str:
        """What is left, whole or not."""
        return self._new(True)

    def _new(self, last: bool) -> str:
        # Decoders treat a text's first token differently (no space before it), so the new text
        # is what a window grows by, and the window keeps a few ids from before.
        before = self._tokens.decode(self._ids[self._start : self._said])
        now = self._tokens.decode(self._ids[self._start :])
        if len(now) <= len(before) or (now.endswith(_UNFINISHED) and not last):
            return ""
        self._start, self._said = self._said, len(self._ids)
        return now[len(before) :]
