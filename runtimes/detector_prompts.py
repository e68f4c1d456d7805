"""From the names of classes to what the detection graph takes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import numpy as np

from edgekit.errors import BundleError, MissingBackendError, ParityError, UsageError

from .detector_cache import Embedding, TextCache
from .sessions.base import Session

_LONGEST_SHOWN: Final = 60  # characters of a name in a message


def clean(names: Iterable[str]) -> tuple[str, ...]:
    """Names of classes as prompts: without needless blanks, each once, in the order given.

    Raises:
        UsageError: there is none, or one is empty or no text.

    >>> clean(["person", " traffic   light ", "person"])
    ('person', 'traffic light')
    """
    if isinstance(names, str):
        raise UsageError("the classes are one text", "", "give a list of names")
    found: dict[str, None] = {}
    for position, name in enumerate(names, 1):
        if not isinstance(name, str) or not name.split():
            raise UsageError(f"class {position} has no name", f"it is {name!r}", "leave it out")
        try:
            name.encode()
        except UnicodeEncodeError as error:  # bytes of a command line that are no UTF-8
            raise UsageError(f"the name of class {position} is no text", error.reason) from error
        found[" ".join(name.split())] = None
    if not found:
        raise UsageError("there is no class to look for", "", "give the names of one or more")
    return tuple(found)


class Tokenizer:
    """Token ids of prompts, by the bundle's ``tokenizer.json``.

    Args:
        document: the file. tokens: the length that the text graph takes.

    Raises:
        MissingBackendError: the ``tokenizers`` library is not here.
        BundleError: the file is none of its.
    """

    def __init__(self, document: bytes, tokens: int) -> None:
        try:
            import tokenizers
        except ImportError as error:
            raise MissingBackendError(
                "new class names cannot be embedded",
                f"the tokenizers library is not here: {error}",
                'pip install "edgekit-toolkit[prompts]", or copy the text cache from elsewhere',
            ) from error
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(document.decode())
        except Exception as error:  # the library raises plain exceptions
            raise BundleError("the bundle's tokenizer cannot be read", str(error)) from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._tokens = tokens

    def __call__(self, prompt: str) -> tuple[np.ndarray, np.ndarray]:
        """Ids and mask of one prompt, (tokens,) int64 each, padded with zeros.

        Raises:
            UsageError: the prompt has more tokens than the text graph takes.
        """
        ids = self._tokenizer.encode(prompt).ids
        if len(ids) > self._tokens:
            shown = prompt if len(prompt) <= _LONGEST_SHOWN else prompt[:_LONGEST_SHOWN] + "…"
            raise UsageError(
                f"the class {shown!r} is too long",
                f"it has {len(ids)} tokens, and the network takes {self._tokens}",
                "describe it in fewer words",
            )
        padded, mask = np.zeros(self._tokens, np.int64), np.zeros(self._tokens, np.int64)
        padded[: len(ids)], mask[: len(ids)] = ids, 1
        return padded, mask


class Prompts:
    """Embeddings of classes: kept in memory, then on disk, then made by the text graph.

    The text graph, most of whose weights a device need not keep, is open only while prompts
    are embedded.

    Args:
        open_text: opens the text graph's session. open_tokenizer: makes the tokenizer.
        cache: where embeddings are kept; None: in memory alone.

    Attributes:
        runs: how often the text graph ran.
    """

    def __init__(
        self,
        open_text: Callable[[], Session],
        open_tokenizer: Callable[[], Tokenizer],
        cache: TextCache | None,
    ) -> None:
        self._open_text, self._open_tokenizer, self._cache = open_text, open_tokenizer, cache
        self._known: dict[str, Embedding] = {}
        self.runs = 0

    def embed(self, prompts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Features (N, tokens, width) float32 and masks (N, tokens) int64, in order.

        Raises:
            UsageError: a prompt is too long.
            MissingBackendError: the tokenizer's library is not here, and a prompt is new.
        """
        unknown = []
        for prompt in dict.fromkeys(prompts):
            found = self._known.get(prompt) or (self._cache.read(prompt) if self._cache else None)
            if found is None:
                unknown.append(prompt)
            else:
                self._known[prompt] = found
        if unknown:
            self._make(unknown)
        chosen = [self._known[prompt] for prompt in prompts]
        return np.stack([e.features for e in chosen]), np.stack([e.mask for e in chosen])

    def _make(self, prompts: Sequence[str]) -> None:
        tokenizer = self._open_tokenizer()
        pairs = [tokenizer(prompt) for prompt in prompts]
        with self._open_text() as session:
            check_contract(session, ("input_ids", "attention_mask"), ("text_features",))
            most = batch_limit(session, "input_ids")
            for start in range(0, len(prompts), most):
                names = prompts[start : start + most]
                part = pairs[start : start + most]
                ids, masks = (np.stack(column) for column in zip(*part, strict=True))
                for name, embedding in zip(names, self._run(session, ids, masks), strict=True):
                    self._known[name] = embedding
                    if self._cache is not None:
                        self._cache.write(name, embedding)

    def _run(self, session: Session, ids: np.ndarray, masks: np.ndarray) -> list[Embedding]:
        count = len(ids)
        inputs = {"input_ids": ids, "attention_mask": masks}
        self.runs += 1
        features = session.run(fill_batch(session, inputs))["text_features"]
        if not np.isfinite(features[:count]).all():
            raise ParityError("embeddings are not finite", f"{session.runtime} overflows here")
        rows = features[:count].astype(np.float32, copy=False)
        return [Embedding(row.copy(), mask) for row, mask in zip(rows, masks, strict=True)]


def check_contract(session: Session, inputs: Iterable[str], outputs: Iterable[str]) -> None:
    """Raise BundleError where a graph does not take exactly ``inputs`` and give ``outputs``."""
    have = {spec.name for spec in session.inputs}, {spec.name for spec in session.outputs}
    want = set(inputs), set(outputs)
    if have[0] != want[0] or not want[1] <= have[1]:
        raise BundleError(
            "a graph does not fit the task",
            f"it takes {', '.join(sorted(have[0]))} and gives {', '.join(sorted(have[1]))}; the "
            f"task needs {', '.join(sorted(want[0]))} and {', '.join(sorted(want[1]))}",
        )


def batch_limit(session: Session, name: str) -> int:
    """How many rows the input ``name`` takes at most: its axis' range, or its fixed size."""
    size = next(spec.shape[0] for spec in session.inputs if spec.name == name)
    if isinstance(size, int):
        return size
    limits = session.dynamic.get(size)
    return limits.max if limits else 1


def fill_batch(session: Session, inputs: dict[str, np.ndarray]) -> dict[str, Any]:
    """The inputs with the last row repeated up to the least batch that the graph takes.

    A repeated row is a valid one: rows that hide all their tokens would be none.
    """
    filled = {}
    for spec in session.inputs:
        array = inputs[spec.name]
        size = spec.shape[0]
        limits = session.dynamic.get(size) if isinstance(size, str) else None
        least = size if isinstance(size, int) else (limits.min if limits else 1)
        if len(array) < least:
            array = np.concatenate([array, np.repeat(array[-1:], least - len(array), axis=0)])
        filled[spec.name] = array.astype(spec.dtype, copy=False)
    return filled
