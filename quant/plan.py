"""What to quantise and how: the plan that a target is handed beside the common graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np

Scheme = Literal["static", "dynamic", "weights"]
Method = Literal["minmax", "entropy", "percentile"]
WeightFormat = Literal["linear", "palettized"]

SCHEMES: Final[tuple[Scheme, ...]] = ("static", "dynamic", "weights")
METHODS: Final[tuple[Method, ...]] = ("minmax", "entropy", "percentile")
WEIGHT_FORMATS: Final[tuple[WeightFormat, ...]] = ("linear", "palettized")
GROUP_SIZES: Final = (32, 64, 128)

#: What the percentile method keeps of the values on either side of zero.
PERCENTILE: Final = 99.99

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class QuantPlan:
    """One way to quantise one graph.

    Attributes:
        scheme: ``static``: weights and activations are integers, ranges are calibrated.
            ``dynamic``: the same, ranges are found while running. ``weights``: weights are
            stored as integers, arithmetic is in floating point.
        bits: of a weight, 8 or 4.
        kept: nodes of the common graph that stay in floating point.
        samples: for ``static``: calibration inputs, each an array by input name.
        method: how ranges are found in the calibration.
        group_size: with 4 bits, how many weights of a row share a scale.
        weight_format: for ``weights``: evenly spaced levels, or a table of 2**bits values.
    """

    scheme: Scheme = "static"
    bits: int = 8
    kept: tuple[str, ...] = ()
    samples: Sequence[Arrays] = field(default=(), repr=False)
    method: Method = "minmax"
    group_size: int = 32
    weight_format: WeightFormat = "linear"

    @property
    def precision(self) -> str:
        """The name of the precision: ``int8`` or ``int4``."""
        return f"int{self.bits}"
