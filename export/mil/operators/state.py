"""States: tensors that a program keeps from one call to the next."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .table import operator


@dataclass
class State:
    """The place that a state's value is kept in."""

    value: Tensor


@operator("read_state")
def read_state(input: State) -> Tensor:
    """A copy of the state's value."""
    return input.value.clone()


@operator("write_state")
def write_state(input: State, data: Tensor) -> list[Tensor]:
    """Replace the state's value."""
    input.value = data.clone()
    return []


@operator("coreml_update_state")
def coreml_update_state(state: State, value: Tensor) -> Tensor:
    """Replace the state's value, and give it on."""
    state.value = value.clone()
    return value
