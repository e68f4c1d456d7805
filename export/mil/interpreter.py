"""Run an ML program, operator by operator, on any machine.

This is a reference, made to judge an emitted program by: every operator is computed with
torch as Apple's documentation defines it, none are fused, and whatever the program declares
about its values is checked. It computes at the program's own precision in this sense: an
operator of an fp16 program takes fp16 values and gives its result rounded to fp16. Inside an
operator sums are accumulated in fp32; that is not how Apple's processors accumulate, and
where Core ML computes wider or narrower than the program says is Core ML's own decision.
So agreement means that the program is the right one, not that a device rounds like this.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from edgekit.errors import EdgekitError, ParityError

from .operators import check_known, compute
from .operators.state import State
from .program import HELD, Block, Function, Name, Named, Operation

# What is run here and not in the table: these run blocks.
_CONTROL = frozenset({"cond", "while_loop"})

_WHAT_TORCH_RAISES = (RuntimeError, ValueError, IndexError, TypeError, KeyError)


class Interpreter:
    """One function of a program, ready to run.

    Raises:
        UnknownOperatorError: it has operators that the interpreter does not know; all are
            named.
    """

    def __init__(self, function: Function) -> None:
        check_known(function.operators() - _CONTROL)
        self.function = function
        self._last_uses = _last_uses(function.block)

    def run(
        self,
        inputs: Mapping[str, Tensor],
        states: Mapping[str, State] | None = None,
        watched: Collection[str] = (),
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Run the function once.

        Args:
            inputs: by name, in the types that :data:`.program.HELD` gives.
            states: by name, changed in place; those not given start as zeros.
            watched: names of values inside that are wanted, too.

        Returns:
            the outputs by name, in order, and the watched values that there are.

        Raises:
            ParityError: the program contradicts itself: an operator cannot be computed, or
                gives another type or shape than declared.
            UnknownOperatorError: an operator has a mode that is not known.
        """
        values: dict[str, Any] = {}
        for named in self.function.inputs:
            if named.type.state:
                values[named.name] = (states or {}).get(named.name) or _fresh(named)
            else:
                values[named.name] = _settled(inputs[named.name], named, "the input")
        seen = {name: values[name] for name in watched if name in values}
        block = self.function.block
        for index, operation in enumerate(block.operations):
            results = self._run(operation, values)
            values.update(results)
            seen.update((name, value) for name, value in results.items() if name in watched)
            for name in self._last_uses.get(index, ()):
                del values[name]  # large pictures would otherwise pile up
        return dict(zip(block.outputs, _given(block, values), strict=True)), seen

    def _run(self, operation: Operation, values: Mapping[str, Any]) -> dict[str, Any]:
        try:
            arguments = {key: _resolved(value, values) for key, value in operation.inputs.items()}
        except KeyError as error:
            raise _contradiction(operation, f"nothing gives the value {error}") from error
        if operation.kind == "cond":
            results = self._block(operation.blocks[0 if arguments["pred"] else 1], values, ())
        elif operation.kind == "while_loop":
            results = self._loop(operation, arguments["loop_vars"], values)
        else:
            results = _computed(operation, arguments)
        if len(results) != len(operation.outputs):
            raise _contradiction(operation, f"it gives {len(results)} values")
        return {
            named.name: _settled(result, named, operation.describe())
            for named, result in zip(operation.outputs, results, strict=True)
        }

    def _block(self, block: Block, outer: Mapping[str, Any], given: Collection[Any]) -> list[Any]:
        values = {**outer, **dict(zip(block.inputs, given, strict=True))}
        for operation in block.operations:
            values.update(self._run(operation, values))
        return _given(block, values)

    def _loop(self, operation: Operation, given: Any, values: Mapping[str, Any]) -> list[Any]:
        condition, body = operation.blocks
        current = given if isinstance(given, list) else [given]
        while self._block(condition, values, current)[0]:
            current = self._block(body, values, current)
        return current


def _computed(operation: Operation, arguments: Mapping[str, Any]) -> list[Any]:
    try:
        results = compute(operation.kind, arguments)
    except EdgekitError:
        raise
    except _WHAT_TORCH_RAISES as error:
        raise _contradiction(operation, str(error).splitlines()[0]) from error
    return results if isinstance(results, list) else [results]


def _contradiction(operation: Operation, why: str) -> ParityError:
    return ParityError(f"the ML program cannot be computed at {operation.describe()}", why)


def _given(block: Block, values: Mapping[str, Any]) -> list[Any]:
    if lost := [name for name in block.outputs if name not in values]:
        raise ParityError(f"nothing in the ML program gives the value {lost[0]}")
    return [values[name] for name in block.outputs]


def _resolved(argument: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(argument, Name):
        return values[argument.name]
    if isinstance(argument, list):
        return [_resolved(item, values) for item in argument]
    return argument


def _settled(value: Any, named: Named, where: str) -> Any:
    """A result as the program declares it: checked, and fp16 rounded.

    Raises:
        ParityError: it is of another kind or shape.
    """
    if not isinstance(value, Tensor):
        return value  # a string or a list of constants
    declared = named.type
    held = HELD[declared.dtype]
    found = "a real number" if value.dtype.is_floating_point else str(value.dtype)
    if held is None or value.dtype.is_floating_point != held.is_floating_point:
        raise ParityError(f"the ML program gives {found} at {where}", f"not {declared.dtype}")
    if not declared.admits(tuple(value.shape)):
        raise ParityError(
            f"the ML program gives shape {list(value.shape)} at {where}",
            f"it declares {list(declared.shape or ())} for {named.name}",
        )
    return value.half().float() if declared.dtype == "float16" else value.to(held)


def _fresh(named: Named) -> State:
    if named.type.shape is None or None in named.type.shape:
        raise ParityError(f"the state {named.name} has no size")
    return State(torch.zeros(named.type.shape, dtype=HELD[named.type.dtype]))


def _last_uses(block: Block) -> dict[int, tuple[str, ...]]:
    """Names by the index of the operation after which nothing needs them."""
    last: dict[str, int] = {}
    for index, operation in enumerate(block.operations):
        last.update((named.name, index) for named in operation.outputs)
        last.update((name, index) for name in _names(operation))
    for name in block.outputs:
        last.pop(name, None)
    made = {named.name for operation in block.operations for named in operation.outputs}
    found: dict[int, list[str]] = {}
    for name, index in last.items():
        if name in made:
            found.setdefault(index, []).append(name)
    return {index: tuple(names) for index, names in found.items()}


def _names(operation: Operation) -> Iterator[str]:
    """The names that an operation reads, those that its blocks read included."""
    for argument in operation.inputs.values():
        for item in argument if isinstance(argument, list) else (argument,):
            if isinstance(item, Name):
                yield item.name
    for block in operation.blocks:
        yield from block.outputs
        for inner in block.operations:
            yield from _names(inner)
