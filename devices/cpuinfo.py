"""What Linux says of the processor: its kinds of cores, their clocks, and their extensions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# Flags in /proc/cpuinfo -> the name of the extension in a profile: Arm's ("Features"), x86's.
EXTENSIONS: Final = {
    "asimd": "neon",
    "asimdhp": "fp16",
    "asimddp": "dotprod",
    "bf16": "bf16",
    "i8mm": "i8mm",
    "sve": "sve",
    "sve2": "sve2",
    "sme": "sme",
    "avx2": "avx2",
    "fma": "fma",
    "f16c": "f16c",
    "avx512f": "avx512",
    "avx512_vnni": "avx512_vnni",
    "avx_vnni": "avx_vnni",
    "avx512_bf16": "avx512_bf16",
    "avx512_fp16": "avx512_fp16",
    "amx_bf16": "amx_bf16",
    "amx_int8": "amx_int8",
}

# "CPU part" of Arm's own cores ("CPU implementer" 0x41), as in Linux's asm/cputype.h.
_ARM: Final = "0x41"
_PARTS: Final = {
    "0xd03": "Cortex-A53",
    "0xd04": "Cortex-A35",
    "0xd05": "Cortex-A55",
    "0xd07": "Cortex-A57",
    "0xd08": "Cortex-A72",
    "0xd09": "Cortex-A73",
    "0xd0a": "Cortex-A75",
    "0xd0b": "Cortex-A76",
    "0xd0c": "Neoverse-N1",
    "0xd0d": "Cortex-A77",
    "0xd0e": "Cortex-A76AE",
    "0xd40": "Neoverse-V1",
    "0xd41": "Cortex-A78",
    "0xd42": "Cortex-A78AE",
    "0xd44": "Cortex-X1",
    "0xd46": "Cortex-A510",
    "0xd47": "Cortex-A710",
    "0xd48": "Cortex-X2",
    "0xd49": "Neoverse-N2",
    "0xd4b": "Cortex-A78C",
    "0xd4d": "Cortex-A715",
    "0xd4e": "Cortex-X3",
    "0xd4f": "Neoverse-V2",
}

Fields = dict[str, str]


@dataclass(frozen=True)
class CoreKind:
    """So many cores of one kind; ``clock_mhz`` is None where Linux does not tell."""

    kind: str
    count: int
    clock_mhz: int | None


def read_fields(text: str, cores: Iterable[int]) -> dict[int, Fields]:
    """The blocks of ``/proc/cpuinfo``, by the number of the logical core, of ``cores`` only."""
    wanted = set(cores)
    return {number: fields for number, fields in _blocks(text) if number in wanted}


def _blocks(text: str) -> Iterator[tuple[int, Fields]]:
    for block in re.split(r"\n\s*\n", text):
        pairs = (line.partition(":") for line in block.splitlines())
        fields = {key.strip(): value.strip() for key, colon, value in pairs if colon}
        if (number := fields.get("processor", "")).isdigit():  # the last block describes the board
            yield int(number), fields


def extensions(blocks: Sequence[Fields]) -> tuple[str, ...]:
    """The extensions that every core has, in the order of :data:`EXTENSIONS`."""
    flags = [set((b.get("flags") or b.get("Features") or "").split()) for b in blocks]
    shared = set.intersection(*flags) if flags else set()
    return tuple(name for flag, name in EXTENSIONS.items() if flag in shared)


def core_kinds(
    blocks: dict[int, Fields], system: Path = Path("/sys/devices/system/cpu")
) -> tuple[CoreKind, ...]:
    """The cores by kind and clock, fastest first; logical ones that share a core count once.

    Args:
        system: where Linux keeps what it knows of each logical core (``cpuN``).
    """
    kinds = Counter(
        (_kind(block), _clock(system, core))
        for core, block in blocks.items()
        if core == min(_siblings(system, core) & blocks.keys() | {core})
    )
    found = [CoreKind(kind, count, clock) for (kind, clock), count in kinds.items()]
    return tuple(sorted(found, key=lambda core: -(core.clock_mhz or 0)))


def _kind(block: Fields) -> str:
    part = block.get("CPU part", "")
    if part and block.get("CPU implementer") == _ARM and part in _PARTS:
        return _PARTS[part]
    if "model name" in block:
        return tidy(block["model name"])
    return f"implementer {block.get('CPU implementer', '?')}, part {part}" if part else "unknown"


def tidy(name: str) -> str:
    """A processor's name without the marks of its maker's lawyers and its nominal clock."""
    plain = re.sub(r"\((?:R|TM|C)\)|@.*$|\bCPU\b", " ", name, flags=re.IGNORECASE)
    return " ".join(plain.split()) or name


def _siblings(system: Path, core: int) -> set[int]:
    """The logical cores of one core, written ``0,4`` or ``0-1``; none where it is not told."""
    try:
        text = (system / f"cpu{core}/topology/thread_siblings_list").read_text()
    except OSError:
        return set()
    found: set[int] = set()
    for first, last in re.findall(r"(\d+)(?:-(\d+))?", text):
        found |= set(range(int(first), int(last or first) + 1))
    return found


def _clock(system: Path, core: int) -> int | None:
    try:
        text = (system / f"cpu{core}/cpufreq/cpuinfo_max_freq").read_text().strip()
    except OSError:  # a virtual machine, mostly
        return None
    return round(int(text) / 1000) if text.isdigit() and int(text) >= 1000 else None
