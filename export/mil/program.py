"""An ML program as it lies in a package: functions of blocks of operations on named values.

The words are those of Core ML's model intermediate language (MIL). Everything is read from
the emitted file; nothing here knows how it was made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch

# How a declared type is held while it is computed with. fp16 is held in fp32 and rounded
# after every operator (see the interpreter); torch has few operators for unsigned integers
# of 16 and 32 bits, so those are held in the next wider type. Types below a byte are
# unpacked, one element a byte.
HELD: Final = {
    "bool": torch.bool,
    "string": None,
    "float16": torch.float32,
    "float32": torch.float32,
    "int8": torch.int8,
    "int16": torch.int16,
    "int32": torch.int32,
    "int64": torch.int64,
    "int4": torch.int8,
    "uint8": torch.uint8,
    "uint16": torch.int32,
    "uint32": torch.int64,
    "uint1": torch.uint8,
    "uint2": torch.uint8,
    "uint3": torch.uint8,
    "uint4": torch.uint8,
    "uint6": torch.uint8,
}


@dataclass(frozen=True)
class TensorType:
    """A declared type: a key of :data:`HELD`, and sizes with None where they are dynamic.

    ``shape`` is None where even the rank is open. ``state`` marks a state that holds such a
    tensor, not the tensor itself.
    """

    dtype: str
    shape: tuple[int | None, ...] | None
    state: bool = False

    def admits(self, shape: tuple[int, ...]) -> bool:
        """Whether a value of this shape is of this type."""
        if self.shape is None:
            return True
        return len(shape) == len(self.shape) and all(
            want in (None, have) for want, have in zip(self.shape, shape, strict=True)
        )


@dataclass(frozen=True)
class Named:
    """A value's name with its declared type."""

    name: str
    type: TensorType


@dataclass(frozen=True)
class Name:
    """An argument that is another operation's output."""

    name: str


# An argument is a name, a constant (tensor or string), or several of these.
Argument = Any


@dataclass(frozen=True)
class Operation:
    """One operation.

    Attributes:
        kind: the operator, in MIL's own word. name: what the emitter called this one.
        inputs: parameter to argument; attributes of constant expressions are among them.
        blocks: what a loop or a branch runs.
    """

    kind: str
    name: str
    inputs: Mapping[str, Argument]
    outputs: tuple[Named, ...]
    blocks: tuple[Block, ...] = ()

    def describe(self) -> str:
        """``conv (conv2d_3)``: the operator and the value it gives."""
        value = self.outputs[0].name if self.outputs else self.name
        return f"{self.kind} ({value})"


@dataclass(frozen=True)
class Block:
    """A sequence of operations; the names it takes (inside a loop) and those it gives."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    operations: tuple[Operation, ...]


@dataclass(frozen=True)
class Function:
    """What a call runs: typed inputs, and one block written for one set of operators."""

    inputs: tuple[Named, ...]
    opset: str
    block: Block

    def operators(self) -> set[str]:
        """The kinds of operations in it, those inside loops and branches included."""
        found: set[str] = set()
        waiting = [self.block]
        while waiting:
            for operation in waiting.pop().operations:
                found.add(operation.kind)
                waiting += operation.blocks
        return found
