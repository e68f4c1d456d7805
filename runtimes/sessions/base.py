"""The narrow interface that every runtime's session implements.

A session runs one graph of one artifact. It is made by :func:`edgekit.runtimes.load`,
takes and gives NumPy arrays by name, and never needs torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar, Protocol

import numpy as np

from edgekit.errors import BundleError, InputError, UsageError
from edgekit.manifest import AxisRange, StatePair, TensorSpec

_NDARRAY = np.ndarray
_LONGEST_REASON = 240  # characters of a runtime's own message that are worth repeating


class Closable(Protocol):
    """What a session can own."""

    def close(self) -> None:
        """Release it."""


class Session(ABC):
    """One graph, loaded on one runtime.

    Attributes:
        runtime: the runtime's name (``onnxruntime``, ``openvino``, …).
        inputs, outputs: typed specs in graph order. dynamic: sizes of their dynamic axes.
        threads: intra-operator threads asked for, or None for the runtime's own default.
        effective_precision: what the runtime says it computes in.
        states: which outputs are fed back into which inputs, of a streaming graph; whoever
            runs it does that (see :class:`edgekit.runtimes.streaming.StreamingSession`).

    A session serves one thread at a time; make one per thread to run several at once.
    """

    runtime: ClassVar[str]
    states: tuple[StatePair, ...] = ()

    def __init__(
        self,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        dynamic: Mapping[str, AxisRange],
        threads: int | None,
    ) -> None:
        self.inputs, self.outputs, self.threads = inputs, outputs, threads
        self.dynamic = dict(dynamic)
        self._expected = [(s.name, np.dtype(s.dtype), s.shape) for s in inputs]
        self.effective_precision = "fp32"
        self._owned: list[Closable] = []

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the graph once.

        Args:
            inputs: one array per input, of exactly the dtype and shape in ``inputs``.

        Returns:
            one array per output, by name, in the order of ``outputs``.

        Raises:
            InputError: a name, dtype or shape is wrong (checked before the runtime sees it).
        """
        # The quick path costs a microsecond; the explanation is made only on a mismatch.
        # NumPy's own dtypes are single objects; a copy of one takes the slow path, too.
        for name, dtype, shape in self._expected:
            array = inputs.get(name)
            if type(array) is not _NDARRAY or array.dtype is not dtype or array.shape != shape:
                self._check(inputs)
                break
        if len(inputs) != len(self._expected):
            self._check(inputs)
        return self._run(inputs)

    @abstractmethod
    def _run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run with inputs that have been checked."""

    def bind(
        self, inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]
    ) -> Callable[[], None]:
        """A run over arrays that stay where they are, for graphs that are run again and again.

        Each call of what is returned reads ``inputs`` as they are then and writes ``outputs``,
        in place where the runtime can. Both are contiguous, share no memory, and live as long
        as what is returned.

        Raises:
            InputError: a name, dtype or shape is wrong; when called, as :meth:`run`.
        """
        self._check(inputs)
        inputs, outputs = dict(inputs), dict(outputs)

        def run() -> None:
            found = self._run(inputs)
            for name, array in outputs.items():
                np.copyto(array, found[name])

        return run

    def close(self) -> None:
        """Release what the runtime holds; the session cannot run afterwards."""
        self._run = _closed  # so that an open session need not ask whether it is
        while self._owned:
            self._owned.pop().close()

    def own(self, resource: Closable) -> None:
        """Close ``resource`` together with this session."""
        self._owned.append(resource)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _check(self, inputs: Mapping[str, np.ndarray]) -> None:
        names = [name for name, _, _ in self._expected]
        unknown = sorted(set(inputs) - set(names))
        missing = [name for name in names if name not in inputs]
        if unknown or missing:
            parts = [f"missing {', '.join(missing)}"] if missing else []
            parts += [f"unknown {', '.join(unknown)}"] if unknown else []
            raise InputError("wrong inputs", "; ".join(parts), f"give {', '.join(names)}")
        axes: dict[str, int] = {}
        for name, dtype, shape in self._expected:
            array = inputs[name]
            if not isinstance(array, np.ndarray) or array.dtype != dtype:
                got = getattr(array, "dtype", type(array).__name__)
                raise InputError(f"input {name} is {got}", f"the graph takes {dtype}")
            if len(array.shape) != len(shape) or not all(
                self._fits(want, have, axes) for want, have in zip(shape, array.shape, strict=True)
            ):
                raise InputError(
                    f"input {name} has shape {list(array.shape)}",
                    f"the graph takes {self._describe(shape)}",
                )

    def _fits(self, want: int | str, have: int, axes: dict[str, int]) -> bool:
        if isinstance(want, int):
            return want == have
        limits = self.dynamic.get(want)
        inside = limits is None or limits.min <= have <= limits.max
        return inside and axes.setdefault(want, have) == have

    def _describe(self, shape: tuple[int | str, ...]) -> str:
        def size(axis: int | str) -> str:
            limits = self.dynamic.get(axis) if isinstance(axis, str) else None
            return f"{axis}={limits.min}..{limits.max}" if limits else str(axis)

        return "[" + ", ".join(size(axis) for axis in shape) + "]"


def _closed(_: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    raise UsageError("this session is closed", "", "load the bundle again")


def first_reason(error: BaseException) -> str:
    """The telling line of a runtime's message, shortened.

    Runtimes put the place in their own source first and the reason last.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = lines[-1] if lines else type(error).__name__
    return reason if len(reason) <= _LONGEST_REASON else reason[: _LONGEST_REASON - 1] + "…"


def refused(runtime: str, file: str | None, error: BaseException) -> BundleError:
    """The error for a graph that its runtime does not load."""
    return BundleError(
        f"{runtime} refuses {file}",
        first_reason(error),
        "run `edgekit inspect` on the bundle, or export the model again",
    )


def failed(runtime: str, error: BaseException) -> InputError:
    """The error for inputs of the right shape whose values the graph cannot take."""
    return InputError(f"{runtime} could not run these inputs", first_reason(error))


def effective(asked: str, computed: str) -> str:
    """In words: what an artifact of precision ``asked`` computes in.

    Equal precisions need one word. An integer graph still has parts in ``computed``. Where
    a processor has no arithmetic for ``asked``, only the weights are kept in it.
    """
    if asked == computed:
        return asked
    return f"{asked} + {computed}" if asked.startswith("int") else f"{computed} ({asked} weights)"
