"""What a precision promises: how far an artifact may be from the fp32 network.

Thresholds are kept apart from metrics, so that a stored result can be judged again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Final

from edgekit.errors import UsageError
from edgekit.manifest import Metrics

# nmse and rel_range are upper bounds, cosine a lower bound. fp32: reordered sums of a deep
# network stay below 1e-11 in practice; 1e-9 is a relative error of 3e-5. fp16 has 11 bits and
# bf16 has 8: their rounding alone gives 1e-7 and 1e-5 per operation.
THRESHOLDS: Final[Mapping[str, Mapping[str, float]]] = {
    "fp32": {"nmse": 1e-9, "cosine": 1 - 1e-6, "rel_range": 1e-3},
    "fp16": {"nmse": 1e-4, "cosine": 1 - 1e-4, "rel_range": 5e-2},
    "bf16": {"nmse": 5e-3, "cosine": 1 - 5e-3, "rel_range": 3e-1},
    # Integers on real samples: these tell a broken artifact from a coarse one, no more. What
    # coarseness costs is measured (see --max-drop), since it depends on the network.
    "int8": {"nmse": 1e-1, "cosine": 0.95},
    "int4": {"nmse": 3e-1, "cosine": 0.85},
}


def thresholds(precision: str, override: Mapping[str, float] | None = None) -> dict[str, float]:
    """The bounds for a precision, with the user's own in place of some."""
    return {**THRESHOLDS[precision], **(override or {})}


def failures(metrics: Metrics, bounds: Mapping[str, float]) -> list[str]:
    """Which bounds are broken, in words; empty if none."""
    found = []
    for name, bound in bounds.items():
        value = getattr(metrics, name)
        broken = value < bound if name == "cosine" else not value <= bound
        if broken:
            sign = "below" if name == "cosine" else "above"
            found.append(f"{name} {value:.3g} is {sign} {bound:.10g}")
    return found


def parse_tolerance(text: str | None) -> dict[str, float]:
    """``--tolerance``: a JSON object of bounds, e.g. ``{"nmse": 1e-6}``.

    Raises:
        UsageError: it is not such an object.
    """
    if not text:
        return {}
    names = tuple(Metrics.model_fields)
    advice = f"give for example --tolerance '{{\"nmse\": 1e-6}}', with {', '.join(names)}"
    try:
        given = json.loads(text)
    except ValueError as error:
        raise UsageError("--tolerance is not JSON", str(error), advice) from error
    if not isinstance(given, dict):
        raise UsageError("--tolerance is not a JSON object", "", advice)
    for name, value in given.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if name not in names or not number or not math.isfinite(value):
            raise UsageError(f"--tolerance has no bound {name}={value}", "", advice)
    return {name: float(value) for name, value in given.items()}
