"""Keys and values of the last steps, in a ring of fixed length.

A ring of C slots holds the last C steps: step p is in slot p mod C. Attention over a set does not
depend on its order, so nothing is ever moved; what a slot holds follows from the two counters.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .config import Cache
from .states import NEXT, POSITION, SLOT

# Added to the score of what must not be seen: exp() of it is 0 in fp32, and fp16 can hold it.
HIDDEN = -30_000.0


class Carried:
    """The state of one call: what came in, by name, and what is to go out.

    Modules read what they declared and write its successor; a graph returns :meth:`outputs`.
    """

    def __init__(self, names: tuple[str, ...], tensors: tuple[Tensor, ...]) -> None:
        self._names = names
        self._old = dict(zip(names, tensors, strict=True))
        self._new: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        return self._old[name]

    def __setitem__(self, name: str, value: Tensor) -> None:
        self._new[name] = value

    def outputs(self) -> tuple[Tensor, ...]:
        """What goes out, in the order of what came in."""
        return tuple(self._new[name] for name in self._names)

    @staticmethod
    def output_names(names: tuple[str, ...]) -> tuple[str, ...]:
        """What the outputs are called."""
        return tuple(name + NEXT for name in names)


@dataclass(frozen=True)
class Window:
    """What the steps of one call may see, the same for all layers.

    Attributes:
        position: (1,) steps before this call. slot: (1,) where the first of its steps goes.
        steps: how many it has; length: of the ring, a multiple.
        cache: the contract; see :data:`.config.Cache`.
        old: (steps, length) what is added to scores of the ring's slots. new: (steps, steps) of
            the call's own steps; None where they are in the ring already.
    """

    position: Tensor
    slot: Tensor
    steps: int
    length: int
    cache: Cache
    old: Tensor
    new: Tensor | None

    @classmethod
    def of(cls, carried: Carried, steps: int, length: int, cache: Cache) -> Window:
        """The window of a call, and its counters moved on."""
        position, slot = carried[POSITION], carried[SLOT]
        after = slot + steps
        carried[POSITION] = position + steps
        carried[SLOT] = torch.where(after >= length, after - length, after)
        old, new = _masks(position, slot, steps, length, cache)
        return cls(position, slot, steps, length, cache, old, new)

    def positions(self) -> Tensor:
        """(steps,) in fp32: where this call's steps are, for rotary or sinusoidal positions."""
        steps = torch.arange(self.steps, dtype=torch.int32)
        return (self.position + steps).to(torch.float32)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, carried: Carried, names: tuple[str, str]):
        """Attention (1, heads, steps, features) of ``q`` over the ring and the new ``k``, ``v``."""
        rings = [carried[name] for name in names]
        q = q * q.shape[-1] ** -0.5
        if self.cache == "ring":
            keys, values = (self._written(ring, x) for ring, x in zip(rings, (k, v), strict=True))
            carried[names[0]], carried[names[1]] = keys, values
            return (q @ keys.transpose(-1, -2) + self.old).softmax(-1) @ values
        carried[names[0]], carried[names[1]] = k, v
        # Two products instead of one over a concatenation, which would copy the whole ring.
        past = q @ rings[0].transpose(-1, -2) + self.old
        present = q @ k.transpose(-1, -2) + self.new
        weights = torch.cat([past, present], -1).softmax(-1)
        return weights[..., : self.length] @ rings[1] + weights[..., self.length :] @ v

    def _written(self, ring: Tensor, new: Tensor) -> Tensor:
        slots = torch.arange(self.length, dtype=torch.int32)[:, None]
        for step in range(self.steps):
            here = slots == self.slot + step
            ring = torch.where(here, new[:, :, step : step + 1], ring)
        return ring


def _masks(
    position: Tensor, slot: Tensor, steps: int, length: int, cache: Cache
) -> tuple[Tensor, Tensor | None]:
    """What each of the call's steps may see.

    ``behind`` counts how long ago a slot was written, seen from the step before the call: 0 is
    that step, ``length - 1`` the oldest one. The oldest ``steps`` slots are those that this call
    writes over. All of a call's steps are written before any of them attends, as the official
    implementation does, so all but the last see less than a full window of the past.
    """
    slots = torch.arange(length, dtype=torch.int32)
    behind = slot - 1 - slots
    behind = torch.where(behind < 0, behind + length, behind)
    kept = (behind < position) & (behind < length - steps)
    allowed = kept[None].expand(steps, length)
    lower = torch.ones(steps, steps).tril() > 0
    if cache == "slice":
        return _hide(allowed), _hide(lower)
    for own in range(steps):
        here = (slots == slot + own)[None]
        allowed = allowed | (here & lower[:, own : own + 1])
    return _hide(allowed), None


def _hide(allowed: Tensor) -> Tensor:
    # Of tensors, which an export in half precision narrows like all constants; not of numbers.
    return torch.where(allowed, torch.zeros(1), torch.full((1,), HIDDEN))
