"""The bodies that OpenAI's clients send, checked; what would change the answer is not ignored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edgekit.errors import InputError

from .generate import Sampling
from .service import Request
from .tokens import Tokens

STOPS = 4


class Part(BaseModel):
    """A piece of a message; only text is known."""

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """Of a conversation."""

    role: Annotated[str, Field(max_length=40)]
    content: str | list[Part]

    @property
    def text(self) -> str:
        """Its content as one text."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


class StreamOptions(BaseModel):
    """How an answer is streamed."""

    include_usage: bool = False
    continuous_usage_stats: bool = False  # vLLM's: with every piece how many tokens there are


class Body(BaseModel):
    """What both kinds of requests share."""

    model_config = ConfigDict(extra="ignore")

    model: str
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=0)] = 0
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    stop: str | list[str] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = 1
    logprobs: Literal[False] | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None
    presence_penalty: Literal[0] | None = 0
    frequency_penalty: Literal[0] | None = 0

    @model_validator(mode="after")
    def _few_stops(self) -> Body:
        if len(self.stops) > STOPS:
            raise ValueError(f"stop has more than {STOPS} texts")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts that end the answer."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def sampling(self) -> Sampling:
        """How tokens are chosen."""
        return Sampling(self.temperature, self.top_k, self.top_p, self.seed)

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with the numbers of tokens."""
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def with_counts(self) -> bool:
        """Whether each piece of a stream has the numbers of tokens so far."""
        return self.stream_options is not None and self.stream_options.continuous_usage_stats

    def ids(self, tokens: Tokens) -> list[int]:
        """The prompt."""
        raise NotImplementedError

    def request(self, tokens: Tokens, end: Sequence[int], context: int) -> Request:
        """As the service takes it.

        Raises:
            InputError: the prompt does not fit, or the chat template refuses it.
        """
        ids = self.ids(tokens)
        if len(ids) >= context:
            raise InputError(f"the prompt has {len(ids)} tokens", f"{context} fit, with the answer")
        most = min(self.max_tokens or context, context - len(ids))
        return Request(ids, most, self.sampling, self.stops, tuple(end))


class ChatBody(Body):
    """``/v1/chat/completions``."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=2048)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    response_format: dict[Literal["type"], Literal["text"]] | None = None

    @model_validator(mode="after")
    def _newer_name(self) -> ChatBody:
        self.max_tokens = self.max_completion_tokens or self.max_tokens
        return self

    def ids(self, tokens: Tokens) -> list[int]:
        """By the model's chat template."""
        return tokens.chat([{"role": one.role, "content": one.text} for one in self.messages])


class TextBody(Body):
    """``/v1/completions``."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] | None = 16
    echo: Literal[False] | None = None
    suffix: Literal[""] | None = None
    best_of: Literal[1] | None = 1

    def ids(self, tokens: Tokens) -> list[int]:
        """The prompt as it is."""
        return tokens.encode(self.prompt if isinstance(self.prompt, str) else self.prompt[0])


def parse(kind: type[Body], data: bytes) -> Body:
    """A body.

    Raises:
        InputError: it is no JSON, or something in it is not possible.
    """
    try:
        return kind.model_validate_json(data)
    except ValidationError as problem:
        first = problem.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"] if isinstance(part, str | int))
        raise InputError(f"{where or 'the body'} is not possible", first["msg"]) from None
