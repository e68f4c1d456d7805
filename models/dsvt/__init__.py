"""DSVT: objects in lidar sweeps, from points to boxes.

Importing this loads no torch; :func:`build` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.errors import UsageError

from .config import CONFIGS

if TYPE_CHECKING:
    from .detector import DSVT


def build(variant: str) -> DSVT:
    """A DSVT detector with random weights, in eval mode.

    Args:
        variant: a name of :data:`.config.CONFIGS`.

    Raises:
        UsageError: there is no such variant.

    >>> build("waymo-pillar").config.grid
    (468, 468, 1)
    """
    if variant not in CONFIGS:
        raise UsageError(f"no DSVT called {variant!r}", f"there are {', '.join(CONFIGS)}")
    from .detector import DSVT

    return DSVT(CONFIGS[variant]).eval()
