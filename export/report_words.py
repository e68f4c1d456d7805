"""Words and numbers of the report: what a verdict is called, how a figure is written.

Nothing here knows HTML; every function takes plain values and gives plain text.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from edgekit.manifest import Artifact, AxisRange

#: Written where there is no figure.
NONE: Final = "\N{EN DASH}"

TARGET_NAMES: Final = {
    "onnx": "ONNX Runtime",
    "openvino": "OpenVINO",
    "executorch": "ExecuTorch",
    "coreml": "Core ML",
    "tensorrt": "TensorRT",
}

EXIT_MEANINGS: Final = {
    1: "fault in edgekit",
    2: "wrong usage",
    3: "back end missing",
    4: "not supported by the target",
    5: "parity failed",
    6: "accuracy budget failed",
    7: "bundle damaged or not trusted",
    8: "bad input data",
    9: "device or connection",
}


@dataclass(frozen=True)
class LevelWords:
    """What a verification level means. ``strength`` counts lit steps out of four."""

    strength: int
    short: str
    sentence: str
    limit: str


LEVELS: Final = {
    "ran": LevelWords(
        4,
        "ran here",
        "Ran here and compared with PyTorch",
        "Compared on the listed samples, on the machine that exported it. Other hardware"
        " can round differently.",
    ),
    "interpreted": LevelWords(
        3,
        "interpreted here, runtime not run",
        "Interpreted here and compared with PyTorch; its own runtime was not run",
        "A reference interpreter computed the emitted program. How the device's own runtime"
        " rounds, and how fast it is, is unknown.",
    ),
    "compiled": LevelWords(
        2,
        "compiled, not run",
        "Compiled by the vendor's compiler, not run",
        "The compiler accepted every operator, but nothing was computed: numbers and speed"
        " are unknown until it runs on the device.",
    ),
    "converted": LevelWords(
        1,
        "converted, not run",
        "Converted, not run",
        "Structure, operators and the input/output contract were checked. Neither the"
        " vendor's compiler nor its runtime has seen it: numbers and speed are unknown"
        " until it runs on the device.",
    ),
}


@dataclass(frozen=True)
class Verdict:
    """How one artifact, or one target over its graphs, came out.

    ``tone`` names the colour and the symbol: ``proven`` (ran and matches), ``partial``
    (made, but its runtime was not run), ``unchecked``, ``off``, ``drift``, ``failed``.
    """

    tone: str
    word: str
    sentence: str
    strength: int = 0


#: From best to worst: a target is as good as its worst graph.
TONES: Final = ("proven", "partial", "unchecked", "off", "drift", "failed")


def judge(artifact: Artifact) -> Verdict:
    """Put the outcome of one artifact into words. ``ok`` alone never reads as "it ran"."""
    check = artifact.verify
    level = LEVELS[check.level] if check else None
    if artifact.status == "unavailable":
        return Verdict("off", "unavailable", "Not made here")
    if artifact.status == "failed":
        if check and level and level.strength >= 3:
            why = "Agrees, but rejected" if check.passed else "Not the same model: rejected"
            return Verdict("failed", "failed", f"{level.sentence}. {why}")
        return Verdict("failed", "failed", "Failed before anything could be compared")
    if check is None or level is None:
        return Verdict("unchecked", "unchecked", "Made, not checked")
    if not check.passed:
        sentence = f"{level.sentence}. Beyond its limits: kept because drift was allowed"
        return Verdict("drift", "drifted", sentence, level.strength)
    tone = "proven" if check.level == "ran" else "partial"
    return Verdict(tone, "ok", level.sentence, level.strength)


def worst_verdict(verdicts: Iterable[Verdict]) -> Verdict:
    """The verdict of the worst graph; among equals the weakest level."""
    return max(verdicts, key=lambda v: (TONES.index(v.tone), -v.strength))


def size(count: int) -> str:
    """Bytes in decimal units: ``41.9 MB``."""
    value, unit = float(count), "B"
    for following in ("kB", "MB", "GB", "TB"):
        if value < 999.5:
            break
        value, unit = value / 1000, following
    return f"{value:.0f} {unit}" if unit == "B" or value >= 99.95 else f"{value:.1f} {unit}"


def count(number: int) -> str:
    """A large count in three figures: ``10.4 M``."""
    value, unit = float(number), ""
    for following in ("k", "M", "G", "T"):
        if value < 999.5:
            break
        value, unit = value / 1000, following
    return f"{value:.3g} {unit}".strip()


def scientific(value: float) -> str:
    """A distance: ``0``, ``3.2e-14``, ``∞``."""
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if value == 0:
        return "0"
    if 0.001 <= abs(value) < 10000:
        return f"{value:.3g}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def distance(value: float) -> str:
    """As :func:`scientific`, but a zero is called exact."""
    return "exact" if value == 0 else scientific(value)


def cosine(value: float) -> str:
    """A cosine, with enough digits to tell a rounding from a fault."""
    return f"{value:.9f}" if math.isfinite(value) else scientific(value)


def milliseconds(value: float | None) -> str:
    """A time in milliseconds in three or more figures, or a dash."""
    if value is None:
        return NONE
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if value >= 1 else f"{value:.3g}"


def power_of_ten(exponent: int) -> str:
    """``10⁻⁹``."""
    return "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def shape(dims: tuple[int | str, ...]) -> str:
    """``[batch, 3, 224, 224]``; a scalar is ``[]``."""
    return "[" + ", ".join(str(d) for d in dims) + "]"


def dynamic_ranges(dims: tuple[int | str, ...], ranges: dict[str, AxisRange]) -> list[str]:
    """``batch = 1…16`` for each named axis of a shape; an axis without range says so."""
    named = dict.fromkeys(d for d in dims if isinstance(d, str))
    return [f"{d} = {ranges[d].min}…{ranges[d].max}" if d in ranges else f"{d}: any" for d in named]


def number(value: Any) -> float | None:
    """A finite number of a JSON document as a float, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        value = float(value)
    except OverflowError:  # JSON integers have no bound
        return None
    return value if math.isfinite(value) else None


def plain(value: Any) -> str:
    """Any JSON value as text: strings and numbers bare, the rest as compact JSON."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)


def listed(value: Any) -> str:
    """Any JSON value for a reader: ``numpy 2.4, torch 2.13`` rather than braces."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain(inner)}" for key, inner in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(plain(inner) for inner in value) or "none"
    return plain(value)


def pieces(name: str) -> list[str]:
    """A name cut after its dots, slashes and double colons, where a line may break."""
    return re.findall(r"[^./:]*(?:::|[./:]|$)", name)[:-1] or [name]


def joined(names: Iterable[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    *head, last = names
    return f"{', '.join(head)} and {last}" if head else last
