"""A graph that carries state from step to step, on any runtime.

State is declared once, as the manifest's state pairs; here it becomes memory that is allocated
once and stays where it is. Two contracts are known: an output that is the next step's input as a
whole (two buffers that change places), and an output that is what is new in a ring (one buffer,
into whose slot it is written).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edgekit.errors import InputError, UnsupportedError, UsageError
from edgekit.manifest import StatePair, TensorSpec

from .sessions.base import Session


class StreamingSession:
    """One stream on one session; several streams at once take a session each.

    Attributes:
        inputs, outputs: typed specs of what is no state, in graph order.
        states: specs of the state, by the names of its inputs.
        steps: how many have been made since the last reset or restore.

    Raises:
        UnsupportedError: the graph has no state, or a shape that is not fixed.
    """

    def __init__(self, session: Session) -> None:
        pairs = session.states
        fed = {pair.input: pair for pair in pairs}
        given = {pair.output for pair in pairs}
        _refuse_dynamic(session, fed)
        self.session, self.runtime = session, session.runtime
        self.states = tuple(spec for spec in session.inputs if spec.name in fed)
        self.inputs = tuple(spec for spec in session.inputs if spec.name not in fed)
        self.outputs = tuple(spec for spec in session.outputs if spec.name not in given)
        self.steps = 0
        self._given = {spec.name: _zeros(spec) for spec in self.inputs}
        self._answers = {spec.name: _zeros(spec) for spec in self.outputs}
        self._memory = _Memory(session, pairs)
        self._runs = [
            session.bind({**self._given, **fed_now}, {**self._answers, **given_now})
            for fed_now, given_now in self._memory.phases()
        ]
        self._checks = [(spec.name, np.dtype(spec.dtype), spec.shape) for spec in self.inputs]

    def step(
        self, inputs: Mapping[str, np.ndarray], out: Mapping[str, np.ndarray] | None = None
    ) -> dict[str, np.ndarray]:
        """One step.

        Args:
            inputs: one array per input that is no state.
            out: arrays to write outputs to, by name, of their dtype and shape; then nothing is
                allocated. Outputs that it does not name come in new arrays.

        Raises:
            InputError: a name, dtype or shape is wrong, or the runtime cannot take a value; the
                state is as it was.
        """
        self._take(inputs)
        self._runs[self._memory.phase]()
        self._memory.advance()
        self.steps += 1
        if out is None:
            return {name: array.copy() for name, array in self._answers.items()}
        for name, array in out.items():
            self._give(name, array)
        rest = (name for name in self._answers if name not in out)
        return {**out, **{name: self._answers[name].copy() for name in rest}}

    def reset(self) -> None:
        """Begin again: all state is zero."""
        self._memory.clear()
        self.steps = 0

    def state(self) -> dict[str, np.ndarray]:
        """A copy of the state, by name; :meth:`restore` takes it, on any runtime."""
        return {name: array.copy() for name, array in self._memory.current().items()}

    def successors(self) -> dict[str, np.ndarray]:
        """What the last step gave for the state, by the graph's names of its outputs.

        The arrays are the session's own: they hold until the next step.
        """
        return self._memory.given()

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from a state that :meth:`state` gave.

        Raises:
            InputError: a name, dtype or shape is not this graph's, or a slot is outside its
                ring; the state is as it was.
        """
        current = self._memory.current()
        if set(state) != set(current):
            odd = sorted(set(state) ^ set(current))
            raise InputError("this is the state of another graph", f"{odd[0]} is in one only")
        for name, array in current.items():
            _check_like(f"state {name}", state[name], array.dtype, array.shape)
        self._memory.check_slots(state)
        for name, array in current.items():
            np.copyto(array, state[name])
        self.steps = 0

    def close(self) -> None:
        """Close the session."""
        self._runs = [_closed, _closed]
        self.session.close()

    def __enter__(self) -> StreamingSession:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _take(self, inputs: Mapping[str, np.ndarray]) -> None:
        if len(inputs) != len(self._checks):
            names = ", ".join(name for name, _, _ in self._checks)
            raise InputError(
                "wrong inputs", f"{', '.join(inputs) or 'none'} given", f"give {names}"
            )
        for name, dtype, shape in self._checks:
            if name not in inputs:
                raise InputError("wrong inputs", f"{name} is missing")
            _check_like(f"input {name}", inputs[name], dtype, shape)
        for name, _, _ in self._checks:
            np.copyto(self._given[name], inputs[name])

    def _give(self, name: str, array: np.ndarray) -> None:
        if name not in self._answers:
            raise InputError(f"there is no output {name}", f"there is {', '.join(self._answers)}")
        answer = self._answers[name]
        _check_like(f"output {name}", array, answer.dtype, answer.shape)
        np.copyto(array, answer)


class _Memory:
    """The buffers of a graph's state, and what is done to them after a step."""

    def __init__(self, session: Session, pairs: Sequence[StatePair]) -> None:
        inputs = {spec.name: spec for spec in session.inputs}
        outputs = {spec.name: spec for spec in session.outputs}
        self.phase = 0
        self._rings = [pair for pair in pairs if pair.ring_axis is not None]
        self._whole = [pair for pair in pairs if pair.ring_axis is None]
        self._ring = {pair.input: _zeros(inputs[pair.input]) for pair in self._rings}
        self._fresh = {pair.output: _zeros(outputs[pair.output]) for pair in self._rings}
        self._two = {
            pair.input: (_zeros(inputs[pair.input]), _zeros(inputs[pair.input]))
            for pair in self._whole
        }

    def phases(self) -> list[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]:
        """What a step reads and writes, by the graph's names, in turn."""
        found = []
        for phase in (0, 1):
            fed = {name: pair[phase] for name, pair in self._two.items()}
            given = {pair.output: self._two[pair.input][1 - phase] for pair in self._whole}
            found.append(({**fed, **self._ring}, {**given, **self._fresh}))
        return found

    def current(self) -> dict[str, np.ndarray]:
        """What the next step reads."""
        return {**{name: pair[self.phase] for name, pair in self._two.items()}, **self._ring}

    def given(self) -> dict[str, np.ndarray]:
        """What the last step wrote, by outputs."""
        whole = {pair.output: self._two[pair.input][self.phase] for pair in self._whole}
        return {**whole, **self._fresh}

    def advance(self) -> None:
        """Put what is new into its slots, and change over to what was written."""
        for pair in self._rings:
            ring, fresh = self._ring[pair.input], self._fresh[pair.output]
            slot, count = self._slot(pair), fresh.shape[pair.ring_axis]
            where = (*(slice(None),) * pair.ring_axis, slice(slot, slot + count))
            ring[where] = fresh
        self.phase = 1 - self.phase

    def _slot(self, pair: StatePair) -> int:
        return int(self._two[pair.ring_slot][self.phase][0])

    def clear(self) -> None:
        """All zero."""
        for array in (*self._ring.values(), *(one for two in self._two.values() for one in two)):
            array.fill(0)

    def check_slots(self, state: Mapping[str, np.ndarray]) -> None:
        """Refuse a slot from which what is new would not fit into its ring."""
        for pair in self._rings:
            slot, length = int(state[pair.ring_slot][0]), self._ring[pair.input].shape
            count = self._fresh[pair.output].shape[pair.ring_axis]
            if not 0 <= slot <= length[pair.ring_axis] - count:
                raise InputError(
                    "this is no state of this graph",
                    f"{pair.ring_slot} is {slot}, of a ring of {length[pair.ring_axis]}",
                )


def _closed() -> None:
    raise UsageError("this session is closed", "", "load the bundle again")


def _refuse_dynamic(session: Session, fed: Mapping[str, StatePair]) -> None:
    if not fed:
        raise UnsupportedError(
            "the graph carries no state", "it is no streaming graph", "edgekit.runtimes.load"
        )
    for spec in (*session.inputs, *session.outputs):
        if not all(isinstance(size, int) for size in spec.shape):
            raise UnsupportedError(
                "the graph cannot be streamed",
                f"{spec.name} is {list(spec.shape)}, not of one size",
            )


def _zeros(spec: TensorSpec) -> np.ndarray:
    return np.zeros(spec.shape, spec.dtype)


def _check_like(what: str, array: object, dtype: np.dtype, shape: Sequence[int | str]) -> None:
    if not isinstance(array, np.ndarray) or array.dtype != dtype:
        raise InputError(
            f"{what} is {getattr(array, 'dtype', type(array).__name__)}", f"the graph has {dtype}"
        )
    if array.shape != tuple(shape):
        raise InputError(f"{what} has shape {list(array.shape)}", f"the graph has {list(shape)}")
