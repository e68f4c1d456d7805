"""What a user may ask of quantisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from edgekit.errors import UsageError

from .plan import GROUP_SIZES, METHODS, SCHEMES, WEIGHT_FORMATS, Method, Scheme, WeightFormat

QUANTISED: Final = ("int8", "int4", "mixed")
RANDOM: Final = "random"


@dataclass(frozen=True)
class QuantOptions:
    """How to quantise, with what, and how much it may cost.

    Attributes:
        calibration: samples to find ranges with: a path, ``random``, or an iterable.
        method: how ranges are found. count: how many samples at most.
        evaluation: samples to judge by, labelled or not; None: some of the calibration's are
            held back. evaluation_count: how many of them at most.
        max_drop: how much may be lost (see :func:`.fidelity.drop_of`); None: no budget.
        scheme: None: chosen by the precision and the network.
        group_size, weight_format: as in :class:`.plan.QuantPlan`.
        sensitivity: rank the layers even where the budget holds without keeping any.
        compare: further precisions to export beside it, for the table.
    """

    calibration: Any = None
    method: Method = "minmax"
    count: int = 256
    evaluation: Any = None
    evaluation_count: int = 2000
    max_drop: float | None = None
    scheme: Scheme | None = None
    group_size: int = 32
    weight_format: WeightFormat = "linear"
    sensitivity: bool = False
    compare: tuple[str, ...] = ("fp32", "fp16")

    def check(self) -> None:
        """Raise UsageError for what cannot be meant."""
        for name, value, known in (
            ("--calib-method", self.method, METHODS),
            ("--scheme", self.scheme or SCHEMES[0], SCHEMES),
            ("--group-size", self.group_size, GROUP_SIZES),
            ("--weight-format", self.weight_format, WEIGHT_FORMATS),
        ):
            if value not in known:
                raise UsageError(f"{name} {value} is not known", f"one of {_listed(known)}")
        for name, count in (
            ("--calib-samples", self.count),
            ("--eval-samples", self.evaluation_count),
        ):
            if count < 1:
                raise UsageError(f"{name} is {count}", "one at least")
        if self.max_drop is not None and not 0 <= self.max_drop <= 100:
            raise UsageError(f"--max-drop is {self.max_drop}", "points, from 0 to 100")


def _listed(values: tuple) -> str:
    return ", ".join(str(value) for value in values)
